"""Sums and maxima along minor, middle, major and several dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest, Slot, inp, loop, out
from gbr.collect.kernels._jit import LOWEST, ZERO, O, U, kernel


@kernel()
def _sum_minor(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                total = ZERO
                for b in range(b0, b1):
                    total += x[a, b]
                y[a] += total


@kernel()
def _max_minor(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = LOWEST
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                top = LOWEST
                for b in range(b0, b1):
                    top = max(top, x[a, b])
                y[a] = max(y[a], top)


@kernel()
def _sum_major(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            y[b] = ZERO
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[b] += x[a, b]


@kernel()
def _max_major(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            y[b] = LOWEST
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[b] = max(y[b], x[a, b])


@kernel()
def _sum_middle(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for a in range(a0, a1):
                for c in range(c0, c1):
                    y[a, c] = ZERO
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, c] += x[a, b, c]


@kernel()
def _sum_leading(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for c0 in range(O, C, tc):
        c1 = min(c0 + tc, C)
        for c in range(c0, c1):
            y[c] = ZERO
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[c] += x[a, b, c]


@kernel()
def _sum_outer(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            y[b] = ZERO
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        total = ZERO
                        for c in range(c0, c1):
                            total += x[a, b, c]
                        y[b] += total


@kernel()
def _mean_spatial(x, y, tn, th, tw, tc):  # type: ignore[no-untyped-def]
    N, H, W, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2]), U(x.shape[3])
    share = np.float32(1) / np.float32(H * W)
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for n in range(n0, n1):
                for c in range(c0, c1):
                    y[n, c] = ZERO
            for h0 in range(O, H, th):
                h1 = min(h0 + th, H)
                for w0 in range(O, W, tw):
                    w1 = min(w0 + tw, W)
                    for n in range(n0, n1):
                        for h in range(h0, h1):
                            for w in range(w0, w1):
                                for c in range(c0, c1):
                                    y[n, c] += x[n, h, w, c] * share


@kernel()
def _square_sum_transposed(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for c0 in range(O, C, tc):
        c1 = min(c0 + tc, C)
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for c in range(c0, c1):
                for a in range(a0, a1):
                    y[c, a] = ZERO
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[c, a] += x[a, b, c] * x[a, b, c]


def _sum(*axes: int) -> Callable[..., Any]:
    return lambda lax, x: lax.reduce(x, ZERO, lax.add, axes)


def _max(*axes: int) -> Callable[..., Any]:
    return lambda lax, x: lax.reduce(x, np.float32(-np.inf), lax.max, axes)


def _mean_program(lax: Any, x: Any) -> Any:
    total = lax.reduce(x, ZERO, lax.add, (1, 2))
    return lax.mul(total, lax.full_like(total, 1 / (x.shape[1] * x.shape[2])))


def _square_sum_program(lax: Any, x: Any) -> Any:
    return lax.transpose(lax.reduce(lax.mul(x, x), ZERO, lax.add, (1,)), (1, 0))


def reduction(names: str, *axes: int) -> Callable[..., Nest]:
    """Nest builder of a reduction over ``axes`` of an input whose dimensions are called ``names``."""

    def nest(*shape: int) -> Nest:
        kept = [dim for dim in range(len(shape)) if dim not in axes]
        loops = []
        for dim, (name, extent) in enumerate(zip(names.split(), shape, strict=True)):
            slots: list[Slot] = [inp(dim)]
            if dim in kept:
                slots.append(out(kept.index(dim)))
            loops.append(loop(name, extent, *slots))
        return Nest((shape,), tuple(shape[dim] for dim in kept), tuple(loops))

    return nest


def _square_sum_nest(a: int, b: int, c: int) -> Nest:
    loops = (loop("a", a, inp(0), out(1)), loop("b", b, inp(1)), loop("c", c, inp(2), out(0)))
    return Nest(((a, b, c),), (c, a), loops)


FAMILIES = (
    Family(
        "sum_minor",
        "reduce",
        _sum_minor,
        _sum(1),
        reduction("a b", 1),
        ((1024, 2048), (20000, 96), (7919, 211), (1531, 1283)),
    ),
    Family(
        "max_minor",
        "reduce",
        _max_minor,
        _max(1),
        reduction("a b", 1),
        ((2048, 1024), (16000, 120), (257, 8009), (1399, 1511)),
    ),
    Family(
        "sum_major",
        "reduce",
        _sum_major,
        _sum(0),
        reduction("a b", 0),
        ((2048, 1024), (300, 8000), (8191, 251), (1451, 1307)),
    ),
    Family(
        "max_major",
        "reduce",
        _max_major,
        _max(0),
        reduction("a b", 0),
        ((1024, 2048), (240, 9000), (9973, 199), (1223, 1601)),
    ),
    Family(
        "sum_middle",
        "reduce",
        _sum_middle,
        _sum(1),
        reduction("a b c", 1),
        ((16, 512, 256), (200, 64, 160), (7, 223, 1201), (40, 1500, 33)),
    ),
    Family(
        "sum_leading",
        "reduce",
        _sum_leading,
        _sum(0, 1),
        reduction("a b c", 0, 1),
        ((32, 128, 512), (9, 300, 720), (61, 53, 577), (128, 256, 48)),
    ),
    Family(
        "sum_outer",
        "reduce",
        _sum_outer,
        _sum(0, 2),
        reduction("a b c", 0, 2),
        ((16, 256, 512), (100, 192, 96), (23, 67, 1297), (8, 4096, 64)),
    ),
    Family(
        "mean_spatial",
        "reduce",
        _mean_spatial,
        _mean_program,
        reduction("n h w c", 1, 2),
        ((8, 28, 36, 256), (2, 56, 48, 384), (5, 31, 37, 263), (64, 14, 16, 128)),
    ),
    Family(
        "square_sum_transposed",
        "reduce",
        _square_sum_transposed,
        _square_sum_program,
        _square_sum_nest,
        ((256, 16, 384), (96, 128, 128), (311, 11, 401), (1024, 8, 160)),
    ),
)
