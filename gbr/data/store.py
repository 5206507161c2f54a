"""Feature store: one Parquet file per graph, and a manifest that describes them.

::

    <root>/tile/xla/manifest.json
    <root>/tile/xla/train/<stem>.parquet

A file has one row per configuration.  Feature columns keep their full names and are float32.  The names of the others
begin with an underscore: ``_runtime``, ``_normalizer``, ``_repeat`` (int64, absent when unknown), ``_duplicate_of``
(int32), and ``_graph``: the values of the last feature columns, which all rows of a graph share, as one list on the
first row.  (Every Parquet column costs 0.1 ms and 300 bytes per file, and most columns describe the graph.)
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

import gbr
from gbr.data import collection
from gbr.data.files import atomic_write, exclusive_lock, json_text, parse_json, write_json
from gbr.data.groups import FAILED, IntArray, QueryGroups, select_columns
from gbr.data.hardware import as_dict, parse
from gbr.data.npz import NpzFile
from gbr.data.pool import check_polars, cores, in_order
from gbr.errors import GbrWarning, StoreError, UsageError, one_line

if TYPE_CHECKING:
    import polars as pl

    from features.hardware import Hardware
    from features.schema import Schema

MANIFEST: Final = "manifest.json"
#: Default folder of the store in the data root.
STORE: Final = "store"

#: Incremented when the format of the files changes while the feature schema stays the same.
FORMAT: Final = 2

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

FloatArray = NDArray[np.float32]
Entry = dict[str, Any]


def schema_of(kind: str, hardware: Hardware | None = None) -> Schema:
    """Feature columns of a kind of collection, ``tile`` or ``layout``, for some hardware; a generic CPU by default."""
    gbr.check_features()
    from features.layout import extractor as layout
    from features.tile import extractor as tile

    if kind != "tile":
        return layout.schema()
    return tile.schema(hardware) if hardware else tile.schema()


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
        self._written_at = 0

    @property
    def kind(self) -> str:
        """``tile``, ``layout`` or ``table``."""
        return collection.Subset(self.subset).kind

    @property
    def rebuild(self) -> str:
        """The command that (re)builds this store."""
        root = None if self._manifest is None else self.data_root
        data = "" if root is None or root == Path("data").resolve() else f" --data {root}"
        return f"`python -m gbr.features build --subset {self.subset}{data} --store {self.root}`"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, read from disk once; a :class:`StoreError` if it is missing or damaged."""
        if self._manifest is None:
            self._written_at = self.last_write()
            self._manifest = self._read_manifest()
        return self._manifest

    @property
    def data_root(self) -> Path | None:
        """Data root that the features were computed from; None if the manifest does not say."""
        found = self.manifest.get("data")
        return None if found is None else (self.root / found).resolve()

    @property
    def hardware(self) -> Hardware:
        """The machine that the features are for; a :class:`StoreError` if the manifest is missing or damaged."""
        return parse(self.manifest["schema"]["hardware"], str(self.folder / MANIFEST), StoreError)

    def other_hardware(self, hardware: Hardware) -> str | None:
        """Name of the hardware of the features if there are some for other hardware; a damaged store has none."""
        with suppress(StoreError):
            found = self.manifest["schema"]["hardware"]
            if any(self.manifest["graphs"].values()) and found != as_dict(hardware):
                return str(found["name"])
        return None

    def path(self, split: str, stem: str) -> Path:
        """Parquet file of one graph."""
        return self.folder / split / f"{stem}.parquet"

    def entries(self, split: str) -> dict[str, Entry]:
        """Manifest entry of each graph of a split, by stem: rows, distinct, measured, degenerate, bytes, source."""
        return dict(self.manifest["graphs"].get(split, {}))

    def holds(self, split: str, stem: str, source: dict[str, Any]) -> bool:
        """Whether the features of a graph were computed from this source, and its file is complete."""
        entry, path = self.manifest["graphs"].get(split, {}).get(stem), self.path(split, stem)
        return bool(entry and entry["source"] == source and path.is_file() and path.stat().st_size == entry["bytes"])

    def stems(self, split: str) -> list[str]:
        """Graphs of one split, sorted."""
        return sorted(self.entries(split))

    def check(self, schema_hash: str) -> None:
        """Raise a :class:`StoreError` unless the store has a given feature schema."""
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
        groups: Iterable[FloatArray],
        shared: FloatArray,
        duplicate_of: IntArray,
        measured: Mapping[str, IntArray],
        **about: Any,
    ) -> Entry:
        """Write one graph atomically; :meth:`record` then makes it part of the store.

        ``columns`` are the names of those that differ between rows; ``groups`` generates their values, float32
        (len(columns), rows), for some rows at a time; ``shared``, float32, has the values of the columns that follow.
        ``measured`` has some of :data:`MEASURED`, and ``about`` is ``degenerate`` and ``source`` of the entry.
        """
        with atomic_write(self.path(split, stem), StoreError) as part:
            _write_parquet(part, columns, iter(groups), shared, {**measured, DUPLICATE: duplicate_of})
            size = part.stat().st_size
        distinct = int((duplicate_of == np.arange(len(duplicate_of))).sum())
        return {"rows": len(duplicate_of), "distinct": distinct, "bytes": size, "measured": list(measured), **about}

    @contextmanager
    def building(self, schema: Mapping[str, Any], expected: Mapping[str, int], data_root: Path) -> Iterator[None]:
        """Lock the store, and record its schema; another process that builds it waits until the lock is released.

        Parameters
        ----------
        schema : mapping
            ``hash``, ``columns`` (all, in order), ``per_config`` (number of those that differ between rows, the first
            ones), and ``hardware``, the profile that they are computed for.  A new schema removes all previous graphs.
        expected : mapping
            split -> number of graphs of the complete store; :meth:`load` raises an error for an incomplete split.
        data_root : Path
            Recorded relative to the store, so that both can be moved together.
        """
        with exclusive_lock(self.folder, StoreError, "build of this store", wait=True):
            graphs, counts = self._known(schema)
            self._manifest = {
                "gbr": gbr.__version__,
                "format": FORMAT,
                "subset": self.subset,
                "data": Path(os.path.relpath(data_root.resolve(), self.root.resolve())).as_posix(),
                "schema": dict(schema),
                "expected": dict(sorted({**counts, **expected}.items())),
                "graphs": graphs,
            }
            self.record({})
            yield

    def record(self, entries: Mapping[str, Mapping[str, Entry | None]]) -> None:
        """Add graphs to the manifest, split -> stem -> entry, and remove those whose entry is None.

        Only within :meth:`building`.
        """
        graphs = self.manifest["graphs"]
        for split, changed in entries.items():
            merged = {**graphs.get(split, {}), **changed}
            graphs[split] = {stem: entry for stem, entry in sorted(merged.items()) if entry is not None}
        # Sorted, so that the manifest does not depend on the order in which graphs were built.
        self.manifest["graphs"] = dict(sorted(graphs.items()))
        write_json(self.folder / MANIFEST, {**self.manifest, "sha256": digest(self.manifest)}, StoreError)

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
        schema, written_at = self.manifest["schema"], self._written_at
        entries = self.entries(split)
        expected = self.manifest["expected"].get(split, len(entries))
        if stems is None and entries and len(entries) != expected:
            raise StoreError(f"{self.folder}: holds {len(entries)} of {expected} {split} graphs; run {self.rebuild}")
        stems = sorted(entries) if stems is None else stems
        missing = [f"{split} graph {stem}" for stem in stems if stem not in entries]
        if missing or not stems:
            what = missing[0] if missing else f"graph of {split}"
            raise StoreError(f"{self.folder}: holds no {what}; run {self.rebuild}")
        kept = np.arange(len(schema["columns"])) if columns is None else select_columns(schema["columns"], columns)
        own = [schema["columns"][index] for index in kept if index < schema["per_config"]]
        shared = kept[len(own) :] - schema["per_config"]
        indptr = np.concatenate(([0], np.cumsum([entries[stem]["rows"] for stem in stems]))).astype(np.int64)
        measured = {column for stem in stems for column in entries[stem]["measured"]}
        X = np.empty((int(indptr[-1]), len(kept)), np.float32)
        other = {column: np.zeros(len(X), np.int64) for column in (*sorted(measured), DUPLICATE)}

        def fill(index: int) -> None:
            rows = slice(int(indptr[index]), int(indptr[index + 1]))
            found = {column: other[column][rows] for column in (*entries[stems[index]]["measured"], DUPLICATE)}
            try:
                _read_parquet(self.path(split, stems[index]), own, shared, X[rows], found)
            except StoreError as fault:
                raise StoreError(f"{fault}; run {self.rebuild}") from fault

        with ThreadPoolExecutor(min(_MAX_READERS, cores())) as pool:
            list(pool.map(fill, range(len(stems))))
        if self.last_write() != written_at and self._read_manifest()["schema"] != schema:
            raise StoreError(
                f"{self.folder}: rebuilt for other features or hardware while it was being read; run the command again"
            )
        return QueryGroups(
            names=tuple(stems),
            indptr=indptr,
            columns=tuple(schema["columns"][index] for index in kept),
            X=X,
            duplicate_of=other[DUPLICATE],
            **{name.removeprefix("_"): other.get(name) for name in MEASURED},
        )

    def last_write(self) -> int:
        """Modification time of the manifest [ns]; 0 without one."""
        try:
            return (self.folder / MANIFEST).stat().st_mtime_ns
        except OSError:
            return 0

    def _known(self, schema: Mapping[str, Any]) -> tuple[dict[str, dict[str, Entry]], dict[str, int]]:
        """Graphs on disk and their expected numbers, as far as they are of this schema."""
        try:
            manifest = self._read_manifest()
        except StoreError:
            return {}, {}
        return (manifest["graphs"], manifest["expected"]) if manifest["schema"] == schema else ({}, {})

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            manifest: dict[str, Any] = parse_json(path.read_bytes())
            found = manifest["format"]
            fault = f"format {found}, this gbr reads {FORMAT}" if found != FORMAT else "damaged"
            if found == FORMAT and manifest.pop("sha256") == digest(manifest):
                fault = "graph names with folders"
                if all(Path(stem).name == stem for graphs in manifest["graphs"].values() for stem in graphs):
                    return manifest
        except FileNotFoundError:
            raise StoreError(f"{self.folder}: no feature store of {self.subset}; run {self.rebuild}") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            fault = f"{type(error).__name__} {error}"
        raise StoreError(f"{path}: not a valid feature store manifest ({fault}); run {self.rebuild}")


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of values for JSON."""
    return hashlib.sha256(json_text(values).encode()).hexdigest()


def _write_parquet(
    path: Path, columns: Sequence[str], groups: Iterator[FloatArray], shared: FloatArray, other: Mapping[str, IntArray]
) -> None:
    """Write each group as a row group while the next one is computed."""
    import pyarrow as pa
    from pyarrow import parquet

    listed = pa.list_(pa.float32())
    types = dict.fromkeys(columns, pa.float32()) | dict.fromkeys(other, pa.int64()) | {DUPLICATE: pa.int32()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in types.items()]
    schema = pa.schema([*fields, pa.field(SHARED, listed)])
    start = next(groups)
    sample = np.sort(start[:, :: max(1, start.shape[1] // _SAMPLE_ROWS)], axis=1)
    n_distinct = 1 + (sample[:, 1:] != sample[:, :-1]).sum(axis=1)
    encoded = [name for name, count in zip(columns, n_distinct.tolist(), strict=True) if count <= _MAX_DISTINCT]

    def tables() -> Iterator[pa.Table]:
        first = 0
        for group in chain([start], groups):
            count = group.shape[1]
            arrays = [pa.array(values) for values in group]
            arrays += [pa.array(values[first : first + count], types[name]) for name, values in other.items()]
            once = [] if first else [shared]
            arrays.append(pa.array(once + [None] * (count - len(once)), listed))
            yield pa.Table.from_arrays(arrays, schema=schema)
            first += count

    options = {"compression": "none", "use_dictionary": encoded, "write_statistics": False, "store_schema": False}
    with parquet.ParquetWriter(path, schema, **options) as writer, ThreadPoolExecutor(1) as encoder:
        for _ in in_order(encoder, lambda table: writer.write_table(table, len(table)), tables(), 1):
            pass


def _read_parquet(
    path: Path, own: Sequence[str], shared: IntArray, X: FloatArray, other: Mapping[str, IntArray]
) -> None:
    """Fill the rows of one graph: ``X`` with the columns ``own``, then some of those that are stored once."""
    check_polars(str(path))
    import polars as pl

    types = dict.fromkeys(own, pl.Float32) | dict.fromkeys(other, pl.Int64) | {DUPLICATE: pl.Int32}
    for first in range(0, len(X), _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, len(X)))
        count = rows.stop - first
        expected = types | ({SHARED: pl.List(pl.Float32)} if len(shared) and not first else {})
        try:
            # Several files are read at the same time: threads within one would compete with them.
            lazy = pl.scan_parquet(path, parallel="none", glob=False, hive_partitioning=False)
            # One row more than expected shows that the file is longer.
            frame = lazy.select(list(expected)).slice(first, count + (rows.stop == len(X))).collect()
        except FileNotFoundError:
            raise StoreError(f"{path}: missing") from None
        # Polars panics on some damaged files; its exception is a BaseException.
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as fault:
            reason = one_line(fault)[:120]
            raise StoreError(f"{path}: not a complete Parquet file with the manifest's columns ({reason})") from fault
        if len(frame) != count:
            found = f"more than {len(X)}" if len(frame) > count else first + len(frame)
            raise StoreError(f"{path}: expected {len(X)} rows as in the manifest, got {found}")
        if dict(frame.schema) != expected or any(frame[name].null_count() for name in types):
            raise StoreError(f"{path}: a column has another type than in a store, or missing values")
        if own:
            X[rows, : len(own)] = frame.select(own).to_numpy()
        for name, column in other.items():
            column[rows] = frame[name].to_numpy()
        if len(shared) and not first:
            once = frame[SHARED][0]
            if once is None or len(once) <= shared.max():
                raise StoreError(f"{path}: column {SHARED} lacks values of the manifest's schema")
            X[:, len(own) :] = once.to_numpy()[shared]
    for name, column in other.items():
        invalid = (column < 0) | (column > (np.arange(len(X)) if name == DUPLICATE else column))
        if invalid.any():
            raise StoreError(f"{path}: invalid value {column[invalid.argmax()]} in column {name}")


def store_for(root: Path | str, subset_name: str, schema: Schema, hardware: Hardware) -> FeatureStore:
    """The store of a collection, or one below it if that has features for other hardware, or of another table."""
    store = FeatureStore(root, subset_name)
    with suppress(StoreError):
        other = schema.kind == collection.TABLE and store.manifest["schema"]["hash"] != schema.hash
        if other or store.other_hardware(hardware):
            return FeatureStore(store.root / "evaluate", subset_name)
    return store


def load(
    subset: str,
    split: str = "train",
    *,
    data: Path | str | None = None,
    store: Path | str | None = None,
    columns: Iterable[str] | None = None,
    lazy: bool = False,
) -> Any:
    """Read the features of a split as a polars frame, one row per configuration, graphs in order of their names.

    The frame has the columns ``graph`` (str: stem of the file, or name of the group of a table), ``row`` (int64: index
    of the configuration in it), ``runtime`` and ``normalizer`` (int64 [ns], null when unknown or failed; the target is
    their quotient), ``repeat`` (int64 [ns]: a second measurement, null without one), ``duplicate_of`` (int64: the first
    identical row of the graph), and the features, float32, under their full names ``<block>.<column>``.  Columns that
    all configurations of a graph share are repeated on each.  For a table, runtimes are no nanoseconds, but integers
    whose quotient ``runtime / normalizer`` is the target in its unit, or 1 / target where higher is better.
    ``polars.selectors.contains(".")`` selects the features.

    Parameters
    ----------
    subset : str
        As for ``--subset``: ``tile:cpu``, ``layout:xla:random``, or ``tile`` alone.
    split : str
        ``train``, ``valid`` or ``test``.
    data : path, optional
        Data root, the folder that holds ``npz/``; ``data`` by default.
    store : path, optional
        Folder of the store, ``store`` in ``data`` by default.
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
        For an unknown collection, split or column, or a store of another data root than ``data``.
    """
    root = Path(data or "data")
    store = store or root / STORE
    found = FeatureStore(store, subset)
    if not (found.folder / MANIFEST).is_file():
        found = FeatureStore(store, collection.resolve(subset, root).name)
    if found.kind in collection.KINDS:
        profile = found.hardware
        found.check(schema_of(found.kind, profile).hash)
    if data is not None and found.data_root not in (None, root.resolve()):
        raise UsageError(f"{found.folder}: has the features of {found.data_root}, not of {root}; name its store")
    if split not in collection.SPLITS:
        raise UsageError(f"split {split!r}: expected one of {', '.join(collection.SPLITS)}")
    if changed := _changed(found, split):
        message = (
            f"{len(changed)} {collection.things(found.kind)} of {split} changed since their features were computed"
        )
        warnings.warn(f"{message} ({changed[0]} ...); run {found.rebuild}", GbrWarning, stacklevel=2)
    return _scan(found, split, columns) if lazy else _frame(found.load(split, columns=columns))


def _changed(store: FeatureStore, split: str) -> list[str]:
    """Graphs that were added, deleted or replaced since the features of a split were computed.

    All groups of a table, whose features depend on one another.
    """
    if store.kind == collection.TABLE and store.data_root is not None:
        from gbr.data.table import fingerprints  # imports polars
        from gbr.data.table_roles import FILE

        table = collection.Subset(store.subset).folder(store.data_root)
        if not (table / FILE).is_file():
            return []
        members = digest(fingerprints(table))
        return [name for name, entry in store.entries(split).items() if entry["source"]["members"] != members]
    folder = (store.data_root or Path()).joinpath("npz", *store.subset.split(":"), split)
    if store.data_root is None or not folder.is_dir():
        return []
    built = store.entries(split)
    files = {path.stem: path for path in folder.glob("*.npz") if not path.name.startswith(".")}
    newer = {stem for stem, path in files.items() if path.stat().st_mtime_ns > store.last_write()}
    return sorted(
        {*(built.keys() ^ files.keys())}
        | {stem for stem in newer & built.keys() if built[stem]["source"] != source_of(files[stem])}
    )


def source_of(path: Path) -> dict[str, Any]:
    """Name and fingerprint of a graph file, as in the entries of a store."""
    return {"file": path.name, "members": NpzFile(path).fingerprint}


def _scan(store: FeatureStore, split: str, columns: Iterable[str] | None) -> pl.LazyFrame:
    from polars.io.plugins import register_io_source

    stems = store.stems(split)
    first = _frame(store.load(split, stems[:1], columns))
    features = first.columns[len(KEYS) :]

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        filtered = [] if predicate is None else predicate.meta.root_names()
        needed = {*features} if with_columns is None else {*with_columns, *filtered}
        left = sum(entry["rows"] for entry in store.entries(split).values()) if n_rows is None else n_rows
        for stem in stems:
            if left <= 0:
                return
            frame = _frame(store.load(split, [stem], [name for name in features if name in needed])).head(left)
            left -= len(frame)
            frame = frame if predicate is None else frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)

    return register_io_source(source, schema=first.schema)


def _frame(groups: QueryGroups) -> pl.DataFrame:
    import polars as pl

    def nullable(values: IntArray | None) -> pl.Series:
        """Nanoseconds, null when unknown (0 in a store) or failed."""
        known = pl.Series(np.zeros(len(groups.X), np.int64) if values is None else values)
        return known.replace([0, FAILED], [None, None])

    keys = (
        pl.Series(groups.names, dtype=pl.String).gather(groups.qid),
        pl.Series(np.arange(len(groups.X)) - groups.indptr[groups.qid]),
        *(nullable(values) for values in (groups.runtime, groups.normalizer, groups.repeat)),
        pl.Series(groups.duplicate_of),
    )
    named = [series.alias(name) for name, series in zip(KEYS, keys, strict=True)]
    return pl.DataFrame([*named, *(pl.Series(name, groups.X[:, index]) for index, name in enumerate(groups.columns))])
