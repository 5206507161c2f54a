"""Why a model ranks a configuration of a graph before another one: columns, blocks, and the parts of the graph behind.

Columns are credited by the model's own attribution (:meth:`gbr.models.base.Model.compare`), so that they sum to the
difference of the scores.  Nodes and loops are credited by exchanging them alone (:mod:`gbr.attribution.parts`), which
needs no such sum; what each does to a column says which of them stand behind it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.attribution.parts import Copy, LoopChange, NodeChange, OperandChange, Parts
from gbr.data.build import extract
from gbr.data.graph import Graph, read_graph
from gbr.errors import ModelError, UsageError
from gbr.evaluation.baselines import DEFAULT_FLAG
from gbr.models import labels
from gbr.models.params import threads

if TYPE_CHECKING:
    from features.schema import Column, Schema
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float64]

#: Parts that are named behind a column.
_BEHIND: Final = 3
#: Part of a column's largest change by one part that another one must reach to be named, too.
_NOTABLE: Final = 0.1


@dataclass(frozen=True)
class ColumnEffect:
    """A feature column, its two values and what they are worth.

    Parameters
    ----------
    name, unit, doc : str
        As in the schema.
    values : pair of float
    effect : float
        What it adds to the first configuration's lead.
    behind : tuple of (str, float)
        Parts that move the column most when exchanged alone, and by how much.
    """

    name: str
    unit: str
    doc: str
    values: tuple[float, float]
    effect: float
    behind: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class BlockEffect:
    """A block of columns: name, what it holds, and the sum of its columns' effects."""

    name: str
    doc: str
    effect: float


@dataclass(frozen=True)
class Explanation:
    """Why a configuration is ranked before (or behind) another one.  Effects above 0 speak for the first.

    Parameters
    ----------
    graph : str
        Where it was read from.
    kind : str
        ``tile`` or ``layout``.
    n_configs : int
    configs : pair of int
        The configuration asked about, and the one that it is compared with.
    chosen : str
        How the second came to be: ``given``, the compiler's ``default``, the ``median`` of the predicted order, or the
        predicted ``best`` where the first is that median itself.
    scores : pair of float
        Lower is predicted faster.
    places : pair of int
        In the predicted order, from 1 on; ties as in the file.
    runtimes : pair of float or None
        What was measured (runtime over normalizer where there is one).
    lead : float
        Second score minus first: the sum of all columns' effects.
    blocks : tuple of BlockEffect
        Largest first; with ``alike`` they sum to ``lead``.
    columns : tuple of ColumnEffect
        Columns with different values that the model's attribution credits with anything, largest first.
    alike : float
        Sum of the effects of columns that have the same value under both: a tree weighs them together with others.
    parts : str
        What is exchanged: ``configurable nodes`` or ``loops``.
    n_parts : int
        Those that differ.
    nodes : tuple of NodeChange
        For ``layout``, largest effect first.
    copies : tuple of Copy
        For ``layout``, those that are not the same under both, largest difference of bytes first.
    kernel : str or None
        For ``tile``, the heaviest operation.
    loops : tuple of LoopChange
        For ``tile``, all of them.
    operands : tuple of OperandChange
        For ``tile``.
    """

    graph: str
    kind: str
    n_configs: int
    configs: tuple[int, int]
    chosen: str
    scores: tuple[float, float]
    places: tuple[int, int]
    runtimes: tuple[float, float] | None
    lead: float
    blocks: tuple[BlockEffect, ...]
    columns: tuple[ColumnEffect, ...]
    alike: float
    parts: str
    n_parts: int
    nodes: tuple[NodeChange, ...] = ()
    copies: tuple[Copy, ...] = ()
    kernel: str | None = None
    loops: tuple[LoopChange, ...] = ()
    operands: tuple[OperandChange, ...] = ()

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """Give plain values, for JSON; of columns, nodes and copies the first ``top``."""
        cut = replace(self, columns=self.columns[:top], nodes=self.nodes[:top], copies=self.copies[:top])
        return asdict(cut)


