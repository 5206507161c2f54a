"""All graphs of a collection that can be ranked, whatever split they are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gbr.data.build import build
from gbr.data.collection import Subset, family, splits_present
from gbr.data.groups import QueryGroups, unrankable
from gbr.data.store import FeatureStore
from gbr.errors import DataError
from gbr.train import fingerprint


@dataclass(frozen=True, eq=False)
class Pool:
    """Graphs to learn from and to rank.

    Parameters
    ----------
    subset : Subset
    slates : QueryGroups
        Rankable slates with runtimes, split after split.
    splits, families : str (graphs,)
    schema_hash : str
        Of the features.
    data : dict
        Fingerprint of the graph files by split.
    """

    subset: Subset
    slates: QueryGroups
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
    slates = joined(parts)
    return Pool(
        subset=subset,
        slates=slates,
        splits=np.repeat(np.array(splits), [len(part) for part in parts]),
        families=np.array([family(subset.kind, name) for name in slates.names]),
        schema_hash=store.manifest["schema"]["hash"],
        data={split: fingerprint(store, split) for split in splits},
    )


def joined(parts: list[QueryGroups]) -> QueryGroups:
    """QueryGroups one after the other; they have the same columns."""
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
