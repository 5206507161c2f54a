"""The loop nest of a kernel and how every operand is addressed by every loop.

A kernel is read as one perfect loop nest: a loop for each dimension of its result and one for each dimension that it
reduces.  :mod:`features.tile.indexing` carries the result's index backwards to the tensors in memory; what comes out per
operand is a matrix of coefficients: index along dimension d = sum over loops of coefficient[d, loop] * counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.cost import anchor_of, node_flops, result_of
from features.graph import Program
from features.hlo import OPCODE_ID
from features.tensors import Tensors
from features.tile.indexing import Index, Trace

_REDUCTIONS: Final = tuple(OPCODE_ID[name] for name in ("reduce", "reduce-window"))
_EXTREMA: Final = tuple(OPCODE_ID[name] for name in ("maximum", "minimum"))


@dataclass(frozen=True)
class Access:
    """One operand in memory and how the loops address it.

    Parameters
    ----------
    node : int
        The node whose output is read, or written for the result.
    role : str
        ``out``, ``left``, ``right`` or ``extra``.
    coefficients : float64 (rank, loops)
        Step along each dimension per step of each loop.
    """

    node: int
    role: str
    coefficients: NDArray[np.float64]


@dataclass(frozen=True)
class LoopNest:
    """Loops and operands of a kernel.

    Parameters
    ----------
    anchor : int
        The heaviest operation: the one that the tiles are for.
    extents : int64 (loops,)
        Trip counts of the untiled loops; those of the result's dimensions first, in logical order.
    roles : tuple of str
        Per loop: ``batch``, ``m``, ``n`` or ``k`` (``k`` is reduced; for a kernel without dot or convolution the
        minor-most result dimension is ``n``, the others ``m``).
    n_out : int
        Loops that run over the result's dimensions.
    accesses : tuple of Access
        The result first, then the operands, largest first within a role.
    operands : dict of str to (int, float64 (rank, loops))
        The anchor itself, ``out``, and its own ``left`` and ``right`` operand nodes, with their coefficients as they
        stand in the anchor; the accesses are what lies behind them in memory.
    flops : float
        Floating-point operations of the anchor.
    reduces : bool (loops,)
        Whether something is reduced along the loop: those past ``n_out``, and those of the result along which an
        earlier pass over the same data reduces it (softmax, normalisations).
    extremum : float
        Part of the kernel's reductions that keep a maximum or minimum: floating-point rules let a compiler reorder
        sums at most on request, and extrema often not at all, so their loops wait for every single result.
    """

    anchor: int
    extents: NDArray[np.int64]
    roles: tuple[str, ...]
    n_out: int
    accesses: tuple[Access, ...]
    operands: dict[str, tuple[int, NDArray[np.float64]]]
    flops: float
    reduces: NDArray[np.bool_]
    extremum: float

    def first(self, role: str) -> Access | None:
        """The largest access of a role."""
        return next((access for access in self.accesses if access.role == role), None)


def loop_nest(program: Program, tensors: Tensors | None = None) -> LoopNest:
    """Read a kernel as one loop nest.

    Parameters
    ----------
    program : Program
        At least one node.
    tensors : Tensors, optional
        Those of ``program``, where the caller has them already.

    Returns
    -------
    LoopNest
        A kernel that is not understood (opcodes with indices that depend on data, calls) still has the loops of its
        result, with operands matched to them by extent.
    """
    tensors = tensors or Tensors.of(program)
    anchor = anchor_of(program, tensors)
    result = result_of(program, tensors)
    trace = _start(program, tensors, anchor, result)
    if not trace.reached:
        # The path from the result is hidden (a fusion, a call): the anchor's own output is what the tiles are for.
        result = anchor
        trace = _start(program, tensors, anchor, anchor)
    n_out = int(tensors.rank[result])
    roles = list(trace.roles)
    if "n" not in roles[:n_out] and "batch" not in roles[:n_out] and n_out:
        roles[int(tensors.layout(result)[0])] = "n"
    accesses = [Access(result, "out", _matrix(_identity(n_out), len(trace.extents)))]
    for role in ("left", "right", "extra"):
        found = [
            Access(node, role, _matrix(index, len(trace.extents)))
            for (node, _), index in trace.reads.items()
            if trace.side.get(node, "") == role
        ]
        accesses += sorted(found, key=lambda access: -tensors.nbytes[access.node])
    unplaced = [
        (node, index) for (node, _), index in trace.reads.items() if trace.side.get(node, "") == "" and node != result
    ]
    unplaced.sort(key=lambda item: -tensors.nbytes[item[0]])
    for node, index in unplaced:
        taken = {access.role for access in accesses}
        role = next((role for role in ("left", "right") if role not in taken), "extra")
        accesses.append(Access(node, role, _matrix(index, len(trace.extents))))
    operands = {side: (node, _matrix(index, len(trace.extents))) for side, (node, index) in trace.operands.items()}
    return LoopNest(
        anchor=anchor,
        extents=np.array(trace.extents, np.int64),
        roles=tuple(roles),
        n_out=n_out,
        accesses=tuple(accesses),
        operands=operands,
        flops=node_flops(program, tensors, anchor),
        reduces=np.isin(np.arange(len(trace.extents)), list(trace.inner.values())),
        extremum=_extremum(program),
    )


def _extremum(program: Program) -> float:
    """Share of reduce and reduce-window nodes whose called computation ends in a maximum or minimum."""
    reductions = np.flatnonzero(np.isin(program.opcode, _REDUCTIONS))
    kept = [bool(np.isin(program.opcode[program.operands.of(int(node))], _EXTREMA).any()) for node in reductions]
    return float(np.mean(kept)) if kept else 0.0


def _start(program: Program, tensors: Tensors, anchor: int, start: int) -> Trace:
    trace = Trace(program, tensors, anchor)
    for extent in tensors.shape(start):
        trace.loop(extent, "m")
    trace.walk(start, _identity(int(tensors.rank[start])))
    return trace


def _identity(rank: int) -> Index:
    return tuple({dim: 1.0} for dim in range(rank))


def _matrix(index: Index, n_loops: int) -> NDArray[np.float64]:
    matrix = np.zeros((len(index), n_loops))
    for dim, terms in enumerate(index):
        for loop, coefficient in terms.items():
            matrix[dim, loop] = coefficient
    return matrix
