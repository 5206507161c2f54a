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
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numba import njit

from gbr.collect import tasks
from gbr.collect.timer import IntArray

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


class Nest(NamedTuple):
    """A loop nest at one shape.

    ``operands`` and ``output`` are shapes, ``loops`` the extents of the tiled loops by displayed name, in the order of
    the tile arguments.  ``bounds``, int64 (dimensions, 3), are loop, stride and window of the dimensions of tensors
    with columns in a configuration: a tile of ``t`` iterations covers ``window + (t - 1) * stride`` elements.
    """

    operands: tuple[Shape, ...]
    output: Shape
    loops: dict[str, int]
    bounds: dict[Part, IntArray]


class _Index:
    """An index that is linear in loop variables: ``sum(strides[v] * v) + offset - padding``."""

    def __init__(self, node: ast.expr) -> None:
        self.padding = 0
        index = node
        if isinstance(node, ast.Call):  # inside(index, padding)
            index, self.padding = node.args[0], ast.literal_eval(node.args[1])
        names = [each.id for each in ast.walk(index) if isinstance(each, ast.Name)]
        zero, code = dict.fromkeys(names, 0), compile(ast.Expression(index), "<index>", "eval")
        self.offset: int = eval(code, zero)
        self.strides: dict[str, int] = {name: eval(code, zero | {name: 1}) - self.offset for name in names}

    def extent(self, extents: Mapping[str, int]) -> int:
        """Extent of the indexed dimension, without padding."""
        reach = sum(stride * (extents[name] - 1) for name, stride in self.strides.items())
        return reach + self.offset + 1 - 2 * self.padding


class _Pass(NamedTuple):
    """Loops, the position of the first one that accumulates in a register, and the body of the innermost."""

    loops: tuple[str, ...]
    register: int
    body: list[ast.stmt]


