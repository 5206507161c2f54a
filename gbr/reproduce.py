"""Command: download TpuGraphs, train and evaluate on its collections, and write the table beside published results.

Every step that an earlier run has done is skipped: archives that are unpacked, features in the store, models of the
same version and features, and metrics of the same model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

import gbr.train as train
from gbr import __version__, cli, download
from gbr.data.collection import Subset
from gbr.data.files import write_json, write_text
from gbr.download import COLLECTIONS, Archive, Locations
from gbr.errors import GbrError

RESULTS: Final = "results.json"
PAGE: Final = "results.md"

#: Splits that have runtimes.
_SPLITS: Final = ("train", "valid")
#: Results of the Kaggle competition "Google - Fast or Slow?" as reported by their authors: per collection on the
#: validation split (tile: 1 - slowdown@5, layout: Kendall's tau), and the competition's public and private score, which
#: is the mean of the five on its hidden test runtimes.
PUBLISHED: Final[tuple[tuple[Any, ...], ...]] = (
    ("1st place: graph networks, 5–10 models", None, None, 0.699, None, None, 0.757, 0.736),
    ("6th place: graph networks", 0.975, 0.455, 0.671, 0.539, 0.927, 0.694, 0.706),
    ("9th place, cross-validated", None, 0.33, 0.70, 0.51, 0.96, None, None),
    ("11th place: LightGBM on engineered features", 0.975, None, None, None, None, 0.728, 0.701),
    ("16th place", 0.97, 0.37, 0.71, 0.55, 0.96, 0.684, 0.688),
    ("33rd place", 0.955, 0.319, 0.557, 0.505, 0.885, None, None),
)
_EPILOG: Final = """\
All five collections need roughly 45 GB for features besides the data, and a day and a half on two cores.  An
interrupted run is resumed by the same command."""


def reproduce(
    names: Sequence[str], locations: Locations, store_root: Path, out: Path, jobs: int | None = None
) -> dict[str, Any]:
    """Download, build, train and evaluate official collections, except for what an earlier call has done.

    The table is written after each collection, and includes the collections of earlier calls.  Returns the contents of
    ``results.json``: ``gbr`` (version), ``collections`` (name -> ``valid``, as :func:`gbr.evaluate.evaluate` gives it
    with the official protocol, ``model`` and its ``sha256``).
    """
    from gbr.evaluate import evaluate
    from gbr.models import io

    data = locations.data_root
    runs = {name: out / name.replace(":", "-") for name in names}
    for name, run in runs.items():
        train.check_out(run, name)
    if any(name.startswith("layout:") for name in names):
        download.get_indices(locations)
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        earlier = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        found = dict(earlier["collections"]) if earlier["gbr"] == __version__ else {}
    for name, run in runs.items():
        subset = Subset(name)
        download.get_graphs([Archive(name, split) for split in _SPLITS], locations)
        if not _is_trained(subset.kind, run):
            cli.note(f"{name}: training; model, manifest and metrics go to {run}")
            train.train(subset, data, store_root, run, jobs=jobs)
        sha256 = io.read_manifest(run)["model"]["sha256"]
        if found.get(name, {}).get("sha256") != sha256:
            metrics = evaluate(
                run, subset, "valid", data, store_root, jobs=jobs, protocol="official", indices=locations.indices
            )
            found[name] = {"valid": metrics["valid"], "model": str(run), "sha256": sha256}
        results = {"gbr": __version__, "collections": {name: found[name] for name in COLLECTIONS if name in found}}
        write_json(out / RESULTS, results)
        write_text(out / PAGE, page(results))
    return results


def _is_trained(kind: str, run: Path) -> bool:
    """Whether a complete model exists, by this version and of its features."""
    from gbr.data.build import schema_of
    from gbr.models import io

    with suppress(GbrError, KeyError, TypeError):
        manifest = io.read_manifest(run)
        about = manifest["versions"]["gbr"], manifest["trained_on"]["schema_hash"]
        return about == (__version__, schema_of(kind).hash) and (run / train.METRICS).is_file()
    return False


def page(results: Mapping[str, Any]) -> str:
    """The scores beside the published ones, as Markdown."""
    valid = {name: found["valid"] for name, found in results["collections"].items()}
    every = [valid[name]["score"] if name in valid else None for name in COLLECTIONS]
    listed = [valid[name]["official"]["score"] if name in valid else None for name in COLLECTIONS]
    rows = [
        ("gbr, all configurations", *every, None, None),
        ("gbr, official protocol", *listed, None, None),
        *PUBLISHED,
    ]
    columns = ["system", *COLLECTIONS, "public", "private"]
    return "\n".join(
        [
            "# gbr on TpuGraphs",
            "",
            f"gbr {results['gbr']}, `gbr.train` with its defaults, trained on `train`, stopped and scored on `valid`. "
            "Tile: 1 − slowdown of the best of the first 5; layout: Kendall's tau; means over graphs. *Official "
            "protocol*: as the scripts of TpuGraphs score, layout on 1000 listed configurations of each graph. The "
            "last two columns are the competition's own scores, on runtimes that only Kaggle has.",
            "",
            f"| {' | '.join(columns)} |",
            f"|---|{'---:|' * (len(columns) - 1)}",
            *(f"| {system} | {' | '.join(map(_three, scores))} |" for system, *scores in rows),
            "",
            "Data: TpuGraphs, Phothilimthana et al., NeurIPS 2023, CC BY 4.0.",
            "",
        ]
    )


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@cli.command("gbr.reproduce", epilog=_EPILOG)
@click.option(
    "--subset",
    multiple=True,
    default=["all"],
    metavar="NAME...",
    help="Collections, or beginnings of their names: tile, layout:xla, layout:nlp:random ...",
)
@cli.data_option
@cli.store_option
@click.option(
    "--out", type=cli.PATH, default=Path("runs/reproduce"), metavar="DIR", help="Folder of models and results."
)
@download.base_url_option
@download.source_option
@cli.jobs_option
@cli.json_option
def main(
    *,
    subset: Sequence[str],
    data: Path,
    store: Path,
    out: Path,
    base_url: str,
    source: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Download TpuGraphs, train and evaluate on its collections, and write the results beside published ones."""
    names = list(dict.fromkeys(archive.subset for archive in download.select(subset)))
    results = reproduce(names, Locations(data, base_url, source), store, out, jobs)
    if as_json:
        cli.emit_json(results)
    else:
        print(page(results), end="")
    cli.note(f"the table is in {out / PAGE}, all metrics in {out / RESULTS}, models beside them")


if __name__ == "__main__":
    sys.exit(main())
