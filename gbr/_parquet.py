"""The features of one graph as a Parquet file.

One row per configuration.  Feature columns keep their full names and are float32.  The others begin with an underscore:
``_runtime``, ``_normalizer``, ``_repeat`` (int64, absent when unknown), ``_duplicate_of`` (int32), and ``_graph``: the
values of the feature columns that all rows of a graph share, as one list on the first row.  (Every Parquet column costs
0.1 ms and 300 bytes per file, whatever it holds; most columns describe the graph and would be repeated on every row.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gbr._files import replacing
from gbr.errors import StoreError, UsageError
from gbr.slates import IntArray, matching

if TYPE_CHECKING:
    import polars as pl

#: int64 columns that a file may lack.
MEASURED: Final = ("_runtime", "_normalizer", "_repeat")
DUPLICATE: Final = "_duplicate_of"
SHARED: Final = "_graph"

#: Higher levels take longer than the features do and save a few per cent.
_ZSTD_LEVEL: Final = 1


def write(
    path: Path,
    columns: Sequence[str],
    shared: Collection[str],
    X: NDArray[np.float32],
    measured: Mapping[str, IntArray],
    duplicate_of: IntArray,
) -> int:
    """Write one graph, whole or not at all.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Full names, in the order of ``X``.
    shared : collection of str
        Columns whose values all rows share.
    X : float32 (rows, len(columns)), at least one row
    measured : mapping of str to int64 (rows,)
        Some of :data:`MEASURED`.
    duplicate_of : int64 (rows,)

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    ValueError
        When ``X`` does not fit ``columns``, or a shared column differs between rows.
    StoreError
        When the file cannot be written.
    """
    import polars as pl

    if X.ndim != 2 or X.shape[1] != len(columns) or not len(X):
        raise ValueError(f"{path}: X has shape {X.shape}, wanted (rows, {len(columns)})")
    once_per_graph = frozenset(shared)
    is_shared = np.array([name in once_per_graph for name in columns], bool)
    for _, at in _runs(np.flatnonzero(is_shared)):
        differs = (X[:, at] != X[0, at]).any(axis=0)
        if differs.any():
            name = columns[at.start + int(differs.argmax())]
            raise ValueError(f"{path}: column {name} is declared the same on all rows and is not")
    own = [name for name in columns if name not in once_per_graph]
    # Polars takes each contiguous row of the transposed matrix over as it is.
    by_column = np.ascontiguousarray(X[:, ~is_shared].T, np.float32)
    series = [pl.Series(name, values) for name, values in zip(own, by_column, strict=True)]
    if is_shared.any():
        values = pl.Series(SHARED, [X[0, is_shared].tolist()], dtype=pl.List(pl.Float32))
        series.append(values.extend_constant(None, len(X) - 1))
    series += [pl.Series(name, np.asarray(values, np.int64)) for name, values in measured.items()]
    series.append(pl.Series(DUPLICATE, np.asarray(duplicate_of, np.int32)))
    with replacing(path, StoreError) as part:
        pl.DataFrame(series).write_parquet(part, compression="zstd", compression_level=_ZSTD_LEVEL, statistics=False)
        return part.stat().st_size


class Reader:
    """Reads the wanted columns of one file after the other into a matrix that is already there.

    Parameters
    ----------
    every : sequence of str
        All feature columns, in order.
    shared : sequence of str
        Those that all rows of a file share, in the order of ``every``.
    columns : iterable of str, optional
        Full column names or names of blocks; all by default.

    Attributes
    ----------
    columns : tuple of str
        The columns that are read, in order.

    Raises
    ------
    UsageError
        For a name that is neither.
    """

    def __init__(self, every: Sequence[str], shared: Sequence[str], columns: Iterable[str] | None) -> None:
        keep = np.full(len(every), columns is None)
        for name in columns or ():
            hits = matching(every, name)
            if not len(hits):
                raise UsageError(f"columns: {name!r} is neither a column nor a block of this store")
            keep[hits] = True
        self.columns = tuple(name for name, wanted in zip(every, keep, strict=True) if wanted)
        place = {name: at for at, name in enumerate(shared)}
        is_shared = np.array([name in place for name in self.columns], bool)
        self._own = [name for name in self.columns if name not in place]
        self._own_runs = list(_runs(np.flatnonzero(~is_shared)))
        self._shared_runs = list(_runs(np.flatnonzero(is_shared)))
        self._picked = [place[name] for name in self.columns if name in place]
        self._n_shared = len(place)

    def read(self, path: Path, X: NDArray[np.float32], other: Mapping[str, IntArray]) -> None:
        """Fill one graph's rows.

        Parameters
        ----------
        path : Path
        X : float32 (rows, len(self.columns))
        other : mapping of str to int64 (rows,)
            :data:`DUPLICATE` and those of :data:`MEASURED` that the file holds.

        Raises
        ------
        StoreError
            When the file is missing, torn or of another shape.
        """
        frame = self._frame(path, [*self._own, *other, *([SHARED] if self._picked else [])])
        if len(frame) != len(X):
            raise StoreError(f"{path}: got {len(frame)} rows, the manifest says {len(X)}")
        if self._own:
            own = frame.select(self._own).to_numpy()
            for first, at in self._own_runs:
                X[:, at] = own[:, first : first + at.stop - at.start]
        if self._picked:
            once = frame[SHARED][0]
            if once is None or len(once) != self._n_shared:
                raise StoreError(f"{path}: column {SHARED} lacks the {self._n_shared} values of the manifest's schema")
            picked = once.to_numpy()[self._picked]
            for first, at in self._shared_runs:
                X[:, at] = picked[first : first + at.stop - at.start]
        for name, values in other.items():
            values[:] = frame[name].to_numpy()

    @staticmethod
    def _frame(path: Path, columns: list[str]) -> pl.DataFrame:
        import polars as pl

        try:
            # Files are read side by side; threads within one would only get in the way.
            return pl.read_parquet(path, columns=columns, parallel="none", glob=False, hive_partitioning=False)
        except FileNotFoundError:
            raise StoreError(f"{path}: missing") from None
        except (OSError, pl.exceptions.PolarsError) as fault:
            told = " ".join(str(fault).split())[:120]
            raise StoreError(f"{path}: no whole Parquet file with the manifest's columns ({told})") from fault


def _runs(places: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Cut ascending places into runs of neighbours: (number of the first, the places as a slice)."""
    if not len(places):
        return
    first = 0
    for last in [*np.flatnonzero(np.diff(places) != 1).tolist(), len(places) - 1]:
        yield first, slice(int(places[first]), int(places[last]) + 1)
        first = last + 1
