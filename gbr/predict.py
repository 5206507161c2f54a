"""Command: rank the configurations of graph files.

python -m gbr.predict --model runs/tile graph.npz --top 5
python -m gbr.predict --model runs/tile data/npz/tile/cpu/test --jobs 2
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbr import callable_module, cli
from gbr.data.pool import in_processes
from gbr.errors import DataError

if TYPE_CHECKING:
    from gbr.ranker import Ranker


@cli.command("gbr.predict")
@cli.model_option
@click.argument("graphs", type=cli.PATH, nargs=-1, required=True, metavar="GRAPH.npz...")
@click.option("--top", type=cli.POSITIVE, metavar="K", help="Only the best K.  [default: all]")
@click.option("--jobs", type=cli.POSITIVE, default=1, metavar="N", help="Number of parallel processes.")
@cli.report_option
@click.option("--format", "form", type=click.Choice(("csv", "json")), default="csv", help="Output format.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def main(*, model: Path, graphs: Sequence[Path], top: int | None, jobs: int, report: Path | None, form: str) -> None:
    """Rank the configurations of graph files, or of all graph files in a folder.

    The output has the row index and the score of each configuration, best first.
    """
    from gbr.report.report import summarise_prediction, write_report

    rankings = predict(model, graphs, None if report else top, jobs)
    shown = [ranking | {"configs": ranking["configs"][:top], "scores": ranking["scores"][:top]} for ranking in rankings]
    if form == "json":
        cli.emit_json(shown)
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("graph", "place", "config", "score"))
        for ranking in shown:
            pairs = zip(ranking["configs"], ranking["scores"], strict=True)
            writer.writerows((ranking["graph"], i, config, repr(score)) for i, (config, score) in enumerate(pairs, 1))
    if report:
        write_report(report, summarise_prediction(model, rankings, top))


def predict(
    model: str | Path, graphs: Sequence[str | Path], top: int | None = None, jobs: int = 1
) -> list[dict[str, Any]]:
    """Rank the configurations of graph files.

    Parameters
    ----------
    model : path
        Run directory written by :func:`gbr.train`.
    graphs : sequence of path
        Graph files, or folders, whose graph files are ranked in the order of their names.
    top : int, optional
        Only the best; all by default.
    jobs : int
        Processes of one thread each; with 1 this process uses all cores.

    Returns
    -------
    list of dict
        Per graph: ``graph`` (path), ``configs`` (row indices in the file, best first; equal scores in the order of the
        file) and ``scores`` (lower is predicted faster; only their order is meaningful).

    Raises
    ------
    DataError
        For a file that cannot be read, or a folder without graph files.
    ModelError
        When the model is missing or damaged, or does not rank these graphs.
    """
    paths: list[Path] = []
    for path in map(Path, [graphs] if isinstance(graphs, str | Path) else graphs):
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: no .npz files; name graph files or a folder that contains them")
        paths += files
    jobs = min(jobs, len(paths))
    rankings: list[dict[str, Any]] = [{}] * len(paths)
    _load.cache_clear()  # the model may have been replaced
    with cli.progress(len(paths), "ranking") as advance:
        work = partial(_rank, str(model), top, 1 if jobs > 1 else None)
        for (index, _), ranking in in_processes(work, list(enumerate(paths)), jobs, str(model)):
            rankings[index] = ranking
            advance(1)
    return rankings


def _rank(model: str, top: int | None, threads: int | None, task: tuple[int, Path]) -> dict[str, Any]:
    """Rank one graph, which a task is with its index."""
    scores = _load(model, threads).predict_graph(task[1])
    order = scores.argsort(kind="stable")[:top]
    return {"graph": str(task[1]), "configs": order.tolist(), "scores": scores[order].tolist()}


@cache
def _load(model: str, threads: int | None) -> Ranker:
    from gbr.ranker import Ranker

    ranker = Ranker.load(model)
    ranker.n_jobs = threads or ranker.n_jobs
    return ranker


callable_module(__name__)

if __name__ == "__main__":
    sys.exit(main())
