"""Graph files -> features -> store: only what is missing or stale, several graphs side by side.

A graph is stale when its file, the meaning of the feature columns, or the hardware that they are computed for, has
changed since.  Every graph's file appears
whole, the manifest follows every few seconds: a build that is interrupted goes on where it was.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr import check_features
from gbr.data.collection import SPLITS, Subset, graph_files, splits_present
from gbr.data.files import remove_partial_files
from gbr.data.graph import Graph, read_graph
from gbr.data.groups import unrankable
from gbr.data.layout_build import LayoutColumns
from gbr.data.npz import NpzFile
from gbr.data.pool import Advance, Progress, cores, in_processes
from gbr.data.store import Entry, FeatureStore
from gbr.errors import DataError, UsageError

if TYPE_CHECKING:
    from features.graph import Program
    from features.hardware import Hardware
    from features.schema import Schema
    from gbr.cluster import Workers

#: A process takes about three seconds to start; fewer graphs than this are not worth another one.
_GRAPHS_PER_PROCESS: Final = {"tile": 64, "layout": 2}
_SECONDS_BETWEEN_RECORDS: Final = 5.0

Features = tuple["Schema", NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Parameters
    ----------
    subset, folder : str
        Collection and where its store is.
    built, kept, removed : int
        Graphs computed, found up to date, and taken out because their file is gone.
    rows, distinct : int
        Configurations in the splits asked for, and how many of them are distinct within their graph.
    columns : int
    schema : str
        Hash of the feature columns.
    hardware : str
        Name of the profile that the features are computed for.
    jobs : int
        Processes that worked.
    seconds : float
    degenerate : dict
        ``<split>/<stem>`` -> why the graph cannot be ranked.
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
        """The report as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """One graph to build; what crosses into a worker process."""

    path: Path
    split: str
    store_root: Path
    subset: str
    hardware: Hardware

    @property
    def stem(self) -> str:
        return self.path.stem


def schema_of(kind: str) -> Schema:
    """Feature columns of a kind of collection, ``tile`` or ``layout``."""
    check_features()
    from features.layout import extractor as layout
    from features.tile import extractor as tile

    return tile.schema() if kind == "tile" else layout.schema()


def shared_columns(schema: Schema) -> tuple[str, ...]:
    """Columns whose values all configurations of a graph share."""
    return tuple(name for block in schema.blocks if not block.per_config for name in block.names)


def extract(graph: Graph, hardware: Hardware | None = None) -> Features:
    """Features of all configurations of one graph.

    Parameters
    ----------
    graph : Graph
    hardware : Hardware, optional
        The machine that the runtimes are of; a generic CPU by default.

    Returns
    -------
    Schema
    float32 (c, len(schema))
        Finite.
    int64 (c,)
        Row number of the first identical configuration; its own where it is the first.

    Raises
    ------
    DataError
        When a configuration is not valid, or the features of the program cannot be told.
    """
    check_features()
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
    """Name the file in what the features raise."""
    try:
        yield
    except DataError:
        raise
    except ValueError as fault:
        raise DataError(f"{source}: has no features ({fault}); mend what wrote the file") from fault


