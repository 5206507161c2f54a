"""Copies that a configuration implies: where a producer's layout and its consumer's disagree, data must be moved.

Disagreements are looked for along every edge of the meta-graph, and between the two sides of a configurable reshape.
Partial layouts are compared as far as they go; a dimension that does not survive the path says nothing.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import MAX_RANK
from features.layout.links import GROUPS, Links
from features.layout.nodes import RowValues
from features.layout.pairs import PairTable, Places
from features.layout.traffic import COLUMNS
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]

#: Stands for "no dimension" where dimensions take three bits.
_NONE: Final = 7
#: Bits of a count of links where three of them share a word.
_FIELD: Final = 21

KINDS: Final = (
    ("minor", "whose minor-most dimensions differ, both layouts set"),
    ("any", "whose layouts differ, both set"),
    ("soft", "whose minor-most dimensions differ, the graph's own layout standing in where none is set"),
)
_GROUP_DOC: Final = {
    "convolution": "tensors that feed a configurable convolution",
    "dot": "tensors that feed a configurable dot",
    "reshape": "tensors that feed a configurable reshape",
    "inside": "configurable reshapes, between input and output,",
    "all": "tensors between configurable nodes",
}

#: Columns of disagreements; those of :mod:`features.layout.traffic` follow.
DISAGREEMENTS: Final = tuple(
    column
    for group in GROUPS
    for kind, doc in KINDS
    for column in (
        Column(f"{group}.{kind}.count", "share", f"Part of the {_GROUP_DOC[group]} {doc}"),
        Column(f"{group}.{kind}.share", "share", f"The same, by bytes: {_GROUP_DOC[group]} {doc}"),
        Column(f"{group}.{kind}.bytes", "log2", f"Bytes of the {_GROUP_DOC[group]} {doc}"),
    )
)
BLOCK: Final = Block(
    "copies",
    2,
    "Disagreements between the layouts of connected configurable nodes, and the copies that layouts cost.",
    (*DISAGREEMENTS, *COLUMNS),
    per_config=True,
)


@kernel()
def _write(counts, sizes, totals, out):  # type: ignore[no-untyped-def]
    n_groups, _, n_configs = counts.shape
    for config in range(n_configs):
        place = 0
        for number in range(n_groups + 1):
            for kind in range(3):
                amount, size = 0.0, 0.0
                if number < n_groups:
                    amount, size = np.float64(counts[number, kind, config]), sizes[number, kind, config]
                else:
                    for each in range(n_groups):
                        amount += counts[each, kind, config]
                        size += sizes[each, kind, config]
                out[config, place] = amount / max(totals[number, 0], 1.0)
                out[config, place + 1] = size / max(totals[number, 1], 1.0)
                out[config, place + 2] = np.log2(1.0 + size)
                place += 3


@kernel()
def _differences(first, second, origin):  # type: ignore[no-untyped-def]
    """Tell which of :data:`KINDS` of disagreement there are between two states.  Free of branches."""
    minor = (origin >> (np.int32(3) * (first & np.int32(7)))) & np.int32(7)
    next_minor = (origin >> (np.int32(3) * ((first >> np.int32(3)) & np.int32(7)))) & np.int32(7)
    wanted, next_wanted = second & np.int32(7), (second >> np.int32(3)) & np.int32(7)
    differs = np.int32((minor != 7) & (wanted != 7) & (minor != wanted))
    next_differs = np.int32((next_minor != 7) & (next_wanted != 7) & (next_minor != next_wanted))
    both = (first & second) >> np.int32(6)
    return both & differs, both & (differs | next_differs), differs


@kernel()
def _count_copies(  # type: ignore[no-untyped-def]
    columns, states, origins, pairs, roles, group, nbytes, totals, out
):
    """Count copies link by link; links of one size, which follow each other, are only counted until the last."""
    n_configs, n_links, n_groups = columns.shape[1], len(pairs), len(totals) - 1
    counts = np.zeros((n_groups, 3, n_configs), np.int32)
    sizes = np.zeros((n_groups, 3, n_configs))
    alike = np.zeros((3, n_configs), np.int32)
    for link in range(n_links):
        own, other, origin, size = roles[link, 0], roles[link, 1], origins[link], nbytes[link]
        producers, consumers = columns[pairs[link, 0]], columns[pairs[link, 1]]
        here, there = states[own], states[other]
        for config in range(n_configs):  # innermost, and free of branches: it becomes vector instructions
            strict, loose, differs = _differences(here[producers[config]], there[consumers[config]], origin)
            alike[0, config] += strict
            alike[1, config] += loose
            alike[2, config] += differs
        if link + 1 == n_links or group[link + 1] != group[link] or nbytes[link + 1] != size:
            for kind in range(3):
                for config in range(n_configs):
                    counts[group[link], kind, config] += alike[kind, config]
                    sizes[group[link], kind, config] += alike[kind, config] * size
                    alike[kind, config] = 0
    _write(counts, sizes, totals, out)


@kernel()
def _tabulate(rows, of_node, states, origins, pairs, roles, first, words):  # type: ignore[no-untyped-def]
    """Tell all pairs of rows of every link: the three kinds, one in every field of a word."""
    for link in range(len(pairs)):
        place = first[link]
        here, there = states[roles[link, 0]], states[roles[link, 1]]
        for one in range(of_node[pairs[link, 0]], of_node[pairs[link, 0] + 1]):
            for two in range(of_node[pairs[link, 1]], of_node[pairs[link, 1] + 1]):
                strict, loose, differs = _differences(here[rows[one]], there[rows[two]], origins[link])
                words[place] = np.int64(strict) | np.int64(loose) << _FIELD | np.int64(differs) << 2 * _FIELD
                place += 1


@kernel()
def _count_pairs(places, pairs, group, nbytes, totals, first, width, words, out):  # type: ignore[no-untyped-def]
    """Count copies as above, but by what is known of the pairs of rows."""
    n_configs, n_links, n_groups = places.shape[1], len(pairs), len(totals) - 1
    counts = np.zeros((n_groups, 3, n_configs), np.int32)
    sizes = np.zeros((n_groups, 3, n_configs))
    alike = np.zeros(n_configs, np.int64)
    for link in range(n_links):
        producers, consumers, wide = places[pairs[link, 0]], places[pairs[link, 1]], width[link]
        told = words[first[link] : first[link + 1]]
        for config in range(n_configs):
            alike[config] += told[producers[config] * wide + consumers[config]]
        size = nbytes[link]
        if link + 1 == n_links or group[link + 1] != group[link] or nbytes[link + 1] != size:
            for kind in range(3):
                for config in range(n_configs):
                    count = alike[config] >> kind * _FIELD & (1 << _FIELD) - 1
                    counts[group[link], kind, config] += count
                    sizes[group[link], kind, config] += count * size
            alike[:] = 0
    _write(counts, sizes, totals, out)


def order_states(values: RowValues) -> NDArray[np.int32]:
    """What the links ask of every row, int32 (3, rows).

    Three bits each for the minor-most and the second minor dimension (7: none), and one that says whether the tensor's
    layout is set.
    """
    minors = np.where(values.minors < 0, _NONE, values.minors)
    state = minors[:, :, 0] | minors[:, :, 1] << 3 | values.is_set.astype(np.int64) << 6
    return np.ascontiguousarray(state.T, np.int32)


class CopyCounter:
    """Counts the copies of coded configurations.

    Parameters
    ----------
    of : Links
    """

    def __init__(self, of: Links) -> None:
        order = np.lexsort((of.nbytes, of.group))
        self._links = of = Links(*(getattr(of, field.name)[order] for field in fields(of)))
        origin = np.where(of.origin < 0, _NONE, of.origin)
        dims = np.arange(MAX_RANK)
        # Seven dimensions of three bits each; the last stands for "no such dimension" and leads to itself.
        self._origins = ((origin << 3 * dims).sum(axis=1) | _NONE << 3 * _NONE).astype(np.int32)
        n_groups = len(GROUPS) - 1
        totals = np.zeros((n_groups + 1, 2))
        for number in range(n_groups):
            own = of.group == number
            totals[number] = own.sum(), of.nbytes[own].sum()
        totals[-1] = totals[:-1].sum(axis=0)
        self._totals = totals

    def count(self, columns: NDArray[np.uint32], states: NDArray[np.int32], out: Float32Array) -> None:
        """Write :data:`DISAGREEMENTS`.

        Parameters
        ----------
        columns : uint32 (nodes, b)
            Coded configurations, C-contiguous.
        states : int32 (3, rows)
            Of all rows, by :func:`order_states`.
        out : float32 (b, len(DISAGREEMENTS))
        """
        of = self._links
        _count_copies(columns, states, self._origins, of.nodes, of.roles, of.group, of.nbytes, self._totals, out)

    def tabulate(self, states: NDArray[np.int32], places: Places) -> PairTable | None:
        """Work out what links ask of every pair of the rows that are known so far, for :meth:`count_pairs`.

        Parameters
        ----------
        states : int32 (3, rows)
            Of all rows, by :func:`order_states`.
        places : Places
        """
        of = self._links
        found = places.pairs(of.nodes) if len(of.nodes) < 1 << _FIELD else None
        if found is not None:
            _tabulate(places.rows, places.first, states, self._origins, of.nodes, of.roles, found.first, found.words)
        return found

    def count_pairs(self, turned: NDArray[np.uint8], told: PairTable, out: Float32Array) -> None:
        """Write :data:`DISAGREEMENTS` as :meth:`count` does, by what is known of pairs of rows.

        Parameters
        ----------
        turned : uint8 (nodes, b)
            Of :meth:`features.layout.pairs.Places.turned`.
        told : PairTable
            Of :meth:`tabulate`.
        out : float32 (b, len(DISAGREEMENTS))
        """
        of = self._links
        _count_pairs(turned, of.nodes, of.group, of.nbytes, self._totals, told.first, told.width, told.words, out)

    def by_link(self, columns: NDArray[np.uint32], states: NDArray[np.int32]) -> tuple[Links, NDArray[np.bool_]]:
        """Tell for every link by itself which of :data:`KINDS` of disagreement there are.

        Parameters
        ----------
        columns, states
            As for :meth:`count`.

        Returns
        -------
        Links
            In the order of what follows.
        bool (links, b, len(KINDS))
        """
        of, n_links, n_kinds = self._links, len(self._links.nodes), len(KINDS)
        out = np.empty((columns.shape[1], (n_links + 1) * 3 * n_kinds), np.float32)
        one_each = np.ones((n_links + 1, 2))
        _count_copies(columns, states, self._origins, of.nodes, of.roles, np.arange(n_links), of.nbytes, one_each, out)
        counts = out.reshape(len(out), n_links + 1, n_kinds, 3)[:, :-1, :, 0]
        return of, np.ascontiguousarray(counts.transpose(1, 0, 2) > 0)
