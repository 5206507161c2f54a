"""Query groups: the configurations of several graphs, concatenated in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gbr.errors import DataError, UsageError

IntArray = NDArray[np.int64]

#: Runtime of a configuration that failed; its target is infinite.
FAILED: Final = 1 << 62


@dataclass(frozen=True, eq=False)
class QueryGroups:
    """Feature rows of several graphs.  A group is the configurations of one graph; its rows are contiguous.

    Parameters
    ----------
    names : tuple of str
        File stem of the graph of each group.
    indptr : int64 (groups + 1,)
        Group ``i`` is rows ``indptr[i]:indptr[i + 1]``.
    columns : tuple of str
        Full column names, ``<block>.<column>``.
    X : float32 (rows, len(columns))
    runtime, normalizer, repeat : int64 (rows,) or None
        Measured runtime [ns], its divisor, and an independent second measurement [ns].  None if no group has them; 0 in
        groups without them if other groups have them.
    duplicate_of : int64 (rows,)
        Row index within the group of the first identical configuration; its own index for the first one.
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
        """Rows per group, int64 (groups,)."""
        return np.diff(self.indptr)

    @cached_property
    def qid(self) -> IntArray:
        """Group index of every row, int64 (rows,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)

    @cached_property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether each group has measured runtimes, bool (groups,)."""
        # A group has rows, and runtimes for all of them or for none, as read_graph ensures.
        return np.zeros(len(self), bool) if self.runtime is None else self.runtime[self.indptr[:-1]] > 0

    @cached_property
    def target(self) -> NDArray[np.float64]:
        """Ranking target, lower is faster: runtime / normalizer where there is one, else runtime; float64 (rows,).

        Infinite for failed configurations, which only measured tables have.  A :class:`DataError` if a group has no
        runtimes.
        """
        unknown = [self.names[group] for group in np.flatnonzero(~self.is_labelled)]
        if self.runtime is None or unknown:
            first = f" (first: {unknown[0]})" if unknown else ""
            raise DataError(
                f"{len(unknown)} of {len(self)} graphs have no measured runtimes{first}; "
                "use a split with runtimes (the test files of TpuGraphs have none)"
            )
        divisor = 1 if self.normalizer is None else np.where(self.normalizer > 0, self.normalizer, 1)
        return np.where(self.runtime == FAILED, np.inf, self.runtime / divisor)

    def rows(self, group: int) -> slice:
        """Rows of one group."""
        return slice(int(self.indptr[group]), int(self.indptr[group + 1]))

    def take(self, groups: ArrayLike) -> QueryGroups:
        """Select groups by index (in the given order, repeats allowed) or by a boolean mask.

        Consecutive groups are returned as views, any other selection as a copy.

        Raises
        ------
        UsageError
            For an index out of range, or a mask of another length.
        """
        picked = np.asarray(groups)
        if picked.dtype == bool:
            if picked.shape != (len(self),):
                raise UsageError(f"groups: expected a mask of shape ({len(self)},), got {picked.shape}")
            picked = np.flatnonzero(picked)
        picked = picked.astype(np.int64).reshape(-1)
        wrong = picked[(picked < 0) | (picked >= len(self))]
        if len(wrong):
            raise UsageError(f"groups: expected indices from 0 to {len(self) - 1}, got {wrong[0]}")
        sizes = self.sizes[picked]
        indptr = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        rows: slice | IntArray
        if len(picked) and (np.diff(picked) == 1).all():
            rows = slice(int(self.indptr[picked[0]]), int(self.indptr[picked[-1] + 1]))
        else:
            rows = np.arange(indptr[-1]) + np.repeat(self.indptr[picked] - indptr[:-1], sizes)
        return QueryGroups(
            names=tuple(self.names[group] for group in picked),
            indptr=indptr,
            columns=self.columns,
            X=self.X[rows],
            runtime=None if self.runtime is None else self.runtime[rows],
            normalizer=None if self.normalizer is None else self.normalizer[rows],
            repeat=None if self.repeat is None else self.repeat[rows],
            duplicate_of=self.duplicate_of[rows],
        )

    def labelled(self) -> QueryGroups:
        """The groups with measured runtimes; this object if all have them."""
        return self if self.is_labelled.all() else self.take(self.is_labelled)

    def select(self, columns: Iterable[str]) -> QueryGroups:
        """Select columns; they keep their order.

        Parameters
        ----------
        columns : iterable of str
            Full column names, or block names, which select all their columns.

        Raises
        ------
        UsageError
            For an unknown name.
        """
        kept = select_columns(self.columns, columns)
        if len(kept) == len(self.columns):
            return self
        return replace(self, columns=tuple(self.columns[index] for index in kept), X=self.X[:, kept])


def unrankable(target: NDArray[np.float64], duplicate_of: IntArray) -> str | None:
    """Return the reason why a group cannot be ranked, or None if it can.

    Parameters
    ----------
    target : float64 (n,)
    duplicate_of : int64 (n,)
        Row index of the first identical configuration.
    """
    worked = np.isfinite(target)
    if not worked.all():
        target, duplicate_of = target[worked], duplicate_of[worked]
    if len(target) < 2:
        return "fewer than 2 configurations" if worked.all() else "fewer than 2 configurations that did not fail"
    if (target == target[0]).all():
        return "all runtimes are equal"
    if (duplicate_of == duplicate_of[0]).all():
        return "all configurations are identical"
    return None


def block_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Blocks of full column names, in order of appearance."""
    return tuple(dict.fromkeys(name.split(".", 1)[0] for name in columns))


def column_indices(columns: Sequence[str], name: str) -> IntArray:
    """Indices of the column ``name``, or of all columns of the block ``name``; empty if it is neither."""
    return np.flatnonzero([full == name or full.startswith(f"{name}.") for full in columns])


def select_columns(columns: Sequence[str], names: str | Iterable[str]) -> IntArray:
    """Ascending indices of columns, given by their full names or by the names of their blocks.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    # There may be more than a thousand columns and names.
    index = {name: [number] for number, name in enumerate(columns)}
    keep = np.zeros(len(columns), bool)
    for name in [names] if isinstance(names, str) else names:
        found = index.get(name) or column_indices(columns, name)
        if not len(found):
            blocks = ", ".join(block_names(columns))
            raise UsageError(f"columns: {name!r} is neither a column nor a block; blocks are {blocks}")
        keep[found] = True
    return np.flatnonzero(keep)
