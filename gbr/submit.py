"""Command: write or check a submission to the Kaggle competition on TpuGraphs.

A submission has a header, then one row per test graph: its ID and indices of its configurations, best first, joined by
``;``: the best five of a tile kernel, all of a layout graph.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from gbr import callable_module, cli
from gbr.data.collection import OFFICIAL_TEST, Subset, graph_files, splits_present
from gbr.data.files import atomic_write
from gbr.data.hardware import choose
from gbr.data.npz import NpzFile
from gbr.errors import DataError, UsageError

if TYPE_CHECKING:
    from gbr.ranker import Ranker

HEADER: Final = "ID,TopConfigs"
#: Configurations in the row of a tile kernel.
TOP: Final = 5
#: Rows of a complete submission.
ROWS: Final = sum(OFFICIAL_TEST.values())

_SPLIT: Final = "test"
_INDEX: Final = re.compile(r"[0-9]{1,18}")
#: Faults that the command prints.
_PRINTED: Final = 20

#: Collection -> test graph -> number of configurations.
TestGraphs = Mapping[str, Mapping[str, int]]


def submit(
    models: Sequence[str | Path],
    data: str | Path = "data",
    store: str | Path | None = None,
    out: str | Path = "submission.csv",
    *,
    jobs: int | None = None,
    fill: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write a submission for the test graphs of every collection that the models cover.

    Features that an interrupted call has built are in the store, so that the same call resumes.

    Parameters
    ----------
    models : sequence of str or path
        Run directories of ``python -m gbr.train``.  The scores of several models of one collection are averaged by
        their ranks.
    data, store, out : path
        Data root, feature store (``store`` in ``data`` by default) and file, which is replaced atomically.
    jobs : int, optional
        Processes for features, threads for predictions.
    fill : bool
        Rank the graphs of collections without a model by their order in the file.
    force : bool
        Accept models for other hardware than that of their collection.

    Returns
    -------
    dict
        ``out``, ``rows`` and ``models``: collection -> number of rows, and number of models.

    Raises
    ------
    UsageError
        For a model of no official collection, models of one collection for different hardware, or an invalid ``out``.
    """
    data, out = Path(data), Path(out)
    store = data / "store" if store is None else Path(store)
    if out.is_dir():
        raise UsageError(f"--out {out}: is a directory; name a file")
    rankers = _load(models, data, force)
    for name in rankers:
        graph_files(Subset(name), data, _SPLIT)  # missing graphs are reported before hours of work
    test_graphs = find_test_graphs(data)
    rows: dict[str, list[str]] = {}
    for name in OFFICIAL_TEST:
        subset, configs = Subset(name), test_graphs.get(name, {})
        if name in rankers:
            rows[name] = list(_ranked(subset, rankers[name], data, store, jobs))
        else:
            rows[name] = [row(subset, stem, np.arange(count)) for stem, count in configs.items() if fill]
    with atomic_write(out) as temporary:
        temporary.write_text("".join([f"{HEADER}\n", *chain(*rows.values())]), encoding="utf-8", newline="")
    return {
        "out": str(out),
        "rows": {name: len(new) for name, new in rows.items()},
        "models": {name: len(rankers.get(name, ())) for name in rows},
    }


def _load(models: Sequence[str | Path], data: Path, force: bool) -> dict[str, list[Ranker]]:
    """The models of each collection, checked against the features of this version."""
    from gbr.data.build import schema_of
    from gbr.ranker import Ranker

    found: dict[str, list[Ranker]] = defaultdict(list)
    for folder in models:
        ranker = Ranker.load(folder)
        name = (ranker.trained_on_ or {}).get("subset", "no collection")
        if name not in OFFICIAL_TEST:
            raise UsageError(f"--models {folder}: trained on {name}, expected one of {', '.join(OFFICIAL_TEST)}")
        ranker.columns_in(schema_of(Subset(name).kind, ranker.hardware), str(folder))
        measured = choose(None, Subset(name), data)
        if ranker.hardware.name != measured.name and not force:
            raise UsageError(
                f"--models {folder}: trained for {ranker.hardware.name!r}, but {name} was measured on "
                f"{measured.name!r}; train with --hardware {measured.name}, or add --force"
            )
        others = found[name]
        if others and ranker.hardware != others[0].hardware:
            raise UsageError(f"--models: {folder} ranks {name} for other hardware than the models before it")
        others.append(ranker)
    return found


