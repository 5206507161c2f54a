"""Metrics, the interval of a tau, and baselines."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from gbr.errors import UsageError
from gbr.evaluation import baselines, metrics
from gbr.evaluation.figures import Figures
from tests.ranking import groups_of

#: (score, target) of each row, with many ties.
ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=2, max_size=14)


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    scores, target = np.array(rows, np.float64).T
    return scores, target


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_pairs_tau_and_opa_match_naive_counts(rows: list[tuple[int, int]]) -> None:
    scores, target = columns(rows)
    pairs = list(combinations(range(len(rows)), 2))
    sign = [np.sign(scores[i] - scores[j]) * np.sign(target[i] - target[j]) for i, j in pairs]
    same_target = [target[i] == target[j] for i, j in pairs]
    same_score = [scores[i] == scores[j] for i, j in pairs]
    assert metrics.count_pairs(scores, target) == metrics.Pairs(
        concordant=sum(s > 0 for s in sign),
        discordant=sum(s < 0 for s in sign),
        tied_score=sum(s and not t for s, t in zip(same_score, same_target, strict=True)),
        tied_target=sum(same_target),
        tied_both=sum(s and t for s, t in zip(same_score, same_target, strict=True)),
    )
    assert metrics.kendall_tau(scores, target) == pytest.approx(
        np.nan_to_num(kendalltau(scores, target).statistic), abs=1e-12
    )
    # google-research-datasets/tpu_graphs: higher is better on both sides
    slower, predicted = target[:, None] > target, scores[:, None] > scores
    opa = float((slower & predicted).sum() / slower.sum()) if slower.any() else 0.0
    assert metrics.count_pairs(scores, target).opa == pytest.approx(opa, abs=1e-12)


def test_taus_of_many_groups_equal_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    sizes = [*rng.integers(2, 12, 60).tolist(), 63, 64, 65, 200]
    bounds = np.cumsum([0, *sizes])
    scores, target = rng.integers(0, 9, (2, bounds[-1])).astype(np.float64)
    groups = [slice(start, stop) for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    expected = [kendalltau(scores[group], target[group]).statistic for group in groups]
    assert np.allclose(metrics.taus_b(scores, target, groups), np.nan_to_num(expected), rtol=1e-12)


def test_untied_tau_is_the_mean_over_orders_of_the_ties() -> None:
    target = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    scores = np.array([1.0, 1.0, 1.0, 2.0, 0.0])
    broken = [scores + 1e-3 * np.array([*order, 0, 0]) for order in permutations((0, 1, 2))]
    expected = np.mean([kendalltau(order, target).statistic for order in broken])
    assert metrics.count_pairs(scores, target).untied_tau == pytest.approx(expected)
    assert metrics.count_pairs(scores, np.ones(5)).untied_tau == 0.0


def test_counts_are_exact_for_a_large_group() -> None:
    rng = np.random.default_rng(3)
    scores, target = rng.permutation(30_000).astype(float), rng.integers(1, 20_000, 30_000).astype(float)
    pairs = metrics.count_pairs(scores, target)
    ordered = target[np.argsort(scores)]
    assert pairs.concordant == sum(int((ordered[i + 1 :] > ordered[i]).sum()) for i in range(len(ordered)))
    assert pairs.ordered + pairs.tied_target == 30_000 * 29_999 // 2


@given(ROWS, st.integers(1, 16))
@settings(max_examples=150, deadline=None)
def test_slowdown_is_the_mean_over_orders_of_the_ties(rows: list[tuple[int, int]], k: int) -> None:
    scores, target = columns(rows)
    size = min(k, len(rows))
    last = np.sort(scores)[size - 1]
    inside = [row for row in range(len(rows)) if scores[row] < last]
    tied = [row for row in range(len(rows)) if scores[row] == last]
    best = [min(target[[*inside, *choice]]) for choice in combinations(tied, size - len(inside))]
    expected = (np.mean(best) - target.min()) / target.min()
    assert metrics.slowdown_at_k(scores, target, k) == pytest.approx(expected, abs=1e-9)


@given(ROWS, st.randoms(use_true_random=False), st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_figures_do_not_depend_on_row_order_or_scale(rows: list[tuple[int, int]], random: object, scale: float) -> None:
    scores, target = columns(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for figure in (
        metrics.kendall_tau,
        lambda s, t: metrics.count_pairs(s, t).opa,
        lambda s, t: metrics.slowdown_at_k(s, t, 2),
    ):
        assert figure(*columns(shuffled)) == pytest.approx(figure(scores, target), abs=1e-12)
        assert figure(scores * scale, target * scale) == pytest.approx(figure(scores, target), abs=1e-9)


def test_invalid_values_are_rejected() -> None:
    with pytest.raises(UsageError, match="k: expected a positive integer, got 0"):
        metrics.slowdown_at_k(np.zeros(2), np.ones(2), 0)
    with pytest.raises(UsageError, match="expected positive runtimes, got 0"):
        metrics.slowdown_at_k(np.zeros(2), np.array([0.0, 1.0]), 1)
    with pytest.raises(UsageError, match="target: row 0 is NaN"):
        metrics.kendall_tau(np.zeros(2), np.array([np.nan, 2.0]))
    with pytest.raises(UsageError, match="scores: row 1 is NaN"):
        metrics.kendall_tau(np.array([0.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(UsageError, match="expected 2, one per row, got 3"):
        metrics.evaluate(np.zeros(3), groups_of([1, 2]), "tile")


def test_evaluate() -> None:
    groups = groups_of([10, 20, 40, 30], [5, 6, 7], names=("a", "b"))
    figures = metrics.evaluate(np.array([1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0]), groups, "tile")
    assert list(figures) == [
        *("kendall_tau", "kendall_tau_ci", "opa", "slowdown@1", "slowdown@5", "slowdown@10", "score"),
        *("graphs", "n_graphs", "skipped"),
    ]
    assert figures["graphs"]["b"] == pytest.approx(
        {"kendall_tau": -1.0, "opa": 0.0, "slowdown@1": 0.4, "slowdown@5": 0.0, "slowdown@10": 0.0}
    )
    assert figures["kendall_tau"] == pytest.approx(-1 / 6)
    assert figures["slowdown@1"] == pytest.approx(0.2)
    assert (figures["score"], figures["n_graphs"]) == (1.0, 2)
    low, high = figures["kendall_tau_ci"]
    assert -1 <= low < -1 / 6 < high <= 2 / 3 + 1e-12

    layout = metrics.evaluate(np.arange(4.0), groups_of([1, 2, 4, 3]), "layout")
    assert layout["score"] == layout["kendall_tau"] == pytest.approx(2 / 3)
    assert (layout["slowdown@100"], layout["kendall_tau_ci"]) == (0.0, None)
    constant = metrics.evaluate(np.zeros(4), groups_of([1, 2, 4, 3]), "layout")
    assert (constant["kendall_tau"], constant["opa"], constant["slowdown@1"]) == (0.0, 0.0, pytest.approx(1.5))
    normalized = groups_of([10, 30], normalizer=np.array([1, 6], np.int64))
    assert metrics.evaluate(np.array([1.0, 0.0]), normalized, "tile")["kendall_tau"] == 1.0


def test_groups_that_cannot_be_ranked_are_listed_and_not_scored() -> None:
    groups = groups_of(
        *([7], [5, 5], [1, 2], [3, 4, 9]),
        names=("one", "equal", "twins", "fine"),
        duplicate_of=np.array([0, 0, 1, 0, 0, 0, 1, 2], np.int64),
    )
    figures = metrics.evaluate(np.arange(8.0), groups, "tile")
    assert figures["skipped"] == {
        "one": "fewer than 2 configurations",
        "equal": "all runtimes are equal",
        "twins": "all configurations are identical",
    }
    assert list(figures["graphs"]) == ["fine"]
    nothing = metrics.evaluate(np.zeros(2), groups_of([3, 3]), "tile")
    assert {nothing[name] for name in ("kendall_tau", "kendall_tau_ci", "opa", "slowdown@5", "score")} == {None}


def test_bootstrap_is_deterministic_and_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.2, 200)
    low, high = metrics.bootstrap_interval(values) or (0, 0)
    assert metrics.bootstrap_interval(values) == [low, high]
    half = 1.96 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)


def test_bootstrap_draws_whole_families() -> None:
    """Copies of graphs within their families tell nothing new; families of unequal size weigh by their graphs."""
    values, families = np.random.default_rng(0).normal(0.6, 0.2, 20), [f"f{number:02d}" for number in range(20)]
    alone = metrics.bootstrap_interval(values, families)
    assert metrics.bootstrap_interval(np.repeat(values, 4), np.repeat(families, 4)) == pytest.approx(alone)
    low, high = metrics.bootstrap_interval([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]) or (0, 0)
    assert (low, high) == (0.0, 1.0)
    assert metrics.bootstrap_interval([0.0, 1.0], ["a", "a"]) is None


def sample(n: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)


def test_coverage_of_the_tau_interval() -> None:
    """Tau of a bivariate normal is 2 / pi * asin(rho) (Kendall and Gibbons, 1990)."""
    true, covered = 2 / np.pi * np.arcsin(0.5), 0
    for seed in range(25):
        x, y = sample(300, 0.5, seed)
        interval = metrics.tau_interval(metrics.kendall_tau(x, y), x, y, level=0.8, seed=seed)
        assert interval is not None
        covered += interval[0] <= true <= interval[1]
    assert 0.6 <= covered / 25 <= 0.96


def test_tau_interval_matches_a_naive_bootstrap() -> None:
    x, y = sample(40, 0.7, seed=1)
    y[::7] = y[0]  # ties
    taus = []
    first, second = np.triu_indices(40, 1)
    s, t = np.sign(x[first] - x[second]), np.sign(y[first] - y[second])
    for weight in np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=400):
        pairs = weight[first] * weight[second]
        taus.append((pairs * s * t).sum() / np.sqrt((pairs * s**2).sum() * (pairs * t**2).sum()))
    expected = np.quantile(taus, [0.025, 0.975]).tolist()
    assert metrics.tau_interval(kendalltau(x, y).statistic, x, y, seed=5) == pytest.approx(expected, abs=1e-9)


def test_tau_interval_of_a_sample_narrows_and_stays_in_range() -> None:
    widths = []
    for n in (2000, 8000):
        x, y = sample(n, 0.6, seed=2)
        low, high = metrics.tau_interval(metrics.kendall_tau(x, y), x, y) or (0, 0)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.35)
    x = np.arange(30.0)
    assert metrics.tau_interval(1.0, x, x) == [1.0, 1.0]
    assert metrics.tau_interval(0.0, np.zeros(4), x[:4]) is None
    assert metrics.tau_interval(1.0, x[:2], x[:2]) is None


def test_random_order_is_the_mean_over_all_orders() -> None:
    targets = [[10, 30, 20, 20, 50], [7, 9, 8]]
    figures = baselines.random_order(groups_of(*targets), "tile")
    for name, target in zip(("g0", "g1"), targets, strict=True):
        values = np.array(target, float)
        orders = [np.array(order, float) for order in permutations(range(len(values)))]
        assert figures["graphs"][name] == pytest.approx(
            {
                "kendall_tau": np.mean([metrics.kendall_tau(order, values) for order in orders]),
                "opa": np.mean([metrics.count_pairs(order, values).opa for order in orders]),
                **{f"slowdown@{k}": np.mean([metrics.slowdown_at_k(o, values, k) for o in orders]) for k in (1, 5, 10)},
            },
            abs=1e-12,
        )
    assert (figures["kendall_tau"], figures["opa"], figures["kendall_tau_ci"]) == (0.0, 0.5, None)


def known(figures: dict[str, Any] | None) -> dict[str, Any]:
    assert figures is not None
    return figures


def test_default_configuration() -> None:
    tile = groups_of([50, 200], [30, 20], [5, 5], normalizer=np.array([100, 100, 30, 30, 9, 9], np.int64))
    figures = known(baselines.default_configuration(tile, "tile"))
    assert figures["slowdown@1"] == pytest.approx(0.75)
    assert figures["graphs"] == {"g0": {"slowdown@1": pytest.approx(1.0)}, "g1": {"slowdown@1": pytest.approx(0.5)}}
    flags = np.array([[0], [1], [0], [0], [0]], np.float32)
    layout = groups_of([10, 12, 20], [4, 8], X=flags, columns=(baselines.DEFAULT_FLAG,))
    figures = known(baselines.default_configuration(layout, "layout"))
    assert figures["graphs"] == {"g0": {"slowdown@1": pytest.approx(0.2)}}
    for kind in ("tile", "layout"):
        assert baselines.default_configuration(groups_of([10, 12]), kind) is None


def test_fewest_configured() -> None:
    X = np.array([[0.5], [0.0], [0.25]], np.float32)
    figures = known(
        baselines.fewest_configured(groups_of([30, 10, 20], X=X, columns=(baselines.CONFIGURED,)), "layout")
    )
    assert figures["kendall_tau"] == 1.0
    assert baselines.fewest_configured(groups_of([30, 10, 20]), "layout") is None


def test_retest_ranks_by_the_second_measurement() -> None:
    figures = known(
        baselines.retest(groups_of([10, 20, 30], [5, 6], repeat=np.array([10, 31, 30, 0, 0], np.int64)), "tile")
    )
    assert list(figures["graphs"]) == ["g0"]
    assert figures["kendall_tau"] == pytest.approx(1 / 3)
    normalizer, repeat = np.array([1, 10], np.int64), np.array([11, 19], np.int64)
    normalized = known(baselines.retest(groups_of([10, 20], normalizer=normalizer, repeat=repeat), "tile"))
    assert normalized["kendall_tau"] == 1.0
    assert baselines.retest(groups_of([10, 20]), "tile") is None


def test_a_mean_rank_without_history_is_no_baseline() -> None:
    X = np.array([[np.nan], [np.nan], [np.nan], [0.25], [np.nan]], np.float32)
    columns = (baselines.MEAN_RANK,)
    found = known(baselines.mean_rank(groups_of([30, 10, 20], [5, 4], X=X, columns=columns), "table"))
    assert found["graphs"]["g1"]["kendall_tau"] == -1  # an unknown rank is the middle
    assert baselines.mean_rank(groups_of([30, 10, 20], X=X[:3], columns=columns), "table") is None


def test_figures_say_which_baseline_is_better_and_why_groups_are_not_ranked() -> None:
    def ranked(tau: float) -> dict[str, Any]:
        return {"kendall_tau": tau, "kendall_tau_ci": None, "opa": 0.5, "slowdown@1": 0.0, "slowdown@5": 0.0}

    test = ranked(0.8) | {
        "graphs": {}, "n_graphs": 2, "skipped": {"a": "all runtimes are equal", "b": "all runtimes are equal"},
        "baselines": {"raw_l2": ranked(0.5), "mean_rank": ranked(0.8), "retest": ranked(0.99)},
        "runtime": {"mape": 0.5, "baselines": {"linear": {"mape": 0.2}, "nearest": {"mape": 0.3}}},
    }  # fmt: skip
    valid = ranked(-1e-5) | {"graphs": {}, "n_graphs": 1, "skipped": {}, "baselines": {"raw_l2": ranked(-0.1)}}
    figures = Figures(subset="table:t", test=test, valid=valid)
    assert list(figures.beaten()) == [
        "test: the baseline 'mean rank elsewhere' ranks as well as the model or better: tau 0.800 and 0.800",
        "test: the baseline 'linear regression on logs' predicts runtimes better than the model: MAPE 20.0% and 50.0%",
    ]
    title, _, rows = next(figures.tables(["test"]))
    assert title.startswith("table:t test: 2 groups, 2 cannot be ranked (all runtimes are equal)  (@K")
    assert next(figures.tables(["valid"])).rows[0][1] == "0.000"
    assert [row[0] for row in rows] == ["model", "raw columns, L2", "mean rank elsewhere", "retest"]
