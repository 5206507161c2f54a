"""Build the feature store from graph files: only missing or stale graphs, several in parallel.

A graph is stale if its file, the meaning of the feature columns, or the hardware profile has changed.  Feature files
are written atomically and the manifest every few seconds, so that an interrupted build resumes.

A layout graph takes one pass over its file, in memory that hardly grows with its size.  One thread decompresses and
encodes configurations, block by block; a pool of threads, one per core, computes the columns that depend on a single
configuration.  Ranks and frequencies follow once the whole group is known.  Until then, codes and finished columns are
spooled: in memory while they are small, then in a temporary file.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gbr.data import hardware as profiles
from gbr.data.collection import SPLITS, TABLE, Subset, graph_files, splits_present
from gbr.data.files import remove_partial_files
from gbr.data.graph import Graph, read_graph
from gbr.data.groups import unrankable
from gbr.data.pool import Advance, Progress, cores, in_order, in_processes
from gbr.data.repack import encoded_blocks
from gbr.data.store import MEASURED, STORE, Entry, FeatureStore, digest, source_of
from gbr.data.store import schema_of as schema_of
from gbr.errors import DataError, GbrError, GbrWarning, StoreError, UsageError

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.layout.rows import RowTable
    from features.schema import Schema
    from gbr.cluster import Workers
    from gbr.data.table import Group, Table
    from gbr.data.table_features import TableFeatures

#: Minimum size of the graph files per process, bytes: about two seconds of work, which a process takes to start.
_BYTES_PER_PROCESS: Final = {"tile": 1 << 19, "layout": 1 << 18}
_SECONDS_BETWEEN_RECORDS: Final = 5.0

#: Minimum number of configurations per row group of a feature file, except for the last.
_ROWS_PER_GROUP: Final = 8192
#: Codes per batch, which stay in the cache together with their columns.
_CODES_AT_ONCE: Final = 1 << 18
#: Maximum number of submitted batches per worker thread.
_BATCHES_AHEAD: Final = 4
_SPOOL_BYTES: Final = 1 << 20

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
_Item = TypeVar("_Item")
#: Groups of configurations, float32 (columns that differ between them, configurations); values of the columns that do
#: not; index of the first identical configuration of each.
_Found = tuple[Iterable[FloatArray], FloatArray, IntArray]


@dataclass(frozen=True)
class BuildReport:
    """Result of a build."""

    subset: str
    #: Folder of the store of the collection.
    folder: str
    #: Numbers of graphs that were built, were up to date, and were removed because their file is missing.
    built: int
    kept: int
    removed: int
    #: Configurations in the requested splits, and those distinct within their graph.
    rows: int
    distinct: int
    columns: int
    #: Hash of the feature columns, and name of the hardware profile that they are computed for.
    schema: str
    hardware: str
    #: Number of processes.
    jobs: int
    seconds: float
    #: Reasons why graphs cannot be ranked, by ``<split>/<stem>``.
    degenerate: dict[str, str]


@dataclass(frozen=True)
class _Task:
    """One graph to build; passed to worker processes."""

    path: Path
    split: str
    store_root: Path
    subset: str
    hardware: Hardware


def n_per_config(schema: Schema) -> int:
    """Number of columns that differ between configurations of a graph: the first ones."""
    return sum(len(block) for block in schema.blocks if block.per_config)


def extract(graph: Graph, hardware: Hardware | None = None) -> tuple[Schema, FloatArray, IntArray]:
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
    graph.require_configs()
    schema = schema_of(graph.kind, hardware)
    with _naming(graph.source):
        if graph.kind == "tile":
            X, duplicate_of = _tile(graph, hardware)
        else:
            X, first = np.empty((graph.n_configs, len(schema)), np.float32), 0
            with _layout(graph, hardware) as (groups, shared, duplicate_of):
                for group in groups:
                    X[first : first + group.shape[1], : len(group)] = group.T
                    first += group.shape[1]
                X[:, -len(shared) :] = shared
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


def _check_finite(graph: Graph, names: Sequence[str], by_column: FloatArray) -> FloatArray:
    # A finite sum implies finite values, without a temporary array.
    if np.isfinite(by_column.sum(dtype=np.float64)) or np.isfinite(by_column).all():
        return by_column
    column, row = np.argwhere(~np.isfinite(by_column))[0].tolist()
    raise DataError(
        f"{graph.source}: feature {names[column]}: expected a finite number, got {by_column[column, row]}; please "
        "report this with the file"
    )


def build(
    subset: Subset,
    data_root: Path | str,
    store_root: Path | str | None = None,
    splits: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    hardware: Hardware | None = None,
    workers: Workers | None = None,
    features: TableFeatures | None = None,
) -> BuildReport:
    """Update the feature store of a collection as :func:`gbr.features.build` does.

    Graphs without a file are removed from the store.  If another process builds the same store, this one waits.  By
    default, ``splits`` are those with graph files, ``jobs`` one per core, or fewer for few graphs (1 runs in this
    process), and ``hardware`` that of :func:`gbr.data.hardware.choose`.  ``progress`` is called with the number of
    graphs to build, and returns a context manager that yields ``advance(steps)``.  ``features`` are those of a measured
    table, by default of its own training rows.
    """
    start = time.monotonic()
    data_root = Path(data_root)
    store_root = Path(store_root or data_root / STORE)
    if subset.kind == TABLE:
        return _build_table(subset, data_root, store_root, splits, progress, features)
    if workers is not None:  # they have other working directories
        data_root, store_root, jobs = data_root.absolute(), store_root.absolute(), len(workers)
    hardware = hardware or profiles.choose(None, subset, data_root)
    profiles.report_unnamed_slots(subset.kind, hardware)
    schema = schema_of(subset.kind, hardware)
    described = _described(schema, n_per_config(schema), hardware)
    splits = splits_present(subset, data_root) or SPLITS if splits is None else splits
    splits = (splits,) if isinstance(splits, str) else splits
    # Fingerprints first, so that a corrupt archive is found before anything is built.
    files = {split: {path: source_of(path) for path in graph_files(subset, data_root, split)} for split in splits}
    expected = {split: len(paths) for split, paths in files.items()}
    store = FeatureStore(store_root, subset.name)

    def changes() -> tuple[list[_Task], dict[str, dict[str, Entry | None]]]:
        """Graphs to build, and entries of graphs without a file."""
        tasks: list[_Task] = []
        gone: dict[str, dict[str, Entry | None]] = {}
        for split, sources in files.items():
            entries = store.entries(split)
            gone[split] = dict.fromkeys(set(entries) - {path.stem for path in sources})
            tasks += [
                _Task(path, split, store.root, subset.name, hardware)
                for path, source in sources.items()
                if not store.holds(split, path.stem, source)
            ]
        return tasks, gone

    tasks, gone = changes() if (same := store.is_for(described, expected)) else ([], {})
    # A complete store is not written, as it may be read-only.
    complete = same and not tasks and not any(gone.values())
    if not complete and (previous := _other_data_root(store, data_root, files)):
        raise UsageError(
            f"{store.folder}: has the features of {previous}, not of {data_root}; name another --store, or delete it"
        )
    if other := store.other_hardware(hardware):
        message = f"{store.folder}: features for {other!r} are replaced by those for {hardware.name!r}"
        warnings.warn(message, GbrWarning, stacklevel=2)
    with nullcontext() if complete else store.building(described, expected, data_root):
        if not complete:
            tasks, gone = changes()
            if any(gone.values()):
                store.record(gone)
        _remove_others(store, {split: {path.stem for path in sources} for split, sources in files.items()})
        worthwhile = sum(task.path.stat().st_size for task in tasks) // _BYTES_PER_PROCESS[subset.kind]
        n_jobs = min(jobs or max(1, min(cores(), worthwhile)), max(1, len(tasks)))
        if tasks:
            with progress(len(tasks)) if progress else nullcontext(lambda steps: None) as advance:
                _run(store, tasks, n_jobs, advance, workers)
    return _report(store, tuple(files), schema, hardware, len(tasks), sum(map(len, gone.values())), n_jobs, start)


def _remove_others(store: FeatureStore, stems: Mapping[str, Iterable[str]]) -> None:
    """Delete files of interrupted writes, and those of other graphs or groups."""
    remove_partial_files(store.folder)
    for split, kept in stems.items():
        remove_partial_files(store.folder / split)
        for path in set((store.folder / split).glob("*.parquet")) - {store.path(split, stem) for stem in kept}:
            with suppress(OSError):
                path.unlink()


def _described(schema: Schema, per_config: int, hardware: Hardware) -> dict[str, Any]:
    """The schema in the manifest of a store."""
    names = list(schema.names)
    return {"hash": schema.hash, "columns": names, "per_config": per_config, "hardware": profiles.as_dict(hardware)}


def _report(
    store: FeatureStore, splits: Sequence[str], schema: Schema, hardware: Hardware, built: int, removed: int, jobs: int,
    start: float,
) -> BuildReport:  # fmt: skip
    """The result of a build that began at ``start``."""
    entries = {f"{split}/{stem}": entry for split in splits for stem, entry in store.entries(split).items()}
    return BuildReport(
        subset=store.subset,
        folder=str(store.folder),
        built=built,
        kept=len(entries) - built,
        removed=removed,
        rows=sum(entry["rows"] for entry in entries.values()),
        distinct=sum(entry["distinct"] for entry in entries.values()),
        columns=len(schema),
        schema=schema.hash,
        hardware=hardware.name,
        jobs=jobs,
        seconds=time.monotonic() - start,
        degenerate={name: entry["degenerate"] for name, entry in entries.items() if entry["degenerate"]},
    )


def _build_table(
    subset: Subset,
    data_root: Path,
    store_root: Path,
    splits: Sequence[str] | str | None,
    progress: Progress | None,
    features: TableFeatures | None,
) -> BuildReport:
    """Update the feature store of a measured table; its features depend on all training rows."""
    from gbr.data.table import read_table, require_columns
    from gbr.data.table_features import TableFeatures

    start = time.monotonic()
    table = read_table(subset.folder(data_root))
    features = features or TableFeatures(table)
    require_columns(table.frame, features.roles, str(subset.folder(data_root)))
    schema, members = features.schema, digest(table.source)
    hardware = profiles.choose(None, subset, data_root)
    described = _described(schema, len(schema), hardware)
    splits = (splits,) if isinstance(splits, str) else splits or SPLITS
    groups = [group for group in table.groups if group.split in splits]
    expected = {split: sum(group.split == split for group in groups) for split in splits}
    expected = {split: count for split, count in expected.items() if count}
    if not groups:
        raise DataError(f"{subset.folder(data_root)}: no rows of {', '.join(splits)}; check the split in table.toml")
    store = FeatureStore(store_root, subset.name)
    sources = {(group.split, group.name): {"file": group.name, "members": members} for group in groups}
    complete = (
        store.is_for(described, expected)
        and {(split, stem) for split in splits for stem in store.entries(split)} == sources.keys()
        and all(store.holds(*key, source) for key, source in sources.items())
    )
    if complete:
        return _report(store, splits, schema, hardware, 0, 0, 1, start)
    with store.building(described, expected, data_root):
        gone = {split: dict.fromkeys(store.entries(split), None) for split in splits}
        removed = sum((split, stem) not in sources for split, stems in gone.items() for stem in stems)
        written: dict[str, dict[str, Entry | None]] = defaultdict(dict, gone)
        with progress(len(groups)) if progress else nullcontext(lambda steps: None) as advance:
            for group, entry in _written_groups(store, table, features, groups, sources):
                written[group.split][group.name] = entry
                advance(1)
        store.record(written)
        _remove_others(store, {split: store.entries(split) for split in splits})
    return _report(store, splits, schema, hardware, len(groups), removed, 1, start)


def _written_groups(
    store: FeatureStore,
    table: Table,
    features: TableFeatures,
    groups: Sequence[Group],
    sources: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterator[tuple[Group, Entry]]:
    """Write the features of groups of a table, of many rows at a time, as small groups take as long as large ones."""
    import polars as pl

    from gbr.data.table_features import bounds, duplicates, encoded

    target, duplicate_of = encoded(table), duplicates(table)
    for some in _gathered(groups, lambda group: group.stop - group.start, _ROWS_PER_GROUP):
        X = features(pl.concat([table.frame[group.start : group.stop] for group in some]), some)
        for group, part in zip(some, np.split(X, bounds(some)[1:-1]), strict=True):
            rows = slice(group.start, group.stop)
            yield (
                group,
                store.write(
                    group.split,
                    group.name,
                    features.schema.names,
                    [np.ascontiguousarray(part.T)],
                    np.zeros(0, np.float32),
                    duplicate_of[rows],
                    {name: values[rows] for name, values in target.items()},
                    degenerate=unrankable(table.cost[rows], duplicate_of[rows]),
                    source=sources[group.split, group.name],
                ),
            )


def _other_data_root(store: FeatureStore, data_root: Path, files: Mapping[str, Mapping[Path, Any]]) -> Path | None:
    """The data root of the store if it is another one with other graphs; a damaged store is replaced."""
    with suppress(StoreError):
        if store.data_root not in (None, data_root.resolve()):
            for split, sources in files.items():
                present = {path.stem: source for path, source in sources.items()}
                if any(present.get(stem) != entry["source"] for stem, entry in store.entries(split).items()):
                    return store.data_root
    return None


def _run(store: FeatureStore, tasks: Sequence[_Task], jobs: int, advance: Advance, workers: Workers | None) -> None:
    """Build all graphs; finished graphs are recorded even if one fails."""
    written: dict[str, dict[str, Entry | None]] = defaultdict(dict)
    recorded = time.monotonic()
    try:
        done = in_processes(_work, tasks, jobs, store.subset) if workers is None else workers.each(_work, tasks)
        for task, entry in done:
            written[task.split][task.path.stem] = entry
            advance(1)
            if time.monotonic() - recorded > _SECONDS_BETWEEN_RECORDS:
                store.record(written)
                recorded = time.monotonic()
    finally:
        store.record(written)


def _work(task: _Task) -> Entry:
    source = source_of(task.path)
    graph = read_graph(task.path)
    kind = Subset(task.subset).kind
    if graph.kind != kind:
        raise DataError(f"{task.path}: expected a {kind} graph as its folder says, got a {graph.kind} graph; move it")
    # Without runtimes, the result depends only on the configurations.
    runtime = np.arange(graph.n_configs) if graph.runtime is None else graph.runtime
    target = runtime / (1 if graph.normalizer is None else graph.normalizer)
    schema = schema_of(kind, task.hardware)
    names = schema.names[: n_per_config(schema)]
    if kind == "tile":
        _, X, first_equal = extract(graph, task.hardware)
        group = np.ascontiguousarray(X[:, : len(names)].T)
        found: AbstractContextManager[_Found] = nullcontext(([group], X[0, len(names) :], first_equal))
    else:
        found = _layout(graph, task.hardware)
    with _naming(graph.source), found as (groups, shared, duplicate_of):
        return FeatureStore(task.store_root, task.subset).write(
            task.split,
            task.path.stem,
            names,
            (_check_finite(graph, names, group) for group in groups),
            shared,
            duplicate_of,
            {name: values for name in MEASURED if (values := getattr(graph, name[1:])) is not None},
            degenerate=unrankable(target, duplicate_of),
            source=source,
        )


def _tile(graph: Graph, hardware: Hardware | None) -> tuple[FloatArray, IntArray]:
    from features.graph import Program
    from features.hardware import CPU
    from features.tile.extractor import TileExtractor

    extractor = TileExtractor(Program(graph.node_opcode, graph.node_feat, graph.edge_index), hardware or CPU)
    assert graph.config_feat is not None
    # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes.
    rows = np.ascontiguousarray(graph.config_feat + np.float32(0))
    first: dict[bytes, int] = {}
    duplicate_of = [first.setdefault(values.tobytes(), row) for row, values in enumerate(rows)]
    return extractor(rows), np.array(duplicate_of, np.int64)


@contextmanager
def _layout(graph: Graph, hardware: Hardware | None) -> Iterator[_Found]:
    """Columns of a layout graph that differ between configurations, in groups of these, and those that do not."""
    from features.graph import Program
    from features.hardware import CPU
    from features.layout import extractor as layout
    from features.layout import slate
    from features.layout.rows import RowTable, first_equal

    assert graph.node_config_ids is not None
    table = RowTable(len(graph.node_config_ids))
    seen: list[NDArray[np.uint64]] = []
    with _Spool() as own, _Spool() as coded:

        def batches() -> Iterator[NDArray[np.uint32]]:
            for codes, digests in _coded(graph, table):
                seen.append(digests)
                coded.append(codes.astype(np.uint16 if len(table) <= 1 << 16 else np.uint32))
                yield codes

        def described(codes: NDArray[np.uint32]) -> FloatArray:
            columns = np.empty((len(codes), layout.N_OWN), np.float32)
            prepared.result().describe(codes, columns)
            return np.ascontiguousarray(columns.T)

        try:
            with ThreadPoolExecutor(cores()) as pool:
                ahead = cores() * _BATCHES_AHEAD
                program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
                prepared = pool.submit(layout.LayoutExtractor, program, graph.node_config_ids, table, hardware or CPU)
                for columns in in_order(pool, described, batches(), ahead):
                    own.append(columns)
                extractor, duplicate_of = prepared.result(), first_equal(np.concatenate(seen))
                frequencies = extractor.frequencies()
                frequent = in_order(pool, frequencies.columns, coded, ahead)
                columns_of, layouts = zip(*frequent, strict=True)
            relative = np.empty((len(slate.BLOCK), graph.n_configs), np.float32)
            np.concatenate([columns.T for columns in columns_of], axis=1, out=relative[: slate.N_FREQUENCY])
            inputs = layout.SLATE_INPUTS
            compared = slate.relative_columns(
                lambda index: own.row(inputs[index]), relative.__getitem__, np.concatenate(layouts), duplicate_of
            )
            for index, column in enumerate(compared, slate.N_FREQUENCY):
                relative[index] = column
        except OSError as fault:  # of the spool, as errors of the graph file are DataErrors
            raise GbrError(
                f"temporary folder {gettempdir()}: {fault.strerror or fault}; set TMPDIR to another folder"
            ) from fault

        def groups() -> Iterator[FloatArray]:
            first = 0
            for blocks in _gathered(own, lambda block: block.shape[1], _ROWS_PER_GROUP):
                last = first + sum(block.shape[1] for block in blocks)
                group = np.empty((layout.N_PER_CONFIG, last - first), np.float32)
                np.concatenate(blocks, axis=1, out=group[: layout.N_OWN])
                group[layout.N_OWN :] = relative[:, first:last]
                yield group
                first = last

        yield groups(), extractor.shared, duplicate_of


class _Spool:
    """Contiguous arrays, in memory while they are small, then in a temporary file."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 -- closed by __exit__
        self._arrays: list[tuple[int, tuple[int, ...], np.dtype[Any]]] = []

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, array: NDArray[Any]) -> None:
        self._arrays.append((self._file.tell(), array.shape, array.dtype))
        self._file.write(array.data)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for start, shape, dtype in self._arrays:
            yield self._read(start, np.empty(shape, dtype))

    def row(self, number: int) -> NDArray[Any]:
        """One row of all arrays, which are matrices, joined."""
        return np.concatenate(
            [
                self._read(start + number * shape[1] * dtype.itemsize, np.empty(shape[1], dtype))
                for start, shape, dtype in self._arrays
            ]
        )

    def _read(self, start: int, into: NDArray[Any]) -> NDArray[Any]:
        self._file.seek(start)
        self._file.readinto(into.reshape(-1).view(np.uint8).data)
        return into


def _coded(graph: Graph, table: RowTable) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64]]]:
    """Codes and digests of all configurations, in batches of 1 MiB of codes."""
    at_once = max(1, min(_ROWS_PER_GROUP, _CODES_AT_ONCE // table.n_nodes))
    if (copy := graph.repacked) is not None:
        table.adopt(copy.rows, copy.owner)
        numbers = copy.order.astype(np.uint32)
        for first in range(0, graph.n_configs, at_once):
            codes = np.take(numbers, copy.codes(slice(first, first + at_once)) + copy.first[:-1])
            yield codes, table.tally(codes)
    else:
        for blocks in _gathered(encoded_blocks(graph, table), lambda block: len(block[0]), at_once):
            yield np.concatenate([codes for codes, _ in blocks]), np.concatenate([digests for _, digests in blocks])


def _gathered(items: Iterable[_Item], size: Callable[[_Item], int], least: int) -> Iterator[list[_Item]]:
    """Lists of consecutive items that together have at least a certain size, except for the last."""
    waiting: list[_Item] = []
    for item in items:
        waiting.append(item)
        if sum(map(size, waiting)) >= least:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
