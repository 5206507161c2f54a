"""Networks that tell what every pixel shows, from ever wider surroundings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import channel, channels_last, conv, filters, image, normalise

relu = jax.nn.relu


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
