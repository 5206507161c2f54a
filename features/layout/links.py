"""Pairs of tensors that would like the same layout: along the meta-graph's edges, and across configurable reshapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import MAX_RANK
from features.layout.metagraph import meta_graph, reshape_origin
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes
from features.tensors import Tensors

IntArray = NDArray[np.int64]

#: Consumers' classes, the two sides of one reshape, and everything.
GROUPS: Final = (*NODE_CLASSES, "inside", "all")
INSIDE: Final = GROUPS.index("inside")


@dataclass(frozen=True)
class Links:
    """Pairs of tensors that would like the same layout.

    Parameters
    ----------
    nodes : int64 (links, 2)
        Positions of producer and consumer among the configurable nodes.
    roles : int64 (links, 2)
        Their tensors: 0 output, 1 input, 2 kernel.
    origin : int64 (links, 6)
        Per dimension of the producer's tensor, the consumer's, or -1.
    group : int64 (links,)
        Position in :data:`GROUPS`, never ``all``.
    nbytes : float64 (links,)
        Bytes of the consumer's tensor.
    """

    nodes: IntArray
    roles: IntArray
    origin: IntArray
    group: IntArray
    nbytes: NDArray[np.float64]


def links(program: Program, tensors: Tensors, nodes: ConfigurableNodes) -> Links:
    """All links of a program: the edges of its meta-graph, and the two sides of every configurable reshape."""
    graph = meta_graph(program, tensors, nodes.operands, nodes.ids)
    inside = np.flatnonzero((nodes.classes == NODE_CLASSES.index("reshape")) & (nodes.rank[:, 1] > 0))
    across = reshape_origin(nodes.dims[inside], nodes.rank[inside])
    pairs = np.concatenate([np.stack([graph.producer, graph.consumer], axis=1), np.stack([inside, inside], axis=1)])
    roles = np.zeros((len(pairs), 2), np.int64)
    roles[: len(graph), 1] = graph.role
    roles[len(graph) :, 1] = 1
    group = nodes.classes[pairs[:, 1]].copy()
    group[len(graph) :] = INSIDE
    origin = np.concatenate([graph.origin, across]).reshape(-1, MAX_RANK)
    return Links(pairs, roles, origin, group, nodes.nbytes[pairs[:, 1], roles[:, 1]])
