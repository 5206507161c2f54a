"""Commands killed at random moments and started again: the end is that of a run nobody disturbed.

python -m tests.soak.kills [build train collect download tune predict ...] [--kills 50] [--record]

SIGKILL reaches the whole process group.  After every kill each file that a reader would open is opened; what was
finished by then is the same at the end; at the end the result is that of an undisturbed run, and nothing unfinished
lies about.  Of three kills one waits, after its moment has come, for an unfinished file to appear.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.soak.counts import record
from tests.soak.works import WORKS, Work, digests

ENV: Final = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TERM": "dumb"}
#: Whoever has to start again more often than this does not get on.
PATIENCE: Final = 40
#: Seconds between looks at a process that is to be killed.
_WATCH: Final = 0.002


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after the start, and whether to wait for an unfinished file from then on."""

    seconds: float
    unfinished: bool = False


def start(work: Work, folder: Path, further: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command in a folder; its results go to the file ``stdout`` there."""
    with (folder / "stdout").open("w") as stdout:
        return subprocess.Popen(
            [sys.executable, "-m", *work.arguments, *further],
            cwd=folder,
            env=os.environ | ENV,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def run(work: Work, folder: Path, further: Sequence[str], moment: Moment | None) -> bool:
    """Run a command, or kill it; whether it came to its end."""
    process = start(work, folder, further)
    if moment is not None and _reached(process, folder, moment):
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    _, told = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(work.arguments)}: exit {process.returncode}: {told}")
    return True


def _reached(process: subprocess.Popen[str], folder: Path, moment: Moment) -> bool:
    try:
        process.wait(moment.seconds)
        return False
    except subprocess.TimeoutExpired:
        pass
    while moment.unfinished and process.poll() is None and not unfinished(folder):
        time.sleep(_WATCH)
    return process.poll() is None


def unfinished(folder: Path) -> list[str]:
    """Names of files that were begun and not finished."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith((".part", ".part.json"))]


def soak(name: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill a command ``kills`` times, letting it come to its end in between, and compare what it leaves.

    Returns
    -------
    dict
        ``kills``, those of them that left an ``unfinished`` file behind, ``runs`` that came to their end, ``seconds``
        of an undisturbed run.
    """
    work = WORKS[name]()
    choice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="gbr-soak-") as top:
        prepared = Path(top) / "prepared"
        work.prepare(prepared)
        expected = _undisturbed(work, prepared, Path(top) / "alone")[0]  # compiles kernels, too
        found, span = _undisturbed(work, prepared, Path(top) / "timed")
        _compare(name, 0, expected, found)
        killed = rounds = left = 0
        while killed < kills:
            folder = Path(top) / f"killed-{rounds}"
            shutil.copytree(prepared, folder)
            finished: dict[str, Any] = {}
            with work.serve(prepared) as further:
                for _ in range(PATIENCE):
                    # Early kills hit the imports; most shall hit the work.
                    moment = Moment(span * choice.uniform(0.3, 1.05), choice.random() < 1 / 3)
                    if killed >= kills or run(work, folder, further, moment):
                        break
                    killed += 1
                    left += bool(unfinished(folder))
                    work.check(folder)
                    finished |= _still(name, work, folder, finished)
                run(work, folder, further, None)
            _compare(name, killed, expected, work.result(folder))
            _still(name, work, folder, finished)
            if still := unfinished(folder):
                raise SystemExit(f"{name}: unfinished files lie about: {', '.join(still)}")
            shutil.rmtree(folder)
            rounds += 1
    return {"kills": killed, "unfinished": left, "runs": rounds, "seconds": round(span, 1)}


def _undisturbed(work: Work, prepared: Path, folder: Path) -> tuple[Mapping[str, Any], float]:
    shutil.copytree(prepared, folder)
    with work.serve(prepared) as further:
        begin = time.monotonic()
        run(work, folder, further, None)
        span = time.monotonic() - begin
    result = work.result(folder)
    shutil.rmtree(folder)
    return result, span


def _still(name: str, work: Work, folder: Path, finished: Mapping[str, Any]) -> dict[str, Any]:
    """What is finished by now; all that was before has to be as it was, a journal no more than longer."""
    now: dict[str, Any] = {}
    for path in digests(folder, *work.finished):
        held = (folder / path).read_bytes()
        now[path] = held[: held.rfind(b"\n") + 1] if path.endswith(".jsonl") else held
    for path, before in finished.items():
        if path not in now or not (now[path].startswith(before) if path.endswith(".jsonl") else now[path] == before):
            raise SystemExit(f"{name}: {path} was finished and is lost or was made again")
    return now


def _compare(name: str, killed: int, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    keys = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    if keys:
        raise SystemExit(f"{name}: after {killed} kills {len(keys)} of {len(expected)} differ, first {keys[0]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Kill the commands that are named, or all, and print what was survived."""
    parser = argparse.ArgumentParser(prog="tests.soak.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"some of {', '.join(WORKS)} (default: all)")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/soak/counts.json")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.commands if name not in WORKS]:
        parser.error(f"no command {', '.join(unknown)}; there is {', '.join(WORKS)}")
    for name in args.commands or WORKS:
        figures = soak(name, args.kills, args.seed)
        print(json.dumps({"command": name} | figures), flush=True)
        if args.record:
            record("kills", name, **figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
