"""Measuring in a process of its own: crashes, hangs, wrong results, and parents that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gbr.errors import CollectError, TuneError
from gbr.tune import Child, ParameterSpace, Tuner, search

ROOT = Path(__file__).parents[1]
SPACE = ParameterSpace(
    {"what": ["default", "crash", "hang", "exit", "wrong", "loud", "fast", "nothing"]}, default={"what": "default"}
)

#: A parent that tells the number of its child, which then hangs.
PARENT = """
import sys, threading, time
from tests.test_tune_child import make
from gbr.tune import Child

if __name__ == "__main__":
    child = Child(make, 0.5)
    child(0)
    threading.Thread(target=child, args=(2,), daemon=True).start()
    print(child._process.pid, flush=True)
    time.sleep(60)
"""


def make() -> Callable[[int], float]:
    def measure(config: int) -> float:
        what = SPACE.describe(config)["what"]
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "hang":
            time.sleep(60)
        elif what == "exit":
            os._exit(3)
        elif what == "wrong":
            raise CollectError("off by 1.5 from the reference")
        elif what == "loud":
            print("this is no result")
            raise ValueError("no\ngood")
        elif what == "nothing":
            return float("nan")
        return 2.0 - (what == "fast")

    return measure


def broken() -> Callable[[int], float]:
    raise CollectError("no such kernel")


def gone() -> Callable[[int], float]:
    os._exit(4)


def never(config: int) -> float:
    pytest.fail(f"{config} is measured again")


def test_crashes_hangs_and_wrong_results_are_recorded_and_never_best(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tuner = Tuner(SPACE)
    with Child(make, timeout=2.0) as child:
        found = search(tuner, child, budget=len(SPACE), journal=tmp_path / "journal.jsonl", rounds=4)
    reasons = {SPACE.describe(config)["what"]: reason for config, reason in tuner.failures.items()}
    assert reasons == {
        "crash": "crashed: signal SIGSEGV",
        "hang": "timed out after 2 s",
        "exit": "crashed: exit status 3",
        "wrong": "off by 1.5 from the reference",
        "loud": "ValueError: no good",
        "nothing": "runtime nan",
    }
    assert SPACE.describe(found.config) == {"what": "fast"}
    assert found.verdict is not None
    assert found.verdict.speedup == 2.0
    assert capfd.readouterr().out == ""
    again = Tuner(SPACE)
    resumed = search(again, never, budget=len(SPACE), journal=tmp_path / "journal.jsonl", rounds=0)
    assert again.failures == tuner.failures
    assert resumed.best == found.best


@pytest.mark.parametrize(
    ("start", "message"), [(broken, "cannot start: no such kernel"), (gone, r"exit status 4.*__main__")]
)
def test_a_child_that_cannot_start_ends_the_search(start: Callable[[], Callable[[int], float]], message: str) -> None:
    with Child(start, timeout=5.0) as child, pytest.raises(TuneError, match=message):
        search(Tuner(SPACE), child, budget=3)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
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
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
