"""Commands killed at random moments and started again: the result equals that of an uninterrupted run.

python -m tests.soak.kills [build repack train collect download tune ...] [--kills 50]

SIGKILL goes to the whole process group.  After every kill, each file that a reader would open is read, and finished
files are compared with before; at the end, no temporary file is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gbr import read_graph, write_graph
from gbr.data.graph import Repacked
from gbr.data.store import FeatureStore
from tests.made import layout_arrays, write_collection
from tests.mirror import serving, tar, tree

ROOT: Final = Path(__file__).parents[2]
ENV: Final = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
#: Kills in a row before a command may finish.
_MAX_KILLS_PER_RUN: Final = 40


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of files by relative path; temporary files, whose names begin with a dot, are left out."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if not path.name.startswith(".")}
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def temporary_files(folder: Path) -> list[str]:
    """Names of files that a writer has not finished."""
    return sorted(path.name for path in folder.rglob(".*.part"))


def check_stores(folder: Path) -> None:
    """Read every graph that the stores list; raises for an incomplete one."""
    for manifest in (folder / "store").rglob("manifest.json"):
        store = FeatureStore(folder / "store", ":".join(manifest.parent.relative_to(folder / "store").parts))
        for split in ("train", "valid", "test"):
            if stems := store.stems(split):
                store.load(split, stems)


def check_graphs(folder: Path) -> None:
    """Read every graph file and every repacked copy; raises for an incomplete one."""
    for path in sorted(folder.rglob("[!.]*.npz")):
        for _ in read_graph(path, use_copy=False).config_blocks():
            pass
    for path in sorted(folder.rglob("[!.]*.gbr")):
        Repacked(path).codes(slice(None))


def check(folder: Path) -> None:
    """Read all files that a reader would open."""
    check_stores(folder)
    check_graphs(folder / "data")
    for path in folder.rglob("[!.]*.json"):
        if not path.name.endswith(".part.json"):
            json.loads(path.read_text())


@dataclass(frozen=True)
class Work:
    """A command that is killed; paths are relative to its working directory."""

    command: str
    #: Writes the input of the command; every run gets a copy.
    prepare: Callable[[Path], object]
    #: From the folder to values that are equal for all runs.
    result: Callable[[Path], Mapping[str, Any]]
    #: Patterns of files that no later run may change.
    finished: Sequence[str] = ()
    #: From the prepared folder to a context manager of further arguments.
    serve: Callable[[Path], AbstractContextManager[Sequence[str]]] = lambda _: nullcontext(())


def _built(folder: Path) -> Mapping[str, Any]:
    manifests = sorted((folder / "store").rglob("manifest.json"))
    graphs = [json.loads(path.read_text())["graphs"] for path in manifests]
    return digests(folder, "store/**/*.parquet", "data/**/*.gbr") | {"graphs": graphs}


def _prepare_layouts(folder: Path) -> None:
    """Measured programs, and one with more configurations than a group of rows of the store holds."""
    target = folder / "data/npz/layout/cpu/random/train"
    target.mkdir(parents=True)
    for path in sorted((ROOT / "data/npz/layout/cpu/random/train").glob("*.npz"))[:6]:
        shutil.copy(path, target)
    write_graph(target / "many.npz", layout_arrays(9000))


def _trained(folder: Path) -> Mapping[str, Any]:
    metrics = json.loads((folder / "run/metrics.json").read_text())
    del metrics["seconds"]
    return digests(folder, "run/model-*", "run/manifest.json", "store/**/*.parquet") | metrics


def _without_runtimes(folder: Path) -> Mapping[str, Any]:
    """Graphs and configurations of measured files; their runtimes differ between runs."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as arrays:
            found[path.name] = [arrays[key].tobytes() for key in arrays.files if "runtime" not in key]
    return found


@contextmanager
def _served(prepared: Path) -> Iterator[Sequence[str]]:
    graphs = tree(prepared / "served")
    archives = {
        f"npz_tile_xla_{split}.tar": tar({name: body for name, body in graphs.items() if f"/{split}/" in name})
        for split in ("train", "valid", "test")
    }
    with serving(archives) as mirror:
        mirror.pause, mirror.drop = 0.02, [100_000]
        yield ["--base-url", mirror.url]


def _outcomes(folder: Path) -> Mapping[str, Any]:
    """Measurements of every journal, in order; none is repeated."""
    found = {}
    for path in sorted((folder / "out").rglob("journal.jsonl")):
        records = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        done = [(one["config"], one.get("runtime", one.get("failed"))) for one in records if "config" in one]
        assert len({config for config, _ in done}) == len(done), f"{path}: a configuration was measured twice"
        found[path.parent.name] = done
    return found


