"""Query groups with a known order, and the backends that are tested on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gbr import read_graph
from gbr.data.build import extract
from gbr.data.groups import QueryGroups
from gbr.models.params import OBJECTIVES
from gbr.models.rows import StreamedMatrix
from tests.conftest import ROOT

#: Without the cost model, which cannot represent interactions, and auto, which is one of the others.
BACKENDS = [backend for backend in OBJECTIVES if backend not in ("auto", "costmodel", "prior", "runtime")]
EVERY = [(backend, objective) for backend in BACKENDS for objective in OBJECTIVES[backend]]
QUICK: dict[str, Any] = {"n_estimators": 40, "num_leaves": 7, "learning_rate": 0.15, "n_jobs": 1}


def problem(n_groups: int = 30, size: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups ordered by an interaction of two columns, with offsets per group of many orders of magnitude."""
    rng = np.random.default_rng(seed)
    rows = n_groups * size
    X = rng.normal(size=(rows, 5)).astype(np.float32)
    offset = np.repeat(rng.normal(0, 5, n_groups), size)
    log_time = np.where(X[:, 0] > 0, X[:, 1], -X[:, 1]) + 0.1 * rng.normal(size=rows) + offset
    return X, np.exp(log_time) * 1e6, np.repeat(np.arange(n_groups), size)


def amounts(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups whose times are sums of the amounts behind two columns, each times a price."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1000, (400, 3)) * rng.integers(0, 2, (400, 3))
    base = np.repeat(rng.uniform(1e4, 1e6, 20), 20)
    return np.log2(1.0 + values), base + 3.0 * values[:, 0] + 0.5 * values[:, 2], np.repeat(np.arange(20), 20)


def embedded_files(kind: str, split: str) -> list[Path]:
    """Graph files of an embedded collection."""
    folder = {"tile": "tile/cpu", "layout": "layout/cpu/random"}[kind]
    return sorted((ROOT / "data/npz" / folder / split).glob("*.npz"))


def rows_of(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, runtimes and query groups of graph files."""
    graphs = [read_graph(path) for path in files]
    X = np.concatenate([extract(graph)[1] for graph in graphs])
    runtime = np.concatenate([graph.runtime for graph in graphs if graph.runtime is not None])
    return X, runtime, np.repeat(np.arange(len(graphs)), [graph.n_configs for graph in graphs])


def frame(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=[f"block{number % 2}.c{number}" for number in range(X.shape[1])])


def streamed(
    X: np.ndarray, bounds: np.ndarray, rows: np.ndarray, cells: int = 60, memory: int = 1 << 30
) -> tuple[StreamedMatrix, list[tuple[int, int]]]:
    """A streamed matrix, and a list that records its reads."""
    reads: list[tuple[int, int]] = []

    def read(first: int, last: int) -> np.ndarray:
        reads.append((first, last))
        return X[bounds[first] : bounds[last]].copy()

    return StreamedMatrix(read, bounds, rows, X.shape[1], memory, cells), reads


def groups_of(*targets: list[int], names: tuple[str, ...] | None = None, **overrides: Any) -> QueryGroups:
    """Query groups with these runtimes, one column of zeros, and distinct configurations."""
    sizes = [len(target) for target in targets]
    fields: dict[str, Any] = {
        "names": names or tuple(f"g{index}" for index in range(len(targets))),
        "indptr": np.cumsum([0, *sizes]).astype(np.int64),
        "columns": ("config.a",),
        "X": np.zeros((sum(sizes), 1), np.float32),
        "runtime": np.concatenate([np.array(target, np.int64) for target in targets]),
        "normalizer": None,
        "repeat": None,
        "duplicate_of": np.concatenate([np.arange(size) for size in sizes]),
    }
    return QueryGroups(**(fields | overrides))
