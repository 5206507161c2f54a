"""NumPy twins of the measured kernels, in float64: the obvious expression for every family, and a small shape of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def correlate(x, w, stride=1, dilation=1, padding=0):
    """Convolution of any rank, channels last (N, *spatial, C) with (*window, I, O): one einsum per tap."""
    rank = x.ndim - 2
    x = np.pad(x, [(0, 0), *[(padding, padding)] * rank, (0, 0)])
    extents = [(x.shape[1 + d] - (w.shape[d] - 1) * dilation - 1) // stride + 1 for d in range(rank)]
    y = np.zeros((x.shape[0], *extents, w.shape[-1]))
    for tap in product(*map(range, w.shape[:rank])):
        window = tuple(
            slice(t * dilation, t * dilation + (extent - 1) * stride + 1, stride)
            for t, extent in zip(tap, extents, strict=True)
        )
        y += x[(slice(None), *window)] @ w[tap]
    return y


def pool(x, function, size, stride, axes):
    windows = sliding_window_view(x, (size, size), axes)
    keep = [slice(None)] * x.ndim
    for axis in axes:
        keep[axis] = slice(None, None, stride)
    return function(windows[tuple(keep)], axis=(-2, -1))


def depthwise(x, w, stride=1):
    channels = [correlate(x[..., c : c + 1], w[..., c : c + 1], stride) for c in range(x.shape[-1])]
    return np.concatenate(channels, axis=-1)


def softmax(x, axis):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


def standardised(x, axis):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-5)


def laplace(x):
    inner = (slice(1, -1),) * x.ndim
    total = sum(np.roll(x, step, dim) for dim in range(x.ndim) for step in (-1, 1))
    return (total / (2 * x.ndim) - x)[inner]


def slope(x):
    down, across = np.gradient(x)
    return 2 * np.hypot(down, across)[1:-1, 1:-1]


def relu(x):
    return np.maximum(x, 0)


NHWC_OF_NCHW = (0, 2, 3, 1)
NCHW_OF_NHWC = (0, 3, 1, 2)

#: family -> (a small shape, the result from the operands)
TWINS: dict[str, tuple[tuple[int, ...], Callable[..., np.ndarray]]] = {
    "matmul_nn": ((5, 7, 6), lambda a, b: a @ b),
    "matmul_tn": ((5, 7, 6), lambda a, b: a.T @ b),
    "matmul_nt": ((5, 7, 6), lambda a, b: a @ b.T),
    "matmul_batched": ((3, 4, 5, 6), lambda a, b: a @ b),
    "matmul_bias_relu": ((5, 7, 6), lambda a, b, bias: relu(a @ b + bias)),
    "matmul_residual": ((5, 7, 6), lambda a, b, r: a @ b + r),
    "matvec": ((9, 11), lambda a, x: a @ x),
    "vecmat": ((9, 11), lambda x, a: x @ a),
    "gram": ((9, 6), lambda a: a.T @ a),
    "attention_scores": ((3, 4, 5, 6), lambda q, k: np.einsum("hsd,htd->hst", q, k) / np.sqrt(6)),
    "attention_values": ((3, 4, 5, 6), lambda p, v: np.einsum("hst,htd->shd", p, v)),
    "matmul_transposed": ((5, 7, 6), lambda a, b: b.T @ a),
    "matvec_batched": ((4, 5, 6), lambda a, x: np.einsum("bmk,bk->bm", a, x)),
    "matmul_scaled_add": ((5, 7, 6), lambda a, b, r: 0.75 * a @ b + 1.5 * r),
    "conv2d": ((2, 4, 5, 3, 4, 3), lambda x, w: correlate(x, w, padding=1)),
    "conv2d_stride2": ((2, 3, 2, 3, 4, 3), lambda x, w: correlate(x, w, stride=2)),
    "conv2d_dilated": ((2, 3, 2, 3, 4, 3), lambda x, w: correlate(x, w, dilation=2)),
    "conv2d_pointwise": ((2, 3, 4, 3, 5, 1), lambda x, w: x @ w[0, 0]),
    "conv2d_bias_relu": ((2, 3, 4, 3, 5, 3), lambda x, w, bias: relu(correlate(x, w) + bias)),
    "conv2d_row": ((2, 3, 4, 3, 5, 3), lambda x, w: np.stack([correlate(row, w[0]) for row in x.swapaxes(0, 1)], 1)),
    "conv2d_nchw": (
        (2, 3, 4, 3, 5, 3),
        lambda x, w: correlate(x.transpose(NHWC_OF_NCHW), w.transpose(2, 3, 1, 0)).transpose(NCHW_OF_NHWC),
    ),
    "conv2d_ohwi": ((2, 3, 4, 3, 5, 3), lambda x, w: correlate(x, w.transpose(1, 2, 3, 0))),
    "conv1d": ((2, 7, 3, 5, 3), correlate),
    "conv3d": ((3, 2, 4, 3, 5, 2), correlate),
    "depthwise": ((2, 3, 4, 5, 3), depthwise),
    "depthwise_stride2": ((2, 3, 2, 5, 3), lambda x, w: depthwise(x, w, 2)),
    "depthwise_nchw": (
        (2, 5, 3, 4, 3),
        lambda x, w: depthwise(x.transpose(NHWC_OF_NCHW), w.transpose(2, 3, 1, 0)).transpose(NCHW_OF_NHWC),
    ),
    "depthwise_1d": ((2, 6, 5, 3), depthwise),
    "transpose_10": ((7, 9), lambda x: x.T),
    "transpose_021": ((4, 5, 7), lambda x: x.transpose(0, 2, 1)),
    "transpose_102": ((4, 5, 7), lambda x: x.transpose(1, 0, 2)),
    "transpose_210": ((4, 5, 7), lambda x: x.transpose(2, 1, 0)),
    "transpose_120": ((4, 5, 7), lambda x: x.transpose(1, 2, 0)),
    "transpose_201": ((4, 5, 7), lambda x: x.transpose(2, 0, 1)),
    "transpose_0132": ((3, 4, 5, 7), lambda x: x.transpose(0, 1, 3, 2)),
    "transpose_0213": ((3, 4, 5, 7), lambda x: x.transpose(0, 2, 1, 3)),
    "transpose_0231": ((3, 4, 5, 7), lambda x: x.transpose(0, 2, 3, 1)),
    "transpose_0312": ((3, 4, 5, 7), lambda x: x.transpose(0, 3, 1, 2)),
    "transpose_0321": ((3, 4, 5, 7), lambda x: x.transpose(0, 3, 2, 1)),
    "transpose_1032": ((3, 4, 5, 7), lambda x: x.transpose(1, 0, 3, 2)),
    "sum_minor": ((7, 9), lambda x: x.sum(1)),
    "max_minor": ((7, 9), lambda x: x.max(1)),
    "sum_major": ((7, 9), lambda x: x.sum(0)),
    "max_major": ((7, 9), lambda x: x.max(0)),
    "sum_middle": ((4, 5, 7), lambda x: x.sum(1)),
    "sum_leading": ((4, 5, 7), lambda x: x.sum((0, 1))),
    "sum_outer": ((4, 5, 7), lambda x: x.sum((0, 2))),
    "mean_spatial": ((3, 4, 5, 6), lambda x: x.mean((1, 2))),
    "square_sum_transposed": ((4, 5, 7), lambda x: (x**2).sum(1).T),
    "min_minor": ((7, 9), lambda x: x.min(1)),
    "absmax_minor": ((7, 9), lambda x: np.abs(x).max(1)),
    "norm_minor": ((7, 9), lambda x: np.linalg.norm(x, axis=1)),
    "rowwise_dot": ((7, 9), lambda x, z: np.einsum("ab,ab->a", x, z)),
    "squared_distance": ((7, 9), lambda x, z: ((x - z) ** 2).sum(1)),
    "weighted_sum_minor": ((7, 9), lambda x, weight, bias: x @ weight + bias),
    "masked_sum_minor": ((7, 9), lambda x, mask: x.sum(1, where=mask > 0)),
    "variance_minor": ((7, 9), lambda x: x.var(1)),
    "mean_minor": ((4, 5, 7), lambda x: x.mean(2)),
    "sum_trailing": ((4, 5, 7), lambda x: x.sum((1, 2))),
    "min_major": ((7, 9), lambda x: x.min(0)),
    "max_middle": ((4, 5, 7), lambda x: x.max(1)),
    "dot_transposed": ((7, 9), lambda x, z: np.diag(x @ z)),
    "max_plus_transposed": ((7, 9), lambda x, z: (x + z.T).max(0)),
    "max_transposed": ((4, 5, 7), lambda x: x.max(1).T),
    "abs_sum_transposed": ((4, 5, 7), lambda x: np.abs(x).sum(2).T),
    "mean_transposed": ((4, 5, 7), lambda x: x.mean(0).T),
    "softmax": ((7, 9), lambda x: softmax(x, 1)),
    "softmax_major": ((7, 9), lambda x: softmax(x, 0)),
    "logsumexp": ((7, 9), lambda x: np.log(np.exp(x).sum(1))),
    "layer_norm": ((7, 9), lambda x, gain, bias: standardised(x, 1) * gain + bias),
    "rms_norm": ((7, 9), lambda x, gain: x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * gain),
    "batch_norm": ((7, 9), lambda x: standardised(x, 0)),
    "instance_norm": ((4, 5, 7), lambda x: standardised(x, 1)),
    "log_softmax": ((7, 9), lambda x: np.log(softmax(x, 1))),
    "softmax_middle": ((4, 5, 7), lambda x: softmax(x, 1)),
    "l2_normalize": ((7, 9), lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    "absmax_scale": ((7, 9), lambda x: x * 127 / np.abs(x).max(1, keepdims=True)),
    "group_norm": ((3, 4, 5, 6), lambda x: standardised(x, (1, 3))),
    "max_pool": ((2, 3, 4, 5), lambda x: pool(x, np.max, 3, 2, (1, 2))),
    "avg_pool": ((2, 3, 4, 5), lambda x: pool(x, np.mean, 2, 2, (1, 2))),
    "avg_pool_overlapping": ((2, 3, 4, 5), lambda x: pool(x, np.mean, 3, 1, (1, 2))),
    "max_pool_nchw": ((2, 5, 3, 4), lambda x: pool(x, np.max, 3, 1, (2, 3))),
    "avg_pool_1d": ((2, 5, 3), lambda x: sliding_window_view(x, 4, 1)[:, ::2].mean(-1)),
    "min_pool_1d": ((2, 5, 3), lambda x: sliding_window_view(x, 5, 1).min(-1)),
    "stencil5": ((6, 7), laplace),
    "stencil7": ((4, 5, 6), laplace),
    "gradient": ((6, 7), slope),
    "bias_scale": ((7, 9), lambda x, scale, bias: x * scale[:, None] + bias),
    "outer_update": ((7, 9), lambda c, u, v: c - np.outer(u, v)),
    "add_transposed": ((7, 9), lambda x, z: x + z.T),
    "gate_transposed": ((7, 9), lambda x, z: x * relu(z.T)),
    "mul_permuted": ((4, 5, 7), lambda x, z: x * z.T),
    "channel_affine": ((2, 3, 4, 5), lambda x, mean, scale, bias: relu((x - mean) * scale + bias)),
    "channel_affine_nchw": (
        (2, 5, 3, 4),
        lambda x, mean, scale, bias: (x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None],
    ),
    "rank1_batched": ((4, 5, 7), lambda x, u, v: x + np.einsum("ab,ac->abc", u, v)),
    "gated_mix": ((4, 5, 7), lambda x, gate, z: gate[:, None] * x + (1 - gate[:, None]) * z),
    "relu_transposed": ((7, 9), lambda x: relu(x.T)),
    "scale_transposed": ((7, 9), lambda x, scale: x.T * scale[:, None]),
    "bias_transposed": ((7, 9), lambda x, bias: x.T + bias),
    "symmetrise": ((8,), lambda x: (x + x.T) / 2),
    "blend_transposed": ((7, 9), lambda x, z, share: (1 - share[:, None]) * x + share[:, None] * z.T),
    "add_permuted_021": ((4, 5, 7), lambda x, z: x + z.transpose(0, 2, 1)),
    "sub_permuted_102": ((4, 5, 7), lambda x, z: x - z.transpose(1, 0, 2)),
    "add_two_permuted": ((4, 5, 7), lambda x, z: x.transpose(1, 2, 0) + z.transpose(2, 0, 1)),
    "add_permuted_0312": ((3, 4, 5, 7), lambda x, z: x + z.transpose(0, 3, 1, 2)),
    "mul_permuted_0213": ((3, 4, 5, 7), lambda x, z: x * z.transpose(0, 2, 1, 3)),
    "max_permuted_0321": ((3, 4, 5, 7), lambda x, z: np.maximum(x, z.transpose(0, 3, 2, 1))),
    "additive_scores": ((4, 5, 7), lambda q, k: q.T[:, :, None] + k.T[:, None, :]),
    "outer_permuted": ((4, 5, 7), lambda u, v: np.einsum("ca,bc->abc", u, v)),
}
