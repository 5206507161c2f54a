"""The page of a collection: a table per protocol, the families from the worst on, and the value of feature blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row, Section
from benchmarks.quality.contenders import (
    ALL_BLOCKS,
    BLOCK_TREES,
    COLUMN,
    PHYSICS,
    RETEST,
    best_column,
    goals,
)
from benchmarks.quality.folds import Pool, Protocol
from benchmarks.quality.run import Bench, Plan
from gbr.data.groups import QueryGroups, block_names, column_indices
from gbr.evaluation.metrics import bootstrap_interval, count_pairs, slowdown_at_k

FloatArray = NDArray[np.float64]
#: Every figure of every graph, float64 (graphs,) by name of :data:`NAMES`.
Figures = Mapping[str, FloatArray]

TOP: Final = (1, 5, 10)
NAMES: Final = ("tau", "OPA", *(f"slowdown@{k}" for k in TOP))
INTRODUCTION: Final = """\
{graphs} graphs of {families} families, {rows:,} configurations. Every figure is a mean over graphs that the model had
not seen. *tau* is Kendall's tau with ties in random order, *OPA* the share of pairs in the right order, *slowdown@k*
how much slower than the fastest configuration the best of the first k is. Differences are relative to the default;
their 95 % interval is a paired bootstrap over families. *{retest}* ranks by a second measurement of the same
configurations: about the most to be expected. The prices of *{physics}* were rounded on `train` and `valid`. Early
stopping uses `valid` in the official split, elsewhere a tenth of the training graphs; baselines and blocks, which do
not stop early, are trained on those graphs too."""
BLOCKS: Final = """\
{title}. LightGBM on the speed, {trees} trees, no early stopping. *lost without* is the tau of all blocks minus that
without the block. A block that ranks well by itself may add nothing to the others. A block without *only* has equal
values for all configurations of a graph and cannot rank by itself."""


def per_graph(scores: FloatArray, groups: QueryGroups, held: NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Every figure of every graph by name of :data:`NAMES`; NaN for graphs outside ``held``, or with a NaN score."""
    table = np.full((len(NAMES), len(groups)), np.nan)
    target = groups.target
    for number in np.flatnonzero(held):
        rows = groups.rows(int(number))
        if not np.isnan(scores[rows]).any():
            pairs = count_pairs(scores[rows], target[rows])
            slowdowns = (slowdown_at_k(scores[rows], target[rows], k) for k in TOP)
            table[:, number] = (pairs.untied_tau, pairs.opa, *slowdowns)
    return dict(zip(NAMES, table, strict=True))


