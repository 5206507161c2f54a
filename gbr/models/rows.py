"""Training rows: query groups in memory or streamed, labels of their rows, and samples of them.

Ragged data is flat arrays plus ``indptr``: group ``i`` is rows ``indptr[i]:indptr[i + 1]``.  A target is a runtime or
runtime / normalizer, lower is faster; labels and predictions of a booster are relevance, higher is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Target = NDArray[np.int64] | NDArray[np.float64]
Matrix = NDArray[np.float32] | NDArray[np.float64]

#: Floats of a batch, unless a single group has more: 256 MiB.
CELLS_PER_BATCH: Final = 1 << 26


class StreamedMatrix:
    """A matrix that is too large for memory, float32 (rows, columns): batches of whole groups are read on demand.

    Parameters
    ----------
    read : callable
        ``read(first, last)`` returns all rows of groups ``first`` to ``last - 1``, float32 (rows, columns).
    bounds : int64 (groups + 1,)
        Group ``i`` is rows ``bounds[i]:bounds[i + 1]`` of the source.
    rows : int64 (rows,)
        Rows of the source that this matrix consists of, group by group; in any order within a group.
    n_columns : int
    memory : int
        Bytes that a backend may gather from the matrix at once.
    cells : int
        Floats read at once, unless a single group has more.
    """

    def __init__(
        self,
        read: Callable[[int, int], NDArray[np.float32]],
        bounds: IntArray,
        rows: IntArray,
        n_columns: int,
        memory: int,
        cells: int = CELLS_PER_BATCH,
    ) -> None:
        self._read = read
        self._bounds = bounds
        self._rows = rows
        self._cells = cells
        self.memory = memory
        self.shape = (len(rows), n_columns)
        group = np.searchsorted(bounds, rows, side="right") - 1
        if (np.diff(group) < 0).any():
            raise ValueError("rows: expected the rows of a group to be contiguous")
        #: First and last + 1 group of each batch.
        self._ranges: list[tuple[int, int]] = []
        for number in np.unique(group).tolist():
            first, last = self._ranges[-1] if self._ranges else (0, -1)
            if last == number and (bounds[number + 1] - bounds[first]) * n_columns <= cells:
                self._ranges[-1] = (first, number + 1)
            else:
                self._ranges.append((number, number + 1))
        ends = np.searchsorted(group, [last for _, last in self._ranges])
        #: Batch ``i`` is rows ``starts[i]:starts[i + 1]``.
        self.starts: IntArray = np.concatenate(([0], ends)).astype(np.int64)
        self._cached: tuple[int, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self._ranges)

    def batch(self, number: int) -> NDArray[np.float32]:
        """Rows ``starts[number]:starts[number + 1]``; the most recent batch is cached."""
        if self._cached is None or self._cached[0] != number:
            self.clear_cache()  # keep at most one batch in memory
            first, last = self._ranges[number]
            values = self._read(first, last)
            rows = self._rows[self.starts[number] : self.starts[number + 1]] - self._bounds[first]
            if len(rows) != len(values) or (np.diff(rows) != 1).any():
                values = values[rows]
            self._cached = number, values
        return self._cached[1]

    def batches(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All batches, each with its range of rows."""
        for number in range(self.n_batches):
            yield slice(int(self.starts[number]), int(self.starts[number + 1])), self.batch(number)
        self.clear_cache()

    def clear_cache(self) -> None:
        """Free the cached batch."""
        self._cached = None

    def __getitem__(self, index: NDArray[Any]) -> NDArray[np.float32]:
        """Gather rows into memory, by index in any order or by a bool mask; reads every required batch once."""
        rows = np.flatnonzero(index) if index.dtype == bool else index
        gathered = np.empty((len(rows), self.shape[1]), np.float32)
        batch_of = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(batch_of).tolist():
            positions = np.flatnonzero(batch_of == number)
            gathered[positions] = self.batch(number)[rows[positions] - self.starts[number]]
        return gathered

    def gathered(self) -> NDArray[np.float32]:
        """All rows in memory."""
        matrix = np.empty(self.shape, np.float32)
        for rows, batch in self.batches():
            matrix[rows] = batch
        return matrix

    def view(self, rows: IntArray) -> StreamedMatrix:
        """Select rows without reading them; rows of a group must be contiguous, and groups in order."""
        return StreamedMatrix(self._read, self._bounds, self._rows[rows], self.shape[1], self.memory, self._cells)


@dataclass(frozen=True, eq=False)
class Rows:
    """Query groups that a model is trained on.

    Parameters
    ----------
    X : float32 or float64 (rows, columns), or StreamedMatrix
    target : int64 or float64 (rows,)
        Lower is faster.
    indptr : int64 (groups + 1,)
    """

    X: Matrix | StreamedMatrix
    target: Target
    indptr: IntArray

    @property
    def sizes(self) -> IntArray:
        """Rows per group, int64 (groups,)."""
        return np.diff(self.indptr)

    @property
    def n_rankable(self) -> int:
        """Number of groups with at least two different targets."""
        return len(rankable(self.target, self.indptr))

    @property
    def matrix(self) -> Matrix:
        """All features in memory."""
        return self.X.gathered() if isinstance(self.X, StreamedMatrix) else self.X

    def take(self, rows: IntArray, indptr: IntArray) -> Rows:
        """Select rows with new group bounds, groups in order; a streamed matrix stays streamed."""
        X = self.X.view(rows) if isinstance(self.X, StreamedMatrix) else self.X[rows]
        return Rows(X, self.target[rows], indptr)

    def batches(self) -> Iterator[tuple[slice, Matrix]]:
        """Ranges of rows and their features, in batches of whole groups; a matrix in memory is a single batch."""
        if isinstance(self.X, StreamedMatrix):
            yield from self.X.batches()
        else:
            yield slice(0, len(self.X)), self.X


