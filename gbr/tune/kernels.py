"""Tiles of the kernels of :mod:`gbr.collect`, measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gbr.collect.families import FAMILIES
from gbr.collect.kernels import Family, Shape
from gbr.collect.tiles import Kernel, kernel_graph, sample_tiles, seed_of
from gbr.collect.timer import IntArray, cores, measure, pin
from gbr.data.graph import graph_from_arrays
from gbr.errors import UsageError
from gbr.tune.child import Measure
from gbr.tune.space import Configuration, GraphSpace

CANDIDATES: Final = 512
#: Rounds of each of the two passes of the timer; the best is measured again before it is claimed to be the best.
_ROUNDS: Final = 7


@dataclass(frozen=True)
class TileTask:
    """A kernel and its tiles; called in the process that measures, it makes ready to do so.

    Parameters
    ----------
    family : str
    shape : tuple of int
    tiles : int64 (c, loops)
        By number of configuration.
    seed : int
        Of the operands.
    """

    family: str
    shape: Shape
    tiles: IntArray
    seed: int

    def __call__(self) -> Measure:
        """Compile the kernel, and return what measures a configuration [ns]."""
        pin(cores()[-1])
        kernel = Kernel(FAMILIES[self.family], self.shape, self.seed)

        def timed(config: int) -> float:
            tiles = self.tiles[config]
            run = kernel.bind(tiles)
            kernel.check(run, tiles)
            timing = measure([run], rounds=_ROUNDS)
            return float(min(timing.first[0], timing.second[0]))

        return timed


def tile_space(kernel: str, *, candidates: int = CANDIDATES, seed: int = 0) -> tuple[GraphSpace, TileTask]:
    """Tiles of one kernel, the first of which is not to tile at all.

    Parameters
    ----------
    kernel : str
        ``<family>_<shape>`` as the files of a collection are named, such as ``matmul_nt_256x192x256``; any shape that
        the family takes.
    candidates : int
        Configurations that are drawn.
    seed : int
        Of tiles and operands.

    Returns
    -------
    GraphSpace
    TileTask
        For :class:`gbr.tune.Child`.

    Raises
    ------
    UsageError
        For a name that is no kernel.
    MissingLibraryError
        If JAX is not installed.
    """
    family, shape = _parsed(kernel)
    own = seed_of(family.stem(shape), seed)
    loops = family.nest(*shape).loops
    tiles = sample_tiles([loop.extent for loop in loops], candidates, own)
    graph = graph_from_arrays(family.stem(shape), kernel_graph(family, shape, tiles))

    def told(config: int) -> Configuration:
        return {loop.name: int(tile) for loop, tile in zip(loops, tiles[config], strict=True)}

    return GraphSpace(graph, told=told), TileTask(family.name, shape, tiles, own)


def _parsed(kernel: str) -> tuple[Family, Shape]:
    name, _, text = kernel.rpartition("_")
    if name not in FAMILIES:
        raise UsageError(f"{kernel}: want FAMILY_SHAPE such as matmul_nt_256x192x256; families: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    parts = text.split("x")
    wanted = len(family.shapes[0])
    if len(parts) != wanted or not all(part.isdigit() and int(part) for part in parts):
        example = "x".join(map(str, family.shapes[0]))
        raise UsageError(f"{kernel}: shape {text!r}, want {wanted} numbers above 0 as in {name}_{example}")
    return family, tuple(map(int, parts))
