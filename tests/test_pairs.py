"""What is looked up for pairs of rows against what is worked out configuration by configuration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import _made_layout
from features.layout import copies
from features.layout.copies import (
    COLUMNS,
    DISAGREEMENTS,
    N_OWN_COPIES,
    CopyCounter,
    Places,
    Traffic,
    order_states,
    weights,
)
from features.layout.extractor import LayoutExtractor
from features.layout.metagraph import links
from features.layout.nodes import configurable_nodes, row_values
from features.layout.rows import RowTable
from features.tensors import Tensors

PROGRAM, IDS = _made_layout.network(600)
TENSORS = Tensors.of(PROGRAM)
NODES = configurable_nodes(PROGRAM, TENSORS, IDS)
LINKS = links(PROGRAM, TENSORS, NODES)


@given(seed=st.integers(0, 2**32 - 1), n_configs=st.integers(1, 70))
@settings(max_examples=8, deadline=None)
def test_looking_pairs_up_gives_the_very_same_columns(seed: int, n_configs: int) -> None:
    rng = np.random.default_rng(seed)
    table, places = RowTable(len(NODES)), Places(len(NODES))
    counter, copied = CopyCounter(LINKS), Traffic(NODES, LINKS)
    slate = _made_layout.Slate(PROGRAM, IDS, rng)
    for _ in range(2):  # the second time some rows are known, and others are not
        codes, _ = table.encode(slate.draw(n_configs))
        for rows, owner in table.discovered():
            copied.add(rows, owner)
            places.add(owner)
    states = order_states(row_values(NODES, table.rows, table.owner))
    own = rng.random((n_configs, 3, N_OWN_COPIES))
    columns, turned = np.ascontiguousarray(codes.T), places.turned(codes)
    wanted, found = (np.empty((n_configs, len(DISAGREEMENTS)), np.float32) for _ in range(2))
    counter.count(columns, states, wanted)
    told = counter.tabulate(states, places)
    assert told is not None
    counter.count_pairs(turned, told, found)
    assert (found == wanted).all()
    wanted, found = (np.empty((n_configs, len(COLUMNS)), np.float32) for _ in range(2))
    copied.write(columns, own, wanted)
    told = copied.tabulate(places)
    assert told is not None
    copied.write_pairs(turned, told, own, found)
    assert (found == wanted).all()


def test_without_tables_a_slate_has_the_very_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = _made_layout.Slate(PROGRAM, IDS, np.random.default_rng(0)).draw(20)
    wanted = LayoutExtractor(PROGRAM, IDS).vectors(configs)
    monkeypatch.setattr(copies, "_MOST_PAIRS", 0)
    assert (LayoutExtractor(PROGRAM, IDS).vectors(configs) == wanted).all()


def test_weights_are_whole_multiples_of_their_unit() -> None:
    units = weights(np.arange(1, 5000)).astype(np.float32).astype(np.float64) * copies._WEIGHT_UNITS
    assert (units == np.round(units)).all()
    assert units.max() * copies._MOST_ALIKE < 2.0 ** (63 - copies._FIELDS)


def test_places_number_the_rows_of_each_node() -> None:
    places = Places(3)
    places.add(np.array([1, 0, 1], np.int64))
    places.add(np.array([2, 1], np.int64))
    assert places.rows.tolist() == [1, 0, 2, 4, 3]
    assert places.first.tolist() == [0, 1, 4, 5]
    assert places.turned(np.array([[1, 4, 3], [1, 2, 3]], np.uint32)).tolist() == [[0, 0], [2, 1], [0, 0]]
    told = places.pairs(np.array([[0, 1], [1, 1]], np.int64))
    assert told is not None
    assert told.first.tolist() == [0, 3, 12]
    assert told.width.tolist() == [3, 3]


def test_no_table_where_a_byte_or_the_room_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(2)
    places.add(np.zeros(256, np.int64))
    places.add(np.ones(2, np.int64))
    assert places.pairs(np.array([[0, 1]], np.int64)) is not None
    monkeypatch.setattr(copies, "_MOST_PAIRS", 511)
    assert places.pairs(np.array([[0, 1]], np.int64)) is None
    monkeypatch.undo()
    places.add(np.zeros(1, np.int64))
    assert not places.told
    assert places.pairs(np.array([[1, 1]], np.int64)) is None
