"""HLO protobufs -> graphs: a decoder and TpuGraphs' node-feature encoder, with no dependency beyond NumPy."""

from __future__ import annotations

from gbr.data.hlo.encode import Arrays, encode
from gbr.data.hlo.module import MODULE, Computation, Instruction, Layout, Module, Shape, check
from gbr.data.hlo.tuning import Tuning, decode_tuning
from gbr.data.hlo.wire import HINT, LENGTH, VARINT, outline
from gbr.errors import HloError

__all__ = [
    "Computation",
    "Instruction",
    "Layout",
    "Module",
    "Shape",
    "Tuning",
    "encode",
    "graph_arrays",
    "identify",
    "read_module",
    "read_tuning",
]

_Outline = dict[int, tuple[int, int, int]]


def read_module(data: bytes) -> Module:
    """Decode a module.

    Parameters
    ----------
    data : bytes
        HloModuleProto, or HloProto, ModuleTuningData or TuningData around a single one.

    Raises
    ------
    HloError
        Where the bytes are something else, or break what HLO promises.
    """
    kind = identify(data)
    if kind == "HloModuleProto":
        return check(MODULE.decode(data))
    if kind == "TuningData":
        modules = [each.module for each in decode_tuning(data, kind)]
        if len(modules) != 1:
            raise HloError(f"TuningData of {len(modules)} modules where one is wanted; use gbr.data.hlo.read_tuning")
        return modules[0]
    _, start, stop = outline(data, 0, len(data))[1]
    return check(MODULE.decode(data, start, stop))


def read_tuning(data: bytes) -> tuple[Tuning, ...]:
    """Decode measured configurations with their modules.

    Parameters
    ----------
    data : bytes
        TuningData, or ModuleTuningData (then one is returned).

    Raises
    ------
    HloError
        Where the bytes are something else, or break what the format promises.
    """
    kind = identify(data)
    if kind not in ("TuningData", "ModuleTuningData"):
        raise HloError(f"{kind} holds no measured configurations; wanted TuningData or ModuleTuningData")
    return decode_tuning(data, kind)


def graph_arrays(data: bytes) -> Arrays:
    """Encode the module in ``data`` as :func:`encode` does.

    ModuleTuningData names its configurable nodes itself: there ``node_config_ids`` is what it says.

    Raises
    ------
    HloError
        As :func:`read_module` and :func:`read_tuning`.
    """
    if identify(data) == "ModuleTuningData":
        (measured,) = read_tuning(data)
        nodes = {"node_config_ids": measured.node_config_ids} if measured.kind == "layout" else {}
        return encode(measured.module) | nodes
    return encode(read_module(data))


def identify(data: bytes) -> str:
    """Say which message the bytes are: "HloModuleProto", "HloProto", "ModuleTuningData" or "TuningData".

    Raises
    ------
    HloError
        Where they are none of these.
    """
    if not isinstance(data, bytes):
        raise HloError(f"got {type(data).__name__}, wanted bytes; {HINT}")
    if not data:
        raise HloError(f"got an empty file; {HINT}")
    if data.startswith(b"HloModule "):
        raise HloError(f"got HLO as text, wanted its protobuf; {HINT}")
    top = outline(data, 0, len(data))
    if _is_module(top):
        return "HloModuleProto"
    inner = _inside(data, top)
    if _is_module(inner):
        return "ModuleTuningData" if _has_runs(data, top) else "HloProto"
    if _is_module(_inside(data, inner)):
        return "TuningData"
    raise HloError(f"{len(data)} bytes without an HLO module; {HINT}")


def _is_module(fields: _Outline) -> bool:
    # computations, and the entry's name or id: no wrapper has both.
    return _wire(fields, 3) == LENGTH and (_wire(fields, 2) == LENGTH or _wire(fields, 6) == VARINT)


def _inside(data: bytes, fields: _Outline) -> _Outline:
    if _wire(fields, 1) != LENGTH:
        return {}
    _, start, stop = fields[1]
    try:
        return outline(data, start, stop)
    except HloError:
        return {}


def _has_runs(data: bytes, top: _Outline) -> bool:
    # HloProto holds the module (1) and at most a BufferAssignmentProto (3), whose own field 3 is a message; in a run it
    # is a flag.
    if set(top) != {1, 3}:
        return set(top) != {1}
    _, start, stop = top[3]
    return _wire(outline(data, start, stop), 3) != LENGTH


def _wire(fields: _Outline, number: int) -> int:
    return fields[number][0] if number in fields else -1
