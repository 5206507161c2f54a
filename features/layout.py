"""Features of layout configurations: what is set on which tensors, what it copies, pads and resembles."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import copies, layout_config, nodes, opcodes, slate
from features._jit import kernel
from features.copies import count_copies, links
from features.graph import Program
from features.layout_config import pooled_config
from features.layout_nodes import (
    N_BINS,
    N_BUCKETS,
    NODE_CLASSES,
    TENSOR_ROLES,
    VALUES,
    ConfigurableNodes,
    RowValues,
    configurable_nodes,
    row_values,
)
from features.layout_rows import Codes, RowTable
from features.neighborhood import neighborhood, neighborhood_columns, neighborhood_each
from features.opcodes import CLASS_NAMES
from features.schema import Block, Column, Float32Array, Schema
from features.tensors import Tensors

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_GROUPS: Final = (*NODE_CLASSES, "all")
_WEIGHTS: Final = (("count", "tensors"), ("bytes", "tensors by bytes"), ("flops", "tensors by their node's operations"))
_RADII: Final = (1, 2, 3)
#: What of a configurable node's surroundings is summed over the nodes that are set.
_REACHED: Final = tuple(
    CLASS_NAMES.index(name) for name in ("convolution", "dot", "reduce", "transcendental", "transpose")
)
_SUMS: Final = (
    ("moved", "bytes of tensors that do not keep the graph's layout"),
    ("minor_moved", "bytes of tensors whose minor-most dimension changes"),
    ("jumped", "bytes of tensors times the log2 stride of the dimension that becomes minor-most"),
    ("padded", "bytes added by padding to 8x128 tiles"),
    ("computed_padded", "operations of nodes times the padding factor of their output"),
)
_LARGEST: Final = (
    ("padding", "log2", "Largest padding factor of a tensor"),
    ("moved", "log2", "Bytes of the largest tensor that does not keep the graph's layout"),
)


def _value_columns() -> tuple[Column, ...]:
    means = {"share": "Part of the {} {} {} that {}", "log2": "Mean over the {} {} {} of the {}"}
    return tuple(
        Column(f"{group}.{role}.{name}.{weight}", unit, means[unit].format(group, role, weighted, doc))
        for group in _GROUPS
        for role in TENSOR_ROLES
        for name, unit, doc in VALUES
        for weight, weighted in _WEIGHTS
    )


LAYOUT: Final = Block(
    "layout",
    1,
    "Layouts aggregated over the configurable nodes, by class, tensor role and weight.",
    (
        *_value_columns(),
        *(Column(f"{group}.sum.{name}", "log2", f"{group}: {doc}") for group in _GROUPS for name, doc in _SUMS),
        *(Column(f"{group}.max.{name}", unit, f"{group}: {doc}") for group in _GROUPS for name, unit, doc in _LARGEST),
        *(
            Column(
                f"{name}.{place}.bin{number}",
                "share",
                f"Part of the {name} outputs whose {place} extent is in bin {number}",
            )
            for name in NODE_CLASSES
            for place in ("minor", "second")
            for number in range(N_BINS)
        ),
    ),
    per_config=True,
)
TYPES: Final = Block(
    "types",
    1,
    "Node types (class, ranks, dimension numbers and row) counted in hashed buckets.",
    tuple(
        Column(f"bucket{number}", "share", f"Part of the nodes whose type falls into bucket {number}")
        for number in range(N_BUCKETS)
    ),
    per_config=True,
)
REACH: Final = Block(
    "reach",
    1,
    "k-hop surroundings of the configurable nodes that are set.",
    tuple(
        Column(
            f"{radius}hop.{name}", "share", f"{name} within {radius} edges of a set node, over the same of all nodes"
        )
        for radius in _RADII
        for name in (*(CLASS_NAMES[number] for number in _REACHED), "bytes")
    ),
    per_config=True,
)
SURROUNDINGS: Final = Block(
    "neighborhood",
    1,
    "k-hop surroundings of the configurable nodes of each class.",
    tuple(
        column
        for name in NODE_CLASSES
        for radius in _RADII
        for column in neighborhood_columns(name, f"a configurable {name}", radius)
    ),
    per_config=False,
)
CONFIGURABLE: Final = Block(
    "configurable",
    1,
    "Configurable nodes of the graph.",
    tuple(
        Column(f"{name}.{what}", "log2", f"{doc} of the configurable {name} nodes")
        for name in NODE_CLASSES
        for what, doc in (("nodes", "Number"), ("bytes", "Bytes of all tensors"), ("flops", "Operations"))
    ),
    per_config=False,
)


@cache
def schema() -> Schema:
    """Columns of :class:`LayoutExtractor`."""
    return Schema(
        "layout",
        (
            layout_config.BLOCK,
            LAYOUT,
            copies.BLOCK,
            TYPES,
            REACH,
            slate.BLOCK,
            CONFIGURABLE,
            SURROUNDINGS,
            opcodes.BLOCK,
            nodes.BLOCK,
        ),
    )


@kernel()
def _aggregate(  # type: ignore[no-untyped-def]
    codes, offsets, classes, weighted, sums, largest, bins, buckets, is_set, reached, ratio, n_nodes_of, out_values,
    out_sums, out_largest, out_bins, out_types, out_reach,
):  # fmt: skip
    n_configs, n_nodes = codes.shape
    n_classes, width = len(n_nodes_of), weighted.shape[1]
    n_bins = out_bins.shape[1] // (2 * n_classes)
    values = np.empty((n_classes, width), np.float32)
    totals = np.empty((n_classes, sums.shape[1]))
    tops = np.empty((n_classes, largest.shape[1]), np.float32)
    for config in range(n_configs):
        values[:] = 0
        totals[:] = 0
        tops[:] = 0
        for node in range(n_nodes):
            row = offsets[node] + codes[config, node]
            own = classes[node]
            for place in range(width):
                values[own, place] += weighted[row, place]
            for place in range(sums.shape[1]):
                totals[own, place] += sums[row, place]
            for place in range(largest.shape[1]):
                tops[own, place] = max(tops[own, place], largest[row, place])
            step = np.float32(1.0 / n_nodes_of[own])
            out_bins[config, 2 * n_bins * own + bins[row, 0]] += step
            out_bins[config, 2 * n_bins * own + n_bins + bins[row, 1]] += step
            out_types[config, buckets[row]] += np.float32(1.0 / n_nodes)
            if is_set[row, 0] or is_set[row, 1] or is_set[row, 2]:
                for place in range(reached.shape[1]):
                    out_reach[config, place] += reached[node, place]
        for own in range(n_classes):
            for place in range(width):
                out_values[config, own * width + place] = values[own, place]
                out_values[config, n_classes * width + place] += values[own, place] * ratio[own, place]
            for place in range(sums.shape[1]):
                out_sums[config, own * sums.shape[1] + place] = np.log2(1.0 + totals[own, place])
            for place in range(largest.shape[1]):
                out_largest[config, own * largest.shape[1] + place] = tops[own, place]
        for place in range(sums.shape[1]):
            total = 0.0
            for own in range(n_classes):
                total += totals[own, place]
            out_sums[config, n_classes * sums.shape[1] + place] = np.log2(1.0 + total)
        for place in range(largest.shape[1]):
            top = np.float32(0)
            for own in range(n_classes):
                top = max(top, tops[own, place])
            out_largest[config, n_classes * largest.shape[1] + place] = top


class LayoutExtractor:
    """Feature vectors of one graph's layout configurations.

    Two passes: :meth:`observe` codes all configurations of the slate, block by block; then calling the extractor on
    the codes gives the vectors, block by block.  What concerns the graph alone is worked out once, and what concerns
    one node's row once per distinct row.

    Parameters
    ----------
    program : Program
        At least one node.
    node_config_ids : int64 (nodes,)
        The configurable nodes.

    Raises
    ------
    ValueError
        For a program without nodes or without configurable nodes, or configurations of another shape.
    """

    def __init__(self, program: Program, node_config_ids: IntArray) -> None:
        if len(program) == 0 or len(node_config_ids) == 0:
            raise ValueError("a program without configurable nodes has no layout features")
        self.schema = schema()
        tensors = Tensors.of(program)
        self._nodes = configurable_nodes(program, tensors, np.asarray(node_config_ids, np.int64))
        self._links = links(program, tensors, self._nodes)
        around, self._reached = _surroundings(program, tensors, self._nodes)
        self._static = np.concatenate(
            [
                _configurable(self._nodes),
                around,
                opcodes.opcode_histogram(program),
                nodes.node_statistics(program),
            ]
        )
        self._table = RowTable(len(self._nodes))
        self._prepared: _Prepared | None = None

    def observe(self, block: NDArray[np.int8]) -> tuple[Codes, NDArray[np.uint64]]:
        """Code a block of the slate's configurations: int8 (b, nodes, 18) to uint16 (b, nodes) and digests (b, 2)."""
        wanted = (len(self._nodes), 18)
        if block.ndim != 3 or block.shape[1:] != wanted:
            raise ValueError(f"layout configurations have shape {block.shape}, wanted (c, {wanted[0]}, {wanted[1]})")
        self._prepared = None
        return self._table.encode(block)

    def __call__(self, codes: Codes, /) -> Float32Array:
        """Feature vectors, float32 (b, len(schema)), of coded configurations.

        The slate's ranks are left at 0: :class:`features.slate.SlateRanks` fills them when all rows are known.
        """
        prepared = self._prepare()
        n_configs, n_classes = len(codes), len(NODE_CLASSES)
        out = np.zeros((n_configs, len(self.schema)), np.float32)
        parts = iter(np.cumsum([0, *(len(block) for block in self.schema.blocks)]))
        first = next(parts)
        sections = {
            block.name: out[:, first : (first := last)] for block, last in zip(self.schema.blocks, parts, strict=True)
        }
        layout = sections["layout"]
        widths = (
            len(_value_columns()),
            len(_GROUPS) * len(_SUMS),
            len(_GROUPS) * len(_LARGEST),
            2 * N_BINS * n_classes,
        )
        ends = np.cumsum(widths)
        _aggregate(
            codes,
            prepared.offsets,
            self._nodes.classes,
            prepared.weighted,
            prepared.sums,
            prepared.largest,
            prepared.values.bins,
            prepared.values.buckets,
            prepared.values.is_set,
            self._reached,
            prepared.ratio,
            np.maximum(np.bincount(self._nodes.classes, minlength=n_classes), 1).astype(np.float64),
            layout[:, : ends[0]],
            layout[:, ends[0] : ends[1]],
            layout[:, ends[1] : ends[2]],
            layout[:, ends[2] :],
            sections["types"],
            sections["reach"],
        )
        pooled_config(codes, prepared.offsets, prepared.rows, sections["config"])
        sections["copies"][:] = count_copies(codes, prepared.offsets, prepared.values, self._links)
        slate.row_frequencies(codes, prepared.offsets, self._nodes.classes, prepared.frequency, sections["slate"])
        out[:, -len(self._static) :] = self._static
        return out

    def _prepare(self) -> _Prepared:
        if self._prepared is None:
            self._prepared = _Prepared(self._nodes, self._table)
        return self._prepared


