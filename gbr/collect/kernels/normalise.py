"""Further normalisations: of rows by a norm or an extremum, of a middle dimension, of groups of channels."""

# As in rowwise: the outer tile holds the dimensions that are kept, so that its data is still in cache in later passes.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gbr.collect.kernels._exp import exp
from gbr.collect.kernels._family import Family, Nest, inp, loop, out
from gbr.collect.kernels._jit import LOWEST, ZERO, O, U, kernel
from gbr.collect.kernels._statistics import EPSILON, along, shifted_exp, softmax, total_along

ONE: Final = np.float32(1)
#: The largest signed integer of eight bits, to which quantisation maps the largest magnitude.
INT8: Final = np.float32(127)


@kernel()
def _log_softmax(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    top, total = np.empty(A, np.float32), np.empty(A, np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            top[a], total[a] = LOWEST, ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                high = LOWEST
                for b in range(b0, b1):
                    high = max(high, x[a, b])
                top[a] = max(top[a], high)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                high, part = top[a], ZERO
                for b in range(b0, b1):
                    part += exp(x[a, b] - high)
                total[a] += part
        for a in range(a0, a1):
            top[a] += np.log(total[a])
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                shift = top[a]
                for b in range(b0, b1):
                    y[a, b] = x[a, b] - shift


@kernel()
def _softmax_middle(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    top, total = np.empty((A, C), np.float32), np.empty((A, C), np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for a in range(a0, a1):
                for c in range(c0, c1):
                    top[a, c], total[a, c] = LOWEST, ZERO
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            top[a, c] = max(top[a, c], x[a, b, c])
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            e = exp(x[a, b, c] - top[a, c])
                            y[a, b, c] = e
                            total[a, c] += e
            for a in range(a0, a1):
                for c in range(c0, c1):
                    total[a, c] = ONE / total[a, c]
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] *= total[a, c]


@kernel()
def _l2_normalize(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    square = np.empty(A, np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            square[a] = ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                part = ZERO
                for b in range(b0, b1):
                    part += x[a, b] * x[a, b]
                square[a] += part
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                scale = ONE / np.sqrt(square[a] + EPSILON)
                for b in range(b0, b1):
                    y[a, b] = x[a, b] * scale


@kernel()
def _absmax_scale(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    top = np.empty(A, np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            top[a] = ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                high = ZERO
                for b in range(b0, b1):
                    high = max(high, abs(x[a, b]))
                top[a] = max(top[a], high)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                scale = INT8 / top[a]
                for b in range(b0, b1):
                    y[a, b] = x[a, b] * scale


@kernel()
def _group_norm(x, y, tn, ts, tg, tc):  # type: ignore[no-untyped-def]
    N, S, G, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2]), U(x.shape[3])
    share = ONE / np.float32(S * C)
    mean, scale = np.empty((N, G), np.float32), np.empty((N, G), np.float32)
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for g0 in range(O, G, tg):
            g1 = min(g0 + tg, G)
            for n in range(n0, n1):
                for g in range(g0, g1):
                    mean[n, g], scale[n, g] = ZERO, ZERO
            for s0 in range(O, S, ts):
                s1 = min(s0 + ts, S)
                for c0 in range(O, C, tc):
                    c1 = min(c0 + tc, C)
                    for n in range(n0, n1):
                        for s in range(s0, s1):
                            for g in range(g0, g1):
                                part = ZERO
                                for c in range(c0, c1):
                                    part += x[n, s, g, c]
                                mean[n, g] += part * share
            for s0 in range(O, S, ts):
                s1 = min(s0 + ts, S)
                for c0 in range(O, C, tc):
                    c1 = min(c0 + tc, C)
                    for n in range(n0, n1):
                        for s in range(s0, s1):
                            for g in range(g0, g1):
                                centre, part = mean[n, g], ZERO
                                for c in range(c0, c1):
                                    part += (x[n, s, g, c] - centre) * (x[n, s, g, c] - centre)
                                scale[n, g] += part * share
            for n in range(n0, n1):
                for g in range(g0, g1):
                    scale[n, g] = ONE / np.sqrt(scale[n, g] + EPSILON)
            for s0 in range(O, S, ts):
                s1 = min(s0 + ts, S)
                for c0 in range(O, C, tc):
                    c1 = min(c0 + tc, C)
                    for n in range(n0, n1):
                        for s in range(s0, s1):
                            for g in range(g0, g1):
                                centre, factor = mean[n, g], scale[n, g]
                                for c in range(c0, c1):
                                    y[n, s, g, c] = (x[n, s, g, c] - centre) * factor


def _log_softmax_program(lax: Any, x: Any) -> Any:
    top, e = shifted_exp(lax, x, 1)
    shift = lax.add(top, lax.log(total_along(lax, e, 1)))
    return lax.sub(x, along(lax, shift, x, 1))


def _l2_normalize_program(lax: Any, x: Any) -> Any:
    square = total_along(lax, lax.mul(x, x), 1)
    scale = lax.rsqrt(lax.add(square, lax.full_like(square, EPSILON)))
    return lax.mul(x, along(lax, scale, x, 1))


def _absmax_scale_program(lax: Any, x: Any) -> Any:
    top = lax.reduce(lax.abs(x), np.float32(-np.inf), lax.max, (1,))
    return lax.mul(x, along(lax, lax.div(lax.full_like(top, INT8), top), x, 1))


def _group_norm_program(lax: Any, x: Any) -> Any:
    def mean(values: Any) -> Any:
        total = lax.reduce(values, ZERO, lax.add, (1, 3))
        return lax.mul(total, lax.full_like(total, 1 / (x.shape[1] * x.shape[3])))

    centred = lax.sub(x, lax.broadcast_in_dim(mean(x), x.shape, (0, 2)))
    variance = mean(lax.mul(centred, centred))
    scale = lax.rsqrt(lax.add(variance, lax.full_like(variance, EPSILON)))
    return lax.mul(centred, lax.broadcast_in_dim(scale, x.shape, (0, 2)))


def _nest(names: str) -> Callable[..., Nest]:
    # The output has the shape of the input.
    def nest(*shape: int) -> Nest:
        dims = enumerate(zip(names.split(), shape, strict=True))
        return Nest((shape,), shape, tuple(loop(name, extent, out(dim), inp(dim)) for dim, (name, extent) in dims))

    return nest


FAMILIES = (
    Family(
        "log_softmax",
        "rowwise",
        _log_softmax,
        _log_softmax_program,
        _nest("a b"),
        ((640, 1024), (5000, 160), (7001, 103), (907, 811)),
    ),
    Family(
        "softmax_middle",
        "rowwise",
        _softmax_middle,
        lambda lax, x: softmax(lax, x, 1),
        _nest("a b c"),
        ((8, 192, 384), (32, 128, 160), (5, 701, 149), (100, 200, 40)),
    ),
    Family(
        "l2_normalize",
        "rowwise",
        _l2_normalize,
        _l2_normalize_program,
        _nest("a b"),
        ((768, 1280), (6000, 144), (9001, 101), (1103, 787)),
    ),
    Family(
        "absmax_scale",
        "rowwise",
        _absmax_scale,
        _absmax_scale_program,
        _nest("a b"),
        ((1024, 896), (8000, 112), (5003, 179), (1009, 971)),
    ),
    Family(
        "group_norm",
        "rowwise",
        _group_norm,
        _group_norm_program,
        _nest("n s g c"),
        ((4, 784, 8, 32), (2, 2304, 16, 12), (5, 613, 7, 37), (24, 196, 4, 48)),
    ),
)
