"""Child processes and journals: crashes, hangs, killed searches, damaged and foreign files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.data.files import _is_running, exclusive_lock
from gbr.errors import CollectError, TuneError, UsageError
from gbr.tune import Child, Journal, ParameterSpace, Tuner, search
from tests.conftest import ROOT

BEHAVIOURS = ParameterSpace(
    {"what": ["default", "crash", "hang", "wrong", "loud", "fast", "nan"]}, default={"what": "default"}
)
FORK: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)
SPACE = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")

#: A parent that prints the process id of its child, which then hangs.
PARENT = """
import threading, time
from tests.test_tune_runner import make
from gbr.tune import Child

if __name__ == "__main__":
    child = Child(make, None)
    child(0)
    threading.Thread(target=child, args=(2,), daemon=True).start()
    print(child._running[0].pid, flush=True)
    time.sleep(60)
"""
#: A search with slow measurements that are also logged in a second file.
SLOW = """
import sys, time
from pathlib import Path
from gbr.tune import ParameterSpace, Tuner, search

def measure(config):
    with Path(sys.argv[2]).open("a") as log:
        log.write(f"{config}\\n")
    time.sleep(0.2)
    return 1.0 + config

space = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
found = search(Tuner(space), measure, budget=5, journal=sys.argv[1], rounds=0)
print(found.measured, found.resumed)
"""


def note_and_sleep() -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{os.getpid()}\n")
    time.sleep(60)


def wait_for_the_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(map(_is_running, processes)):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)


def make() -> Callable[[int], float]:
    def measure(config: int) -> float:
        what = BEHAVIOURS.describe(config)["what"]
        if what == "crash":
            FORK.Process(target=note_and_sleep).start()  # keeps the pipe to the parent open
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "hang":
            FORK.Process(target=note_and_sleep).start()
            time.sleep(60)
        elif what == "fast":
            process = FORK.Process(target=int)
            process.start()
            process.join()
            assert process.exitcode == 0
        elif what == "wrong":
            raise CollectError("off by 1.5 from the reference")
        elif what == "loud":
            print("not a result")
            raise ValueError("no\ngood")
        elif what == "nan":
            return float("nan")
        return 2.0 - (what == "fast")

    return measure


def raises_at_start() -> Callable[[int], float]:
    raise CollectError("no such kernel")


def exits_at_start() -> Callable[[int], float]:
    os._exit(4)


def must_not_measure(config: int) -> float:
    pytest.fail(f"{config} is measured again")


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcomes(path: Path) -> list[tuple[int, float | str]]:
    with Journal(path, SPACE) as journal:
        return journal.outcomes


# --- child -----------------------------------------------------------------------------------------------------------


def test_crashes_hangs_and_wrong_results_are_recorded_as_failures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes that a measurement started end with it."""
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    tuner, journal = Tuner(BEHAVIOURS), tmp_path / "journal.jsonl"
    with Child(make, timeout=1.0) as child:
        found = search(tuner, child, budget=len(BEHAVIOURS), journal=journal, rounds=4)
    assert {BEHAVIOURS.describe(config)["what"]: reason for config, reason in tuner.failures.items()} == {
        "crash": "crashed: signal SIGSEGV",
        "hang": "timed out after 1 s",
        "wrong": "off by 1.5 from the reference",
        "loud": "ValueError: no good",
        "nan": "runtime nan",
    }
    assert BEHAVIOURS.describe(found.config) == {"what": "fast"}
    assert found.verdict is not None
    assert found.verdict.speedup == 2.0
    assert capfd.readouterr().out == ""
    wait_for_the_end([int(line) for line in (tmp_path / "notes").read_text().split()])
    again = Tuner(BEHAVIOURS)
    resumed = search(again, must_not_measure, budget=len(BEHAVIOURS), journal=journal, rounds=0)
    assert (again.failures, resumed.best) == (tuner.failures, found.best)


@pytest.mark.parametrize(
    ("start", "message"),
    [(raises_at_start, "cannot start: no such kernel"), (exits_at_start, r"exit status 4.*__main__")],
)
def test_a_child_that_cannot_start_ends_the_search(start: Callable[[], Callable[[int], float]], message: str) -> None:
    with Child(start, timeout=5.0) as child, pytest.raises(TuneError, match=message):
        search(Tuner(BEHAVIOURS), child, budget=3)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), 1e12, "5"])
def test_an_invalid_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(UsageError, match="timeout: expected seconds from above 0"):
        Child(make, timeout)


@needs_sigkill
def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    notes = tmp_path / "notes"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTES": str(notes)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not (notes.exists() and notes.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for_the_end([child, int(notes.read_text())])


