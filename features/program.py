"""Program."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features._numba import kernel
from features.graph import Program
from features.hlo import FEAT_ID, N_OPCODES, NODE_FEAT, OPCODE_ID, OPCODES
from features.operations import anchor_of, result_of
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


#: Classes of opcodes by what they cost; what stands in none is ``other``.
CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "convolution": ("convolution",),
    "dot": ("dot",),
    "reduce": ("reduce", "reduce-precision", "sort", "cholesky", "triangular-solve", "fft"),
    "window": ("reduce-window", "select-and-scatter"),
    "transcendental": tuple(
        "exponential exponential-minus-one log log-plus-one logistic tanh tan sine cosine power sqrt rsqrt cbrt atan2 "
        "divide remainder".split()
    ),
    "arithmetic": tuple(
        "abs add ceil clamp complex count-leading-zeros floor imag is-finite maximum minimum multiply negate popcnt "
        "real round-nearest-afz round-nearest-even sign subtract batch-norm-grad batch-norm-inference "
        "batch-norm-training".split()
    ),
    "logic": tuple(
        "and or xor not compare select tuple-select shift-left shift-right-arithmetic shift-right-logical".split()
    ),
    "convert": ("convert", "bitcast-convert", "stochastic-convert"),
    "broadcast": ("broadcast", "iota"),
    "reshape": ("reshape", "bitcast", "dynamic-reshape"),
    "transpose": ("transpose", "copy", "reverse", "copy-start", "copy-done"),
    "slice": tuple("slice dynamic-slice dynamic-update-slice concatenate pad gather scatter".split()),
    "source": ("parameter", "constant", "rng", "rng-bit-generator", "rng-get-and-update-state", "infeed"),
    "collective": tuple(
        "all-reduce all-to-all all-gather reduce-scatter collective-permute all-reduce-start all-reduce-done "
        "all-gather-start all-gather-done collective-permute-start collective-permute-done send send-done recv "
        "recv-done partition-id replica-id".split()
    ),
    "control": tuple(
        "tuple get-tuple-element fusion call while conditional map custom-call after-all add-dependency domain "
        "opt-barrier async-start async-update async-done outfeed trace".split()
    ),
}
CLASS_NAMES: Final[tuple[str, ...]] = (*CLASSES, "other")


def _classes() -> NDArray[np.int64]:
    table = np.full(256, len(CLASSES), np.int64)
    for number, members in enumerate(CLASSES.values()):
        for name in members:
            table[OPCODE_ID[name]] = number
    return table


#: Class number by opcode id, int64 (256,).
CLASS_OF: Final = _classes()

OPCODES_BLOCK: Final = Block(
    "opcodes",
    1,
    "Op-type histogram of the graph.",
    (
        *(Column(f"class.{name}", "count", f"Nodes of opcode class {name}") for name in CLASS_NAMES),
        *(Column(f"op.{name}", "count", f"Nodes of opcode {name}") for name in OPCODES),
        Column("nodes", "count", "Nodes"),
        Column("edges", "count", "Edges"),
        Column("depth", "edges", "Longest path"),
    ),
    per_config=False,
)


def opcode_histogram(program: Program) -> Float32Array:
    """Counts of the block's columns, float32 (len(OPCODES_BLOCK),)."""
    opcode = program.opcode
    known = np.where(opcode < N_OPCODES, opcode, 0)
    size = (len(opcode), len(program.edges), program.depth.max(initial=0))
    classes = np.bincount(CLASS_OF[opcode], minlength=len(CLASS_NAMES))
    return np.concatenate([classes, np.bincount(known, minlength=N_OPCODES), size]).astype(np.float32)


def _informative(name: str) -> bool:
    stem, _, slot = name.rpartition("_")
    # Slots 4 and 5 of the window columns and the reversal flags are constant in every collection seen.
    return not (name.startswith("window") and (slot in ("4", "5") or "reversal" in stem))


NODE_COLUMNS: Final[tuple[str, ...]] = tuple(name for name in NODE_FEAT if _informative(name))
_SELECTED: Final = np.array([FEAT_ID[name] for name in NODE_COLUMNS], np.int64)
STATISTICS: Final[tuple[tuple[str, str], ...]] = (("mean", "mean"), ("std", "standard deviation"), ("max", "maximum"))

NODES_BLOCK: Final = Block(
    "nodes",
    1,
    "Statistics over the nodes of sign(x) * log2(1 + |x|) of every node feature.",
    tuple(
        Column(f"{short}.{name}", "log2", f"{long.capitalize()} over the nodes of log-signed {name}")
        for short, long in STATISTICS
        for name in NODE_COLUMNS
    ),
    per_config=False,
)


@kernel()
def _log_signed_statistics(feat, columns):  # type: ignore[no-untyped-def]
    n_nodes, n_columns = len(feat), len(columns)
    out = np.zeros((3, n_columns))
    if n_nodes == 0:
        return out
    square = np.zeros(n_columns)
    for node in range(n_nodes):
        for place in range(n_columns):
            raw = float(feat[node, columns[place]])
            value = 0.0
            if raw > 0:
                value = np.log2(1.0 + raw)
            elif raw < 0:
                value = -np.log2(1.0 - raw)
            # Welford: the two-pass variance would cancel where a column is nearly constant.
            delta = value - out[0, place]
            out[0, place] += delta / (node + 1)
            square[place] += delta * (value - out[0, place])
            if node == 0 or value > out[2, place]:
                out[2, place] = value
    for place in range(n_columns):
        out[1, place] = np.sqrt(square[place] / n_nodes)
    return out


