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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

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
_MAX_NAME: Final = 100


@dataclass(frozen=True)
class Member:
    """The header of one array of an archive.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    fortran : bool
        Column-major order.
    header_bytes : int
        Size of the header that precedes the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header_bytes: int

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An ``.npz`` archive whose directory has been read and checked; the file is not kept open.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    keys : tuple of str
        Names of the arrays, without ``.npy``.

    Raises
    ------
    DataError
        If the file is missing, not a complete zip archive, or has duplicate or unprintable member names.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = archive.infolist()
        except FileNotFoundError as fault:
            raise DataError(f"{self.path}: no such file; expected an .npz graph file") from fault
        except OSError as fault:
            raise DataError(f"{self.path}: cannot be read ({fault.strerror or fault})") from fault
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as fault:
            raise DataError(
                f"{self.path}: not a complete .npz archive ({fault}); download or write it again"
            ) from fault
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in self._entries or not name.isprintable() or len(name) > _MAX_NAME:
                fault_text = "duplicate" if name in self._entries else "invalid"
                raise DataError(f"{self.path}: {fault_text} member name {name[:_MAX_NAME]!r}; download the file again")
            self._entries[name] = entry
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
        if name not in self._members:
            with self._open(name) as stream:
                self._header(name, stream)
        return self._members[name]

    def read(self, name: str) -> NDArray[Any]:
        """Read a whole array, in C order, and check its CRC.

        Raises
        ------
        KeyError, DataError
            As for :meth:`member`, and for values that cannot be decompressed or fail the CRC.
        """
        with self._open(name) as stream:
            member = self._header(name, stream)
            values = np.empty(math.prod(member.shape), member.dtype)
            view = memoryview(values.view(np.uint8))  # type: ignore[arg-type]
            for first in range(0, len(view), BLOCK_BYTES):
                part = view[first : first + BLOCK_BYTES]
                part[:] = stream.read(len(part))
            stream.finish()
        return np.asarray(values.reshape(member.shape, order="F" if member.fortran else "C"), order="C")

    def blocks(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read an array in blocks of rows of about :data:`BLOCK_BYTES`; memory does not grow with its size.

        The CRC is checked after the last block.

        Yields
        ------
        int, array (rows, ...)
            Index of the first row, and a read-only block.

        Raises
        ------
        KeyError, DataError
            As for :meth:`read`, and for column-major arrays.
        """
        with self._open(name) as stream:
            member = self._header(name, stream)
            if member.fortran and len(member.shape) > 1:
                raise DataError(
                    f"{self.path}: {name}: expected C order, got column-major order; "
                    "convert it with numpy.ascontiguousarray"
                )
            row_bytes = math.prod(member.shape[1:]) * member.dtype.itemsize
            step = max(1, BLOCK_BYTES // max(1, row_bytes))
            for first in range(0, member.shape[0], step):
                rows = min(step, member.shape[0] - first)
                block = np.frombuffer(stream.read(rows * row_bytes), member.dtype)
                yield first, block.reshape(rows, *member.shape[1:])
            stream.finish()

    def map(self, name: str) -> NDArray[Any]:
        """Memory-map an uncompressed array, read-only.  Its CRC is not checked.

        Raises
        ------
        KeyError, DataError
            As for :meth:`member`, and for a compressed or column-major array.
        """
        with self._open(name) as stream:
            member = self._header(name, stream)
            if not stream.is_stored or member.fortran or not member.nbytes:
                raise stream.error("it cannot be memory-mapped")
            return np.memmap(self.path, member.dtype, "r", stream.offset + member.header_bytes, member.shape)

    def _open(self, name: str) -> _Stream:
        return _Stream(f"{self.path}: {name}", self.path, self._entries[name])

    def _header(self, name: str, stream: _Stream) -> Member:
        if name in self._members:
            stream.read(self._members[name].header_bytes)
            return self._members[name]
        try:
            if npy.read_magic(stream) != (1, 0):  # the version that NumPy writes for arrays of numbers
                raise stream.error("not in .npy format 1.0")
            shape, fortran, dtype = npy.read_array_header_1_0(stream, max_header_size=_MAX_HEADER)
        except DataError:
            raise
        except Exception as fault:  # any exception of NumPy's parser
            raise stream.error(f"invalid header: {' '.join(str(fault).split())[:80]}") from fault
        if dtype.kind not in "iufb" or any(extent < 0 for extent in shape):
            raise DataError(f"{self.path}: {name}: expected an array of numbers, got {dtype} {shape}")
        member = Member(tuple(shape), dtype, bool(fortran), stream.position)
        declared = self._entries[name].file_size
        if member.header_bytes + member.nbytes != declared:
            raise stream.error(f"{dtype} {shape} needs {member.header_bytes + member.nbytes} bytes, got {declared}")
        self._members[name] = member
        return member


class _Stream:
    """Sequential reader of one archive member that decompresses it and computes its CRC.  A context manager."""

    def __init__(self, where: str, path: Path, entry: zipfile.ZipInfo) -> None:
        self._where, self._entry = where, entry
        self.position = 0
        self.is_stored = entry.compress_type == zipfile.ZIP_STORED
        self._crc = 0
        self._remaining = entry.compress_size
        self._inflater: Any = None if self.is_stored else _decompressor()
        if entry.flag_bits & 1:
            raise self.error("encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.error(f"unsupported compression method {entry.compress_type}")
        largest = entry.compress_size if self.is_stored else entry.compress_size * _MAX_RATIO + _READ_BYTES
        if entry.file_size > largest:
            raise self.error(f"{entry.compress_size} bytes cannot hold {entry.file_size}")
        try:
            self._file = open(path, "rb")  # noqa: SIM115 -- closed by __exit__
        except OSError as fault:
            raise DataError(f"{path}: cannot be read ({fault.strerror or fault})") from fault
        try:
            size = self._file.seek(0, 2)
            self._file.seek(max(0, entry.header_offset))
            header = self._file.read(_LOCAL_HEADER.size)
            magic, *lengths = _LOCAL_HEADER.unpack(header) if len(header) == _LOCAL_HEADER.size else (b"",)
            #: Position of the member's contents in the file.
            self.offset = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
            if magic != b"PK\x03\x04" or entry.header_offset < 0 or self.offset + entry.compress_size > size:
                raise self.error("truncated or without a local header")
            self._file.seek(self.offset)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def error(self, what: object) -> DataError:
        return DataError(f"{self._where}: corrupt ({what}); download or write the file again")

    def read(self, count: int = 0, /) -> bytes:
        """Exactly the next ``count`` bytes; not copied if they are decompressed in one piece."""
        pieces: list[bytes] = []
        missing = count
        while missing:
            pieces.append(piece := self._next(missing))
            if not piece:
                raise self.error(f"ends {missing} bytes early")
            missing -= len(piece)
        self.position += count
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        """Check that the member ends here, and its CRC."""
        if self._next(1) or self._remaining or (self._inflater and not self._inflater.eof):
            raise self.error("more data than the directory declares")
        if self._crc != self._entry.CRC:
            raise self.error(f"CRC {self._crc:08x}, expected {self._entry.CRC:08x}")

    def _next(self, limit: int) -> bytes:
        """At least one byte and at most ``limit``; none at the end."""
        if self._inflater is None:
            piece = self._raw(limit)
        else:
            piece = b""
            while not piece and not self._inflater.eof:
                given = self._raw(_READ_BYTES) if self._inflater.needs_input else b""
                try:
                    piece = self._inflater.decompress(given, limit)
                except inflate.error as fault:  # type: ignore[misc]
                    raise self.error(fault) from fault
                if not piece and not given and not self._remaining:
                    break
        self._crc = inflate.crc32(piece, self._crc)
        return piece

    def _raw(self, limit: int) -> bytes:
        try:
            chunk = self._file.read(min(limit, self._remaining))
        except OSError as fault:
            raise self.error(fault.strerror or fault) from fault
        self._remaining -= len(chunk)
        return chunk


class _Zlib:
    """A ``zlib`` decompressor with the interface of ``isal``, which keeps its unconsumed input."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(-15)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflater.unconsumed_tail

    def decompress(self, given: bytes, limit: int) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + given, limit)


def _decompressor() -> Any:
    return _Zlib() if inflate is zlib else IgzipDecompressor(flag=DECOMP_DEFLATE)