def _ranked(subset: Subset, models: Sequence[Ranker], data: Path, store_root: Path, jobs: int | None) -> Iterator[str]:
    """The rows of all test graphs of a collection."""
    from scipy.stats import rankdata

    from gbr.evaluate import update_store

    for model in models:
        model.n_jobs = jobs or model.n_jobs
    store, _ = update_store(subset, data, store_root, (_SPLIT,), jobs, models[0].hardware)
    files = graph_files(subset, data, _SPLIT)
    with cli.progress(len(files), f"ranking {subset.name}") as advance:
        for path in files:
            ranks = [
                rankdata(model.predict_rows(store.load(_SPLIT, [path.stem], list(model.feature_names_in_)).X))
                for model in models
            ]
            yield row(subset, path.stem, np.argsort(np.mean(ranks, axis=0), kind="stable"))
            advance(1)


def row(subset: Subset, stem: str, order: NDArray[np.int64]) -> str:
    """One row, with its end of line."""
    kept = order[:TOP] if subset.kind == "tile" else order
    return f"{subset.id(stem)},{';'.join(map(str, kept.tolist()))}\n"


def find_test_graphs(data: str | Path = "data") -> dict[str, dict[str, int]]:
    """The official test graphs below ``data``, and the number of configurations of each, from their headers."""
    found: dict[str, dict[str, int]] = {}
    data = Path(data)
    for name in OFFICIAL_TEST:
        subset = Subset(name)
        if _SPLIT not in splits_present(subset, data):
            continue
        key = "config_feat" if subset.kind == "tile" else "node_config_feat"
        found[name] = {}
        for path in graph_files(subset, data, _SPLIT):
            file = NpzFile(path)
            if key not in file.keys:
                raise DataError(f"{path}: has no {key}; download the graph again")
            found[name][path.stem] = file.member(key).shape[0]
    return found


@dataclass
class Report:
    """What :func:`check` found in a submission."""

    #: Rows below the header.
    rows: int = 0
    #: With their lines; one per row at most.
    faults: list[str] = field(default_factory=list)
    #: Collection -> rows of graphs that are not below the data root, so that only their format was checked.
    unchecked: Counter[str] = field(default_factory=Counter)
    #: ID -> line.
    lines: dict[str, int] = field(default_factory=dict)


def check(path: str | Path, graphs: TestGraphs) -> Report:
    """Find everything that is wrong with a submission.

    ``graphs`` are those of :func:`find_test_graphs`.  Of other graphs only the format of the row is checked, unless
    their collection is complete.
    """
    report, path = Report(), Path(path)
    csv.field_size_limit(sys.maxsize)  # rows have up to 100,040 indices
    try:
        with path.open(encoding="utf-8", errors="backslashreplace", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != HEADER.split(","):
                report.faults.append(f"line 1: expected the header {HEADER}, got {_short(','.join(header))}")
            for cells in reader:
                report.rows += 1
                if fault := _row_fault(reader.line_num, cells, graphs, report):
                    report.faults.append(f"line {reader.line_num}: {fault}")
    except csv.Error as error:
        report.faults.append(f"line {reader.line_num}: not CSV ({error})")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); name a submission") from error
    for subset, stems in graphs.items():
        missing = [stem for stem in stems if f"{subset}:{stem}" not in report.lines]
        if missing:
            report.faults.append(
                f"{subset}: {len(missing)} of {len(stems)} IDs are missing (first: {subset}:{missing[0]})"
            )
    return report


def _row_fault(line: int, cells: Sequence[str], graphs: TestGraphs, report: Report) -> str | None:
    if len(cells) != 2:
        return f"expected 2 columns ({HEADER}), got {len(cells)}"
    name, text = cells
    subset, _, stem = name.rpartition(":")
    present = graphs.get(subset, {})
    if subset not in OFFICIAL_TEST or not stem or (stem not in present and len(present) == OFFICIAL_TEST[subset]):
        return f"unknown ID {_short(name)}; expected <collection>:<test graph>, of {', '.join(OFFICIAL_TEST)}"
    if name in report.lines:
        return f"{_short(name)} repeats the ID of line {report.lines[name]}"
    report.lines[name] = line
    if stem not in present:
        report.unchecked[subset] += 1
    fault = _order_fault(text, Subset(subset).kind, present.get(stem))
    return f"{_short(name)}: {fault}" if fault else None


