"""Coverage-guided fuzzing of the readers: every input is read, or refused by one of the project's own errors in a line.

python -m tests.soak.fuzz npz|arrays|hlo|store|model|csv [--seconds 600] [--corpus DIR]

Needs atheris (extra ``soak``).  What it finds goes into tests/data/found and is tried by the suite from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from tests.damage import damaged_arrays, damaged_bytes

ROOT: Final = Path(__file__).parents[2]
FOUND: Final = ROOT / "tests" / "data" / "found"
#: Bytes that one input may make a process hold, and seconds that it may take.
RSS_MB: Final = 3000
TIMEOUT: Final = 30
#: Between a manifest and its booster.
SEAM: Final = b"\0\0\0\0"

Target = Callable[[bytes], None]


def whole_archives() -> list[bytes]:
    """Graph files of both kinds, with few configurations."""
    found = []
    for folder in ("tile/cpu/test", "layout/cpu/random/test"):
        for path in sorted((ROOT / "data/npz" / folder).glob("*.npz"))[::4]:
            with np.load(path) as stored:
                arrays = {key: stored[key] for key in stored.files}
            for key in ("config_feat", "node_config_feat", *(name for name in arrays if name.startswith("config_run"))):
                if key in arrays:
                    arrays[key] = arrays[key][:3]
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            if buffer.tell() < 40_000:
                found.append(buffer.getvalue())
    return found


def read_npz(data: bytes, folder: Path) -> None:
    """Read bytes as a graph file, its configurations and its features."""
    from gbr.build import extract
    from gbr.errors import GbrError
    from gbr.graphs import read_graph

    path = folder / "input.npz"
    path.write_bytes(data)
    told = None
    try:
        _, X, _ = extract(read_graph(path))
    except GbrError as fault:
        told = str(fault)
    _judge(told)
    if told is None and not np.isfinite(X).all():
        raise AssertionError("features that are not finite")


def repacked(data: bytes, choice: random.Random) -> bytes:
    """Damage the arrays inside an archive and pack them again, so that checksums and sizes are right."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = damaged_arrays({key: stored[key] for key in stored.files}, choice)
    if choice.random() < 0.3:
        key = choice.choice(list(arrays))
        arrays[key] = choice.choice([arrays[key][:0], arrays[key].T, arrays[key].astype(np.float64), arrays[key][None]])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def reheaded(data: bytes, choice: random.Random) -> bytes:
    """Damage one member of an archive and write it with a checksum that fits: the header of an array, or its values."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        victim = choice.choice(old.namelist())
        for name in old.namelist():
            member = old.read(name)
            if name == victim:
                member = damaged_bytes(member[:128], choice) + member[128:]
            new.writestr(name, member)
    return buffer.getvalue()


def read_hlo(data: bytes, _folder: Path) -> None:
    """Read bytes as a serialised HLO module, and as tuning records."""
    from gbr.errors import HloError
    from gbr.hlo import graph_arrays, identify, read_tuning

    told = None
    try:
        graph_arrays(data)
        if identify(data).endswith("TuningData"):
            read_tuning(data)
    except HloError as fault:
        told = str(fault)
    _judge(told)


def read_store(data: bytes, folder: Path) -> None:
    """Read bytes as one graph of a store."""
    from gbr.errors import GbrError
    from gbr.store import FeatureStore

    root = folder / "store"
    if not (root / "tile").exists():
        shutil.copytree(_made()[0] / "store", root, dirs_exist_ok=True)
    (path,) = list(root.rglob("train/*.parquet"))[:1]
    path.write_bytes(data)
    told = None
    try:
        FeatureStore(root, "tile:cpu").load("train")
    except GbrError as fault:
        told = str(fault)
    _judge(told)


def read_model(data: bytes, folder: Path) -> None:
    """Read bytes as the manifest of a model and, after four NULs, its booster; rank with it."""
    from gbr import Ranker
    from gbr.errors import GbrError

    root = folder / "model"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    manifest, _, booster = data.partition(SEAM)
    (root / "manifest.json").write_bytes(manifest)
    with suppress(Exception):  # a manifest that names no file needs none
        name = json.loads(manifest)["model"]["file"]
        (root / Path(name).name).write_bytes(booster)
    told = None
    try:
        ranker = Ranker.load(root)
        ranker.predict(np.zeros((3, ranker.n_features_in_), np.float32))
    except GbrError as fault:
        told = str(fault)
    _judge(told)


def _judge(told: str | None) -> None:
    if told is not None and ("\n" in told or not told or len(told) > 2000):
        raise AssertionError(f"no one line: {told!r}")


@cache
def _made() -> tuple[Path, list[Path]]:
    """A small store, and a model of every backend that was trained on it."""
    from tests.collection import trained, write_collection

    root = Path(tempfile.mkdtemp(prefix="gbr-fuzz-"))
    write_collection(root, {"train": 3, "valid": 2, "test": 1})
    few = {"n_estimators": 3}
    runs = [trained(root, out=root / name, backend=name, settings=few) for name in ("lightgbm", "xgboost", "ensemble")]
    return root, runs


def seeds(target: str) -> list[bytes]:
    """Whole inputs that fuzzing begins with."""
    if target in ("npz", "arrays"):
        return whole_archives()
    if target == "hlo":
        from tests.hlo_modules import LAYOUTS, SMALL, TILES

        return [path.read_bytes() for path in (ROOT / "tests/data").glob("*.hlo.pb")] + [SMALL, TILES, LAYOUTS]
    root, runs = _made()
    if target == "store":
        return [path.read_bytes() for path in (root / "store").rglob("*.parquet")]
    found = []
    for run in runs:
        manifest = (run / "manifest.json").read_bytes()
        found.append(manifest + SEAM + (run / json.loads(manifest)["model"]["file"]).read_bytes())
    return found


def mutator(target: str) -> Callable[[bytes, int, int], bytes]:
    """What damages an input: its bytes, or what lies behind the checksums of an archive."""

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        choice = random.Random(seed)
        try:
            if target == "arrays":
                return repacked(data, choice)[:limit]
            if target == "npz" and choice.random() < 0.5:
                return reheaded(data, choice)[:limit]
            if target == "model" and choice.random() < 0.8:
                return resealed(data, choice)[:limit]
        except Exception:  # no whole archive any more: its bytes can be damaged further
            pass
        return damaged_bytes(data or b"\n", choice)[:limit]

    return mutate


def resealed(data: bytes, choice: random.Random) -> bytes:
    """Damage the booster of a model and vouch for it in the manifest, as somebody who means harm would."""
    manifest, _, booster = data.partition(SEAM)
    booster = damaged_bytes(booster, choice)
    about = json.loads(manifest)
    about["model"]["sha256"] = hashlib.sha256(booster).hexdigest()
    return json.dumps(about).encode() + SEAM + booster


READERS: Final = {"npz": read_npz, "arrays": read_npz, "hlo": read_hlo, "store": read_store, "model": read_model}


def _fuzz(target: str, seconds: int, corpus: Path) -> None:
    """Run in a process of its own: atheris never returns."""
    import warnings

    import atheris

    with atheris.instrument_imports(include=["gbr", "features"]):
        pass
    warnings.simplefilter("error", RuntimeWarning)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    folder = Path(tempfile.mkdtemp(prefix="gbr-fuzz-"))
    read, mutate = READERS[target], mutator(target)

    def one(data: bytes) -> None:
        read(data, folder)

    options = [f"-max_total_time={seconds}", f"-rss_limit_mb={RSS_MB}", f"-timeout={TIMEOUT}", "-max_len=65536"]
    options += [f"-artifact_prefix={corpus}/found-", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup(["fuzz", str(corpus), *options], one, custom_mutator=mutate)
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz one reader, or all, and print how many inputs were tried."""
    parser = argparse.ArgumentParser(prog="tests.soak.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", nargs="?", choices=READERS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs" / "fuzz")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        _fuzz(args.target, args.seconds, args.corpus / args.target)
        return 0
    faults = 0
    for target in [args.target] if args.target else list(READERS):
        command = [sys.executable, "-m", "tests.soak.fuzz", target, "--inside"]
        command += ["--seconds", str(args.seconds), "--corpus", str(args.corpus)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        stats = dict(line[6:].split(": ") for line in done.stderr.splitlines() if line.startswith("stat::"))
        tried = int(stats.get("number_of_executed_units", 0))
        print(json.dumps({"target": target, "inputs": tried, "exit": done.returncode}), flush=True)
        if done.returncode:
            faults += 1
            print(done.stderr[-6000:], file=sys.stderr)
    return min(1, faults)


if __name__ == "__main__":
    raise SystemExit(main())
