"""Generated loop nests of gbr.collect against the hand-written ones that they replaced, which are read from git."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from benchmarks.common import Section, machine, publish
from gbr.collect.families import FAMILIES
from gbr.collect.tiles import COLLECTION, Kernel, sample_tiles, seed_of
from gbr.collect.timer import pinned
from gbr.data.graph import read_graph

#: The last commit with the hand-written kernels, with which the committed collection was measured.
COMMIT: Final = "ef50c11"
NAMES: Final = """
    matmul_nn matmul_nt matmul_scaled_add attention_scores conv2d conv2d_nchw conv2d_ohwi depthwise transpose_10
    transpose_0231 sum_minor sum_middle variance_minor abs_sum_transposed softmax layer_norm group_norm max_pool
    stencil5 stencil7 add_transposed gated_mix outer_permuted channel_affine_nchw
"""
TEXT: Final = """\
CPU time of the nests that `gbr/collect/kernels.py` generates over that of the hand-written kernels of commit {commit},
with which the committed collection was measured: the first shape of a family under six configurations, the default and
others from the fastest to the slowest.  Both kernels take turns in one process pinned to one core; each time is the
minimum of {rounds} rounds of at least a millisecond.  A family with a median above 1.05 is measured once more.  The
median over the {families} families is {all:.3f}."""


def handwritten(folder: Path) -> dict[str, Callable[..., Any]]:
    """Kernels by family, of the package as it was at :data:`COMMIT`, extracted to ``folder``."""
    command = ["git", "archive", COMMIT, "gbr/collect/kernels"]
    archive = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1]).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    package = (folder / "gbr/collect/kernels").rename(folder / "handwritten")
    for path in package.glob("*.py"):
        path.write_text(path.read_text().replace("gbr.collect.kernels", "handwritten"))
    sys.path.insert(0, str(folder))
    return {name: family.kernel for name, family in import_module("handwritten").FAMILIES.items()}


def ratio(old: Callable[[], object], new: Callable[[], object], rounds: int) -> float:
    """Least CPU time of ``new`` over that of ``old``, which take turns."""
    for run in (old, new):
        run()
    start = time.thread_time_ns()
    old()
    repeats = max(1, 1_000_000 // max(1, time.thread_time_ns() - start))
    best = {old: np.inf, new: np.inf}
    for number in range(rounds):
        for run in (old, new) if number % 2 else (new, old):
            start = time.thread_time_ns()
            for _ in range(repeats):
                run()
            best[run] = min(best[run], (time.thread_time_ns() - start) / repeats)
    return float(best[new] / best[old])


def ratios(name: str, old: Callable[..., Any], data: Path, rounds: int) -> list[float]:
    """Ratios of one family under the default configuration and five others, fast to slow."""
    family = FAMILIES[name]
    shape, stem = family.shapes[0], family.stems[0]
    kernel = Kernel(family, shape, seed_of(stem, 0))
    tiles = sample_tiles([loop.extent for loop in kernel.nest.loops], 96, seed_of(stem, 0))
    runtime = read_graph(data / COLLECTION / family.split / f"{stem}.npz").runtime
    assert runtime is not None
    found = []
    for row in tiles[[0, *np.argsort(runtime)[[0, 12, 30, 50, 75]]]]:
        new = kernel.bind(row)
        kernel.check(new, row)
        found.append(ratio(partial(old, *new.args), new, rounds))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Time the families and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--families", default=",".join(NAMES.split()), help="names by commas, or all")
    arguments.add_argument("--data", type=Path, default=Path("data"))
    arguments.add_argument("--rounds", type=int, default=15, metavar="N")
    args = arguments.parse_args(argv)
    names = list(FAMILIES) if args.families == "all" else args.families.split(",")
    rows = []
    with TemporaryDirectory() as folder, pinned():
        old = handwritten(Path(folder))
        for name in names:
            found = ratios(name, old[name], args.data, args.rounds)
            if median(found) > 1.05:  # once more: another process may have disturbed the caches
                found = ratios(name, old[name], args.data, args.rounds)
            rows.append((name, FAMILIES[name].stems[0][len(name) + 1 :], median(found), min(found), max(found)))
            print(*rows[-1], flush=True)
    text = TEXT.format(commit=COMMIT, rounds=args.rounds, families=len(rows), all=median(row[2] for row in rows))
    columns = ("family", "shape", "median ratio", "least", "largest")
    publish(
        "kernels",
        "Generated and hand-written kernels",
        text,
        [Section("", "", columns, rows)],
        machine("numpy", "numba"),
    )


if __name__ == "__main__":
    main()
