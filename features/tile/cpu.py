"""Cache model of a tiled loop nest: footprint per cache level, misses, and an estimate of the cycles.

The tiled nest is a sequence of loops: first those over tiles, then those inside a tile.  From the innermost loop
outwards, a sub-nest touches more and more lines until they no longer fit in a cache; lines that the remaining outer
loops reuse are then fetched again.  Lines that map to few sets of a cache (strides of large powers of two) occupy the
capacity of the whole cache.  The compiler's choice of the innermost loop is unknown, so columns are computed for three
candidates.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hardware import N_LEVELS, Hardware
from features.hlo import MAX_RANK
from features.schema import Block, Column, Float32Array
from features.tile.geometry import Geometry
from features.tile.operands import MISSING, ROLES, LoopSlots

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Cycles per line fetched from the next level, per start of an innermost loop, and per start of a tile.  Orders of
#: magnitude of current CPUs (Fog, "Optimizing software in C++", 2023, section 9); the trees correct the proportions.
FETCH: Final = (6.0, 20.0, 80.0)
LOOP_START: Final = 6.0
TILE_START: Final = 30.0
#: Relative cost of a prefetched line, and of a written line (fetched and written back).
AHEAD: Final = 0.25
WRITTEN: Final = 2.0
#: Minimum number of consecutive lines that the hardware prefetches.
STREAM: Final = 4.0
#: Latency of a floating-point operation in cycles, and number of steps in flight: a dependency chain of ``n`` steps
#: takes LATENCY / (1 + IN_FLIGHT / n) cycles per step.
LATENCY: Final = 4.0
IN_FLIGHT: Final = 100.0

_LEVELS: Final = tuple(f"L{level + 1}" for level in range(N_LEVELS))
_ORDERS: Final = (
    ("fast", "the loop with fewest strided operands"),
    ("left", "the loop along which the left operand is contiguous, then loops by increasing step through it"),
    ("out", "the loop along which the result is contiguous, then reduced loops, then loops by increasing step"),
)
_N_ROLES: Final = 3
#: Number of levels with misses by role.
_BY_ROLE: Final = 2
_PER: Final = "per 1,000 iterations"


_PER_ORDER: Final = (
    *((f"{level}.misses", "log2", f"Lines fetched into {level} {_PER}") for level in _LEVELS),
    *((f"{level}.stay", "log2", f"Iterations of the largest sub-nest that fits {level}") for level in _LEVELS),
    *(
        (f"{level}.misses.{role}", "log2", f"Lines of {role} fetched into {level} {_PER}")
        for level in _LEVELS[:_BY_ROLE]
        for role in ROLES[:_N_ROLES]
    ),
    ("vector", "share", "Utilisation of vector lanes, 0 if the loop does not vectorise"),
    ("cycles.chain", "log2", f"Stall cycles if sums are not reordered, {_PER}"),
    ("cycles.compute", "log2", f"Estimated cycles of computation {_PER}"),
    ("cycles.start", "log2", f"Estimated cycles of starting loops and tiles {_PER}"),
    ("cycles.fetch", "log2", f"Estimated cycles of fetching lines {_PER}"),
    ("cycles", "log2", f"Estimated cycles {_PER}"),
)
_N_COMMON: Final = N_LEVELS + 1

BLOCK: Final = Block(
    "cache",
    3,
    "Cache levels: footprint, misses, set conflicts, and an estimate of the cycles.",
    (
        *(Column(f"{name}.fit", "log2", f"Space of one tile in {name} over the size of {name}") for name in _LEVELS),
        Column("conflict", "log2", "Space of one tile in L1 over the size of its lines: set conflicts"),
        *(
            Column(f"{order}.{name}", unit, f"{doc}; innermost: {long}")
            for order, long in _ORDERS
            for name, unit, doc in _PER_ORDER
        ),
    ),
    per_config=True,
)


class _Memory(NamedTuple):
    """Accesses and caches; a move is a loop that moves an access along a dimension (minor to major)."""

    begins: IntArray  # (accesses, 6): first move of each dimension
    ends: IntArray  # (accesses, 6): end of the moves of each dimension
    loops: IntArray  # (moves,)
    paces: FloatArray  # (moves,): step along the dimension per step of the loop
    limits: IntArray  # (accesses, 6): extents
    periods: IntArray  # (levels, accesses, 6): steps along the dimension after which the sets of a cache repeat
    rank: IntArray  # (accesses,)
    width: FloatArray  # (accesses,): bytes of an element
    role: IntArray  # (accesses,): index into ROLES
    depends: NDArray[np.bool_]  # (accesses, loops): whether the loop moves the access
    line: float  # bytes
    vector: float  # bytes
    sets: FloatArray  # (levels,)
    ways: FloatArray  # (levels,)


class _Order(NamedTuple):
    """One order of the loops inside a tile."""

    sequence: IntArray  # (loops,): innermost last
    steps: FloatArray  # (accesses,): bytes through each access per step of the innermost loop
    vectorises: bool  # whether all steps are 0 or one element
    reduces: bool  # whether the innermost loop is reduced
    extremum: float  # share of the reductions that compute a maximum or minimum


@kernel(inline=True)
def _touch(access, cover, memory, lines, rooms, spread):  # type: ignore[no-untyped-def]
    """Set the number of lines that an access touches if loop ``l`` runs over ``cover[l]`` steps, and their space."""
    count, run, whole = 1.0, 1.0, True
    for level in range(len(memory.sets)):  # faster than filling a slice
        spread[level] = 1.0
    for dim in range(memory.rank[access]):
        span, points = 1.0, 1.0
        for at in range(memory.begins[access, dim], memory.ends[access, dim]):
            span += memory.paces[at] * (cover[memory.loops[at]] - 1)
            points *= cover[memory.loops[at]]
        span = min(np.floor(span), memory.limits[access, dim])
        points = min(points, span)
        # Selects instead of branches, which would be mispredicted; a factor of 1 has no effect.
        full = whole and points == span
        run *= span if full else 1.0
        count *= 1.0 if full else points
        for level in range(len(memory.sets)):
            spread[level] *= 1.0 if full else min(points, memory.periods[level, access, dim])
        whole = full and span == memory.limits[access, dim]
    dense = np.ceil(run * memory.width[access] / memory.line)
    touched = count * dense
    lines[access] = touched
    for level in range(len(memory.sets)):
        used = min(memory.sets[level], spread[level] * dense)
        crowded = max(touched * memory.sets[level] / used, touched)
        rooms[level, access] = crowded if touched > used else touched


@kernel()
def _common(tiles, memory, out):  # type: ignore[no-untyped-def]
    """Fill ``out``, float32 (c, 4): space that one tile occupies per level, and conflicts."""
    n_accesses, n_caches = len(memory.rank), len(memory.sets)
    lines, rooms, spread = np.empty(n_accesses), np.empty((n_caches, n_accesses)), np.empty(n_caches)
    cover = np.empty(tiles.shape[1])
    for config in range(len(tiles)):
        for loop in range(tiles.shape[1]):
            cover[loop] = tiles[config, loop]
        for access in range(n_accesses):
            _touch(access, cover, memory, lines, rooms, spread)
        for level in range(N_LEVELS):
            out[config, level] = MISSING
            if level < n_caches:
                out[config, level] = np.log2(rooms[level].sum() / (memory.sets[level] * memory.ways[level]))
        out[config, N_LEVELS] = np.log2(rooms[0].sum() / lines.sum())


@kernel()
def _ordered(tiles, extents, memory, order, out):  # type: ignore[no-untyped-def]
    """Fill ``out``, float32 (c, columns of one order)."""
    n_configs, n_loops = tiles.shape
    n_accesses, n_steps, n_caches = len(memory.rank), 2 * n_loops, len(memory.sets)
    size, loop_of = np.empty(n_steps), np.empty(n_steps, np.int64)
    cover = np.empty(n_loops)
    # Lines that each access touches without any loop, with the loops so far, and without the last of them.
    still, lines, last = np.empty(n_accesses), np.empty(n_accesses), np.empty(n_accesses)
    rooms_still, rooms = np.empty((n_caches, n_accesses)), np.empty((n_caches, n_accesses))
    spread = np.empty(n_caches)
    # Per cache: lines and iterations of the largest sub-nest that fits, and its outermost loop.
    kept, stay, fits = np.empty((n_caches, n_accesses)), np.empty(n_caches), np.empty(n_caches, np.int64)
    inner = order.sequence[n_loops - 1]
    lanes = max(memory.vector / memory.width.max(), 1.0)
    price = np.empty(n_accesses)
    misses_by_role = np.empty((_BY_ROLE, _N_ROLES))
    cover[:] = 1.0
    for access in range(n_accesses):
        _touch(access, cover, memory, still, rooms_still, spread)
    for config in range(n_configs):
        needed, volume, n_tiles = 1.0, 1.0, 1.0
        for loop in range(n_loops):
            inside_tile = order.sequence[loop]
            size[loop], loop_of[loop] = np.ceil(extents[loop] / tiles[config, loop]), loop
            size[n_loops + loop], loop_of[n_loops + loop] = tiles[config, inside_tile], inside_tile
            needed *= extents[loop]
            volume *= tiles[config, loop]
            n_tiles *= size[loop]
        for access in range(n_accesses):
            step = order.steps[access]
            streams = 0 < step <= memory.line and step * tiles[config, inner] >= STREAM * memory.line
            price[access] = (AHEAD if streams else 1.0) * (WRITTEN if access == 0 else 1.0)
            lines[access], last[access] = still[access], 1.0
            for level in range(n_caches):
                rooms[level, access] = rooms_still[level, access]
        # One pass outwards for all caches, until the sub-nest fits in none of them.
        for loop in range(n_loops):
            cover[loop] = 1.0
        for level in range(n_caches):
            fits[level] = -1
        inside, open_caches = 1.0, n_caches
        for back in range(n_steps):
            step = n_steps - 1 - back
            if size[step] <= 1:
                continue
            loop = loop_of[step]
            cover[loop] = min(cover[loop] * size[step], float(extents[loop]))
            for access in range(n_accesses):
                if memory.depends[access, loop]:
                    _touch(access, cover, memory, lines, rooms, spread)
            for level in range(n_caches):
                if fits[level] < 0:
                    room = 0.0
                    for access in range(n_accesses):
                        room += rooms[level, access]
                    if room > memory.sets[level] * memory.ways[level]:
                        stay[level], fits[level] = inside, step + 1
                        for access in range(n_accesses):
                            kept[level, access] = last[access]
                        open_caches -= 1
            if open_caches == 0:
                break
            inside *= size[step]
            for access in range(n_accesses):
                last[access] = lines[access]
        cycles_fetch = 0.0
        for level in range(_BY_ROLE):
            for role in range(_N_ROLES):
                misses_by_role[level, role] = 0.0
        for level in range(N_LEVELS):
            if level >= n_caches:
                out[config, level] = MISSING
                out[config, N_LEVELS + level] = MISSING
                continue
            if fits[level] < 0:
                stay[level], fits[level] = inside, 0
                for access in range(n_accesses):
                    kept[level, access] = last[access]
            total, paid = 0.0, 0.0
            for access in range(n_accesses):
                misses = kept[level, access]
                refetched = False
                for back in range(fits[level]):
                    step = fits[level] - 1 - back
                    if size[step] > 1:
                        refetched = refetched or memory.depends[access, loop_of[step]]
                        if refetched:
                            misses *= size[step]
                total += misses
                paid += misses * price[access]
                if level < _BY_ROLE and memory.role[access] < _N_ROLES:
                    misses_by_role[level, memory.role[access]] += misses
            out[config, level] = np.log2(1.0 + 1000.0 * total / needed)
            out[config, N_LEVELS + level] = np.log2(stay[level])
            cycles_fetch += FETCH[level] * paid
        at = 2 * N_LEVELS
        for level in range(_BY_ROLE):
            for role in range(_N_ROLES):
                out[config, at] = MISSING
                if level < n_caches:
                    out[config, at] = np.log2(1.0 + 1000.0 * misses_by_role[level, role] / needed)
                at += 1
        length = float(tiles[config, inner])
        steps = np.ceil(length / lanes) if order.vectorises else length
        starts = n_tiles * volume / length
        compute, start = starts * steps, starts * LOOP_START + n_tiles * TILE_START
        chain = 0.0
        if order.reduces:  # every step depends on the previous one
            chain = starts * length * LATENCY / (1.0 + IN_FLIGHT / length)
            compute = (1.0 - order.extremum) * compute + order.extremum * max(starts * length, chain)
        out[config, at] = length / (steps * lanes) if order.vectorises else 0.0
        out[config, at + 1] = np.log2(1.0 + 1000.0 * chain / needed)
        out[config, at + 2] = np.log2(1000.0 * compute / needed)
        out[config, at + 3] = np.log2(1000.0 * start / needed)
        out[config, at + 4] = np.log2(1.0 + 1000.0 * cycles_fetch / needed)
        out[config, at + 5] = np.log2(1000.0 * (compute + start + cycles_fetch) / needed)


class CacheModel:
    """The cache model of one kernel on one machine."""

    def __init__(self, geometry: Geometry, slots: LoopSlots, hardware: Hardware) -> None:
        nest, operands = geometry.nest, geometry.operands
        self._extents = nest.extents
        left = next((row for row, access in enumerate(nest.accesses) if access.role == "left"), 0)
        self.sequences = [  # order of the loops inside a tile, innermost last, one per candidate
            _innermost(list(range(len(nest.extents))), slots.fast[0]),
            _innermost(_by_step(geometry, left), _contiguous(geometry, left)),
            _innermost(_by_step(geometry, 0), _contiguous(geometry, 0)),
        ]
        self._memory = _memory(geometry, hardware)
        self._orders = []
        for sequence in self.sequences if len(nest.extents) else ():
            inner = sequence[-1]
            steps = (operands.coefficients[:, :, inner] * operands.strides).sum(axis=1)
            vectorises = bool(((steps == 0) | (steps == operands.width)).all())
            self._orders.append(_Order(sequence, steps, vectorises, bool(nest.reduces[inner]), nest.extremum))

    def __call__(self, tiles: IntArray) -> Float32Array:
        """Values of the block, float32 (c, len(BLOCK)), for int64 (c, loops) tiles between 1 and the loop extents."""
        out = np.zeros((len(tiles), len(BLOCK)), np.float32)
        if not self._orders:
            return out
        _common(tiles, self._memory, out[:, :_N_COMMON])
        for number, order in enumerate(self._orders):
            first = _N_COMMON + number * len(_PER_ORDER)
            _ordered(tiles, self._extents, self._memory, order, out[:, first : first + len(_PER_ORDER)])
        return out


def _memory(geometry: Geometry, hardware: Hardware) -> _Memory:
    operands, line = geometry.operands, hardware.line_bytes
    total = np.array([cache.nbytes // line for cache in hardware.caches], np.int64)
    ways = np.array([cache.ways for cache in hardware.caches], np.int64)
    ways = np.where(ways > 0, ways, total)
    sets = np.maximum(total // ways, 1)
    moves = np.nonzero(operands.coefficients)
    ends = np.cumsum((operands.coefficients > 0).sum(axis=2)).reshape(-1, MAX_RANK)
    begins = np.concatenate([[0], ends.ravel()[:-1]]).reshape(ends.shape)
    around = sets[:, None, None] * line
    return _Memory(
        begins, ends, moves[2], operands.coefficients[moves], operands.dims, around // np.gcd(operands.strides, around),
        operands.rank, operands.width, operands.role, np.asarray((operands.coefficients > 0).any(axis=1)),
        float(line), float(hardware.vector_bytes), sets.astype(np.float64), ways.astype(np.float64),
    )  # fmt: skip


def _contiguous(geometry: Geometry, row: int) -> int:
    """The loop with the smallest stride through one access, -1 if it depends on no loop."""
    dims, loops = np.nonzero((geometry.operands.coefficients[row] > 0) & (geometry.nest.extents > 1))
    return int(loops[dims == dims[0]][-1]) if len(loops) else -1


def _by_step(geometry: Geometry, row: int) -> list[int]:
    """Loops by their step through one access, largest first; loops that it does not depend on are outermost.

    For the result, these are the reduced loops, which are innermost instead: partial results stay in registers.
    """
    step = geometry.operands.coefficients[row].T @ geometry.operands.strides[row]
    still = np.inf if row else -1.0
    return sorted(range(len(step)), key=lambda loop: (-(step[loop] or still), loop))


def _innermost(order: list[int], loop: int) -> IntArray:
    return np.array([other for other in order if other != loop] + [loop] * (loop >= 0), np.int64)
