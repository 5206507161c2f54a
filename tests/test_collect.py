from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config as numba_config

from features.hlo import OPCODES
from gbr.collect import _jax, pool, tile
from gbr.collect.__main__ import main
from gbr.collect.families import FAMILIES, TEST, VALID, split_of
from gbr.collect.kernels import Family
from gbr.collect.sampling import LEAST_ITERATIONS, sample_tiles
from gbr.collect.table import markdown
from gbr.collect.timer import LEAST_ROUNDS, cores, doubts, measure, pinned, retest_tau
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph
from gbr.data.hlo import graph_arrays
from gbr.errors import CollectError, MissingLibraryError, UsageError
from tests.reference_collect import TWINS

DATA = Path(__file__).parents[1] / "data"
COMMITTED = sorted((DATA / tile.COLLECTION).glob("*/*.npz"))

needs_jit = pytest.mark.skipif(bool(numba_config.DISABLE_JIT), reason="kernels of full size need the JIT")


def operands_of(family: Family, shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(operand, np.float32) for operand in family.nest(*shape).operands]


def run(kernel, family: Family, shape, operands, tiles):
    output = np.full(family.nest(*shape).output, np.nan, np.float32)
    kernel(*operands, output, *(np.uint64(tile) for tile in tiles))
    return output


def odd_tiles(extents, step):
    return [1 + (step + 2 * place) % extent for place, extent in enumerate(extents)]


# Kernels


def test_every_family_has_a_twin():
    assert set(TWINS) == set(FAMILIES)


@pytest.mark.parametrize("name", TWINS)
def test_kernel_equals_numpy_whatever_the_tiles(name):
    shape, twin = TWINS[name]
    family = FAMILIES[name]
    operands = operands_of(family, shape)
    expected = twin(*(operand.astype(np.float64) for operand in operands))
    extents = [loop.extent for loop in family.nest(*shape).loops]
    python = getattr(family.kernel, "py_func", family.kernel)
    for tiles in (extents, [1] * len(extents), *(odd_tiles(extents, step) for step in (1, 2))):
        output = run(python, family, shape, operands, tiles)
        assert output.shape == expected.shape
        np.testing.assert_allclose(output, expected, rtol=2e-5, atol=2e-5, err_msg=f"tiles {tiles}")


@pytest.mark.parametrize("name", TWINS)
def test_program_equals_numpy_and_is_flat(name):
    pytest.importorskip("jax")
    shape, twin = TWINS[name]
    family = FAMILIES[name]
    operands = operands_of(family, shape)
    expected = twin(*(operand.astype(np.float64) for operand in operands))
    np.testing.assert_allclose(_jax.run(family.program, operands), expected, rtol=2e-5, atol=2e-5)
    opcodes = graph_arrays(_jax.hlo(family.program, [operand.shape for operand in operands]))["node_opcode"]
    assert not {"call", "fusion", "custom-call"} & {OPCODES[opcode] for opcode in opcodes}


@needs_jit
@pytest.mark.parametrize("name", ["matmul_nt", "conv2d", "transpose_210", "sum_outer", "softmax", "max_pool"])
def test_compiled_kernel_equals_numpy(name):
    shape, twin = TWINS[name]
    family = FAMILIES[name]
    operands = operands_of(family, shape)
    expected = twin(*(operand.astype(np.float64) for operand in operands))
    extents = [loop.extent for loop in family.nest(*shape).loops]

    @settings(max_examples=25, deadline=None)
    @given(st.tuples(*(st.integers(1, extent) for extent in extents)))
    def check(tiles):
        output = run(family.kernel, family, shape, operands, tiles)
        np.testing.assert_allclose(output, expected, rtol=2e-5, atol=2e-5)

    check()


def test_a_name_tells_family_and_shape():
    stems = [stem for family in FAMILIES.values() for stem in family.stems]
    assert len(set(stems)) == len(stems)
    assert all(stem.rsplit("_", 1)[0] == family.name for family in FAMILIES.values() for stem in family.stems)


