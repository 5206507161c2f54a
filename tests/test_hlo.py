"""gbr.data.hlo and gbr.data.protobuf against Google's own arrays, against HLO text, and on damaged bytes."""

from __future__ import annotations

import importlib.util
import os
import time
from contextlib import suppress

import numpy as np
import pytest

from features.hlo import FEAT_ID, OPCODE_ID
from gbr.data.hlo import graph_arrays, read_module
from gbr.data.protobuf import MAX_DEPTH, decode
from gbr.errors import HloError
from tests.reference_hlo import (
    DATA,
    SMALL,
    TUPLE,
    assert_same,
    computation,
    data,
    feat,
    instruction,
    message,
    module,
    naive_encode,
    number,
    shape,
    small,
)
from tests.tuning import Tuning, read_tuning

PROGRAMS = ("conv_grad", "depthwise", "loops", "matmul", "odds", "softmax")


def test_unet_is_encoded_exactly_as_in_tpugraphs(shared_data):
    with np.load(shared_data / "npz/layout/xla/default/valid/unet_3d.4x4.bf16.npz") as archive:
        expected = {name: archive[name] for name in archive.files}
    pb = (shared_data / "pb/module_tuning_data_layout.pb").read_bytes()
    graph = ("node_opcode", "node_feat", "edge_index", "node_splits", "node_config_ids")
    assert_same(graph_arrays(pb), {key: expected[key] for key in graph})
    tuning = decode(Tuning, pb)
    assert list(tuning.node_config_ids) == expected["node_config_ids"].tolist()
    assert (len(tuning.runs), int(tuning.measured.sum())) == (122, 112)
    # The .npz holds many more runs; each measured run of the protobuf is among them, with its runtime.
    configs = expected["node_config_feat"].astype(np.int8)
    known = {(config.tobytes(), int(time)) for config, time in zip(configs, expected["config_runtime"], strict=True)}
    found = zip(tuning.config[tuning.measured], tuning.runtime[tuning.measured], strict=True)
    assert all((config.tobytes(), int(time)) in known for config, time in found)


def test_tile_kernels_of_tpugraphs(shared_data):
    pb = (shared_data / "pb/op_tuning_data.pb").read_bytes()
    tunings = read_tuning(pb)
    assert [len(tuning.runs) for tuning in tunings] == [61, 581, 16, 16, 16, 23, 10, 11, 5, 3, 3, 2, 3, 2, 2]
    assert sum(int(tuning.measured.sum()) for tuning in tunings) == 752
    assert tunings[1].config[0].tolist() == [
        3, 1, 24, 3, 0, 0, 31, 216, 12, 4, 4, 3, 0, 0, 23, 576, *[0] * 8
    ]  # fmt: skip
    with pytest.raises(HloError, match="no HLO module"):
        read_module(pb)


@pytest.mark.parametrize("name", PROGRAMS)
def test_modules_of_jax_agree_with_their_text(name):
    assert_same(graph_arrays(data(name)), naive_encode((DATA / f"{name}.hlo.txt").read_text(encoding="utf-8")))


def test_modules_of_the_installed_jax_agree_with_their_text():
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    pytest.importorskip("jax", reason="JAX comes with gbr[collect]")
    spec = importlib.util.spec_from_file_location("make_hlo", DATA / "make_hlo.py")
    assert spec is not None
    assert spec.loader is not None
    make_hlo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_hlo)
    assert tuple(sorted(program.__name__ for program in make_hlo.PROGRAMS)) == PROGRAMS
    for program in make_hlo.PROGRAMS:
        pb, text = make_hlo.lower(program)
        assert_same(graph_arrays(pb), naive_encode(text))


