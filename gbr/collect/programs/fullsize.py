"""Networks that tell something of every pixel: at a higher resolution, or from ever wider surroundings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import channel, channels_last, conv, filters, image, normalise

relu = jax.nn.relu


def superres(layout: str) -> Example:
    """Residual convolutions at low resolution, then channels that become pixels, twice (Shi et al., 2016)."""
    features = 16
    shapes = {
        "in": filters(layout, 3, 4, features),
        "body": [[filters(layout, 3, features, features)] * 2] * 2,
        "up": [filters(layout, 3, features, 4 * 8), filters(layout, 3, 8, 4 * 4)],
    }

    def spread(x: Any) -> Any:
        if channels_last(layout):
            n, h, w, c = x.shape
            return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)
        n, c, h, w = x.shape
        return x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)

    def run(p: Any, x: Any) -> Any:
        x = conv(layout, x, p["in"])
        for first, second in p["body"]:
            x = x + conv(layout, relu(conv(layout, x, first)), second)
        for w in p["up"]:
            x = spread(jnp.tanh(conv(layout, x, w)))
        return x

    return Example(run, shapes, (image(layout, 2, (28, 28), 4),))


def deeplab(layout: str) -> Example:
    """Convolutions of several dilations side by side, and the mean of the image beside them (Chen et al., 2017)."""
    features, dilations = 16, (1, 2, 4, 6)
    shapes = {
        "stem": [filters(layout, 3, 4, features), filters(layout, 3, features, features)],
        "low": filters(layout, 1, features, 8),
        "pyramid": [filters(layout, 3, features, 8) for _ in dilations],
        "whole": filters(layout, 1, features, 8),
        "join": filters(layout, 1, 8 * (len(dilations) + 1), features),
        "refine": filters(layout, 3, features + 8, features),
        "out": (features, 12),
    }

    def run(p: Any, x: Any) -> Any:
        x = relu(normalise(layout, conv(layout, x, p["stem"][0], 2)))
        x = relu(normalise(layout, conv(layout, x, p["stem"][1])))
        low = conv(layout, x, p["low"])
        seen = [conv(layout, x, w, dilation=far) for w, far in zip(p["pyramid"], dilations, strict=True)]
        over = tuple(dim for dim in range(1, 4) if dim != channel(layout))
        whole = conv(layout, x.mean(over, keepdims=True), p["whole"])
        seen.append(jnp.broadcast_to(whole, seen[0].shape))
        y = relu(conv(layout, relu(jnp.concatenate(seen, channel(layout))), p["join"]))
        y = relu(conv(layout, jnp.concatenate((y, low), channel(layout)), p["refine"]))
        if not channels_last(layout):
            y = y.transpose(0, 2, 3, 1)
        return jax.nn.log_softmax(y.reshape(-1, features) @ p["out"]).reshape(*y.shape[:3], -1)

    return Example(run, shapes, (image(layout, 2, (64, 64), 4),))
