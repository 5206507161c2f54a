from __future__ import annotations

import numpy as np
import pytest

from features.layout.rows import KnownRows, RowTable

#: More nodes than are looked up at a time, and not a multiple of them.
NODES = 131


def slate(n_configs: int, seed: int) -> np.ndarray:
    """Every node takes one of a few rows; some differ from others in one slot alone."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 6, (NODES, 6, 18)).astype(np.int8)
    rows[:, 3:] = rows[:, :1]
    rows[np.arange(NODES), 3, np.arange(NODES) % 18] = rng.integers(-1, 6, NODES)
    return rows[np.arange(NODES), rng.integers(0, 6, (n_configs, NODES))]


def numbered(configs: np.ndarray) -> np.ndarray:
    """The obvious twin: rows by node and bytes, in order of appearance."""
    seen: dict[tuple[int, bytes], int] = {}
    return np.array(
        [[seen.setdefault((node, row.tobytes()), len(seen)) for node, row in enumerate(own)] for own in configs]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_rows_are_numbered_in_order_of_appearance(dtype: type) -> None:
    configs = slate(100, seed=3)
    wanted = numbered(configs)
    table = RowTable(NODES)
    found = [table.encode(configs[first : first + 45].astype(dtype)) for first in range(0, 100, 45)]
    np.testing.assert_array_equal(np.concatenate([codes for codes, _ in found]), wanted)
    np.testing.assert_array_equal(table.counts, np.bincount(wanted.reshape(-1)))
    again, digests = table.encode(configs.astype(dtype))  # all rows are known by now
    np.testing.assert_array_equal(again, wanted)
    np.testing.assert_array_equal(digests, np.concatenate([digests for _, digests in found]))


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("node", [0, 63, 64, 130])
def test_configurations_before_an_unknown_row_are_coded(dtype: type, node: int) -> None:
    configs = np.repeat(slate(1, seed=5), 9, axis=0)
    known = KnownRows(NODES)
    known.learn(configs[0], np.arange(NODES))
    codes = np.empty((9, NODES), np.uint32)
    assert known.lookup(configs.astype(dtype), codes) == 9
    np.testing.assert_array_equal(codes, np.broadcast_to(np.arange(NODES), codes.shape))
    for slot in range(18):
        other = configs.copy()
        other[6, node, slot] = (other[6, node, slot] + 2) % 6
        assert known.lookup(other.astype(dtype), codes) == 6


@pytest.mark.parametrize("value", [6, 7, -2, -9, 0.5, 1e-30, 4194304, 2.0**31, 1e30, np.nan, np.inf, -np.inf])
def test_what_is_no_layout_is_not_taken_for_a_known_row(value: float) -> None:
    for proper in (-1, 2, 5):  # whose bits it must not resemble
        configs = np.full((3, NODES, 18), proper, np.float32)
        table = RowTable(NODES)
        table.encode(configs)
        for node, slot in ((0, 0), (64, 7), (130, 17)):
            wrong = configs.copy()
            wrong[1, node, slot] = value
            with pytest.raises(ValueError, match="configuration 1 has a value that is no whole number in -1 to 5"):
                table.encode(wrong)
            if value in (6, 7, -2, -9):
                with pytest.raises(ValueError, match="configuration 1 has a value that is no whole number in -1 to 5"):
                    table.encode(wrong.astype(np.int8))
