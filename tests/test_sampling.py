from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.errors import UsageError
from gbr.models.sampling import POLICIES, largest_cap, sample

SLATES = st.lists(st.lists(st.integers(1, 12), max_size=25), min_size=1, max_size=5)


def ragged(slates: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for slate in slates for value in slate], np.int64), np.cumsum([0, *map(len, slates)])


@given(SLATES, st.integers(2, 12), st.sampled_from(POLICIES), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_as_many_rows_as_there_may_be_and_none_twice(
    slates: list[list[int]], most: int, policy: str, seed: int
) -> None:
    target, indptr = ragged(slates)
    rows = sample(target, indptr, most, policy, seed)
    assert (np.diff(rows) > 0).all()
    bounds = np.searchsorted(rows, indptr)
    assert np.diff(bounds).tolist() == [min(len(slate), most) for slate in slates]
    assert rows.tolist() == sample(target, indptr, most, policy, seed).tolist()


@given(SLATES, st.integers(2, 12), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_strata_keep_the_extremes(slates: list[list[int]], most: int, seed: int) -> None:
    target, indptr = ragged(slates)
    rows = sample(target, indptr, most, "stratified", seed)
    for start, stop in pairwise(indptr.tolist()):
        own = rows[(rows >= start) & (rows < stop)]
        if stop > start:
            assert target[own].min() == target[start:stop].min()
            assert target[own].max() == target[start:stop].max()


def test_strata_follow_the_order() -> None:
    target = np.random.default_rng(0).permutation(1000)
    rows = sample(target, np.array([0, 1000]), 10, "stratified")
    assert (np.sort(target[rows]) // 100).tolist() == list(range(10))


def test_uniform_is_uniform() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        counts[sample(np.arange(20), np.array([0, 20]), 5, "uniform", seed)] += 1
    # Binomial: 500 expected of each, standard deviation 19.4.
    assert np.abs(counts - 500).max() < 5 * 19.4


def test_close_takes_neighbours() -> None:
    target = np.random.default_rng(0).lognormal(0, 1, 4000)
    place = np.argsort(np.argsort(target))

    def neighbours(policy: str) -> int:
        chosen = np.sort(place[sample(target, np.array([0, 4000]), 100, policy)])
        return int((np.diff(chosen) == 1).sum())

    assert neighbours("close") >= 50
    assert neighbours("uniform") < 15


def test_close_passes_over_ties_where_there_are_others() -> None:
    target = np.repeat(np.arange(50), 10)
    assert len(np.unique(target[sample(target, np.array([0, 500]), 20, "close")])) == 20
    assert len(np.unique(target[sample(target, np.array([0, 500]), 50, "close")])) == 50
    assert len(sample(target, np.array([0, 500]), 60, "close")) == 60


def test_seeds_differ() -> None:
    target, indptr = np.random.default_rng(0).random(300), np.array([0, 100, 300])
    for policy in POLICIES:
        drawn = {tuple(sample(target, indptr, 20, policy, seed)) for seed in range(4)}
        assert len(drawn) == 4


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="got policy 'best', want 'uniform' or 'stratified' or 'close'"):
        sample(np.arange(4), np.array([0, 4]), 2, "best")
    with pytest.raises(UsageError, match="got 1 rows per slate, want at least 2"):
        sample(np.arange(4), np.array([0, 4]), 1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_the_largest_cap_against_trying_all(sizes: list[int], rows: int) -> None:
    found = largest_cap(np.array(sizes, np.int64), rows)
    fitting = [cap for cap in range(2, 31) if sum(min(size, cap) for size in sizes) <= rows]
    if sum(sizes) <= rows:
        assert found >= max(sizes)
    else:
        assert found == max(fitting, default=2)
