"""Families of graphs to measure, their files, and the quality of the measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import mean, median
from typing import Any

from gbr.collect.timer import doubts, retest_tau, spread
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph
from gbr.errors import CollectError, UsageError


@dataclass(frozen=True, eq=False)
class Family:
    """Similar kernels or programs, which are all in one split.

    Parameters
    ----------
    group, name : str
        Names of a group of related families, and of the family.
    variants : str
        Variants of the family, one graph each, separated by spaces.
    split : str
        ``train``, ``valid`` or ``test``.
    """

    group: str
    name: str
    variants: str
    split: str = field(default="train", kw_only=True)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """File names of the graphs, ``<family>_<variant>``, without suffix."""
        return tuple(f"{self.name}_{variant}" for variant in self.variants.split())


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of measurements: configurations per graph, rounds per pass, and random seed."""

    configs: int
    rounds: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One graph to measure and its file."""

    family: str
    path: Path

    @property
    def variant(self) -> str:
        """Name of the graph within its family, such as a shape."""
        return self.path.stem[len(self.family) + 1 :]


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of the measurements of one graph.

    Parameters
    ----------
    family, graph, split : str
        The graph is named by the stem of its file, the split by its folder.
    configs : int
    spread : float
        Slowest over fastest configuration.
    tau : float
        Kendall's tau-b between the two passes.
    nodes : int, optional
        Number of configurable nodes; of layout graphs only.
    """

    family: str
    graph: str
    split: str
    configs: int
    spread: float
    tau: float
    nodes: int | None = None

    @classmethod
    def read(cls, path: Path) -> Quality:
        """Read the quality of the graph in a file.

        Raises
        ------
        DataError
            If the file is damaged.
        CollectError
            If a measurement is missing.
        """
        graph = read_graph(path)
        if graph.runtime is None or graph.repeat is None:
            raise CollectError(
                f"{path}: expected config_runtime and config_runtime_repeat; delete the file and collect again"
            )
        nodes = None if graph.node_config_ids is None else len(graph.node_config_ids)
        tau = retest_tau(graph.runtime, graph.repeat)
        family = graph.name.rsplit("_", 1)[0]
        return cls(family, graph.name, path.parent.name, graph.n_configs, spread(graph.runtime), tau, nodes)

    def doubts(self) -> list[str]:
        """Reasons to doubt the measurements, one line each."""
        return [f"{self.graph}: {reason}" for reason in doubts(self.spread, self.tau)]

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def choose(
    families: Mapping[str, Family], names: Sequence[str] | None, splits: Sequence[str], folder: Path
) -> list[Task]:
    """Select graphs of ``splits`` by family, group or file stem; all by default.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    groups = sorted({family.group for family in families.values()})
    known = {*families, *groups, *(stem for family in families.values() for stem in family.stems)}
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError(
            f"unknown family, group or graph {', '.join(unknown)}; "
            f"groups: {', '.join(groups)}; families: {', '.join(families)}"
        )
    return [
        Task(family.name, folder / family.split / f"{stem}.npz")
        for family in families.values()
        if family.split in splits
        for stem in family.stems
        if not names or not {family.name, family.group, stem}.isdisjoint(names)
    ]


def stored(families: Mapping[str, Family], folder: Path) -> Iterator[Quality]:
    """Quality of the measured graphs in the folder of a collection, ordered by family; raises as Quality.read."""
    return (Quality.read(task.path) for task in choose(families, None, SPLITS, folder) if task.path.exists())


def markdown(graphs: Sequence[Quality]) -> str:
    """Format a summary line and a table with a row per family: its graphs with their spread and retest tau.

    Parameters
    ----------
    graphs : sequence of Quality
        Ordered by family.
    """
    if not graphs:
        return "Nothing measured yet.\n"
    count = {split: sum(each.split == split for each in graphs) for split in SPLITS}
    spreads, taus = [each.spread for each in graphs], [each.tau for each in graphs]
    lines = [
        f"{len(graphs)} graphs of {len({each.family for each in graphs})} families ({count['train']} train, "
        f"{count['valid']} valid, {count['test']} test), {sum(each.configs for each in graphs)} samples; "
        f"spread {min(spreads):.2f} to {max(spreads):.2f}, median {median(spreads):.2f}; "
        f"retest tau {min(taus):.2f} to {max(taus):.2f}, median {median(taus):.2f}, mean {mean(taus):.3f}.",
        "",
        f"| family | split | graph{' (nodes)' if graphs[0].nodes else ''}: spread / retest tau |",
        "|---|---|---|",
    ]
    for (family, split), members in groupby(graphs, lambda each: (each.family, each.split)):
        cells = []
        for each in members:
            nodes = f" ({each.nodes})" if each.nodes else ""
            cells.append(f"{each.graph[len(family) + 1 :]}{nodes}: {each.spread:.2f} / {each.tau:.2f}")
        lines.append(f"| {family} | {split} | {', '.join(cells)} |")
    return "\n".join(lines)
