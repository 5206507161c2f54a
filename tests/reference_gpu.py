"""Naive implementation of the GPU model, one configuration at a time, from the descriptions of the columns."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from features.hardware import Gpu
from features.hlo import ELEMENT_TYPES
from features.tensors import Tensors
from features.tile import gpu
from features.tile.loops import LoopNest
from features.tile.operands import MISSING, ROLES

LABELS = {"batch": "b", "m": "m", "n": "n", "k": "k"}


def columns(nest: LoopNest, tensors: Tensors, device: Gpu, named: Mapping[str, float]) -> dict[str, float]:
    """All columns by name, of one configuration whose slots all have names of the vocabulary."""
    label = ["k" if reduced else LABELS[role] for role, reduced in zip(nest.roles, nest.reduces, strict=True)]
    extents = [float(extent) for extent in nest.extents]
    total = {key: math.prod(size for size, own in zip(extents, label, strict=True) if own == key) for key in "bmnk"}
    left = nest.first("left")
    width = float(tensors.width[left.node if left else nest.accesses[0].node])
    size, count, cover = _grid(nest, label, extents, named, width)
    warps, stages = named.get("num_warps", 4), named.get("num_stages", 3)
    split, group = min(named.get("split_k", 1), count["k"]), named.get("group_m", 8)
    steps = math.ceil(count["k"] / split)
    blocks = count["b"] * count["m"] * count["n"] * split
    points, outputs, threads = math.prod(size.values()), size["b"] * size["m"] * size["n"], warps * device.warp
    needed, operations = math.prod(total.values()), 2.0 if nest.kind else 1.0
    m, n, k = size["m"], size["n"], size["k"]
    found: dict[str, float] = {}

    # Rates, per clock and unit.
    clock = device.clock_mhz / 1000
    vector_rate = 2.0 * device.lanes
    operand = nest.operands["left"][0] if "left" in nest.operands else nest.anchor
    kind = {"f16": "fp16", "bf16": "bf16", "f32": "tf32"}.get(ELEMENT_TYPES[tensors.element_type[operand]])
    of_cores = dict(device.rates).get(str(kind))
    peak = max(vector_rate, of_cores * 1e6 / device.units / device.clock_mhz) if of_cores else vector_rate
    tensor = bool(of_cores and nest.kind and m >= 16 and n >= 8 and k * width >= 16)
    tensor = tensor and (kind != "tf32" or named.get("allow_tf32", 1) > 0)
    rate = of_cores * 1e6 / device.units / device.clock_mhz if tensor and of_cores else vector_rate
    bandwidth = device.bandwidth_gbs / clock
    nbytes = [float(tensors.nbytes[access.node]) for access in nest.accesses]
    all_bytes = sum(nbytes)
    least = max(needed * operations / peak / device.units, all_bytes / bandwidth, 1.0)

    # Bytes and runs.
    moved, sectors, keys, vectors = [], [], [], []
    for access in nest.accesses:
        moves = np.flatnonzero(access.coefficients.any(axis=0)).tolist()
        elements = math.prod(cover[loop] for loop in moves)
        keys.append({label[loop] for loop in moves})
        run, vector, useful = _run(access, tensors, cover)
        moved.append(elements * tensors.width[access.node])
        sectors.append(moved[-1] / useful)
        vectors.append(vector)
        if f"{access.role}.run" not in found and access.role in ROLES[:3]:
            values = {"run": math.log2(run), "sectors": useful, "vector": math.log2(vector)}
            found |= {f"{access.role}.{name}": value for name, value in values.items()}
    for role in ROLES[:3]:
        for name in ("run", "sectors", "vector"):
            found.setdefault(f"{role}.{name}", MISSING)
    stepped = ["k" in own and number > 0 for number, own in enumerate(keys)]
    times = [steps if each else 1 for each in stepped]
    block_bytes = float(np.dot(moved, times))
    step_bytes = float(np.dot(moved, stepped))
    tile_bytes = sum(
        tensors.width[access.node] * math.prod(size[key] for key in own)
        for access, own, each in zip(nest.accesses, keys, stepped, strict=True)
        if each
    )

    # Residency.
    warp_rows = warp_columns = 1
    while warp_rows * warp_columns < warps:
        if m / 16 / warp_rows >= n / 16 / warp_columns and warp_rows < m / 16:
            warp_rows *= 2
        else:
            warp_columns *= 2
    part_m, part_n = m / warp_rows, n / warp_columns
    if nest.kind:
        held = outputs / threads * max(tensors.width[nest.accesses[0].node], 4) / 4
        registers, shared = 32 + held + (part_m + part_n) * 8 / device.warp, stages * tile_bytes
    else:
        held = points / threads
        registers, shared = 32 + held, 0.0
    limit = min(named.get("maxnreg", 255), 255)
    by_threads = min(device.threads // threads, device.blocks)
    warps_held = device.registers // (math.ceil(min(registers, limit) * device.warp / 256) * 256) // 4 * 4
    by_registers = warps_held // warps
    reserved = 1024 if device.shared_kb - device.shared_block_kb == 1 else 0
    by_shared = float(device.blocks)
    if shared:
        by_shared = min(by_shared, device.shared_kb * 1024 // (math.ceil(shared / 128) * 128 + reserved))
    resident = max(1, min(by_threads, by_registers, by_shared))
    slots = resident * device.units
    wave, waves = min(blocks, slots), blocks / slots
    last = blocks - (math.ceil(waves) - 1) * slots
    spilled = max(0.0, registers - limit)

    # Traffic.
    plane = count["m"] * count["n"]
    inside, planes = min(wave, plane), max(1.0, wave / plane)
    partial = 2 * nbytes[0] * (split - 1)
    kept = min(1.0, 0.5 * device.l2_mb * 2**20 / max(sum(nbytes[1:]), 1))
    from_dram, distinct = {}, 0.0
    for order, rows_together in (("row_major", 1), ("grouped", group)):
        amount, distinct = nbytes[0] + partial, 0.0
        touched = _touched(inside, count["m"], count["n"], rows_together)
        for number in range(1, len(nbytes)):
            own, loaded = keys[number], moved[number] * times[number]
            tiles = (touched[0] if "m" in own else 1) * (touched[1] if "n" in own else 1)
            tiles *= planes if "b" in own or (split > 1 and "k" in own) else 1
            tiles = min(tiles, wave)
            again = min(blocks / wave * tiles * loaded, blocks * loaded)
            amount += nbytes[number] + (1 - kept) * max(again - nbytes[number], 0)
            distinct += tiles * loaded
        from_dram[order] = amount

    in_flight = resident * max(stages - 1, 0.5) * step_bytes
    fill, over_steps = steps / (steps + stages - 1), stages / steps

    # Time, in clocks.
    fit = 1.0
    if nest.kind:
        fit = math.prod(each / (math.ceil(each / unit) * unit) for each, unit in ((m, 16), (n, 8), (k, 32 / width)))
    compute = points * operations / rate / (fit if tensor else 1)
    read = (m * warp_columns + n * warp_rows) * k * width + tile_bytes if nest.kind else 0.0
    of_shared = (read + 8 * spilled * threads) / gpu.SHARED_RATE
    loads = float(np.dot(np.divide(moved, vectors), stepped)) / device.warp
    of_l2 = max(float(np.dot(sectors, stepped)) / gpu.L2_RATE, 4 * loads)
    store = float(np.dot(sectors, np.logical_not(stepped))) / gpu.L2_RATE * (2 if split > 1 else 1)
    if any(vector < 4 for vector, each in zip(vectors, stepped, strict=True) if each):
        stages = 1

    def clocks(of_unit: float) -> float:
        of_partition = of_unit * warps / 4
        busy = of_unit * compute * max(1, 1 / of_partition)
        of_warp = busy / max(1, of_partition)
        waits = gpu.SYNC + (max(gpu.LATENCY / (stages - 1), of_warp) if stages >= 2 else gpu.LATENCY + of_warp)
        return gpu.LATENCY + steps * _soft(busy, of_unit * of_shared, of_unit * of_l2, waits) + of_unit * store

    fullest = math.ceil(last / device.units)
    whole = math.ceil(waves)
    rounds = (whole - 1) * resident + fullest
    dram = from_dram["grouped"] / bandwidth
    waits = gpu.SYNC + (gpu.LATENCY / (stages - 1) if stages >= 2 else gpu.LATENCY)
    terms = {
        "compute": rounds * steps * compute,
        "shared": rounds * steps * of_shared,
        "l2": rounds * steps * of_l2,
        "dram": dram,
        "latency": whole * (gpu.LATENCY + steps * waits),
        "store": rounds * store,
        "": _soft((whole - 1) * clocks(resident) + clocks(fullest), dram),
    }
    for name, value in terms.items():
        found[f"time.{name}".rstrip(".")] = math.log2((1 + value) / least)
        found[f"cost.{name or 'time'}"] = math.log2(1 + value / clock)

    block_work = points * operations * steps
    idle = 1 - min(warp_rows, math.ceil(m / 16)) * min(warp_columns, math.ceil(n / 8)) / (warp_rows * warp_columns)
    log = {
        "blocks": blocks, "blocks_per_unit": blocks / device.units, "waves": waves, "waves.whole": whole,
        "imbalance": math.ceil(blocks / device.units) / (blocks / device.units), "waves.loss": whole / waves,
        "warps_resident": resident * warps, "shared": 1 + shared, "accumulators": held, "registers": registers,
        "shared.share": (1 + shared) / (device.shared_block_kb * 1024), "spill": 1 + spilled, "work": block_work,
        "work.thread": outputs / threads, "bytes": block_bytes, "work.wave": wave * block_work,
        "bytes.wave": wave * block_bytes, "aspect": m / n, "traffic.l2": blocks * block_bytes / all_bytes,
        "traffic.row_major": from_dram["row_major"] / all_bytes, "traffic.grouped": from_dram["grouped"] / all_bytes,
        "wave.l2": (1 + distinct) / (device.l2_mb * 2**20),
        "intensity.l2": block_work / block_bytes * gpu.L2_RATE / rate,
        "intensity.dram": needed * operations / from_dram["grouped"] * bandwidth / rate / device.units,
        "warp.m": part_m, "warp.n": part_n, "warp.reuse": part_m * part_n / (part_m + part_n), "steps": steps,
        "stages": over_steps, "split": split, "split.bytes": 1 + partial / all_bytes,
        "in_flight": (1 + in_flight) / (gpu.L2_RATE * gpu.LATENCY),
        "padding.m": count["m"] * m / total["m"], "padding.n": count["n"] * n / total["n"],
        "padding.k": steps * split * k / total["k"], "padding": blocks * steps * points / needed,
    }  # fmt: skip
    found |= {name: math.log2(value) for name, value in log.items()}
    return found | {
        "fill": fill, "idle_units": 1 - min(1, blocks / device.units), "waves.last": last / slots, "resident": resident,
        "by_threads": by_threads, "by_registers": by_registers, "by_shared": by_shared, "tensor": float(tensor),
        "occupancy": min(1, resident * threads / device.threads), "tensor.fit": fit, "warp.idle": idle,
    }  # fmt: skip


def _soft(*times: float) -> float:
    return float(np.linalg.norm(times, gpu.OVERLAP))


def _grid(
    nest: LoopNest, label: list[str], extents: list[float], named: Mapping[str, float], width: float
) -> tuple[dict[str, float], dict[str, float], list[float]]:
    """Block size and number of blocks by class, and the part of a block along every loop."""
    size, count = dict.fromkeys("bmnk", 1.0), dict.fromkeys("bmnk", 1.0)
    cover, left = [0.0] * len(extents), list(range(len(extents)))
    short = 64 / width
    for loop in reversed(left):  # without a bound
        cover[loop] = 1.0 if nest.roles[loop] == "batch" else extents[loop]
        if nest.kind and label[loop] == "k":
            cover[loop] = min(extents[loop], short)
            short = max(1, short // cover[loop])
    for name, roles in (("block_m", ["m"]), ("block_n", ["n"]), ("block_k", ["k"])):
        if name == "block_m" and nest.kind == "convolution":
            roles = ["batch", "m"]
        loops = [loop for loop in left if nest.roles[loop] in roles]
        if name == "block_k" and "k" not in nest.roles:
            loops = [loop for loop in left if nest.reduces[loop]]
        if name not in named or not loops:
            continue
        rest = named[name]
        for loop in reversed(loops):
            cover[loop] = min(rest, extents[loop])
            rest /= cover[loop]
        size[label[loops[-1]]] *= named[name]
        count[label[loops[-1]]] *= math.ceil(math.prod(extents[loop] for loop in loops) / named[name])
        left = [loop for loop in left if loop not in loops]
    for loop in left:
        size[label[loop]] *= cover[loop]
        count[label[loop]] *= math.ceil(extents[loop] / cover[loop])
    return size, count, cover


def _run(access: object, tensors: Tensors, cover: list[float]) -> tuple[float, float, float]:
    """Bytes of a contiguous run, of the widest access of a thread, and useful share of the sectors."""
    node, coefficients = access.node, np.abs(access.coefficients)  # type: ignore[attr-defined]
    order, width = tensors.layout(node), float(tensors.width[node])
    run = 1.0
    for dim in order:
        loops = np.flatnonzero(coefficients[dim])
        span = min(1 + sum(coefficients[dim, loop] * (cover[loop] - 1) for loop in loops), tensors.shape(node)[dim])
        dense = math.prod(cover[loop] for loop in loops) >= span
        run *= span if dense else 1
        if not dense or span < tensors.shape(node)[dim]:
            break
    run = math.floor(run) * width
    steps = (tensors.strides(node) * int(width))[order][1:]
    aligned = math.gcd(128, *map(int, steps))
    sectors = math.ceil(run / 32) + (aligned < 32)
    vector = max(each for each in (width, 2, 4, 8, 16) if width <= each <= max(width, aligned) and run % each == 0)
    return run, vector, run / (32 * sectors)


def _touched(inside: float, rows: float, columns: float, together: float) -> tuple[float, float]:
    together = min(together, rows)
    if inside <= together * columns:
        return min(together, inside), min(columns, math.ceil(inside / together))
    return min(rows, together * math.ceil(inside / (together * columns))), columns
