"""Copies that a configuration implies: where a producer's layout and its consumer's disagree, data must be moved.

Disagreements are looked for along every edge of the meta-graph, and between the two sides of a configurable reshape.
Partial layouts are compared as far as they go; a dimension that does not survive the path says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._jit import kernel
from features.graph import Program
from features.hlo import MAX_RANK
from features.layout_nodes import NODE_CLASSES, ConfigurableNodes, RowValues
from features.metagraph import meta_graph, reshape_origin
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors

IntArray = NDArray[np.int64]

#: Consumers' classes, the two sides of one reshape, and everything.
GROUPS: Final = (*NODE_CLASSES, "inside", "all")
KINDS: Final = (
    ("minor", "whose minor-most dimensions differ, both layouts set"),
    ("any", "whose layouts differ, both set"),
    ("soft", "whose minor-most dimensions differ, the graph's own layout standing in where none is set"),
)
_GROUP_DOC: Final = {
    "convolution": "tensors that feed a configurable convolution",
    "dot": "tensors that feed a configurable dot",
    "reshape": "tensors that feed a configurable reshape",
    "inside": "configurable reshapes, between input and output,",
    "all": "tensors between configurable nodes",
}

BLOCK: Final = Block(
    "copies",
    1,
    "Disagreements between the layouts of connected configurable nodes.",
    tuple(
        column
        for group in GROUPS
        for kind, doc in KINDS
        for column in (
            Column(f"{group}.{kind}.count", "share", f"Part of the {_GROUP_DOC[group]} {doc}"),
            Column(f"{group}.{kind}.share", "share", f"The same, by bytes: {_GROUP_DOC[group]} {doc}"),
            Column(f"{group}.{kind}.bytes", "log2", f"Bytes of the {_GROUP_DOC[group]} {doc}"),
        )
    ),
    per_config=True,
)


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
    group[len(graph) :] = GROUPS.index("inside")
    origin = np.concatenate([graph.origin, across]).reshape(-1, MAX_RANK)
    return Links(pairs, roles, origin, group, nodes.nbytes[pairs[:, 1], roles[:, 1]])


@kernel()
def _count_copies(  # type: ignore[no-untyped-def]
    codes, offsets, minors, is_set, pairs, roles, origin, group, nbytes, n_groups, totals, out
):
    n_configs, n_links = len(codes), len(pairs)
    sums = np.empty((n_groups, 3, 2))
    found = np.empty(3, np.bool_)
    for config in range(n_configs):
        sums[:] = 0.0
        for link in range(n_links):
            producer, consumer = pairs[link, 0], pairs[link, 1]
            here = offsets[producer] + codes[config, producer]
            there = offsets[consumer] + codes[config, consumer]
            own, other = roles[link, 0], roles[link, 1]
            minor, second = minors[here, own, 0], minors[here, own, 1]
            minor = origin[link, minor] if minor >= 0 else -1
            second = origin[link, second] if second >= 0 else -1
            wanted, wanted_second = minors[there, other, 0], minors[there, other, 1]
            both = is_set[here, own] and is_set[there, other]
            differs = minor >= 0 and wanted >= 0 and minor != wanted
            differs_second = second >= 0 and wanted_second >= 0 and second != wanted_second
            found[0] = both and differs
            found[1] = both and (differs or differs_second)
            found[2] = differs
            for kind in range(3):
                if found[kind]:
                    sums[group[link], kind, 0] += 1.0
                    sums[group[link], kind, 1] += nbytes[link]
        place = 0
        for number in range(n_groups + 1):
            for kind in range(3):
                count, size = 0.0, 0.0
                if number < n_groups:
                    count, size = sums[number, kind, 0], sums[number, kind, 1]
                else:
                    for each in range(n_groups):
                        count += sums[each, kind, 0]
                        size += sums[each, kind, 1]
                out[config, place] = count / max(totals[number, 0], 1.0)
                out[config, place + 1] = size / max(totals[number, 1], 1.0)
                out[config, place + 2] = np.log2(1.0 + size)
                place += 3


def count_copies(codes: NDArray[np.uint16], offsets: IntArray, values: RowValues, of: Links) -> Float32Array:
    """The block's columns, float32 (b, len(BLOCK)).

    Parameters
    ----------
    codes : uint16 (b, nodes)
        Coded configurations.
    offsets : int64 (nodes + 1,)
        First row of every node.
    values : RowValues
        Of all rows.
    of : Links
    """
    n_groups = len(GROUPS) - 1
    totals = np.zeros((n_groups + 1, 2))
    for number in range(n_groups):
        own = of.group == number
        totals[number] = own.sum(), of.nbytes[own].sum()
    totals[-1] = totals[:-1].sum(axis=0)
    out = np.zeros((len(codes), len(BLOCK)), np.float32)
    _count_copies(
        codes, offsets, values.minors, values.is_set, of.nodes, of.roles, of.origin, of.group, of.nbytes,
        n_groups, totals, out,
    )  # fmt: skip
    return out
