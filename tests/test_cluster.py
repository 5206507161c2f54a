"""A scheduler and two worker processes on loopback, as real as those of a cluster."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import Ranker, cluster
from gbr import features as features_command
from gbr import train as train_command
from gbr.cluster import Workers, connected
from gbr.cluster_fit import Learnt, balanced
from gbr.data import build as room
from gbr.data.build import build
from gbr.data.collection import Subset, resolve
from gbr.data.store import FeatureStore
from gbr.errors import DataError, GbrError, MissingLibraryError, UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models.training_set import Chosen
from tests.collection import trained, write_collection
from tests.made import collection

distributed = pytest.importorskip("distributed", reason="the extra gbr[cluster] is not installed")

TILE = Subset("tile:xla")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "memory_limit": 0}
    with distributed.LocalCluster(**two, dashboard_address=":0") as local:
        yield str(local.scheduler_address)


@contextmanager
def joined(address: str, root: Path, subset: Subset = TILE) -> Iterator[Workers]:
    with connected(address, subset, root, root / "store") as workers:
        assert workers is not None
        yield workers


def files_of(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*.parquet")}


@pytest.mark.parametrize("name", ["tile:xla", "layout:xla:random"])
def test_a_cluster_builds_the_store_of_one_machine(address: str, tmp_path: Path, name: str) -> None:
    collection(tmp_path, name, train=4, valid=1, test=2)
    subset = Subset(name)
    alone = build(subset, tmp_path, tmp_path / "alone", jobs=1)
    with joined(address, tmp_path, subset) as workers:
        report = build(subset, tmp_path, tmp_path / "store", workers=workers)
        again = build(subset, tmp_path, tmp_path / "store", workers=workers)
    assert (report.built, report.jobs, report.rows) == (7, 2, alone.rows)
    assert (again.built, again.kept) == (0, 7)
    assert files_of(tmp_path / "store") == files_of(tmp_path / "alone")
    there, here = (FeatureStore(tmp_path / store, name).manifest for store in ("store", "alone"))
    assert there == here
    assert not list((tmp_path / "store").glob(".cluster-*"))


def test_what_dask_logs_is_left_to_errors(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path, train=1)
    logger = logging.getLogger("distributed.batched")
    before = logger.getEffectiveLevel()
    with joined(address, tmp_path):
        assert not logger.isEnabledFor(logging.CRITICAL)
    assert logger.getEffectiveLevel() == before
    assert capsys.readouterr().err == ""


def test_a_bad_file_is_named_with_the_worker(address: str, tmp_path: Path) -> None:
    collection(tmp_path, train=2)
    with joined(address, tmp_path) as workers, pytest.raises(DataError, match=r"worker tcp://127.0.0.1:\d+: /"):
        list(workers.each(room.read_graph, [tmp_path / "absent.npz"]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data"), {"train": 12, "valid": 4, "test": 6}, n_configs=60)


def mean_tau(run: Path, root: Path) -> float:
    slates = FeatureStore(root / "store", "tile:cpu").load("test")
    scores = Ranker.load(run).predict(slates.X)
    rows = [slates.rows(number) for number in range(len(slates))]
    return float(np.mean([kendall_tau(scores[own], slates.target[own]) for own in rows]))


#: How far apart a cluster and one machine may be: bins, and samples of rows, are each worker's own.
TOLERANCE = 0.02


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_a_cluster_fits_the_ranker_of_one_machine(address: str, root: Path, tmp_path: Path, backend: str) -> None:
    here = trained(root, out=tmp_path / "here", backend=backend)
    with joined(address, root, resolve("tile:cpu", root)) as workers:
        there = trained(root, out=tmp_path / "there", backend=backend, workers=workers)
    ours, theirs = Ranker.load(here), Ranker.load(there)
    assert theirs.settings_ == ours.settings_
    assert theirs.trained_on_ == ours.trained_on_
    assert theirs.n_features_in_ == ours.n_features_in_
    assert theirs.best_score_ is not None
    assert theirs.best_score_ == pytest.approx(ours.best_score_, abs=TOLERANCE)
    assert mean_tau(here, root) > 0.9
    assert mean_tau(there, root) == pytest.approx(mean_tau(here, root), abs=TOLERANCE)
    assert b"127.0.0.1" not in next(there.glob("model-*")).read_bytes()


def test_workers_bin_by_what_each_of_them_found(address: str, root: Path, tmp_path: Path) -> None:
    """Every worker chooses the bins of some columns, for all: bins of its own would not fit the others' histograms."""
    with joined(address, root, resolve("tile:cpu", root)) as workers:
        model = next(
            trained(root, out=tmp_path / "run", backend="lightgbm", workers=workers).glob("model-*")
        ).read_text()
    (told,) = re.findall("^feature_infos=(.*)$", model, flags=re.MULTILINE)
    slates = FeatureStore(root / "store", "tile:cpu").load("train")
    sizes = np.diff(train_command.indptr_of(slates, train_command.distinct(slates)[0]))
    ends = [[(X.min(), X.max()) for X in slates.take(part).X.T] for part in balanced(sizes, 2)]
    found = set()
    for info, *each in zip(told.split(), *ends, strict=True):
        if info != "none" and each[0] != each[1]:
            found.add(each.index(tuple(map(float, info.strip("[]").split(":")))))
    assert found == {0, 1}


