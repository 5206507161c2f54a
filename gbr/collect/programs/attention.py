"""Attention in its variants, and the blocks around it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import attend, heads, joined, layer_norm


def transformer(part: str) -> Example:
    """A block of self-attention and a two-layer network, as encoder or with a causal mask (Vaswani et al., 2017)."""
    batch, length, model, count = 2, 96, 96, 4
    shapes = {
        "qkv": [(model, model)] * 3,
        "out": (model, model),
        "up": (model, 4 * model),
        "down": (4 * model, model),
    }

    def run(p: Any, x: Any) -> Any:
        y = layer_norm(x)
        q, k, v = (heads(y @ w, count) for w in p["qkv"])
        x = x + joined(attend(q, k, v, causal=part == "decoder")) @ p["out"]
        y = layer_norm(x)
        return x + jax.nn.gelu(y @ p["up"]) @ p["down"]

    return Example(run, shapes, ((batch, length, model),))


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
        q, k, v = heads(x @ p["q"], count), heads(x @ p["k"], shared), heads(x @ p["v"], shared)
        if kind == "grouped":
            q = q.reshape(batch, shared, -1, length, width).reshape(batch, shared, -1, width)
        bias = None
        if kind == "relative":
            # Scores by distance, brought to (query, key) by padding and reading the rows one place apart.
            far = jnp.einsum("bhqd,rd->bhqr", q, p["distance"])
            far = jnp.pad(far, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(batch, count, -1)
            far = far[..., : length * (2 * length - 1)].reshape(batch, count, length, 2 * length - 1)
            bias = far[..., length - 1 :]
        y = attend(q, k, v, bias=bias).reshape(batch, count, length, width)
        return joined(y) @ p["out"]

    return Example(run, shapes, ((batch, length, model),))
