"""The pairwise loss against its definition, pair by pair."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from gbr.models.losses import OFFSETS, derivatives, objective

#: Size of the largest group of which all pairs are compared.
WHOLE = 2 * OFFSETS + 1
JITTER = np.random.default_rng(0).random(OFFSETS)


def naive_derivatives(relevance: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gradient, curvature = np.zeros(len(rank)), np.zeros(len(rank))
    for first, second in zip(*np.triu_indices(len(rank), k=1), strict=True):
        sign = np.sign(rank[first] - rank[second])
        probability = expit(sign * (relevance[second] - relevance[first]))
        gradient[first] -= sign * probability
        gradient[second] += sign * probability
        curvature[[first, second]] += abs(sign) * probability * (1 - probability)
    return gradient / max(1, len(rank) - 1), curvature / max(1, len(rank) - 1)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 24) | st.sampled_from([WHOLE - 1, WHOLE]), min_size=1, max_size=4),
    spread=st.sampled_from([0.0, 1.0, 20.0]),
    n_ranks=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_derivatives_match_the_naive_ones(sizes: list[int], spread: float, n_ranks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    indptr = np.cumsum([0, *sizes])
    relevance, rank = spread * rng.normal(size=indptr[-1]), rng.integers(0, n_ranks, indptr[-1])
    found = derivatives(relevance, rank, indptr, rng.random(OFFSETS))
    for start, stop in pairwise(indptr.tolist()):
        expected = naive_derivatives(relevance[start:stop], rank[start:stop])
        for values, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(values[start:stop], reference, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("jitter", [np.zeros(OFFSETS), JITTER, np.full(OFFSETS, np.nextafter(1, 0))])
@pytest.mark.parametrize("size", [WHOLE + 1, WHOLE + 2, 1001])
def test_rows_of_large_groups_are_in_equally_many_pairs(size: int, jitter: np.ndarray) -> None:
    rank, indptr = np.random.default_rng(2).permutation(size), np.array([0, size])
    gradient, curvature = derivatives(np.zeros(size), rank, indptr, jitter)
    # The curvature of an even pair is 1/4; at half the size a distance is one pair of a row, not two.
    np.testing.assert_allclose(curvature, 0.25, rtol=0.5 / OFFSETS)
    assert abs(gradient.sum()) < 1e-12
    assert np.abs(gradient).max() <= 0.5 * (1 + 0.5 / OFFSETS)


def test_sampled_pairs_are_unbiased() -> None:
    rng = np.random.default_rng(3)
    size, rounds = 300, 400
    relevance, rank, indptr = rng.normal(size=size), rng.integers(0, 40, size), np.array([0, size])
    each = np.array([derivatives(relevance, rank, indptr, rng.random(OFFSETS)) for _ in range(rounds)])
    error = each.std(axis=0) / np.sqrt(rounds)
    assert (np.abs(each.mean(axis=0) - naive_derivatives(relevance, rank)) < 5 * error + 1e-6).all()
    assert (each.std(axis=0) > 0).all()


def test_extreme_relevance_stays_finite() -> None:
    relevance, rank = np.array([0.0, 1e6, -1e6, 5.0]), np.array([3, 0, 1, 2])
    gradient, curvature = derivatives(relevance, rank, np.array([0, 4]), JITTER)
    expected, _ = naive_derivatives(np.array([0.0, 1e3, -1e3, 5.0]), rank)
    assert np.isfinite([gradient, curvature]).all()
    assert gradient[1] == pytest.approx(expected[1])


def test_seed_determines_the_sampled_pairs() -> None:
    rng = np.random.default_rng(4)
    rank, relevance, indptr = rng.permutation(500), rng.normal(size=500), np.array([0, 500])
    one, again, other = (objective(rank, indptr, seed) for seed in (0, 0, 1))
    first, second = one(relevance, None)[0], one(relevance, None)[0]
    assert np.array_equal(again(relevance, None)[0], first)
    assert not np.array_equal(first, second)
    assert not np.array_equal(other(relevance, None)[0], first)
