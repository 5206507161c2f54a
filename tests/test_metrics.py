from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from gbr.data.groups import QueryGroups
from gbr.errors import UsageError
from gbr.evaluation import metrics

COARSE = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=2, max_size=14)


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    scores, target = np.array(rows, np.float64).T
    return scores, target


def slates_of(*targets: list[int], names: tuple[str, ...] | None = None, **overrides: object) -> QueryGroups:
    sizes = [len(target) for target in targets]
    rows = sum(sizes)
    fields: dict[str, object] = {
        "names": names or tuple(f"g{number}" for number in range(len(targets))),
        "indptr": np.cumsum([0, *sizes]).astype(np.int64),
        "columns": ("config.a",),
        "X": np.zeros((rows, 1), np.float32),
        "runtime": np.array([value for target in targets for value in target], np.int64),
        "normalizer": None,
        "repeat": None,
        "duplicate_of": np.concatenate([np.arange(size) for size in sizes]),
    }
    return QueryGroups(**(fields | overrides))  # type: ignore[arg-type]


def test_untied_tau_is_the_mean_over_orders_of_the_ties() -> None:
    target = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    scores = np.array([1.0, 1.0, 1.0, 2.0, 0.0])
    broken = [scores + 1e-3 * np.array([*order, 0, 0]) for order in permutations((0, 1, 2))]
    expected = np.mean([kendalltau(order, target).statistic for order in broken])
    assert metrics.count_pairs(scores, target).untied_tau == pytest.approx(expected)
    assert metrics.count_pairs(scores, np.ones(5)).untied_tau == 0.0


@given(COARSE)
@settings(max_examples=150, deadline=None)
def test_pairs_equal_a_count_by_hand(rows: list[tuple[int, int]]) -> None:
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


@given(COARSE)
@settings(max_examples=100, deadline=None)
def test_tau_is_scipys(rows: list[tuple[int, int]]) -> None:
    scores, target = columns(rows)
    expected = kendalltau(scores, target).statistic
    if np.isnan(expected):
        assert metrics.kendall_tau(scores, target) == 0.0
    else:
        assert metrics.kendall_tau(scores, target) == pytest.approx(expected, abs=1e-12)


def official_opa(score: np.ndarray, relevance: np.ndarray) -> float:
    """Ordered pair accuracy of google-research-datasets/tpu_graphs, whose model scores higher = better."""
    truth = relevance[:, None] > relevance[None, :]
    given = score[:, None] > score[None, :]
    return float((truth & given).sum() / truth.sum()) if truth.any() else 0.0


@given(COARSE)
@settings(max_examples=100, deadline=None)
def test_opa_is_the_official_one(rows: list[tuple[int, int]]) -> None:
    scores, target = columns(rows)
    assert metrics.opa(scores, target) == pytest.approx(official_opa(scores, target), abs=1e-12)


def test_opa_of_constant_scores_is_zero_and_ties_are_wrong() -> None:
    target = np.array([1.0, 2.0, 3.0])
    assert metrics.opa(np.zeros(3), target) == 0.0
    assert metrics.opa(np.array([0.0, 0.0, 1.0]), target) == pytest.approx(2 / 3)


def test_counts_stay_exact_on_a_large_slate() -> None:
    rng = np.random.default_rng(3)
    scores, target = rng.permutation(30_000).astype(float), rng.integers(1, 20_000, 30_000).astype(float)
    pairs = metrics.count_pairs(scores, target)
    arranged = target[np.argsort(scores)]
    concordant = sum(int((arranged[place + 1 :] > arranged[place]).sum()) for place in range(len(arranged)))
    assert pairs.concordant == concordant
    assert pairs.ordered + pairs.tied_target == 30_000 * 29_999 // 2


@given(COARSE, st.integers(1, 16))
@settings(max_examples=150, deadline=None)
def test_slowdown_is_the_mean_over_every_order_of_the_ties(rows: list[tuple[int, int]], k: int) -> None:
    scores, target = columns(rows)
    places = min(k, len(rows))
    last = np.sort(scores)[places - 1]
    sure = [row for row in range(len(rows)) if scores[row] < last]
    tied = [row for row in range(len(rows)) if scores[row] == last]
    best_of = [min(target[[*sure, *choice]]) for choice in combinations(tied, places - len(sure))]
    expected = (np.mean(best_of) - target.min()) / target.min()
    assert metrics.slowdown_at_k(scores, target, k) == pytest.approx(expected, abs=1e-9)