def _order_fault(text: str, kind: str, count: int | None) -> str | None:
    """What is wrong with the indices of a graph of ``count`` configurations, None where their number is unknown."""
    tokens = text.split(";")
    wrong = next((token for token in tokens if not _INDEX.fullmatch(token)), None)
    if wrong is not None:
        return f"{_short(wrong)} is not a configuration index; expected integers joined by ;"
    order = np.array(tokens, np.int64)
    # A complete order of n configurations has the indices 0 to n - 1, whatever n is.
    n = len(order) if count is None else count
    if order.max() >= n and not (kind == "tile" and count is None):
        return f"index {order.max()} is out of range; expected 0 to {n - 1}"
    values, counts = np.unique(order, return_counts=True)
    if len(values) < len(order):
        return f"index {values[counts > 1][0]} occurs more than once"
    expected = min(TOP, n) if kind == "tile" else n
    if len(order) != expected:
        return f"expected {'the best' if kind == 'tile' else 'all'} {expected} indices, got {len(order)}"
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


@cli.command("gbr.submit", epilog="Example: python -m gbr.submit --models runs/tile-xla runs/layout-xla-random --fill")
@click.option(
    "--models",
    multiple=True,
    metavar="DIR...",
    help="Run directories written by gbr train; several of one collection are averaged by rank.",
)
@click.option("--out", type=cli.PATH, default=Path("submission.csv"), metavar="FILE", help="File to write.")
@click.option(
    "--fill",
    is_flag=True,
    help="Rank the graphs of collections without a model by file order: Kaggle accepts only complete submissions.",
)
@click.option("--force", is_flag=True, help="Accept models for other hardware than that of their collection.")
@click.option("--check", "check_file", type=cli.PATH, metavar="FILE", help="Check a submission instead of writing one.")
@cli.data_option
@cli.store_option
@cli.jobs_option
@cli.json_option
def main(
    *,
    models: Sequence[str],
    out: Path,
    fill: bool,
    force: bool,
    check_file: Path | None,
    data: Path,
    store: Path,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Write a submission to the Kaggle competition on TpuGraphs, or check one."""
    if (check_file is None) == (not models):
        raise UsageError("expected either --models, to write a submission, or --check FILE")
    if check_file is not None:
        _show_check(check_file, data, as_json=as_json)
        return
    found = submit(models, data, store, out, jobs=jobs, fill=fill, force=force)
    if as_json:
        cli.emit_json(found)
    else:
        table = [[name, count, found["models"][name]] for name, count in found["rows"].items()]
        cli.table(str(out), ["collection", "rows", "models"], table)
    for name, count in found["rows"].items():
        if count and not found["models"][name]:
            cli.note(f"WARNING: {name}: no model; its rows hold the order of the files, which ranks nothing")
        if count < OFFICIAL_TEST[name]:
            cli.note(
                f"WARNING: {name}: {count} of {OFFICIAL_TEST[name]} rows, and Kaggle refuses an incomplete submission; "
                f"{'' if fill else 'name a model or use --fill, and '}download the graphs: "
                f"python -m gbr.download {name} --split test"
            )


def _show_check(path: Path, data: Path, *, as_json: bool) -> None:
    report = check(path, find_test_graphs(data))
    if as_json:
        cli.emit_json({"file": str(path), "rows": report.rows, "faults": report.faults, "unchecked": report.unchecked})
    else:
        for fault in report.faults[:_PRINTED]:
            print(fault)
    for name, rows in report.unchecked.items():
        cli.note(f"{name}: {rows} rows were checked for their format only: their test graphs are not below {data}")
    if report.faults:
        raise DataError(f"{path}: {len(report.faults)} faults in {report.rows} rows; correct them, or write it again")
    if report.rows != ROWS:
        raise DataError(f"{path}: no faults, but only {report.rows} of {ROWS} rows; Kaggle refuses it as incomplete")
    if not as_json:
        print(f"{path}: {report.rows} rows, no faults")


callable_module(__name__)

if __name__ == "__main__":
    sys.exit(main())
