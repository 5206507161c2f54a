"""Decoder of the protobuf wire format into dataclasses, with all lengths checked.

Supports what HLO uses: varints, packed and unpacked repeated integers, text, nested messages.  Fields that a dataclass
does not declare are skipped by their length, so that large literals take no time.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from gbr.errors import HloError

T = TypeVar("T")

#: Maximum nesting depth of messages, as in Google's parsers.
MAX_DEPTH: Final = 100

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def field(number: int) -> Any:
    """A field of a message class: int, bool, str, bytes, a message class, or a tuple of ints or messages."""
    return dataclasses.field(metadata={"number": number})


@cache
def _fields(record: Any) -> dict[int, tuple[str, Any, bool]]:
    """Attribute, type of its items, and whether it is repeated, by field number."""
    hints = get_type_hints(record)
    found = {}
    for each in dataclasses.fields(record):
        repeated = get_origin(hints[each.name]) is tuple
        item = get_args(hints[each.name])[0] if repeated else hints[each.name]
        found[each.metadata["number"]] = each.name, item, repeated
    return found


@cache
def _defaults(record: Any) -> dict[str, Any]:
    """Values of absent fields, which are proto3's; messages are immutable, so that one empty message serves all."""
    return {
        name: () if repeated else item() if item in (int, bool, str, bytes) else decode(item, b"")
        for name, item, repeated in _fields(record).values()
    }


def decode(record: type[T], data: bytes, start: int = 0, stop: int | None = None, depth: int = 0) -> T:
    """Decode the message that fills ``data[start:stop]``, with ``depth`` messages around it, into a frozen dataclass.

    Raises
    ------
    HloError
        When the bytes break the wire format or a field has another type than declared with :func:`field`.
    """
    end = len(data) if stop is None else stop
    if depth > MAX_DEPTH:
        raise HloError(f"{record.__name__} at byte {start}: nested more than {MAX_DEPTH} levels deep")
    fields, values = _fields(record), dict(_defaults(record))  # type: ignore[arg-type]
    lists: dict[str, list[Any]] = {}
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        number, wire = key >> 3, key & 7
        if number not in fields:
            position = _skip(data, key, position, end)
            continue
        name, item, repeated = fields[number]
        found: Any
        if wire == _VARINT and item in (int, bool):
            value, position = _varint(data, position, end)
            found = (_signed(value),) if repeated else item(_signed(value))
        elif wire == _LENGTH and (repeated or item not in (int, bool)):
            first, position = _span(data, position, end)
            if item is str or item is bytes:
                found = data[first:position]
                try:
                    found = found if item is bytes else found.decode()
                except UnicodeDecodeError:
                    raise HloError(f"{record.__name__}.{name} at byte {first}: not UTF-8 text") from None
            elif item is int:
                found = _packed(data, first, position)
            else:
                found = decode(item, data, first, position, depth + 1)
                found = (found,) if repeated else found
        else:
            raise HloError(f"{record.__name__}.{name} at byte {position}: unexpected wire type {wire}")
        if repeated:
            lists.setdefault(name, []).extend(found)
        else:
            values[name] = found
    values |= {name: tuple(items) for name, items in lists.items()}
    return record(**values)


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
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
            raise HloError(f"the number at byte {start} has more than 64 bits")
    raise HloError(f"the bytes end at {stop} inside a number")


def _span(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """Read a length; returns where its contents start and stop."""
    length, first = _varint(data, position, stop)
    if length > stop - first:
        raise HloError(f"byte {position}: expected {length} bytes, got {stop - first}")
    return first, first + length


def _skip(data: bytes, key: int, position: int, stop: int) -> int:
    """The position behind a field."""
    wire = key & 7
    if wire == _LENGTH:
        return _span(data, position, stop)[1]
    if wire == _VARINT:
        return _varint(data, position, stop)[1]
    size = {_FIXED64: 8, _FIXED32: 4}.get(wire, stop + 1)
    if size > stop - position:
        raise HloError(f"invalid or truncated field {key} at byte {position}")
    return position + size


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _packed(data: bytes, start: int, stop: int) -> list[int]:
    values = list(data[start:stop])
    if values and max(values) > 127:
        values = []
        while start < stop:
            value, start = _varint(data, start, stop)
            values.append(_signed(value))
    return values
