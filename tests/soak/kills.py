"""Commands killed at random moments and started again: the end is that of a run nobody disturbed.

python -m tests.soak.kills [build train collect download tune predict] [--kills 50]

SIGKILL reaches the whole process group.  After every kill each file that a reader would open is opened; at the end the
result is compared with an undisturbed one, and nothing unfinished lies about.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.collection import write_collection

ROOT: Final = Path(__file__).parents[2]
ENV: Final = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
#: Whoever has to start again more often than this does not get on.
PATIENCE: Final = 40


@dataclass(frozen=True)
class Work:
    """One command and what has to come of it.

    Parameters
    ----------
    arguments : sequence of str
    folder : Path
        What it writes.
    result : callable
        Gives what two runs have to have in common.
    check : callable
        Opens what a reader would open in mid-way; raises for a torn file.
    """

    arguments: Sequence[str]
    folder: Path
    result: Callable[[Path], Mapping[str, Any]]
    check: Callable[[Path], None]


def run(work: Work, seconds: float | None) -> bool:
    """Run a command, or kill it after ``seconds``; whether it came to its end."""
    command = [sys.executable, "-m", *work.arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"{' '.join(work.arguments)}: exit {process.returncode}: {told}")
    return True


def soak(name: str, make: Callable[[Path, ExitStack], Work], kills: int, seed: int) -> dict[str, Any]:
    """Kill a command ``kills`` times, letting it come to its end in between, and compare what it leaves."""
    choice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="gbr-soak-") as place, ExitStack() as stack:
        alone = make(Path(place) / "alone", stack)
        run(alone, None)  # compiles kernels, too
        expected = alone.result(alone.folder)
        start = time.monotonic()
        run(make(Path(place) / "timed", stack), None)
        span = time.monotonic() - start
        killed = rounds = 0
        while killed < kills:
            work = make(Path(place) / f"killed-{rounds}", stack)
            for _ in range(PATIENCE):
                # Early kills hit the imports; most shall hit the work.
                if killed >= kills or run(work, span * choice.uniform(0.3, 1.05)):
                    break
                killed += 1
                work.check(work.folder)
            run(work, None)
            found = work.result(work.folder)
            if found != expected:
                raise SystemExit(f"{name}: after {killed} kills the result differs: {_difference(expected, found)}")
            left = [path.name for path in work.folder.rglob("*") if path.name.endswith(".part")]
            if left:
                raise SystemExit(f"{name}: unfinished files lie about: {', '.join(left)}")
            rounds += 1
    return {"command": name, "kills": killed, "rounds": rounds, "seconds alone": round(span, 1)}


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    return f"{len(keys)} of {len(expected)}, first {keys[0]}"


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """Contents of files."""
    paths = [path for pattern in patterns for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def _build(place: Path, _: ExitStack) -> Work:
    data = write_collection(place / "data", {"train": 24, "valid": 6, "test": 6})
    arguments = ["gbr.features", "build", "--subset", "tile:cpu", "--data", str(data), "--store", str(place / "store")]

    def check(_: Path) -> None:
        from gbr.store import FeatureStore

        store = FeatureStore(place / "store", "tile:cpu")
        for split in ("train", "valid", "test"):
            if stems := list(store.stems(split)):
                store.load(split, stems)

    return Work([*arguments, "--jobs", "2"], place / "store", lambda folder: digests(folder, "**/*.parquet"), check)


def _train(place: Path, _: ExitStack) -> Work:
    data = write_collection(place / "data", {"train": 8, "valid": 3, "test": 3})
    out = place / "run"
    arguments = ["gbr.train", "--subset", "tile:cpu", "--data", str(data), "--store", str(place / "store")]
    arguments += ["--out", str(out), "--set", "n_estimators=60", "--seed", "1", "--jobs", "1"]

    def check(_: Path) -> None:
        from gbr import Ranker

        if (out / "manifest.json").exists():
            Ranker.load(out)
        if (out / "metrics.json").exists():
            json.loads((out / "metrics.json").read_text())

    def result(folder: Path) -> dict[str, Any]:
        figures = json.loads((folder / "metrics.json").read_text())
        return digests(folder, "model-*") | {"test": figures["test"]["kendall_tau"]}

    return Work(arguments, out, result, check)


def _collect(place: Path, _: ExitStack) -> Work:
    """Runtimes differ from run to run; programs and configurations do not."""
    arguments = ["gbr.collect", "tile", "--out", str(place / "data"), "--families", "reduce", "--configs", "8"]
    arguments += ["--rounds", "1", "--split", "test"]

    def check(_: Path) -> None:
        from gbr import read_graph

        for path in (place / "data").rglob("*.npz"):
            read_graph(path)

    def result(folder: Path) -> dict[str, Any]:
        found = {}
        for path in sorted(folder.rglob("*.npz")):
            with np.load(path) as stored:
                told = b"".join(stored[key].tobytes() for key in stored.files if "runtime" not in key)
            found[path.name] = hashlib.sha256(told).hexdigest()
        return found

    return Work(arguments, place / "data", result, check)


def _predict(place: Path, _: ExitStack) -> Work:
    from tests.collection import trained

    data = write_collection(place / "data", {"train": 4, "valid": 2, "test": 40})
    trained(data, out=place / "model")
    arguments = ["gbr.predict", "--model", str(place / "model"), str(data / "npz/tile/cpu/test"), "--top", "3"]
    arguments += ["--report", str(place / "out" / "report.html"), "--jobs", "1"]

    def check(folder: Path) -> None:
        for path in folder.glob("*.html"):
            if not path.read_text().rstrip().endswith("</html>"):
                raise SystemExit(f"{path}: torn")

    def result(folder: Path) -> dict[str, Any]:
        return {"whole": (folder / "report.html").read_text().rstrip().endswith("</html>")}

    (place / "out").mkdir()
    return Work(arguments, place / "out", result, check)


WORKS: Final = {"build": _build, "train": _train, "collect": _collect, "predict": _predict}


def main(argv: Sequence[str] | None = None) -> int:
    """Kill the commands that are named, or all, and print what was survived."""
    parser = argparse.ArgumentParser(prog="tests.soak.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", choices=[*WORKS, []], help="default: all")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for name in args.commands or WORKS:
        print(json.dumps(soak(name, WORKS[name], args.kills, args.seed)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
