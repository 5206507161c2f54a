"""What the slots of a tile configuration mean where a hardware profile names them.

The 24 columns of a configuration have no names of their own.  A named slot is a tile bound only if its name says so:

- ``block_m``, ``block_n``, ``block_k`` and ``block_b`` (batch) bound the loops of that role, wherever they stand.
  Loops that share a role are taken as one, the last fastest: ``block_m`` of a convolution covers batch and image,
  ``block_k`` channels and window.  ``block`` bounds all loops of the result as one.
- Other names that begin with ``block_`` or ``tile_`` bound the dimension that their position says.
- ``num_warps``, ``num_stages``, ``split_k`` … set parameters of a GPU kernel; all other names are plain columns.

Case does not matter, and ``-`` is read as ``_``.  The first slot of a meaning that is not 0 counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from features.hardware import SlotNames
from features.hlo import TILE_CONFIG
from features.schema import Block, Column

if TYPE_CHECKING:
    from features.tile.loops import LoopNest  # compiles with numba

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Names (regular expressions) by meaning, with a description.
VOCABULARY: Final[Mapping[str, tuple[str, str]]] = {
    "block_m": (r"(block|tile)(_size)?_m|bm", "Rows of the result in a block"),
    "block_n": (r"(block|tile)(_size)?_n|bn", "Columns of the result in a block"),
    "block_k": (r"(block|tile)(_size)?_(k|r)|bk|rblock", "Steps of the reduction in an iteration of a block"),
    "block_b": (r"(block|tile)(_size)?_(b|batch)", "Batch entries in a block"),
    "block": (r"block|block_size|xblock", "Elements of the result in a block"),
    "num_warps": (r"(num_|n_)?warps", "Warps of a block"),
    "num_threads": (r"(num_|n_)?threads|block_threads", "Threads of a block"),
    "num_stages": (r"(num_|n_)?stages", "Stages of the software pipeline"),
    "split_k": (r"split_?k", "Blocks that share a reduction"),
    "group_m": (r"group(_size)?_m|group_size|swizzle", "Rows of blocks that are ordered together"),
    "num_ctas": (r"(num_)?ctas|cluster(_size)?", "Blocks of a cluster"),
    "allow_tf32": (r"(allow_|use_)?tf32", "Whether float32 products use tf32"),
    "max_registers": (r"maxnreg|max_?regs|max_registers", "Limit of registers per thread"),
    "waves_per_eu": (r"waves_per_eu", "Wavefronts per execution unit that the compiler aims at"),
    "vector": (r"(vec|vector|vectorize)\w*", "Width of vector accesses"),
    "unroll": (r"(auto_)?unroll\w*", "Unrolled iterations"),
}
#: Roles of the loops that a block bounds, see :class:`features.tile.loops.LoopNest`.
BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "block_b": ("batch",),
    "block_m": ("m",),
    "block_n": ("n",),
    "block_k": ("k",),
    "block": ("batch", "m", "n"),
}
_BOUND: Final = re.compile(r"(block|tile)(_|$)")


def meaning_of(name: str) -> str | None:
    """Key of :data:`VOCABULARY` that a name has, None for others."""
    name = _plain(name)
    return next((key for key, (pattern, _) in VOCABULARY.items() if re.fullmatch(pattern, name)), None)


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


class NamedSlots:
    """The named slots of a profile."""

    def __init__(self, config: SlotNames) -> None:
        given = {f"{stem}_{slot}": name for stem, names in config for slot, name in enumerate(names) if name}
        totals = {f"{stem}_{total}" for stem, names in config if any(names) for total in ("sum", "product")}
        #: Columns of a configuration by name, without sums and products that mix named slots.
        self.sources: dict[str, list[int]] = {}
        self._of: dict[str, list[int]] = {}  # by meaning
        hidden = []
        for index, name in enumerate(TILE_CONFIG):
            if name in totals:
                continue
            self.sources.setdefault(given.get(name, name), []).append(index)
            if name in given:
                if meaning := meaning_of(given[name]):
                    self._of.setdefault(meaning, []).append(index)
                if meaning or not _BOUND.match(_plain(given[name])):
                    hidden.append(index)
        #: Columns that are no tile bound of the dimension at their position.
        self.hidden = np.array(hidden, np.int64)

    def block(self, plain: Block) -> Block:
        """The block of the configuration itself, with named slots under their names."""
        given = {column.name: column for column in plain.columns}
        columns = []
        for name in self.sources:
            _, doc = VOCABULARY.get(meaning_of(name) or "", ("", f"{name} of the configuration"))
            columns.append(given.get(name) or Column(name, "count", doc))
        return Block(plain.name, plain.version, plain.doc, tuple(columns), per_config=True)

    def values(self, configs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of :meth:`block`, float32 (c, columns), of float32 (c, 24) configurations."""
        return np.stack([_first_nonzero(configs, indices) for indices in self.sources.values()], axis=1)

    def loops_by_name(self, nest: LoopNest) -> dict[str, list[int]]:
        """Loops that the named blocks bound."""
        return {
            name: self._loops(nest, BLOCKS[meaning])
            for name in self.sources
            if (meaning := meaning_of(name)) and meaning in BLOCKS
        }

    def __contains__(self, meaning: str) -> bool:
        return meaning in self._of

    def parameter(self, meaning: str, configs: NDArray[np.floating], default: float = 0.0) -> FloatArray:
        """Values of a meaning, float64 (c,); ``default`` where no slot has it or all are 0."""
        found = _first_nonzero(configs, self._of.get(meaning, [])).astype(np.float64)
        return np.where(found == 0, default, found)

    def blocks(self, nest: LoopNest, configs: NDArray[np.floating]) -> list[tuple[list[int], IntArray]]:
        """Loops and block size, int64 (c,), 0 if not given, of every named block."""
        found = []
        for meaning, roles in BLOCKS.items():
            if meaning in self._of and (loops := self._loops(nest, roles)):
                size = np.ceil(np.clip(self.parameter(meaning, configs), 0, 2.0**31)).astype(np.int64)
                found.append((loops, size))
        return found

    def _loops(self, nest: LoopNest, roles: tuple[str, ...]) -> list[int]:
        if roles == ("m",) and "block_b" not in self._of and nest.kind == "convolution":
            roles = ("batch", "m")
        loops = [loop for loop, role in enumerate(nest.roles) if role in roles]
        if roles == ("k",) and not loops:  # of softmax and normalisations, which reduce loops of the result
            loops = np.flatnonzero(nest.reduces).tolist()
        return loops


def _first_nonzero(configs: NDArray[np.floating], indices: list[int]) -> NDArray[np.floating]:
    """First value that is not 0 of every row among some columns; 0 without any."""
    found = np.zeros(len(configs), configs.dtype)
    for index in indices:
        found = np.where(found == 0, configs[:, index], found)
    return found


@cache
def named_slots(config: SlotNames) -> NamedSlots:
    """The named slots of a profile, parsed once."""
    return NamedSlots(config)


def spread(loops: list[int], size: IntArray, extents: IntArray) -> list[tuple[int, IntArray]]:
    """Tile of every loop of a block of ``size`` steps, the last loop fastest."""
    found = []
    for loop in reversed(loops):
        tile = np.minimum(size, extents[loop])
        found.append((loop, tile))
        size = -(-size // np.maximum(tile, 1))
    return found
