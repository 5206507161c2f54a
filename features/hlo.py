"""The HLO vocabulary: opcode ids, the columns of ``node_feat`` and of the two kinds of configuration.

Ids and column names are those of TpuGraphs (Phothilimthana et al., NeurIPS 2023; google-research-datasets/tpu_graphs).
"""

from __future__ import annotations

from typing import Final

#: Opcode names by id; id 0 is an unknown opcode.
OPCODES: Final[tuple[str, ...]] = (
    "unknown",
    *"""
    abs add add-dependency after-all all-reduce all-to-all atan2 batch-norm-grad batch-norm-inference
    batch-norm-training bitcast bitcast-convert broadcast call ceil cholesky clamp collective-permute
    count-leading-zeros compare complex concatenate conditional constant convert convolution copy copy-done
    copy-start cosine custom-call divide domain dot dynamic-slice dynamic-update-slice exponential
    exponential-minus-one fft floor fusion gather get-dimension-size set-dimension-size get-tuple-element
    imag infeed iota is-finite log log-plus-one and not or xor map maximum minimum multiply negate outfeed
    pad parameter partition-id popcnt power real recv recv-done reduce reduce-precision reduce-window
    remainder replica-id reshape reverse rng rng-get-and-update-state rng-bit-generator round-nearest-afz
    rsqrt scatter select select-and-scatter send send-done shift-left shift-right-arithmetic
    shift-right-logical sign sine slice sort sqrt subtract tanh trace transpose triangular-solve tuple
    tuple-select while cbrt all-gather collective-permute-start collective-permute-done logistic
    dynamic-reshape all-reduce-start all-reduce-done reduce-scatter all-gather-start all-gather-done
    opt-barrier async-start async-update async-done round-nearest-even stochastic-convert tan
    """.split(),
)
OPCODE_ID: Final[dict[str, int]] = {name: number for number, name in enumerate(OPCODES)}
N_OPCODES: Final = len(OPCODES)

#: Maximum rank in TpuGraphs; HLO allows more.
MAX_RANK: Final = 6


def _slots(*stems: str, count: int = MAX_RANK, totals: tuple[str, ...] = ()) -> list[str]:
    """Names of the slots of each stem, followed by those of its totals."""
    return [f"{stem}_{slot}" for stem in stems for slot in (*range(count), *totals)]


_TOTALS: Final = ("sum", "product")

#: Element types in the order of their one-hot columns.
ELEMENT_TYPES: Final[tuple[str, ...]] = tuple(
    "invalid_type pred s8 s16 s32 s64 u8 u16 u32 u64 f16 f32 f64 bf16 c64 c128 tuple opaque_type token".split()
)

#: Names of the 140 columns of ``node_feat``.
NODE_FEAT: Final[tuple[str, ...]] = (
    "is_root",
    "element_size_in_bits",
    *(f"shape_element_type_is_{name}" for name in ELEMENT_TYPES),
    *_slots("shape_dimensions", totals=_TOTALS),
    "shape_tuple_shapes_size",
    "parameter_number",
    *_slots("dimensions"),
    *_slots("window_size", "window_stride", "window_padding_low", "window_padding_high", totals=_TOTALS),
    *_slots("window_window_dilation", "window_base_dilation", totals=_TOTALS),
    *_slots("window_window_reversal", totals=("true_count", "false_count")),
    "convolution_dim_numbers_input_batch_dim",
    "convolution_dim_numbers_input_feature_dim",
    *_slots("convolution_dim_numbers_input_spatial_dims", count=4),
    "convolution_dim_numbers_kernel_input_feature_dim",
    "convolution_dim_numbers_kernel_output_feature_dim",
    *_slots("convolution_dim_numbers_kernel_spatial_dims", count=4),
    "convolution_dim_numbers_output_batch_dim",
    "convolution_dim_numbers_output_feature_dim",
    "feature_group_count",
    "batch_group_count",
    *_slots(
        "slice_dims_start", "slice_dims_stride", "slice_dims_limit", "dynamic_slice_sizes", count=2, totals=_TOTALS
    ),
    *_slots("padding_config_edge_padding_low", "padding_config_edge_padding_high", count=2, totals=_TOTALS),
    "is_stable",
    *_slots("layout_minor_to_major"),
)
FEAT_ID: Final[dict[str, int]] = {name: column for column, name in enumerate(NODE_FEAT)}
N_FEAT: Final = len(NODE_FEAT)

#: Names of the 24 columns of a tile configuration, 0-padded.
TILE_CONFIG: Final = tuple(_slots("kernel_bounds", "output_bounds", "input_bounds", totals=_TOTALS))

#: Names of the 18 layout columns of a configurable node, minor to major, -1-padded; all -1: the compiler decides.
LAYOUT_CONFIG: Final = tuple(_slots("output_layout", "input_layout", "kernel_layout"))
