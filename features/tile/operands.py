"""Columns of operands by role and of loops by slot, the same for kernels of any rank.

Every role (result, left and right operand, largest further operand) has columns for extents, element type, layout and
strides.  Loops are assigned to slots in three orders.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from features.graph import Program
from features.hlo import MAX_RANK
from features.program import CLASS_NAMES, CLASS_OF
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors
from features.tile.loops import Access, LoopNest

MISSING: Final = -1.0  # value of a column for a loop or operand that a kernel does not have
CLASS_LOOPS: Final = ("batch", "m", "n", "k")  # roles of loops, which are combined
ROLE_DOC: Final = {
    "out": "the result",
    "left": "the left (or largest) operand",
    "right": "the right operand (the kernel of a convolution)",
    "extra": "the largest further operand",
}
ROLES: Final = tuple(ROLE_DOC)
_ORDERS: Final = (
    ("out", 4, "result loop {} (minor-most first)"),
    ("red", 3, "reduced loop {} (smallest stride first)"),
    ("fast", 4, "loop {} (fewest strided operands first)"),
)
SLOT_DOC: Final = {f"{name}{slot}": text.format(slot) for name, size, text in _ORDERS for slot in range(size)}


class LoopSlots(NamedTuple):
    """Loop numbers by slot, -1 for empty slots."""

    out: tuple[int, ...]  # loops of the result, minor-most dimension first
    reduced: tuple[int, ...]  # reduced loops, smallest stride first
    fast: tuple[int, ...]  # all loops, fewest strided operands first; a compiler would vectorise the first of them

    @property
    def all(self) -> tuple[int, ...]:
        """All slots, in the order of :data:`SLOT_DOC`."""
        return self.out + self.reduced + self.fast


def loop_slots(nest: LoopNest, tensors: Tensors) -> LoopSlots:
    """Assign the loops of a nest to slots."""
    n_loops = len(nest.extents)
    strided, step = np.zeros(n_loops), np.zeros(n_loops)
    for access in nest.accesses:
        strides = np.abs(access.coefficients).T @ tensors.strides(access.node)
        strided += strides > 1
        step += np.log2(1 + strides)
    out = tensors.layout(nest.accesses[0].node).tolist()
    reduced = sorted(range(nest.n_out, n_loops), key=lambda loop: (step[loop], -loop))
    fast = sorted(np.flatnonzero(nest.extents > 1).tolist(), key=lambda loop: (strided[loop], step[loop], -loop))
    orders = zip((out, reduced, fast), _ORDERS, strict=True)
    return LoopSlots(*(tuple((loops + [-1] * size)[:size]) for loops, (_, size, _) in orders))


_PER_OPERAND: Final = (
    *((f"dim{dim}", "log2", f"Extent {dim} of {{}}, minor-most first") for dim in range(MAX_RANK)),
    ("rank", "count", "Dimensions of {}; -1 if missing"),
    ("bytes", "log2", "Bytes of {}"),
    ("width", "bytes", "Element size of {}"),
    ("type", "id", "Element type of {}"),
    ("row_major", "flag", "Whether the layout of {} is row-major"),
)
BLOCK: Final = Block(
    "roles",
    3,
    "Operands and loops of the kernel by role.",
    (
        *(Column(f"anchor.{name}", "flag", f"Whether the heaviest operation is a {name}") for name in CLASS_NAMES),
        Column("flops", "log2", "Floating-point operations of the heaviest operation"),
        Column("bytes", "log2", "Bytes of the result and of all operands"),
        Column("intensity", "log2", "Operations per byte if every tensor is moved once"),
        Column("operands", "count", "Tensors in memory, including the result"),
        Column("loops", "count", "Number of loops of the nest"),
        Column("reduced", "count", "Number of reduced loops"),
        Column("fast_reduces", "flag", "Whether the loop with fewest strided operands is reduced"),
        Column("extremum", "share", "Share of the reductions that compute a maximum or minimum"),
        *(Column(f"extent.{name}", "log2", f"Product of the extents of the {name} loops") for name in CLASS_LOOPS),
        *(Column(f"extent.{slot}", "log2", f"Extent of {doc}; -1 if missing") for slot, doc in SLOT_DOC.items()),
        *(
            Column(f"{role}.{name}", unit, text.format(doc))
            for role, doc in ROLE_DOC.items()
            for name, unit, text in _PER_OPERAND
        ),
        *(
            Column(f"stride.{slot}.{role}", "log2", f"Step in bytes through {ROLE_DOC[role]} per step of {doc}")
            for slot, doc in SLOT_DOC.items()
            for role in ROLES[:3]
        ),
    ),
    per_config=False,
)


def operand_roles(program: Program, tensors: Tensors, nest: LoopNest, slots: LoopSlots) -> Float32Array:
    """Values of the block, float32 (len(BLOCK),)."""
    total = sum(tensors.nbytes[access.node] for access in nest.accesses)
    anchor_class = np.zeros(len(CLASS_NAMES))
    anchor_class[CLASS_OF[program.opcode[nest.anchor]]] = 1
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
    by_role = [nest.first(role) for role in ROLES]
    log_extents = np.log2(nest.extents.astype(np.float64))
    classes = [float(np.sum(log_extents[[role == name for role in nest.roles]])) for name in CLASS_LOOPS]
    extents = [MISSING if loop < 0 else np.log2(nest.extents[loop]) for loop in slots.all]
    shapes = [value for access in by_role for value in _operand(tensors, access)]
    strides = [_stride(tensors, access, loop) for loop in slots.all for access in by_role[:3]]
    return np.concatenate([anchor_class, head, classes, extents, shapes, strides]).astype(np.float32)


def _operand(tensors: Tensors, access: Access | None) -> list[float]:
    if access is None:
        return [MISSING] * len(_PER_OPERAND)
    node, shape, order = access.node, tensors.shape(access.node), tensors.layout(access.node)
    return [
        *(np.log2(shape[dim]) for dim in order),
        *[MISSING] * (MAX_RANK - len(shape)),
        len(shape),
        np.log2(1 + tensors.nbytes[node]),
        tensors.width[node],
        float(tensors.element_type[node]),
        float(np.array_equal(order, np.arange(len(shape))[::-1])),
    ]


def _stride(tensors: Tensors, access: Access | None, loop: int) -> float:
    if access is None or loop < 0:
        return MISSING
    step = float(np.abs(access.coefficients[:, loop]) @ tensors.strides(access.node))
    return float(np.log2(1 + step * tensors.width[access.node]))