class _Spec:
    """A parsed specification.

    ``kept`` and ``reduced`` are the loops with outermost tiles and the tiled loops of the passes, in the order of their
    tiles, ``shared`` the loops that all passes share, ``windows`` the windows known at compile time, and ``accesses``
    the indices of every access by array, in the order of the text.  ``tiled`` are the loops in the order of the tile
    arguments; if the first operand is reduced, in the order of its dimensions.
    """

    def __init__(self, family: Family) -> None:
        first, *segments = (segment.strip() for segment in family.spec.split("|"))
        self.kept = first.split()
        self.shared = segments.pop(0).split()[1:] if segments[0].startswith("for ") else []
        self.windows: dict[str, int] = {}
        self.passes = [self._pass(segment) for segment in segments]
        self.loops = dict.fromkeys((*self.kept, *(name for each in self.passes for name in each.loops)))
        self.reduced = [name for name in self.loops if name not in self.kept and name not in WINDOWS]
        self.accesses: dict[str, list[list[_Index]]] = {}
        for node in (node for each in self.passes for statement in each.body for node in ast.walk(statement)):
            if isinstance(node, ast.Subscript):
                self.accesses.setdefault(ast.unparse(node.value), []).append([_Index(each) for each in _indices(node)])
        self.operands = tuple(inspect.signature(family.program).parameters)
        self.reduces_input = bool(self.reduced) and not family.right and "f" not in self.accesses
        self.tiled = family.order.split() or [*self.kept, *self.reduced]
        if self.reduces_input:
            self.tiled = [name for index in self.accesses[self.operands[0]][0] for name in index.strides]

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

    The extent of a loop is that of the first array with a dimension of this loop, an operand or ``y``.
    """

    def __init__(self, spec: _Spec, name: str) -> None:
        self.constants: dict[str, str] = {}
        self.variables = 0
        self._spec = spec
        self._depth = 1
        self._lines: list[str] = []
        head = [f"size_{loop} = {self._size(loop)}" for loop in spec.loops]
        for array in [array for array in spec.accesses if array not in (*spec.operands, "y")]:
            shape = ", ".join(f"size_{loop}" for index in spec.accesses[array][0] for loop in index.strides)
            head.append(f"{array} = empty(({shape},), float32)")
        for loop in spec.kept:
            self._open(loop, tile=True)
        for loop in spec.shared:
            self._open(loop)
        for each in spec.passes:
            head += self._write_pass(each)
        arguments = ", ".join((*spec.operands, "y", *(f"tile_{loop}" for loop in spec.tiled)))
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

    def _size(self, loop: str) -> str:
        spec = self._spec
        if loop in spec.windows:
            return self.constant(f"uint64({spec.windows[loop]})")
        return next(
            f"uint64({array}.shape[{dim}])"
            for array in ((*spec.operands, "y") if spec.reduces_input else ("y", *spec.operands))
            for indices in spec.accesses[array]
            for dim, index in enumerate(indices)
            if (index.strides, index.offset, index.padding) == ({loop: 1}, 0, 0)
        )

    def _write(self, *lines: str) -> None:
        self._lines += ["    " * self._depth + line for line in lines]

    def _open(self, loop: str, *, tile: bool = False) -> None:
        zero = self.constant("uint64(0)")
        if tile:
            self._write(f"for {loop}_begin in range({zero}, size_{loop}, tile_{loop}):")
            self._write(f"    {loop}_end = min({loop}_begin + tile_{loop}, size_{loop})")
        else:
            bounds = f"{zero}, size_{loop}" if loop in WINDOWS else f"{loop}_begin, {loop}_end"
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
                self._open(loop, tile=True)
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

    Sums and extrema are kept in registers if ``register``.  ``moved`` are the statements at the beginning of a loop by
    its position (-1: before all loops); ``before``, ``inner`` and ``after`` are those before the loops that accumulate
    in a register, in the innermost loop, and after these loops.
    """

    def __init__(self, source: _Source, loops: tuple[str, ...], register: bool) -> None:
        self.moved: dict[int, list[str]] = {level: [] for level in range(-1, len(loops))}
        self.before, self.inner, self.after = list[str](), list[str](), list[str]()
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
            elif name in ("args", "comparators"):
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
        The same computation of the operands in JAX.
    sizes : str
        Loops whose extents are the numbers of a shape; ``p=q`` are two loops of equal extent.  Default: tiled loops.
    right : str
        Dimensions of the right-hand operand as it enters the dot.  Default: those of the filters ``f``.
    order : str
        Tiled loops in the order of the tile arguments.  Default: that of the reduced input, if any, or of the tiles.
    """

    spec: str
    program: Callable[..., Any]
    sizes: str = ""
    right: str = ""
    order: str = ""

    @cached_property
    def source(self) -> str:
        """Python source of the loop nest."""
        return _Source(_Spec(self), self.name).text

    @cached_property
    def kernel(self) -> Callable[..., Any]:
        """``kernel(*operands, y, *tiles)``, compiled at its first call; tiles are ``numpy.uint64``."""
        names: dict[str, Any] = dict(_GLOBALS)
        exec(self.source, names)
        compiled: Callable[..., Any] = _compile()(names[self.name])
        return compiled

    def nest(self, shape: str) -> Nest:
        """Operands, output and loops at a shape such as ``192x320x256``."""
        spec = _Spec(self)
        extents = dict.fromkeys(WINDOWS, 1) | spec.windows
        for names, number in zip(self.sizes.split() or spec.tiled, shape.split("x"), strict=True):
            extents |= dict.fromkeys(names.split("="), int(number))
        parts: dict[Part, list[_Index]] = {"output": spec.accesses["y"][0]}
        if self.right:
            parts["kernel"] = [_Index(ast.parse(name, mode="eval").body) for name in self.right.split()]
        elif "f" in spec.accesses:
            parts["kernel"] = spec.accesses["f"][0]
        elif spec.reduces_input or spec.windows:
            parts["input"] = spec.accesses[spec.operands[0]][0]
        bounds: dict[Part, IntArray] = {}
        for part, indices in parts.items():
            dims = []
            for index in indices:
                window = prod(extents[name] for name in index.strides if name in WINDOWS)
                loop = next((name for name in index.strides if name in spec.tiled), None)
                dims.append((spec.tiled.index(loop), index.strides[loop], window) if loop else (0, 0, window))
            bounds[part] = np.array(dims, np.int64)
        known = _LONG_NAMES.get(self.group, {})
        if len(parts) == 1:
            known = {name: f"dim{dim}" for dim, name in enumerate(spec.tiled)}
        output, *operands = (
            tuple(max(each.extent(extents) for each in indices) for indices in zip(*spec.accesses[array], strict=True))
            for array in ("y", *spec.operands)
        )
        return Nest(tuple(operands), output, {known.get(name, name): extents[name] for name in spec.tiled}, bounds)
