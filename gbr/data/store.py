"""Feature store: one Parquet file per graph (:mod:`gbr.data.parquet`) and a manifest of their contents.

::

    <root>/tile/xla/manifest.json
    <root>/tile/xla/train/<stem>.parquet
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

import gbr
from gbr.data import collection, parquet
from gbr.data.files import exclusive_lock, parse_json, write_json
from gbr.data.groups import IntArray, QueryGroups
from gbr.errors import StoreError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from features.schema import Schema

MANIFEST: Final = "manifest.json"

#: Incremented when the format of the files changes under the same feature schema.
FORMAT: Final = 1

_MAX_READERS: Final = 8

Entry = dict[str, Any]

#: Columns of a data frame before the features; only the names of features contain a dot.
KEYS: Final = ("graph", "row", "runtime", "normalizer", "repeat", "duplicate_of")


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
        """The manifest on disk; read once.

        Raises
        ------
        StoreError
            If it is missing or damaged.
        """
        if self._manifest is None:
            self._read_at = self._signature()
            self._manifest = self._read_manifest()
        return self._manifest

    def exists(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / MANIFEST).is_file()

    def path(self, split: str, stem: str) -> Path:
        """Parquet file of one graph."""
        return self.folder / split / f"{stem}.parquet"

    def entries(self, split: str) -> dict[str, Entry]:
        """Manifest entries of the graphs of a split, by stem: rows, distinct, labelled, degenerate, bytes …"""
        return dict(self.manifest["graphs"].get(split, {}))

    def stems(self, split: str) -> list[str]:
        """Graphs of one split, sorted."""
        return sorted(self.entries(split))

    def check(self, schema_hash: str) -> None:
        """Check the schema of the store.

        Raises
        ------
        StoreError
            If there is no store or it has another schema; the message gives the command that rebuilds it.
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
        """Write one graph atomically; :meth:`record` then adds it to the store.

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
            Columns with the same value in all rows; stored once.

        Returns
        -------
        dict
            The graph's entry in the manifest.

        Raises
        ------
        ValueError
            If ``X`` does not match ``columns``, or a shared column differs between rows.
        StoreError
            If the file cannot be written.
        """
        try:
            own, once, group = parquet.split(columns, shared, X)
        except ValueError as fault:
            raise ValueError(f"{self.path(split, stem)}: {fault}") from fault
        return self.write_groups(
            split, stem, own, once, [group], runtime=runtime, normalizer=normalizer, repeat=repeat,
            duplicate_of=duplicate_of, source=source,
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
        """Write one graph as :meth:`write` does, from groups of rows, of which only one is in memory at a time.

        Parameters
        ----------
        split, stem : str
        columns : sequence of str
            Full names of the columns that differ between rows.
        shared : float32 (shared columns,)
            Values of the other columns.
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
            When the file cannot be written.
        """
        given = zip(parquet.MEASURED, (runtime, normalizer, repeat), strict=True)
        measured = {name: values for name, values in given if values is not None}
        size = parquet.write(self.path(split, stem), columns, shared, groups, measured, duplicate_of)
        return {
            "rows": len(duplicate_of),
            "distinct": int((duplicate_of == np.arange(len(duplicate_of))).sum()),
            "columns": len(columns) + len(shared),
            "bytes": size,
            "labelled": runtime is not None,
            "measured": list(measured),
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
        """Add graphs to the manifest and remove others, and keep changes of other processes.

        A store has one schema: if it changes, all earlier graphs are removed from the manifest.

        Parameters
        ----------
        schema : mapping
            ``hash``, ``columns`` (all, in order), ``shared`` (those stored once per graph), and ``hardware``, the
            profile of the features.
        written : mapping, optional
            Entries of :meth:`write` by split and stem.
        removed : mapping, optional
            Stems by split.
        expected : mapping, optional
            Number of graphs of a complete store by split; :meth:`load` refuses an incomplete split.

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
        # Sorted, so that the manifest does not depend on the order in which graphs are finished.
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
        """Record a schema and expected numbers of graphs, and lock the store; waits for another build of it.

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
        """Whether the manifest on disk has this schema and these expected numbers of graphs."""
        self._manifest = None
        graphs, counts = self._known(schema)
        return bool(graphs) and {**counts, **expected} == counts

    def load(self, split: str, stems: Sequence[str] | None = None, columns: Iterable[str] | None = None) -> QueryGroups:
        """Read graphs into one matrix, which is the only copy in memory.

        Parameters
        ----------
        split : str
        stems : sequence of str, optional
            Graphs, in this order; by default all graphs of the split, sorted.
        columns : iterable of str, optional
            Full column names or names of blocks; all by default.

        Raises
        ------
        StoreError
            If the split is incomplete (its build was interrupted), a graph is not in the store, or its file is missing
            or damaged; the message gives the command that rebuilds it.
        UsageError
            For a column that does not exist.
        """
        schema, signature = self.manifest["schema"], self._read_at
        entries = self.entries(split)
        names = tuple(self.stems(split) if stems is None else stems)
        if not names:
            raise StoreError(f"{self.folder}: holds no graph of {split}; run {self.rebuild}")
        expected = self.manifest["expected"].get(split, len(entries))
        if stems is None and len(entries) != expected:
            raise StoreError(f"{self.folder}: holds {len(entries)} of {expected} {split} graphs; run {self.rebuild}")
        for name in names:
            if name not in entries:
                raise StoreError(f"{self.folder}: holds no {split} graph {name}; run {self.rebuild}")
        reader = parquet.Reader(schema["columns"], schema["shared"], columns)
        indptr = np.concatenate(([0], np.cumsum([entries[name]["rows"] for name in names]))).astype(np.int64)
        present = {column for name in names for column in entries[name]["measured"]}
        try:
            X = np.empty((int(indptr[-1]), len(reader.columns)), np.float32)
            other = {column: np.zeros(len(X), np.int64) for column in (*sorted(present), parquet.DUPLICATE)}
        except (MemoryError, ValueError) as fault:
            raise StoreError(
                f"{self.folder}: memory does not hold {indptr[-1]} rows of {split}; load fewer graphs or columns"
            ) from fault

        def fill(number: int) -> None:
            rows = slice(int(indptr[number]), int(indptr[number + 1]))
            present = (*entries[names[number]]["measured"], parquet.DUPLICATE)
            try:
                reader.read(
                    self.path(split, names[number]), X[rows], {column: other[column][rows] for column in present}
                )
            except StoreError as fault:
                raise StoreError(f"{fault}; run {self.rebuild}") from fault

        with ThreadPoolExecutor(min(_MAX_READERS, os.cpu_count() or 1)) as pool:
            list(pool.map(fill, range(len(names))))
        if self._signature() != signature and self._read_manifest()["schema"] != schema:
            raise StoreError(f"{self.folder}: rebuilt for other features or hardware while it was read; run again")
        for column, values in other.items():
            row = np.arange(len(X)) - np.repeat(indptr[:-1], np.diff(indptr))
            wrong = (values < 0) | (values > row if column == parquet.DUPLICATE else False)
            if wrong.any():
                first = int(wrong.argmax())
                path = self.path(split, names[int(np.searchsorted(indptr, first, side="right")) - 1])
                raise StoreError(f"{path}: invalid value {values[first]} in column {column}; run {self.rebuild}")
        return QueryGroups(
            names=names,
            indptr=indptr,
            columns=reader.columns,
            X=X,
            runtime=other.get("_runtime"),
            normalizer=other.get("_normalizer"),
            repeat=other.get("_repeat"),
            duplicate_of=other[parquet.DUPLICATE],
        )

    def _signature(self) -> tuple[int, int] | None:
        """Modification time and inode of the manifest, which change when it is written; None if it is missing."""
        try:
            about = (self.folder / MANIFEST).stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ino

    def _known(self, schema: Mapping[str, Any]) -> tuple[dict[str, dict[str, Entry]], dict[str, int]]:
        """Entries and expected numbers of graphs in the manifest on disk; empty under another schema."""
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
            fault = f"torn: {type(error).__name__} {error}"
        raise StoreError(f"{path}: no manifest of a feature store ({fault}); run {self.rebuild}")


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check the types in a manifest, as its stems become paths and its counts become sizes of arrays.

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
            valid &= isinstance(entry["measured"], list) and set(entry["measured"]) <= set(parquet.MEASURED)
            valid &= isinstance(entry["source"], dict) and isinstance(entry["labelled"], bool)
            if not valid or not isinstance(entry["degenerate"], str | None):
                raise ValueError(f"invalid entry of {stem[:80]}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1 << 48


def load(
    subset: str,
    split: str = "train",
    *,
    data: Path | str = "data",
    store: Path | str = "data/store",
    columns: Iterable[str] | None = None,
    lazy: bool = False,
) -> Any:
    """Read the features of a split as a polars data frame, one row per configuration, graphs sorted by name.

    The frame has the columns ``graph`` (str: stem of the file), ``row`` (int64: index of the configuration in the
    file), ``runtime`` and ``normalizer`` (int64 [ns], null if unknown; the target is their quotient), ``repeat`` (int64
    [ns]: second measurement, null if there is none), ``duplicate_of`` (int64: first identical row of the graph), and
    the features, float32, under their full names ``<block>.<column>``.  ``polars.selectors.contains(".")`` selects the
    features.

    Parameters
    ----------
    subset : str
        As for ``--subset``: ``tile:cpu``, ``layout:xla:random``, or the short name ``tile``.
    split : str
        ``train``, ``valid`` or ``test``.
    data : path
        Folder of ``npz/``; used only to resolve a short name.
    store : path
        Folder of the feature store.
    columns : iterable of str, optional
        Features, or names of blocks; all by default.
    lazy : bool
        Return a LazyFrame, which reads graph by graph when it is collected, and only the required columns.

    Returns
    -------
    polars.DataFrame or polars.LazyFrame

    Raises
    ------
    StoreError
        If the features are missing or have another schema; the message gives the command that builds them.
    UsageError
        For a collection, split or column that does not exist.
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

    def known(values: IntArray | None) -> pl.Series:
        """Nanoseconds, null where unknown: 0 in a store, or no array."""
        return pl.Series(np.zeros(len(groups.X), np.int64) if values is None else values).replace(0, None)

    keys = (
        pl.Series(groups.names, dtype=pl.String).gather(groups.qid),
        pl.Series(np.arange(len(groups.X)) - groups.indptr[groups.qid]),
        *(known(values) for values in (groups.runtime, groups.normalizer, groups.repeat)),
        pl.Series(groups.duplicate_of),
    )
    named = [series.alias(name) for name, series in zip(KEYS, keys, strict=True)]
    return pl.DataFrame([*named, *(pl.Series(name, groups.X[:, at]) for at, name in enumerate(groups.columns))])
