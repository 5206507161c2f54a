"""Graphs of a collection, and protocols: which graphs are learnt from, which are stopped on, and which are ranked.

Nothing about a held-out graph is used before it is scored: early stopping uses graphs that were taken from the training
graphs in the way in which the protocol takes the held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.build import build
from gbr.data.collection import Subset, family, splits_present
from gbr.data.groups import QueryGroups, unrankable
from gbr.data.store import FeatureStore
from gbr.errors import DataError, UsageError
from gbr.search import folds as family_groups
from gbr.train import fingerprint


@dataclass(frozen=True, eq=False)
class Pool:
    """Graphs to learn from and to rank.

    Parameters
    ----------
    subset : Subset
    groups : QueryGroups
        Rankable query groups with runtimes, split after split.
    splits, families : str (graphs,)
    schema_hash : str
        Of the features.
    data : dict
        Fingerprint of the graph files by split.
    """

    subset: Subset
    groups: QueryGroups
    splits: NDArray[np.str_]
    families: NDArray[np.str_]
    schema_hash: str
    data: dict[str, str]


def load(subset: Subset, data: Path, store_root: Path, jobs: int | None) -> Pool:
    """Build the features that the store lacks and read all splits.

    Raises
    ------
    DataError
        When no graph can be ranked.
    """
    splits = splits_present(subset, data)
    build(subset, data, store_root, splits, jobs)
    store = FeatureStore(store_root, subset.name)
    parts = []
    for split in splits:
        known = store.load(split).labelled()
        bounds = [known.rows(number) for number in range(len(known))]
        parts.append(known.take([not unrankable(known.target[rows], known.duplicate_of[rows]) for rows in bounds]))
    if not sum(map(len, parts)):
        raise DataError(f"{subset.folder(data)}: no graph can be ranked; name another collection with --subset")
    merged = joined(parts)
    return Pool(
        subset=subset,
        groups=merged,
        splits=np.repeat(np.array(splits), [len(part) for part in parts]),
        families=np.array([family(subset.kind, name) for name in merged.names]),
        schema_hash=store.manifest["schema"]["hash"],
        data={split: fingerprint(store, split) for split in splits},
    )


def joined(parts: list[QueryGroups]) -> QueryGroups:
    """Concatenate query groups with the same columns."""
    sizes = np.concatenate([part.sizes for part in parts])

    def measured(name: str) -> NDArray[np.int64] | None:
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            return None
        pairs = zip(parts, values, strict=True)
        return np.concatenate([np.zeros(len(part.X), np.int64) if value is None else value for part, value in pairs])

    return QueryGroups(
        names=tuple(name for part in parts for name in part.names),
        indptr=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        columns=parts[0].columns,
        X=np.concatenate([part.X for part in parts]),
        runtime=measured("runtime"),
        normalizer=measured("normalizer"),
        repeat=measured("repeat"),
        duplicate_of=np.concatenate([part.duplicate_of for part in parts]),
    )


BoolArray = NDArray[np.bool_]
Names = NDArray[np.str_]

#: The share of the training graphs that a booster stops on is one of so many groups.
INNER: Final = 10


@dataclass(frozen=True, eq=False)
class Fold:
    """One training and what it is scored on.

    Parameters
    ----------
    learn, held : bool (graphs,)
    stop : bool (graphs,) or None
        What early stopping looks at; None for a fixed number of rounds.
    """

    learn: BoolArray
    stop: BoolArray | None
    held: BoolArray

    @property
    def known(self) -> BoolArray:
        """All graphs that may be used before scoring, bool (graphs,)."""
        return self.learn if self.stop is None else self.learn | self.stop


@dataclass(frozen=True, eq=False)
class Protocol:
    """A way of holding graphs out.

    Parameters
    ----------
    name, title : str
    folds : list of Fold
        No graph is held out twice.
    """

    name: str
    title: str
    folds: list[Fold]

    @property
    def held(self) -> BoolArray:
        """Graphs that are ranked in any fold, bool (graphs,)."""
        return np.asarray(np.any([fold.held for fold in self.folds], axis=0))


def protocols(kind: str, families: Names, splits: Names, n_folds: int, *, stop: bool, seed: int = 0) -> list[Protocol]:
    """Protocols of a kind of collection, the first of them families held out.

    Parameters
    ----------
    kind : str
        ``tile`` or ``layout``.
    families, splits : str (graphs,)
    n_folds : int
        Groups of families; 0 leaves out one family at a time.
    stop : bool
        Whether cross-validation sets graphs aside to stop on.  The official split stops on ``valid`` in any case.
    seed : int

    Raises
    ------
    UsageError
        With fewer than three families there is nothing to hold out and to stop on.
    """
    several = len(np.unique(families))
    if several < 3:
        raise UsageError(f"quality: the collection has {several} families of graphs; want at least 3 to hold some out")

    def families_apart(known: Names, groups: int) -> list[BoolArray]:
        # One family alone has none to set aside: nothing is stopped on.
        return family_groups(list(known), groups, seed) if len(np.unique(known)) > 1 else []

    def graphs_apart(known: Names, groups: int) -> list[BoolArray]:
        return family_groups([str(number) for number in range(len(known))], groups, seed)

    by_family = families_apart(families, n_folds or several)
    held = "one family" if len(by_family) == several else f"one of {len(by_family)} groups of families"
    found = [_crossed("family", f"Family held out ({held} at a time)", by_family, families, families_apart, stop)]
    if kind == "tile":
        masks = one_of_each(families, n_folds, seed)
        found.append(_crossed("graph", "Graph held out, family seen", masks, families, graphs_apart, stop))
    else:
        masks = list(np.eye(len(families), dtype=bool))
        found.append(_crossed("program", "Program held out (one at a time)", masks, families, graphs_apart, stop))
    there = set(splits.tolist())
    if {"train", "test"} <= there:
        valid = splits == "valid" if "valid" in there else None
        official = Fold(splits == "train", valid, splits == "test")
        found.append(Protocol("official", "Official split (train, stopped on valid, scored on test)", [official]))
    return [protocol for protocol in found if protocol.folds]


def one_of_each(families: Names, n_folds: int, seed: int) -> list[BoolArray]:
    """One graph of each family per fold, bool (graphs,) each.

    A graph alone in its family is never held out; at most ``n_folds`` (0: all) graphs of a family are.
    """
    rng = np.random.default_rng(seed)
    place = np.full(len(families), -1)
    for name in np.unique(families):
        members = np.flatnonzero(families == name)
        if len(members) > 1:
            place[rng.permutation(members)] = np.arange(len(members))
    count = int(place.max()) + 1
    return [place == number for number in range(min(count, n_folds) if n_folds else count)]


def _crossed(
    name: str,
    title: str,
    masks: list[BoolArray],
    families: Names,
    inner: Callable[[Names, int], list[BoolArray]],
    stop: bool,
) -> Protocol:
    folds = []
    for held in masks:
        known = np.flatnonzero(~held)
        aside = np.zeros(len(held), bool)
        groups = inner(families[known], INNER) if stop else []
        if groups:
            aside[known[groups[0]]] = True
        folds.append(Fold(~held & ~aside, aside if groups else None, held))
    return Protocol(name, title, folds)
