"""Build the feature store from graph files: only missing or stale graphs, several in parallel.

A graph is stale if its file, the meaning of the feature columns, or the hardware profile has changed.  Feature files
are written atomically and the manifest every few seconds, so that an interrupted build resumes.

A layout graph takes one pass over its file, in memory that does not grow with its size.  One thread decompresses and
encodes configurations, block by block; a pool of threads, one per core, computes the columns that depend on a single
configuration.  Ranks and frequencies follow once the whole group is known.  Until then, codes and finished columns are
spooled: in memory while they are small, then in a temporary file.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gbr import check_features
from gbr.data import hardware as profiles
from gbr.data.collection import KINDS, SPLITS, Subset, graph_files, splits_present
from gbr.data.files import remove_partial_files
from gbr.data.graph import Graph, read_graph
from gbr.data.groups import unrankable
from gbr.data.npz import NpzFile
from gbr.data.pool import Advance, Progress, cores, in_processes
from gbr.data.repack import encoded_blocks
from gbr.data.store import Entry, FeatureStore
from gbr.data.store import schema_of as schema_of
from gbr.errors import DataError, GbrError, UsageError

if TYPE_CHECKING:
    from features.graph import Program
    from features.hardware import Hardware
    from features.layout.extractor import LayoutExtractor
    from features.layout.rows import RowTable
    from features.schema import Schema
    from gbr.cluster import Workers

#: Minimum number of graphs per process, as a process takes about three seconds to start.
_GRAPHS_PER_PROCESS: Final = {"tile": 64, "layout": 2}
_SECONDS_BETWEEN_RECORDS: Final = 5.0

#: Configurations per row group of a feature file.
ROWS_PER_GROUP: Final = 8192
#: Codes per batch, which stay in the cache together with their columns.
_CODES_AT_ONCE: Final = 1 << 18
#: Maximum number of submitted batches per worker thread.
_BATCHES_AHEAD: Final = 4
_SPOOL_BYTES: Final = 1 << 20

Features = tuple["Schema", NDArray[np.float32], NDArray[np.int64]]
FloatArray = NDArray[np.float32]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class BuildReport:
    """Result of a build.

    Parameters
    ----------
    subset, folder : str
        Collection, and folder of its store.
    built, kept, removed : int
        Number of graphs that were built, were up to date, and were removed because their file is missing.
    rows, distinct : int
        Number of configurations in the requested splits, and of those distinct within their graph.
    columns : int
    schema : str
        Hash of the feature columns.
    hardware : str
        Name of the hardware profile of the features.
    jobs : int
        Number of processes.
    seconds : float
    degenerate : dict
        Reasons why graphs cannot be ranked, by ``<split>/<stem>``.
    """

    subset: str
    folder: str
    built: int
    kept: int
    removed: int
    rows: int
    distinct: int
    columns: int
    schema: str
    hardware: str
    jobs: int
    seconds: float
    degenerate: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """One graph to build; passed to worker processes."""

    path: Path
    split: str
    store_root: Path
    subset: str
    hardware: Hardware

    @property
    def stem(self) -> str:
        return self.path.stem


def shared_columns(schema: Schema) -> tuple[str, ...]:
    """Columns with one value for all configurations of a graph."""
    return tuple(name for block in schema.blocks if not block.per_config for name in block.names)


def extract(graph: Graph, hardware: Hardware | None = None) -> Features:
    """Features of all configurations of one graph.

    Parameters
    ----------
    graph : Graph
    hardware : Hardware, optional
        The machine on which runtimes were measured; a generic CPU by default.

    Returns
    -------
    Schema
    float32 (c, len(schema))
        Finite.
    int64 (c,)
        Row index of the first identical configuration; its own index for the first one.

    Raises
    ------
    DataError
        For an invalid configuration, a graph without configurations, and a program whose features cannot be computed.
    """
    check_features()
    if graph.kind not in KINDS:
        raise DataError(f"{graph.source}: no configurations to rank; add them with gbr.Graph.with_configs")
    with _naming(graph.source):
        if graph.kind == "tile":
            schema, X, duplicate_of = _tile(graph, hardware)
        else:
            with LayoutColumns(graph, hardware) as columns:
                schema, X, duplicate_of = columns.schema, columns.matrix(), columns.duplicate_of
    _check_finite(graph, schema.names, X.T)
    return schema, X, duplicate_of


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Add the file name to errors of the feature extractors."""
    try:
        yield
    except DataError:
        raise
    except ValueError as fault:
        raise DataError(f"{source}: no features can be computed ({fault}); fix the program that wrote it") from fault


