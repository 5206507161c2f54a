"""``python -m gbr.tune``: search the configurations of a program or a table for a fast one, with few measurements."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import cli
from gbr.data.files import write_json
from gbr.errors import TuneError, UsageError
from gbr.models.io import physics_target
from gbr.tune.runner import Child, Found, Replay, shown_search
from gbr.tune.space import Space
from gbr.tune.tuner import Tuner

if TYPE_CHECKING:
    from gbr.ranker import Ranker

JOURNAL: Final = "journal.jsonl"
RESULT: Final = "result.json"
_SHOWN: Final = 5
_ROUNDS: Final = 20
#: A replay gives the same second measurement every time.
_REPLAY_ROUNDS: Final = 2
_LONGEST_NAME: Final = 60
_EPILOG: Final = """\
\b
Spaces:
  tile:FAMILY_SHAPE        tiles of a kernel of gbr.collect, as in
                           tile:matmul_nt_256x192x256
  layout:FAMILY_VARIANT    layouts of a program of gbr.collect, as in
                           layout:resnet_nhwc
  layout:FILE.py:NAME      your own program: NAME() returns a function for JAX
                           and a tuple of its arguments
  replay:GRAPH.npz         recorded runtimes of a graph, or a folder of graphs
  table:FILE.csv|parquet   rows of a table that a command measures; with
                           --model, a run that was trained on a table of
                           other devices, rows of one of its groups

\b
A command measures a table, here one with the columns block and unroll:
  gbr tune --space table:candidates.csv \\
      --measure "./bench --block {block} --unroll {unroll}"
