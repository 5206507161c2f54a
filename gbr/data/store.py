"""Feature store: one Parquet file per graph, and a manifest that describes them.

::

    <root>/tile/xla/manifest.json
    <root>/tile/xla/train/<stem>.parquet

A file has one row per configuration.  Feature columns keep their full names and are float32.  The names of the others
begin with an underscore: ``_runtime``, ``_normalizer``, ``_repeat`` (int64, absent when unknown), ``_duplicate_of``
(int32), and ``_graph``: the values of the feature columns that all rows of a graph share, as one list on the first row.
(Every Parquet column costs 0.1 ms and 300 bytes per file, and most columns describe the graph.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

import gbr
from gbr.data import collection
from gbr.data.files import atomic_write, exclusive_lock, parse_json, write_json
from gbr.data.groups import IntArray, QueryGroups, select_columns
from gbr.errors import StoreError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from features.schema import Schema

MANIFEST: Final = "manifest.json"

#: Incremented when the format of the files changes while the feature schema stays the same.
FORMAT: Final = 1

#: int64 columns that a file may lack, and the other columns that are no features.
MEASURED: Final = ("_runtime", "_normalizer", "_repeat")
DUPLICATE: Final = "_duplicate_of"
SHARED: Final = "_graph"

#: Columns of a data frame before the features; feature names contain a dot, these do not.
KEYS: Final = ("graph", "row", "runtime", "normalizer", "repeat", "duplicate_of")

_MAX_READERS: Final = 8
#: Rows of a file that are read at once.
_ROWS_AT_ONCE: Final = 1 << 15
#: Columns with at most this many distinct values in a sample of the first rows are dictionary-encoded: fewer bytes than
#: a fast codec leaves, and three times as fast to read.
_MAX_DISTINCT: Final = 128
_SAMPLE_ROWS: Final = 512

Entry = dict[str, Any]


def schema_of(kind: str) -> Schema:
    """Feature columns of a kind of collection, ``tile`` or ``layout``."""
    gbr.check_features()
    from features.layout import extractor as layout
    from features.tile import extractor as tile

    return tile.schema() if kind == "tile" else layout.schema()


class FeatureStore:
    """The features of one collection.

    Parameters
    ----------
    root : path
        Folder of the store, for all collections.
    subset_name : str
        ``tile:xla``, ``layout:cpu:random`` …

    Attributes
    ----------
    folder : Path
        This collection's folder.
    """

    def __init__(self, root: Path | str, subset_name: str) -> None:
        self.root = Path(root)
        self.subset = subset_name
        self.folder = self.root.joinpath(*subset_name.split(":"))
        self._manifest: dict[str, Any] | None = None
        self._read_at: tuple[int, int] | None = None

    @property
    def rebuild(self) -> str:
        """The command that (re)builds this store."""
        return f"`python -m gbr.features build --subset {self.subset} --store {self.root}`"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, read from disk once.

        Raises
        ------
        StoreError
            If the manifest is missing or damaged.
        """
        if self._manifest is None:
            self._read_at = self._signature()
            self._manifest = self._read_manifest()
        return self._manifest

    def exists(self) -> bool:
        """Whether the store has a manifest."""
        return (self.folder / MANIFEST).is_file()

    def path(self, split: str, stem: str) -> Path:
        """Parquet file of one graph."""
        return self.folder / split / f"{stem}.parquet"

    def entries(self, split: str) -> dict[str, Entry]:
        """Manifest entry of each graph of a split, by stem: rows, distinct, labelled, degenerate, bytes, ..."""
        return dict(self.manifest["graphs"].get(split, {}))

    def stems(self, split: str) -> list[str]:
        """Graphs of one split, sorted."""
        return sorted(self.entries(split))

    def check(self, schema_hash: str) -> None:
        """Raise an error unless the store has a given feature schema.

        Raises
        ------
        StoreError
            If the store is missing or has another schema; names the command that rebuilds it.
        """
        found = self.manifest["schema"]["hash"]
        if found != schema_hash:
            raise StoreError(
                f"{self.folder / MANIFEST}: feature schema {found}, this gbr writes {schema_hash}; run {self.rebuild}"
            )

    def write(
        self,
        split: str,
        stem: str,
        columns: Sequence[str],
        X: NDArray[np.float32],
        *,
        runtime: IntArray | None,
        normalizer: IntArray | None,
        repeat: IntArray | None,
        duplicate_of: IntArray,
        source: Mapping[str, Any],
        shared: Sequence[str] = (),
    ) -> Entry:
        """Write one graph atomically; :meth:`record` then makes it part of the store.

        Parameters
        ----------
        split, stem : str
        columns : sequence of str
            Full names, in the order of ``X``.
        X : float32 (rows, len(columns))
        runtime, normalizer, repeat : int64 (rows,) or None
        duplicate_of : int64 (rows,)
        source : mapping
            Fingerprint of the graph file.
        shared : sequence of str
            Columns whose values all rows share; stored once.

        Returns
        -------
        dict
            The graph's entry in the manifest.

        Raises
        ------
        ValueError
            If ``X`` does not fit ``columns``, or a shared column differs between rows.
        StoreError
            If the file cannot be written.
        """
        if X.ndim != 2 or X.shape[1] != len(columns) or not len(X):
            raise ValueError(f"{self.path(split, stem)}: expected X of shape (rows, {len(columns)}), got {X.shape}")
        is_shared = np.isin(columns, shared)
        differs = is_shared & (X[0] != X).any(axis=0)
        if differs.any():
            name = columns[int(differs.argmax())]
            raise ValueError(f"{self.path(split, stem)}: shared column {name} differs between rows")
        own = [name for name, once in zip(columns, is_shared, strict=True) if not once]
        return self.write_groups(
            split, stem, own, X[0, is_shared], [np.ascontiguousarray(X[:, ~is_shared].T, np.float32)],
            runtime=runtime, normalizer=normalizer, repeat=repeat, duplicate_of=duplicate_of, source=source,
        )  # fmt: skip

    def write_groups(
        self,
        split: str,
        stem: str,
        columns: Sequence[str],
        shared: NDArray[np.float32],
        groups: Iterable[NDArray[np.float32]],
        *,
        runtime: IntArray | None,
        normalizer: IntArray | None,
        repeat: IntArray | None,
        duplicate_of: IntArray,
        source: Mapping[str, Any],
    ) -> Entry:
        """Write one graph as :meth:`write` does, from groups of rows that are generated one at a time.

        Parameters
        ----------
        split, stem : str
        columns : sequence of str
            Full names of the columns that differ between rows.
        shared : float32 (shared columns,)
            Values of the others.
        groups : iterable of float32 (len(columns), rows)
        runtime, normalizer, repeat : int64 (rows,) or None
        duplicate_of : int64 (rows,)
        source : mapping

        Returns
        -------
        dict
            The graph's entry in the manifest.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        measured = dict(zip(MEASURED, (runtime, normalizer, repeat), strict=True))
        known = {name: values for name, values in measured.items() if values is not None}
        with atomic_write(self.path(split, stem), StoreError) as part:
            _write_parquet(part, columns, shared, iter(groups), known, duplicate_of)
            size = part.stat().st_size
        return {
            "rows": len(duplicate_of),
            "distinct": int((duplicate_of == np.arange(len(duplicate_of))).sum()),
            "columns": len(columns) + len(shared),
            "bytes": size,
            "labelled": runtime is not None,
            "measured": list(known),
            "degenerate": None,
            "source": dict(source),
        }

    def record(
        self,
        schema: Mapping[str, Any],
        written: Mapping[str, Mapping[str, Entry]] | None = None,
        *,
        removed: Mapping[str, Iterable[str]] | None = None,
        expected: Mapping[str, int] | None = None,
    ) -> None:
        """Add graphs to the manifest and remove others, keeping the entries that other processes added meanwhile.

        A store has one schema: a new schema removes all previous graphs from the manifest.

        Parameters
        ----------
        schema : mapping
            ``hash``, ``columns`` (all, in order), ``shared`` (those stored once per graph), and ``hardware``, the
            profile that the columns are computed for.
        written : mapping, optional
            split -> stem -> entry of :meth:`write`.
        removed : mapping, optional
            split -> stems.
        expected : mapping, optional
            split -> number of graphs of the complete store; :meth:`load` raises an error for an incomplete split.

        Raises
        ------
        StoreError
            If the manifest cannot be written.
        """
        graphs, counts = self._known(schema)
        counts.update(expected or {})
        for split, stems in (removed or {}).items():
            for stem in stems:
                graphs.get(split, {}).pop(stem, None)
        for split, entries in (written or {}).items():
            graphs[split] = dict(sorted({**graphs.get(split, {}), **entries}.items()))
        # Sorted, so that the manifest does not depend on the order in which graphs were built.
        manifest = {
            "gbr": gbr.__version__,
            "format": FORMAT,
            "subset": self.subset,
            "kind": self.subset.split(":", 1)[0],
            "schema": dict(schema),
            "expected": dict(sorted(counts.items())),
            "graphs": dict(sorted(graphs.items())),
        }
        write_json(self.folder / MANIFEST, manifest, StoreError)
        self._manifest = manifest

    @contextmanager
    def building(self, schema: Mapping[str, Any], expected: Mapping[str, int]) -> Iterator[None]:
        """Record a schema and numbers of graphs, and lock the store so that its schema stays the same.

        Another process that builds the store waits until the lock is released.

        Raises
        ------
        StoreError
            If the store cannot be written.
        """
        with exclusive_lock(self.folder, StoreError, "build of this store", wait=True):
            self._manifest = None
            self.record(schema, expected=expected)
            yield

    def is_for(self, schema: Mapping[str, Any], expected: Mapping[str, int]) -> bool:
        """Whether the manifest on disk has this schema and these numbers of graphs already."""
        self._manifest = None
        graphs, counts = self._known(schema)
        return bool(graphs) and {**counts, **expected} == counts

    def load(self, split: str, stems: Sequence[str] | None = None, columns: Iterable[str] | None = None) -> QueryGroups:
        """Read graphs into one preallocated matrix.

        Parameters
        ----------
        split : str
        stems : sequence of str, optional
            Graphs, in this order; all of the split, sorted, by default.
        columns : iterable of str, optional
            Full column names or names of blocks; all by default.

        Raises
        ------
        StoreError
            If the split is incomplete (its build was interrupted), or the file of a graph is missing
            or damaged; the message names the command that rebuilds it.
        UsageError
            For an unknown column.
        """
        schema, signature = self.manifest["schema"], self._read_at
        entries = self.entries(split)
        expected = self.manifest["expected"].get(split, len(entries))
        if stems is None and entries and len(entries) != expected:
            raise StoreError(f"{self.folder}: holds {len(entries)} of {expected} {split} graphs; run {self.rebuild}")
        stems = sorted(entries) if stems is None else stems
        if not stems:
            raise StoreError(f"{self.folder}: holds no graph of {split}; run {self.rebuild}")
        for stem in stems:
            if stem not in entries:
                raise StoreError(f"{self.folder}: holds no {split} graph {stem}; run {self.rebuild}")
        names = tuple(schema["columns"])
        if columns is not None:
            names = tuple(names[index] for index in select_columns(names, columns))
        indptr = np.concatenate(([0], np.cumsum([entries[stem]["rows"] for stem in stems]))).astype(np.int64)
        measured = {column for stem in stems for column in entries[stem]["measured"]}
        try:
            X = np.empty((int(indptr[-1]), len(names)), np.float32)
            other = {column: np.zeros(len(X), np.int64) for column in (*sorted(measured), DUPLICATE)}
        except (MemoryError, ValueError) as fault:
            raise StoreError(
                f"{self.folder}: not enough memory for {indptr[-1]} rows of {split}; load fewer graphs or columns"
            ) from fault

        def fill(index: int) -> None:
            rows = slice(int(indptr[index]), int(indptr[index + 1]))
            found = {column: other[column][rows] for column in (*entries[stems[index]]["measured"], DUPLICATE)}
            try:
                _read_parquet(self.path(split, stems[index]), names, schema["shared"], X[rows], found)
            except StoreError as fault:
                raise StoreError(f"{fault}; run {self.rebuild}") from fault

        with ThreadPoolExecutor(min(_MAX_READERS, os.cpu_count() or 1)) as pool:
            list(pool.map(fill, range(len(stems))))
        if self._signature() != signature and self._read_manifest()["schema"] != schema:
            raise StoreError(
                f"{self.folder}: rebuilt for other features or hardware while it was being read; run the command again"
            )
        row = np.arange(len(X)) - np.repeat(indptr[:-1], np.diff(indptr))
        for column, values in other.items():
            invalid = (values < 0) | (values > row if column == DUPLICATE else False)
            if invalid.any():
                first = int(invalid.argmax())
                path = self.path(split, stems[int(np.searchsorted(indptr, first, side="right")) - 1])
                raise StoreError(f"{path}: invalid value {values[first]} in column {column}; run {self.rebuild}")
        return QueryGroups(
            names=tuple(stems),
            indptr=indptr,
            columns=names,
            X=X,
            runtime=other.get("_runtime"),
            normalizer=other.get("_normalizer"),
            repeat=other.get("_repeat"),
            duplicate_of=other[DUPLICATE],
        )

    def _signature(self) -> tuple[int, int] | None:
        """Modification time and inode of the manifest, which change when it is written."""
        try:
            about = (self.folder / MANIFEST).stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ino

    def _known(self, schema: Mapping[str, Any]) -> tuple[dict[str, dict[str, Entry]], dict[str, int]]:
        """Graphs and their expected numbers, as far as they are of this schema."""
        try:
            manifest = self._read_manifest()
        except StoreError:
            return {}, {}
        return (manifest["graphs"], manifest["expected"]) if manifest["schema"] == schema else ({}, {})

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            manifest = parse_json(path.read_bytes())
            if manifest["format"] == FORMAT:
                _check_manifest(manifest)
                return dict(manifest)
            fault = f"format {manifest['format']}, this gbr reads {FORMAT}"
        except FileNotFoundError:
            raise StoreError(f"{self.folder}: no feature store of {self.subset}; run {self.rebuild}") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fault = f"{type(error).__name__} {error}"
        raise StoreError(f"{path}: not a valid feature store manifest ({fault}); run {self.rebuild}")


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check the types in a manifest: stems become paths, and counts become array sizes.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError
    """
    schema = manifest["schema"]
    columns, shared = schema["columns"], schema["shared"]
    names = {*columns, *shared, schema["hash"]}
    if (
        not isinstance(columns, list)
        or not isinstance(shared, list)
        or not all(isinstance(name, str) for name in names)
    ):
        raise TypeError("invalid column names")
    if len(set(columns)) < len(columns) or len(set(shared)) < len(shared) or not set(shared) <= set(columns):
        raise ValueError("duplicate or unknown columns")
    if not isinstance(schema.get("hardware"), dict | None) or not all(map(_is_count, manifest["expected"].values())):
        raise TypeError("invalid hardware or numbers of graphs")
    for entries in manifest["graphs"].values():
        for stem, entry in entries.items():
            if not stem or stem.startswith(".") or Path(stem).name != stem or "\\" in stem or not stem.isprintable():
                raise ValueError(f"invalid graph name {stem[:80]!r}")
            valid = all(_is_count(entry[key]) for key in ("rows", "distinct", "columns", "bytes"))
            valid &= isinstance(entry["measured"], list) and set(entry["measured"]) <= set(MEASURED)
            valid &= isinstance(entry["source"], dict) and isinstance(entry["labelled"], bool)
            if not valid or not isinstance(entry["degenerate"], str | None):
                raise ValueError(f"invalid entry of {stem[:80]}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1 << 48


def _write_parquet(
    path: Path,
    columns: Sequence[str],
    shared: NDArray[np.float32],
    groups: Iterator[NDArray[np.float32]],
    measured: Mapping[str, IntArray],
    duplicate_of: IntArray,
) -> None:
    """Write each group as a row group while the next one is computed."""
    import pyarrow as pa
    from pyarrow import parquet

    listed = pa.list_(pa.float32())
    fields = [pa.field(name, pa.float32(), nullable=False) for name in columns]
    fields += [pa.field(SHARED, listed)] if len(shared) else []
    fields += [pa.field(name, pa.int64(), nullable=False) for name in measured]
    schema = pa.schema([*fields, pa.field(DUPLICATE, pa.int32(), nullable=False)])
    start = next(groups)
    sample = np.sort(start[:, :: max(1, start.shape[1] // _SAMPLE_ROWS)], axis=1)
    n_distinct = 1 + (sample[:, 1:] != sample[:, :-1]).sum(axis=1)
    encoded = [name for name, count in zip(columns, n_distinct.tolist(), strict=True) if count <= _MAX_DISTINCT]

    def table(first: int, group: NDArray[np.float32]) -> pa.Table:
        rows = slice(first, first + group.shape[1])
        arrays = [pa.array(values) for values in group]
        if len(shared):
            once = [] if first else [shared]
            arrays.append(pa.array(once + [None] * (group.shape[1] - len(once)), listed))
        arrays += [pa.array(values[rows], pa.int64()) for values in measured.values()]
        arrays.append(pa.array(duplicate_of[rows].astype(np.int32)))
        return pa.Table.from_arrays(arrays, schema=schema)

    with (
        parquet.ParquetWriter(
            path,
            schema,
            compression="none",
            use_dictionary=encoded,
            write_statistics=False,
            store_schema=False,
        ) as writer,
        ThreadPoolExecutor(1) as encoder,
    ):
        first = 0
        writing: Future[None] | None = None
        for group in chain([start], groups):
            if writing is not None:
                writing.result()
            writing = encoder.submit(writer.write_table, table(first, group), group.shape[1])
            first += group.shape[1]
        if writing is not None:
            writing.result()


def _read_parquet(
    path: Path,
    names: Sequence[str],
    shared: Sequence[str],
    X: NDArray[np.float32],
    other: Mapping[str, IntArray],
) -> None:
    """Fill the rows of one graph, in parts of :data:`_ROWS_AT_ONCE` rows.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Columns of ``X``.
    shared : sequence of str
        All feature columns that are stored once per graph, in order.
    X : float32 (rows, len(names))
    other : mapping of str to int64 (rows,)
        :data:`DUPLICATE` and those of :data:`MEASURED` that the file holds.

    Raises
    ------
    StoreError
        When the file is missing, truncated or of another shape.
    """
    import polars as pl

    position = {name: index for index, name in enumerate(shared)}
    is_shared = np.array([name in position for name in names], bool)
    own = [name for name in names if name not in position]
    picked = [position[name] for name in names if name in position]
    for first in range(0, len(X), _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, len(X)))
        count = rows.stop - first
        columns = [*own, *other, *([SHARED] if picked and not first else [])]
        try:
            # Several files are read at the same time: threads within one would compete with them.
            lazy = pl.scan_parquet(path, parallel="none", glob=False, hive_partitioning=False)
            # One row more than expected shows that the file is longer.
            frame = lazy.select(columns).slice(first, count + (rows.stop == len(X))).collect()
        except FileNotFoundError:
            raise StoreError(f"{path}: missing") from None
        # Polars panics on some damaged files; its exception is a BaseException.
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as fault:
            reason = " ".join(str(fault).split())[:120]
            raise StoreError(f"{path}: not a complete Parquet file with the manifest's columns ({reason})") from fault
        if len(frame) != count:
            found = f"more than {len(X)}" if len(frame) > count else first + len(frame)
            raise StoreError(f"{path}: expected {len(X)} rows as in the manifest, got {found}")
        _check_types(path, frame, own, other)
        if own:
            values = frame.select(own).to_numpy()
            for start, run in _runs(np.flatnonzero(~is_shared)):
                X[rows, run] = values[:, start : start + run.stop - run.start]
        for name, column in other.items():
            column[rows] = frame[name].to_numpy()
        if picked and not first:
            once = frame[SHARED][0]
            if once is None or len(once) != len(shared):
                raise StoreError(f"{path}: column {SHARED} lacks the {len(shared)} values of the manifest's schema")
            X[:, is_shared] = once.to_numpy()[picked]


def _check_types(path: Path, frame: pl.DataFrame, own: Iterable[str], other: Iterable[str]) -> None:
    import polars as pl

    expected: dict[str, tuple[pl.DataType | type[pl.DataType], ...]] = {SHARED: (pl.List(pl.Float32),)}
    expected |= dict.fromkeys(own, (pl.Float32,)) | dict.fromkeys(other, (pl.Int32, pl.Int64))
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if name in expected and dtype not in expected[name]:
            raise StoreError(f"{path}: column {name}: expected {expected[name][0]}, got {dtype}")
    for name in other:
        if frame[name].null_count():
            raise StoreError(f"{path}: column {name} has missing values")


def _runs(indices: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Split ascending indices into runs of consecutive ones: position of the first, and the run as a slice."""
    if not len(indices):
        return
    first = 0
    for last in [*np.flatnonzero(np.diff(indices) != 1).tolist(), len(indices) - 1]:
        yield first, slice(int(indices[first]), int(indices[last]) + 1)
        first = last + 1


def load(
    subset: str,
    split: str = "train",
    *,
    data: Path | str = "data",
    store: Path | str = "data/store",
    columns: Iterable[str] | None = None,
    lazy: bool = False,
) -> Any:
    """Read the features of a split as a polars frame, one row per configuration, graphs in order of their names.

    The frame has the columns ``graph`` (str: stem of the file), ``row`` (int64: index of the configuration
    in the file), ``runtime`` and ``normalizer`` (int64 [ns], null when unknown; the target is their quotient),
    ``repeat`` (int64 [ns]: a second measurement, null without one), ``duplicate_of`` (int64: the first identical row of
    the graph), and the features, float32, under their full names ``<block>.<column>``.  Columns that all configurations
    of a graph share are repeated on each.  ``polars.selectors.contains(".")`` selects the features.

    Parameters
    ----------
    subset : str
        As for ``--subset``: ``tile:cpu``, ``layout:xla:random``, or ``tile`` alone.
    split : str
        ``train``, ``valid`` or ``test``.
    data : path
        Folder that holds ``npz/``; used to resolve a short ``subset``.
    store : path
        Folder of the store.
    columns : iterable of str, optional
        Features, or names of blocks; all by default.
    lazy : bool
        Return a LazyFrame, which reads the required columns, graph by graph, when it is collected.

    Returns
    -------
    polars.DataFrame or polars.LazyFrame

    Raises
    ------
    StoreError
        When the features are missing or of another schema; names the command that builds them.
    UsageError
        For an unknown collection, split or column.
    """
    found = FeatureStore(store, subset)
    if not found.exists():
        found = FeatureStore(store, collection.resolve(subset, Path(data)).name)
    found.check(schema_of(found.subset.split(":", 1)[0]).hash)
    if split not in collection.SPLITS:
        raise UsageError(f"split {split!r}: expected one of {', '.join(collection.SPLITS)}")
    stems = found.stems(split)
    if not stems:
        raise StoreError(f"{found.folder}: holds no graph of {split}; run {found.rebuild}")
    selected = None if columns is None else list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    if not lazy:
        return _frame(found.load(split, columns=selected))
    return _scan(found, split, stems, selected)


def _scan(store: FeatureStore, split: str, stems: list[str], columns: list[str] | None) -> pl.LazyFrame:
    from polars.io.plugins import register_io_source

    first = _frame(store.load(split, stems[:1], columns))
    features = first.columns[len(KEYS) :]

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,  # noqa: ARG001
    ) -> Iterator[pl.DataFrame]:
        kept = features
        if with_columns is not None:
            needed = {*with_columns, *(() if predicate is None else predicate.meta.root_names())}
            kept = [name for name in features if name in needed]
        left = n_rows
        for stem in stems:
            if left == 0:
                return
            frame = _frame(store.load(split, [stem], kept))
            frame = frame if left is None else frame.head(left)
            left = None if left is None else left - len(frame)
            if predicate is not None:
                frame = frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)

    return register_io_source(source, schema=first.schema)


def _frame(groups: QueryGroups) -> pl.DataFrame:
    import polars as pl

    def nullable(values: IntArray | None) -> pl.Series:
        """Nanoseconds, null when unknown (0 in a store)."""
        return pl.Series(np.zeros(len(groups.X), np.int64) if values is None else values).replace(0, None)

    keys = (
        pl.Series(groups.names, dtype=pl.String).gather(groups.qid),
        pl.Series(np.arange(len(groups.X)) - groups.indptr[groups.qid]),
        *(nullable(values) for values in (groups.runtime, groups.normalizer, groups.repeat)),
        pl.Series(groups.duplicate_of),
    )
    named = [series.alias(name) for name, series in zip(KEYS, keys, strict=True)]
    return pl.DataFrame([*named, *(pl.Series(name, groups.X[:, index]) for index, name in enumerate(groups.columns))])
