"""Image classifiers whose channels are gathered from all layers before, or routed to the layer after."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import axes, channel, conv, filters, image, mean_pool, normalise

relu = jax.nn.relu


def densenet(layout: str) -> Example:
    """Every convolution sees what all before it found, through a bottleneck of single pixels (Huang et al., 2016)."""
    growth, start, depth = 8, 16, 3
    widths = [start + growth * number for number in range(depth)]
    full = start + growth * depth
    block = [(filters(layout, 1, width, 2 * growth), filters(layout, 3, 2 * growth, growth)) for width in widths]
    shapes = {
        "stem": filters(layout, 3, 4, start),
        "blocks": [[list(pair) for pair in block]] * 2,
        "between": [filters(layout, 1, full, start)] * 2,
        "out": (start, 10),
    }

    def run(p: Any, x: Any) -> Any:
        x = conv(layout, x, p["stem"])
        for pairs, between in zip(p["blocks"], p["between"], strict=True):
            for narrow, wide in pairs:
                y = conv(layout, relu(normalise(layout, x)), narrow)
                x = jnp.concatenate((x, conv(layout, relu(y), wide)), channel(layout))
            x = mean_pool(layout, conv(layout, relu(x), between))
        return x.mean(axes(layout)) @ p["out"]

    return Example(run, shapes, (image(layout, 4, (32, 32), 4),))


def capsule(layout: str) -> Example:
    """Convolutions, then small vectors that vote for larger ones in two rounds of routing (Sabour et al., 2017)."""
    width, classes, wide = 8, 8, 12
    capsules = 12 * 12 * 4
    shapes = {
        "conv": [filters(layout, 5, 4, 16), filters(layout, 3, 16, 16), filters(layout, 5, 16, 4 * width)],
        "votes": (capsules, classes, width, wide),
        "decode": [(classes * wide, 128), (128, 256)],
    }

    def squashed(x: Any) -> Any:
        size = jnp.square(x).sum(-1, keepdims=True)
        return x * jnp.sqrt(size + 1e-6) / (1 + size)

    def run(p: Any, x: Any) -> Any:
        x = relu(conv(layout, x, p["conv"][0]))
        x = relu(conv(layout, x, p["conv"][1], 2))
        x = conv(layout, x, p["conv"][2])
        low = squashed(x.reshape(x.shape[0], -1, width))
        votes = jnp.einsum("biw,icwv->bicv", low, p["votes"])
        agreed = jnp.zeros(votes.shape[:3])
        for _ in range(2):
            high = squashed(jnp.einsum("bic,bicv->bcv", jax.nn.softmax(agreed), votes))
            agreed = agreed + jnp.einsum("bcv,bicv->bic", high, votes)
        high = squashed(jnp.einsum("bic,bicv->bcv", jax.nn.softmax(agreed), votes))
        return relu(high.reshape(x.shape[0], -1) @ p["decode"][0]) @ p["decode"][1]

    return Example(run, shapes, (image(layout, 4, (24, 24), 4),))
