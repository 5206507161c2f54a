"""The slow, obvious twin of the layout features: one configuration, one node, one tensor at a time."""

from __future__ import annotations

import math
from collections import Counter

import networkx as nx
import numpy as np

from features.graph import Program
from features.layout.copies import KINDS
from features.layout.metagraph import GROUPS, Links
from features.layout.nodes import NODE_CLASSES, TENSOR_ROLES, ConfigurableNodes
from tests.reference_traffic import effective_layouts, output_paddings

_VALUES = ("set", "kept", "row_major", "minor_kept", "minor", "second", "lanes", "sublanes", "padding", "jump")


def tensor_values(nodes: ConfigurableNodes, place: int, role: int, slots: list[int]) -> dict[str, float] | None:
    """Values of one tensor under one layout; None where the node has no such tensor."""
    rank = int(nodes.rank[place, role])
    if rank < 0:
        return None
    own = nodes.own[place, role, :rank].tolist()
    dims = nodes.dims[place, role, :rank].tolist()
    named = [dim for dim in slots if 0 <= dim < rank]
    order = (named + [dim for dim in own if dim not in named]) if named else own
    compared = named or own
    low = dims[order[0]] if rank > 0 else 1
    high = dims[order[1]] if rank > 1 else 1
    wide, tall = math.ceil(low / 128) * 128, math.ceil(high / 8) * 8  # a TPU's, of four bytes
    return {
        "set": float(bool(named)),
        "kept": float(compared == own[: len(compared)]),
        "row_major": float(compared == [rank - 1 - place for place in range(len(compared))]),
        "minor_kept": float(rank == 0 or order[0] == own[0]),
        "minor": math.log2(low),
        "second": math.log2(high),
        "lanes": low / wide,
        "sublanes": high / tall,
        "padding": math.log2(wide * tall / (low * high)),
        "jump": math.log2(nodes.strides[place, role, order[0]]) if rank else 0.0,
    }


def order_of(nodes: ConfigurableNodes, place: int, role: int, slots: list[int]) -> tuple[list[int], bool]:
    """Two minor-most dimensions in effect, and whether they were set."""
    rank = int(nodes.rank[place, role])
    own = nodes.own[place, role, : max(rank, 0)].tolist()
    named = [dim for dim in slots if 0 <= dim < rank]
    return (named + [dim for dim in own if dim not in named])[:2], bool(named)


def layout_features(nodes: ConfigurableNodes, kinds: np.ndarray, configs: np.ndarray) -> list[dict[str, float]]:
    """Columns of the layout block by name, one dictionary per configuration."""
    rows = []
    (own,) = effective_layouts(nodes, np.full((1, len(nodes), 18), -1))
    for config in configs.astype(int).tolist():
        sums: Counter[str] = Counter()
        weights: Counter[str] = Counter()
        out: dict[str, float] = {}
        largest: dict[str, float] = {}
        bins: Counter[str] = Counter()
        factors = []
        for place, row in enumerate(config):
            name = NODE_CLASSES[nodes.classes[place]]
            for role, role_name in enumerate(TENSOR_ROLES):
                values = tensor_values(nodes, place, role, row[6 * role : 6 * role + 6])
                if values is None:
                    continue
                nbytes, flops = nodes.nbytes[place, role], nodes.flops[place]
                for group in (name, "all"):
                    for weight, amount in (("count", 1.0), ("bytes", nbytes), ("flops", flops)):
                        weights[f"{group}.{role_name}.{weight}"] += amount
                        for value in _VALUES:
                            sums[f"{group}.{role_name}.{value}.{weight}"] += amount * values[value]
                    added = {
                        "moved": nbytes * (1 - values["kept"]),
                        "minor_moved": nbytes * (1 - values["minor_kept"]),
                        "jumped": nbytes * values["jump"],
                        "padded": nbytes * (2 ** values["padding"] - 1),
                        "computed_padded": flops * (2 ** values["padding"] - 1) if role == 0 else 0.0,
                    }
                    for key, amount in added.items():
                        sums[f"{group}.sum.{key}"] += amount
                    for key, amount in (("padding", values["padding"]), ("moved", math.log2(1 + added["moved"]))):
                        largest[f"{group}.max.{key}"] = max(largest.get(f"{group}.max.{key}", 0.0), amount)
                if role == 0:
                    factors.append(2 ** values["padding"])
                    for which in ("minor", "second"):
                        size = 2 ** values[which]
                        number = sum(size >= edge - 1e-6 for edge in (2, 8, 32, 128, 512))
                        bins[f"{name}.{which}.bin{number}"] += 1
        for key, total in sums.items():
            group, role_name, *_, weight = key.split(".")
            if role_name == "sum":
                out[key] = math.log2(1 + total)
            else:
                out[key] = total / (weights[f"{group}.{role_name}.{weight}"] or 1.0)
        for key, count in bins.items():
            out[key] = count / int((nodes.classes == NODE_CLASSES.index(key.split(".")[0])).sum())
        (paddings,) = output_paddings(nodes, kinds, [factors])
        (orders,) = effective_layouts(nodes, np.array([config]))
        out["effective"] = sum(order != unset for order, unset in zip(orders, own, strict=True)) / len(nodes)
        rows.append(out | largest | paddings)
    return rows


