"""Image classifiers, channels last or first."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import axes, channel, conv, filters, flat, image, max_pool, mean_pool, normalise

relu = jax.nn.relu


def lenet(layout: str) -> Example:
    """Two convolutions with pooling, one of single pixels, four dense layers (after LeCun et al., 1998)."""
    shapes = {
        "conv": [filters(layout, 5, 4, 8), filters(layout, 5, 8, 16)],
        "mix": filters(layout, 1, 16, 16),
        "dense": [(16 * 8 * 8, 120), (120, 84), (84, 64), (64, 10)],
    }

    def run(p: Any, x: Any) -> Any:
        for w in p["conv"]:
            x = mean_pool(layout, jnp.tanh(conv(layout, x, w)))
        x = flat(jnp.tanh(conv(layout, x, p["mix"])))
        for w in p["dense"]:
            x = jnp.tanh(x @ w)
        return x

    return Example(run, shapes, (image(layout, 16, (32, 32), 4),))


def vgg(layout: str) -> Example:
    """Pairs of 3×3 convolutions between poolings (Simonyan and Zisserman, 2014)."""
    widths = (8, 12, 12, 12, 24, 24)
    shapes = {
        "conv": [filters(layout, 3, a, b) for a, b in pairwise(widths)],
        "dense": [(24 * 10 * 10, 64), (64, 10)],
    }

    def run(p: Any, x: Any) -> Any:
        for number, w in enumerate(p["conv"]):
            x = relu(conv(layout, x, w))
            if number in (2, 4):
                x = mean_pool(layout, x)
        x = relu(flat(x) @ p["dense"][0])
        return x @ p["dense"][1]

    return Example(run, shapes, (image(layout, 4, (40, 40), 8),))


def inception(layout: str) -> Example:
    """Two modules of 1×1, 3×3, 5×5 branches side by side (Szegedy et al., 2014)."""

    def module(features: int) -> dict[str, Any]:
        return {
            "one": filters(layout, 1, features, 12),
            "three": [filters(layout, 1, features, 8), filters(layout, 3, 8, 12)],
            "five": [filters(layout, 1, features, 4), filters(layout, 5, 4, 8)],
        }

    def run(p: Any, x: Any) -> Any:
        for branch in p["modules"]:
            three = relu(conv(layout, relu(conv(layout, x, branch["three"][0])), branch["three"][1]))
            five = relu(conv(layout, relu(conv(layout, x, branch["five"][0])), branch["five"][1]))
            x = jnp.concatenate((relu(conv(layout, x, branch["one"])), three, five), channel(layout))
            x = mean_pool(layout, x)
        return x.mean(axes(layout)) @ p["out"]

    return Example(run, {"modules": [module(16), module(32)], "out": (32, 10)}, (image(layout, 4, (40, 40), 16),))


def resnet(layout: str) -> Example:
    """A stem and three residual blocks, one of which halves the image (He et al., 2015)."""
    shapes = {
        "stem": filters(layout, 3, 4, 16),
        "a": [filters(layout, 3, 16, 16), filters(layout, 3, 16, 16)],
        "b": [filters(layout, 3, 16, 32), filters(layout, 3, 32, 32), filters(layout, 1, 16, 32)],
        "c": [filters(layout, 1, 32, 16), filters(layout, 3, 16, 16), filters(layout, 1, 16, 32)],
        "out": (32, 10),
    }

    def run(p: Any, x: Any) -> Any:
        x = relu(normalise(layout, conv(layout, x, p["stem"])))
        y = relu(normalise(layout, conv(layout, x, p["a"][0])))
        x = relu(x + normalise(layout, conv(layout, y, p["a"][1])))
        y = relu(normalise(layout, conv(layout, x, p["b"][0], 2)))
        x = relu(conv(layout, x, p["b"][2], 2) + normalise(layout, conv(layout, y, p["b"][1])))
        y = x
        for w in p["c"]:
            y = relu(normalise(layout, conv(layout, y, w)))
        return (x + y).mean(axes(layout)) @ p["out"]

    return Example(run, shapes, (image(layout, 4, (32, 32), 4),))


def mobilenet(layout: str) -> Example:
    """Inverted residuals around depthwise convolutions (Sandler et al., 2018)."""
    widths = ((16, 32, 2), (16, 32, 1), (16, 32, 2))

    def block(features: int, wide: int) -> list[Any]:
        return [filters(layout, 1, features, wide), filters(layout, 3, 1, wide), filters(layout, 1, wide, features)]

    def run(p: Any, x: Any) -> Any:
        for (_, wide, stride), (expand, depth, project) in zip(widths, p["blocks"], strict=True):
            y = jax.nn.relu6(normalise(layout, conv(layout, x, expand)))
            y = jax.nn.relu6(normalise(layout, conv(layout, y, depth, stride, groups=wide)))
            y = conv(layout, y, project)
            x = x + y if stride == 1 else y
        return x.mean(axes(layout)) @ p["out"]

    blocks = [block(features, wide) for features, wide, _ in widths]
    return Example(run, {"blocks": blocks, "out": (16, 10)}, (image(layout, 4, (40, 40), 16),))


def senet(layout: str) -> Example:
    """Convolutions whose channels are gated by what they hold on average (Hu et al., 2017)."""

    def block(features: int) -> dict[str, Any]:
        return {"conv": filters(layout, 3, features, features), "gate": [(features, 8), (8, features)]}

    def run(p: Any, x: Any) -> Any:
        x = max_pool(layout, relu(conv(layout, x, p["stem"])))
        for block in p["blocks"]:
            y = relu(conv(layout, x, block["conv"]))
            gate = jax.nn.sigmoid(relu(y.mean(axes(layout)) @ block["gate"][0]) @ block["gate"][1])
            x = x + y * gate.reshape(
                [gate.shape[1] if dim == channel(layout) else n for dim, n in enumerate((len(gate), 1, 1, 1))]
            )
        return x.mean(axes(layout)) @ p["out"]

    shapes = {"stem": filters(layout, 3, 4, 24), "blocks": [block(24), block(24), block(24)], "out": (24, 10)}
    return Example(run, shapes, (image(layout, 4, (48, 48), 4),))


def convnext(layout: str) -> Example:
    """A patch stem and blocks of depthwise 7×7, normalisation and an inverted bottleneck of dots (Liu et al., 2022)."""

    def block(features: int) -> dict[str, Any]:
        return {
            "depth": filters(layout, 7, 1, features),
            "up": (features, 4 * features),
            "down": (4 * features, features),
        }

    def run(p: Any, x: Any) -> Any:
        x = conv(layout, x, p["stem"], 4, "VALID")
        for block in p["blocks"]:
            y = conv(layout, x, block["depth"], groups=x.shape[-1])
            y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
            rows = jax.nn.gelu(y.reshape(-1, y.shape[-1]) @ block["up"]) @ block["down"]
            x = x + rows.reshape(x.shape)
        return x.mean(axes(layout)) @ p["out"]

    shapes = {"stem": filters(layout, 4, 3, 32), "blocks": [block(32), block(32)], "out": (32, 10)}
    return Example(run, shapes, (image(layout, 2, (80, 80), 3),))