def test_splits_hold_every_group_and_share_no_family():
    assert set(FAMILIES) > VALID | TEST
    assert not VALID & TEST
    for split in SPLITS:
        groups = {family.group for family in FAMILIES.values() if split_of(family.name) == split}
        assert groups == {family.group for family in FAMILIES.values()}, split
    held_out = len(VALID | TEST) / len(FAMILIES)
    assert 0.35 < held_out < 0.5


# Sampling

EXTENTS = st.lists(st.integers(1, 3000), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(EXTENTS, st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_sampled_tiles_are_distinct_in_bounds_and_begin_with_the_default(extents, n_configs, seed):
    tiles = sample_tiles(extents, n_configs, seed)
    assert tiles.dtype == np.int64
    assert 1 <= len(tiles) <= n_configs
    assert tiles[0].tolist() == extents
    assert len(np.unique(tiles, axis=0)) == len(tiles)
    assert (tiles >= 1).all()
    assert (tiles <= extents).all()
    assert (tiles.prod(1) >= min(LEAST_ITERATIONS, math.prod(extents))).all()
    np.testing.assert_array_equal(tiles, sample_tiles(extents, n_configs, seed))


def test_sample_covers_the_kinds_of_tiles():
    extents = np.array([300, 200, 500])
    tiles = sample_tiles(extents, 96, 3)
    assert len(tiles) == 96
    full = tiles == extents
    power = (tiles & (tiles - 1)) == 0
    assert (full.sum(1) == 2).any(), "one loop tiled alone"
    assert (~full).all(1).any(), "every loop tiled"
    assert (power | full).all(1).sum() >= 24
    assert ((tiles % 2 == 1) & ~full & (tiles > 1)).any(0).all(), "odd sizes in every loop"
    assert not np.array_equal(tiles, sample_tiles(extents, 96, 4))


# config_feat


def bounds(*values, slots=6):
    return [*values, *[0] * (slots - len(values)), sum(values), math.prod(values) if values else 0]


@pytest.mark.parametrize(
    ("family", "shape", "tiles", "kernel", "output", "reduced"),
    [
        ("matmul_nt", (50, 70, 60), (5, 7, 6), (6, 7), (5, 7), ()),
        ("matmul_batched", (3, 50, 70, 60), (2, 5, 7, 6), (2, 6, 7), (2, 5, 7), ()),
        ("matmul_transposed", (50, 70, 60), (5, 7, 6), (6, 7), (7, 5), ()),
        ("matvec_batched", (7, 50, 60), (2, 5, 6), (2, 6), (2, 5), ()),
        ("matvec", (50, 60), (5, 6), (6,), (5,), ()),
        ("attention_values", (8, 50, 70, 60), (5, 2, 7, 6), (2, 6, 7), (5, 2, 7), ()),
        ("conv2d", (2, 20, 24, 32, 64, 3), (1, 5, 6, 16, 8), (3, 3, 8, 16), (1, 5, 6, 16), ()),
        ("conv2d_nchw", (2, 20, 24, 32, 64, 3), (1, 16, 5, 6, 8), (16, 8, 3, 3), (1, 16, 5, 6), ()),
        ("conv3d", (8, 9, 10, 4, 6, 3), (2, 3, 4, 5, 2), (3, 3, 3, 2, 5), (1, 2, 3, 4, 5), ()),
        ("conv2d_row", (2, 20, 24, 32, 64, 3), (1, 5, 6, 16, 8), (1, 3, 8, 16), (1, 5, 6, 16), ()),
        ("depthwise_1d", (2, 20, 32, 3), (1, 5, 16), (3, 1, 16), (1, 5, 16), ()),
        ("depthwise", (2, 20, 24, 32, 3), (1, 5, 6, 16), (3, 3, 1, 16), (1, 5, 6, 16), ()),
        ("transpose_210", (30, 40, 50), (3, 4, 5), (), (3, 4, 5), ()),
        ("sum_middle", (30, 40, 50), (3, 4, 5), (), (3, 5), (3, 4, 5)),
        ("square_sum_transposed", (30, 40, 50), (3, 4, 5), (), (5, 3), (3, 4, 5)),
        ("rowwise_dot", (30, 40), (3, 4), (), (3,), (3, 4)),
        ("max_plus_transposed", (30, 40), (3, 4), (), (4,), (3, 4)),
        ("mean_transposed", (30, 40, 50), (3, 4, 5), (), (5, 4), (3, 4, 5)),
        ("symmetrise", (30,), (3, 4), (), (3, 4), ()),
        ("softmax", (30, 40), (3, 4), (), (3, 4), (3, 4)),
        ("logsumexp", (30, 40), (3, 4), (), (3,), (3, 4)),
        ("max_pool", (2, 20, 24, 32), (1, 5, 6, 16), (), (1, 5, 6, 16), (1, 11, 13, 16)),
        ("min_pool_1d", (2, 20, 32), (1, 5, 16), (), (1, 5, 16), (1, 9, 16)),
        ("stencil5", (30, 40), (3, 4), (), (3, 4), ()),
    ],
)
def test_config_holds_tiles_in_logical_order(family, shape, tiles, kernel, output, reduced):
    config = tile.tile_config(FAMILIES[family].nest(*shape), np.array([tiles], np.int64))
    assert config.dtype == np.float32
    assert config.tolist() == [bounds(*kernel) + bounds(*output) + bounds(*reduced)]


def test_the_whole_window_of_a_pool_is_its_input():
    nest = FAMILIES["max_pool"].nest(2, 20, 24, 32)
    (config,) = tile.tile_config(nest, np.array([[2, 20, 24, 32]], np.int64))
    assert tuple(config[16:20]) == nest.operands[0]


# Timer


class Machine:
    """A clock that the runs themselves move; some rounds are slow, as on a shared machine."""

    def __init__(self, costs, noise=0.0, seed=0):
        self.now = 0
        self.calls = [0] * len(costs)
        self.order = []
        self.noise = np.random.default_rng(seed)
        self.scale = noise
        self.runs = [lambda number=number, cost=cost: self.work(number, cost) for number, cost in enumerate(costs)]

    def work(self, number, cost):
        self.calls[number] += 1
        self.order.append(number)
        slower = 1 + self.scale * (self.noise.random() if self.noise.random() < 0.5 else 0)
        self.now += int(cost * slower)

    def clock(self):
        return self.now


def test_minimum_of_rounds_finds_the_undisturbed_time():
    costs = [300_000, 250_000, 1_000_000, 250_001]
    machine = Machine(costs, noise=3.0)
    timing = measure(machine.runs, rounds=12, least_ns=1, clock=machine.clock)
    assert timing.first.tolist() == timing.second.tolist() == costs
    assert timing.first.dtype == np.int64
    assert timing.tau == pytest.approx(1.0)
    assert timing.spread == 4.0


def test_short_runs_are_repeated_until_the_clock_can_see_them():
    machine = Machine([1_000, 400_000])
    timing = measure(machine.runs, rounds=2, least_ns=200_000, clock=machine.clock)
    assert timing.first.tolist() == [1_000, 400_000]
    assert machine.calls == [1 + 2 * 2 * 200, 1 + 2 * 2]


def test_passes_go_round_all_candidates_in_new_orders():
    machine = Machine([10] * 9)
    measure(machine.runs, rounds=3, least_ns=1, clock=machine.clock)
    turns = np.array(machine.order[9:]).reshape(6, 9)
    assert (np.sort(turns, 1) == np.arange(9)).all()
    assert len(np.unique(turns, axis=0)) == 6


def test_slow_candidates_sit_out_later_rounds():
    machine = Machine([1_000, 50_000])
    measure(machine.runs, rounds=10, least_ns=1, enough_ns=100_000, clock=machine.clock)
    assert machine.calls == [1 + 2 * 10, 1 + 2 * LEAST_ROUNDS]


def test_a_clock_that_stands_still_is_an_error():
    with pytest.raises(CollectError, match="clock stood still during 7 runs of candidate 0"):
        measure([lambda: None], rounds=1, least_ns=7, clock=lambda: 5)
    with pytest.raises(CollectError, match="0 runs in 3 rounds"):
        measure([], rounds=3)


def test_doubts_name_their_reason():
    assert doubts(5.0, 0.9) == []
    tau, spread = doubts(1.05, 0.5)
    assert "0.50 is below 0.7" in tau
    assert "1.05 is below 1.1" in spread


def test_retest_tau_of_a_constant_is_zero():
    assert retest_tau(np.array([5, 5, 5]), np.array([1, 2, 3])) == 0.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_pinning_is_undone():
    before = os.sched_getaffinity(0)
    with pinned() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


# One kernel


def small(name) -> tuple[Family, tuple[int, ...]]:
    shape, _ = TWINS[name]
    return replace(FAMILIES[name], measured="x".join(map(str, shape))), shape


def test_a_wrong_kernel_is_not_measured():
    pytest.importorskip("jax")
    family, shape = small("bias_scale")
    off = replace(
        family, program=lambda lax, x, scale, bias: lax.add(family.program(lax, x, scale, bias), lax.full_like(x, 1))
    )
    with pytest.raises(CollectError, match=r"bias_scale_7x9, tiles \d+x\d+: off by 1 from the JAX result"):
        tile.measure_kernel(off, shape, tile.Settings(8, 1))
    summed = replace(family, program=lambda lax, x, scale, bias: lax.reduce(x, np.float32(0), lax.add, (0,)))
    with pytest.raises(CollectError, match=r"result of shape \(7, 9\), JAX gives \(9,\)"):
        tile.measure_kernel(summed, shape, tile.Settings(1, 1))


def test_one_kernel_gives_a_whole_graph():
    pytest.importorskip("jax")
    arrays = tile.measure_kernel(FAMILIES["outer_update"], (40, 60), tile.Settings(6, 1))
    runtime = arrays["config_runtime"]
    assert runtime.shape == arrays["config_runtime_repeat"].shape == (6,)
    assert (arrays["config_runtime_normalizers"] == runtime[0]).all()
    assert arrays["config_feat"][0, 8:16].tolist() == bounds(40, 60)
    assert arrays["node_feat"].shape[1] == 140


def test_names_are_families_or_groups():
    chosen = tile.tasks(["conv", "softmax"], ["train", "test"], Path("root"))
    families = {task.family for task in chosen}
    assert "softmax" in families
    assert "conv2d" in families
    assert not families & VALID
    assert all(task.path.parts[:4] == ("root", "npz", "tile", "cpu") for task in chosen)
    assert all(task.path.parent.name == split_of(task.family) for task in chosen)
    with pytest.raises(UsageError, match="no family or group convolution; groups: conv, elementwise"):
        tile.tasks(["convolution"], ["train"], Path("root"))


# The command


@pytest.fixture
def two_kernels(monkeypatch):
    pytest.importorskip("jax")
    family = replace(FAMILIES["sum_minor"], measured="40x50 60x30")
    monkeypatch.setitem(FAMILIES, "sum_minor", family)
    return ["tile", "--families", "sum_minor", "--configs", "4", "--rounds", "1", "--json"]


@needs_jit
def test_what_is_there_is_kept(two_kernels, tmp_path, capsys):
    command = [*two_kernels, "--out", str(tmp_path)]
    assert main(command) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [each["graph"] for each in measured] == ["sum_minor_40x50", "sum_minor_60x30"]
    files = sorted((tmp_path / tile.COLLECTION / "train").iterdir())
    assert [path.stem for path in files] == [each["graph"] for each in measured]
    before = files[0].read_bytes()
    files[1].unlink()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert [each["graph"] for each in json.loads(out)] == ["sum_minor_60x30"]
    assert "1 of 2 kernels are there already" in err
    assert files[0].read_bytes() == before
    assert read_graph(files[1]).n_configs == 4


@needs_jit
def test_an_interrupt_leaves_whole_files(two_kernels, tmp_path, capsys, monkeypatch):
    real = pool.collect

    def interrupted(task, settings):
        if task.shape == (60, 30):
            raise KeyboardInterrupt
        return real(task, settings)

    monkeypatch.setattr(pool, "collect", interrupted)
    assert main([*two_kernels, "--out", str(tmp_path)]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    (path,) = (tmp_path / tile.COLLECTION / "train").iterdir()
    assert read_graph(path).name == "sum_minor_40x50"


@needs_jit
@pytest.mark.skipif(len(cores()) < 2, reason="one core")
def test_side_by_side_every_kernel_gets_its_file(tmp_path):
    pytest.importorskip("jax")
    before = cores()
    todo = [
        tile.Task("outer_update", shape, tmp_path / "valid" / f"outer_update_{shape[0]}x{shape[1]}.npz")
        for shape in ((40, 50), (60, 30), (31, 97))
    ]
    found = list(pool.measured(todo, tile.Settings(3, 1), jobs=2))
    assert sorted(each.graph for each in found) == sorted(task.path.stem for task in todo)
    assert all(read_graph(task.path).n_configs == 3 for task in todo)
    assert cores() == before


def test_without_jax_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[collect\]'"):
        _jax.load()
    assert main(["tile", "--families", "matvec", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "gbr[collect]" in err
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["tile", "--families", "nothing"], "no family or group nothing"),
        (["tile", "--configs", "0"], "0 is not in the range x>=1"),
        (["tile", "--jobs", "4096"], "--jobs 4096: this process may use"),
        ([], "Missing command"),
    ],
)
def test_usage_errors_are_one_line(arguments, wanted, tmp_path, capsys):
    out = ["--out", str(tmp_path)] if arguments else []
    assert main([*arguments, *out]) == 2
    err = capsys.readouterr().err
    assert wanted in err
    assert err.count("\n") == 1


def test_help_is_cheap():
    code = (
        "import sys; from gbr.collect.__main__ import main; code = main(['tile', '--help']);"
        "sys.exit(code or len({'numba', 'jax', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--rounds" in done.stdout


# The measured collection


def test_committed_collection_is_whole():
    assert len(COMMITTED) >= 140
    assert sum(path.stat().st_size for path in COMMITTED) <= 3 << 20
    wanted = {task.path for task in tile.tasks(None, SPLITS, DATA)}
    assert set(COMMITTED) == wanted


def test_committed_graphs_are_those_of_their_kernels():
    for task in tile.tasks(None, SPLITS, DATA):
        graph = read_graph(task.path)
        nest = FAMILIES[task.family].nest(*task.shape)
        assert graph.kind == "tile"
        assert graph.runtime is not None
        assert graph.repeat is not None
        assert graph.normalizer is not None
        assert (graph.normalizer == graph.runtime[0]).all()
        default = np.array([[loop.extent for loop in nest.loops]], np.int64)
        np.testing.assert_array_equal(graph.config_feat[:1], tile.tile_config(nest, default), err_msg=graph.name)
        assert len(np.unique(graph.config_feat, axis=0)) == graph.n_configs, graph.name
        assert graph.n_configs == 96, graph.name


def test_readme_table_is_that_of_the_data(capsys):
    assert main(["tile", "--table", "--out", str(DATA)]) == 0
    printed = capsys.readouterr().out
    assert printed == markdown(list(tile.stored(DATA))) + "\n"
    assert printed in (DATA / "README.md").read_text(encoding="utf-8")