def mean(values: FloatArray) -> float:
    """Mean over the graphs that have the figure; NaN if none has."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def difference(
    values: FloatArray, base: FloatArray, families: NDArray[np.str_], seed: int = 0
) -> tuple[float, list[float] | None]:
    """Mean of ``values - base`` over the graphs that have both, and a paired bootstrap interval.

    Whole families are drawn, with replacement, as errors are correlated within a family; None for a single family.
    """
    change = values - base
    known = np.isfinite(change)
    if not known.any():
        return float("nan"), None
    return float(change[known].mean()), bootstrap_interval(change[known], families[known], seed=seed)


def _with_interval(mean: float, interval: list[float] | None) -> tuple[float, str]:
    return mean, "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def introduction(pool: Pool) -> str:
    """The first paragraph of the page."""
    families = len(np.unique(pool.families))
    return INTRODUCTION.format(
        graphs=len(pool.groups), families=families, rows=len(pool.groups.X), retest=RETEST, physics=PHYSICS
    )


def sections(bench: Bench, plans: Sequence[Plan], blocks: Plan) -> list[Section]:
    """Tables of the complete protocols, then families and blocks of the first protocol."""
    found = []
    for plan in plans:
        if not bench.missing(plan):
            (figures, seconds), defaults = figures_of(bench, plan), goals(bench.task(plan.protocol, 0))
            found.append(_contenders(bench, plan, figures, seconds, defaults))
            if plan is plans[0]:
                found.append(_families(bench, plan.protocol, figures, defaults["tau"]))
    if not bench.missing(blocks):
        found.append(_blocks(bench, blocks))
    return found


def figures_of(bench: Bench, plan: Plan) -> tuple[dict[str, Figures], dict[str, float]]:
    """Every figure of every graph by contender, also of the second measurement if any; and seconds per fit."""
    groups, held = bench.pool.groups, plan.protocol.held
    scores, seconds = bench.scores(plan)
    found: dict[str, Figures] = {name: per_graph(values, groups, held) for name, values in scores.items()}
    if groups.repeat is not None and groups.repeat[held[groups.qid]].any():
        found[RETEST] = per_graph(np.where(groups.repeat == 0, np.nan, groups.repeat), groups, held)
    return found, seconds


def _contenders(
    bench: Bench,
    plan: Plan,
    figures: Mapping[str, Figures],
    seconds: Mapping[str, float],
    defaults: Mapping[str, str],
) -> Section:
    default = defaults["tau"]
    labels = {name: f"{name} (goal {goal})" for goal, name in defaults.items()} | {default: f"{default} (default)"}
    rows = []
    for name, values in sorted(figures.items(), key=lambda item: -mean(item[1]["tau"])):
        row: Row = {"contender": labels.get(name, name)}
        for key, short in zip(NAMES, ("tau", "", "@1", "@5", "@10"), strict=True):
            row[key] = mean(values[key])
            if key in ("tau", "slowdown@1", "slowdown@5"):
                change = difference(values[key], figures[default][key], bench.pool.families)
                cells = ("", "") if name == default else _with_interval(*change)
                row[f"{short} - default"], row[f"95 % ({short})"] = cells
        # Only for contenders with their own fit.
        row["seconds per fit"] = seconds.get(name, "")
        rows.append(row)
    held = plan.protocol.held
    text = f"{int(held.sum())} graphs of {len(np.unique(bench.pool.families[held]))} families are ranked."
    if COLUMN in figures:
        counts: Counter[str] = Counter()
        for fold in plan.protocol.folds:
            column, sign = best_column(bench.taus, fold.known)
            counts[f"`{bench.pool.groups.columns[column]}`{'' if sign > 0 else ' (falling)'}"] += 1
        names = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        text += f" Best single columns of the training graphs (number of folds): {names}."
    return Section(plan.protocol.title, text, rows)


def _families(bench: Bench, protocol: Protocol, figures: Mapping[str, Figures], default: str) -> Section:
    families, values = bench.pool.families, figures[default]
    rows = []
    for name in np.unique(families[protocol.held]):
        members = protocol.held & (families == name)
        repeat = mean(figures[RETEST]["tau"][members]) if RETEST in figures else np.nan
        row = {"family": str(name), "graphs": int(members.sum()), "tau": mean(values["tau"][members])}
        row["retest tau"] = repeat if np.isfinite(repeat) else ""
        rows.append(row | {key: mean(values[key][members]) for key in NAMES[1:]})
    rows.sort(key=lambda row: row["tau"])
    return Section("Families, the worst first", f"{protocol.title}; {default}.", rows)


def _blocks(bench: Bench, plan: Plan) -> Section:
    figures, _ = figures_of(bench, plan)
    columns, every = bench.pool.groups.columns, figures[ALL_BLOCKS]["tau"]
    row: Row = {"block": "all", "columns": len(columns), "only: tau": mean(every)}
    rows = [row | dict.fromkeys(("without: tau", "lost without", "95 % of the loss"), "")]
    for block in block_names(columns):
        single: Any = mean(figures[f"only {block}"]["tau"]) if f"only {block}" in figures else ""
        row = rows[0] | {"block": block, "columns": len(column_indices(columns, block)), "only: tau": single}
        if f"without {block}" in figures:
            others = figures[f"without {block}"]["tau"]
            loss = difference(every, others, bench.pool.families)
            row["without: tau"] = mean(others)
            row["lost without"], row["95 % of the loss"] = _with_interval(*loss)
        rows.append(row)
    text = BLOCKS.format(title=plan.protocol.title, trees=bench.options.trees or BLOCK_TREES)
    return Section("Feature blocks", text, rows)
