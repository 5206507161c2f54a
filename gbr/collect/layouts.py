"""A JAX program measured under many layouts: checked results, two passes of the timer, a file as TpuGraphs has them."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.collect.choices import sample_layouts
from gbr.collect.programs import FAMILIES, build
from gbr.collect.relayout import Int8Array, Relayout, load
from gbr.collect.timer import Clock, doubts, measure, retest_tau, spread
from gbr.data.collection import SPLITS
from gbr.data.graph import Graph, read_graph, write_graph
from gbr.errors import CollectError, UsageError

COLLECTION: Final = Path("npz/layout/cpu/random")

#: A program of several milliseconds still gets about as many samples as a short kernel gets rounds.
ENOUGH_NS: Final = 100_000_000
#: By how much of the largest element a result may be off: sums of float32 in another order; wider for short types.
_TOLERANCE: Final = 2e-4


@dataclass(frozen=True, slots=True)
class Settings:
    """How programs are measured: configurations per program, rounds per pass, and the seed of everything random."""

    configs: int = 96
    rounds: int = 25
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One program to measure and where it goes."""

    family: str
    variant: str
    path: Path


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a measured program can be trusted.

    Parameters
    ----------
    graph : str
        Stem of the file.
    nodes : int
        Nodes whose layouts are chosen.
    configs : int
    spread : float
        Slowest over fastest.
    tau : float
        Kendall's tau-b between the two passes.
    """

    graph: str
    nodes: int
    configs: int
    spread: float
    tau: float

    @classmethod
    def of(cls, graph: Graph) -> Quality:
        """Judge a graph that was read or just measured.

        Raises
        ------
        CollectError
            If it lacks one of the two measurements, or is no layout graph.
        """
        if graph.runtime is None or graph.repeat is None or graph.node_config_ids is None:
            raise CollectError(
                f"{graph.source}: no layouts with config_runtime and config_runtime_repeat; delete it and collect again"
            )
        tau = retest_tau(graph.runtime, graph.repeat)
        return cls(graph.name, len(graph.node_config_ids), graph.n_configs, spread(graph.runtime), tau)

    def doubts(self) -> list[str]:
        """One line per reason not to trust it."""
        return [f"{self.graph}: {reason}" for reason in doubts(self.spread, self.tau)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def tasks(names: Sequence[str] | None, splits: Sequence[str], root: Path) -> list[Task]:
    """Programs that are named (by family or by file stem; all by default) and belong to ``splits``.

    Raises
    ------
    UsageError
        If a name is neither a family nor a program.
    """
    known = {name for family in FAMILIES.values() for name in (family.name, *family.stems)}
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError(f"no family or program {', '.join(unknown)}; families: {', '.join(FAMILIES)}")
    return [
        Task(family.name, variant, root / COLLECTION / family.split / f"{stem}.npz")
        for family in FAMILIES.values()
        if family.split in splits
        for variant, stem in zip(family.variants, family.stems, strict=True)
        if not names or family.name in names or stem in names
    ]


def collect(task: Task, settings: Settings) -> Quality:
    """Measure one program and write its file.

    Raises
    ------
    CollectError
        As :func:`measure_program`, or if the file cannot be written.
    MissingLibraryError
        If JAX is not installed.
    """
    jax = load()
    function, args = build(FAMILIES[task.family], task.variant)
    quality = measured(function, args, task.path, settings)
    jax.clear_caches()
    return quality


def measured(function: Callable[..., Any], args: Sequence[Any], path: Path, settings: Settings) -> Quality:
    """Measure a function's layouts and write them to ``path``; see :func:`gbr.collect.layout`."""
    write_graph(path, measure_program(function, args, settings, path.stem))
    return Quality.of(read_graph(path))


