"""Searches measured on this machine: kernels and JAX programs of families that the model has not seen."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.bench_tune import trained_model
from benchmarks.common import Section, machine, publish
from gbr import Ranker
from gbr.tune import Child, Found, GraphSpace, Tuner, search
from gbr.tune.jax import layout_space, tile_space

KERNELS: Final = ("matmul_nt_256x192x256", "transpose_210_96x64x160", "max_pool_nchw_6x96x16x30")
PROGRAMS: Final = ("gmlp_shallow-grad", "resnet_nhwc")
COLUMNS: Final = tuple(
    "program|candidates|model|measured|failed|default [µs]|best [µs]|against the default, anew|to use|seconds".split(
        "|"
    )
)
TEXT: Final = """\
`gbr.tune` on this machine with its defaults, except for the budget: {kernels} configurations of a kernel, {programs} of
a program, chosen among {tiles} tiles and {layouts} layouts, of families that the model was not trained on. One pinned
core, CPU time, beside other work. *default* and *best* are single measurements of the search; *anew* is the runtime of
the default over that of the best, median of {rounds} alternating rounds, with a 95 % bootstrap interval. What
does not beat the default by more than 1 % with 95 % confidence is not used."""


def live(kind: str, name: str, model: Ranker | None, budget: int, rounds: int, journal: Path) -> tuple[Any, ...]:
    """One search; a row of the table."""
    space, task = tile_space(name) if kind == "tile" else layout_space(name)
    tuner = Tuner(space, model)
    with Child(task, timeout=60.0) as child:
        found = search(tuner, child, budget=budget, rounds=rounds, journal=journal)
    return row(space, found, model is not None)


def row(space: GraphSpace, found: Found, with_model: bool) -> tuple[Any, ...]:
    """What is told of one search."""
    verdict = found.verdict
    anew = "–" if verdict is None else f"{verdict.speedup:.3f} ({verdict.low:.3f}–{verdict.high:.3f})"
    use = "default" if found.config == space.default else f"configuration {found.config}"
    default = "–" if found.default is None else found.default / 1e3
    best, seconds = found.best.runtime / 1e3, round(found.seconds)
    model = "yes" if with_model else "no"
    return space.name, len(space), model, found.measured, found.failed, default, best, anew, use, seconds


def main() -> None:
    """Search, and leave the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--work", type=Path, default=Path("runs/tune"), metavar="DIR", help="models and journals")
    arguments.add_argument("--tiles", type=int, default=24, metavar="N", help="budget of a kernel")
    arguments.add_argument("--layouts", type=int, default=16, metavar="N", help="budget of a program")
    arguments.add_argument("--rounds", type=int, default=20, metavar="N", help="of the comparison")
    args = arguments.parse_args()
    rows = []
    for kind, names, budget in (("tile", KERNELS, args.tiles), ("layout", PROGRAMS, args.layouts)):
        collection = "tile:cpu" if kind == "tile" else "layout:cpu:random"
        model = trained_model(collection, args.data, args.work)
        for name in names:
            journal = args.work / "live" / f"{name}.jsonl"
            rows.append(live(kind, name, model, budget, args.rounds, journal))
            print(*rows[-1], flush=True)
    candidates = {row[1] for row in rows[: len(KERNELS)]}, {row[1] for row in rows[len(KERNELS) :]}
    tiles, layouts = (" or ".join(map(str, sorted(each))) for each in candidates)
    text = TEXT.format(
        kernels=args.tiles, programs=args.layouts, tiles=tiles, layouts=layouts, rounds=-(-args.rounds // 2)
    )
    section = Section("Live searches", "", COLUMNS, rows)
    publish("tune_live", "Searches on a machine", text, [section], machine("numba", "jax", "scikit-learn"))


if __name__ == "__main__":
    main()
