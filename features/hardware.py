"""Hardware profiles: register tile, vector width, line and cache sizes, and the unit of tile bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Maximum number of cache levels.
N_LEVELS: Final = 3

#: Units of tile bounds.  ``elements``: elements along the logical dimensions.  ``registers``: the dimensions are in
#: memory order (major to minor), and the last two count whole registers.
TILE_BOUNDS: Final = ("elements", "registers")

#: Bytes of one lane of a register with sublanes.
_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of cache."""

    nbytes: int
    ways: int  # lines per set; 0 for a fully associative cache or a scratchpad


@dataclass(frozen=True, slots=True)
class Hardware:
    """The properties of a machine that features depend on; inconsistent ones raise a ValueError."""

    name: str
    vector_bytes: int  # width of the widest vector register: all of its sublanes
    line_bytes: int  # size of a cache line
    caches: tuple[Cache, ...]  # from the fastest to the largest, up to three
    sublanes: int = 1  # rows of a register, along the second minor dimension
    tile_bounds: str = TILE_BOUNDS[0]  # unit of the bounds of a tile configuration, one of TILE_BOUNDS

    def __post_init__(self) -> None:
        sizes = [self.vector_bytes, self.line_bytes, self.sublanes, *(cache.nbytes for cache in self.caches)]
        if min(sizes) <= 0 or any(cache.ways < 0 for cache in self.caches) or not 0 < len(self.caches) <= N_LEVELS:
            raise ValueError(f"hardware {self.name!r}: sizes must be positive, with one to {N_LEVELS} cache levels")
        if self.vector_bytes % (_WORD * self.sublanes):
            raise ValueError(
                f"hardware {self.name!r}: a vector of {self.vector_bytes} bytes does not hold {self.sublanes} rows of "
                f"{_WORD}-byte elements"
            )
        if any(cache.nbytes < self.line_bytes * max(cache.ways, 1) for cache in self.caches):
            raise ValueError(f"hardware {self.name!r}: a cache must hold a line of {self.line_bytes} bytes per way")
        if self.tile_bounds not in TILE_BOUNDS:
            raise ValueError(f"hardware {self.name!r}: tile_bounds must be one of {', '.join(TILE_BOUNDS)}")

    def register_tile(self, width: float) -> tuple[int, int]:
        """Sublanes and lanes of a register (extents along the two minor dimensions) for elements of ``width`` bytes.

        With sublanes, elements shorter than four bytes share a lane (16 x 128 elements of two bytes on a TPU) and
        longer elements take several registers.  Without sublanes, the number of lanes is the register width divided by
        the element width.
        """
        lanes = self.vector_bytes // (_WORD * self.sublanes)
        if self.sublanes > 1:
            return self.sublanes * max(int(_WORD // max(width, 1.0)), 1), lanes
        return 1, max(int(self.vector_bytes // max(width, 1.0)), 1)


#: A common server CPU, the default: 256-bit vectors, 32 KiB, 1 MiB and 32 MiB of cache.
CPU: Final = Hardware("cpu", 32, 64, (Cache(32 << 10, 8), Cache(1 << 20, 16), Cache(32 << 20, 16)))

#: A TPU of the second or third generation: registers of 8 x 128 words; 16 MiB of scratchpad (TpuGraphs, section 2;
#: Jouppi et al., "Ten lessons from three generations", ISCA 2021).
TPU: Final = Hardware("tpu", 4096, 512, (Cache(16 << 20, 0),), sublanes=8, tile_bounds="registers")

PROFILES: Final = {profile.name: profile for profile in (CPU, TPU)}