def test_matmul_by_hand():
    arrays = graph_arrays(data("matmul"))
    opcodes = "parameter parameter transpose dot reshape".split()
    assert arrays["node_opcode"].tolist() == [OPCODE_ID[name] for name in opcodes]
    assert arrays["edge_index"].tolist() == [[2, 1], [3, 0], [3, 2], [4, 3]]
    assert arrays["node_splits"].tolist() == [[0, 5]]
    assert arrays["node_config_ids"].tolist() == [3, 4]
    dims = [f"shape_dimensions_{part}" for part in (0, 1, 2, "sum", "product")]
    assert [feat(arrays, node, *dims) for node in range(5)] == [
        [4, 16, 0, 20, 64],
        [8, 16, 0, 24, 128],
        [16, 8, 0, 24, 128],
        [4, 8, 0, 12, 32],
        [2, 16, 0, 18, 32],
    ]
    assert feat(arrays, 2, "dimensions_0", "dimensions_1", "layout_minor_to_major_0", "layout_minor_to_major_1") == [
        1, 0, 0, 1,
    ]  # fmt: skip
    assert arrays["node_feat"][:, FEAT_ID["is_root"]].tolist() == [0, 0, 0, 0, 1]
    assert arrays["node_feat"][:, FEAT_ID["parameter_number"]].tolist() == [0, 1, 0, 0, 0]
    assert arrays["node_feat"][:, FEAT_ID["shape_element_type_is_bf16"]].tolist() == [1] * 5


def test_ids_need_to_differ_within_a_computation_only():
    high = 3 << 32
    region = computation(5, instruction(1), instruction(high | 2), instruction(3, "add", [1, high | 2]), root=3)
    entry = computation(8, instruction(1), instruction(2, "reduce", [1], (38, [5])), root=2)
    arrays = graph_arrays(module(region, entry, entry=8))
    assert arrays["edge_index"].tolist() == [[2, 0], [2, 1], [4, 2], [4, 3]]
    assert arrays["node_feat"][:, FEAT_ID["is_root"]].tolist() == [0, 0, 1, 0, 1]


def test_an_operand_taken_twice_and_a_computation_called_twice_are_one_edge():
    branch = computation(2, instruction(1), root=1)
    entry = computation(4, instruction(5), instruction(6, "conditional", [5, 5, 5], (38, [2, 2])), root=6)
    assert graph_arrays(module(branch, entry, entry=4))["edge_index"].tolist() == [[2, 0], [2, 1]]


def test_repeated_numbers_may_be_packed_or_not():
    loose = message((2, "add"), (3, shape([2])), (35, 9), (36, 1), (36, 2))
    packed = message((2, "add"), (3, shape([2])), (35, 9), (36, [1, 2]))
    assert_same(
        graph_arrays(small(instruction(1), instruction(2), loose, root=9)),
        graph_arrays(small(instruction(1), instruction(2), packed, root=9)),
    )


def test_splits_follow_the_names_of_computations():
    names = ("region_0", "while_body.1", "fused_computation", "second_cond.2", "main")
    parts = [computation(at + 1, instruction(1), root=1, name=name) for at, name in enumerate(names)]
    assert graph_arrays(module(*parts, entry=5))["node_splits"].tolist() == [[0, 2, 4, 5]]
    assert graph_arrays(module(*parts[:2], entry=2))["node_splits"].tolist() == [[0, 2]]


def test_nodes_inside_fusions_are_not_configurable():
    def reshaping(id_: int, *more: bytes) -> bytes:
        return computation(id_, instruction(1), instruction(2, "reshape", [1]), *more, root=2)

    deep, middle, called = reshaping(1), reshaping(2, instruction(3, "call", [], (38, [1]))), reshaping(3)
    entry = computation(
        4,
        instruction(1),
        instruction(2, "fusion", [1], (38, [2])),
        instruction(3, "call", [1], (38, [3])),
        instruction(4, "dot", [2, 3]),
        root=4,
    )
    assert graph_arrays(module(deep, middle, called, entry, entry=4))["node_config_ids"].tolist() == [6, 10]


def test_numbers_round_once_and_products_wrap_as_in_64_bits():
    big = (1 << 53) + (1 << 29) + 1  # to float64 first, this would round to even at float32: one too low
    arrays = graph_arrays(small(instruction(1, of=shape([big])), instruction(2, of=shape([1 << 40, 1 << 25]))))
    assert arrays["node_feat"][0, FEAT_ID["shape_dimensions_0"]] == np.float32(np.int64(big))
    assert np.float32(np.int64(big)) != np.float32(np.float64(big))
    assert feat(arrays, 1, "shape_dimensions_product") == [0]


