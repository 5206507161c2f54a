"""Command: download TpuGraphs, train and evaluate on its collections, and write the table beside published results.

python -m gbr.reproduce
python -m gbr.reproduce --subset tile layout:xla --yes

Every step that was done by an earlier run is skipped: archives that are unpacked, features in the store, models of the
same version, features and graphs, and figures of the same model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

import gbr.train as train
from gbr import __version__, cli
from gbr.data.collection import SPLITS, Subset
from gbr.data.files import require_space, size_text, write_json, write_text
from gbr.download import COLLECTIONS, Archive, Locations, get_graphs, get_indices, remote_sizes, select, source_options
from gbr.errors import DownloadError, GbrError, UsageError

RESULTS: Final = "results.json"
PAGE: Final = "results.md"
SUBMISSION: Final = "submission.csv"

#: Splits that have runtimes.
_SCORED: Final = ("train", "valid")
_SYSTEM: Final = ("system", *COLLECTIONS, "public", "private")
#: Results of the Kaggle competition "Google - Fast or Slow?" as reported by their authors: per collection on the
#: validation split (tile: 1 - slowdown@5, layout: Kendall's tau), and the competition's public and private score, which
#: is the mean of the five on its hidden test runtimes.
PUBLISHED: Final[tuple[tuple[Any, ...], ...]] = (
    ("1st place: graph networks, 5–10 models", None, None, 0.699, None, None, 0.757, 0.736),
    ("6th place: graph networks", 0.975, 0.455, 0.671, 0.539, 0.927, 0.694, 0.706),
    ("9th place, cross-validated", None, 0.33, 0.70, 0.51, 0.96, None, None),
    ("11th place: LightGBM on engineered features", 0.975, None, None, None, None, 0.728, 0.701),
    ("16th place", 0.97, 0.37, 0.71, 0.55, 0.96, 0.684, 0.688),
    ("XGBoost on means of configuration values", None, 0.089, 0.182, 0.288, 0.351, None, None),
)

#: Configurations of all splits, by Phothilimthana et al., "TpuGraphs", NeurIPS 2023.
_CONFIGS: Final[Mapping[str, float]] = {
    "tile:xla": 12.9e6,
    "layout:xla:default": 1.27e6,
    "layout:xla:random": 1.12e6,
    "layout:nlp:default": 15.5e6,
    "layout:nlp:random": 16.1e6,
}
#: Rough costs per configuration, measured on an Intel Xeon: bytes in the store, and seconds of one core to build its
#: features and to learn from it.
_BYTES: Final = {"tile": 280, "layout": 1250}
_BUILD: Final = {"tile": 55e-6, "layout": 140e-6}
_TRAIN: Final = {"tile": 6.5e-3, "layout": 24.5e-3}


@dataclass(frozen=True)
class Work:
    """Where results are reproduced, and how.

    Parameters
    ----------
    locations : Locations
        Data root, and where its data come from.
    store_root, out : Path
        Folder of features, and folder of models and results.
    jobs : int, optional
        Processes and threads.
    memory : int, optional
        Bytes, as for :func:`gbr.train.train`.
    submission : bool
        Download the test graphs too, and write a submission to the Kaggle competition.
    """

    locations: Locations
    store_root: Path
    out: Path
    jobs: int | None = None
    memory: int | None = None
    submission: bool = False

    def run(self, name: str) -> Path:
        """Run directory of a collection."""
        return self.out / name.replace(":", "-")

    def archives(self, name: str) -> list[Archive]:
        """The archives that are downloaded for a collection."""
        return [Archive(name, split) for split in (SPLITS if self.submission else _SCORED)]


def reproduce(names: Sequence[str], work: Work, confirm: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Download, build, train and evaluate, except for what an earlier call has done.

    The table is written after each collection, and includes the collections of earlier calls.

    Parameters
    ----------
    names : sequence of str
        Official collections.
    work : Work
    confirm : callable
        Called with the time and space needed, if anything is left to do; raises to stop.

    Returns
    -------
    dict
        As ``results.json``: ``gbr`` (version), ``collections`` (name -> ``valid``, as :func:`gbr.evaluate.evaluate`
        gives it with the official protocol, ``seconds``, ``model`` and its ``sha256``), ``rows`` (the table) and
        ``submission``, if requested.

    Raises
    ------
    GbrError
        As the steps raise it, and when the disk is too small.
    """
    for name in names:
        train.check_out(work.run(name))
    _estimate(names, work, confirm)
    if any(name.startswith("layout:") for name in names):
        get_indices(work.locations)
    found = _read_results(work.out / RESULTS)
    results: dict[str, Any] = {"gbr": __version__}
    for name in names:
        get_graphs(work.archives(name), work.locations)
        found[name] = _collection(Subset(name), work, found.get(name, {}))
        results["collections"] = {name: found[name] for name in COLLECTIONS if name in found}
        results["rows"] = table(results["collections"])
        _write(results, work.out)
    if work.submission:
        from gbr.submit import submit

        out, models = work.out / SUBMISSION, [work.run(name) for name in names]
        results["submission"] = submit(models, work.locations.data_root, work.store_root, out, jobs=work.jobs)
        _write(results, work.out)
    return results


