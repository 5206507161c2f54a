"""Doors of the ranker: any table becomes a float matrix, rows per query become ``indptr``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.models.labels import Target

Matrix = NDArray[np.float32] | NDArray[np.float64]

_ROWS_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True, eq=False)
class Table:
    """A matrix with column names, without a data frame's copy."""

    values: Matrix
    columns: tuple[str, ...]

    def to_numpy(self) -> Matrix:
        """Give the matrix itself."""
        return self.values


def as_matrix(X: Any) -> tuple[Matrix, tuple[str, ...] | None]:
    """Turn an array or a data frame into a float matrix and its column names.

    Parameters
    ----------
    X : array-like, pandas.DataFrame or polars.DataFrame (rows, columns)
        Numbers; NaN means missing.

    Returns
    -------
    matrix : float32 or float64 (rows, columns)
        float32 stays, everything else becomes float64.
    names : tuple of str or None
        None where ``X`` does not name its columns by strings.

    Raises
    ------
    UsageError
        When ``X`` is not a table of numbers, or holds an infinity.
    """
    names = _names(X)
    try:
        matrix = np.asarray(X.to_numpy() if hasattr(X, "to_numpy") else X)
        if matrix.dtype == object and hasattr(X, "to_numpy"):
            matrix = X.to_numpy(dtype=np.float64, na_value=np.nan)  # nullable columns of pandas
        if matrix.dtype.kind in "SU":
            raise ValueError("text")
        if matrix.dtype != np.float32:
            matrix = matrix.astype(np.float64)
    except (TypeError, ValueError) as fault:
        raise UsageError(f"X: {_not_numbers(X, names)}; want numbers only (NaN for missing)") from fault
    if matrix.ndim != 2:
        raise UsageError(f"X: got an array of shape {matrix.shape}, want (rows, columns)")
    if not matrix.shape[1]:
        raise UsageError("X: got no columns, want at least one feature")
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        infinite = np.isinf(matrix[start : start + _ROWS_AT_ONCE])
        if infinite.any():
            row, column = np.unravel_index(int(infinite.argmax()), infinite.shape)
            label = repr(names[column]) if names else str(column)
            raise UsageError(f"X: row {start + row}, column {label} is infinite; want finite numbers (NaN for missing)")
    return matrix, names


def reordered(matrix: Matrix, names: tuple[str, ...] | None, fitted: tuple[str, ...] | None, n_fitted: int) -> Matrix:
    """Columns of ``matrix`` in the order the model was fitted on; by name where both sides have names.

    Raises
    ------
    UsageError
        For missing, unknown or repeated columns, or another number of columns.
    """
    if names is not None and fitted is not None:
        if names == fitted:
            return matrix
        place = {name: number for number, name in enumerate(names)}
        missing = [name for name in fitted if name not in place]
        unknown = sorted(set(names) - set(fitted))
        if missing or unknown or len(names) != len(fitted):
            wrong = [f"{len(missing)} missing (first {missing[0]!r})"] if missing else []
            wrong += [f"{len(unknown)} unknown (first {unknown[0]!r})"] if unknown else []
            raise UsageError(f"X: columns differ from those of fit: {', '.join(wrong) or 'one is named twice'}")
        matrix = matrix[:, [place[name] for name in fitted]]
    if matrix.shape[1] != n_fitted:
        raise UsageError(f"X: got {matrix.shape[1]} columns, the model was fitted on {n_fitted}")
    return matrix


def as_places(columns: Sequence[str | int] | None, names: tuple[str, ...] | None, count: int) -> tuple[int, ...]:
    """Places of columns given by name or by place; none for None.

    Raises
    ------
    UsageError
        For a column that is not there: names it.
    """
    place = {name: number for number, name in enumerate(names or ())}
    found = []
    for column in columns or ():
        at = place.get(column, -1) if isinstance(column, str) else column
        if isinstance(at, bool) or not isinstance(at, int | np.integer) or not 0 <= at < count:
            raise UsageError(f"costs: X has no column {column!r}; want names of its columns, or places below {count}")
        found.append(int(at))
    return tuple(found)


def as_names(names: Any, count: Any) -> tuple[tuple[str, ...] | None, int]:
    """Names and number of a model's columns, as its manifest tells them.

    Raises
    ------
    ValueError
        When they are none, or not as many.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"got {count!r} for the number of features")
    if names is None:
        return None, count
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise ValueError(f"no names of {count} features")
    return tuple(names), count


def as_indptr(qid: Any, rows: int) -> NDArray[np.int64]:
    """Query ids per row -> ``indptr``.

    Parameters
    ----------
    qid : array-like (rows,)
        Integers or strings; the rows of a query stand together.

    Returns
    -------
    int64 (queries + 1,)

    Raises
    ------
    UsageError
        When ids are missing, or the rows of a query are scattered: names the first such row.
    """
    ids = _vector(qid, "qid", rows)
    if ids.dtype.kind == "f" and np.isnan(ids).any():
        raise UsageError(f"qid: row {int(np.isnan(ids).argmax())} has no query; every row needs one")
    starts = np.concatenate(([0], np.flatnonzero(ids[1:] != ids[:-1]) + 1)) if rows else np.zeros(0, np.int64)
    seen: dict[Any, int] = {}
    for number, start in enumerate(starts):
        first = seen.setdefault(ids[start], number)
        if first != number:
            raise UsageError(
                f"qid: row {start} returns to query {ids[start]!s}, whose rows ended at row {starts[first + 1] - 1}; "
                "the rows of a query must stand together (sort the table by qid)"
            )
    return np.append(starts, rows).astype(np.int64)


def as_target(runtime: Any, rows: int) -> Target:
    """Runtimes per row as int64 (when they are integers) or float64.

    Raises
    ------
    UsageError
        For another number of rows, values that are no numbers, NaN or infinity: names the first such row.
    """
    values = _vector(runtime, "runtime", rows)
    if values.dtype.kind in "ib":
        return values.astype(np.int64)
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as fault:
        raise UsageError(f"runtime: got {values.dtype} values, want numbers") from fault
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(finite.argmin())
        raise UsageError(f"runtime: row {row} is {numbers[row]}; drop rows without a finite measurement")
    return numbers


def _vector(values: Any, what: str, rows: int) -> NDArray[Any]:
    vector = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if vector.shape != (rows,):
        raise UsageError(f"{what}: got shape {vector.shape}, want ({rows},): one value per row of X")
    return vector


def _names(X: Any) -> tuple[str, ...] | None:
    if not hasattr(X, "to_numpy") or not hasattr(X, "columns"):
        return None
    columns = list(X.columns)
    return tuple(columns) if columns and all(isinstance(column, str) for column in columns) else None


def _not_numbers(X: Any, names: tuple[str, ...] | None) -> str:
    for name in names or ():
        try:
            np.asarray(X[name].to_numpy()).astype(np.float64)
        except (TypeError, ValueError):
            return f"column {name!r} does not hold numbers"
    return f"got {type(X).__name__}, which is no table of numbers"
