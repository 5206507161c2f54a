"""Scoring configurations of one graph again and again, as a search does: all that concerns the graph is kept.

What a program's nodes, their surroundings and the links between them amount to is worked out once, and what a node's
row of layouts means once per distinct row; a call pays for its configurations alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gbr import check_features
from gbr.data.graph import N_LAYOUT, N_TILE, Graph, read_graph
from gbr.errors import DataError, ModelError, UsageError
from gbr.models import labels
from gbr.models.lean import lean
from gbr.models.params import threads

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.schema import Schema
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float32]


class Scorer:
    """A trained ranker and a graph, ready for configurations.  One call at a time: calls share what they learn.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``; its ``n_jobs`` threads work at a time.
    graph : Graph or path-like
        Its program, and for ``layout`` its configurable nodes; its own configurations are not looked at.

    Attributes
    ----------
    schema : Schema
        Columns of :meth:`vectors`.

    Raises
    ------
    ModelError
        When the ranker was not trained by ``python -m gbr.train``, or on other features.
    DataError
        When the graph is missing, torn, breaks its format or has no features.

    Examples
    --------
    >>> scorer = Ranker.load("runs/layout-nlp").scorer("graph.npz")  # doctest: +SKIP
    >>> scorer(configs).argmin()  # doctest: +SKIP
    17
    """

    def __init__(self, ranker: Ranker, graph: Graph | str | os.PathLike[str]) -> None:
        check_features()
        if getattr(ranker, "trained_on_", None) is None:
            raise ModelError(
                "this model was fitted on a plain table and knows no graphs; train one with `python -m gbr.train`"
            )
        self._graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        source = self._graph.source
        self._threads = threads(ranker.n_jobs)
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        try:
            make = _tile if self._graph.kind == "tile" else self._layout
            self.schema, self._extract = make(self._graph, ranker.hardware(source))
        except ValueError as fault:
            raise DataError(f"{source}: has no features ({fault}); mend what wrote the file") from fault
        columns = ranker.places(self.schema, source)
        self._model = lean(ranker.model_, ranker.settings_)
        self._columns = None if np.array_equal(columns, np.arange(len(self.schema.names))) else columns

    def vectors(self, configs: Any) -> FloatArray:
        """Features of a slate: frequencies and ranks are within these configurations and no others.

        Parameters
        ----------
        configs : array-like (c, 24) for ``tile``, (c, configurable nodes, 18) for ``layout``
            At best float32 for ``tile`` and int8 for ``layout``.

        Returns
        -------
        float32 (c, len(schema))

        Raises
        ------
        UsageError
            For another shape, or a value that no configuration has.
        """
        rows = self._checked(configs)
        return self._extract(rows) if len(rows) else np.empty((0, len(self.schema)), np.float32)

    def __call__(self, configs: Any) -> NDArray[np.float64]:
        """Scores of a slate, float64 (c,): lower is predicted faster; only their order has meaning.

        As :meth:`gbr.ranker.Ranker.predict_graph` scores a graph file that holds these configurations.

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
        if self._columns is not None:
            X = X[:, self._columns]
        return labels.as_runtime(self._model.predict(X, self._threads, np.array([0, len(X)], np.int64)))

    def rank(self, configs: Any) -> NDArray[np.int64]:
        """Places of a slate's configurations by predicted runtime, int64 (c,), best first; ties in their order."""
        return np.argsort(self(configs), kind="stable").astype(np.int64)

    def _checked(self, configs: Any) -> NDArray[Any]:
        values = np.asarray(configs)
        tile = self._graph.kind == "tile"
        ids = self._graph.node_config_ids
        wanted = (N_TILE,) if ids is None else (len(ids), N_LAYOUT)
        if values.ndim == 0 or values.shape[1:] != wanted or values.dtype.kind not in "iuf":
            told = ", ".join(map(str, ("c", *wanted)))
            raise UsageError(f"configs: got {values.dtype} of shape {values.shape}, want numbers of shape ({told})")
        if tile:
            # Adding zero turns -0.0 into 0.0, which is equal but has other bytes.
            rows = np.ascontiguousarray(values, np.float32) + np.float32(0)
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                raise UsageError(f"configs: configuration {int(finite.argmin())} has a number that is not finite")
            return rows
        if values.dtype not in (np.int8, np.float32):
            # A number that int8 cannot hold must not come round as one that it can.
            values = values.astype(np.float32)
        return values

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
            except ValueError as fault:
                raise UsageError(f"configs: {fault}") from fault

        return extractor.schema, extract


def _tile(graph: Graph, hardware: Hardware) -> tuple[Schema, Callable[[NDArray[Any]], FloatArray]]:
    from features.graph import Program
    from features.tile.extractor import TileExtractor

    extractor = TileExtractor(Program(graph.node_opcode, graph.node_feat, graph.edge_index), hardware)
    return extractor.schema, extractor
