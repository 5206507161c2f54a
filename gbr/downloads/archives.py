"""Graph files out of tar and zip archives that nobody vouches for.

An archive is read to its end before anything of it is written.  One that is torn, or whose members would leave the
folder, are links or devices, come twice or lie about their size, is refused as a whole.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, BinaryIO, Final

from gbr.data.collection import KINDS, SPLITS
from gbr.data.files import Report, atomic_write, remove_partial_files
from gbr.data.npz import NpzFile
from gbr.errors import ArchiveError, DataError, DownloadError

Place = tuple[str, str]

_CHUNK: Final = 1 << 20
#: TpuGraphs has 7,919 files in all.
_MOST_MEMBERS: Final = 100_000
#: Deflate cannot do better than 258 bytes for 2 bits; more is a forged directory.
_MAX_RATIO: Final = 1032
#: Bytes of a tar header that only names or describes the next member.
_MAX_DESCRIPTION: Final = 1 << 14
#: Bytes of a file's name; what is not whole yet adds some of its own, and file systems end at 255.
_MAX_NAME: Final = 210
_ENCRYPTED: Final = 1
_DESCRIPTIONS: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_CONTENTS: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_KINDS_OF_MEMBER: Final = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
#: What reading a torn archive raises in the standard library.
_TORN: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    NotImplementedError,
    RecursionError,
)


class _TornError(Exception):
    """Bytes that are no archive, or not all of one."""


class _HostileError(Exception):
    """A member that no honest archive of graphs has."""


@dataclass(frozen=True)
class Entry:
    """A graph file in an archive.

    Parameters
    ----------
    member : str
        Its name there.
    subset, split : str
        Where it belongs.
    file : str
        Its name in that folder.
    size : int
        Bytes.
    """

    member: str
    subset: str
    split: str
    file: str
    size: int

    def path(self, data_root: Path) -> Path:
        """Where it goes below the data root."""
        return data_root.joinpath("npz", *self.subset.split(":"), self.split, self.file)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    end: int  # about where it ends in the archive
    open: Callable[[], IO[bytes] | None]

    def chunks(self) -> Iterator[bytes]:
        """The contents, exactly ``size`` bytes."""
        left = self.size
        stream = self.open()
        if stream is None:
            raise _TornError(f"{self.name} has no contents")
        with stream:
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                yield chunk
        if left:
            raise _TornError(f"{self.name} ends {left} bytes early")


def survey(path: Path, wanted: Collection[Place], report: Report = lambda done, total: None) -> list[Entry]:
    """Read an archive to its end and list the graph files of some collections in it; nothing is written.

    Parameters
    ----------
    path : Path
        ``.tar``, ``.tar.gz`` or ``.zip``, told by its contents.  The folder of a collection may stand below others
        (``npz_all/npz/tile/xla/train/…``); other members are passed over.
    wanted : collection of (subset, split)
    report : callable
        Given the bytes of the archive that have been read, and all.

    Returns
    -------
    list of Entry
        In the archive's order.

    Raises
    ------
    ArchiveError
        When the archive is torn or hostile, or has nothing of a wanted collection and split.
    """
    zipped = _is_zip(path)
    entries: dict[Path, Entry] = {}
    passed: list[str] = []
    with _explained(path):
        for member in _members(path, report):
            entry = _entry(member)
            if entry is None or (entry.subset, entry.split) not in wanted:
                passed = passed or [member.name]
                continue
            target = entry.path(Path())
            if target in entries:
                raise _HostileError(f"{entries[target].member} and {member.name} are the same file twice")
            entries[target] = entry
            if zipped:
                for _ in member.chunks():  # which is where its CRC is checked
                    pass
    found = {(entry.subset, entry.split) for entry in entries.values()}
    missing = [f"{subset} {split}" for subset, split in wanted if (subset, split) not in found]
    if missing:
        other = f", but other files ({passed[0]} …)" if passed else ""
        raise ArchiveError(
            f"{path}: holds no graphs of {', '.join(sorted(missing))}{other}; want .npz files below "
            "<kind>/<name>/<split>/; name another archive"
        )
    return list(entries.values())


def unpack(
    path: Path, entries: Sequence[Entry], data_root: Path, report: Report = lambda done, total: None
) -> tuple[int, int]:
    """Put graph files of an archive in their folders; those that are there in the right size are left alone.

    Parameters
    ----------
    path : Path
    entries : sequence of Entry
        Of :func:`survey`.
    data_root : Path
    report : callable
        As for :func:`survey`.

    Returns
    -------
    written, kept : int
        Files.

    Raises
    ------
    ArchiveError
        When the archive is another one by now, or a graph file in it is none.  Every file that has its name is whole.
    DownloadError
        When a file cannot be written.
    """
    wanted = {entry.member: entry for entry in entries}
    for folder in {entry.path(data_root).parent for entry in entries}:
        remove_partial_files(folder)
    written = 0
    with _explained(path):
        for member in _members(path, report):
            if not wanted:
                break
            entry = wanted.pop(member.name, None)
            if entry is None:
                continue
            if entry.size != member.size:
                raise _TornError("it changed while it was read")
            target = entry.path(data_root)
            if target.is_file() and target.stat().st_size == entry.size:
                continue
            _write(member, target)
            written += 1
        if wanted:
            raise _TornError("it changed while it was read")
    return written, len(entries) - written


def _write(member: _Member, target: Path) -> None:
    with atomic_write(target, DownloadError) as part:
        with part.open("wb") as out:
            for chunk in _guarded(member):
                out.write(chunk)
        try:
            NpzFile(part)
        except DataError as fault:
            raise _TornError(f"{member.name} is no whole .npz") from fault


def _guarded(member: _Member) -> Iterator[bytes]:
    """The contents, with what reading raises told apart from what writing does."""
    try:
        yield from member.chunks()
    except _TORN as fault:
        raise _TornError(f"{member.name}: {_one_line(fault)}") from fault


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _HostileError as fault:
        raise ArchiveError(f"{path}: refused: {fault}; take the archive from its official source") from fault
    except _TornError as fault:
        raise ArchiveError(f"{path}: no whole archive ({fault}); fetch it again") from fault
    except _TORN as fault:
        raise ArchiveError(f"{path}: no whole archive ({_one_line(fault)}); fetch it again") from fault


def _members(path: Path, report: Report) -> Iterator[_Member]:
    """Regular files of an archive, in its order; every member has been looked at when the last one is given."""
    total = path.stat().st_size
    number = 0
    with path.open("rb") as raw:
        for member in _zip_members(raw, total) if _is_zip(path) else _tar_members(raw):
            number += 1
            if number > _MOST_MEMBERS:
                raise _HostileError(f"it has more than {_MOST_MEMBERS} members")
            _check_name(member.name)
            yield member
            report(min(member.end, total), total)
    report(total, total)


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as fault:
        raise DownloadError(f"{path}: cannot be read ({fault.strerror or fault}); name another archive") from fault


class _Header(tarfile.TarInfo):
    """A header that is looked at before ``tarfile`` acts on it.

    By itself ``tarfile`` takes a damaged header for the end of the archive, and reads as much of a description as its
    header claims.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        return cls._looked_at(buf, partial(super().frombuf, buf, encoding, errors))

    @classmethod
    def _frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str, **how: bool) -> _Header:
        """Read a header where ``tarfile`` no longer asks ``frombuf``, as that of Python 3.13.5 on Debian 13."""
        return cls._looked_at(buf, partial(super()._frombuf, buf, encoding, errors, **how))  # type: ignore[misc]

    @classmethod
    def _looked_at(cls, buf: bytes | bytearray, read: Callable[[], _Header]) -> _Header:
        try:
            header = read()
        except tarfile.HeaderError as fault:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark at the end of an archive
            raise _TornError(str(fault) if buf else "it ends without its end mark") from fault
        if header.size < 0:
            raise _HostileError(f"{header.name} has {header.size} bytes")
        if header.type in _DESCRIPTIONS:
            if header.size > _MAX_DESCRIPTION:
                raise _HostileError(f"{header.name} has a name or description of {header.size} bytes")
        elif header.type not in _CONTENTS:
            raise _HostileError(f"{header.name} is {_KINDS_OF_MEMBER.get(header.type, 'a member of unknown kind')}")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        """Refuse a member whose description is none; ``tarfile`` takes it for the end of the archive."""
        try:
            return super().fromtarfile(archive)
        except tarfile.InvalidHeaderError as fault:  # type: ignore[attr-defined]
            raise _TornError(str(fault)) from fault

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Refuse a sparse file before its map is read, which ``tarfile`` does without end where the map has none."""
        raise _HostileError("a member is a sparse file")


def _tar_members(raw: BinaryIO) -> Iterator[_Member]:
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as archive:
        for info in archive:
            if info.issparse():
                raise _HostileError(f"{info.name} is a sparse file")
            if info.size < 0:
                raise _HostileError(f"{info.name} has {info.size} bytes")
            _check_name(info.name)
            if info.isreg():
                end = raw.tell() if zipped else info.offset_data + info.size
                yield _Member(info.name, info.size, end, partial(archive.extractfile, info))
    if zipped:
        while stream.read(_CHUNK):  # to its end, where the CRC of all of it stands
            pass


def _zip_members(raw: BinaryIO, total: int) -> Iterator[_Member]:
    with zipfile.ZipFile(raw) as archive:
        entries = archive.infolist()
        if entries and min(entry.header_offset for entry in entries) > 0:
            # What is left of a torn archive may end in the directory of an .npz, which is a zip archive too.
            raise _TornError("its directory is not there")
        if sum(entry.compress_size for entry in entries) > total:
            raise _HostileError("its members overlap")
        for entry in entries:
            name = entry.filename
            mode = stat.S_IFMT(entry.external_attr >> 16)
            if name != entry.orig_filename:
                raise _HostileError(f"{entry.orig_filename!r} is no plain name")
            if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise _HostileError(f"{name} is a {'symbolic link' if stat.S_ISLNK(mode) else 'device'}")
            if entry.flag_bits & _ENCRYPTED:
                raise _HostileError(f"{name} is encrypted")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _HostileError(f"{name} has compression method {entry.compress_type}, want deflate or none")
            if entry.file_size > entry.compress_size * _MAX_RATIO + _CHUNK:
                raise _HostileError(f"{name} claims {entry.file_size} bytes out of {entry.compress_size}")
            _check_name(name)
            if not entry.is_dir():
                end = entry.header_offset + entry.compress_size
                yield _Member(name, entry.file_size, end, partial(archive.open, entry))


def _check_name(name: str) -> None:
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root or ".." in windows.parts:
        raise _HostileError(f"{name} leaves the folder")
    if not name.isprintable():
        raise _HostileError(f"{name!r} is no plain name")


def _entry(member: _Member) -> Entry | None:
    """Where a member belongs, told by the end of its path; None for what is no graph file."""
    parts = ("", "", "", "", "", *PurePosixPath(member.name).parts)
    folders, split, file = parts[:-2], parts[-2], parts[-1]
    if split not in SPLITS or not re.fullmatch(r"[^.\\:][^\\:]*\.npz", file):
        return None
    if len(file.encode()) > _MAX_NAME:
        raise _HostileError(f"{file[:80]}… is too long for the name of a file")
    for kind in KINDS:
        depth = 2 if kind == "tile" else 3
        if folders[-depth] == kind:
            return Entry(member.name, ":".join(folders[-depth:]), split, file, member.size)
    return None


def _one_line(fault: BaseException) -> str:
    return " ".join(str(fault).split()) or type(fault).__name__
