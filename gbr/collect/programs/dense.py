"""Networks of dots: perceptrons, mixers, towers, interactions of features, tensor networks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from gbr.collect.programs import Example
from gbr.collect.programs._parts import layer_norm

gelu = jax.nn.gelu


def mlp(kind: str) -> Example:
    """A perceptron of five layers, or three gated layers over tokens (Shazeer, 2020)."""
    if kind == "classifier":
        widths = (256, 192, 192, 160, 128, 16)

        def classify(p: Any, x: Any) -> Any:
            for w in p[:-1]:
                x = jax.nn.relu(x @ w)
            return jax.nn.log_softmax(x @ p[-1])

        return Example(classify, list(pairwise(widths)), ((192, 256),))

    def gated(p: Any, x: Any) -> Any:
        for gate, up, down in p:
            rows = layer_norm(x).reshape(-1, x.shape[-1])
            x = x + ((jax.nn.silu(rows @ gate) * (rows @ up)) @ down).reshape(x.shape)
        return x

    return Example(gated, [[(64, 192), (64, 192), (192, 64)] for _ in range(3)], ((8, 48, 64),))


def bilinear(_: str) -> Example:
    """Factorised bilinear pooling of two maps of features (Yu et al., 2017)."""
    shapes = {"left": (96, 4 * 64), "right": (80, 4 * 64), "mix": [(64, 64), (64, 64)], "out": (64, 32)}

    def run(p: Any, x: Any, y: Any) -> Any:
        a = jnp.einsum("bsi,ij->bsj", x, p["left"])
        b = jnp.einsum("bsi,ij->bsj", y, p["right"])
        joint = (a * b).reshape(*a.shape[:2], 64, 4).sum(-1)
        for mix in p["mix"]:
            scores = jax.nn.softmax(jnp.einsum("bsi,ij,btj->bst", joint, mix, joint))
            joint = jnp.einsum("bst,bti->bsi", scores, joint)
        return joint @ p["out"]

    return Example(run, shapes, ((4, 72, 96), (4, 72, 80)))


def mixer(_: str) -> Example:
    """Dots over patches and over channels in turns (Tolstikhin et al., 2021)."""
    patches, features = 64, 96
    shapes = {
        "patch": (4 * 4 * 4, features),
        "blocks": [
            {"tokens": [(patches, 96), (96, patches)], "channels": [(features, 192), (192, features)]} for _ in range(2)
        ],
        "out": (features, 10),
    }

    def run(p: Any, x: Any) -> Any:
        b = x.shape[0]
        x = x.reshape(b, 8, 4, 8, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, patches, -1) @ p["patch"]
        for block in p["blocks"]:
            y = layer_norm(x).transpose(0, 2, 1)
            x = x + (gelu(y @ block["tokens"][0]) @ block["tokens"][1]).transpose(0, 2, 1)
            x = x + gelu(layer_norm(x) @ block["channels"][0]) @ block["channels"][1]
        return x.mean(1) @ p["out"]

    return Example(run, shapes, ((4, 32, 32, 4),))


def gmlp(depth: str) -> Example:
    """Two or four blocks with a spatial gate (Liu et al., 2021)."""
    length, model, wide = 96, 64, 256
    block = {"in": (model, wide), "space": (length, length), "out": (wide // 2, model)}

    def run(p: Any, x: Any) -> Any:
        for each in p:
            u, v = jnp.split(gelu(layer_norm(x) @ each["in"]), 2, -1)
            v = jnp.einsum("bnd,mn->bmd", layer_norm(v), each["space"]) + 1
            x = x + (u * v) @ each["out"]
        return x

    return Example(run, [block] * {"shallow": 2, "deep": 4}[depth], ((4, length, model),))


def retrieval(_: str) -> Example:
    """Two towers over embeddings, every query scored against every candidate."""
    shapes = {
        "words": (2000, 64),
        "query": [(8 * 64, 128), (128, 96), (96, 64)],
        "candidate": [(8 * 64, 128), (128, 96), (96, 64)],
        "rank": (64, 64),
    }

    def tower(table: Any, layers: Any, words: Any) -> Any:
        x = table[words].reshape(words.shape[0], -1)
        x = jnp.tanh(jnp.tanh(x @ layers[0]) @ layers[1]) @ layers[2]
        return x * jax.lax.rsqrt(jnp.square(x).sum(1, keepdims=True) + 1e-6)

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
            x = jax.nn.relu(x @ w)
        looked_up = jax.vmap(lambda table, ids: table[ids], (0, 1), 1)(p["tables"], words)
        every = jnp.concatenate((x.reshape(-1, 1, width), looked_up), 1)
        products = jnp.einsum("bid,bjd->bij", every, every)
        y = jnp.concatenate((x, products.reshape(-1, pairs)), 1)
        for w in p["top"][:-1]:
            y = jax.nn.relu(y @ w)
        return y @ p["top"][-1]

    return Example(run, shapes, ((256, 16), ((256, fields), 400)))


def tensornet(kind: str) -> Example:
    """Contractions of a tensor with a chain or a tree of factors (Novikov et al., 2015)."""
    if kind == "chain":
        cores = [(1, 8, 8, 12), (12, 8, 8, 12), (12, 8, 8, 12), (12, 4, 4, 1), (1, 4, 4, 12), (12, 8, 8, 1)]

        def chain(p: Any, x: Any) -> Any:
            y = x.reshape(x.shape[0], 8, 8, 8, 4)
            y = jnp.einsum("bijkl,uiam->bjklam", y, p[0])
            y = jnp.einsum("bjklam,mjcn->bklacn", y, p[1])
            y = jnp.einsum("bklacn,nkdo->blacdo", y, p[2])
            y = jnp.einsum("blacdo,olew->bacde", y, p[3])
            y = jnp.tanh(y)
            y = jnp.einsum("bacde,ujem->bacdjm", y.reshape(y.shape[0], 8, 8, 8, 4), p[4])
            y = jnp.einsum("bacdjm,mkdn->bacjkn", y, p[1])
            y = jnp.einsum("bacjkn,nlco->bajklo", y, p[2])
            y = jnp.einsum("bajklo,oiau->bjkli", y, p[5])
            return y.reshape(x.shape)

        return Example(chain, cores, ((6, 2048),))

    def tree(p: Any, x: Any) -> Any:
        y = x.reshape(x.shape[0], 16, 16, 16, 4)
        left = jnp.einsum("bijkl,ijr->brkl", y, p[0])
        both = jnp.einsum("brkl,kls->brs", left, p[1])
        mixed = jnp.einsum("brs,rst->bt", both, p[2])
        back = jnp.einsum("bt,rst,ijr->bsij", mixed, p[2], p[0])
        return jnp.einsum("bsij,kls->bijkl", back, p[1]).reshape(x.shape)

    return Example(tree, [(16, 16, 24), (16, 4, 16), (24, 16, 20)], ((8, 16384),))
