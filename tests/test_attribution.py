"""Explanations: effects sum to the lead, and swapped parts equal files in which they are swapped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import Ranker
from gbr.attribution import Explanation, explain
from gbr.data.build import build, schema_of
from gbr.data.collection import resolve
from gbr.data.graph import graph_from_arrays, read_graph
from gbr.data.groups import QueryGroups
from gbr.data.hardware import as_dict, choose
from gbr.data.store import FeatureStore
from gbr.errors import ModelError, UsageError
from gbr.models.rows import Rows
from tests.collection import write_collection
from tests.ranking import problem

ROOT = Path(__file__).parents[1]
LAYOUTS = ROOT / "data" / "npz" / "layout" / "cpu"
TRAIN = ("mlp_gated", "recurrent_gru", "vgg_nchw")
UNSEEN = LAYOUTS / "random" / "test" / "gmlp_shallow-grad.npz"


@dataclass(frozen=True)
class Collection:
    """Training data, what a model trained on it records, and a graph that is not part of it."""

    groups: QueryGroups
    trained_on: dict[str, Any]
    path: Path

    def fit(self, backend: str = "lightgbm", columns: list[str] | None = None, **parameters: Any) -> Ranker:
        groups = self.groups if columns is None else self.groups.select(columns)
        costs = [name for name in schema_of(self.trained_on["kind"]).costs if name in groups.columns] or None
        quick = {"n_estimators": 15, "learning_rate": 0.2, "n_jobs": 1, "costs": costs} | parameters
        ranker = Ranker(backend, **quick)._fit_rows(Rows(groups.X, groups.target, groups.indptr), groups.columns)
        ranker.trained_on_ = self.trained_on
        return ranker


def collection(root: Path, name: str, path: Path) -> Collection:
    subset = resolve(name, root)
    build(subset, root, root / "store", ("train",), 1)
    schema = schema_of(subset.kind)
    hardware = as_dict(choose(None, subset, root).hardware)
    trained_on = {"kind": subset.kind, "schema_hash": schema.hash, "subset": name, "hardware": hardware}
    return Collection(FeatureStore(root / "store", name).load("train"), trained_on, path)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    root = write_collection(tmp_path_factory.mktemp("tiles"), {"train": 5, "test": 1})
    return collection(root, "tile:cpu", next((root / "npz/tile/cpu/test").glob("*.npz")))


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    root = tmp_path_factory.mktemp("layouts")
    folder = root / "npz" / "layout" / "cpu"
    (folder / "random" / "train").mkdir(parents=True)
    for stem in TRAIN:
        shutil.copy(LAYOUTS / "random" / "train" / f"{stem}.npz", folder / "random" / "train")
    shutil.copy(LAYOUTS / "hardware.toml", folder)
    return collection(root, "layout:cpu:random", UNSEEN)


@pytest.fixture(scope="module")
def explained(layouts: Collection) -> Explanation:
    return explain(layouts.fit(), layouts.path, 3)


@pytest.mark.parametrize(
    ("name", "backend", "against"),
    [
        ("tiles", "ensemble", 11),
        ("tiles", "lightgbm", 11),
        ("tiles", "xgboost", 11),
        ("layouts", "ensemble", None),
        ("layouts", "costmodel", None),
    ],
)
def test_effects_sum_to_the_lead(request: pytest.FixtureRequest, name: str, backend: str, against: int | None) -> None:
    data: Collection = request.getfixturevalue(name)
    ranker, path = data.fit(backend), data.path
    found = explain(ranker, path, 3, against)
    own, other = found.configs
    assert found.chosen == ("default" if against is None else "given")
    assert (own, other) == (3, against or 0)
    scores, order, graph = ranker.predict_graph(path), ranker.rank(path).tolist(), read_graph(path)
    assert found.scores == (scores[own], scores[other])
    assert found.lead == scores[other] - scores[own] != 0
    assert found.places == (order.index(own) + 1, order.index(other) + 1)
    assert graph.runtime is not None
    normalizer = np.ones_like(graph.runtime) if graph.normalizer is None else graph.normalizer
    assert found.runtimes == tuple((graph.runtime / normalizer)[[own, other]])
    near = {"rel": 1e-4, "abs": 1e-5}
    assert sum(column.effect for column in found.columns) + found.alike == pytest.approx(found.lead, **near)
    assert sum(block.effect for block in found.blocks) == pytest.approx(found.lead, **near)
    assert all(column.values[0] != column.values[1] for column in found.columns)
    reverse = explain(ranker, path, other, own)
    assert reverse.lead == -found.lead
    expected = {each.name: -each.effect for each in (*found.columns, *found.nodes, *found.loops)}
    effects = {each.name: each.effect for each in (*reverse.columns, *reverse.nodes, *reverse.loops)}
    assert effects == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_default_counterpart(tiles: Collection) -> None:
    ranker, path = tiles.fit(), tiles.path
    order = ranker.rank(path)
    found = explain(ranker, path, int(order[0]))
    assert (found.chosen, found.configs[1]) == ("median", order[15])
    found = explain(ranker, path, int(order[15]))
    assert (found.chosen, found.configs[1]) == ("best", order[0])


def test_swapped_loop_equals_a_file_with_the_other_tile(tiles: Collection) -> None:
    ranker, path = tiles.fit("ensemble", ["geometry", "cache"]), tiles.path
    with np.load(path) as stored:
        arrays = dict(stored)
    config = arrays["config_feat"]
    found = explain(ranker, path, 3, 11)
    assert (config[3, 8:10] != config[11, 8:10]).all()
    mixed = config[[3, 11, 3, 11]].copy()
    mixed[2, 8], mixed[3, 8] = config[11, 8], config[3, 8]  # own tile of n, other of m; and the reverse
    few = {key: value[[3, 11, 3, 11]] for key, value in arrays.items() if key.startswith("config_")}
    scores = ranker.scorer(graph_from_arrays("x", {**arrays, **few, "config_feat": mixed}))(mixed)
    own, other, without_m, with_m = scores.tolist()
    m, n, k = found.loops
    assert (m.name, n.name, k.name) == ("m0", "n1", "k2")
    assert m.effect == pytest.approx((other - with_m + without_m - own) / 2)
    assert n.effect == pytest.approx((other - without_m + with_m - own) / 2)
    assert m.effect + n.effect == pytest.approx(found.lead)  # two loops: the Shapley value
    assert m.tiles == (config[3, 8], config[11, 8])
    assert m.trips == tuple(-(-m.extent // tile) for tile in m.tiles)
    assert m.waste == pytest.approx(tuple(a * b / m.extent - 1 for a, b in zip(m.tiles, m.trips, strict=True)))
    assert k.effect == 0
    width = 4
    assert n.strides == {"out": width, "left": 0, "right": width}
    assert k.strides == {"out": 0, "left": width, "right": width * n.extent}
    for column in found.columns:
        assert column.name.split(".")[0] in ("geometry", "cache")
        assert {name for name, _ in column.behind} <= {"m0", "n1"}


def test_operands(tiles: Collection) -> None:
    ranker, path = tiles.fit(), tiles.path
    found = explain(ranker, path, 3, 11)
    assert found.kernel == "dot.2"
    m, n, k = (loop.extent for loop in found.loops)
    tiles_of_m, tiles_of_n = found.loops[0].tiles, found.loops[1].tiles
    out, left, right = found.operands
    assert (out.name, left.name, right.name) == ("dot.2", "parameter.0", "parameter.1")
    assert (out.shape, left.shape, right.shape) == (f"f32[{m},{n}]", f"f32[{m},{k}]", f"f32[{k},{n}]")
    for side in (0, 1):
        assert out.footprint[side] == pytest.approx(4 * tiles_of_m[side] * tiles_of_n[side], rel=1e-5)
        assert left.footprint[side] == pytest.approx(4 * tiles_of_m[side] * k, rel=1e-5)
        assert right.run[side] == pytest.approx(4 * tiles_of_n[side] * (k if tiles_of_n[side] == n else 1), rel=1e-5)
    assert left.nbytes == 4 * m * k


def test_swapped_node_equals_a_file_with_the_other_layouts(layouts: Collection) -> None:
    ranker, path = layouts.fit("ensemble", ["layout", "copies", "config", "reach"]), layouts.path
    found = explain(ranker, path, 3, 7)
    graph = read_graph(path)
    assert graph.node_config_ids is not None
    configs = graph.configs(np.array([3, 7]))
    names = {node.name: node for node in found.nodes}
    changed = np.flatnonzero((configs[0] != configs[1]).any(axis=1))
    assert len(names) == len(changed) == found.n_parts > 3
    score = ranker.scorer(graph)
    own, other = score(configs)
    for node_index in changed:
        mixed = configs[[1, 0]].copy()
        mixed[0, node_index], mixed[1, node_index] = configs[0, node_index], configs[1, node_index]
        forward, backward = score(mixed)
        node = next(node for name, node in names.items() if name.endswith(f".{graph.node_config_ids[node_index]}"))
        assert node.effect == pytest.approx((other - forward + backward - own) / 2, abs=1e-9)
        differs = (configs[0, node_index] != configs[1, node_index]).reshape(3, 6).any(axis=1)
        roles = [name for name, differ in zip(("output", "input", "kernel"), differs, strict=True) if differ]
        assert [tensor.role for tensor in node.tensors] == roles


def test_tensors_and_copies_of_layouts(explained: Explanation) -> None:
    edge = next(copy for copy in explained.copies if copy.kind == "edge")
    assert edge.what == "dot.172 -> dot.359 input: layouts disagree"
    assert edge.nbytes == (4 * 4 * 96 * 128, 0)
    sizes = [abs(copy.nbytes[0] - copy.nbytes[1]) for copy in explained.copies]
    assert sizes == sorted(sizes, reverse=True)
    assert all(copy.nbytes[1] == 0 for copy in explained.copies)  # the compiler's own layouts copy nothing
    dot = next(node for node in explained.nodes if node.name == "dot.273")
    assert [(tensor.role, tensor.shape, tensor.layouts) for tensor in dot.tensors] == [
        ("output", "f32[4,96,64]", ("{0,2,1}", None)),
        ("input", "f32[4,96,256]", ("{1,2,0}", None)),
        ("kernel", "f32[64,256]", ("{0,1}", None)),
    ]
    assert dot.tensors[0].minor == (4, 64)
    copied = next(column for column in explained.columns if column.name.startswith("copies.") and column.behind)
    assert {name for name, _ in copied.behind} <= {node.name for node in explained.nodes}
    whole, few = explained.as_dict(), explained.as_dict(2)
    assert len(whole["nodes"]) == explained.n_parts
    assert {key for key in whole if whole[key] != few[key]} == {"columns", "nodes", "copies"}
    assert [len(few[key]) for key in ("columns", "nodes", "copies")] == [2, 2, 2]


@pytest.mark.parametrize(
    ("config", "against", "match"),
    [
        (-1, None, r"config: expected 0 to 29, got -1"),
        (0, 30, r"against: expected 0 to 29, got 30"),
        (4, 4, r"config and against: expected two configurations, got 4 twice"),
    ],
)
def test_invalid_rows(tiles: Collection, config: int, against: int | None, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        explain(tiles.fit(n_estimators=2), tiles.path, config, against)


def test_invalid_models_and_graphs(tiles: Collection) -> None:
    X, runtime, qid = problem(3)
    with pytest.raises(ModelError, match=r"fitted on a plain table, not on graphs"):
        explain(Ranker("lightgbm", n_estimators=2).fit(X, runtime, qid=qid), tiles.path, 0, 1)
    with np.load(tiles.path) as stored:
        arrays = {key: value[:1] if key.startswith("config_") else value for key, value in stored.items()}
    with pytest.raises(UsageError, match=r"expected at least two configurations to compare, got 1"):
        explain(tiles.fit(n_estimators=2), graph_from_arrays("x", arrays), 0)