def test_prices_are_those_of_one_machine(address: str, tmp_path: Path) -> None:
    collection(tmp_path, "layout:xla:random", train=5, valid=2, test=1)
    given = {"subset": "layout:xla:random", "backend": "costmodel", "settings": {}}
    here = trained(tmp_path, out=tmp_path / "here", **given)
    with joined(address, tmp_path, Subset("layout:xla:random")) as workers:
        there = trained(tmp_path, out=tmp_path / "there", workers=workers, **given)
    assert next(there.glob("model-*")).read_bytes() == next(here.glob("model-*")).read_bytes()
    assert Ranker.load(there).best_score_ == Ranker.load(here).best_score_


def test_settings_are_not_searched_on_a_cluster(address: str, root: Path, tmp_path: Path) -> None:
    with (
        joined(address, root, resolve("tile:cpu", root)) as workers,
        pytest.raises(UsageError, match="--search: settings are searched on one machine"),
    ):
        trained(root, out=tmp_path / "run", trials=2, workers=workers)


def test_the_commands_take_an_address(
    address: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)  # which the workers know nothing of: relative folders are made absolute
    shared = ["--subset", "tile:cpu", "--data", ".", "--store", "relative", "--cluster", address]
    assert features_command.main(["build", *shared]) == 0
    out = ["--out", str(tmp_path / "run"), "--backend", "ensemble", "--set", "n_estimators=30"]
    assert train_command.main([*shared, *out]) == 0
    ranker = Ranker.load(tmp_path / "run")
    valid = FeatureStore(root / "relative", "tile:cpu").load("valid")
    assert ranker.best_score_ == pytest.approx(ranker.score(valid.X, valid.target, qid=valid.qid), abs=0.01)
    assert ranker.best_score_ > 0.85
    assert features_command.main(["build", *shared, "--jobs", "2"]) == 2
    assert "--jobs: on a cluster its workers decide" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder that one process alone sees needs /proc")
@pytest.mark.parametrize(("hidden", "told"), [("data", "does not see .*--data"), ("store", "does not see .*--store")])
def test_a_worker_that_does_not_see_the_folders_is_refused(
    address: str, tmp_path: Path, hidden: str, told: str
) -> None:
    collection(tmp_path, train=1)
    (tmp_path / "store").mkdir()
    folders = {"data": tmp_path, "store": tmp_path / "store"}
    handle = os.open(folders[hidden], os.O_RDONLY)
    folders[hidden] = Path(f"/proc/self/fd/{handle}")
    refused = rf"--cluster tcp://.*: worker tcp://.* {told} \(2 of 2 workers are unfit\)"
    try:
        with (
            pytest.raises(GbrError, match=refused),
            connected(address, TILE, folders["data"], folders["store"]),
        ):
            pass
    finally:
        os.close(handle)
    assert not list((tmp_path / "store").iterdir())


def test_other_versions_are_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=1)
    monkeypatch.setattr(cluster, "__version__", "99.0")
    refused = r"worker tcp://\S+ has gbr \S+, this machine 99.0; install the same"
    with pytest.raises(GbrError, match=refused), joined(address, tmp_path):
        pass


def test_an_address_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collection(tmp_path, train=1)
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    given = ["--subset", "tile:xla", "--data", str(tmp_path), "--store", str(tmp_path / "store")]
    for main, before in ((features_command.main, ["build"]), (train_command.main, [])):
        assert main([*before, *given, "--cluster", "tcp://127.0.0.1:9"]) == 1
        told = capsys.readouterr().err.splitlines()
        assert told[-1].startswith(
            "gbr features: error: --cluster tcp://127.0.0.1:9: no Dask scheduler answers; start one with"
        )
        assert "Traceback" not in " ".join(told)
    assert features_command.main(["build", *given, "--cluster", "localhost"]) == 2
    assert "want the address of a Dask scheduler, tcp://HOST:PORT" in capsys.readouterr().err


