"""Decoder of the protobuf wire format into dataclasses, with all lengths checked.

Supports what HLO uses: varints, packed and unpacked repeated integers, text, nested messages.  Fields that a dataclass
does not declare are skipped by their length, so that large literals take no time.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Final, TypeVar

from gbr.errors import HloError

T = TypeVar("T")

#: Maximum nesting depth of messages, as in Google's parsers.
MAX_DEPTH: Final = 100

HINT: Final = (
    "the bytes are truncated, damaged or not an HLO protobuf; "
    "JAX writes one with jit(f).lower(*args).compiler_ir('hlo').as_serialized_hlo_module_proto()"
)

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE_NAMES: Final = {_VARINT: "varint", _FIXED64: "64-bit", _LENGTH: "length-delimited", _FIXED32: "32-bit"}
_INT, _BOOL, _TEXT, _INTS, _ONE, _MANY = range(6)


def _field(number: int, kind: int, default: Any, message: type[Any] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"number": number, "kind": kind, "message": message})


def integer(number: int) -> Any:
    """A field of type int32, int64 or enum."""
    return _field(number, _INT, 0)


def boolean(number: int) -> Any:
    """A field of type bool."""
    return _field(number, _BOOL, False)


def text(number: int) -> Any:
    """A field of type string."""
    return _field(number, _TEXT, "")


def integers(number: int) -> Any:
    """A repeated integer field, read as a tuple."""
    return _field(number, _INTS, ())


def one(number: int, message: type[Any]) -> Any:
    """A message field; an empty message if absent."""
    return _field(number, _ONE, message(), message)


def many(number: int, message: type[Any] | None = None) -> Any:
    """A repeated message field, read as a tuple; by default of the class that declares it."""
    return _field(number, _MANY, (), message)


@cache
def _fields(record: type[Any]) -> dict[int, tuple[str, int, type[Any]]]:
    """Attribute, kind and message class by field number."""
    found = {}
    for each in dataclasses.fields(record):
        about = each.metadata
        found[about["number"]] = (each.name, about["kind"], about["message"] or record)
    return found


def decode(record: type[T], data: bytes, start: int = 0, stop: int | None = None, depth: int = 0) -> T:
    """Decode the message that fills ``data[start:stop]``.

    Parameters
    ----------
    record : dataclass
        Its fields are declared with the functions above.  Absent fields take their defaults, which are proto3's.
    data : bytes
    start, stop : int
    depth : int
        Messages around this one.

    Raises
    ------
    HloError
        When the bytes break the wire format or a field has another type than declared.
    """
    end = len(data) if stop is None else stop
    what = record.__name__
    if depth > MAX_DEPTH:
        raise HloError(f"{what} at byte {start}: nested more than {MAX_DEPTH} levels deep; {HINT}")
    fields = _fields(record)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    position = start
    while position < end:
        key = data[position]
        if key < 128:
            position += 1
        else:
            key, position = _varint(data, position, end, what)
        if key >> 3 not in fields:
            position = _skip(data, key, position, end, what)
            continue
        name, kind, message = fields[key >> 3]
        wire = key & 7
        if wire == _VARINT and kind in (_INT, _BOOL, _INTS):
            value, position = _varint(data, position, end, what)
            if kind == _INTS:
                values.setdefault(name, []).append(_signed(value))
            else:
                values[name] = _signed(value) if kind == _INT else value != 0
        elif wire == _LENGTH and kind not in (_INT, _BOOL):
            first, position = _span(data, position, end, what)
            if kind == _TEXT:
                try:
                    values[name] = data[first:position].decode()
                except UnicodeDecodeError:
                    raise HloError(f"{what}.{name} at byte {first}: not UTF-8 text; {HINT}") from None
            elif kind == _INTS:
                values.setdefault(name, []).extend(_packed(data, first, position, what))
            elif kind == _MANY:
                values.setdefault(name, []).append(decode(message, data, first, position, depth + 1))
            elif name in values:
                raise HloError(f"{what}.{name} at byte {first}: occurs twice; {HINT}")
            else:
                values[name] = decode(message, data, first, position, depth + 1)
        else:
            expected = _WIRE_NAMES[_VARINT if kind in (_INT, _BOOL) else _LENGTH]
            got = _WIRE_NAMES.get(wire, f"type {wire}")
            raise HloError(f"{what}.{name} at byte {position}: expected {expected}, got {got}; {HINT}")
    for name, value in values.items():
        if type(value) is list:
            values[name] = tuple(value)
    return record(**values)


def outline(data: bytes, start: int = 0, stop: int | None = None) -> dict[int, tuple[int, int]]:
    """Map the field numbers in ``data[start:stop]`` to (start, stop) of their first value.

    Only length-delimited fields are included.

    Raises
    ------
    HloError
        When the bytes break the wire format.
    """
    end = len(data) if stop is None else stop
    found: dict[int, tuple[int, int]] = {}
    position = start
    while position < end:
        key, position = _varint(data, position, end, "HLO protobuf")
        behind = _skip(data, key, position, end, "HLO protobuf")
        if key & 7 == _LENGTH:
            found.setdefault(key >> 3, _span(data, position, end, "HLO protobuf"))
        position = behind
    return found


def _varint(data: bytes, position: int, stop: int, what: str) -> tuple[int, int]:
    """Read an unsigned base-128 integer of at most 64 bits; returns it and the position behind it."""
    start, value, shift = position, 0, 0
    while position < stop:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 and not value >> 64:
            return value, position
        if byte < 128 or shift == 70:
            raise HloError(f"{what}: the number at byte {start} has more than 64 bits; {HINT}")
    raise HloError(f"{what}: the bytes end at {stop} inside a number; {HINT}")


def _span(data: bytes, position: int, stop: int, what: str) -> tuple[int, int]:
    """Read a length; returns where its contents start and stop."""
    length, first = _varint(data, position, stop, what)
    if length > stop - first:
        raise HloError(f"{what} at byte {position}: expected {length} bytes, got {stop - first}; {HINT}")
    return first, first + length


def _skip(data: bytes, key: int, position: int, stop: int, what: str) -> int:
    """The position behind a field."""
    wire = key & 7
    if key >= 8 and wire == _LENGTH:
        return _span(data, position, stop, what)[1]
    if key >= 8 and wire == _VARINT:
        return _varint(data, position, stop, what)[1]
    if key < 8 or wire not in (_FIXED64, _FIXED32):
        raise HloError(f"{what}: invalid field key {key} before byte {position}; {HINT}")
    size = 8 if wire == _FIXED64 else 4
    if size > stop - position:
        raise HloError(f"{what} at byte {position}: expected {size} bytes, got {stop - position}; {HINT}")
    return position + size


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _packed(data: bytes, start: int, stop: int, what: str) -> list[int]:
    values = list(data[start:stop])
    if values and max(values) > 127:
        values = []
        while start < stop:
            value, start = _varint(data, start, stop, what)
            values.append(_signed(value))
    return values
