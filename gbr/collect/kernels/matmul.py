"""Matrix products: every transposition, batches, epilogues, vectors, and the two products of attention."""

# Innermost is the loop along which both the right-hand operand and the output are contiguous (an update of a row), or
# the contraction where the right-hand operand is contiguous along it (a dot product in a register).

from __future__ import annotations

from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest, loop, out, rhs
from gbr.collect.kernels._jit import ZERO, O, U, kernel


@kernel()
def _nn(a, b, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    M, N, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[1])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = ZERO
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for i in range(i0, i1):
                    for k in range(k0, k1):
                        x = a[i, k]
                        for j in range(j0, j1):
                            c[i, j] += x * b[k, j]


@kernel()
def _tn(a, b, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    M, N, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[0])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = ZERO
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for k in range(k0, k1):
                    for i in range(i0, i1):
                        x = a[k, i]
                        for j in range(j0, j1):
                            c[i, j] += x * b[k, j]


@kernel()
def _nt(a, b, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    M, N, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[1])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = ZERO
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for i in range(i0, i1):
                    for j in range(j0, j1):
                        total = ZERO
                        for k in range(k0, k1):
                            total += a[i, k] * b[j, k]
                        c[i, j] += total


@kernel()
def _batched(a, b, c, tb, tm, tn, tk):  # type: ignore[no-untyped-def]
    B, M, N, K = U(c.shape[0]), U(c.shape[1]), U(c.shape[2]), U(a.shape[2])
    for b0 in range(O, B, tb):
        b1 = min(b0 + tb, B)
        for i0 in range(O, M, tm):
            i1 = min(i0 + tm, M)
            for j0 in range(O, N, tn):
                j1 = min(j0 + tn, N)
                for s in range(b0, b1):
                    for i in range(i0, i1):
                        for j in range(j0, j1):
                            c[s, i, j] = ZERO
                for k0 in range(O, K, tk):
                    k1 = min(k0 + tk, K)
                    for s in range(b0, b1):
                        for i in range(i0, i1):
                            for k in range(k0, k1):
                                x = a[s, i, k]
                                for j in range(j0, j1):
                                    c[s, i, j] += x * b[s, k, j]


@kernel()
def _scores(q, k, c, th, ts, tt, td):  # type: ignore[no-untyped-def]
    H, S, T, D = U(c.shape[0]), U(c.shape[1]), U(c.shape[2]), U(q.shape[2])
    scale = np.float32(D) ** np.float32(-0.5)
    for h0 in range(O, H, th):
        h1 = min(h0 + th, H)
        for s0 in range(O, S, ts):
            s1 = min(s0 + ts, S)
            for t0 in range(O, T, tt):
                t1 = min(t0 + tt, T)
                for h in range(h0, h1):
                    for s in range(s0, s1):
                        for t in range(t0, t1):
                            c[h, s, t] = ZERO
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for h in range(h0, h1):
                        for s in range(s0, s1):
                            for t in range(t0, t1):
                                total = ZERO
                                for d in range(d0, d1):
                                    total += q[h, s, d] * k[h, t, d]
                                c[h, s, t] += total * scale


@kernel()
def _values(p, v, c, ts, th, td, tt):  # type: ignore[no-untyped-def]
    S, H, D, T = U(c.shape[0]), U(c.shape[1]), U(c.shape[2]), U(p.shape[2])
    for s0 in range(O, S, ts):
        s1 = min(s0 + ts, S)
        for h0 in range(O, H, th):
            h1 = min(h0 + th, H)
            for d0 in range(O, D, td):
                d1 = min(d0 + td, D)
                for s in range(s0, s1):
                    for h in range(h0, h1):
                        for d in range(d0, d1):
                            c[s, h, d] = ZERO
                for t0 in range(O, T, tt):
                    t1 = min(t0 + tt, T)
                    for s in range(s0, s1):
                        for h in range(h0, h1):
                            for t in range(t0, t1):
                                x = p[h, s, t]
                                for d in range(d0, d1):
                                    c[s, h, d] += x * v[h, t, d]


