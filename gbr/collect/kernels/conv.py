"""Convolutions over a dense set of channels: 1-D, 2-D and 3-D, strided, dilated, pointwise, in three data layouts."""

# Tiles of every output dimension and of the input channels; the window is never tiled.  Innermost is the contiguous
# dimension of output and kernel: output channels (NHWC, HWIO), width (NCHW), or the input channels (OHWI).

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gbr.collect.kernels._family import Family, Nest, Shape, Slot, loop, out, rhs
from gbr.collect.kernels._jit import ZERO, O, U, kernel


def _conv2d(stride: int, dilation: int, padding: int) -> Callable[..., Any]:
    S, D, P = U(stride), U(dilation), U(padding)

    @kernel()
    def nhwc(x, w, y, tn, th, tw, to, tc):  # type: ignore[no-untyped-def]
        N, OH, OW, CO = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
        H, W, KH, KW, CI = U(x.shape[1]), U(x.shape[2]), U(w.shape[0]), U(w.shape[1]), U(w.shape[2])
        for n0 in range(O, N, tn):
            n1 = min(n0 + tn, N)
            for h0 in range(O, OH, th):
                h1 = min(h0 + th, OH)
                for w0 in range(O, OW, tw):
                    w1 = min(w0 + tw, OW)
                    for o0 in range(O, CO, to):
                        o1 = min(o0 + to, CO)
                        for n in range(n0, n1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for o in range(o0, o1):
                                        y[n, i, j, o] = ZERO
                        for c0 in range(O, CI, tc):
                            c1 = min(c0 + tc, CI)
                            for n in range(n0, n1):
                                for i in range(h0, h1):
                                    for j in range(w0, w1):
                                        for p in range(O, KH):
                                            a = i * S + p * D
                                            if a < P or a >= H + P:
                                                continue
                                            for q in range(O, KW):
                                                b = j * S + q * D
                                                if b < P or b >= W + P:
                                                    continue
                                                for c in range(c0, c1):
                                                    v = x[n, a - P, b - P, c]
                                                    for o in range(o0, o1):
                                                        y[n, i, j, o] += v * w[p, q, c, o]

    return nhwc


@kernel()
def _bias_relu(x, w, bias, y, tn, th, tw, to, tc):  # type: ignore[no-untyped-def]
    N, OH, OW, CO = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    KH, KW, CI = U(w.shape[0]), U(w.shape[1]), U(w.shape[2])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for h0 in range(O, OH, th):
            h1 = min(h0 + th, OH)
            for w0 in range(O, OW, tw):
                w1 = min(w0 + tw, OW)
                for o0 in range(O, CO, to):
                    o1 = min(o0 + to, CO)
                    for n in range(n0, n1):
                        for i in range(h0, h1):
                            for j in range(w0, w1):
                                for o in range(o0, o1):
                                    y[n, i, j, o] = bias[o]
                    for c0 in range(O, CI, tc):
                        c1 = min(c0 + tc, CI)
                        for n in range(n0, n1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for p in range(O, KH):
                                        for q in range(O, KW):
                                            for c in range(c0, c1):
                                                v = x[n, i + p, j + q, c]
                                                for o in range(o0, o1):
                                                    y[n, i, j, o] += v * w[p, q, c, o]
                    for n in range(n0, n1):
                        for i in range(h0, h1):
                            for j in range(w0, w1):
                                for o in range(o0, o1):
                                    y[n, i, j, o] = max(y[n, i, j, o], ZERO)


@kernel()
def _nchw(x, w, y, tn, to, th, tw, tc):  # type: ignore[no-untyped-def]
    N, CO, OH, OW = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    CI, KH, KW = U(w.shape[1]), U(w.shape[2]), U(w.shape[3])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for o0 in range(O, CO, to):
            o1 = min(o0 + to, CO)
            for h0 in range(O, OH, th):
                h1 = min(h0 + th, OH)
                for w0 in range(O, OW, tw):
                    w1 = min(w0 + tw, OW)
                    for n in range(n0, n1):
                        for o in range(o0, o1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    y[n, o, i, j] = ZERO
                    for c0 in range(O, CI, tc):
                        c1 = min(c0 + tc, CI)
                        for n in range(n0, n1):
                            for o in range(o0, o1):
                                for c in range(c0, c1):
                                    for p in range(O, KH):
                                        for q in range(O, KW):
                                            v = w[o, c, p, q]
                                            for i in range(h0, h1):
                                                for j in range(w0, w1):
                                                    y[n, o, i, j] += v * x[n, c, i + p, j + q]


@kernel()
def _ohwi(x, w, y, tn, th, tw, to, tc):  # type: ignore[no-untyped-def]
    N, OH, OW, CO = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    KH, KW, CI = U(w.shape[1]), U(w.shape[2]), U(w.shape[3])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for h0 in range(O, OH, th):
            h1 = min(h0 + th, OH)
            for w0 in range(O, OW, tw):
                w1 = min(w0 + tw, OW)
                for o0 in range(O, CO, to):
                    o1 = min(o0 + to, CO)
                    for n in range(n0, n1):
                        for i in range(h0, h1):
                            for j in range(w0, w1):
                                for o in range(o0, o1):
                                    y[n, i, j, o] = ZERO
                    for c0 in range(O, CI, tc):
                        c1 = min(c0 + tc, CI)
                        for n in range(n0, n1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for o in range(o0, o1):
                                        total = ZERO
                                        for p in range(O, KH):
                                            for q in range(O, KW):
                                                for c in range(c0, c1):
                                                    total += x[n, i + p, j + q, c] * w[o, p, q, c]
                                        y[n, i, j, o] += total


@kernel()
def _conv1d(x, w, y, tn, tw, to, tc):  # type: ignore[no-untyped-def]
    N, OW, CO, KW, CI = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(w.shape[0]), U(w.shape[1])
    for n0 in range(O, N, tn):
        n1 = min(n0 + tn, N)
        for w0 in range(O, OW, tw):
            w1 = min(w0 + tw, OW)
            for o0 in range(O, CO, to):
                o1 = min(o0 + to, CO)
                for n in range(n0, n1):
                    for j in range(w0, w1):
                        for o in range(o0, o1):
                            y[n, j, o] = ZERO
                for c0 in range(O, CI, tc):
                    c1 = min(c0 + tc, CI)
                    for n in range(n0, n1):
                        for j in range(w0, w1):
                            for q in range(O, KW):
                                for c in range(c0, c1):
                                    v = x[n, j + q, c]
                                    for o in range(o0, o1):
                                        y[n, j, o] += v * w[q, c, o]


@kernel()
def _conv3d(x, w, y, td, th, tw, to, tc):  # type: ignore[no-untyped-def]
    OD, OH, OW, CO = U(y.shape[1]), U(y.shape[2]), U(y.shape[3]), U(y.shape[4])
    KD, KH, KW, CI = U(w.shape[0]), U(w.shape[1]), U(w.shape[2]), U(w.shape[3])
    for d0 in range(O, OD, td):
        d1 = min(d0 + td, OD)
        for h0 in range(O, OH, th):
            h1 = min(h0 + th, OH)
            for w0 in range(O, OW, tw):
                w1 = min(w0 + tw, OW)
                for o0 in range(O, CO, to):
                    o1 = min(o0 + to, CO)
                    for d in range(d0, d1):
                        for i in range(h0, h1):
                            for j in range(w0, w1):
                                for o in range(o0, o1):
                                    y[O, d, i, j, o] = ZERO
                    for c0 in range(O, CI, tc):
                        c1 = min(c0 + tc, CI)
                        for d in range(d0, d1):
                            for i in range(h0, h1):
                                for j in range(w0, w1):
                                    for r in range(O, KD):
                                        for p in range(O, KH):
                                            for q in range(O, KW):
                                                for c in range(c0, c1):
                                                    v = x[O, d + r, i + p, j + q, c]
                                                    for o in range(o0, o1):
                                                        y[O, d, i, j, o] += v * w[r, p, q, c, o]


def _program(stride: int = 1, dilation: int = 1, padding: int = 0, layout: str = "NHWC HWIO") -> Callable[..., Any]:
    data, window = layout.split()

    def program(lax: Any, x: Any, w: Any) -> Any:
        spatial = x.ndim - 2
        return lax.conv_general_dilated(
            x,
            w,
            (stride,) * spatial,
            ((padding, padding),) * spatial,
            rhs_dilation=(dilation,) * spatial,
            dimension_numbers=(data, window, data),
        )

    return program


def _bias_relu_program(lax: Any, x: Any, w: Any, bias: Any) -> Any:
    product = _program()(lax, x, w)
    total = lax.add(product, lax.broadcast_in_dim(bias, product.shape, (3,)))
    return lax.max(total, lax.full_like(total, 0))


def _window(dims: tuple[int, ...], size: int) -> tuple[tuple[Slot, int], ...]:
    return tuple((rhs(dim), size) for dim in dims)


def _nhwc_nest(
    stride: int = 1, dilation: int = 1, padding: int = 0, bias: bool = False
) -> Callable[[int, int, int, int, int, int], Nest]:
    def nest(n: int, h: int, w: int, ci: int, co: int, k: int) -> Nest:
        loops = (
            loop("batch", n, out(0)),
            loop("height", h, out(1)),
            loop("width", w, out(2)),
            loop("features", co, out(3), rhs(3)),
            loop("channels", ci, rhs(2)),
        )
        rows, columns = ((extent - 1) * stride + (k - 1) * dilation + 1 - 2 * padding for extent in (h, w))
        extra: tuple[Shape, ...] = ((co,),) if bias else ()
        return Nest(((n, rows, columns, ci), (k, k, ci, co), *extra), (n, h, w, co), loops, _window((0, 1), k))

    return nest


def _row_nest(n: int, h: int, w: int, ci: int, co: int, k: int) -> Nest:
    square = _nhwc_nest()(n, h, w, ci, co, k)
    operands = ((n, h, w + k - 1, ci), (1, k, ci, co))
    return Nest(operands, square.output, square.loops, ((rhs(0), 1), (rhs(1), k)))


def _nchw_nest(n: int, h: int, w: int, ci: int, co: int, k: int) -> Nest:
    loops = (
        loop("batch", n, out(0)),
        loop("features", co, out(1), rhs(0)),
        loop("height", h, out(2)),
        loop("width", w, out(3)),
        loop("channels", ci, rhs(1)),
    )
    return Nest(((n, ci, h + k - 1, w + k - 1), (co, ci, k, k)), (n, co, h, w), loops, _window((2, 3), k))


def _ohwi_nest(n: int, h: int, w: int, ci: int, co: int, k: int) -> Nest:
    loops = (
        loop("batch", n, out(0)),
        loop("height", h, out(1)),
        loop("width", w, out(2)),
        loop("features", co, out(3), rhs(0)),
        loop("channels", ci, rhs(3)),
    )
    return Nest(((n, h + k - 1, w + k - 1, ci), (co, k, k, ci)), (n, h, w, co), loops, _window((1, 2), k))


def _conv1d_nest(n: int, w: int, ci: int, co: int, k: int) -> Nest:
    loops = (
        loop("batch", n, out(0)),
        loop("width", w, out(1)),
        loop("features", co, out(2), rhs(2)),
        loop("channels", ci, rhs(1)),
    )
    return Nest(((n, w + k - 1, ci), (k, ci, co)), (n, w, co), loops, _window((0,), k))


def _conv3d_nest(d: int, h: int, w: int, ci: int, co: int, k: int) -> Nest:
    loops = (
        loop("depth", d, out(1)),
        loop("height", h, out(2)),
        loop("width", w, out(3)),
        loop("features", co, out(4), rhs(4)),
        loop("channels", ci, rhs(3)),
    )
    fixed = ((out(0), 1), *_window((0, 1, 2), k))
    return Nest(((1, d + k - 1, h + k - 1, w + k - 1, ci), (k, k, k, ci, co)), (1, d, h, w, co), loops, fixed)


# Shapes: batch, output height and width, input channels, output features, window.
FAMILIES = (
    Family(
        "conv2d",
        "conv",
        _conv2d(1, 1, 1),
        _program(padding=1),
        _nhwc_nest(padding=1),
        ((1, 24, 28, 32, 64, 3), (2, 14, 12, 48, 80, 3), (1, 17, 23, 61, 37, 3), (1, 7, 6, 112, 256, 3)),
    ),
    Family(
        "conv2d_stride2",
        "conv",
        _conv2d(2, 1, 0),
        _program(stride=2),
        _nhwc_nest(stride=2),
        ((1, 28, 20, 48, 64, 3), (1, 32, 40, 3, 48, 7), (1, 13, 17, 53, 67, 3), (2, 8, 6, 128, 96, 3)),
    ),
    Family(
        "conv2d_dilated",
        "conv",
        _conv2d(1, 2, 0),
        _program(dilation=2),
        _nhwc_nest(dilation=2),
        ((1, 24, 20, 40, 64, 3), (2, 13, 11, 64, 72, 3), (1, 23, 19, 17, 59, 5), (1, 8, 12, 128, 96, 3)),
    ),
    Family(
        "conv2d_pointwise",
        "conv",
        _conv2d(1, 1, 0),
        _program(),
        _nhwc_nest(),
        ((1, 32, 36, 96, 144, 1), (4, 10, 12, 192, 128, 1), (1, 31, 27, 113, 149, 1), (1, 9, 7, 512, 384, 1)),
    ),
    Family(
        "conv2d_bias_relu",
        "conv",
        _bias_relu,
        _bias_relu_program,
        _nhwc_nest(bias=True),
        ((1, 24, 20, 32, 80, 3), (2, 12, 14, 56, 48, 3), (1, 21, 17, 27, 43, 5), (1, 6, 8, 128, 160, 3)),
    ),
    Family(
        "conv2d_row",
        "conv",
        _conv2d(1, 1, 0),
        _program(),
        _row_nest,
        ((1, 32, 28, 64, 80, 3), (2, 16, 12, 96, 112, 3), (1, 29, 37, 43, 53, 5), (1, 9, 8, 192, 288, 3)),
    ),
    Family(
        "conv2d_nchw",
        "conv",
        _nchw,
        _program(layout="NCHW OIHW"),
        _nchw_nest,
        ((1, 28, 48, 24, 32, 3), (2, 14, 16, 48, 40, 3), (1, 61, 53, 13, 19, 3), (1, 112, 96, 8, 12, 3)),
    ),
    Family(
        "conv2d_ohwi",
        "conv",
        _ohwi,
        _program(layout="NHWC OHWI"),
        _ohwi_nest,
        ((1, 24, 20, 64, 48, 3), (2, 14, 12, 96, 40, 3), (1, 23, 31, 35, 29, 3), (1, 8, 6, 256, 112, 3)),
    ),
    Family(
        "conv1d",
        "conv",
        _conv1d,
        _program(layout="NWC WIO"),
        _conv1d_nest,
        ((2, 192, 64, 96, 5), (4, 100, 80, 72, 3), (1, 521, 31, 67, 9), (1, 72, 224, 256, 3)),
    ),
    Family(
        "conv3d",
        "conv",
        _conv3d,
        _program(layout="NDHWC DHWIO"),
        _conv3d_nest,
        ((8, 10, 12, 16, 32, 3), (4, 6, 8, 32, 48, 3), (7, 11, 9, 7, 41, 3), (5, 12, 16, 12, 24, 3)),
    ),
)