def copies_features(nodes: ConfigurableNodes, of: Links, configs: np.ndarray) -> list[dict[str, float]]:
    """Columns of the copies block by name, one dictionary per configuration."""
    rows = []
    for config in configs.astype(int).tolist():
        out = {
            f"{group}.{kind}.{stem}": 0.0
            for group in GROUPS
            for kind, _ in KINDS
            for stem in ("count", "share", "bytes")
        }
        count: Counter[str] = Counter()
        size: Counter[str] = Counter()
        for link in range(len(of.group)):
            (producer, consumer), (here, there) = of.nodes[link].tolist(), of.roles[link].tolist()
            first, first_set = order_of(nodes, producer, here, config[producer][6 * here : 6 * here + 6])
            second, second_set = order_of(nodes, consumer, there, config[consumer][6 * there : 6 * there + 6])
            carried = [int(of.origin[link, dim]) for dim in first]
            differs = [a != b for a, b in zip(carried, second, strict=False) if a >= 0]
            minor = bool(carried and second) and carried[0] >= 0 and carried[0] != second[0]
            both = first_set and second_set
            for group in (GROUPS[of.group[link]], "all"):
                for kind, found in (("minor", both and minor), ("any", both and any(differs)), ("soft", minor)):
                    count[f"{group}.{kind}"] += int(found)
                    size[f"{group}.{kind}"] += of.nbytes[link] if found else 0.0
        for group in GROUPS:
            own = of.group == GROUPS.index(group) if group != "all" else np.ones(len(of.group), bool)
            for kind, _ in KINDS:
                key = f"{group}.{kind}"
                out[f"{key}.count"] = count[key] / max(int(own.sum()), 1)
                out[f"{key}.share"] = size[key] / max(float(of.nbytes[own].sum()), 1.0)
                out[f"{key}.bytes"] = math.log2(1 + size[key])
        rows.append(out)
    return rows


def meta_edges(program: Program, operands: np.ndarray, ids: np.ndarray, stops: set[int]) -> set[tuple[int, int, int]]:
    """(producer, consumer, role) of the meta-graph by searching paths with networkx.

    ``stops`` are nodes that end a path; scalars do, too.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(program)))
    number = {int(node): place for place, node in enumerate(ids)}
    for user, operand in program.edges.tolist():
        if user not in stops and user not in number:
            graph.add_edge(user, operand)
    edges = set()
    for consumer in range(len(ids)):
        for role in (1, 2):
            start = int(operands[consumer, role - 1])
            if start >= 0:
                near = {start} | nx.descendants(graph, start)
                edges |= {(number[node], consumer, role) for node in near if node in number}
    return edges
