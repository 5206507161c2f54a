"""The slow, obvious twins of the kernels: plain NumPy and Python, written from the columns' meanings."""

from __future__ import annotations

from itertools import product

import numpy as np

from features import geometry, nodes, roles
from features.access import LoopNest
from features.slots import CLASS_LOOPS, MISSING, LoopSlots
from features.tensors import Tensors


def node_statistics(feat: np.ndarray) -> np.ndarray:
    """Means, standard deviations and maxima of the log-signed columns, one after the other."""
    chosen = feat[:, [list(nodes.NODE_FEAT).index(name) for name in nodes.NODE_COLUMNS]].astype(np.float64)
    signed = np.sign(chosen) * np.log2(1 + np.abs(chosen))
    return np.concatenate([signed.mean(axis=0), signed.std(axis=0), signed.max(axis=0)])


def geometry_columns(nest: LoopNest, tensors: Tensors, slots: LoopSlots, tiles: np.ndarray) -> np.ndarray:
    """The columns of the geometry block by whole-array NumPy, float64 (c, len(BLOCK))."""
    trips = np.ceil(nest.extents / tiles)
    columns: dict[str, np.ndarray] = {}
    n_tiles, volume = trips.prod(axis=1), tiles.prod(axis=1).astype(float)
    needed = float(np.prod(nest.extents, dtype=float))
    totals = dict.fromkeys(("footprint", "lines", "cold", "ordered", "streamed"), np.zeros(len(tiles)))
    by_role: dict[str, dict[str, np.ndarray]] = {}
    for access in nest.accesses:
        steps = np.abs(access.coefficients)
        shape = np.array(tensors.shape(access.node), float)
        span = np.minimum(np.floor(1 + (tiles - 1) @ steps.T), shape)
        points = np.minimum(np.stack([tiles[:, row > 0].prod(axis=1) for row in steps], axis=1), span)
        elements, width = points.prod(axis=1), tensors.width[access.node]
        run, whole = np.ones(len(tiles)), np.ones(len(tiles), bool)
        for dim in tensors.layout(access.node):
            dense = points[:, dim] == span[:, dim]
            run = np.where(whole & dense, run * span[:, dim], run)
            whole &= dense & (span[:, dim] == shape[dim])
        lines = elements / run * np.ceil(run * width / geometry.LINE_BYTES)
        uses = steps.any(axis=0) if len(steps) else np.zeros(len(nest.extents), bool)
        once = np.where(uses, trips, 1).prod(axis=1)
        running = np.cumprod(trips, axis=1)
        moving = uses & (trips > 1)
        last = np.where(moving.any(axis=1), len(nest.extents) - 1 - moving[:, ::-1].argmax(axis=1), -1)
        until = np.where(last >= 0, running[np.arange(len(tiles)), last], 1.0)
        moved = {"cold": once, "ordered": until, "streamed": n_tiles}
        totals["footprint"] = totals["footprint"] + elements * width
        totals["lines"] = totals["lines"] + lines
        for name, times in moved.items():
            totals[name] = totals[name] + lines * geometry.LINE_BYTES * times
        by_role.setdefault(
            access.role,
            {
                "footprint": np.log2(elements * width),
                "share": elements / shape.prod(),
                "run": np.log2(run * width),
                "lines": np.log2(lines),
                "reload": np.log2(elements * until / shape.prod()),
            },
        )
    columns |= {
        "tiles": np.log2(n_tiles),
        "volume": np.log2(volume),
        "waste": np.log2(n_tiles * volume / needed),
        "footprint": np.log2(totals["footprint"]),
        "lines": np.log2(totals["lines"]),
        "traffic.cold": np.log2(totals["cold"]),
        "traffic.ordered": np.log2(totals["ordered"]),
        "traffic.streamed": np.log2(totals["streamed"]),
        "intensity": np.log2(needed / totals["ordered"]),
        "density": np.log2(volume / totals["footprint"]),
    }
    nothing = np.full(len(tiles), MISSING)
    for role in roles.ROLES:
        for name in ("footprint", "share", "run", "lines", "reload"):
            columns[f"{role}.{name}"] = by_role.get(role, {}).get(name, nothing)
    for name in CLASS_LOOPS:
        own = np.array([role == name for role in nest.roles], bool)
        tile, count = np.where(own, tiles, 1).prod(axis=1), np.where(own, trips, 1).prod(axis=1)
        extent = np.where(own, nest.extents, 1).prod()
        columns |= {
            f"{name}.tile": np.log2(tile),
            f"{name}.trips": np.log2(count),
            f"{name}.waste": np.log2(tile * count / extent),
            f"{name}.share": tile / extent,
        }
    places = [
        f"{stem}{slot}"
        for stem, own in (("out", slots.out), ("red", slots.reduced), ("fast", slots.fast))
        for slot in range(len(own))
    ]
    for place, loop in zip(places, slots.all, strict=True):
        tile = tiles[:, loop]
        columns |= {
            f"{place}.tile": np.log2(tile) if loop >= 0 else nothing,
            f"{place}.trips": np.log2(trips[:, loop]) if loop >= 0 else nothing,
            f"{place}.tail": trips[:, loop] - nest.extents[loop] / tile if loop >= 0 else nothing,
            f"{place}.align": np.log2(np.gcd(tile, 128)) if loop >= 0 else nothing,
        }
    return np.stack([columns[column.name] for column in geometry.BLOCK.columns], axis=1)


def touched(nest: LoopNest, number: int, tile: np.ndarray) -> int:
    """Elements of one operand that the first tile touches, counted one by one."""
    coefficients = nest.accesses[number].coefficients
    points = product(*(range(size) for size in tile))
    return len({tuple(np.floor(coefficients @ np.array(point)).astype(int)) for point in points})
