"""A scorer returns what the ranker returns for a graph file with the same configurations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.layout.extractor import LayoutExtractor, schema
from gbr import Ranker, write_graph
from gbr.data.graph import graph_from_arrays
from gbr.errors import DataError, ModelError, UsageError
from tests.made import matmul_arrays, tile_arrays, trained, write_collection
from tests.test_layout_features import IDS, PROGRAM
from tests.test_repack import network

KEYS = {"tile": "config_feat", "layout": "node_config_feat"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained ensemble of each kind."""
    root = tmp_path_factory.mktemp("data")
    write_collection(root, {"train": 4, "valid": 2})
    for number in range(4):
        folder = root / "npz/layout/made/random" / ("valid" if number == 3 else "train")
        write_graph(folder / f"g{number}.npz", network(80, seed=number))
    return {
        "tile": trained(root, out=root / "tile", backend="ensemble"),
        "layout": trained(root, out=root / "layout", subset="layout:made:random", backend="ensemble"),
    }


def arrays_of(kind: str, n_configs: int, seed: int) -> dict[str, Any]:
    return matmul_arrays((96, 64, 32), n_configs, seed) if kind == "tile" else network(n_configs, seed)


@pytest.mark.parametrize("kind", ["tile", "layout"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scores_equal_those_of_a_graph_file(runs: dict[str, Path], kind: str, n_jobs: int, tmp_path: Path) -> None:
    ranker = Ranker.load(runs[kind]).set_params(n_jobs=n_jobs)
    arrays = arrays_of(kind, 400, seed=9)
    graph, configs = graph_from_arrays("g", arrays), arrays[KEYS[kind]]
    write_graph(tmp_path / "g.npz", arrays)
    scorer = ranker.scorer(tmp_path / "g.npz")
    rng = np.random.default_rng(0)
    for size in (30, 400, 1, 300):
        some = configs[rng.permutation(400)[:size]]
        expected = ranker.predict_graph(graph.with_configs(some))
        for dtype in ("float32", "int64") if kind == "tile" else ("int8", "float32", "int64"):
            np.testing.assert_array_equal(scorer(some.astype(dtype)), expected)
        assert scorer.rank(some).tolist() == np.argsort(expected, kind="stable").tolist()
    assert np.ptp(expected) > 0
    assert scorer(configs[:0]).shape == (0,)
    if kind == "tile":  # padded with -1
        padded = np.where((some == 0) & (np.arange(24) % 8 < 6), -1, some)
        np.testing.assert_array_equal(scorer.vectors(padded), scorer.vectors(some))


@pytest.mark.parametrize("kind", ["tile", "layout"])
def test_threads_share_a_scorer(runs: dict[str, Path], kind: str) -> None:
    arrays = arrays_of(kind, 200, seed=9)
    ranker, graph = Ranker.load(runs[kind]).set_params(n_jobs=1), graph_from_arrays("g", arrays)
    parts = [arrays[KEYS[kind]][start : start + 30 + start] for start in range(0, 80, 4)]
    expected = [ranker.predict_graph(graph.with_configs(part)) for part in parts]
    scorer = ranker.scorer(graph)
    with ThreadPoolExecutor(8) as pool:
        for scores, alone in zip(pool.map(scorer, 5 * parts), 5 * expected, strict=True):
            np.testing.assert_array_equal(scores, alone)


def test_vectors_do_not_depend_on_earlier_calls(runs: dict[str, Path]) -> None:
    configs = network(300, seed=3)["node_config_feat"].astype(np.int8)
    scorer = Ranker.load(runs["layout"]).scorer(graph_from_arrays("g", network(2)))
    hardware = Ranker.load(runs["layout"]).hardware
    frequency = [column for column, name in enumerate(schema().names) if name == "slate.all.frequency.count"]
    found = []
    for part in (configs[200:], configs[:150], configs, configs[:20]):
        vectors = scorer.vectors(part)
        np.testing.assert_array_equal(vectors, LayoutExtractor(PROGRAM, IDS, hardware=hardware).vectors(part))
        found.append(vectors[0, frequency])
    assert found[1] != found[2] != found[3]  # of the same configuration in three groups


def test_configurations_of_the_graph_are_ignored(runs: dict[str, Path]) -> None:
    ranker = Ranker.load(runs["layout"])
    configs = network(50, seed=5)["node_config_feat"]
    one, other = (ranker.scorer(graph_from_arrays("g", network(n))) for n in (3, 200))
    np.testing.assert_array_equal(one(configs), other(configs))


@pytest.mark.parametrize(
    ("kind", "configs", "match"),
    [
        ("tile", np.zeros((3, 23)), r"expected numbers of shape \(c, 24\), got float64 of shape \(3, 23\)"),
        ("tile", np.full((2, 24), np.nan), "expected finite numbers, got others in configuration 0"),
        ("tile", np.ma.masked_less(np.zeros((2, 24)), 1), "configs: expected a value in every row, got a missing one"),
        ("layout", np.zeros((3, 4, 18)), r"expected numbers of shape \(c, 5, 18\), got float64 of shape \(3, 4, 18\)"),
        ("layout", np.array("a"), r"got <U1 of shape \(\)"),
        ("layout", np.full((2, 5, 18), 255), "expected integers from -1 to 5"),
        ("layout", np.full((2, 5, 18), 6, np.int8), "configuration 0: expected integers"),
    ],
)
def test_invalid_configurations_are_refused(
    runs: dict[str, Path], kind: str, configs: np.ndarray[Any, Any], match: str
) -> None:
    arrays = arrays_of(kind, 40, seed=1)
    scorer = Ranker.load(runs[kind]).scorer(graph_from_arrays("g", arrays))
    before = scorer(arrays[KEYS[kind]])
    with pytest.raises(UsageError, match=match):
        scorer(configs)
    np.testing.assert_array_equal(scorer(arrays[KEYS[kind]]), before)


def test_models_that_do_not_match_the_graph_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    graph = graph_from_arrays("g", tile_arrays())
    X = np.random.default_rng(0).random((20, 3))
    plain = Ranker("lightgbm", n_estimators=2).fit(X, X[:, 0], qid=np.repeat([0, 1], 10))
    with pytest.raises(ModelError, match="not on graphs"):
        plain.scorer(graph)
    with pytest.raises(ModelError, match="a tile collection, but the model ranks layout"):
        Ranker.load(runs["layout"]).scorer(graph)
    with pytest.raises(DataError, match=r"gone\.npz: cannot be read"):
        Ranker.load(runs["tile"]).scorer(tmp_path / "gone.npz")
