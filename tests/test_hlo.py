"""gbr.hlo against Google's own arrays, against HLO text, and against bytes that are no HLO."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hlo import FEAT_ID, NODE_FEAT, OPCODE_ID
from gbr.errors import HloError
from gbr.hlo import Instruction, encode, graph_arrays, identify, read_module, read_tuning
from gbr.hlo.wire import MAX_DEPTH
from tests.reference_hlo import message, naive_encode, number

DATA = Path(__file__).parent / "data"
PROGRAMS = ("conv_grad", "depthwise", "loops", "matmul", "odds", "softmax")
F32, TUPLE = 11, 13


def data(name: str) -> bytes:
    return (DATA / f"{name}.hlo.pb").read_bytes()


def feat(arrays: dict[str, np.ndarray], node: int, *columns: str) -> list[float]:
    return [float(arrays["node_feat"][node, FEAT_ID[column]]) for column in columns]


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for key, array in wanted.items():
        assert got[key].dtype == array.dtype, key
        assert got[key].shape == array.shape, key
        if key == "node_feat" and not np.array_equal(got[key], array):
            node, column = np.argwhere(got[key] != array)[0]
            pytest.fail(f"node {node}, {NODE_FEAT[column]}: {got[key][node, column]} != {array[node, column]}")
        np.testing.assert_array_equal(got[key], array, err_msg=key)


# Hand-made modules.


def shape(dims: list[int] | None = None, element: int = F32, order: list[int] | None = None) -> bytes:
    dims = [] if dims is None else dims
    order = list(range(len(dims)))[::-1] if order is None else order
    return message((2, element), (3, dims), (5, message((1, order))))


def instruction(
    id_: int, opcode: str = "parameter", operands: list[int] | None = None, *more: tuple, of: bytes | None = None
) -> bytes:
    body = shape([2, 3]) if of is None else of
    return message((1, f"{opcode}.{id_}"), (2, opcode), (3, body), (35, id_), (36, operands or []), *more)


def computation(id_: int, *instructions: bytes, root: int, name: str = "") -> bytes:
    return message((1, name or f"computation.{id_}"), *((2, each) for each in instructions), (5, id_), (6, root))


def module(*computations: bytes, entry: int = 1, name: str = "hand_made") -> bytes:
    return message((1, name), (2, "main"), *((3, each) for each in computations), (6, entry))


def small(*instructions: bytes, root: int = 1) -> bytes:
    return module(computation(1, *instructions, root=root))


SMALL = small(instruction(7), instruction(9, "negate", [7]), root=9)


# Against Google's extractor.


def test_unet_is_encoded_exactly_as_tpugraphs_holds_it(shared_data):
    with np.load(shared_data / "npz/layout/xla/default/valid/unet_3d.4x4.bf16.npz") as archive:
        wanted = {name: archive[name] for name in archive.files}
    pb = (shared_data / "pb/module_tuning_data_layout.pb").read_bytes()
    assert identify(pb) == "ModuleTuningData"
    graph = ("node_opcode", "node_feat", "edge_index", "node_splits", "node_config_ids")
    for arrays in (graph_arrays(pb), encode(read_module(pb))):  # ids as the file names them, and by the rule
        assert_same(arrays, {key: wanted[key] for key in graph})
    (tuning,) = read_tuning(pb)
    assert (tuning.kind, len(tuning.runtime), int(tuning.measured.sum()), tuning.normalizer) == (
        "layout", 122, 112, 910903932,
    )  # fmt: skip
    arrays = tuning.arrays()
    assert set(arrays) == set(wanted)
    assert {key: value.dtype for key, value in arrays.items()} == {key: value.dtype for key, value in wanted.items()}
    # The .npz holds many more runs than the pb; each of the pb's is among them with its configuration and runtime.
    known = {
        (config.tobytes(), int(runtime))
        for config, runtime in zip(wanted["node_config_feat"], wanted["config_runtime"], strict=True)
    }
    found = zip(arrays["node_config_feat"], arrays["config_runtime"], strict=True)
    assert all((config.tobytes(), int(runtime)) in known for config, runtime in found)


def test_tile_kernels_of_tpugraphs(shared_data):
    pb = (shared_data / "pb/op_tuning_data.pb").read_bytes()
    assert identify(pb) == "TuningData"
    tunings = read_tuning(pb)
    assert [tuning.module.name for tuning in tunings] == (
        "fusion.232 fusion.191 fusion.261 fusion.209 fusion.205 fusion.245 copy.24 copy.25 fusion.181 fusion.207 "
        "fusion.206 fusion.250 reshape.37 reshape.39 reshape.38"
    ).split()
    assert [len(tuning.runtime) for tuning in tunings] == [61, 581, 16, 16, 16, 23, 10, 11, 5, 3, 3, 2, 3, 2, 2]
    assert sum(int(tuning.measured.sum()) for tuning in tunings) == 752
    assert {tuning.kind for tuning in tunings} == {"tile"}
    reduce, conv, *_ = tunings
    nothing = [0] * 8
    assert reduce.config[0].tolist() == [*nothing, 2, 26, 4, 2, 0, 0, 34, 416, *nothing]
    assert reduce.runtime[:3].tolist() == [57188, 126955, 138284]
    assert conv.config[0].tolist() == [3, 1, 24, 3, 0, 0, 31, 216, 12, 4, 4, 3, 0, 0, 23, 576, *nothing]
    assert conv.runtime[:3].tolist() == [151565, 2040285, 3131197]
    assert (int(conv.failed.sum()), conv.normalizer, conv.fingerprint) == (2, 151565, 5397570635508296586)
    for tuning in tunings:
        arrays = tuning.arrays()
        assert set(arrays) == {
            "node_opcode", "node_feat", "edge_index", "config_feat", "config_runtime", "config_runtime_normalizers",
        }  # fmt: skip
        assert arrays["config_feat"].shape == (int(tuning.measured.sum()), 24)
        assert (arrays["edge_index"][:, 1] < arrays["edge_index"][:, 0]).all()
        # The kernel itself comes last and alone is the root of the entry.
        assert tuning.module.computations[-1] is tuning.module.entry
        assert feat(arrays, -1, "is_root") == [1]
    with pytest.raises(HloError, match="TuningData of 15 modules where one is wanted"):
        read_module(pb)


# Against HLO text.


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
    assert arrays["node_feat"].sum(axis=1).tolist() == [
        # is_root + bf16 + dims, sum, product + parameter number + permutation + layout + the 15 other empty products
        1 + 4 + 16 + 20 + 64 + 1 + 15 - 3, 1 + 8 + 16 + 24 + 128 + 1 + 1 + 15 - 3,
        1 + 16 + 8 + 24 + 128 + 1 + 1 + 15 - 3, 1 + 4 + 8 + 12 + 32 + 1 + 15 - 3, 1 + 1 + 2 + 16 + 18 + 32 + 1 + 15 - 3,
    ]  # fmt: skip


def test_gradient_convolutions_by_hand():
    arrays = graph_arrays(data("conv_grad"))
    forward, by_input, by_weight = np.flatnonzero(arrays["node_opcode"] == OPCODE_ID["convolution"])
    size = ("window_size_0", "window_size_1", "window_size_product")
    assert feat(arrays, forward, *size) == [3, 3, 9]
    assert feat(arrays, by_weight, *size) == [4, 6, 24]
    assert feat(arrays, forward, "window_stride_0", "window_stride_1", "window_padding_high_0") == [2, 1, 1]
    assert feat(arrays, by_input, "window_base_dilation_0", "window_base_dilation_product") == [2, 2]
    assert feat(arrays, by_weight, "window_window_dilation_0", "window_window_dilation_1") == [2, 1]
    roles = [f"convolution_dim_numbers_{role}" for role in ("input_batch_dim", "input_feature_dim", "output_batch_dim")]
    assert feat(arrays, forward, *roles) == [0, 3, 0]
    assert feat(arrays, by_weight, *roles) == [3, 0, 2]
    assert feat(arrays, forward, "feature_group_count", "batch_group_count") == [1, 1]
    # The call of relu consumes its argument and, as every caller, the root of what it calls (node 3).
    (call,) = np.flatnonzero(arrays["node_opcode"] == OPCODE_ID["call"])
    assert arrays["edge_index"][arrays["edge_index"][:, 0] == call, 1].tolist() == [3, call - 4]


def test_more_than_six_dimensions_keep_the_first_six_and_count_all():
    arrays = graph_arrays(data("odds"))
    (transpose,) = np.flatnonzero(arrays["node_opcode"] == OPCODE_ID["transpose"])
    dims = [f"shape_dimensions_{part}" for part in (0, 1, 2, 3, 4, 5, "sum", "product")]
    assert feat(arrays, transpose, *dims) == [5, 2, 1, 2, 1, 3, 16, 120]
    assert feat(arrays, transpose, *(f"dimensions_{slot}" for slot in range(6))) == [6, 5, 4, 3, 2, 1]
    assert feat(arrays, transpose, *(f"layout_minor_to_major_{slot}" for slot in range(6))) == [0, 1, 2, 3, 4, 5]


def test_what_the_vocabulary_lacks_is_zero():
    arrays = graph_arrays(data("odds"))
    instructions = [each for part in read_module(data("odds")).computations for each in part.instructions]
    (erf,) = (node for node, each in enumerate(instructions) if each.opcode == "erf")
    assert arrays["node_opcode"][erf] == 0
    (fp8,) = (node for node, each in enumerate(instructions) if each.shape.element_type == 20)
    types = [column for column, name in enumerate(NODE_FEAT) if name.startswith("shape_element_type_is_")]
    assert arrays["node_feat"][fp8, types].sum() == 0
    assert (np.delete(arrays["node_feat"][:, types].sum(axis=1), fp8) == 1).all()


# Order, ids, names.


def test_ids_need_to_differ_within_a_computation_only():
    region = computation(5, instruction(1), instruction(2), instruction(3, "add", [1, 2]), root=3)
    entry = computation(8, instruction(1), instruction(2, "reduce", [1], (38, [5])), root=2)
    arrays = graph_arrays(module(region, entry, entry=8))
    assert arrays["edge_index"].tolist() == [[2, 0], [2, 1], [4, 2], [4, 3]]
    assert arrays["node_feat"][:, FEAT_ID["is_root"]].tolist() == [0, 0, 1, 0, 1]


def test_ids_of_64_bits():
    high = 3 << 32
    pb = module(
        computation(3, instruction(high | 1), instruction(high | 2, "negate", [high | 1]), root=high | 2), entry=3
    )
    assert graph_arrays(pb)["edge_index"].tolist() == [[1, 0]]


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


def test_instructions_can_be_read_by_name():
    entry = read_module(data("matmul")).entry
    dot = entry.instructions[3]
    assert isinstance(dot, Instruction)
    assert (entry.name, dot.name, dot.opcode, dot.shape.dimensions) == ("main.1", "dot_general.1", "dot", (4, 8))
    assert [entry.positions[operand] for operand in dot.operand_ids] == [0, 2]


# Wrappers and runs.


def tile_run(time_ns: int, *, error: int = 0, default: int = 0, **bounds: list[int]) -> bytes:
    sizes = message(
        *((slot, bounds[name]) for slot, name in enumerate(("kernel", "output", "input"), 1) if name in bounds)
    )
    return message((1, message((1, sizes))), (3, error), (4, message((4, time_ns))), (5, default))


def layout_run(time_ns: int, *nodes: list[list[int]], default: int = 0) -> bytes:
    layouts = [message(*((1, message((1, tensor))) for tensor in node)) for node in nodes]
    config = message((1, message(*((1, layout) for layout in layouts))))
    return message((2, config), (4, message((4, time_ns))), (5, default))


def tuning_data(*runs: bytes, nodes: list[int] | None = None, program: bytes = b"") -> bytes:
    nodes_field = [] if nodes is None else [(4, nodes)]
    return message((1, program or data("matmul")), (2, 1 << 63), *((3, run) for run in runs), *nodes_field)


TILES = tuning_data(
    tile_run(50, kernel=[2, 3], output=[4], default=1),
    tile_run(70, kernel=[1, 1, 1, 1, 1, 1, 9]),
    tile_run(1, output=[5]),
    tile_run(0, error=1, output=[6]),
)
LAYOUTS = tuning_data(
    layout_run(90, [[1, 0], [0, 1], []], [[0, 1]], default=1), layout_run(80, [], [[1, 0]]), nodes=[3, 4]
)


def test_wrappers_are_recognised():
    pb = data("matmul")
    buffers = message((1, message((1, 3))), (3, message((2, 8))))
    assert identify(pb) == "HloModuleProto"
    for bytes_, kind in (
        (message((1, pb)), "HloProto"),
        (message((1, pb), (3, buffers)), "HloProto"),
        (TILES, "ModuleTuningData"),
        (LAYOUTS, "ModuleTuningData"),
        (message((1, pb), (3, tile_run(5)), (3, tile_run(6))), "ModuleTuningData"),
        (message((1, TILES)), "TuningData"),
    ):
        assert identify(bytes_) == kind
        assert_same(graph_arrays(bytes_), graph_arrays(pb))
        assert read_module(bytes_) == read_module(pb)


def test_tile_runs():
    (tuning,) = read_tuning(message((1, TILES)))
    nothing = [0] * 8
    assert tuning.config.tolist() == [
        [2, 3, 0, 0, 0, 0, 5, 6, 4, 0, 0, 0, 0, 0, 4, 4, *nothing],
        [1, 1, 1, 1, 1, 1, 15, 9, *nothing, *nothing],
        [*nothing, 5, 0, 0, 0, 0, 0, 5, 5, *nothing],
        [*nothing, 6, 0, 0, 0, 0, 0, 6, 6, *nothing],
    ]
    assert tuning.measured.tolist() == [True, True, False, False]
    arrays = tuning.arrays()
    assert arrays["config_feat"].tolist() == tuning.config[:2].tolist()
    assert arrays["config_runtime"].tolist() == [50, 70]
    assert arrays["config_runtime_normalizers"].tolist() == [50, 50]
    assert tuning.fingerprint == 1 << 63


def test_layout_runs():
    (tuning,) = read_tuning(LAYOUTS)
    free = [-1] * 6
    assert tuning.config.dtype == np.int8
    assert tuning.config.tolist() == [
        [[1, 0, -1, -1, -1, -1, 0, 1, -1, -1, -1, -1, *free], [0, 1, -1, -1, -1, -1, *free, *free]],
        [[*free, *free, *free], [1, 0, -1, -1, -1, -1, *free, *free]],
    ]
    arrays = tuning.arrays()
    assert arrays["node_config_feat"].dtype == np.float32
    assert arrays["config_runtime"].tolist() == [90, 80]
    assert arrays["node_config_ids"].tolist() == [3, 4]
    assert graph_arrays(tuning_data(layout_run(90, [[1, 0]]), nodes=[4]))["node_config_ids"].tolist() == [4]


@pytest.mark.parametrize(
    ("runs", "nodes", "fault"),
    [
        ([], None, "got no run"),
        ([tile_run(5), layout_run(5)], None, "got layout, tile"),
        ([message((3, 1))], None, "got none"),
        ([layout_run(5, [[0]], [[0]])], [4], "layouts of 2 nodes, configurable are 1"),
        ([layout_run(5, [[0]])], [5], "configurable nodes 5..5, the graph has 5"),
        ([layout_run(5, [[0]])], [-1], "configurable nodes -1..-1, the graph has 5"),
        ([layout_run(5, [[0], [0], [0], [0]])], [4], "4 layouts for one node, at most 3"),
        ([layout_run(5, [[200]])], [4], "a layout names dimensions -1..200"),
        ([tile_run(5), tile_run(-5)], None, "run 1 took -5 ns"),
    ],
)
def test_runs_that_cannot_be(runs, nodes, fault):
    with pytest.raises(HloError, match=f"HLO module 'jit_matmul'.*{fault}"):
        read_tuning(tuning_data(*runs, nodes=nodes))


def test_tile_runs_without_a_default_have_no_normalizer():
    (tuning,) = read_tuning(tuning_data(tile_run(5), tile_run(0, default=1)))
    assert tuning.normalizer == 0
    with pytest.raises(HloError, match="no measured default run"):
        tuning.arrays()


def test_a_module_alone_has_no_runs():
    with pytest.raises(HloError, match="HloModuleProto holds no measured configurations"):
        read_tuning(data("matmul"))


# Bytes that are no HLO.


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
    monkeypatch.setattr("gbr.hlo.module.MAX_INSTRUCTIONS", 1)
    with pytest.raises(HloError, match="has 2 instructions; at most 1 are read"):
        read_module(SMALL)


def test_only_bytes_are_read():
    with pytest.raises(HloError, match="got str, wanted bytes"):
        graph_arrays("HloModule m")  # type: ignore[arg-type]


def refusal(pb: bytes) -> str:
    """Why the bytes are refused; empty where they are read."""
    try:
        graph_arrays(pb)
        if identify(pb).endswith("TuningData"):
            read_tuning(pb)
    except HloError as fault:
        return str(fault)
    return ""


@pytest.mark.parametrize("pb", [data("conv_grad"), SMALL], ids=["conv_grad", "small"])
def test_every_prefix_is_refused_unless_only_trailing_fields_are_missing(pb):
    whole = graph_arrays(pb)
    readable = [size for size in range(len(pb)) if not refusal(pb[:size])]
    for size in readable:
        assert_same(graph_arrays(pb[:size]), whole)
    # Behind the entry's id a module has fields that no graph needs (aliasing, sharding, source positions).
    assert len(readable) <= 6


def survives(pb: bytes) -> None:
    """Refused in one line, or read as a graph that keeps its promises."""
    if fault := refusal(pb):
        assert "\n" not in fault
        return
    arrays = graph_arrays(pb)
    nodes = len(arrays["node_opcode"])
    assert arrays["node_feat"].shape == (nodes, 140)
    assert (arrays["edge_index"][:, 1] < arrays["edge_index"][:, 0]).all()
    assert (arrays["edge_index"] >= 0).all()
    assert (arrays["edge_index"] < nodes).all()
    assert arrays["node_splits"][0, -1] == nodes
    assert (arrays["node_config_ids"] < nodes).all()


MUTABLE = [data("matmul"), data("softmax"), SMALL, TILES, LAYOUTS, message((1, TILES))]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MUTABLE), st.randoms(use_true_random=False), st.integers(1, 4))
def test_mutated_bytes_are_read_or_refused(pb: bytes, choice: random.Random, edits: int):
    mutant = bytearray(pb)
    for _ in range(edits):
        at, size = choice.randrange(len(mutant)), choice.randrange(1, 12)
        kind = choice.randrange(5)
        if kind == 0:
            mutant[at] = choice.randrange(256)
        elif kind == 1:
            mutant[at] ^= 1 << choice.randrange(8)
        elif kind == 2:
            mutant[at : at + size] = choice.randbytes(choice.randrange(12))
        elif kind == 3:
            mutant[at : at + size] = b"\xff" * size
        else:
            source = choice.randrange(len(mutant))
            mutant[at:at] = mutant[source : source + size]
        mutant = mutant or bytearray(b"\n")
    survives(bytes(mutant))


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
