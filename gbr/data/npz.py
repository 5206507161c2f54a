"""Bounds-checked reader of ``.npz`` archives that reads large arrays in blocks from the compressed stream.

``numpy.load`` decompresses a whole array (a layout file may hold 12.8 GB of configurations) and trusts its header.
This reader compares the header with the directory of the archive before it allocates memory, never unpickles, and
checks the CRC.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gbr.errors import DataError

try:
    from isal import isal_zlib as inflate
    from isal.igzip_lib import DECOMP_DEFLATE, IgzipDecompressor
except ImportError:  # isal has wheels for x86-64 and arm64 only
    inflate = zlib  # type: ignore[misc]

#: Uncompressed bytes per block, 512 KiB: a block stays in the cache of a core while it is checked and read.
BLOCK_BYTES: Final = 1 << 19

_READ_BYTES: Final = 1 << 17
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
#: Maximum compression ratio of deflate: at least 2 bits for 258 bytes.
_MAX_RATIO: Final = 1032
_MAX_HEADER: Final = 1 << 16


class Member(NamedTuple):
    """The header of one array of an archive, ``header_bytes`` long; ``fortran`` is column-major order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header_bytes: int

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An ``.npz`` archive whose directory has been read; the file is not kept open.

    ``keys`` are the names of its arrays, without ``.npy``.

    Raises
    ------
    DataError
        If the file is missing or not a complete zip archive.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        except OSError as fault:
            raise DataError(f"{self.path}: cannot be read ({fault.strerror or fault})") from fault
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as fault:
            raise DataError(
                f"{self.path}: not a complete .npz archive ({fault}); download or write it again"
            ) from fault
        self.keys = tuple(self._entries)
        self._members: dict[str, Member] = {}

    @property
    def fingerprint(self) -> str:
        """Hash of the names, sizes and CRCs of all members, 16 hex digits; nothing is decompressed."""
        listing = sorted((name, entry.CRC, entry.file_size) for name, entry in self._entries.items())
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]

    def member(self, name: str) -> Member:
        """Read the header of an array.

        Raises
        ------
        KeyError
            If there is no such array.
        DataError
            If it is corrupt, holds Python objects, or its size disagrees with the directory of the archive.
        """
        with self._open(name) as (_, member):
            return member

    def read(self, name: str) -> NDArray[Any]:
        """Read a whole array, in C order, and check its CRC; errors as for :meth:`member`."""
        with self._open(name) as (stream, member):
            values = np.frombuffer(stream.read(member.nbytes), member.dtype)
            stream.finish()
            return np.array(values.reshape(member.shape, order="F" if member.fortran else "C"), order="C")

    def blocks(self, name: str, rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read an array in blocks of rows; memory does not grow with its size.

        The CRC is checked after the last block.  Errors as for :meth:`member`, also for column-major arrays.

        Parameters
        ----------
        name : str
        rows : int, optional
            By default as many as fit in :data:`BLOCK_BYTES`.

        Yields
        ------
        int, array (rows, ...)
            Index of the first row, and a read-only block.
        """
        with self._open(name) as (stream, member):
            if member.fortran and len(member.shape) > 1:
                fault = "expected C order, got column-major order"
                raise DataError(f"{self.path}: {name}: {fault}; write the array again after numpy.ascontiguousarray")
            row_bytes = math.prod(member.shape[1:]) * member.dtype.itemsize
            step = rows or max(1, BLOCK_BYTES // max(1, row_bytes))
            for first in range(0, member.shape[0], step):
                count = min(step, member.shape[0] - first)
                block = np.frombuffer(stream.read(count * row_bytes), member.dtype)
                yield first, block.reshape(count, *member.shape[1:])
            stream.finish()

    def map(self, name: str) -> NDArray[Any]:
        """Memory-map an uncompressed array in C order, read-only; its CRC is not checked.  Errors as for read."""
        with self._open(name) as (stream, member):
            if not stream.is_stored or member.fortran or not member.nbytes:
                raise ValueError("it cannot be memory-mapped")
            return np.memmap(self.path, member.dtype, "r", stream.offset + member.header_bytes, member.shape)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[_Stream, Member]]:
        """Open an array and read its header; any failure in the body is a DataError."""
        entry = self._entries[name]
        try:
            with open(self.path, "rb") as file:
                stream = _Stream(file, entry)
                if name in self._members:
                    stream.read(self._members[name].header_bytes)
                else:
                    self._members[name] = _header(stream, entry.file_size)
                yield stream, self._members[name]
        except (MemoryError, DataError):
            raise
        except Exception as fault:  # NumPy's parser raises many
            raise DataError(
                f"{self.path}: {name}: corrupt ({str(fault) or type(fault).__name__}); download or write the file again"
            ) from fault


class _Stream:
    """Sequential reader of one archive member that decompresses it and computes its CRC."""

    def __init__(self, file: BinaryIO, entry: zipfile.ZipInfo) -> None:
        self.is_stored = entry.compress_type == zipfile.ZIP_STORED
        largest = entry.compress_size if self.is_stored else entry.compress_size * _MAX_RATIO + _READ_BYTES
        if entry.flag_bits & 1:
            raise ValueError("encrypted")
        if not self.is_stored and entry.compress_type != zipfile.ZIP_DEFLATED:
            raise ValueError(f"unsupported compression method {entry.compress_type}")
        if entry.file_size > largest:
            raise ValueError(f"{entry.compress_size} bytes cannot hold {entry.file_size}")
        file.seek(entry.header_offset)
        magic, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise ValueError("without a local header")
        #: Position of the member's contents in the file.
        self.offset = file.seek(sum(lengths), 1)
        #: Bytes read.
        self.position = 0
        self._file, self._expected_crc, self._remaining = file, entry.CRC, entry.compress_size
        # The decompressor of isal_zlib would copy each piece as it grows.
        self._inflater: Any = zlib.decompressobj(-15) if inflate is zlib else IgzipDecompressor(flag=DECOMP_DEFLATE)
        self._crc = 0

    def read(self, count: int = 0, /) -> bytes:
        """Exactly the next ``count`` bytes; not copied if they are decompressed in one piece."""
        pieces: list[bytes] = []
        missing = count
        while missing:
            pieces.append(piece := self._next(missing))
            if not piece:
                raise EOFError(f"ends {missing} bytes early")
            missing -= len(piece)
        self.position += count
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        """Check that the member ends here, and its CRC."""
        if self._next(1) or self._remaining or not (self.is_stored or self._inflater.eof):
            raise ValueError("more data than the directory declares")
        if self._crc != self._expected_crc:
            raise ValueError(f"CRC {self._crc:08x}, expected {self._expected_crc:08x}")

    def _next(self, limit: int) -> bytes:
        """At least one byte and at most ``limit``; none at the end."""
        piece = b""
        if self.is_stored:
            piece = self._raw(limit)
        else:
            ended = False
            while not piece and not ended and not self._inflater.eof:
                given = getattr(self._inflater, "unconsumed_tail", b"")
                if not given and getattr(self._inflater, "needs_input", True):  # igzip keeps the rest of its input
                    given = self._raw(_READ_BYTES)
                    ended = not given
                piece = self._inflater.decompress(given, limit)
        self._crc = inflate.crc32(piece, self._crc)
        return piece

    def _raw(self, limit: int) -> bytes:
        chunk = self._file.read(min(limit, self._remaining))
        self._remaining -= len(chunk)
        return chunk


def _header(stream: _Stream, declared: int) -> Member:
    if npy.read_magic(stream) != (1, 0):  # the version that NumPy writes for arrays of numbers
        raise ValueError("not in .npy format 1.0")
    shape, fortran, dtype = npy.read_array_header_1_0(stream, max_header_size=_MAX_HEADER)
    if dtype.kind not in "iufb" or any(extent < 0 for extent in shape):
        raise ValueError(f"expected an array of numbers, got {dtype} {shape}")
    member = Member(tuple(shape), dtype, bool(fortran), stream.position)
    if (needed := member.header_bytes + member.nbytes) != declared:
        raise ValueError(f"{dtype} {shape} needs {needed} bytes, got {declared}")
    return member
