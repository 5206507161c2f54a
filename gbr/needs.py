"""What it takes to reproduce the results on a collection: bytes to fetch, room on the disk, hours.

Sizes of archives are asked of the server.  All else is a measured rate times a published count, and rough: the rates
are of an Intel Xeon that had other work to do, and most fits stop before their last round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from gbr.downloads.catalogue import Piece, find_archives
from gbr.downloads.fetch import ask
from gbr.downloads.retrieve import SIDE_BY_SIDE, Place, size_of
from gbr.models.training_set import most_binned

#: Configurations of all splits, by Phothilimthana et al., "TpuGraphs", NeurIPS 2023.
_CONFIGS: Final[Mapping[str, float]] = {
    "tile:xla": 12.9e6,
    "layout:xla:default": 1.27e6,
    "layout:xla:random": 1.12e6,
    "layout:nlp:default": 15.5e6,
    "layout:nlp:random": 16.1e6,
}

#: Measured per kind and configuration, on made graphs of 350 configurable nodes and on kernels of 2,000 configurations:
#: bytes in the store; seconds of CPU to build it, to bin it for the four members of the ensemble, to grow a round of
#: each on it, and to score it by such a round.
_BYTES: Final = {"tile": 280, "layout": 1250}
_BUILD: Final = {"tile": 55e-6, "layout": 140e-6}
_BIN: Final = {"tile": 250e-6, "layout": 950e-6}
_ROUND: Final = {"tile": 6e-6, "layout": 23.5e-6}
_SCORE: Final = 0.2e-6
#: Rounds, where no fit stops early.
_ROUNDS: Final = 1000


@dataclass(frozen=True)
class Needs:
    """What is still to be done for one collection.

    Parameters
    ----------
    subset : str
    fetch : int or None
        Bytes of archives; None where the server does not say.
    largest : int
        Bytes of the largest of them, which lies beside what is unpacked from it.
    store : int
        Bytes of features.
    build, train : float
        Seconds.
    """

    subset: str
    fetch: int | None
    largest: int
    store: int
    build: float
    train: float


def needs_of(
    subset: str,
    pieces: Sequence[Piece],
    place: Place,
    n_columns: int,
    cores: int,
    memory: int,
    built: Iterable[str],
    *,
    trained: bool,
) -> Needs:
    """Estimate what is to be done for a collection.

    Parameters
    ----------
    subset : str
    pieces : sequence of Piece
        Its splits.
    place : Place
    n_columns : int
        Feature columns.
    cores : int
    memory : int
        Bytes that features may take while training.
    built : iterable of str
        Splits whose features are there.
    trained : bool
        Whether the model is there.

    Raises
    ------
    DownloadError
        When a server is out of reach or has no such archive.
    """
    sizes = _sizes([piece for piece in pieces if not piece.complete(place.data_root)], place)
    kind = subset.split(":", 1)[0]
    share = _CONFIGS[subset] / sum(Piece(subset, split).graphs for split in ("train", "valid", "test"))
    configs = {piece.split: share * piece.graphs for piece in pieces}
    absent = sum(count for split, count in configs.items() if split not in set(built))
    learnt = min(configs["train"], most_binned(n_columns, memory))
    training = learnt * (_BIN[kind] + _ROUNDS * _ROUND[kind]) + sum(configs.values()) * _ROUNDS * _SCORE
    known = [size for size in sizes if size is not None]
    return Needs(
        subset=subset,
        fetch=sum(known) if len(known) == len(sizes) else None,
        largest=0 if place.source else max(known, default=0),
        store=int(absent * _BYTES[kind]),
        build=absent * _BUILD[kind] / cores,
        train=0.0 if trained else training / cores,
    )


def _sizes(pieces: Sequence[Piece], place: Place) -> list[int | None]:
    if place.source:
        # An archive that holds all of it counts for nothing here: how much of it is which collection is not known.
        return [size_of(path) if len(held) == 1 else None for path, held in find_archives(place.source, pieces).items()]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return [remote.size for remote in pool.map(ask, map(place.url, pieces))]
