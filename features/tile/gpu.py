"""Model of a kernel on a GPU: blocks and waves, residency, traffic, tensor cores, pipeline, an estimate of the time.

The blocks of the grid cover the loops of the result; each runs over the reduced loops in steps of ``block_k``, and
loads the tiles of its operands in every step.  Occupancy follows the CUDA programming guide ("Compute Capabilities")
and the CUDA occupancy calculator: registers are allocated by warp in units of 256, warps in groups of four, shared
memory in units of 128 bytes.  The order of blocks is row-major, or in groups of rows as in Triton's tutorial on matrix
multiplication; a wave of resident blocks shares the tiles that it loads in L2.  Warps are laid out over a block as
Triton does it for ``mma`` of 16 x 8 (``warpsPerTileV2``).  The estimate is a roofline (Williams, Waterman and
Patterson, CACM 2009) of every step of the blocks of a wave: tensor cores, shared memory, L2 and latency; DRAM bounds
the whole kernel.

Parameters without a named slot (:mod:`features.tile.names`) have the defaults of Triton.
"""

from __future__ import annotations

from math import gcd
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hardware import Gpu, Hardware
from features.hlo import ELEMENT_TYPES
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors
from features.tile.geometry import Geometry, loop_bounds
from features.tile.names import named_slots
from features.tile.operands import CLASS_LOOPS, MISSING, ROLES

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Values of parameters that no slot names: Triton's, and the group of its tutorial and of TorchInductor.
DEFAULTS: Final = {"num_stages": 3.0, "split_k": 1.0, "group_m": 8.0}
WARPS: Final = 4.0
#: Bytes per row of the operand tiles of a product whose reduced loop has no bound.
STEP_BYTES: Final = 64.0
#: Bytes per clock and unit of shared memory (32 banks of a word) and of L2 (A100 white paper: 5,120 over 108 units).
SHARED_RATE: Final = 128.0
L2_RATE: Final = 48.0
#: Clocks until a load from L2 or DRAM arrives (Jia et al., "Dissecting the NVIDIA Volta GPU architecture", 2018).
LATENCY: Final = 600.0
#: Clocks of a barrier and of the address arithmetic of a step, and sharpness of the maximum of times.
SYNC: Final = 40.0
OVERLAP: Final = 4.0
#: Warps that keep the four partitions of a unit busy.
PARTITIONS: Final = 4.0
#: Registers of a thread besides accumulators and fragments, and the most that a thread may have.
OWN_REGISTERS: Final = 32.0
MOST_REGISTERS: Final = 255.0
#: Units of allocation: registers of a warp, warps, bytes of shared memory.
REGISTER_UNIT: Final = 256.0
WARP_UNIT: Final = 4.0
SHARED_UNIT: Final = 128.0
#: Bytes of a sector, the unit of loads from L2 and DRAM, and the widest load of a thread.
SECTOR: Final = 32.0
VECTOR: Final = 16.0
#: Least bytes of an asynchronous copy of a thread (PTX, ``cp.async``), and clocks of a load of a warp.
ASYNC: Final = 4.0
ISSUE: Final = 4.0
#: Rows, columns and bytes along the reduced dimension of a tensor-core instruction (PTX, ``mma.m16n8``).
MMA_M: Final = 16.0
MMA_N: Final = 8.0
MMA_K_BYTES: Final = 32.0
_LINE: Final = 128
WORD: Final = 4.0
#: Share of L2 that keeps operands from one wave to the next.
KEPT: Final = 0.5

_RATES: Final = {"f16": "fp16", "bf16": "bf16", "f32": "tf32", "f64": "fp64", "s8": "int8", "u8": "int8"}
_OPERANDS: Final = ROLES[:3]
_TERMS: Final = (
    ("compute", "arithmetic"),
    ("shared", "shared memory and spilled registers"),
    ("l2", "loads from L2"),
    ("dram", "DRAM"),
    ("latency", "the latency of loads"),
    ("store", "writing the result"),
)

