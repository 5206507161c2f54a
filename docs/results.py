"""Write the results table of one collection into README.md and docs/results.md from runs on it.

python docs/results.py runs/demo/tile runs/xgboost runs/ensemble
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from gbr import Ranker
from gbr.data.files import atomic_write

#: Pages with tables; a page without the markers of a kind has no table of it.
PAGES: Final = (Path(__file__).parents[1] / "README.md", Path(__file__).with_name("results.md"))
#: Markers around the table of one kind of collection.
BEGIN: Final = "<!-- results {kind}: begin -->\n"
END: Final = "<!-- results {kind}: end -->\n"
GRAPHS: Final = {"tile": "kernels", "layout": "programs"}
NAMES: Final[dict[Any, str]] = {
    "ensemble": "ensemble",
    "lightgbm": "LightGBM",
    "xgboost": "XGBoost",
    "costmodel": "cost model",
    ("ensemble", "costed"): "LightGBM and cost model",
}
BASELINES: Final = {
    "raw_l2": "raw columns, L2",
    "physics": "physics (no training)",
    "fewest_configured": "fewest nodes set",
    "default_configuration": "default configuration",
    "random_order": "random order",
    "retest": "retest",
}
COLUMNS: Final = ("", "valid tau (95 %)", "test tau (95 %)", "test slowdown@1", "test slowdown@5")


def table(runs: list[tuple[Ranker, dict[str, Any]]]) -> str:
    """The models, then the baselines, from the ``metrics.json`` of the runs."""
    _ranker, first = runs[0]
    counts = {split: first[split]["n_graphs"] for split in ("train", "valid", "test")}
    lines = [
        f"`{first['subset']}`: trained on {counts['train']} {GRAPHS[kind(first)]}, "
        f"early stopping on {counts['valid']} from other families, tested on {counts['test']} from held-out families.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---:|---:|---:|---:|",
    ]
    for ranker, figures in runs:
        model, objective = ranker.settings_.backend, ranker.settings_.objective
        name = f"**{NAMES.get((model, objective), NAMES[model])}**, {objective}"
        lines.append(_row(name, figures["valid"], figures["test"]))
    for key, name in BASELINES.items():
        if key in first["test"]["baselines"]:
            lines.append(_row(name, first["valid"]["baselines"].get(key, {}), first["test"]["baselines"][key]))
    return "\n".join([*lines, ""])


def kind(figures: dict[str, Any]) -> str:
    """``tile`` or ``layout``."""
    return str(figures["subset"]).split(":")[0]


def _row(name: str, valid: dict[str, Any], test: dict[str, Any]) -> str:
    slowdowns = [f"{100 * test[key]:.1f} %" if key in test else "–" for key in ("slowdown@1", "slowdown@5")]
    return f"| {' | '.join([name, _tau(valid), _tau(test), *slowdowns])} |"


def _tau(figures: dict[str, Any]) -> str:
    if "kendall_tau" not in figures:
        return "–"
    interval = figures.get("kendall_tau_ci")
    return f"{figures['kendall_tau']:.3f}" + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else "")


def main() -> None:
    """Put the table between the markers of the pages."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    args = arguments.parse_args()
    runs = [(Ranker.load(run), json.loads((run / "metrics.json").read_text())) for run in args.runs]
    begin, end = (mark.format(kind=kind(runs[0][1])) for mark in (BEGIN, END))
    for page in PAGES:
        before, found, rest = page.read_text(encoding="utf-8").partition(begin)
        _, _, after = rest.partition(end)
        if found:
            with atomic_write(page) as part:
                part.write_text(f"{before}{begin}{table(runs)}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
