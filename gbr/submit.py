"""Command: write or check a submission to the Kaggle competition on TpuGraphs.

python -m gbr.submit --models runs/tile-xla runs/layout-xla-default --out submission.csv
python -m gbr.submit --check submission.csv

A submission has a header, then one row per test graph: its ID and indices of its configurations, best first, joined by
``;``: the best five of a tile kernel, all of a layout graph.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from gbr import cli
from gbr.data.collection import OFFICIAL_TEST, Subset, graph_files, splits_present
from gbr.data.files import atomic_write
from gbr.data.npz import NpzFile
from gbr.errors import DataError, UsageError

if TYPE_CHECKING:
    from gbr.ranker import Ranker

HEADER: Final = "ID,TopConfigs"
#: Configurations in the row of a tile kernel.
TOP: Final = 5
#: Rows of a complete submission.
ROWS: Final = sum(OFFICIAL_TEST.values())
#: How several models of a collection are averaged.
MEANS: Final = ("rank", "minmax")

_SPLIT: Final = "test"
_ORDER: Final = re.compile(r"-?[0-9]{1,18}(?:;-?[0-9]{1,18})*")

FloatArray = NDArray[np.float64]
#: Collection -> test graph -> number of configurations.
TestSets = Mapping[str, Mapping[str, int]]


def submit(
    models: Sequence[str | Path],
    data: Path,
    store_root: Path,
    out: Path,
    *,
    mean: str = "rank",
    jobs: int | None = None,
    fill: bool = False,
) -> dict[str, Any]:
    """Write a submission for the test graphs of every collection that the models cover.

    Features that an interrupted call has built are in the store, so that the same call resumes.

    Parameters
    ----------
    models : sequence of str or path
        Run directories of ``python -m gbr.train``, each for the collection it was trained on, or for another one as
        ``<collection>=<directory>``.  Several for one collection are averaged.
    data, store_root : Path
    out : Path
        Replaced atomically.
    mean : str
        Average of several models, per graph: mean of ``rank`` (ties share their mean rank) or of ``minmax`` (scores
        scaled to 0 ... 1).
    jobs : int, optional
        Processes for features, threads for predictions.
    fill : bool
        Rank the graphs of collections without a model by their order in the file.

    Returns
    -------
    dict
        ``out``, ``rows``, ``wanted`` (rows of a complete submission), ``collections``: name -> ``graphs`` (rows of
        it), ``there`` (test graphs below ``data``), ``wanted`` (graphs it has in the competition), ``models``,
        ``order`` (``model``, ``file`` or ``missing``).

    Raises
    ------
    UsageError
        For a model of no official collection, models of one collection for different hardware, or an invalid ``out``.
    ModelError, DataError, StoreError
        As the models, the graph files and the store raise them.
    """
    if mean not in MEANS:
        raise UsageError(f"--mean: expected {' or '.join(MEANS)}, got {mean!r}")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a directory; name a file")
    covered = _load(models)
    for name in covered:
        graph_files(Subset(name), data, _SPLIT)  # missing graphs are reported before hours of work
    sets = find_test_graphs(data)
    rows: list[str] = []
    collections: dict[str, Any] = {}
    for name, n_published in OFFICIAL_TEST.items():
        graphs, order = sets.get(name, {}), "missing"
        if name in covered:
            rows += _ranked(Subset(name), covered[name], data, store_root, mean, jobs)
            order = "model"
        elif fill and graphs:
            rows += [row(Subset(name), stem, np.arange(count)) for stem, count in graphs.items()]
            order = "file"
        collections[name] = {
            "graphs": 0 if order == "missing" else len(graphs),
            "there": len(graphs),
            "wanted": n_published,
            "models": len(covered.get(name, ())),
            "order": order,
        }
    with atomic_write(out) as temporary:
        temporary.write_text("".join([f"{HEADER}\n", *rows]), encoding="utf-8", newline="")
    return {"out": str(out), "rows": len(rows), "wanted": ROWS, "collections": collections}


def combined(scores: Sequence[FloatArray], mean: str) -> FloatArray:
    """Average the scores of several models of one graph.

    Parameters
    ----------
    scores : sequence of float64 (configurations,)
    mean : str
        ``rank`` or ``minmax``; see :func:`submit`.

    Returns
    -------
    float64 (configurations,)
        Lower is predicted faster; a single model keeps its order.
    """
    from scipy.stats import rankdata

    def scaled(one: FloatArray) -> FloatArray:
        spread = np.ptp(one)
        return (one - one.min()) / spread if spread else np.zeros_like(one)

    normalize = rankdata if mean == "rank" else scaled
    return np.asarray(np.mean([normalize(one) for one in scores], axis=0), np.float64)


def _load(models: Sequence[str | Path]) -> dict[str, list[Ranker]]:
    """The models of each collection, checked against the features of this version."""
    from gbr.data.build import schema_of
    from gbr.ranker import Ranker

    found: dict[str, list[Ranker]] = defaultdict(list)
    for given in map(str, models):
        name, equals, rest = given.partition("=")
        explicit = bool(equals) and name in OFFICIAL_TEST
        folder = Path(rest if explicit else given)
        ranker = Ranker.load(folder)
        trained_on = (getattr(ranker, "trained_on_", None) or {}).get("subset", "a plain table")
        subset = Subset(name if explicit else trained_on)
        if subset.name not in OFFICIAL_TEST:
            raise UsageError(
                f"--models {given}: trained on {trained_on}, which is not a collection of the competition; name the "
                f"collection to rank: --models tile:xla={folder}"
            )
        ranker._columns_in(schema_of(subset.kind), f"{subset.name}, {folder}")
        others = found[subset.name]
        if others and ranker._hardware(str(folder)) != others[0]._hardware(subset.name):
            raise UsageError(f"--models: {folder} ranks {subset.name} for other hardware than the models before it")
        others.append(ranker)
    return found


def _ranked(
    subset: Subset, models: Sequence[Ranker], data: Path, store_root: Path, mean: str, jobs: int | None
) -> Iterator[str]:
    """The rows of all test graphs of a collection."""
    from gbr.evaluate import update_store

    for model in models:
        model.set_params(n_jobs=jobs)
    store, _ = update_store(subset, data, store_root, (_SPLIT,), jobs, models[0]._hardware(subset.name))
    columns = list(dict.fromkeys(str(name) for model in models for name in model.feature_names_in_))
    files = graph_files(subset, data, _SPLIT)
    with cli.progress(len(files), f"ranking {subset.name}") as advance:
        for path in files:
            group = store.load(_SPLIT, [path.stem], columns)
            index = {name: number for number, name in enumerate(group.columns)}
            scores = []
            for model in models:
                names = tuple(map(str, model.feature_names_in_))
                X = group.X if names == group.columns else group.X[:, [index[name] for name in names]]
                scores.append(model._predict(X))
            yield row(subset, path.stem, np.argsort(combined(scores, mean), kind="stable"))
            advance(1)


def row(subset: Subset, stem: str, order: NDArray[np.int64]) -> str:
    """One row, with its end of line."""
    kept = order[:TOP] if subset.kind == "tile" else order
    return f"{subset.id(stem)},{';'.join(map(str, kept.tolist()))}\n"


def find_test_graphs(data: Path) -> dict[str, dict[str, int]]:
    """The official test graphs below ``data``, and the number of configurations of each, from the headers of the files.

    Raises
    ------
    DataError
        When a file is damaged or not a graph.
    """
    found: dict[str, dict[str, int]] = {}
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
    """What :func:`check` found in a submission.

    Parameters
    ----------
    rows : int
        Rows below the header.
    faults : list of str
        The first of them, with their lines.
    n_faults : int
        Number of all faults.
    unchecked : dict
        Collection -> rows of graphs that are not below the data root, so that only their format was checked.
    complete : bool
        Whether all test graphs of the competition are below the data root.
    """

    rows: int = 0
    faults: list[str] = field(default_factory=list)
    n_faults: int = 0
    unchecked: dict[str, int] = field(default_factory=dict)
    complete: bool = False


def check(path: Path, sets: TestSets, most: int = 20) -> Report:
    """Find everything that is wrong with a submission, in one pass over its rows.

    Parameters
    ----------
    path : Path
    sets : mapping
        As :func:`find_test_graphs`.  Of other graphs only the format of the row is checked, unless their collection is
        complete.
    most : int
        Faults to list; the others are counted.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    report = Report(complete=all(len(sets.get(name, ())) == count for name, count in OFFICIAL_TEST.items()))
    csv.field_size_limit(sys.maxsize)  # rows have up to 100,040 indices
    try:
        with path.open(encoding="utf-8", errors="backslashreplace", newline="") as file:
            faults = _faults(csv.reader(file, strict=True), sets, report)
            report.faults = list(islice(faults, most))
            report.n_faults = len(report.faults) + sum(1 for _ in faults)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault}); name a submission") from fault
    return report


