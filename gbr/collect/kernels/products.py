"""Further products: with a transposed result, a matrix and a vector per batch, a scaled sum with a matrix."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gbr.collect.kernels._family import Family, Nest, loop, out, rhs
from gbr.collect.kernels._jit import ZERO, O, U, kernel

ALPHA: Final = np.float32(0.75)
BETA: Final = np.float32(1.5)


@kernel()
def _transposed(a, b, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    N, M, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[0])
    for j0 in range(O, N, tn):
        j1 = min(j0 + tn, N)
        for i0 in range(O, M, tm):
            i1 = min(i0 + tm, M)
            for j in range(j0, j1):
                for i in range(i0, i1):
                    c[j, i] = ZERO
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for k in range(k0, k1):
                    for j in range(j0, j1):
                        x = b[k, j]
                        for i in range(i0, i1):
                            c[j, i] += x * a[k, i]


@kernel()
def _matvec_batched(a, x, y, tb, tm, tk):  # type: ignore[no-untyped-def]
    B, M, K = U(a.shape[0]), U(a.shape[1]), U(a.shape[2])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for i0 in range(O, M, tm):
            i1 = min(i0 + tm, M)
            for s in range(b0, b1):
                for i in range(i0, i1):
                    y[s, i] = ZERO
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for s in range(b0, b1):
                    for i in range(i0, i1):
                        total = ZERO
                        for k in range(k0, k1):
                            total += a[s, i, k] * x[s, k]
                        y[s, i] += total


@kernel()
def _scaled_add(a, b, r, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    M, N, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[1])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = BETA * r[i, j]
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for i in range(i0, i1):
                    for k in range(k0, k1):
                        x = ALPHA * a[i, k]
                        for j in range(j0, j1):
                            c[i, j] += x * b[k, j]


def _transposed_program(lax: Any, a: Any, b: Any) -> Any:
    return lax.transpose(lax.dot(lax.transpose(a, (1, 0)), b), (1, 0))


def _matvec_program(lax: Any, a: Any, x: Any) -> Any:
    return lax.dot_general(a, x, (((2,), (1,)), ((0,), (0,))))


def _scaled_add_program(lax: Any, a: Any, b: Any, r: Any) -> Any:
    product = lax.dot(a, b)
    return lax.add(lax.mul(product, lax.full_like(product, ALPHA)), lax.mul(r, lax.full_like(r, BETA)))


def _transposed_nest(m: int, n: int, k: int) -> Nest:
    loops = (loop("m", m, out(1)), loop("n", n, out(0), rhs(1)), loop("k", k, rhs(0)))
    return Nest(((k, m), (k, n)), (n, m), loops)


def _scaled_add_nest(m: int, n: int, k: int) -> Nest:
    loops = (loop("m", m, out(0)), loop("n", n, out(1), rhs(1)), loop("k", k, rhs(0)))
    return Nest(((m, k), (k, n), (m, n)), (m, n), loops)


def _matvec_nest(b: int, m: int, k: int) -> Nest:
    loops = (loop("batch", b, out(0), rhs(0)), loop("m", m, out(1)), loop("k", k, rhs(1)))
    return Nest(((b, m, k), (b, k)), (b, m), loops)


FAMILIES = (
    Family(
        "matmul_transposed",
        "matmul",
        _transposed,
        _transposed_program,
        _transposed_nest,
        ((160, 192, 256), (96, 320, 192), (137, 151, 263), (288, 40, 384)),
    ),
    Family(
        "matvec_batched",
        "matmul",
        _matvec_batched,
        _matvec_program,
        _matvec_nest,
        ((8, 192, 768), (64, 256, 96), (5, 401, 557), (300, 40, 112)),
    ),
    Family(
        "matmul_scaled_add",
        "matmul",
        _scaled_add,
        _scaled_add_program,
        _scaled_add_nest,
        ((192, 256, 224), (128, 640, 96), (167, 229, 193), (512, 72, 256)),
    ),
)
