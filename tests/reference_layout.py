"""The slow, naive twin of the layout features: one configuration, one node, one tensor at a time."""

from __future__ import annotations

import math
from collections import Counter

import networkx as nx
import numpy as np

from features.graph import Program
from features.layout.metagraph import GROUPS, Links
from features.layout.nodes import NODE_CLASSES, TENSOR_ROLES, ConfigurableNodes
from features.operations import KINDS

_DISAGREEMENTS = ("minor", "any", "soft")


def random_configs(nodes: ConfigurableNodes, n_configs: int, seed: int, *, set_share: float = 0.7) -> np.ndarray:
    """Configurations with absent, partial and whole layouts, and some that name a dimension twice."""
    rng = np.random.default_rng(seed)
    configs = np.full((n_configs, len(nodes), 18), -1, np.int8)
    for config in configs:
        for node, role in np.argwhere(nodes.rank > 0).tolist():
            if rng.random() < set_share:
                rank = int(nodes.rank[node, role])
                n_named = int(rng.integers(1, rank + 1))
                config[node, 6 * role : 6 * role + n_named] = rng.permutation(rank)[:n_named]
                if set_share > 0.7 and rng.random() < 0.1:
                    config[node, 6 * role + 1] = config[node, 6 * role]
    return configs


def named_dims(nodes: ConfigurableNodes, place: int, role: int, slots: list[int]) -> list[int]:
    """Dimensions that a row names for one tensor, each once; the last one left is named by all others."""
    rank = max(int(nodes.rank[place, role]), 0)
    own = nodes.own[place, role, :rank].tolist()
    named: list[int] = []
    for dim in slots[:rank]:
        if not 0 <= dim < rank:
            break
        if dim not in named:
            named.append(dim)
    left = [dim for dim in own if dim not in named]
    if sum(nodes.dims[place, role, dim] > 1 for dim in left) <= 1:
        named += left
    return named


def in_effect(nodes: ConfigurableNodes, place: int, role: int, slots: list[int]) -> list[int]:
    """What is known of one tensor's order, without dimensions of one element."""
    rank = max(int(nodes.rank[place, role]), 0)
    dims = nodes.dims[place, role].tolist()
    own = [dim for dim in nodes.own[place, role, :rank].tolist() if dims[dim] > 1]
    named = [dim for dim in named_dims(nodes, place, role, slots) if dims[dim] > 1]
    return own if named == own[: len(named)] else named


def copy_stride(dims: list[int], before: list[int], after: list[int]) -> int | None:
    """Stride that the minor-most dimension of one order gets in another; None where they agree."""
    known = min(len(before), len(after))
    if before[:known] == after[:known]:
        return None
    stride = 1
    for dim in after:
        if dim == before[0]:
            break
        stride *= dims[dim]
    return stride


def arrival(nodes: ConfigurableNodes, of: Links, link: int, slots: list[int]) -> list[int]:
    """Order in which the output of a link's producer reaches its consumer."""
    (producer, consumer), role = of.nodes[link].tolist(), int(of.roles[link, 1])
    dims = nodes.dims[consumer, role].tolist()
    own = nodes.own[consumer, role, : nodes.rank[consumer, role]].tolist()
    if in_effect(nodes, producer, 0, slots) == in_effect(nodes, producer, 0, [-1] * 6):
        come = own
    else:
        named = named_dims(nodes, producer, 0, slots)
        come = [int(of.origin[link, dim]) for dim in named if of.origin[link, dim] >= 0]
        if len(named) == nodes.rank[producer, 0]:
            come += [dim for dim in own if dim not in come]
    return [dim for dim in come if dims[dim] > 1]


