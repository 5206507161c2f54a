"""Element by element: with broadcast vectors, with a transposed operand, with statistics of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest, Shape, loop, out
from gbr.collect.kernels._jit import ZERO, O, U, kernel

ONE = np.float32(1)


@kernel()
def _bias_scale(x, scale, bias, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                s = scale[a]
                for b in range(b0, b1):
                    y[a, b] = x[a, b] * s + bias[b]


@kernel()
def _outer_update(c, u, v, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                s = u[a]
                for b in range(b0, b1):
                    y[a, b] = c[a, b] - s * v[b]


@kernel()
def _add_transposed(x, z, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = x[a, b] + z[b, a]


@kernel()
def _gate_transposed(x, z, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = max(z[b, a], ZERO) * x[a, b]


@kernel()
def _mul_permuted(x, z, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = x[a, b, c] * z[c, b, a]


@kernel()
def _channel_affine(x, mean, scale, bias, y, tn, th, tw, tc):  # type: ignore[no-untyped-def]
    N, H, W, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for h0 in range(O, H, th):
            h1 = min(h0 + th, H)
            for w0 in range(O, W, tw):
                w1 = min(w0 + tw, W)
                for c0 in range(O, C, tc):
                    c1 = min(c0 + tc, C)
                    for n in range(n0, n1):
                        for h in range(h0, h1):
                            for w in range(w0, w1):
                                for c in range(c0, c1):
                                    y[n, h, w, c] = max((x[n, h, w, c] - mean[c]) * scale[c] + bias[c], ZERO)


@kernel()
def _channel_affine_nchw(x, mean, scale, bias, y, tn, tc, th, tw):  # type: ignore[no-untyped-def]
    N, C, H, W = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for h0 in range(O, H, th):
                h1 = min(h0 + th, H)
                for w0 in range(O, W, tw):
                    w1 = min(w0 + tw, W)
                    for n in range(n0, n1):
                        for c in range(c0, c1):
                            m, s, t = mean[c], scale[c], bias[c]
                            for h in range(h0, h1):
                                for w in range(w0, w1):
                                    y[n, c, h, w] = (x[n, c, h, w] - m) * s + t


@kernel()
def _rank1_batched(x, u, v, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        s = u[a, b]
                        for c in range(c0, c1):
                            y[a, b, c] = x[a, b, c] + s * v[a, c]


@kernel()
def _gated_mix(x, gate, z, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            g = gate[a, c]
                            y[a, b, c] = g * x[a, b, c] + (ONE - g) * z[b, c]


def _affine(lax: Any, x: Any, mean: Any, scale: Any, bias: Any, dim: int) -> Any:
    def wide(vector: Any) -> Any:
        return lax.broadcast_in_dim(vector, x.shape, (dim,))

    return lax.add(lax.mul(lax.sub(x, wide(mean)), wide(scale)), wide(bias))


def _bias_scale_program(lax: Any, x: Any, scale: Any, bias: Any) -> Any:
    rows = lax.broadcast_in_dim(scale, x.shape, (0,))
    return lax.add(lax.mul(x, rows), lax.broadcast_in_dim(bias, x.shape, (1,)))


def _outer_program(lax: Any, c: Any, u: Any, v: Any) -> Any:
    rows, columns = (lax.broadcast_in_dim(vector, c.shape, (dim,)) for dim, vector in enumerate((u, v)))
    return lax.sub(c, lax.mul(rows, columns))


def _gate_transposed_program(lax: Any, x: Any, z: Any) -> Any:
    turned = lax.transpose(z, (1, 0))
    return lax.mul(lax.max(turned, lax.full_like(turned, 0)), x)


def _channel_affine_program(lax: Any, x: Any, mean: Any, scale: Any, bias: Any) -> Any:
    y = _affine(lax, x, mean, scale, bias, 3)
    return lax.max(y, lax.full_like(y, 0))


def _gated_mix_program(lax: Any, x: Any, gate: Any, z: Any) -> Any:
    g = lax.broadcast_in_dim(gate, x.shape, (0, 2))
    rest = lax.mul(lax.sub(lax.full_like(g, 1), g), lax.broadcast_in_dim(z, x.shape, (1, 2)))
    return lax.add(lax.mul(g, x), rest)


def _rank1_program(lax: Any, x: Any, u: Any, v: Any) -> Any:
    rows, columns = (lax.broadcast_in_dim(matrix, x.shape, dims) for matrix, dims in ((u, (0, 1)), (v, (0, 2))))
    return lax.add(x, lax.mul(rows, columns))


def _nest(*operands: tuple[int, ...]) -> Callable[..., Nest]:
    # Operands are given by the output dimensions they run over.
    def nest(*shape: int) -> Nest:
        loops = tuple(loop(f"dim{dim}", extent, out(dim)) for dim, extent in enumerate(shape))
        shapes: tuple[Shape, ...] = tuple(tuple(shape[dim] for dim in dims) for dims in operands)
        return Nest(shapes, shape, loops)

    return nest


FAMILIES = (
    Family(
        "bias_scale",
        "elementwise",
        _bias_scale,
        _bias_scale_program,
        _nest((0, 1), (0,), (1,)),
        ((1024, 1024), (9000, 120), (2999, 389), (1259, 941)),
    ),
    Family(
        "outer_update",
        "elementwise",
        _outer_update,
        _outer_program,
        _nest((0, 1), (0,), (1,)),
        ((1024, 1280), (8000, 130), (33001, 31), (1153, 1031)),
    ),
    Family(
        "add_transposed",
        "elementwise",
        _add_transposed,
        lambda lax, x, z: lax.add(x, lax.transpose(z, (1, 0))),
        _nest((0, 1), (1, 0)),
        ((768, 1024), (2048, 512), (1536, 331), (3000, 170)),
    ),
    Family(
        "gate_transposed",
        "elementwise",
        _gate_transposed,
        _gate_transposed_program,
        _nest((0, 1), (1, 0)),
        ((1024, 640), (384, 2048), (1280, 419), (5600, 140)),
    ),
    Family(
        "mul_permuted",
        "elementwise",
        _mul_permuted,
        lambda lax, x, z: lax.mul(x, lax.transpose(z, (2, 1, 0))),
        _nest((0, 1, 2), (2, 1, 0)),
        ((96, 48, 160), (256, 12, 256), (79, 83, 127), (20, 64, 600)),
    ),
    Family(
        "channel_affine",
        "elementwise",
        _channel_affine,
        _channel_affine_program,
        _nest((0, 1, 2, 3), (3,), (3,), (3,)),
        ((2, 56, 48, 160), (16, 14, 18, 224), (3, 47, 53, 101), (1, 24, 20, 1900)),
    ),
    Family(
        "channel_affine_nchw",
        "elementwise",
        _channel_affine_nchw,
        lambda lax, x, mean, scale, bias: _affine(lax, x, mean, scale, bias, 1),
        _nest((0, 1, 2, 3), (1,), (1,), (1,)),
        ((2, 128, 56, 64), (12, 192, 16, 20), (3, 53, 79, 71), (1, 12, 200, 360)),
    ),
    Family(
        "rank1_batched",
        "elementwise",
        _rank1_batched,
        _rank1_program,
        _nest((0, 1, 2), (0, 1), (0, 2)),
        ((16, 192, 320), (40, 160, 144), (29, 179, 167), (200, 64, 72)),
    ),
    Family(
        "gated_mix",
        "elementwise",
        _gated_mix,
        _gated_mix_program,
        _nest((0, 1, 2), (0, 2), (1, 2)),
        ((32, 128, 256), (8, 60, 2400), (37, 211, 113), (300, 40, 80)),
    ),
)