@given(st.permutations(list(range(9))), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_slowdown_without_ties_is_the_definition(order: list[int], k: int) -> None:
    scores, target = np.array(order, float), np.array([5, 3, 9, 4, 8, 7, 6, 11, 10], float)
    top = np.argsort(scores)[:k]
    assert metrics.slowdown_at_k(scores, target, k) == pytest.approx((target[top].min() - 3) / 3)


@given(COARSE, st.randoms(use_true_random=False), st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_figures_ignore_row_order_and_scale(rows: list[tuple[int, int]], random: object, factor: float) -> None:
    scores, target = columns(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other_scores, other_target = columns(shuffled)
    for figure in (
        metrics.kendall_tau,
        metrics.opa,
        lambda s, t: metrics.slowdown_at_k(s, t, 2),
    ):
        assert figure(other_scores, other_target) == pytest.approx(figure(scores, target), abs=1e-12)
        assert figure(scores * factor, target * factor) == pytest.approx(figure(scores, target), abs=1e-9)


def test_slowdown_refuses_what_has_no_meaning() -> None:
    with pytest.raises(UsageError, match="k: got 0"):
        metrics.slowdown_at_k(np.zeros(2), np.ones(2), 0)
    with pytest.raises(UsageError, match="needs positive runtimes"):
        metrics.slowdown_at_k(np.zeros(2), np.array([0.0, 1.0]), 1)


def test_nan_scores_are_refused_by_row() -> None:
    with pytest.raises(UsageError, match="row 1 is NaN"):
        metrics.kendall_tau(np.array([0.0, np.nan]), np.array([1.0, 2.0]))


def test_evaluate_gives_the_contracts_shape() -> None:
    slates = slates_of([10, 20, 40, 30], [5, 6, 7], names=("a", "b"))
    scores = np.array([1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0])
    figures = metrics.evaluate(scores, slates, "tile")
    assert list(figures) == [
        *("kendall_tau", "kendall_tau_ci", "opa", "slowdown@1", "slowdown@5", "slowdown@10", "score"),
        *("graphs", "n_graphs", "skipped"),
    ]
    assert figures["graphs"]["a"]["kendall_tau"] == pytest.approx(2 / 3)
    assert figures["graphs"]["b"] == pytest.approx(
        {"kendall_tau": -1.0, "opa": 0.0, "slowdown@1": 0.4, "slowdown@5": 0.0, "slowdown@10": 0.0}
    )
    assert figures["kendall_tau"] == pytest.approx(-1 / 6)
    assert figures["slowdown@1"] == pytest.approx(0.2)
    assert figures["score"] == 1.0
    assert figures["n_graphs"] == 2
    low, high = figures["kendall_tau_ci"]
    assert -1 <= low < -1 / 6 < high <= 2 / 3 + 1e-12


def test_layouts_report_the_top_hundred_and_score_by_tau() -> None:
    figures = metrics.evaluate(np.arange(4.0), slates_of([1, 2, 4, 3]), "layout")
    assert figures["score"] == figures["kendall_tau"] == pytest.approx(2 / 3)
    assert figures["slowdown@100"] == 0.0
    assert figures["kendall_tau_ci"] is None


def test_normalizers_decide_what_is_ranked() -> None:
    slates = slates_of([10, 30], normalizer=np.array([1, 6], np.int64))
    assert metrics.evaluate(np.array([1.0, 0.0]), slates, "tile")["kendall_tau"] == 1.0


def test_slates_that_cannot_be_ranked_are_listed_not_scored() -> None:
    slates = slates_of(
        *([7], [5, 5], [1, 2], [3, 4, 9]),
        names=("one", "equal", "twins", "fine"),
        duplicate_of=np.array([0, 0, 1, 0, 0, 0, 1, 2], np.int64),
    )
    figures = metrics.evaluate(np.arange(8.0), slates, "tile")
    assert figures["skipped"] == {
        "one": "fewer than 2 configurations",
        "equal": "all runtimes are equal",
        "twins": "all configurations are identical",
    }
    assert list(figures["graphs"]) == ["fine"]
    assert figures["n_graphs"] == 1


def test_constant_predictions_count_as_zero() -> None:
    figures = metrics.evaluate(np.zeros(4), slates_of([1, 2, 4, 3]), "layout")
    assert (figures["kendall_tau"], figures["opa"]) == (0.0, 0.0)
    assert figures["slowdown@1"] == pytest.approx(1.5)


def test_nothing_to_score_is_none_never_nan() -> None:
    figures = metrics.evaluate(np.zeros(2), slates_of([3, 3]), "tile")
    assert {figures[name] for name in ("kendall_tau", "kendall_tau_ci", "opa", "slowdown@5", "score")} == {None}


def test_evaluate_wants_a_score_per_row() -> None:
    with pytest.raises(UsageError, match="got 3, the slates have 2 rows"):
        metrics.evaluate(np.zeros(3), slates_of([1, 2]), "tile")


def test_bootstrap_is_reproducible_and_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.2, 200)
    low, high = metrics.bootstrap_interval(values) or (0, 0)
    assert metrics.bootstrap_interval(values) == [low, high]
    half = 1.96 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)
