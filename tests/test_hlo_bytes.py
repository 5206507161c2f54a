"""gbr.data.hlo against bytes that are no HLO, and against HLO that is damaged."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.data.hlo import graph_arrays, read_module
from gbr.data.hlo.wire import MAX_DEPTH
from gbr.errors import HloError
from tests.damage import damaged_bytes
from tests.hlo_modules import (
    DATA,
    LAYOUTS,
    SMALL,
    TILES,
    TUPLE,
    assert_same,
    computation,
    data,
    feat,
    instruction,
    module,
    refusal,
    shape,
    small,
    survives,
)
from tests.reference_hlo import message, number


def nested_tuple(depth: int) -> bytes:
    body = message((2, TUPLE))
    for _ in range(depth):
        body = message((2, TUPLE), (4, body))
    return body


def test_a_tuple_counts_its_own_parts_only():
    inner = message((2, TUPLE), (4, shape([2])), (4, shape([3])), (4, shape([4])))
    arrays = graph_arrays(small(instruction(1, "tuple", of=message((2, TUPLE), (4, inner), (4, shape([2]))))))
    assert feat(arrays, 0, "shape_tuple_shapes_size", "shape_element_type_is_tuple") == [2, 1]


def test_nesting_is_limited():
    # module, computation and instruction are three messages around the shape
    assert len(read_module(small(instruction(1, of=nested_tuple(MAX_DEPTH - 3))))) == 1
    with pytest.raises(HloError, match=r"ShapeProto at byte .*nested more than 100 deep"):
        read_module(small(instruction(1, of=nested_tuple(MAX_DEPTH - 2))))
    with pytest.raises(HloError, match="nested more than 100 deep"):
        read_module(small(instruction(1, of=nested_tuple(3000))))


@pytest.mark.parametrize(
    ("pb", "fault"),
    [
        (b"", "got an empty file"),
        ((DATA / "matmul.hlo.txt").read_bytes(), "got HLO as text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "HLO protobuf"),
        (b"PK\x03\x04" + bytes(26), "HLO protobuf"),
        (b"\x80" * 9, "the bytes end at 9 inside a number"),
        (b"\x80" * 11, "more than 64 bits"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x00\x00", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x09" + bytes(7), "8 bytes wanted at byte 1, 7 left"),
        (b"\x0d" + bytes(3), "4 bytes wanted at byte 1, 3 left"),
        (b"\x0a" + number(1 << 62), f"{1 << 62} bytes announced at byte 1, 0 left"),
        (message((1, "name"), (5, 3)), "bytes without an HLO module"),
        (module(entry=0)[:-2] + message((3, b"")), "computation '': no instruction has the root's id 0"),
        (message((2, "main"), (3, 7), (6, 1)), "bytes without an HLO module"),
        (message((3, 7), (3, b""), (6, 1)), "bytes without an HLO module"),
        (message((3, b""), (3, 7), (6, 1)), "HloModuleProto.computations at byte .* is varint, not length-delimited"),
        (message((1, b"\xff"), (3, b""), (6, 1)), "HloModuleProto.name at byte 2 is not UTF-8"),
        (message((3, b""), (6, b"1")), "bytes without an HLO module"),
        (
            message((2, "main"), (3, b""), (6, b"1")),
            "HloModuleProto.entry_id at byte .* is length-delimited, not varint",
        ),
        (small(message((2, "x"), (3, shape()), (3, shape()), (35, 1))), "HloInstructionProto.shape at byte .* twice"),
        (small(instruction(1), root=2), "no instruction has the root's id 2"),
        (module(computation(1, instruction(1), root=1), entry=2), "no computation has the entry's id 2"),
        (module(*[computation(1, instruction(1), root=1)] * 2), "two computations have id 1"),
        (small(instruction(1), instruction(1)), "instruction 'parameter.1': id 1 is taken by an earlier instruction"),
        (small(instruction(1, "add", [1])), "operand with id 1 is not before it"),
        (small(instruction(1, "add", [2]), instruction(2, "add", [1])), "operand with id 2 is not before it .cycle"),
        (small(instruction(1, "add", [3])), "instruction 'add.1': operand with id 3 does not exist"),
        (small(instruction(1, "add", [-3])), "operand with id -3 does not exist"),
        (small(instruction(1, "call", [], (38, [1]))), "calls computation 1, which is not among those before it"),
        (small(instruction(1, "call", [], (38, [9]))), "calls computation 9, which is not among those before it"),
        (small(instruction(1, of=shape([3, -(1 << 63)]))), "a dimension has no bound"),
        (small(instruction(1, of=shape([3, 4], order=[0, 2]))), r"layout \[0, 2\] does not fit its 2 dimensions"),
        (small(instruction(1, of=shape([3, 4], order=[1, 1]))), r"layout \[1, 1\] does not fit its 2 dimensions"),
        (small(instruction(1, of=shape([3], order=[-1]))), r"layout \[-1\] does not fit its 1 dimensions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bytes_that_are_no_hlo_say_why(pb, fault):
    with pytest.raises(HloError, match=fault) as caught:
        graph_arrays(pb)
    assert "\n" not in str(caught.value)


def test_a_module_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("gbr.data.hlo.module.MAX_INSTRUCTIONS", 1)
    with pytest.raises(HloError, match="has 2 instructions; at most 1 are read"):
        read_module(SMALL)


def test_only_bytes_are_read():
    with pytest.raises(HloError, match="got str, wanted bytes"):
        graph_arrays("HloModule m")  # type: ignore[arg-type]


@pytest.mark.parametrize("pb", [data("conv_grad"), SMALL], ids=["conv_grad", "small"])
def test_every_prefix_is_refused_unless_only_trailing_fields_are_missing(pb):
    whole = graph_arrays(pb)
    readable = [size for size in range(len(pb)) if not refusal(pb[:size])]
    for size in readable:
        assert_same(graph_arrays(pb[:size]), whole)
    # Behind the entry's id a module has fields that no graph needs (aliasing, sharding, source positions).
    assert len(readable) <= 6


MUTABLE = [data("matmul"), data("softmax"), SMALL, TILES, LAYOUTS, message((1, TILES))]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MUTABLE), st.randoms(use_true_random=False))
def test_mutated_bytes_are_read_or_refused(pb: bytes, choice: random.Random):
    survives(damaged_bytes(pb, choice))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(junk: bytes):
    survives(junk)


def test_time_grows_with_the_module_not_with_its_square():
    # 30,000 instructions, one of them with 10,000 operands: half a second; a quadratic step would take minutes.
    body = [instruction(1)]
    body += [instruction(at, "add", [at - 1, max(1, at - 7)]) for at in range(2, 30_000)]
    body.append(instruction(30_000, "tuple", list(range(1, 10_000))))
    pb = small(*body, root=30_000)
    start = time.process_time()
    arrays = graph_arrays(pb)
    assert time.process_time() - start < 15
    assert arrays["node_feat"].shape == (30_000, 140)
    assert len(arrays["edge_index"]) == 1 + 29_997 * 2 + 9_999
