"""What a kernel family is: one compiled loop nest, its equivalent in JAX, and the shapes it is measured at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Part = Literal["kernel", "output", "input"]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """One column of a tile configuration: dimension ``dim`` of the right-hand operand, the output or the reduced input.

    A tile of ``t`` covers ``(t - 1) * stride + window`` elements there: a window reads more than it writes.
    """

    part: Part
    dim: int
    stride: int = 1
    window: int = 1

    def bound(self, tile: int) -> int:
        """Elements that a tile of ``tile`` iterations covers along this dimension."""
        return (tile - 1) * self.stride + self.window


def out(dim: int) -> Slot:
    """Dimension ``dim`` of the output."""
    return Slot("output", dim)


def rhs(dim: int) -> Slot:
    """Dimension ``dim`` of the right-hand operand of a dot or convolution."""
    return Slot("kernel", dim)


def inp(dim: int, stride: int = 1, window: int = 1) -> Slot:
    """Dimension ``dim`` of the reduced input."""
    return Slot("input", dim, stride, window)


@dataclass(frozen=True, slots=True)
class Loop:
    """A tiled loop: how far it runs and the slots its tile fills."""

    name: str
    extent: int
    slots: tuple[Slot, ...]


def loop(name: str, extent: int, *slots: Slot) -> Loop:
    """Shorthand for :class:`Loop`."""
    return Loop(name, extent, slots)


@dataclass(frozen=True, slots=True)
class Nest:
    """A loop nest at one shape.

    Parameters
    ----------
    operands : tuple of shapes
        float32 inputs, in the order of the kernel and of the JAX function.
    output : shape
    loops : tuple of Loop
        In the order of the kernel's tile arguments.
    fixed : tuple of (Slot, int)
        Bounds that no tile changes: the window of a convolution.
    """

    operands: tuple[Shape, ...]
    output: Shape
    loops: tuple[Loop, ...]
    fixed: tuple[tuple[Slot, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Family:
    """Kernels that differ in shape alone; no family is in two splits.

    Parameters
    ----------
    name, group : str
        The group holds related families: ``matmul``, ``conv``, ``movement``, ``reduce``, ``rowwise``, ``window``,
        ``elementwise``.
    kernel : callable
        ``kernel(*operands, output, *tiles)``, compiled; tiles are ``numpy.uint64``.
    program : callable
        ``program(lax, *operands)``: the same computation in primitives of ``jax.lax``.
    nest : callable
        ``nest(*shape)`` -> :class:`Nest`.
    shapes : tuple of shapes
        The numbers ``nest`` takes; a graph's name is ``<family>_<shape joined by x>``.
    """

    name: str
    group: str
    kernel: Callable[..., Any]
    program: Callable[..., Any]
    nest: Callable[..., Nest]
    shapes: tuple[Shape, ...]

    def stem(self, shape: Shape) -> str:
        """File name of one kernel, without suffix."""
        return f"{self.name}_{'x'.join(map(str, shape))}"

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """File names of all kernels of the family, in the order of ``shapes``."""
        return tuple(self.stem(shape) for shape in self.shapes)
