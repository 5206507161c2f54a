"""What a machine rewards: vector width, line and cache sizes, register tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Cache levels with columns of their own.
N_LEVELS: Final = 3


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of cache.

    Parameters
    ----------
    nbytes : int
    ways : int
        Lines of a set; 0 where any line may lie anywhere (a scratchpad).
    """

    nbytes: int
    ways: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine as far as features depend on it.

    Parameters
    ----------
    name : str
    vector_bytes : int
        Width of the widest vector register.
    line_bytes : int
        What memory and cache exchange at once.
    caches : tuple of Cache
        From the fastest to the largest, up to three.
    lanes, sublanes : int
        Extents of a register tile along the minor-most and the second minor dimension, in elements of four bytes;
        1, 1 where registers hold one row.
    """

    name: str
    vector_bytes: int
    line_bytes: int
    caches: tuple[Cache, ...]
    lanes: int
    sublanes: int

    def __post_init__(self) -> None:
        sizes = [
            self.vector_bytes,
            self.line_bytes,
            self.lanes,
            self.sublanes,
            *(cache.nbytes for cache in self.caches),
        ]
        if min(sizes) <= 0 or any(cache.ways < 0 for cache in self.caches) or not 0 < len(self.caches) <= N_LEVELS:
            raise ValueError(f"hardware {self.name!r}: sizes must be positive, with one to {N_LEVELS} cache levels")


#: A common server CPU, where nothing is known of the machine: 256-bit vectors, 32 KiB, 1 MiB and 32 MiB of cache.
CPU: Final = Hardware("cpu", 32, 64, (Cache(32 << 10, 8), Cache(1 << 20, 16), Cache(32 << 20, 16)), 1, 1)

#: A TPU of the second or third generation: registers of 8 x 128 words; 16 MiB of scratchpad that the compiler fills
#: in whole registers (TpuGraphs, section 2; Jouppi et al., "Ten lessons from three generations", ISCA 2021).
TPU: Final = Hardware("tpu", 4096, 512, (Cache(16 << 20, 0),), 128, 8)

PROFILES: Final = {profile.name: profile for profile in (CPU, TPU)}
