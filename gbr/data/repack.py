"""Repacked copies of layout graphs: small and memory-mapped, with random access to configurations.

``<stem>.gbr`` is beside ``<stem>.npz``.  It is an uncompressed ``.npz`` archive, readable with ``numpy.load``, of

- ``codes``, uint8, uint16 or uint32 (configurations, nodes): index of each node's row among the rows of that node,
- ``rows``, int8 (rows, 18): the distinct rows of all nodes, in order of appearance,
- ``owner``, int32 (rows,): the node of each row, as its position in ``node_config_ids``,
- ``source``, uint64 (): fingerprint of the graph file.

A node usually has two to nine distinct rows (Phothilimthana et al. search few layouts per node), so that one byte per
configuration replaces 72, and nothing has to be decompressed.  All other data are read from the graph file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gbr.data.collection import Subset, graph_files
from gbr.data.files import atomic_write, remove_partial_files
from gbr.data.graph import REPACKED_SUFFIX, Graph, find_repacked, read_graph
from gbr.data.npz import NpzFile
from gbr.data.pool import Progress, in_processes
from gbr.errors import DataError

if TYPE_CHECKING:
    from features.layout.rows import RowTable

_WIDTHS: Final = ("uint8", "uint16", "uint32")


def repack(path: Path | str) -> Path:
    """Write the repacked copy of a layout graph, ``<stem>.gbr`` beside its file, atomically; returns its path.

    Raises
    ------
    DataError
        If the graph file is invalid or of another kind, or the copy cannot be written.
    """
    path = Path(path)
    fingerprint = NpzFile(path).fingerprint
    graph = read_graph(path, use_copy=False)
    if graph.kind != "layout":
        raise DataError(f"{path}: expected a layout graph, got a {graph.kind} graph; only layout graphs are repacked")
    copy = path.with_suffix(REPACKED_SUFFIX)
    remove_partial_files(copy.parent, escape(copy.name))
    with atomic_write(copy, DataError) as part:
        for width in map(np.dtype, _WIDTHS):
            with part.open("wb") as stream:
                if _write(stream, fingerprint, graph, width):
                    break
    return copy


def repack_all(
    subset: Subset, data_root: Path, splits: Sequence[str], jobs: int = 1, progress: Progress | None = None
) -> int:
    """Repack the graphs of a layout collection without an up-to-date copy, in processes; returns their number."""
    stale = [path for split in splits for path in graph_files(subset, data_root, split) if not _is_fresh(path)]
    if stale:
        with progress(len(stale)) if progress else nullcontext(lambda steps: None) as advance:
            for _ in in_processes(repack, stale, jobs, subset.name):
                advance(1)
    return len(stale)


def _is_fresh(path: Path) -> bool:
    fingerprint = NpzFile(path).fingerprint
    try:
        return find_repacked(path, fingerprint) is not None
    except DataError:
        return False


def _write(stream: BinaryIO, fingerprint: str, graph: Graph, width: np.dtype[Any]) -> bool:
    """Write a copy with codes of type ``width``; returns whether the codes fit."""
    from features.layout.rows import RowTable, positions_within_nodes

    assert graph.node_config_ids is not None
    table = RowTable(len(graph.node_config_ids))
    local = np.zeros(0, width)
    with zipfile.ZipFile(stream, "w") as archive:
        # ZipInfo has a fixed date by default, so that equal graphs have equal copies.
        with archive.open(zipfile.ZipInfo("codes.npy"), "w", force_zip64=True) as member:
            shape = (graph.n_configs, table.n_nodes)
            npy.write_array_header_1_0(member, {"descr": width.str, "fortran_order": False, "shape": shape})
            for codes, _ in encoded_blocks(graph, table):
                if len(local) < len(table):
                    indices = positions_within_nodes(table.owner)
                    if indices.max() > np.iinfo(width).max:
                        return False
                    local = indices.astype(width)
                member.write(local[codes].data)
        arrays: dict[str, NDArray[Any]] = {
            "rows": table.rows.astype(np.int8),
            "owner": table.owner.astype(np.int32),
            "source": np.array(int(fingerprint, 16), np.uint64),
        }
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                npy.write_array(member, array, allow_pickle=False)
    return True


def encoded_blocks(graph: Graph, table: RowTable) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64]]]:
    """Codes and digests (see :class:`features.layout.rows.RowTable`) of a graph file, block by block."""
    for first, block in graph.stored_blocks():
        known = block if block.dtype == np.float32 else graph.narrow(first, block)
        try:
            yield table.encode(known)
        except ValueError:
            graph.narrow(first, known)  # names the invalid value
            raise
