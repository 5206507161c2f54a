"""Fixed places for the loops of a kernel, so that kernels of any rank share their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.tensors import Tensors
from features.tile.access import LoopNest

#: Value of a column where a kernel has no such loop or operand.
MISSING: Final = -1.0

#: Loop roles with columns of their own; all loops of a role are taken together.
CLASS_LOOPS: Final = ("batch", "m", "n", "k")

N_OUT: Final = 4
N_REDUCED: Final = 3
N_FAST: Final = 4


@dataclass(frozen=True, slots=True)
class LoopSlots:
    """Loop numbers by place, -1 where there is none.

    Parameters
    ----------
    out : tuple of int
        Loops of the result, minor-most dimension first.
    reduced : tuple of int
        Reduced loops, smallest stride first.
    fast : tuple of int
        All loops, those first under which fewest operands are strided: what a compiler would vectorise.
    """

    out: tuple[int, ...]
    reduced: tuple[int, ...]
    fast: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Every place, in the order out, reduced, fast."""
        return self.out + self.reduced + self.fast


def loop_slots(nest: LoopNest, tensors: Tensors) -> LoopSlots:
    """Assign the loops of a nest to their places."""
    n_loops = len(nest.extents)
    strided = np.zeros(n_loops)
    step = np.zeros(n_loops)
    for access in nest.accesses:
        if len(access.coefficients):
            strides = np.abs(access.coefficients).T @ tensors.strides(access.node)
            strided += strides > 1
            step += np.log2(1 + strides)
    out = [int(loop) for loop in tensors.layout(nest.accesses[0].node)]
    reduced = sorted(range(nest.n_out, n_loops), key=lambda loop: (step[loop], -loop))
    long = [loop for loop in range(n_loops) if nest.extents[loop] > 1]
    fast = sorted(long, key=lambda loop: (strided[loop], step[loop], -loop))
    return LoopSlots(_padded(out, N_OUT), _padded(reduced, N_REDUCED), _padded(fast, N_FAST))


def _padded(loops: list[int], places: int) -> tuple[int, ...]:
    return tuple((loops + [-1] * places)[:places])
