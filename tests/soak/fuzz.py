"""Coverage-guided fuzzing of the readers: every input is read, or refused by one of gbr's own errors in one line.

python -m tests.soak.fuzz [npz arrays packed hlo store archive csv journal profile manifest model lists] [--seconds 600]

Needs atheris (extra ``soak``).  An input that is neither stays in ``--corpus`` as ``found-…``, and its kind goes into
tests/test_damage_files.py, where the suite tries it from then on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.damage import damaged_bytes
from tests.soak.binaries import BINARIES
from tests.soak.counts import read, record
from tests.soak.targets import Target
from tests.soak.texts import ROOT, TEXTS

TARGETS: Final[dict[str, Target]] = {**BINARIES, **TEXTS}


def damaged(target: Target, data: bytes, seed: int) -> bytes:
    """An input with damage that its target knows of; of its bytes, where there is nothing else left to damage."""
    choice = random.Random(seed)
    try:
        return target.mutate(data, choice)
    except KeyboardInterrupt:
        raise
    except BaseException:  # it is no whole one any more; what panics in Polars is no Exception
        return damaged_bytes(data or b"\n", choice)


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz some readers, or all, and print how many inputs were tried."""
    parser = argparse.ArgumentParser(prog="tests.soak.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs" / "fuzz")
    parser.add_argument("--record", action="store_true", help="write the counts to tests/soak/counts.json")
    args = parser.parse_args(argv)
    faults = 0
    for name in args.targets or TARGETS:
        command = [sys.executable, "-m", "tests.soak.guided", name, str(args.seconds), str(args.corpus / name)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, errors="replace", check=False)
        stats = dict(line[6:].split(": ") for line in done.stderr.splitlines() if line.startswith("stat::"))
        tried = int(stats.get("number_of_executed_units", 0))
        print(json.dumps({"target": name, "inputs": tried, "exit": done.returncode}), flush=True)
        if done.returncode:
            faults += 1
            print(done.stderr[-6000:], file=sys.stderr)
        elif args.record:
            mended = read().get("fuzz", {}).get(name, {}).get("mended", 0)  # told by hand, and kept
            record("fuzz", name, inputs=tried, seconds=args.seconds, mended=mended)
    return min(1, faults)


if __name__ == "__main__":
    raise SystemExit(main())
