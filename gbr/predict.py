"""Command: rank the configurations of graph files.

python -m gbr.predict --model runs/tile-cpu/20250101-120000 graph.npz --top 5
python -m gbr.predict --model runs/tile-cpu/20250101-120000 data/npz/tile/cpu/test --jobs 2
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import cli
from gbr.data.pool import in_processes
from gbr.errors import DataError

if TYPE_CHECKING:
    from gbr.ranker import Ranker

_HEADER: Final = ("graph", "place", "config", "score")


@cli.command("gbr.predict")
@cli.model_option
@click.argument("graphs", type=cli.PATH, nargs=-1, required=True, metavar="GRAPH.npz...")
@click.option("--top", type=cli.POSITIVE, metavar="K", help="Only the best K.  [default: all]")
@click.option("--jobs", type=cli.POSITIVE, default=1, metavar="N", help="Number of parallel processes.")
@cli.report_option
@click.option("--format", "form", type=click.Choice(("csv", "json")), default="csv", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def main(
    *,
    model: Path,
    graphs: Sequence[Path],
    top: int | None,
    jobs: int,
    report: Path | None,
    form: str,
    as_json: bool,
) -> None:
    """Rank the configurations of graph files, or of all graph files in a folder.

    The output has the index of each configuration and its score, best first.
    """
    form = "json" if as_json else form
    # All of it before the first line: output that breaks off in the middle looks whole to the next program.
    paths = graph_paths(graphs)
    if not report:
        _show(rank_files(model, paths, top, jobs), form)
        return
    from gbr.report.report import check_report_path, summarise_prediction, write_report

    check_report_path(report)
    every = rank_files(model, paths, None, jobs)
    _show([_best(one, top) for one in every], form)
    write_report(report, summarise_prediction(model, every, top))
    cli.note(f"the report is {report}")


def _show(rankings: list[dict[str, Any]], form: str) -> None:
    if form == "json":
        cli.emit_json(rankings)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_HEADER)
    for one in rankings:
        writer.writerows(_lines(one))


@dataclass(frozen=True)
class _Task:
    """One graph file to rank; what crosses into a worker process."""

    number: int
    model: Path
    path: Path
    top: int | None


def graph_paths(places: Sequence[Path]) -> list[Path]:
    """Graph files, and those of folders in the order of their names.

    Raises
    ------
    DataError
        For a folder without any.
    """
    found: list[Path] = []
    for place in places:
        inside = sorted(place.glob("*.npz")) if place.is_dir() else [place]
        if not inside:
            raise DataError(f"{place}: holds no .npz files; name graph files, or the folder that they are in")
        found += inside
    return found


def rank_files(model: Path, paths: Sequence[Path], top: int | None = None, jobs: int = 1) -> list[dict[str, Any]]:
    """Order the configurations of several graph files.

    Parameters
    ----------
    model : Path
        Folder written by ``python -m gbr.train``.
    paths : sequence of Path
    top : int, optional
        As for :func:`ranking`.
    jobs : int
        Processes, each with one thread; 1 works in this one, with as many threads as there are cores.

    Returns
    -------
    list of dict
        Of :func:`ranking`, in the order of ``paths``.

    Raises
    ------
    ModelError, DataError
        As :func:`ranking`; the first that is met.
    """
    jobs = min(jobs, len(paths))
    found: dict[int, dict[str, Any]] = {}
    with cli.progress(len(paths), "ranking") as advance:
        if jobs <= 1:
            ranker = _load(model)
            for number, path in enumerate(paths):
                found[number] = ranking(ranker, path, top)
                advance(1)
        else:
            tasks = [_Task(number, model, path, top) for number, path in enumerate(paths)]
            for task, one in in_processes(_rank, tasks, jobs, str(model)):
                found[task.number] = one
                advance(1)
    return [found[number] for number in range(len(paths))]


def _rank(task: _Task) -> dict[str, Any]:
    return ranking(_of_worker(task.model), task.path, task.top)


@cache
def _of_worker(model: Path) -> Ranker:
    """The model of a worker process, which lives for one call of :func:`rank_files`."""
    ranker = _load(model)
    ranker.set_params(n_jobs=1)
    return ranker


def _load(model: Path) -> Ranker:
    from gbr.ranker import Ranker

    return Ranker.load(model)


def ranking(ranker: Ranker, path: Path, top: int | None = None) -> dict[str, Any]:
    """Order the configurations of one graph file.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``.
    path : Path
    top : int, optional
        Keep the best only.

    Returns
    -------
    dict
        ``graph`` (the path), ``configs`` (row numbers in the file, best first; ties in the order of the file) and
        ``scores`` (lower is predicted faster; only their order has meaning).

    Raises
    ------
    ModelError, DataError
        As :meth:`gbr.ranker.Ranker.predict_graph`.
    """
    scores = ranker.predict_graph(path)
    order = scores.argsort(kind="stable")[:top]
    return {"graph": str(path), "configs": order.tolist(), "scores": scores[order].tolist()}


def _best(one: dict[str, Any], top: int | None) -> dict[str, Any]:
    return one | {"configs": one["configs"][:top], "scores": one["scores"][:top]}


def _lines(one: dict[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    for place, (config, score) in enumerate(zip(one["configs"], one["scores"], strict=True), start=1):
        yield one["graph"], place, config, repr(score)


if __name__ == "__main__":
    sys.exit(main())
