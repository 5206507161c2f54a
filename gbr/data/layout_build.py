"""One layout graph -> its feature columns, in one pass over the file and in memory that does not grow with it.

One thread inflates and codes configurations, each block while it is in the cache.  Others, as many as there are cores,
work out what can be told of each by itself; ranks and frequencies follow when the whole slate is known.  What has to
wait for them, a few bytes per node and the columns that are done, stays in memory while it is small and goes to a
temporary file after that.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from tempfile import SpooledTemporaryFile, gettempdir
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gbr.data.graph import Graph
from gbr.errors import DataError, GbrError

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.layout.extractor import LayoutExtractor
    from features.layout.rows import RowTable
    from features.schema import Schema

#: Configurations whose columns lie together, in the temporary file and in the store.
ROWS_PER_GROUP: Final = 8192
#: Codes that are described at once: they and the columns made of them stay in the processor's cache.
_CODES_AT_ONCE: Final = 1 << 18
#: Batches per worker that wait or are worked on.
_BATCHES_AHEAD: Final = 4
_SPOOL_BYTES: Final = 1 << 20

FloatArray = NDArray[np.float32]
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


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
        from features.layout import slate

        self._graph = graph
        self._hardware = hardware
        self._columns = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed by __exit__
        self._codes = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        self._of_slate = _Matrix(len(slate.BLOCK), graph.n_configs)
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
        n_own, n_slate = self._n_own, self._of_slate.count
        blocks = self._blocks()
        rest = np.empty((n_own, 0), np.float32)
        for first in range(0, self._graph.n_configs, ROWS_PER_GROUP):
            rows = min(ROWS_PER_GROUP, self._graph.n_configs - first)
            group = np.empty((n_own + n_slate, rows), np.float32)
            done = 0
            while done < rows:
                if not rest.shape[1]:
                    rest = next(blocks)
                part, rest = rest[:, : rows - done], rest[:, rows - done :]
                group[:n_own, done : done + part.shape[1]] = part
                done += part.shape[1]
            self._of_slate.rows(first, group[n_own:])
            yield first, group

    def matrix(self) -> FloatArray:
        """All columns of the schema, float32 (c, len(schema))."""
        X = np.empty((self._graph.n_configs, len(self.schema)), np.float32)
        for first, group in self.groups():
            X[first : first + group.shape[1], : len(group)] = group.T
        X[:, len(self.schema) - len(self.shared) :] = self.shared
        return X

    def _run(self) -> None:
        from features.graph import Program
        from features.hardware import CPU
        from features.layout import extractor as layout
        from features.layout.rows import RowTable, first_equal

        graph = self._graph
        assert graph.node_config_ids is not None
        table = RowTable(len(graph.node_config_ids))
        self._n_own = layout.N_OWN
        workers = _cores()
        with ThreadPoolExecutor(workers) as pool:
            program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
            prepared = pool.submit(layout.LayoutExtractor, program, graph.node_config_ids, table, self._hardware or CPU)
            try:
                self.duplicate_of = first_equal(self._observe(pool, workers * _BATCHES_AHEAD, prepared, table))
                self._compare(pool, workers * _BATCHES_AHEAD, prepared.result())
            finally:
                pool.shutdown(cancel_futures=True)

    def _observe(
        self, pool: ThreadPoolExecutor, ahead: int, prepared: Future[LayoutExtractor], table: RowTable
    ) -> NDArray[np.uint64]:
        """Code all configurations and spool their codes, and the columns that can be told of each by itself.

        Returns the digests.
        """
        from features.layout import extractor as layout

        digests = np.empty((self._graph.n_configs, 2), np.uint64)
        self._sizes: list[tuple[int, np.dtype[Any]]] = []

        def described(codes: NDArray[np.uint32]) -> FloatArray:
            own = np.empty((len(codes), layout.N_OWN), np.float32)
            prepared.result().describe(codes, own)
            return np.ascontiguousarray(own.T)

        def coded() -> Iterator[NDArray[np.uint32]]:
            first = 0
            for codes, seen in _coded(self._graph, table):
                digests[first : first + len(codes)] = seen
                narrow = codes.astype(np.uint16 if len(table) <= 1 << 16 else np.uint32)
                self._sizes.append((len(codes), narrow.dtype))
                self._spool(self._codes, narrow)
                first += len(codes)
                yield codes

        for own in _in_order(pool, described, coded(), ahead):
            self._spool(self._columns, own)
        return digests

    def _compare(self, pool: ThreadPoolExecutor, ahead: int, extractor: LayoutExtractor) -> None:
        """Work out what depends on the whole slate."""
        from features.layout import extractor as layout
        from features.layout import slate

        self.schema: Schema = extractor.schema
        self.shared: FloatArray = extractor.shared
        n_configs, n_nodes = self._graph.n_configs, len(self._graph.node_config_ids)  # type: ignore[arg-type]
        alike = np.empty(n_configs, np.uint64)
        usual = extractor.usual()

        def read() -> Iterator[NDArray[Any]]:
            self._codes.seek(0)
            for count, dtype in self._sizes:
                codes = np.empty((count, n_nodes), dtype)
                _read(self._codes, codes)
                yield codes

        done = 0
        for found, marks in _in_order(pool, lambda codes: extractor.frequencies(codes, usual), read(), ahead):
            alike[done : done + len(found)] = marks
            self._of_slate.write(0, done, found.T)
            done += len(found)
        compared = layout.compared()
        relative = slate.relative_columns(
            lambda place: self._column(compared[place]), self._of_slate.column, alike, self.duplicate_of
        )
        for place, column in enumerate(relative, slate.N_FREQUENCY):
            self._of_slate.write(place, 0, column[None].astype(np.float32))

    def _column(self, number: int) -> FloatArray:
        """One column of all configurations, of those that were spooled as they were described."""
        column = np.empty(self._graph.n_configs, np.float32)
        first = 0
        for count, _ in self._sizes:
            self._columns.seek((first * self._n_own + number * count) * column.itemsize)
            _read(self._columns, column[first : first + count])
            first += count
        return column

    @staticmethod
    def _spool(into: SpooledTemporaryFile[bytes], values: NDArray[Any]) -> None:
        into.write(values.data)

    def _blocks(self) -> Iterator[FloatArray]:
        """Columns of the configurations that were described together, as they were spooled."""
        for count, _ in self._sizes:
            block = np.empty((self._n_own, count), np.float32)
            _read(self._columns, block)
            yield block

    def _close(self) -> None:
        self._columns.close()
        self._codes.close()
        self._of_slate.close()


class _Matrix:
    """Columns of a slate, one after the other in a spool: float32 (count, rows)."""

    def __init__(self, count: int, rows: int) -> None:
        self.count, self._n_rows = count, rows
        self._spool = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed by close

    def write(self, column: int, row: int, values: FloatArray) -> None:
        """Put values, float32 (columns, rows), where they belong."""
        for number, each in enumerate(values, column):
            self._seek(number, row)
            self._spool.write(np.ascontiguousarray(each).data)

    def rows(self, first: int, into: FloatArray) -> None:
        """Fill float32 (count, rows) from a row on."""
        for number, each in enumerate(into):
            self._seek(number, first)
            _read(self._spool, each)

    def column(self, number: int) -> FloatArray:
        """One column, float32 (rows,)."""
        values = np.empty(self._n_rows, np.float32)
        self._seek(number, 0)
        _read(self._spool, values)
        return values

    def close(self) -> None:
        self._spool.close()

    def _seek(self, column: int, row: int) -> None:
        self._spool.seek((column * self._n_rows + row) * np.dtype(np.float32).itemsize)


def _coded(graph: Graph, table: RowTable) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64]]]:
    """Codes and digests of all configurations, in batches of a megabyte."""
    from features.layout.rows import renumber

    at_once = max(1, _CODES_AT_ONCE // table.n_nodes)
    if graph.packed is not None:
        table.adopt(*graph.packed.distinct())
        for first in range(0, graph.n_configs, at_once):
            codes = renumber(graph.packed.codes(slice(first, first + at_once)), *graph.packed.order)
            yield codes, table.tally(codes)
        return
    waiting: list[tuple[NDArray[np.uint32], NDArray[np.uint64]]] = []
    count = 0
    for codes, seen in coded_blocks(graph, table):
        waiting.append((codes, seen))
        count += len(codes)
        if count >= at_once:
            yield np.concatenate([codes for codes, _ in waiting]), np.concatenate([seen for _, seen in waiting])
            waiting, count = [], 0
    if waiting:
        yield np.concatenate([codes for codes, _ in waiting]), np.concatenate([seen for _, seen in waiting])


def coded_blocks(graph: Graph, table: RowTable) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64]]]:
    """Codes and digests of the configurations of a graph's file, block by block as it is inflated.

    Raises
    ------
    DataError
        For a value that no layout has; names it.
    """
    for first, block in graph.stored_blocks():
        if block.dtype != np.float32:
            block = graph.narrow(first, block)
        try:
            coded = table.encode(block)
        except ValueError as fault:
            graph.narrow(first, block)  # tells which value it is
            raise DataError(f"{graph.source}: node_config_feat: {fault}") from fault
        yield coded


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Made], items: Iterable[_Item], ahead: int
) -> Iterator[_Made]:
    """Results in the order of the items, which are taken here, at most ``ahead`` of them before their results are."""
    waiting: deque[Future[_Made]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        while len(waiting) > ahead or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _read(spool: SpooledTemporaryFile[bytes], into: NDArray[Any]) -> None:
    """Fill an array that lies in one piece."""
    view = memoryview(into.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while len(view):
        view = view[spool.readinto(view) :]
