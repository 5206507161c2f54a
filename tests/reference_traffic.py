"""The slow, obvious twin of what copies cost: one configuration, one tensor, one pair of orders at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from features.layout.metagraph import Links
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes
from features.operations import KINDS


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


def traffic_features(nodes: ConfigurableNodes, of: Links, configs: np.ndarray) -> list[dict[str, float]]:
    """Columns of copies by kind, stride and class by name, one dictionary per configuration."""
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
