"""The page of a collection: a table per protocol, families from the worst on, and what feature blocks are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Section
from benchmarks.quality.contenders import (
    ALL_BLOCKS,
    BLOCK_TREES,
    COLUMN,
    RETEST,
    alone,
    chosen_column,
    goals,
    retest,
    without,
)
from benchmarks.quality.folds import Protocol
from benchmarks.quality.run import Bench, Plan
from gbr.data.groups import QueryGroups, block_names, column_indices
from gbr.evaluation.metrics import count_pairs, slowdown_at_k

FloatArray = NDArray[np.float64]

TAU: Final = "tau"
OPA: Final = "OPA"
TOP: Final = (1, 5, 10)
NAMES: Final = (TAU, OPA, *(f"slowdown@{k}" for k in TOP))
RESAMPLES: Final = 5000


@dataclass(frozen=True)
class Difference:
    """Mean of a difference over graphs, and its 95 % interval; None where one family tells nothing about others."""

    mean: float
    interval: tuple[float, float] | None


def per_graph(scores: FloatArray, groups: QueryGroups, held: NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Every figure of every graph, float64 (graphs,) by name of :data:`NAMES`.

    Parameters
    ----------
    scores : float64 (rows,)
        Lower is predicted faster.  A graph with a NaN has no figures.
    groups : QueryGroups
    held : bool (graphs,)
        Graphs that have scores; the others get NaN.
    """
    found = {name: np.full(len(groups), np.nan) for name in NAMES}
    target = groups.target
    for number in np.flatnonzero(held):
        rows = groups.rows(int(number))
        if np.isnan(scores[rows]).any():
            continue
        pairs = count_pairs(scores[rows], target[rows])
        found[TAU][number], found[OPA][number] = pairs.untied_tau, pairs.opa
        for k in TOP:
            found[f"slowdown@{k}"][number] = slowdown_at_k(scores[rows], target[rows], k)
    return found