COLUMNS: Final = (
    Column("blocks", "log2", "Blocks of the grid"),
    Column("blocks_per_unit", "log2", "Blocks of the grid over the units of the device"),
    Column("imbalance", "log2", "Blocks of the fullest unit over the mean"),
    Column("idle_units", "share", "Units without any block"),
    Column("waves", "log2", "Blocks of the grid over those resident at a time"),
    Column("waves.whole", "log2", "Waves, rounded up"),
    Column("waves.last", "share", "Filled share of the last wave"),
    Column("waves.loss", "log2", "Waves rounded up over waves: time lost to the last one"),
    Column("resident", "count", "Blocks that a unit holds at a time"),
    Column("by_threads", "count", "Blocks that the threads of a unit allow"),
    Column("by_registers", "count", "Blocks that the registers of a unit allow"),
    Column("by_shared", "count", "Blocks that the shared memory of a unit allows"),
    Column("occupancy", "share", "Resident over most threads of a unit"),
    Column("warps_resident", "log2", "Resident warps of a unit"),
    Column("shared", "log2", "Bytes of shared memory of a block: operand tiles of all stages"),
    Column("shared.share", "log2", "Shared memory of a block over its limit"),
    Column("accumulators", "log2", "Registers per thread for accumulators"),
    Column("registers", "log2", "Estimated registers per thread"),
    Column("spill", "log2", "Registers per thread beyond the limit: they spill to memory"),
    Column("work", "log2", "Operations of a block"),
    Column("work.thread", "log2", "Outputs per thread"),
    Column("bytes", "log2", "Bytes that a block loads and stores"),
    Column("work.wave", "log2", "Operations of a wave"),
    Column("bytes.wave", "log2", "Bytes that the blocks of a wave load and store"),
    Column("aspect", "log2", "Rows over columns of a block"),
    Column("traffic.l2", "log2", "Bytes that all blocks load and store over bytes of all operands"),
    Column("traffic.row_major", "log2", "Bytes from DRAM over bytes of all operands, blocks in row-major order"),
    Column("traffic.grouped", "log2", "Bytes from DRAM over bytes of all operands, blocks in groups of rows"),
    Column("wave.l2", "log2", "Distinct bytes of a wave over the size of L2"),
    Column("intensity.l2", "log2", "Operations per byte of a block over the ridge point of L2"),
    Column("intensity.dram", "log2", "Operations per byte from DRAM over the ridge point of the device"),
    Column("tensor", "flag", "Whether tensor cores can be used"),
    Column("tensor.fit", "share", "Useful share of the tensor-core instructions of a block"),
    Column("warp.m", "log2", "Rows of a warp's part of the block"),
    Column("warp.n", "log2", "Columns of a warp's part of the block"),
    Column("warp.reuse", "log2", "Operations of a warp per operand element read from shared memory"),
    Column("warp.idle", "share", "Warps without a part of the block"),
    *(
        Column(f"{role}.{name}", unit, text.format(role))
        for role in _OPERANDS
        for name, unit, text in (
            ("run", "log2", "Bytes of the {} tile in one contiguous run"),
            ("sectors", "share", "Useful share of the sectors of memory of the {} tile"),
            ("vector", "log2", "Bytes of the widest aligned access of a thread to the {} tile"),
        )
    ),
    Column("steps", "log2", "Steps of a block over the reduced loops"),
    Column("stages", "log2", "Pipeline stages over steps"),
    Column("fill", "share", "Steps over steps and those that fill the pipeline"),
    Column("in_flight", "log2", "Bytes of a unit in flight over those that hide the latency of L2"),
    Column("split", "log2", "Blocks that share a reduction"),
    Column("split.bytes", "log2", "Bytes of partial results over bytes of all operands, + 1"),
    Column("padding.m", "log2", "Rows of all blocks over rows needed"),
    Column("padding.n", "log2", "Columns of all blocks over columns needed"),
    Column("padding.k", "log2", "Steps of all blocks over steps needed"),
    Column("padding", "log2", "Work of all blocks over work needed"),
    *(Column(f"time.{name}", "log2", f"Time of {doc} over the least time of the kernel") for name, doc in _TERMS),
    Column("time", "log2", "Estimated time over the least time of the kernel, by peak rate and operand bytes"),
    *(Column(f"cost.{name}", "log2", f"Nanoseconds of {doc}, + 1", cost=True) for name, doc in _TERMS),
    Column("cost.time", "log2", "Estimated nanoseconds, + 1", cost=True),
)
BLOCK: Final = Block(
    "gpu", 1, "Blocks, waves, occupancy, traffic, tensor cores and an estimate of the time on a GPU.", COLUMNS, True
)
_N_COLUMNS: Final = len(COLUMNS)
_N_OPERANDS: Final = len(_OPERANDS)
_K: Final = CLASS_LOOPS.index("k")


