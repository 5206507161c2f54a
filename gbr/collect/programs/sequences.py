"""Recurrent and convolutional networks over time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import axes, channel, conv, filters, image


def wavenet(layout: str) -> Example:
    """Gated causal convolutions of growing dilation (van den Oord et al., 2016)."""
    features = 16
    dilations = (1, 2, 4, 8)
    shapes = {
        "in": filters(layout, 1, 4, features),
        "gated": [filters(layout, 2, features, 2 * features) for _ in dilations],
        "skip": [filters(layout, 1, features, features) for _ in dilations],
        "out": filters(layout, 1, features, 8),
    }

    def run(p: Any, x: Any) -> Any:
        x = conv(layout, x, p["in"])
        total = 0.0
        for dilation, gated, skip in zip(dilations, p["gated"], p["skip"], strict=True):
            y = conv(layout, x, gated, padding=[(dilation, 0)], dilation=dilation)
            value, gate = jnp.split(y, 2, channel(layout))
            y = conv(layout, jnp.tanh(value) * jax.nn.sigmoid(gate), skip)
            total = total + y
            x = x + y
        return conv(layout, jax.nn.relu(total), p["out"]).mean(axes(layout))

    return Example(run, shapes, (image(layout, 4, (512,), 4),))


def recurrent(cell: str) -> Example:
    """Unrolled steps of an LSTM or a GRU over a batch of sequences."""
    batch, steps, features, width = 96, 6, 48, 96
    gates = {"lstm": 4, "gru": 3}[cell]
    shapes = {"x": (features, gates * width), "h": (width, gates * width), "out": (width, 16)}

    def lstm(p: Any, x: Any) -> Any:
        h = c = jnp.zeros((batch, width))
        inputs = (x.reshape(steps * batch, features) @ p["x"]).reshape(steps, batch, -1)
        for step in range(steps):
            i, f, g, o = jnp.split(inputs[step] + h @ p["h"], 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h @ p["out"]

    def gru(p: Any, x: Any) -> Any:
        h = jnp.zeros((batch, width))
        inputs = (x.reshape(steps * batch, features) @ p["x"]).reshape(steps, batch, -1)
        for step in range(steps):
            update, reset, new = jnp.split(inputs[step], 3, 1)
            u, r, n = jnp.split(h @ p["h"], 3, 1)
            z = jax.nn.sigmoid(update + u)
            h = z * h + (1 - z) * jnp.tanh(new + jax.nn.sigmoid(reset + r) * n)
        return h @ p["out"]

    return Example({"lstm": lstm, "gru": gru}[cell], shapes, ((steps, batch, features),))
