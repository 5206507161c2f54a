"""Measurements that were made before, as if they were made now: searches compared without a machine to run on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gbr.data.graph import Graph, read_graph
from gbr.errors import DataError
from gbr.tune.space import GraphSpace, sampled


class Replay:
    """The runtimes of a graph file; calling it measures.

    Parameters
    ----------
    graph : Graph or path-like
        With runtimes.
        The configuration to beat is the first that sets nothing: a layout that leaves all to the compiler, a tile whose
        runtime is its own normalizer.  Where there is none, there is nothing to beat.

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

    def __init__(self, graph: Graph | str | os.PathLike[str]) -> None:
        whole = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        if whole.runtime is None:
            raise DataError(f"{whole.source}: holds no runtimes to replay (the test files of TpuGraphs have none)")
        rows, some = sampled(whole)
        self.space = GraphSpace(some, default=_default(some), told=lambda config: {"row": int(rows[config])})
        self.runtime = _over(some, some.runtime)
        self._repeat = self.runtime if some.repeat is None else _over(some, some.repeat)

    def __call__(self, config: int) -> float:
        """The first measurement."""
        return float(self.runtime[config])

    def again(self, config: int) -> float:
        """The second, independent measurement where the file has one, else the first."""
        return float(self._repeat[config])


def _default(graph: Graph) -> int | None:
    if graph.kind == "layout":
        unset = (graph.configs(np.arange(graph.n_configs)) < 0).all(axis=(1, 2))
    elif graph.runtime is None or graph.normalizer is None:
        return None
    else:
        unset = graph.runtime == graph.normalizer
    return int(unset.argmax()) if unset.any() else None


def _over(graph: Graph, runtime: NDArray[np.int64] | None) -> NDArray[np.float64]:
    assert runtime is not None
    return np.asarray(runtime / (1 if graph.normalizer is None else graph.normalizer), np.float64)
