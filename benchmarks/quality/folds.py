"""Graphs of a collection, and protocols: which graphs are trained on, stop training early, and are ranked.

Held-out graphs are not used before they are scored: early stopping uses graphs taken from the training graphs in the
same way as the protocol takes the held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.hardware import Hardware
from gbr.data.build import build
from gbr.data.collection import Subset, family, splits_present
from gbr.data.groups import QueryGroups, unrankable
from gbr.data.store import FeatureStore
from gbr.errors import DataError, UsageError
from gbr.search import folds as family_groups
from gbr.train import fingerprint

BoolArray = NDArray[np.bool_]
Names = NDArray[np.str_]

#: Early stopping takes one group of this many from the training graphs.
INNER: Final = 10


@dataclass(frozen=True, eq=False)
class Pool:
    """All rankable graphs of a collection, in the order of splits; ``data`` are fingerprints of the files by split."""

    subset: Subset
    groups: QueryGroups
    splits: Names
    families: Names
    schema_hash: str
    data: dict[str, str]
    hardware: Hardware


def load(subset: Subset, data: Path, store_root: Path, jobs: int | None) -> Pool:
    """Build missing features and read all splits."""
    splits = splits_present(subset, data)
    build(subset, data, store_root, splits, jobs)
    store = FeatureStore(store_root, subset.name)
    parts = []
    for split in splits:
        known = store.load(split).labelled()
        bounds = [known.rows(number) for number in range(len(known))]
        parts.append(known.take([not unrankable(known.target[rows], known.duplicate_of[rows]) for rows in bounds]))
    if not sum(map(len, parts)):
        raise DataError(f"{subset.folder(data)}: no graph can be ranked; choose another collection with --subset")
    merged = joined(parts)
    return Pool(
        subset=subset,
        groups=merged,
        splits=np.repeat(np.array(splits), [len(part) for part in parts]),
        families=np.array([family(subset.kind, name) for name in merged.names]),
        schema_hash=store.manifest["schema"]["hash"],
        data={split: fingerprint(store, split) for split in splits},
        hardware=store.hardware,
    )


def joined(parts: list[QueryGroups]) -> QueryGroups:
    """Concatenate query groups with the same columns."""

    def measured(name: str) -> NDArray[np.int64] | None:
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            return None
        pairs = zip(parts, values, strict=True)
        return np.concatenate([np.zeros(len(part.X), np.int64) if value is None else value for part, value in pairs])

    return QueryGroups(
        names=tuple(name for part in parts for name in part.names),
        indptr=np.cumsum([0, *(size for part in parts for size in part.sizes)], dtype=np.int64),
        columns=parts[0].columns,
        X=np.concatenate([part.X for part in parts]),
        runtime=measured("runtime"),
        normalizer=measured("normalizer"),
        repeat=measured("repeat"),
        duplicate_of=np.concatenate([part.duplicate_of for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Fold:
    """Graphs of one training, for early stopping (None: a fixed number of rounds), and to score; bool (graphs,)."""

    learn: BoolArray
    stop: BoolArray | None
    held: BoolArray

    @property
    def known(self) -> BoolArray:
        """All graphs that may be used before scoring, bool (graphs,)."""
        return self.learn if self.stop is None else self.learn | self.stop


@dataclass(frozen=True, eq=False)
class Protocol:
    """A way of holding graphs out, each at most once."""

    name: str
    title: str
    folds: list[Fold]

    @property
    def held(self) -> BoolArray:
        """Graphs that any fold holds out, bool (graphs,)."""
        return np.asarray(np.any([fold.held for fold in self.folds], axis=0))


def protocols(kind: str, families: Names, splits: Names, n_folds: int, seed: int = 0) -> list[Protocol]:
    """Protocols of a kind of collection; the first one holds out families.

    ``families`` and ``splits`` are str (graphs,), ``n_folds`` groups of families; 0 holds out one family at a time.
    """
    n_families = len(np.unique(families))
    if n_families < 3:  # one to hold out, one for early stopping, one to train on
        raise UsageError(f"quality: expected at least 3 families of graphs, got {n_families}; use a larger collection")

    def by_family(known: Names, n_groups: int) -> list[BoolArray]:
        return family_groups(list(known), n_groups, seed) if len(np.unique(known)) > 1 else []

    def by_graph(known: Names, n_groups: int) -> list[BoolArray]:
        return family_groups([str(number) for number in range(len(known))], n_groups, seed)

    def crossed(name: str, title: str, masks: list[BoolArray], inner: Callable[..., list[BoolArray]]) -> Protocol:
        folds = []
        for held in masks:
            known = np.flatnonzero(~held)
            groups = inner(families[known], INNER)
            stop = np.zeros(len(held), bool)
            if groups:
                stop[known[groups[0]]] = True
            folds.append(Fold(~held & ~stop, stop if groups else None, held))
        return Protocol(name, title, folds)

    masks = by_family(families, n_folds or n_families)
    unit = "one family" if len(masks) == n_families else f"one of {len(masks)} groups of families"
    found = [crossed("family", f"Family held out ({unit} at a time)", masks, by_family)]
    if kind == "tile":
        masks = one_of_each(families, n_folds, seed)
        found.append(crossed("graph", "Graph held out, family seen", masks, by_graph))
    else:
        masks = list(np.eye(len(families), dtype=bool))
        found.append(crossed("program", "Program held out (one at a time)", masks, by_graph))
    if {"train", "test"} <= set(splits.tolist()):
        valid = splits == "valid" if (splits == "valid").any() else None
        official = Fold(splits == "train", valid, splits == "test")
        found.append(Protocol("official", "Official split (train, stopped on valid, scored on test)", [official]))
    return [protocol for protocol in found if protocol.folds]


def one_of_each(families: Names, n_folds: int, seed: int) -> list[BoolArray]:
    """One graph of each family per fold, bool (graphs,) each.

    A family of one graph is never held out; of any other, at most ``n_folds`` (0: all) graphs are.
    """
    rng = np.random.default_rng(seed)
    fold_of = np.full(len(families), -1)
    for name in np.unique(families):
        members = np.flatnonzero(families == name)
        if len(members) > 1:
            fold_of[rng.permutation(members)] = np.arange(len(members))
    count = int(fold_of.max()) + 1
    return [fold_of == number for number in range(min(count, n_folds) if n_folds else count)]
