"""Measurements that were made before, as if they were made now: searches compared without a machine to run on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gbr.errors import DataError
from gbr.graphs import Graph, read_graph
from gbr.tune.space import GraphSpace


class Replay:
    """The runtimes of a graph file; calling it measures.

    Parameters
    ----------
    graph : Graph or path-like
        With runtimes.
    default : int or None
        Row of the configuration to beat; 0 in the collections that :mod:`gbr.collect` measures.

    Attributes
    ----------
    space : GraphSpace
    runtime : float64 (c,)
        By number of configuration: nanoseconds, or what a normalizer makes of them.

    Raises
    ------
    DataError
        When the file is missing, torn, breaks its format or holds no runtimes.
    """

    def __init__(self, graph: Graph | str | os.PathLike[str], *, default: int | None = 0) -> None:
        whole = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        if whole.runtime is None:
            raise DataError(f"{whole.source}: holds no runtimes to replay (the test files of TpuGraphs have none)")
        self.space = GraphSpace(whole, default=default)
        self.runtime = _over(whole, whole.runtime)[self.space.rows]
        self._repeat = None if whole.repeat is None else _over(whole, whole.repeat)[self.space.rows]

    def __call__(self, config: int) -> float:
        """The first measurement."""
        return float(self.runtime[config])

    def again(self, config: int) -> float:
        """The second, independent measurement where the file has one, else the first."""
        return float((self.runtime if self._repeat is None else self._repeat)[config])


def _over(graph: Graph, runtime: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(runtime / (1 if graph.normalizer is None else graph.normalizer), np.float64)
