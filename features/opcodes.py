"""Op-type histograms: how many nodes of each opcode and of each class of opcodes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import N_OPCODES, OPCODE_ID, OPCODES
from features.schema import Block, Column, Float32Array

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

BLOCK: Final = Block(
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
    """Counts of the block's columns, float32 (len(BLOCK),)."""
    opcode = program.opcode
    known = np.where(opcode < N_OPCODES, opcode, 0)
    size = (len(opcode), len(program.edges), program.depth.max(initial=0))
    classes = np.bincount(CLASS_OF[opcode], minlength=len(CLASS_NAMES))
    return np.concatenate([classes, np.bincount(known, minlength=N_OPCODES), size]).astype(np.float32)
