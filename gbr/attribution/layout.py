"""Two layout configurations, node by node: whose layouts differ, what that copies, pads and is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.layout.copies import STRIDES
from features.layout.extractor import N_OWN, LayoutExtractor, compared, schema
from features.layout.nodes import TENSOR_ROLES
from features.layout.slate import REPLACED, replaced
from features.layout.trace import LayoutTrace, trace_layouts
from features.tensors import Tensors
from gbr.attribution.parts import Copy, Parts, TensorChange
from gbr.data.names import layout_text, node_names, shape_text

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.data.graph import Graph

#: Configurations that are described at once.
_AT_ONCE: Final = 128
_SLOTS: Final = 6
_KINDS: Final = {
    "out": "{node} output: from the graph's layout to the one set",
    "back": "{node} {role}: from the layout set to the graph's",
    "entry": "{node} {role}: from the graph's layout to the one set",
}


def layout_parts(graph: Graph, hardware: Hardware, pair: NDArray[np.int64], X: NDArray[np.float32]) -> Parts:
    """Compare two configurations of a layout graph.

    Parameters
    ----------
    graph : Graph
    hardware : Hardware
    pair : int64 (2,)
        Their rows.
    X : float32 (c, columns)
        Feature vectors of the whole slate.

    Returns
    -------
    Parts
        The configurable nodes that differ.  A changed configuration keeps its frequencies within the slate; its ranks
        and deviations are those it would have in its place.  ``details`` has ``tensors``, those of each part that
        differ, and ``copies``, largest difference first.
    """
    assert graph.node_config_ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    ids, configs = graph.node_config_ids, graph.configs(pair)
    names = node_names(graph.node_opcode)
    apart = np.flatnonzero((configs[0] != configs[1]).any(axis=1))
    traced = trace_layouts(program, ids, configs, hardware)
    tensors = Tensors.of(program)
    extractor = LayoutExtractor(program, ids, hardware=hardware)
    codes, _ = extractor.observe(configs)
    place = {name: number for number, name in enumerate(schema().names)}
    within = [place[name] for name in REPLACED]

    def exchanged(own: int, other: int) -> NDArray[np.float32]:
        rows = np.repeat(X[pair[own]][None], len(apart), axis=0)
        for first in range(0, len(apart), _AT_ONCE):
            places = apart[first : first + _AT_ONCE]
            mixed = np.repeat(codes[own : own + 1], len(places), axis=0)
            mixed[np.arange(len(places)), places] = codes[other, places]
            extractor.describe(mixed, rows[first : first + len(places), :N_OWN])
        rows[:, within] = replaced(X[:, compared()], int(pair[own]), rows[:, compared()])
        return rows

    return Parts(
        names=tuple(names[ids[place]] for place in apart),
        forward=exchanged(1, 0),
        backward=exchanged(0, 1),
        details={
            "tensors": [_tensors(tensors, traced, configs, int(place)) for place in apart],
            "copies": copies([names[node] for node in ids], traced),
        },
    )


def _tensors(tensors: Tensors, traced: LayoutTrace, configs: NDArray[np.int8], place: int) -> tuple[TensorChange, ...]:
    nodes = traced.nodes
    found = []
    for role, name in enumerate(TENSOR_ROLES):
        set_to = configs[:, place, _SLOTS * role : _SLOTS * (role + 1)]
        if nodes.rank[place, role] < 0 or (set_to[0] == set_to[1]).all():
            continue
        node = int(nodes.ids[place] if role == 0 else nodes.operands[place, role - 1])
        found.append(
            TensorChange(
                role=name,
                shape=shape_text(tensors, node),
                layouts=_pair(None if row[0] < 0 else layout_text(row[row >= 0]) for row in set_to),
                minor=_pair(round(extent) for extent in traced.minor[:, place, role].tolist()),
                padding=_pair(traced.padding[:, place, role].tolist()),
            )
        )
    return tuple(found)


def copies(names: list[str], traced: LayoutTrace) -> list[Copy]:
    """Copies of two configurations that are not the same under both, largest difference of bytes first.

    Parameters
    ----------
    names : list of str
        Of the configurable nodes.
    traced : LayoutTrace
        Of two configurations.
    """
    found = []
    for kind, level in traced.copied.items():
        for place, role in np.argwhere(level[0] != level[1]).tolist():
            what = _KINDS[kind].format(node=names[place], role=TENSOR_ROLES[role])
            found.append(_copy(kind, what, traced.nodes.nbytes[place, role], level[:, place, role]))
    edges = traced.edges
    for edge in np.flatnonzero(edges.level[:, 0] != edges.level[:, 1]).tolist():
        producer, consumer = names[edges.producer[edge]], names[edges.consumer[edge]]
        what = f"{producer} -> {consumer} {TENSOR_ROLES[edges.role[edge]]}: layouts disagree"
        found.append(_copy("edge", what, edges.nbytes[edge], edges.level[edge]))
    for link in np.flatnonzero(traced.disagree[:, 0] != traced.disagree[:, 1]).tolist():
        what = f"{names[traced.inside.nodes[link, 0]]}: its input's layout and its output's disagree"
        found.append(_copy("inside", what, traced.inside.nbytes[link], traced.disagree[link].astype(np.int64)))
    return sorted(found, key=lambda copy: -abs(copy.nbytes[0] - copy.nbytes[1]))


def _copy(kind: str, what: str, nbytes: float, level: NDArray[np.int64]) -> Copy:
    exceeded = (0, 0, *STRIDES)
    return Copy(
        kind,
        what,
        _pair(float(nbytes) if each else 0.0 for each in level.tolist()),
        _pair(exceeded[each] for each in level.tolist()),
    )


def _pair(values: Any) -> Any:
    first, second = values
    return first, second
