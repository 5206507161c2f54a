"""The networks whose layouts are measured: small JAX programs from the literature.

A network is a function that takes its variant, or the layout of its images, and returns an :class:`Example`.  JAX is an
optional extra, so this module is imported only when a program is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import gelu, relu, sigmoid, softmax

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A program and the shapes of its arguments.

    Parameters
    ----------
    function : callable
        ``function(parameters, *inputs)``.
    parameters : dict or list of shapes
        Float32.
    inputs : tuple
        Shapes (float32), or (shape, n): integers below n.
    """

    function: Callable[..., Any]
    parameters: Any
    inputs: tuple[Any, ...]


def example(network: str, variant: str) -> Example:
    """Return a variant of a network of this module."""
    build: Callable[[Any], Example] = globals()[network]
    return build(Images(variant) if variant in ("nhwc", "nchw", "nwc") else variant)


class Images:
    """Convolutions and pooling of images in one layout.

    Parameters
    ----------
    layout : str
        ``nhwc``, ``nchw``, or ``nwc`` for sequences.

    Attributes
    ----------
    axes : tuple of int
        Spatial dimensions.
    channel : int
        Dimension of the channels.
    dimensions : tuple of str
        Dimension numbers of image, filters and result.
    """

    def __init__(self, layout: str) -> None:
        self.last = layout.endswith("c")
        self.axes = tuple(range(1, len(layout) - 1)) if self.last else tuple(range(2, len(layout)))
        self.channel = len(layout) - 1 if self.last else 1
        data = layout.upper()
        spatial = data.replace("N", "").replace("C", "")
        self.dimensions = (data, f"{spatial}IO" if self.last else f"OI{spatial}", data)

    def filters(self, window: int, features_in: int, features_out: int) -> Shape:
        """Shape of a convolution's filters."""
        windows = (window,) * len(self.axes)
        return (*windows, features_in, features_out) if self.last else (features_out, features_in, *windows)

    def image(self, batch: int, extents: Shape, features: int) -> Shape:
        """Shape of a batch of images."""
        return (batch, *extents, features) if self.last else (batch, features, *extents)

    def conv(self, x: Any, w: Any, stride: int = 1, padding: Any = "SAME", dilation: int = 1, groups: int = 1) -> Any:
        """Convolve, with the same stride and dilation along every spatial dimension."""
        rank = len(self.axes)
        return lax.conv_general_dilated(
            x,
            w,
            (stride,) * rank,
            padding,
            rhs_dilation=(dilation,) * rank,
            dimension_numbers=self.dimensions,
            feature_group_count=groups,
        )

    def norm(self, x: Any) -> Any:
        """Normalize every channel over the batch, as batch normalization does without its scale."""
        return _standardized(x, (0, *self.axes))

    def mean(self, x: Any) -> Any:
        """Average the image."""
        return x.mean(self.axes)

    def max_pool(self, x: Any) -> Any:
        """Take the maximum of every window of 2."""
        window = [2 if dim in self.axes else 1 for dim in range(x.ndim)]
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

    def mean_pool(self, x: Any) -> Any:
        """Average every window of 2, by splitting the spatial dimensions."""
        shape = [n for dim, extent in enumerate(x.shape) for n in ([extent // 2, 2] if dim in self.axes else [extent])]
        first = self.axes[0]
        return x.reshape(shape).mean([first + 1 + 2 * number for number in range(len(self.axes))])

    def doubled(self, x: Any) -> Any:
        """Repeat every pixel along the spatial dimensions, by a broadcast and a reshape."""
        dims = list(enumerate(x.shape))
        split = [n for dim, extent in dims for n in ([extent, 1] if dim in self.axes else [extent])]
        wide = [n for dim, extent in dims for n in ([extent, 2] if dim in self.axes else [extent])]
        shape = [2 * extent if dim in self.axes else extent for dim, extent in dims]
        return jnp.broadcast_to(x.reshape(split), wide).reshape(shape)

    def concatenate(self, *images: Any) -> Any:
        """Join images along their channels."""
        return jnp.concatenate(images, self.channel)


def _standardized(x: Any, axes: Any) -> Any:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + 1e-5)


def _layer_norm(x: Any) -> Any:
    return _standardized(x, -1)


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


def _attend(q: Any, k: Any, v: Any, causal: bool = False, bias: Any = None) -> Any:
    """Scaled dot-product attention of (batch, heads, length, width)."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * (1.0 / q.shape[-1] ** 0.5)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = jnp.where(jnp.tri(q.shape[2], k.shape[2], dtype=bool), scores, -1e9)
    return jnp.einsum("bhqk,bhkd->bhqd", softmax(scores), v)


def _heads(x: Any, count: int) -> Any:
    """Split (batch, length, model) into (batch, heads, length, width)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _joined(x: Any) -> Any:
    """Undo :func:`_heads`."""
    x = x.transpose(0, 2, 1, 3)
    return x.reshape(*x.shape[:2], -1)


def _feed_forward(x: Any, up: Any, down: Any) -> Any:
    """Add a two-layer network of the normalized rows."""
    return x + gelu(_layer_norm(x) @ up) @ down


# Image classifiers


def lenet(im: Images) -> Example:
    """Two convolutions with pooling, one of single pixels, four dense layers (after LeCun et al., 1998)."""
    shapes = {
        "conv": [im.filters(5, 4, 8), im.filters(5, 8, 16)],
        "mix": im.filters(1, 16, 16),
        "dense": [(16 * 8 * 8, 120), (120, 84), (84, 64), (64, 10)],
    }

    def run(p: Any, x: Any) -> Any:
        for w in p["conv"]:
            x = im.mean_pool(jnp.tanh(im.conv(x, w)))
        x = _flat(jnp.tanh(im.conv(x, p["mix"])))
        for w in p["dense"]:
            x = jnp.tanh(x @ w)
        return x

    return Example(run, shapes, (im.image(16, (32, 32), 4),))


def vgg(im: Images) -> Example:
    """Pairs of 3×3 convolutions between poolings (Simonyan and Zisserman, 2014)."""
    widths = (8, 12, 12, 12, 24, 24)
    shapes = {"conv": [im.filters(3, a, b) for a, b in pairwise(widths)], "dense": [(24 * 10 * 10, 64), (64, 10)]}

    def run(p: Any, x: Any) -> Any:
        for number, w in enumerate(p["conv"]):
            x = relu(im.conv(x, w))
            if number in (2, 4):
                x = im.mean_pool(x)
        return relu(_flat(x) @ p["dense"][0]) @ p["dense"][1]

    return Example(run, shapes, (im.image(4, (40, 40), 8),))


def inception(im: Images) -> Example:
    """Two modules of 1×1, 3×3, 5×5 branches side by side (Szegedy et al., 2014)."""

    def module(features: int) -> dict[str, Any]:
        return {
            "one": im.filters(1, features, 12),
            "three": [im.filters(1, features, 8), im.filters(3, 8, 12)],
            "five": [im.filters(1, features, 4), im.filters(5, 4, 8)],
        }

    def run(p: Any, x: Any) -> Any:
        for branch in p["modules"]:
            three, five = (
                relu(im.conv(relu(im.conv(x, narrow)), wide)) for narrow, wide in (branch["three"], branch["five"])
            )
            x = im.mean_pool(im.concatenate(relu(im.conv(x, branch["one"])), three, five))
        return im.mean(x) @ p["out"]

    return Example(run, {"modules": [module(16), module(32)], "out": (32, 10)}, (im.image(4, (40, 40), 16),))


def resnet(im: Images) -> Example:
    """A stem and three residual blocks, one of which halves the image (He et al., 2015)."""
    shapes = {
        "stem": im.filters(3, 4, 16),
        "a": [im.filters(3, 16, 16), im.filters(3, 16, 16)],
        "b": [im.filters(3, 16, 32), im.filters(3, 32, 32), im.filters(1, 16, 32)],
        "c": [im.filters(1, 32, 16), im.filters(3, 16, 16), im.filters(1, 16, 32)],
        "out": (32, 10),
    }

    def run(p: Any, x: Any) -> Any:
        x = relu(im.norm(im.conv(x, p["stem"])))
        y = relu(im.norm(im.conv(x, p["a"][0])))
        x = relu(x + im.norm(im.conv(y, p["a"][1])))
        y = relu(im.norm(im.conv(x, p["b"][0], 2)))
        x = relu(im.conv(x, p["b"][2], 2) + im.norm(im.conv(y, p["b"][1])))
        y = x
        for w in p["c"]:
            y = relu(im.norm(im.conv(y, w)))
        return im.mean(x + y) @ p["out"]

    return Example(run, shapes, (im.image(4, (32, 32), 4),))


def mobilenet(im: Images) -> Example:
    """Inverted residuals around depthwise convolutions (Sandler et al., 2018)."""
    features, wide, strides = 16, 32, (2, 1, 2)
    block = [im.filters(1, features, wide), im.filters(3, 1, wide), im.filters(1, wide, features)]

    def run(p: Any, x: Any) -> Any:
        for stride, (expand, depth, project) in zip(strides, p["blocks"], strict=True):
            y = jax.nn.relu6(im.norm(im.conv(x, expand)))
            y = jax.nn.relu6(im.norm(im.conv(y, depth, stride, groups=wide)))
            y = im.conv(y, project)
            x = x + y if stride == 1 else y
        return im.mean(x) @ p["out"]

    return Example(run, {"blocks": [block] * 3, "out": (16, 10)}, (im.image(4, (40, 40), 16),))


def senet(im: Images) -> Example:
    """Convolutions whose channels are gated by what they hold on average (Hu et al., 2017)."""
    block = {"conv": im.filters(3, 24, 24), "gate": [(24, 8), (8, 24)]}

    def run(p: Any, x: Any) -> Any:
        x = im.max_pool(relu(im.conv(x, p["stem"])))
        for block in p["blocks"]:
            y = relu(im.conv(x, block["conv"]))
            gate = sigmoid(relu(im.mean(y) @ block["gate"][0]) @ block["gate"][1])
            x = x + y * gate.reshape(im.image(len(gate), (1, 1), gate.shape[1]))
        return im.mean(x) @ p["out"]

    shapes = {"stem": im.filters(3, 4, 24), "blocks": [block] * 3, "out": (24, 10)}
    return Example(run, shapes, (im.image(4, (48, 48), 4),))


def convnext(im: Images) -> Example:
    """A patch stem and blocks of depthwise 7×7, normalization and an inverted bottleneck of dots (Liu et al., 2022)."""
    block = {"depth": im.filters(7, 1, 32), "up": (32, 128), "down": (128, 32)}

    def run(p: Any, x: Any) -> Any:
        x = im.conv(x, p["stem"], 4, "VALID")
        for block in p["blocks"]:
            y = im.conv(x, block["depth"], groups=x.shape[-1])
            y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
            rows = gelu(y.reshape(-1, y.shape[-1]) @ block["up"]) @ block["down"]
            x = x + rows.reshape(x.shape)
        return im.mean(x) @ p["out"]

    shapes = {"stem": im.filters(4, 3, 32), "blocks": [block] * 2, "out": (32, 10)}
    return Example(run, shapes, (im.image(2, (80, 80), 3),))


def densenet(im: Images) -> Example:
    """Every convolution sees what all before it found, through a bottleneck of single pixels (Huang et al., 2016)."""
    growth, start, depth = 8, 16, 3
    widths = [start + growth * number for number in range(depth)]
    shapes = {
        "stem": im.filters(3, 4, start),
        "blocks": [[[im.filters(1, width, 2 * growth), im.filters(3, 2 * growth, growth)] for width in widths]] * 2,
        "between": [im.filters(1, start + growth * depth, start)] * 2,
        "out": (start, 10),
    }

    def run(p: Any, x: Any) -> Any:
        x = im.conv(x, p["stem"])
        for pairs, between in zip(p["blocks"], p["between"], strict=True):
            for narrow, wide in pairs:
                y = im.conv(relu(im.norm(x)), narrow)
                x = im.concatenate(x, im.conv(relu(y), wide))
            x = im.mean_pool(im.conv(relu(x), between))
        return im.mean(x) @ p["out"]

    return Example(run, shapes, (im.image(4, (32, 32), 4),))


def capsule(im: Images) -> Example:
    """Convolutions, then small vectors that vote for larger ones in two rounds of routing (Sabour et al., 2017)."""
    width, classes, wide = 8, 8, 12
    shapes = {
        "conv": [im.filters(5, 4, 16), im.filters(3, 16, 16), im.filters(5, 16, 4 * width)],
        "votes": (12 * 12 * 4, classes, width, wide),
        "decode": [(classes * wide, 128), (128, 256)],
    }

    def squashed(x: Any) -> Any:
        size = jnp.square(x).sum(-1, keepdims=True)
        return x * jnp.sqrt(size + 1e-6) / (1 + size)

    def run(p: Any, x: Any) -> Any:
        x = relu(im.conv(x, p["conv"][0]))
        x = relu(im.conv(x, p["conv"][1], 2))
        x = im.conv(x, p["conv"][2])
        low = squashed(x.reshape(x.shape[0], -1, width))
        votes = jnp.einsum("biw,icwv->bicv", low, p["votes"])
        agreed = jnp.zeros(votes.shape[:3])
        for _ in range(2):
            high = squashed(jnp.einsum("bic,bicv->bcv", softmax(agreed), votes))
            agreed = agreed + jnp.einsum("bcv,bicv->bic", high, votes)
        high = squashed(jnp.einsum("bic,bicv->bcv", softmax(agreed), votes))
        return relu(_flat(high) @ p["decode"][0]) @ p["decode"][1]

    return Example(run, shapes, (im.image(4, (24, 24), 4),))


# Networks from images to images, and discriminators


def unet(im: Images) -> Example:
    """Down and up again, with projected skips (after Ronneberger et al., 2015)."""
    shapes = {
        "down": [im.filters(3, 4, 8), im.filters(3, 8, 16)],
        "skip": [im.filters(1, 8, 4), im.filters(1, 16, 8)],
        "low": im.filters(3, 16, 16),
        "up": [im.filters(3, 24, 8), im.filters(3, 12, 8)],
        "out": im.filters(1, 8, 4),
    }

    def run(p: Any, x: Any) -> Any:
        skips = []
        for w, skip in zip(p["down"], p["skip"], strict=True):
            x = relu(im.conv(x, w))
            skips.append(im.conv(x, skip))
            x = im.mean_pool(x)
        x = relu(im.conv(x, p["low"]))
        for w in p["up"]:
            x = relu(im.conv(im.concatenate(im.doubled(x), skips.pop()), w))
        return im.conv(x, p["out"])

    return Example(run, shapes, (im.image(2, (48, 48), 4),))


def autoencoder(im: Images) -> Example:
    """Strided convolutions down to a code of dense layers, transposed convolutions up again."""
    shapes = {
        "in": im.filters(3, 4, 4),
        "down": [im.filters(3, 4, 16), im.filters(3, 16, 24)],
        "code": [(12 * 12 * 24, 48), (48, 12 * 12 * 24)],
        "up": [im.filters(3, 24, 16), im.filters(3, 16, 8)],
        "out": im.filters(1, 8, 4),
    }

    def run(p: Any, x: Any) -> Any:
        x = relu(im.conv(x, p["in"]))
        for w in p["down"]:
            x = relu(im.conv(x, w, 2))
        x = relu(relu(_flat(x) @ p["code"][0]) @ p["code"][1]).reshape(x.shape)
        for w in p["up"]:
            x = jnp.tanh(lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=im.dimensions))
        return im.conv(x, p["out"])

    return Example(run, shapes, (im.image(6, (48, 48), 4),))


def discriminator(im: Images) -> Example:
    """Strided convolutions, and how far an image is from the others of its batch (Salimans et al., 2016)."""
    widths = (4, 16, 24, 32)
    kernels, width = 12, 8
    shapes = {
        "conv": [im.filters(4, a, b) for a, b in pairwise(widths)],
        "mix": [im.filters(1, b, b) for b in widths[1:]],
        "dense": (32 * 6 * 6, 64),
        "batch": (64, kernels * width),
        "out": (64 + kernels, 1),
    }

    def run(p: Any, x: Any) -> Any:
        for w, mix in zip(p["conv"], p["mix"], strict=True):
            x = jax.nn.leaky_relu(im.conv(x, w, 2), 0.2)
            x = x + jax.nn.leaky_relu(im.conv(x, mix), 0.2)
        x = jnp.tanh(_flat(x) @ p["dense"])
        y = (x @ p["batch"]).reshape(-1, kernels, width)
        near = jnp.exp(-jnp.abs(y[:, None] - y).sum(3)).sum(1)
        return jnp.concatenate((x, near), 1) @ p["out"]

    return Example(run, shapes, (im.image(8, (48, 48), 4),))


def pixelcnn(im: Images) -> Example:
    """Masked, gated convolutions: a pixel sees what is above it and to its left (van den Oord et al., 2016)."""
    shapes = {
        "in": im.filters(5, 4, 16),
        "gated": [im.filters(3, 16, 32)] * 5,
        "last": [im.filters(1, 16, 16)] * 2,
        "out": im.filters(1, 16, 8),
    }

    def masked(w: Any) -> Any:
        window = w.shape[0]
        seen = np.arange(window * window).reshape(window, window, 1, 1) < window * window // 2
        return w * seen.astype(np.float32)

    def run(p: Any, x: Any) -> Any:
        x = im.conv(x, masked(p["in"]))
        for w in p["gated"]:
            value, gate = jnp.split(im.conv(x, masked(w)), 2, -1)
            x = x + jnp.tanh(value) * sigmoid(gate)
        for w in p["last"]:
            x = im.conv(relu(x), w)
        return jax.nn.log_softmax(im.conv(relu(x), p["out"]).reshape(-1, 8))

    return Example(run, shapes, (im.image(2, (32, 32), 4),))


def deeplab(im: Images) -> Example:
    """Convolutions of several dilations side by side, and the mean of the image beside them (Chen et al., 2017)."""
    features, dilations = 16, (1, 2, 4, 6)
    shapes = {
        "stem": [im.filters(3, 4, features), im.filters(3, features, features)],
        "low": im.filters(1, features, 8),
        "pyramid": [im.filters(3, features, 8) for _ in dilations],
        "whole": im.filters(1, features, 8),
        "join": im.filters(1, 8 * (len(dilations) + 1), features),
        "refine": im.filters(3, features + 8, features),
        "out": (features, 12),
    }

    def run(p: Any, x: Any) -> Any:
        x = relu(im.norm(im.conv(x, p["stem"][0], 2)))
        x = relu(im.norm(im.conv(x, p["stem"][1])))
        low = im.conv(x, p["low"])
        seen = [im.conv(x, w, dilation=far) for w, far in zip(p["pyramid"], dilations, strict=True)]
        whole = im.conv(x.mean(im.axes, keepdims=True), p["whole"])
        seen.append(jnp.broadcast_to(whole, seen[0].shape))
        y = relu(im.conv(relu(im.concatenate(*seen)), p["join"]))
        y = relu(im.conv(im.concatenate(y, low), p["refine"]))
        if not im.last:
            y = y.transpose(0, 2, 3, 1)
        return jax.nn.log_softmax(y.reshape(-1, features) @ p["out"]).reshape(*y.shape[:3], -1)

    return Example(run, shapes, (im.image(2, (64, 64), 4),))


# Sequences


def wavenet(im: Images) -> Example:
    """Gated causal convolutions of growing dilation (van den Oord et al., 2016)."""
    features, dilations = 16, (1, 2, 4, 8)
    shapes = {
        "in": im.filters(1, 4, features),
        "gated": [im.filters(2, features, 2 * features) for _ in dilations],
        "skip": [im.filters(1, features, features) for _ in dilations],
        "out": im.filters(1, features, 8),
    }

    def run(p: Any, x: Any) -> Any:
        x = im.conv(x, p["in"])
        total = 0.0
        for dilation, gated, skip in zip(dilations, p["gated"], p["skip"], strict=True):
            y = im.conv(x, gated, padding=[(dilation, 0)], dilation=dilation)
            value, gate = jnp.split(y, 2, im.channel)
            y = im.conv(jnp.tanh(value) * sigmoid(gate), skip)
            total = total + y
            x = x + y
        return im.mean(im.conv(relu(total), p["out"]))

    return Example(run, shapes, (im.image(4, (512,), 4),))


def recurrent(cell: str) -> Example:
    """Unrolled steps of an LSTM or a GRU over a batch of sequences."""
    batch, steps, features, width = 96, 6, 48, 96
    gates = {"lstm": 4, "gru": 3}[cell]
    shapes = {"x": (features, gates * width), "h": (width, gates * width), "out": (width, 16)}

    def run(p: Any, x: Any) -> Any:
        h = c = jnp.zeros((batch, width))
        inputs = (x.reshape(steps * batch, features) @ p["x"]).reshape(steps, batch, -1)
        for step in range(steps):
            if cell == "lstm":
                i, f, g, o = jnp.split(inputs[step] + h @ p["h"], 4, 1)
                c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
                h = sigmoid(o) * jnp.tanh(c)
            else:
                update, reset, new = jnp.split(inputs[step], 3, 1)
                u, r, n = jnp.split(h @ p["h"], 3, 1)
                z = sigmoid(update + u)
                h = z * h + (1 - z) * jnp.tanh(new + sigmoid(reset + r) * n)
        return h @ p["out"]

    return Example(run, shapes, ((steps, batch, features),))


# Attention


def transformer(part: str) -> Example:
    """A block of self-attention and a two-layer network, as encoder or with a causal mask (Vaswani et al., 2017)."""
    model = 96
    shapes = {"qkv": [(model, model)] * 3, "out": (model, model), "up": (model, 4 * model), "down": (4 * model, model)}

    def run(p: Any, x: Any) -> Any:
        y = _layer_norm(x)
        q, k, v = (_heads(y @ w, 4) for w in p["qkv"])
        x = x + _joined(_attend(q, k, v, causal=part == "decoder")) @ p["out"]
        return _feed_forward(x, p["up"], p["down"])

    return Example(run, shapes, ((2, 96, model),))


def attention(kind: str) -> Example:
    """Multi-head attention, with fewer heads of keys than of queries, or with biases by distance."""
    batch, length, model, count = 2, 128, 96, 6
    width = model // count
    shared = 2 if kind == "grouped" else count
    shapes: dict[str, Any] = {
        "q": (model, model),
        "k": (model, shared * width),
        "v": (model, shared * width),
        "out": (model, model),
    }
    if kind == "relative":
        shapes["distance"] = (2 * length - 1, width)

    def run(p: Any, x: Any) -> Any:
        q, k, v = _heads(x @ p["q"], count), _heads(x @ p["k"], shared), _heads(x @ p["v"], shared)
        if kind == "grouped":
            q = q.reshape(batch, shared, -1, length, width).reshape(batch, shared, -1, width)
        bias = None
        if kind == "relative":
            # Scores by distance, brought to (query, key) by padding and reading the rows shifted by one.
            far = jnp.einsum("bhqd,rd->bhqr", q, p["distance"])
            far = jnp.pad(far, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(batch, count, -1)
            far = far[..., : length * (2 * length - 1)].reshape(batch, count, length, 2 * length - 1)
            bias = far[..., length - 1 :]
        y = _attend(q, k, v, bias=bias).reshape(batch, count, length, width)
        return _joined(y) @ p["out"]

    return Example(run, shapes, ((batch, length, model),))


def swin(_: str) -> Example:
    """Attention within windows of an image, which the second block shifts by half a window (Liu et al., 2021)."""
    batch, side, window, model = 2, 32, 8, 48
    blocks = side // window
    block = {"qkv": (model, 3 * model), "out": (model, model), "up": (model, 2 * model), "down": (2 * model, model)}

    def run(p: Any, x: Any) -> Any:
        for number, block in enumerate(p):
            shift = number * window // 2
            y = jnp.roll(_layer_norm(x), (-shift, -shift), (1, 2))
            y = y.reshape(batch, blocks, window, blocks, window, model).transpose(0, 1, 3, 2, 4, 5)
            y = y.reshape(-1, window * window, model) @ block["qkv"]
            q, k, v = (_heads(each, 3) for each in jnp.split(y, 3, 2))
            y = _joined(_attend(q, k, v)) @ block["out"]
            y = y.reshape(batch, blocks, blocks, window, window, model).transpose(0, 1, 3, 2, 4, 5)
            x = x + jnp.roll(y.reshape(x.shape), (shift, shift), (1, 2))
            x = _feed_forward(x, block["up"], block["down"])
        return x

    return Example(run, [block] * 2, ((batch, side, side, model),))


def perceiver(_: str) -> Example:
    """A few latents read a long input, think, and are read by the queries of the output (Jaegle et al., 2021)."""
    batch, narrow, model = 2, 32, 64
    reader = {"q": (model, model), "k": (narrow, model), "v": (narrow, model), "out": (model, model)}
    inner = dict.fromkeys(("q", "k", "v", "out"), (model, model))
    shapes = {"read": reader, "think": inner, "answer": inner, "mix": [(model, 2 * model), (2 * model, model)]}

    def crossed(p: Any, x: Any, y: Any) -> Any:
        q, k, v = _heads(x @ p["q"], 4), _heads(y @ p["k"], 4), _heads(y @ p["v"], 4)
        return _joined(_attend(q, k, v)) @ p["out"]

    def run(p: Any, x: Any, latent: Any, queries: Any) -> Any:
        z = latent + crossed(p["read"], latent, _layer_norm(x))
        z = z + crossed(p["think"], _layer_norm(z), _layer_norm(z))
        z = _feed_forward(z, *p["mix"])
        return crossed(p["answer"], queries, _layer_norm(z))

    return Example(run, shapes, ((batch, 768, narrow), (batch, 48, model), (batch, 256, model)))


def performer(_: str) -> Example:
    """Attention by random features of queries and keys: the sum over keys comes first (Choromanski et al., 2020)."""
    model, count = 64, 4
    layer = {"qkv": [(model, model)] * 3, "features": (model // count, 32), "out": (model, model)}

    def run(p: Any, x: Any) -> Any:
        for layer in p:
            y = _layer_norm(x)
            q, k, v = (_heads(y @ w, count) for w in layer["qkv"])
            q, k = (relu(jnp.einsum("bhld,df->bhlf", each, layer["features"])) + 1e-3 for each in (q, k))
            total = jnp.einsum("bhlf,bhld->bhfd", k, v)
            size = jnp.einsum("bhlf,bhf->bhl", q, k.sum(2))
            y = jnp.einsum("bhlf,bhfd->bhld", q, total) / size[..., None]
            x = x + _joined(y) @ layer["out"]
        return x

    return Example(run, [layer] * 2, ((2, 384, model),))


# Perceptrons, mixers, towers, interactions of features, tensor networks


def mlp(kind: str) -> Example:
    """A perceptron of five layers, or three gated layers over tokens (Shazeer, 2020)."""

    def classify(p: Any, x: Any) -> Any:
        for w in p[:-1]:
            x = relu(x @ w)
        return jax.nn.log_softmax(x @ p[-1])

    def gated(p: Any, x: Any) -> Any:
        for gate, up, down in p:
            rows = _layer_norm(x).reshape(-1, x.shape[-1])
            x = x + ((jax.nn.silu(rows @ gate) * (rows @ up)) @ down).reshape(x.shape)
        return x

    if kind == "classifier":
        return Example(classify, list(pairwise((256, 192, 192, 160, 128, 16))), ((192, 256),))
    return Example(gated, [[(64, 192), (64, 192), (192, 64)]] * 3, ((8, 48, 64),))


def bilinear(_: str) -> Example:
    """Factorised bilinear pooling of two maps of features (Yu et al., 2017)."""
    shapes = {"left": (96, 4 * 64), "right": (80, 4 * 64), "mix": [(64, 64), (64, 64)], "out": (64, 32)}

    def run(p: Any, x: Any, y: Any) -> Any:
        a = jnp.einsum("bsi,ij->bsj", x, p["left"])
        b = jnp.einsum("bsi,ij->bsj", y, p["right"])
        joint = (a * b).reshape(*a.shape[:2], 64, 4).sum(-1)
        for mix in p["mix"]:
            scores = softmax(jnp.einsum("bsi,ij,btj->bst", joint, mix, joint))
            joint = jnp.einsum("bst,bti->bsi", scores, joint)
        return joint @ p["out"]

    return Example(run, shapes, ((4, 72, 96), (4, 72, 80)))


def mixer(_: str) -> Example:
    """Dots over patches and over channels in turns (Tolstikhin et al., 2021)."""
    patches, features = 64, 96
    block = {"tokens": [(patches, 96), (96, patches)], "channels": [(features, 192), (192, features)]}
    shapes = {"patch": (4 * 4 * 4, features), "blocks": [block] * 2, "out": (features, 10)}

    def run(p: Any, x: Any) -> Any:
        b = x.shape[0]
        x = x.reshape(b, 8, 4, 8, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, patches, -1) @ p["patch"]
        for block in p["blocks"]:
            y = _layer_norm(x).transpose(0, 2, 1)
            x = x + (gelu(y @ block["tokens"][0]) @ block["tokens"][1]).transpose(0, 2, 1)
            x = _feed_forward(x, *block["channels"])
        return x.mean(1) @ p["out"]

    return Example(run, shapes, ((4, 32, 32, 4),))


def gmlp(depth: str) -> Example:
    """Two or four blocks with a spatial gate (Liu et al., 2021)."""
    length, model, wide = 96, 64, 256
    block = {"in": (model, wide), "space": (length, length), "out": (wide // 2, model)}

    def run(p: Any, x: Any) -> Any:
        for block in p:
            u, v = jnp.split(gelu(_layer_norm(x) @ block["in"]), 2, -1)
            v = jnp.einsum("bnd,mn->bmd", _layer_norm(v), block["space"]) + 1
            x = x + (u * v) @ block["out"]
        return x

    return Example(run, [block] * {"shallow": 2, "deep": 4}[depth], ((4, length, model),))


def retrieval(_: str) -> Example:
    """Two towers over embeddings, every query scored against every candidate."""
    layers = [(8 * 64, 128), (128, 96), (96, 64)]
    shapes = {"words": (2000, 64), "query": layers, "candidate": layers, "rank": (64, 64)}

    def tower(table: Any, layers: Any, words: Any) -> Any:
        x = _flat(table[words])
        x = jnp.tanh(jnp.tanh(x @ layers[0]) @ layers[1]) @ layers[2]
        return x * lax.rsqrt(jnp.square(x).sum(1, keepdims=True) + 1e-6)

    def run(p: Any, queries: Any, candidates: Any) -> Any:
        q = tower(p["words"], p["query"], queries)
        c = tower(p["words"], p["candidate"], candidates)
        return jax.nn.log_softmax(q @ p["rank"] @ c.T * 8.0)

    return Example(run, shapes, (((192, 8), 2000), ((256, 8), 2000)))


def dlrm(_: str) -> Example:
    """Embeddings and a dense tower, all pairs of them multiplied (Naumov et al., 2019)."""
    fields, width = 15, 32
    pairs = (fields + 1) ** 2
    shapes = {
        "tables": (fields, 400, width),
        "bottom": [(16, 64), (64, 64), (64, width)],
        "top": [(pairs + width, 128), (128, 96), (96, 64), (64, 1)],
    }

    def run(p: Any, numbers: Any, words: Any) -> Any:
        x = numbers
        for w in p["bottom"]:
            x = relu(x @ w)
        embedded = jax.vmap(lambda table, ids: table[ids], (0, 1), 1)(p["tables"], words)
        every = jnp.concatenate((x.reshape(-1, 1, width), embedded), 1)
        products = jnp.einsum("bid,bjd->bij", every, every)
        y = jnp.concatenate((x, products.reshape(-1, pairs)), 1)
        for w in p["top"][:-1]:
            y = relu(y @ w)
        return y @ p["top"][-1]

    return Example(run, shapes, ((256, 16), ((256, fields), 400)))


def tensornet(kind: str) -> Example:
    """Contractions of a tensor with a chain or a tree of factors (Novikov et al., 2015)."""

    def chain(p: Any, x: Any) -> Any:
        y = x.reshape(x.shape[0], 8, 8, 8, 4)
        y = jnp.einsum("bijkl,uiam->bjklam", y, p[0])
        y = jnp.einsum("bjklam,mjcn->bklacn", y, p[1])
        y = jnp.einsum("bklacn,nkdo->blacdo", y, p[2])
        y = jnp.tanh(jnp.einsum("blacdo,olew->bacde", y, p[3]))
        y = jnp.einsum("bacde,ujem->bacdjm", y.reshape(y.shape[0], 8, 8, 8, 4), p[4])
        y = jnp.einsum("bacdjm,mkdn->bacjkn", y, p[1])
        y = jnp.einsum("bacjkn,nlco->bajklo", y, p[2])
        return jnp.einsum("bajklo,oiau->bjkli", y, p[5]).reshape(x.shape)

    def tree(p: Any, x: Any) -> Any:
        y = x.reshape(x.shape[0], 16, 16, 16, 4)
        left = jnp.einsum("bijkl,ijr->brkl", y, p[0])
        both = jnp.einsum("brkl,kls->brs", left, p[1])
        mixed = jnp.einsum("brs,rst->bt", both, p[2])
        back = jnp.einsum("bt,rst,ijr->bsij", mixed, p[2], p[0])
        return jnp.einsum("bsij,kls->bijkl", back, p[1]).reshape(x.shape)

    if kind == "chain":
        cores = [(1, 8, 8, 12), (12, 8, 8, 12), (12, 8, 8, 12), (12, 4, 4, 1), (1, 4, 4, 12), (12, 8, 8, 1)]
        return Example(chain, cores, ((6, 2048),))
    return Example(tree, [(16, 16, 24), (16, 4, 16), (24, 16, 20)], ((8, 16384),))


# Dots with structured matrices: experts, block-diagonal factors, Fourier bases, normalized adjacency


def monarch(_: str) -> Example:
    """Products of two block-diagonal matrices and a permutation, for the dense layers (Dao et al., 2022)."""
    blocks, width = 16, 24
    layer = {"left": (blocks, width, width), "right": (width, blocks, blocks)}

    def run(p: Any, x: Any) -> Any:
        for number, layer in enumerate(p):
            y = jnp.einsum("rij,nri->nrj", layer["left"], x.reshape(-1, blocks, width))
            y = jnp.einsum("jrs,nrj->njs", layer["right"], y)
            y = y.swapaxes(1, 2).reshape(x.shape)
            x = x + (y if number == len(p) - 1 else gelu(y))
        return x

    return Example(run, [layer] * 4, ((384, blocks * width),))


def fourier(_: str) -> Example:
    """Mixing by the real part of a Fourier transform, the long one in two radix steps (Lee-Thorp et al., 2021)."""
    batch, first, second, model = 2, 16, 12, 64
    length = first * second

    def waves(rows: int, columns: int, length: int) -> tuple[Any, Any]:
        turns = 2 * np.pi * np.outer(np.arange(rows), np.arange(columns)) / length
        return np.cos(turns).astype(np.float32), -np.sin(turns).astype(np.float32)

    def basis(n: int) -> tuple[Any, Any]:
        real, imaginary = waves(n, n, n)
        return real / n**0.5, imaginary / n**0.5

    twiddle = [each[..., None] for each in waves(first, second, length)]

    def run(p: Any, x: Any) -> Any:
        for up, down in p:
            a, b = ((x @ each).reshape(batch, first, second, model) for each in basis(model))
            c, d = (jnp.asarray(each) for each in basis(first))
            a, b = (
                jnp.einsum("bijm,ik->bkjm", a, c) - jnp.einsum("bijm,ik->bkjm", b, d),
                jnp.einsum("bijm,ik->bkjm", a, d) + jnp.einsum("bijm,ik->bkjm", b, c),
            )
            a, b = a * twiddle[0] - b * twiddle[1], a * twiddle[1] + b * twiddle[0]
            real, imaginary = basis(second)
            mixed = jnp.einsum("bkjm,jl->blkm", a, real) - jnp.einsum("bkjm,jl->blkm", b, imaginary)
            x = _layer_norm(x + mixed.reshape(x.shape))
            x = _layer_norm(x + gelu(x @ up) @ down)
        return x

    return Example(run, [[(model, 2 * model), (2 * model, model)]] * 2, ((batch, length, model),))


def experts(_: str) -> Example:
    """Slots filled by a softmax over tokens, an expert for every few of them (Puigcerver et al., 2023)."""
    batch, length, model, wide, count, slots = 2, 192, 64, 96, 8, 12
    layer = {"route": (model, count, slots), "up": (count, model, wide), "down": (count, wide, model)}

    def run(p: Any, x: Any) -> Any:
        for layer in p:
            y = _layer_norm(x)
            scores = jnp.einsum("blm,mes->bles", y, layer["route"])
            taken = jnp.einsum("bles,blm->besm", softmax(scores, 1), y)
            taken = gelu(jnp.einsum("besm,emw->besw", taken, layer["up"]))
            given = jnp.einsum("besw,ewm->besm", taken, layer["down"])
            weights = softmax(scores.reshape(batch, length, -1)).reshape(scores.shape)
            x = x + jnp.einsum("bles,besm->blm", weights, given)
        return x

    return Example(run, [layer] * 2, ((batch, length, model),))


def graphconv(_: str) -> Example:
    """Features of nodes averaged over dense neighbours of three relations (after Schlichtkrull et al., 2017)."""
    graphs, nodes, relations = 4, 80, 3
    widths = (48, 64, 64)
    shapes = {
        "layers": [{"each": (relations, a, b), "self": (a, b)} for a, b in pairwise(widths)],
        "pair": (relations, widths[-1], widths[-1]),
        "out": [(widths[-1], 64), (64, 8)],
    }

    def run(p: Any, x: Any, links: Any) -> Any:
        weight = sigmoid(links)
        weight = weight / weight.sum(3, keepdims=True)
        for layer in p["layers"]:
            seen = jnp.einsum("grnm,gmi->grni", weight, x)
            x = relu(jnp.einsum("grni,rij->gnj", seen, layer["each"]) + x @ layer["self"])
        scores = jnp.einsum("gni,rij,gmj->grnm", x, p["pair"], x)
        return scores.mean((1, 3))[..., None] + relu(x @ p["out"][0]) @ p["out"][1]

    return Example(run, shapes, ((graphs, nodes, widths[0]), (graphs, relations, nodes, nodes)))