def mean(values: FloatArray) -> float:
    """Mean over the graphs that have the figure; NaN without one."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def difference(values: FloatArray, base: FloatArray, families: NDArray[np.str_], seed: int = 0) -> Difference:
    """Mean of ``values - base`` over the graphs that have both, with a paired bootstrap interval.

    Whole families are drawn, with replacement: graphs of one family are wrong together.

    Parameters
    ----------
    values, base : float64 (graphs,)
        NaN where a graph has no figure.
    families : str (graphs,)
    seed : int
    """
    lost = values - base
    known = np.isfinite(lost)
    if not known.any():
        return Difference(float("nan"), None)
    place = np.unique(families[known], return_inverse=True)[1]
    sums, sizes = np.bincount(place, weights=lost[known]), np.bincount(place)
    if len(sums) < 2:
        return Difference(float(lost[known].mean()), None)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(lost[known].mean()), (float(low), float(high)))


Figures = Mapping[str, FloatArray]

INTRODUCTION: Final = """\
{graphs} graphs of {families} families, {rows} configurations. Every figure is a mean over graphs that the model had
not seen. *tau* is Kendall's tau with equal scores taken in random order, *OPA* the share of pairs in the right order,
*slowdown@k* how much slower than the fastest configuration the best of the first k is. Differences are to the default;
their 95 % interval is a paired bootstrap over families. *{retest}* ranks by a second measurement of the same
configurations: what a perfect model of the machine would reach. {stop}"""
STOPPED: Final = (
    "Early stopping looks at `valid` in the official split, elsewhere at a tenth of the training graphs that is set "
    "aside; baselines and blocks, which do not stop early, learn from those graphs too."
)
UNSTOPPED: Final = "Outside the official split, which stops on `valid`, all boosters run their full number of rounds."
BLOCKS: Final = """\
LightGBM on the speed, {trees} trees, without early stopping. *lost without* is the tau of all blocks minus that without
the block. A block can be worth much alone and nothing beside the others. Without a tau alone: blocks whose values all
configurations of a graph share, which cannot rank by themselves."""

CONTENDER_COLUMNS: Final = (
    "contender", "tau", "tau - default", "95 % (tau)", "OPA", "slowdown@1", "@1 - default", "95 % (@1)", "slowdown@5",
    "@5 - default", "95 % (@5)", "slowdown@10", "seconds per fit",
)  # fmt: skip
FAMILY_COLUMNS: Final = ("family", "graphs", "tau", "retest tau", *NAMES[1:])
BLOCK_COLUMNS: Final = ("block", "columns", "alone: tau", "without: tau", "lost without", "95 % of the loss")


def introduction(bench: Bench, *, stop: bool) -> str:
    """What was measured and how."""
    pool = bench.pool
    return INTRODUCTION.format(
        graphs=len(pool.groups),
        families=len(np.unique(pool.families)),
        rows=f"{len(pool.groups.X):,}",
        retest=RETEST,
        stop=STOPPED if stop else UNSTOPPED,
    )


def sections(bench: Bench, plans: Sequence[Plan], blocks: Plan | None) -> list[Section]:
    """Tables of the protocols that are whole; families and blocks of the first protocol follow."""
    found = []
    for plan in plans:
        if bench.missing(plan):
            continue
        figures = figures_of(bench, plan)
        aims = goals(bench.task(plan.protocol, 0))
        found.append(_contenders(bench, plan, figures, aims))
        if plan is plans[0]:
            found.append(_families(bench, plan.protocol, figures, aims["tau"]))
    if blocks is not None and not bench.missing(blocks):
        found.append(_blocks(bench, blocks))
    return found


def figures_of(bench: Bench, plan: Plan) -> dict[str, Figures]:
    """Every figure of every graph by contender, the second measurement among them where there is one."""
    groups, held = bench.pool.groups, plan.protocol.held
    found: dict[str, Figures] = {
        name: per_graph(bench.scores(plan.protocol, name), groups, held) for name in plan.contenders
    }
    twice = retest(bench.pool)
    if twice is not None and np.isfinite(twice[held[groups.qid]]).any():
        found[RETEST] = per_graph(twice, groups, held)
    return found


def _contenders(bench: Bench, plan: Plan, figures: Mapping[str, Figures], aims: Mapping[str, str]) -> Section:
    base = figures[aims["tau"]]
    told = {name: f"{name} (goal {goal})" for goal, name in aims.items()} | {aims["tau"]: f"{aims['tau']} (default)"}
    seconds = bench.predictions.seconds(plan.protocol.name)
    rows = []
    for name, values in sorted(figures.items(), key=lambda item: -mean(item[1][TAU])):
        to_default = {
            key: _apart(difference(values[key], base[key], bench.pool.families)) for key in NAMES if key != "OPA"
        }
        if name == aims["tau"]:
            to_default = dict.fromkeys(to_default, ("", ""))
        rows.append(
            (
                told.get(name, name),
                mean(values[TAU]),
                *to_default[TAU],
                mean(values["OPA"]),
                mean(values["slowdown@1"]),
                *to_default["slowdown@1"],
                mean(values["slowdown@5"]),
                *to_default["slowdown@5"],
                mean(values["slowdown@10"]),
                _seconds(name, plan, seconds),
            )
        )
    held = plan.protocol.held
    text = f"{int(held.sum())} graphs of {len(np.unique(bench.pool.families[held]))} families are ranked."
    if COLUMN in figures:
        text += f" {_columns_told(bench, plan.protocol)}"
    return Section(plan.protocol.title, text, CONTENDER_COLUMNS, rows)


def _families(bench: Bench, protocol: Protocol, figures: Mapping[str, Figures], default: str) -> Section:
    families, values = bench.pool.families, figures[default]
    twice = figures.get(RETEST)
    rows = []
    for name in np.unique(families[protocol.held]):
        own = protocol.held & (families == name)
        ceiling: Any = mean(twice[TAU][own]) if twice is not None and np.isfinite(twice[TAU][own]).any() else ""
        rows.append(
            (str(name), int(own.sum()), mean(values[TAU][own]), ceiling, *(mean(values[key][own]) for key in NAMES[1:]))
        )
    rows.sort(key=lambda row: row[2])
    return Section("Families, the worst first", f"{protocol.title}; {default}.", FAMILY_COLUMNS, rows)


def _blocks(bench: Bench, plan: Plan) -> Section:
    figures = figures_of(bench, plan)
    whole = figures[ALL_BLOCKS][TAU]
    columns = bench.pool.groups.columns
    rows: list[tuple[Any, ...]] = [("all", len(columns), mean(whole), "", "", "")]
    for block in block_names(columns):
        single: Any = mean(figures[alone(block)][TAU]) if alone(block) in figures else ""
        rest, lost = "", ("", "")
        if without(block) in figures:
            other = figures[without(block)][TAU]
            rest, lost = mean(other), _apart(difference(whole, other, bench.pool.families))  # type: ignore[assignment]
        rows.append((block, len(column_indices(columns, block)), single, rest, *lost))
    text = f"{plan.protocol.title}. {BLOCKS.format(trees=bench.options.trees or BLOCK_TREES)}"
    return Section("Feature blocks", text, BLOCK_COLUMNS, rows)


def _columns_told(bench: Bench, protocol: Protocol) -> str:
    counts: Counter[str] = Counter()
    for fold in protocol.folds:
        name, sign = chosen_column(bench.pool, fold.known, bench.taus())
        counts[f"`{name}`{'' if sign > 0 else ' (falling)'}"] += 1
    told = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    return f"The best single column by the training graphs of each of {len(protocol.folds)} folds: {told}."


def _seconds(name: str, plan: Plan, seconds: Mapping[str, Sequence[float]]) -> Any:
    """Mean time of the fit that a contender has for itself; empty where it shares another's."""
    return float(np.mean(seconds[name])) if name in seconds and name in plan.contenders else ""


def _apart(found: Difference) -> tuple[Any, str]:
    if found.interval is None:
        return found.mean, ""
    return found.mean, f"{found.interval[0]:+.3f} to {found.interval[1]:+.3f}"
