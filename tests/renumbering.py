"""Equivalent graphs: nodes in another order, configurations in another order, an additional node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from features.hlo import FEAT_ID, N_FEAT, OPCODE_ID

Arrays = dict[str, Any]
#: Arrays with a row per configuration.
PER_CONFIG = (
    "config_feat",
    "node_config_feat",
    "config_runtime",
    "config_runtime_normalizers",
    "config_runtime_repeat",
)


def renumbered(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """Renumber the nodes in a random topological order; ``node_config_ids`` are sorted again."""
    edges, n_nodes = np.asarray(arrays["edge_index"], np.int64), len(arrays["node_opcode"])
    order = _any_topological_order(edges, n_nodes, rng)
    number = np.empty(n_nodes, np.int64)
    number[order] = np.arange(n_nodes)
    moved = number[edges]
    changed = {
        "node_opcode": arrays["node_opcode"][order],
        "node_feat": arrays["node_feat"][order],
        "edge_index": moved[np.argsort(moved[:, 0], kind="stable")],  # the operands of a node stay in order
    }
    if "node_config_ids" in arrays:
        ids = number[arrays["node_config_ids"]]
        at = np.argsort(ids)
        changed |= {"node_config_ids": ids[at], "node_config_feat": arrays["node_config_feat"][:, at]}
    return arrays | changed


def _any_topological_order(edges: np.ndarray, n_nodes: int, rng: np.random.Generator) -> np.ndarray:
    waits = np.bincount(edges[:, 0], minlength=n_nodes)
    ready, order = np.flatnonzero(waits == 0).tolist(), []
    while ready:
        order.append(ready.pop(int(rng.integers(len(ready)))))
        for user in edges[edges[:, 1] == order[-1], 0].tolist():
            waits[user] -= 1
            if waits[user] == 0:
                ready.append(user)
    return np.array(order, np.int64)


def picked(arrays: Arrays, rows: np.ndarray) -> Arrays:
    """The graph with these configurations."""
    return {key: values[rows] if key in PER_CONFIG else values for key, values in arrays.items()}


def with_isolated_constant(arrays: Arrays, position: Callable[[int], int] = lambda n_nodes: n_nodes) -> Arrays:
    """Add a scalar without users."""
    n_nodes = len(arrays["node_opcode"])
    at = position(n_nodes)
    row = np.zeros((1, N_FEAT), np.float32)
    row[0, FEAT_ID["shape_element_type_is_f32"]] = row[0, FEAT_ID["shape_dimensions_product"]] = 1
    number = np.arange(n_nodes) + (np.arange(n_nodes) >= at)
    changed = {
        "node_opcode": np.insert(arrays["node_opcode"], at, OPCODE_ID["constant"]),
        "node_feat": np.insert(arrays["node_feat"], at, row, axis=0),
        "edge_index": number[arrays["edge_index"]],
    }
    if "node_config_ids" in arrays:
        changed |= {"node_config_ids": number[arrays["node_config_ids"]]}
    if "node_splits" in arrays:
        changed |= {"node_splits": np.array([[0, n_nodes + 1]])}
    return arrays | changed