def _faults(reader: Any, sets: TestSets, report: Report) -> Iterator[str]:
    """Faults of all records; counts ``rows`` and ``unchecked`` of the report."""
    line_of: dict[str, int] = {}
    try:
        header: list[str] = next(reader, [])
        if header != HEADER.split(","):
            yield f"line 1: expected the header {HEADER}, got {_short(','.join(header))}"
        for cells in reader:
            report.rows += 1
            for fault in _row_faults(reader.line_num, cells, sets, report, line_of):
                yield f"line {reader.line_num}: {fault}"
    except csv.Error as fault:
        yield f"line {reader.line_num}: not CSV ({fault})"
    for subset, graphs in sets.items():
        missing = [stem for stem in graphs if f"{subset}:{stem}" not in line_of]
        if missing:
            yield f"{subset}: {len(missing)} of {len(graphs)} IDs are missing (first: {subset}:{missing[0]})"


def _row_faults(line: int, cells: list[str], sets: TestSets, report: Report, line_of: dict[str, int]) -> Iterator[str]:
    if len(cells) != 2:
        yield f"expected 2 columns ({HEADER}), got {len(cells)}"
        return
    name, text = cells
    subset, _, stem = name.rpartition(":")
    graphs = sets.get(subset, {})
    count = graphs.get(stem)
    if subset not in OFFICIAL_TEST or not stem or (count is None and len(graphs) == OFFICIAL_TEST[subset]):
        yield f"unknown ID {_short(name)}; expected <collection>:<test graph>, of {', '.join(OFFICIAL_TEST)}"
        return
    if name in line_of:
        yield f"{_short(name)} repeats the ID of line {line_of[name]}"
    line_of.setdefault(name, line)
    if count is None:
        report.unchecked[subset] = report.unchecked.get(subset, 0) + 1
    for fault in _order_faults(text, subset.split(":", 1)[0], count):
        yield f"{_short(name)}: {fault}"


