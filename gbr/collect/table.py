"""The table of a measured collection, as it stands in ``data/README.md``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import mean, median

from gbr.collect.tile import Quality
from gbr.data.collection import SPLITS


def markdown(graphs: Sequence[Quality]) -> str:
    """One row per family: every shape with its spread (slowest/fastest) and retest tau.

    Parameters
    ----------
    graphs : sequence of Quality
        The graphs of a family stand together.

    Returns
    -------
    str
        A line of totals and a table in Markdown.
    """
    if not graphs:
        return "Nothing measured yet.\n"
    count = {split: sum(each.split == split for each in graphs) for split in SPLITS}
    families = {each.family for each in graphs}
    lines = [
        f"{len(graphs)} graphs of {len(families)} families ({count['train']} train, {count['valid']} valid, "
        f"{count['test']} test), {sum(each.configs for each in graphs)} samples; "
        f"median spread {median(each.spread for each in graphs):.2f}, "
        f"mean retest tau {mean(each.tau for each in graphs):.3f} (lowest {min(each.tau for each in graphs):.2f}).",
        "",
        "| family | split | shape: spread / retest tau |",
        "|---|---|---|",
    ]
    for (family, split), members in groupby(graphs, lambda each: (each.family, each.split)):
        cells = (f"{each.graph[len(family) + 1 :]}: {each.spread:.1f} / {each.tau:.2f}" for each in members)
        lines.append(f"| {family} | {split} | {', '.join(cells)} |")
    return "\n".join(lines)
