"""Families of graphs to measure, their files, the quality of the measurements, and the driver of both collections."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import mean, median
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from gbr.collect.timer import cores, pin, pinned
from gbr.data import pool as workers
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph, write_graph
from gbr.errors import CollectError, UsageError

#: Thresholds of warnings: below them, the order of the configurations is mostly noise, or their runtimes hardly differ.
LEAST_TAU: Final = 0.7
LEAST_SPREAD: Final = 1.1
#: Maximum number of draws per configuration, after which the space is considered exhausted.
DRAWS: Final = 100


@dataclass(frozen=True, eq=False)
class Family:
    """Similar kernels or programs, which are all in one split; ``variants`` are separated by spaces, one graph each."""

    group: str
    name: str
    variants: str
    split: str = field(default="train", kw_only=True)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """File names of the graphs, ``<family>_<variant>``, without suffix."""
        return tuple(f"{self.name}_{variant}" for variant in self.variants.split())


class Settings(NamedTuple):
    """Settings of measurements: configurations per graph, rounds per pass, and random seed."""

    configs: int
    rounds: int
    seed: int = 0


class Task(NamedTuple):
    """One graph to measure: its family, its name within the family such as a shape, and its file."""

    family: str
    variant: str
    path: Path


#: Measures a variant of a family; returns the arrays of its file, named as in TpuGraphs.
Measure = Callable[[str, str, Settings], dict[str, NDArray[Any]]]


class Quality(NamedTuple):
    """Quality of the measurements of one graph.

    The graph is named by the stem of its file, the split by its folder.  ``spread`` is the slowest over the fastest
    configuration, ``tau`` Kendall's tau-b between the two passes (0 if one of them is constant), ``nodes`` the number
    of configurable nodes, of layout graphs only.
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
        """Read the quality of the graph in a file; raises DataError or CollectError if it is damaged or incomplete."""
        graph = read_graph(path)
        first, second = graph.runtime, graph.repeat
        if first is None or second is None:
            raise CollectError(f"{path}: expected config_runtime and config_runtime_repeat; collect this file again")
        nodes = None if graph.node_config_ids is None else len(graph.node_config_ids)
        tau = float(np.nan_to_num(kendalltau(first, second).statistic))
        family = graph.name.rsplit("_", 1)[0]
        return cls(family, graph.name, path.parent.name, graph.n_configs, float(first.max() / first.min()), tau, nodes)

    def doubts(self) -> list[str]:
        """Reasons to doubt the measurements, one line each."""
        found = []
        if self.tau < LEAST_TAU:
            found.append(f"retest tau {self.tau:.2f} is below {LEAST_TAU}: raise --rounds, or stop other work")
        if self.spread < LEAST_SPREAD:
            found.append(f"slowest/fastest {self.spread:.2f} is below {LEAST_SPREAD}: the configurations hardly differ")
        return [f"{self.graph}: {reason}" for reason in found]


def seed_of(name: str, seed: int) -> int:
    """Seed of one graph's operands and configurations."""
    return zlib.crc32(name.encode()) ^ int(seed)


def distinct(default: NDArray[Any], draw: Callable[[int, int], NDArray[Any] | None], n_configs: int) -> NDArray[Any]:
    """Stack ``default`` and distinct results of ``draw(attempt, number of distinct ones)``, up to ``n_configs``."""
    seen = {default.tobytes(): default}
    for attempt in range(DRAWS * n_configs):
        if len(seen) >= n_configs:
            break
        if (config := draw(attempt, len(seen))) is not None:
            seen.setdefault(config.tobytes(), config)
    return np.stack(list(seen.values()))


def choose(
    families: Mapping[str, Family], names: Sequence[str] | None, splits: Sequence[str], folder: Path
) -> list[Task]:
    """Select graphs of ``splits`` by family, group or file stem; all by default.  Raises UsageError for other names."""
    groups = sorted({family.group for family in families.values()})
    known = {*families, *groups, *(stem for family in families.values() for stem in family.stems)}
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError(
            f"unknown family, group or graph {', '.join(unknown)}; "
            f"groups: {', '.join(groups)}; families: {', '.join(families)}"
        )
    return [
        Task(family.name, variant, folder / family.split / f"{stem}.npz")
        for family in families.values()
        if family.split in splits
        for variant, stem in zip(family.variants.split(), family.stems, strict=True)
        if not names or not {family.name, family.group, stem}.isdisjoint(names)
    ]


def collect(measure: Measure, todo: Sequence[Task], settings: Settings, jobs: int = 1) -> Iterator[Quality]:
    """Measure graphs and write their files, one at a time on each of ``jobs`` pinned cores.

    Yields the qualities in order of completion; raises UsageError if ``jobs`` exceeds the cores of this process.
    """
    if jobs == 1:
        with pinned():  # before JAX starts: XLA creates a thread per core that the process may use
            for task in todo:
                yield _collect(measure, task, settings)
        return
    usable = cores()
    if jobs > (most := workers.cores()):
        raise UsageError(f"--jobs {jobs}: expected at most {most}, the number of cores of this process")
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for core in usable[-jobs:]:
        free.put(core)
    pool = ProcessPoolExecutor(jobs, context, _pin_next, (free,))
    try:
        for done in as_completed([pool.submit(_collect, measure, task, settings) for task in todo]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(measure: Measure, task: Task, settings: Settings) -> Quality:
    write_graph(task.path, measure(task.family, task.variant, settings))
    return Quality.read(task.path)


def _pin_next(free: Any) -> None:
    pin(free.get())


def markdown(families: Mapping[str, Family], folder: Path) -> str:
    """Format the measured graphs of a collection: a summary, and a row per family with spreads and retest taus."""
    graphs = [Quality.read(task.path) for task in choose(families, None, SPLITS, folder) if task.path.exists()]
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
        cells = (
            f"{each.graph[len(family) + 1 :]}{f' ({each.nodes})' if each.nodes else ''}: "
            f"{each.spread:.2f} / {each.tau:.2f}"
            for each in members
        )
        lines.append(f"| {family} | {split} | {', '.join(cells)} |")
    return "\n".join(lines)
