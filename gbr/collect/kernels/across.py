"""Reductions whose result or one of whose operands is transposed, and extrema across rows."""

# Dimensions that are kept are tiled outside of those that are reduced, in the order of the output; within a tile the
# innermost loop is the one along which most operands are contiguous.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest, inp, loop, out
from gbr.collect.kernels._jit import HIGHEST, LOWEST, ZERO, O, U, kernel
from gbr.collect.kernels.reduce import reduction


@kernel()
def _min_major(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            y[b] = HIGHEST
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[b] = min(y[b], x[a, b])


@kernel()
def _max_middle(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for a in range(a0, a1):
                for c in range(c0, c1):
                    y[a, c] = LOWEST
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, c] = max(y[a, c], x[a, b, c])


@kernel()
def _dot_transposed(x, z, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for b in range(b0, b1):
                for a in range(a0, a1):
                    y[a] += x[a, b] * z[b, a]


@kernel()
def _max_plus_transposed(x, z, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            y[b] = LOWEST
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[b] = max(y[b], x[a, b] + z[b, a])


@kernel()
def _max_transposed(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for c0 in range(O, C, tc):
        c1 = min(c0 + tc, C)
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for c in range(c0, c1):
                for a in range(a0, a1):
                    y[c, a] = LOWEST
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[c, a] = max(y[c, a], x[a, b, c])


@kernel()
def _abs_sum_transposed(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for b in range(b0, b1):
                for a in range(a0, a1):
                    y[b, a] = ZERO
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        total = ZERO
                        for c in range(c0, c1):
                            total += abs(x[a, b, c])
                        y[b, a] += total


@kernel()
def _mean_transposed(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    share = np.float32(1) / np.float32(A)
    for c0 in range(O, C, tc):
        c1 = min(c0 + tc, C)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c in range(c0, c1):
                for b in range(b0, b1):
                    y[c, b] = ZERO
            for a0 in range(O, A, ta):
                a1 = min(a0 + ta, A)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[c, b] += x[a, b, c] * share


def _max(lax: Any, x: Any, axis: int) -> Any:
    return lax.reduce(x, np.float32(-np.inf), lax.max, (axis,))


def _turn(lax: Any, x: Any) -> Any:
    return lax.transpose(x, (1, 0))


def _dot_program(lax: Any, x: Any, z: Any) -> Any:
    return lax.reduce(lax.mul(x, _turn(lax, z)), ZERO, lax.add, (1,))


def _abs_sum_program(lax: Any, x: Any) -> Any:
    return _turn(lax, lax.reduce(lax.abs(x), ZERO, lax.add, (2,)))


def _mean_program(lax: Any, x: Any) -> Any:
    total = lax.reduce(x, ZERO, lax.add, (0,))
    return _turn(lax, lax.mul(total, lax.full_like(total, 1 / x.shape[0])))


def _turned_operand(axis: int) -> Callable[[int, int], Nest]:
    # Two operands, the second the other way round; ``axis`` of the first is reduced.
    def nest(a: int, b: int) -> Nest:
        rows = reduction("a b", axis)(a, b)
        return Nest(((a, b), (b, a)), rows.output, rows.loops)

    return nest


def _turned_result(axis: int) -> Callable[[int, int, int], Nest]:
    # One operand of three dimensions; the two that are kept change places.
    def nest(*shape: int) -> Nest:
        kept = [dim for dim in (2, 1, 0) if dim != axis]
        loops = tuple(
            loop(name, extent, inp(dim), *(out(kept.index(dim)) for _ in range(dim != axis)))
            for dim, (name, extent) in enumerate(zip("abc", shape, strict=True))
        )
        return Nest((shape,), tuple(shape[dim] for dim in kept), loops)

    return nest


FAMILIES = (
    Family(
        "min_major",
        "reduce",
        _min_major,
        lambda lax, x: lax.reduce(x, np.float32(np.inf), lax.min, (0,)),
        reduction("a b", 0),
        ((1536, 1280), (400, 3600), (9001, 163), (1381, 1009)),
    ),
    Family(
        "max_middle",
        "reduce",
        _max_middle,
        lambda lax, x: _max(lax, x, 1),
        reduction("a b c", 1),
        ((24, 256, 320), (160, 96, 96), (5, 311, 907), (64, 1000, 28)),
    ),
    Family(
        "dot_transposed",
        "reduce",
        _dot_transposed,
        _dot_program,
        _turned_operand(1),
        ((1024, 1024), (768, 2048), (419, 4096), (2048, 512)),
    ),
    Family(
        "max_plus_transposed",
        "reduce",
        _max_plus_transposed,
        lambda lax, x, z: _max(lax, lax.add(x, _turn(lax, z)), 0),
        _turned_operand(0),
        ((1024, 1280), (2048, 768), (1536, 1099), (512, 2048)),
    ),
    Family(
        "max_transposed",
        "reduce",
        _max_transposed,
        lambda lax, x: _turn(lax, _max(lax, x, 1)),
        _turned_result(1),
        ((192, 24, 256), (128, 80, 96), (269, 13, 311), (800, 10, 144)),
    ),
    Family(
        "abs_sum_transposed",
        "reduce",
        _abs_sum_transposed,
        _abs_sum_program,
        _turned_result(2),
        ((160, 192, 48), (640, 256, 10), (397, 283, 11), (48, 1200, 24)),
    ),
    Family(
        "mean_transposed",
        "reduce",
        _mean_transposed,
        _mean_program,
        _turned_result(0),
        ((8, 512, 512), (24, 256, 300), (4, 1024, 353), (48, 512, 72)),
    ),
)
