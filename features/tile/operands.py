"""Operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import MAX_RANK
from features.program import CLASS_NAMES, CLASS_OF
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors
from features.tile.loops import Access, LoopNest

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


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


ROLES: Final = ("out", "left", "right", "extra")
_ROLE_DOC: Final = {
    "out": "the result",
    "left": "the left (or largest) operand",
    "right": "the right operand (the kernel of a convolution)",
    "extra": "the largest further operand",
}
_SLOTS: Final = (
    *((f"out{slot}", f"result loop {slot}, minor-most first") for slot in range(N_OUT)),
    *((f"red{slot}", f"reduced loop {slot}, smallest stride first") for slot in range(N_REDUCED)),
    *((f"fast{slot}", f"loop {slot} by fewest strided operands") for slot in range(N_FAST)),
)

BLOCK: Final = Block(
    "roles",
    3,
    "Operands and loops of the kernel by role.",
    (
        *(
            Column(f"anchor.{name}", "flag", f"Whether the heaviest operation is of class {name}")
            for name in CLASS_NAMES
        ),
        Column("flops", "log2", "Floating-point operations of the heaviest operation"),
        Column("bytes", "log2", "Bytes of the result and of all operands"),
        Column("intensity", "log2", "Operations per byte, everything read and written once"),
        Column("operands", "count", "Accesses to memory, the result included"),
        Column("loops", "count", "Loops of the nest"),
        Column("reduced", "count", "Loops that are reduced"),
        Column("fast_reduces", "flag", "Whether something is reduced along the loop with fewest strided operands"),
        Column("extremum", "share", "Part of the reductions that keep a maximum or minimum"),
        *(Column(f"extent.{name}", "log2", f"Product of the extents of the {name} loops") for name in CLASS_LOOPS),
        *(Column(f"extent.{slot}", "log2", f"Extent of {doc}; {MISSING} where there is none") for slot, doc in _SLOTS),
        *(
            column
            for role in ROLES
            for column in (
                *(
                    Column(f"{role}.dim{slot}", "log2", f"Extent of {_ROLE_DOC[role]}, minor-most first ({slot})")
                    for slot in range(MAX_RANK)
                ),
                Column(f"{role}.rank", "count", f"Dimensions of {_ROLE_DOC[role]}; {MISSING} where there is none"),
                Column(f"{role}.bytes", "log2", f"Bytes of {_ROLE_DOC[role]}"),
                Column(f"{role}.width", "bytes", f"Element size of {_ROLE_DOC[role]}"),
                Column(f"{role}.type", "id", f"Element type of {_ROLE_DOC[role]}"),
                Column(f"{role}.row_major", "flag", f"Whether {_ROLE_DOC[role]} lies in row-major order"),
            )
        ),
        *(
            Column(f"stride.{slot}.{role}", "log2", f"Step in bytes through {_ROLE_DOC[role]} per step of {doc}")
            for slot, doc in _SLOTS
            for role in ROLES[:3]
        ),
    ),
    per_config=False,
)


def operand_roles(program: Program, tensors: Tensors, nest: LoopNest, slots: LoopSlots) -> Float32Array:
    """The block's columns, float32 (len(BLOCK),)."""
    total = sum(tensors.nbytes[access.node] for access in nest.accesses)
    flags = np.zeros(len(CLASS_NAMES))
    flags[CLASS_OF[program.opcode[nest.anchor]]] = 1
    head = [
        np.log2(1 + nest.flops),
        np.log2(1 + total),
        np.log2((1 + nest.flops) / (1 + total)),
        len(nest.accesses),
        len(nest.extents),
        len(nest.extents) - nest.n_out,
        float(slots.fast[0] >= 0 and nest.reduces[slots.fast[0]]),
        nest.extremum,
    ]
    by_role = {role: nest.first(role) for role in ROLES}
    classes = [
        float(np.sum(np.log2(nest.extents[[own == name for own in nest.roles]].astype(np.float64))))
        for name in CLASS_LOOPS
    ]
    extents = [MISSING if loop < 0 else np.log2(nest.extents[loop]) for loop in slots.all]
    shapes = [value for role in ROLES for value in _operand(tensors, by_role[role])]
    strides = [_stride(tensors, by_role[role], loop) for loop in slots.all for role in ROLES[:3]]
    return np.concatenate([flags, head, classes, extents, shapes, strides]).astype(np.float32)


def _operand(tensors: Tensors, access: Access | None) -> list[float]:
    if access is None:
        return [MISSING] * (MAX_RANK + 5)
    node = access.node
    shape, order = tensors.shape(node), tensors.layout(node)
    dims = [np.log2(shape[dim]) for dim in order] + [MISSING] * (MAX_RANK - len(shape))
    row_major = float(np.array_equal(order, np.arange(len(shape))[::-1]))
    return [
        *dims,
        len(shape),
        np.log2(1 + tensors.nbytes[node]),
        tensors.width[node],
        float(tensors.element_type[node]),
        row_major,
    ]


def _stride(tensors: Tensors, access: Access | None, loop: int) -> float:
    if access is None or loop < 0:
        return MISSING
    step = (
        float(np.abs(access.coefficients[:, loop]) @ tensors.strides(access.node)) if len(access.coefficients) else 0.0
    )
    return float(np.log2(1 + step * tensors.width[access.node]))
