"""Features of layout configurations: which layouts are set, and the copies, padding and loops they cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hardware import CPU, Hardware
from features.hlo import LAYOUT_CONFIG
from features.layout import copies, loops, slate
from features.layout.aggregate import CONFIG, Aggregate, Prepared
from features.layout.copies import OWN_KINDS, Copies, levels
from features.layout.copies import orders as orders_of
from features.layout.metagraph import Links, links
from features.layout.nodes import (
    N_BUCKETS,
    NODE_CLASSES,
    RANGES,
    TENSOR_ROLES,
    VALUES,
    ConfigurableNodes,
    configurable_nodes,
    row_values,
)
from features.layout.rows import Codes, RowTable, first_equal
from features.operations import KINDS, node_kinds
from features.program import (
    CLASS_NAMES,
    NODES_BLOCK,
    OPCODES_BLOCK,
    RADII,
    neighborhood_columns,
    neighborhood_values,
    neighborhoods,
    node_statistics,
    opcode_histogram,
)
from features.schema import Block, Column, Float32Array, Schema
from features.tensors import Tensors

IntArray = NDArray[np.int64]
Run = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]

#: Configurations of a group per batch.
_VECTORS_AT_ONCE: Final = 256
_GROUPS: Final = (*NODE_CLASSES, "all")
_WEIGHTS: Final = (("count", ""), ("bytes", ", weighted by bytes"), ("flops", ", weighted by operations"))
#: Opcode classes in the surroundings of a node that are summed over the nodes that are set.
_REACHED: Final = tuple(
    CLASS_NAMES.index(name) for name in ("convolution", "dot", "reduce", "transcendental", "transpose")
)
_SUMS: Final = (
    ("moved", "bytes of tensors that do not keep the graph's layout"),
    ("minor_moved", "bytes of tensors whose minor-most dimension changes"),
    ("jumped", "bytes of tensors times the log2 stride of the dimension that becomes minor-most"),
    ("padded", "bytes added by padding to whole registers"),
    ("computed_padded", "operations of nodes times the padding factor of their output"),
)
_LARGEST: Final = (
    ("padding", "log2", "Largest padding factor of a tensor"),
    ("moved", "log2", "Bytes of the largest tensor that does not keep the graph's layout"),
)


LAYOUT: Final = Block(
    "layout",
    3,
    "Layouts aggregated over the configurable nodes, by class, tensor role and weight.",
    (
        *(
            Column(f"{group}.{role}.{name}.{weight}", unit, doc.format(f"{group} {role} tensors") + weighted)
            for group in _GROUPS
            for role in TENSOR_ROLES
            for name, unit, doc in VALUES
            for weight, weighted in _WEIGHTS
        ),
        *(Column(f"{group}.sum.{name}", "log2", f"{group}: {doc}") for group in _GROUPS for name, doc in _SUMS),
        *(Column(f"{group}.max.{name}", unit, f"{group}: {doc}") for group in _GROUPS for name, unit, doc in _LARGEST),
        *(
            Column(
                f"{name}.{which}.bin{number}",
                "share",
                f"Share of the {name} outputs whose {which} extent is {RANGES[number]}",
            )
            for name in NODE_CLASSES
            for which in ("minor", "second")
            for number in range(len(RANGES))
        ),
        *(
            Column(f"{kind}.output_padding", "log2", f"Padding factor of the outputs of {doc}, mean by operations")
            for kind, doc in KINDS.items()
        ),
        Column("effective", "share", "Share of the nodes with a layout that is not the graph's in effect"),
    ),
    per_config=True,
)
TYPES: Final = Block(
    "types",
    1,
    "Node types (class, ranks, dimension numbers and row) counted in hashed buckets.",
    tuple(
        Column(f"bucket{number}", "share", f"Share of the nodes whose type has hash {number}")
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
            f"{radius}hop.{name}",
            "share",
            f"{doc} within distance {radius} of the nodes that are set, over those of all configurable ones",
        )
        for radius in RADII
        for name, doc in (
            *((CLASS_NAMES[number], f"Nodes of class {CLASS_NAMES[number]}") for number in _REACHED),
            ("bytes", "Bytes of all outputs"),
        )
    ),
    per_config=True,
)
SURROUNDINGS: Final = Block(
    "neighborhood",
    1,
    "k-hop surroundings of the configurable nodes of each class.",
    neighborhood_columns({name: f"a configurable {name}" for name in NODE_CLASSES}),
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
            CONFIG,
            LAYOUT,
            copies.BLOCK,
            TYPES,
            REACH,
            loops.BLOCK,
            slate.BLOCK,
            CONFIGURABLE,
            SURROUNDINGS,
            OPCODES_BLOCK,
            NODES_BLOCK,
        ),
    )


#: Columns of each block; the slate block follows all blocks that do not depend on other configurations.
_ENDS: Final = np.cumsum([0, *map(len, schema().blocks)]).tolist()
_AT: Final = {block.name: slice(*_ENDS[at : at + 2]) for at, block in enumerate(schema().blocks)}
#: Columns of :data:`features.layout.slate.INPUTS` in the schema.
SLATE_INPUTS: Final = [schema().names.index(name) for name in slate.INPUTS]
N_OWN: Final = _AT[slate.BLOCK.name].start
N_PER_CONFIG: Final = _AT[slate.BLOCK.name].stop


class LayoutExtractor:
    """Feature vectors of one graph's layout configurations.

    Block by block, :meth:`observe` codes configurations and :meth:`describe` writes the columns of each that do not
    depend on the others.  When the whole group has been observed, :meth:`frequencies` and
    :func:`features.layout.slate.slate_columns` give the rest.  Values of the graph are computed once, and values of
    one node's row once per distinct row.  Several threads may call :meth:`describe` at a time.

    Parameters
    ----------
    program : Program
        At least one node.
    node_config_ids : int64 (nodes,)
        The configurable nodes.
    table : RowTable, optional
        Codes the configurations; another thread may be using it, too.
    hardware : Hardware
        The machine on which the runtimes were measured.

    Attributes
    ----------
    schema : Schema
        ``N_OWN`` columns by :meth:`describe`, then the slate block up to ``N_PER_CONFIG``, then ``shared``.
    shared : float32 (len(schema) - N_PER_CONFIG,)
        Values that all configurations of the graph share.

    Raises
    ------
    ValueError
        For a program without nodes or without configurable nodes, configurations of another shape, or a value that is
        not an integer from -1 to 5.
    """

    def __init__(
        self, program: Program, node_config_ids: IntArray, table: RowTable | None = None, hardware: Hardware = CPU
    ) -> None:
        if len(program) == 0 or len(node_config_ids) == 0:
            raise ValueError("a program without configurable nodes has no layout features")
        self.schema = schema()
        self._hardware = hardware
        tensors = Tensors.of(program)
        self._nodes = configurable_nodes(program, tensors, np.asarray(node_config_ids, np.int64))
        nodes, members = self._nodes, [self._nodes.classes == number for number in range(len(NODE_CLASSES))]
        sizes = [[own.sum(), nodes.nbytes[own].sum(), nodes.flops[own].sum()] for own in members]
        sets = [*(nodes.ids[own] for own in members), *nodes.ids]
        around, each = np.split(neighborhoods(program, tensors, sets), [len(members)])
        configurable = np.log2(1.0 + np.array(sizes).reshape(-1)).astype(np.float32)
        self.shared = np.concatenate(
            [configurable, neighborhood_values(around), opcode_histogram(program), node_statistics(program)]
        )
        near = each[:, :, [*_REACHED, len(CLASS_NAMES)]].reshape(len(nodes.ids), -1)
        whole = near.sum(axis=0)
        reached = (near / np.where(whole > 0, whole, 1.0)).astype(np.float32)  # shares of the sum over nodes
        self._table = RowTable(len(self._nodes.ids)) if table is None else table
        self._copies = Copies(self._nodes, links(program, tensors, self._nodes))
        self._loops = loops.Loops(program, tensors, self._nodes, hardware)
        self._rows = np.zeros((0, len(LAYOUT_CONFIG)), np.int64)
        kinds = node_kinds(program, tensors, self._nodes.ids)
        self._aggregate = Aggregate(self._nodes, kinds, self._copies.fed, reached)
        self._marks = np.zeros(0, np.uint64)
        self._growing = Lock()

    def observe(self, block: NDArray[np.float32] | NDArray[np.int8]) -> tuple[Codes, NDArray[np.uint64]]:
        """Code a block of the group's configurations, float32 or int8 (b, nodes, 18).

        Returns
        -------
        codes : uint32 (b, nodes)
        digests : uint64 (b,)
            Equal for equal configurations.
        """
        expected = (len(self._nodes.ids), len(LAYOUT_CONFIG))
        if block.ndim != 3 or block.shape[1:] != expected:
            raise ValueError(
                f"layout configurations: expected shape (c, {expected[0]}, {expected[1]}), got {block.shape}"
            )
        return self._table.encode(block)

    def describe(self, codes: Codes, out: Float32Array) -> None:
        """Write all columns, float32 (b, N_OWN), that do not depend on the whole group; codes from :meth:`observe`."""
        with self._growing:  # tables only grow, so a later caller finds all its rows
            self._catch_up()
            tables = self._tables
        self._loops.write(codes, self._rows, out[:, _AT["loops"]])
        for first in range(0, len(codes), _VECTORS_AT_ONCE):
            part = slice(first, first + _VECTORS_AT_ONCE)
            self._describe(tables, codes[part], out[part])

    def _describe(self, tables: Prepared, codes: Codes, out: Float32Array) -> None:
        sections = (out[:, _AT[name]] for name in ("config", "layout", "types", "reach"))
        own_copies = self._aggregate.write(tables, codes, *sections)
        self._copies.write(codes, own_copies, out[:, _AT["copies"]])

    def frequencies(self) -> slate.Frequencies:
        """Frequency of each row among all configurations, which must have been observed and described."""
        return slate.Frequencies(self._table.counts, self._table.owner, self._marks, self._nodes)

    def vectors(self, configs: NDArray[np.float32] | NDArray[np.int8], run: Run = map) -> Float32Array:
        """Feature vectors, float32 (c, len(schema)), of a whole group at once.

        May be called again for another group, with the same result as a new extractor; values of rows that are
        already known are not computed again.  ``run`` is a function like ``map``; that of a thread pool processes parts
        of the group in parallel.

        Parameters
        ----------
        configs : float32 or int8 (c, nodes, 18)
        """
        self._table.counts[:] = 0
        codes, digests = self.observe(configs)
        self._catch_up()
        out = np.empty((len(codes), len(self.schema)), np.float32)
        tables = self._aggregate.prepared(codes)

        def work(first: int) -> None:
            part = slice(first, first + _VECTORS_AT_ONCE)
            self._loops.write(codes[part], self._rows, out[part, _AT["loops"]])
            self._describe(tables, codes[part], out[part])

        for _ in run(work, range(0, len(codes), _VECTORS_AT_ONCE)):
            pass
        out[:, N_OWN:N_PER_CONFIG] = slate.slate_columns(
            out[:, SLATE_INPUTS], *self.frequencies().columns(codes), first_equal(digests)
        )
        out[:, N_PER_CONFIG:] = self.shared
        return out

    def _catch_up(self) -> None:
        """Compute the values of rows that were discovered since the last call."""
        rows, owner = self._table.since(len(self._rows))
        if len(rows) == 0:
            return
        self._rows = np.concatenate([self._rows, rows])
        values = row_values(self._nodes, rows, owner, self._hardware)
        orders, own_copies = self._copies.add(rows, owner, values)
        differs = (orders.packed != self._copies.own.packed[owner]).any(axis=1)
        self._aggregate.add(rows, owner, values, differs, own_copies)
        self._tables = self._aggregate.prepared()
        self._marks = np.concatenate([self._marks, slate.layout_marks(owner, orders.packed)])

    def trace(self, configs: NDArray[np.float32] | NDArray[np.int8]) -> LayoutTrace:
        """Explain a few configurations, float32 or int8 (b, nodes, 18), node by node and link by link."""
        codes, _ = self.observe(configs)
        self._catch_up()
        nodes, rows, owner = self._nodes, self._table.rows, self._table.owner
        values = row_values(nodes, rows, owner, self._hardware).values[codes]
        copies_of = self._copies.tensor_copies(owner, orders_of(nodes, rows, owner))
        level, disagree = self._copies.by_link(codes)
        value = {name: values[..., number] for number, (name, *_) in enumerate(VALUES)}
        return LayoutTrace(
            nodes=nodes,
            minor=2.0 ** value["minor"],
            padding=2.0 ** value["padding"],
            copied={
                kind: np.where(copied, levels(strides), 0)[codes]
                for kind, (copied, strides) in zip(OWN_KINDS, copies_of, strict=True)
            },
            links=self._copies.links,
            level=level,
            disagree=disagree,
        )


class LayoutTrace(NamedTuple):
    """Effects of configurations on the tensors of the configurable nodes: the terms of the features' sums."""

    nodes: ConfigurableNodes
    minor: NDArray[np.float64]  # (b, nodes, 3), extent of the minor-most dimension; 1 if there is no tensor
    padding: NDArray[np.float64]  # (b, nodes, 3), volume in whole registers over volume; 1 if there is no tensor
    copied: dict[str, IntArray]  # (b, nodes, 3), by OWN_KINDS: 0 for no copy at the node, else the level of its stride
    links: Links  # pairs of tensors whose layouts should agree
    level: IntArray  # (links, b), copies between two nodes, as in copied; of nbytes * share bytes
    disagree: NDArray[np.bool_]  # (links, b), whether both layouts are set, and differ
