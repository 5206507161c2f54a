from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.models import labels

SLATES = st.lists(st.lists(st.integers(1, 2**50 - 1), max_size=12), min_size=1, max_size=5)


def flat(slates: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.cumsum([0, *map(len, slates)]).astype(np.int64)
    return np.array([value for slate in slates for value in slate], np.int64), indptr


def naive_ranks(slates: list[list[Fraction]]) -> list[int]:
    return [len({other for other in slate if other > value}) for slate in slates for value in slate]


@given(SLATES)
@settings(max_examples=60, deadline=None)
def test_ranks_count_the_distinct_slower_values(slates: list[list[int]]) -> None:
    target, indptr = flat(slates)
    assert labels.ranks(target, indptr).tolist() == naive_ranks([[Fraction(v) for v in slate] for slate in slates])
    assert labels.ranks(target, indptr).dtype == np.int64


@given(SLATES, st.integers(1, 2**40))
@settings(max_examples=60, deadline=None)
def test_ranks_of_quotients_by_one_normalizer_are_exact(slates: list[list[int]], normalizer: int) -> None:
    target, indptr = flat(slates)
    exact = naive_ranks([[Fraction(v, normalizer) for v in slate] for slate in slates])
    assert labels.ranks(target / normalizer, indptr).tolist() == exact


def test_ranks_follow_changing_normalizers() -> None:
    runtime, normalizer = np.array([10, 30, 20, 90]), np.array([1, 6, 4, 10])
    assert labels.ranks(runtime / normalizer, np.array([0, 4])).tolist() == [0, 2, 2, 1]


def test_ranks_keep_neighbours_above_float32_apart() -> None:
    target = np.array([2**24, 2**24 + 1, 2**24 + 2], np.int64)
    assert len(np.unique(target.astype(np.float32))) < 3
    assert labels.ranks(target, np.array([0, 3])).tolist() == [2, 1, 0]


@given(SLATES)
@settings(max_examples=40, deadline=None)
def test_a_monotone_transform_leaves_labels_unchanged(slates: list[list[int]]) -> None:
    target, indptr = flat(slates)
    target %= 10_000
    stretched = np.sqrt(target.astype(np.float64)) * 3 + 7
    assert np.array_equal(labels.ranks(target, indptr), labels.ranks(stretched, indptr))
    assert np.array_equal(labels.normalised_rank(target, indptr), labels.normalised_rank(stretched, indptr))


def test_normalised_rank_spans_zero_to_one_with_the_fastest_at_one() -> None:
    target, indptr = flat([[40, 10, 20, 10, 30], [5, 5], [9], []])
    assert labels.normalised_rank(target, indptr) == pytest.approx([0, 1, 2 / 3, 1, 1 / 3, 0.5, 0.5, 0.5])
    assert labels.normalised_rank(target, indptr).dtype == np.float32


def test_the_sign_turns() -> None:
    assert labels.as_runtime(np.array([3.0, -1.0])).tolist() == [-3.0, 1.0]


def test_relative_speed_is_the_fastest_over_each() -> None:
    target = np.array([4.0, 2.0, 8.0, 3.0, 3.0, -1.0, 5.0, 0.0, 7.0])
    indptr = np.array([0, 3, 5, 7, 9])
    found = labels.relative_speed(target, indptr)
    assert found.dtype == np.float32
    assert found[:3].tolist() == [0.5, 1.0, 0.25]
    # No order, or times that are not above 0: the rank stands in.
    assert found[3:].tolist() == [0.5, 0.5, 1.0, 0.0, 1.0, 0.0]


@given(SLATES)
@settings(max_examples=60, deadline=None)
def test_relative_speed_orders_as_ranks_do(slates: list[list[int]]) -> None:
    target, indptr = flat(slates)
    speed, rank = labels.relative_speed(target, indptr), labels.ranks(target, indptr)
    for start, stop in pairwise(indptr.tolist()):
        order = np.argsort(rank[start:stop], kind="stable")
        assert (np.diff(speed[start:stop][order]) >= 0).all()
