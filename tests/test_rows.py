"""Labels, samples and streamed matrices."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.models import rows
from gbr.models.rows import even_parts, largest_cap, sample
from tests.ranking import streamed

GROUPS = st.lists(st.lists(st.integers(1, 2**50 - 1), max_size=12), min_size=1, max_size=5)


def ragged(groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.cumsum([0, *map(len, groups)]).astype(np.int64)
    return np.array([value for group in groups for value in group], np.int64), indptr


# --- labels ----------------------------------------------------------------------------------------------------------


@given(GROUPS, st.integers(1, 2**40))
@settings(max_examples=80, deadline=None)
def test_ranks_match_exact_arithmetic(groups: list[list[int]], normalizer: int) -> None:
    target, indptr = ragged(groups)
    exact = [[Fraction(value, normalizer) for value in group] for group in groups]
    expected = [len({other for other in group if other > value}) for group in exact for value in group]
    assert rows.ranks(target, indptr).tolist() == expected
    assert rows.ranks(target / normalizer, indptr).tolist() == expected


@given(GROUPS)
@settings(max_examples=60, deadline=None)
def test_labels_keep_the_order(groups: list[list[int]]) -> None:
    target, indptr = ragged(groups)
    target %= 10_000
    rank = rows.ranks(target, indptr)
    stretched = np.sqrt(target.astype(np.float64)) * 3 + 7
    assert np.array_equal(rows.ranks(stretched, indptr), rank)
    for label in rows.REGRESSION_LABELS.values():
        values = label(target, indptr)
        assert values.dtype == np.float32
        for start, stop in pairwise(indptr.tolist()):
            assert (np.diff(values[start:stop][np.argsort(rank[start:stop], kind="stable")]) >= 0).all()


def test_label_values() -> None:
    target, indptr = ragged([[40, 10, 20, 10, 30], [5, 5], [9], []])
    assert rows.normalised_rank(target, indptr) == pytest.approx([0, 1, 2 / 3, 1, 1 / 3, 0.5, 0.5, 0.5])
    speeds = rows.relative_speed(np.array([4.0, 2.0, 8.0, 3.0, 3.0, -1.0, 5.0]), np.array([0, 3, 5, 7]))
    # All equal, or not positive: the normalised rank.
    assert speeds.tolist() == [0.5, 1.0, 0.25, 0.5, 0.5, 1.0, 0.0]


# --- samples ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 25), min_size=1, max_size=5), st.integers(2, 12), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_samples_are_distinct_reproducible_and_full(sizes: list[int], most: int, seed: int) -> None:
    indptr = np.cumsum([0, *sizes])
    sampled, bounds = sample(indptr, most, seed)
    assert (np.diff(sampled) > 0).all()
    assert np.diff(bounds).tolist() == [min(size, most) for size in sizes]
    assert np.array_equal(np.searchsorted(sampled, indptr), bounds)
    assert np.array_equal(sample(indptr, most, seed)[0], sampled)


def test_samples_are_uniform() -> None:
    counts = np.zeros(20)
    for seed in range(1000):
        counts[sample(np.array([0, 20]), 5, seed)[0]] += 1
    assert np.abs(counts - 250).max() < 5 * 13.7  # binomial: standard deviation 13.7


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_largest_cap_matches_exhaustive_search(sizes: list[int], limit: int) -> None:
    cap = largest_cap(np.array(sizes, np.int64), limit)
    fitting = [cap for cap in range(2, 31) if sum(min(size, cap) for size in sizes) <= limit]
    if sum(sizes) <= limit:
        assert cap >= max(sizes)
    else:
        assert cap == max(fitting, default=2)


def test_even_parts_balance_rows() -> None:
    sizes = np.random.default_rng(0).integers(1, 100, 40)
    part_of = even_parts(sizes, 3, np.argsort(-sizes))
    loads = np.bincount(part_of, sizes)
    assert len(loads) == 3
    assert loads.max() - loads.min() <= sizes.max()
    assert even_parts(np.array([5, 0]), 4, np.array([0, 1])).tolist() == [0, 1]


# --- streamed matrices -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 80), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_streamed_matrix_equals_the_matrix(sizes: list[int], cells: int, random: Any) -> None:
    rng = np.random.default_rng(random.randrange(1000))
    bounds = np.cumsum([0, *sizes]).astype(np.int64)
    X = rng.normal(size=(sum(sizes), 3)).astype(np.float32)
    selected = np.concatenate(
        [rng.permutation(np.arange(a, b))[: rng.integers(b - a + 1)] for a, b in pairwise(bounds)]
    )
    lazy, reads = streamed(X, bounds, selected.astype(np.int64), cells)
    assert lazy.shape == (len(selected), 3)
    assert reads == []
    batches = list(lazy.batches())
    assert np.array_equal(np.concatenate([X[:0], *(part for _, part in batches)]), X[selected])
    assert np.array_equal(lazy.gathered(), X[selected])
    assert [part.start for part, _ in batches[1:]] == [part.stop for part, _ in batches[:-1]]
    group = np.repeat(np.arange(len(sizes)), sizes)[selected]
    assert all(not set(group[part]) & set(group[part.stop :]) for part, _ in batches)
    assert all(last - first == 1 or 3 * (bounds[last] - bounds[first]) <= cells for first, last in reads)
    index = rng.integers(0, max(len(selected), 1), 20 if len(selected) else 0)
    reads.clear()
    assert np.array_equal(lazy[index], X[selected][index])
    assert len(reads) == len(set(reads))
    mask = rng.random(len(selected)) < 0.5
    assert np.array_equal(lazy[mask], X[selected][mask])
    order = np.concatenate([rng.permutation(np.flatnonzero(group == number)) for number in range(len(sizes))])
    assert np.array_equal(lazy.view(order)[np.arange(len(selected))], X[selected][order])


def test_cached_batches_are_not_read_again() -> None:
    X = np.arange(40, dtype=np.float32).reshape(20, 2)
    lazy, reads = streamed(X, np.arange(0, 21, 5), np.arange(20), cells=20)
    for row in range(20):
        assert np.array_equal(lazy[np.array([row])], X[[row]])
    assert reads == [(0, 2), (2, 4)]


def test_scattered_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of a group to be contiguous"):
        streamed(np.zeros((20, 2), np.float32), np.arange(0, 21, 5), np.array([0, 6, 1]))
