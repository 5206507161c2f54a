"""Normalisations: statistics of a row or a column, then a pass that uses them."""

# The outer tile holds the dimension that is kept, so that the data of one tile of rows (or columns) is still in cache
# when the later passes come back to it.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbr.collect.kernels._exp import exp
from gbr.collect.kernels._family import Family, Nest, Shape, inp, loop, out
from gbr.collect.kernels._jit import LOWEST, ZERO, O, U, kernel
from gbr.collect.kernels._statistics import EPSILON, along, mean_along, shifted_exp, softmax, total_along

ONE = np.float32(1)


@kernel()
def _softmax(x, y, ta, tb):  # type: ignore[no-untyped-def]
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
                    e = exp(x[a, b] - high)
                    y[a, b] = e
                    part += e
                total[a] += part
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                share = ONE / total[a]
                for b in range(b0, b1):
                    y[a, b] *= share


@kernel()
def _softmax_major(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    top, total = np.empty(B, np.float32), np.empty(B, np.float32)
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            top[b], total[b] = LOWEST, ZERO
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    top[b] = max(top[b], x[a, b])
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    e = exp(x[a, b] - top[b])
                    y[a, b] = e
                    total[b] += e
        for b in range(b0, b1):
            total[b] = ONE / total[b]
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] *= total[b]


@kernel()
def _logsumexp(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    total = np.empty(A, np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            y[a], total[a] = LOWEST, ZERO
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                high = LOWEST
                for b in range(b0, b1):
                    high = max(high, x[a, b])
                y[a] = max(y[a], high)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                high, part = y[a], ZERO
                for b in range(b0, b1):
                    part += exp(x[a, b] - high)
                total[a] += part
        for a in range(a0, a1):
            y[a] += np.log(total[a])


@kernel()
def _layer_norm(x, gain, bias, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    share = ONE / np.float32(B)
    mean, variance = np.empty(A, np.float32), np.empty(A, np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for a in range(a0, a1):
            mean[a], variance[a] = ZERO, ZERO
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
                variance[a] += part * share
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                centre, scale = mean[a], ONE / np.sqrt(variance[a] + EPSILON)
                for b in range(b0, b1):
                    y[a, b] = (x[a, b] - centre) * scale * gain[b] + bias[b]


@kernel()
def _rms_norm(x, gain, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    share = ONE / np.float32(B)
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
                square[a] += part * share
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                scale = ONE / np.sqrt(square[a] + EPSILON)
                for b in range(b0, b1):
                    y[a, b] = x[a, b] * scale * gain[b]


@kernel()
def _batch_norm(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(x.shape[0]), U(x.shape[1])
    share = ONE / np.float32(A)
    mean, scale = np.empty(B, np.float32), np.empty(B, np.float32)
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for b in range(b0, b1):
            mean[b], scale[b] = ZERO, ZERO
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    mean[b] += x[a, b] * share
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    scale[b] += (x[a, b] - mean[b]) * (x[a, b] - mean[b]) * share
        for b in range(b0, b1):
            scale[b] = ONE / np.sqrt(scale[b] + EPSILON)
        for a0 in range(O, A, ta):
            a1 = min(a0 + ta, A)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = (x[a, b] - mean[b]) * scale[b]


@kernel()
def _instance_norm(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(x.shape[0]), U(x.shape[1]), U(x.shape[2])
    share = ONE / np.float32(B)
    mean, scale = np.empty((A, C), np.float32), np.empty((A, C), np.float32)
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for a in range(a0, a1):
                for c in range(c0, c1):
                    mean[a, c], scale[a, c] = ZERO, ZERO
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            mean[a, c] += x[a, b, c] * share
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            scale[a, c] += (x[a, b, c] - mean[a, c]) * (x[a, b, c] - mean[a, c]) * share
            for a in range(a0, a1):
                for c in range(c0, c1):
                    scale[a, c] = ONE / np.sqrt(scale[a, c] + EPSILON)
            for b0 in range(O, B, tb):
                b1 = min(b0 + tb, B)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = (x[a, b, c] - mean[a, c]) * scale[a, c]


def _logsumexp_program(lax: Any, x: Any) -> Any:
    top, e = shifted_exp(lax, x, 1)
    return lax.add(lax.log(total_along(lax, e, 1)), top)


def _standardised(axis: int) -> Callable[..., Any]:
    def program(lax: Any, x: Any) -> Any:
        centred = lax.sub(x, along(lax, mean_along(lax, x, axis), x, axis))
        variance = mean_along(lax, lax.mul(centred, centred), axis)
        scale = lax.rsqrt(lax.add(variance, lax.full_like(variance, EPSILON)))
        return lax.mul(centred, along(lax, scale, x, axis))

    return program


def _layer_norm_program(lax: Any, x: Any, gain: Any, bias: Any) -> Any:
    scaled = lax.mul(_standardised(1)(lax, x), along(lax, gain, x, 0))
    return lax.add(scaled, along(lax, bias, x, 0))


def _rms_norm_program(lax: Any, x: Any, gain: Any) -> Any:
    square = mean_along(lax, lax.mul(x, x), 1)
    scale = lax.rsqrt(lax.add(square, lax.full_like(square, EPSILON)))
    return lax.mul(lax.mul(x, along(lax, scale, x, 1)), along(lax, gain, x, 0))


def _nest(names: str, *vectors: int) -> Callable[..., Nest]:
    # The output has the shape of the input; ``vectors`` are the dimensions of further, one-dimensional operands.
    def nest(*shape: int) -> Nest:
        loops = tuple(
            loop(name, extent, out(dim), inp(dim))
            for dim, (name, extent) in enumerate(zip(names.split(), shape, strict=True))
        )
        extra: tuple[Shape, ...] = tuple((shape[dim],) for dim in vectors)
        return Nest((shape, *extra), shape, loops)

    return nest


def _logsumexp_nest(a: int, b: int) -> Nest:
    return Nest(((a, b),), (a,), (loop("a", a, out(0), inp(0)), loop("b", b, inp(1))))


FAMILIES = (
    Family(
        "softmax",
        "rowwise",
        _softmax,
        lambda lax, x: softmax(lax, x, 1),
        _nest("a b"),
        ((768, 1024), (6000, 128), (8011, 83), (1021, 773)),
    ),
    Family(
        "softmax_major",
        "rowwise",
        _softmax_major,
        lambda lax, x: softmax(lax, x, 0),
        _nest("a b"),
        ((1024, 640), (160, 4800), (7001, 97), (1013, 719)),
    ),
    Family(
        "logsumexp",
        "rowwise",
        _logsumexp,
        _logsumexp_program,
        _logsumexp_nest,
        ((1024, 896), (8000, 112), (7103, 109), (1103, 811)),
    ),
    Family(
        "layer_norm",
        "rowwise",
        _layer_norm,
        _layer_norm_program,
        _nest("a b", 1, 1),
        ((1024, 768), (5000, 144), (151, 6007), (1307, 601)),
    ),
    Family(
        "rms_norm",
        "rowwise",
        _rms_norm,
        _rms_norm_program,
        _nest("a b", 1),
        ((896, 1024), (7000, 136), (9001, 97), (1201, 853)),
    ),
    Family(
        "batch_norm",
        "rowwise",
        _batch_norm,
        _standardised(0),
        _nest("a b"),
        ((2048, 512), (240, 4000), (9001, 101), (1459, 683)),
    ),
    Family(
        "instance_norm",
        "rowwise",
        _instance_norm,
        _standardised(1),
        _nest("a b c"),
        ((8, 784, 160), (2, 2304, 192), (5, 1369, 127), (32, 196, 144)),
    ),
)