def test_wrappers_are_unwrapped():
    pb = data("matmul")
    buffers = message((1, message((1, 3))), (3, message((2, 8))))
    run = message((3, 0), (4, message((4, 50))))
    for wrapped in (message((1, pb)), message((1, pb), (3, buffers)), message((1, pb), (2, 1 << 63), (3, run))):
        assert read_module(wrapped) == read_module(pb)


def test_tuples_count_their_own_elements_and_may_nest_to_a_limit():
    inner = message((2, TUPLE), (4, shape([2])), (4, shape([3])), (4, shape([4])))
    arrays = graph_arrays(small(instruction(1, "tuple", of=message((2, TUPLE), (4, inner), (4, shape([2]))))))
    assert feat(arrays, 0, "shape_tuple_shapes_size", "shape_element_type_is_tuple") == [2, 1]

    def nested(depth: int) -> bytes:
        body = message((2, TUPLE))
        for _ in range(depth):
            body = message((2, TUPLE), (4, body))
        return small(instruction(1, of=body))

    # Module, computation and instruction are three messages around the shape.
    assert len(graph_arrays(nested(MAX_DEPTH - 3))["node_opcode"]) == 1
    for depth in (MAX_DEPTH - 2, 3000):
        with pytest.raises(HloError, match=r"Shape at byte .*nested more than 100 levels deep"):
            read_module(nested(depth))


@pytest.mark.parametrize(
    ("pb", "fault"),
    [
        (b"", r"no HLO module in 0 bytes \(no computation\); JAX writes"),
        ((DATA / "matmul.hlo.txt").read_bytes(), "got HLO text"),
        (b"\x80" * 9, "the bytes end at 9 inside a number"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x23", "invalid or truncated field 35"),
        (b"\x21" + bytes(7), "invalid or truncated field 33"),
        (b"\x0a" + number(1 << 62), f"byte 1: expected {1 << 62} bytes, got 0"),
        (message((2, "main"), (3, b""), (3, 7)), "Module.computations at byte .* unexpected wire type 0"),
        (message((1, b"\xff"), (2, ""), (3, b"")), "Module.name at byte 2: not UTF-8"),
        (small(instruction(1), root=2), "no instruction has the root's id 2"),
        (module(computation(1, instruction(1), root=1), entry=2), "no computation has the entry's id 2"),
        (
            small(instruction(1, "add", [2]), instruction(2)),
            "'add.1': no instruction or computation with id 2 precedes",
        ),
        (small(instruction(1, "call", [], (38, [1]))), "'call.1': no instruction or computation with id 1 precedes it"),
        (small(instruction(1, of=shape([3, -(1 << 63)]))), "unbounded dimension"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_bytes_are_one_line_errors(pb, fault):
    with pytest.raises(HloError, match=fault) as caught:
        graph_arrays(pb)
    assert "\n" not in str(caught.value)


def test_a_module_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("gbr.data.hlo.MAX_INSTRUCTIONS", 1)
    with pytest.raises(HloError, match="expected at most 1 instructions, got 2"):
        graph_arrays(SMALL)


@pytest.mark.parametrize("pb", [data("matmul"), SMALL], ids=["matmul", "small"])
def test_truncated_modules_are_refused(pb):
    expected = graph_arrays(pb)
    readable = 0
    for size in range(len(pb)):
        with suppress(HloError):
            assert_same(graph_arrays(pb[:size]), expected)
            readable += 1
    # Behind the entry's id a module has fields that no graph needs (aliasing, sharding, source positions).
    assert readable <= 6


def test_time_grows_with_the_module_not_with_its_square():
    # 10,000 instructions, one of them with 5,000 operands: half a second; a quadratic step would take minutes.
    body = [instruction(1)]
    body += [instruction(at, "add", [at - 1, max(1, at - 7)]) for at in range(2, 10_000)]
    body.append(instruction(10_000, "tuple", list(range(1, 5_001))))
    pb = small(*body, root=10_000)
    start = time.process_time()
    arrays = graph_arrays(pb)
    assert time.process_time() - start < 10
    assert arrays["node_feat"].shape == (10_000, 140)
    assert len(arrays["edge_index"]) == 1 + 9_997 * 2 + 5_000
