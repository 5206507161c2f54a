"""Two tile configurations, loop by loop and operand by operand: how they cut, what lies in a tile and what moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.tensors import Tensors
from features.tile.cpu import CacheModel
from features.tile.extractor import schema
from features.tile.geometry import Geometry, loop_tiles
from features.tile.loops import LoopNest, loop_nest
from features.tile.operands import loop_slots
from gbr.attribution.parts import LoopChange, OperandChange, Parts
from gbr.data.names import node_names, shape_text

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.data.graph import Graph

#: Blocks whose columns follow from the tiles of the loops.
_OF_TILES: Final = ("geometry", "cache")


def tile_parts(graph: Graph, hardware: Hardware, pair: NDArray[np.int64], X: NDArray[np.float32]) -> Parts:
    """Compare two configurations of a tile graph.

    Parameters
    ----------
    graph : Graph
    hardware : Hardware
    pair : int64 (2,)
        Their rows.
    X : float32 (c, columns)
        Feature vectors of the whole slate.

    Returns
    -------
    Parts
        The loops whose tiles differ; the configuration's own columns stay those of the configuration that was changed.
        ``details`` has ``kernel``, the name of the heaviest operation, ``loops``, all of them without their effects,
        and ``operands``.
    """
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    geometry = Geometry(nest, tensors, slots, hardware)
    cache = CacheModel(geometry, slots, hardware)
    tiles = loop_tiles(nest, tensors, graph.configs(pair), hardware)
    apart = np.flatnonzero(tiles[0] != tiles[1])
    places = [np.flatnonzero([name.startswith(f"{block}.") for name in schema().names]) for block in _OF_TILES]

    def exchanged(own: int, other: int) -> NDArray[np.float32]:
        mixed = np.repeat(tiles[own : own + 1], len(apart), axis=0)
        mixed[np.arange(len(apart)), apart] = tiles[other, apart]
        rows = np.repeat(X[pair[own]][None], len(apart), axis=0)
        if len(apart):
            rows[:, places[0]], rows[:, places[1]] = geometry(mixed), cache(mixed)
        return rows

    names = node_names(graph.node_opcode)
    loops = _loops(nest, geometry, tiles, names)
    return Parts(
        names=tuple(loops[loop].name for loop in apart),
        forward=exchanged(1, 0),
        backward=exchanged(0, 1),
        details={
            "kernel": names[nest.anchor],
            "loops": loops,
            "operands": _operands(nest, tensors, names, X[pair]),
        },
    )


def _loops(nest: LoopNest, geometry: Geometry, tiles: NDArray[np.int64], names: list[str]) -> list[LoopChange]:
    found = []
    result = names[nest.accesses[0].node]
    for loop, extent in enumerate(nest.extents.tolist()):
        trips = -(-extent // tiles[:, loop])
        strides: dict[str, float] = {}
        for row, access in enumerate(nest.accesses):
            step = float(np.abs(geometry.operands.coefficients[row, :, loop]) @ geometry.operands.strides[row])
            strides.setdefault(access.role, step)
        found.append(
            LoopChange(
                name=f"{nest.roles[loop]}{loop}",
                runs_over=f"{result} dimension {loop}" if loop < nest.n_out else "reduced",
                extent=extent,
                tiles=(int(tiles[0, loop]), int(tiles[1, loop])),
                trips=(int(trips[0]), int(trips[1])),
                waste=(float(trips[0] * tiles[0, loop] / extent - 1), float(trips[1] * tiles[1, loop] / extent - 1)),
                strides=strides,
                effect=0.0,
            )
        )
    return found


def _operands(nest: LoopNest, tensors: Tensors, names: list[str], X: NDArray[np.float32]) -> list[OperandChange]:
    place = {name: number for number, name in enumerate(schema().names)}
    found = []
    for role in dict.fromkeys(access.role for access in nest.accesses):
        access = nest.first(role)
        assert access is not None
        footprint, run, reload = (
            2.0 ** X[:, place[f"geometry.{role}.{what}"]].astype(np.float64) for what in ("footprint", "run", "reload")
        )
        nbytes = float(tensors.nbytes[access.node])
        found.append(
            OperandChange(
                name=names[access.node],
                role=role,
                shape=shape_text(tensors, access.node),
                nbytes=nbytes,
                footprint=(float(footprint[0]), float(footprint[1])),
                run=(float(run[0]), float(run[1])),
                moved=(float(reload[0]) * nbytes, float(reload[1]) * nbytes),
            )
        )
    return found
