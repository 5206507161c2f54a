"""Command: write or check a submission to the Kaggle competition on TpuGraphs.

python -m gbr.submit --models runs/tile-xla runs/layout-xla-default --out submission.csv
python -m gbr.submit --check submission.csv
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from gbr import cli, submission
from gbr.data.collection import OFFICIAL_TEST, Subset, graph_files
from gbr.data.files import LOCK, atomic_write, exclusive_lock, remove_partial_files
from gbr.errors import DataError, GbrError, UsageError

if TYPE_CHECKING:
    from gbr.data.store import FeatureStore
    from gbr.ranker import Ranker

MEANS: Final = ("rank", "minmax")
_SPLIT: Final = "test"
#: How the name of a row's file ends: in what it was made of.
_PART: Final = re.compile(r"\.[0-9a-f]{16}$")

FloatArray = NDArray[np.float64]


@cli.command(
    "gbr.submit",
    epilog="\b\nExample: python -m gbr.submit --models runs/tile-xla runs/layout-xla-random --fill",
)
@cli.variadic(
    "--models",
    metavar="DIR...",
    help="Run directories written by gbr train; several of one collection are combined; COLLECTION=DIR ranks another "
    "collection than the model was trained on.",
)
@click.option("--out", type=cli.PATH, default=Path("submission.csv"), metavar="FILE", help="File to write.")
@click.option(
    "--mean",
    type=click.Choice(MEANS),
    default="rank",
    help="How models of one collection are combined, per graph: mean rank, or mean of scores scaled to 0 ... 1.",
)
@click.option(
    "--fill",
    is_flag=True,
    help="Give the test graphs of collections without a model the order of their files: Kaggle accepts only complete "
    "submissions.",
)
@click.option("--check", type=cli.PATH, metavar="FILE", help="Check a submission instead of writing one.")
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
    check: Path | None,
    data: Path,
    store: Path,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Write a submission to the Kaggle competition on TpuGraphs, or check one."""
    if (check is None) == (not models):
        raise UsageError("expected either --models, to write a submission, or --check FILE")
    if check is not None:
        _check(check, data, as_json=as_json)
        return
    told = submit(models, data, store, out, mean=mean, jobs=jobs, fill=fill)
    if as_json:
        cli.emit_json(told)
    else:
        rows = [[name, one["graphs"], one["models"], one["order"]] for name, one in told["collections"].items()]
        cli.table(f"{out}: {told['rows']} rows", ["collection", "graphs", "models", "order"], rows)
    for line in _warnings(told):
        cli.note(line)


