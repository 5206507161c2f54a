"""The repacked copy of a layout graph's file: memory-mapped, any configuration readable by itself.

``<stem>.gbr`` lies beside ``<stem>.npz`` and holds everything that the graph's file does.  A configuration is one small
number per configurable node, which names a row among the node's distinct ones (Phothilimthana et al. search few layouts
per node: two to nine rows are usual), so 72 bytes per node become one, and nothing has to be inflated.

Layout of the file, little-endian: a preamble of 64 bytes (:data:`_PREAMBLE`: magic, format version, CRC, place and
length of the index, length of the file), from byte 4096 on the codes, then the other arrays at multiples of 64 bytes,
last the index in JSON: the fingerprint of the file that was copied, and type, shape, place and CRC of every array.
Codes have a CRC per configuration (``checks``), which is checked when the configuration is read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.files import parse_json
from gbr.data.npz import BLOCK_BYTES, crc32
from gbr.errors import DataError

SUFFIX: Final = ".gbr"
VERSION: Final = 1

#: Slots of a configurable node's layouts: output, input, kernel, six dimensions each.
N_LAYOUT: Final = 18
#: Slots of a layout hold a dimension, or -1 for none.
LAYOUT_RANGE: Final = (-1, 5)

_MAGIC: Final = b"\x93GBRCOPY"
#: Magic, version, CRC of the index, its place and length, length of the file.
_PREAMBLE: Final = struct.Struct("<8sIIQQQ24x")
_CODES_AT: Final = 4096
_ALIGNED: Final = 64
_MOST_INDEX: Final = 1 << 20
#: Types of the arrays, as NumPy writes them, and what no place or extent in a file reaches.
_DTYPE: Final = re.compile(r"[<|][iuf][1248]|\|b1")
_MOST: Final = 1 << 48
#: What the graph file calls its configurations; here they are coded.
CONFIGS: Final = "node_config_feat"

_ADVICE: Final = "delete it, or write it again with `python -m gbr.features build --repack`"


Index = dict[str, dict[str, Any]]


class Packed:
    """A copy that was opened and whose index is whole; arrays are checked when they are read.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    fingerprint : str
        Of the graph file that was copied, by :attr:`gbr.data.npz.NpzFile.fingerprint`.
    shape : tuple of int
        Configurations and configurable nodes.

    Raises
    ------
    DataError
        When the file is no copy, torn, edited or of another format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as fault:  # ValueError: an empty file cannot be mapped
            raise DataError(f"{path}: cannot be read as a repacked copy ({fault}); {_ADVICE}") from fault
        if len(self._bytes) < _PREAMBLE.size:
            raise self._wrong(f"{len(self._bytes)} bytes are no repacked copy")
        magic, version, check, place, length, size = _PREAMBLE.unpack(self._bytes[: _PREAMBLE.size].tobytes())
        if magic != _MAGIC:
            raise self._wrong("it is no repacked copy")
        if version != VERSION:
            raise self._wrong(f"format version {version}, this gbr reads {VERSION}")
        if size != len(self._bytes):
            raise self._wrong(f"{len(self._bytes)} bytes, {size} were written")
        index = self._bytes[place : place + length].tobytes() if length <= _MOST_INDEX else b""
        if len(index) != length or crc32(index) != check:
            raise self._wrong("its index fails its CRC")
        try:
            told = parse_json(index)
            self.fingerprint: str = told["source"]
            self._index: Index = told["arrays"]
            self._check_index()
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise self._wrong(f"its index does not hold together ({fault})") from fault
        self.shape = self._shape("codes")
        self._codes = self._view("codes")
        self._checks = self.read("checks")
        self._first = self.read("first")
        self._numbers = self.read("numbers")
        self._rows = self.read("rows")
        if not (np.sort(self._numbers) == np.arange(len(self._rows))).all():
            raise self._wrong("its rows are not numbered one by one")
        if (self._rows < LAYOUT_RANGE[0]).any() or (self._rows > LAYOUT_RANGE[1]).any():
            raise self._wrong(f"a row has a value that is not in {LAYOUT_RANGE[0]} to {LAYOUT_RANGE[1]}")
        of_node = np.diff(self._first)
        if self._first[0] != 0 or self._first[-1] != len(self._rows) or (of_node < 1).any():
            raise self._wrong("its rows are not those of its nodes")
        self._table: NDArray[np.int8] = self._rows[self._numbers]
        self._starts = self._first[:-1].astype(np.int32)
        self._last = np.minimum(of_node - 1, np.iinfo(self._codes.dtype).max).astype(self._codes.dtype)

    def describe(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array of the graph file, or of the configurations that :meth:`blocks` gives.

        Raises
        ------
        DataError
            Where the copy has none of the name.
        """
        if key == CONFIGS:
            return (*self.shape, N_LAYOUT), np.dtype(np.int8)
        if key not in self._index:
            raise self._wrong(f"it holds no {key}")
        return self._shape(key), np.dtype(self._index[key]["dtype"])

    def read(self, key: str) -> NDArray[Any]:
        """One array whole, read-only, with its CRC checked.

        Raises
        ------
        DataError
            When it was edited.
        """
        array = self._view(key)
        if crc32(array.reshape(-1).view(np.uint8)) != self._index[key].get("crc"):
            raise self._wrong(f"{key} fails its CRC")
        return array

    def codes(self, rows: slice | NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
        """Codes of some configurations: per node, the place of its row among its own.

        Parameters
        ----------
        rows : slice or int64 (b,)
            Within the configurations.

        Returns
        -------
        uint8, uint16 or uint32 (b, nodes)

        Raises
        ------
        DataError
            When one of them was edited.
        """
        found = np.ascontiguousarray(self._codes[rows])
        checks = np.fromiter(map(crc32, found), np.uint32, len(found))
        wrong = np.flatnonzero(checks != self._checks[rows])
        if len(wrong):
            numbers = np.arange(self.shape[0])[rows]
            raise self._wrong(f"configuration {numbers[wrong[0]]} fails its CRC")
        if (found > self._last).any():
            raise self._wrong("a code names a row that its node does not have")
        return found

    def configs(self, rows: slice | NDArray[np.int64]) -> NDArray[np.int8]:
        """Some configurations, int8 (b, nodes, 18); ``rows`` as in :meth:`codes`."""
        codes = self.codes(rows)
        return np.take(self._table, codes + self._starts, axis=0, mode="clip")  # checked, so that nothing is clipped

    def blocks(self) -> Iterator[tuple[int, NDArray[np.int8]]]:
        """All configurations in order, about 1 MiB at a time, each with the number of its first."""
        step = max(1, BLOCK_BYTES // (self.shape[1] * N_LAYOUT))
        for first in range(0, self.shape[0], step):
            yield first, self.configs(slice(first, first + step))

    def distinct(self) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Distinct rows of all nodes, int8 (rows, 18), in order of appearance, and their nodes, int64 (rows,)."""
        owner = np.empty(len(self._rows), np.int64)
        owner[self._numbers] = np.repeat(np.arange(self.shape[1]), np.diff(self._first))
        return self._rows, owner

    @property
    def order(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """What :meth:`codes` count: numbers of the rows of :meth:`distinct` node by node, and where each node's begin.

        Returns
        -------
        first : int64 (nodes + 1,)
        numbers : int32 (rows,)
        """
        return self._first, self._numbers

    def _check_index(self) -> None:
        if not isinstance(self.fingerprint, str) or not isinstance(self._index, dict):
            raise TypeError("no index")
        for key, about in self._index.items():
            shape, at = about["shape"], about["at"]
            if not _DTYPE.fullmatch(about["dtype"]) or not isinstance(shape, list):
                raise ValueError(f"{key} is {about['dtype']} {shape}")
            if not all(type(number) is int and 0 <= number < _MOST for number in (*shape, at, about.get("crc", 0))):
                raise ValueError(f"{key} is of shape {shape} at {at}")
            if not _PREAMBLE.size <= at <= len(self._bytes) - math.prod(shape) * np.dtype(about["dtype"]).itemsize:
                raise ValueError(f"{key} lies outside the file")
        n_configs, n_nodes = self._shape("codes")
        (n_rows,) = self._shape("numbers")
        wanted = {
            "codes": ("u", (n_configs, n_nodes)),
            "checks": ("u", (n_configs,)),
            "numbers": ("i", (n_rows,)),
            "rows": ("i", (n_rows, N_LAYOUT)),
            "first": ("i", (n_nodes + 1,)),
        }
        for key, (kind, shape) in wanted.items():
            if self._shape(key) != shape or self._index[key]["dtype"][1] != kind or not n_nodes:
                raise ValueError(f"{key} is {self._index[key]['dtype']} {self._shape(key)}, wanted {kind} {shape}")

    def _shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._index[key]["shape"])

    def _view(self, key: str) -> NDArray[Any]:
        about = self._index[key]
        dtype, count = np.dtype(about["dtype"]), math.prod(about["shape"])
        values = self._bytes[about["at"] : about["at"] + count * dtype.itemsize]
        array: NDArray[Any] = np.asarray(values).view(dtype).reshape(about["shape"])
        return array

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}: {what}; {_ADVICE}")