def _read_results(path: Path) -> dict[str, Any]:
    """Results of earlier calls by this version."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return dict(results["collections"]) if results["gbr"] == __version__ else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise GbrError(f"{path}: cannot be read ({fault}); remove it: models and features are kept") from fault


def _collection(subset: Subset, work: Work, known: dict[str, Any]) -> dict[str, Any]:
    """Train on one collection and evaluate, unless both were done."""
    from gbr.evaluate import evaluate
    from gbr.models import io

    run, data = work.run(subset.name), work.locations.data_root
    if not _is_trained(subset, run, work.store_root):
        cli.note(f"{subset.name}: training; model, manifest and metrics go to {run}")
        train.train(subset, data, work.store_root, run, jobs=work.jobs, memory=work.memory)
    sha256 = io.read_manifest(run)["model"]["sha256"]
    if known.get("sha256") == sha256:
        return known
    official = {"protocol": "official", "indices": work.locations.indices}
    figures = evaluate(run, subset, "valid", data, work.store_root, jobs=work.jobs, **official)  # type: ignore[arg-type]
    seconds = json.loads((run / train.METRICS).read_text(encoding="utf-8"))["seconds"]
    return {"valid": figures["valid"], "seconds": seconds, "model": str(run), "sha256": sha256}


def _is_trained(subset: Subset, run: Path, store_root: Path) -> bool:
    """Whether a complete model exists, by this version and of the features and graphs in the store."""
    from gbr.data.build import schema_of
    from gbr.data.store import FeatureStore
    from gbr.models import io

    store = FeatureStore(store_root, subset.name)
    try:
        manifest = io.read_manifest(run)
        trained_on = manifest["trained_on"]
        return bool(
            (run / train.METRICS).is_file()
            and manifest["versions"]["gbr"] == __version__
            and trained_on["schema_hash"] == schema_of(subset.kind).hash
            and trained_on["data"] == {split: train.fingerprint(store, split) for split in _SCORED}
        )
    except (GbrError, KeyError, TypeError):
        return False


def _estimate(names: Sequence[str], work: Work, confirm: Callable[[str], None]) -> None:
    """Report the time and space that the remaining steps need, check free space, and ask whether to begin."""
    from gbr.data.build import schema_of
    from gbr.data.pool import cores
    from gbr.models.training_set import default_memory, most_binned

    n_cores = min(work.jobs or cores(), cores())
    download = largest = features = 0
    total = 0.0
    remaining = False
    for name in names:
        kind, data = Subset(name).kind, work.locations.data_root
        missing = [archive for archive in work.archives(name) if not archive.complete(data)]
        trained = _is_trained(Subset(name), work.run(name), work.store_root)
        if trained and not missing:
            continue
        remaining = True
        sizes = [] if work.locations.source else remote_sizes([work.locations.url(archive) for archive in missing])
        known = [size for size in sizes if size is not None]
        per_graph = _CONFIGS[name] / sum(Archive(name, split).n_graphs for split in SPLITS)
        new = sum(per_graph * archive.n_graphs for archive in (missing if trained else work.archives(name)))
        seconds = new * _BUILD[kind] / n_cores
        if not trained:
            rows = min(
                per_graph * Archive(name, "train").n_graphs,
                most_binned(len(schema_of(kind)), work.memory or default_memory()),
            )
            seconds += rows * _TRAIN[kind] / n_cores
        cli.note(
            f"{name}: {size_text(sum(known))}{' or more' if len(known) < len(missing) else ''} to download, roughly "
            f"{size_text(new * _BYTES[kind])} of features and {cli.duration(seconds)}"
        )
        download, largest = download + sum(known), max([largest, *known])
        features, total = features + int(new * _BYTES[kind]), total + seconds
    if not remaining:
        return
    require_space(work.locations.data_root, download + largest, "downloading and unpacking", DownloadError)
    require_space(work.store_root, features, "the features, roughly,", GbrError)
    confirm(
        f"in all {size_text(download)} to download, {size_text(download + largest + features)} of disk space, and "
        f"roughly {cli.duration(total)} on {n_cores} cores after that; if interrupted, run the same command to resume"
    )


def table(collections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two rows of gbr, then the published ones: ``system``, score by collection, ``public`` and ``private``."""
    every: dict[str, Any] = {"system": "gbr, all configurations"}
    listed: dict[str, Any] = {"system": "gbr, official protocol"}
    for name, found in collections.items():
        every[name], listed[name] = found["valid"]["score"], found["valid"]["official"]["score"]
    published = [dict(zip(_SYSTEM, row, strict=True)) for row in PUBLISHED]
    return [every, listed, *({key: value for key, value in row.items() if value is not None} for row in published)]


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    rows = [[row["system"], *(_three(row.get(name)) for name in _SYSTEM[1:])] for row in results["rows"]]
    details = []
    for name, found in results["collections"].items():
        valid, official = found["valid"], found["valid"]["official"]
        low, high = valid["kendall_tau_ci"] or (None, None)
        interval = "" if low is None else f" ({low:.2f}–{high:.2f})"
        shown = ("kendall_tau", "slowdown@1")
        if name.startswith("tile"):
            official, shown = official["over_benchmarks"], ("slowdown@1", "slowdown@5", "slowdown@10")  # type: ignore[assignment]
        details.append(
            [
                name,
                str(valid["n_graphs"]),
                f"{_three(valid['kendall_tau'])}{interval}",
                *(_three(valid[figure]) for figure in ("opa", "slowdown@1", "slowdown@5")),
                " / ".join(_three(official[figure]) for figure in shown),
                f"{sum(found['seconds'].values()) / 3600:.1f}",
            ]
        )
    header = ["collection", "graphs", "tau (95 %)", "OPA", "slowdown@1", "slowdown@5", "official", "hours"]
    lines = [
        "# gbr on TpuGraphs",
        "",
        f"gbr {results['gbr']}, `gbr.train` with its defaults, trained on `train`, stopped and scored on `valid`. "
        "Tile: 1 − slowdown of the best of the first 5; layout: Kendall's tau; means over graphs. *Official protocol*: "
        "as the scripts of TpuGraphs score, layout on 1000 listed configurations of each graph. The last two columns "
        "are the competition's own scores, on runtimes that only Kaggle has.",
        "",
        *_markdown(_SYSTEM, rows),
        "",
        "## By collection",
        "",
        *_markdown(header, details),
        "",
        "Tau and slowdowns are over all configurations; *official* is the top-K error over benchmarks for K = 1, 5, 10 "
        "for tile, tau and slowdown@1 for layout; *hours* include building features and training.",
        "",
        "Data: TpuGraphs, Phothilimthana et al., NeurIPS 2023, CC BY 4.0.",
        "",
    ]
    return "\n".join(lines)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _write(results: dict[str, Any], out: Path) -> None:
    write_json(out / RESULTS, results)
    write_text(out / PAGE, page(results))


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
    "--out", type=cli.PATH, default=Path("runs/reproduce"), metavar="DIR", help="Folder of models and results."
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
    archives, indices = select(subset, _SCORED)
    if indices:
        raise UsageError("--subset: expected collections; the lists of the official evaluation are included")
    work = Work(Locations(data, base_url, source), store, out, jobs, memory, submission)
    names = list(dict.fromkeys(archive.subset for archive in archives))
    results = reproduce(names, work, confirm=lambda text: _confirm(text, yes=yes))
    if as_json:
        cli.emit_json(results)
    else:
        print(page(results), end="")
    cli.note(f"the table is in {out / PAGE}, every figure in {out / RESULTS}, models beside them")


def _confirm(text: str, *, yes: bool) -> None:
    cli.note(text)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this takes long; confirm with --yes")
    if not click.confirm("Begin?", err=True):
        raise GbrError("not confirmed; answer y, or use --yes")


if __name__ == "__main__":
    sys.exit(main())
