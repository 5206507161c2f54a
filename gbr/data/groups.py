"""Ragged tables: the configurations of several graphs, one slate after the other in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gbr.errors import DataError, UsageError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class QueryGroups:
    """The rows (configurations) of several graphs.  A slate is the rows of one graph; they are contiguous.

    Parameters
    ----------
    names : tuple of str
        Stems of the graphs' files, one per slate.
    indptr : int64 (slates + 1,)
        Slate ``i`` is rows ``indptr[i]:indptr[i + 1]``.
    columns : tuple of str
        Full column names, ``<block>.<column>``.
    X : float32 (rows, len(columns))
    runtime, normalizer, repeat : int64 (rows,) or None
        Measured runtime [ns], what to divide it by, an independent second measurement [ns].  None where no slate has
        them; 0 on the rows of a slate that has none while others do.
    duplicate_of : int64 (rows,)
        Row number within the slate of the first identical configuration; its own where it is the first.
    """

    names: tuple[str, ...]
    indptr: IntArray
    columns: tuple[str, ...]
    X: NDArray[np.float32]
    runtime: IntArray | None
    normalizer: IntArray | None
    repeat: IntArray | None
    duplicate_of: IntArray

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def sizes(self) -> IntArray:
        """Rows per slate, int64 (slates,)."""
        return np.diff(self.indptr)

    @cached_property
    def qid(self) -> IntArray:
        """Slate number of every row, int64 (rows,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)

    @cached_property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether a slate has measured runtimes, bool (slates,)."""
        if self.runtime is None:
            return np.zeros(len(self), bool)
        # A slate has runtimes on all its rows or on none (gbr.data.graph refuses anything between).
        known = np.zeros(len(self), bool)
        full = self.sizes > 0
        known[full] = self.runtime[self.indptr[:-1][full]] > 0
        return known

    @cached_property
    def target(self) -> NDArray[np.float64]:
        """What is ranked, lower is faster: runtime / normalizer where there is one, else the runtime; float64 (rows,).

        Raises
        ------
        DataError
            When a slate has no runtimes.
        """
        unknown = [self.names[slate] for slate in np.flatnonzero(~self.is_labelled)]
        if self.runtime is None or unknown:
            first = f" (first: {unknown[0]})" if unknown else ""
            raise DataError(
                f"{len(unknown)} of {len(self)} graphs have no measured runtimes{first}; "
                "take a split with runtimes (the test files of TpuGraphs have none)"
            )
        if self.normalizer is None:
            return self.runtime.astype(np.float64)
        return self.runtime / np.where(self.normalizer > 0, self.normalizer, 1)

    def slate(self, number: int) -> slice:
        """Rows of one slate."""
        return slice(int(self.indptr[number]), int(self.indptr[number + 1]))

    def take(self, slates: ArrayLike) -> QueryGroups:
        """Pick slates by number (in the order given, repeats allowed) or by a bool mask.

        Neighbours in order come as views, any other choice as a copy.

        Raises
        ------
        UsageError
            For a number that is no slate, or a mask of another length.
        """
        picked = self._numbers(np.asarray(slates))
        sizes = self.sizes[picked]
        indptr = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        rows: slice | IntArray
        if len(picked) and (np.diff(picked) == 1).all():
            rows = slice(int(self.indptr[picked[0]]), int(self.indptr[picked[-1] + 1]))
        else:
            rows = np.arange(indptr[-1]) + np.repeat(self.indptr[picked] - indptr[:-1], sizes)
        return QueryGroups(
            names=tuple(self.names[number] for number in picked),
            indptr=indptr,
            columns=self.columns,
            X=self.X[rows],
            runtime=None if self.runtime is None else self.runtime[rows],
            normalizer=None if self.normalizer is None else self.normalizer[rows],
            repeat=None if self.repeat is None else self.repeat[rows],
            duplicate_of=self.duplicate_of[rows],
        )

    def labelled(self) -> QueryGroups:
        """The slates with measured runtimes (this object itself when all have them)."""
        return self if self.is_labelled.all() else self.take(self.is_labelled)

    def select(self, columns: Iterable[str]) -> QueryGroups:
        """Keep some columns, in their present order.

        Parameters
        ----------
        columns : iterable of str
            Full column names, or names of blocks, which stand for all their columns.

        Raises
        ------
        UsageError
            For a name that is neither.
        """
        wanted = list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
        keep = np.zeros(len(self.columns), bool)
        for name in wanted:
            hits = matching(self.columns, name)
            if not len(hits):
                blocks = ", ".join(block_names(self.columns))
                raise UsageError(f"columns: {name!r} is neither a column nor a block; blocks are {blocks}")
            keep[hits] = True
        if keep.all():
            return self
        places = np.flatnonzero(keep)
        return replace(self, columns=tuple(self.columns[place] for place in places), X=self.X[:, places])

    def _numbers(self, slates: NDArray[np.generic]) -> IntArray:
        if slates.dtype == bool:
            if slates.shape != (len(self),):
                raise UsageError(f"slates: got a mask of shape {slates.shape}, want ({len(self)},)")
            return np.flatnonzero(slates).astype(np.int64)
        numbers = slates.astype(np.int64).reshape(-1)
        wrong = numbers[(numbers < 0) | (numbers >= len(self))]
        if len(wrong):
            raise UsageError(f"slates: number {wrong[0]} of {len(self)}; want 0 to {len(self) - 1}")
        return numbers


def block_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Blocks of full column names, in order of appearance."""
    return tuple(dict.fromkeys(name.split(".", 1)[0] for name in columns))


def matching(columns: Sequence[str], name: str) -> IntArray:
    """Places of the column ``name``, or of all columns of the block ``name``; empty where it is neither."""
    return _places(tuple(columns)).get(name, np.empty(0, np.int64))


@lru_cache(maxsize=8)
def _places(columns: tuple[str, ...]) -> dict[str, IntArray]:
    # A store has more than a thousand columns, and whoever loads a graph names most of them.
    places: dict[str, list[int]] = {}
    for place, full in enumerate(columns):
        parts = full.split(".")
        for end in range(1, len(parts) + 1):
            places.setdefault(".".join(parts[:end]), []).append(place)
    return {name: np.array(found, np.int64) for name, found in places.items()}
