"""Convolutions of one channel each: no sum over channels, so memory rather than arithmetic sets the pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gbr.collect.kernels._family import Family, Nest, loop, out, rhs
from gbr.collect.kernels._jit import ZERO, O, U, kernel


def _nhwc(stride: int) -> Callable[..., Any]:
    S = U(stride)

    @kernel()
    def depthwise(x, w, y, tn, th, tw, tc):  # type: ignore[no-untyped-def]
        N, OH, OW, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
        KH, KW = U(w.shape[0]), U(w.shape[1])
        for n0 in range(O, N, tn):
            n1 = min(n0 + tn, N)
            for h0 in range(O, OH, th):
                h1 = min(h0 + th, OH)
                for w0 in range(O, OW, tw):
                    w1 = min(w0 + tw, OW)
                    for c0 in range(O, C, tc):
                        c1 = min(c0 + tc, C)
                        for n in range(n0, n1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for c in range(c0, c1):
                                        y[n, i, j, c] = ZERO
                                    for p in range(O, KH):
                                        for q in range(O, KW):
                                            for c in range(c0, c1):
                                                y[n, i, j, c] += x[n, i * S + p, j * S + q, c] * w[p, q, O, c]

    return depthwise


@kernel()
def _nchw(x, w, y, tn, tc, th, tw):  # type: ignore[no-untyped-def]
    N, C, OH, OW = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    KH, KW = U(w.shape[2]), U(w.shape[3])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for c0 in range(O, C, tc):
            c1 = min(c0 + tc, C)
            for h0 in range(O, OH, th):
                h1 = min(h0 + th, OH)
                for w0 in range(O, OW, tw):
                    w1 = min(w0 + tw, OW)
                    for n in range(n0, n1):
                        for c in range(c0, c1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    y[n, c, i, j] = ZERO
                                for p in range(O, KH):
                                    for q in range(O, KW):
                                        v = w[c, O, p, q]
                                        for j in range(w0, w1):
                                            y[n, c, i, j] += v * x[n, c, i + p, j + q]


@kernel()
def _nwc(x, w, y, tn, tw, tc):  # type: ignore[no-untyped-def]
    N, OW, C, KW = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(w.shape[0])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for w0 in range(O, OW, tw):
            w1 = min(w0 + tw, OW)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for n in range(n0, n1):
                    for j in range(w0, w1):
                        for c in range(c0, c1):
                            y[n, j, c] = ZERO
                        for q in range(O, KW):
                            for c in range(c0, c1):
                                y[n, j, c] += x[n, j + q, c] * w[q, O, c]


def _program(stride: int, data: str, window: str) -> Callable[..., Any]:
    def program(lax: Any, x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(
            x,
            w,
            (stride,) * (x.ndim - 2),
            "VALID",
            dimension_numbers=(data, window, data),
            feature_group_count=x.shape[data.index("C")],
        )

    return program


def _nhwc_nest(stride: int) -> Callable[[int, int, int, int, int], Nest]:
    def nest(n: int, h: int, w: int, c: int, k: int) -> Nest:
        loops = (
            loop("batch", n, out(0)),
            loop("height", h, out(1)),
            loop("width", w, out(2)),
            loop("channels", c, out(3), rhs(3)),
        )
        operands = ((n, (h - 1) * stride + k, (w - 1) * stride + k, c), (k, k, 1, c))
        return Nest(operands, (n, h, w, c), loops, ((rhs(0), k), (rhs(1), k), (rhs(2), 1)))

    return nest


def _nchw_nest(n: int, c: int, h: int, w: int, k: int) -> Nest:
    loops = (
        loop("batch", n, out(0)),
        loop("channels", c, out(1), rhs(0)),
        loop("height", h, out(2)),
        loop("width", w, out(3)),
    )
    fixed = ((rhs(1), 1), (rhs(2), k), (rhs(3), k))
    return Nest(((n, c, h + k - 1, w + k - 1), (c, 1, k, k)), (n, c, h, w), loops, fixed)


def _nwc_nest(n: int, w: int, c: int, k: int) -> Nest:
    loops = (loop("batch", n, out(0)), loop("width", w, out(1)), loop("channels", c, out(2), rhs(2)))
    return Nest(((n, w + k - 1, c), (k, 1, c)), (n, w, c), loops, ((rhs(0), k), (rhs(1), 1)))


FAMILIES = (
    Family(
        "depthwise",
        "conv",
        _nhwc(1),
        _program(1, "NHWC", "HWIO"),
        _nhwc_nest(1),
        ((1, 56, 48, 96, 3), (4, 14, 20, 240, 5), (2, 37, 41, 91, 3), (1, 12, 16, 1024, 3)),
    ),
    Family(
        "depthwise_stride2",
        "conv",
        _nhwc(2),
        _program(2, "NHWC", "HWIO"),
        _nhwc_nest(2),
        ((1, 48, 56, 112, 3), (4, 20, 14, 192, 5), (2, 35, 29, 101, 3), (1, 10, 14, 896, 5)),
    ),
    Family(
        "depthwise_nchw",
        "conv",
        _nchw,
        _program(1, "NCHW", "OIHW"),
        _nchw_nest,
        ((1, 96, 48, 56, 3), (4, 160, 14, 28, 3), (2, 47, 67, 59, 5), (1, 16, 120, 256, 3)),
    ),
    Family(
        "depthwise_1d",
        "conv",
        _nwc,
        _program(1, "NWC", "WIO"),
        _nwc_nest,
        ((4, 640, 112, 4), (12, 128, 224, 7), (3, 1103, 97, 5), (6, 28, 1400, 3)),
    ),
)
