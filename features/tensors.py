"""Shapes, sizes and layouts of the tensors of a program, read from the node features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import ELEMENT_TYPES, FEAT_ID, MAX_RANK, OPCODE_ID

IntArray = NDArray[np.int64]

_DIMS: Final = FEAT_ID["shape_dimensions_0"]
_LAYOUT: Final = FEAT_ID["layout_minor_to_major_0"]
_TYPE: Final = FEAT_ID[f"shape_element_type_is_{ELEMENT_TYPES[0]}"]
_NO_ARRAY: Final = [FEAT_ID[f"shape_element_type_is_{name}"] for name in ("tuple", "opaque_type", "token")]
_BYTES: Final = {
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
_MAX_ELEMENTS: Final = 2.0**62  # element counts and strides are int64
#: Bytes of one element by type.
_WIDTH: Final = np.array([_BYTES.get(name, 1) for name in ELEMENT_TYPES], np.float64)


def slots(feat: NDArray[np.float32], stem: str) -> IntArray:
    """All slots of a slotted column of ``node_feat``, int64 (n, MAX_RANK) or (MAX_RANK,)."""
    first = FEAT_ID[f"{stem}_0"]
    return feat[..., first : first + MAX_RANK].astype(np.int64)


def minor_to_major(layout: Sequence[int] | IntArray, rank: int) -> IntArray:
    """Complete a minor-to-major order to ``rank`` dimensions, int64 (rank,).

    If a layout names only the minor-most dimensions, the others follow in row-major order.  An invalid layout (a
    repeated or out-of-range dimension) is read as row-major.
    """
    named = [int(dim) for dim in layout[:rank]]
    if -1 in named:
        named = named[: named.index(-1)]
    if len(set(named)) < len(named) or any(not 0 <= dim < rank for dim in named):
        named = []
    return np.array([*named, *(dim for dim in reversed(range(rank)) if dim not in named)], np.int64)


@dataclass(frozen=True)
class Tensors:
    """The output tensor of every node."""

    feat: NDArray[np.float32]  # (n, 140)
    row_major: bool = False  # treat every tensor as row-major and ignore the layout columns

    @classmethod
    def of(cls, program: Program) -> Tensors:
        """The tensors of a program; inferred layouts, which no compiler has assigned, are ignored.

        Before layout assignment, HLO's shape inference gives a transpose the permuted layout of its operand and
        propagates it to its users.  If a program has such a transpose and all its parameters are row-major, no layouts
        have been assigned, so all tensors are treated as row-major.
        """
        plain = cls(program.feat)
        inputs = np.flatnonzero(program.opcode == OPCODE_ID["parameter"])
        transposes = np.flatnonzero(program.opcode == OPCODE_ID["transpose"])
        inferred = any(_is_inferred(plain, program, int(node)) for node in transposes)
        return cls(program.feat, inferred and all(_is_row_major(plain.layout(int(node))) for node in inputs))

    @cached_property
    def dims(self) -> IntArray:
        """Extents, int64 (n, 6), 0-padded; a tensor of more than 2**62 elements raises a ValueError."""
        extents = self.feat[:, _DIMS : _DIMS + MAX_RANK]
        elements = np.maximum(extents, 1).prod(axis=1, dtype=np.float64)
        if elements.max(initial=0) > _MAX_ELEMENTS:
            node = int(elements.argmax())
            raise ValueError(f"node {node}: expected a tensor of at most 2**62 elements, got {elements[node]:.3g}")
        return extents.astype(np.int64)

    @cached_property
    def rank(self) -> IntArray:
        """Number of dimensions, int64 (n,): the number of extents before the first 0."""
        return np.asarray(np.cumprod(self.dims > 0, axis=1).sum(axis=1), np.int64)

    @cached_property
    def elements(self) -> NDArray[np.float64]:
        """Number of elements, float64 (n,); 0 for tuples and tokens, 1 for scalars."""
        sizes = np.where(np.arange(MAX_RANK) < self.rank[:, None], self.dims, 1).prod(axis=1, dtype=np.float64)
        return np.where(self.feat[:, _NO_ARRAY].any(axis=1), 0.0, sizes)

    @cached_property
    def width(self) -> NDArray[np.float64]:
        """Bytes of one element, float64 (n,), by element type, as ``element_size_in_bits`` is 0 in TpuGraphs."""
        return _WIDTH[self.element_type]

    @cached_property
    def nbytes(self) -> NDArray[np.float64]:
        """Size in bytes, float64 (n,)."""
        return self.elements * self.width

    @cached_property
    def element_type(self) -> IntArray:
        """Index into :data:`features.hlo.ELEMENT_TYPES`, int64 (n,)."""
        return np.asarray(self.feat[:, _TYPE : _TYPE + len(ELEMENT_TYPES)].argmax(axis=1), np.int64)

    def shape(self, node: int) -> tuple[int, ...]:
        """Extents of the output of ``node``."""
        return tuple(int(extent) for extent in self.dims[node, : self.rank[node]])

    def layout(self, node: int) -> IntArray:
        """Minor-to-major order of the output of ``node``, int64 (rank,)."""
        rank = int(self.rank[node])
        if self.row_major:
            return np.arange(rank)[::-1]
        return minor_to_major(self.feat[node, _LAYOUT : _LAYOUT + MAX_RANK].astype(np.int64), rank)

    def strides(self, node: int) -> IntArray:
        """Elements between neighbours along each dimension of the output of ``node``, int64 (rank,)."""
        shape, strides, step = self.shape(node), np.ones(self.rank[node], np.int64), 1
        for dim in self.layout(node):
            strides[dim] = step
            step *= shape[dim]
        return strides


def _is_row_major(layout: IntArray) -> bool:
    return bool((layout == np.arange(len(layout))[::-1]).all())


def _is_inferred(tensors: Tensors, program: Program, node: int) -> bool:
    """Whether the layout of a transpose is the permuted layout of its operand, and not row-major."""
    operands = program.operands.of(node)
    layout, rank = tensors.layout(node), int(tensors.rank[node])
    order = slots(program.feat[node], "dimensions")[:rank]
    if len(operands) != 1 or tensors.rank[operands[0]] != rank or (order >= rank).any():
        return False
    return not _is_row_major(layout) and bool((order[layout] == tensors.layout(int(operands[0]))).all())
