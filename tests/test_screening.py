"""Column screening: which columns are chosen for training sets with a known answer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gbr.models.rows import Rows
from gbr.models.screening import screen, varies_within

NAMES = ("config.a", "config.b", "config.noise", "other.noise", "nodes.sign", "nodes.noise")


def groups(n_groups: int, sign_matters: bool, seed: int = 0) -> Rows:
    """Groups ordered by the sum of two columns; the sign of the first may depend on a column of the graph."""
    rng = np.random.default_rng(seed)
    size = 16
    X = rng.normal(size=(n_groups * size, len(NAMES))).astype(np.float32)
    X[:, 4:] = np.repeat(rng.normal(size=(n_groups, 2)), size, axis=0)
    X[::5, 5] = X[::5, 5]
    sign = np.where(X[:, 4] > 0, 1, -1) if sign_matters else 1
    return Rows(X, sign * X[:, 0] + 0.5 * X[:, 1], np.arange(0, len(X) + 1, size))


def test_columns_of_the_graph_are_used_only_if_they_pay() -> None:
    for sign_matters in (False, True):
        found = screen(groups(120, sign_matters), groups(60, sign_matters, seed=1), NAMES, seed=0, n_jobs=1)
        assert {"config.a", "config.b"} <= set(found.columns)
        assert ("nodes.sign" in found.columns) == sign_matters
        assert (found.chosen == "all that are used") == sign_matters
        assert list(found.columns) == sorted(found.columns, key=NAMES.index)
        taus = {candidate["name"]: candidate["tau"] for candidate in found.candidates}
        assert (taus["all"] - taus["within"] > 0.2) == sign_matters


def test_blocks_of_little_gain_are_left_out_but_for_those_to_keep() -> None:
    train, valid = groups(120, sign_matters=False), groups(60, sign_matters=False, seed=1)
    found = screen(train, valid, NAMES, seed=0, n_jobs=1)
    assert "other.noise" not in found.columns
    assert found.gain["config"] > 0.95
    kept = screen(train, valid, NAMES, seed=0, n_jobs=1, always=["other.noise"])
    assert set(kept.columns) == {*found.columns, "other.noise"}


def test_varying_columns_equal_those_with_two_distinct_values_in_a_group() -> None:
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (60, 8)).astype(np.float32)
    X[rng.random(X.shape) < 0.3] = np.nan
    indptr = np.array([0, 1, 3, 5, 7, 60])
    X[:, 0], X[:, 1], X[7:, 2] = np.nan, 1.0, 0.0
    expected = [any(len({str(value) for value in column[a:b]}) > 1 for a, b in pairwise(indptr)) for column in X.T]
    assert varies_within(X, indptr).tolist() == expected
    assert 2 < sum(expected) < 8
