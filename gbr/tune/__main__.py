"""``python -m gbr.tune``: search the configurations of a program for a fast one, with few measurements."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import cli
from gbr.data.files import write_json
from gbr.errors import TuneError, UsageError

if TYPE_CHECKING:
    from gbr.ranker import Ranker
    from gbr.tune.loop import Found, Measure
    from gbr.tune.space import Space
    from gbr.tune.tuner import Tuner

JOURNAL: Final = "journal.jsonl"
RESULT: Final = "result.json"
_SHOWN: Final = 5
#: A replay gives the same second measurement every time.
_ROUNDS: Final = {"replay": 2}
_LONGEST_NAME: Final = 60

Opened = tuple["Space", "AbstractContextManager[Measure]"]


_EPILOG: Final = """\
\b
Spaces:
  tile:FAMILY_SHAPE        tiles of a kernel of gbr.collect, as in
                           tile:matmul_nt_256x192x256
  layout:FAMILY_VARIANT    layouts of a program of gbr.collect, as in
                           layout:resnet_nhwc
  layout:FILE.py:NAME      your own: NAME() returns a function for JAX and a
                           tuple of its arguments
  replay:GRAPH.npz         runtimes that were measured before, also a folder
                           of graphs"""


@cli.command("gbr.tune", epilog=_EPILOG)
@click.option("--space", required=True, metavar="KIND:NAME", help="Space to search, see below.")
@click.option("--model", type=cli.PATH, metavar="DIR", help="Run directory written by gbr train, of the space's kind.")
@click.option("--budget", type=cli.POSITIVE, default=40, metavar="N", help="Number of configurations to measure.")
@click.option("--seconds", type=cli.PositiveFloat(), metavar="S", help="Start no measurement after S seconds.")
@click.option(
    "--timeout", type=cli.PositiveFloat(), default=60.0, metavar="S", help="Time limit of one measurement in seconds."
)
@click.option(
    "--candidates",
    type=cli.POSITIVE,
    metavar="N",
    help="Number of configurations to choose from.  [default: 512 tiles, 1024 layouts, all of a replay]",
)
@cli.seed_option
@click.option("--out", type=cli.PATH, metavar="DIR", help="Folder of journal and result.  [default: runs/tune/<space>]")
@cli.json_option
def main(**options: Any) -> None:
    """Search the configurations of a program for a fast one, measuring as few as possible.

    Every measurement is written to a journal at once: run the same command again to resume.
    """
    args = SimpleNamespace(**options)
    kind, _, name = args.space.partition(":")
    if kind not in ("tile", "layout", "replay") or not name:
        raise UsageError(f"--space {args.space}: want tile:KERNEL, layout:PROGRAM or replay:GRAPH.npz")
    out = args.out or Path("runs") / "tune" / _folder(args.space)
    model = _model(args.model)
    if kind == "replay" and Path(name).is_dir():
        results = _replays(Path(name), out, model, args)
        if args.as_json:
            cli.emit_json(results)
        else:
            _show_all(results)
        return
    result, tuner, found = _search(kind, name, out, model, args)
    if args.as_json:
        cli.emit_json(result)
    else:
        _show(tuner, found, unit=1e3 if kind != "replay" else 1.0)
    cli.note(f"journal and result are in {out}")


def _search(
    kind: str, name: str, out: Path, model: Ranker | None, args: SimpleNamespace
) -> tuple[dict[str, Any], Tuner, Found]:
    from gbr.tune.loop import search
    from gbr.tune.tuner import Tuner

    space, measuring = _opened(kind, name, args)
    tuner = Tuner(space, model, seed=args.seed)
    with measuring as measure, cli.progress(min(args.budget, len(space)), "measuring") as advance:
        found = search(
            tuner,
            measure,
            budget=args.budget,
            seconds=args.seconds,
            journal=out / JOURNAL,
            rounds=_ROUNDS.get(kind, 20),
            told=lambda _config, _outcome: advance(1),
        )
    result = _result(tuner, found)
    write_json(out / RESULT, result, TuneError)
    return result, tuner, found


def _opened(kind: str, name: str, args: SimpleNamespace) -> Opened:
    """The space, and what measures it while it is entered."""
    chosen = {"seed": args.seed} | ({} if args.candidates is None else {"candidates": args.candidates})
    if kind == "replay":
        from gbr.tune.replay import Replay

        replay = Replay(Path(name))
        return replay.space, nullcontext(replay)
    from gbr.tune.child import Child

    make: Callable[[], Any]
    space: Space
    if kind == "tile":
        from gbr.tune.kernels import tile_space

        space, make = tile_space(name, **chosen)
    else:
        from gbr.tune.programs import layout_space

        space, make = layout_space(name, **chosen)
    return space, Child(make, args.timeout)


def _replays(folder: Path, out: Path, model: Ranker | None, args: SimpleNamespace) -> list[dict[str, Any]]:
    paths = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise UsageError(f"--space replay:{folder}: holds no .npz file")
    return [_search("replay", str(path), out / path.stem, model, args)[0] for path in paths]


def _model(folder: Path | None) -> Ranker | None:
    if folder is None:
        return None
    from gbr.ranker import Ranker

    return Ranker.load(folder).set_params(n_jobs=1)  # type: ignore[no-any-return]


def _result(tuner: Tuner, found: Found) -> dict[str, Any]:
    space = tuner.space
    return {
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


def _show(tuner: Tuner, found: Found, unit: float) -> None:
    space = tuner.space
    rows = [
        (place, _words(space.describe(best.config)), best.runtime / unit, _ratio(found.default, best.runtime))
        for place, best in enumerate(tuner.leaders(_SHOWN), 1)
    ]
    runtime = "µs" if unit > 1 else "runtime"
    cli.table(f"{space.name}: {found.measured} of {len(space)} measured", ("", "choice", runtime, "speed"), rows)
    for reason in list(tuner.failures.values())[:_SHOWN]:
        print(f"failed: {reason}")
    print(_verdict(found))


def _verdict(found: Found) -> str:
    verdict = found.verdict
    if found.default is None:
        return "The default failed or is not known: there is nothing to compare with."
    if verdict is None:
        return "Nothing but the default could be measured."
    told = f"{verdict.speedup:.3f} times as fast ({verdict.low:.3f} to {verdict.high:.3f})"
    if verdict.faster:
        return f"Faster than the default: {told}, measured anew in {verdict.rounds} turns."
    return f"The default is already best, within noise: the best of the others is {told}."


def _show_all(results: Sequence[dict[str, Any]]) -> None:
    rows = [
        (each["space"], each["measured"], each["best"]["config"], _ratio(each["default"], each["best"]["runtime"]))
        for each in results
    ]
    cli.table("Replayed", ("graph", "measured", "best", "speed"), rows)


def _ratio(default: float | None, runtime: float) -> float | None:
    return None if default is None else default / runtime


def _words(choice: dict[str, Any]) -> str:
    if not choice:
        return "all left to the compiler"
    words = " ".join(f"{name}={value}".replace(" ", "") for name, value in choice.items())
    return words if len(words) <= _LONGEST_NAME else f"{len(choice)} choices, see {RESULT}"


def _folder(space: str) -> str:
    kind, _, name = space.partition(":")
    return f"{kind}-{Path(name.replace(':', '-')).name.removesuffix('.npz')}"


if __name__ == "__main__":
    sys.exit(main())