class Launch(NamedTuple):
    """The grid, the blocks and the parameters of every configuration."""

    sizes: FloatArray  # (c, 4): block size by class of loops (CLASS_LOOPS), k: of one step
    trips: FloatArray  # (c, 4): blocks by class, k: steps of all blocks
    cover: FloatArray  # (c, loops): part of a block along each loop, at most its extent
    warps: FloatArray  # (c,)
    stages: FloatArray  # (c,)
    split: FloatArray  # (c,)
    group: FloatArray  # (c,)
    limit: FloatArray  # (c,): registers per thread, at most
    rate: FloatArray  # (c,): operations per clock and unit
    tensor: FloatArray  # (c,): whether rate is that of tensor cores


class Work(NamedTuple):
    """What all configurations of a kernel share, and the device."""

    extents: FloatArray  # (4,): product of the extents by class
    product: bool  # dot or convolution
    depends: NDArray[np.bool_]  # (accesses, loops)
    of_class: NDArray[np.bool_]  # (accesses, 4): whether an access depends on a loop of the class
    width: FloatArray  # (accesses,): bytes of an element
    nbytes: FloatArray  # (accesses,)
    first: IntArray  # (3,): access by role (out, left, right), -1 if missing
    paces: FloatArray  # (accesses, 6, loops): step along each dimension, minor to major
    dims: FloatArray  # (accesses, 6): extents, minor to major
    rank: IntArray  # (accesses,)
    aligned: FloatArray  # (accesses,): bytes to which every run is aligned
    operand: float  # bytes of an element of the left operand
    accumulator: float  # registers per accumulator
    operations: float  # per point of the loop nest
    least: float  # clocks at the peak rate or bandwidth
    units: float
    warp: float
    threads: float
    blocks: float
    registers: float
    shared: float  # bytes
    shared_block: float
    reserved: float  # bytes of shared memory that the system takes of every block
    l2: float
    bandwidth: float  # bytes per clock
    clock: float  # per nanosecond


@kernel()
def warp_grid(m, n, warps):  # type: ignore[no-untyped-def]
    """Rows and columns of the grid of warps over a block of m x n outputs."""
    rows, columns = 1.0, 1.0
    while rows * columns < warps:
        if m / MMA_M / rows >= n / (2.0 * MMA_N) / columns and rows < m / MMA_M:
            rows *= 2.0
        else:
            columns *= 2.0
    return rows, columns


@kernel()
def resident_blocks(warps, registers, shared, work):  # type: ignore[no-untyped-def]
    """Blocks that a unit holds by threads, by registers of a thread, and by bytes of shared memory."""
    by_threads = min(np.floor(work.threads / (warps * work.warp)), work.blocks)
    per_warp = np.ceil(registers * work.warp / REGISTER_UNIT) * REGISTER_UNIT
    held = np.floor(np.floor(work.registers / per_warp) / WARP_UNIT) * WARP_UNIT
    taken = np.ceil(shared / SHARED_UNIT) * SHARED_UNIT + work.reserved
    by_shared = work.blocks if shared <= 0 else min(np.floor(work.shared / taken), work.blocks)
    return by_threads, np.floor(held / warps), by_shared


@kernel()
def wave_shape(wave, rows, columns, group):  # type: ignore[no-untyped-def]
    """Rows and columns of blocks that a wave touches if ``group`` rows of blocks are ordered together."""
    group = min(group, rows)
    if wave <= group * columns:
        return min(group, wave), min(columns, np.ceil(wave / group))
    return min(rows, group * np.ceil(wave / (group * columns))), columns


