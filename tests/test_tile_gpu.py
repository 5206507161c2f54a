"""The GPU model: documented cases of CUDA occupancy, a naive implementation, and the order of simulated kernels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from features.graph import Program
from features.hardware import CPU, TPU, Hardware, SlotNames
from features.hlo import FEAT_ID, TILE_CONFIG
from features.tile import gpu
from features.tile.extractor import TileExtractor, schema
from features.tile.geometry import Geometry, loop_tiles
from gbr import Ranker, load, read_graph, write_graph
from gbr import features as features_command
from gbr import train as train_command
from gbr.attribution import explain
from gbr.data.collection import Subset
from gbr.data.hardware import choose
from tests import programs, reference_gpu
from tests.test_tile import config, read

NAMES: SlotNames = (
    ("output_bounds", ("block_m", "block_n", "split_k", "group_m")),
    ("kernel_bounds", ("block_k", "block_n", "maxnreg")),
    ("input_bounds", ("num_stages", "num_warps", "allow_tf32")),
)
A100 = choose("a100", Subset("tile:any"), "nowhere")


def named(names: SlotNames = NAMES, device: str = "a100") -> Hardware:
    found = choose(device, Subset("tile:any"), "nowhere").gpu
    assert found is not None
    return Hardware.of_gpu(device, found, names)


def half(program: Program) -> Program:
    feat = program.feat.copy()
    feat[:, FEAT_ID["shape_element_type_is_f32"]] = 0
    feat[:, FEAT_ID["shape_element_type_is_f16"]] = 1
    return Program(program.opcode, feat, program.edges)


def rows_of(hardware: Hardware, *given: dict[str, float]) -> np.ndarray:
    rows = np.zeros((len(given), len(TILE_CONFIG)), np.float32)
    for row, values in zip(rows, given, strict=True):
        for stem, names in hardware.config:
            for slot, name in enumerate(names):
                row[TILE_CONFIG.index(f"{stem}_{slot}")] = values.get(name, 0)
    return rows


def values(program: Program, hardware: Hardware, *given: dict[str, float]) -> list[dict[str, float]]:
    extract = TileExtractor(program, hardware)
    columns = [name.removeprefix("gpu.") for name in extract.schema.names]
    return [dict(zip(columns, row.tolist(), strict=True)) for row in extract(rows_of(hardware, *given))]


# --- names -----------------------------------------------------------------------------------------------------------


def test_named_slots_bound_the_loops_of_their_role_and_nothing_else() -> None:
    hardware = Hardware(
        "named", 32, 64, CPU.caches, config=(("output_bounds", ("num_warps", "BLOCK-SIZE-N", "Mine")), *NAMES[1:])
    )
    program = programs.batched_matmul(3, 5, 8, 6)
    nest, tensors, _ = read(program)
    row = config(output=(7, 4, 2), kernel=(2, 4), input=(3, 8, 1))
    assert loop_tiles(nest, tensors, row, hardware).tolist() == [[3, 5, 4, 2]]
    assert loop_tiles(nest, tensors, row).tolist() == [[3, 4, 2, 4]]  # by position
    extract = TileExtractor(program, hardware)
    found = dict(zip(extract.schema.names, extract(row)[0].tolist(), strict=True))
    own = {name.removeprefix("config."): value for name, value in found.items() if name.startswith("config.")}
    assert {name: value for name, value in own.items() if value} == {
        "num_warps": 7, "BLOCK-SIZE-N": 4, "Mine": 2, "block_k": 2, "block_n": 4, "num_stages": 3, "allow_tf32": 1
    }  # fmt: skip
    assert not [name for name in own if name.endswith(("sum", "product"))]
    assert extract.schema.hash != schema().hash


def test_other_blocks_keep_their_position_and_empty_names_leave_bounds() -> None:
    hardware = Hardware("named", 32, 64, CPU.caches, config=(("output_bounds", ("", "block_w", "unroll_h")),))
    nest, tensors, _ = read(programs.reshaped_sum(3, 4, 5))
    assert loop_tiles(nest, tensors, config(output=(2, 3, 4)), hardware).tolist() == [[2, 3, 5]]


def test_a_block_of_a_convolution_covers_batch_and_image() -> None:
    nest, tensors, _ = read(programs.conv2d(2, 9, 3, 4, 3))  # 2 x 7 x 7 outputs of 4 features
    hardware = named()
    rows = rows_of(hardware, {"block_m": 16, "block_n": 4, "block_k": 6})
    assert loop_tiles(nest, tensors, rows, hardware)[0, :4].tolist() == [1, 3, 7, 4]
    (found,) = values(programs.conv2d(2, 9, 3, 4, 3), hardware, {"block_m": 16, "block_n": 4, "block_k": 6})
    assert 2 ** found["blocks"] == pytest.approx(np.ceil(98 / 16))
    assert 2 ** found["steps"] == pytest.approx(np.ceil(27 / 6), rel=1e-6)


def test_the_generic_profiles_have_the_schema_of_before() -> None:
    assert schema(CPU) is schema(TPU) is schema()
    assert [block.name for block in schema(A100).blocks][:3] == ["config", "geometry", "gpu"]
    assert schema(A100).costs == tuple(f"gpu.{column.name}" for column in gpu.COLUMNS if column.cost)


# --- occupancy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "expected"),
    [
        (128, 37, 0, (16, 12, 32)),  # CUDA C++ Best Practices Guide, section Occupancy: 75 %
        (320, 37, 0, (6, 4, 32)),  # and 63 %
        (256, 32, 48 << 10, (8, 8, 3)),  # 164 KiB, of which the system takes one of every block
        (1024, 255, 163 << 10, (2, 0, 1)),
        (64, 32, 0, (32, 32, 32)),  # at most 32 blocks
    ],
)
def test_resident_blocks_are_those_of_the_occupancy_calculator(
    threads: int, registers: int, shared: int, expected: tuple[int, int, int]
) -> None:
    nest, tensors, slots = read(programs.matmul(64, 64, 64))
    work = gpu.GpuModel(Geometry(nest, tensors, slots, A100), tensors, A100).work
    assert gpu.resident_blocks(threads / 32, float(registers), float(shared), work) == expected


def test_waves_of_a_large_product() -> None:
    tile = {"block_m": 128, "block_n": 128, "block_k": 32, "num_stages": 3, "num_warps": 4}
    found, small = values(half(programs.matmul(2048, 2048, 512)), named(), tile, tile | {"block_m": 64, "split_k": 4})
    assert (2 ** found["blocks"], found["resident"], 2 ** found["steps"]) == pytest.approx((256, 2, 16))
    assert 2 ** found["shared"] == pytest.approx(1 + 3 * 2 * 128 * 32 * 2)
    assert 2 ** found["waves"] == pytest.approx(256 / 216)
    assert (2 ** found["waves.whole"], found["waves.last"]) == pytest.approx((2, 40 / 216))
    assert (2 ** small["blocks"], 2 ** small["steps"]) == pytest.approx((32 * 16 * 4, 4))
    assert (2 ** found["warp.m"], 2 ** found["warp.n"]) == pytest.approx((64, 64))


def test_padding_counts_whole_blocks() -> None:
    (found,) = values(half(programs.matmul(48, 100, 40)), named(), {"block_m": 128, "block_n": 64, "block_k": 32})
    assert [2 ** found[f"padding.{name}"] for name in "mnk"] == pytest.approx([128 / 48, 128 / 100, 64 / 40])


def test_grouping_rows_of_blocks_saves_traffic() -> None:
    tile = {"block_m": 128, "block_n": 128, "block_k": 32, "num_warps": 8, "num_stages": 3}
    plain, grouped = values(half(programs.matmul(16384, 16384, 4096)), named(), tile | {"group_m": 1}, tile)
    assert plain["traffic.row_major"] == plain["traffic.grouped"] == grouped["traffic.row_major"]
    assert grouped["traffic.grouped"] < plain["traffic.grouped"] - 1


def test_unaligned_rows_lower_the_vector_width() -> None:
    tile = {"block_m": 64, "block_n": 64, "block_k": 32}
    found = [values(half(programs.matmul(256, 256, k)), named(), tile)[0]["left.vector"] for k in (256, 252, 250, 251)]
    assert found == [4, 3, 2, 1]


def test_types_choose_the_rate() -> None:
    tile = {"block_m": 64, "block_n": 64, "block_k": 32, "allow_tf32": 1}
    program = programs.matmul(512, 512, 512)
    fast, exact = values(program, named(), tile, tile | {"allow_tf32": 0})
    assert (fast["tensor"], exact["tensor"]) == (1, 0)
    assert exact["time.compute"] - fast["time.compute"] == pytest.approx(np.log2(156 / 19.5), abs=0.05)
    (small,) = values(half(program), named(), tile | {"block_m": 8})
    assert small["tensor"] == 0


# --- naive implementation --------------------------------------------------------------------------------------------

KERNELS = programs.KERNELS | {"half": half(programs.matmul(200, 300, 170)), "large": programs.matmul(700, 900, 1100)}


@pytest.mark.parametrize("device", ["a100", "MI300X", "Tesla T4"])
@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_columns_match_the_naive_implementation(name: str, device: str, data: st.DataObject) -> None:
    hardware = named(device=device)
    nest, tensors, slots = read(KERNELS[name])
    powers = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256])
    options = {
        "block_m": powers, "block_n": powers, "block_k": powers, "num_warps": st.sampled_from([1, 2, 4, 8, 16]),
        "num_stages": st.integers(1, 6), "split_k": st.sampled_from([1, 2, 8]), "group_m": st.sampled_from([1, 4, 8]),
        "allow_tf32": st.integers(0, 1), "maxnreg": st.sampled_from([64, 128, 255]),
    }  # fmt: skip
    given_ = {key: data.draw(option) for key, option in options.items()}
    model = gpu.GpuModel(Geometry(nest, tensors, slots, hardware), tensors, hardware)
    (row,) = model(rows_of(hardware, given_))
    assert hardware.gpu is not None
    expected = reference_gpu.columns(nest, tensors, hardware.gpu, given_)
    found = dict(zip([column.name for column in gpu.COLUMNS], row.tolist(), strict=True))
    for key, value in found.items():
        assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-4), (key, given_)


@pytest.mark.parametrize("name", programs.KERNELS)
def test_without_names_blocks_are_the_bounds(name: str) -> None:
    extract = TileExtractor(programs.KERNELS[name], A100)
    configs = np.concatenate([config(), config(output=(2, 3)), config(output=(1,), kernel=(2, 2), input=(3, 3))])
    rows = extract(configs)
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, np.concatenate([extract(row[None]) for row in configs]))
    if name == "matmul":
        blocks = 2 ** rows[1:, extract.schema.names.index("gpu.blocks")]
        assert blocks == pytest.approx([6 * 7, 12 * 10])


@pytest.mark.parametrize("name", KERNELS)
def test_extreme_values_have_finite_columns(name: str) -> None:
    rows = np.random.default_rng(0).choice([0, 0.5, 1, 3, 100, 128, 1e4, 3e9, -5], (200, 24)).astype(np.float32)
    for hardware in (named(), A100):
        assert np.isfinite(TileExtractor(KERNELS[name], hardware)(rows)).all()


# --- collections -----------------------------------------------------------------------------------------------------


def simulated(shape: tuple[int, int, int], tile: np.ndarray) -> np.ndarray:
    """Nanoseconds of a product on 108 units, by a formula of its own; ``tile``: m, n, k, stages, warps."""
    m, n, k = shape
    block_m, block_n, block_k, stages, warps = tile.T
    resident = np.clip(164e3 // (2 * (block_m + block_n) * block_k * stages), 1, 8)
    blocks, steps = np.ceil(m / block_m) * np.ceil(n / block_n), np.ceil(k / block_k)
    rounds = np.ceil(blocks / (108 * resident)) * resident
    step = np.maximum(block_m * block_n * block_k / 900, (block_m + block_n) * block_k / 25)
    step = np.maximum(step, 500 / np.maximum(stages - 1, 0.5) / resident) * (1 + (block_m * block_n / warps > 8000))
    return np.asarray((800 + rounds * (steps * step + 300)) / 1.4)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of different shapes under named configurations, with the profile beside the splits."""
    root, rng = tmp_path_factory.mktemp("gpu"), np.random.default_rng(3)
    folder = root / "npz/tile/gpu"
    for number in range(24):
        shape = tuple(int(size) for size in 64 * rng.integers(1, 40, 3))
        tile = 2 ** rng.integers([4, 4, 4, 1, 1], [8, 8, 7, 3, 4], (40, 5))
        config = np.zeros((40, 24), np.float32)
        config[:, [8, 9, 0, 16, 17]] = tile
        config[:, 1], config[:, 18] = config[:, 9], 1
        program = half(programs.matmul(*shape))
        arrays = {"node_feat": program.feat, "node_opcode": program.opcode, "edge_index": program.edges}
        runtime = simulated(shape, tile) * rng.lognormal(0, 0.02, 40)
        split = "train" if number < 18 else "valid" if number < 20 else "test"
        write_graph(
            folder / split / f"matmul_{'x'.join(map(str, shape))}.npz",
            arrays
            | {
                "config_feat": config,
                "config_runtime": runtime.astype(np.int64),
                "config_runtime_normalizers": np.ones(40, np.int64),
            },
        )
    (folder / "hardware.toml").write_text(
        'device = "NVIDIA A100"\n\n[config]\noutput_bounds = ["block_m", "block_n"]\n'
        'kernel_bounds = ["block_k", "block_n"]\ninput_bounds = ["num_stages", "num_warps", "allow_tf32"]\n'
    )
    return root


