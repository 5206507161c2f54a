"""The kernels that are measured: a specification, a JAX program and shapes for every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Final

import numpy as np

from gbr.collect._jax import lax
from gbr.collect.kernels import Family


def _wide(x: Any, like: Any, *dims: int) -> Any:
    return lax.broadcast_in_dim(x, like.shape, dims)


def _along(statistic: Any, x: Any, *axes: int) -> Any:
    """Broadcast a statistic over ``axes`` to the shape of ``x``."""
    return _wide(statistic, x, *(dim for dim in range(x.ndim) if dim not in axes))


def _relu(x: Any) -> Any:
    return lax.max(x, lax.full_like(x, 0))


def _mean(x: Any, *axes: int) -> Any:
    return x.sum(axes) * (1 / prod(x.shape[axis] for axis in axes))


def _centred(x: Any, *axes: int) -> Any:
    return x - _along(_mean(x, *axes), x, *axes)


def _standardized(x: Any, *axes: int) -> Any:
    centred = _centred(x, *axes)
    return centred * _along(lax.rsqrt(_mean(centred * centred, *axes) + 1e-5), x, *axes)


def _shifted_exp(x: Any, axis: int) -> tuple[Any, Any]:
    top = x.max(axis)
    return top, lax.exp(x - _along(top, x, axis))


def _softmax(x: Any, axis: int) -> Any:
    _, e = _shifted_exp(x, axis)
    return e / _along(e.sum(axis), x, axis)


def _log_sum_exp(x: Any) -> tuple[Any, Any]:
    top, e = _shifted_exp(x, 1)
    return top, lax.log(e.sum(1))


def _affine(x: Any, mean: Any, scale: Any, bias: Any, dim: int) -> Any:
    return (x - _wide(mean, x, dim)) * _wide(scale, x, dim) + _wide(bias, x, dim)


def _bias_relu(product: Any, bias: Any) -> Any:
    return _relu(product + _wide(bias, product, product.ndim - 1))


def _conv(layout: str = "NHWC HWIO", stride: int = 1, dilation: int = 1, padding: int = 0) -> Callable[..., Any]:
    data, window = layout.split()
    rank = len(data) - 2
    return lambda x, f: lax.conv_general_dilated(
        x, f, (stride,) * rank, ((padding, padding),) * rank, rhs_dilation=(dilation,) * rank,
        dimension_numbers=(data, window, data),
        feature_group_count=x.shape[data.index("C")] // f.shape[window.index("I")],
    )  # fmt: skip


def _pool(start: float, reducer: Any, window: tuple[int, ...], stride: tuple[int, ...]) -> Callable[..., Any]:
    return lambda x: lax.reduce_window(x, np.float32(start), reducer, window, stride, "VALID")


def _mean_pool(window: tuple[int, ...], stride: tuple[int, ...]) -> Callable[..., Any]:
    return lambda x: _pool(0, lax.add, window, stride)(x) * (1 / prod(window))


def _shifted(x: Any, *offsets: int) -> Any:
    return lax.slice(x, offsets, tuple(extent - 2 + start for extent, start in zip(x.shape, offsets, strict=True)))


def _laplace(x: Any) -> Any:
    """Mean of the neighbours along every dimension, minus the centre."""
    centre = (1,) * x.ndim
    first, *others = (_shifted(x, *centre[:dim], step, *centre[dim + 1 :]) for dim in range(x.ndim) for step in (0, 2))
    return sum(others, first) * (1 / (2 * x.ndim)) - _shifted(x, *centre)


def _slope(x: Any) -> Any:
    across = _shifted(x, 1, 2) - _shifted(x, 1, 0)
    down = _shifted(x, 2, 1) - _shifted(x, 0, 1)
    return lax.sqrt(across * across + down * down)


def _gated_mix(x: Any, gate: Any, z: Any) -> Any:
    g = _wide(gate, x, 0, 2)
    rest = (1 - g) * _wide(z, x, 1, 2)
    return g * x + rest


def _additive_scores(u: Any, v: Any) -> Any:
    shape = (*u.shape[::-1], v.shape[0])
    return lax.broadcast_in_dim(u.T, shape, (0, 1)) + lax.broadcast_in_dim(v.T, shape, (0, 2))


def _outer_permuted(u: Any, v: Any) -> Any:
    # The product in the order of its operands, (c, a, b), then moved to (a, b, c).
    shape = (u.shape[0], u.shape[1], v.shape[0])
    product = lax.broadcast_in_dim(u, shape, (0, 1)) * lax.broadcast_in_dim(v, shape, (2, 0))
    return product.transpose(1, 2, 0)


def _transpose(permutation: str, measured: str) -> Family:
    """Transposition of ``x``: dimension ``d`` of the output is dimension ``permutation[d]`` of ``x``."""
    order = tuple(map(int, permutation))
    loops = "abcd"[: len(order)]
    source = [loops[order.index(dim)] for dim in range(len(order))]
    spec = f"{' '.join(loops)} | y[{', '.join(loops)}] = x[{', '.join(source)}]"
    return Family("movement", f"transpose_{permutation}", measured, spec, lambda x: x.transpose(order))


_matmul = partial(Family, "matmul", right="k n")
_convolution = partial(Family, "conv")
_reduce = partial(Family, "reduce")
_rowwise = partial(Family, "rowwise")
_window = partial(Family, "window")
_elementwise = partial(Family, "elementwise")

# fmt: off
_NHWC: Final = ("n h w o | y[n, h, w, o] = 0 | "
                "n h w p q c o: y[n, h, w, o] += x[n, inside({}, {}), inside({}, {}), c] * f[p, q, c, o]")

_FAMILIES: Final = (
    # Innermost is the loop along which both the right-hand operand and the output are contiguous (an update of a row),
    # or the contraction where the right-hand operand is contiguous along it (a dot product in a register).
    _matmul("matmul_nn", "192x320x256 256x128x512 149x211x293 64x768x384 800x40x448",
        "m n | y[m, n] = 0 | m k n: y[m, n] += a[m, k] * b[k, n]", lambda a, b: lax.dot(a, b)),
    _matmul("matmul_tn", "256x160x320 128x384x256 191x233x151 512x64x288",
        "m n | y[m, n] = 0 | k m n: y[m, n] += a[k, m] * b[k, n]", lambda a, b: lax.dot(a.T, b)),
    _matmul("matmul_nt", "160x256x320 256x192x256 131x211x331 64x960x144 480x40x640",
        "m n | y[m, n] = 0 | m n / k: y[m, n] += a[m, k] * b[n, k]", lambda a, b: lax.dot(a, b.T)),
    _matmul("matmul_batched", "8x96x128x112 32x33x65x129 6x64x256x128 3x131x163x109",
        "b m n | y[b, m, n] = 0 | b m k n: y[b, m, n] += u[b, m, k] * v[b, k, n]",
        lambda u, v: lax.batch_matmul(u, v), right="b k n"),
    _matmul("matmul_bias_relu", "224x288x192 128x512x256 173x139x331 384x96x480",
        "m n | y[m, n] = bias[n] | m k n: y[m, n] += a[m, k] * b[k, n] | y[m, n] = max(y[m, n], 0)",
        lambda a, b, bias: _bias_relu(lax.dot(a, b), bias)),
    _matmul("matmul_residual", "160x512x160 256x192x256 211x151x199 640x60x320",
        "m n | y[m, n] = r[m, n] | m k n: y[m, n] += a[m, k] * b[k, n]", lambda a, b, r: lax.dot(a, b) + r),
    _matmul("matvec", "1024x2048 6000x400 301x9001 1537x1291",
        "m | y[m] = 0 | m / k: y[m] += a[m, k] * x[k]", lambda a, x: lax.dot(a, x), right="k"),
    _matmul("vecmat", "2048x1024 500x5000 8191x251 1283x1427",
        "n | y[n] = 0 | k n: y[n] += x[k] * a[k, n]", lambda x, a: lax.dot(x, a), sizes="k n"),
    _matmul("gram", "384x192 128x352 701x139 2048x80",
        "m n | y[m, n] = 0 | k m n: y[m, n] += a[k, m] * a[k, n]", lambda a: lax.dot(a.T, a), sizes="k m=n"),
    _matmul("attention_scores", "8x128x192x64 4x256x256x48 12x77x101x80 2x200x515x128",
        "b m n | y[b, m, n] = 0 | b m n / k: y[b, m, n] += u[b, m, k] * v[b, n, k] * size(k) ** -0.5",
        lambda u, v: lax.batch_matmul(u, v.transpose(0, 2, 1)) * u.shape[2] ** -0.5, right="b k n"),
    _matmul("attention_values", "8x128x64x192 4x256x48x320 12x101x80x77 2x131x128x512",
        "s h d | y[s, h, d] = 0 | s h t d: y[s, h, d] += u[h, s, t] * v[h, t, d]",
        lambda u, v: lax.batch_matmul(u, v).transpose(1, 0, 2), sizes="h s d t", right="h t d"),
    _matmul("matmul_transposed", "160x192x256 96x320x192 137x151x263 288x40x384",
        "n m | y[n, m] = 0 | k n m: y[n, m] += b[k, n] * a[k, m]", lambda a, b: lax.dot(a.T, b).T, order="m n k"),
    _matmul("matvec_batched", "8x192x768 64x256x96 5x401x557 300x40x112",
        "b m | y[b, m] = 0 | b m / k: y[b, m] += a[b, m, k] * x[b, k]",
        lambda a, x: lax.dot_general(a, x, (((2,), (1,)), ((0,), (0,)))), right="b k"),
    _matmul("matmul_scaled_add", "192x256x224 128x640x96 167x229x193 512x72x256",
        "m n | y[m, n] = 1.5 * r[m, n] | m k n: y[m, n] += 0.75 * a[m, k] * b[k, n]",
        lambda a, b, r: lax.dot(a, b) * 0.75 + r * 1.5),
    # Innermost is the contiguous dimension of output and filters: output channels (NHWC, HWIO), width (NCHW), or the
    # input channels (OHWI).  Shapes: batch, output height and width, input channels, output features, window.
    _convolution("conv2d", "1x24x28x32x64x3 2x14x12x48x80x3 1x17x23x61x37x3 1x7x6x112x256x3",
        _NHWC.format("h + p", 1, "w + q", 1), _conv(padding=1), sizes="n h w c o p=q"),
    _convolution("conv2d_stride2", "1x28x20x48x64x3 1x32x40x3x48x7 1x13x17x53x67x3 2x8x6x128x96x3",
        _NHWC.format("h * 2 + p", 0, "w * 2 + q", 0), _conv(stride=2), sizes="n h w c o p=q"),
    _convolution("conv2d_dilated", "1x24x20x40x64x3 2x13x11x64x72x3 1x23x19x17x59x5 1x8x12x128x96x3",
        _NHWC.format("h + p * 2", 0, "w + q * 2", 0), _conv(dilation=2), sizes="n h w c o p=q"),
    _convolution("conv2d_pointwise", "1x32x36x96x144x1 4x10x12x192x128x1 1x31x27x113x149x1 1x9x7x512x384x1",
        _NHWC.format("h + p", 0, "w + q", 0), _conv(), sizes="n h w c o p=q"),
    _convolution("conv2d_bias_relu", "1x24x20x32x80x3 2x12x14x56x48x3 1x21x17x27x43x5 1x6x8x128x160x3",
        "n h w o | y[n, h, w, o] = bias[o] | n h w p q c o: y[n, h, w, o] += x[n, h + p, w + q, c] * f[p, q, c, o] | "
        "y[n, h, w, o] = max(y[n, h, w, o], 0)", lambda x, f, bias: _bias_relu(_conv()(x, f), bias),
        sizes="n h w c o p=q"),
    _convolution("conv2d_row", "1x32x28x64x80x3 2x16x12x96x112x3 1x29x37x43x53x5 1x9x8x192x288x3",
        _NHWC.format("h + p", 0, "w + q", 0), _conv(), sizes="n h w c o q"),
    _convolution("conv2d_nchw", "1x28x48x24x32x3 2x14x16x48x40x3 1x61x53x13x19x3 1x112x96x8x12x3",
        "n o h w | y[n, o, h, w] = 0 | n o c p q h w: y[n, o, h, w] += f[o, c, p, q] * x[n, c, h + p, w + q]",
        _conv(layout="NCHW OIHW"), sizes="n h w c o p=q"),
    _convolution("conv2d_ohwi", "1x24x20x64x48x3 2x14x12x96x40x3 1x23x31x35x29x3 1x8x6x256x112x3",
        "n h w o | y[n, h, w, o] = 0 | n h w o / p q c: y[n, h, w, o] += x[n, h + p, w + q, c] * f[o, p, q, c]",
        _conv(layout="NHWC OHWI"), sizes="n h w c o p=q"),
    _convolution("conv1d", "2x192x64x96x5 4x100x80x72x3 1x521x31x67x9 1x72x224x256x3",
        "n w o | y[n, w, o] = 0 | n w q c o: y[n, w, o] += x[n, w + q, c] * f[q, c, o]", _conv(layout="NWC WIO"),
        sizes="n w c o q"),
    _convolution("conv3d", "8x10x12x16x32x3 4x6x8x32x48x3 7x11x9x7x41x3 5x12x16x12x24x3",
        "d h w o | y[0, d, h, w, o] = 0 | "
        "d h w r p q c o: y[0, d, h, w, o] += x[0, d + r, h + p, w + q, c] * f[r, p, q, c, o]",
        _conv(layout="NDHWC DHWIO"), sizes="d h w c o r=p=q"),
    # One channel each: without a sum over channels, memory rather than arithmetic limits the speed.
    _convolution("depthwise", "1x56x48x96x3 4x14x20x240x5 2x37x41x91x3 1x12x16x1024x3",
        "n h w c | for n h w | y[n, h, w, c] = 0 | p q c: y[n, h, w, c] += x[n, h + p, w + q, c] * f[p, q, 0, c]",
        _conv(), sizes="n h w c p=q"),
    _convolution("depthwise_stride2", "1x48x56x112x3 4x20x14x192x5 2x35x29x101x3 1x10x14x896x5",
        "n h w c | for n h w | y[n, h, w, c] = 0 | "
        "p q c: y[n, h, w, c] += x[n, h * 2 + p, w * 2 + q, c] * f[p, q, 0, c]", _conv(stride=2), sizes="n h w c p=q"),
    _convolution("depthwise_nchw", "1x96x48x56x3 4x160x14x28x3 2x47x67x59x5 1x16x120x256x3",
        "n c h w | for n c h | y[n, c, h, w] = 0 | p q w: y[n, c, h, w] += f[c, 0, p, q] * x[n, c, h + p, w + q]",
        _conv(layout="NCHW OIHW"), sizes="n c h w p=q"),
    _convolution("depthwise_1d", "4x640x112x4 12x128x224x7 3x1103x97x5 6x28x1400x3",
        "n w c | for n w | y[n, w, c] = 0 | q c: y[n, w, c] += x[n, w + q, c] * f[q, 0, c]", _conv(layout="NWC WIO"),
        sizes="n w c q"),
    # The output is written in order, the input is read with a stride.
    _transpose("10", "1024x768 512x2048 1792x353 96x8192 5000x160"),
    _transpose("021", "8x256x320 64x96x128 5x419x331 24x512x64"),
    _transpose("102", "96x256x40 512x64x16 211x173x23 48x1024x12"),
    _transpose("210", "96x64x160 256x16x192 73x101x113 640x9x128"),
    _transpose("120", "128x48x128 40x512x36 89x67x149 24x64x512"),
    _transpose("201", "64x96x128 320x24x72 83x109x71 512x8x160"),
    _transpose("0132", "8x12x64x96 4x3x160x256 3x7x151x173 32x40x16x28"),
    _transpose("0213", "4x12x192x64 2x128x96x24 3x37x211x29 16x256x16x12"),
    _transpose("0231", "2x56x48x128 8x28x32x96 1x67x59x211 4x16x16x512"),
    _transpose("0312", "2x96x48x64 8x128x24x32 1x173x61x71 4x768x14x14"),
    _transpose("0321", "2x64x40x96 6x32x64x48 1x97x53x131 4x256x8x96"),
    _transpose("1032", "12x8x64x96 40x32x16x24 3x2x419x353 3x64x24x128"),
    # Kept dimensions are tiled outside reduced ones, in the order of the output; the innermost loop of a tile is the
    # one along which most operands are contiguous.  A part of a row is reduced in a register.
    _reduce("sum_minor", "1024x2048 20000x96 7919x211 1531x1283",
        "a | y[a] = 0 | a / b: y[a] += x[a, b]", lambda x: x.sum(1)),
    _reduce("max_minor", "2048x1024 16000x120 257x8009 1399x1511",
        "a | y[a] = LOWEST | a / b: y[a] = max(y[a], x[a, b])", lambda x: x.max(1)),
    _reduce("sum_major", "2048x1024 300x8000 8191x251 1451x1307",
        "b | y[b] = 0 | a b: y[b] += x[a, b]", lambda x: x.sum(0)),
    _reduce("max_major", "1024x2048 240x9000 9973x199 1223x1601",
        "b | y[b] = LOWEST | a b: y[b] = max(y[b], x[a, b])", lambda x: x.max(0)),
    _reduce("sum_middle", "16x512x256 200x64x160 7x223x1201 40x1500x33",
        "a c | y[a, c] = 0 | a b c: y[a, c] += x[a, b, c]", lambda x: x.sum(1)),
    _reduce("sum_leading", "32x128x512 9x300x720 61x53x577 128x256x48",
        "c | y[c] = 0 | a b c: y[c] += x[a, b, c]", lambda x: x.sum((0, 1))),
    _reduce("sum_outer", "16x256x512 100x192x96 23x67x1297 8x4096x64",
        "b | y[b] = 0 | a b / c: y[b] += x[a, b, c]", lambda x: x.sum((0, 2))),
    _reduce("mean_spatial", "8x28x36x256 2x56x48x384 5x31x37x263 64x14x16x128",
        "n c | y[n, c] = 0 | n h w c: y[n, c] += x[n, h, w, c] * (1 / size(h, w))", lambda x: _mean(x, 1, 2)),
    _reduce("square_sum_transposed", "256x16x384 96x128x128 311x11x401 1024x8x160",
        "c a | y[c, a] = 0 | a b c: y[c, a] += x[a, b, c] * x[a, b, c]", lambda x: lax.square(x).sum(1).T),
    _reduce("min_minor", "1536x1024 12000x144 5003x263 701x1999",
        "a | y[a] = HIGHEST | a / b: y[a] = min(y[a], x[a, b])", lambda x: x.min(1)),
    _reduce("absmax_minor", "2048x768 18000x80 6007x197 1103x1301",
        "a | y[a] = 0 | a / b: y[a] = max(y[a], abs(x[a, b]))", lambda x: lax.abs(x).max(1)),
    _reduce("norm_minor", "768x2048 14000x104 9013x139 1301x1103",
        "a | y[a] = 0 | a / b: y[a] += x[a, b] * x[a, b] | y[a] = sqrt(y[a])",
        lambda x: lax.sqrt(lax.square(x).sum(1))),
    _reduce("rowwise_dot", "1024x1024 10000x88 4001x233 997x1061",
        "a | y[a] = 0 | a / b: y[a] += x[a, b] * z[a, b]", lambda x, z: (x * z).sum(1)),
    _reduce("squared_distance", "896x1152 9000x112 5209x173 1151x809",
        "a | y[a] = 0 | a / b: d = x[a, b] - z[a, b]; y[a] += d * d", lambda x, z: lax.square(x - z).sum(1)),
    _reduce("weighted_sum_minor", "1280x1280 16000x100 7013x229 1409x1123",
        "a | y[a] = bias[a] | a / b: y[a] += x[a, b] * weight[b]",
        lambda x, weight, bias: (x * _wide(weight, x, 1)).sum(1) + bias),
    _reduce("masked_sum_minor", "1024x896 11000x96 3989x251 1213x787",
        "a | y[a] = 0 | a / b: y[a] += x[a, b] if mask[a, b] > 0 else 0",
        lambda x, mask: lax.select(lax.gt(mask, lax.full_like(mask, 0)), x, lax.full_like(x, 0)).sum(1)),
    _reduce("variance_minor", "1024x1024 9000x128 6007x151 1013x907",
        "a | mean[a] = 0; y[a] = 0 | a / b: mean[a] += x[a, b] * (1 / size(b)) | a / b: d = x[a, b] - mean[a]; "
        "y[a] += d * d * (1 / size(b))", lambda x: _mean(lax.square(_centred(x, 1)), 1)),
    _reduce("mean_minor", "16x160x512 40x300x96 7x223x701 96x640x24",
        "a b | y[a, b] = 0 | a b / c: y[a, b] += x[a, b, c] * (1 / size(c))", lambda x: _mean(x, 2)),
    _reduce("sum_trailing", "256x48x128 4000x14x28 211x73x97 32x500x80",
        "a | y[a] = 0 | a b / c: y[a] += x[a, b, c]", lambda x: x.sum((1, 2))),
    _reduce("min_major", "1536x1280 400x3600 9001x163 1381x1009",
        "b | y[b] = HIGHEST | a b: y[b] = min(y[b], x[a, b])", lambda x: x.min(0)),
    _reduce("max_middle", "24x256x320 160x96x96 5x311x907 64x1000x28",
        "a c | y[a, c] = LOWEST | a b c: y[a, c] = max(y[a, c], x[a, b, c])", lambda x: x.max(1)),
    _reduce("dot_transposed", "1024x1024 768x2048 419x4096 2048x512",
        "a | y[a] = 0 | b a: y[a] += x[a, b] * z[b, a]", lambda x, z: (x * z.T).sum(1)),
    _reduce("max_plus_transposed", "1024x1280 2048x768 1536x1099 512x2048",
        "b | y[b] = LOWEST | a b: y[b] = max(y[b], x[a, b] + z[b, a])", lambda x, z: (x + z.T).max(0)),
    _reduce("max_transposed", "192x24x256 128x80x96 269x13x311 800x10x144",
        "c a | y[c, a] = LOWEST | a b c: y[c, a] = max(y[c, a], x[a, b, c])", lambda x: x.max(1).T),
    _reduce("abs_sum_transposed", "160x192x48 640x256x10 397x283x11 48x1200x24",
        "b a | y[b, a] = 0 | a b / c: y[b, a] += abs(x[a, b, c])", lambda x: lax.abs(x).sum(2).T),
    _reduce("mean_transposed", "8x512x512 24x256x300 4x1024x353 48x512x72",
        "c b | y[c, b] = 0 | a b c: y[c, b] += x[a, b, c] * (1 / size(a))", lambda x: _mean(x, 0).T),
    # Statistics of a row, a column or a group, then a pass that uses them.  The outer tile is over the kept dimensions,
    # so that the data of one tile are still in cache in later passes.
    _rowwise("softmax", "768x1024 6000x128 8011x83 1021x773",
        "a | top[a] = LOWEST; total[a] = 0 | a / b: top[a] = max(top[a], x[a, b]) | a / b: e = exp(x[a, b] - top[a]); "
        "y[a, b] = e; total[a] += e | a b: y[a, b] *= 1 / total[a]", lambda x: _softmax(x, 1)),
    _rowwise("softmax_major", "1024x640 160x4800 7001x97 1013x719",
        "b | top[b] = LOWEST; total[b] = 0 | a b: top[b] = max(top[b], x[a, b]) | a b: e = exp(x[a, b] - top[b]); "
        "y[a, b] = e; total[b] += e | total[b] = 1 / total[b] | a b: y[a, b] *= total[b]", lambda x: _softmax(x, 0)),
    _rowwise("logsumexp", "1024x896 8000x112 7103x109 1103x811",
        "a | y[a] = LOWEST; total[a] = 0 | a / b: y[a] = max(y[a], x[a, b]) | "
        "a / b: total[a] += exp(x[a, b] - y[a]) | y[a] += log(total[a])", lambda x: lax.add(*_log_sum_exp(x)[::-1])),
    _rowwise("layer_norm", "1024x768 5000x144 151x6007 1307x601",
        "a | mean[a] = 0; variance[a] = 0 | a / b: mean[a] += x[a, b] * (1 / size(b)) | a / b: d = x[a, b] - mean[a]; "
        "variance[a] += d * d * (1 / size(b)) | "
        "a b: y[a, b] = (x[a, b] - mean[a]) * (1 / sqrt(variance[a] + 1e-5)) * gain[b] + bias[b]",
        lambda x, gain, bias: _standardized(x, 1) * _wide(gain, x, 1) + _wide(bias, x, 1)),
    _rowwise("rms_norm", "896x1024 7000x136 9001x97 1201x853",
        "a | square[a] = 0 | a / b: square[a] += x[a, b] * x[a, b] * (1 / size(b)) | "
        "a b: y[a, b] = x[a, b] * (1 / sqrt(square[a] + 1e-5)) * gain[b]",
        lambda x, gain: x * _along(lax.rsqrt(_mean(lax.square(x), 1) + 1e-5), x, 1) * _wide(gain, x, 1)),
    _rowwise("batch_norm", "2048x512 240x4000 9001x101 1459x683",
        "b | mean[b] = 0; scale[b] = 0 | a b: mean[b] += x[a, b] * (1 / size(a)) | a b: d = x[a, b] - mean[b]; "
        "scale[b] += d * d * (1 / size(a)) | scale[b] = 1 / sqrt(scale[b] + 1e-5) | "
        "a b: y[a, b] = (x[a, b] - mean[b]) * scale[b]", lambda x: _standardized(x, 0)),
    _rowwise("instance_norm", "8x784x160 2x2304x192 5x1369x127 32x196x144",
        "a c | mean[a, c] = 0; scale[a, c] = 0 | a b c: mean[a, c] += x[a, b, c] * (1 / size(b)) | "
        "a b c: d = x[a, b, c] - mean[a, c]; scale[a, c] += d * d * (1 / size(b)) | "
        "scale[a, c] = 1 / sqrt(scale[a, c] + 1e-5) | a b c: y[a, b, c] = (x[a, b, c] - mean[a, c]) * scale[a, c]",
        lambda x: _standardized(x, 1)),
    _rowwise("log_softmax", "640x1024 5000x160 7001x103 907x811",
        "a | top[a] = LOWEST; total[a] = 0 | a / b: top[a] = max(top[a], x[a, b]) | "
        "a / b: total[a] += exp(x[a, b] - top[a]) | top[a] += log(total[a]) | a b: y[a, b] = x[a, b] - top[a]",
        lambda x: x - _along(lax.add(*_log_sum_exp(x)), x, 1)),
    _rowwise("softmax_middle", "8x192x384 32x128x160 5x701x149 100x200x40",
        "a c | top[a, c] = LOWEST; total[a, c] = 0 | a b c: top[a, c] = max(top[a, c], x[a, b, c]) | "
        "a b c: e = exp(x[a, b, c] - top[a, c]); y[a, b, c] = e; total[a, c] += e | total[a, c] = 1 / total[a, c] | "
        "a b c: y[a, b, c] *= total[a, c]", lambda x: _softmax(x, 1)),
    _rowwise("l2_normalize", "768x1280 6000x144 9001x101 1103x787",
        "a | square[a] = 0 | a / b: square[a] += x[a, b] * x[a, b] | "
        "a b: y[a, b] = x[a, b] * (1 / sqrt(square[a] + 1e-5))",
        lambda x: x * _along(lax.rsqrt(lax.square(x).sum(1) + 1e-5), x, 1)),
    _rowwise("absmax_scale", "1024x896 8000x112 5003x179 1009x971",
        "a | top[a] = 0 | a / b: top[a] = max(top[a], abs(x[a, b])) | a b: y[a, b] = x[a, b] * (127 / top[a])",
        lambda x: x * _along(lax.full_like((top := lax.abs(x).max(1)), 127) / top, x, 1)),
    _rowwise("group_norm", "4x784x8x32 2x2304x16x12 5x613x7x37 24x196x4x48",
        "n g | mean[n, g] = 0; scale[n, g] = 0 | n s g / c: mean[n, g] += x[n, s, g, c] * (1 / size(s, c)) | "
        "n s g / c: d = x[n, s, g, c] - mean[n, g]; scale[n, g] += d * d * (1 / size(s, c)) | "
        "scale[n, g] = 1 / sqrt(scale[n, g] + 1e-5) | "
        "n s g c: y[n, s, g, c] = (x[n, s, g, c] - mean[n, g]) * scale[n, g]", lambda x: _standardized(x, 1, 3)),
    # Every output reads a small neighbourhood of the input.
    _window("max_pool", "1x56x48x128 8x14x18x192 2x39x43x89 1x10x12x1500",
        "n h w c | for n h w | y[n, h, w, c] = LOWEST | "
        "p<3 q<3 c: y[n, h, w, c] = max(y[n, h, w, c], x[n, h * 2 + p, w * 2 + q, c])",
        _pool(-np.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1))),
    _window("avg_pool", "1x64x72x112 8x16x14x256 3x41x47x79 1x12x20x1100",
        "n h w c | for n h w | y[n, h, w, c] = 0 | p<2 q<2 c: y[n, h, w, c] += x[n, h * 2 + p, w * 2 + q, c] * (1 / 4)",
        _mean_pool((1, 2, 2, 1), (1, 2, 2, 1))),
    _window("avg_pool_overlapping", "1x40x56x144 6x16x18x160 2x37x31x109 1x14x8x1300",
        "n h w c | for n h w | y[n, h, w, c] = 0 | p<3 q<3 c: y[n, h, w, c] += x[n, h + p, w + q, c] * (1 / 9)",
        _mean_pool((1, 3, 3, 1), (1, 1, 1, 1))),
    _window("max_pool_nchw", "1x80x56x64 6x96x16x30 2x31x71x73 1x8x150x300",
        "n c h w | for n c h | y[n, c, h, w] = LOWEST | "
        "p<3 q<3 w: y[n, c, h, w] = max(y[n, c, h, w], x[n, c, h + p, w + q])",
        _pool(-np.inf, lax.max, (1, 1, 3, 3), (1, 1, 1, 1))),
    _window("avg_pool_1d", "4x512x160 16x100x256 3x1201x101 8x40x700",
        "n w c | for n w | y[n, w, c] = 0 | q<4 c: y[n, w, c] += x[n, w * 2 + q, c] * (1 / 4)",
        _mean_pool((1, 4, 1), (1, 2, 1))),
    _window("min_pool_1d", "3x768x128 20x96x192 5x907x89 6x30x1500",
        "n w c | for n w | y[n, w, c] = HIGHEST | q<5 c: y[n, w, c] = min(y[n, w, c], x[n, w + q, c])",
        _pool(np.inf, lax.min, (1, 5, 1), (1, 1, 1))),
    _window("stencil5", "1022x1022 200x6000 1427x1103 7000x190",
        "h w | y[h, w] = 0.25 * (x[h, w + 1] + x[h + 1, w] + x[h + 1, w + 2] + x[h + 2, w + 1]); "
        "y[h, w] -= x[h + 1, w + 1]", _laplace),
    _window("stencil7", "62x126x126 24x150x300 101x97x89 16x62x1022",
        "d h w | t = x[d, h + 1, w + 1] + x[d + 2, h + 1, w + 1]; t += x[d + 1, h, w + 1] + x[d + 1, h + 2, w + 1]; "
        "t += x[d + 1, h + 1, w] + x[d + 1, h + 1, w + 2]; y[d, h, w] = (1 / 6) * t - x[d + 1, h + 1, w + 1]",
        _laplace),
    _window("gradient", "1022x1022 180x5400 1301x1009 6500x170",
        "h w | across = x[h + 1, w + 2] - x[h + 1, w]; down = x[h + 2, w + 1] - x[h, w + 1]; "
        "y[h, w] = sqrt(across * across + down * down)", _slope),
    # Operands that are broadcast, or have their dimensions in another order than the output.
    _elementwise("bias_scale", "1024x1024 9000x120 2999x389 1259x941", "a b | y[a, b] = x[a, b] * scale[a] + bias[b]",
        lambda x, scale, bias: x * _wide(scale, x, 0) + _wide(bias, x, 1)),
    _elementwise("outer_update", "1024x1280 8000x130 33001x31 1153x1031",
        "a b | y[a, b] = x[a, b] - u[a] * v[b]", lambda x, u, v: x - _wide(u, x, 0) * _wide(v, x, 1)),
    _elementwise("add_transposed", "768x1024 2048x512 1536x331 3000x170",
        "a b | y[a, b] = x[a, b] + z[b, a]", lambda x, z: x + z.T),
    _elementwise("gate_transposed", "1024x640 384x2048 1280x419 5600x140",
        "a b | y[a, b] = max(z[b, a], 0) * x[a, b]", lambda x, z: _relu(z.T) * x),
    _elementwise("mul_permuted", "96x48x160 256x12x256 79x83x127 20x64x600",
        "a b c | y[a, b, c] = x[a, b, c] * z[c, b, a]", lambda x, z: x * z.transpose(2, 1, 0)),
    _elementwise("channel_affine", "2x56x48x160 16x14x18x224 3x47x53x101 1x24x20x1900",
        "n h w c | y[n, h, w, c] = max((x[n, h, w, c] - mean[c]) * scale[c] + bias[c], 0)",
        lambda x, mean, scale, bias: _relu(_affine(x, mean, scale, bias, 3))),
    _elementwise("channel_affine_nchw", "2x128x56x64 12x192x16x20 3x53x79x71 1x12x200x360",
        "n c h w | y[n, c, h, w] = (x[n, c, h, w] - mean[c]) * scale[c] + bias[c]",
        lambda x, mean, scale, bias: _affine(x, mean, scale, bias, 1)),
    _elementwise("rank1_batched", "16x192x320 40x160x144 29x179x167 200x64x72",
        "a b c | y[a, b, c] = x[a, b, c] + u[a, b] * v[a, c]",
        lambda x, u, v: x + _wide(u, x, 0, 1) * _wide(v, x, 0, 2)),
    _elementwise("gated_mix", "32x128x256 8x60x2400 37x211x113 300x40x80",
        "a b c | g = gate[a, c]; y[a, b, c] = g * x[a, b, c] + (1 - g) * z[b, c]", _gated_mix),
    _elementwise("relu_transposed", "896x1024 512x1536 2048x347 3072x176",
        "a b | y[a, b] = max(x[b, a], 0)", lambda x: _relu(x.T)),
    _elementwise("scale_transposed", "1024x832 640x1280 1792x421 3072x224",
        "a b | y[a, b] = x[b, a] * scale[a]", lambda x, scale: (turned := x.T) * _wide(scale, turned, 0)),
    _elementwise("bias_transposed", "1024x512 1280x640 1536x503 3600x192",
        "a b | y[a, b] = x[b, a] + bias[b]", lambda x, bias: (turned := x.T) + _wide(bias, turned, 1)),
    _elementwise("symmetrise", "1024 1280 1152 1536",
        "a b | y[a, b] = (x[a, b] + x[b, a]) * 0.5", lambda x: (x + x.T) * 0.5, sizes="a=b"),
    _elementwise("blend_transposed", "640x1024 1536x384 1280x449 2800x180",
        "a b | y[a, b] = x[a, b] + share[a] * (z[b, a] - x[a, b])",
        lambda x, z, share: x + _wide(share, x, 0) * (z.T - x)),
    _elementwise("add_permuted_021", "12x192x256 48x128x96 3x512x353 20x384x64",
        "a b c | y[a, b, c] = x[a, b, c] + z[a, c, b]", lambda x, z: x + z.transpose(0, 2, 1)),
    _elementwise("sub_permuted_102", "128x96x56 320x80x24 149x163x31 24x900x36",
        "a b c | y[a, b, c] = x[a, b, c] - z[b, a, c]", lambda x, z: x - z.transpose(1, 0, 2)),
    _elementwise("add_two_permuted", "80x64x128 24x160x160 128x37x131 256x16x192",
        "a b c | y[a, b, c] = x[c, a, b] + z[b, c, a]", lambda x, z: x.transpose(1, 2, 0) + z.transpose(2, 0, 1)),
    _elementwise("add_permuted_0312", "2x112x40x64 6x96x28x36 1x157x59x67 3x640x12x20",
        "a b c d | y[a, b, c, d] = x[a, b, c, d] + z[a, c, d, b]", lambda x, z: x + z.transpose(0, 3, 1, 2)),
    _elementwise("mul_permuted_0213", "4x16x128x64 2x96x112x28 3x41x157x37 12x200x16x16",
        "a b c d | y[a, b, c, d] = x[a, b, c, d] * z[a, c, b, d]", lambda x, z: x * z.transpose(0, 2, 1, 3)),
    _elementwise("max_permuted_0321", "2x80x40x80 6x48x32x56 1x109x47x113 3x256x8x96",
        "a b c d | y[a, b, c, d] = max(x[a, b, c, d], z[a, d, c, b])",
        lambda x, z: lax.max(x, z.transpose(0, 3, 2, 1))),
    _elementwise("additive_scores", "12x256x320 64x160x96 7x307x419 160x48x128",
        "a b c | y[a, b, c] = u[b, a] + v[c, a]", _additive_scores),
    _elementwise("outer_permuted", "96x96x112 320x32x96 256x41x151 64x128x192",
        "a b c | y[a, b, c] = u[c, a] * v[b, c]", _outer_permuted),
)
# fmt: on

# Held-out families, from every group; all others are in the training split.
_HELD_OUT: Final = {
    "valid": """
        matmul_bias_relu gram conv2d_dilated depthwise_nchw transpose_102 transpose_0312 transpose_1032 sum_middle
        max_minor sum_trailing variance_minor layer_norm avg_pool_overlapping min_pool_1d stencil7 outer_update
        gate_transposed mul_permuted_0213 additive_scores
    """.split(),
    "test": """
        matmul_nt attention_scores vecmat matvec_batched conv2d_stride2 conv1d depthwise transpose_210 transpose_0231
        sum_major squared_distance max_plus_transposed logsumexp group_norm max_pool_nchw avg_pool add_transposed
        blend_transposed sub_permuted_102 channel_affine
    """.split(),
}

#: All families by name.
FAMILIES: Final[dict[str, Family]] = {
    family.name: replace(family, split=next((split for split in _HELD_OUT if family.name in _HELD_OUT[split]), "train"))
    for family in _FAMILIES
}