@kernel()
def _tile_bytes(cover, access, work):  # type: ignore[no-untyped-def]
    """Bytes of an operand that a part of the loop nest touches."""
    nbytes = work.width[access]
    for loop in range(len(cover)):
        if work.depends[access, loop]:
            nbytes *= cover[loop]
    return nbytes


@kernel()
def _contiguous(cover, access, work):  # type: ignore[no-untyped-def]
    """Bytes of one contiguous run of these, useful share of its sectors, and bytes of the widest aligned access."""
    run, whole = 1.0, True
    for dim in range(work.rank[access]):
        if whole:
            span, points = 1.0, 1.0
            for loop in range(len(cover)):
                step = work.paces[access, dim, loop]
                if step > 0:
                    span += step * (cover[loop] - 1.0)
                    points *= cover[loop]
            span = min(span, work.dims[access, dim])
            if points >= span:
                run *= span
            whole = points >= span and span >= work.dims[access, dim]
    run = np.floor(run) * work.width[access]
    lines = np.ceil(run / SECTOR)
    if work.aligned[access] < SECTOR:
        lines += 1.0
    vector = max(min(work.aligned[access], VECTOR), work.width[access])
    while vector > work.width[access] and run % vector != 0.0:
        vector *= 0.5
    return run, run / (lines * SECTOR), vector


@kernel()
def _from_dram(access, wave, shape, planes, split, n_waves, loaded, blocks, kept, work):  # type: ignore[no-untyped-def]
    """Bytes of one operand that come from DRAM, if a wave touches ``shape`` blocks of ``planes`` slices."""
    distinct = 1.0
    if work.of_class[access, 1]:
        distinct *= shape[0]
    if work.of_class[access, 2]:
        distinct *= shape[1]
    if work.of_class[access, 0] or (split > 1 and work.of_class[access, 3]):
        distinct *= planes
    distinct = min(distinct, wave) * loaded
    again = min(n_waves * distinct, blocks * loaded)
    return work.nbytes[access] + (1.0 - kept) * max(again - work.nbytes[access], 0.0), distinct


@kernel()
def soft_maximum(first, second, third, fourth):  # type: ignore[no-untyped-def]
    """The largest of four times, or a little more where others are close: resources overlap, but not perfectly."""
    total = first**OVERLAP + second**OVERLAP + third**OVERLAP + fourth**OVERLAP
    return total ** (1.0 / OVERLAP)


@kernel()
def _waits(stages, busy):  # type: ignore[no-untyped-def]
    """Clocks of a step in which one load is awaited, and which keep a warp ``busy``."""
    return SYNC + (LATENCY + busy if stages < 2.0 else max(LATENCY / (stages - 1.0), busy))


@kernel()
def _clocks(count, warps, steps, stages, compute, shared, l2, store):  # type: ignore[no-untyped-def]
    """Clocks of ``count`` blocks on one unit; arguments are clocks of a step of one block that has the unit alone."""
    per_partition = count * warps / PARTITIONS
    compute *= count * max(1.0, 1.0 / per_partition)  # few warps leave partitions of the unit idle
    # Several warps per partition overlap with each other, a single one does not.
    waits = _waits(stages, compute / max(1.0, per_partition))
    step = soft_maximum(compute, count * shared, count * l2, waits)
    return LATENCY + steps * step + count * store