def rankable(target: Target, indptr: IntArray) -> list[slice]:
    """Rows of each group with at least two different targets."""
    return [slice(a, b) for a, b in pairwise(indptr.tolist()) if a < b and target[a:b].max() > target[a:b].min()]


# --- labels ----------------------------------------------------------------------------------------------------------


def ranks(target: Target, indptr: IntArray) -> IntArray:
    """Dense rank of every row within its group, int64 (rows,): 0 is the slowest, equal targets share a rank.

    Values are compared without a cast: int64 is exact, and so is float64 for quotients of runtimes below 2**50 by
    one normalizer per group (a cast to float32 would merge distinct runtimes from 2**24 ns = 17 ms on).
    """
    found = [np.unique(-target[a:b], return_inverse=True)[1] for a, b in pairwise(indptr.tolist())]
    return np.concatenate([np.zeros(0, np.int64), *found])


def normalised_rank(target: Target, indptr: IntArray) -> NDArray[np.float32]:
    """Dense rank scaled to [0, 1], float32 (rows,): 1 is the fastest; 1/2 in groups whose targets are all equal."""
    scaled = ranks(target, indptr).astype(np.float64)
    for start, stop in pairwise(indptr.tolist()):
        last = scaled[start:stop].max(initial=0)
        scaled[start:stop] = scaled[start:stop] / last if last else 0.5
    return scaled.astype(np.float32)


def relative_speed(target: Target, indptr: IntArray) -> NDArray[np.float32]:
    """Speed relative to the fastest row of the group, float32 (rows,) in (0, 1].

    Differences among fast rows, which matter for choosing the best few, are larger than among slow rows.  Groups with
    targets that are not positive or are all equal have their :func:`normalised_rank` instead.
    """
    label = normalised_rank(target, indptr)
    for start, stop in pairwise(indptr.tolist()):
        runtime = target[start:stop].astype(np.float64)
        if len(runtime) and 0 < runtime.min() < runtime.max():
            label[start:stop] = runtime.min() / runtime
    return label


#: Labels of least-squares objectives.
REGRESSION_LABELS: Final = {"l2": normalised_rank, "speed": relative_speed}


# --- samples ---------------------------------------------------------------------------------------------------------


def subsample(start: int, stop: int, most: int, rng: np.random.Generator) -> IntArray:
    """All rows ``start`` to ``stop - 1``, or ``most`` random ones of them, ascending."""
    rows = np.arange(start, stop)
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def sample(indptr: IntArray, most: int, seed: int) -> tuple[IntArray, IntArray]:
    """Sample at most ``most`` rows of every group, uniformly; returns ascending rows and the bounds of their groups.

    On held-out tile kernels, a sample that is stratified by runtime was no better, and one of pairs of close runtimes
    was worse, by .01 to .08 of tau.
    """
    rng = np.random.default_rng(seed)
    found = [subsample(start, stop, most, rng) for start, stop in pairwise(indptr.tolist())]
    return np.concatenate([np.zeros(0, np.int64), *found]), np.cumsum([0, *map(len, found)], dtype=np.int64)


def largest_cap(sizes: IntArray, rows: int) -> int:
    """Largest number of rows per group so that all groups together have at most ``rows``; at least 2."""
    if sizes.sum() <= rows:
        return max(2, int(sizes.max(initial=2)))
    # Groups by size: the first i stay complete, the others share the remaining rows.
    ordered = np.sort(sizes)
    whole = np.concatenate(([0], np.cumsum(ordered)[:-1]))
    share = (rows - whole) // np.arange(len(ordered), 0, -1)
    return max(2, int(share[np.argmax(share < ordered)]))


def in_memory(rows: Rows, seed: int) -> Rows:
    """As many rows of every group as fit in memory; ``rows`` itself if it is in memory."""
    if not isinstance(rows.X, StreamedMatrix):
        return rows
    n_floats = rows.X.memory // np.dtype(np.float32).itemsize
    kept, indptr = sample(rows.indptr, largest_cap(rows.sizes, n_floats // rows.X.shape[1]), seed)
    return Rows(rows.X.view(kept).gathered(), rows.target[kept], indptr)


def held_out_folds(group: NDArray[Any], most: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Kept and held-out rows of at most ``most`` folds: whole groups, or rows if there is a single one."""
    from sklearn.model_selection import GroupKFold, KFold  # slow to import

    n_groups = len(np.unique(group))
    if n_groups > 1:
        yield from GroupKFold(min(most, n_groups)).split(group, groups=group)
    else:
        yield from KFold(min(most, len(group)), shuffle=True, random_state=0).split(group)


def even_parts(sizes: IntArray, n_parts: int, order: IntArray) -> IntArray:
    """Distribute groups greedily over parts of about equal numbers of rows; returns the part of each group.

    ``order`` is the order of assignment, the largest group first.  An empty group counts as one row, so that none of
    the parts, as many as ``n_parts`` or the groups, stays empty.
    """
    load = np.zeros(min(n_parts, len(sizes)), np.int64)
    part_of = np.empty(len(sizes), np.int64)
    for group in order:
        part_of[group] = load.argmin()
        load[part_of[group]] += max(1, sizes[group])
    return part_of
