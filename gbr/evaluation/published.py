"""What is published for the collections of TpuGraphs, and the table that puts figures of gbr beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gbr.data.collection import OFFICIAL

COLLECTIONS: Final = tuple(name for names in OFFICIAL.values() for name in names)

#: Results of the Kaggle competition "Google - Fast or Slow?", as their authors told them: per collection on the
#: validation split (tile: 1 - slowdown@5, layout: Kendall's tau), and the competition's score, which is the mean of the
#: five on its hidden test runtimes.
PUBLISHED: Final[Sequence[Mapping[str, Any]]] = (
    {
        "system": "1st place: graph networks, 5–10 models",
        "layout:xla:random": 0.699,
        "public": 0.757,
        "private": 0.736,
    },
    {
        "system": "6th place: graph networks",
        "tile:xla": 0.975,
        "layout:xla:default": 0.455,
        "layout:xla:random": 0.671,
        "layout:nlp:default": 0.539,
        "layout:nlp:random": 0.927,
        "public": 0.694,
        "private": 0.706,
    },
    {
        "system": "9th place, cross-validated",
        "layout:xla:default": 0.33,
        "layout:xla:random": 0.70,
        "layout:nlp:default": 0.51,
        "layout:nlp:random": 0.96,
    },
    {
        "system": "11th place: LightGBM on engineered features",
        "tile:xla": 0.975,
        "public": 0.728,
        "private": 0.701,
    },
    {
        "system": "16th place",
        "tile:xla": 0.97,
        "layout:xla:default": 0.37,
        "layout:xla:random": 0.71,
        "layout:nlp:default": 0.55,
        "layout:nlp:random": 0.96,
        "public": 0.684,
        "private": 0.688,
    },
    {
        "system": "XGBoost on means of configuration values",
        "layout:xla:default": 0.089,
        "layout:xla:random": 0.182,
        "layout:nlp:default": 0.288,
        "layout:nlp:random": 0.351,
    },
)

_SCORES: Final = (*COLLECTIONS, "public", "private")
_FIGURES: Final = ("kendall_tau", "opa", "slowdown@1", "slowdown@5")
_ERRORS: Final = {"tile": ("slowdown@1", "slowdown@5", "slowdown@10"), "layout": ("kendall_tau", "slowdown@1")}


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two rows of gbr, then the published ones, in the keys of :data:`PUBLISHED`.

    Parameters
    ----------
    results : mapping
        As :func:`gbr.reproduce.reproduce` gives them.
    """
    every: dict[str, Any] = {"system": "gbr, all configurations"}
    listed: dict[str, Any] = {"system": "gbr, official protocol"}
    for name, found in results["collections"].items():
        every[name], listed[name] = found["valid"]["score"], found["valid"]["official"]["score"]
    return [every, listed, *map(dict, PUBLISHED)]


def page(results: Mapping[str, Any]) -> str:
    """The table as Markdown, and under it what each collection's figures are made of."""
    lines = [
        "# gbr on TpuGraphs",
        "",
        f"gbr {results['gbr']}, settings of `gbr.train` as they come, trained on `train`, scored on `valid`, which "
        "also says when training stops. Tile: 1 − slowdown of the best of the first 5; layout: Kendall's tau; means "
        "over graphs. *Official protocol*: as the scripts of TpuGraphs score, layout on 1000 listed configurations "
        "of each graph. The last two columns are the competition's own scores, on runtimes that only Kaggle has.",
        "",
        *_table(
            ["system", *COLLECTIONS, "public", "private"],
            [[row["system"], *(_three(row.get(name)) for name in _SCORES)] for row in rows(results)],
        ),
        "",
        "## By collection",
        "",
        *_table(
            ["collection", "graphs", "tau (95 %)", "OPA", "slowdown@1", "slowdown@5", "official", "hours"],
            [_details(name, found) for name, found in results["collections"].items()],
        ),
        "",
        "Tau and slowdowns are of all configurations; *official* is the top-K error over benchmarks for K = 1, 5, 10 "
        "of tile, tau and slowdown@1 of layout; *hours* are those of building features, training and scoring.",
        "",
        "Data: TpuGraphs, Phothilimthana et al., NeurIPS 2023, CC BY 4.0.",
    ]
    return "\n".join([*lines, ""])


def _details(name: str, found: Mapping[str, Any]) -> list[str]:
    valid, official = found["valid"], found["valid"]["official"]
    interval = valid["kendall_tau_ci"]
    kind = name.split(":", 1)[0]
    shown = official["over_benchmarks"] if kind == "tile" else official
    return [
        name,
        str(valid["n_graphs"]),
        _three(valid["kendall_tau"]) + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""),
        *(_three(valid[figure]) for figure in _FIGURES[1:]),
        " / ".join(_three(shown[figure]) for figure in _ERRORS[kind]),
        f"{sum(found['seconds'].values()) / 3600:.1f}",
    ]


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
