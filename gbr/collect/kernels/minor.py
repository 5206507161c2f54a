"""Reductions of the minor dimension: extrema, norms, products of rows, sums with a mask or weights, variances."""

# Rows are kept, so they are the outer tile; a part of a row is reduced in a register and joined to the row's result.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest
from gbr.collect.kernels._jit import HIGHEST, ZERO, O, U, kernel
from gbr.collect.kernels.reduce import reduction

ONE = np.float32(1)


@kernel()
def _min(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = HIGHEST
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                low = HIGHEST
                for b in range(b0, b1):
                    low = min(low, x[a, b])
                y[a] = min(y[a], low)


@kernel()
def _absmax(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                top = ZERO
                for b in range(b0, b1):
                    top = max(top, abs(x[a, b]))
                y[a] = max(y[a], top)


@kernel()
def _norm(x, y, ta, tb):  # type: ignore[no-untyped-def]
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
                    total += x[a, b] * x[a, b]
                y[a] += total
        for a in range(a0, a1):
            y[a] = np.sqrt(y[a])


@kernel()
def _dot(x, z, y, ta, tb):  # type: ignore[no-untyped-def]
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
                    total += x[a, b] * z[a, b]
                y[a] += total


@kernel()
def _squared_distance(x, z, y, ta, tb):  # type: ignore[no-untyped-def]
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
                    total += (x[a, b] - z[a, b]) * (x[a, b] - z[a, b])
                y[a] += total


@kernel()
def _weighted_sum(x, weight, bias, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = bias[a]
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                total = ZERO
                for b in range(b0, b1):
                    total += x[a, b] * weight[b]
                y[a] += total


@kernel()
def _masked_sum(x, mask, y, ta, tb):  # type: ignore[no-untyped-def]
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
                    total += x[a, b] if mask[a, b] > ZERO else ZERO
                y[a] += total


@kernel()
def _variance(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    share = ONE / np.float32(B)
    mean = np.empty(A, np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            mean[a], y[a] = ZERO, ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                part = ZERO
                for b in range(b0, b1):
                    part += x[a, b]
                mean[a] += part * share
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                centre, part = mean[a], ZERO
                for b in range(b0, b1):
                    part += (x[a, b] - centre) * (x[a, b] - centre)
                y[a] += part * share


@kernel()
def _mean(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    share = ONE / np.float32(C)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = ZERO
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        total = ZERO
                        for c in range(c0, c1):
                            total += x[a, b, c]
                        y[a, b] += total * share


@kernel()
def _sum_trailing(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a] = ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        total = ZERO
                        for c in range(c0, c1):
                            total += x[a, b, c]
                        y[a] += total


def _row_sum(lax: Any, x: Any) -> Any:
    return lax.reduce(x, ZERO, lax.add, (x.ndim - 1,))


def _row_mean(lax: Any, x: Any) -> Any:
    total = _row_sum(lax, x)
    return lax.mul(total, lax.full_like(total, 1 / x.shape[-1]))


def _norm_program(lax: Any, x: Any) -> Any:
    return lax.sqrt(_row_sum(lax, lax.mul(x, x)))


def _squared_distance_program(lax: Any, x: Any, z: Any) -> Any:
    apart = lax.sub(x, z)
    return _row_sum(lax, lax.mul(apart, apart))


def _weighted_sum_program(lax: Any, x: Any, weight: Any, bias: Any) -> Any:
    return lax.add(_row_sum(lax, lax.mul(x, lax.broadcast_in_dim(weight, x.shape, (1,)))), bias)


def _masked_sum_program(lax: Any, x: Any, mask: Any) -> Any:
    return _row_sum(lax, lax.select(lax.gt(mask, lax.full_like(mask, 0)), x, lax.full_like(x, 0)))


def _variance_program(lax: Any, x: Any) -> Any:
    centred = lax.sub(x, lax.broadcast_in_dim(_row_mean(lax, x), x.shape, (0,)))
    return _row_mean(lax, lax.mul(centred, centred))


def _rows(*operands: tuple[int, ...]) -> Callable[..., Nest]:
    # Operands are given by the input dimensions they run over.
    def nest(*shape: int) -> Nest:
        shapes = tuple(tuple(shape[dim] for dim in dims) for dims in operands)
        return replace(reduction("a b", 1)(*shape), operands=shapes)

    return nest


FAMILIES = (
    Family(
        "min_minor",
        "reduce",
        _min,
        lambda lax, x: lax.reduce(x, np.float32(np.inf), lax.min, (1,)),
        reduction("a b", 1),
        ((1536, 1024), (12000, 144), (5003, 263), (701, 1999)),
    ),
    Family(
        "absmax_minor",
        "reduce",
        _absmax,
        lambda lax, x: lax.reduce(lax.abs(x), np.float32(-np.inf), lax.max, (1,)),
        reduction("a b", 1),
        ((2048, 768), (18000, 80), (6007, 197), (1103, 1301)),
    ),
    Family(
        "norm_minor",
        "reduce",
        _norm,
        _norm_program,
        reduction("a b", 1),
        ((768, 2048), (14000, 104), (9013, 139), (1301, 1103)),
    ),
    Family(
        "rowwise_dot",
        "reduce",
        _dot,
        lambda lax, x, z: _row_sum(lax, lax.mul(x, z)),
        _rows((0, 1), (0, 1)),
        ((1024, 1024), (10000, 88), (4001, 233), (997, 1061)),
    ),
    Family(
        "squared_distance",
        "reduce",
        _squared_distance,
        _squared_distance_program,
        _rows((0, 1), (0, 1)),
        ((896, 1152), (9000, 112), (5209, 173), (1151, 809)),
    ),
    Family(
        "weighted_sum_minor",
        "reduce",
        _weighted_sum,
        _weighted_sum_program,
        _rows((0, 1), (1,), (0,)),
        ((1280, 1280), (16000, 100), (7013, 229), (1409, 1123)),
    ),
    Family(
        "masked_sum_minor",
        "reduce",
        _masked_sum,
        _masked_sum_program,
        _rows((0, 1), (0, 1)),
        ((1024, 896), (11000, 96), (3989, 251), (1213, 787)),
    ),
    Family(
        "variance_minor",
        "reduce",
        _variance,
        _variance_program,
        reduction("a b", 1),
        ((1024, 1024), (9000, 128), (6007, 151), (1013, 907)),
    ),
    Family(
        "mean_minor",
        "reduce",
        _mean,
        _row_mean,
        reduction("a b c", 2),
        ((16, 160, 512), (40, 300, 96), (7, 223, 701), (96, 640, 24)),
    ),
    Family(
        "sum_trailing",
        "reduce",
        _sum_trailing,
        lambda lax, x: lax.reduce(x, ZERO, lax.add, (1, 2)),
        reduction("a b c", 1, 2),
        ((256, 48, 128), (4000, 14, 28), (211, 73, 97), (32, 500, 80)),
    ),
)
