"""Why a model ranks one configuration before another: by column, by block, and by node, loop or parameter.

Effects of columns are the model's own attribution (:meth:`gbr.models.base.Model.compare`) and sum to the difference of
the scores.  Effects of nodes, loops and parameters ("parts") are computed by swapping the choices of the two
configurations for one part at a time.  The effect is the mean of the changes of both scores, so that it does not depend
on the order of the configurations; with two parts it is the Shapley value.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.graph import Program
from features.hardware import Hardware
from features.hlo import TILE_CONFIG
from features.layout import extractor as layout
from features.layout.copies import STRIDES
from features.layout.extractor import LayoutTrace
from features.layout.metagraph import INSIDE
from features.layout.nodes import TENSOR_ROLES
from features.layout.slate import RECOMPUTED, recomputed
from features.schema import Float32Array, Schema
from features.tensors import Tensors
from features.tile import extractor as tile
from features.tile.cpu import CacheModel
from features.tile.geometry import Geometry, loop_tiles
from features.tile.loops import LoopNest, loop_nest
from features.tile.names import named_slots
from features.tile.operands import loop_slots
from gbr.data.build import extract
from gbr.data.collection import TABLE
from gbr.data.graph import Graph, layout_text, node_names, shape_text
from gbr.data.table import Group, Table, read_rows
from gbr.data.table_columns import texts
from gbr.data.table_features import TableFeatures
from gbr.errors import UsageError
from gbr.evaluation.baselines import DEFAULT_FLAG
from gbr.models.params import threads
from gbr.ranker import Ranker

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Maximum number of parts listed for a column, and minimum change relative to the largest change of the column.
_MAX_BEHIND: Final = 3
_MIN_CHANGE: Final = 0.1
#: Elements that the stride of a copy exceeds, by its level.
_EXCEEDED: Final = np.array([0, 0, *STRIDES])
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
class ParameterChange:
    """A parameter of a table, or a named slot of a configuration, whose values differ."""

    name: str
    values: tuple[str | None, str | None]  # None if missing
    effect: float  # of swapping its value


@dataclass(frozen=True)
class Explanation:
    """Why one configuration is ranked before (or after) another.  Positive effects favour the first."""

    graph: str  # path; for a table the name of the group
    kind: str  # tile, layout or table
    n_configs: int
    configs: tuple[int, int]  # the explained configuration, and the one it is compared with; rows of a table's file
    chosen: str  # how the second was chosen: given, (compiler's) default, median or (predicted) best
    scores: tuple[float, float]  # lower is predicted faster
    places: tuple[int, int]  # ranks in the predicted order, from 1; ties as in the file
    runtimes: tuple[float, float] | None  # measured, over the normalizer if there is one
    lead: float  # second score minus first: the sum of the effects of all columns
    blocks: tuple[BlockEffect, ...]  # largest effect first; they sum to the lead
    columns: tuple[ColumnEffect, ...]  # columns with different values and an effect, largest effect first
    alike: float  # sum of the effects of columns with equal values, through interactions
    parts: str  # kind of the swapped parts: "configurable nodes", "loops" or "parameters"
    n_parts: int  # number of parts that differ
    nodes: tuple[NodeChange, ...] = ()  # layout: largest effect first
    copies: tuple[Copy, ...] = ()  # layout: copies that differ, largest difference in bytes first
    kernel: str | None = None  # tile: the heaviest operation
    loops: tuple[LoopChange, ...] = ()  # tile: all loops
    operands: tuple[OperandChange, ...] = ()  # tile
    parameters: tuple[ParameterChange, ...] = ()  # table, named slots: largest effect first
    failures: tuple[float, float] | None = None  # table: chance to fail
    unit: str | None = None  # of scores, lead and effects where these are runtimes

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """Plain values for JSON, with the first ``top`` columns, nodes, copies and parameters."""
        shown = ("columns", "nodes", "copies", "parameters")
        return asdict(replace(self, **{name: getattr(self, name)[:top] for name in shown}))


class _Parts(NamedTuple):
    """The nodes or loops of a graph, or the parameters of a table or of named slots."""

    kind: str
    names: list[str]
    choices: NDArray[Any]  # int (2, parts): of the two configurations
    mix: Callable[[NDArray[Any], Float32Array, int], None]  # mixed choices, features of a row to update, that row
    fields: Callable[[Mapping[str, float]], dict[str, Any]]  # effects of the parts -> fields of the explanation


def explain(ranker: Ranker, graph: Any, config: int, against: int | None = None) -> Explanation:
    """Explain why a model ranks configuration ``config`` before or after ``against``.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``.
    graph : Graph or path-like
        For a model of a table, what :meth:`gbr.ranker.Ranker.predict_table` takes.
    config : int
        Row of the graph's configurations, or of the table.
    against : int, optional
        Row to compare with, of the same group of a table.  By default a configuration that leaves all layouts to the
        compiler if there is one, else the median of the predicted order.

    Raises
    ------
    UsageError
        For a row out of range, equal rows, rows of different groups, or a single configuration.
    ModelError, DataError
        As for :meth:`gbr.ranker.Ranker.predict_graph` and :meth:`gbr.ranker.Ranker.predict_table`.
    """
    kind = (ranker.trained_on_ or {}).get("kind")
    return (_explain_row if kind == TABLE else _explain_graph)(ranker, graph, config, against)


def _explain_graph(
    ranker: Ranker, graph: Graph | str | os.PathLike[str], config: int, against: int | None
) -> Explanation:
    graph, ranker = ranker.for_graph(graph)
    hardware = ranker.hardware
    config, against = _checked(graph.source, graph.n_configs, config, against)
    schema, X, _ = extract(graph, hardware)
    scores = ranker.predict_rows(X[:, ranker.columns_in(schema, graph.source)])
    other, chosen = _counterpart(schema, X, scores, config) if against is None else (against, "given")
    pair = np.array([config, other])
    parts = (_layout_parts if graph.kind == "layout" else _tile_parts)(graph, hardware, pair, X)
    runtimes = graph.runtime
    if runtimes is not None:
        runtimes = runtimes[pair] / (1 if graph.normalizer is None else graph.normalizer[pair])
    return _explained(
        ranker,
        schema,
        X,
        scores,
        pair,
        parts,
        graph=graph.source,
        kind=graph.kind,
        configs=_pair(pair),
        chosen=chosen,
        runtimes=None if runtimes is None else _pair(runtimes),
    )


def _explain_row(ranker: Ranker, rows: Any, config: int, against: int | None) -> Explanation:
    features = ranker.table
    table = rows if isinstance(rows, Table) else read_rows(rows, features.roles)
    config, against = _checked(table.name, len(table.row), config, against)
    at = np.argsort(table.row)  # index of each row of the file
    group = next(group for group in table.groups if group.start <= at[config] < group.stop)
    own = slice(group.start, group.stop)
    row = table.row[own]
    if against is not None and against not in row:
        raise UsageError(f"{table.name}: against: row {against} is not of group {group.name}, as row {config} is")
    if len(row) < 2:
        raise UsageError(f"{table.name}: group {group.name}: expected at least two rows to compare, got one")
    frame, alone = table.frame[own], replace(group, start=0, stop=len(row))
    X = features(frame, [alone])
    scores, chances = ranker.predict_both(X[:, ranker.columns_in(features.schema, table.name)])
    # Failures shift scores, and the inverse of a throughput has no unit.
    is_runtime = ranker.predicts_runtimes and not chances.any() and features.roles.direction == "lower"
    first = int(at[config]) - group.start
    if against is None:
        other, chosen = _counterpart(features.schema, X, scores, first)
    else:
        other, chosen = int(at[against]) - group.start, "given"
    pair = np.array([first, other])
    return _explained(
        ranker,
        features.schema,
        X,
        scores,
        pair,
        _table_parts(features, frame[pair], alone, X[pair]),
        graph=group.name,
        kind=TABLE,
        configs=_pair(row[pair]),
        chosen=chosen,
        runtimes=None,
        failures=_pair(chances[pair]) if ranker.model_.foresees_failures else None,
        unit=features.roles.unit if is_runtime else None,
    )


def _checked(source: str, n_configs: int, config: int, against: int | None) -> tuple[int, int | None]:
    if n_configs < 2:
        raise UsageError(f"{source}: expected at least two configurations to compare, got {n_configs}")
    for name, row in (("config", config), ("against", against)):
        if row is None and name == "against":
            continue
        if not isinstance(row, int | np.integer) or isinstance(row, bool) or not 0 <= row < n_configs:
            raise UsageError(f"{source}: {name}: expected 0 to {n_configs - 1}, got {row!r}")
    config, against = int(config), None if against is None else int(against)
    if config == against:
        raise UsageError(f"{source}: config and against: expected two configurations, got {config} twice")
    return config, against


def _explained(
    ranker: Ranker,
    schema: Schema,
    X: Float32Array,
    scores: FloatArray,
    pair: IntArray,
    parts: _Parts,
    **about: Any,
) -> Explanation:
    """Explain the order of rows ``pair`` of ``X``, the features of a group; ``about`` are further fields."""
    config, other = pair.tolist()
    used = ranker.columns_in(schema, about["graph"])
    order = np.argsort(scores, kind="stable")
    differ = np.flatnonzero(parts.choices[0] != parts.choices[1])
    names = [parts.names[part] for part in differ]

    def swapped(own: int, other: int) -> Float32Array:
        """Features of one configuration with one part at a time taken from the other, float32 (parts, columns)."""
        mixed = np.repeat(parts.choices[[own]], len(differ), axis=0)
        mixed[np.arange(len(differ)), differ] = parts.choices[other, differ]
        rows = np.repeat(X[pair[[own]]], len(differ), axis=0)
        parts.mix(mixed, rows, int(pair[own]))
        return rows

    rows = np.concatenate([X[pair], swapped(1, 0), swapped(0, 1)])
    n_jobs = threads(ranker.n_jobs)

    def mean_change(values: NDArray[Any]) -> NDArray[Any]:
        """Change of a value of ``rows`` towards the first configuration, by part."""
        (first, second), (forward, backward) = values[:2], np.split(values[2:], 2)
        return np.asarray((forward - second + first - backward) / 2)

    part_effects = mean_change(ranker.model_.predict(rows[:, used], n_jobs))
    effects = ranker.model_.compare(X[:, used], config, other, n_jobs)
    ranks = np.argsort(order, kind="stable") + 1
    values = rows[:, used].astype(np.float64)
    lead = float(scores[other] - scores[config])
    shown = scores[pair]
    if about.get("unit") is not None:  # log2 of runtimes: the difference is shared out in proportion
        shown = np.exp2(shown)
        scale = float(shown[1] - shown[0]) / lead if lead else float(shown[0] * np.log(2))
        lead, effects, part_effects = lead * scale, effects * scale, part_effects * scale
    sums: Counter[str] = Counter()
    for index, effect in zip(used, effects.tolist(), strict=True):
        sums[schema.names[index].split(".", 1)[0]] += effect
    blocks = [BlockEffect(block.name, block.doc, sums[block.name]) for block in schema.blocks if sums[block.name]]
    return Explanation(
        n_configs=len(X),
        scores=_pair(shown),
        places=_pair(ranks[pair]),
        lead=lead,
        blocks=tuple(sorted(blocks, key=lambda block: -abs(block.effect))),
        columns=_columns(schema, used, effects, values[:2], mean_change(values), names),
        alike=float(effects[_equal(values[0], values[1])].sum()),
        parts=parts.kind,
        n_parts=len(names),
        **about,
        **parts.fields(dict(zip(names, part_effects.tolist(), strict=True))),
    )


def _counterpart(schema: Schema, X: Float32Array, scores: FloatArray, config: int) -> tuple[int, str]:
    """Choose the configuration to compare with, and return how it was chosen."""
    order = np.argsort(scores, kind="stable")
    if DEFAULT_FLAG in schema.names:
        default = np.flatnonzero(X[:, schema.names.index(DEFAULT_FLAG)] == 1)
        if len(default) and config not in default:
            return int(default[0]), "default"
    median = int(order[len(order) // 2])
    return (median, "median") if median != config else (int(order[0]), "best")


def _columns(
    schema: Schema, used: IntArray, effects: FloatArray, values: FloatArray, changes: FloatArray, names: Sequence[str]
) -> tuple[ColumnEffect, ...]:
    """Effects of the columns that differ in ``values``, float64 (2, used); ``changes``, float64 (parts, used)."""
    columns = schema.columns
    shown = np.flatnonzero(~_equal(values[0], values[1]) & (effects != 0))
    found = []
    for number in shown[np.argsort(-np.abs(effects[shown]), kind="stable")].tolist():
        column, change = columns[used[number]], np.nan_to_num(changes[:, number])
        size = np.abs(change)
        largest = np.argsort(-size, kind="stable")[:_MAX_BEHIND].tolist()
        behind = tuple((names[part], float(change[part])) for part in largest if size[part] > _MIN_CHANGE * size.max())
        effect = float(effects[number])
        found.append(ColumnEffect(column.name, column.unit, column.doc, _pair(values[:, number]), effect, behind))
    return tuple(found)


def _layout_parts(graph: Graph, hardware: Hardware, pair: IntArray, X: Float32Array) -> _Parts:
    """Configurable nodes; ``X``: features of the whole group.

    A configuration with a swapped node keeps its frequencies within the group; its ranks and z-scores are computed as
    if it replaced the original.
    """
    assert graph.node_config_ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    configs = graph.configs(pair)
    all_names = node_names(graph.node_opcode)
    names = [all_names[node] for node in graph.node_config_ids]
    extractor = layout.LayoutExtractor(program, graph.node_config_ids, hardware=hardware)
    traced = extractor.trace(configs)
    codes, _ = extractor.observe(configs)
    relative, inputs = [layout.schema().names.index(name) for name in RECOMPUTED], layout.SLATE_INPUTS

    def mix(mixed: NDArray[Any], rows: Float32Array, row: int) -> None:
        extractor.describe(mixed, rows[:, : layout.N_OWN])
        rows[:, relative] = recomputed(X[:, inputs], row, rows[:, inputs])

    def fields(effects: Mapping[str, float]) -> dict[str, Any]:
        tensors = Tensors.of(program)
        nodes = [
            NodeChange(name, effects[name], tuple(_tensors(tensors, traced, configs[:, node], node)))
            for node, name in enumerate(names)
            if name in effects
        ]
        nodes.sort(key=lambda node: -abs(node.effect))
        copies = sorted(_copies(names, traced), key=lambda copy: -abs(copy.nbytes[0] - copy.nbytes[1]))
        return {"nodes": tuple(nodes), "copies": tuple(copies)}

    return _Parts("configurable nodes", names, codes, mix, fields)


def _tensors(tensors: Tensors, traced: LayoutTrace, configs: NDArray[np.int8], node: int) -> Iterator[TensorChange]:
    """Tensors of a configurable node whose layouts differ; ``configs``, int8 (2, 18), are those of the node."""
    nodes = traced.nodes
    for role, (name, dims) in enumerate(zip(TENSOR_ROLES, np.split(configs, 3, axis=1), strict=True)):
        if nodes.rank[node, role] < 0 or (dims[0] == dims[1]).all():
            continue
        first, second = (None if row[0] < 0 else layout_text(row[row >= 0]) for row in dims)
        tensor = int(nodes.ids[node] if role == 0 else nodes.operands[node, role - 1])
        minor = traced.minor[:, node, role].round().astype(int)
        padding = _pair(traced.padding[:, node, role])
        yield TensorChange(name, shape_text(tensors, tensor), (first, second), _pair(minor), padding)


def _copies(names: Sequence[str], traced: LayoutTrace) -> Iterator[Copy]:
    """Copies that differ between two traced configurations of nodes ``names``."""

    def copy(kind: str, what: str, nbytes: float, levels: NDArray[Any]) -> Copy:
        return Copy(kind, what, _pair(np.where(levels, float(nbytes), 0.0)), _pair(_EXCEEDED[levels]))

    for kind, level in traced.copied.items():
        for node, role in np.argwhere(level[0] != level[1]).tolist():
            what = _COPIES[kind].format(node=names[node], role=TENSOR_ROLES[role])
            yield copy(kind, what, traced.nodes.nbytes[node, role], level[:, node, role])
    links = traced.links
    for link in np.flatnonzero(traced.level[:, 0] != traced.level[:, 1]):
        (producer, consumer), role = links.nodes[link], links.roles[link, 1]
        what = f"{names[producer]} -> {names[consumer]} {TENSOR_ROLES[role]}: layouts disagree"
        yield copy("edge", what, links.nbytes[link] * links.share[link], traced.level[link])
    for link in np.flatnonzero((links.group == INSIDE) & (traced.disagree[:, 0] != traced.disagree[:, 1])):
        what = f"{names[links.nodes[link, 0]]}: layouts of input and output disagree"
        yield copy("inside", what, links.nbytes[link], traced.disagree[link].astype(np.int64))


def _tile_parts(graph: Graph, hardware: Hardware, pair: IntArray, X: Float32Array) -> _Parts:
    """Loops of the kernel, or slots of the configuration; ``X``: features of the whole group.

    For a configuration with a swapped loop, only the blocks ``geometry`` and ``cache`` are recomputed.
    """
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    geometry = Geometry(nest, tensors, slots, hardware)
    tiles = loop_tiles(nest, tensors, graph.configs(pair), hardware)
    columns, nodes = tile.schema(hardware).names, node_names(graph.node_opcode)
    names = [f"{role}{loop}" for loop, role in enumerate(nest.roles)]
    largest: dict[str, tuple[int, int]] = {}  # by role: index and node of its largest access
    for index, access in enumerate(nest.accesses):
        largest.setdefault(access.role, (index, access.node))

    def mix(mixed: NDArray[Any], rows: Float32Array, _row: int) -> None:
        cache = CacheModel(geometry, slots, hardware)
        for block, features in (("geometry", geometry(mixed)), ("cache", cache(mixed))):
            rows[:, [name.startswith(f"{block}.") for name in columns]] = features

    def loop_change(loop: int, effect: float) -> LoopChange:
        coefficients, strides = geometry.operands.coefficients[..., loop], geometry.operands.strides
        extent, trips = int(nest.extents[loop]), -(-nest.extents[loop] // tiles[:, loop])
        return LoopChange(
            name=names[loop],
            runs_over=f"{nodes[nest.accesses[0].node]} dimension {loop}" if loop < nest.n_out else "reduced",
            extent=extent,
            tiles=_pair(tiles[:, loop]),
            trips=_pair(trips),
            waste=_pair(trips * tiles[:, loop] / extent - 1),
            strides={role: float(coefficients[index] @ strides[index]) for role, (index, _) in largest.items()},
            effect=effect,
        )

    def operand_change(role: str, node: int) -> OperandChange:
        footprint, run, reload = (
            2.0 ** X[pair, columns.index(f"geometry.{role}.{name}")].astype(np.float64)
            for name in ("footprint", "run", "reload")
        )
        nbytes, shape = float(tensors.nbytes[node]), shape_text(tensors, node)
        return OperandChange(nodes[node], role, shape, nbytes, _pair(footprint), _pair(run), _pair(reload * nbytes))

    def fields(effects: Mapping[str, float]) -> dict[str, Any]:
        return {
            "kernel": nodes[nest.anchor],
            "loops": tuple(loop_change(loop, effects.get(name, 0.0)) for loop, name in enumerate(names)),
            "operands": tuple(operand_change(role, node) for role, (_, node) in largest.items()),
        }

    loops = _Parts("loops", names, tiles, mix, fields)
    return _slot_parts(graph, hardware, pair, nest, loops) if hardware.gpu or hardware.config else loops


def _slot_parts(graph: Graph, hardware: Hardware, pair: IntArray, nest: LoopNest, loops: _Parts) -> _Parts:
    """Slots of a configuration that have names, or are of a GPU, whose tiles do not say all of a configuration."""
    named = named_slots(hardware.config)
    by_name = {name: slots for name, slots in named.sources.items() if TILE_CONFIG[slots[0]][-1].isdigit()}  # no sums
    extractor = tile.TileExtractor(Program(graph.node_opcode, graph.node_feat, graph.edge_index), hardware)
    choices = graph.configs(pair)[:, [slots[0] for slots in by_name.values()]]

    def mix(mixed: NDArray[Any], rows: Float32Array, row: int) -> None:
        own = np.repeat(graph.configs(np.array([row])), len(mixed), axis=0)
        for part, slots in enumerate(by_name.values()):
            own[:, slots] = mixed[:, [part]]
        rows[:] = extractor(own)

    def fields(effects: Mapping[str, float]) -> dict[str, Any]:
        bound = named.loops_by_name(nest).items()
        of_loops = {loops.names[loop]: effects[name] for name, own in bound if name in effects for loop in own}
        changes = [
            ParameterChange(name, (f"{first:g}", f"{second:g}"), effects[name])
            for name, (first, second) in zip(by_name, choices.T.tolist(), strict=True)
            if name in effects
        ]
        return loops.fields(of_loops) | {"parameters": _largest_first(changes)}

    return _Parts("parameters", [*by_name], choices, mix, fields)


def _largest_first(changes: list[ParameterChange]) -> tuple[ParameterChange, ...]:
    return tuple(sorted(changes, key=lambda change: -abs(change.effect)))


def _table_parts(features: TableFeatures, frame: pl.DataFrame, group: Group, X: Float32Array) -> _Parts:
    """Parameters of two rows of a table, ``frame``, whose features are ``X``."""
    names = list(features.roles.config)
    values = [texts(frame[name]).to_list() for name in names]
    choices = np.array([(0, int(first != second)) for first, second in values]).T
    relative = {
        column: names.index(name.removeprefix("relative."))
        for column, name in enumerate(features.schema.names)
        if name.startswith("relative.")
    }

    def mix(mixed: NDArray[Any], rows: Float32Array, _row: int) -> None:
        if not len(mixed):
            return
        swapped = frame[np.zeros(len(mixed), int)].with_columns(
            frame[name][mixed[:, part]] for part, name in enumerate(names)
        )
        rows[:] = features(swapped, [replace(group, stop=len(mixed))])
        for column, part in relative.items():  # within the group, and not among the swapped rows
            rows[:, column] = X[mixed[:, part], column]

    def fields(effects: Mapping[str, float]) -> dict[str, Any]:
        found = [
            ParameterChange(name, (pair[0], pair[1]), effects[name])
            for name, pair in zip(names, values, strict=True)
            if name in effects
        ]
        return {"parameters": _largest_first(found)}

    return _Parts("parameters", names, choices, mix, fields)


def _equal(first: FloatArray, second: FloatArray) -> NDArray[np.bool_]:
    """Whether values are equal, or both missing."""
    return np.asarray((first == second) | (np.isnan(first) & np.isnan(second)))


def _pair(values: NDArray[Any]) -> Any:
    """Two numbers as a tuple."""
    return tuple(values.tolist())