def explain(
    ranker: Ranker, graph: Graph | str | os.PathLike[str], config: int, against: int | None = None
) -> Explanation:
    """Say what makes a model rank configuration ``config`` of a graph before ``against``, or behind it.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``.
    graph : Graph or path-like
    config : int
        Row of the graph's configurations.
    against : int, optional
        Another row.  By default the configuration that leaves all layouts to the compiler, where there is one, else
        the one in the middle of the predicted order.

    Raises
    ------
    UsageError
        For a row that does not exist, twice the same row, or a graph of one configuration.
    ModelError, DataError
        As :meth:`gbr.ranker.Ranker.predict_graph`.
    """
    if getattr(ranker, "trained_on_", None) is None:
        raise ModelError(
            "this model was fitted on a plain table and knows no graphs; train one with `python -m gbr.train`"
        )
    graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
    _check_rows(graph, config, against)
    hardware = ranker.hardware(graph.source)
    schema, X, _ = extract(graph, hardware)
    fitted = ranker.places(schema, graph.source)
    asked = X[:, fitted]
    scores = ranker.predict(asked)
    other, chosen = _other(schema, X, scores, config) if against is None else (against, "given")
    pair = np.array([config, other])
    n_jobs = threads(ranker.n_jobs)
    effects = ranker.model_.compare(asked, config, other, n_jobs)
    parts = _parts(graph, hardware, pair, X)
    worth = None
    if ranker.settings_.objective != "difference":  # whose scores are of rows among their slate

        def relevance(rows: NDArray[np.float32]) -> FloatArray:
            return ranker.model_.predict(rows[:, fitted], n_jobs, np.array([0, len(rows)], np.int64))

        worth = _worth(parts, -labels.as_runtime(relevance(X[pair])), relevance)
    order = np.argsort(scores, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(1, len(order) + 1)
    columns = [schema.columns[number] for number in fitted]
    return Explanation(
        graph=graph.source,
        kind=graph.kind,
        n_configs=graph.n_configs,
        configs=(config, other),
        chosen=chosen,
        scores=_two(scores[pair]),
        places=(int(place[config]), int(place[other])),
        runtimes=_runtimes(graph, pair),
        lead=float(scores[other] - scores[config]),
        blocks=_blocks(schema, columns, effects),
        columns=_columns(columns, effects, X[pair], fitted, parts),
        alike=float(effects[asked[config] == asked[other]].sum()),
        parts="configurable nodes" if graph.kind == "layout" else "loops",
        n_parts=len(parts.names),
        **_told(graph.kind, parts, worth),
    )


def _check_rows(graph: Graph, config: int, against: int | None) -> None:
    for name, row in (("config", config), ("against", against)):
        if row is not None and not 0 <= row < graph.n_configs:
            raise UsageError(f"{graph.source}: {name} {row}: no such configuration; want 0 to {graph.n_configs - 1}")
    if config == against:
        raise UsageError(f"{graph.source}: config and against are both {config}; name two configurations")
    if graph.n_configs < 2:
        raise UsageError(f"{graph.source}: holds one configuration; there is none to compare it with")


def _other(schema: Schema, X: NDArray[np.float32], scores: FloatArray, config: int) -> tuple[int, str]:
    """Choose what to compare a configuration with."""
    if DEFAULT_FLAG in schema.names:
        default = np.flatnonzero(X[:, schema.names.index(DEFAULT_FLAG)] == 1)
        if len(default) and config not in default:
            return int(default[0]), "default"
    order = np.argsort(scores, kind="stable")
    median = int(order[len(order) // 2])
    if median != config:
        return median, "median"
    return int(order[0]), "best"


def _parts(graph: Graph, hardware: Any, pair: NDArray[np.int64], X: NDArray[np.float32]) -> Parts:
    if graph.kind == "layout":
        from gbr.attribution.layout import layout_parts

        return layout_parts(graph, hardware, pair, X)
    from gbr.attribution.tile import tile_parts

    return tile_parts(graph, hardware, pair, X)


def _worth(parts: Parts, own: FloatArray, relevance: Any) -> FloatArray:
    """What each part adds to the lead when exchanged alone, float64 (parts,)."""
    count = len(parts.names)
    if not count:
        return np.zeros(0)
    told = relevance(np.concatenate([parts.forward, parts.backward]))
    return np.asarray((told[:count] - own[1] + own[0] - told[count:]) / 2)


def _told(kind: str, parts: Parts, worth: FloatArray | None) -> dict[str, Any]:
    effects = [None] * len(parts.names) if worth is None else worth.tolist()
    if kind == "layout":
        nodes = [
            NodeChange(name, effect, tensors)
            for name, effect, tensors in zip(parts.names, effects, parts.details["tensors"], strict=True)
        ]
        nodes.sort(key=lambda node: -abs(node.effect or 0.0))
        return {"nodes": tuple(nodes), "copies": tuple(parts.details["copies"])}
    effect_of = dict(zip(parts.names, effects, strict=True))
    loops = [replace(loop, effect=effect_of.get(loop.name, loop.effect)) for loop in parts.details["loops"]]
    return {
        "kernel": parts.details["kernel"],
        "loops": tuple(loops),
        "operands": tuple(parts.details["operands"]),
    }


def _blocks(schema: Schema, columns: Sequence[Column], effects: FloatArray) -> tuple[BlockEffect, ...]:
    sums: dict[str, float] = {}
    for column, effect in zip(columns, effects.tolist(), strict=True):
        name = column.name.split(".", 1)[0]
        sums[name] = sums.get(name, 0.0) + effect
    found = [BlockEffect(block.name, block.doc, sums[block.name]) for block in schema.blocks if sums.get(block.name)]
    return tuple(sorted(found, key=lambda block: -abs(block.effect)))


def _columns(
    columns: Sequence[Column],
    effects: FloatArray,
    X: NDArray[np.float32],
    fitted: NDArray[np.int64],
    parts: Parts,
) -> tuple[ColumnEffect, ...]:
    values = X[:, fitted].astype(np.float64)
    shown = np.flatnonzero((values[0] != values[1]) & (effects != 0))
    found = []
    for number in shown[np.argsort(-np.abs(effects[shown]), kind="stable")].tolist():
        column, at = columns[number], int(fitted[number])
        change = (parts.forward[:, at].astype(np.float64) - X[1, at] + X[0, at] - parts.backward[:, at]) / 2
        found.append(
            ColumnEffect(
                column.name,
                column.unit,
                column.doc,
                _two(values[:, number]),
                float(effects[number]),
                _behind(parts.names, change),
            )
        )
    return tuple(found)


def _behind(names: Sequence[str], change: FloatArray) -> tuple[tuple[str, float], ...]:
    size = np.abs(change)
    first = np.argsort(-size, kind="stable")[:_BEHIND]
    least = _NOTABLE * size.max(initial=0.0)
    return tuple((names[place], float(change[place])) for place in first.tolist() if size[place] > least)


def _runtimes(graph: Graph, pair: NDArray[np.int64]) -> tuple[float, float] | None:
    if graph.runtime is None:
        return None
    return _two(graph.runtime[pair] / (1 if graph.normalizer is None else graph.normalizer[pair]))


def _two(values: NDArray[Any]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
