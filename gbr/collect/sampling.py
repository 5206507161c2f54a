"""Which tile sizes to measure: a sample of the whole space, without repetition, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

#: A tile of fewer iterations measures the loop overhead alone, and slowly.
LEAST_ITERATIONS = 1024


def _log_uniform(rng: Generator, extent: int) -> int:
    return min(extent, int(math.exp(rng.uniform(0, math.log(extent + 1)))))


def _power(rng: Generator, extent: int) -> int:
    return min(extent, 1 << int(rng.integers(0, (extent - 1).bit_length() + 1)))


def _odd(rng: Generator, extent: int) -> int:
    return min(extent, _log_uniform(rng, extent) | 1)


def _share(rng: Generator, extent: int) -> int:
    parts = _log_uniform(rng, min(extent, 64))
    return -(-extent // parts)


def _powers(rng: Generator, extents: Sequence[int]) -> list[int]:
    return [_power(rng, extent) for extent in extents]


def _free(rng: Generator, extents: Sequence[int]) -> list[int]:
    return [_log_uniform(rng, extent) for extent in extents]


def _odds(rng: Generator, extents: Sequence[int]) -> list[int]:
    return [_odd(rng, extent) for extent in extents]


def _even_shares(rng: Generator, extents: Sequence[int]) -> list[int]:
    return [_share(rng, extent) for extent in extents]


def _some_full(rng: Generator, extents: Sequence[int]) -> list[int]:
    full = rng.random(len(extents)) < 0.5
    return [extent if whole else _power(rng, extent) for whole, extent in zip(full, extents, strict=True)]


def _one_tiled(rng: Generator, extents: Sequence[int]) -> list[int]:
    tiles = list(extents)
    chosen = int(rng.integers(len(extents)))
    tiles[chosen] = _log_uniform(rng, extents[chosen])
    return tiles


#: Each draws one configuration; they take turns.
STRATEGIES: tuple[Callable[[Generator, Sequence[int]], list[int]], ...] = (
    _powers,
    _free,
    _some_full,
    _even_shares,
    _powers,
    _one_tiled,
    _some_full,
    _odds,
)


def sample_tiles(extents: Sequence[int], n_configs: int, seed: int) -> IntArray:
    """Draw tile sizes: powers of two, full dimensions, odd sizes, even shares, log-uniform, one loop tiled at a time.

    Parameters
    ----------
    extents : sequence of int
        How far each tiled loop runs.
    n_configs : int
        Configurations wanted.
    seed : int

    Returns
    -------
    int64 (c, len(extents))
        Distinct rows within ``1..extent``, none of fewer than :data:`LEAST_ITERATIONS` iterations per tile (the whole
        nest where it is smaller).  Row 0 is the default: no tiling, every tile a full extent.  ``c < n_configs`` where
        the space is used up.
    """
    rng = np.random.default_rng(seed)
    default = tuple(int(extent) for extent in extents)
    least = min(LEAST_ITERATIONS, math.prod(default))
    seen = {default: None}
    for attempt in range(100 * n_configs):
        if len(seen) >= n_configs:
            break
        tiles = tuple(STRATEGIES[attempt % len(STRATEGIES)](rng, default))
        if math.prod(tiles) >= least:
            seen.setdefault(tiles)
    return np.array(list(seen), np.int64)
