"""The slow, obvious twins of the kernels: plain NumPy and Python, written from the columns' meanings."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from features.hardware import Hardware
from features.hlo import NODE_FEAT
from features.program import NODE_COLUMNS
from features.tensors import Tensors
from features.tile import cpu, geometry, operands
from features.tile.loops import LoopNest
from features.tile.operands import CLASS_LOOPS, MISSING, LoopSlots


def node_statistics(feat: np.ndarray) -> np.ndarray:
    """Means, standard deviations and maxima of the log-signed columns, one after the other."""
    chosen = feat[:, [list(NODE_FEAT).index(name) for name in NODE_COLUMNS]].astype(np.float64)
    signed = np.sign(chosen) * np.log2(1 + np.abs(chosen))
    return np.concatenate([signed.mean(axis=0), signed.std(axis=0), signed.max(axis=0)])


def geometry_columns(
    nest: LoopNest, tensors: Tensors, slots: LoopSlots, tiles: np.ndarray, line_bytes: int = 64
) -> np.ndarray:
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
        lines = elements / run * np.ceil(run * width / line_bytes)
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
            totals[name] = totals[name] + lines * line_bytes * times
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
    for role in operands.ROLES:
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


def _room(
    nest: LoopNest, tensors: Tensors, cover: list[float], line: int, sets: int
) -> tuple[list[float], list[float]]:
    """Lines that each operand touches over ``cover[loop]`` steps of every loop, and the room they take up."""
    lines, rooms = [], []
    for access in nest.accesses:
        shape, strides = tensors.shape(access.node), tensors.strides(access.node)
        width = int(tensors.width[access.node])
        run, count, spread, whole = 1.0, 1.0, 1.0, True
        for dim in tensors.layout(access.node).tolist():
            steps = [(abs(step), size) for step, size in zip(access.coefficients[dim], cover, strict=True) if step]
            span = min(math.floor(1 + sum(step * (size - 1) for step, size in steps)), shape[dim])
            points = min(math.prod(size for _, size in steps), span)
            if whole and points == span:
                run *= span
            else:
                count *= points
                spread *= min(points, sets * line // math.gcd(int(strides[dim]) * width, sets * line))
            whole = whole and points == span == shape[dim]
        dense = math.ceil(run * width / line)
        used = min(sets, spread * dense)
        lines.append(count * dense)
        rooms.append(max(count * dense, count * dense * sets / used) if count * dense > used else count * dense)
    return lines, rooms


def cache_columns(
    nest: LoopNest, tensors: Tensors, tiles: np.ndarray, hardware: Hardware, sequences: list[list[int]]
) -> np.ndarray:
    """The columns of the cache block, one configuration, one level, one order at a time."""
    rows = []
    for tile in tiles.tolist():
        row: dict[str, float] = {}
        trips = [math.ceil(extent / size) for extent, size in zip(nest.extents.tolist(), tile, strict=True)]
        needed = math.prod(nest.extents.tolist())
        geometry_of = []
        for cache in hardware.caches:
            total = cache.nbytes // hardware.line_bytes
            ways = cache.ways or total
            geometry_of.append((max(total // ways, 1), ways))
        for level in range(3):
            row[f"L{level + 1}.fit"] = MISSING
            if level < len(geometry_of):
                sets, ways = geometry_of[level]
                lines, rooms = _room(nest, tensors, tile, hardware.line_bytes, sets)
                row[f"L{level + 1}.fit"] = math.log2(sum(rooms) / (sets * ways))
                if level == 0:
                    row["conflict"] = math.log2(sum(rooms) / sum(lines))
        for name, sequence in zip(("fast", "left", "out"), sequences, strict=True):
            steps = [(loop, trips[loop]) for loop in range(len(tile))] + [(loop, tile[loop]) for loop in sequence]
            inner = sequence[-1]
            widths = [tensors.width[access.node] for access in nest.accesses]
            strides = [
                float(np.abs(access.coefficients[:, inner]) @ tensors.strides(access.node)) for access in nest.accesses
            ]
            prices = []
            for number, (stride, width) in enumerate(zip(strides, widths, strict=True)):
                step = stride * width
                streams = 0 < step <= hardware.line_bytes
                streams = streams and step * tile[inner] >= cpu.STREAM * hardware.line_bytes
                prices.append((cpu.AHEAD if streams else 1.0) * (cpu.WRITTEN if number == 0 else 1.0))
            fetched = 0.0
            for level in range(3):
                label = f"{name}.L{level + 1}"
                if level >= len(geometry_of):
                    row |= dict.fromkeys((f"{label}.misses", f"{label}.stay"), MISSING)
                    row |= {f"{label}.misses.{role}": MISSING for role in operands.ROLES[:3]}
                    continue
                sets, ways = geometry_of[level]
                kept, cut = [1.0] * len(nest.accesses), len(steps)
                for first in reversed(range(len(steps))):
                    cover = [1.0] * len(tile)
                    for loop, size in reversed(steps[first:]):
                        cover[loop] = min(cover[loop] * size, float(nest.extents[loop]))
                    lines, rooms = _room(nest, tensors, cover, hardware.line_bytes, sets)
                    if steps[first][1] > 1 and sum(rooms) > sets * ways:
                        break
                    kept, cut = (lines if steps[first][1] > 1 else kept), first
                outside = [step for step in steps[:cut] if step[1] > 1]
                misses = []
                for number, access in enumerate(nest.accesses):
                    uses = [bool((access.coefficients[:, loop] != 0).any()) for loop, _ in outside]
                    last = max((place for place, used in enumerate(uses) if used), default=-1)
                    misses.append(kept[number] * math.prod(size for _, size in outside[: last + 1]))
                row[f"{label}.misses"] = math.log2(1 + 1000 * sum(misses) / needed)
                row[f"{label}.stay"] = math.log2(math.prod(size for _, size in steps[cut:]))
                if level < 2:
                    for role in operands.ROLES[:3]:
                        own = sum(m for m, access in zip(misses, nest.accesses, strict=True) if access.role == role)
                        row[f"{label}.misses.{role}"] = math.log2(1 + 1000 * own / needed)
                fetched += cpu.FETCH[level] * sum(m * price for m, price in zip(misses, prices, strict=True))
            lanes = max(hardware.vector_bytes / max(widths), 1.0)
            vectors = math.ceil(tile[inner] / lanes) if set(strides) <= {0.0, 1.0} else 0
            starts = math.prod(trips) * math.prod(tile) / tile[inner]
            compute = starts * (vectors or tile[inner])
            chain = 0.0
            if nest.reduces[inner]:
                chain = starts * tile[inner] * cpu.LATENCY / (1 + cpu.IN_FLIGHT / tile[inner])
                waiting = max(starts * tile[inner], chain)
                compute += nest.extremum * (waiting - compute)
            row[f"{name}.cycles.chain"] = math.log2(1 + 1000 * chain / needed)
            start = starts * cpu.LOOP_START + math.prod(trips) * cpu.TILE_START
            row[f"{name}.vector"] = tile[inner] / (vectors * lanes) if vectors else 0.0
            row[f"{name}.cycles.compute"] = math.log2(1000 * compute / needed)
            row[f"{name}.cycles.start"] = math.log2(1000 * start / needed)
            row[f"{name}.cycles.fetch"] = math.log2(1 + 1000 * fetched / needed)
            row[f"{name}.cycles"] = math.log2(1000 * (compute + start + fetched) / needed)
        rows.append([row[column.name] for column in cpu.BLOCK.columns])
    return np.array(rows)
