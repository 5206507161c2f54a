"""Explanations: effects sum to the lead, and swapped parts equal configurations in which they are swapped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import Ranker
from gbr.attribution import Explanation, explain
from gbr.data.graph import graph_from_arrays, read_graph
from gbr.errors import ModelError, UsageError
from tests.made import trained, write_collection
from tests.ranking import problem

LAYOUTS = Path(__file__).parents[1] / "data/npz/layout/cpu"
TRAIN = ("mlp_gated", "recurrent_gru", "vgg_nchw")
#: By collection: a graph that no model is trained on.
UNSEEN = {"tile:cpu": "npz/tile/cpu/test/matmul_5.npz", "layout:cpu:random": "unseen.npz"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of tiles and one of layouts."""
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 5, "test": 1})
    folder = root / "npz/layout/cpu/random/train"
    folder.mkdir(parents=True)
    for stem in TRAIN:
        shutil.copy(LAYOUTS / f"random/train/{stem}.npz", folder)
    shutil.copy(LAYOUTS / "hardware.toml", folder.parents[1])
    shutil.copy(LAYOUTS / "random/test/gmlp_shallow-grad.npz", root / "unseen.npz")
    return root


def fitted(root: Path, subset: str = "tile:cpu", backend: str = "lightgbm", **arguments: Any) -> tuple[Ranker, Path]:
    """A quickly trained model, and a graph that it has not seen."""
    run = trained(root, subset=subset, backend=backend, settings={"n_estimators": 15}, **arguments)
    return Ranker.load(run), root / UNSEEN[subset]


@pytest.fixture(scope="module")
def explained(root: Path) -> Explanation:
    return explain(*fitted(root, "layout:cpu:random"), 3)


@pytest.mark.parametrize(
    ("subset", "backend", "against"),
    [
        ("tile:cpu", "ensemble", 11),
        ("tile:cpu", "lightgbm", 11),
        ("tile:cpu", "xgboost", 11),
        ("layout:cpu:random", "ensemble", None),
        ("layout:cpu:random", "costmodel", None),
    ],
)
def test_effects_sum_to_the_lead(root: Path, subset: str, backend: str, against: int | None) -> None:
    ranker, path = fitted(root, subset, backend)
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


def test_default_counterpart(root: Path) -> None:
    ranker, path = fitted(root)
    order = ranker.rank(path)
    for own, chosen, other in ((0, "median", 15), (15, "best", 0)):
        found = explain(ranker, path, order[own])
        assert (found.chosen, found.configs[1]) == (chosen, order[other])
        json.dumps(found.as_dict())


def test_swapped_loop_equals_a_configuration_with_the_other_tile(root: Path) -> None:
    ranker, path = fitted(root, backend="ensemble", columns=["geometry", "cache"])
    found, config = explain(ranker, path, 3, 11), read_graph(path).config_feat
    assert config is not None
    assert (config[3, 8:10] != config[11, 8:10]).all()
    mixed = config[[3, 11, 3, 11]].copy()
    mixed[2, 8], mixed[3, 8] = config[11, 8], config[3, 8]  # own tile of n, other of m; and the reverse
    own, other, without_m, with_m = ranker.scorer(path)(mixed).tolist()
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
    assert {name for column in found.columns for name, _ in column.behind} == {"m0", "n1"}
    assert found.kernel == "dot.2"
    tiles_of_m, tiles_of_n = m.tiles, n.tiles
    m, n, k = m.extent, n.extent, k.extent
    out, left, right = found.operands
    assert (out.name, left.name, right.name) == ("dot.2", "parameter.0", "parameter.1")
    assert (out.shape, left.shape, right.shape) == (f"f32[{m},{n}]", f"f32[{m},{k}]", f"f32[{k},{n}]")
    for side in (0, 1):
        assert out.footprint[side] == pytest.approx(4 * tiles_of_m[side] * tiles_of_n[side], rel=1e-5)
        assert left.footprint[side] == pytest.approx(4 * tiles_of_m[side] * k, rel=1e-5)
        assert right.run[side] == pytest.approx(4 * tiles_of_n[side] * (k if tiles_of_n[side] == n else 1), rel=1e-5)
    assert left.nbytes == 4 * m * k


def test_swapped_node_equals_a_configuration_with_the_other_layouts(root: Path) -> None:
    columns = ["layout", "copies", "config", "reach"]
    ranker, path = fitted(root, "layout:cpu:random", "ensemble", columns=columns)
    found, graph = explain(ranker, path, np.int64(3), np.int64(7)), read_graph(path)  # type: ignore[arg-type]
    assert set(map(type, found.configs)) == {int}  # for JSON
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


def test_invalid_models_and_graphs(root: Path) -> None:
    ranker, path = fitted(root)
    X, runtime, qid = problem(3)
    with pytest.raises(ModelError, match=r"fitted on a plain table, not on graphs"):
        explain(Ranker("lightgbm", n_estimators=2).fit(X, runtime, qid=qid), path, 0, 1)
    with np.load(path) as stored:
        arrays = {key: value[:1] if key.startswith("config_") else value for key, value in stored.items()}
    with pytest.raises(UsageError, match=r"expected at least two configurations to compare, got 1"):
        explain(ranker, graph_from_arrays("x", arrays), 0)
    with pytest.raises(UsageError, match=r"config: expected 0 to \d+, got True"):
        explain(ranker, path, True)
