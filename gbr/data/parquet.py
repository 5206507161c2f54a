"""The features of one graph as a Parquet file.

One row per configuration.  Feature columns have their full names and are float32.  Names of other columns begin with an
underscore: ``_runtime``, ``_normalizer``, ``_repeat`` (int64, absent if unknown), ``_duplicate_of`` (int32), and
``_graph``, which has the values of the feature columns that all rows of a graph share, as one list in the first row.
(Every Parquet column costs 0.1 ms and 300 bytes per file, and most columns describe the graph.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.files import atomic_write
from gbr.data.groups import IntArray, select_columns
from gbr.errors import StoreError

if TYPE_CHECKING:
    import polars as pl

#: Optional int64 columns.
MEASURED: Final = ("_runtime", "_normalizer", "_repeat")
DUPLICATE: Final = "_duplicate_of"
SHARED: Final = "_graph"

#: Columns with few distinct values in a sample of the first rows are dictionary-encoded: smaller than with a fast
#: codec, and three times as fast to read.
_FEW: Final = 128
_SAMPLED: Final = 512
#: Maximum number of rows read at once.
_ROWS_AT_ONCE: Final = 1 << 15


def write(
    path: Path,
    columns: Sequence[str],
    shared: NDArray[np.float32],
    groups: Iterable[NDArray[np.float32]],
    measured: Mapping[str, IntArray],
    duplicate_of: IntArray,
) -> int:
    """Write one graph atomically, with only one group of rows in memory at a time.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Full names of the columns that differ between rows.
    shared : float32 (shared columns,)
        Values of the other columns, in order.
    groups : iterable of float32 (len(columns), rows)
        Consecutive groups of rows.
    measured : mapping of str to int64 (rows,)
        Some of :data:`MEASURED`.
    duplicate_of : int64 (rows,)

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    with atomic_write(path, StoreError) as part:
        _write(part, columns, shared, iter(groups), measured, duplicate_of)
        return part.stat().st_size


