"""gbr.data.hlo against Google's own arrays, and against HLO text."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

from features.hlo import FEAT_ID, NODE_FEAT, OPCODE_ID
from gbr.data.hlo import Instruction, encode, graph_arrays, identify, read_module, read_tuning
from gbr.errors import HloError
from tests.hlo_modules import (
    DATA,
    LAYOUTS,
    TILES,
    assert_same,
    computation,
    data,
    feat,
    instruction,
    layout_run,
    module,
    shape,
    small,
    tile_run,
    tuning_data,
)
from tests.reference_hlo import message, naive_encode

PROGRAMS = ("conv_grad", "depthwise", "loops", "matmul", "odds", "softmax")


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
