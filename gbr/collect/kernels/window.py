"""Pooling and stencils: every output reads a small neighbourhood of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbr.collect.kernels._family import Family, Nest, inp, loop, out
from gbr.collect.kernels._jit import HIGHEST, LOWEST, ZERO, O, U, kernel

ONE, TWO = U(1), U(2)
QUARTER, SIXTH = np.float32(0.25), np.float32(1 / 6)


def _max_pool(window: int, stride: int) -> Callable[..., Any]:
    K, S = U(window), U(stride)

    @kernel()
    def nhwc(x, y, tn, th, tw, tc):  # type: ignore[no-untyped-def]
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
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for c in range(c0, c1):
                                        y[n, i, j, c] = LOWEST
                                    for p in range(O, K):
                                        for q in range(O, K):
                                            for c in range(c0, c1):
                                                y[n, i, j, c] = max(y[n, i, j, c], x[n, i * S + p, j * S + q, c])

    return nhwc


def _avg_pool(window: int, stride: int) -> Callable[..., Any]:
    K, S, share = U(window), U(stride), np.float32(1 / window**2)

    @kernel()
    def nhwc(x, y, tn, th, tw, tc):  # type: ignore[no-untyped-def]
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
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for c in range(c0, c1):
                                        y[n, i, j, c] = ZERO
                                    for p in range(O, K):
                                        for q in range(O, K):
                                            for c in range(c0, c1):
                                                y[n, i, j, c] += x[n, i * S + p, j * S + q, c] * share

    return nhwc


def _max_pool_nchw(window: int) -> Callable[..., Any]:
    K = U(window)

    @kernel()
    def nchw(x, y, tn, tc, th, tw):  # type: ignore[no-untyped-def]
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
                                for i in range(h0, h1):
                                    for j in range(w0, w1):
                                        y[n, c, i, j] = LOWEST
                                    for p in range(O, K):
                                        for q in range(O, K):
                                            for j in range(w0, w1):
                                                y[n, c, i, j] = max(y[n, c, i, j], x[n, c, i + p, j + q])

    return nchw


def _avg_pool_1d(window: int, stride: int) -> Callable[..., Any]:
    K, S, share = U(window), U(stride), np.float32(1 / window)

    @kernel()
    def nwc(x, y, tn, tw, tc):  # type: ignore[no-untyped-def]
        N, W, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
        for n0 in range(O, N, tn):
            n1 = min(n0 + tn, N)
            for w0 in range(O, W, tw):
                w1 = min(w0 + tw, W)
                for c0 in range(O, C, tc):
                    c1 = min(c0 + tc, C)
                    for n in range(n0, n1):
                        for j in range(w0, w1):
                            for c in range(c0, c1):
                                y[n, j, c] = ZERO
                            for q in range(O, K):
                                for c in range(c0, c1):
                                    y[n, j, c] += x[n, j * S + q, c] * share

    return nwc


def _min_pool_1d(window: int, stride: int) -> Callable[..., Any]:
    K, S = U(window), U(stride)

    @kernel()
    def nwc(x, y, tn, tw, tc):  # type: ignore[no-untyped-def]
        N, W, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
        for n0 in range(O, N, tn):
            n1 = min(n0 + tn, N)
            for w0 in range(O, W, tw):
                w1 = min(w0 + tw, W)
                for c0 in range(O, C, tc):
                    c1 = min(c0 + tc, C)
                    for n in range(n0, n1):
                        for j in range(w0, w1):
                            for c in range(c0, c1):
                                y[n, j, c] = HIGHEST
                            for q in range(O, K):
                                for c in range(c0, c1):
                                    y[n, j, c] = min(y[n, j, c], x[n, j * S + q, c])

    return nwc


@kernel()
def _stencil5(x, y, th, tw):  # type: ignore[no-untyped-def]
    H, W = U(y.shape[0]), U(y.shape[1])
    for h0 in range(O, H, th):
        h1 = min(h0 + th, H)
        for w0 in range(O, W, tw):
            w1 = min(w0 + tw, W)
            for i in range(h0, h1):
                for j in range(w0, w1):
                    y[i, j] = QUARTER * (x[i, j + ONE] + x[i + ONE, j] + x[i + ONE, j + TWO] + x[i + TWO, j + ONE])
                    y[i, j] -= x[i + ONE, j + ONE]


@kernel()
def _stencil7(x, y, td, th, tw):  # type: ignore[no-untyped-def]
    D, H, W = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for d0 in range(O, D, td):
        d1 = min(d0 + td, D)
        for h0 in range(O, H, th):
            h1 = min(h0 + th, H)
            for w0 in range(O, W, tw):
                w1 = min(w0 + tw, W)
                for d in range(d0, d1):
                    for i in range(h0, h1):
                        for j in range(w0, w1):
                            total = x[d, i + ONE, j + ONE] + x[d + TWO, i + ONE, j + ONE]
                            total += x[d + ONE, i, j + ONE] + x[d + ONE, i + TWO, j + ONE]
                            total += x[d + ONE, i + ONE, j] + x[d + ONE, i + ONE, j + TWO]
                            y[d, i, j] = SIXTH * total - x[d + ONE, i + ONE, j + ONE]


@kernel()
def _gradient(x, y, th, tw):  # type: ignore[no-untyped-def]
    H, W = U(y.shape[0]), U(y.shape[1])
    for h0 in range(O, H, th):
        h1 = min(h0 + th, H)
        for w0 in range(O, W, tw):
            w1 = min(w0 + tw, W)
            for i in range(h0, h1):
                for j in range(w0, w1):
                    across = x[i + ONE, j + TWO] - x[i + ONE, j]
                    down = x[i + TWO, j + ONE] - x[i, j + ONE]
                    y[i, j] = np.sqrt(across * across + down * down)


def _pool_program(start: float, reducer: str, window: tuple[int, ...], stride: tuple[int, ...]) -> Callable[..., Any]:
    return lambda lax, x: lax.reduce_window(x, np.float32(start), getattr(lax, reducer), window, stride, "VALID")


def _avg_program(window: int, stride: int, spatial: int = 2) -> Callable[..., Any]:
    pool = _pool_program(0, "add", (1, *(window,) * spatial, 1), (1, *(stride,) * spatial, 1))

    def program(lax: Any, x: Any) -> Any:
        total = pool(lax, x)
        return lax.mul(total, lax.full_like(total, 1 / window**spatial))

    return program


def _shift(lax: Any, x: Any, *offsets: int) -> Any:
    return lax.slice(x, offsets, tuple(extent - 2 + start for extent, start in zip(x.shape, offsets, strict=True)))


def _stencil_program(lax: Any, x: Any) -> Any:
    # Neighbours along every dimension, averaged, less the centre.
    ones = (1,) * x.ndim
    total = None
    for dim in range(x.ndim):
        for step in (0, 2):
            neighbour = _shift(lax, x, *ones[:dim], step, *ones[dim + 1 :])
            total = neighbour if total is None else lax.add(total, neighbour)
    return lax.sub(lax.mul(total, lax.full_like(total, 1 / (2 * x.ndim))), _shift(lax, x, *ones))


def _gradient_program(lax: Any, x: Any) -> Any:
    across = lax.sub(_shift(lax, x, 1, 2), _shift(lax, x, 1, 0))
    down = lax.sub(_shift(lax, x, 2, 1), _shift(lax, x, 0, 1))
    return lax.sqrt(lax.add(lax.mul(across, across), lax.mul(down, down)))


def _pool_nest(names: str, window: int, stride: int) -> Callable[..., Nest]:
    # Shapes are those of the output; the window runs along the dimensions called height and width.
    def nest(*shape: int) -> Nest:
        loops, source = [], []
        for dim, (name, extent) in enumerate(zip(names.split(), shape, strict=True)):
            slot = inp(dim, stride, window) if name in ("height", "width") else inp(dim)
            loops.append(loop(name, extent, out(dim), slot))
            source.append(slot.bound(extent))
        return Nest((tuple(source),), shape, tuple(loops))

    return nest


def _stencil_nest(*shape: int) -> Nest:
    loops = tuple(loop(f"dim{dim}", extent, out(dim)) for dim, extent in enumerate(shape))
    return Nest((tuple(extent + 2 for extent in shape),), shape, loops)


_NHWC, _NCHW, _NWC = "batch height width channels", "batch channels height width", "batch width channels"

FAMILIES = (
    Family(
        "max_pool",
        "window",
        _max_pool(3, 2),
        _pool_program(-np.inf, "max", (1, 3, 3, 1), (1, 2, 2, 1)),
        _pool_nest(_NHWC, 3, 2),
        ((1, 56, 48, 128), (8, 14, 18, 192), (2, 39, 43, 89), (1, 10, 12, 1500)),
    ),
    Family(
        "avg_pool",
        "window",
        _avg_pool(2, 2),
        _avg_program(2, 2),
        _pool_nest(_NHWC, 2, 2),
        ((1, 64, 72, 112), (8, 16, 14, 256), (3, 41, 47, 79), (1, 12, 20, 1100)),
    ),
    Family(
        "avg_pool_overlapping",
        "window",
        _avg_pool(3, 1),
        _avg_program(3, 1),
        _pool_nest(_NHWC, 3, 1),
        ((1, 40, 56, 144), (6, 16, 18, 160), (2, 37, 31, 109), (1, 14, 8, 1300)),
    ),
    Family(
        "max_pool_nchw",
        "window",
        _max_pool_nchw(3),
        _pool_program(-np.inf, "max", (1, 1, 3, 3), (1, 1, 1, 1)),
        _pool_nest(_NCHW, 3, 1),
        ((1, 80, 56, 64), (6, 96, 16, 30), (2, 31, 71, 73), (1, 8, 150, 300)),
    ),
    Family(
        "avg_pool_1d",
        "window",
        _avg_pool_1d(4, 2),
        _avg_program(4, 2, spatial=1),
        _pool_nest(_NWC, 4, 2),
        ((4, 512, 160), (16, 100, 256), (3, 1201, 101), (8, 40, 700)),
    ),
    Family(
        "min_pool_1d",
        "window",
        _min_pool_1d(5, 1),
        _pool_program(np.inf, "min", (1, 5, 1), (1, 1, 1)),
        _pool_nest(_NWC, 5, 1),
        ((3, 768, 128), (20, 96, 192), (5, 907, 89), (6, 30, 1500)),
    ),
    Family(
        "stencil5",
        "window",
        _stencil5,
        _stencil_program,
        _stencil_nest,
        ((1022, 1022), (200, 6000), (1427, 1103), (7000, 190)),
    ),
    Family(
        "stencil7",
        "window",
        _stencil7,
        _stencil_program,
        _stencil_nest,
        ((62, 126, 126), (24, 150, 300), (101, 97, 89), (16, 62, 1022)),
    ),
    Family(
        "gradient",
        "window",
        _gradient,
        _gradient_program,
        _stencil_nest,
        ((1022, 1022), (180, 5400), (1301, 1009), (6500, 170)),
    ),
)