def _order_faults(text: str, kind: str, count: int | None) -> Iterator[str]:
    """What is wrong with the indices of a graph of ``count`` configurations, None where the number is unknown."""
    if not _ORDER.fullmatch(text):
        wrong = next((token for token in text.split(";") if not _ORDER.fullmatch(token)), text)
        yield f"{_short(wrong)} is not a configuration index; expected integers joined by ;"
        return
    order = np.array(text.split(";"), np.int64)
    if count is None and kind == "layout":
        count = len(order)  # a complete order of n configurations has the indices 0 to n - 1, whatever n is
    outside = order[(order < 0) | (order >= (np.iinfo(np.int64).max if count is None else count))]
    if len(outside):
        allowed = "0 or more" if count is None else f"0 to {count - 1}"
        yield f"index {outside[0]} is out of range; expected {allowed} ({len(outside)} such indices)"
    values, counts = np.unique(order, return_counts=True)
    if len(values) < len(order):
        yield f"index {values[counts > 1][0]} occurs more than once ({len(order) - len(values)} duplicates)"
    expected = count if kind == "layout" else TOP if count is None else min(TOP, count)
    if len(order) > (expected or 0) or (count is not None and len(order) < (expected or 0)):
        yield f"expected {'all' if kind == 'layout' else 'the best'} {expected} indices, got {len(order)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