def _prepare_replay(folder: Path) -> None:
    (folder / "graphs").mkdir(parents=True)
    for path in sorted((ROOT / "data/npz/tile/cpu/test").glob("*.npz"))[::54]:
        shutil.copy(path, folder / "graphs")


_STORE: Final = "--data data --store store --jobs 1"
_PARQUET: Final = ("store/**/*.parquet",)
WORKS: Final[Mapping[str, Work]] = {
    "build": Work(
        f"gbr.features build --subset tile:cpu {_STORE}",
        lambda folder: write_collection(folder / "data", {"train": 24, "valid": 6, "test": 6}),
        _built,
        _PARQUET,
    ),
    "repack": Work(
        f"gbr.features build --subset layout:cpu:random {_STORE} --repack",
        _prepare_layouts,
        _built,
        (*_PARQUET, "data/**/*.gbr"),
    ),
    "train": Work(
        f"gbr.train --subset tile:cpu {_STORE} --out run --set n_estimators=20",
        lambda folder: write_collection(folder / "data", {"train": 4, "valid": 1, "test": 1}),
        _trained,
        _PARQUET,
    ),
    "collect": Work(
        "gbr.collect tile --families reduce --configs 8 --rounds 1 --split test --out data",
        lambda folder: folder.mkdir(exist_ok=True),
        _without_runtimes,
        ["data/**/*.npz", "data/**/hardware.toml"],
    ),
    "download": Work(
        "gbr.download tile:xla --data data",
        lambda folder: write_collection(
            folder / "served", {"train": 40, "valid": 10, "test": 10}, "tile:xla", n_configs=1500
        ),
        lambda folder: digests(folder, "data/**/*.npz"),
        ["data/npz/**/*.npz"],
        _served,
    ),
    "tune": Work("gbr.tune --space replay:graphs --budget 16 --out out", _prepare_replay, _outcomes),
}


def start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start ``python -m`` with ``arguments`` in a folder, as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    """Wait for a command, which must succeed."""
    _, err = process.communicate()
    assert process.returncode == 0, f"{process.args}: exit {process.returncode}: {err}"


def _kill(process: subprocess.Popen[str], folder: Path, seconds: float, amid_a_file: bool) -> bool:
    """Kill a command after some seconds, or at the first temporary file after them; False if it finished before."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and (time.monotonic() < deadline or (amid_a_file and not temporary_files(folder))):
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def soak(name: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill a command ``kills`` times, let it finish from time to time, and compare its results.

    Returns ``kills``, those of them ``amid_a_file``, ``runs`` that finished, ``seconds`` of an uninterrupted run.
    """
    work, choice = WORKS[name], random.Random(seed)
    done = amid = 0
    span, expected = 0.0, None
    with tempfile.TemporaryDirectory(prefix="gbr-soak-") as top:
        prepared = Path(top) / "prepared"
        work.prepare(prepared)
        run = -2  # two uninterrupted runs, of which the first also compiles kernels
        while done < kills or run < 0:
            folder = Path(top) / f"run-{run}"
            shutil.copytree(prepared, folder)
            finished: dict[str, str] = {}
            with work.serve(prepared) as further:
                command = [*work.command.split(), *further]
                for _ in range(min(kills - done, _MAX_KILLS_PER_RUN) if run >= 0 else 0):
                    process = start(command, folder)
                    if not _kill(process, folder, span * choice.uniform(0, 1.05), choice.random() < 1 / 3):
                        break
                    done += 1
                    amid += bool(temporary_files(folder))
                    check(folder)
                    now = digests(folder, *work.finished)
                    assert finished.items() <= now.items(), f"{name}: finished files changed"
                    finished = now
                begin = time.monotonic()
                _finish(start(command, folder))
            if run < 0:
                span, expected = time.monotonic() - begin, work.result(folder)
            assert work.result(folder) == expected, f"{name}: another result after {done} kills"
            assert finished.items() <= digests(folder, *work.finished).items(), f"{name}: finished files changed"
            assert not temporary_files(folder), f"{name}: {temporary_files(folder)} are left"
            shutil.rmtree(folder)
            run += 1
    return {"kills": done, "amid_a_file": amid, "runs": run, "seconds": round(span, 1)}


def main() -> None:
    """Kill the given commands, or all, and print a summary of each."""
    parser = argparse.ArgumentParser(prog="tests.soak.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", choices=[*WORKS, []], metavar="COMMAND", help=", ".join(WORKS))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.commands or WORKS:
        print(json.dumps({"command": name, **soak(name, args.kills, args.seed)}), flush=True)


if __name__ == "__main__":
    main()
