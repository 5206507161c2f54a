"""Attention that does not look at every pair: in windows, through latents, by a kernel's features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import attend, heads, joined, layer_norm


def swin(_: str) -> Example:
    """Attention within windows of an image, which the second block shifts by half a window (Liu et al., 2021)."""
    batch, side, window, model, count = 2, 32, 8, 48, 3
    blocks = side // window
    block = {"qkv": (model, 3 * model), "out": (model, model), "up": (model, 2 * model), "down": (2 * model, model)}

    def run(p: Any, x: Any) -> Any:
        for number, block in enumerate(p):
            shift = number * window // 2
            y = jnp.roll(layer_norm(x), (-shift, -shift), (1, 2))
            y = y.reshape(batch, blocks, window, blocks, window, model).transpose(0, 1, 3, 2, 4, 5)
            y = y.reshape(-1, window * window, model) @ block["qkv"]
            q, k, v = (heads(each, count) for each in jnp.split(y, 3, 2))
            y = joined(attend(q, k, v)) @ block["out"]
            y = y.reshape(batch, blocks, blocks, window, window, model).transpose(0, 1, 3, 2, 4, 5)
            x = x + jnp.roll(y.reshape(x.shape), (shift, shift), (1, 2))
            x = x + jax.nn.gelu(layer_norm(x) @ block["up"]) @ block["down"]
        return x

    return Example(run, [block] * 2, ((batch, side, side, model),))


def perceiver(_: str) -> Example:
    """A few latents read a long input, think, and are read by the queries of the output (Jaegle et al., 2021)."""
    batch, length, narrow, latents, model, count, asked = 2, 768, 32, 48, 64, 4, 256
    reader = {"q": (model, model), "k": (narrow, model), "v": (narrow, model), "out": (model, model)}
    inner = {"q": (model, model), "k": (model, model), "v": (model, model), "out": (model, model)}
    shapes = {"read": reader, "think": inner, "answer": inner, "mix": [(model, 2 * model), (2 * model, model)]}

    def crossed(p: Any, x: Any, y: Any) -> Any:
        q, k, v = heads(x @ p["q"], count), heads(y @ p["k"], count), heads(y @ p["v"], count)
        return joined(attend(q, k, v)) @ p["out"]

    def run(p: Any, x: Any, latent: Any, queries: Any) -> Any:
        z = latent + crossed(p["read"], latent, layer_norm(x))
        z = z + crossed(p["think"], layer_norm(z), layer_norm(z))
        z = z + jax.nn.gelu(layer_norm(z) @ p["mix"][0]) @ p["mix"][1]
        return crossed(p["answer"], queries, layer_norm(z))

    return Example(run, shapes, ((batch, length, narrow), (batch, latents, model), (batch, asked, model)))


def performer(_: str) -> Example:
    """Attention by random features of queries and keys: the sum over keys comes first (Choromanski et al., 2020)."""
    batch, length, model, count, features = 2, 384, 64, 4, 32
    layer = {"qkv": [(model, model)] * 3, "features": (model // count, features), "out": (model, model)}

    def run(p: Any, x: Any) -> Any:
        for layer in p:
            y = layer_norm(x)
            q, k, v = (heads(y @ w, count) for w in layer["qkv"])
            q, k = (jax.nn.relu(jnp.einsum("bhld,df->bhlf", each, layer["features"])) + 1e-3 for each in (q, k))
            total = jnp.einsum("bhlf,bhld->bhfd", k, v)
            size = jnp.einsum("bhlf,bhf->bhl", q, k.sum(2))
            y = jnp.einsum("bhlf,bhfd->bhld", q, total) / size[..., None]
            x = x + joined(y) @ layer["out"]
        return x

    return Example(run, [layer] * 2, ((batch, length, model),))