def measure_program(
    function: Callable[..., Any],
    args: Sequence[Any],
    settings: Settings,
    name: str,
    clock: Clock = time.process_time_ns,
) -> dict[str, NDArray[Any]]:
    """Measure a function under sampled layouts; the arrays of its file, named as TpuGraphs names them.

    Parameters
    ----------
    function : callable
        Traceable by JAX.
    args : sequence
        Its arguments: arrays, or pytrees of arrays.
    settings : Settings
    name : str
        For messages, and for the seed.
    clock : callable
        Nanoseconds; by default CPU time of the process, because XLA may compute on a thread of its own.

    Raises
    ------
    CollectError
        If a configuration gives another result than the unconstrained program, or the function cannot be traced.
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    seed = zlib.crc32(name.encode()) ^ settings.seed
    program = Relayout(function, args)
    configs = sample_layouts(program.sites, settings.configs, seed)
    runs = checked_runs(program, configs, name)
    timing = measure(runs, rounds=settings.rounds, enough_ns=ENOUGH_NS, seed=seed, clock=clock)
    return {
        **program.graph,
        "node_config_feat": configs.astype(np.float32),
        "config_runtime": timing.first,
        "config_runtime_repeat": timing.second,
    }


class Reference:
    """What a program computes when nothing is asked of its layouts.

    Parameters
    ----------
    run : callable without arguments
        Returns the results, a list of arrays.
    name : str
        For messages.
    """

    def __init__(self, run: Callable[[], Any], name: str) -> None:
        self._name = name
        # NumPy compares: JAX 0.10 misreads results that XLA hands out in another layout when it computes with them.
        self._expected = [np.asarray(each) for each in run()]
        self._limits = [_limit(each) for each in self._expected]

    def check(self, run: Callable[[], Any], number: int) -> None:
        """Run a configuration once and compare.

        Raises
        ------
        CollectError
            If a result differs by more than rounding.
        """
        for place, (got, want, limit) in enumerate(zip(run(), self._expected, self._limits, strict=True)):
            if not np.allclose(np.asarray(got), want, rtol=0, atol=limit, equal_nan=True):
                worst = float(np.nanmax(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))))
                raise CollectError(
                    f"{self._name}, configuration {number}: result {place} is off by {worst:.3g} from the "
                    f"unconstrained program's, {limit:.3g} is allowed; XLA miscompiles it and nothing was written"
                )


def checked_runs(program: Relayout, configs: Int8Array, name: str) -> list[Callable[[], Any]]:
    """Compile every configuration and compare what it computes with the first's results.

    Raises
    ------
    CollectError
        If a result differs by more than rounding.
    """
    runs = [program.compile(config) for config in configs]
    reference = Reference(runs[0], name)
    for number, run in enumerate(runs):
        reference.check(run, number)
    return runs


def stored(root: Path) -> Iterator[tuple[str, Quality]]:
    """Split and quality of the measured programs there are under ``root``, in the order of the families.

    Raises
    ------
    DataError
        If a file is torn.
    CollectError
        If a file lacks one of its measurements.
    """
    for task in tasks(None, SPLITS, root):
        if task.path.exists():
            yield task.path.parent.name, Quality.of(read_graph(task.path))


def markdown(programs: Sequence[tuple[str, Quality]]) -> str:
    """One row per family: every program with its nodes, its spread (slowest/fastest) and its retest tau.

    Parameters
    ----------
    programs : sequence of (split, Quality)
        The programs of a family stand together.

    Returns
    -------
    str
        A line of totals and a table in Markdown.
    """
    if not programs:
        return "Nothing measured yet.\n"
    splits = [split for split, _ in programs]
    spreads = [each.spread for _, each in programs]
    taus = [each.tau for _, each in programs]
    families = {each.graph.split("_")[0] for _, each in programs}
    lines = [
        f"{len(programs)} programs of {len(families)} families ({splits.count('train')} train, {splits.count('valid')} "
        f"valid, {splits.count('test')} test), {sum(each.configs for _, each in programs)} samples; "
        f"median spread {median(spreads):.2f} ({min(spreads):.2f} to {max(spreads):.2f}), "
        f"median retest tau {median(taus):.2f} (lowest {min(taus):.2f}).",
        "",
        "| family | split | program (nodes): spread / retest tau |",
        "|---|---|---|",
    ]
    for (family, split), members in groupby(programs, lambda each: (each[1].graph.split("_")[0], each[0])):
        cells = (
            f"{each.graph[len(family) + 1 :]} ({each.nodes}): {each.spread:.2f} / {each.tau:.2f}" for _, each in members
        )
        lines.append(f"| {family} | {split} | {', '.join(cells)} |")
    return "\n".join(lines)


def _limit(expected: NDArray[Any]) -> float:
    import jax.numpy as jnp

    if not jnp.issubdtype(expected.dtype, jnp.inexact):
        return 0.0
    size = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    return max(_TOLERANCE, 4 * float(jnp.finfo(expected.dtype).eps)) * float(size.max(initial=0.0))