def _check_finite(
    graph: Graph, names: Sequence[str], by_column: NDArray[np.float32], first: int = 0
) -> NDArray[np.float32]:
    # A finite sum implies finite values, without a temporary array.
    if np.isfinite(by_column.sum(dtype=np.float64)):
        return by_column
    wrong = np.argwhere(~np.isfinite(by_column))
    if not len(wrong):
        return by_column
    column, row = wrong[0].tolist()
    raise DataError(
        f"{graph.source}: feature {names[column]} of configuration {first + row}: expected a finite number, got "
        f"{by_column[column, row]}; please report this with the file"
    )


def build(
    subset: Subset,
    data_root: Path | str,
    store_root: Path | str,
    splits: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    hardware: Hardware | None = None,
    workers: Workers | None = None,
) -> BuildReport:
    """Update the feature store of a collection from its graph files.

    Graphs without a file are removed from the store.  If another process builds the same store, this one waits.  Worker
    processes are spawned: guard a script that calls this function by ``if __name__ == "__main__":``.

    Parameters
    ----------
    subset : Subset
    data_root, store_root : path
    splits : sequence of str, optional
        By default those with graph files.
    jobs : int, optional
        Number of processes; by default one per core, fewer for few graphs.  1 runs in this process.
    progress : callable, optional
        Called with the number of graphs to build; returns a context manager that yields ``advance(steps)``.
    hardware : Hardware, optional
        The machine on which runtimes were measured; by default that of :func:`gbr.data.hardware.choose`.
    workers : Workers, optional
        Processes to use instead, :class:`gbr.cluster.Workers`.

    Raises
    ------
    DataError
        For a graph file that cannot be read; graphs finished before are kept in the store.
    StoreError
        If the store cannot be written.
    UsageError
        For an unknown split or a number of jobs below 1.
    """
    start = time.monotonic()
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs: expected at least 1, got {jobs}")
    data_root, store_root = Path(data_root), Path(store_root)
    if workers is not None:  # they have other working directories
        data_root, store_root, jobs = data_root.absolute(), store_root.absolute(), len(workers)
    schema = schema_of(subset.kind)
    hardware = hardware or profiles.choose(None, subset, data_root).hardware
    described = {
        "hash": schema.hash,
        "columns": list(schema.names),
        "shared": list(shared_columns(schema)),
        "hardware": profiles.as_dict(hardware),
    }
    splits = splits_present(subset, data_root) or SPLITS if splits is None else splits
    files = {split: {path.stem: path for path in graph_files(subset, data_root, split)} for split in splits}
    store = FeatureStore(store_root, subset.name)
    expected = {split: len(paths) for split, paths in files.items()}
    with ExitStack() as stack:
        # A complete store is not written, as it may be read-only.
        if not (untouched := store.is_for(described, expected)):
            stack.enter_context(store.building(described, expected))
        gone = {split: sorted(set(store.entries(split)) - set(paths)) for split, paths in files.items()}
        tasks = [
            _Task(path, split, store.root, subset.name, hardware)
            for split, paths in files.items()
            for path in paths.values()
            if not _is_fresh(store, split, path)
        ]
        if untouched and (tasks or any(gone.values())):
            stack.enter_context(store.building(described, expected))
        if any(gone.values()):
            store.record(described, removed=gone)
        _sweep(store, files)
        n_jobs = min(jobs or min(cores(), len(tasks) // _GRAPHS_PER_PROCESS[subset.kind]) or 1, max(1, len(tasks)))
        if tasks:
            with progress(len(tasks)) if progress else nullcontext(lambda steps: None) as advance:
                _run(store, described, tasks, n_jobs, advance, workers)
    entries = {f"{split}/{stem}": entry for split in files for stem, entry in store.entries(split).items()}
    return BuildReport(
        subset=subset.name,
        folder=str(store.folder),
        built=len(tasks),
        kept=len(entries) - len(tasks),
        removed=sum(map(len, gone.values())),
        rows=sum(entry["rows"] for entry in entries.values()),
        distinct=sum(entry["distinct"] for entry in entries.values()),
        columns=len(schema),
        schema=schema.hash,
        hardware=hardware.name,
        jobs=n_jobs,
        seconds=time.monotonic() - start,
        degenerate={name: entry["degenerate"] for name, entry in entries.items() if entry["degenerate"]},
    )


def _sweep(store: FeatureStore, files: Mapping[str, Container[str]]) -> None:
    """Delete features of graphs without a file, and temporary files of killed builds."""
    remove_partial_files(store.folder)
    for split, stems in files.items():
        folder = store.folder / split
        for path in folder.glob("*.parquet"):
            with suppress(OSError):
                if path.stem not in stems:
                    path.unlink()
        remove_partial_files(folder)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"file": path.name, "members": NpzFile(path).fingerprint}


def _is_fresh(store: FeatureStore, split: str, path: Path) -> bool:
    source = _fingerprint(path)  # first, so that a corrupt archive is found before anything is built
    entry = store.entries(split).get(path.stem)
    if entry is None or entry["source"] != source:
        return False
    try:
        return store.path(split, path.stem).stat().st_size == int(entry["bytes"])
    except OSError:
        return False


def _run(
    store: FeatureStore,
    described: Mapping[str, Any],
    tasks: Sequence[_Task],
    jobs: int,
    advance: Advance,
    workers: Workers | None,
) -> None:
    """Build all graphs; finished graphs are recorded even if one fails."""
    written: dict[str, dict[str, Entry]] = defaultdict(dict)
    recorded = time.monotonic()
    try:
        done = in_processes(_work, tasks, jobs, tasks[0].subset) if workers is None else workers.each(_work, tasks)
        for task, entry in done:
            written[task.split][task.stem] = entry
            advance(1)
            if time.monotonic() - recorded > _SECONDS_BETWEEN_RECORDS:
                store.record(described, written)
                written.clear()
                recorded = time.monotonic()
    finally:
        store.record(described, written)


def _work(task: _Task) -> Entry:
    source = _fingerprint(task.path)
    graph = read_graph(task.path)
    kind = task.subset.split(":", 1)[0]
    if graph.kind != kind:
        raise DataError(f"{task.path}: expected a {kind} graph as its folder says, got a {graph.kind} graph; move it")
    store = FeatureStore(task.store_root, task.subset)
    known: dict[str, Any] = {
        "runtime": graph.runtime, "normalizer": graph.normalizer, "repeat": graph.repeat, "source": source,
    }  # fmt: skip
    if kind == "tile":
        schema, X, duplicate_of = extract(graph, task.hardware)
        shared = shared_columns(schema)
        entry = store.write(task.split, task.stem, schema.names, X, duplicate_of=duplicate_of, shared=shared, **known)
    else:
        check_features()
        with _naming(graph.source), LayoutColumns(graph, task.hardware) as columns:
            duplicate_of = columns.duplicate_of
            names = columns.schema.names[: len(columns.schema) - len(columns.shared)]
            groups = (_check_finite(graph, names, group, first) for first, group in columns.groups())
            entry = store.write_groups(
                task.split, task.stem, names, columns.shared, groups, duplicate_of=duplicate_of, **known
            )
    entry["degenerate"] = _degenerate(graph, duplicate_of)
    return entry


def _degenerate(graph: Graph, duplicate_of: NDArray[np.int64]) -> str | None:
    if graph.runtime is None:
        # With distinct runtimes, the result depends only on the configurations.
        return unrankable(np.arange(graph.n_configs, dtype=np.float64), duplicate_of)
    return unrankable(graph.runtime / (1 if graph.normalizer is None else graph.normalizer), duplicate_of)


def _program(graph: Graph) -> Program:
    from features.graph import Program

    return Program(graph.node_opcode, graph.node_feat, graph.edge_index)


def _tile(graph: Graph, hardware: Hardware | None) -> Features:
    from features.hardware import CPU
    from features.tile.extractor import TileExtractor

    extractor = TileExtractor(_program(graph), hardware or CPU)
    assert graph.config_feat is not None
    # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes.
    rows = np.ascontiguousarray(graph.config_feat + np.float32(0))
    first: dict[bytes, int] = {}
    duplicate_of = [first.setdefault(values.tobytes(), row) for row, values in enumerate(rows)]
    return extractor.schema, extractor(rows), np.array(duplicate_of, np.int64)


class LayoutColumns:
    """Feature columns of all configurations of a layout graph.  A context manager: leaving it frees the spool.

    Parameters
    ----------
    graph : Graph
        Of kind ``layout``.
    hardware : Hardware, optional
        The machine on which runtimes were measured; a generic CPU by default.

    Attributes
    ----------
    schema : Schema
    shared : float32 (shared columns,)
        Values of the columns that all configurations share, the last columns of the schema.
    duplicate_of : int64 (c,)
        Row index of the first identical configuration; its own index for the first one.

    Raises
    ------
    DataError
        For an invalid configuration, or a corrupt file.
    GbrError
        If the temporary folder is full.
    ValueError
        For a program that has no layout features.
    """

    def __init__(self, graph: Graph, hardware: Hardware | None = None) -> None:
        from features.layout import slate

        self._graph = graph
        self._hardware = hardware
        self._columns = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed by __exit__
        self._codes = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        self._of_group = _Matrix(len(slate.BLOCK), graph.n_configs)
        try:
            self._run()
        except OSError as fault:  # of the spool, as errors of the graph file are DataErrors
            self._close()
            raise GbrError(
                f"temporary folder {gettempdir()}: {fault.strerror or fault}; set TMPDIR to another folder"
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
            Index of the first configuration, and the columns.
        """
        self._columns.seek(0)
        n_own, n_group = self._n_own, self._of_group.count
        blocks = self._blocks()
        rest = np.empty((n_own, 0), np.float32)
        for first in range(0, self._graph.n_configs, ROWS_PER_GROUP):
            rows = min(ROWS_PER_GROUP, self._graph.n_configs - first)
            group = np.empty((n_own + n_group, rows), np.float32)
            done = 0
            while done < rows:
                if not rest.shape[1]:
                    rest = next(blocks)
                part, rest = rest[:, : rows - done], rest[:, rows - done :]
                group[:n_own, done : done + part.shape[1]] = part
                done += part.shape[1]
            self._of_group.rows(first, group[n_own:])
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
        workers = cores()
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
        """Encode all configurations; spool their codes and the columns that depend on a single configuration.

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
        """Compute the columns that depend on the whole group."""
        from features.layout import extractor as layout
        from features.layout import slate

        self.schema: Schema = extractor.schema
        self.shared: FloatArray = extractor.shared
        n_configs, n_nodes = self._graph.n_configs, len(self._graph.node_config_ids)  # type: ignore[arg-type]
        layout_digests = np.empty(n_configs, np.uint64)
        frequencies = extractor.frequencies()

        def read() -> Iterator[NDArray[Any]]:
            self._codes.seek(0)
            for count, dtype in self._sizes:
                codes = np.empty((count, n_nodes), dtype)
                _read(self._codes, codes)
                yield codes

        done = 0
        coded = _in_order(pool, frequencies.columns, read(), ahead)
        for found, digests in coded:
            layout_digests[done : done + len(found)] = digests
            self._of_group.write(0, done, found.T)
            done += len(found)
        inputs = layout.SLATE_INPUTS
        relative = slate.relative_columns(
            lambda index: self._column(inputs[index]), self._of_group.column, layout_digests, self.duplicate_of
        )
        for index, column in enumerate(relative, slate.N_FREQUENCY):
            self._of_group.write(index, 0, column[None].astype(np.float32))

    def _column(self, number: int) -> FloatArray:
        """One spooled column of all configurations."""
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
        """The spooled columns, block by block as they were computed."""
        for count, _ in self._sizes:
            block = np.empty((self._n_own, count), np.float32)
            _read(self._columns, block)
            yield block

    def _close(self) -> None:
        self._columns.close()
        self._codes.close()
        self._of_group.close()


class _Matrix:
    """A column-major matrix in a spool: float32 (count, rows)."""

    def __init__(self, count: int, rows: int) -> None:
        self.count, self._n_rows = count, rows
        self._spool = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed by close

    def write(self, column: int, row: int, values: FloatArray) -> None:
        """Write values, float32 (columns, rows), at a column and row."""
        for number, each in enumerate(values, column):
            self._seek(number, row)
            self._spool.write(np.ascontiguousarray(each).data)

    def rows(self, first: int, into: FloatArray) -> None:
        """Fill ``into``, float32 (count, rows), from row ``first`` on."""
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
    """Codes and digests of all configurations, in batches of 1 MiB of codes."""
    from features.layout.rows import renumber

    at_once = max(1, _CODES_AT_ONCE // table.n_nodes)
    if (copy := graph.repacked) is not None:
        table.adopt(copy.rows, copy.owner)
        for first in range(0, graph.n_configs, at_once):
            codes = renumber(copy.codes(slice(first, first + at_once)), copy.first, copy.order)
            yield codes, table.tally(codes)
        return
    waiting: list[tuple[NDArray[np.uint32], NDArray[np.uint64]]] = []
    count = 0
    for codes, seen in encoded_blocks(graph, table):
        waiting.append((codes, seen))
        count += len(codes)
        if count >= at_once:
            yield np.concatenate([codes for codes, _ in waiting]), np.concatenate([seen for _, seen in waiting])
            waiting, count = [], 0
    if waiting:
        yield np.concatenate([codes for codes, _ in waiting]), np.concatenate([seen for _, seen in waiting])


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """Results in the order of the items, with at most ``ahead`` items submitted at a time."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        while len(waiting) > ahead or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(spool: SpooledTemporaryFile[bytes], into: NDArray[Any]) -> None:
    """Fill a contiguous array."""
    view = memoryview(into.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while len(view):
        view = view[spool.readinto(view) :]
