"""HLO modules and tuning records put together field by field, and what they are compared by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.hlo import FEAT_ID, NODE_FEAT
from gbr.data.hlo import graph_arrays, identify, read_tuning
from gbr.errors import HloError
from tests.reference_hlo import message

DATA = Path(__file__).parent / "data"
F32, TUPLE = 11, 13


def data(name: str) -> bytes:
    return (DATA / f"{name}.hlo.pb").read_bytes()


def feat(arrays: dict[str, np.ndarray], node: int, *columns: str) -> list[float]:
    return [float(arrays["node_feat"][node, FEAT_ID[column]]) for column in columns]


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for key, array in wanted.items():
        assert got[key].dtype == array.dtype, key
        assert got[key].shape == array.shape, key
        if key == "node_feat" and not np.array_equal(got[key], array):
            node, column = np.argwhere(got[key] != array)[0]
            pytest.fail(f"node {node}, {NODE_FEAT[column]}: {got[key][node, column]} != {array[node, column]}")
        np.testing.assert_array_equal(got[key], array, err_msg=key)


# Hand-made modules.


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


def tile_run(time_ns: int, *, error: int = 0, default: int = 0, **bounds: list[int]) -> bytes:
    sizes = message(
        *((slot, bounds[name]) for slot, name in enumerate(("kernel", "output", "input"), 1) if name in bounds)
    )
    return message((1, message((1, sizes))), (3, error), (4, message((4, time_ns))), (5, default))


def layout_run(time_ns: int, *nodes: list[list[int]], default: int = 0) -> bytes:
    layouts = [message(*((1, message((1, tensor))) for tensor in node)) for node in nodes]
    config = message((1, message(*((1, layout) for layout in layouts))))
    return message((2, config), (4, message((4, time_ns))), (5, default))


def tuning_data(*runs: bytes, nodes: list[int] | None = None, program: bytes = b"") -> bytes:
    nodes_field = [] if nodes is None else [(4, nodes)]
    return message((1, program or data("matmul")), (2, 1 << 63), *((3, run) for run in runs), *nodes_field)


TILES = tuning_data(
    tile_run(50, kernel=[2, 3], output=[4], default=1),
    tile_run(70, kernel=[1, 1, 1, 1, 1, 1, 9]),
    tile_run(1, output=[5]),
    tile_run(0, error=1, output=[6]),
)
LAYOUTS = tuning_data(
    layout_run(90, [[1, 0], [0, 1], []], [[0, 1]], default=1), layout_run(80, [], [[1, 0]]), nodes=[3, 4]
)


def refusal(pb: bytes) -> str:
    """Why the bytes are refused; empty where they are read."""
    try:
        graph_arrays(pb)
        if identify(pb).endswith("TuningData"):
            read_tuning(pb)
    except HloError as fault:
        return str(fault)
    return ""


def survives(pb: bytes) -> None:
    """Refused in one line, or read as a graph that keeps its promises."""
    if fault := refusal(pb):
        assert "\n" not in fault
        return
    arrays = graph_arrays(pb)
    nodes = len(arrays["node_opcode"])
    assert arrays["node_feat"].shape == (nodes, 140)
    assert (arrays["edge_index"][:, 1] < arrays["edge_index"][:, 0]).all()
    assert (arrays["edge_index"] >= 0).all()
    assert (arrays["edge_index"] < nodes).all()
    assert arrays["node_splits"][0, -1] == nodes
    assert (arrays["node_config_ids"] < nodes).all()
