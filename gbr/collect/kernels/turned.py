"""Element by element with operands whose dimensions come in another order than those of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest, Shape, loop, out
from gbr.collect.kernels._jit import ZERO, O, U, kernel

HALF = np.float32(0.5)


@kernel()
def _relu(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = max(x[b, a], ZERO)


@kernel()
def _scale(x, scale, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                s = scale[a]
                for b in range(b0, b1):
                    y[a, b] = x[b, a] * s


@kernel()
def _bias(x, bias, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = x[b, a] + bias[b]


@kernel()
def _symmetrise(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = (x[a, b] + x[b, a]) * HALF


@kernel()
def _blend(x, z, share, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                s = share[a]
                for b in range(b0, b1):
                    y[a, b] = x[a, b] + s * (z[b, a] - x[a, b])


@kernel()
def _add_021(x, z, y, ta, tb, tc):  # type: ignore[no-untyped-def]
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
                            y[a, b, c] = x[a, b, c] + z[a, c, b]


@kernel()
def _sub_102(x, z, y, ta, tb, tc):  # type: ignore[no-untyped-def]
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
                            y[a, b, c] = x[a, b, c] - z[b, a, c]


@kernel()
def _add_120_201(x, z, y, ta, tb, tc):  # type: ignore[no-untyped-def]
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
                            y[a, b, c] = x[c, a, b] + z[b, c, a]


@kernel()
def _add_0312(x, z, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, b, c, d] + z[a, c, d, b]


@kernel()
def _mul_0213(x, z, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, b, c, d] * z[a, c, b, d]


@kernel()
def _max_0321(x, z, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = max(x[a, b, c, d], z[a, d, c, b])


@kernel()
def _additive_scores(q, k, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        s = q[b, a]
                        for c in range(c0, c1):
                            y[a, b, c] = s + k[c, a]


@kernel()
def _outer_permuted(u, v, y, ta, tb, tc):  # type: ignore[no-untyped-def]
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
                            y[a, b, c] = u[c, a] * v[b, c]


def _turn(lax: Any, x: Any) -> Any:
    return lax.transpose(x, (1, 0))


def _relu_program(lax: Any, x: Any) -> Any:
    turned = _turn(lax, x)
    return lax.max(turned, lax.full_like(turned, 0))


def _scale_program(lax: Any, x: Any, scale: Any) -> Any:
    turned = _turn(lax, x)
    return lax.mul(turned, lax.broadcast_in_dim(scale, turned.shape, (0,)))


def _bias_program(lax: Any, x: Any, bias: Any) -> Any:
    turned = _turn(lax, x)
    return lax.add(turned, lax.broadcast_in_dim(bias, turned.shape, (1,)))


def _symmetrise_program(lax: Any, x: Any) -> Any:
    return lax.mul(lax.add(x, _turn(lax, x)), lax.full_like(x, 0.5))


def _blend_program(lax: Any, x: Any, z: Any, share: Any) -> Any:
    return lax.add(x, lax.mul(lax.broadcast_in_dim(share, x.shape, (0,)), lax.sub(_turn(lax, z), x)))


def _additive_program(lax: Any, q: Any, k: Any) -> Any:
    shape = (q.shape[1], q.shape[0], k.shape[0])
    queries = lax.broadcast_in_dim(_turn(lax, q), shape, (0, 1))
    return lax.add(queries, lax.broadcast_in_dim(_turn(lax, k), shape, (0, 2)))


def _outer_program(lax: Any, u: Any, v: Any) -> Any:
    # The product in the order of its operands, (c, a, b), then moved to (a, b, c).
    shape = (u.shape[0], u.shape[1], v.shape[0])
    product = lax.mul(lax.broadcast_in_dim(u, shape, (0, 1)), lax.broadcast_in_dim(v, shape, (2, 0)))
    return lax.transpose(product, (1, 2, 0))


def _permuted(operation: str, *permutation: int) -> Callable[..., Any]:
    return lambda lax, x, z: getattr(lax, operation)(x, lax.transpose(z, permutation))


def _nest(*operands: tuple[int, ...]) -> Callable[..., Nest]:
    # Operands are given by the output dimensions they run over.
    def nest(*shape: int) -> Nest:
        loops = tuple(loop(f"dim{dim}", extent, out(dim)) for dim, extent in enumerate(shape))
        shapes: tuple[Shape, ...] = tuple(tuple(shape[dim] for dim in dims) for dims in operands)
        return Nest(shapes, shape, loops)

    return nest


def _family(
    name: str, nest_kernel: Callable[..., Any], program: Callable[..., Any], nest: Callable[..., Nest], *shapes: Shape
) -> Family:
    return Family(name, "elementwise", nest_kernel, program, nest, shapes)


FAMILIES = (
    _family("relu_transposed", _relu, _relu_program, _nest((1, 0)), (896, 1024), (512, 1536), (2048, 347), (3072, 176)),
    _family(
        "scale_transposed",
        _scale,
        _scale_program,
        _nest((1, 0), (0,)),
        (1024, 832),
        (640, 1280),
        (1792, 421),
        (3072, 224),
    ),
    _family(
        "bias_transposed",
        _bias,
        _bias_program,
        _nest((1, 0), (1,)),
        (1024, 512),
        (1280, 640),
        (1536, 503),
        (3600, 192),
    ),
    _family(
        "symmetrise",
        _symmetrise,
        _symmetrise_program,
        lambda n: _nest((0, 1))(n, n),
        (1024,),
        (1280,),
        (1152,),
        (1536,),
    ),
    _family(
        "blend_transposed",
        _blend,
        _blend_program,
        _nest((0, 1), (1, 0), (0,)),
        (640, 1024),
        (1536, 384),
        (1280, 449),
        (2800, 180),
    ),
    _family(
        "add_permuted_021",
        _add_021,
        _permuted("add", 0, 2, 1),
        _nest((0, 1, 2), (0, 2, 1)),
        (12, 192, 256),
        (48, 128, 96),
        (3, 512, 353),
        (20, 384, 64),
    ),
    _family(
        "sub_permuted_102",
        _sub_102,
        _permuted("sub", 1, 0, 2),
        _nest((0, 1, 2), (1, 0, 2)),
        (128, 96, 56),
        (320, 80, 24),
        (149, 163, 31),
        (24, 900, 36),
    ),
    _family(
        "add_two_permuted",
        _add_120_201,
        lambda lax, x, z: lax.add(lax.transpose(x, (1, 2, 0)), lax.transpose(z, (2, 0, 1))),
        _nest((2, 0, 1), (1, 2, 0)),
        (80, 64, 128),
        (24, 160, 160),
        (128, 37, 131),
        (256, 16, 192),
    ),
    _family(
        "add_permuted_0312",
        _add_0312,
        _permuted("add", 0, 3, 1, 2),
        _nest((0, 1, 2, 3), (0, 2, 3, 1)),
        (2, 112, 40, 64),
        (6, 96, 28, 36),
        (1, 157, 59, 67),
        (3, 640, 12, 20),
    ),
    _family(
        "mul_permuted_0213",
        _mul_0213,
        _permuted("mul", 0, 2, 1, 3),
        _nest((0, 1, 2, 3), (0, 2, 1, 3)),
        (4, 16, 128, 64),
        (2, 96, 112, 28),
        (3, 41, 157, 37),
        (12, 200, 16, 16),
    ),
    _family(
        "max_permuted_0321",
        _max_0321,
        _permuted("max", 0, 3, 2, 1),
        _nest((0, 1, 2, 3), (0, 3, 2, 1)),
        (2, 80, 40, 80),
        (6, 48, 32, 56),
        (1, 109, 47, 113),
        (3, 256, 8, 96),
    ),
    _family(
        "additive_scores",
        _additive_scores,
        _additive_program,
        _nest((1, 0), (2, 0)),
        (12, 256, 320),
        (64, 160, 96),
        (7, 307, 419),
        (160, 48, 128),
    ),
    _family(
        "outer_permuted",
        _outer_permuted,
        _outer_program,
        _nest((2, 0), (1, 2)),
        (96, 96, 112),
        (320, 32, 96),
        (256, 41, 151),
        (64, 128, 192),
    ),
)
