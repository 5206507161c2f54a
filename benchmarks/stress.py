"""Call one model from several threads and from forked processes, and count calls, wrong results and crashes."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from benchmarks.common import Row, Section, machine, publish
from gbr import Ranker

BACKENDS: Final = ("lightgbm", "xgboost", "ensemble", "costmodel")
CASES: Final = ("predict", "n_jobs", "fit", "load", "explain", "fork")
TEXT: Final = """\
Each row is a process of its own that makes calls for {seconds:g} s, in eight threads or in one forked process after
another, and compares every result with that of a single thread. *predict*: one model with `n_jobs=1`. *n_jobs*: copies
of it with `n_jobs` of 1, 8 and None. *fit*: the same, and fits with these `n_jobs`. *load*: save, load and pickle as
well. *explain*: contributions of columns as well. *fork*: predict, fit, load and unpickle after a fit with threads; a
process that does not end within 20 s counts as wrong."""
_N_JOBS: Final = (1, 8, None)
_THREADS: Final = 8

RNG = np.random.default_rng(0)
X = np.log2(1 + RNG.random((3000, 40)) * (RNG.random((3000, 40)) < 0.1))
Y = X[:, 0] * X[:, 1] + X[:, 2]
QID = np.repeat(range(60), 50)


def fit(backend: str, n_jobs: int | None) -> Ranker:
    costs = [0, 1, 2] if backend == "costmodel" else None
    return Ranker(backend, n_estimators=5, n_jobs=n_jobs, costs=costs).fit(X, Y, qid=QID)


def in_threads(case: str, backend: str, folder: Path, end: float) -> tuple[int, int]:
    """Calls of one case until ``end``, and those with a wrong result."""
    first = fit(backend, 1)
    expected = first.predict(X)
    contributions = first.model_.compare(X, 0, 1, 1)
    rankers = [copy.copy(first).set_params(n_jobs=n_jobs) for n_jobs in _N_JOBS]

    def right(number: int) -> bool:
        ranker, rows = first if case == "predict" else rankers[number % 3], 1 + number % 99
        if case == "fit" and number % 3 == 0:
            ranker = fit(backend, ranker.n_jobs)
        elif case == "load" and number % 40 == 0:
            ranker.save(folder / str(number))
            ranker = Ranker.load(folder / str(number))
        elif case == "load" and number % 20 == 0:
            ranker = pickle.loads(pickle.dumps(ranker))
        elif case == "explain":
            found = ranker.model_.compare(X, 0, 1, ranker.n_jobs or 0)
            if not np.array_equal(found, contributions):
                return False
        return np.array_equal(ranker.predict(X[:rows]), expected[:rows])

    def work(thread: int) -> tuple[int, int]:
        number, wrong = thread, 0
        while time.monotonic() < end:
            wrong += not right(number)
            number += _THREADS
        return number // _THREADS, wrong

    with ThreadPoolExecutor(_THREADS) as pool:
        calls, wrong = zip(*pool.map(work, range(_THREADS)), strict=True)
    return sum(calls), sum(wrong)


def in_forks(backend: str, folder: Path, end: float) -> tuple[int, int]:
    """Forked processes until ``end``, and those with a wrong result or without an end."""
    first = fit(backend, 2)
    expected, pickled = first.predict(X), pickle.dumps(first)
    first.save(folder)
    calls: tuple[Callable[[], Ranker], ...] = (
        lambda: first,
        lambda: fit(backend, 2),
        lambda: Ranker.load(folder),
        lambda: pickle.loads(pickled),
    )
    number = wrong = 0
    while time.monotonic() < end:
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(int(not np.array_equal(calls[number % len(calls)]().predict(X), expected)))
        wrong += os.waitpid(child, 0)[1] != 0
        number += 1
    return number, wrong


def measure(case: str, backend: str, seconds: float) -> Row:
    """Run one case in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.stress", "--case", case, backend, "--seconds", str(seconds)]
    try:
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=5 * seconds + 120)
        end = "exit 0" if not done.returncode else f"{done.returncode}"
        if done.returncode < 0:
            end = signal.Signals(-done.returncode).name
        calls, wrong = map(int, done.stdout.split()) if not done.returncode else (0, 0)
    except subprocess.TimeoutExpired:
        end, calls, wrong = "no end", 0, 0
    return {"case": case, "backend": backend, "calls": calls, "wrong": wrong, "end": end}


def main() -> int:
    """Run all cases, or one."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=4, metavar="S", help="per case; default: %(default)s")
    arguments.add_argument("--case", nargs=2, metavar=("CASE", "BACKEND"), help="only this, and print its counts")
    args = arguments.parse_args()
    if args.case:
        case, backend = args.case
        with TemporaryDirectory() as name:
            end = time.monotonic() + args.seconds
            if case == "fork":
                calls, wrong = in_forks(backend, Path(name), end)
            else:
                calls, wrong = in_threads(case, backend, Path(name), end)
        print(calls, wrong)
        return 0
    cases = [case for case in CASES if case != "fork" or hasattr(os, "fork")]
    rows = [measure(case, backend, args.seconds) for case in cases for backend in BACKENDS]
    text = TEXT.format(seconds=args.seconds)
    publish("stress", "Threads and forks", text, [Section("", "", rows)], machine("lightgbm", "xgboost-cpu"))
    return int(any(row["wrong"] or row["end"] != "exit 0" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