@dataclass(frozen=True)
class _Trained:
    """A model as it was named, and the ranker in it."""

    folder: Path
    ranker: Ranker
    identity: str


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

    What is ranked is kept per graph in ``<out>.parts`` until the file is whole, so that the same call goes on where an
    earlier one was interrupted.

    Parameters
    ----------
    models : sequence of str or path
        Folders written by ``python -m gbr.train``, for the collection each was trained on; ``<collection>=<folder>``
        names another one.  Several of one collection are taken together, one of them named twice counts twice.
    data, store_root : Path
    out : Path
        Replaced whole or not at all.
    mean : str
        How several models are taken together, per graph: mean of ``rank`` (mean rank of equal scores) or of ``minmax``
        (scores moved and scaled to 0 ... 1).
    jobs : int, optional
        Processes while building features, threads while predicting.
    fill : bool
        Give the graphs of the collections without a model the order of their files.

    Returns
    -------
    dict
        ``out``, ``rows``, ``wanted`` (rows of a whole submission), ``collections``: name -> ``graphs`` (rows of
        it), ``there`` (test graphs below ``data``), ``wanted`` (graphs it has in the competition), ``models``,
        ``order`` (``model``, ``file`` or ``missing``).

    Raises
    ------
    UsageError
        For a model of no official collection, models of one collection for different hardware, or an ``out`` that
        cannot be.
    ModelError, DataError, StoreError
        As the models, the graph files and the store raise them.
    """
    if mean not in MEANS:
        raise UsageError(f"--mean {mean}: want {' or '.join(MEANS)}")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file")
    covering = _covering(models)
    files = {name: graph_files(Subset(name), data, _SPLIT) for name in covering}
    there = submission.graphs_there(data)
    with exclusive_lock(_parts(out), GbrError, "gbr.submit"):
        parts: list[Path] = []
        told: dict[str, Any] = {}
        for name, wanted in OFFICIAL_TEST.items():
            order = "missing"
            if name in covering:
                parts += _ranked(Subset(name), covering[name], files[name], data, store_root, out, mean, jobs)
                order = "model"
            elif fill and name in there:
                order = "file"
            told[name] = {
                "graphs": 0 if order == "missing" else len(there[name]),
                "there": len(there.get(name, ())),
                "wanted": wanted,
                "models": len(covering.get(name, ())),
                "order": order,
            }
        filled = {name: there[name] for name, one in told.items() if one["order"] == "file"}
        _write(out, parts, filled, {name: there[name] for name, one in told.items() if one["graphs"]})
        _clear(out)
    rows = sum(one["graphs"] for one in told.values())
    return {"out": str(out), "rows": rows, "wanted": submission.ROWS, "collections": told}


def combined(scores: Sequence[FloatArray], mean: str) -> FloatArray:
    """Take the scores of several models of one graph together; the order of a single one stays as it is.

    Parameters
    ----------
    scores : sequence of float64 (configurations,)
    mean : str
        ``rank`` or ``minmax``; see :func:`submit`.

    Returns
    -------
    float64 (configurations,)
        Lower is predicted faster.
    """
    from scipy.stats import rankdata

    def scaled(one: FloatArray) -> FloatArray:
        spread = np.ptp(one)
        return (one - one.min()) / spread if spread else np.zeros_like(one)

    normal = rankdata if mean == "rank" else scaled
    return np.asarray(np.mean([normal(one) for one in scores], axis=0), np.float64)


def _covering(models: Sequence[str | Path]) -> dict[str, list[_Trained]]:
    """The models of each collection, loaded and held against the features of this version."""
    from gbr.data.build import schema_of
    from gbr.models import io
    from gbr.ranker import Ranker

    found: dict[str, list[_Trained]] = defaultdict(list)
    for given in map(str, models):
        name, equals, rest = given.partition("=")
        named = bool(equals) and name in OFFICIAL_TEST
        folder = Path(rest if named else given)
        ranker = Ranker.load(folder)
        trained_on = getattr(ranker, "trained_on_", None) or {}
        subset = Subset(name if named else str(trained_on.get("subset")))
        if subset.name not in OFFICIAL_TEST:
            raise UsageError(
                f"--models {given}: was trained on {trained_on.get('subset', 'a plain table')}, which is no collection "
                f"of the competition; name one that it is to rank: --models tile:xla={folder}"
            )
        ranker._columns_in(schema_of(subset.kind), f"{subset.name}, {folder}")
        trained = _Trained(folder, ranker, io.read_manifest(folder)["model"]["sha256"])
        first = found[subset.name][0] if found[subset.name] else trained
        if ranker._hardware(str(folder)) != first.ranker._hardware(str(first.folder)):
            raise UsageError(
                f"--models: {first.folder} and {folder} rank {subset.name} for different hardware; take models of one"
            )
        found[subset.name].append(trained)
    return found


def _ranked(
    subset: Subset,
    models: Sequence[_Trained],
    files: Sequence[Path],
    data: Path,
    store_root: Path,
    out: Path,
    mean: str,
    jobs: int | None,
) -> list[Path]:
    """Rank every test graph of a collection; returns the files of their rows, in the order of the graphs."""
    from gbr.evaluation import scoring

    parts = [_part(subset, models, path, out, mean) for path in files]
    todo = [(path, part) for path, part in zip(files, parts, strict=True) if not part.is_file()]
    if not todo:
        return parts
    for model in models:
        model.ranker.set_params(n_jobs=jobs)
    hardware = models[0].ranker._hardware(str(models[0].folder))
    store, _ = scoring.ready_store(subset, data, store_root, (_SPLIT,), jobs, hardware)
    with cli.progress(len(todo), f"ranking {subset.name}") as advance:
        for path, part in todo:
            order = np.argsort(combined(_scores(models, store, path.stem), mean), kind="stable")
            with atomic_write(part) as unfinished:
                unfinished.write_text(submission.row(subset, path.stem, order), encoding="utf-8")
            advance(1)
    return parts


def _scores(models: Sequence[_Trained], store: FeatureStore, stem: str) -> list[FloatArray]:
    columns = list(dict.fromkeys(str(name) for model in models for name in model.ranker.feature_names_in_))
    slate = store.load(_SPLIT, [stem], columns)
    place = {name: number for number, name in enumerate(slate.columns)}
    found = []
    for model in models:
        own = tuple(map(str, model.ranker.feature_names_in_))
        X = slate.X if own == slate.columns else slate.X[:, [place[name] for name in own]]
        found.append(model.ranker._predict(X))
    return found


def _part(subset: Subset, models: Sequence[_Trained], path: Path, out: Path, mean: str) -> Path:
    """Where the row of a graph is kept: another file for other models, another mean or another graph."""
    from gbr.data.build import schema_of
    from gbr.data.npz import NpzFile

    made_of = [
        schema_of(subset.kind).hash,
        NpzFile(path).fingerprint,
        mean if len(models) > 1 else "",
        *(model.identity for model in models),
    ]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    return _parts(out) / _folder(subset.name) / f"{path.stem}.{digest}"


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _folder(name: str) -> str:
    return name.replace(":", "-")


def _write(out: Path, parts: Sequence[Path], filled: submission.TestSets, covered: submission.TestSets) -> None:
    remove_partial_files(out.parent, escape(out.name))
    with atomic_write(out) as unfinished:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.write(f"{submission.HEADER}\n")
            for part in parts:
                file.write(part.read_text(encoding="utf-8"))
            file.writelines(_filled(filled))
        if faults := submission.check(unfinished, covered, most=1).faults:
            raise GbrError(f"{out}: not written: {faults[0]}; remove {_parts(out)} and try again")


def _filled(sets: submission.TestSets) -> Iterator[str]:
    for name, graphs in sets.items():
        for stem, count in graphs.items():
            yield submission.row(Subset(name), stem, np.arange(count))


def _clear(out: Path) -> None:
    """Remove the parts of a file that is whole, also those of other models that were never finished."""
    top = _parts(out)
    for folder in [*(top.joinpath(_folder(name)) for name in OFFICIAL_TEST), top]:
        remove_partial_files(folder)
        with suppress(OSError):
            for path in folder.iterdir():
                if _PART.search(path.name) or path.name == LOCK:
                    path.unlink()
            folder.rmdir()


def _warnings(told: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a submission from being whole or worth its rows."""
    by_order: dict[str, list[str]] = defaultdict(list)
    for name, one in told["collections"].items():
        by_order[one["order"]].append(name)
        if one["order"] != "missing" and one["graphs"] != one["wanted"]:
            yield f"WARNING: {name}: {one['graphs']} of its {one['wanted']} test graphs are there"
    if by_order["file"]:
        yield (
            f"WARNING: {', '.join(by_order['file'])}: no model; the rows hold the order of the files, which ranks "
            "nothing"
        )
    known = [name for name in by_order["missing"] if told["collections"][name]["there"]]
    if known:
        yield f"WARNING: no rows for {', '.join(known)}; name models of them, or take --fill"
    absent = [name for name in by_order["missing"] if name not in known]
    if absent:
        yield (
            f"WARNING: no rows for {', '.join(absent)}, whose test graphs are not there; fetch them: "
            f"python -m gbr.download {' '.join(absent)} --split test"
        )
    if told["rows"] != told["wanted"]:
        yield f"WARNING: {told['rows']} of {told['wanted']} rows; Kaggle refuses a submission that is not whole"


def _check(path: Path, data: Path, *, as_json: bool) -> None:
    report = submission.check(path, submission.graphs_there(data))
    if as_json:
        cli.emit_json({"file": str(path), "wanted": submission.ROWS, **asdict(report)})
    else:
        for fault in report.faults:
            print(fault)
        if more := report.n_faults - len(report.faults):
            print(f"and {more} more")
    for name, rows in report.unchecked.items():
        cli.note(f"{name}: {rows} rows were checked for their form alone: their test graphs are not below {data}")
    if report.n_faults:
        raise DataError(f"{path}: {report.n_faults} faults in {report.rows} rows; mend them, or write it anew")
    if report.rows != submission.ROWS:
        cli.note(
            f"WARNING: {path}: {report.rows} rows; Kaggle wants {submission.ROWS} and refuses one that is not whole"
        )
    elif not as_json:
        known = "held against its graph" if report.complete else "well-formed"
        print(f"{path}: {report.rows} rows, every one {known}: fit to be submitted")


if __name__ == "__main__":
    sys.exit(main())