@kernel()
def _columns(launch, work):  # type: ignore[no-untyped-def]
    """Values of the block, float32 (c, columns)."""
    n_configs, n_accesses = len(launch.cover), len(work.width)
    out = np.zeros((n_configs, _N_COLUMNS), np.float32)
    total_bytes = work.nbytes.sum()
    input_bytes = total_bytes - work.nbytes[0]
    kept = min(1.0, KEPT * work.l2 / max(input_bytes, 1.0))
    runs = np.empty(_N_OPERANDS * 3)
    for config in range(n_configs):
        batch, m, n, k = (
            launch.sizes[config, 0], launch.sizes[config, 1], launch.sizes[config, 2], launch.sizes[config, 3]
        )  # fmt: skip
        rows, columns = launch.trips[config, 1], launch.trips[config, 2]
        warps, stages, split = launch.warps[config], launch.stages[config], launch.split[config]
        threads = warps * work.warp
        split = min(split, launch.trips[config, 3])
        steps = np.ceil(launch.trips[config, 3] / split)
        plane = rows * columns
        blocks = plane * launch.trips[config, 0] * split
        outputs = batch * m * n
        points = outputs * k
        # Bytes of one step and of a whole block.
        step_bytes, step_sectors, tile_bytes, stored, block_bytes = 0.0, 0.0, 0.0, 0.0, 0.0
        issue, narrowest = 0.0, VECTOR
        for index in range(len(runs)):
            runs[index] = MISSING
        for access in range(n_accesses):
            nbytes = _tile_bytes(launch.cover[config], access, work)
            run, useful, vector = _contiguous(launch.cover[config], access, work)
            for role in range(_N_OPERANDS):
                if work.first[role] == access:
                    runs[3 * role] = np.log2(run)
                    runs[3 * role + 1] = useful
                    runs[3 * role + 2] = np.log2(vector)
            if access == 0:
                stored = nbytes / useful
                block_bytes += nbytes
            elif work.of_class[access, 3]:
                step_bytes += nbytes
                step_sectors += nbytes / useful
                issue += nbytes / vector / work.warp * ISSUE
                narrowest = min(narrowest, vector)
                block_bytes += nbytes * steps
                tile = work.width[access]
                for number in range(4):
                    if work.of_class[access, number]:
                        tile *= launch.sizes[config, number]
                tile_bytes += tile
            else:
                stored += nbytes / useful
                block_bytes += nbytes
        # Residency.
        warp_rows, warp_columns = warp_grid(m, n, warps)
        part_m, part_n = m / warp_rows, n / warp_columns
        accumulators = outputs / threads * work.accumulator if work.product else points / threads
        fragments = 0.0
        shared = 0.0
        if work.product:
            fragments = (part_m + part_n) * MMA_K_BYTES / (WORD * work.warp)
            shared = stages * tile_bytes
        registers = OWN_REGISTERS + accumulators + fragments
        by_threads, by_registers, by_shared = resident_blocks(warps, min(registers, launch.limit[config]), shared, work)
        resident = max(1.0, min(by_threads, min(by_registers, by_shared)))
        slots = resident * work.units
        wave = min(blocks, slots)
        waves = blocks / slots
        whole_waves = np.ceil(waves)
        last = blocks - (whole_waves - 1.0) * slots
        # Traffic.
        planes = max(1.0, wave / plane)
        in_plane = min(wave, plane)
        row_major, grouped, distinct = work.nbytes[0], work.nbytes[0], 0.0
        partial = work.nbytes[0] * 2.0 * (split - 1.0)
        shape = wave_shape(in_plane, rows, columns, 1.0)
        shape_grouped = wave_shape(in_plane, rows, columns, launch.group[config])
        for access in range(1, n_accesses):
            loaded = _tile_bytes(launch.cover[config], access, work)
            if work.of_class[access, 3]:
                loaded *= steps
            n_waves = blocks / wave
            row_major += _from_dram(access, wave, shape, planes, split, n_waves, loaded, blocks, kept, work)[0]
            found = _from_dram(access, wave, shape_grouped, planes, split, n_waves, loaded, blocks, kept, work)
            grouped += found[0]
            distinct += found[1]
        # Tensor cores and clocks of one step of one block.
        operations = points * work.operations
        fit = 1.0
        mma_k = MMA_K_BYTES / work.operand
        if work.product:
            fit = m * n * k / (np.ceil(m / MMA_M) * MMA_M * np.ceil(n / MMA_N) * MMA_N * np.ceil(k / mma_k) * mma_k)
        active = min(warp_rows, np.ceil(m / MMA_M)) * min(warp_columns, np.ceil(n / MMA_N))
        rate = launch.rate[config]
        tensor = launch.tensor[config]
        compute = operations / rate / (fit if tensor > 0 else 1.0)
        read = 0.0
        if work.product:
            width = work.operand
            read = (m * warp_columns + n * warp_rows) * k * width + tile_bytes
        spilled = max(0.0, registers - launch.limit[config])
        of_shared = (read + 2.0 * WORD * spilled * threads) / SHARED_RATE
        l2 = max(step_sectors / L2_RATE, issue)
        ahead = stages if narrowest >= ASYNC else 1.0  # narrow loads cannot be asynchronous
        store = stored * (1.0 if split <= 1 else 2.0) / L2_RATE
        count = np.ceil(last / work.units)
        on_units = _clocks(count, warps, steps, ahead, compute, of_shared, l2, store)
        on_units += (whole_waves - 1.0) * _clocks(resident, warps, steps, ahead, compute, of_shared, l2, store)
        rounds = (whole_waves - 1.0) * resident + count  # blocks of the fullest unit
        dram = (grouped + partial) / work.bandwidth
        terms = (
            rounds * steps * compute,
            rounds * steps * of_shared,
            rounds * steps * l2,
            dram,
            whole_waves * (LATENCY + steps * _waits(ahead, 0.0)),
            rounds * store,
        )
        time = soft_maximum(on_units, dram, 0.0, 0.0)
        needed = work.extents[0] * work.extents[1] * work.extents[2] * work.extents[3]
        padding_m = rows * m / work.extents[1]
        padding_n = columns * n / work.extents[2]
        padding_k = steps * split * k / work.extents[3]
        block_work = operations * steps
        values = (
            np.log2(blocks),
            np.log2(blocks / work.units),
            np.log2(np.ceil(blocks / work.units) / (blocks / work.units)),
            1.0 - min(1.0, blocks / work.units),
            np.log2(waves),
            np.log2(whole_waves),
            last / slots,
            np.log2(whole_waves / waves),
            resident,
            by_threads,
            by_registers,
            by_shared,
            min(1.0, resident * threads / work.threads),
            np.log2(resident * warps),
            np.log2(1.0 + shared),
            np.log2((1.0 + shared) / work.shared_block),
            np.log2(accumulators),
            np.log2(registers),
            np.log2(1.0 + spilled),
            np.log2(block_work),
            np.log2(outputs / threads),
            np.log2(block_bytes),
            np.log2(wave * block_work),
            np.log2(wave * block_bytes),
            np.log2(m / n),
            np.log2(blocks * block_bytes / total_bytes),
            np.log2((row_major + partial) / total_bytes),
            np.log2((grouped + partial) / total_bytes),
            np.log2((1.0 + distinct) / work.l2),
            np.log2(block_work / block_bytes / (rate / L2_RATE)),
            np.log2(needed * work.operations / (grouped + partial) / (rate * work.units / work.bandwidth)),
            tensor,
            fit,
            np.log2(part_m),
            np.log2(part_n),
            np.log2(part_m * part_n / (part_m + part_n)),
            1.0 - active / (warp_rows * warp_columns),
            runs[0], runs[1], runs[2], runs[3], runs[4], runs[5], runs[6], runs[7], runs[8],
            np.log2(steps),
            np.log2(stages / steps),
            steps / (steps + stages - 1.0),
            np.log2((1.0 + resident * max(stages - 1.0, 0.5) * step_bytes) / (L2_RATE * LATENCY)),
            np.log2(split),
            np.log2(1.0 + partial / total_bytes),
            np.log2(padding_m),
            np.log2(padding_n),
            np.log2(padding_k),
            np.log2(blocks * steps * points / needed),
            np.log2((1.0 + terms[0]) / work.least),
            np.log2((1.0 + terms[1]) / work.least),
            np.log2((1.0 + terms[2]) / work.least),
            np.log2((1.0 + terms[3]) / work.least),
            np.log2((1.0 + terms[4]) / work.least),
            np.log2((1.0 + terms[5]) / work.least),
            np.log2((1.0 + time) / work.least),
            np.log2(1.0 + terms[0] / work.clock),
            np.log2(1.0 + terms[1] / work.clock),
            np.log2(1.0 + terms[2] / work.clock),
            np.log2(1.0 + terms[3] / work.clock),
            np.log2(1.0 + terms[4] / work.clock),
            np.log2(1.0 + terms[5] / work.clock),
            np.log2(1.0 + time / work.clock),
        )  # fmt: skip
        for column in range(len(values)):
            out[config, column] = values[column]
    return out


