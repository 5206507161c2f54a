"""Hardware profiles: register tile, vector width, line and cache sizes, the unit of tile bounds, limits of GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Final

from features.hlo import MAX_RANK, TILE_CONFIG

#: Maximum number of cache levels.
N_LEVELS: Final = 3

#: Units of tile bounds.  ``elements``: elements along the logical dimensions.  ``registers``: the dimensions are in
#: memory order (major to minor), and the last two count whole registers.
TILE_BOUNDS: Final = ("elements", "registers")

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_STEMS: Final = tuple(dict.fromkeys(name.rpartition("_")[0] for name in TILE_CONFIG))
#: Bytes of a cache line of a GPU, of four sectors.
_GPU_LINE: Final = 128
#: Bytes of one lane of a register with sublanes.
_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of cache."""

    nbytes: int
    ways: int  # lines per set; 0 for a fully associative cache or a scratchpad


@dataclass(frozen=True, slots=True)
class Gpu:
    """Limits and peak rates of a GPU, named and measured as in ``devices.toml``; a unit is a multiprocessor."""

    units: int
    bandwidth_gbs: float
    clock_mhz: float
    lanes: int  # float32 multiply-adds per unit and clock
    rates: tuple[tuple[str, float], ...] = ()  # TFLOP/s by type (tf32, fp16 …), matrix cores if there are any
    warp: int = 32
    threads: int = 2048
    blocks: int = 32
    registers: int = 65536
    shared_kb: float = 96
    shared_block_kb: float = 48
    l2_mb: float = 4

    def __post_init__(self) -> None:
        for name in self.__slots__:
            for value in [rate for _, rate in self.rates] if name == "rates" else [getattr(self, name)]:
                if not isfinite(value) or value <= 0:
                    raise ValueError(f"{name}: expected positive numbers, got {value!r}")
        if self.shared_block_kb > self.shared_kb:
            raise ValueError(f"shared_block_kb: {self.shared_block_kb} exceeds shared_kb, {self.shared_kb}")


#: Names of the slots of a tile configuration, by stem (``output_bounds``); an empty name leaves a slot a tile bound.
SlotNames = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Hardware:
    """The properties of a machine that features depend on; inconsistent ones raise a ValueError."""

    name: str
    vector_bytes: int  # width of the widest vector register: all of its sublanes
    line_bytes: int  # size of a cache line
    caches: tuple[Cache, ...]  # from the fastest to the largest, up to three
    sublanes: int = 1  # rows of a register, along the second minor dimension
    tile_bounds: str = TILE_BOUNDS[0]  # unit of the bounds of a tile configuration, one of TILE_BOUNDS
    gpu: Gpu | None = None
    config: SlotNames = ()  # what the slots of a tile configuration mean, see features.tile.names

    @classmethod
    def of_gpu(cls, name: str, gpu: Gpu, config: SlotNames = ()) -> Hardware:
        """A GPU: its vector is a warp of words, its caches are the shared memory of a unit and L2."""
        caches = Cache(int(gpu.shared_kb * 1024), 0), Cache(int(gpu.l2_mb * 1024 * 1024), 16)
        return cls(name, _WORD * gpu.warp, _GPU_LINE, caches, gpu=gpu, config=config)

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
        for stem, names in self.config:
            _check_slots(stem, names)

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


def _check_slots(stem: str, names: tuple[str, ...]) -> None:
    if stem not in _STEMS:
        raise ValueError(f"config: unknown key {stem}; expected {', '.join(_STEMS)}")
    if len(names) > MAX_RANK:
        raise ValueError(f"config.{stem}: expected at most {MAX_RANK} names, got {len(names)}")
    for name in names:
        if name and (name in TILE_CONFIG or not _NAME.fullmatch(name)):
            raise ValueError(f"config.{stem}: expected names such as block_m, got {name!r}")
        if name and names.count(name) > 1:
            raise ValueError(f"config.{stem}: {name!r} names two slots")


#: A common server CPU, the default: 256-bit vectors, 32 KiB, 1 MiB and 32 MiB of cache.
CPU: Final = Hardware("cpu", 32, 64, (Cache(32 << 10, 8), Cache(1 << 20, 16), Cache(32 << 20, 16)))

#: A TPU of the second or third generation: registers of 8 x 128 words; 16 MiB of scratchpad (TpuGraphs, section 2;
#: Jouppi et al., "Ten lessons from three generations", ISCA 2021).
TPU: Final = Hardware("tpu", 4096, 512, (Cache(16 << 20, 0),), sublanes=8, tile_bounds="registers")

PROFILES: Final = {profile.name: profile for profile in (CPU, TPU)}
