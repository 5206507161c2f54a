"""Command: fetch TpuGraphs, train and evaluate on its collections, and write the table beside published results.

python -m gbr.reproduce
python -m gbr.reproduce --subset tile layout:xla --yes
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import __version__, cli, train
from gbr.data import collection
from gbr.data.collection import Subset
from gbr.data.files import require_space, size_text, write_json, write_text
from gbr.done import SCORED
from gbr.download import check_source, source_options
from gbr.downloads.catalogue import Piece, asked_for
from gbr.downloads.retrieve import Place, get_graphs, get_indices
from gbr.errors import DownloadError, GbrError, UsageError
from gbr.evaluation import published

if TYPE_CHECKING:
    from gbr.needs import Needs

RESULTS: Final = "results.json"
PAGE: Final = "results.md"
SUBMISSION: Final = "submission.csv"


@cli.command("gbr.reproduce", epilog="The time and disk space it needs are shown first; interrupted runs are resumed.")
@cli.variadic(
    "--subset",
    default=["all"],
    metavar="NAME...",
    help="Collections, or beginnings of their names: tile, layout:xla, layout:nlp:random ...",
)
@cli.data_option
@cli.store_option
@click.option(
    "--out", type=cli.PATH, default=Path("runs/reproduce"), metavar="DIR", help="Folder of models, figures and state."
)
@source_options
@cli.memory_option
@click.option("--submission", is_flag=True, help="Also download the test graphs, and write a submission to Kaggle.")
@click.option("--yes", is_flag=True, help="Start without asking.")
@cli.jobs_option
@cli.json_option
def main(
    *,
    subset: Sequence[str],
    data: Path,
    store: Path,
    out: Path,
    base_url: str | None,
    source: Path | None,
    memory: int | None,
    submission: bool,
    yes: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Download TpuGraphs, train and evaluate on its collections, and write the results beside published ones."""
    pieces, indices = asked_for(subset, SCORED)
    if indices:
        raise UsageError("--subset: expected collections; the lists of the official evaluation come with them")
    check_source(base_url, source)
    work = Work(
        place=Place(data, base_url, source),
        store_root=store,
        out=out,
        jobs=jobs,
        memory=memory,
        submission=submission,
    )
    names = list(dict.fromkeys(piece.subset for piece in pieces))
    results = reproduce(names, work, confirm=lambda told: _confirm(told, yes=yes))
    if as_json:
        cli.emit_json(results)
    else:
        print(published.page(results), end="")
    cli.note(f"the table is in {out / PAGE}, every figure in {out / RESULTS}, models beside them")


