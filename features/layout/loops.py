"""Loops that a program runs under a configuration: how many, over how much, and which of them go against memory.

On CPUs and GPUs the compiler does not compute a dot or a convolution in the layouts that are set, but in the graph's
own: a tensor whose layout is set is written out in it, and read back.  What lies between takes the layouts it is given:
they spread backwards from tensors that must come in one, then forwards from those that leave in one, through
elementwise operations, broadcasts, transposes and pooling, until they meet.  What nothing keeps apart shares one loop.
A loop whose operands are not contiguous along the same dimension as its result loses its vector instructions, all the
more where it computes transcendental functions; what it writes at large steps is written line by line, and line by line
again where lines do not stay in the first cache until their other elements come by.

Terms: a *loop* writes one tensor; it is *strided* where some operand of it, or its result, is contiguous along another
dimension.  Layouts spread and loops part as they do in XLA's compiler for CPUs, whose rules for layouts and fusion this
follows in outline.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hardware import Hardware
from features.hlo import LAYOUT_CONFIG
from features.layout.flow import flow_of
from features.layout.loop_kernels import AMOUNTS, N_AMOUNTS, count_loops
from features.layout.nodes import ConfigurableNodes
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors

#: Every configuration has its own loops, and counting them takes a third of a microsecond per node: larger programs,
#: which come with many configurations, are left out.
MAX_NODES: Final = 2000

_DOCS: Final = (
    "elements written by loops whose operands and result are contiguous along one dimension",
    "elements written by strided loops",
    "loops",
    "elementwise operations in strided loops",
    "transcendental operations in strided loops",
    "elements written at steps",
    "elements written at steps, of tensors whose lines do not stay in the first cache",
    "elements written at steps of a page and more",
    "elements of tensors that are read at steps and written in order",
    "elements that reductions read at steps",
    "elements times window of pooling in another layout than the graph's",
)

BLOCK: Final = Block(
    "loops",
    1,
    "Loops that layouts cause, and what of them goes against memory, where operations keep the graph's layouts.",
    (
        *(Column(name, "log2", f"Number of {doc}", cost=True) for name, doc in zip(AMOUNTS, _DOCS, strict=True)),
        *(
            Column(f"{name}.share", "share", f"The same, over that of the graph without layouts: number of {doc}")
            if name == "loops"
            else Column(f"{name}.share", "share", f"Number of {doc}, over all elements written without layouts")
            for name, doc in zip(AMOUNTS, _DOCS, strict=True)
        ),
    ),
    per_config=True,
)


class Loops:
    """Counts the loops of one graph's coded configurations.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    nodes : ConfigurableNodes
    hardware : Hardware
        Whose first cache lines stay in.  Where registers have sublanes, operations compute in the layouts that are
        set: there is nothing to count, and all columns are 0.  So they are for programs of more than
        :data:`MAX_NODES` nodes.
    """

    def __init__(self, program: Program, tensors: Tensors, nodes: ConfigurableNodes, hardware: Hardware) -> None:
        cache, line = hardware.caches[0], hardware.line_bytes
        ways = cache.ways or cache.nbytes // line
        self._cache = line, max(cache.nbytes // (ways * line), 1), ways
        counts = hardware.sublanes == 1 and len(program) <= MAX_NODES
        self._flow = flow_of(program, tensors, nodes) if counts else None
        unset = self.amounts(np.zeros((1, len(nodes)), np.uint32), np.full((1, len(LAYOUT_CONFIG)), -1, np.int64))[0]
        written = unset[AMOUNTS.index("contiguous")] + unset[AMOUNTS.index("strided")]
        loops = AMOUNTS.index("loops")
        self._scale = np.full(N_AMOUNTS, max(written, 1.0))
        self._scale[loops] = max(unset[loops], 1.0)

    def amounts(self, codes: NDArray[np.unsignedinteger[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Amounts of every configuration, float64 (b, N_AMOUNTS).

        Parameters
        ----------
        codes, rows
            As for :func:`features.layout.loop_kernels.count_loops`.
        """
        of = self._flow
        out = np.zeros((len(codes), N_AMOUNTS))
        if of is not None:
            count_loops(codes, rows, of, self._cache, out)
        return out

    def write(self, codes: NDArray[np.unsignedinteger[Any]], rows: NDArray[np.int64], out: Float32Array) -> None:
        """Write the block's columns.

        Parameters
        ----------
        codes, rows
            As for :meth:`amounts`.
        out : float32 (b, len(BLOCK))
        """
        found = self.amounts(codes, rows)
        out[:, :N_AMOUNTS] = np.log2(1.0 + found)
        out[:, N_AMOUNTS:] = found / self._scale
