"""Which layouts to measure: strata of a fixed number of configured nodes, the same sample for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gbr.collect.relayout import PARTS, SLOTS, Site

Int8Array = NDArray[np.int8]

#: How the layout of a tensor is drawn, with its share: most layouts of a search are near the default.
_ONE_SWAP: Final = 0.6
_ANY_ORDER: Final = 0.25
#: Share of configured nodes of which all tensors are set; of the others, one or two.
_WHOLE_NODE: Final = 0.25
_PATIENCE: Final = 100


def strata(n_nodes: int) -> list[int]:
    """Numbers of nodes that a configuration sets: a few, a quarter, half, all; ascending, no number twice."""
    return sorted({min(n_nodes, few) for few in (2, 4, 8)} | {-(-n_nodes // 4), -(-n_nodes // 2), n_nodes})


def sample_layouts(sites: Sequence[Site], n_configs: int, seed: int) -> Int8Array:
    """Draw layout configurations.

    The strata take turns, so that many configurations set the same number of nodes and counting does not rank them.
    Of a chosen node one tensor, two or all are set: to the row-major layout with two dimensions swapped, to any order
    of the dimensions, or to row-major itself, which is set and yet no change.

    Parameters
    ----------
    sites : sequence of Site
        Each with a tensor of at least two dimensions.
    n_configs : int
        Configurations wanted.
    seed : int

    Returns
    -------
    int8 (c, nc, 18)
        Distinct configurations: layouts of output, input and kernel, minor to major, -1-padded.  Row 0 sets nothing.
        ``c < n_configs`` where the sites do not have as many.
    """
    rng = np.random.default_rng(seed)
    counts = strata(len(sites))
    default = np.full((len(sites), PARTS * SLOTS), -1, np.int8)
    seen = {default.tobytes(): default}
    for attempt in range(_PATIENCE * n_configs):
        if len(seen) >= n_configs:
            break
        # By what is found, not by attempts: every stratum gets its share unless it is used up.
        turn = len(seen) if attempt < _PATIENCE * n_configs // 2 else attempt
        config = default.copy()
        for node in rng.choice(len(sites), counts[turn % len(counts)], replace=False):
            for part in _parts(rng, sites[node].free):
                layout = _layout(rng, len(sites[node].shapes[part]))
                config[node, part * SLOTS : part * SLOTS + len(layout)] = layout
        seen.setdefault(config.tobytes(), config)
    return np.stack(list(seen.values()))


def _parts(rng: Generator, free: Sequence[int]) -> Sequence[int]:
    if len(free) == 1 or rng.random() < _WHOLE_NODE:
        return free
    return rng.permutation(free)[: rng.integers(1, len(free))].tolist()  # type: ignore[no-any-return]


def _layout(rng: Generator, rank: int) -> list[int]:
    row_major = list(range(rank))[::-1]
    draw = rng.random()
    if draw < _ONE_SWAP:
        a, b = rng.choice(rank, 2, replace=False)
        row_major[a], row_major[b] = row_major[b], row_major[a]
    elif draw < _ONE_SWAP + _ANY_ORDER:
        return rng.permutation(rank).tolist()  # type: ignore[no-any-return]
    return row_major
