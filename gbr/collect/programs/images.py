"""Networks from images to images, volumes and verdicts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gbr.collect.programs import Example
from gbr.collect.programs._parts import (
    DIMENSIONS,
    axes,
    channel,
    conv,
    filters,
    flat,
    image,
    mean_pool,
)

relu = jax.nn.relu


def _doubled(layout: str, x: Any) -> Any:
    """Repeat every pixel along the spatial dimensions, by a broadcast and a reshape."""
    shape: list[int] = []
    wide: list[int] = []
    for dim, extent in enumerate(x.shape):
        shape += [extent, 1] if dim in axes(layout) else [extent]
        wide += [extent, 2] if dim in axes(layout) else [extent]
    final = [2 * extent if dim in axes(layout) else extent for dim, extent in enumerate(x.shape)]
    return jnp.broadcast_to(x.reshape(shape), wide).reshape(final)


def unet(layout: str) -> Example:
    """Down and up again, with projected skips (after Ronneberger et al., 2015)."""
    shapes = {
        "down": [filters(layout, 3, 4, 8), filters(layout, 3, 8, 16)],
        "skip": [filters(layout, 1, 8, 4), filters(layout, 1, 16, 8)],
        "low": filters(layout, 3, 16, 16),
        "up": [filters(layout, 3, 24, 8), filters(layout, 3, 12, 8)],
        "out": filters(layout, 1, 8, 4),
    }

    def run(p: Any, x: Any) -> Any:
        skips = []
        for w, skip in zip(p["down"], p["skip"], strict=True):
            x = relu(conv(layout, x, w))
            skips.append(conv(layout, x, skip))
            x = mean_pool(layout, x)
        x = relu(conv(layout, x, p["low"]))
        for w in p["up"]:
            x = jnp.concatenate((_doubled(layout, x), skips.pop()), channel(layout))
            x = relu(conv(layout, x, w))
        return conv(layout, x, p["out"])

    return Example(run, shapes, (image(layout, 2, (48, 48), 4),))


def autoencoder(layout: str) -> Example:
    """Strided convolutions down to a code of dense layers, transposed convolutions up again."""
    shapes = {
        "in": filters(layout, 3, 4, 4),
        "down": [filters(layout, 3, 4, 16), filters(layout, 3, 16, 24)],
        "code": [(12 * 12 * 24, 48), (48, 12 * 12 * 24)],
        "up": [filters(layout, 3, 24, 16), filters(layout, 3, 16, 8)],
        "out": filters(layout, 1, 8, 4),
    }

    def run(p: Any, x: Any) -> Any:
        x = relu(conv(layout, x, p["in"]))
        for w in p["down"]:
            x = relu(conv(layout, x, w, 2))
        shape = x.shape
        x = relu(relu(flat(x) @ p["code"][0]) @ p["code"][1]).reshape(shape)
        for w in p["up"]:
            x = jnp.tanh(lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=DIMENSIONS[layout]))
        return conv(layout, x, p["out"])

    return Example(run, shapes, (image(layout, 6, (48, 48), 4),))


def discriminator(layout: str) -> Example:
    """Strided convolutions, and how far an image is from the others of its batch (Salimans et al., 2016)."""
    widths = (4, 16, 24, 32)
    kernels, width = 12, 8
    shapes = {
        "conv": [filters(layout, 4, a, b) for a, b in pairwise(widths)],
        "mix": [filters(layout, 1, b, b) for b in widths[1:]],
        "dense": (32 * 6 * 6, 64),
        "batch": (64, kernels * width),
        "out": (64 + kernels, 1),
    }

    def run(p: Any, x: Any) -> Any:
        for w, mix in zip(p["conv"], p["mix"], strict=True):
            x = jax.nn.leaky_relu(conv(layout, x, w, 2), 0.2)
            x = x + jax.nn.leaky_relu(conv(layout, x, mix), 0.2)
        x = jnp.tanh(flat(x) @ p["dense"])
        y = (x @ p["batch"]).reshape(-1, kernels, width)
        near = jnp.exp(-jnp.abs(y[:, None] - y).sum(3)).sum(1)
        return jnp.concatenate((x, near), 1) @ p["out"]

    return Example(run, shapes, (image(layout, 8, (48, 48), 4),))


def pixelcnn(layout: str) -> Example:
    """Masked, gated convolutions: a pixel sees what is above it and to its left (van den Oord et al., 2016)."""
    shapes = {
        "in": filters(layout, 5, 4, 16),
        "gated": [filters(layout, 3, 16, 32)] * 5,
        "last": [filters(layout, 1, 16, 16)] * 2,
        "out": filters(layout, 1, 16, 8),
    }

    def masked(w: Any) -> Any:
        window = w.shape[0]
        seen = np.arange(window * window).reshape(window, window, 1, 1) < window * window // 2
        return w * seen.astype(np.float32)

    def run(p: Any, x: Any) -> Any:
        x = conv(layout, x, masked(p["in"]))
        for w in p["gated"]:
            value, gate = jnp.split(conv(layout, x, masked(w)), 2, -1)
            x = x + jnp.tanh(value) * jax.nn.sigmoid(gate)
        for w in p["last"]:
            x = conv(layout, relu(x), w)
        return jax.nn.log_softmax(conv(layout, relu(x), p["out"]).reshape(-1, 8))

    return Example(run, shapes, (image(layout, 2, (32, 32), 4),))
