from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gbr.data.groups import QueryGroups, block_names, column_indices
from gbr.errors import DataError, UsageError

COLUMNS = ("config.a", "config.b", "nodes.a", "nodes.mean.a", "nodesque.a")


def make(sizes: list[int], seed: int = 0, **changes: Any) -> QueryGroups:
    rng = np.random.default_rng(seed)
    rows = sum(sizes)
    values: dict[str, Any] = {
        "names": tuple(f"g{number}" for number in range(len(sizes))),
        "indptr": np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        "columns": COLUMNS,
        "X": rng.normal(size=(rows, len(COLUMNS))).astype(np.float32),
        "runtime": rng.integers(1, 100, rows),
        "normalizer": rng.integers(1, 9, rows),
        "repeat": None,
        "duplicate_of": np.concatenate([np.arange(size) for size in sizes]).astype(np.int64),
    }
    return QueryGroups(**(values | changes))


def test_sizes_and_qid_follow_indptr() -> None:
    slates = make([3, 0, 2])
    assert slates.sizes.tolist() == [3, 0, 2]
    assert slates.qid.tolist() == [0, 0, 0, 2, 2]
    assert slates.qid.dtype == np.int64
    assert len(slates) == 3
    assert slates.rows(2) == slice(3, 5)


def test_the_target_is_the_normalized_runtime_where_there_is_a_normalizer() -> None:
    runtime = np.array([2**53 - 1, 10, 30, 7])
    slates = make([2, 2], runtime=runtime, normalizer=np.array([1, 4, 0, 0]))
    assert slates.target.tolist() == [2.0**53 - 1, 2.5, 30.0, 7.0]
    assert slates.target.dtype == np.float64
    assert make([2, 2], runtime=runtime, normalizer=None).target.tolist() == runtime.tolist()


def test_a_slate_without_runtimes_is_never_a_target() -> None:
    runtime = np.array([5, 6, 0, 0, 0, 8])
    slates = make([2, 3, 1], runtime=runtime)
    assert slates.is_labelled.tolist() == [True, False, True]
    with pytest.raises(DataError, match=r"1 of 3 graphs have no measured runtimes \(first: g1\)"):
        _ = slates.target
    labelled = slates.labelled()
    assert labelled.names == ("g0", "g2")
    assert labelled.runtime is not None
    assert labelled.runtime.tolist() == [5, 6, 8]
    assert labelled.labelled() is labelled
    none = make([2, 1], runtime=None)
    with pytest.raises(DataError, match="2 of 2 graphs have no measured runtimes"):
        _ = none.target
    assert len(none.labelled()) == 0


@pytest.mark.parametrize("picked", [[2, 0], [1], [0, 1, 2, 3], [1, 2], [3, 3], [], [3, 1, 2]])
def test_take_is_row_by_row_the_slates_picked(picked: list[int]) -> None:
    slates = make([3, 0, 2, 4], repeat=np.arange(9))
    taken = slates.take(picked)
    assert taken.names == tuple(slates.names[number] for number in picked)
    assert taken.sizes.tolist() == [int(slates.sizes[number]) for number in picked]
    for place, number in enumerate(picked):
        for name in ("X", "runtime", "normalizer", "repeat", "duplicate_of"):
            np.testing.assert_array_equal(
                getattr(taken, name)[taken.rows(place)], getattr(slates, name)[slates.rows(number)]
            )
    mask = np.isin(np.arange(4), picked)
    np.testing.assert_array_equal(slates.take(mask).X, slates.take(sorted(set(picked))).X)


def test_neighbours_are_taken_without_a_copy() -> None:
    slates = make([3, 2, 4])
    assert np.shares_memory(slates.take([1, 2]).X, slates.X)
    assert not np.shares_memory(slates.take([2, 1]).X, slates.X)


@pytest.mark.parametrize("picked", [[3], [-1], [0, 7]])
def test_take_refuses_slates_that_are_not_there(picked: list[int]) -> None:
    with pytest.raises(UsageError, match=r"slates: number (3|-1|7) of 3; want 0 to 2"):
        make([1, 1, 1]).take(picked)


def test_take_refuses_a_mask_of_another_length() -> None:
    with pytest.raises(UsageError, match=r"mask of shape \(2,\), want \(3,\)"):
        make([1, 1, 1]).take([True, False])


def test_select_takes_columns_and_blocks_in_their_present_order() -> None:
    slates = make([2, 2])
    chosen = slates.select(["nodes", "config.b"])
    assert chosen.columns == ("config.b", "nodes.a", "nodes.mean.a")
    np.testing.assert_array_equal(chosen.X, slates.X[:, [1, 2, 3]])
    assert chosen.runtime is slates.runtime
    assert slates.select("config").columns == ("config.a", "config.b")
    assert slates.select(COLUMNS) is slates
    assert slates.select([]).X.shape == (4, 0)


def test_select_refuses_what_is_neither() -> None:
    with pytest.raises(
        UsageError, match="columns: 'node' is neither a column nor a block; blocks are config, nodes, nodes"
    ):
        make([2]).select(["config", "node"])


def test_names_of_blocks() -> None:
    assert block_names(COLUMNS) == ("config", "nodes", "nodesque")
    assert column_indices(COLUMNS, "nodes").tolist() == [2, 3]
    assert column_indices(COLUMNS, "nodes.mean").tolist() == [3]
    assert column_indices(COLUMNS, "nodes.a").tolist() == [2]
    assert column_indices(COLUMNS, "mean").tolist() == []