def copy_features(nodes: ConfigurableNodes, of: Links, configs: np.ndarray) -> list[dict[str, float]]:
    """Copy columns of the copies block by name, one dictionary per configuration."""
    edges = [link for link in range(len(of.group)) if of.nodes[link, 0] != of.nodes[link, 1]]
    feeds: dict[tuple[int, int], list[int]] = {}
    for link in edges:
        feeds.setdefault((int(of.nodes[link, 1]), int(of.roles[link, 1])), []).append(link)
    rows = []
    for config in configs.astype(int).tolist():
        sums: Counter[str] = Counter()
        for place, row in enumerate(config):
            for role in range(3):
                dims, nbytes = nodes.dims[place, role].tolist(), float(nodes.nbytes[place, role])
                own = in_effect(nodes, place, role, [-1] * 6)
                here = in_effect(nodes, place, role, row[6 * role : 6 * role + 6])
                found = []
                if role == 0:
                    found.append(("out", copy_stride(dims, own, here), 1.0))
                else:
                    found.append(("back", copy_stride(dims, here, own), 1.0))
                    links = feeds.get((place, role), [])
                    if not links:
                        found.append(("entry", copy_stride(dims, own, here), 1.0))
                    for link in links:
                        come = arrival(nodes, of, link, config[int(of.nodes[link, 0])][:6])
                        found.append(("edge", copy_stride(dims, come, here), 1 / len(links)))
                for kind, stride, part in found:
                    if stride is None:
                        continue
                    for group in (NODE_CLASSES[nodes.classes[place]], "all"):
                        sums[f"{group}.{kind}.bytes"] += nbytes * part
                        sums[f"{group}.{kind}.copies"] += part
                        for least, name in ((1, "strided"), (16, "strided16"), (100, "strided100")):
                            sums[f"{group}.{kind}.{name}"] += nbytes * part * (stride > least)
                        weight = 0.2 + 0.8 * min(max((math.log2(stride) - 4) / 3.5, 0.0), 1.0)
                        sums[f"{group}.cost"] += nbytes * part * weight
        out: dict[str, float] = {}
        for number, group in enumerate((*NODE_CLASSES, "all")):
            own_nodes = nodes.classes == number if group != "all" else np.ones(len(nodes), bool)
            for kind in ("out", "back", "entry", "edge"):
                for name in ("bytes", "strided", "strided16", "strided100"):
                    out[f"{group}.{kind}.{name}"] = math.log2(1 + sums[f"{group}.{kind}.{name}"])
                out[f"{group}.{kind}.copies"] = sums[f"{group}.{kind}.copies"]
            out[f"{group}.cost"] = math.log2(1 + sums[f"{group}.cost"])
            out[f"{group}.cost_share"] = sums[f"{group}.cost"] / max(float(nodes.nbytes[own_nodes].sum()), 1.0)
        rows.append(out)
    return rows


def effective_layouts(nodes: ConfigurableNodes, configs: np.ndarray) -> list[list[tuple[tuple[int, ...], ...]]]:
    """Orders in effect of the three tensors of every node of every configuration."""
    return [
        [
            tuple(tuple(in_effect(nodes, place, role, row[6 * role : 6 * role + 6])) for role in range(3))
            for place, row in enumerate(config)
        ]
        for config in configs.astype(int).tolist()
    ]


def output_paddings(nodes: ConfigurableNodes, kinds: np.ndarray, paddings: list[list[float]]) -> list[dict[str, float]]:
    """Padding by kind of operation, of the padding factors of every node's output in every configuration."""
    rows = []
    for factors in paddings:
        out = {}
        for number, kind in enumerate(KINDS):
            own = [place for place in range(len(nodes)) if kinds[place] == number]
            flops = sum(nodes.flops[place] for place in own)
            padded = sum(nodes.flops[place] * factors[place] for place in own)
            out[f"{kind}.output_padding"] = math.log2(padded / flops) if flops else 0.0
        rows.append(out)
    return rows


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


def disagreement_features(nodes: ConfigurableNodes, of: Links, configs: np.ndarray) -> list[dict[str, float]]:
    """Disagreement columns of the copies block by name, one dictionary per configuration."""
    rows = []
    for config in configs.astype(int).tolist():
        out = {
            f"{group}.{kind}.{stem}": 0.0
            for group in GROUPS
            for kind in _DISAGREEMENTS
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
            for kind in _DISAGREEMENTS:
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
