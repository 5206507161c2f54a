"""A graph as networkx has it: for looking at, and for finding out why a file is not what it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from features.hlo import FEAT_ID, OPCODES
from features.tensors import Tensors
from gbr.data.names import element_type, node_names
from gbr.errors import MissingLibraryError

if TYPE_CHECKING:
    from gbr.data.graph import Graph


def to_networkx(graph: Graph) -> Any:
    """See :meth:`gbr.data.graph.Graph.to_networkx`."""
    try:
        import networkx
    except ModuleNotFoundError as fault:
        raise MissingLibraryError("networkx is not installed; pip install 'gbr[graph]'") from fault
    tensors = Tensors(graph.node_feat)
    configurable = np.zeros(len(graph.node_opcode), bool)
    if graph.node_config_ids is not None:
        configurable[graph.node_config_ids] = True
    is_root = graph.node_feat[:, FEAT_ID["is_root"]] > 0
    made = networkx.DiGraph(name=graph.name, kind=graph.kind)
    for node, name in enumerate(node_names(graph.node_opcode)):
        made.add_node(
            node,
            name=name,
            opcode=OPCODES[graph.node_opcode[node]],
            shape=tensors.shape(node),
            element_type=element_type(tensors, node),
            layout=tuple(tensors.layout(node).tolist()),
            nbytes=int(tensors.nbytes[node]),
            configurable=bool(configurable[node]),
            is_root=bool(is_root[node]),
        )
    made.add_edges_from((int(producer), int(consumer)) for consumer, producer in graph.edge_index)
    return made
