"""A naive implementation of gbr.data.hlo that reads HLO text, and builders of protobuf messages."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import numpy as np
import pytest

from features.hlo import FEAT_ID, NODE_FEAT, OPCODES

_LINE = re.compile(
    r"^ *(?P<root>ROOT )?(?P<name>\S+) = (?P<type>\(.*?\) (?=[a-z])|\S+ )(?P<opcode>[a-z][a-z0-9-]*)\((?P<rest>.*)$"
)
_TYPE = re.compile(r"(?P<element>[a-z]+[a-z0-9]*)\[(?P<dims>[\d,]*)\](?:\{(?P<order>[\d,]*)\})?")
_COLUMN_OF = {"token": "token", "opaque": "opaque_type"}


def _ints(text: str, separator: str = ",") -> list[int]:
    return [int(part) for part in text.split(separator) if part]


def _top_level(text: str) -> list[str]:
    """The types of a tuple type, not those inside its own tuples."""
    text, parts, depth = re.sub(r"/\*.*?\*/", "", text)[1:-1], [""], 0
    for character in text:
        depth += character in "([{"
        depth -= character in ")]}"
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def naive_encode(text: str) -> dict[str, np.ndarray]:
    """The columns of TpuGraphs for a module, from its text, one instruction and one column at a time."""
    opcodes, rows, edges, splits, configurable = [], [], [], [0], []
    root_of: dict[str, int] = {}
    fused: set[str] = set(re.findall(r" fusion\(.*calls=%?([\w.-]+)", text))
    here: dict[str, int] = {}
    computation = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith("HloModule"):
            computation = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            here = {}
        elif line == "}":
            if any(word in computation for word in ("while", "cluster", "cond")):
                splits.append(len(rows))
        elif match := _LINE.match(line):
            node = len(rows)
            operands, attributes = match["rest"].split(")", 1) if match["opcode"] != "constant" else ("", "")
            if match["root"]:
                root_of[computation] = node
            here[match["name"]] = node
            opcodes.append(OPCODES.index(match["opcode"]) if match["opcode"] in OPCODES else 0)
            rows.append(_row(match["root"] is not None, match["type"].strip(), match["opcode"], operands, attributes))
            if match["opcode"] in ("convolution", "dot", "reshape") and computation not in fused:
                configurable.append(node)
            if match["opcode"] != "parameter":
                names = re.sub(r"/\*.*?\*/| ", "", operands).split(",")
                edges += [(node, here[operand]) for operand in names if operand]
            callees = re.findall(r"(?:to_apply|condition|body|calls)=%?([\w.-]+)", attributes)
            edges += [(node, root_of[callee]) for callee in callees]
        elif line.strip() and not line.startswith("HloModule"):
            raise AssertionError(f"not understood: {line}")
    if splits[-1] != len(rows):
        splits.append(len(rows))
    return {
        "node_opcode": np.array(opcodes, np.uint8),
        "node_feat": np.array(rows, np.float32),
        "edge_index": np.array(sorted(set(edges)), np.int64).reshape(-1, 2),
        "node_splits": np.array([splits], np.int64),
        "node_config_ids": np.array(configurable, np.int64),
    }


def _row(root: bool, type_: str, opcode: str, operands: str, attributes: str) -> list[float]:
    row = [0.0] * len(FEAT_ID)

    def one(column: str, value: float) -> None:
        row[FEAT_ID[column]] = value

    def some(stem: str, values: list[int], slots: int, totals: bool = True) -> None:
        for slot, value in list(enumerate(values))[:slots]:
            one(f"{stem}_{slot}", value)
        if totals:
            one(f"{stem}_sum", sum(values))
            one(f"{stem}_product", prod(values))

    def attribute(pattern: str) -> str:
        found = re.search(r"(?:^|, )" + pattern, attributes)
        return found[1] if found else ""

    one("is_root", root)
    dims: list[int] = []
    if type_.startswith("("):
        one("shape_element_type_is_tuple", 1)
        one("shape_tuple_shapes_size", len(_top_level(type_)))
    else:
        array = _TYPE.fullmatch(type_)
        assert array, type_
        dims = _ints(array["dims"])
        column = f"shape_element_type_is_{_COLUMN_OF.get(array['element'], array['element'])}"
        if column in FEAT_ID:
            one(column, 1)
        some("layout_minor_to_major", _ints(array["order"] or ""), 6, totals=False)
    some("shape_dimensions", dims, 6)
    if opcode == "parameter":
        one("parameter_number", int(operands))
    some("dimensions", _ints(attribute(r"dimensions=\{([\d,]*)\}")), 6, totals=False)

    window = dict(part.split("=") for part in attribute(r"window=\{(.*?)\}").split())
    spatial = len(window["size"].split("x")) if window else 0
    pads = [_ints(pad, "_") for pad in window.get("pad", "x".join(["0_0"] * spatial)).split("x")] if window else []
    ones = "x".join(["1"] * spatial)
    some("window_size", _ints(window.get("size", ""), "x"), 6)
    some("window_stride", _ints(window.get("stride", ones), "x"), 6)
    some("window_padding_low", [low for low, _ in pads], 6)
    some("window_padding_high", [high for _, high in pads], 6)
    some("window_window_dilation", _ints(window.get("rhs_dilate", ones), "x"), 6)
    some("window_base_dilation", _ints(window.get("lhs_dilate", ones), "x"), 6)
    turned = _ints(window.get("rhs_reversal", "x".join(["0"] * spatial)), "x")
    some("window_window_reversal", turned, 6, totals=False)
    one("window_window_reversal_true_count", turned.count(1))
    one("window_window_reversal_false_count", turned.count(0))

    if labels := attribute(r"dim_labels=(\S+)"):
        image, kernel, out = re.split("_|->", labels.rstrip(","))
        stem = "convolution_dim_numbers"
        one(f"{stem}_input_batch_dim", image.index("b"))
        one(f"{stem}_input_feature_dim", image.index("f"))
        some(f"{stem}_input_spatial_dims", [image.index(str(axis)) for axis in range(spatial)], 4, totals=False)
        one(f"{stem}_kernel_input_feature_dim", kernel.index("i"))
        one(f"{stem}_kernel_output_feature_dim", kernel.index("o"))
        some(f"{stem}_kernel_spatial_dims", [kernel.index(str(axis)) for axis in range(spatial)], 4, totals=False)
        one(f"{stem}_output_batch_dim", out.index("b"))
        one(f"{stem}_output_feature_dim", out.index("f"))
        one("feature_group_count", int(attribute(r"feature_group_count=(\d+)") or 1))
        one("batch_group_count", int(attribute(r"batch_group_count=(\d+)") or 1))

    slices = [_ints(part, ":") for part in re.findall(r"\[([\d:]+)\]", attribute(r"slice=\{(.*?)\}"))]
    some("slice_dims_start", [part[0] for part in slices], 2)
    some("slice_dims_stride", [part[2] for part in slices], 2)
    some("slice_dims_limit", [part[1] for part in slices], 2)
    some("dynamic_slice_sizes", _ints(attribute(r"dynamic_slice_sizes=\{([\d,]*)\}")), 2)
    edges = [_ints(part, "_") for part in attribute(r"padding=(\S+)").rstrip(",").split("x") if part]
    some("padding_config_edge_padding_low", [edge[0] for edge in edges], 2)
    some("padding_config_edge_padding_high", [edge[1] for edge in edges], 2)
    one("is_stable", "is_stable=true" in attributes)
    return row


def number(value: int) -> bytes:
    """A varint; negative numbers take ten bytes."""
    value %= 1 << 64
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def message(*fields: tuple[int, int | str | bytes | list[int]]) -> bytes:
    """Fields (number, value): integers as varints, text and messages by length, lists packed."""
    out = b""
    for key, value in fields:
        if isinstance(value, int):
            out += number(key * 8) + number(value)
            continue
        if isinstance(value, list):
            value = b"".join(map(number, value))
        body = value.encode() if isinstance(value, str) else value
        out += number(key * 8 + 2) + number(len(body)) + body
    return out


DATA = Path(__file__).parent / "data"
F32, TUPLE = 11, 13


def data(name: str) -> bytes:
    return (DATA / f"{name}.hlo.pb").read_bytes()


def feat(arrays: dict[str, np.ndarray], node: int, *columns: str) -> list[float]:
    return [float(arrays["node_feat"][node, FEAT_ID[column]]) for column in columns]


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for key, array in expected.items():
        assert got[key].dtype == array.dtype, key
        assert got[key].shape == array.shape, key
        if key == "node_feat" and not np.array_equal(got[key], array):
            node, column = np.argwhere(got[key] != array)[0]
            pytest.fail(f"node {node}, {NODE_FEAT[column]}: {got[key][node, column]} != {array[node, column]}")
        np.testing.assert_array_equal(got[key], array, err_msg=key)


def shape(dims: list[int] | None = None, element: int = F32, order: list[int] | None = None) -> bytes:
    dims = [] if dims is None else dims
    order = list(range(len(dims)))[::-1] if order is None else order
    return message((2, element), (3, dims), (5, message((1, order))))


def instruction(
    id_: int, opcode: str = "parameter", operands: list[int] | None = None, *more: tuple, of: bytes | None = None
) -> bytes:
    body = shape([2, 3]) if of is None else of
    return message((1, f"{opcode}.{id_}"), (2, opcode), (3, body), (35, id_), (36, operands or []), *more)


def computation(id_: int, *instructions: bytes, root: int, name: str = "") -> bytes:
    return message((1, name or f"computation.{id_}"), *((2, each) for each in instructions), (5, id_), (6, root))


def module(*computations: bytes, entry: int = 1, name: str = "hand_made") -> bytes:
    return message((1, name), (2, "main"), *((3, each) for each in computations), (6, entry))


def small(*instructions: bytes, root: int = 1) -> bytes:
    return module(computation(1, *instructions, root=root))


SMALL = small(instruction(7), instruction(9, "negate", [7]), root=9)
