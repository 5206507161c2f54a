"""A feature store as a polars frame: for notebooks, own features and own models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gbr.data import collection
from gbr.data.build import schema_of
from gbr.data.groups import IntArray, QueryGroups
from gbr.data.store import FeatureStore
from gbr.errors import StoreError, UsageError

if TYPE_CHECKING:
    import polars as pl

#: Columns that come before the features; none of them has a dot in its name, and every feature has.
KEYS: Final = ("graph", "row", "runtime", "normalizer", "repeat", "duplicate_of")


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
        Give a LazyFrame, which reads graph after graph when it is collected, and of each only the columns asked for.

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
        raise UsageError(f"split {split!r}: want one of {', '.join(collection.SPLITS)}")
    stems = found.stems(split)
    if not stems:
        raise StoreError(f"{found.folder}: holds no graph of {split}; run {found.rebuild}")
    wanted = None if columns is None else list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    if not lazy:
        return _frame(found.load(split, columns=wanted))
    return _scan(found, split, stems, wanted)


def _scan(store: FeatureStore, split: str, stems: list[str], columns: list[str] | None) -> pl.LazyFrame:
    from polars.io.plugins import register_io_source

    first = _frame(store.load(split, stems[:1], columns))
    features = first.columns[len(KEYS) :]

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        kept = features
        if with_columns is not None:
            asked = {*with_columns, *(() if predicate is None else predicate.meta.root_names())}
            kept = [name for name in features if name in asked]
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


def _frame(slates: QueryGroups) -> pl.DataFrame:
    import polars as pl

    def known(values: IntArray | None) -> pl.Series:
        """Nanoseconds; 0 in a store, and no array at all, say that there are none."""
        return pl.Series(np.zeros(len(slates.X), np.int64) if values is None else values).replace(0, None)

    keys = (
        pl.Series(slates.names, dtype=pl.String).gather(slates.qid),
        pl.Series(np.arange(len(slates.X)) - slates.indptr[slates.qid]),
        *(known(values) for values in (slates.runtime, slates.normalizer, slates.repeat)),
        pl.Series(slates.duplicate_of),
    )
    named = [series.alias(name) for name, series in zip(KEYS, keys, strict=True)]
    return pl.DataFrame([*named, *(pl.Series(name, slates.X[:, at]) for at, name in enumerate(slates.columns))])
