"""Why a model ranks one configuration of a graph before another: by column, by block, and by node or loop.

Effects of columns are the model's own attribution (:meth:`gbr.models.base.Model.compare`) and sum to the difference of
the scores.  Effects of nodes and loops ("parts") are computed by swapping the choices of the two configurations for one
part at a time.  The effect is the mean of the changes of both scores, so that it does not depend on the order of the
configurations; with two parts it is the Shapley value.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hardware import Hardware
from features.layout import extractor as layout
from features.layout.copies import STRIDES
from features.layout.extractor import LayoutTrace
from features.layout.metagraph import INSIDE
from features.layout.nodes import TENSOR_ROLES
from features.layout.slate import RECOMPUTED, recomputed
from features.schema import Column, Schema
from features.tensors import Tensors
from features.tile import extractor as tile
from features.tile.cpu import CacheModel
from features.tile.geometry import Geometry, loop_tiles
from features.tile.loops import LoopNest, loop_nest
from features.tile.operands import loop_slots
from gbr.data.build import extract
from gbr.data.graph import Graph, layout_text, node_names, read_graph, shape_text
from gbr.errors import UsageError
from gbr.evaluation.baselines import DEFAULT_FLAG
from gbr.models.params import threads

if TYPE_CHECKING:
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

#: Maximum number of parts listed for a column, and minimum change relative to the largest change of the column.
_MAX_BEHIND: Final = 3
_MIN_CHANGE: Final = 0.1
#: Layout configurations extracted at a time.
_BATCH: Final = 128
_SLOTS: Final = 6
#: Description by kind of a copy at one node.
_COPIES: Final = {
    "out": "{node} output: from the graph's layout to the configured one",
    "back": "{node} {role}: from the configured layout to the graph's",
    "entry": "{node} {role}: from the graph's layout to the configured one",
}


@dataclass(frozen=True)
class ColumnEffect:
    """A feature column and its effect."""

    name: str  # name, unit and description as in the schema
    unit: str
    doc: str
    values: tuple[float, float]
    effect: float  # contribution to the lead of the first configuration
    behind: tuple[tuple[str, float], ...]  # parts that change the column most when swapped, and by how much


@dataclass(frozen=True)
class BlockEffect:
    """A block of columns and the sum of their effects."""

    name: str
    doc: str
    effect: float


@dataclass(frozen=True)
class TensorChange:
    """A tensor of a configurable node whose layout differs."""

    role: str  # output, input or kernel
    shape: str
    layouts: tuple[str | None, str | None]  # configured layout, minor to major; None if left to the compiler
    minor: tuple[int, int]  # extent of the minor-most dimension
    padding: tuple[float, float]  # volume in whole registers over volume


@dataclass(frozen=True)
class NodeChange:
    """A configurable node whose layouts differ."""

    name: str
    effect: float  # of swapping its layouts
    tensors: tuple[TensorChange, ...]


@dataclass(frozen=True)
class Copy:
    """A copy that the layouts of at least one of the configurations imply."""

    kind: str  # edge: between two nodes; out, back, entry: at one node (features.layout.copies); inside: in a reshape
    what: str  # description, with the names of the nodes
    nbytes: tuple[float, float]  # bytes copied, 0 without the copy
    stride: tuple[int, int]  # elements that the stride of the copy exceeds; 0 for contiguous runs


@dataclass(frozen=True)
class LoopChange:
    """A loop of the kernel."""

    name: str  # role (batch, m, n, k) and number
    runs_over: str  # dimension of the result, or "reduced"
    extent: int
    tiles: tuple[int, int]  # steps of one tile
    trips: tuple[int, int]  # number of tiles
    waste: tuple[float, float]  # steps of all tiles over the extent, minus 1
    strides: dict[str, float]  # step in bytes per iteration, by role of the operand; 0 if independent of the loop
    effect: float  # of swapping its tile; 0 for equal tiles


@dataclass(frozen=True)
class OperandChange:
    """An operand of the kernel in memory, in bytes."""

    name: str
    role: str
    shape: str
    nbytes: float
    footprint: tuple[float, float]  # bytes in one tile
    run: tuple[float, float]  # bytes in one contiguous run of a tile
    moved: tuple[float, float]  # bytes moved by all tiles, if only the innermost tile loops reuse the operand


@dataclass(frozen=True)
class Explanation:
    """Why one configuration is ranked before (or after) another.  Positive effects favour the first."""

    graph: str  # path
    kind: str  # tile or layout
    n_configs: int
    configs: tuple[int, int]  # the explained configuration, and the one it is compared with
    chosen: str  # how the second was chosen: given, (compiler's) default, median or (predicted) best
    scores: tuple[float, float]  # lower is predicted faster
    places: tuple[int, int]  # ranks in the predicted order, from 1; ties as in the file
    runtimes: tuple[float, float] | None  # measured, over the normalizer if there is one
    lead: float  # second score minus first: the sum of the effects of all columns
    blocks: tuple[BlockEffect, ...]  # largest effect first; they sum to the lead
    columns: tuple[ColumnEffect, ...]  # columns with different values and an effect, largest effect first
    alike: float  # sum of the effects of columns with equal values, through interactions
    parts: str  # kind of the swapped parts: "configurable nodes" or "loops"
    n_parts: int  # number of parts that differ
    nodes: tuple[NodeChange, ...] = ()  # layout: largest effect first
    copies: tuple[Copy, ...] = ()  # layout: copies that differ, largest difference in bytes first
    kernel: str | None = None  # tile: the heaviest operation
    loops: tuple[LoopChange, ...] = ()  # tile: all loops
    operands: tuple[OperandChange, ...] = ()  # tile

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """Plain values for JSON, with the first ``top`` columns, nodes and copies."""
        return asdict(replace(self, columns=self.columns[:top], nodes=self.nodes[:top], copies=self.copies[:top]))


@dataclass(frozen=True, eq=False)
class _Parts:
    """The nodes or loops in which two configurations differ.

    ``forward``, float32 (parts, columns), holds the features of the second configuration with one part taken from the
    first; ``backward`` holds those of the first configuration with one part taken from the second.  ``fields`` maps the
    effects of the parts to fields of the explanation.
    """

    names: tuple[str, ...]
    forward: Float32Array
    backward: Float32Array
    fields: Callable[[Mapping[str, float]], dict[str, Any]]


def explain(
    ranker: Ranker, graph: Graph | str | os.PathLike[str], config: int, against: int | None = None
) -> Explanation:
    """Explain why a model ranks configuration ``config`` of a graph before or after ``against``.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``.
    graph : Graph or path-like
    config : int
        Row of the graph's configurations.
    against : int, optional
        Row to compare with.  By default a configuration that leaves all layouts to the compiler if there is one, else
        the median of the predicted order.

    Raises
    ------
    UsageError
        For a row out of range, equal rows, or a graph of one configuration.
    ModelError, DataError
        As for :meth:`gbr.ranker.Ranker.predict_graph`.
    """
    ranker._check_knows_graphs()
    graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
    _check_rows(graph, config, against)
    hardware = ranker._hardware(graph.source)
    schema, X, _ = extract(graph, hardware)
    used = ranker._columns_in(schema, graph.source)
    scores = ranker._predict(X[:, used])
    order = np.argsort(scores, kind="stable")
    other, chosen = _counterpart(schema, X, order, config) if against is None else (against, "given")
    pair = np.array([config, other])
    n_jobs = threads(ranker.n_jobs)
    effects = ranker.model_.compare(X[:, used], config, other, n_jobs)
    parts = (_layout_parts if graph.kind == "layout" else _tile_parts)(graph, hardware, pair, X)
    part_effects: dict[str, float] = {}
    if parts.names:

        def lead(rows: Float32Array) -> FloatArray:
            return ranker.model_.predict(rows[:, used], n_jobs)

        first, second = lead(X[pair])
        forward, backward = np.split(lead(np.concatenate([parts.forward, parts.backward])), 2)
        mean = (forward - second + first - backward) / 2
        part_effects = dict(zip(parts.names, mean.tolist(), strict=True))
    columns = [schema.columns[index] for index in used]
    ranks = np.argsort(order, kind="stable") + 1
    runtimes = None
    if graph.runtime is not None:
        runtimes = _two(graph.runtime[pair] / (1 if graph.normalizer is None else graph.normalizer[pair]))
    return Explanation(
        graph=graph.source,
        kind=graph.kind,
        n_configs=graph.n_configs,
        configs=(config, other),
        chosen=chosen,
        scores=_two(scores[pair]),
        places=(int(ranks[config]), int(ranks[other])),
        runtimes=runtimes,
        lead=float(scores[other] - scores[config]),
        blocks=_blocks(schema, columns, effects),
        columns=_columns(columns, effects, X[pair], used, parts),
        alike=float(effects[X[config, used] == X[other, used]].sum()),
        parts="configurable nodes" if graph.kind == "layout" else "loops",
        n_parts=len(parts.names),
        **parts.fields(part_effects),
    )


def _check_rows(graph: Graph, config: int, against: int | None) -> None:
    if graph.n_configs < 2:
        raise UsageError(f"{graph.source}: expected at least two configurations to compare, got {graph.n_configs}")
    for name, row in (("config", config), ("against", against)):
        if row is not None and not 0 <= row < graph.n_configs:
            raise UsageError(f"{graph.source}: {name}: expected 0 to {graph.n_configs - 1}, got {row}")
    if config == against:
        raise UsageError(f"{graph.source}: config and against: expected two configurations, got {config} twice")


def _counterpart(schema: Schema, X: Float32Array, order: IntArray, config: int) -> tuple[int, str]:
    """Choose the configuration to compare with, and return how it was chosen."""
    if DEFAULT_FLAG in schema.names:
        default = np.flatnonzero(X[:, schema.names.index(DEFAULT_FLAG)] == 1)
        if len(default) and config not in default:
            return int(default[0]), "default"
    median = int(order[len(order) // 2])
    return (median, "median") if median != config else (int(order[0]), "best")


def _blocks(schema: Schema, columns: Sequence[Column], effects: FloatArray) -> tuple[BlockEffect, ...]:
    sums: dict[str, float] = {}
    for column, effect in zip(columns, effects.tolist(), strict=True):
        name = column.name.split(".", 1)[0]
        sums[name] = sums.get(name, 0.0) + effect
    found = [BlockEffect(block.name, block.doc, sums[block.name]) for block in schema.blocks if sums.get(block.name)]
    return tuple(sorted(found, key=lambda block: -abs(block.effect)))


def _columns(
    columns: Sequence[Column], effects: FloatArray, X: Float32Array, used: IntArray, parts: _Parts
) -> tuple[ColumnEffect, ...]:
    """Effects of the columns that differ; ``X``, float32 (2, all columns), and ``used``, indices of ``columns``."""
    values = X.astype(np.float64)
    changes = (parts.forward - values[1] + values[0] - parts.backward) / 2
    shown = np.flatnonzero((X[0, used] != X[1, used]) & (effects != 0))
    found = []
    for number in shown[np.argsort(-np.abs(effects[shown]), kind="stable")].tolist():
        column, index = columns[number], used[number]
        change = changes[:, index]
        size = np.abs(change)
        behind = [
            (parts.names[part], float(change[part]))
            for part in np.argsort(-size, kind="stable")[:_MAX_BEHIND]
            if size[part] > _MIN_CHANGE * size.max()
        ]
        effect = float(effects[number])
        found.append(ColumnEffect(column.name, column.unit, column.doc, _two(values[:, index]), effect, tuple(behind)))
    return tuple(found)


def _layout_parts(graph: Graph, hardware: Hardware, pair: IntArray, X: Float32Array) -> _Parts:
    """Configurable nodes whose layouts differ; ``X``: features of the whole group.

    A configuration with a swapped node keeps its frequencies within the group; its ranks and z-scores are computed as
    if it replaced the original.
    """
    assert graph.node_config_ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    ids, configs = graph.node_config_ids, graph.configs(pair)
    names = node_names(graph.node_opcode)
    differ = np.flatnonzero((configs[0] != configs[1]).any(axis=1))
    tensors = Tensors.of(program)
    extractor = layout.LayoutExtractor(program, ids, hardware=hardware)
    traced = extractor.trace(configs)
    codes, _ = extractor.observe(configs)
    column = {name: index for index, name in enumerate(layout.schema().names)}
    relative = [column[name] for name in RECOMPUTED]
    inputs = layout.slate_inputs()

    def swapped(own: int, other: int) -> Float32Array:
        rows = np.repeat(X[pair[own]][None], len(differ), axis=0)
        for first in range(0, len(differ), _BATCH):
            nodes = differ[first : first + _BATCH]
            mixed = np.repeat(codes[own : own + 1], len(nodes), axis=0)
            mixed[np.arange(len(nodes)), nodes] = codes[other, nodes]
            extractor.describe(mixed, rows[first : first + len(nodes), : layout.N_OWN])
        rows[:, relative] = recomputed(X[:, inputs], int(pair[own]), rows[:, inputs])
        return rows

    def fields(effects: Mapping[str, float]) -> dict[str, Any]:
        nodes = [
            NodeChange(names[ids[node]], effects[names[ids[node]]], tuple(_tensors(tensors, traced, configs, node)))
            for node in differ.tolist()
        ]
        nodes.sort(key=lambda node: -abs(node.effect))
        return {"nodes": tuple(nodes), "copies": tuple(layout_copies([names[node] for node in ids], traced))}

    return _Parts(tuple(names[ids[node]] for node in differ), swapped(1, 0), swapped(0, 1), fields)


def _tensors(tensors: Tensors, traced: LayoutTrace, configs: NDArray[np.int8], node: int) -> Iterator[TensorChange]:
    """Tensors of a configurable node whose layouts differ."""
    nodes = traced.nodes
    for role, name in enumerate(TENSOR_ROLES):
        dims = configs[:, node, _SLOTS * role : _SLOTS * (role + 1)]
        if nodes.rank[node, role] < 0 or (dims[0] == dims[1]).all():
            continue
        layouts = [None if row[0] < 0 else layout_text(row[row >= 0]) for row in dims]
        minor = traced.minor[:, node, role].round().astype(int).tolist()
        tensor = int(nodes.ids[node] if role == 0 else nodes.operands[node, role - 1])
        padding = _two(traced.padding[:, node, role])
        yield TensorChange(name, shape_text(tensors, tensor), (layouts[0], layouts[1]), (minor[0], minor[1]), padding)


def layout_copies(names: Sequence[str], traced: LayoutTrace) -> list[Copy]:
    """Copies that differ between two traced configurations, largest difference in bytes first.

    Parameters
    ----------
    names : sequence of str
        Names of the configurable nodes.
    traced : LayoutTrace
    """
    exceeded = (0, 0, *STRIDES)
    found = []

    def add(kind: str, what: str, nbytes: float, levels: IntArray) -> None:
        first, second = levels.tolist()
        bytes_copied = (float(nbytes) if first else 0.0, float(nbytes) if second else 0.0)
        found.append(Copy(kind, what, bytes_copied, (exceeded[first], exceeded[second])))

    for kind, level in traced.copied.items():
        for node, role in np.argwhere(level[0] != level[1]).tolist():
            what = _COPIES[kind].format(node=names[node], role=TENSOR_ROLES[role])
            add(kind, what, traced.nodes.nbytes[node, role], level[:, node, role])
    links = traced.links
    for link in np.flatnonzero(traced.level[:, 0] != traced.level[:, 1]):
        (producer, consumer), role = links.nodes[link], links.roles[link, 1]
        what = f"{names[producer]} -> {names[consumer]} {TENSOR_ROLES[role]}: layouts disagree"
        add("edge", what, links.nbytes[link] * links.share[link], traced.level[link])
    for link in np.flatnonzero((links.group == INSIDE) & (traced.disagree[:, 0] != traced.disagree[:, 1])):
        what = f"{names[links.nodes[link, 0]]}: layouts of input and output disagree"
        add("inside", what, links.nbytes[link], traced.disagree[link].astype(np.int64))
    return sorted(found, key=lambda copy: -abs(copy.nbytes[0] - copy.nbytes[1]))


def _tile_parts(graph: Graph, hardware: Hardware, pair: IntArray, X: Float32Array) -> _Parts:
    """Loops whose tiles differ; ``X``: features of the whole group.

    For a configuration with a swapped loop, only the blocks ``geometry`` and ``cache`` are recomputed.
    """
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    geometry = Geometry(nest, tensors, slots, hardware)
    cache = CacheModel(geometry, slots, hardware)
    tiles = loop_tiles(nest, tensors, graph.configs(pair), hardware)
    differ = np.flatnonzero(tiles[0] != tiles[1])
    columns = tile.schema().names

    def swapped(own: int, other: int) -> Float32Array:
        mixed = np.repeat(tiles[own : own + 1], len(differ), axis=0)
        mixed[np.arange(len(differ)), differ] = tiles[other, differ]
        rows = np.repeat(X[pair[own]][None], len(differ), axis=0)
        if len(differ):
            for block, features in (("geometry", geometry), ("cache", cache)):
                rows[:, [name.startswith(f"{block}.") for name in columns]] = features(mixed)
        return rows

    names = node_names(graph.node_opcode)

    def fields(effects: Mapping[str, float]) -> dict[str, Any]:
        return {
            "kernel": names[nest.anchor],
            "loops": tuple(_loops(nest, geometry, tiles, names, effects)),
            "operands": tuple(_operands(nest, tensors, names, X[pair])),
        }

    loops = tuple(f"{nest.roles[loop]}{loop}" for loop in differ)
    return _Parts(loops, swapped(1, 0), swapped(0, 1), fields)


def _loops(
    nest: LoopNest, geometry: Geometry, tiles: IntArray, names: Sequence[str], effects: Mapping[str, float]
) -> Iterator[LoopChange]:
    """Loops of the kernel under ``tiles``, int64 (2, loops)."""
    result = names[nest.accesses[0].node]
    for loop, extent in enumerate(nest.extents.tolist()):
        (first, second), trips = tiles[:, loop].tolist(), (-(-extent // tiles[:, loop])).tolist()
        name = f"{nest.roles[loop]}{loop}"
        strides: dict[str, float] = {}
        for row, access in enumerate(nest.accesses):
            step = np.abs(geometry.operands.coefficients[row, :, loop]) @ geometry.operands.strides[row]
            strides.setdefault(access.role, float(step))
        yield LoopChange(
            name=name,
            runs_over=f"{result} dimension {loop}" if loop < nest.n_out else "reduced",
            extent=extent,
            tiles=(first, second),
            trips=(trips[0], trips[1]),
            waste=(trips[0] * first / extent - 1, trips[1] * second / extent - 1),
            strides=strides,
            effect=effects.get(name, 0.0),
        )


def _operands(nest: LoopNest, tensors: Tensors, names: Sequence[str], X: Float32Array) -> Iterator[OperandChange]:
    """Operands of the kernel, from the features of two configurations, float32 (2, columns)."""
    column = {name: index for index, name in enumerate(tile.schema().names)}
    for role in dict.fromkeys(access.role for access in nest.accesses):
        access = nest.first(role)
        assert access is not None
        footprint, run, reload = (
            2.0 ** X[:, column[f"geometry.{role}.{name}"]].astype(np.float64) for name in ("footprint", "run", "reload")
        )
        nbytes = float(tensors.nbytes[access.node])
        shape = shape_text(tensors, access.node)
        moved = _two(reload * nbytes)
        yield OperandChange(names[access.node], role, shape, nbytes, _two(footprint), _two(run), moved)


def _two(values: NDArray[Any]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
