"""The timer, the command for both kinds of collections, and the collections that come with gbr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numba import config as numba_config

from gbr.collect import _jax, layouts, tasks, tiles
from gbr.collect.__main__ import main
from gbr.collect.families import FAMILIES
from gbr.collect.tasks import Quality, Settings, Task
from gbr.collect.timer import LEAST_ROUNDS, cores, doubts, measure, pinned, retest_tau
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph
from gbr.errors import CollectError, MissingLibraryError, UsageError

DATA = Path(__file__).parents[1] / "data"
COLLECTIONS = {"tile": (FAMILIES, tiles.COLLECTION), "layout": (layouts.FAMILIES, layouts.COLLECTION)}

needs_jit = pytest.mark.skipif(bool(numba_config.DISABLE_JIT), reason="kernels of full size need the JIT")


# Timer


class Machine:
    """A clock that the runs themselves advance; some runs are slow, as on a shared machine."""

    def __init__(self, costs, noise=0.0):
        self.now = 0
        self.calls = [0] * len(costs)
        self.order = []
        self.rng = np.random.default_rng(0)
        self.noise = noise
        self.runs = [lambda number=number, cost=cost: self.work(number, cost) for number, cost in enumerate(costs)]

    def work(self, number, cost):
        self.calls[number] += 1
        self.order.append(number)
        self.now += int(cost * (1 + self.noise * (self.rng.random() if self.rng.random() < 0.5 else 0)))

    def clock(self):
        return self.now


def test_minimum_of_rounds_is_the_undisturbed_time():
    costs = [300_000, 250_000, 1_000_000, 250_001]
    machine = Machine(costs, noise=3.0)
    timing = measure(machine.runs, rounds=12, least_ns=1, clock=machine.clock)
    assert timing.first.tolist() == timing.second.tolist() == costs
    assert timing.first.dtype == np.int64
    assert timing.tau == pytest.approx(1.0)
    assert timing.spread == 4.0


def test_short_runs_are_repeated_within_a_sample():
    machine = Machine([1_000, 400_000])
    timing = measure(machine.runs, rounds=2, least_ns=200_000, clock=machine.clock)
    assert timing.first.tolist() == [1_000, 400_000]
    assert machine.calls == [1 + 2 * 2 * 200, 1 + 2 * 2]


def test_candidates_take_turns_in_a_new_order_each_round():
    machine = Machine([10] * 9)
    measure(machine.runs, rounds=3, least_ns=1, clock=machine.clock)
    turns = np.array(machine.order[9:]).reshape(6, 9)
    assert (np.sort(turns, 1) == np.arange(9)).all()
    assert len(np.unique(turns, axis=0)) == 6


def test_slow_candidates_skip_later_rounds():
    machine = Machine([1_000, 50_000])
    measure(machine.runs, rounds=10, least_ns=1, enough_ns=100_000, clock=machine.clock)
    assert machine.calls == [1 + 2 * 10, 1 + 2 * LEAST_ROUNDS]


def test_measuring_without_a_clock_or_candidates_fails():
    with pytest.raises(CollectError, match="clock did not advance during 7 runs of candidate 0"):
        measure([lambda: None], rounds=1, least_ns=7, clock=lambda: 5)
    with pytest.raises(CollectError, match="0 runs in 3 rounds"):
        measure([], rounds=3)


def test_quality_of_a_measurement():
    assert doubts(5.0, 0.9) == []
    tau, spread = Quality("sum", "sum_7", "train", 9, 1.05, 0.5).doubts()
    assert "sum_7: retest tau 0.50 is below 0.7" in tau
    assert "1.05 is below 1.1" in spread
    assert retest_tau(np.array([5, 5, 5]), np.array([1, 2, 3])) == 0.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_pinning_ends_with_its_context():
    before = os.sched_getaffinity(0)
    with pinned() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


# Tasks


def test_tasks_are_selected_by_family_group_or_graph():
    selected = tasks.choose(FAMILIES, ["conv", "softmax"], ["train", "test"], Path("root"))
    assert {"softmax", "conv2d", "conv1d"} < {task.family for task in selected}
    assert "conv2d_dilated" not in {task.family for task in selected}, "of the validation split"
    assert all(task.path.parent == Path("root") / FAMILIES[task.family].split for task in selected)
    selected = tasks.choose(layouts.FAMILIES, ["resnet", "mlp_gated", "senet"], ["train", "test"], Path("root"))
    assert [task.path.as_posix() for task in selected] == [
        "root/train/mlp_gated.npz",
        "root/test/resnet_nhwc.npz",
        "root/test/resnet_nchw.npz",
    ]
    assert [task.variant for task in selected] == ["gated", "nhwc", "nchw"]
    with pytest.raises(
        UsageError, match="unknown family, group or graph alexnet; groups: convolutions, dots; families: lenet"
    ):
        tasks.choose(layouts.FAMILIES, ["alexnet"], SPLITS, Path("root"))


# The command


@pytest.fixture(params=["tile", "layout"])
def two_graphs(request, monkeypatch):
    """Arguments that measure two small graphs, and where their files go."""
    jax = pytest.importorskip("jax", minversion="0.7")
    small = ["--configs", "3", "--rounds", "1"]
    if request.param == "tile":
        if numba_config.DISABLE_JIT:
            pytest.skip("kernels of full size need the JIT")
        monkeypatch.setitem(FAMILIES, "sum_minor", replace(FAMILIES["sum_minor"], variants="40x50 60x30"))
        return (
            ["tile", "--families", "sum_minor", *small],
            tiles.COLLECTION / "train",
            ["sum_minor_40x50", "sum_minor_60x30"],
        )
    from gbr.collect import programs

    @programs._inputs((24,))
    def tensornet(net, x):
        return jax.numpy.tanh(net.dense("w", x.reshape(4, 6), 2))

    monkeypatch.setattr(programs, "tensornet", tensornet)
    stems = ["tensornet_chain", "tensornet_tree-grad"]
    return ["layout", "--programs", "tensornet", *small], layouts.COLLECTION / "train", stems


def test_existing_files_are_kept(two_graphs, tmp_path, capsys):
    arguments, folder, stems = two_graphs
    command = [*arguments, "--json", "--out", str(tmp_path)]
    assert main(command) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [each["graph"] for each in measured] == stems
    assert {"family", "split", "configs", "spread", "tau"} < set(measured[0])
    files = [tmp_path / folder / f"{stem}.npz" for stem in stems]
    before = files[0].read_bytes()
    files[1].unlink()
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert stems[1] in out
    assert stems[0] not in out
    assert "1 of 2 files exist and are kept" in err
    assert err.count("warning: ") >= len(Quality.read(files[1]).doubts())
    assert files[0].read_bytes() == before
    assert read_graph(files[1]).n_configs == 3


def test_an_interrupt_leaves_complete_files(two_graphs, tmp_path, capsys, monkeypatch):
    arguments, folder, stems = two_graphs
    module = tiles if arguments[0] == "tile" else layouts
    real = module.collect

    def interrupted(task, settings):
        if task.path.stem == stems[1]:
            raise KeyboardInterrupt
        return real(task, settings)

    monkeypatch.setattr(module, "collect", interrupted)
    assert main([*arguments, "--out", str(tmp_path)]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    (path,) = (tmp_path / folder).iterdir()
    assert read_graph(path).name == stems[0]


@needs_jit
@pytest.mark.skipif(len(cores()) < 2, reason="one core")
def test_parallel_jobs_write_every_file(tmp_path):
    pytest.importorskip("jax")
    before = cores()
    todo = [
        Task("outer_update", tmp_path / "valid" / f"outer_update_{shape}.npz") for shape in ("40x50", "60x30", "31x97")
    ]
    found = list(tiles.collect_all(todo, Settings(3, 1), jobs=2))
    assert sorted(each.graph for each in found) == sorted(task.path.stem for task in todo)
    assert all(read_graph(task.path).n_configs == 3 for task in todo)
    assert cores() == before


@pytest.mark.parametrize("arguments", [["tile", "--families", "matvec"], ["layout", "--programs", "mlp"]])
def test_without_jax_the_error_names_the_extra(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[collect\]'"):
        _jax.load()
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "gbr[collect]" in err
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tile", "--families", "nothing"], "unknown family, group or graph nothing"),
        (["layout", "--programs", "nothing"], "unknown family, group or graph nothing"),
        (["tile", "--configs", "0"], "0 is not in the range x>=1"),
        (["tile", "--jobs", "4096"], "--jobs 4096: expected at most"),
    ],
)
def test_usage_errors_are_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from gbr.collect.__main__ import main; code = main(['tile', '--help']) or main(['layout', '-h']);"
        "sys.exit(code or len({'numba', 'jax', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--families" in done.stdout
    assert "--programs" in done.stdout


# The collections that come with gbr


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_committed_collections_are_complete(kind, capsys):
    families, folder = COLLECTIONS[kind]
    committed = set((DATA / folder).glob("*/*.npz"))
    assert committed == {task.path for task in tasks.choose(families, None, SPLITS, DATA / folder)}
    assert sum(path.stat().st_size for path in committed) <= 3 << 20
    assert main([kind, "--table", "--out", str(DATA)]) == 0
    table = capsys.readouterr().out
    assert table in (DATA / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "least", "most"), [("tile", 0.5, 0.65), ("layout", 0.5, 0.7)])
def test_every_split_has_families_of_every_group(kind, least, most):
    families = COLLECTIONS[kind][0].values()
    stems = [stem for family in families for stem in family.stems]
    assert len(set(stems)) == len(stems)
    assert all(stem.rsplit("_", 1)[0] == family.name for family in families for stem in family.stems)
    for split in SPLITS:
        assert {each.group for each in families if each.split == split} == {each.group for each in families}
    assert least < sum(each.split == "train" for each in families) / len(families) < most
