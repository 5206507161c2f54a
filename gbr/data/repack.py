"""Repacking layout graphs: a small copy beside the file, from which any configuration can be read by itself.

Builds and samples use the copy while the file is the one that it was made of; see :mod:`gbr.data.packed` for what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gbr import check_features
from gbr.data.collection import Subset, graph_files
from gbr.data.files import atomic_write, remove_partial_files
from gbr.data.graph import DTYPES, Graph, read_graph
from gbr.data.layout_build import coded_blocks
from gbr.data.npz import NpzFile
from gbr.data.packed import CONFIGS, SUFFIX, PackedWriter, fresh
from gbr.data.pool import Progress, in_processes
from gbr.errors import DataError

if TYPE_CHECKING:
    from features.layout.rows import RowTable

_WIDTHS: Final = tuple(map(np.dtype, ("uint8", "uint16", "uint32")))


class _TooManyRowsError(Exception):
    """A node takes more distinct rows than the codes can number."""


def repack(path: Path | str) -> Path:
    """Write the copy of a layout graph's file, ``<stem>.gbr`` beside it; one that is there is replaced.

    Parameters
    ----------
    path : path
        An ``.npz`` of a layout collection.

    Returns
    -------
    Path
        The copy, which appears whole or not at all.

    Raises
    ------
    DataError
        When the graph file breaks its format, is of another kind, or the copy cannot be written.
    """
    check_features()
    path = Path(path)
    file = NpzFile(path)
    graph = read_graph(path, use_copy=False)
    if graph.kind != "layout":
        raise DataError(f"{path}: got a {graph.kind} graph, want layout; tile graphs are small and need no copy")
    beside = path.with_suffix(SUFFIX)
    remove_partial_files(beside.parent, escape(beside.name))
    with atomic_write(beside, DataError) as part:
        for width in _WIDTHS:
            try:
                with part.open("wb") as stream:
                    _write(stream, file, graph, width)
            except _TooManyRowsError:
                continue
            break
    return beside


def repack_all(
    subset: Subset, data_root: Path, splits: Sequence[str], jobs: int = 1, progress: Progress | None = None
) -> int:
    """Repack the graphs of a collection that have no fresh copy, damaged ones included.

    Parameters
    ----------
    subset : Subset
        Of layouts.
    data_root : Path
    splits : sequence of str
    jobs : int
        Processes.
    progress : callable, optional
        As for :func:`gbr.data.build.build`.

    Returns
    -------
    int
        Copies written.

    Raises
    ------
    DataError
        As :func:`repack`; copies written before stay.
    """
    stale = [path for split in splits for path in graph_files(subset, data_root, split) if not _is_fresh(path)]
    if stale:
        with progress(len(stale)) if progress else nullcontext(lambda steps: None) as advance:
            for _ in in_processes(repack, stale, jobs, subset.name):
                advance(1)
    return len(stale)


def _is_fresh(path: Path) -> bool:
    fingerprint = NpzFile(path).fingerprint
    try:
        return fresh(path, fingerprint) is not None
    except DataError:
        return False


def _write(stream: BinaryIO, file: NpzFile, graph: Graph, width: np.dtype[np.unsignedinteger]) -> None:
    from features.layout.rows import RowTable

    assert graph.node_config_ids is not None
    table = RowTable(len(graph.node_config_ids))
    writer = PackedWriter(stream, width)
    local = np.zeros(0, width)
    for codes, _ in coded_blocks(graph, table):
        if len(local) < len(table):
            places, most = _places(table)
            if most > np.iinfo(width).max + 1:
                raise _TooManyRowsError
            local = places.astype(width)
        writer.add(local[codes])
    numbers = np.argsort(table.owner, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(table.owner, minlength=table.n_nodes))
    arrays = {key: file.read(key) for key in file.keys if key in DTYPES and key != CONFIGS}
    writer.finish(file.fingerprint, table.rows.astype(np.int8), numbers, np.array([0, *ends], np.int64), arrays)


def _places(table: RowTable) -> tuple[NDArray[np.int64], int]:
    """Place of every row among those of its node, int64 (rows,), and the most rows that a node has."""
    order = np.argsort(table.owner, kind="stable")
    counts = np.bincount(table.owner)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places, int(counts.max())
