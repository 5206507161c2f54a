"""One kernel measured: sampled tiles, checked results, two passes of the timer, one file in the format of TpuGraphs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gbr.collect import _jax
from gbr.collect.families import FAMILIES, split_of
from gbr.collect.kernels import Family, Nest, Shape
from gbr.collect.sampling import sample_tiles
from gbr.collect.timer import IntArray, doubts, measure, retest_tau, spread
from gbr.data.collection import SPLITS
from gbr.data.graph import Graph, read_graph, write_graph
from gbr.data.hlo import graph_arrays
from gbr.errors import CollectError, UsageError

Float32Array = NDArray[np.float32]

COLLECTION = Path("npz/tile/cpu")
#: Slots per tensor in a configuration; the sum and the product follow them.
_SLOTS = 6
_PARTS = ("kernel", "output", "input")
#: Bytes of a cache line: operands start on one, so that every run of the command sees the same alignment.
_LINE = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """How kernels are measured: configurations per kernel, rounds per pass, and the seed of everything random."""

    configs: int = 96
    rounds: int = 15
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One kernel to measure and where it goes."""

    family: str
    shape: Shape
    path: Path


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a measured graph can be trusted.

    Parameters
    ----------
    family, graph, split : str
    configs : int
    spread : float
        Slowest over fastest.
    tau : float
        Kendall's tau-b between the two passes.
    """

    family: str
    graph: str
    split: str
    configs: int
    spread: float
    tau: float

    @classmethod
    def of(cls, graph: Graph, split: str) -> Quality:
        """Judge a graph that was read or just measured.

        Raises
        ------
        CollectError
            If it lacks one of the two measurements.
        """
        if graph.runtime is None or graph.repeat is None:
            raise CollectError(
                f"{graph.source}: no config_runtime and config_runtime_repeat; delete it and collect again"
            )
        tau = retest_tau(graph.runtime, graph.repeat)
        family = graph.name.rsplit("_", 1)[0]
        return cls(family, graph.name, split, graph.n_configs, spread(graph.runtime), tau)

    def doubts(self) -> list[str]:
        """One line per reason not to trust it."""
        return [f"{self.graph}: {reason}" for reason in doubts(self.spread, self.tau)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def tile_config(nest: Nest, tiles: IntArray) -> Float32Array:
    """Configurations as TpuGraphs lays them out: bounds of kernel, output and input, each with sum and product.

    Bounds are in logical dimension order.  Dimensions that no tile and no fixed bound of ``nest`` touches are 0 and are
    left out of sum and product; all eight columns are 0 where the kernel has no such tensor.

    Parameters
    ----------
    nest : Nest
    tiles : int64 (c, loops)

    Returns
    -------
    float32 (c, 24)
    """
    config = np.zeros((len(tiles), len(_PARTS), _SLOTS + 2), np.float32)
    used: dict[str, set[int]] = {part: set() for part in _PARTS}
    for slot, extent in nest.fixed:
        config[:, _PARTS.index(slot.part), slot.dim] = extent
        used[slot.part].add(slot.dim)
    for column, loop in enumerate(nest.loops):
        for slot in loop.slots:
            config[:, _PARTS.index(slot.part), slot.dim] = slot.window + (tiles[:, column] - 1) * slot.stride
            used[slot.part].add(slot.dim)
    for place, part in enumerate(_PARTS):
        if dims := sorted(used[part]):
            bounds = config[:, place, dims].astype(np.float64)
            config[:, place, _SLOTS] = bounds.sum(1)
            config[:, place, _SLOTS + 1] = bounds.prod(1)
    return config.reshape(len(tiles), -1)


def tasks(names: Sequence[str] | None, splits: Sequence[str], root: Path) -> list[Task]:
    """Kernels of the named families (or groups of families; all by default) that belong to ``splits``.

    Raises
    ------
    UsageError
        If a name is neither a family nor a group.
    """
    groups = {family.group for family in FAMILIES.values()}
    unknown = [name for name in names or () if name not in FAMILIES and name not in groups]
    if unknown:
        raise UsageError(
            f"no family or group {', '.join(unknown)}; "
            f"groups: {', '.join(sorted(groups))}; families: {', '.join(FAMILIES)}"
        )
    return [
        Task(family.name, shape, root / COLLECTION / split / f"{family.stem(shape)}.npz")
        for family in FAMILIES.values()
        if not names or family.name in names or family.group in names
        for split in [split_of(family.name)]
        if split in splits
        for shape in family.shapes
    ]


def collect(task: Task, settings: Settings) -> Quality:
    """Measure one kernel and write its file.

    Raises
    ------
    CollectError
        If the kernel computes something else than its program, or the file cannot be written.
    MissingLibraryError
        If JAX is not installed.
    """
    arrays = measure_kernel(FAMILIES[task.family], task.shape, settings)
    write_graph(task.path, arrays)
    return Quality.of(read_graph(task.path), task.path.parent.name)


class Kernel:
    """One kernel of a family, ready to run under any tiles.

    Parameters
    ----------
    family : Family
    shape : Shape
    seed : int
        Of the operands.

    Attributes
    ----------
    nest : Nest

    Raises
    ------
    MissingLibraryError
        If JAX is not installed.
    """

    def __init__(self, family: Family, shape: Shape, seed: int) -> None:
        self.nest = family.nest(*shape)
        self._family = family
        self._stem = family.stem(shape)
        rng = np.random.default_rng(seed)
        self._operands = [_random(rng, operand) for operand in self.nest.operands]
        self._output = _aligned(self.nest.output)
        self._expected = _jax.run(family.program, self._operands)

    def run_of(self, tiles: IntArray) -> partial[Any]:
        """The kernel under one configuration, a callable without arguments."""
        return partial(self._family.kernel, *self._operands, self._output, *map(np.uint64, tiles))

    def check(self, run: partial[Any], tiles: IntArray) -> None:
        """Run it once and compare the result with JAX's.

        Raises
        ------
        CollectError
            If they differ by more than rounding.
        """
        self._output.fill(np.nan)
        run()
        _check(self._output, self._expected, f"{self._stem}, tiles {'x'.join(map(str, tiles))}")


def seed_of(stem: str, seed: int) -> int:
    """Seed of one kernel's operands and tiles."""
    return zlib.crc32(stem.encode()) ^ seed


