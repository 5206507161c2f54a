"""Scores from measured configurations of one graph."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from features.hardware import CPU
from gbr import Ranker, read_graph
from gbr.adapt import LEAST, fit_within
from gbr.data.build import extract
from gbr.data.graph import Graph
from gbr.data.hardware import as_dict
from gbr.errors import UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models import within

DATA = Path(__file__).parents[1] / "data" / "npz"
LAYOUT = DATA / "layout" / "cpu" / "random" / "test" / "resnet_nhwc.npz"
TILE = sorted((DATA / "tile" / "cpu" / "test").glob("*.npz"))[0]


@pytest.fixture(scope="module")
def tile() -> Graph:
    return read_graph(TILE)


def configurations(graph: Graph) -> NDArray[np.generic]:
    return np.concatenate([block.copy() for _, block in graph.config_blocks()])


def group_of_few_choices() -> tuple[Graph, NDArray[np.float64]]:
    """A program with six nodes that take random layouts, and costs that are sums over these nodes."""
    graph, random = read_graph(LAYOUT), np.random.default_rng(0)
    offered = configurations(graph)
    configs = np.repeat(offered[:1], 400, axis=0)
    cost = np.full(400, 100.0)
    for node in np.flatnonzero((offered != offered[0]).any(axis=(0, 2)))[:6]:
        rows = np.unique(offered[:, node], axis=0)[:3]
        taken = random.integers(0, len(rows), 400)
        configs[:, node] = rows[taken]
        cost += random.random(len(rows))[taken]
    return graph.with_configs(configs), cost


def test_additive_costs_of_layouts_are_predicted() -> None:
    graph, cost = group_of_few_choices()
    measured, rest = np.arange(80), np.arange(80, 400)
    adapted = fit_within(graph, measured, cost[measured])
    assert kendall_tau(adapted.predict()[rest], cost[rest]) > 0.83
    assert kendall_tau(adapted.predict()[measured], cost[measured]) > 0.9
    assert adapted.trust < 0.1  # the estimate knows nothing of these costs


def test_additive_costs_of_bounds_are_predicted(tile: Graph) -> None:
    """Every bound of every loop has a random price; prices of bounds that were not measured cannot be known."""
    random, configs = np.random.default_rng(0), configurations(tile)
    cost = np.full(tile.n_configs, 100.0)
    for slot in np.flatnonzero((configs != configs[0]).any(axis=0)):
        values, taken = np.unique(configs[:, slot], return_inverse=True)
        if slot % 8 < 6:
            cost += random.random(len(values))[taken]
    measured, rest = np.arange(64), np.arange(64, tile.n_configs)
    adapted = fit_within(TILE, measured, cost[measured])
    assert kendall_tau(adapted.predict()[rest], cost[rest]) > 0.5


def test_five_measurements_are_enough(tile: Graph) -> None:
    assert tile.runtime is not None
    measured = np.arange(LEAST)
    adapted = fit_within(tile, measured, tile.runtime[measured])
    scores = adapted.predict()
    assert scores.shape == (tile.n_configs,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    order = adapted.rank()
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(tile.n_configs))
    assert all((scores[a], a) < (scores[b], b) for a, b in pairwise(order.tolist()))


def test_unit_order_and_repeats_of_measurements_do_not_matter(tile: Graph) -> None:
    measured, runtimes = np.arange(10), np.arange(10.0, 20.0)
    once = fit_within(tile, measured, runtimes)
    shuffled = np.random.default_rng(0).permutation(20)
    rows, twice = np.tile(measured, 2)[shuffled], np.concatenate([runtimes - 5, runtimes + 5])[shuffled]
    both = fit_within(tile, rows.tolist(), (twice / 2**20).tolist())
    assert both.n_measured == 10
    assert np.array_equal(once.predict(), both.predict())


def trained(graph: Graph, direction: float) -> Ranker:
    """A ranker trained on the order of one graph, or the opposite order."""
    schema, X, _ = extract(graph)
    assert graph.runtime is not None
    names = np.array(schema.names)
    ranker = Ranker("lightgbm", n_estimators=60, n_jobs=1)
    ranker.fit(X, direction * graph.runtime, qid=np.zeros(len(X)))
    ranker.feature_names_in_ = names.astype(object)
    ranker.trained_on_ = {
        "kind": graph.kind,
        "schema_hash": schema.hash,
        "subset": "tile:cpu",
        "hardware": as_dict(CPU),
    }
    return ranker


def test_good_orders_are_trusted_and_bad_ones_are_not(tile: Graph) -> None:
    assert tile.runtime is not None
    measured, rest = np.arange(12), np.arange(12, tile.n_configs)
    runtimes, unseen = tile.runtime[measured], tile.runtime[rest].astype(np.float64)
    within_only = fit_within(tile, measured, runtimes)
    good = trained(tile, 1).adapt(TILE, measured, runtimes)
    assert good.trust > 0.5
    assert kendall_tau(good.predict()[rest], unseen) > max(0.8, kendall_tau(within_only.predict()[rest], unseen))
    many = np.arange(40)
    bad = trained(tile, -1).adapt(tile, many, tile.runtime[many])
    assert bad.trust == 0
    assert kendall_tau(bad.predict()[40:], tile.runtime[40:].astype(np.float64)) > 0.3


@pytest.mark.parametrize(
    ("configs", "runtimes", "message"),
    [
        (range(9), range(8), r"runtimes: expected shape \(9,\), one per configuration, got \(8,\)"),
        ([*range(8), 10**5], range(9), r"configs: expected 0 to \d+, .*\.npz; got 100000 at position 8"),
        ([-1, *range(8)], range(9), "got -1 at position 0"),
        (range(9), [5] * 9, "runtimes: expected different values, got equal ones"),
        (range(9), [1, 2, np.inf, *range(6)], "runtimes: expected finite, positive numbers .* got inf at position 2"),
        (range(9), [1, 2, None, *range(6)], "runtimes: expected a value in every row, got a missing one in row 2"),
        (range(9), np.ma.masked_less(range(9), 1), "runtimes: expected a value .* in row 0"),
        (np.ma.masked_less(range(9), 1), range(9), "configs: expected a value .* in row 0"),
        (range(9), ["fast"] * 9, "runtimes: expected numbers"),
        (np.arange(9) / 2, range(9), "configs: expected a list of indices, got float64"),
        ([list(range(9))], range(9), r"got int64 of shape \(1, 9\)"),
        ([3] * 9, range(9), f"at least {LEAST} different configurations, got 1"),
    ],
)
def test_bad_measurements_are_refused(configs: object, runtimes: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit_within(TILE, configs, runtimes)


def test_choices_are_equal_where_tensors_and_rows_are_equal() -> None:
    block = np.random.default_rng(0).integers(-1, 1, (200, 3, 18)).astype(np.int8)
    block[:, :, 2:6] = block[:, :, 7:][:, :, :4] = -1
    chosen = within.choices("layout", block)
    parts = [block[:, node, 6 * tensor : 6 * tensor + 6] for tensor in range(3) for node in range(3)]
    parts += [block[:, node] for node in range(3)]
    assert chosen.shape == (200, len(parts))
    for number, part in enumerate(parts):
        naive = np.unique(part, axis=0, return_inverse=True)[1].reshape(-1)
        coded = np.unique(chosen[:, number], return_inverse=True)[1]
        assert np.array_equal(naive[:, None] == naive, coded[:, None] == coded)


def test_choices_of_the_largest_rows_differ() -> None:
    """All slots but one have the largest value, which takes all 53 bits of float64."""
    block = np.full((19, 1, 18), 5, np.int8)
    block[np.arange(18), 0, np.arange(18)] = 4
    assert len(np.unique(within.choices("layout", block)[:, -1])) == 19


def test_ridge_minimises_the_leave_one_out_error() -> None:
    random = np.random.default_rng(1)
    inputs = random.normal(size=(30, 20))
    target = inputs[:, 0] + random.normal(size=30)
    kernel = inputs @ inputs.T
    ridges = within._RIDGES * np.trace(kernel) / len(kernel)

    def left_out(ridge: float) -> float:
        error = 0.0
        for row in range(30):
            kept = np.delete(np.arange(30), row)
            weights = np.linalg.solve(kernel[np.ix_(kept, kept)] + ridge * np.eye(29), target[kept])
            error += (target[row] - kernel[row, kept] @ weights) ** 2
        return float(error)

    best = min(ridges, key=left_out)
    expected = np.linalg.solve(kernel + best * np.eye(30), target)
    assert np.allclose(within._ridge(kernel, target), expected)


def test_order_of_real_layouts_is_predicted(shared_data: Path) -> None:
    path = shared_data / "npz" / "layout" / "xla" / "default" / "train" / "unet3d.npz"
    graph = read_graph(path)
    assert graph.runtime is not None
    measured = np.random.default_rng(0).choice(graph.n_configs, 100, replace=False)
    rest = np.setdiff1d(np.arange(graph.n_configs), measured)
    scores = fit_within(graph, measured, graph.runtime[measured]).predict()
    assert kendall_tau(scores[rest], graph.runtime[rest].astype(np.float64)) > 0.75