# --- journal ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_truncated_journal_keeps_its_complete_lines(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "deep" / "journal.jsonl"
    written: list[tuple[int, float | str]] = [(3, 1.5), (0, "crashed: signal SIGSEGV"), (11, 2e-7)]
    with Journal(path, SPACE) as journal:
        assert journal.outcomes == []
        for config, outcome in written:
            journal.write(config, outcome)
            assert entries(path)[-1]["config"] == config  # in the file at once
    assert outcomes(path) == written
    with Journal(path, SPACE), pytest.raises(TuneError, match="in use by another process"):
        Journal(path, SPACE)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    kept = max(0, path.read_bytes().count(b"\n") - 1)
    assert outcomes(path) == written[:kept]
    with Journal(path, SPACE) as journal:
        journal.write(9, 3.0)
    assert outcomes(path)[kept:] == [(9, 3.0)]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        '{"config": 12, "runtime": 1.0}',
        '{"config": 1, "runtime": -1.0}',
        '{"config": 1, "failed": 3}',
        '{"stopped": -1}',
        '{"verdict": {"config": 1, "speedup": 1.0, "low": 1.0, "high": 1.0, "rounds": "2"}}',
    ],
)
def test_an_invalid_line_is_named_and_kept(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    assert outcomes(path) == []
    held = path.read_text() + f"{line}\n{line}"
    path.write_text(held)
    with pytest.raises(TuneError, match="line 2 is not a journal entry"):
        Journal(path, SPACE)
    assert path.read_text() == held


@pytest.mark.parametrize("returned", [[1.0], np.array([1.0, 2.0]), {}, b"x", np.timedelta64(5, "ns")])
def test_a_measurement_that_returns_no_runtime_ends_the_search_and_is_no_failure(tmp_path: Path, returned: Any) -> None:
    path = tmp_path / "journal.jsonl"
    for _ in range(3):
        with pytest.raises(TuneError, match=r"configuration 0: expected a runtime as a number.*, got"):
            search(Tuner(BEHAVIOURS), lambda _: returned, budget=2, journal=path)
        with Journal(path, BEHAVIOURS) as journal, journal.measuring(0):
            pass
        with Journal(path, BEHAVIOURS) as journal, pytest.raises(UsageError, match="expected a runtime as a number"):
            journal.write(0, returned)
    found = search(Tuner(BEHAVIOURS), lambda config: np.float32(1 + config), budget=2, journal=path)  # type: ignore[arg-type, return-value]
    assert (found.default, found.failed) == (1.0, 0)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks_are_reported_once(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    for _ in range(2):
        with Journal(tmp_path / "journal.jsonl", SPACE), exclusive_lock(tmp_path):
            pass
    assert caplog.messages == [
        f"{tmp_path}: this file system has no locks; do not use the folder from two processes at the same time"
    ]
    assert os.listdir(tmp_path) == ["journal.jsonl"]


def test_timeouts_are_measured_again_with_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, BEHAVIOURS) as journal:
        for config, outcome in ((0, 2.0), (5, "timed out after 0.5 s"), (4, "timed out after 2 s")):
            journal.write(config, outcome)
    tuner = Tuner(BEHAVIOURS)
    with Child(make, timeout=2.0) as child:
        found = search(tuner, child, budget=3, journal=path, rounds=0)
    assert found.resumed == 2
    assert tuner.failures[4] == "timed out after 2 s"
    with Child(make, timeout=2.0) as child:
        search(tuner := Tuner(BEHAVIOURS), child, budget=7, journal=path, rounds=0)
    assert tuner.runtimes[5] == 1.0


def test_a_finished_search_is_not_compared_again(tmp_path: Path) -> None:
    path, counts = tmp_path / "journal.jsonl", Counter[int]()

    def measure(config: int) -> float:
        counts[config] += 1
        return 1.0 + config

    def found(budget: int, rounds: int = 4) -> str:
        return str(search(Tuner(BEHAVIOURS), measure, budget=budget, journal=path, rounds=rounds).verdict)

    first, once = found(3), counts.copy()
    assert found(3) == found(2) == found(3, rounds=2) == first
    assert counts == once
    found(3, rounds=6)
    assert counts[0] == once[0] + 6
    more = counts.copy()
    found(4)
    assert counts[0] == more[0] + 4
    with pytest.raises(TuneError, match=r"its command is None, not './bench \{what\}'; choose another folder"):
        Journal(path, BEHAVIOURS, "./bench {what}")
    with pytest.raises(UsageError, match="budget: expected a positive integer, got 0"):
        found(0)


def test_other_files_and_journals_are_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SPACE) as journal:
        journal.write(0, 1.0)
    path.write_text(f"{path.read_text()}\n \n")  # as editors leave them
    other = ParameterSpace({"a": [1, 2, 3, 5], "b": [1, 2, 3]})
    with pytest.raises(
        TuneError, match=r"journal.jsonl: the program, the configurations .* have changed since.*another"
    ):
        Journal(path, other)
    assert outcomes(path) == [(0, 1.0)]
    path = tmp_path / "notes.txt"
    for text in ("buy milk\n", "buy milk", "buy milk\nand bread"):
        path.write_text(text)
        with pytest.raises(TuneError, match="line 1 is not a journal entry"):
            Journal(path, SPACE)
        assert path.read_text() == text
    with pytest.raises(TuneError, match="cannot be written"):
        Journal(tmp_path, SPACE)


def test_a_configuration_that_killed_the_process_twice_is_skipped_but_not_an_interrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt, match=r"^$"), Journal(path, SPACE) as journal, journal.measuring(5):
            raise KeyboardInterrupt
    for _ in range(2):
        assert outcomes(path) == []
        with Journal(path, SPACE) as journal:
            journal._append({"begin": 5})
    assert outcomes(path) == outcomes(path) == [(5, "killed the process 2 times")]


@needs_sigkill
def test_a_killed_search_repeats_no_finished_measurement(tmp_path: Path) -> None:
    journal, log = tmp_path / "journal.jsonl", tmp_path / "log"
    command = [sys.executable, "-c", SLOW, str(journal), str(log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_text().count('"runtime"') < 2:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    before = [entry for entry in entries(journal) if "runtime" in entry]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["5", str(len(before))], done.stderr
    after = [entry for entry in entries(journal) if "runtime" in entry]
    assert after[: len(before)] == before
    assert len({entry["config"] for entry in after}) == len(after) == 5
    counts = Counter(log.read_text().split())
    assert sum(counts.values()) <= 6  # at most one was in progress
    assert all(counts[str(entry["config"])] == 1 for entry in before)