def kernel_graph(family: Family, shape: Shape, tiles: IntArray) -> dict[str, NDArray[Any]]:
    """Arrays of a kernel's graph and of its configurations, named as TpuGraphs names them.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed.
    """
    nest = family.nest(*shape)
    graph = graph_arrays(_jax.hlo(family.program, nest.operands))
    return {key: graph[key] for key in ("node_feat", "node_opcode", "edge_index")} | {
        "config_feat": tile_config(nest, tiles)
    }


def measure_kernel(family: Family, shape: Shape, settings: Settings) -> dict[str, NDArray[Any]]:
    """Measure one kernel; the arrays of its file, named as TpuGraphs names them.

    Raises
    ------
    CollectError
        If the kernel computes something else than its program.
    MissingLibraryError
        If JAX is not installed.
    """
    seed = seed_of(family.stem(shape), settings.seed)
    kernel = Kernel(family, shape, seed)
    tiles = sample_tiles([loop.extent for loop in kernel.nest.loops], settings.configs, seed)
    runs = [kernel.run_of(row) for row in tiles]
    for run, row in zip(runs, tiles, strict=True):
        kernel.check(run, row)
    timing = measure(runs, rounds=settings.rounds, seed=seed)
    return {
        **kernel_graph(family, shape, tiles),
        "config_runtime": timing.first,
        "config_runtime_normalizers": np.full(len(tiles), timing.first[0], np.int64),
        "config_runtime_repeat": timing.second,
    }


def stored(root: Path) -> Iterator[Quality]:
    """Judge the measured kernels there are under ``root``, in the order of the families.

    Raises
    ------
    DataError
        If a file is torn.
    CollectError
        If a file lacks one of its measurements.
    """
    for task in tasks(None, SPLITS, root):
        if task.path.exists():
            yield Quality.of(read_graph(task.path), task.path.parent.name)


def _check(output: Float32Array, expected: Float32Array, where: str) -> None:
    # Sums of float32 in another order: an error of some thousand ulp of the largest element is rounding.
    limit = 2e-4 * float(np.abs(expected).max())
    if output.shape != expected.shape:
        raise CollectError(f"{where}: result of shape {output.shape}, JAX gives {expected.shape}; nothing was written")
    worst = float(np.abs(output - expected).max())
    if not worst <= limit:
        raise CollectError(
            f"{where}: off by {worst:.3g} from the JAX result, {limit:.3g} is allowed; "
            "the kernel is wrong and nothing was written"
        )


def _aligned(shape: Shape) -> Float32Array:
    size = 4 * int(np.prod(shape))
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(np.float32).reshape(shape)


def _random(rng: np.random.Generator, shape: Shape) -> Float32Array:
    array = _aligned(shape)
    array[...] = rng.standard_normal(shape, np.float32)
    return array