Its last number on standard output is the runtime, or with --model the target
in the direction of the training table; an exit status other than 0, or no
number, is a failure.  At least one column of the file is a placeholder; {{ and
}} are braces.  There is no shell."""


@cli.command("gbr.tune", epilog=_EPILOG)
@click.option("--space", required=True, metavar="KIND:NAME", help="Space to search, see below.")
@click.option(
    "--model",
    type=cli.PATH,
    metavar="DIR",
    help="Run directory written by gbr train, of the space's kind, or physics:HARDWARE.  [default: physics]",
)
@click.option(
    "--measure",
    metavar="COMMAND",
    help="Tables: command to measure with.  [default, with --model: replay the values in the file]",
)
@click.option("--group", metavar="NAME", help="Tables with --model: group to search, if there are several.")
@click.option(
    "--default",
    type=click.IntRange(0),
    metavar="ROW",
    help="Tables: row that the best is compared with, from 0.  [default: the first of the group]",
)
@click.option("--budget", type=cli.POSITIVE, default=40, metavar="N", help="Number of configurations to measure.")
@click.option("--seconds", type=cli.POSITIVE_FLOAT, metavar="S", help="Start no measurement after S seconds.")
@click.option(
    "--timeout", type=cli.POSITIVE_FLOAT, default=60.0, metavar="S", help="Time limit of one measurement in seconds."
)
@click.option(
    "--candidates",
    type=cli.POSITIVE,
    metavar="N",
    help="Number of configurations to choose from.  [default: 512 tiles, 1024 layouts, all of a replay or table]",
)
@cli.seed_option
@click.option("--out", type=cli.PATH, metavar="DIR", help="Folder of journal and result.  [default: runs/tune/<space>]")
@cli.json_option
def main(space: str, model: Path | None, out: Path | None, as_json: bool, **options: Any) -> None:
    """Search the configurations of a program or a table for a fast one, measuring as few as possible.

    Every measurement is written to a journal at once: run the same command again to resume.
    """
    kind, _, name = space.partition(":")
    if kind not in ("tile", "layout", "replay", "table") or not name:
        expected = "tile:KERNEL, layout:PROGRAM, replay:GRAPH.npz or table:FILE.csv"
        raise UsageError(f"--space: expected {expected}, got {space!r}")
    for option in ("measure", "group", "default"):
        if kind != "table" and options[option] is not None:
            raise UsageError(f"--{option}: only for --space table:FILE, got {space!r}")
    folder = out or Path("runs") / "tune" / _folder_name(kind, name, options["group"], options["measure"])
    ranker = None
    if model is not None and physics_target(model) != "":  # the estimate for the machine of the space is the default
        from gbr.ranker import Ranker  # boosting libraries, not for --help

        ranker = Ranker.load(model).set_params(n_jobs=1)
    if kind == "table" and ranker is None:
        if options["measure"] is None:
            raise UsageError("--measure: expected a command, or --model, a run that was trained on a table, to replay")
        if model or options["group"]:
            raise UsageError(
                f"{'--model' if model else '--group'}: expected a run that was trained on a table as --model"
            )
    if kind == "replay" and Path(name).is_dir():
        paths = sorted(path for path in Path(name).glob("*.npz") if not path.name.startswith("."))
        if not paths:
            raise UsageError(f"--space {space}: expected a folder with .npz files, found none")
        searches = []
        with cli.progress(len(paths), "replaying graphs") as advance:
            for path in paths:
                searches.append(_search(kind, str(path), folder / path.stem, ranker, label=None, **options))
                advance(1)
        if as_json:
            cli.emit_json([result for result, _, _ in searches])
        else:
            rows = [
                (tuner.space.name, found.measured, found.best.config, _speedup(found, found.best.runtime))
                for _, tuner, found in searches
            ]
            cli.table("Replayed", ("graph", "measured", "best", "speedup"), rows)
        return
    result, tuner, found = _search(kind, name, folder, ranker, **options)
    if as_json:
        cli.emit_json(result)
    else:
        _print(tuner, found, *_shown(kind, ranker))
    cli.note(f"journal and result are in {folder}")


def _folder_name(kind: str, name: str, group: str | None, measure: str | None) -> str:
    if kind != "table":
        return f"{kind}-{Path(name.replace(':', '-')).name.removesuffix('.npz')}"
    parts = ("replay" if measure is None else kind, Path(name).name.partition(".")[0], group)
    return "-".join(part for part in parts if part)


def _shown(kind: str, model: Ranker | None) -> tuple[str, Callable[[float], float]]:
    """Name of the figure of a configuration, and its value from the runtime."""
    if kind == "table" and model is not None:
        roles = model.table.roles
        words = roles.target.lower().replace("_", " ").split()
        name = f"{roles.target}, {roles.unit}" if roles.unit and roles.unit.lower() not in words else roles.target
        return name, (lambda runtime: 1 / runtime) if roles.direction == "higher" else float
    return ("runtime", float) if kind in ("replay", "table") else ("µs", lambda runtime: runtime / 1e3)


def _search(
    kind: str, name: str, out: Path, model: Ranker | None, *,
    budget: int, seconds: float | None, timeout: float, candidates: int | None, seed: int,
    measure: str | None, group: str | None, default: int | None, label: str | None = "measuring",
) -> tuple[dict[str, Any], Tuner, Found]:  # fmt: skip
    measuring: Any
    space: Space
    if kind == "replay":
        replay = Replay(Path(name))
        space, measuring, rounds = replay.space, nullcontext(replay), _REPLAY_ROUNDS
    elif kind == "table":
        from gbr.tune.tables import list_search, table_search  # polars, not for --help

        if model is None:
            space, measuring = list_search(Path(name), default, measure or "", timeout)
        else:
            space, measuring = table_search(Path(name), model, group, default, measure, timeout)
        rounds = _REPLAY_ROUNDS if measure is None else _ROUNDS
    else:
        from gbr.tune.jax import layout_space, tile_space  # numba and jax, not for --help

        sampling = {"seed": seed} | ({} if candidates is None else {"candidates": candidates})
        space, make = (tile_space if kind == "tile" else layout_space)(name, **sampling)
        measuring, rounds = Child(make, timeout), _ROUNDS
    tuner = Tuner(space, model, seed=seed)
    with measuring as run:
        found = shown_search(tuner, run, label, budget=budget, seconds=seconds, journal=out / JOURNAL, rounds=rounds)
    if found.resumed:
        more = "a larger --budget continues, " if found.resumed == found.measured else ""
        resumed = f"{found.resumed} of {found.measured} measurements are from {out / JOURNAL}"
        cli.note(f"{resumed}; {more}another --out starts anew")
    result = {
        "space": space.name,
        "fingerprint": space.fingerprint,
        "configs": len(space),
        "measured": found.measured,
        "resumed": found.resumed,
        "failed": {str(config): reason for config, reason in tuner.failures.items()},
        "default": found.default,
        "best": {**asdict(found.best), "choice": space.describe(found.best.config)},
        "verdict": None if found.verdict is None else asdict(found.verdict),
        "use": {"config": found.config, "choice": space.describe(found.config)},
        "seconds": found.seconds,
    }
    write_json(out / RESULT, result, TuneError)
    return result, tuner, found


def _print(tuner: Tuner, found: Found, figure: str, shown: Callable[[float], float]) -> None:
    space = tuner.space
    rows = []
    for rank, best in enumerate(tuner.leaders(_SHOWN), 1):
        rows.append((rank, _choice(space, best.config), shown(best.runtime), _speedup(found, best.runtime)))
    title = f"{space.name}: {found.measured} of {len(space)} measured (single measurements)"
    cli.table(title, ("", "choice", figure, "speedup"), rows)
    reasons: dict[str, list[int]] = {}
    for config, reason in tuner.failures.items():
        reasons.setdefault(reason, []).append(config)
    for reason, configs in sorted(reasons.items(), key=lambda each: -len(each[1]))[:_SHOWN]:
        print(
            f"failed: {_choice(space, configs[0])}{f' and {more} more' if (more := len(configs) - 1) else ''}: {reason}"
        )
    if found.verdict is None:
        print("No comparison: there is no default, it failed, or all other configurations did.")
    else:
        print(f"Compared in {found.verdict.rounds} alternating rounds: {found.verdict}")
        print(f"Use: {_choice(space, found.config)}")


def _choice(space: Space, config: int) -> str:
    """A configuration in a line of the terminal."""
    parts = [f"{name}={str(value).replace(' ', '')}" for name, value in space.describe(config).items()]
    return shorten(", ".join(parts), _LONGEST_NAME, placeholder=f" … ({RESULT})") or "default of the compiler"


def _speedup(found: Found, runtime: float) -> float | None:
    return None if found.default is None else found.default / runtime


if __name__ == "__main__":
    sys.exit(main())