def split(
    columns: Sequence[str], shared: Collection[str], X: NDArray[np.float32]
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Separate the columns that all rows share from the others.

    Returns
    -------
    list of str
        Names of the other columns.
    float32 (shared columns,)
        Values of the shared columns.
    float32 (others, rows)
        The other columns, a group for :func:`write`.

    Raises
    ------
    ValueError
        If ``X`` does not match ``columns``, or a shared column differs between rows.
    """
    if X.ndim != 2 or X.shape[1] != len(columns) or not len(X):
        raise ValueError(f"expected X of shape (rows, {len(columns)}), got {X.shape}")
    once_per_graph = frozenset(shared)
    is_shared = np.array([name in once_per_graph for name in columns], bool)
    for _, at in _runs(np.flatnonzero(is_shared)):
        differs = (X[:, at] != X[0, at]).any(axis=0)
        if differs.any():
            name = columns[at.start + int(differs.argmax())]
            raise ValueError(f"column {name} is declared the same on all rows and is not")
    own = [name for name in columns if name not in once_per_graph]
    return own, X[0, is_shared], np.ascontiguousarray(X[:, ~is_shared].T, np.float32)


def _write(
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
    few = [columns[number] for number in np.flatnonzero(_distinct(start) <= _FEW).tolist()]

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
            use_dictionary=few,
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


def _distinct(group: NDArray[np.float32]) -> NDArray[np.int64]:
    """Distinct values of each column in a sample of its rows, int64 (columns,)."""
    sample = np.sort(group[:, :: max(1, group.shape[1] // _SAMPLED)], axis=1)
    return np.asarray(1 + (sample[:, 1:] != sample[:, :-1]).sum(axis=1), np.int64)


class Reader:
    """Reads columns of several files into one preallocated matrix.

    Parameters
    ----------
    every : sequence of str
        All feature columns, in order.
    shared : sequence of str
        Columns that all rows of a file share, in the order of ``every``.
    columns : iterable of str, optional
        Full column names or names of blocks; all by default.

    Attributes
    ----------
    columns : tuple of str
        The columns that are read, in order.

    Raises
    ------
    UsageError
        For an unknown name.
    """

    def __init__(self, every: Sequence[str], shared: Sequence[str], columns: Iterable[str] | None) -> None:
        self.columns = tuple(every if columns is None else (every[index] for index in select_columns(every, columns)))
        position = {name: index for index, name in enumerate(shared)}
        is_shared = np.array([name in position for name in self.columns], bool)
        self._own = [name for name in self.columns if name not in position]
        self._own_runs = list(_runs(np.flatnonzero(~is_shared)))
        self._shared_runs = list(_runs(np.flatnonzero(is_shared)))
        self._picked = [position[name] for name in self.columns if name in position]
        self._n_shared = len(position)

    def read(self, path: Path, X: NDArray[np.float32], other: Mapping[str, IntArray]) -> None:
        """Read the rows of one graph.

        Parameters
        ----------
        path : Path
        X : float32 (rows, len(self.columns))
        other : mapping of str to int64 (rows,)
            :data:`DUPLICATE` and the columns of :data:`MEASURED` in the file.

        Raises
        ------
        StoreError
            If the file is missing, damaged or of another shape.
        """
        names = [*self._own, *other, *([SHARED] if self._picked else [])]
        if len(X) <= _ROWS_AT_ONCE:
            frame = self._frame(path, names, most=len(X) + 1)
            self._fill(path, frame, X, other, frame if self._picked else None)
            return
        # Read in parts, so that X is the only complete copy in memory.
        found = self._n_rows(path)
        if found != len(X):
            raise _wrong_length(path, found, len(X))
        once = self._frame(path, [SHARED], 0, 1) if self._picked else None
        for first in range(0, len(X), _ROWS_AT_ONCE):
            rows = slice(first, min(first + _ROWS_AT_ONCE, len(X)))
            frame = self._frame(path, [*self._own, *other], first, rows.stop - first)
            self._fill(path, frame, X[rows], {name: values[rows] for name, values in other.items()}, once)

    def _fill(
        self,
        path: Path,
        frame: pl.DataFrame,
        X: NDArray[np.float32],
        other: Mapping[str, IntArray],
        once: pl.DataFrame | None,
    ) -> None:
        if len(frame) != len(X):
            raise _wrong_length(path, len(frame), len(X))
        _check_types(path, frame, self._own, other)
        if self._own:
            own = frame.select(self._own).to_numpy()
            for first, at in self._own_runs:
                X[:, at] = own[:, first : first + at.stop - at.start]
        if once is not None:
            _check_types(path, once, (), ())
            values = once[SHARED][0]
            if values is None or len(values) != self._n_shared:
                raise StoreError(f"{path}: column {SHARED} lacks the {self._n_shared} values of the manifest's schema")
            picked = values.to_numpy()[self._picked]
            for first, at in self._shared_runs:
                X[:, at] = picked[first : first + at.stop - at.start]
        for name, column in other.items():
            column[:] = frame[name].to_numpy()

    @staticmethod
    def _n_rows(path: Path) -> int:
        import polars as pl

        with _store_errors(path):
            return int(pl.scan_parquet(path, glob=False, hive_partitioning=False).select(pl.len()).collect().item())

    @staticmethod
    def _frame(
        path: Path, columns: list[str], first: int = 0, count: int | None = None, most: int | None = None
    ) -> pl.DataFrame:
        import polars as pl

        with _store_errors(path):
            # Files are read in parallel, so one thread per file suffices.
            if count is None:
                return pl.read_parquet(
                    path, columns=columns, n_rows=most, parallel="none", glob=False, hive_partitioning=False
                )
            lazy = pl.scan_parquet(path, parallel="none", glob=False, hive_partitioning=False)
            return lazy.select(columns).slice(first, count).collect()


def _check_types(path: Path, frame: pl.DataFrame, own: Collection[str], other: Collection[str]) -> None:
    import polars as pl

    expected: dict[str, tuple[pl.DataType | type[pl.DataType], ...]] = {SHARED: (pl.List(pl.Float32),)}
    expected |= dict.fromkeys(own, (pl.Float32,)) | dict.fromkeys(other, (pl.Int32, pl.Int64))
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if name in expected and dtype not in expected[name]:
            raise StoreError(f"{path}: column {name}: expected {expected[name][0]}, got {dtype}")
    for name in other:
        if frame[name].null_count():
            raise StoreError(f"{path}: column {name} has gaps")


def _wrong_length(path: Path, found: int, expected: int) -> StoreError:
    got = f"more than {expected}" if found > expected else str(found)
    return StoreError(f"{path}: expected {expected} rows as in the manifest, got {got}")


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Convert exceptions of Polars to a StoreError."""
    import polars as pl

    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{path}: missing") from None
    # A panic of Polars, which is a BaseException, must not end the process for an invalid file.
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as fault:
        raise StoreError(f"{path}: no whole Parquet file with the manifest's columns ({_brief(fault)})") from fault


def _brief(fault: BaseException) -> str:
    return " ".join(str(fault).split())[:120]


def _runs(indices: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Split ascending indices into consecutive runs; yields the position of each run in ``indices``, and its slice."""
    if not len(indices):
        return
    first = 0
    for last in [*np.flatnonzero(np.diff(indices) != 1).tolist(), len(indices) - 1]:
        yield first, slice(int(indices[first]), int(indices[last]) + 1)
        first = last + 1
