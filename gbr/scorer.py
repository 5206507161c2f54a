"""Repeated scoring of configurations of one graph, as a search needs it: everything about the graph is computed once.

A call pays for its configurations only.  LightGBM copies all columns of every row before the first tree, though the
trees of a layout model use a fifth of them; its models are pruned to those columns, with bit-equal scores.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from gbr import check_features
from gbr.data.graph import N_LAYOUT, N_TILE, Graph, read_graph
from gbr.errors import DataError, UsageError
from gbr.models.base import Model, Predictor, backend
from gbr.models.ensemble import EnsembleModel
from gbr.models.params import Settings, threads
from gbr.models.rows import Matrix

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.schema import Schema
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float32]


class Scorer:
    """A trained ranker and a graph, prepared to score configurations.  Not thread-safe: calls share caches.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``; uses its ``n_jobs`` threads.
    graph : Graph or path-like
        Its program, and for ``layout`` its configurable nodes; configurations stored with it are ignored.

    Attributes
    ----------
    schema : Schema
        Columns of :meth:`vectors`.

    Raises
    ------
    ModelError
        When the ranker was not trained by ``python -m gbr.train``, or on other features.
    DataError
        When the graph is missing, damaged, violates its format or has no features.

    Examples
    --------
    >>> scorer = Ranker.load("runs/layout-nlp").scorer("graph.npz")  # doctest: +SKIP
    >>> scorer(configs).argmin()  # doctest: +SKIP
    17
    """

    def __init__(self, ranker: Ranker, graph: Graph | str | os.PathLike[str]) -> None:
        check_features()
        ranker._check_knows_graphs()
        self._graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        source = self._graph.source
        self._threads = threads(ranker.n_jobs)
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        try:
            make = _tile if self._graph.kind == "tile" else self._layout
            self.schema, self._extract = make(self._graph, ranker._hardware(source))
        except ValueError as error:
            raise DataError(
                f"{source}: features cannot be computed ({error}); correct the program that wrote it"
            ) from error
        columns = ranker._columns_in(self.schema, source)
        self._model = pruned(ranker.model_, ranker.settings_)
        self._columns = None if np.array_equal(columns, np.arange(len(self.schema.names))) else columns

    def vectors(self, configs: Any) -> FloatArray:
        """Features of a group of configurations; frequencies and ranks are within this group.

        Parameters
        ----------
        configs : array-like (c, 24) for ``tile``, (c, configurable nodes, 18) for ``layout``
            Fastest as float32 for ``tile`` and int8 for ``layout``.

        Returns
        -------
        float32 (c, len(schema))

        Raises
        ------
        UsageError
            For another shape, or a value outside the range of configurations.
        """
        rows = self._validated(configs)
        return self._extract(rows) if len(rows) else np.empty((0, len(self.schema)), np.float32)

    def __call__(self, configs: Any) -> NDArray[np.float64]:
        """Scores of a group of configurations, float64 (c,): lower is predicted faster; only their order has meaning.

        Equal to those of :meth:`gbr.ranker.Ranker.predict_graph` for a graph file with these configurations.

        Parameters
        ----------
        configs : array-like
            As for :meth:`vectors`.

        Raises
        ------
        UsageError
            As :meth:`vectors`.
        """
        X = self.vectors(configs)
        if not len(X):
            return np.zeros(0)
        return -self._model.predict(X if self._columns is None else X[:, self._columns], self._threads)

    def rank(self, configs: Any) -> NDArray[np.int64]:
        """Indices of the configurations by predicted runtime, int64 (c,), best first; ties in their order."""
        return np.argsort(self(configs), kind="stable").astype(np.int64)

    def _validated(self, configs: Any) -> NDArray[Any]:
        values = np.asarray(configs)
        ids = self._graph.node_config_ids
        shape = (N_TILE,) if ids is None else (len(ids), N_LAYOUT)
        if values.ndim == 0 or values.shape[1:] != shape or values.dtype.kind not in "iuf":
            expected = ", ".join(map(str, ("c", *shape)))
            raise UsageError(
                f"configs: expected numbers of shape ({expected}), got {values.dtype} of shape {values.shape}"
            )
        if self._graph.kind == "tile":
            rows = np.ascontiguousarray(values, np.float32) + np.float32(0)  # -0.0 becomes 0.0, which has other bytes
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                raise UsageError(
                    f"configs: expected finite numbers, got others in configuration {int(finite.argmin())}"
                )
            return rows
        # A cast to int8 would wrap values around that are out of range.
        return values if values.dtype in (np.int8, np.float32) else values.astype(np.float32)

    def _layout(self, graph: Graph, hardware: Hardware) -> tuple[Schema, Callable[[NDArray[Any]], FloatArray]]:
        from features.graph import Program
        from features.layout.extractor import LayoutExtractor

        assert graph.node_config_ids is not None
        program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
        extractor = LayoutExtractor(program, graph.node_config_ids, hardware=hardware)
        run: Callable[[Callable[[int], None], Iterable[int]], Iterable[None]] = self._pool.map if self._pool else map

        def extract(configs: NDArray[Any]) -> FloatArray:
            try:
                return extractor.vectors(configs, run)
            except ValueError as error:
                raise UsageError(f"configs: {error}") from error

        return extractor.schema, extract


def _tile(graph: Graph, hardware: Hardware) -> tuple[Schema, Callable[[NDArray[Any]], FloatArray]]:
    from features.graph import Program
    from features.tile.extractor import TileExtractor

    extractor = TileExtractor(Program(graph.node_opcode, graph.node_feat, graph.edge_index), hardware)
    return extractor.schema, extractor


# --- pruned models ---------------------------------------------------------------------------------------------------

#: Header lines of LightGBM's text format with one word per column.
_PER_COLUMN: Final = ("feature_names", "feature_infos")
_END: Final = "\nend of trees\n"


class PrunedModel:
    """A small model that scores selected columns of the rows of a larger one.

    Parameters
    ----------
    model : Model
    columns : int64 (columns of ``model``,)
        Ascending.
    """

    def __init__(self, model: Model, columns: NDArray[np.int64]) -> None:
        self._model = model
        self._columns = columns
        self.n_iterations, self.n_features, self.versions = model.n_iterations, model.n_features, model.versions

    def predict(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        selected: Any = np.take(X, self._columns, axis=1)
        return self._model.predict(selected, n_jobs)


def pruned(model: Model, settings: Settings) -> Predictor:
    """Drop the unused columns of a LightGBM model, or of the LightGBM members of an ensemble.

    Parameters
    ----------
    model : Model
        Not modified.
    settings : Settings
        Of its fit.
    """
    if settings.backend == "ensemble":
        whole = cast(EnsembleModel, model).members
        members = [replace(member, model=cast(Model, pruned(member.model, member.settings))) for member in whole]
        return EnsembleModel(members, None)
    used = used_columns(model.to_bytes().decode()) if settings.backend == "lightgbm" else None
    if used is None:
        return model
    text, columns = used
    return PrunedModel(backend("lightgbm").load(text.encode(), settings), columns)


def used_columns(text: str) -> tuple[str, NDArray[np.int64]] | None:
    """Drop the columns that no tree of a model splits on.

    Parameters
    ----------
    text : str
        LightGBM's text format, version 4.

    Returns
    -------
    str
        The model with renumbered columns.
    int64 (columns,)
        Their former numbers.
    None
        For a model without splits, or with linear trees, whose leaves name columns.
    """
    head, _, trees = text.partition("\nTree=0\n")
    trees, end, _ = trees.partition(_END)
    used = sorted({int(word) for line in re.findall(r"^split_feature=(.*)$", trees, re.M) for word in line.split()})
    if not used or not end or not head.startswith("tree\nversion=v4\n") or re.search(r"^is_linear=1$", trees, re.M):
        return None
    number_of = {str(column): str(number) for number, column in enumerate(used)}
    lines = []
    for line in head.split("\n"):
        key, _, value = line.partition("=")
        if key in _PER_COLUMN:
            words = value.split(" ")
            lines.append(f"{key}={' '.join(words[column] for column in used)}")
        elif key == "max_feature_idx":
            lines.append(f"{key}={len(used) - 1}")
        elif key not in ("tree_sizes", "monotone_constraints"):  # byte offsets, which change; and needed for training
            lines.append(line)
    renumbered = re.sub(
        r"^split_feature=(.*)$",
        lambda match: "split_feature=" + " ".join(number_of[word] for word in match[1].split()),
        trees,
        flags=re.M,
    )
    return "\n".join(lines) + "\n\nTree=0\n" + renumbered + _END, np.array(used, np.int64)
