"""Command: rank the configurations of graph files, or the rows of tables.

python -m gbr.predict --model runs/tile graph.npz --top 5
python -m gbr.predict --model runs/tile data/npz/tile/cpu/test --jobs 2
python -m gbr.predict --model physics:a100 matmul.hlo --configs configs.csv --top 5
python -m gbr.predict --model runs/convolution settings.csv --top 20
python -m gbr.predict --model runs/models --describe config.json --device "RTX 4090"
python -m gbr.predict --model runs/convolution partly_measured.csv --adapt
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from functools import cache, partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import callable_module, cli
from gbr.data.collection import TABLE
from gbr.data.pool import in_processes
from gbr.errors import DataError, UsageError
from gbr.models import io
from gbr.models.params import COVERAGE

if TYPE_CHECKING:
    from gbr.ranker import Ranker

#: Digits of a score, unless more are needed to tell scores apart.
_DIGITS: Final = 6


@cli.command("gbr.predict")
@cli.model_option
@click.argument("graphs", type=cli.PATH, nargs=-1, metavar="FILE...")
@click.option("--top", type=cli.POSITIVE, metavar="K", help="Only the best K.  [default: all]")
@click.option(
    "--configs",
    type=cli.PATH,
    metavar="FILE",
    help="Configurations to rank instead of those of the graphs: a table with a column per parameter.",
)
@click.option(
    "--describe",
    multiple=True,
    metavar="MODEL",
    help="Instead of files: a network to time, by its config.json, name, or `all`; may be repeated.",
)
@click.option("--device", multiple=True, metavar="NAME", help="Where it runs: a device, machine.toml or `all`.")
@click.option("--batch", type=cli.POSITIVE, default=1, help="Batch of --describe.")
@click.option("--sequence", type=cli.POSITIVE, default=128, help="Tokens of --describe.")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16")),
    help="Numbers of --describe.  [default: float32 on a CPU, bfloat16 on an accelerator]",
)
@click.option("--threads", type=cli.POSITIVE, default=1, help="Threads of --describe, on a CPU.")
@click.option("--phase", type=click.Choice(("forward", "prefill", "decode")), help="Only this one.  [default: all]")
@click.option(
    "--price",
    multiple=True,
    metavar="NAME=PRICE",
    help="Price of a device per hour: order by the cost of a million runs; may be repeated.",
)
@click.option("--jobs", type=cli.POSITIVE, default=1, metavar="N", help="Number of parallel processes.")
@click.option(
    "--adapt",
    is_flag=True,
    help="Tables: learn from the rows that have a value of the target, in the unit of the training table; empty cells "
    "were not measured.",
)
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=COVERAGE,
    help="Share of the runtimes that the intervals of a table's runtimes should hold.",
)
@cli.report_option
@click.option("--format", "form", type=click.Choice(("csv", "json")), default="csv", help="Output format.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def main(
    *,
    model: Path,
    graphs: Sequence[Path],
    top: int | None,
    configs: Path | None,
    describe: Sequence[str],
    jobs: int,
    adapt: bool,
    coverage: float,
    report: Path | None,
    form: str,
    **run: Any,
) -> None:
    """Rank the configurations of graph files (.npz), the rows of tables (.parquet, .csv, .tsv), or all of a folder.

    With --configs, rank those of a table for graphs or HLO modules (.pb, .hlo).

    The output has the row index and the score of each configuration of a graph, or of a group of a table, best first;
    for a table also its chance to fail, with --adapt whether it was measured, and its parameters.
    """
    if adapt and report:
        raise UsageError("--adapt: --report explains the order of the model, not an adapted one; leave out one of them")
    if configs and (adapt or report or describe):
        raise UsageError("--configs: expected no --adapt, --report or --describe")
    from gbr.report.report import summarise_prediction, write_report

    if describe:
        if graphs or report or adapt:
            raise UsageError("--describe: expected no files, --report or --adapt")
        _estimate(model, describe, top, form, **run)
        return
    if not graphs:
        raise UsageError("Missing argument 'FILE...', or --describe MODEL with --device NAME")
    rows = None if configs is None else _rows(configs)
    rankings = predict(model, graphs, None if report else top, jobs, adapt, rows, coverage)
    shown = [
        {key: value[:top] if isinstance(value, list) else value for key, value in each.items()} for each in rankings
    ]
    if form == "json":
        cli.emit_json(shown)
    else:
        settings: list[list[dict[str, Any]]] = [
            each.pop("configs") if "rows" in each else [{}] * len(each["scores"]) for each in shown
        ]
        is_table = bool(shown) and "rows" in shown[0]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        names = ["graph", "rank", "config", "score"]
        if is_table:
            lists = [key.removesuffix("s") for key, value in shown[0].items() if isinstance(value, list)]
            names = ["file", "group", "rank", *lists]
        writer.writerow([*names, *(settings[0][0] if settings else ())])
        for each, chosen in zip(shown, settings, strict=True):
            keys = [value for value in each.values() if not isinstance(value, list)]
            indices, *columns = (value for value in each.values() if isinstance(value, list))
            for rank, (config, *row) in enumerate(zip(chosen, indices, *map(_texts, columns), strict=True), 1):
                writer.writerow((*keys, rank, *row, *config.values()))
    if report:
        write_report(report, summarise_prediction(model, rankings, top))


def _rows(path: Path) -> list[dict[str, Any]]:
    """Configurations of a table as dictionaries, without empty cells."""
    from gbr.data.table_columns import read_frame  # imports polars

    rows = read_frame(path)[0].to_dicts()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _texts(values: list[Any]) -> list[str]:
    """Numbers with six digits, or as many as tell different ones apart; others as in JSON."""
    if not all(isinstance(value, float) for value in values):
        return list(map(json.dumps, values))
    texts: list[str] = []
    for digits in range(_DIGITS, 18):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def _estimate(
    model: Path,
    names: Sequence[str],
    top: int | None,
    form: str,
    device: Sequence[str],
    price: Sequence[str],
    **run: Any,
) -> None:
    """Print how long networks run on devices, in each phase the fastest or the cheapest first."""
    from gbr.collect.estimates import Run, estimate, parse_price

    prices = dict(map(parse_price, price))
    if not (targets := device or tuple(prices)):
        raise UsageError("--describe: expected --device NAME, or `--device all`")
    rows, notes = estimate(_load(str(model), None), names, targets, Run(**run), prices)
    for message in notes:
        cli.note(message)
    rows = [row for _, phase in groupby(rows, key=itemgetter("phase")) for row in islice(phase, top)]
    if form == "json":
        cli.emit_json(rows)
        return
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.4g}" if isinstance(value, float) else value


def predict(
    model: str | Path,
    graphs: Sequence[str | Path],
    top: int | None = None,
    jobs: int = 1,
    adapt: bool = False,
    configs: Sequence[Any] | None = None,
    coverage: float = COVERAGE,
) -> list[dict[str, Any]]:
    """Rank the configurations of graph files, or the rows of tables.

    Parameters
    ----------
    model : path
        Run directory written by :func:`gbr.train`.
    graphs : sequence of path
        Graph files, or for a model of a table Parquet, CSV or TSV files as :meth:`gbr.Ranker.predict_table` takes them;
        or folders, whose files are ranked in the order of their names.
    top : int, optional
        Only the best; all by default.
    jobs : int
        Processes of one thread each for graph files; with 1 this process uses all cores.
    adapt, coverage
        For a model of a table, as :meth:`gbr.Ranker.predict_table` takes them.
    configs : sequence, optional
        Configurations to rank instead of those of the graphs, as for :meth:`gbr.Ranker.predict_graph`.

    Returns
    -------
    list of dict
        Per graph: ``graph`` (path), ``configs`` (row indices in the file, best first; equal scores in the order of the
        file) and ``scores`` (lower is predicted faster; only their order is meaningful).  Per group of a table:
        ``file``, ``group``, ``rows`` (from 0), ``scores``, ``failures`` (chance to fail), with ``adapt`` ``measured``,
        and ``configs`` (value by parameter).

    Raises
    ------
    DataError
        For a file that cannot be read, or a folder without such files.
    ModelError
        When the model is missing or damaged, or does not rank these files.
    """
    _load.cache_clear()  # the model may have been replaced
    is_estimate = io.physics_target(model) is not None
    is_table = not is_estimate and (io.read_manifest(Path(model)).get("trained_on") or {}).get("kind") == TABLE
    if adapt and not is_table:
        raise UsageError(f"--adapt: {model} ranks graphs; expected a model of a table (for graphs, use Ranker.adapt)")
    if configs is not None and is_table:
        raise UsageError(f"--configs: {model} ranks the rows of tables; give the table as a file")
    paths: list[Path] = []
    for path in map(Path, [graphs] if isinstance(graphs, str | Path) else graphs):
        files = [path]
        if path.is_dir():
            files = _table_files(path) if is_table else sorted(path.glob("*.npz"))
        if not files:
            what = "data files of a table" if is_table else ".npz files"
            raise DataError(f"{path}: no {what}; name files or a folder that contains them")
        paths += files
    if is_table:
        return _rank_tables(_load(str(model), None), paths, top, adapt, coverage)
    jobs = min(jobs, len(paths))
    rankings: list[dict[str, Any]] = [{}] * len(paths)
    with cli.progress(len(paths), "ranking") as advance:
        work = partial(_rank, str(model), top, 1 if jobs > 1 else None, configs)
        for (index, _), ranking in in_processes(work, list(enumerate(paths)), jobs, str(model)):
            rankings[index] = ranking
            advance(1)
    return rankings


def _rank(
    model: str, top: int | None, threads: int | None, configs: Sequence[Any] | None, task: tuple[int, Path]
) -> dict[str, Any]:
    """Rank one graph, which a task is with its index."""
    scores = _load(model, threads).predict_graph(task[1], configs)
    order = scores.argsort(kind="stable")[:top]
    return {"graph": str(task[1]), "configs": order.tolist(), "scores": scores[order].tolist()}


def _table_files(folder: Path) -> list[Path]:
    from gbr.data.table import data_files  # imports polars

    return data_files(folder)


def _rank_tables(
    ranker: Ranker, paths: Sequence[Path], top: int | None, adapt: bool, coverage: float
) -> list[dict[str, Any]]:
    from gbr.data.table import read_rows

    found = []
    for path in paths:
        table = read_rows(path, ranker.table.roles, measured=adapt)
        for message in table.notes:
            cli.note(message)
        with cli.busy(f"ranking {path.name}"):
            ranking = ranker.rank_table(table, adapt=adapt, coverage=coverage)
        configs = table.frame.select(table.roles.config)[table.row.argsort()]
        for (group,), rows in ranking.group_by("group", maintain_order=True):
            lists = [name for name in rows.columns if name not in ("group", "rank")]
            values = {name if name == "measured" else f"{name}s": rows[name][:top].to_list() for name in lists}
            found.append({"file": str(path), "group": group, **values, "configs": configs[values["rows"]].to_dicts()})
    return found


@cache
def _load(model: str, threads: int | None) -> Ranker:
    from gbr.ranker import Ranker

    ranker = Ranker.load(model)
    ranker.n_jobs = threads or ranker.n_jobs
    return ranker


callable_module(__name__)

if __name__ == "__main__":
    sys.exit(main())
