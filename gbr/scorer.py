"""Repeated scoring of configurations of one graph, as a search needs it; the graph is analysed once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.hlo import TILE_CONFIG
from gbr.data.graph import N_LAYOUT, N_TILE, Graph, zero_padded
from gbr.errors import DataError, UsageError
from gbr.models.arrays import present
from gbr.models.params import threads

if TYPE_CHECKING:
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float32]


class Scorer:
    """A trained ranker and a graph, prepared to score configurations.  Any number of threads may call it at a time.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``, or :meth:`gbr.Ranker.physics`; uses its ``n_jobs`` threads.
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
        from features.graph import Program
        from features.layout.extractor import LayoutExtractor
        from features.tile.extractor import TileExtractor

        self._graph, self._ranker = graph, ranker = ranker.for_graph(graph)
        hardware = ranker.hardware
        program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
        self._extract: Callable[[NDArray[Any]], FloatArray]
        self._turn: AbstractContextManager[object] = nullcontext()
        try:
            if graph.node_config_ids is None:
                tile = TileExtractor(program, hardware)
                self.schema, self._extract = tile.schema, tile
            else:
                n_threads = threads(ranker.n_jobs)
                run: Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
                run = ThreadPoolExecutor(n_threads).map if n_threads > 1 else map
                layout = LayoutExtractor(program, graph.node_config_ids, hardware=hardware)
                self.schema, self._extract = layout.schema, partial(layout.vectors, run=run)
                self._turn = Lock()  # calls share tables that grow
        except ValueError as error:
            raise DataError(
                f"{graph.source}: features cannot be computed ({error}); correct the program that wrote it"
            ) from error
        columns = ranker.columns_in(self.schema, graph.source)
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
        values = present(configs, "configs") if isinstance(configs, np.ma.MaskedArray) else np.asarray(configs)
        ids = self._graph.node_config_ids
        shape = (N_TILE,) if ids is None else (len(ids), N_LAYOUT)
        if values.ndim == 0 or values.shape[1:] != shape or values.dtype.kind not in "iuf":
            expected = ", ".join(map(str, ("c", *shape)))
            raise UsageError(
                f"configs: expected numbers of shape ({expected}), got {values.dtype} of shape {values.shape}"
            )
        if not len(values):
            return np.empty((0, len(self.schema)), np.float32)
        if ids is None:
            values = np.ascontiguousarray(values, np.float32) + np.float32(0)  # -0.0 becomes 0.0, which has other bytes
            values = zero_padded(values, TILE_CONFIG)
            if not (finite := np.isfinite(values).all(axis=1)).all():
                raise UsageError(f"configs: expected finite numbers, got others in configuration {finite.argmin()}")
        elif values.dtype not in (np.int8, np.float32):  # a cast to int8 would wrap values that are out of range
            values = values.astype(np.float32)
        try:
            with self._turn:
                return self._extract(values)
        except ValueError as error:
            raise UsageError(f"configs: {error}") from error

    def __call__(self, configs: Any) -> NDArray[np.float64]:
        """Scores of a group of configurations, float64 (c,): lower is predicted faster; only their order has meaning.

        Equal to those of :meth:`gbr.ranker.Ranker.predict_graph` for a graph file with these configurations.

        Parameters and errors are those of :meth:`vectors`.
        """
        X = self.vectors(configs)
        if not len(X):
            return np.zeros(0)
        return self._ranker.predict_rows(X if self._columns is None else X[:, self._columns])

    def rank(self, configs: Any) -> NDArray[np.int64]:
        """Indices of the configurations by predicted runtime, int64 (c,), best first; ties in their order."""
        return np.argsort(self(configs), kind="stable").astype(np.int64)