@cli.command(
    "gbr.submit",
    epilog="\b\nExample: python -m gbr.submit --models runs/tile-xla runs/layout-xla-random --fill",
)
@cli.variadic(
    "--models",
    metavar="DIR...",
    help="Run directories written by gbr train; several of one collection are averaged; COLLECTION=DIR ranks another "
    "collection than the model was trained on.",
)
@click.option("--out", type=cli.PATH, default=Path("submission.csv"), metavar="FILE", help="File to write.")
@click.option(
    "--mean",
    type=click.Choice(MEANS),
    default="rank",
    help="Average of models of one collection, per graph: mean rank, or mean of scores scaled to 0 ... 1.",
)
@click.option(
    "--fill",
    is_flag=True,
    help="Give the test graphs of collections without a model the order of their files: Kaggle accepts only complete "
    "submissions.",
)
@click.option("--check", "check_file", type=cli.PATH, metavar="FILE", help="Check a submission instead of writing one.")
@cli.data_option
@cli.store_option
@cli.jobs_option
@cli.json_option
def main(
    *,
    models: Sequence[str],
    out: Path,
    mean: str,
    fill: bool,
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
    found = submit(models, data, store, out, mean=mean, jobs=jobs, fill=fill)
    if as_json:
        cli.emit_json(found)
    else:
        rows = [[name, one["graphs"], one["models"], one["order"]] for name, one in found["collections"].items()]
        cli.table(f"{out}: {found['rows']} rows", ["collection", "graphs", "models", "order"], rows)
    for warning in _warnings(found):
        cli.note(f"WARNING: {warning}")


def _warnings(found: Mapping[str, Any]) -> Iterator[str]:
    """Why a submission is incomplete or not worth submitting."""
    for name, one in found["collections"].items():
        if one["order"] == "file":
            yield f"{name}: no model; its rows hold the order of the files, which ranks nothing"
        elif one["order"] == "missing" and one["there"]:
            yield f"{name}: no rows; name a model of it, or use --fill"
        elif one["order"] == "missing":
            yield f"{name}: no rows and no test graphs: python -m gbr.download {name} --split test"
        if one["order"] != "missing" and one["graphs"] != one["wanted"]:
            yield f"{name}: {one['graphs']} of its {one['wanted']} test graphs found"
    if found["rows"] != found["wanted"]:
        yield f"{found['rows']} of {found['wanted']} rows; Kaggle refuses an incomplete submission"


def _show_check(path: Path, data: Path, *, as_json: bool) -> None:
    report = check(path, find_test_graphs(data))
    if as_json:
        cli.emit_json({"file": str(path), "wanted": ROWS, **asdict(report)})
    else:
        for fault in report.faults:
            print(fault)
        if report.n_faults > len(report.faults):
            print(f"and {report.n_faults - len(report.faults)} more")
    for name, rows in report.unchecked.items():
        cli.note(f"{name}: {rows} rows were checked for their format only: their test graphs are not below {data}")
    if report.n_faults:
        raise DataError(f"{path}: {report.n_faults} faults in {report.rows} rows; correct them, or write it again")
    if report.rows != ROWS:
        cli.note(f"WARNING: {path}: {report.rows} of {ROWS} rows; Kaggle refuses an incomplete submission")
    elif not as_json:
        checked = "checked against its graph" if report.complete else "well-formed"
        print(f"{path}: {report.rows} rows, every one {checked}: ready to be submitted")


if __name__ == "__main__":
    sys.exit(main())
