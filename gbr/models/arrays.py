"""Arrays as users pass them, from lists to masked arrays, data frames and Arrow, and their missing values."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.pool import check_polars
from gbr.errors import UsageError, one_line

_LARGEST: Final = float(np.finfo(np.float32).max)


def present(values: Any, name: str) -> NDArray[Any]:
    """Convert to an array; UsageError for a missing value: NaN, NaT, None, pandas' NA, an Arrow null, a masked one."""
    array, missing = _read(values)
    if missing.any():
        row = int(np.argwhere(np.atleast_1d(missing))[0, 0])
        raise UsageError(f"{name}: expected a value in every row, got a missing one in row {row}; leave out such rows")
    return array


def numbers(values: Any, name: str) -> NDArray[np.int64] | NDArray[np.float64]:
    """Convert to int64 (also durations) or float64; UsageError for a missing value, or for one that is no number."""
    array = present(values, name)
    if array.dtype.kind in "imMb" or (array.dtype.kind == "u" and (array <= np.iinfo(np.int64).max).all()):
        return array.astype(np.int64)
    try:
        if array.dtype.kind == "c":
            raise TypeError("Complex data not supported")
        floats = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name}: expected numbers ({error})") from error
    return present(floats, name)  # the text "nan" is missing as well


def table(X: Any, fitted: tuple[str, ...] | range | None) -> Any:
    """Convert missing values to NaN, and an Arrow table to a data frame, for scikit-learn's validation.

    Parameters
    ----------
    X : array-like, data frame or Arrow table (rows, columns)
    fitted : tuple of str, range or None
        Column names of the fit, indices if its columns had no names, or None before a fit.  A data frame with these
        columns is put in their order.  Labels that are not strings are converted, unless they are 0, 1, 2 …

    Raises
    ------
    UsageError
        When two columns have the same name.
    """
    if not hasattr(X, "to_numpy") and (hasattr(X, "__arrow_c_stream__") or hasattr(X, "__arrow_c_array__")):
        import pyarrow  # also tables of other libraries, by the PyCapsule interface

        X = pyarrow.table(X)
        labels = X.column_names
    elif hasattr(X, "columns") and hasattr(X, "to_numpy"):
        labels = list(X.columns)
    else:
        return _with_nan(X)
    if hasattr(X, "to_pylist") or hasattr(X, "with_columns"):
        check_polars("X")
    names = [str(label) for label in labels]
    wanted = {*fitted} if fitted else set()
    if set(labels) == wanted or (labels == [*range(len(labels))] and set(names) != wanted):
        names = labels
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UsageError(f"X: expected different column names, got {twice!r} twice; rename one of these columns")
    if hasattr(X, "to_pylist"):
        import polars

        X = polars.from_arrow(X)
    elif names != labels:
        X = X.copy(deep=False)
        X.columns = names
    if fitted and set(names) == wanted and names != [*fitted]:
        X = X[[*fitted]]
    return _frame_with_nan(X)


def check_numeric(X: Any) -> None:
    """UsageError for a column of a data frame that is not numeric."""
    for name in getattr(X, "columns", ()):
        try:
            np.asarray(X[name]).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"X: column {str(name)!r}: expected numbers ({one_line(error)}); encode categories as numbers, for "
                "example one column per category by sklearn.preprocessing.OneHotEncoder"
            ) from error


def check_range(X: NDArray[Any], names: tuple[str, ...] | None) -> None:
    """UsageError for a value outside the range of float32, in which the libraries compute."""
    if max(np.fmax.reduce(X, axis=None, initial=0), -np.fmin.reduce(X, axis=None, initial=0)) > _LARGEST:
        row, column = np.argwhere(np.abs(X) > _LARGEST)[0].tolist()
        raise UsageError(
            f"X: expected numbers within ±{_LARGEST:.2g}, the range of float32, got {X[row, column]:g} in row {row}, "
            f"column {names[column] if names else column!r}"
        )


def _read(values: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values as an array, and where they are missing."""
    if isinstance(values, list | tuple):
        if any(isinstance(value, np.ma.MaskedArray) for value in values):
            return _read(np.ma.stack(values))
        array = np.asarray(values)
        if array.dtype.kind in "SU":  # of a list, in which NaN and None would become text
            array = np.array(values, object)
    else:
        has_zone = getattr(getattr(values, "dtype", None), "tz", None) is not None
        array = np.asarray(values, "M8[ns]" if has_zone else None)
    if array.dtype.kind == "T":
        array = array.astype(object)
    if array.dtype.kind == "O":  # may hold scalars of Arrow
        objects = (value.as_py() if hasattr(value, "as_py") else value for value in array.flat)
        array = np.fromiter(objects, object, array.size).reshape(array.shape)
        missing = np.fromiter(map(_is_missing, array.flat), np.bool_, array.size).reshape(array.shape)
    elif array.dtype.kind in "mM":
        missing = np.isnat(array)
    else:
        missing = np.isnan(array) if array.dtype.kind in "fc" else np.zeros(array.shape, np.bool_)
    return array, missing | np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else missing


def _is_missing(value: Any) -> bool:
    if value is None or value is np.ma.masked:
        return True
    try:
        return bool(value != value)  # NaN and NaT
    except TypeError:  # NA of pandas is neither
        return True
    except ValueError:  # an array
        return False


def _with_nan(values: Any) -> Any:
    """Array with NaN for missing values; what is no array, and text, is left to scikit-learn."""
    if not isinstance(values, list | tuple) and not hasattr(values, "__array__"):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and not isinstance(values, np.ma.MaskedArray):
        return values
    array, missing = _read(values)
    if array.dtype.kind in "mM":
        array = array.astype(np.int64)
    return np.where(missing, np.nan, array) if missing.any() else array


def _frame_with_nan(X: Any) -> Any:
    """Data frame whose columns of objects and of times are numbers, with NaN for missing values."""
    is_polars = hasattr(X, "with_columns")

    def is_read(dtype: Any) -> bool:  # by scikit-learn
        if is_polars:
            return not dtype.is_temporal() and str(dtype) != "Object"
        return getattr(dtype, "kind", "O") in "fiub"

    if all(map(is_read, set(X.dtypes))):
        return X
    changed = {name: _with_nan(X[name]) for name, dtype in zip(X.columns, X.dtypes, strict=True) if not is_read(dtype)}
    if is_polars:
        return X.with_columns(**changed)
    X = X.copy(deep=False)
    for name, column in changed.items():
        X[name] = column
    return X
