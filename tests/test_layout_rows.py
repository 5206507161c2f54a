"""The row table against a dictionary of rows in order of appearance."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.layout.rows import RowTable, first_equal

#: More nodes than are looked up at a time, and not a multiple of them.
NODES = 131


def random_configs(n_configs: int, n_nodes: int, seed: int) -> np.ndarray:
    """Every node takes one of a few rows; some differ from others in a single slot."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 6, (n_nodes, 6, 18)).astype(np.int8)
    rows[:, 3:] = rows[:, :1]
    rows[np.arange(n_nodes), 3, np.arange(n_nodes) % 18] = rng.integers(-1, 6, n_nodes)
    return rows[np.arange(n_nodes), rng.integers(0, 6, (n_configs, n_nodes))]


def codes_of(configs: np.ndarray) -> np.ndarray:
    """The naive twin: rows by node and bytes, in order of appearance."""
    seen: dict[tuple[int, bytes], int] = {}
    return np.array(
        [[seen.setdefault((node, row.tobytes()), len(seen)) for node, row in enumerate(config)] for config in configs]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@given(seed=st.integers(0, 2**32 - 1), n_nodes=st.sampled_from([1, 5, 64, NODES]), block=st.integers(1, 45))
@settings(max_examples=8, deadline=None)
def test_rows_are_numbered_in_order_of_appearance(dtype: type, seed: int, n_nodes: int, block: int) -> None:
    configs = random_configs(60, n_nodes, seed)
    expected = codes_of(configs)
    table = RowTable(n_nodes)
    found = [table.encode(configs[first : first + block].astype(dtype)) for first in range(0, 60, block)]
    codes, digests = (np.concatenate(parts) for parts in zip(*found, strict=True))
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(table.counts, np.bincount(expected.reshape(-1)))
    np.testing.assert_array_equal(table.rows[codes], configs)
    np.testing.assert_array_equal(table.owner[codes], np.broadcast_to(np.arange(n_nodes), codes.shape))
    _, first, inverse = np.unique(expected, axis=0, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(first_equal(digests), first[inverse.reshape(-1)])
    np.testing.assert_array_equal(table.since(5)[0], table.rows[5:])
    again, digests_again = table.encode(configs.astype(dtype))  # all rows are known by now
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(digests_again, digests)


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("node", [0, 63, 64, 130])
def test_a_difference_in_any_slot_makes_a_new_row(dtype: type, node: int) -> None:
    configs = np.repeat(random_configs(1, NODES, 5), 9, axis=0).astype(dtype)
    table = RowTable(NODES)
    table.encode(configs)
    for slot in range(18):
        other = configs.copy()
        other[6, node, slot] = (other[6, node, slot] + 2) % 6
        assert table.encode(other)[0][:, node].tolist() == [node] * 6 + [NODES + slot] + [node] * 2


def test_the_table_grows() -> None:
    everything = np.array([order + (-1,) * 12 for order in permutations(range(6))] * 2, np.int8)[:, None, :]
    everything[720:, 0, 12] = 0
    assert RowTable(1).encode(everything)[0][:, 0].tolist() == list(range(1440))


def test_values_that_compare_equal_are_one_row() -> None:
    configs = np.full((4, 5, 18), -1, np.float32)
    configs[1:, 0, 0] = 0
    configs[2, 0, 0] = -0.0
    configs[3, 1, 1] = 3
    table = RowTable(5)
    codes, digests = table.encode(configs)
    assert codes[1].tolist() == codes[2].tolist()
    assert first_equal(digests).tolist() == [0, 1, 1, 3]
    np.testing.assert_array_equal(table.encode(configs.astype(np.int8))[0], codes)


@pytest.mark.parametrize("value", [6, 7, -2, -9, 0.5, 1e-30, 4194304, 2.0**31, 1e30, np.nan, np.inf, -np.inf])
def test_invalid_values_are_refused(value: float) -> None:
    for proper in (-1, 2, 5):  # whose bits it must not resemble
        configs = np.full((3, NODES, 18), proper, np.float32)
        table = RowTable(NODES)
        table.encode(configs)
        for node, slot in ((0, 0), (64, 7), (130, 17)):
            wrong = configs.copy()
            wrong[1, node, slot] = value
            dtypes = (np.float32, np.int8) if value in (6, 7, -2, -9) else (np.float32,)
            for dtype in dtypes:
                with pytest.raises(ValueError, match="configuration 1: expected integers from -1 to 5"):
                    table.encode(wrong.astype(dtype))
