"""The cache model against its slow twin, by counting lines, and at its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hardware import CPU, PROFILES, TPU, Cache, Hardware
from features.tensors import Tensors
from features.tile.cpu import BLOCK, CacheModel
from features.tile.geometry import Geometry
from features.tile.loops import LoopNest, loop_nest
from features.tile.operands import loop_slots
from tests import programs, reference, reference_caches_numpy

SMALL = Hardware("small", 16, 16, (Cache(256, 2), Cache(1024, 4)))
NAMES = [column.name for column in BLOCK.columns]


def model(name: str, hardware: Hardware) -> tuple[CacheModel, LoopNest, Tensors]:
    program = programs.KERNELS[name]
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    return CacheModel(Geometry(nest, tensors, slots), slots, hardware), nest, tensors


@pytest.mark.parametrize("hardware", [SMALL, CPU, TPU], ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", programs.KERNELS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_columns_are_those_of_the_twin(name: str, hardware: Hardware, data: st.DataObject) -> None:
    caches, nest, tensors = model(name, hardware)
    tiles = np.array([[data.draw(st.integers(1, int(extent))) for extent in nest.extents] for _ in range(2)], np.int64)
    orders = [list(order) for order in caches.sequences]
    wanted = reference.cache_columns(nest, tensors, tiles, hardware, orders)
    np.testing.assert_allclose(caches(tiles), wanted, rtol=1e-4, atol=1e-4)
    at_once = reference_caches_numpy.cache_columns(nest, tensors, tiles, hardware, orders)
    np.testing.assert_allclose(at_once, wanted, rtol=1e-9, atol=1e-9)


def test_a_cache_that_holds_everything_fetches_every_line_once() -> None:
    caches, nest, _ = model("matmul", Hardware("huge", 64, 4, (Cache(1 << 20, 0),)))
    tiles = np.array([[3, 5, 2], [12, 20, 7]], np.int64)
    rows = caches(tiles)
    lines = 12 * 7 + 7 * 20 + 12 * 20  # a line holds one element
    for order in ("fast", "left", "out"):
        misses = (2.0 ** rows[:, NAMES.index(f"{order}.L1.misses")] - 1) / 1000 * float(np.prod(nest.extents))
        np.testing.assert_allclose(misses, lines, rtol=1e-4)


def test_a_blocked_transpose_misses_less_than_an_unblocked_one() -> None:
    program = programs.transpose((512, 512), (1, 0))
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    rows = CacheModel(Geometry(nest, tensors, slots), slots, CPU)(np.array([[512, 512], [8, 8]], np.int64))
    misses = rows[:, NAMES.index("out.L1.misses")]
    assert misses[1] < misses[0] - 2


def test_strides_of_large_powers_of_two_collide() -> None:
    conflict = {}
    for columns in (1024, 1040):
        program = programs.transpose((64, columns), (1, 0))
        tensors = Tensors.of(program)
        nest = loop_nest(program, tensors)
        slots = loop_slots(nest, tensors)
        row = CacheModel(Geometry(nest, tensors, slots), slots, CPU)(np.array([[16, 64]], np.int64))[0]
        conflict[columns] = row[NAMES.index("conflict")]
    assert conflict[1024] > conflict[1040] + 1


def test_profiles_are_named_and_checked() -> None:
    assert set(PROFILES) == {"cpu", "tpu"}
    with pytest.raises(ValueError, match="sizes must be positive"):
        Hardware("none", 32, 64, ())
    with pytest.raises(ValueError, match="sizes must be positive"):
        Hardware("zero", 32, 0, (Cache(1, 1),))