class GpuModel:
    """The model of one kernel on one GPU."""

    def __init__(self, geometry: Geometry, tensors: Tensors, hardware: Hardware) -> None:
        assert hardware.gpu is not None
        self._nest, self._tensors, self._hardware, self._gpu = geometry.nest, tensors, hardware, hardware.gpu
        self._slots = named_slots(hardware.config)
        nest, gpu = geometry.nest, hardware.gpu
        self._class = np.array([CLASS_LOOPS.index(role) for role in nest.roles], np.int64)
        self._class[nest.reduces] = _K
        left = nest.operands.get("left", (nest.anchor,))[0]
        self._type = ELEMENT_TYPES[int(tensors.element_type[left])]
        self.work = _work(geometry, tensors, gpu, self._class, max(self._rate(True)[0], self._rate(False)[0]))

    def __call__(self, configs: NDArray[np.float32]) -> Float32Array:
        """Values of the block, float32 (c, len(BLOCK)), of float (c, 24) configurations."""
        return np.asarray(_columns(self.launch(configs), self.work))

    def _rate(self, tf32: bool) -> tuple[float, bool]:
        """Operations per clock and unit on matrices, and whether they are those of tensor cores."""
        gpu, name = self._gpu, _RATES.get(self._type, "")
        rate = dict(gpu.rates).get(name)
        if rate is None or (name == "tf32" and not tf32):
            return 2.0 * gpu.lanes, False
        return rate * 1e6 / (gpu.units * gpu.clock_mhz), name != "fp64"

    def launch(self, configs: NDArray[np.float32]) -> Launch:
        """The grid, the blocks and the parameters of float (c, 24) configurations."""
        nest, extents = self._nest, self._nest.extents.astype(np.float64)
        bounds = loop_bounds(nest, self._tensors, configs, self._hardware, clip=False).astype(np.float64)
        cover = np.where(bounds > 0, bounds, self._unbounded(bounds))
        sizes, trips = np.ones((len(configs), len(CLASS_LOOPS))), np.ones((len(configs), len(CLASS_LOOPS)))
        blocks = [(loops, size.astype(np.float64)) for loops, size in self._slots.blocks(nest, configs)]
        blocks += [([loop], np.zeros(len(configs))) for loop in range(len(extents))]
        seen: set[int] = set()
        for every, size in blocks:
            loops = [loop for loop in every if loop not in seen]
            seen.update(loops)
            if not loops:
                continue
            number, given = self._class[loops[-1]], size > 0
            rest = size
            for loop in reversed(loops):
                step = np.minimum(rest, extents[loop])
                cover[:, loop] = np.where(given, step, cover[:, loop])
                rest = rest / np.maximum(step, 1.0)
            own = cover[:, loops]
            sizes[:, number] *= np.where(given, size, own.prod(axis=1))
            needed = np.where(given, np.ceil(extents[loops].prod() / np.maximum(size, 1.0)), 1.0)
            trips[:, number] *= np.where(given, needed, np.ceil(extents[loops] / own).prod(axis=1))
        return self._with_parameters(configs, sizes, trips, np.minimum(cover, extents))

    def _unbounded(self, bounds: FloatArray) -> FloatArray:
        """Block along loops without a bound: one batch entry, a short step of a product, else the whole loop."""
        nest, shape = self._nest, self._nest.extents.astype(np.float64).copy()
        shape[[role == "batch" for role in nest.roles]] = 1.0
        if nest.kind:
            rest = STEP_BYTES / self.work.operand
            for loop in np.flatnonzero(self._class == _K)[::-1]:
                shape[loop] = min(shape[loop], rest)
                rest = max(1.0, np.floor(rest / shape[loop]))
        return np.broadcast_to(shape, bounds.shape)

    def _with_parameters(
        self, configs: NDArray[np.float32], sizes: FloatArray, trips: FloatArray, cover: FloatArray
    ) -> Launch:
        def parameter(meaning: str, default: float) -> FloatArray:
            return np.maximum(self._slots.parameter(meaning, configs, default), 1.0)

        warps = parameter("num_warps", WARPS)
        if "num_warps" not in self._slots and "num_threads" in self._slots:
            warps = np.ceil(parameter("num_threads", WARPS * self._gpu.warp) / self._gpu.warp)
        limit = np.minimum(parameter("max_registers", MOST_REGISTERS), MOST_REGISTERS)
        rate, tensor = np.full(len(configs), 2.0 * self._gpu.lanes), np.zeros(len(configs))
        if self._nest.kind:
            tf32 = self._slots.parameter("allow_tf32", configs) > 0 if "allow_tf32" in self._slots else True
            fits = (sizes[:, 1] >= MMA_M) & (sizes[:, 2] >= MMA_N) & (sizes[:, _K] * self.work.operand >= VECTOR)
            for allowed in (False, True):
                value, is_tensor = self._rate(allowed)
                rows = (tf32 == np.full(len(configs), allowed)) & (fits if is_tensor else True)
                rate[rows], tensor[rows] = value, is_tensor
        stages, split, group = (parameter(name, default) for name, default in DEFAULTS.items())
        return Launch(sizes, trips, cover, warps, stages, split, group, limit, rate, tensor)