def test_training_predicting_and_explaining_use_the_named_slots(
    collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--subset", "tile:gpu", "--data", str(collection)]
    run, path = collection / "run", next((collection / "npz/tile/gpu/test").iterdir())
    line = [*where, "--out", str(run), "--set", "n_estimators=60", "--jobs", "1", "--json"]
    assert train_command.main(line) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["test"]["kendall_tau"] > 0.75
    ranker = Ranker.load(run)
    assert ranker.hardware == choose(None, Subset("tile:gpu"), collection)
    assert "gpu.time" in ranker.feature_names_in_
    graph = read_graph(path)
    np.testing.assert_allclose(ranker.scorer(graph)(graph.config_feat), ranker.predict_graph(path))
    assert {"config.num_warps", "gpu.cost.time"} <= {*load("tile:gpu", "test", data=collection).columns}
    found = explain(ranker, graph, 0, 1)
    assert found.parts == "parameters"
    assert {change.name for change in found.parameters} <= {"block_m", "block_n", "block_k", "num_stages", "num_warps"}
    assert found.lead == pytest.approx(sum(block.effect for block in found.blocks), rel=1e-5)
    assert {part for column in found.columns for part, _ in column.behind} <= {
        "block_m", "block_n", "block_k", "num_stages", "num_warps"
    }  # fmt: skip


def test_columns_are_those_of_the_collection_or_of_the_named_device(
    collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*line: str) -> list[str]:
        assert features_command.main(["columns", *line, "--json"]) == 0
        blocks = json.loads(capsys.readouterr().out)["blocks"]
        return [block["name"] for block in blocks][:3]

    for line in (("--subset", "tile:gpu", "--data", str(collection)), ("--subset", "tile", "--hardware", "RTX 4090")):
        assert listed(*line) == ["config", "geometry", "gpu"]
    assert listed("--subset", "tile") == ["config", "geometry", "cache"]


def test_the_estimate_orders_simulated_kernels_without_learning(collection: Path) -> None:
    frame = load("tile:gpu", "test", data=collection)
    taus = [kendalltau(rows["gpu.time"], rows["runtime"]).statistic for _, rows in frame.group_by("graph")]
    assert np.mean(taus) > 0.5
