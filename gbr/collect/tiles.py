"""Measure kernels under different tile sizes: sampling, checks of the results, and timing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gbr.collect._jax import Reference, jax, proto
from gbr.collect.families import FAMILIES
from gbr.collect.kernels import Family, Nest, Shape
from gbr.collect.tasks import Settings, distinct, seed_of
from gbr.collect.timer import IntArray, measure
from gbr.data.hlo import graph_arrays

Float32Array = NDArray[np.float32]

#: Minimum number of iterations per tile; smaller tiles take long and measure only loop overhead.
LEAST_ITERATIONS: Final = 1024
#: Slots per tensor in a configuration, which their sum and product follow.
_SLOTS: Final = 6
_PARTS: Final = ("kernel", "output", "input")
#: Alignment of operands in bytes, a cache line, so that it is the same in every run.
_LINE: Final = 64


def _log_uniform(rng: Generator, extent: int) -> int:
    return min(extent, int(math.exp(rng.uniform(0, math.log(extent + 1)))))


#: Strategies that draw the tile of every loop from its extent.
_EACH: Final[dict[str, Callable[[Generator, int], int]]] = {
    "power": lambda rng, extent: min(extent, 1 << int(rng.integers(0, (extent - 1).bit_length() + 1))),
    "any": _log_uniform,
    "odd": lambda rng, extent: min(extent, _log_uniform(rng, extent) | 1),
    "share": lambda rng, extent: -(-extent // _log_uniform(rng, min(extent, 64))),
}
#: Strategies of one configuration each, used cyclically.
_STRATEGIES: Final = ("power", "any", "some full", "share", "power", "one tiled", "some full", "odd")


def _draw(rng: Generator, strategy: str, extents: Sequence[int]) -> list[int]:
    if strategy == "one tiled":
        chosen = int(rng.integers(len(extents)))
        return [_log_uniform(rng, extent) if loop == chosen else extent for loop, extent in enumerate(extents)]
    full = rng.random(len(extents)) < 0.5 if strategy == "some full" else [False] * len(extents)
    draw = _EACH.get(strategy, _EACH["power"])
    return [extent if whole else draw(rng, extent) for whole, extent in zip(full, extents, strict=True)]


def sample_tiles(extents: Sequence[int], n_configs: int, seed: int) -> IntArray:
    """Draw tile sizes: powers of two, full dimensions, odd sizes, even shares, log-uniform, one tiled loop.

    Returns
    -------
    int64 (c, len(extents))
        Distinct rows within ``1..extent``, with at least :data:`LEAST_ITERATIONS` iterations per tile (or the whole
        nest if it is smaller).  Row 0 is the default: no tiling, every tile is a full extent.  ``c < n_configs`` if
        there are not enough distinct ones.
    """
    rng = np.random.default_rng(seed)
    extents = [int(extent) for extent in extents]
    least = min(LEAST_ITERATIONS, math.prod(extents))

    def draw(attempt: int, _found: int) -> IntArray | None:
        tiles = _draw(rng, _STRATEGIES[attempt % len(_STRATEGIES)], extents)
        return np.array(tiles, np.int64) if math.prod(tiles) >= least else None

    return distinct(np.array(extents, np.int64), draw, n_configs)


def tile_config(nest: Nest, tiles: IntArray) -> Float32Array:
    """Encode int64 (c, loops) as in TpuGraphs: bounds of kernel, output and input, each with sum and product.

    Bounds are in logical dimension order.  All eight columns of a tensor that the kernel lacks are 0.  Returns float32
    (c, 24).
    """
    config = np.zeros((len(tiles), len(_PARTS), _SLOTS + 2), np.float32)
    for part, dims in nest.bounds.items():
        loop, stride, window = dims.T
        bounds = window + (tiles[:, loop] - 1) * stride
        number = _PARTS.index(part)
        config[:, number, : len(dims)] = bounds
        config[:, number, _SLOTS:] = np.stack((bounds.sum(1), bounds.prod(1)), 1)
    return config.reshape(len(tiles), -1)


class Kernel:
    """One kernel of a family with random operands, for any tiles."""

    def __init__(self, family: Family, shape: str, seed: int) -> None:
        nest = family.nest(shape)
        rng = np.random.default_rng(seed)
        self._kernel = family.kernel
        self._operands = [_aligned(operand) for operand in nest.operands]
        for operand in self._operands:
            operand[...] = rng.standard_normal(operand.shape, np.float32)
        self._output = _aligned(nest.output)
        self._reference = Reference([jax.jit(family.program)(*self._operands)], f"{family.name}_{shape}")

    def checked(self, tiles: IntArray) -> partial[Any]:
        """Kernel under one configuration, a callable without arguments.

        Raises
        ------
        CollectError
            If its result differs from that of JAX by more than rounding errors.
        """
        run = partial(self._kernel, *self._operands, self._output, *map(np.uint64, tiles))
        self._output.fill(np.nan)
        run()
        self._reference.check([self._output], "x".join(map(str, tiles)))
        return run


def _aligned(shape: Shape) -> Float32Array:
    size = 4 * int(np.prod(shape))
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(np.float32).reshape(shape)


def kernel_graph(family: Family, shape: str, tiles: IntArray) -> dict[str, NDArray[Any]]:
    """Arrays of the graph and configurations of a kernel, named as in TpuGraphs."""
    nest = family.nest(shape)
    operands = [jax.ShapeDtypeStruct(operand, np.float32) for operand in nest.operands]
    graph = graph_arrays(proto(jax.jit(family.program).lower(*operands)))
    return {key: graph[key] for key in ("node_feat", "node_opcode", "edge_index")} | {
        "config_feat": tile_config(nest, tiles)
    }


def measure_variant(name: str, shape: str, settings: Settings) -> dict[str, NDArray[Any]]:
    """Measure one kernel; returns the arrays of its file, named as in TpuGraphs.  Raises as :meth:`Kernel.checked`."""
    family = FAMILIES[name]
    seed = seed_of(f"{name}_{shape}", settings.seed)
    tiles = sample_tiles(list(family.nest(shape).loops.values()), settings.configs, seed)
    kernel = Kernel(family, shape, seed)
    first, second = measure([kernel.checked(row) for row in tiles], rounds=settings.rounds, seed=seed)
    return {
        **kernel_graph(family, shape, tiles),
        "config_runtime": first,
        "config_runtime_normalizers": np.full(len(tiles), first[0], np.int64),
        "config_runtime_repeat": second,
    }
