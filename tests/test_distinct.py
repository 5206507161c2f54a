"""Sums over the columns that are kept against sums over all of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.layout.aggregate import Columns


@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_tells_every_column(seed: int, n_rows: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 2, (n_rows, 6)).astype(np.float32)[:, rng.integers(0, 6, 9)]
    classes = np.sort(rng.integers(0, 3, n_rows))
    found = Columns.of(table, classes, 3)
    ends = np.searchsorted(classes, np.arange(4))
    picked = found.pick(table, ends)
    for own in range(3):
        rows = slice(ends[own], ends[own + 1])
        kept = np.column_stack([picked[rows], np.zeros(ends[own + 1] - ends[own], np.float32)])
        assert (kept[:, found.place[own]] == table[rows]).all()


def test_equal_columns_and_zeros_are_kept_once_or_not_at_all() -> None:
    table = np.array([[1, 0, 1, 2], [3, 0, 3, 0], [0, 0, 5, 5]], np.float64)
    found = Columns.of(table, np.array([0, 0, 1]), 2)
    assert [kept.tolist() for kept in found.kept] == [[0, 3], [2]]
    assert found.place.tolist() == [[0, 2, 0, 1], [2, 2, 0, 0]]
    assert found.width == 2