@dataclass(frozen=True)
class Work:
    """Where results are reproduced, and how.

    Parameters
    ----------
    place : Place
        Data root, and where its data come from.
    store_root, out : Path
        Features; models, figures and what is done.
    jobs : int, optional
        Processes and threads.
    memory : int, optional
        Bytes, as for :func:`gbr.train.train`.
    submission : bool
        Fetch the test graphs too, and write a submission to the Kaggle competition.
    """

    place: Place
    store_root: Path
    out: Path
    jobs: int | None = None
    memory: int | None = None
    submission: bool = False

    @property
    def data(self) -> Path:
        """The data root."""
        return self.place.data_root

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that are fetched and built."""
        return collection.SPLITS if self.submission else SCORED

    def run(self, name: str) -> Path:
        """Folder of the model of a collection."""
        return self.out / name.replace(":", "-")

    def pieces(self, name: str) -> list[Piece]:
        """What is fetched for a collection."""
        return [Piece(name, split) for split in self.splits]


def reproduce(names: Sequence[str], work: Work, confirm: Callable[[str], None] = lambda told: None) -> dict[str, Any]:
    """Fetch, build, train and evaluate; whatever was done before, by an earlier call, is not done again.

    The table is written anew after each collection, so that an interrupted call leaves what it has; it also holds the
    collections of earlier calls.

    Parameters
    ----------
    names : sequence of str
        Official collections.
    work : Work
    confirm : callable
        Gets a sentence about the time and room it takes, where there is anything left to do; raises to stop.

    Returns
    -------
    dict
        What ``results.json`` holds: ``gbr`` (version), ``collections`` (name -> ``valid``, as
        :func:`gbr.evaluate.evaluate` gives it with the official protocol, ``seconds`` and ``model``), ``rows`` (of
        :func:`gbr.evaluation.published.rows`) and, where asked for, ``submission``.

    Raises
    ------
    GbrError
        As the steps raise it, and where the disk has not enough room.
    """
    from gbr import done

    for name in names:
        train.claim(work.run(name))
    _say_and_confirm(names, work, confirm)
    if any(name.startswith("layout:") for name in names):
        get_indices(work.place)
    known = done.State(work.out).known()
    found = {name: one | {"model": str(work.run(name))} for name, one in known.items() if name not in names}
    results: dict[str, Any] = {"gbr": __version__}
    for name in names:
        get_graphs(work.pieces(name), work.place)
        found[name] = _collection(Subset(name), work)
        results["collections"] = {name: found[name] for name in published.COLLECTIONS if name in found}
        results["rows"] = published.rows(results)
        _write(results, work.out)
    if work.submission:
        from gbr.submit import submit

        out, models = work.out / SUBMISSION, [work.run(name) for name in names]
        results["submission"] = submit(models, work.data, work.store_root, out, jobs=work.jobs)
        _write(results, work.out)
    return results


def _collection(subset: Subset, work: Work) -> dict[str, Any]:
    """Features, model and figures of one collection."""
    from gbr import done, evaluate
    from gbr.evaluation import scoring

    run = work.run(subset.name)
    state = done.State(work.out)
    _store, seconds = scoring.ready_store(subset, work.data, work.store_root, work.splits, work.jobs)
    state.took(subset.name, "build", seconds)
    if not done.is_trained(subset, run, work.store_root):
        cli.note(f"{subset.name}: training; model, manifest and metrics go to {run}")
        start = time.monotonic()
        train.train(subset, work.data, work.store_root, run, jobs=work.jobs, memory=work.memory)
        state.took(subset.name, "train", time.monotonic() - start)
    made_of = done.made_of(subset, run, work.place)
    if state.figures(subset.name, made_of) is None:
        start = time.monotonic()
        found = evaluate.evaluate(
            run,
            subset,
            "valid",
            work.data,
            work.store_root,
            jobs=work.jobs,
            protocol="official",
            indices=work.place.indices,
        )
        state.keep(subset.name, made_of, found["valid"])
        state.took(subset.name, "evaluate", time.monotonic() - start)
    return {
        "valid": state.figures(subset.name, made_of),
        "seconds": state.seconds(subset.name),
        "model": str(run),
    }


def _say_and_confirm(names: Sequence[str], work: Work, confirm: Callable[[str], None]) -> None:
    """Tell what is left to do and what it takes; ask whether to begin where it takes anything."""
    from gbr import done
    from gbr import needs as _needs
    from gbr.data.build import schema_of
    from gbr.data.pool import cores
    from gbr.models.training_set import default_memory

    n_cores = min(work.jobs or cores(), cores())
    needs = [
        _needs.needs_of(
            name,
            work.pieces(name),
            work.place,
            len(schema_of(Subset(name).kind)),
            n_cores,
            work.memory or default_memory(),
            done.built(Subset(name), work.store_root),
            trained=done.is_trained(Subset(name), work.run(name), work.store_root),
        )
        for name in names
    ]
    left = [one for one in needs if one.fetch != 0 or one.build or one.train]
    if not left:
        return
    for one in left:
        cli.note(f"{one.subset}: {_told(one)}")
    unknown = any(one.fetch is None for one in left)
    fetch, features = sum(one.fetch or 0 for one in left), sum(one.store for one in left)
    largest = max(one.largest for one in left)
    require_space(work.data, fetch + largest, "fetching and unpacking", DownloadError)
    require_space(work.store_root, features, "the features, about,", GbrError)
    hours = cli.duration(sum(one.build + one.train for one in left))
    confirm(
        f"in all {size_text(fetch)}{' and what the server did not tell' if unknown else ''} to fetch, "
        f"{size_text(fetch + largest + features)} of disk, and roughly {hours} on {n_cores} cores after that; it can "
        "be interrupted at any time, the same command goes on"
    )


def _told(one: Needs) -> str:
    parts = []
    if one.fetch != 0:
        parts.append(f"{'an unknown size' if one.fetch is None else size_text(one.fetch)} to fetch")
    if one.build:
        parts.append(f"roughly {size_text(one.store)} of features, {cli.duration(one.build)} to build")
    if one.train:
        parts.append(f"{cli.duration(one.train)} to train and score")
    return ", ".join(parts)


def _confirm(told: str, *, yes: bool) -> None:
    cli.note(told)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this takes long, and nobody is there to ask; say --yes")
    print("gbr: begin? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise GbrError("nothing was begun; say y, or --yes, to begin")


def _write(results: dict[str, Any], out: Path) -> None:
    write_json(out / RESULTS, results)
    write_text(out / PAGE, published.page(results))


if __name__ == "__main__":
    sys.exit(main())
