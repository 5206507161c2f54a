"""Tiled loop nests, generated from one-line specifications and compiled by Numba.

A specification is text in segments::

    m n | y[m, n] = 0 | m k n: y[m, n] += a[m, k] * b[k, n]

The first segment lists the loops whose tiles are outermost.  Every further segment is a pass over one such tile,
``loops: statements``, with the outermost loop first; a pass without loops runs over the loops of the first segment.
Other loops are tiled inside, around the pass that uses them.

- ``y`` is the output, the operands are the parameters of the JAX program, any other array is a temporary.
- ``a / b: y[a] += x[a, b]`` accumulates in a register over the loops after the slash, and then adds the register to
  ``y[a]``.  Without a slash, the element of ``y`` is updated in memory.  The same holds for ``y[a] = max(y[a], ...)``
  and ``min``.
- ``p``, ``q`` and ``r`` run over windows, which are never tiled; ``p<3`` is a window known at compile time.
- ``for n h`` as the second segment opens loops that all following passes share.
- ``size(a, b)`` is the number of iterations as a float32.  ``inside(h * 2 + p, 1)`` is an index into a dimension that
  is padded by one on both sides; iterations in the padding are skipped.

Loop-invariant subexpressions are computed in the outermost possible loop.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, Final, Literal

import numpy as np
from numba import njit

from gbr.collect import tasks

Shape = tuple[int, ...]
#: A tensor that has columns in a tile configuration: the right-hand operand, the output or the reduced input.
Part = Literal["kernel", "output", "input"]

#: Names of loops over windows.
WINDOWS: Final = frozenset("pqr")

#: Full names of abbreviated loops, by group.
_IMAGE: Final = {"n": "batch", "d": "depth", "h": "height", "w": "width", "c": "channels", "o": "features"}
_LONG_NAMES: Final = {"matmul": {"b": "batch", "h": "head"}, "conv": _IMAGE, "window": _IMAGE}

# Extents, tiles and loop variables are unsigned: for signed indices, Numba adds a test for negative values that keeps
# LLVM from vectorising the innermost loop (a factor of eight on a matrix product).  Reassociation allows vectorised
# sums, as in a compiler.  Operands are finite, so the flags for NaN and signed zeros do not change results.
_compile = partial(njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"})


@_compile()
def exp(x):  # type: ignore[no-untyped-def]
    """Exponential of a float32 without a call, as compilers emit it, so that loops vectorise.

    Cody-Waite reduction and a fifth-degree polynomial (Cephes, expf); the argument is clamped so that the result is a
    normal number.
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    z = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - z * np.float32(0.6931471805599453)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((np.int32(z) + np.int32(127)) << np.int32(23)).view(np.float32)


