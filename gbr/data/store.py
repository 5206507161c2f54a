"""Feature store: one Parquet file per graph (:mod:`gbr.data.parquet`) and a manifest that says what they hold.

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

#: Raised when the files' layout changes while the features keep their schema.
FORMAT: Final = 1

_MAX_READERS: Final = 8

Entry = dict[str, Any]

#: Columns that come before the features; none of them has a dot in its name, and every feature has.
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
        """The manifest as it is on disk; read once.

        Raises
        ------
        StoreError
            When there is none, or it is torn.
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
        """What the manifest says of each graph of a split, by stem: rows, distinct, labelled, degenerate, bytes …"""
        return dict(self.manifest["graphs"].get(split, {}))

    def stems(self, split: str) -> list[str]:
        """Graphs of one split, sorted."""
        return sorted(self.entries(split))

    def check(self, schema_hash: str) -> None:
        """Refuse a store whose columns mean something else.

        Raises
        ------
        StoreError
            Naming the command that rebuilds it, when there is no store or it has another schema.
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
        """Write one graph, whole or not at all; :meth:`record` then makes it part of the store.

        Parameters
        ----------
        split, stem : str
        columns : sequence of str
            Full names, in the order of ``X``.
        X : float32 (rows, len(columns))
        runtime, normalizer, repeat : int64 (rows,) or None
        duplicate_of : int64 (rows,)
        source : mapping
            Fingerprint of what the features were computed from.
        shared : sequence of str
            Columns whose values all rows share; kept once.

        Returns
        -------
        dict
            The graph's entry in the manifest.

        Raises
        ------
        ValueError
            When ``X`` does not fit ``columns``, or a shared column differs between rows.
        StoreError
            When the file cannot be written.
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
        """Write one graph as :meth:`write` does, from groups of rows that need not be in memory together.

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
        """Enter graphs into the manifest and take others out, keeping what other processes entered meanwhile.

        A store has one schema: under another one than before, everything it held leaves the manifest.

        Parameters
        ----------
        schema : mapping
            ``hash``, ``columns`` (all, in order), ``shared`` (those kept once per graph), and ``hardware``, the profile
            that the columns are computed for.
        written : mapping, optional
            split -> stem -> entry of :meth:`write`.
        removed : mapping, optional
            split -> stems.
        expected : mapping, optional
            split -> number of graphs of a whole store; :meth:`load` refuses a split that is not whole.

        Raises
        ------
        StoreError
            When the manifest cannot be written.
        """
        self._record(schema, written or {}, removed or {}, expected or {})

    @contextmanager
    def building(self, schema: Mapping[str, Any], expected: Mapping[str, int]) -> Iterator[None]:
        """Enter a schema and numbers of graphs as :meth:`record` does, and keep the store to that schema meanwhile.

        Several processes may build the same at once; none may make it anew for other columns or other hardware while
        one of them builds, or reads after :meth:`keep`.

        Raises
        ------
        StoreError
            When the store is in use for another schema, or cannot be written.
        """
        with exclusive_lock(self.folder, StoreError, "build of this store", wait=True):
            self._manifest = None
            self._record(schema, {}, {}, expected)
            yield

    def is_for(self, schema: Mapping[str, Any], expected: Mapping[str, int]) -> bool:
        """Whether the manifest on disk has this schema and these numbers of graphs already."""
        self._manifest = None
        graphs, counts = self._known(schema)
        return bool(graphs) and {**counts, **expected} == counts

    def load(self, split: str, stems: Sequence[str] | None = None, columns: Iterable[str] | None = None) -> QueryGroups:
        """Read graphs into one matrix, without a second copy of it.

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
            When the split is not whole (its build was interrupted), a graph is not in the store, or its file is missing
            or torn; the message names the command that rebuilds it.
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
        """Changes whenever the manifest is written."""
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

    def _record(
        self,
        schema: Mapping[str, Any],
        written: Mapping[str, Mapping[str, Entry]],
        removed: Mapping[str, Iterable[str]],
        expected: Mapping[str, int],
    ) -> None:
        graphs, counts = self._known(schema)
        counts.update(expected)
        for split, stems in removed.items():
            for stem in stems:
                graphs.get(split, {}).pop(stem, None)
        for split, entries in written.items():
            graphs[split] = dict(sorted({**graphs.get(split, {}), **entries}.items()))
        # Sorted: what two processes come to must not depend on which of their graphs was ready first.
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
    """Check the types in a manifest: its stems become paths and its counts sizes of arrays.

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
    """Read the features of a split as a polars frame, one row per configuration, graphs in order of their names.

    The frame has the columns ``graph`` (str: stem of the file), ``row`` (int64: the configuration's number in the
    file), ``runtime`` and ``normalizer`` (int64 [ns], null where they are not known; the target is their quotient),
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
        Folder that holds ``npz/``; looked at only where ``subset`` does not name a store by itself.
    store : path
        Folder of the store, as the build left it.
    columns : iterable of str, optional
        Features, or names of blocks; all by default.
    lazy : bool
        Give a LazyFrame, which reads graph after graph when it is collected, and of each only the columns needed for.

    Returns
    -------
    polars.DataFrame or polars.LazyFrame

    Raises
    ------
    StoreError
        When the features are not there, or of another schema; names the command that builds them.
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
        """Nanoseconds; 0 in a store, and no array at all, say that there are none."""
        return pl.Series(np.zeros(len(groups.X), np.int64) if values is None else values).replace(0, None)

    keys = (
        pl.Series(groups.names, dtype=pl.String).gather(groups.qid),
        pl.Series(np.arange(len(groups.X)) - groups.indptr[groups.qid]),
        *(known(values) for values in (groups.runtime, groups.normalizer, groups.repeat)),
        pl.Series(groups.duplicate_of),
    )
    named = [series.alias(name) for name, series in zip(KEYS, keys, strict=True)]
    return pl.DataFrame([*named, *(pl.Series(name, groups.X[:, at]) for at, name in enumerate(groups.columns))])
