"""Child processes and journals: crashes, hangs, killed searches, damaged and foreign files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.data.files import _is_running
from gbr.errors import CollectError, TuneError
from gbr.tune import Child, Journal, ParameterSpace, Tuner, search
from tests.conftest import ROOT

BEHAVIOURS = ParameterSpace(
    {"what": ["default", "crash", "hang", "wrong", "loud", "fast", "nan"]}, default={"what": "default"}
)
SPACE = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")

#: A parent that prints the process id of its child, which then hangs.
PARENT = """
import threading, time
from tests.test_tune_runner import make
from gbr.tune import Child, runner

runner._GRACE = 0.1  # also in the child, which imports this script

if __name__ == "__main__":
    child = Child(make, 0.5)
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


def make() -> Callable[[int], float]:
    def measure(config: int) -> float:
        what = BEHAVIOURS.describe(config)["what"]
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "hang":
            time.sleep(60)
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
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
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


@needs_sigkill
def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while _is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


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


def test_other_files_and_journals_are_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SPACE) as journal:
        journal.write(0, 1.0)
    other = ParameterSpace({"a": [1, 2, 3, 5], "b": [1, 2, 3]})
    with pytest.raises(TuneError, match=r"journal.jsonl: expected a journal of .*'fingerprint'.*another folder"):
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