def _work(geometry: Geometry, tensors: Tensors, gpu: Gpu, classes: IntArray, rate: float) -> Work:
    nest, operands = geometry.nest, geometry.operands
    extents = np.ones(len(CLASS_LOOPS))
    np.multiply.at(extents, classes, nest.extents)
    depends = np.asarray((operands.coefficients > 0).any(axis=1))
    nbytes = np.array([tensors.nbytes[access.node] for access in nest.accesses], np.float64)
    of_class = np.stack([depends[:, classes == number].any(axis=1) for number in range(len(CLASS_LOOPS))], axis=1)
    operations = 2.0 if nest.kind else 1.0
    clock = gpu.clock_mhz * 1e-3
    bandwidth = gpu.bandwidth_gbs / clock
    first = [int(np.argmax(found)) if (found := operands.role == number).any() else -1 for number in range(_N_OPERANDS)]
    reserved = 1024.0 if gpu.shared_kb - gpu.shared_block_kb == 1 else 0.0  # from compute capability 8.0 on
    return Work(
        extents=extents,
        product=bool(nest.kind),
        depends=depends,
        of_class=of_class,
        width=operands.width,
        nbytes=nbytes,
        first=np.array(first, np.int64),
        paces=operands.coefficients,
        dims=operands.dims.astype(np.float64),
        rank=operands.rank,
        aligned=np.array([_alignment(operands.strides[row, : operands.rank[row]]) for row in range(len(nbytes))]),
        operand=float(operands.width[max(first[1], 0)]),
        accumulator=max(float(operands.width[0]), WORD) / WORD,
        operations=operations,
        least=max(extents.prod() * operations / (rate * gpu.units), nbytes.sum() / bandwidth, 1.0),
        units=float(gpu.units),
        warp=float(gpu.warp),
        threads=float(gpu.threads),
        blocks=float(gpu.blocks),
        registers=float(gpu.registers),
        shared=gpu.shared_kb * 1024.0,
        shared_block=gpu.shared_block_kb * 1024.0,
        reserved=reserved,
        l2=gpu.l2_mb * 1024.0 * 1024.0,
        bandwidth=bandwidth,
        clock=clock,
    )


def _alignment(strides: IntArray) -> float:
    """Largest power of two, at most a cache line, that divides the steps along all dimensions but the minor-most."""
    return float(gcd(_LINE, *(int(stride) for stride in strides[1:])))