class PackedWriter:
    """Writes a copy into an open file: configurations as they come, the rest at the end.

    Parameters
    ----------
    stream : binary file
        Seekable, empty.
    width : dtype
        Of the codes.
    """

    def __init__(self, stream: BinaryIO, width: np.dtype[Any]) -> None:
        self._stream = stream
        self._width = width
        self._checks: list[NDArray[np.uint32]] = []
        stream.seek(_CODES_AT)

    def add(self, codes: NDArray[np.integer[Any]]) -> None:
        """Append configurations: per node the place of its row among its own, (b, nodes)."""
        narrow = codes.astype(self._width)
        self._checks.append(np.fromiter(map(crc32, narrow), np.uint32, len(narrow)))
        self._stream.write(narrow.data)

    def finish(
        self,
        fingerprint: str,
        rows: NDArray[np.int8],
        numbers: NDArray[np.int32],
        first: NDArray[np.int64],
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        """Write what is told of all configurations together, and last the preamble.

        Parameters
        ----------
        fingerprint : str
            Of the graph file.
        rows : int8 (rows, 18)
            In order of appearance.
        numbers : int32 (rows,)
            Numbers of the rows, node by node.
        first : int64 (nodes + 1,)
            Where each node's begin.
        arrays : mapping of str to array
            The graph file's others.
        """
        checks = np.concatenate(self._checks)
        index: Index = {
            "codes": {"dtype": self._width.str, "shape": (len(checks), len(first) - 1), "at": _CODES_AT},
        }
        own: dict[str, NDArray[Any]] = {"checks": checks, "rows": rows, "numbers": numbers, "first": first}
        for key, array in {**arrays, **own}.items():
            values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._stream.write(bytes(-self._stream.tell() % _ALIGNED))
            index[key] = {
                "dtype": array.dtype.str, "shape": array.shape, "at": self._stream.tell(), "crc": crc32(values)
            }  # fmt: skip
            self._stream.write(values.data)
        place, told = self._stream.tell(), json.dumps({"source": fingerprint, "arrays": index}).encode()
        self._stream.write(told)
        self._stream.seek(0)
        self._stream.write(_PREAMBLE.pack(_MAGIC, VERSION, crc32(told), place, len(told), place + len(told)))


def fresh(path: Path, fingerprint: str) -> Packed | None:
    """Open the copy beside a graph file where there is one that was made of the file as it is now.

    Raises
    ------
    DataError
        For a copy that is damaged, or no copy.
    """
    beside = path.with_suffix(SUFFIX)
    if not beside.exists():
        return None
    packed = Packed(beside)
    return packed if packed.fingerprint == fingerprint else None