@kernel()
def _bias_relu(a, b, bias, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    M, N, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[1])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = bias[j]
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for i in range(i0, i1):
                    for k in range(k0, k1):
                        x = a[i, k]
                        for j in range(j0, j1):
                            c[i, j] += x * b[k, j]
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = max(c[i, j], ZERO)


@kernel()
def _residual(a, b, r, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    M, N, K = U(c.shape[0]), U(c.shape[1]), U(a.shape[1])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = r[i, j]
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for i in range(i0, i1):
                    for k in range(k0, k1):
                        x = a[i, k]
                        for j in range(j0, j1):
                            c[i, j] += x * b[k, j]


@kernel()
def _matvec(a, x, y, tm, tk):  # type: ignore[no-untyped-def]
    M, K = U(a.shape[0]), U(a.shape[1])
    for i0 in range(O, M, tm):
        i1 = min(i0 + tm, M)
        for i in range(i0, i1):
            y[i] = ZERO
        for k0 in range(O, K, tk):
            k1 = min(k0 + tk, K)
            for i in range(i0, i1):
                total = ZERO
                for k in range(k0, k1):
                    total += a[i, k] * x[k]
                y[i] += total


@kernel()
def _vecmat(x, a, y, tn, tk):  # type: ignore[no-untyped-def]
    K, N = U(a.shape[0]), U(a.shape[1])
    for j0 in range(O, N, tn):
        j1 = min(j0 + tn, N)
        for j in range(j0, j1):
            y[j] = ZERO
        for k0 in range(O, K, tk):
            k1 = min(k0 + tk, K)
            for k in range(k0, k1):
                v = x[k]
                for j in range(j0, j1):
                    y[j] += v * a[k, j]


@kernel()
def _gram(a, c, tm, tn, tk):  # type: ignore[no-untyped-def]
    K, N = U(a.shape[0]), U(a.shape[1])
    for i0 in range(O, N, tm):
        i1 = min(i0 + tm, N)
        for j0 in range(O, N, tn):
            j1 = min(j0 + tn, N)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    c[i, j] = ZERO
            for k0 in range(O, K, tk):
                k1 = min(k0 + tk, K)
                for k in range(k0, k1):
                    for i in range(i0, i1):
                        x = a[k, i]
                        for j in range(j0, j1):
                            c[i, j] += x * a[k, j]


_BATCHED = (((2,), (1,)), ((0,), (0,)))


def _spread(lax: Any, vector: Any, like: Any, dim: int) -> Any:
    return lax.broadcast_in_dim(vector, like.shape, (dim,))


def _bias_relu_program(lax: Any, a: Any, b: Any, bias: Any) -> Any:
    product = lax.dot(a, b)
    total = lax.add(product, _spread(lax, bias, product, 1))
    return lax.max(total, lax.full_like(total, 0))


def _scores_program(lax: Any, q: Any, k: Any) -> Any:
    product = lax.dot_general(q, lax.transpose(k, (0, 2, 1)), _BATCHED)
    return lax.mul(product, lax.full_like(product, q.shape[2] ** -0.5))


def _nest(m: int, n: int, k: int, *operands: tuple[int, ...]) -> Nest:
    return Nest(operands, (m, n), (loop("m", m, out(0)), loop("n", n, out(1), rhs(1)), loop("k", k, rhs(0))))


def _nest_batched(b: int, m: int, n: int, k: int, *operands: tuple[int, ...]) -> Nest:
    loops = (
        loop("batch", b, out(0), rhs(0)),
        loop("m", m, out(1)),
        loop("n", n, out(2), rhs(2)),
        loop("k", k, rhs(1)),
    )
    return Nest(operands, (b, m, n), loops)


def _nest_values(h: int, s: int, d: int, t: int) -> Nest:
    loops = (
        loop("s", s, out(0)),
        loop("head", h, out(1), rhs(0)),
        loop("d", d, out(2), rhs(2)),
        loop("t", t, rhs(1)),
    )
    return Nest(((h, s, t), (h, t, d)), (s, h, d), loops)


FAMILIES = (
    Family(
        "matmul_nn",
        "matmul",
        _nn,
        lambda lax, a, b: lax.dot(a, b),
        lambda m, n, k: _nest(m, n, k, (m, k), (k, n)),
        ((192, 320, 256), (256, 128, 512), (149, 211, 293), (64, 768, 384), (800, 40, 448)),
    ),
    Family(
        "matmul_tn",
        "matmul",
        _tn,
        lambda lax, a, b: lax.dot(lax.transpose(a, (1, 0)), b),
        lambda m, n, k: _nest(m, n, k, (k, m), (k, n)),
        ((256, 160, 320), (128, 384, 256), (191, 233, 151), (512, 64, 288)),
    ),
    Family(
        "matmul_nt",
        "matmul",
        _nt,
        lambda lax, a, b: lax.dot(a, lax.transpose(b, (1, 0))),
        lambda m, n, k: _nest(m, n, k, (m, k), (n, k)),
        ((160, 256, 320), (256, 192, 256), (131, 211, 331), (64, 960, 144), (480, 40, 640)),
    ),
    Family(
        "matmul_batched",
        "matmul",
        _batched,
        lambda lax, a, b: lax.dot_general(a, b, _BATCHED),
        lambda b, m, n, k: _nest_batched(b, m, n, k, (b, m, k), (b, k, n)),
        ((8, 96, 128, 112), (32, 33, 65, 129), (6, 64, 256, 128), (3, 131, 163, 109)),
    ),
    Family(
        "matmul_bias_relu",
        "matmul",
        _bias_relu,
        _bias_relu_program,
        lambda m, n, k: _nest(m, n, k, (m, k), (k, n), (n,)),
        ((224, 288, 192), (128, 512, 256), (173, 139, 331), (384, 96, 480)),
    ),
    Family(
        "matmul_residual",
        "matmul",
        _residual,
        lambda lax, a, b, r: lax.add(lax.dot(a, b), r),
        lambda m, n, k: _nest(m, n, k, (m, k), (k, n), (m, n)),
        ((160, 512, 160), (256, 192, 256), (211, 151, 199), (640, 60, 320)),
    ),
    Family(
        "matvec",
        "matmul",
        _matvec,
        lambda lax, a, x: lax.dot(a, x),
        lambda m, k: Nest(((m, k), (k,)), (m,), (loop("m", m, out(0)), loop("k", k, rhs(0)))),
        ((1024, 2048), (6000, 400), (301, 9001), (1537, 1291)),
    ),
    Family(
        "vecmat",
        "matmul",
        _vecmat,
        lambda lax, x, a: lax.dot(x, a),
        lambda k, n: Nest(((k,), (k, n)), (n,), (loop("n", n, out(0), rhs(1)), loop("k", k, rhs(0)))),
        ((2048, 1024), (500, 5000), (8191, 251), (1283, 1427)),
    ),
    Family(
        "gram",
        "matmul",
        _gram,
        lambda lax, a: lax.dot(lax.transpose(a, (1, 0)), a),
        lambda k, n: Nest(
            ((k, n),), (n, n), (loop("m", n, out(0)), loop("n", n, out(1), rhs(1)), loop("k", k, rhs(0)))
        ),
        ((384, 192), (128, 352), (701, 139), (2048, 80)),
    ),
    Family(
        "attention_scores",
        "matmul",
        _scores,
        _scores_program,
        lambda h, s, t, d: _nest_batched(h, s, t, d, (h, s, d), (h, t, d)),
        ((8, 128, 192, 64), (4, 256, 256, 48), (12, 77, 101, 80), (2, 200, 515, 128)),
    ),
    Family(
        "attention_values",
        "matmul",
        _values,
        lambda lax, p, v: lax.transpose(lax.dot_general(p, v, _BATCHED), (1, 0, 2)),
        _nest_values,
        ((8, 128, 64, 192), (4, 256, 48, 320), (12, 101, 80, 77), (2, 131, 128, 512)),
    ),
)