def test_a_scheduler_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=1)
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1.0)
    refused = r"has no workers; start them with `dask worker tcp://\S+ --nworkers"
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(GbrError, match=refused),
        joined(empty.scheduler_address, tmp_path),
    ):
        pass


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[cluster\]'"), joined("tcp://a:1", tmp_path):
        pass


def test_parts_are_whole_slates_of_about_as_many_rows() -> None:
    sizes = np.random.default_rng(0).integers(1, 100, 40)
    parts = balanced(sizes, 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(40))
    loads = [int(sizes[part].sum()) for part in parts]
    assert max(loads) - min(loads) <= sizes.max()
    assert [part.tolist() for part in balanced(np.array([5, 0]), 4)] == [[0], [1]]


def test_a_part_is_learnt_from_as_in_the_whole(root: Path) -> None:
    store = FeatureStore(root / "part", "tile:cpu")
    build(resolve("tile:cpu", root), root, root / "part", jobs=1)
    known = store.load("train")
    rows, target = train_command.distinct(known)
    chosen = Chosen(rows, target, train_command.indptr_of(known, rows), None)
    whole = Learnt.of(store, known, chosen, None, known.columns, 1 << 30, 0)
    graphs = np.array([1, 4, 5, 11])
    part = whole.take(graphs).training()
    expected = [slice(*whole.indptr[graph : graph + 2]) for graph in graphs]
    np.testing.assert_array_equal(part.X, np.concatenate([known.X[rows[own]] for own in expected]))
    np.testing.assert_array_equal(part.target, np.concatenate([target[own] for own in expected]))
    np.testing.assert_array_equal(part.sizes, [own.stop - own.start for own in expected])
    assert len(rows) < len(known.X)


def test_a_worker_lost_in_a_fit_is_told_and_the_others_are_free(
    address: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = {"n_estimators": 10**6, "early_stopping_rounds": 10**6}
    together = Workers.together
    with joined(address, root, resolve("tile:cpu", root)) as workers:
        pids = dict(zip(workers.threads(), workers.ask(os.getpid, workers=list(workers.threads())), strict=True))
        kills = iter([threading.Timer(1.0, os.kill, (pids[max(pids)], signal.SIGKILL))])

        def doomed(self: Workers, *given: Any) -> Any:
            for kill in kills:
                kill.start()
            return together(self, *given)

        monkeypatch.setattr(Workers, "together", doomed)
        with pytest.raises(GbrError, match=rf"worker {max(pids)} was lost during the fit.*repeat the command"):
            trained(root, out=tmp_path / "run", backend="lightgbm", settings=endless, workers=workers)
        assert not (tmp_path / "run").exists()
        again = trained(root, out=tmp_path / "run", backend="lightgbm", workers=workers)
    assert mean_tau(again, root) > 0.9


def logged_work(task: Any) -> Any:
    """The work of build, slow enough to be killed in, and told in a file beside the store."""
    with (task.store_root / "log").open("a") as log:
        log.write(f"{task.stem} {os.getpid()}\n")
    time.sleep(0.15)
    return room._work(task)


def test_a_killed_worker_costs_its_own_work_only(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=24)
    build(TILE, tmp_path, tmp_path / "alone", jobs=1)
    log = tmp_path / "store" / "log"
    killed: list[int] = []

    def begun() -> list[tuple[str, int]]:
        return [(stem, int(pid)) for stem, pid in map(str.split, log.read_text().splitlines())]

    @contextmanager
    def killing(total: int) -> Iterator[Any]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            pids = {pid for _, pid in begun()}
            if not killed and done >= 4 and len(pids) == 2:
                killed.append(begun()[-1][1])
                os.kill(killed[0], signal.SIGKILL)

        yield advance
        assert done == total

    monkeypatch.setattr(room, "_work", logged_work)
    with joined(address, tmp_path) as workers:
        report = build(TILE, tmp_path, tmp_path / "store", workers=workers, progress=killing)
    assert report.built == 24
    assert files_of(tmp_path / "store") == files_of(tmp_path / "alone")
    assert len(killed) == 1
    twice = {stem for stem, _ in begun() if [name for name, _ in begun()].count(stem) > 1}
    assert twice, "the worker died idle"
    assert twice <= {stem for stem, pid in begun() if pid == killed[0]}
    assert len(begun()) - 24 == len(twice)
    assert {pid for _, pid in begun()} > {killed[0]}
