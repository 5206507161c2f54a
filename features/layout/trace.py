"""Where in a graph a layout configuration copies, pads and disagrees: node by node and edge by edge.

The features of a configuration are sums over its nodes and edges; here the terms of these sums are told by themselves,
worked out by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hardware import CPU, Hardware
from features.layout.copies import OWN_KINDS, CopyCounter, EdgeCopies, Traffic, levels, order_states, tensor_copies
from features.layout.metagraph import GROUPS, Links, links
from features.layout.nodes import VALUES, ConfigurableNodes, configurable_nodes, row_values
from features.layout.rows import RowTable
from features.tensors import Tensors

IntArray = NDArray[np.int64]

_VALUE = {name: place for place, (name, _unit, _doc) in enumerate(VALUES)}


@dataclass(frozen=True)
class LayoutTrace:
    """What configurations do to the tensors of the configurable nodes.

    Parameters
    ----------
    nodes : ConfigurableNodes
    order : int64 (b, nodes, 3)
        Layout in effect, packed (:mod:`features.layout.copies`); equal where it is the same.
    minor, padding : float64 (b, nodes, 3)
        Extent of the minor-most dimension, and volume in whole registers over volume; 1 where there is no tensor.
    copied : dict of str to int64 (b, nodes, 3)
        Copies that concern one node, by kind (``out``, ``back``, ``entry``): 0 for none, else
        :func:`features.layout.copies.levels` of the stride.
    edges : EdgeCopies
        Copies between two nodes.
    inside : Links
        The two sides of configurable reshapes.
    disagree : bool (inside, b)
        Whether both of their layouts are set, and differ.
    """

    nodes: ConfigurableNodes
    order: IntArray
    minor: NDArray[np.float64]
    padding: NDArray[np.float64]
    copied: dict[str, IntArray]
    edges: EdgeCopies
    inside: Links
    disagree: NDArray[np.bool_]


def trace_layouts(
    program: Program,
    node_config_ids: IntArray,
    configs: NDArray[np.float32] | NDArray[np.int8],
    hardware: Hardware = CPU,
) -> LayoutTrace:
    """Trace a few configurations.

    Parameters
    ----------
    program : Program
    node_config_ids : int64 (nodes,)
    configs : float32 or int8 (b, nodes, 18)
    hardware : Hardware
        Whose registers the tensors are padded to.

    Raises
    ------
    ValueError
        For a value that is no whole number in -1 … 5.
    """
    tensors = Tensors.of(program)
    nodes = configurable_nodes(program, tensors, np.asarray(node_config_ids, np.int64))
    between = links(program, tensors, nodes)
    table, traffic, counter = RowTable(len(nodes)), Traffic(nodes, between), CopyCounter(between)
    codes, _ = table.encode(configs)
    rows, owner = table.rows, table.owner
    orders, _ = traffic.add(rows, owner)
    values = row_values(nodes, rows, owner, hardware)
    of_row = values.values[codes]
    columns = np.ascontiguousarray(codes.T)
    pairs, told = counter.by_link(columns, order_states(values))
    inside = pairs.group == GROUPS.index("inside")
    return LayoutTrace(
        nodes=nodes,
        order=orders.packed[codes],
        minor=2.0 ** of_row[..., _VALUE["minor"]],
        padding=2.0 ** of_row[..., _VALUE["padding"]],
        copied={
            kind: np.where(copied, levels(strides), 0)[codes]
            for kind, (copied, strides) in zip(
                OWN_KINDS, tensor_copies(owner, orders, traffic.own, traffic.fed), strict=True
            )
        },
        edges=traffic.by_edge(columns),
        inside=Links(*(getattr(pairs, name)[inside] for name in ("nodes", "roles", "origin", "group", "nbytes"))),
        disagree=told[inside, :, 1],
    )
