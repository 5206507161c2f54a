"""Naive implementations of the kernels in features/ and features/tile/, from the descriptions of the columns."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from features.hardware import Hardware
from features.hlo import NODE_FEAT
from features.program import NODE_COLUMNS
from features.tensors import Tensors
from features.tile import cpu, geometry
from features.tile.loops import Access, LoopNest
from features.tile.operands import CLASS_LOOPS, MISSING, ROLES, SLOT_DOC, LoopSlots


def node_statistics(feat: np.ndarray) -> np.ndarray:
    """Means, standard deviations and maxima of the log-signed columns."""
    chosen = feat[:, [list(NODE_FEAT).index(name) for name in NODE_COLUMNS]].astype(np.float64)
    signed = np.sign(chosen) * np.log2(1 + np.abs(chosen))
    return np.concatenate([signed.mean(axis=0), signed.std(axis=0), signed.max(axis=0)])


def geometry_columns(
    nest: LoopNest, tensors: Tensors, slots: LoopSlots, tiles: np.ndarray, line_bytes: int = 64
) -> np.ndarray:
    """The columns of the geometry block in NumPy, float64 (c, len(BLOCK))."""
    trips = np.ceil(nest.extents / tiles)
    n_tiles, volume = trips.prod(axis=1), tiles.prod(axis=1).astype(float)
    needed = float(np.prod(nest.extents, dtype=float))
    missing = np.full(len(tiles), MISSING)
    columns = {f"{role}.{name}": missing for role in ROLES for name in ("footprint", "share", "run", "lines", "reload")}
    amounts = []
    for access in reversed(nest.accesses):  # the first of a role has its columns
        width, size = tensors.width[access.node], tensors.elements[access.node]
        run, count, _ = _runs(access, tensors, tiles)
        elements, lines = count * run, count * np.ceil(run * width / line_bytes)
        uses = access.coefficients.any(axis=0)
        until = np.ones(len(tiles))
        for loop in np.flatnonzero(uses):
            until = np.where(trips[:, loop] > 1, trips[:, : loop + 1].prod(axis=1), until)
        moved = [lines * line_bytes * times for times in (np.where(uses, trips, 1).prod(axis=1), until, n_tiles)]
        amounts.append([elements * width, lines, *moved])
        columns |= {
            f"{access.role}.footprint": np.log2(elements * width),
            f"{access.role}.share": elements / size,
            f"{access.role}.run": np.log2(run * width),
            f"{access.role}.lines": np.log2(lines),
            f"{access.role}.reload": np.log2(elements * until / size),
        }
    footprint, lines, cold, ordered, streamed = np.sum(amounts, axis=0)
    columns |= {
        "tiles": np.log2(n_tiles),
        "volume": np.log2(volume),
        "waste": np.log2(n_tiles * volume / needed),
        "footprint": np.log2(footprint),
        "lines": np.log2(lines),
        "traffic.cold": np.log2(cold),
        "traffic.ordered": np.log2(ordered),
        "traffic.streamed": np.log2(streamed),
        "intensity": np.log2(needed / ordered),
        "density": np.log2(volume / footprint),
    }
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
    for slot, loop in zip(SLOT_DOC, slots.all, strict=True):
        tile = tiles[:, loop]
        values = {
            "tile": np.log2(tile),
            "trips": np.log2(trips[:, loop]),
            "tail": trips[:, loop] - nest.extents[loop] / tile,
            "align": np.log2(np.gcd(tile, 128)),
        }
        columns |= {f"{slot}.{name}": missing if loop < 0 else value for name, value in values.items()}
    return np.stack([columns[column.name] for column in geometry.BLOCK.columns], axis=1)


def touched(nest: LoopNest, number: int, tile: np.ndarray) -> int:
    """Elements of one operand that the first tile touches, counted one by one."""
    coefficients = nest.accesses[number].coefficients
    points = product(*(range(size) for size in tile))
    return len({tuple(np.floor(coefficients @ np.array(point)).astype(int)) for point in points})


def _runs(
    access: Access, tensors: Tensors, cover: np.ndarray, around: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elements of a contiguous run over ``cover[:, loop]`` steps of every loop, runs, and starts modulo ``around``."""
    shape, strides = tensors.shape(access.node), tensors.strides(access.node) * int(tensors.width[access.node])
    run = count = spread = np.ones(len(cover))
    whole = np.ones(len(cover), bool)
    for dim in tensors.layout(access.node).tolist():
        loops = np.flatnonzero(access.coefficients[dim])
        span = np.floor(1 + (cover[:, loops] - 1) @ np.abs(access.coefficients[dim][loops]))
        span = np.minimum(span, shape[dim])
        points = np.minimum(cover[:, loops].prod(axis=1), span)
        full = whole & (points == span)
        run = np.where(full, run * span, run)
        count = np.where(full, count, count * points)
        spread = np.where(full, spread, spread * np.minimum(points, around // math.gcd(int(strides[dim]), around)))
        whole = full & (span == shape[dim])
    return run, count, spread


def _room(nest: LoopNest, tensors: Tensors, cover: np.ndarray, line: int, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines that each operand touches over ``cover[:, loop]`` steps of every loop, and the space they occupy."""
    lines, rooms = [], []
    for access in nest.accesses:
        run, count, spread = _runs(access, tensors, cover, sets * line)
        dense = np.ceil(run * tensors.width[access.node] / line)
        used, total = np.minimum(sets, spread * dense), count * dense
        lines.append(total)
        rooms.append(np.where(total > used, np.maximum(total, total * sets / used), total))
    return np.stack(lines, axis=1), np.stack(rooms, axis=1)


def _misses(
    nest: LoopNest, tensors: Tensors, steps: list[tuple[int, np.ndarray]], line: int, sets: int, ways: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lines of each operand fetched, (c, operands), and steps between which everything stays, (c,)."""
    n_configs = len(steps[0][1])
    kept, cut = np.ones((n_configs, len(nest.accesses))), np.full(n_configs, len(steps))
    stays = np.ones(n_configs, bool)
    cover = np.ones((n_configs, len(nest.extents)))
    for first in reversed(range(len(steps))):
        loop, size = steps[first]
        cover[:, loop] = np.minimum(cover[:, loop] * size, nest.extents[loop])
        lines, rooms = _room(nest, tensors, cover, line, sets)
        stays &= (size <= 1) | (rooms.sum(axis=1) <= sets * ways)
        kept = np.where((stays & (size > 1))[:, None], lines, kept)
        cut = np.where(stays, first, cut)
    misses = []
    for number, access in enumerate(nest.accesses):
        found, refetched = kept[:, number], np.zeros(n_configs, bool)
        for at, (loop, size) in reversed(list(enumerate(steps))):
            outside = (at < cut) & (size > 1)
            refetched = refetched | (outside & bool(access.coefficients[:, loop].any()))
            found = np.where(outside & refetched, found * size, found)
        misses.append(found)
    stay = np.prod([np.where(at >= cut, size, 1) for at, (_, size) in enumerate(steps)], axis=0)
    return np.stack(misses, axis=1), stay


def cache_columns(
    nest: LoopNest, tensors: Tensors, tiles: np.ndarray, hardware: Hardware, sequences: list[list[int]]
) -> np.ndarray:
    """The columns of the cache block, one level, order and operand at a time, float64 (c, len(BLOCK))."""
    tile = tiles.astype(np.float64)
    trips = np.ceil(nest.extents / tile)
    needed = float(np.prod(nest.extents, dtype=np.float64))
    missing = np.full(len(tile), float(MISSING))
    column: dict[str, np.ndarray] = {}
    shape = []
    for cache in hardware.caches:
        total = cache.nbytes // hardware.line_bytes
        ways = cache.ways or total
        shape.append((max(total // ways, 1), ways))
    for level in range(3):
        column[f"L{level + 1}.fit"] = missing
        if level < len(shape):
            sets, ways = shape[level]
            lines, rooms = _room(nest, tensors, tile, hardware.line_bytes, sets)
            column[f"L{level + 1}.fit"] = np.log2(rooms.sum(axis=1) / (sets * ways))
            if level == 0:
                column["conflict"] = np.log2(rooms.sum(axis=1) / lines.sum(axis=1))
    widths = [int(tensors.width[access.node]) for access in nest.accesses]
    for name, sequence in zip(("fast", "left", "out"), sequences, strict=True):
        steps = [(loop, trips[:, loop]) for loop in range(tile.shape[1])]
        steps += [(loop, tile[:, loop]) for loop in sequence]
        inner = sequence[-1]
        strides = [float(np.abs(one.coefficients[:, inner]) @ tensors.strides(one.node)) for one in nest.accesses]
        prices = []
        for number, (stride, width) in enumerate(zip(strides, widths, strict=True)):
            step = stride * width
            enough = step * tile[:, inner] >= cpu.STREAM * hardware.line_bytes
            streams = enough & (0 < step <= hardware.line_bytes)
            prices.append(np.where(streams, cpu.AHEAD, 1.0) * (cpu.WRITTEN if number == 0 else 1.0))
        fetched = np.zeros(len(tile))
        for level in range(3):
            label = f"{name}.L{level + 1}"
            if level >= len(shape):
                names = (f"{label}.misses", f"{label}.stay", *(f"{label}.misses.{role}" for role in ROLES[:3]))
                column |= dict.fromkeys(names, missing)
                continue
            misses, stay = _misses(nest, tensors, steps, hardware.line_bytes, *shape[level])
            column[f"{label}.misses"] = np.log2(1 + 1000 * misses.sum(axis=1) / needed)
            column[f"{label}.stay"] = np.log2(stay)
            if level < 2:
                for role in ROLES[:3]:
                    own = misses[:, [access.role == role for access in nest.accesses]].sum(axis=1)
                    column[f"{label}.misses.{role}"] = np.log2(1 + 1000 * own / needed)
            fetched += cpu.FETCH[level] * (misses * np.stack(prices, axis=1)).sum(axis=1)
        lanes = max(hardware.vector_bytes / max(widths), 1.0)
        vectors = np.ceil(tile[:, inner] / lanes) if set(strides) <= {0.0, 1.0} else np.zeros(len(tile))
        starts = trips.prod(axis=1) * tile.prod(axis=1) / tile[:, inner]
        compute = starts * np.where(vectors > 0, vectors, tile[:, inner])
        chain = np.zeros(len(tile))
        if nest.reduces[inner]:
            chain = starts * tile[:, inner] * cpu.LATENCY / (1 + cpu.IN_FLIGHT / tile[:, inner])
            waiting = np.maximum(starts * tile[:, inner], chain)
            compute = compute + nest.extremum * (waiting - compute)
        start = starts * cpu.LOOP_START + trips.prod(axis=1) * cpu.TILE_START
        column |= {
            f"{name}.cycles.chain": np.log2(1 + 1000 * chain / needed),
            f"{name}.vector": np.where(vectors > 0, tile[:, inner] / np.maximum(vectors * lanes, 1), 0.0),
            f"{name}.cycles.compute": np.log2(1000 * compute / needed),
            f"{name}.cycles.start": np.log2(1000 * start / needed),
            f"{name}.cycles.fetch": np.log2(1 + 1000 * fetched / needed),
            f"{name}.cycles": np.log2(1000 * (compute + start + fetched) / needed),
        }
    return np.stack([column[one.name] for one in cpu.BLOCK.columns], axis=1)
