"""Features that all configurations of a graph share: op-type histogram, node statistics, k-hop neighbourhoods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features._numba import kernel
from features.graph import Csr, Program
from features.hlo import FEAT_ID, N_OPCODES, NODE_FEAT, OPCODE_ID, OPCODES
from features.operations import anchor_of, result_of
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors

#: Opcodes by cost class; all others are of class ``other``.
CLASSES: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(opcodes.split())
    for name, opcodes in {
        "convolution": "convolution",
        "dot": "dot",
        "reduce": "reduce reduce-precision sort cholesky triangular-solve fft",
        "window": "reduce-window select-and-scatter",
        "transcendental": "exponential exponential-minus-one log log-plus-one logistic tanh tan sine cosine power sqrt "
        "rsqrt cbrt atan2 divide remainder",
        "arithmetic": "abs add ceil clamp complex count-leading-zeros floor imag is-finite maximum minimum multiply "
        "negate popcnt real round-nearest-afz round-nearest-even sign subtract batch-norm-grad batch-norm-inference "
        "batch-norm-training",
        "logic": "and or xor not compare select tuple-select shift-left shift-right-arithmetic shift-right-logical",
        "convert": "convert bitcast-convert stochastic-convert",
        "broadcast": "broadcast iota",
        "reshape": "reshape bitcast dynamic-reshape",
        "transpose": "transpose copy reverse copy-start copy-done",
        "slice": "slice dynamic-slice dynamic-update-slice concatenate pad gather scatter",
        "source": "parameter constant rng rng-bit-generator rng-get-and-update-state infeed",
        "collective": "all-reduce all-to-all all-gather reduce-scatter collective-permute all-reduce-start "
        "all-reduce-done all-gather-start all-gather-done collective-permute-start collective-permute-done send "
        "send-done recv recv-done partition-id replica-id",
        "control": "tuple get-tuple-element fusion call while conditional map custom-call after-all add-dependency "
        "domain opt-barrier async-start async-update async-done outfeed trace",
    }.items()
}
CLASS_NAMES: Final[tuple[str, ...]] = (*CLASSES, "other")
_N_CLASSES: Final = len(CLASS_NAMES)

#: Index into :data:`CLASS_NAMES` by opcode id, int64 (256,).
CLASS_OF: Final = np.full(256, len(CLASSES), np.int64)
for _number, _members in enumerate(CLASSES.values()):
    CLASS_OF[[OPCODE_ID[name] for name in _members]] = _number

OPCODES_BLOCK: Final = Block(
    "opcodes",
    1,
    "Op-type histogram of the graph.",
    (
        *(Column(f"class.{name}", "count", f"Nodes of opcode class {name}") for name in CLASS_NAMES),
        *(Column(f"op.{name}", "count", f"Nodes of opcode {name}") for name in OPCODES),
        Column("nodes", "count", "Nodes"),
        Column("edges", "count", "Edges"),
        Column("depth", "edges", "Length of the longest path"),
    ),
    per_config=False,
)


def _informative(name: str) -> bool:
    stem, _, slot = name.rpartition("_")
    # Slots 4 and 5 of the window columns and the reversal flags are constant in all known collections.
    return not (name.startswith("window") and (slot in ("4", "5") or "reversal" in stem))


NODE_COLUMNS: Final[tuple[str, ...]] = tuple(name for name in NODE_FEAT if _informative(name))
_SELECTED: Final = np.array([FEAT_ID[name] for name in NODE_COLUMNS], np.int64)

NODES_BLOCK: Final = Block(
    "nodes",
    1,
    "Statistics over the nodes of sign(x) * log2(1 + |x|) of every node feature.",
    tuple(
        Column(f"{short}.{name}", "log2", f"{long} over the nodes of column {name} of node_feat, log-signed")
        for short, long in (("mean", "Mean"), ("std", "Standard deviation"), ("max", "Maximum"))
        for name in NODE_COLUMNS
    ),
    per_config=False,
)

RADII: Final = (1, 2, 3)


def neighborhood_columns(seeds: Mapping[str, str]) -> tuple[Column, ...]:
    """Columns of :func:`neighborhood_values`: counts by opcode class, then totals, for each set of seeds and radius."""
    per_radius = (
        *((name, "count", f"Nodes of class {name}") for name in CLASS_NAMES),
        ("bytes", "log2", "Bytes of all outputs"),
        ("largest", "log2", "Bytes of the largest output"),
    )
    return tuple(
        Column(f"{seed}.{radius}hop.{name}", unit, f"{doc} within distance {radius} of {long}")
        for seed, long in seeds.items()
        for radius in RADII
        for name, unit, doc in per_radius
    )


NEIGHBORHOOD_BLOCK: Final = Block(
    "neighborhood",
    2,
    "k-hop neighbourhoods of the result and of the heaviest operation.",
    neighborhood_columns({"root": "the result", "heavy": "the heaviest operation"}),
    per_config=False,
)


def opcode_histogram(program: Program) -> Float32Array:
    """Values of :data:`OPCODES_BLOCK`, float32 (len(OPCODES_BLOCK),)."""
    opcode = program.opcode
    known = np.where(opcode < N_OPCODES, opcode, 0)
    size = (len(opcode), len(program.edges), program.depth.max(initial=0))
    classes = np.bincount(CLASS_OF[opcode], minlength=len(CLASS_NAMES))
    return np.concatenate([classes, np.bincount(known, minlength=N_OPCODES), size]).astype(np.float32)


@kernel()
def _log_signed_statistics(feat, columns):  # type: ignore[no-untyped-def]
    """Mean, standard deviation and maximum, float64 (3, columns), of sign(x) * log2(1 + |x|)."""
    n_nodes, n_columns = len(feat), len(columns)
    out = np.zeros((3, n_columns))
    if n_nodes == 0:
        return out
    mean, std, largest = out[0], out[1], out[2]
    square = np.zeros(n_columns)
    for node in range(n_nodes):
        for column in range(n_columns):
            raw = float(feat[node, columns[column]])
            value = 0.0
            if raw > 0:
                value = np.log2(1.0 + raw)
            elif raw < 0:
                value = -np.log2(1.0 - raw)
            # Welford's algorithm: the mean of squares minus the squared mean cancels for nearly constant columns.
            delta = value - mean[column]
            mean[column] += delta / (node + 1)
            square[column] += delta * (value - mean[column])
            if node == 0 or value > largest[column]:
                largest[column] = value
    for column in range(n_columns):
        std[column] = np.sqrt(square[column] / n_nodes)
    return out


def node_statistics(program: Program) -> Float32Array:
    """Values of :data:`NODES_BLOCK`, float32 (len(NODES_BLOCK),); zeros for a program without nodes."""
    return np.asarray(_log_signed_statistics(program.feat, _SELECTED), np.float32).reshape(-1)


@kernel()
def _neighborhoods(operands, users, classes, nbytes, seeds):  # type: ignore[no-untyped-def]
    seen_by = np.full(len(classes), -1, np.int64)
    queue = np.empty(len(classes), np.int64)
    out = np.zeros((len(seeds.indptr) - 1, len(RADII), _N_CLASSES + 2))
    for group in range(len(out)):
        head, tail = 0, 0
        for index in range(seeds.indptr[group], seeds.indptr[group + 1]):
            queue[tail] = seeds.items[index]
            seen_by[queue[tail]] = group
            tail += 1
        for hop in range(len(RADII)):
            end = tail
            while head < end:
                node = queue[head]
                head += 1
                for neighbors in (operands, users):
                    for index in range(neighbors.indptr[node], neighbors.indptr[node + 1]):
                        other = neighbors.items[index]
                        if seen_by[other] != group:
                            seen_by[other] = group
                            queue[tail] = other
                            tail += 1
            row = out[group, hop]
            for index in range(tail):
                row[classes[queue[index]]] += 1
                row[_N_CLASSES] += nbytes[queue[index]]
                row[_N_CLASSES + 1] = max(row[_N_CLASSES + 1], nbytes[queue[index]])
    return out


def neighborhoods(program: Program, tensors: Tensors, seeds: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Summaries of the nodes around each set of distinct nodes in ``seeds``, edges taken in both directions.

    Returns
    -------
    float64 (sets, len(RADII), len(CLASS_NAMES) + 2)
        Within 1, 2 and 3 edges: counts by opcode class, bytes of all outputs and of the largest.
    """
    sets = [np.asarray(each, np.int64).reshape(-1) for each in seeds]
    flat = Csr(np.cumsum([0, *map(len, sets)]), np.concatenate([np.empty(0, np.int64), *sets]))
    classes = CLASS_OF[program.opcode]
    return np.asarray(_neighborhoods(program.operands, program.users, classes, tensors.nbytes, flat))


def neighborhood_values(summaries: NDArray[np.float64]) -> Float32Array:
    """Values of :func:`neighborhood_columns`, float32, of :func:`neighborhoods`: bytes become log2(1 + bytes)."""
    counts, sizes = np.split(summaries, [_N_CLASSES], axis=-1)
    return np.concatenate([counts, np.log2(1.0 + sizes)], axis=-1).astype(np.float32).reshape(-1)


def kernel_neighborhood(program: Program, tensors: Tensors) -> Float32Array:
    """Values of :data:`NEIGHBORHOOD_BLOCK`, float32 (len(NEIGHBORHOOD_BLOCK),)."""
    seeds = (result_of(program, tensors), anchor_of(program, tensors))
    return neighborhood_values(neighborhoods(program, tensors, seeds))
