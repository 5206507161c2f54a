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
    groups = make([3, 1, 2])
    assert groups.sizes.tolist() == [3, 1, 2]
    assert groups.qid.tolist() == [0, 0, 0, 1, 2, 2]
    assert groups.qid.dtype == np.int64
    assert len(groups) == 3
    assert groups.rows(2) == slice(4, 6)


def test_the_target_is_runtime_divided_by_normalizer() -> None:
    runtime = np.array([2**53 - 1, 10, 30, 7])
    groups = make([2, 2], runtime=runtime, normalizer=np.array([1, 4, 0, 0]))
    assert groups.target.tolist() == [2.0**53 - 1, 2.5, 30.0, 7.0]
    assert groups.target.dtype == np.float64
    assert make([2, 2], runtime=runtime, normalizer=None).target.tolist() == runtime.tolist()


def test_groups_without_runtimes_have_no_target() -> None:
    runtime = np.array([5, 6, 0, 0, 0, 8])
    groups = make([2, 3, 1], runtime=runtime)
    assert groups.is_labelled.tolist() == [True, False, True]
    with pytest.raises(DataError, match=r"1 of 3 graphs have no measured runtimes \(first: g1\)"):
        _ = groups.target
    labelled = groups.labelled()
    assert labelled.names == ("g0", "g2")
    assert labelled.runtime is not None
    assert labelled.runtime.tolist() == [5, 6, 8]
    assert labelled.labelled() is labelled
    none = make([2, 1], runtime=None)
    with pytest.raises(DataError, match="2 of 2 graphs have no measured runtimes"):
        _ = none.target
    assert len(none.labelled()) == 0


@pytest.mark.parametrize("picked", [[2, 0], [1], [0, 1, 2, 3], [1, 2], [3, 3], [], [3, 1, 2]])
def test_take_copies_the_rows_of_each_group(picked: list[int]) -> None:
    groups = make([3, 1, 2, 4], repeat=np.arange(10))
    taken = groups.take(picked)
    assert taken.names == tuple(groups.names[number] for number in picked)
    assert taken.sizes.tolist() == [int(groups.sizes[number]) for number in picked]
    for index, number in enumerate(picked):
        for name in ("X", "runtime", "normalizer", "repeat", "duplicate_of"):
            np.testing.assert_array_equal(
                getattr(taken, name)[taken.rows(index)], getattr(groups, name)[groups.rows(number)]
            )
    mask = np.isin(np.arange(4), picked)
    np.testing.assert_array_equal(groups.take(mask).X, groups.take(sorted(set(picked))).X)


def test_consecutive_groups_are_views() -> None:
    groups = make([3, 2, 4])
    assert np.shares_memory(groups.take([1, 2]).X, groups.X)
    assert not np.shares_memory(groups.take([2, 1]).X, groups.X)


@pytest.mark.parametrize(
    ("picked", "message"),
    [([3], "expected indices from 0 to 2, got 3"), ([0, -1], "got -1"), ([True, False], r"shape \(3,\), got \(2,\)")],
)
def test_take_refuses_indices_out_of_range(picked: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make([1, 1, 1]).take(picked)


def test_columns_are_selected_by_name_and_by_block() -> None:
    groups = make([2, 1])
    assert groups.select(COLUMNS) is groups
    chosen = groups.select(["nodes", "config.b"])
    assert chosen.columns == ("config.b", "nodes.a", "nodes.mean.a")
    np.testing.assert_array_equal(chosen.X, groups.X[:, 1:4])
    assert column_indices(COLUMNS, "nodes").tolist() == [2, 3]
    assert column_indices(COLUMNS, "nodes.mean").tolist() == [3]
    assert column_indices(COLUMNS, "mean").tolist() == []
    assert block_names(COLUMNS) == ("config", "nodes", "nodesque")
    with pytest.raises(UsageError, match="'node' is neither a column nor a block; blocks are config, nodes, nodesque"):
        groups.select(["config", "node"])
