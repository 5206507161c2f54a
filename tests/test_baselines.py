from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from gbr.evaluation import baselines, metrics
from tests.test_metrics import slates_of


def test_random_order_is_the_mean_over_all_orders() -> None:
    targets = [[10, 30, 20, 20, 50], [7, 9, 8]]
    figures = baselines.random_order(slates_of(*targets), "tile")
    for name, target in zip(("g0", "g1"), targets, strict=True):
        values = np.array(target, float)
        orders = [np.array(order, float) for order in permutations(range(len(values)))]
        assert figures["graphs"][name] == pytest.approx(
            {
                "kendall_tau": np.mean([metrics.kendall_tau(order, values) for order in orders]),
                "opa": np.mean([metrics.opa(order, values) for order in orders]),
                **{f"slowdown@{k}": np.mean([metrics.slowdown_at_k(o, values, k) for o in orders]) for k in (1, 5, 10)},
            },
            abs=1e-12,
        )
    assert (figures["kendall_tau"], figures["opa"], figures["kendall_tau_ci"]) == (0.0, 0.5, None)


def test_the_default_of_a_tile_is_its_normalizer() -> None:
    slates = slates_of([50, 200], [30, 20], [5, 5], normalizer=np.array([100, 100, 30, 30, 9, 9], np.int64))
    figures = baselines.default_configuration(slates, "tile")
    assert figures is not None
    assert figures["graphs"] == {"g0": {"slowdown@1": pytest.approx(1.0)}, "g1": {"slowdown@1": pytest.approx(0.5)}}
    assert figures["slowdown@1"] == pytest.approx(0.75)
    assert baselines.default_configuration(slates_of([50, 200]), "tile") is None


def test_the_default_of_a_layout_is_the_flagged_row() -> None:
    X = np.array([[0], [1], [0], [0], [0]], np.float32)
    slates = slates_of([10, 12, 20], [4, 8], X=X, columns=(baselines.DEFAULT_FLAG,))
    figures = baselines.default_configuration(slates, "layout")
    assert figures is not None
    assert figures["graphs"] == {"g0": {"slowdown@1": pytest.approx(0.2)}}
    assert baselines.default_configuration(slates_of([10, 12]), "layout") is None


def test_counting_configured_nodes_ranks_the_fewest_first() -> None:
    X = np.array([[0.5], [0.0], [0.25]], np.float32)
    figures = baselines.fewest_configured(slates_of([30, 10, 20], X=X, columns=(baselines.CONFIGURED,)), "layout")
    assert figures is not None
    assert figures["kendall_tau"] == 1.0
    assert baselines.fewest_configured(slates_of([30, 10, 20]), "layout") is None


def test_retest_ranks_by_the_second_measurement() -> None:
    slates = slates_of([10, 20, 30], [5, 6], repeat=np.array([10, 31, 30, 0, 0], np.int64))
    figures = baselines.retest(slates, "tile")
    assert figures is not None
    assert figures["graphs"].keys() == {"g0"}
    assert figures["kendall_tau"] == pytest.approx(1 / 3)
    assert figures["slowdown@1"] == 0.0
    assert baselines.retest(slates_of([10, 20]), "tile") is None


def test_retest_divides_by_the_same_normalizer() -> None:
    normalizer = np.array([1, 10], np.int64)
    slates = slates_of([10, 20], normalizer=normalizer, repeat=np.array([11, 19], np.int64))
    figures = baselines.retest(slates, "tile")
    assert figures is not None
    assert figures["kendall_tau"] == 1.0


def test_raw_columns_are_plain_lightgbm_on_the_raw_blocks_alone() -> None:
    import lightgbm

    from gbr.models import rows

    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    runtime = np.exp(5 + X[:, 0] + X[:, 3]).astype(np.int64) + 1
    columns = ("config.a", "geometry.b", "nodes.c", "config.d")
    slates = slates_of(*runtime.reshape(20, 20).tolist(), X=X, columns=columns)
    ranker = baselines.raw_columns(slates, seed=0, n_jobs=1)
    assert ranker is not None
    assert ranker.feature_names_in_.tolist() == ["config.a", "nodes.c", "config.d"]
    raw = X[:, [0, 2, 3]]
    plain = lightgbm.LGBMRegressor(random_state=0, verbosity=-1, n_jobs=1)
    plain.fit(raw, rows.normalised_rank(slates.target, slates.indptr))
    scores = ranker._predict(raw)
    assert scores == pytest.approx(-plain.predict(raw), abs=1e-6)


def test_without_a_configuration_block_there_is_no_raw_baseline() -> None:
    assert baselines.raw_columns(slates_of([1, 2], columns=("nodes.a",)), seed=0, n_jobs=1) is None