class _Prepared:
    """What every distinct row adds to the sums, ready for the kernels."""

    def __init__(self, nodes: ConfigurableNodes, table: RowTable) -> None:
        self.offsets, self.rows, owner = table.offsets, table.rows, table.owner
        self.values: RowValues = row_values(nodes, self.rows, owner)
        there = nodes.rank >= 0
        weights = np.stack([there, nodes.nbytes, np.where(there, nodes.flops[:, None], 0.0)], axis=2)
        of_class = np.stack([weights[nodes.classes == number].sum(axis=0) for number in range(len(NODE_CLASSES))])
        shares = weights / np.where(of_class > 0, of_class, 1.0)[nodes.classes]
        whole = of_class.sum(axis=0)
        values = self.values.values
        self.weighted = _flat(values[:, :, :, None] * shares[owner][:, :, None, :])
        ratio = of_class / np.where(whole > 0, whole, 1.0)
        self.ratio = _flat(np.repeat(ratio[:, :, None, :], len(VALUES), axis=2))
        kept, minor_kept, padding, jump = (values[:, :, place] for place in (1, 3, 8, 9))
        nbytes, here = nodes.nbytes[owner], there[owner]
        moved = np.where(here, 1 - kept, 0) * nbytes
        minor_moved = np.where(here, 1 - minor_kept, 0) * nbytes
        padded = np.where(here, (2.0**padding - 1) * nbytes, 0.0)
        computed = nodes.flops[owner] * (2.0 ** padding[:, 0] - 1)
        self.sums = np.stack(
            [
                moved.sum(axis=1),
                minor_moved.sum(axis=1),
                (nbytes * jump).sum(axis=1),
                padded.sum(axis=1),
                computed,
            ],
            axis=1,
        )
        self.largest = np.stack([padding.max(axis=1), np.log2(1 + moved.max(axis=1))], axis=1).astype(np.float32)
        self.frequency = slate.frequencies(table.counts, owner, nodes.nbytes.sum(axis=1), nodes.classes)


def _flat(values: FloatArray) -> Float32Array:
    return np.ascontiguousarray(values.reshape(len(values), -1), np.float32)


def _configurable(nodes: ConfigurableNodes) -> Float32Array:
    sizes = []
    for number in range(len(NODE_CLASSES)):
        own = nodes.classes == number
        sizes += [own.sum(), nodes.nbytes[own].sum(), nodes.flops[own].sum()]
    return np.log2(1.0 + np.array(sizes)).astype(np.float32)


def _surroundings(program: Program, tensors: Tensors, nodes: ConfigurableNodes) -> tuple[Float32Array, Float32Array]:
    """Neighbourhoods of each class together, and of every node by itself as shares of the sum over nodes."""
    around = [
        neighborhood(program, tensors, nodes.ids[nodes.classes == number], _RADII).reshape(-1)
        for number in range(len(NODE_CLASSES))
    ]
    each = neighborhood_each(program, tensors, nodes.ids, max(_RADII))
    kept = each[:, :, [*_REACHED, len(CLASS_NAMES)]].reshape(len(nodes), -1)
    total = kept.sum(axis=0)
    return np.concatenate(around), (kept / np.where(total > 0, total, 1.0)).astype(np.float32)
