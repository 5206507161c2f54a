"""Fits and predictions in several threads, in forked processes, and with a given number of threads."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gbr import Ranker, load
from gbr.errors import UsageError
from gbr.models import openmp

RNG = np.random.default_rng(0)
X = RNG.random((300, 8)) * (RNG.random((300, 8)) < 0.5)
Y = X[:, 0] * X[:, 1] + X[:, 2]
QID = np.repeat(range(6), 50)
BACKENDS = ("lightgbm", "xgboost", "ensemble")


def fit(backend: str, n_jobs: int | None) -> Ranker:
    return Ranker(backend, n_estimators=4, n_jobs=n_jobs).fit(X, Y, qid=QID)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_fit_and_predict_with_different_n_jobs(backend: str) -> None:
    first = fit(backend, 1)
    expected, filters = first.predict(X), list(warnings.filters)
    rankers = [copy.copy(first).set_params(n_jobs=n_jobs) for n_jobs in (1, 2, None)]

    def as_alone(number: int) -> bool:
        ranker, rows = rankers[number % 3], 2 + number % 299
        if number % 40 == 0:
            ranker = fit(backend, ranker.n_jobs)
        if number % 10 == 0:
            assert np.isfinite(ranker.model_.compare(X, 0, rows - 1, ranker.n_jobs or 0)).all()
        return np.array_equal(ranker.predict(X[:rows]), expected[:rows])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(as_alone, range(400)))
    assert warnings.filters == filters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork processes")
@pytest.mark.parametrize("backend", BACKENDS)
def test_forked_processes_fit_predict_and_load(backend: str, tmp_path: Path) -> None:
    ranker = fit(backend, 2)  # starts threads, which a fork does not copy
    expected, pickled = ranker.predict(X), pickle.dumps(ranker)
    ranker.save(tmp_path / "model")

    def saved() -> Ranker:
        ranker.model_.stopped_at(2).gains()
        ranker.save(tmp_path / "again")
        return Ranker.load(tmp_path / "again")

    calls: dict[str, Callable[[], Ranker]] = {
        "fitted": lambda: ranker,
        "fit": lambda: fit(backend, 2),
        "load": lambda: Ranker.load(tmp_path / "model"),
        "pickle": lambda: pickle.loads(pickled),
        "save": saved,
    }
    for name, call in calls.items():
        child = os.fork()
        if not child:
            signal.alarm(30)
            os._exit(int(not np.array_equal(call().predict(X), expected)))
        assert os.waitpid(child, 0)[1] == 0, name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork processes")
def test_forked_processes_refuse_what_polars_reads(tile_run: Path) -> None:
    table = load("tile:cpu", store=tile_run / "store").select("runtime")
    child = os.fork()
    if not child:
        signal.alarm(30)
        for call in (lambda: load("tile:cpu", store=tile_run / "store"), lambda: Ranker().fit(table, table["runtime"])):
            with pytest.raises(UsageError, match="does not work in a process forked from one that imported polars"):
                call()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_n_jobs_is_kept_and_limits_threads(backend: str, tmp_path: Path) -> None:
    def started(n_jobs: int) -> int:
        """Threads that a new thread has started for all kinds of calls; OpenMP keeps them until it ends."""
        before = len(os.listdir("/proc/self/task"))
        fit(backend, n_jobs).save(tmp_path / "model")
        ranker = Ranker.load(tmp_path / "model")
        assert ranker.n_jobs == pickle.loads(pickle.dumps(ranker)).n_jobs == n_jobs
        ranker.predict(X)
        ranker.model_.compare(X, 0, 1, n_jobs)
        return len(os.listdir("/proc/self/task")) - before

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(started, 1).result() <= 0
        assert backend == "xgboost" or pool.submit(started, 3).result() >= 1  # XGBoost starts at most one per core


def test_without_n_jobs_the_quota_of_a_container_limits_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(openmp, "_in_container", openmp._in_container.__wrapped__)  # without its cache
    for name in ("quota", "cores"):
        monkeypatch.setattr(openmp, name, lambda: 1)
    fit("lightgbm", None)
    numbers = openmp.call(0, lambda: [runtime.get_num_threads() for runtime in openmp.runtimes()])
    assert set(numbers) == {1}
