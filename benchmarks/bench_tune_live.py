"""Searches measured on this machine: kernels and JAX programs of families that the model has not seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.common import Row, Section, default_model, machine, parser, publish
from gbr import Ranker
from gbr.tune import Child, Tuner, search
from gbr.tune.jax import layout_space, tile_space

KERNELS: Final = ("matmul_nt_256x192x256", "transpose_210_96x64x160", "max_pool_nchw_6x96x16x30")
PROGRAMS: Final = ("gmlp_shallow-grad", "resnet_nhwc")
TEXT: Final = """\
`gbr.tune` on this machine with its defaults, except for the budget: {kernels} configurations of a kernel, {programs} of
a program, chosen among {tiles} tiles and {layouts} layouts, of families that the model was not trained on. CPU time on
one pinned core of a machine with other load. *default* and *best* are single measurements of the search; *speedup* is
the runtime of the default over that of the best, median of {rounds} further alternating rounds, with a 95 % bootstrap
interval. A configuration that does not beat the default by more than 1 % with 95 % confidence is not used."""


def measure(kind: str, name: str, model: Ranker, budget: int, rounds: int, journal: Path) -> Row:
    """Search once; a row of the table."""
    space, task = tile_space(name) if kind == "tile" else layout_space(name)
    with Child(task, timeout=60.0) as child:
        found = search(Tuner(space, model), child, budget=budget, rounds=rounds, journal=journal)
    verdict = found.verdict
    return {
        "program": space.name,
        "candidates": len(space),
        "measured": found.measured,
        "failed": found.failed,
        "default [µs]": "–" if found.default is None else found.default / 1e3,
        "best [µs]": found.best.runtime / 1e3,
        "speedup": "–" if verdict is None else f"{verdict.speedup:.3f} ({verdict.low:.3f}–{verdict.high:.3f})",
        "to use": "default" if found.config == space.default else f"configuration {found.config}",
        "seconds": round(found.seconds),
    }


def main() -> None:
    """Search, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--work", type=Path, default=Path("runs/tune"), metavar="DIR", help="models and journals")
    arguments.add_argument("--tiles", type=int, default=24, metavar="N", help="budget per kernel")
    arguments.add_argument("--layouts", type=int, default=16, metavar="N", help="budget per program")
    arguments.add_argument("--rounds", type=int, default=20, metavar="N", help="rounds of the comparison")
    args = arguments.parse_args()
    rows: list[Row] = []
    counts = []
    for collection, names, budget in (
        ("tile:cpu", KERNELS, args.tiles),
        ("layout:cpu:random", PROGRAMS, args.layouts),
    ):
        model = default_model(collection, args.data, args.work)
        for name in names:
            journal = args.work / "live" / f"{name}.jsonl"
            rows.append(measure(collection.split(":")[0], name, model, budget, args.rounds, journal))
            print(*rows[-1].values(), flush=True)
        counts.append(" or ".join(map(str, sorted({row["candidates"] for row in rows[-len(names) :]}))))
    text = TEXT.format(
        kernels=args.tiles, programs=args.layouts, tiles=counts[0], layouts=counts[1], rounds=-(-args.rounds // 2)
    )
    section = Section("Live searches", "", rows)
    publish("tune_live", "Searches on a machine", text, [section], machine("numba", "jax", "scikit-learn"))


if __name__ == "__main__":
    main()
