"""One layout graph -> its feature columns, in one pass over the file and in memory that does not grow with it.

One thread inflates and codes configurations while another works out what can be told of each by itself; ranks and
frequencies follow when the whole slate is known.  What has to wait for them, a few bytes per node and the columns that
are done, stays in memory while it is small and goes to a temporary file after that.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile, gettempdir
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gbr.errors import DataError, GbrError
from gbr.graphs import Graph

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.layout_rows import RowTable
    from features.schema import Schema

#: Configurations whose columns lie together, in the temporary file and in the store.
ROWS_PER_GROUP: Final = 4096
#: Codes that are described at once: they and the columns made of them stay in the processor's cache.
_CODES_AT_ONCE: Final = 1 << 18
_BATCHES_AHEAD: Final = 8
_SPOOL_BYTES: Final = 8 << 20

FloatArray = NDArray[np.float32]
_Item = TypeVar("_Item")


class LayoutColumns:
    """Feature columns of all configurations of a layout graph.  A context manager: leaving it frees the spool.

    Parameters
    ----------
    graph : Graph
        Of kind ``layout``.
    hardware : Hardware, optional
        The machine that the runtimes are of; a generic CPU by default.

    Attributes
    ----------
    schema : Schema
    shared : float32 (shared columns,)
        Values of the columns that all configurations share: the last ones of the schema.
    duplicate_of : int64 (c,)
        Row number of the first identical configuration; its own where it is the first.

    Raises
    ------
    DataError
        For a configuration that is not valid, or a torn file.
    GbrError
        When the temporary folder is full.
    ValueError
        For a program that has no layout features.
    """

    def __init__(self, graph: Graph, hardware: Hardware | None = None) -> None:
        self._graph = graph
        self._hardware = hardware
        self._columns = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed by __exit__
        self._codes = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        try:
            self._run()
        except OSError as fault:  # of the spool: what reads the graph's file turns its own into DataError
            self._close()
            raise GbrError(
                f"temporary folder {gettempdir()}: {fault.strerror or fault}; name another one with TMPDIR"
            ) from fault
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> LayoutColumns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def groups(self) -> Iterator[tuple[int, FloatArray]]:
        """Columns that differ between configurations, in groups of :data:`ROWS_PER_GROUP` configurations.

        Yields
        ------
        int, float32 (columns, rows)
            Number of the first configuration, and the columns.
        """
        self._columns.seek(0)
        n_own, n_slate = self._n_own, self._of_slate.shape[1]
        for first in range(0, self._graph.n_configs, ROWS_PER_GROUP):
            rows = min(ROWS_PER_GROUP, self._graph.n_configs - first)
            group = np.empty((n_own + n_slate, rows), np.float32)
            _read(self._columns, group[:n_own])
            group[n_own:] = self._of_slate[first : first + rows].T
            yield first, group

    def matrix(self) -> FloatArray:
        """All columns of the schema, float32 (c, len(schema))."""
        X = np.empty((self._graph.n_configs, len(self.schema)), np.float32)
        for first, group in self.groups():
            X[first : first + group.shape[1], : len(group)] = group.T
        X[:, len(self.schema) - len(self.shared) :] = self.shared
        return X

    def _run(self) -> None:
        from features import layout, slate
        from features.graph import Program
        from features.hardware import CPU
        from features.layout_rows import RowTable, first_equal

        graph = self._graph
        assert graph.node_config_ids is not None
        table = RowTable(len(graph.node_config_ids))
        with _Ahead(_coded(graph, table), _BATCHES_AHEAD) as batches:
            program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
            extractor = layout.LayoutExtractor(program, graph.node_config_ids, table, self._hardware or CPU)
            self.schema: Schema = extractor.schema
            self.shared: FloatArray = extractor.shared
            self._n_own = layout.N_OWN
            main = np.empty((graph.n_configs, len(layout.compared())), np.float32)
            digests = np.empty((graph.n_configs, 2), np.uint64)
            sizes: list[tuple[int, np.dtype[Any]]] = []
            group = np.empty((layout.N_OWN, min(ROWS_PER_GROUP, graph.n_configs)), np.float32)
            rows = np.empty((0, layout.N_OWN), np.float32)
            done = 0
            for codes, seen in batches:
                if len(rows) < len(codes):
                    rows = np.empty((len(codes), layout.N_OWN), np.float32)
                own = rows[: len(codes)]
                extractor.describe(codes, own)
                digests[done : done + len(codes)] = seen
                main[done : done + len(codes)] = own[:, layout.compared()]
                narrow = codes.astype(np.uint16 if len(table) <= 1 << 16 else np.uint32)
                sizes.append((len(codes), narrow.dtype))
                self._codes.write(narrow.data)
                self._spool(group, done, own)
                done += len(codes)
            self._columns.write(np.ascontiguousarray(group[:, : done % group.shape[1]]).data)
        self.duplicate_of = first_equal(digests)
        self._codes.seek(0)
        frequency = np.empty((graph.n_configs, slate.N_FREQUENCY), np.float32)
        alike = np.empty(graph.n_configs, np.uint64)
        usual = extractor.usual()
        done = 0
        for count, dtype in sizes:
            codes = np.empty((count, len(graph.node_config_ids)), dtype)
            _read(self._codes, codes)
            frequency[done : done + count], alike[done : done + count] = extractor.frequencies(codes, usual)
            done += count
        self._of_slate = slate.slate_columns(main, frequency, alike, self.duplicate_of)

    def _spool(self, group: FloatArray, done: int, own: FloatArray) -> None:
        """Turn rows into columns of the group at hand; write out each group that is full."""
        while len(own):
            at = done % group.shape[1]
            part, own = own[: group.shape[1] - at], own[group.shape[1] - at :]
            group[:, at : at + len(part)] = part.T
            done += len(part)
            if done % group.shape[1] == 0:
                self._columns.write(group.data)

    def _close(self) -> None:
        self._columns.close()
        self._codes.close()


def _coded(graph: Graph, table: RowTable) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64]]]:
    """Codes and digests of all configurations, in batches of a megabyte."""
    at_once = max(1, _CODES_AT_ONCE // table.n_nodes)
    if graph.packed is not None:
        table.adopt(*graph.packed.distinct())
        for first in range(0, graph.n_configs, at_once):
            codes = graph.packed.numbered(slice(first, first + at_once))
            yield codes, table.tally(codes)
        return
    waiting: list[tuple[NDArray[np.uint32], NDArray[np.uint64]]] = []
    count = 0
    for first, block in graph.stored_blocks():
        if block.dtype != np.float32:
            block = graph.narrow(first, block)
        try:
            waiting.append(table.encode(block))
        except ValueError as fault:
            graph.narrow(first, block)  # tells which value it is
            raise DataError(f"{graph.source}: node_config_feat: {fault}") from fault
        count += len(block)
        if count >= at_once:
            yield np.concatenate([codes for codes, _ in waiting]), np.concatenate([seen for _, seen in waiting])
            waiting, count = [], 0
    if waiting:
        yield np.concatenate([codes for codes, _ in waiting]), np.concatenate([seen for _, seen in waiting])


class _Ahead(Generic[_Item]):
    """Items made by another thread that starts at once and is at most ``depth`` ahead; leaving the context ends it."""

    def __init__(self, items: Iterator[_Item], depth: int) -> None:
        self._items = items
        self._made: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def __enter__(self) -> Iterator[_Item]:
        while True:
            more, item = self._made.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._worker.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                self._offer((True, item))
                if self._stop.is_set():
                    return
            self._offer((False, None))
        except BaseException as fault:  # raised again where the items are taken
            self._offer((False, fault))

    def _offer(self, what: tuple[bool, Any]) -> None:
        while not self._stop.is_set():
            try:
                self._made.put(what, timeout=0.1)
            except queue.Full:
                continue
            return


def _read(spool: SpooledTemporaryFile[bytes], into: NDArray[Any]) -> None:
    """Fill an array that lies in one piece."""
    view = memoryview(into.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while len(view):
        view = view[spool.readinto(view) :]
