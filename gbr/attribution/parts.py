"""What two configurations choose differently, part by part: a configurable node's layouts, or a loop's tile.

A part is judged by exchanging it alone: once within the second configuration, taking what the first chose, and once
within the first, taking what the second chose.  The mean of the two does not depend on which is called first, and with
two parts it is the Shapley value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts in which two configurations differ.

    Parameters
    ----------
    names : tuple of str
        One per part.
    forward, backward : float32 (parts, columns)
        Feature vectors of the second configuration with the first one's choice for this part, and of the first with
        the second one's.
    details : dict
        What else is known of them, ready for :class:`gbr.attribution.explanation.Explanation`.
    """

    names: tuple[str, ...]
    forward: NDArray[np.float32]
    backward: NDArray[np.float32]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorChange:
    """A tensor of a configurable node whose layout is not the same under both configurations.

    Parameters
    ----------
    role : str
        ``output``, ``input`` or ``kernel``.
    shape : str
    layouts : pair of str or None
        As set, minor to major; None where it is left to the compiler.
    minor : pair of int
        Extent of the minor-most dimension in effect.
    padding : pair of float
        Volume in whole registers over volume.
    """

    role: str
    shape: str
    layouts: tuple[str | None, str | None]
    minor: tuple[int, int]
    padding: tuple[float, float]


@dataclass(frozen=True)
class Copy:
    """A copy that a layout implies under one of the configurations, or under both.

    Parameters
    ----------
    kind : str
        ``edge`` (between two configurable nodes), ``out``, ``back``, ``entry`` (:mod:`features.layout.copies`) or
        ``inside`` (a reshape's two sides disagree).
    what : str
        The same in words, with the nodes' names.
    nbytes : pair of float
        Bytes copied, 0 where it is not.
    stride : pair of int
        Elements that the copy's stride exceeds; 0 where runs stay whole or nothing is copied.
    """

    kind: str
    what: str
    nbytes: tuple[float, float]
    stride: tuple[int, int]


@dataclass(frozen=True)
class NodeChange:
    """A configurable node whose layouts differ.

    Parameters
    ----------
    name : str
    effect : float or None
        What exchanging its layouts alone adds to the first configuration's lead; None where the model cannot tell.
    tensors : tuple of TensorChange
    """

    name: str
    effect: float | None
    tensors: tuple[TensorChange, ...]


@dataclass(frozen=True)
class LoopChange:
    """A loop of the kernel.

    Parameters
    ----------
    name : str
        Role (``batch``, ``m``, ``n``, ``k``) and number.
    runs_over : str
        Dimension of the result, or ``reduced``.
    extent : int
    tiles, trips : pair of int
        Steps of one tile, and tiles along the loop.
    waste : pair of float
        Steps of all tiles over the extent, minus 1.
    strides : dict of str to float
        Bytes between neighbours along the loop, by role of the operand; 0: the operand does not depend on it.
    effect : float or None
        As :class:`NodeChange`; 0 where the tiles are equal.
    """

    name: str
    runs_over: str
    extent: int
    tiles: tuple[int, int]
    trips: tuple[int, int]
    waste: tuple[float, float]
    strides: dict[str, float]
    effect: float | None


@dataclass(frozen=True)
class OperandChange:
    """An operand of the kernel in memory.

    Parameters
    ----------
    name, role, shape : str
    nbytes : float
    footprint, run : pair of float
        Bytes of it in one tile, and in one contiguous run of a tile.
    moved : pair of float
        Bytes moved over all tiles when only the innermost tile loops reuse it.
    """

    name: str
    role: str
    shape: str
    nbytes: float
    footprint: tuple[float, float]
    run: tuple[float, float]
    moved: tuple[float, float]
