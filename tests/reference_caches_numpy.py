"""The cache block in whole-array NumPy: every configuration at once, one level, one order, one operand at a time."""

from __future__ import annotations

import math

import numpy as np

from features.hardware import Hardware
from features.tensors import Tensors
from features.tile import cpu, operands
from features.tile.loops import LoopNest
from features.tile.operands import MISSING


def _room(nest: LoopNest, tensors: Tensors, cover: np.ndarray, line: int, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines that each operand touches over ``cover[:, loop]`` steps of every loop, and the room they take up."""
    lines, rooms = [], []
    for access in nest.accesses:
        shape, strides = tensors.shape(access.node), tensors.strides(access.node)
        width = int(tensors.width[access.node])
        run = count = spread = np.ones(len(cover))
        whole = np.ones(len(cover), bool)
        for dim in tensors.layout(access.node).tolist():
            loops = np.flatnonzero(access.coefficients[dim])
            span = np.floor(1 + (cover[:, loops] - 1) @ np.abs(access.coefficients[dim][loops]))
            span = np.minimum(span, shape[dim])
            points = np.minimum(cover[:, loops].prod(axis=1), span)
            full = whole & (points == span)
            apart = np.minimum(points, sets * line // math.gcd(int(strides[dim]) * width, sets * line))
            run = np.where(full, run * span, run)
            count = np.where(full, count, count * points)
            spread = np.where(full, spread, spread * apart)
            whole = full & (span == shape[dim])
        dense = np.ceil(run * width / line)
        used = np.minimum(sets, spread * dense)
        total = count * dense
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
        found, again = kept[:, number], np.zeros(n_configs, bool)
        for place, (loop, size) in reversed(list(enumerate(steps))):
            outside = (place < cut) & (size > 1)
            again = again | (outside & bool(access.coefficients[:, loop].any()))
            found = np.where(outside & again, found * size, found)
        misses.append(found)
    stay = np.prod([np.where(place >= cut, size, 1) for place, (_, size) in enumerate(steps)], axis=0)
    return np.stack(misses, axis=1), stay


def cache_columns(
    nest: LoopNest, tensors: Tensors, tiles: np.ndarray, hardware: Hardware, sequences: list[list[int]]
) -> np.ndarray:
    """The columns of the cache block, float64 (c, columns)."""
    tile = tiles.astype(np.float64)
    trips = np.ceil(nest.extents / tile)
    needed = float(np.prod(nest.extents, dtype=np.float64))
    nothing = np.full(len(tile), float(MISSING))
    column: dict[str, np.ndarray] = {}
    shape = []
    for cache in hardware.caches:
        total = cache.nbytes // hardware.line_bytes
        ways = cache.ways or total
        shape.append((max(total // ways, 1), ways))
    for level in range(3):
        column[f"L{level + 1}.fit"] = nothing
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
                names = (f"{label}.misses", f"{label}.stay", *(f"{label}.misses.{role}" for role in operands.ROLES[:3]))
                column |= dict.fromkeys(names, nothing)
                continue
            misses, stay = _misses(nest, tensors, steps, hardware.line_bytes, *shape[level])
            column[f"{label}.misses"] = np.log2(1 + 1000 * misses.sum(axis=1) / needed)
            column[f"{label}.stay"] = np.log2(stay)
            if level < 2:
                for role in operands.ROLES[:3]:
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
