"""The protobuf wire format, read against small tables of field numbers; every length is checked against the bytes.

Only what HLO needs: varints, packed and unpacked repeated integers, text, nested messages.  Fields that no table names
are skipped by their length, so literals and metadata cost nothing.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from gbr.errors import HloError

T = TypeVar("T")

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_WIRE_NAMES: Final = {VARINT: "varint", FIXED64: "64-bit", LENGTH: "length-delimited", FIXED32: "32-bit"}

#: How deep messages may nest; the limit of Google's own parsers.
MAX_DEPTH: Final = 100

INT, UINT, BOOL, TEXT, INTS, ONE, MANY = range(7)
_SCALARS: Final = frozenset((INT, UINT, BOOL))

HINT: Final = (
    "the bytes are cut, damaged or no HLO protobuf; "
    "JAX gives one by jit(f).lower(*args).compiler_ir('hlo').as_serialized_hlo_module_proto()"
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: the attribute it fills and how it is read.

    Parameters
    ----------
    name : str
        Attribute of the record, also named in error messages.
    kind : int
        ``INT`` (int32, int64, enum), ``UINT`` (uint64), ``BOOL``, ``TEXT``, ``INTS`` (repeated int),
        ``ONE`` (a message) or ``MANY`` (repeated message).
    message : Message, optional
        What a field of kind ``ONE`` or ``MANY`` holds.
    """

    name: str
    kind: int
    message: Message[Any] | None = None


class Message(Generic[T]):
    """A message type: its protobuf name, the record it becomes and the fields that are read.

    Parameters
    ----------
    name : str
        Protobuf name, for error messages.
    record : callable
        Called with the fields that are present, by name; absent ones take its defaults, which must be proto3's.
    fields : mapping of int to Field
        By field number.
    """

    def __init__(self, name: str, record: Callable[..., T], fields: Mapping[int, Field]) -> None:
        self.name = name
        self.record = record
        self.fields = dict(fields)

    def decode(self, data: bytes, start: int = 0, stop: int | None = None, depth: int = 0) -> T:
        """Read the message that fills ``data[start:stop]``.

        Raises
        ------
        HloError
            Where the bytes break the wire format or hold something else than the table says.
        """
        end = len(data) if stop is None else stop
        if depth > MAX_DEPTH:
            raise HloError(f"{self.name} at byte {start}: nested more than {MAX_DEPTH} deep; {HINT}")
        values: dict[str, Any] = {}
        position = start
        fields = self.fields
        while position < end:
            key = data[position]
            if key < 128:
                position += 1
            else:
                key, position = varint(data, position, end, self.name)
            field = fields.get(key >> 3)
            if field is None:
                position = skip(data, key, position, end, self.name)
                continue
            wire, kind = key & 7, field.kind
            if wire == VARINT and (kind in _SCALARS or kind == INTS):
                value, position = varint(data, position, end, self.name)
                if kind == INT:
                    values[field.name] = _signed(value)
                elif kind == INTS:
                    values.setdefault(field.name, []).append(_signed(value))
                else:
                    values[field.name] = value if kind == UINT else value != 0
            elif wire == LENGTH and kind not in _SCALARS:
                first, position = span(data, position, end, self.name)
                if kind == TEXT:
                    values[field.name] = self._text(data, first, position, field)
                elif kind == INTS:
                    values.setdefault(field.name, []).extend(_packed(data, first, position, self.name))
                else:
                    assert field.message is not None
                    value = field.message.decode(data, first, position, depth + 1)
                    if kind == MANY:
                        values.setdefault(field.name, []).append(value)
                    elif values.setdefault(field.name, value) is not value:
                        raise HloError(f"{self.name}.{field.name} at byte {first} is given twice; {HINT}")
            else:
                found = _WIRE_NAMES.get(wire, f"type {wire}")
                wanted = _WIRE_NAMES[VARINT if kind in _SCALARS else LENGTH]
                raise HloError(f"{self.name}.{field.name} at byte {position} is {found}, not {wanted}; {HINT}")
        for name, value in values.items():
            if type(value) is list:
                values[name] = tuple(value)
        return self.record(**values)

    def _text(self, data: bytes, start: int, stop: int, field: Field) -> str:
        try:
            return data[start:stop].decode()
        except UnicodeDecodeError:
            raise HloError(f"{self.name}.{field.name} at byte {start} is not UTF-8 text; {HINT}") from None


def varint(data: bytes, position: int, stop: int, what: str) -> tuple[int, int]:
    """Read an unsigned base-128 integer of at most 64 bits; return it and the position behind it."""
    start, value, shift = position, 0, 0
    while position < stop:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, position
        shift += 7
        if shift == 70:
            break
    else:
        raise HloError(f"{what}: the bytes end at {stop} inside a number; {HINT}")
    raise HloError(f"{what}: the number at byte {start} has more than 64 bits; {HINT}")


def span(data: bytes, position: int, stop: int, what: str) -> tuple[int, int]:
    """Read a length; return where what it measures begins and ends."""
    length, first = varint(data, position, stop, what)
    if length > stop - first:
        raise HloError(f"{what}: {length} bytes announced at byte {position}, {stop - first} left; {HINT}")
    return first, first + length


def skip(data: bytes, key: int, position: int, stop: int, what: str) -> int:
    """Return the position behind a field whose value nobody needs."""
    wire = key & 7
    if key < 8:
        raise HloError(f"{what}: field number 0 before byte {position}; {HINT}")
    if wire == LENGTH:
        return span(data, position, stop, what)[1]
    if wire == VARINT:
        return varint(data, position, stop, what)[1]
    if wire not in (FIXED64, FIXED32):
        raise HloError(f"{what}: wire type {wire} before byte {position}, which HLO does not use; {HINT}")
    size = 8 if wire == FIXED64 else 4
    if size > stop - position:
        raise HloError(f"{what}: {size} bytes wanted at byte {position}, {stop - position} left; {HINT}")
    return position + size


def outline(data: bytes, start: int, stop: int) -> dict[int, tuple[int, int, int]]:
    """Field number -> (wire type, start, stop of the value) of each field's first value in ``data[start:stop]``."""
    found: dict[int, tuple[int, int, int]] = {}
    position = start
    while position < stop:
        key, position = varint(data, position, stop, "HLO protobuf")
        behind = skip(data, key, position, stop, "HLO protobuf")
        first = span(data, position, stop, "HLO protobuf")[0] if key & 7 == LENGTH else position
        found.setdefault(key >> 3, (key & 7, first, behind))
        position = behind
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _packed(data: bytes, start: int, stop: int, what: str) -> list[int]:
    values = list(data[start:stop])
    if values and max(values) > 127:
        values = []
        while start < stop:
            value, start = varint(data, start, stop, what)
            values.append(_signed(value))
    return values
