"""An order without training: one analytic estimate of the time per kind of collection and target.

An estimate is a cost model (:mod:`gbr.models.costmodel`) with documented prices.  Only its order has meaning: time that
all configurations of a graph share is left out.  Prices are orders of magnitude from public sources, rounded on the
train and valid splits of the embedded collections, and on the 13 kernels of TpuGraphs' own tests for tiles on TPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from features.hardware import Hardware
from gbr.errors import UsageError
from gbr.models.costmodel import CostModel

#: Loops and copies of a layout on a target whose operations keep the graph's layouts, in bytes: copies by their stride
#: (see :mod:`features.layout.copies`); an element of a loop that is written or reduced at strides, and one whose line
#: was evicted, which costs as much as the longest stride of a copy.
_COPIED: Final[Mapping[str, float]] = {
    "copies.all.cost": 1.0,
    "loops.written": 1.0,
    "loops.reduced": 1.0,
    "loops.missed": 4.0,
}
#: Price per unit of the columns, which are log2 of amounts, by kind and target.
PRICES: Final[Mapping[tuple[str, str], Mapping[str, float]]] = {
    # Cycles by the cache model, whose starts of loops are cheap and whose fetches are dear, as it expects neither
    # remainders nor prefetches of strided lines.
    ("tile", "cpu"): {
        "cache.fast.cycles.compute": 1.0,
        "cache.fast.cycles.start": 4.0,
        "cache.fast.cycles.fetch": 0.25,
    },
    # Cycles of windows: about 300 to start one, and the bytes that it moves, 957 per cycle (900 GB/s at 940 MHz, a TPU
    # v3; Jouppi et al., "A domain-specific supercomputer for training deep neural networks", CACM 2020).  Both count
    # padding.
    ("tile", "tpu"): {"geometry.tiles": 300.0, "geometry.traffic.ordered": 1 / 957},
    # Nanoseconds by waves, traffic and tensor rate.
    ("tile", "gpu"): {"gpu.cost.time": 1.0},
    ("layout", "cpu"): _COPIED,
    ("layout", "gpu"): _COPIED,
    # Operations in whole registers.  Copies are left out: the compiler of a TPU moves layouts along the graph, and the
    # copies that a configuration seems to need do not order the real programs.
    ("layout", "tpu"): {"layout.all.sum.computed_padded": 1.0},
}


def target(hardware: Hardware) -> str:
    """Kind of a machine: cpu, gpu or tpu."""
    return "gpu" if hardware.gpu else "tpu" if hardware.sublanes > 1 else "cpu"


def prices(kind: str, hardware: Hardware) -> Mapping[str, float]:
    """Price by column; empty for a kind without an estimate, such as a table."""
    return PRICES.get((kind, target(hardware)), {})


def estimate(kind: str, hardware: Hardware, names: Sequence[str]) -> CostModel:
    """The model of a kind and target, whose features are all columns with these names; UsageError if there is none."""
    found = prices(kind, hardware)
    if not found:
        raise UsageError(f"physics: expected tile or layout configurations, got a {kind}")
    columns = np.array([names.index(name) for name in found])
    return CostModel(columns, np.array(list(found.values())), len(names))
