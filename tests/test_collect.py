"""The timer, the command for both kinds of collections, and the collections that come with gbr."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numba import config as numba_config

from gbr.collect import tasks, timer
from gbr.collect.__main__ import main
from gbr.collect.tasks import Quality, Settings, Task
from gbr.collect.timer import LEAST_ROUNDS, cores, measure, pinned
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph
from gbr.errors import CollectError, UsageError
from tests.made import matmul_arrays, rewrite, write_collection
from tests.programs import Measured

pytest.importorskip("jax")

import jax

from gbr.collect import layouts, tiles

DATA = Path(__file__).parents[1] / "data"
KINDS = {"tile": (tiles, "npz/tile/cpu"), "layout": (layouts, "npz/layout/cpu/random")}

# Timer


class Machine:
    """A clock that the runs themselves advance; some runs are slow, as on a shared machine."""

    def __init__(self, costs, noise=0.0):
        self.now = 0
        self.order = []
        self.rng = np.random.default_rng(0)
        self.noise = noise
        self.runs = [lambda number=number, cost=cost: self.work(number, cost) for number, cost in enumerate(costs)]

    def work(self, number, cost):
        self.order.append(number)
        self.now += int(cost * (1 + self.noise * (self.rng.random() if self.rng.random() < 0.5 else 0)))

    def measure(self, **settings):
        return [each.tolist() for each in measure(self.runs, clock=lambda: self.now, **settings)]


def test_minimum_of_rounds_is_the_undisturbed_time():
    costs = [300_000, 250_000, 1_000_000, 250_001]
    assert Machine(costs, noise=3.0).measure(rounds=12, least_ns=1) == [costs, costs]


def test_short_runs_are_repeated_and_slow_ones_skip_later_rounds():
    machine = Machine([1_000, 400_000])
    assert machine.measure(rounds=2, least_ns=200_000) == [[1_000, 400_000]] * 2
    assert np.bincount(machine.order).tolist() == [1 + 2 * 2 * 200, 1 + 2 * 2]
    machine = Machine([1_000, 50_000])
    machine.measure(rounds=10, least_ns=1, enough_ns=100_000)
    assert np.bincount(machine.order).tolist() == [1 + 2 * 10, 1 + 2 * LEAST_ROUNDS]


def test_samples_are_much_longer_than_a_step_of_the_clock(monkeypatch):
    machine = Machine([2_000_000])

    def clock(step=15_625_000):  # CPU time on Windows
        machine.now += 1_000
        return machine.now // step * step

    for (found,) in measure(machine.runs, rounds=3, clock=clock):
        assert found == pytest.approx(2_000_000, rel=0.02)
    monkeypatch.setattr(timer, "_IDLE_NS", 0)
    with pytest.raises(CollectError, match=r"by the clock, expected at least .*; use a finer clock"):
        measure([int], rounds=3, clock=clock)


def test_candidates_take_turns_in_a_new_order_each_round():
    machine = Machine([10] * 9)
    machine.measure(rounds=3, least_ns=1)
    turns = np.array(machine.order[9:]).reshape(6, 9)
    assert (np.sort(turns, 1) == np.arange(9)).all()
    assert len(np.unique(turns, axis=0)) == 6


def test_pinning_ends_with_its_context():
    before = cores()
    with pinned():
        assert cores() in (before, before[-1:])
    assert cores() == before


# Tasks


def test_quality_of_a_measurement(tmp_path):
    tau, spread = Quality("sum", "sum_7", "train", 9, 1.05, 0.5).doubts()
    assert "sum_7: retest tau 0.50 is below 0.7" in tau
    assert "1.05 is below 1.1" in spread
    (path,) = write_collection(tmp_path, {"train": 1}).rglob("*.npz")
    quality = Quality.read(path)
    assert (quality.family, quality.split, quality.configs, quality.doubts()) == ("matmul", "train", 30, [])
    rewrite(path, config_runtime_repeat=np.full(30, 7))
    assert Quality.read(path).tau == 0.0
    rewrite(path, drop=("config_runtime_repeat",))
    with pytest.raises(CollectError, match="expected config_runtime and config_runtime_repeat; collect this file"):
        Quality.read(path)


def test_tasks_are_selected_by_family_group_or_graph():
    selected = tasks.choose(tiles.FAMILIES, ["conv", "softmax"], ["train", "test"], Path("root"))
    assert {"softmax", "conv2d", "conv1d"} < {task.family for task in selected}
    assert "conv2d_dilated" not in {task.family for task in selected}, "of the validation split"
    selected = tasks.choose(layouts.FAMILIES, ["resnet", "mlp_gated", "senet"], ["train", "test"], Path("root"))
    assert {task.path.as_posix(): task.variant for task in selected} == {
        "root/train/mlp_gated.npz": "gated",
        "root/test/resnet_nhwc.npz": "nhwc",
        "root/test/resnet_nchw.npz": "nchw",
    }
    with pytest.raises(
        UsageError, match="unknown family, group or graph alexnet; groups: convolutions, dots; families: lenet"
    ):
        tasks.choose(layouts.FAMILIES, ["alexnet"], SPLITS, Path("root"))


# The command


@pytest.fixture(params=KINDS)
def two_graphs(request, monkeypatch):
    """The module, arguments that measure two small graphs, and where their files go."""
    module, collection = KINDS[request.param]
    small = ["--configs", "3", "--rounds", "1"]
    if request.param == "tile":
        if numba_config.DISABLE_JIT:
            pytest.skip("kernels of full size need the JIT")
        family = replace(module.FAMILIES["sum_minor"], variants="40x50 60x30")
        arguments = ["tile", "--families", "sum_minor", *small]
    else:
        family = replace(
            module.FAMILIES["tensornet"],
            network=lambda net, x: jax.numpy.tanh(net.dense("w", x.reshape(4, 6), 2)),
            inputs=((24,),),
        )
        arguments = ["layout", "--programs", "tensornet", *small]
    monkeypatch.setitem(module.FAMILIES, family.name, family)
    return module, arguments, Path(collection) / "train", family.stems


def test_an_interrupt_leaves_complete_files_which_are_kept(two_graphs, tmp_path, capsys, monkeypatch):
    module, arguments, folder, stems = two_graphs
    command = [*arguments, "--out", str(tmp_path)]
    real = module.measure_variant

    def interrupted(family, variant, settings):
        if stems[1].endswith(variant):
            raise KeyboardInterrupt
        return real(family, variant, settings)

    with monkeypatch.context() as patch:
        patch.setattr(module, "measure_variant", interrupted)
        assert main(command) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    (first,) = (tmp_path / folder).iterdir()
    assert read_graph(first).name == stems[0]
    before = first.read_bytes()
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    (measured,) = json.loads(out)
    assert measured["graph"] == stems[1]
    assert {"family", "split", "configs", "spread", "tau"} < set(measured)
    assert "1 of 2 files exist and are kept" in err
    assert first.read_bytes() == before
    second = first.with_name(f"{stems[1]}.npz")
    assert err.count("warning: ") >= len(Quality.read(second).doubts())
    assert read_graph(second).n_configs == 3
    first.unlink()
    assert main(command) == 0
    assert stems[0] in capsys.readouterr().out


@pytest.mark.skipif(len(cores()) < 2, reason="one core")
def test_parallel_jobs_write_every_file(tmp_path):
    before = cores()
    todo = [Task("matmul", variant, tmp_path / "valid" / f"matmul_{variant}.npz") for variant in "abc"]
    found = list(tasks.collect(Measured(matmul_arrays((8, 8, 8), 3, 0)), todo, Settings(3, 1), jobs=2))
    assert sorted(each.graph for each in found) == sorted(task.path.stem for task in todo)
    assert all(read_graph(task.path).n_configs == 3 for task in todo)
    assert cores() == before
    with pytest.raises(UsageError, match="--jobs 4096: expected at most"):
        list(tasks.collect(print, todo, Settings(3, 1), jobs=4096))


def test_without_jax_the_error_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['jax'] = None; from gbr.collect.__main__ import main;"
        f"sys.exit(main(['tile', '--out', {str(tmp_path)!r}]) + main(['layout', '--table']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.count("pip install 'gbr[collect]'") for line in done.stderr.splitlines()] == [1, 1]
    assert list(tmp_path.iterdir()) == []


# The collections that come with gbr


@pytest.mark.parametrize("kind", KINDS)
def test_committed_collections_are_complete(kind, capsys):
    families, folder = KINDS[kind][0].FAMILIES, DATA / KINDS[kind][1]
    committed = set(folder.glob("*/*.npz"))
    assert committed == {task.path for task in tasks.choose(families, None, SPLITS, folder)}
    assert sum(path.stat().st_size for path in committed) <= 3 << 20
    assert main([kind, "--table", "--out", str(DATA)]) == 0
    assert capsys.readouterr().out in (DATA / "README.md").read_text(encoding="utf-8")
    for split in SPLITS:
        assert {each.group for each in families.values() if each.split == split} == {
            each.group for each in families.values()
        }
