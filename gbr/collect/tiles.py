"""Measure kernels under different tile sizes: sampling, checks of the results, timing, and files."""

from __future__ import annotations

import math
import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gbr.collect import _jax
from gbr.collect.families import FAMILIES
from gbr.collect.kernels import Family, Nest, Shape
from gbr.collect.tasks import Quality, Settings, Task
from gbr.collect.timer import IntArray, cores, measure, pin, pinned
from gbr.data.graph import write_graph
from gbr.data.hlo import graph_arrays
from gbr.errors import CollectError, UsageError

Float32Array = NDArray[np.float32]

COLLECTION: Final = Path("npz/tile/cpu")
#: Minimum number of iterations per tile; smaller tiles take long and measure only loop overhead.
LEAST_ITERATIONS: Final = 1024
#: Slots per tensor in a configuration, which their sum and product follow.
_SLOTS: Final = 6
_PARTS: Final = ("kernel", "output", "input")
#: Alignment of operands in bytes, a cache line, so that it is the same in every run.
_LINE: Final = 64

# Sampling


def _log_uniform(rng: Generator, extent: int) -> int:
    return min(extent, int(math.exp(rng.uniform(0, math.log(extent + 1)))))


def _power(rng: Generator, extent: int) -> int:
    return min(extent, 1 << int(rng.integers(0, (extent - 1).bit_length() + 1)))


def _odd(rng: Generator, extent: int) -> int:
    return min(extent, _log_uniform(rng, extent) | 1)