def log_signed(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """``sign(x) * log2(1 + |x|)``, elementwise."""
    wide = np.asarray(values, np.float64)
    return np.sign(wide) * np.log2(1.0 + np.abs(wide))


def node_statistics(program: Program) -> Float32Array:
    """Columns of the block, float32 (len(NODES_BLOCK),): means, standard deviations, maxima; zeros without nodes."""
    return np.asarray(_log_signed_statistics(program.feat, _SELECTED), np.float32).reshape(-1)


#: What is summarised of a neighbourhood, beside the counts by opcode class.
_TOTALS: Final = (
    ("bytes", "log2", "Bytes of all outputs"),
    ("largest", "log2", "Bytes of the largest output"),
)
_SEEDS: Final = (("root", "the result"), ("heavy", "the heaviest operation"))
_RADII: Final = (1, 2, 3)


def neighborhood_columns(seed: str, long: str, radius: int) -> tuple[Column, ...]:
    """Columns of one neighbourhood: counts by opcode class, then totals."""
    where = f"within {radius} edges of {long}"
    return (
        *(Column(f"{seed}.{radius}hop.{name}", "count", f"Nodes of class {name} {where}") for name in CLASS_NAMES),
        *(Column(f"{seed}.{radius}hop.{name}", unit, f"{doc} {where}") for name, unit, doc in _TOTALS),
    )


NEIGHBORHOOD_BLOCK: Final = Block(
    "neighborhood",
    2,
    "k-hop surroundings of the result and of the heaviest operation.",
    tuple(column for seed, long in _SEEDS for radius in _RADII for column in neighborhood_columns(seed, long, radius)),
    per_config=False,
)


def neighborhood(program: Program, tensors: Tensors, seeds: ArrayLike, radii: tuple[int, ...] = _RADII) -> Float32Array:
    """Summaries of what lies within each radius of ``seeds`` (edges taken in both directions).

    Returns
    -------
    float32 (len(radii), len(CLASS_NAMES) + 2)
        Counts by opcode class, log2(1 + bytes) of all outputs and of the largest.
    """
    distance = program.hops(seeds, max(radii))
    classes, nbytes = CLASS_OF[program.opcode], tensors.nbytes
    rows = []
    for radius in radii:
        near = (distance >= 0) & (distance <= radius)
        counts = np.bincount(classes[near], minlength=len(CLASS_NAMES))
        sizes = np.log2(1.0 + np.array([nbytes[near].sum(), nbytes[near].max(initial=0.0)]))
        rows.append(np.concatenate([counts, sizes]))
    return np.array(rows, np.float32)


@kernel()
def _each(indptr_a, items_a, indptr_b, items_b, classes, nbytes, seeds, radius, n_classes):  # type: ignore[no-untyped-def]
    n_nodes = len(classes)
    stamp = np.full(n_nodes, -1, np.int64)
    queue = np.empty(n_nodes, np.int64)
    out = np.zeros((len(seeds), radius, n_classes + 1))
    for number in range(len(seeds)):
        queue[0] = seeds[number]
        stamp[seeds[number]] = number
        head, tail = 0, 1
        for hop in range(-1, radius):
            if hop >= 0:
                end = tail
                while head < end:
                    node = queue[head]
                    head += 1
                    for slot in range(indptr_a[node], indptr_a[node + 1]):
                        if stamp[items_a[slot]] != number:
                            stamp[items_a[slot]] = number
                            queue[tail] = items_a[slot]
                            tail += 1
                    for slot in range(indptr_b[node], indptr_b[node + 1]):
                        if stamp[items_b[slot]] != number:
                            stamp[items_b[slot]] = number
                            queue[tail] = items_b[slot]
                            tail += 1
                for place in range(tail):
                    out[number, hop, classes[queue[place]]] += 1
                    out[number, hop, n_classes] += nbytes[queue[place]]
    return out


def neighborhood_each(program: Program, tensors: Tensors, seeds: ArrayLike, radius: int) -> NDArray[np.float64]:
    """Counts by opcode class and total bytes around each of ``seeds`` by itself.

    Returns
    -------
    float64 (seeds, radius, len(CLASS_NAMES) + 1)
        Within 1, 2 … ``radius`` edges.
    """
    start = np.asarray(seeds, np.int64).reshape(-1)
    operands, users = program.operands, program.users
    return np.asarray(
        _each(
            operands.indptr, operands.items, users.indptr, users.items, CLASS_OF[program.opcode], tensors.nbytes,
            start, radius, len(CLASS_NAMES),
        )
    )  # fmt: skip


def kernel_neighborhood(program: Program, tensors: Tensors) -> Float32Array:
    """The block's columns for a kernel, float32 (len(NEIGHBORHOOD_BLOCK),)."""
    seeds = (result_of(program, tensors), anchor_of(program, tensors))
    return np.concatenate([neighborhood(program, tensors, seed).reshape(-1) for seed in seeds])
