"""Bounds-checked reader of ``.npz`` members; large ones come in blocks straight from the compressed stream.

``numpy.load`` inflates a member whole (a layout file may hold 12.8 GB of configurations) and trusts its header.  Here
the header of a member is read before anything is allocated, its size is held against the archive's directory, nothing
is ever unpickled, and the CRC is checked.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gbr.errors import DataError

try:
    from isal import isal_zlib as inflate
    from isal.igzip_lib import DECOMP_DEFLATE, IgzipDecompressor
except ImportError:  # isal has wheels for x86-64 and arm64 only
    inflate = zlib  # type: ignore[misc]

crc32: Final[Callable[[Any], int]] = inflate.crc32

#: Uncompressed bytes per block of :meth:`NpzFile.blocks` unless the caller asks for rows: it stays in a core's cache
#: while it is checked and read, and is large enough for what it costs to begin another.
BLOCK_BYTES: Final = 1 << 19

_READ: Final = 1 << 17
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_ENCRYPTED: Final = 1
#: Deflate cannot do better than 258 bytes for 2 bits; more is a forged directory.
_MAX_RATIO: Final = 1032
_MAX_HEADER: Final = 1 << 16
_MAX_NAME: Final = 100


@dataclass(frozen=True)
class Member:
    """One array of the archive, as its header describes it.

    Parameters
    ----------
    name : str
        Key, without ``.npy``.
    shape : tuple of int
    dtype : numpy.dtype
    fortran : bool
        Column-major order.
    header : int
        Bytes before the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An ``.npz`` archive whose directory has been read and checked; holds no open file.

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
        When the file is missing, no zip archive, torn, or names a member twice.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = archive.infolist()
        except FileNotFoundError as fault:
            raise DataError(f"{self.path}: no such file; name an .npz graph file") from fault
        except OSError as fault:
            raise DataError(f"{self.path}: cannot be read ({fault.strerror or fault})") from fault
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as fault:
            raise DataError(f"{self.path}: no whole .npz archive ({fault}); fetch or write it again") from fault
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if not name.isprintable() or len(name) > _MAX_NAME:
                raise DataError(f"{self.path}: a member's name is {name[:_MAX_NAME]!r}; fetch or write the file again")
            if name in self._entries:
                raise DataError(f"{self.path}: {name}: two members of this name; fetch or write the file again")
            self._entries[name] = entry
        self.keys = tuple(self._entries)
        self._members: dict[str, Member] = {}

    @property
    def fingerprint(self) -> str:
        """16 hex digits over names, sizes and CRCs of all members: changes with the contents; nothing is inflated."""
        listing = sorted((name, entry.CRC, entry.file_size) for name, entry in self._entries.items())
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]

    def member(self, name: str) -> Member:
        """Read a member's header: shape and type, nothing inflated beyond it.

        Raises
        ------
        KeyError
            When there is no such member.
        DataError
            When it is torn, holds Python objects, or its size is not what the archive's directory says.
        """
        if name not in self._members:
            with self._open(self._entries[name]) as stream:
                self._header(name, self._entries[name], stream)
        return self._members[name]

    def read(self, name: str) -> NDArray[Any]:
        """Read one array whole, in C order, with its CRC checked.

        Raises
        ------
        KeyError, DataError
            As :meth:`member`; further for values that do not inflate or fail their CRC.
        """
        entry = self._entries[name]
        with self._open(entry) as stream:
            member = self._header(name, entry, stream)
            values = np.empty(math.prod(member.shape), member.dtype)
            self._fill(stream, name, memoryview(values.view(np.uint8)))  # type: ignore[arg-type]
            self._finish(stream, name)
        return np.asarray(values.reshape(member.shape, order="F" if member.fortran else "C"), order="C")

    def blocks(self, name: str, rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read one array in blocks along its first axis; memory is a few blocks, whatever the member's size.

        The CRC is checked after the last block: an iteration that ends by itself has read exactly what was written.

        Parameters
        ----------
        name : str
        rows : int, optional
            Rows per block (the last may have fewer); about 1 MiB by default.

        Yields
        ------
        int, array (rows, ...)
            Number of the first row, and a block that is the caller's to keep, read-only: mostly the very bytes that
            were inflated.

        Raises
        ------
        KeyError, DataError
            As :meth:`read`; further for column-major order, which does not come row by row.
        """
        entry = self._entries[name]
        with self._open(entry) as stream:
            member = self._header(name, entry, stream)
            if member.fortran and len(member.shape) > 1:
                raise DataError(
                    f"{self.path}: {name}: column-major order cannot be read in blocks of rows; "
                    "write it with numpy.ascontiguousarray"
                )
            row = math.prod(member.shape[1:])
            step = rows or max(1, BLOCK_BYTES // max(1, row * member.dtype.itemsize))
            for first in range(0, member.shape[0], step):
                count = min(step, member.shape[0] - first)
                values = np.frombuffer(self._take(stream, name, count * row * member.dtype.itemsize), member.dtype)
                yield first, values.reshape(count, *member.shape[1:])
            self._finish(stream, name)

    def _open(self, entry: zipfile.ZipInfo) -> _Inflate:
        try:
            return _Inflate(self.path, entry)
        except OSError as fault:
            raise DataError(f"{self.path}: cannot be read ({fault.strerror or fault})") from fault
        except _TornError as fault:
            raise self._torn(entry.filename.removesuffix(".npy"), fault) from fault

    def _header(self, name: str, entry: zipfile.ZipInfo, stream: _Inflate) -> Member:
        if name in self._members:
            known = self._members[name]
            self._fill(stream, name, memoryview(bytearray(known.header)))
            return known
        head = io.BytesIO()

        def more(count: int) -> bytes:
            buffer = bytearray(count)
            self._fill(stream, name, memoryview(buffer))
            head.write(buffer)
            return bytes(buffer)

        magic = more(8)
        if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00"):
            raise self._torn(name, "no array in .npy format 1 or 2")
        width = 2 if magic[6] == 1 else 4
        length = int.from_bytes(more(width), "little")
        if length > _MAX_HEADER:
            raise self._torn(name, f"a header of {length} bytes")
        more(length)
        size = head.seek(0, io.SEEK_END)
        head.seek(0)
        try:
            version = npy.read_magic(head)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(head, max_header_size=_MAX_HEADER)
        except Exception as fault:  # NumPy lets through whatever its tokenizer and parser raise
            raise self._torn(name, f"a header that cannot be read ({' '.join(str(fault).split())[:80]})") from fault
        if dtype.hasobject:
            raise DataError(
                f"{self.path}: {name}: holds Python objects, which are never unpickled; write it as numbers"
            )
        if dtype.kind not in "iufb" or any(extent < 0 for extent in shape):
            raise DataError(f"{self.path}: {name}: got {dtype} {shape}, want an array of numbers")
        member = Member(name, tuple(shape), dtype, bool(fortran), size)
        if size + member.nbytes != entry.file_size:
            raise self._torn(
                name, f"{dtype} {shape} takes {size + member.nbytes} bytes, the archive holds {entry.file_size}"
            )
        self._members[name] = member
        return member

    def _fill(self, stream: _Inflate, name: str, into: memoryview) -> None:
        try:
            stream.readinto(into)
        except (_TornError, OSError) as fault:
            raise self._torn(name, fault) from fault

    def _take(self, stream: _Inflate, name: str, count: int) -> bytes:
        try:
            return stream.read(count)
        except (_TornError, OSError) as fault:
            raise self._torn(name, fault) from fault

    def _finish(self, stream: _Inflate, name: str) -> None:
        try:
            stream.finish()
        except (_TornError, OSError) as fault:
            raise self._torn(name, fault) from fault

    def _torn(self, name: str, what: object) -> DataError:
        return DataError(f"{self.path}: {name}: torn ({what}); fetch or write the file again")


class _TornError(Exception):
    """A stream that is not what the archive's directory says."""


class _Inflate:
    """Sequential reader of one archive member; sums its CRC as it goes."""

    def __init__(self, path: Path, entry: zipfile.ZipInfo) -> None:
        self._entry = entry
        self._crc = 0
        self._left = entry.file_size
        if entry.flag_bits & _ENCRYPTED:
            raise _TornError("it is encrypted")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            self._inflater: Any = _decompressor()
            if entry.file_size > entry.compress_size * _MAX_RATIO + _READ:
                raise _TornError(f"{entry.compress_size} bytes cannot inflate to {entry.file_size}")
        elif entry.compress_type == zipfile.ZIP_STORED:
            self._inflater = None
            if entry.file_size != entry.compress_size:
                raise _TornError(f"{entry.compress_size} stored bytes, {entry.file_size} declared")
        else:
            raise _TornError(f"compression method {entry.compress_type}; want deflate or none")
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 -- closed by __exit__
        try:
            self._compressed = self._locate()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _Inflate:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes: not copied where they inflate in one piece."""
        self._promised(count)
        chunk = self._next(count) if count else b""
        if len(chunk) < count:
            pieces = [chunk]
            while chunk and (missing := count - sum(map(len, pieces))):
                pieces.append(chunk := self._next(missing))
            chunk = b"".join(pieces)
            if len(chunk) < count:
                raise _TornError(f"ends {self._left - len(chunk)} bytes early")
        self._left -= count
        return chunk

    def readinto(self, into: memoryview) -> None:
        """Fill ``into`` with the next bytes."""
        self._promised(len(into))
        filled = 0
        while filled < len(into):
            chunk = self._next(len(into) - filled)
            if not chunk:
                raise _TornError(f"ends {self._left - filled} bytes early")
            into[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        self._left -= filled

    def _promised(self, count: int) -> None:
        if count > self._left:
            raise _TornError(f"{count - self._left} bytes short of its values")

    def finish(self) -> None:
        """Check that this was the end, and the CRC of all of it."""
        if self._left:
            raise _TornError(f"{self._left} bytes after its values")
        if self._inflater is not None:
            while not self._inflater.eof:
                if self._inflate(1):
                    raise _TornError("inflates to more than declared")
        if self._compressed or (self._inflater is not None and self._inflater.unused_data):
            raise _TornError("bytes after its compressed stream")
        if self._crc != self._entry.CRC:
            raise _TornError(f"CRC {self._crc:08x}, the archive says {self._entry.CRC:08x}")

    def _locate(self) -> int:
        self._file.seek(self._entry.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise _TornError("its local header is cut off")
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if magic != b"PK\x03\x04":
            raise _TornError("it has no local header")
        start = self._file.seek(name_length + extra_length, io.SEEK_CUR)
        if start + self._entry.compress_size > self._file.seek(0, io.SEEK_END):
            raise _TornError("it runs over the end of the file")
        self._file.seek(start)
        return self._entry.compress_size

    def _raw(self, limit: int) -> bytes:
        chunk = self._file.read(min(limit, self._compressed))
        if not chunk:
            raise _TornError("its compressed stream is cut off")
        self._compressed -= len(chunk)
        return chunk

    def _next(self, limit: int) -> bytes:
        chunk = self._raw(limit) if self._inflater is None else self._inflate(limit)
        self._crc = inflate.crc32(chunk, self._crc)
        return chunk

    def _inflate(self, limit: int) -> bytes:
        """At least one byte, at most ``limit``; none only at the end of the stream."""
        assert self._inflater is not None
        while not self._inflater.eof:
            given = self._raw(_READ) if self._inflater.needs_input and self._compressed else b""
            try:
                chunk: bytes = self._inflater.decompress(given, limit)
            except inflate.error as fault:  # type: ignore[misc]
                raise _TornError(f"its compressed stream is corrupt: {fault}") from fault
            if chunk:
                return chunk
            if not given and not self._compressed and not self._inflater.eof:
                raise _TornError("its compressed stream is cut off")
        return b""


class _Zlib:
    """A decompressor of ``zlib`` that keeps what it has not consumed, as those of other libraries do."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(-15)
        self._kept = b""

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        return not self._kept

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, given: bytes, limit: int) -> bytes:
        chunk = self._inflater.decompress(self._kept + given, limit)
        self._kept = self._inflater.unconsumed_tail
        return chunk


def _decompressor() -> Any:
    return _Zlib() if inflate is zlib else IgzipDecompressor(flag=DECOMP_DEFLATE)
