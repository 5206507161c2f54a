"""Layout features in whole-array NumPy: every value of every tensor of every configuration, then sums over nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.layout.aggregate import CONFIG
from features.layout.copies import BLOCK, N_DISAGREEMENTS
from features.layout.extractor import LAYOUT
from features.layout.metagraph import GROUPS, Links
from features.layout.nodes import BIN_EDGES, NODE_CLASSES, ConfigurableNodes
from features.operations import KINDS

Array = NDArray[np.float64]

_UNCOVERED = len(KINDS) + 1
#: Columns of slots, of layout values and of disagreements.
COVERED = (
    *CONFIG.names,
    *LAYOUT.names[:-_UNCOVERED],
    *BLOCK.names[:N_DISAGREEMENTS],
)


def values(nodes: ConfigurableNodes, configs: NDArray[np.int8]) -> tuple[Array, NDArray[np.int64]]:
    """The ten values, float64 (c, nodes, 3, 10), and the two minor-most dimensions in effect, (c, nodes, 3, 2)."""
    slots = configs.reshape(*configs.shape[:2], 3, 6).astype(np.int64)
    rank, own = nodes.rank[None], nodes.own[None]
    position = np.arange(6)
    within = (slots >= 0) & (slots < rank[..., None]) & (position < rank[..., None])
    named = np.cumprod(within, axis=-1).sum(axis=-1)
    effective = np.where((named == 0)[..., None], position < rank[..., None], position < named[..., None])
    order = np.where((named == 0)[..., None], own, slots)
    kept = ((order == own) | ~effective).all(axis=-1)
    row_major = ((order == rank[..., None] - 1 - position) | ~effective).all(axis=-1)
    minor = np.where(rank > 0, np.where(named > 0, slots[..., 0], own[..., 0]), -1)
    left = np.where(own[..., 0] == minor, own[..., 1], own[..., 0])
    second = np.where(rank > 1, np.where(named > 1, slots[..., 1], left), -1)
    dims = np.broadcast_to(nodes.dims[None], slots.shape)
    strides = np.broadcast_to(nodes.strides[None], slots.shape)

    def extent(of: NDArray[np.int64], dim: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.take_along_axis(of, np.maximum(dim, 0)[..., None], axis=-1)[..., 0]
        return np.where(dim >= 0, found, 1)

    low, high = extent(dims, minor), extent(dims, second)
    wide, tall = -(-low // 128) * 128, -(-high // 8) * 8
    exists = np.broadcast_to(rank >= 0, low.shape)
    of = [
        named > 0, kept, row_major, (rank == 0) | (minor == own[..., 0]), np.log2(low), np.log2(high),
        low / wide, high / tall, np.log2(wide * tall / (low * high)), np.log2(extent(strides, minor)),
    ]  # fmt: skip
    return np.where(exists[..., None], np.stack(np.broadcast_arrays(*of), axis=-1), 0.0), np.stack([minor, second], -1)


def layout_columns(nodes: ConfigurableNodes, of: Array) -> Array:
    """Columns of the layout block, float64 (c, columns), of the values."""
    exists = nodes.rank >= 0
    weights = np.stack([exists, nodes.nbytes, np.where(exists, nodes.flops[:, None], 0.0)], axis=2)
    members = [nodes.classes == number for number in range(len(NODE_CLASSES))]
    parts, sums, largest = [], [], []
    kept, minor_kept, padding, jump = (of[..., position] for position in (1, 3, 8, 9))
    moved = np.where(exists, 1 - kept, 0) * nodes.nbytes
    tensors = np.stack(
        [
            moved,
            np.where(exists, 1 - minor_kept, 0) * nodes.nbytes,
            nodes.nbytes * jump,
            np.where(exists, (2.0**padding - 1) * nodes.nbytes, 0.0),
            np.stack([nodes.flops * (2.0 ** padding[..., 0] - 1), *[np.zeros(of.shape[:2])] * 2], axis=-1),
        ]
    ).sum(axis=-1)
    for own in (*members, np.ones(len(nodes.ids), bool)):
        total = weights[own].sum(axis=0)
        share = weights[own] / np.where(total > 0, total, 1.0)
        parts.append(np.einsum("cnrv,nrw->crvw", of[:, own], share).reshape(len(of), -1))
        sums.append(np.log2(1 + tensors[..., own].sum(axis=-1)).T)
        tops = [padding[:, own].max(axis=(1, 2), initial=0), np.log2(1 + moved[:, own].max(axis=(1, 2), initial=0))]
        largest.append(np.stack(tops, axis=1))
    extents = 2.0 ** of[:, :, 0, 4:6]
    bin_of = (extents[..., None] >= np.array(BIN_EDGES) - 1e-6).sum(axis=-1)
    bins = [
        (bin_of[:, own, which, None] == np.arange(len(BIN_EDGES) + 1)).sum(axis=1) / max(own.sum(), 1)
        for own in members
        for which in range(2)
    ]
    return np.concatenate([*parts, *sums, *largest, *bins], axis=1)


def copies_columns(of: Links, named: NDArray[np.bool_], minors: NDArray[np.int64]) -> Array:
    """Columns of the copies block, float64 (c, columns)."""
    (producer, consumer), (here, exists) = of.nodes.T, of.roles.T
    first, expected = minors[:, producer, here], minors[:, consumer, exists]
    link = np.arange(len(producer))[:, None]
    carried = np.where(first >= 0, of.origin[link, np.maximum(first, 0)], -1)
    differs = (carried >= 0) & (expected >= 0) & (carried != expected)
    both = named[:, producer, here] & named[:, consumer, exists]
    found = np.stack([both & differs[..., 0], both & differs.any(axis=-1), differs[..., 0]], axis=-1)
    out = []
    for group in GROUPS:
        own = np.ones(len(of.group), bool) if group == "all" else of.group == GROUPS.index(group)
        count = found[:, own].sum(axis=1)
        size = np.einsum("clk,l->ck", found[:, own], of.nbytes[own])
        out.append(
            np.stack(
                [count / max(own.sum(), 1), size / max(of.nbytes[own].sum(), 1.0), np.log2(1 + size)], axis=2
            ).reshape(len(found), -1)
        )
    return np.concatenate(out, axis=1)


def config_columns(configs: NDArray[np.int8]) -> Array:
    """Columns of the config block, float64 (c, columns)."""
    configured = (configs >= 0).any(axis=2)
    pooled = [configs.mean(axis=1), configs.std(axis=1), configured.mean(axis=1)[:, None]]
    return np.concatenate([*pooled, ~configured.any(axis=1)[:, None]], axis=1)


def own_columns(nodes: ConfigurableNodes, of: Links, configs: NDArray[np.int8]) -> Array:
    """The columns :data:`COVERED`, float64 (c, columns), of int8 (c, nodes, 18)."""
    each, minors = values(nodes, configs)
    return np.concatenate(
        [config_columns(configs), layout_columns(nodes, each), copies_columns(of, each[..., 0] > 0, minors)], axis=1
    )
