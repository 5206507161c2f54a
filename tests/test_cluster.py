"""Building and fitting on a real scheduler with two worker processes on the loopback interface."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gbr import Ranker, cluster
from gbr import features as features_command
from gbr import train as train_command
from gbr.cluster import Workers, connected
from gbr.data import build as build_module
from gbr.data.build import build
from gbr.data.collection import Subset, resolve
from gbr.data.store import FeatureStore
from gbr.errors import DataError, GbrError, MissingLibraryError, UsageError
from tests.made import collection, trained, write_collection

distributed = pytest.importorskip("distributed", reason="the extra gbr[cluster] is not installed")

TILE = Subset("tile:xla")
#: Tolerance of the tau of a cluster relative to one machine: every worker chooses its own bins and samples rows.
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "memory_limit": 0}
    with distributed.LocalCluster(**two, dashboard_address=":0") as local:
        yield str(local.scheduler_address)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data"), {"train": 12, "valid": 4, "test": 6}, n_configs=60)


@contextmanager
def joined(address: str, root: Path, subset: Subset = TILE) -> Iterator[Workers]:
    with connected(address, subset, root, root / "store") as workers:
        assert workers is not None
        yield workers


def parquet_files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*.parquet")}


def tau_on_test(run: Path, root: Path) -> float:
    ranker = Ranker.load(run).set_params(n_jobs=1)
    groups = FeatureStore(root / "store", "tile:cpu").load("test", columns=ranker.feature_names_in_.tolist())
    return ranker.score(groups.X, groups.target, qid=groups.qid)


# --- building --------------------------------------------------------------------------------------------------------


def test_build_writes_the_same_store_as_one_machine(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection(tmp_path, train=4, valid=1, test=2)
    single = build(TILE, tmp_path, tmp_path / "single", jobs=1)
    with joined(address, tmp_path) as workers:
        report = build(TILE, tmp_path, tmp_path / "store", workers=workers)
        again = build(TILE, tmp_path, tmp_path / "store", workers=workers)
        assert capsys.readouterr().err == ""
        with pytest.raises(DataError, match=r"absent\.npz: cannot be read"):
            list(workers.each(build_module.read_graph, [tmp_path / "absent.npz"]))
    assert (report.built, report.jobs, report.rows) == (7, 2, single.rows)
    assert (again.built, again.kept) == (0, 7)
    assert parquet_files(tmp_path / "store") == parquet_files(tmp_path / "single")
    built, expected = (FeatureStore(tmp_path / folder, TILE.name).manifest for folder in ("store", "single"))
    assert built == expected
    assert not list((tmp_path / "store").glob(".cluster-*"))


def work_that_dies_once(task: Any) -> Any:
    """The work of a build, logged in a file in the store; the first process that builds one of the graphs is killed."""
    with (task.store_root / "log").open("a") as log:
        log.write(f"{task.path.stem} {os.getpid()}\n")
    killed = task.store_root / "killed"
    if task.path.stem == "train_5" and not killed.exists():
        killed.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return build_module._work(task)


def test_killed_worker_repeats_only_its_tasks(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=12)
    build(TILE, tmp_path, tmp_path / "single", jobs=1)
    monkeypatch.setattr(build_module, "_work", work_that_dies_once)
    with joined(address, tmp_path) as workers:
        assert build(TILE, tmp_path, tmp_path / "store", workers=workers).built == 12
    assert parquet_files(tmp_path / "store") == parquet_files(tmp_path / "single")
    started = [line.split() for line in (tmp_path / "store/log").read_text().splitlines()]
    stems = [stem for stem, _ in started]
    repeated = {stem for stem in stems if stems.count(stem) > 1}
    assert {"train_5"} <= repeated <= {stem for stem, pid in started if pid == (tmp_path / "store/killed").read_text()}
    assert len(stems) == 12 + len(repeated)


# --- fitting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_fit_ranks_as_well_as_on_one_machine(address: str, root: Path, tmp_path: Path, backend: str) -> None:
    single = trained(root, out=tmp_path / "single", backend=backend)
    with joined(address, root, resolve("tile:cpu", root)) as workers:
        run = trained(root, out=tmp_path / "cluster", backend=backend, workers=workers)
        with pytest.raises(UsageError, match="--search: "):
            trained(root, out=tmp_path / "search", trials=2, workers=workers)
    expected, ranker = Ranker.load(single), Ranker.load(run)
    assert ranker.settings_ == expected.settings_
    assert ranker.trained_on_ == expected.trained_on_
    assert ranker.n_features_in_ == expected.n_features_in_
    assert ranker.best_score_ == pytest.approx(expected.best_score_, abs=TOLERANCE)
    assert tau_on_test(single, root) > 0.9
    assert tau_on_test(run, root) == pytest.approx(tau_on_test(single, root), abs=TOLERANCE)
    assert b"127.0.0.1" not in next(run.glob("model-*")).read_bytes()


def test_cost_model_equals_that_of_one_machine(address: str, tmp_path: Path) -> None:
    collection(tmp_path, "layout:xla:random", train=5, valid=2, test=1)
    options = {"subset": "layout:xla:random", "backend": "costmodel", "settings": {}}
    single = trained(tmp_path, out=tmp_path / "single", **options)
    with joined(address, tmp_path, Subset("layout:xla:random")) as workers:
        run = trained(tmp_path, out=tmp_path / "cluster", workers=workers, **options)
    assert next(run.glob("model-*")).read_bytes() == next(single.glob("model-*")).read_bytes()
    assert Ranker.load(run).best_score_ == Ranker.load(single).best_score_


def test_commands_accept_a_cluster(
    address: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)  # workers have another working directory
    shared = ["--subset", "tile:cpu", "--data", ".", "--store", "relative", "--cluster", address]
    assert features_command.main(["build", *shared]) == 0
    out = ["--out", str(tmp_path / "run"), "--backend", "ensemble", "--set", "n_estimators=30"]
    assert train_command.main([*shared, *out]) == 0
    ranker = Ranker.load(tmp_path / "run")
    columns = ranker.feature_names_in_.tolist()
    valid = FeatureStore(root / "relative", "tile:cpu").load("valid", columns=columns)
    assert ranker.best_score_ == pytest.approx(ranker.score(valid.X, valid.target, qid=valid.qid), abs=0.01)
    assert ranker.best_score_ > 0.85
    assert features_command.main(["build", *shared, "--jobs", "2"]) == 2
    assert "--jobs: has no effect with --cluster" in capsys.readouterr().err


def test_lost_worker_ends_a_fit_and_frees_the_others(
    address: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = {"n_estimators": 10**6, "early_stopping_rounds": 10**6}
    together = Workers.together
    with joined(address, root, resolve("tile:cpu", root)) as workers:
        victim = max(workers.threads())
        (pid,) = workers.run(os.getpid, workers=[victim])
        timers = [threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))]

        def killing(self: Workers, *arguments: Any) -> Any:
            while timers:
                timers.pop().start()
            return together(self, *arguments)

        monkeypatch.setattr(Workers, "together", killing)
        monkeypatch.setattr(cluster, "_POLL_SECONDS", 0.2)
        with pytest.raises(GbrError, match=rf"worker {victim} was lost during the fit.*repeat the command"):
            trained(root, out=tmp_path / "run", backend="lightgbm", settings=endless, workers=workers)
        assert not (tmp_path / "run").exists()
        again = trained(root, out=tmp_path / "run", backend="lightgbm", workers=workers)
    assert tau_on_test(again, root) > 0.9


# --- connecting ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc for a path of one process")
@pytest.mark.parametrize("hidden", ["data", "store"])
def test_worker_that_does_not_see_the_folders_is_refused(address: str, tmp_path: Path, hidden: str) -> None:
    collection(tmp_path, train=1)
    (tmp_path / "store").mkdir()
    folders = {"data": tmp_path, "store": tmp_path / "store"}
    handle = os.open(folders[hidden], os.O_RDONLY)
    folders[hidden] = Path(f"/proc/self/fd/{handle}")
    message = rf"--cluster tcp://.*: worker tcp://.* cannot read .*--{hidden} \(\d of \d workers\)"
    try:
        with pytest.raises(GbrError, match=message), connected(address, TILE, **folders):
            pass
    finally:
        os.close(handle)
    assert not list((tmp_path / "store").iterdir())


def test_worker_with_another_version_is_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=1)
    monkeypatch.setattr(cluster, "__version__", "99.0")
    message = r"worker tcp://\S+ has gbr \S+, expected 99.0"
    with pytest.raises(GbrError, match=message), joined(address, tmp_path):
        pass


def test_missing_scheduler_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collection(tmp_path, train=1)
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    options = ["--subset", "tile:xla", "--data", str(tmp_path), "--store", str(tmp_path / "store")]
    for main, before in ((features_command.main, ["build"]), (train_command.main, [])):
        assert main([*before, *options, "--cluster", "tcp://127.0.0.1:9"]) == 1
        error = capsys.readouterr().err
        assert "error: --cluster tcp://127.0.0.1:9: no Dask scheduler answers; start one with" in error
        assert "Traceback" not in error
    assert features_command.main(["build", *options, "--cluster", "localhost"]) == 2
    assert "expected the address of a Dask scheduler, tcp://HOST:PORT" in capsys.readouterr().err


def test_scheduler_without_workers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=1)
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1.0)
    message = r"has no workers; start them with `dask worker tcp://\S+ --nworkers"
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(GbrError, match=message),
        joined(empty.scheduler_address, tmp_path),
    ):
        pass


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[cluster\]'"), joined("tcp://a:1", tmp_path):
        pass
