"""What is measured, where its files are, and how far the measurements can be trusted."""

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
    """Kernels or programs that are alike; no family is in two splits.

    Parameters
    ----------
    group, name : str
        The group holds related families.
    variants : str
        The graphs, separated by spaces.
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
    """How graphs are measured: configurations per graph, rounds per pass, and the seed of everything random."""

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
        """What distinguishes the graph in its family, such as a shape."""
        return self.path.stem[len(self.family) + 1 :]


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a measured graph can be trusted.

    Parameters
    ----------
    family, graph, split : str
        The graph is the stem of its file, the split the folder.
    configs : int
    spread : float
        Slowest over fastest configuration.
    tau : float
        Kendall's tau-b between the two passes.
    nodes : int, optional
        Nodes whose layouts are chosen; of layout graphs only.
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
        """Judge the graph in a file.

        Raises
        ------
        DataError
            If the file is damaged.
        CollectError
            If it lacks one of the two measurements.
        """
        graph = read_graph(path)
        if graph.runtime is None or graph.repeat is None:
            raise CollectError(f"{path}: no config_runtime and config_runtime_repeat; delete it and collect again")
        nodes = None if graph.node_config_ids is None else len(graph.node_config_ids)
        tau = retest_tau(graph.runtime, graph.repeat)
        family = graph.name.rsplit("_", 1)[0]
        return cls(family, graph.name, path.parent.name, graph.n_configs, spread(graph.runtime), tau, nodes)

    def doubts(self) -> list[str]:
        """One line per reason not to trust it."""
        return [f"{self.graph}: {reason}" for reason in doubts(self.spread, self.tau)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def choose(
    families: Mapping[str, Family], names: Sequence[str] | None, splits: Sequence[str], folder: Path
) -> list[Task]:
    """Return the graphs of ``splits`` that are selected, by family, group or file stem; all by default.

    Raises
    ------
    UsageError
        If a name is none of these.
    """
    groups = sorted({family.group for family in families.values()})
    known = {*families, *groups, *(stem for family in families.values() for stem in family.stems)}
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError(
            f"no family, group or graph {', '.join(unknown)}; "
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
    """Judge the measured graphs in a collection's folder, in the order of the families; raises as Quality.read."""
    return (Quality.read(task.path) for task in choose(families, None, SPLITS, folder) if task.path.exists())


def markdown(graphs: Sequence[Quality]) -> str:
    """Format a line of totals and a table: per family its graphs, each with its spread and retest tau.

    Parameters
    ----------
    graphs : sequence of Quality
        Those of a family next to each other.
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