_GLOBALS: Final = {
    "exp": exp,
    "sqrt": np.sqrt,
    "log": np.log,
    "empty": np.empty,
    "uint64": np.uint64,
    "float32": np.float32,
    "LOWEST": np.float32(-3.4028235e38),
    "HIGHEST": np.float32(3.4028235e38),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One column of a tile configuration: dimension ``dim`` of a tensor.

    A tile of ``t`` iterations covers ``(t - 1) * stride + window`` elements of the dimension.
    """

    part: Part
    dim: int
    stride: int = 1
    window: int = 1


@dataclass(frozen=True, slots=True)
class Loop:
    """A tiled loop: its displayed name, its extent, and the slots that its tile determines."""

    name: str
    extent: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Nest:
    """A loop nest at one shape.

    Parameters
    ----------
    operands : tuple of shapes
        float32 inputs, in the order of the kernel and of the JAX program.
    output : shape
    loops : tuple of Loop
        In the order of the kernel's tile arguments.
    fixed : tuple of (Slot, int)
        Bounds that do not depend on tiles: the window of a convolution.
    """

    operands: tuple[Shape, ...]
    output: Shape
    loops: tuple[Loop, ...]
    fixed: tuple[tuple[Slot, int], ...]


@dataclass(frozen=True, slots=True)
class _Index:
    """An index that is linear in loop variables: ``sum(strides[v] * v) + offset - padding``."""

    strides: Mapping[str, int]
    offset: int = 0
    padding: int = 0

    @classmethod
    def of(cls, node: ast.expr) -> _Index:
        match node:
            case ast.Name(id=name):
                return cls({name: 1})
            case ast.Constant(value=int(value)):
                return cls({}, value)
            case ast.BinOp(left=ast.Name(id=name), op=ast.Mult(), right=ast.Constant(value=int(value))):
                return cls({name: value})
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                a, b = cls.of(left), cls.of(right)
                return cls({**a.strides, **b.strides}, a.offset + b.offset)
            case ast.Call(func=ast.Name(id="inside"), args=[index, ast.Constant(value=int(padding))]):
                return cls(cls.of(index).strides, 0, padding)
        raise ValueError(f"{ast.unparse(node)}: expected an index that is linear in loop variables")

    def extent(self, extents: Mapping[str, int]) -> int:
        """Extent of the indexed dimension, without padding."""
        reach = sum(stride * (extents[name] - 1) for name, stride in self.strides.items())
        return reach + self.offset + 1 - 2 * self.padding


@dataclass(frozen=True, slots=True)
class _Pass:
    """Loops, the position of the first one that accumulates in a register, and the body of the innermost."""

    loops: tuple[str, ...]
    register: int
    body: list[ast.stmt]


class _Spec:
    """A parsed specification.

    Attributes
    ----------
    kept, reduced : list of str
        Loops with outermost tiles, and tiled loops of the passes, in the order of their tiles.
    shared : list of str
        Loops that all passes share.
    windows : dict
        Windows known at compile time.
    accesses : dict of lists
        Indices of every access by array, in the order of the text.
    """

    def __init__(self, text: str) -> None:
        first, *segments = (segment.strip() for segment in text.split("|"))
        self.kept = first.split()
        self.shared = segments.pop(0).split()[1:] if segments[0].startswith("for ") else []
        self.windows: dict[str, int] = {}
        self.passes = [self._pass(segment) for segment in segments]
        order = dict.fromkeys(name for each in self.passes for name in each.loops)
        self.reduced = [name for name in order if name not in self.kept and name not in WINDOWS]
        self.accesses: dict[str, list[list[_Index]]] = {}
        for node in (node for each in self.passes for statement in each.body for node in ast.walk(statement)):
            if isinstance(node, ast.Subscript):
                found = [_Index.of(each) for each in _indices(node)]
                self.accesses.setdefault(ast.unparse(node.value), []).append(found)

    def _pass(self, segment: str) -> _Pass:
        head, _, body = segment.rpartition(":")
        tokens = head.split() or [name for name in self.kept if name not in self.shared]
        loops = [token.partition("<") for token in tokens if token != "/"]
        self.windows |= {name: int(extent) for name, _, extent in loops if extent}
        register = tokens.index("/") if "/" in tokens else len(tokens)
        return _Pass(tuple(name for name, _, _ in loops), register, ast.parse(body.strip()).body)


def _indices(node: ast.Subscript) -> list[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


class _Source:
    """Python source of a nest, ``name(*operands, y, *tiles)``, and of its constants.

    Parameters
    ----------
    spec : _Spec
    name : str
    operands, tiles : tuple of str
    sized : tuple of str
        Arrays that define the extents; the extent of a loop is that of the first array with a dimension of this loop.
    """

    def __init__(
        self, spec: _Spec, name: str, operands: tuple[str, ...], tiles: tuple[str, ...], sized: tuple[str, ...]
    ) -> None:
        self.constants: dict[str, str] = {}
        self.variables = 0
        self._spec = spec
        self._depth = 1
        self._lines: list[str] = []
        head = [f"size_{loop} = {self._size(loop, sized)}" for loop in self._loops()]
        for array in [array for array in spec.accesses if array not in (*operands, "y")]:
            shape = ", ".join(f"size_{loop}" for index in spec.accesses[array][0] for loop in index.strides)
            head.append(f"{array} = empty(({shape},), float32)")
        for loop in spec.kept:
            self._open_tile(loop)
        for loop in spec.shared:
            self._open(loop)
        for each in spec.passes:
            head += self._write_pass(each)
        arguments = ", ".join((*operands, "y", *(f"tile_{loop}" for loop in tiles)))
        constants = [f"{constant} = {value}" for value, constant in self.constants.items()]
        head = [f"def {name}({arguments}):", *(f"    {line}" for line in head)]
        self.text = "\n".join((*constants, *head, *self._lines, ""))

    def constant(self, value: str) -> str:
        """Name of a constant such as ``float32(0.5)``, which is ``float32_0_5``."""
        return self.constants.setdefault(value, re.sub(r"\W", "_", value).rstrip("_"))

    def variable(self, prefix: str) -> str:
        """Return a new variable name."""
        self.variables += 1
        return f"{prefix}{self.variables}"

    def _loops(self) -> dict[str, None]:
        return dict.fromkeys((*self._spec.kept, *(loop for each in self._spec.passes for loop in each.loops)))

    def _size(self, loop: str, sized: tuple[str, ...]) -> str:
        if loop in self._spec.windows:
            return self.constant(f"uint64({self._spec.windows[loop]})")
        return next(
            f"uint64({array}.shape[{dim}])"
            for array in sized
            for indices in self._spec.accesses[array]
            for dim, index in enumerate(indices)
            if index == _Index({loop: 1})
        )

    def _write(self, *lines: str) -> None:
        self._lines += ["    " * self._depth + line for line in lines]

    def _open_tile(self, loop: str) -> None:
        self._write(f"for {loop}_begin in range({self.constant('uint64(0)')}, size_{loop}, tile_{loop}):")
        self._depth += 1
        self._write(f"{loop}_end = min({loop}_begin + tile_{loop}, size_{loop})")

    def _open(self, loop: str) -> None:
        bounds = f"{self.constant('uint64(0)')}, size_{loop}" if loop in WINDOWS else f"{loop}_begin, {loop}_end"
        self._write(f"for {loop} in range({bounds}):")
        self._depth += 1

    def _write_pass(self, each: _Pass) -> list[str]:
        """Write the loops of a pass; returns the statements before all loops."""
        code = _Body(self, (*self._spec.shared, *each.loops), each.register < len(each.loops))
        for statement in each.body:
            code.add(statement)
        outside = self._depth
        for loop in each.loops:
            if loop in self._spec.reduced:
                self._open_tile(loop)
        first = len(self._spec.shared)
        self._write(*(line for level in range(first) for line in code.moved[level]))
        inside = self._depth
        for number, loop in enumerate(each.loops):
            if number == each.register:
                inside = self._depth
                self._write(*code.before)
            self._open(loop)
            self._write(*code.moved[first + number])
        self._write(*code.inner)
        self._depth = inside
        self._write(*code.after)
        self._depth = outside
        return code.moved[-1]


class _Body:
    """Statements of one pass, with loop-invariant subexpressions moved out of the inner loops.

    Parameters
    ----------
    source : _Source
    loops : tuple of str
        All loops around the statements.
    register : bool
        Whether sums and extrema are kept in registers.

    Attributes
    ----------
    moved : dict of lists
        Statements at the beginning of a loop, by its position; -1: before all loops.
    before, inner, after : lists of str
        Statements before the loops that accumulate in a register, in the innermost loop, and after these loops.
    """

    def __init__(self, source: _Source, loops: tuple[str, ...], register: bool) -> None:
        self.moved: dict[int, list[str]] = {level: [] for level in range(-1, len(loops))}
        self.before: list[str] = []
        self.inner: list[str] = []
        self.after: list[str] = []
        self._source = source
        self._register = register
        self._levels = {loop: level for level, loop in enumerate(loops)}
        self._innermost = len(loops) - 1
        self._names: dict[tuple[int, str], str] = {}

    def add(self, statement: ast.stmt) -> None:
        """Add one statement of the specification."""
        match statement:
            case ast.AugAssign(target=target, op=ast.Add(), value=value) if self._register:
                factor = ""
                match value:  # multiply the sum by a factor that all terms share
                    case ast.BinOp(left=left, op=ast.Mult(), right=right) if self._level(right) < 0:
                        value, factor = left, f" * {self._text(right)}"
                total = self._source.variable("total")
                self.before.append(f"{total} = {self._source.constant('float32(0)')}")
                self.inner.append(f"{total} += {self._text(value)}")
                self.after.append(f"{self._text(target, move=False)} += {total}{factor}")
            case ast.Assign(
                targets=[target], value=ast.Call(func=ast.Name(id="max" | "min" as reducer), args=[first, value])
            ) if self._register and ast.unparse(first) == ast.unparse(target):
                best, element = self._source.variable("best"), self._text(target, move=False)
                self.before.append(f"{best} = {'LOWEST' if reducer == 'max' else 'HIGHEST'}")
                self.inner.append(f"{best} = {reducer}({best}, {self._text(value)})")
                self.after.append(f"{element} = {reducer}({element}, {best})")
            case ast.Assign(targets=[target], value=value):
                if isinstance(target, ast.Name):
                    self._levels[target.id] = self._innermost
                self.inner.append(f"{self._text(target, move=False)} = {self._text(value)}")
            case ast.AugAssign(target=target, op=op, value=value):
                sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}[type(op)]
                self.inner.append(f"{self._text(target, move=False)} {sign}= {self._text(value)}")

    def _level(self, node: ast.AST) -> int:
        """Position of the innermost loop that the value of ``node`` depends on, -1 for none."""
        if isinstance(node, ast.Name):
            return self._levels.get(node.id, -1)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "size":
            return -1
        return max(map(self._level, ast.iter_child_nodes(node)), default=-1)

    def _text(self, node: ast.expr, move: bool = True) -> str:
        return ast.unparse(self._rewritten(node, move))

    def _rewritten(self, node: ast.expr, move: bool) -> ast.expr:
        if isinstance(node, ast.Constant):
            return ast.Name(self._source.constant(f"float32({node.value!r})"))
        if move and not isinstance(node, ast.Name) and (level := self._level(node)) < self._innermost:
            return ast.Name(self._moved(level, self._text(node, move=False), "fixed"))
        if isinstance(node, ast.Subscript):
            array = ast.unparse(node.value)
            indices = [self._index(index, f"{array}.shape[{dim}]") for dim, index in enumerate(_indices(node))]
            return ast.Subscript(node.value, ast.Tuple(indices) if len(indices) > 1 else indices[0])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "size":
            return ast.Name(f"float32({' * '.join(f'size_{ast.unparse(loop)}' for loop in node.args)})")
        node = copy.copy(node)
        for name, child in ast.iter_fields(node):
            if isinstance(child, ast.expr):
                setattr(node, name, self._rewritten(child, move))
            elif isinstance(child, list) and name in ("args", "comparators"):
                setattr(node, name, [self._rewritten(each, move) for each in child])
        return node

    def _moved(self, level: int, text: str, prefix: str, *more: str) -> str:
        """Name of a value that is computed at the beginning of a loop, followed by the statements ``more``."""
        if (level, text) not in self._names:
            name = self._names[level, text] = self._source.variable(prefix)
            self.moved[level] += [f"{name} = {text}", *(line.format(name) for line in more)]
        return self._names[level, text]

    def _index(self, node: ast.expr, size: str) -> ast.expr:
        match node:
            case ast.Constant(value=value):
                return ast.Name(self._source.constant(f"uint64({value!r})"))
            case ast.BinOp(left=left, op=op, right=right):
                return ast.BinOp(self._index(left, size), op, self._index(right, size))
            case ast.Call(args=[index, ast.Constant(value=padding)]):
                border = self._source.constant(f"uint64({padding!r})")
                skip = f"if {{0}} < {border} or {{0}} >= uint64({size}) + {border}: continue"
                name = self._moved(self._level(index), ast.unparse(self._index(index, size)), "index", skip)
                return ast.BinOp(ast.Name(name), ast.Sub(), ast.Name(border))
        return node


@dataclass(frozen=True, eq=False)
class Family(tasks.Family):
    """Kernels that differ only in their shape.

    Parameters
    ----------
    group, name, variants
        As in the base class; the variants are the shapes that are measured, such as ``192x320x256 256x128x512``.
    spec : str
        Specification of the loop nest, see :mod:`gbr.collect.kernels`.
    program : callable
        ``program(lax, *operands)``: the same computation in primitives of ``jax.lax``.
    sizes : str
        Loops whose extents are the numbers of a shape, in order; ``p=q`` are two loops of equal extent.  By default all
        tiled loops in the order of their tile arguments.
    right : str
        Dimensions of the right-hand operand as it enters the dot (after its ``transpose``, if any); by default those
        of the operand ``f``, the filters of a convolution.
    order : str
        Tiled loops in the order of the tile arguments; by default that of the reduced input, if any, or of the tiles.
    """

    spec: str
    program: Callable[..., Any]
    sizes: str = ""
    right: str = ""
    order: str = ""

    def stem(self, shape: Shape) -> str:
        """File name of one kernel, without suffix."""
        return f"{self.name}_{'x'.join(map(str, shape))}"

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that are measured."""
        return tuple(tuple(map(int, shape.split("x"))) for shape in self.variants.split())

    @cached_property
    def source(self) -> str:
        """Python source of the loop nest."""
        sized = (*self._operands, "y") if self._reduces_input else ("y", *self._operands)
        return _Source(self._parsed, self.name, self._operands, self._tiled, sized).text

    @cached_property
    def kernel(self) -> Callable[..., Any]:
        """``kernel(*operands, y, *tiles)``, compiled at its first call; tiles are ``numpy.uint64``."""
        path = f"<loop nest {self.name}>"
        # Entries without a modification time stay in linecache, so that tracebacks show the source.
        linecache.cache[path] = (len(self.source), None, self.source.splitlines(keepends=True), path)
        names: dict[str, Any] = dict(_GLOBALS)
        exec(compile(self.source, path, "exec"), names)
        compiled: Callable[..., Any] = _compile()(names[self.name])
        return compiled

    def nest(self, *shape: int) -> Nest:
        """Operands, output and loops at one shape."""
        extents = dict.fromkeys(WINDOWS, 1) | self._parsed.windows
        for names, number in zip(self.sizes.split() or self._tiled, shape, strict=True):
            extents |= dict.fromkeys(names.split("="), number)
        slots: dict[str, list[Slot]] = {name: [] for name in self._tiled}
        fixed = []
        parts = self._parts()
        for part, indices in parts.items():
            for dim, index in enumerate(indices):
                window = prod(extents[name] for name in index.strides if name in WINDOWS)
                if tiled := [name for name in index.strides if name in slots]:
                    slots[tiled[0]].append(Slot(part, dim, index.strides[tiled[0]], window))
                else:
                    fixed.append((Slot(part, dim), window))
        known = _LONG_NAMES.get(self.group, {})
        if len(parts) == 1:
            known = {name: f"dim{dim}" for dim, name in enumerate(self._tiled)}
        loops = tuple(Loop(known.get(name, name), extents[name], tuple(found)) for name, found in slots.items())
        output, *operands = (
            tuple(max(each.extent(extents) for each in indices) for indices in zip(*accesses, strict=True))
            for accesses in (self._parsed.accesses[array] for array in ("y", *self._operands))
        )
        return Nest(tuple(operands), output, loops, tuple(fixed))

    def _parts(self) -> dict[Part, list[_Index]]:
        """Tensors with columns in a configuration, and the indices of their dimensions."""
        accesses = self._parsed.accesses
        parts: dict[Part, list[_Index]] = {"output": accesses["y"][0]}
        if self.right:
            parts["kernel"] = [_Index({name: 1}) for name in self.right.split()]
        elif "f" in accesses:
            parts["kernel"] = accesses["f"][0]
        elif self._reduces_input or self._parsed.windows:
            parts["input"] = accesses[self._operands[0]][0]
        return parts

    @cached_property
    def _parsed(self) -> _Spec:
        return _Spec(self.spec)

    @cached_property
    def _operands(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.program).parameters)[1:]

    @cached_property
    def _reduces_input(self) -> bool:
        """Whether the first operand is reduced; its dimensions are then the tiled loops, in order."""
        return bool(self._parsed.reduced) and not self.right and "f" not in self._parsed.accesses

    @cached_property
    def _tiled(self) -> tuple[str, ...]:
        """Tiled loops in the order of the tile arguments."""
        if self._reduces_input:
            return tuple(name for index in self._parsed.accesses[self._operands[0]][0] for name in index.strides)
        return tuple(self.order.split()) or (*self._parsed.kept, *self._parsed.reduced)
