"""Dots with structured matrices: experts, block-diagonal factors, Fourier bases, normalised adjacency."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gbr.collect.programs import Example
from gbr.collect.programs._parts import layer_norm


def monarch(_: str) -> Example:
    """Products of two block-diagonal matrices and a permutation, for the dense layers (Dao et al., 2022)."""
    blocks, width = 16, 24
    layer = {"left": (blocks, width, width), "right": (width, blocks, blocks)}

    def run(p: Any, x: Any) -> Any:
        for number, layer in enumerate(p):
            y = jnp.einsum("rij,nri->nrj", layer["left"], x.reshape(-1, blocks, width))
            y = jnp.einsum("jrs,nrj->njs", layer["right"], y)
            y = y.swapaxes(1, 2).reshape(x.shape)
            x = x + (y if number == len(p) - 1 else jax.nn.gelu(y))
        return x

    return Example(run, [layer] * 4, ((384, blocks * width),))


def fourier(_: str) -> Example:
    """Mixing by the real part of a Fourier transform, the long one in two radix steps (Lee-Thorp et al., 2021)."""
    batch, first, second, model = 2, 16, 12, 64
    length = first * second

    def basis(n: int) -> tuple[Any, Any]:
        turns = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
        return np.cos(turns).astype(np.float32) / n**0.5, -np.sin(turns).astype(np.float32) / n**0.5

    turned = 2 * np.pi * np.outer(np.arange(first), np.arange(second)) / length
    twiddle = np.cos(turned).astype(np.float32)[..., None], -np.sin(turned).astype(np.float32)[..., None]
    shapes = [[(model, 2 * model), (2 * model, model)]] * 2

    def multiplied(equation: str, x: Any, w: Any) -> tuple[Any, Any]:
        (a, b), (c, d) = x, w
        c, d = jnp.asarray(c), jnp.asarray(d)
        return (
            jnp.einsum(equation, a, c) - jnp.einsum(equation, b, d),
            jnp.einsum(equation, a, d) + jnp.einsum(equation, b, c),
        )

    def run(p: Any, x: Any) -> Any:
        for up, down in p:
            c, d = basis(model)
            y = x @ c, x @ d
            y = tuple(each.reshape(batch, first, second, model) for each in y)
            y = multiplied("bijm,ik->bkjm", y, basis(first))
            y = y[0] * twiddle[0] - y[1] * twiddle[1], y[0] * twiddle[1] + y[1] * twiddle[0]
            real, imaginary = basis(second)
            mixed = jnp.einsum("bkjm,jl->blkm", y[0], real) - jnp.einsum("bkjm,jl->blkm", y[1], imaginary)
            x = layer_norm(x + mixed.reshape(x.shape))
            x = layer_norm(x + jax.nn.gelu(x @ up) @ down)
        return x

    return Example(run, shapes, ((batch, length, model),))


def experts(_: str) -> Example:
    """Slots filled by a softmax over tokens, an expert for every few of them (Puigcerver et al., 2023)."""
    batch, length, model, wide, count, slots = 2, 192, 64, 96, 8, 12
    layer = {"route": (model, count, slots), "up": (count, model, wide), "down": (count, wide, model)}

    def run(p: Any, x: Any) -> Any:
        for layer in p:
            y = layer_norm(x)
            scores = jnp.einsum("blm,mes->bles", y, layer["route"])
            taken = jnp.einsum("bles,blm->besm", jax.nn.softmax(scores, 1), y)
            taken = jax.nn.gelu(jnp.einsum("besm,emw->besw", taken, layer["up"]))
            given = jnp.einsum("besw,ewm->besm", taken, layer["down"])
            weights = jax.nn.softmax(scores.reshape(batch, length, -1)).reshape(scores.shape)
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
        weight = jax.nn.sigmoid(links)
        weight = weight / weight.sum(3, keepdims=True)
        for layer in p["layers"]:
            seen = jnp.einsum("grnm,gmi->grni", weight, x)
            x = jax.nn.relu(jnp.einsum("grni,rij->gnj", seen, layer["each"]) + x @ layer["self"])
        scores = jnp.einsum("gni,rij,gmj->grnm", x, p["pair"], x)
        told = jax.nn.relu(x @ p["out"][0]) @ p["out"][1]
        return scores.mean((1, 3))[..., None] + told

    return Example(run, shapes, ((graphs, nodes, widths[0]), (graphs, relations, nodes, nodes)))
