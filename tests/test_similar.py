from __future__ import annotations

import numpy as np
import pytest

from gbr.data.groups import QueryGroups
from gbr.errors import UsageError
from gbr.evaluation.similar import distances, nearest, shared_columns


def slates_of(shared: np.ndarray, rows: int = 4) -> QueryGroups:
    """Graphs with the given features, one column that varies and one that never does."""
    rng = np.random.default_rng(0)
    X = np.repeat(shared, rows, axis=0)
    X = np.column_stack([X, rng.random(len(X)), np.ones(len(X))]).astype(np.float32)
    columns = tuple(f"block.c{number}" for number in range(X.shape[1]))
    names = tuple(f"g{number}" for number in range(len(shared)))
    indptr = np.arange(0, len(X) + 1, rows).astype(np.int64)
    return QueryGroups(names, indptr, columns, X, None, None, None, np.zeros(len(X), np.int64))


def test_only_columns_that_tell_graphs_apart_are_compared() -> None:
    assert shared_columns(slates_of(np.random.default_rng(1).random((6, 3)))).tolist() == [0, 1, 2]


def test_distances_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    known, target = rng.random((7, 4)) * [1, 10, 100, 0], rng.random(4)
    expected = []
    for row in known:
        total = 0.0
        for column in range(4):
            spread = np.std(known[:, column])
            total += ((row[column] - target[column]) / spread) ** 2 if spread else 0.0
        expected.append((total / 4) ** 0.5)
    np.testing.assert_allclose(distances(known, target), expected)


def test_the_nearest_graphs_are_those_of_the_same_kind() -> None:
    rng = np.random.default_rng(3)
    kinds = np.repeat([[0.0, 0, 1000], [5.0, 1, 0]], 6, axis=0)
    known = slates_of(kinds + 0.01 * rng.random(kinds.shape))
    target = slates_of(np.array([[5.0, 1, 3]]))
    assert nearest(known, target, 6).tolist() == [6, 7, 8, 9, 10, 11]
    assert nearest(known, target, 12).tolist() == list(range(12))


@pytest.mark.parametrize("count", [0, 13])
def test_no_more_graphs_than_there_are(count: int) -> None:
    known = slates_of(np.random.default_rng(4).random((12, 3)))
    with pytest.raises(UsageError, match=f"got {count}, want a number of training graphs from 1 to 12"):
        nearest(known, known.take([0]), count)


def test_the_target_is_one_graph_with_the_same_columns() -> None:
    known = slates_of(np.random.default_rng(5).random((12, 3)))
    with pytest.raises(UsageError, match="want one target graph"):
        nearest(known, known.take([0, 1]), 3)
    with pytest.raises(UsageError, match="with the columns of the training graphs"):
        nearest(known, slates_of(np.ones((1, 2))), 3)
