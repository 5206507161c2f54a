"""What it costs to copy a tensor from one layout into another.

A copy reads along the dimension that used to be contiguous, and writes it at a stride: the product of the extents that
come before that dimension in the new order.  While the stride is short, lines of cache are still filled whole; the
further it reaches, the more of every line, and then of every page, is wasted.  Dimensions of extent 1 move nothing and
are left out; a layout that names only the minor-most dimensions is compared as far as it goes.

Orders are packed into one integer: three bits per dimension from the minor-most on (7 where none is known), and above
them a mask of the places that are known.  A layout that agrees with the graph's own one is packed as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG, MAX_RANK
from features.layout.nodes import ConfigurableNodes

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Bits of a packed order below its mask, and all of them set.
ORDER_BITS: Final = 3 * MAX_RANK
ORDER: Final = (1 << ORDER_BITS) - 1
#: A stride up to 2**_NEAR elements costs no more than a copy of whole runs, one of 2**(_NEAR + _REACH) the most; the
#: cheapest copy costs _LEAST of the dearest.  Fitted to copies on server CPUs.
_NEAR: Final = 4.0
_REACH: Final = 3.5
_LEAST: Final = 0.2
#: Strides, in elements, above which copied bytes are counted by themselves.
STRIDES: Final = (1, 16, 100)
#: Kinds of copies that concern one node; a copy along an edge concerns two.
OWN_KINDS: Final = ("out", "back", "entry")
N_LEVELS: Final = len(STRIDES) + 2
#: Per kind of copy: bytes, bytes above each stride, copies; then the weighted bytes of all kinds.
N_OWN_COPIES: Final = N_LEVELS * len(OWN_KINDS) + 1


@kernel()
def _pack(named, n_named, own, dims, rank, order):  # type: ignore[no-untyped-def]
    """Pack an order; ``order`` receives its dimensions of more than one element, and their number is returned."""
    count, wide = 0, 0
    for dim in range(rank):
        wide += dims[dim] > 1
    for place in range(n_named):
        dim, seen = named[place], dims[named[place]] <= 1
        for earlier in range(count):
            seen = seen or order[earlier] == dim
        if not seen:
            order[count] = dim
            count += 1
    if wide - count > 1:
        agrees, place = True, 0
        for at in range(rank):
            if dims[own[at]] > 1 and place < count:
                agrees = agrees and order[place] == own[at]
                place += 1
        if not agrees:
            return count
        count = 0
    for at in range(rank):
        seen = dims[own[at]] <= 1
        for earlier in range(count):
            seen = seen or order[earlier] == own[at]
        if not seen:
            order[count] = own[at]
            count += 1
    return count


@kernel()
def _row_orders(rows, owner, dims, rank, own, packed, strides):  # type: ignore[no-untyped-def]
    order = np.empty(8, np.int64)
    for row in range(len(rows)):
        node = owner[row]
        for role in range(3):
            size = rank[node, role]
            named = 0
            while named < size and 0 <= rows[row, 6 * role + named] < size:
                named += 1
            slots = rows[row, 6 * role : 6 * role + 6]
            count = _pack(slots, named, own[node, role], dims[node, role], size, order)
            code, mask, step = ORDER, 0, 1
            for place in range(count):
                code ^= (7 ^ order[place]) << 3 * place
                mask |= 7 << 3 * place
                strides[row, role, order[place]] = step
                step *= dims[node, role, order[place]]
            packed[row, role] = code | mask << ORDER_BITS
            for dim in range(8):
                if strides[row, role, dim] == 0:
                    strides[row, role, dim] = step


@dataclass(frozen=True)
class Orders:
    """Layouts in effect, of rows or of the graph itself.

    Parameters
    ----------
    packed : int64 (rows, 3)
        Per tensor role; without a tensor, or one of a single element, no place is known.
    strides : int64 (rows, 3, 8)
        Elements between neighbours along each dimension; along one that is not named, the extent of all that are.
    """

    packed: IntArray
    strides: IntArray


def orders(nodes: ConfigurableNodes, rows: IntArray, owner: IntArray) -> Orders:
    """Layouts in effect under every row.

    Parameters
    ----------
    nodes : ConfigurableNodes
    rows : int64 (rows, 18)
    owner : int64 (rows,)
    """
    packed = np.zeros((len(rows), 3), np.int64)
    strides = np.zeros((len(rows), 3, 8), np.int64)
    _row_orders(rows, owner, nodes.dims, nodes.rank, nodes.own, packed, strides)
    return Orders(packed, strides)


def own_orders(nodes: ConfigurableNodes) -> Orders:
    """The graph's own layouts, one row per node."""
    return orders(nodes, np.full((len(nodes), len(LAYOUT_CONFIG)), -1, np.int64), np.arange(len(nodes)))


def levels(strides: IntArray) -> NDArray[np.int64]:
    """1 for a copy that keeps runs whole, and one more for each of :data:`STRIDES` that its stride exceeds."""
    return np.asarray(1 + sum((strides > stride).astype(np.int64) for stride in STRIDES), np.int64)


def weights(strides: IntArray) -> FloatArray:
    """Cost of a copied byte by the stride of the dimension that was contiguous, from 0.2 to 1."""
    return np.asarray(_LEAST + (1 - _LEAST) * np.clip((np.log2(strides) - _NEAR) / _REACH, 0.0, 1.0), np.float64)


def tensor_copies(
    owner: IntArray, of: Orders, own: Orders, fed: NDArray[np.bool_]
) -> list[tuple[NDArray[np.bool_], IntArray]]:
    """Copies of every row that concern its node alone, tensor by tensor, for each of :data:`OWN_KINDS`.

    Parameters
    ----------
    owner : int64 (rows,)
    of, own : Orders
        Of the rows, and of the graph itself.
    fed : bool (nodes, 3)
        Operands that come from a configurable node: their copies are told by :mod:`features.layout.traffic`.

    Returns
    -------
    list of bool (rows, 3) and int64 (rows, 3)
        Whether the tensor is copied, and the stride of the copy in elements.
    """
    differs = of.packed != own.packed[owner]
    there = np.take_along_axis(of.strides, (own.packed[owner] & 7)[:, :, None], axis=2)[:, :, 0]
    back = np.take_along_axis(own.strides[owner], (of.packed & 7)[:, :, None], axis=2)[:, :, 0]
    output = np.arange(3) == 0
    return [(differs & output, there), (differs & ~output, back), (differs & ~output & ~fed[owner], there)]


def own_copies(
    nodes: ConfigurableNodes, owner: IntArray, of: Orders, own: Orders, fed: NDArray[np.bool_]
) -> FloatArray:
    """Copies of every row that concern its node alone, float64 (rows, N_OWN_COPIES).

    Parameters
    ----------
    nodes : ConfigurableNodes
    owner, of, own, fed
        As for :func:`tensor_copies`.
    """
    nbytes = nodes.nbytes[owner]
    out = np.zeros((len(owner), N_OWN_COPIES))
    for number, (copied, strides) in enumerate(tensor_copies(owner, of, own, fed)):
        level = levels(strides)
        first = N_LEVELS * number
        for place in range(N_LEVELS - 1):
            out[:, first + place] = np.where(copied & (level > place), nbytes, 0.0).sum(axis=1)
        out[:, first + N_LEVELS - 1] = copied.sum(axis=1)
        out[:, -1] += np.where(copied, nbytes * weights(strides), 0.0).sum(axis=1)
    return out