def _check_finite(
    graph: Graph, names: Sequence[str], by_column: NDArray[np.float32], first: int = 0
) -> NDArray[np.float32]:
    # The sum of finite numbers is finite unless they are huge, and takes no array of its own.
    if np.isfinite(by_column.sum(dtype=np.float64)):
        return by_column
    wrong = np.argwhere(~np.isfinite(by_column))
    if not len(wrong):
        return by_column
    column, row = wrong[0].tolist()
    raise DataError(
        f"{graph.source}: feature {names[column]} of configuration {first + row} is {by_column[column, row]}, want a "
        "finite number; report it with the file"
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
    """Bring the store of a collection up to date with its graph files.

    Graphs whose file is gone leave the store.  Where more than one process works they are spawned: a script that calls
    this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    subset : Subset
    data_root, store_root : path
    splits : sequence of str, optional
        By default those that have graph files.
    jobs : int, optional
        Processes; by default one per core, fewer where there is little to do.  1 works in this process.
    progress : callable, optional
        Takes the number of graphs to build and gives a context manager that yields ``advance(steps)``.
    hardware : Hardware, optional
        The machine that the runtimes are of; that of :func:`gbr.data.hardware.choose` by default.
    workers : Workers, optional
        Other processes to work instead, :class:`gbr.cluster.Workers`.

    Raises
    ------
    DataError
        For a graph file that cannot be read; graphs finished before stay in the store.
    StoreError
        When the store cannot be written.
    UsageError
        For an unknown split or a number of jobs below 1.
    """
    start = time.monotonic()
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs: got {jobs}, want at least 1")
    data_root, store_root = Path(data_root), Path(store_root)
    if workers is not None:  # whose working directories are others
        data_root, store_root, jobs = data_root.absolute(), store_root.absolute(), len(workers)
    schema = schema_of(subset.kind)
    from gbr.data import hardware as profiles

    hardware = hardware or profiles.choose(None, subset, data_root).hardware
    described = {
        "hash": schema.hash,
        "columns": list(schema.names),
        "shared": list(shared_columns(schema)),
        "hardware": profiles.as_dict(hardware),
    }
    wanted = splits_present(subset, data_root) or SPLITS if splits is None else tuple(splits)
    files = {split: {path.stem: path for path in graph_files(subset, data_root, split)} for split in wanted}
    store = FeatureStore(store_root, subset.name)
    expected = {split: len(paths) for split, paths in files.items()}
    with ExitStack() as at_work:
        # A store that lacks nothing is not written to: it may be somebody else's.
        if not (untouched := store.is_for(described, expected)):
            at_work.enter_context(store.building(described, expected))
        gone = {split: sorted(set(store.entries(split)) - set(paths)) for split, paths in files.items()}
        tasks = [
            _Task(path, split, store.root, subset.name, hardware)
            for split, paths in files.items()
            for path in paths.values()
            if not _is_fresh(store, split, path)
        ]
        if untouched and (tasks or any(gone.values())):
            at_work.enter_context(store.building(described, expected))
        if any(gone.values()):
            store.record(described, removed=gone)
        _sweep(store, files)
        n_jobs = min(jobs or _worth(subset.kind, len(tasks)), max(1, len(tasks)))
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
    """Delete features of graphs that are gone, and what a killed build left unfinished."""
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
    source = _fingerprint(path)  # first, so that a torn archive is told before anything is built
    entry = store.entries(split).get(path.stem)
    if entry is None or entry["source"] != source:
        return False
    try:
        return store.path(split, path.stem).stat().st_size == int(entry["bytes"])
    except OSError:
        return False


def _worth(kind: str, n_tasks: int) -> int:
    return max(1, min(cores(), n_tasks // _GRAPHS_PER_PROCESS[kind]))


def _run(
    store: FeatureStore,
    described: Mapping[str, Any],
    tasks: Sequence[_Task],
    jobs: int,
    advance: Advance,
    workers: Workers | None,
) -> None:
    """Build all graphs; what is finished is recorded even when one fails."""
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
        raise DataError(f"{task.path}: got a {graph.kind} graph, want {kind} as its folder says; move it")
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
        # Distinct stand-ins: only the configurations can make it unrankable.
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
    # Adding zero turns -0.0 into 0.0, which is equal but has other bytes.
    rows = np.ascontiguousarray(graph.config_feat + np.float32(0))
    return extractor.schema, extractor(rows), _first_rows(row.tobytes() for row in rows)


def _first_rows(keys: Iterable[bytes]) -> NDArray[np.int64]:
    """Place of the first key equal to each, int64 (keys,)."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], np.int64)