def _share(rng: Generator, extent: int) -> int:
    return -(-extent // _log_uniform(rng, min(extent, 64)))


def _each(draw: Callable[[Generator, int], int]) -> Callable[[Generator, Sequence[int]], list[int]]:
    return lambda rng, extents: [draw(rng, extent) for extent in extents]


def _some_full(rng: Generator, extents: Sequence[int]) -> list[int]:
    full = rng.random(len(extents)) < 0.5
    return [extent if whole else _power(rng, extent) for whole, extent in zip(full, extents, strict=True)]


def _one_tiled(rng: Generator, extents: Sequence[int]) -> list[int]:
    tiles = list(extents)
    chosen = int(rng.integers(len(extents)))
    tiles[chosen] = _log_uniform(rng, extents[chosen])
    return tiles


#: Samplers of one configuration each, used cyclically.
_STRATEGIES: Final = (
    _each(_power),
    _each(_log_uniform),
    _some_full,
    _each(_share),
    _each(_power),
    _one_tiled,
    _some_full,
    _each(_odd),
)


def sample_tiles(extents: Sequence[int], n_configs: int, seed: int) -> IntArray:
    """Draw tile sizes: powers of two, full dimensions, odd sizes, even shares, log-uniform, one tiled loop.

    Parameters
    ----------
    extents : sequence of int
        Extents of the tiled loops.
    n_configs : int
        Number of configurations.
    seed : int

    Returns
    -------
    int64 (c, len(extents))
        Distinct rows within ``1..extent``, with at least :data:`LEAST_ITERATIONS` iterations per tile (or the whole
        nest if it is smaller).  Row 0 is the default: no tiling, every tile is a full extent.  ``c < n_configs`` if
        there are not enough distinct ones.
    """
    rng = np.random.default_rng(seed)
    default = tuple(int(extent) for extent in extents)
    least = min(LEAST_ITERATIONS, math.prod(default))
    seen = {default: None}
    for attempt in range(100 * n_configs):
        if len(seen) >= n_configs:
            break
        tiles = tuple(_STRATEGIES[attempt % len(_STRATEGIES)](rng, default))
        if math.prod(tiles) >= least:
            seen.setdefault(tiles)
    return np.array(list(seen), np.int64)


# Measuring


def tile_config(nest: Nest, tiles: IntArray) -> Float32Array:
    """Encode configurations as in TpuGraphs: bounds of kernel, output and input, each with sum and product.

    Bounds are in logical dimension order.  Dimensions without a tile or fixed bound in ``nest`` are 0 and do not count
    in sum and product; all eight columns of a tensor that the kernel lacks are 0.

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
    for number, part in enumerate(_PARTS):
        if dims := sorted(used[part]):
            bounds = config[:, number, dims].astype(np.float64)
            config[:, number, _SLOTS] = bounds.sum(1)
            config[:, number, _SLOTS + 1] = bounds.prod(1)
    return config.reshape(len(tiles), -1)


class Kernel:
    """One kernel of a family, for any tiles.

    Parameters
    ----------
    family : Family
    shape : Shape
    seed : int
        Seed of the operands.

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
        self._operands = [_aligned(operand) for operand in self.nest.operands]
        for operand in self._operands:
            operand[...] = rng.standard_normal(operand.shape, np.float32)
        self._output = _aligned(self.nest.output)
        self._expected = np.asarray(_jax.jit(family.program)(*self._operands), np.float32)

    def bind(self, tiles: IntArray) -> partial[Any]:
        """Return the kernel under one configuration, a callable without arguments."""
        return partial(self._family.kernel, *self._operands, self._output, *map(np.uint64, tiles))

    def check(self, run: partial[Any], tiles: IntArray) -> None:
        """Run the kernel once and compare the result with that of JAX.

        Raises
        ------
        CollectError
            If they differ by more than rounding errors.
        """
        self._output.fill(np.nan)
        run()
        where = f"{self._stem}, tiles {'x'.join(map(str, tiles))}"
        if self._output.shape != self._expected.shape:
            raise CollectError(
                f"{where}: expected a result of shape {self._expected.shape} as from JAX, got {self._output.shape}; "
                "nothing was written"
            )
        # As float32 sums are reordered, rounding errors reach some thousand ulp of the largest element.
        limit = 2e-4 * float(np.abs(self._expected).max())
        worst = float(np.abs(self._output - self._expected).max())
        if not worst <= limit:
            raise CollectError(
                f"{where}: differs from the JAX result by {worst:.3g}, expected at most {limit:.3g}; "
                "the kernel is wrong, and nothing was written"
            )


def seed_of(stem: str, seed: int) -> int:
    """Seed of one kernel's operands and tiles."""
    return zlib.crc32(stem.encode()) ^ seed


def kernel_graph(family: Family, shape: Shape, tiles: IntArray) -> dict[str, NDArray[Any]]:
    """Arrays of the graph and configurations of a kernel, named as in TpuGraphs.

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
    """Measure one kernel; returns the arrays of its file, named as in TpuGraphs.

    Raises
    ------
    CollectError
        If the kernel and its program compute different results.
    MissingLibraryError
        If JAX is not installed.
    """
    seed = seed_of(family.stem(shape), settings.seed)
    kernel = Kernel(family, shape, seed)
    tiles = sample_tiles([loop.extent for loop in kernel.nest.loops], settings.configs, seed)
    runs = [kernel.bind(row) for row in tiles]
    for run, row in zip(runs, tiles, strict=True):
        kernel.check(run, row)
    timing = measure(runs, rounds=settings.rounds, seed=seed)
    return {
        **kernel_graph(family, shape, tiles),
        "config_runtime": timing.first,
        "config_runtime_normalizers": np.full(len(tiles), timing.first[0], np.int64),
        "config_runtime_repeat": timing.second,
    }


def collect(task: Task, settings: Settings) -> Quality:
    """Measure one kernel and write its file.

    Raises
    ------
    CollectError
        As :func:`measure_kernel`, or if the file cannot be written.
    MissingLibraryError
        If JAX is not installed.
    """
    shape = tuple(map(int, task.variant.split("x")))
    write_graph(task.path, measure_kernel(FAMILIES[task.family], shape, settings))
    return Quality.read(task.path)


def collect_all(tasks: Sequence[Task], settings: Settings, jobs: int = 1) -> Iterator[Quality]:
    """Measure kernels, one at a time on each of ``jobs`` pinned cores; yields results in order of completion.

    Raises
    ------
    UsageError
        If ``jobs`` exceeds the cores this process may use.
    CollectError
        As :func:`collect`.
    """
    if jobs == 1:
        with pinned():
            for task in tasks:
                yield collect(task, settings)
        return
    usable = cores()
    if jobs > len(usable):
        raise UsageError(f"--jobs {jobs}: expected at most {len(usable)}, the number of cores of this process")
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for core in usable[-jobs:]:
        free.put(core)
    pool = ProcessPoolExecutor(jobs, context, _pin_next, (free,))
    try:
        for done in as_completed([pool.submit(collect, task, settings) for task in tasks]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pin_next(free: SimpleQueue[int]) -> None:
    pin(free.get())


def _aligned(shape: Shape) -> Float32Array:
    size = 4 * int(np.prod(shape))
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(np.float32).reshape(shape)
