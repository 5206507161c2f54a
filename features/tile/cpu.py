"""How a tiling meets a cache hierarchy: what stays in which cache, what misses, and a first estimate of the cycles.

The tiled nest is read as a sequence of loops: those over tiles, then those inside a tile, one of them innermost.  Going
outwards, the lines that a sub-nest touches grow until they no longer fit a cache; from there on, whatever the loops
outside bring back has to be fetched again.  Lines that fall into few sets of a cache (strides of large powers of two)
take up the room of all the lines that these sets could hold.  Which loop a compiler puts innermost is not known; three
guesses have columns of their own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hardware import N_LEVELS, Hardware
from features.hlo import MAX_RANK
from features.schema import Block, Column, Float32Array
from features.tile.geometry import Geometry
from features.tile.operands import MISSING, ROLES, LoopSlots

#: Cycles per line that comes from the next level, and per start of an innermost loop and of a tile; of the order that
#: current CPUs show (Fog, "Optimizing software in C++", 2023, section 9).  The trees correct the proportions.
FETCH: Final = (6.0, 20.0, 80.0)
LOOP_START: Final = 6.0
TILE_START: Final = 30.0
#: Share of a line's cycles that is left where lines follow one another and are fetched ahead of their use; lines that
#: are written are fetched and written back.
AHEAD: Final = 0.25
WRITTEN: Final = 2.0
#: Lines in a row from which on they count as following one another.
STREAM: Final = 4.0
#: Cycles from a floating-point result to the next that needs it, and steps of independent chains that are in flight at
#: once: a chain of ``n`` steps that cannot be reordered takes LATENCY / (1 + IN_FLIGHT / n) cycles per step.
LATENCY: Final = 4.0
IN_FLIGHT: Final = 100.0

_LEVELS: Final = tuple(f"L{level + 1}" for level in range(N_LEVELS))
_INNERMOST: Final = (
    ("fast", "the loop under which fewest operands are strided"),
    ("left", "the loop along which the left operand is contiguous, around it those with larger steps through it"),
    ("out", "the loop along which the result is contiguous, around it the reduced ones, then those with larger steps"),
)
_ROLES: Final = ROLES[:3]
#: Levels whose misses are told apart by role.
_BY_ROLE: Final = 2
_PER: Final = "per 1,000 iterations"


def _per_order(name: str, long: str) -> tuple[Column, ...]:
    inner = f"innermost: {long}"
    return (
        *(Column(f"{name}.{level}.misses", "log2", f"Lines fetched into {level} {_PER}; {inner}") for level in _LEVELS),
        *(
            Column(f"{name}.{level}.stay", "log2", f"Iterations of the largest sub-nest that fits {level}; {inner}")
            for level in _LEVELS
        ),
        *(
            Column(f"{name}.{level}.misses.{role}", "log2", f"Lines of {role} fetched into {level} {_PER}; {inner}")
            for level in _LEVELS[:_BY_ROLE]
            for role in _ROLES
        ),
        Column(f"{name}.vector", "share", f"Used part of the vectors, 0 where a vector would gather; {inner}"),
        Column(f"{name}.cycles.chain", "log2", f"Cycles of waiting, were sums not reordered, {_PER}; {inner}"),
        Column(f"{name}.cycles.compute", "log2", f"Estimated cycles of computation {_PER}; {inner}"),
        Column(f"{name}.cycles.start", "log2", f"Estimated cycles of starting loops and tiles {_PER}; {inner}"),
        Column(f"{name}.cycles.fetch", "log2", f"Estimated cycles of fetching lines {_PER}; {inner}"),
        Column(f"{name}.cycles", "log2", f"Estimated cycles {_PER}; {inner}"),
    )


BLOCK: Final = Block(
    "cache",
    3,
    "Cache levels: what fits, what misses, which sets collide, an estimate of the cycles.",
    (
        *(
            Column(f"{level}.fit", "log2", f"Room that one tile takes in {level} over all its room")
            for level in _LEVELS
        ),
        Column("conflict", "log2", "Room that one tile takes in L1 over the room of its lines: collisions of sets"),
        *(column for name, long in _INNERMOST for column in _per_order(name, long)),
    ),
    per_config=True,
)
_N_COMMON: Final = N_LEVELS + 1
_WIDTH: Final = (len(BLOCK) - _N_COMMON) // len(_INNERMOST)


@kernel(inline=True)
def _touch(  # type: ignore[no-untyped-def]
    access, cover, begins, loops, paces, limits, periods, rank, width, line, sets, lines, rooms, spread
):
    """Lines that one access touches when loop ``l`` runs over ``cover[l]`` steps, and the room they take."""
    count, run, whole = 1.0, 1.0, True
    for level in range(len(sets)):  # loop by loop: to fill a slice takes longer
        spread[level] = 1.0
    for place in range(rank[access]):
        span, points = 1.0, 1.0
        for at in range(begins[access, place], begins[access, place + 1]):
            span += paces[at] * (cover[loops[at]] - 1)
            points *= cover[loops[at]]
        span = min(np.floor(span), limits[access, place])
        points = min(points, span)
        # Without branches, which nothing could foresee: a factor is 1 where it does not count.
        full = whole and points == span
        run *= span if full else 1.0
        count *= 1.0 if full else points
        for level in range(len(sets)):
            spread[level] *= 1.0 if full else min(points, periods[level, access, place])
        whole = full and span == limits[access, place]
    dense = np.ceil(run * width[access] / line)
    touched = count * dense
    lines[access] = touched
    for level in range(len(sets)):
        used = min(sets[level], spread[level] * dense)
        crowded = max(touched * sets[level] / used, touched)
        rooms[level, access] = crowded if touched > used else touched


@kernel()
def _common(  # type: ignore[no-untyped-def]
    tiles, begins, loops, paces, limits, periods, rank, width, line, sets, ways, missing, n_levels, out
):
    n_accesses = len(rank)
    lines, rooms, spread = np.empty(n_accesses), np.empty((len(sets), n_accesses)), np.empty(len(sets))
    cover = np.empty(tiles.shape[1])
    for config in range(len(tiles)):
        for loop in range(tiles.shape[1]):
            cover[loop] = tiles[config, loop]
        for access in range(n_accesses):
            _touch(
                access, cover, begins, loops, paces, limits, periods, rank, width, line, sets, lines, rooms, spread
            )  # fmt: skip
        for level in range(n_levels):
            out[config, level] = missing
            if level < len(sets):
                out[config, level] = np.log2(rooms[level].sum() / (sets[level] * ways[level]))
                if level == 0:
                    out[config, n_levels] = np.log2(rooms[level].sum() / lines.sum())


@kernel()
def _ordered(  # type: ignore[no-untyped-def]
    tiles, extents, begins, loops, paces, limits, periods, rank, width, steps_of, vectorises, role, depends, reduces,
    sequence, line, sets, ways, vector_bytes, extremum, fetch, ahead, written, stream, loop_start, tile_start, latency,
    in_flight, missing, n_levels, n_roles, by_role, out,
):  # fmt: skip
    n_configs, n_loops = tiles.shape
    n_accesses, n_steps, n_caches = len(rank), 2 * n_loops, len(sets)
    size, of = np.empty(n_steps), np.empty(n_steps, np.int64)
    cover = np.empty(n_loops)
    # Of each access: lines that it touches while no loop has moved, now, and before the last loop.
    still, lines, last = np.empty(n_accesses), np.empty(n_accesses), np.empty(n_accesses)
    rooms_still, rooms = np.empty((n_caches, n_accesses)), np.empty((n_caches, n_accesses))
    spread = np.empty(n_caches)
    kept, stay, fits = np.empty((n_caches, n_accesses)), np.empty(n_caches), np.empty(n_caches, np.int64)
    inner = sequence[n_loops - 1]
    lanes = max(vector_bytes / width.max(), 1.0)
    price = np.empty(n_accesses)
    misses_by_role = np.empty((by_role, n_roles))
    cover[:] = 1.0
    for access in range(n_accesses):
        _touch(
            access, cover, begins, loops, paces, limits, periods, rank, width, line, sets, still, rooms_still, spread
        )  # fmt: skip
    for config in range(n_configs):
        needed, volume, n_tiles = 1.0, 1.0, 1.0
        for loop in range(n_loops):
            size[loop], of[loop] = np.ceil(extents[loop] / tiles[config, loop]), loop
            size[n_loops + loop], of[n_loops + loop] = tiles[config, sequence[loop]], sequence[loop]
            needed *= extents[loop]
            volume *= tiles[config, loop]
            n_tiles *= size[loop]
        for access in range(n_accesses):
            in_line = 0 < steps_of[access] <= line
            streams = in_line and steps_of[access] * tiles[config, inner] >= stream * line
            price[access] = (ahead if streams else 1.0) * (written if access == 0 else 1.0)
            lines[access], last[access] = still[access], 1.0
            for level in range(n_caches):
                rooms[level, access] = rooms_still[level, access]
        # One walk outwards for all caches, until none of them holds what the loops touch.
        for loop in range(n_loops):
            cover[loop] = 1.0
        for level in range(n_caches):
            fits[level] = -1
        inside, open_caches = 1.0, n_caches
        for back in range(n_steps):
            step = n_steps - 1 - back
            if size[step] <= 1:
                continue
            loop = of[step]
            cover[loop] = min(cover[loop] * size[step], float(extents[loop]))
            for access in range(n_accesses):
                if depends[access, loop]:
                    _touch(
                        access, cover, begins, loops, paces, limits, periods, rank, width, line, sets, lines, rooms,
                        spread,
                    )  # fmt: skip
            for level in range(n_caches):
                if fits[level] < 0:
                    room = 0.0
                    for access in range(n_accesses):
                        room += rooms[level, access]
                    if room > sets[level] * ways[level]:
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
        for level in range(by_role):
            for number in range(n_roles):
                misses_by_role[level, number] = 0.0
        for level in range(n_levels):
            if level >= n_caches:
                out[config, level] = missing
                out[config, n_levels + level] = missing
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
                        refetched = refetched or depends[access, of[step]]
                        if refetched:
                            misses *= size[step]
                total += misses
                paid += misses * price[access]
                if level < by_role and role[access] < n_roles:
                    misses_by_role[level, role[access]] += misses
            out[config, level] = np.log2(1.0 + 1000.0 * total / needed)
            out[config, n_levels + level] = np.log2(stay[level])
            cycles_fetch += fetch[level] * paid
        place = 2 * n_levels
        for level in range(by_role):
            for number in range(n_roles):
                out[config, place] = missing
                if level < n_caches:
                    out[config, place] = np.log2(1.0 + 1000.0 * misses_by_role[level, number] / needed)
                place += 1
        length = float(tiles[config, inner])
        steps = np.ceil(length / lanes) if vectorises else length
        starts = n_tiles * volume / length
        compute, start = starts * steps, starts * loop_start + n_tiles * tile_start
        chain = 0.0
        if reduces[inner]:  # every step adds to the result of the last
            chain = starts * length * latency / (1.0 + in_flight / length)
            compute = (1.0 - extremum) * compute + extremum * max(starts * length, chain)
        out[config, place] = length / (steps * lanes) if vectorises else 0.0
        place += 1
        out[config, place] = np.log2(1.0 + 1000.0 * chain / needed)
        out[config, place + 1] = np.log2(1000.0 * compute / needed)
        out[config, place + 2] = np.log2(1000.0 * start / needed)
        out[config, place + 3] = np.log2(1.0 + 1000.0 * cycles_fetch / needed)
        out[config, place + 4] = np.log2(1000.0 * (compute + start + cycles_fetch) / needed)


class CacheModel:
    """The cache model of one kernel on one machine.

    Parameters
    ----------
    geometry : Geometry
        The kernel's operands and loops.
    slots : LoopSlots
    hardware : Hardware

    Attributes
    ----------
    sequences : list of int64 (loops,)
        Order of the loops inside a tile, innermost last, one per guess.
    sets, ways : int64 (levels,)
    """

    def __init__(self, geometry: Geometry, slots: LoopSlots, hardware: Hardware) -> None:
        self._geometry = geometry
        left = next((row for row, role in enumerate(geometry.role) if role == ROLES.index("left")), 0)
        self.sequences = [
            _innermost(list(range(len(geometry.extents))), slots.fast[0]),
            _innermost(_along(geometry, left), _contiguous(geometry, left)),
            _innermost(_along(geometry, 0), _contiguous(geometry, 0)),
        ]
        self._depends = (geometry.coefficients != 0).any(axis=1)
        self._line = hardware.line_bytes
        total = np.array([cache.nbytes // hardware.line_bytes for cache in hardware.caches], np.int64)
        ways = np.array([cache.ways for cache in hardware.caches], np.int64)
        self.ways = np.where(ways > 0, ways, total)
        self.sets = np.maximum(total // self.ways, 1)
        self._vector_bytes = float(hardware.vector_bytes)
        self._space = self._laid_out(geometry)

    def __call__(self, tiles: NDArray[np.int64]) -> Float32Array:
        """The block's columns, float32 (c, len(BLOCK)), for int64 (c, loops) tiles between 1 and the loop extents."""
        out = np.zeros((len(tiles), len(BLOCK)), np.float32)
        nest = self._geometry
        if not len(nest.extents):
            return out
        space, sets, ways = self._space, self.sets.astype(np.float64), self.ways.astype(np.float64)
        _common(tiles, *space, self._line, sets, ways, MISSING, N_LEVELS, out[:, :_N_COMMON])
        for number, sequence in enumerate(self.sequences):
            first = _N_COMMON + number * _WIDTH
            # Through each operand per step of the innermost loop, in bytes.
            steps = (np.abs(nest.coefficients[:, :, sequence[-1]]) * nest.strides).sum(axis=1)
            vectorises = bool(((steps == 0) | (steps == nest.width)).all())
            _ordered(
                tiles, nest.extents, *space, steps, vectorises, nest.role, self._depends, nest.reduces, sequence,
                self._line, sets, ways, self._vector_bytes, nest.extremum, np.array(FETCH), AHEAD, WRITTEN, STREAM,
                LOOP_START, TILE_START, LATENCY, IN_FLIGHT, MISSING, N_LEVELS, len(_ROLES), _BY_ROLE,
                out[:, first : first + _WIDTH],
            )  # fmt: skip
        return out

    def _laid_out(self, nest: Geometry) -> tuple[NDArray[Any], ...]:
        """Dimensions of every access from the minor-most on, and the loops that move it along each.

        Returns
        -------
        begins : int64 (accesses, 7)
            Where each dimension's loops begin.
        loops, paces : int64 (moves,), float64 (moves,)
            Loops, and steps along the dimension per step of the loop.
        limits : float64 (accesses, 6)
            Extents.
        periods : float64 (levels, accesses, 6)
            Steps along the dimension after which the sets of a cache repeat.
        rank, width : int64 (accesses,), float64 (accesses,)
        """
        n_accesses = len(nest.rank)
        begins = np.zeros((n_accesses, MAX_RANK + 1), np.int64)
        limits = np.ones((n_accesses, MAX_RANK))
        periods = np.ones((len(self.sets), n_accesses, MAX_RANK))
        around = self.sets * self._line
        moves: list[tuple[int, float]] = []
        for access in range(n_accesses):
            begins[access] = len(moves)
            for place, dim in enumerate(nest.order[access, : nest.rank[access]]):
                step = np.abs(nest.coefficients[access, dim])
                moves += [(loop, step[loop]) for loop in np.flatnonzero(step).tolist()]
                begins[access, place + 1 :] = len(moves)
                limits[access, place] = nest.dims[access, dim]
                periods[:, access, place] = around // np.gcd(nest.strides[access, dim], around)
        loops = np.array([loop for loop, _ in moves], np.int64)
        return begins, loops, np.array([step for _, step in moves]), limits, periods, nest.rank, nest.width


def _contiguous(geometry: Geometry, row: int) -> int:
    """The loop with the smallest stride through one operand, -1 where none moves it."""
    for dim in geometry.order[row, : geometry.rank[row]]:
        moving = np.flatnonzero((geometry.coefficients[row, dim] != 0) & (geometry.extents > 1))
        if len(moving):
            return int(moving[-1])
    return -1


def _along(geometry: Geometry, row: int) -> list[int]:
    """All loops by their step through one operand, largest first; those that do not move it lie outside, in order.

    The result is moved by no reduced loop: these lie inside, where partial results stay at hand.
    """
    step = np.abs(geometry.coefficients[row]).T @ geometry.strides[row]
    still = np.inf if row else -1.0
    return sorted(range(len(step)), key=lambda loop: (-(step[loop] or still), loop))


def _innermost(order: list[int], loop: int) -> NDArray[np.int64]:
    return np.array([other for other in order if other != loop] + [loop] * (loop >= 0), np.int64)
