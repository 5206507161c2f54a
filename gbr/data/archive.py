"""Graph files out of tar and zip archives.

Only regular members named ``<collection folders>/<split>/<file>.npz`` are read, below any prefix, and the path each is
written to is built here from these parts alone; links, devices and everything else in an archive are ignored.
"""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from gbr.data.collection import SPLITS
from gbr.data.files import Report, atomic_write, remove_partial_files, require_space
from gbr.data.npz import NpzFile
from gbr.errors import ArchiveError, DataError, DownloadError

#: A collection and a split.
Part = tuple[str, str]

_CHUNK: Final = 1 << 20
#: TpuGraphs has 7,919 files in all.
_MAX_MEMBERS: Final = 100_000
#: Bytes of a file name: file systems allow 255, and a temporary name is longer than the final one.
_MAX_NAME: Final = 210
_MEMBER: Final = re.compile(
    rf"(?:.*/)?(?P<subset>tile/[^/]+|layout/[^/]+/[^/]+)/(?P<split>{'|'.join(SPLITS)})/(?P<file>[^./\\:][^/\\:]*\.npz)"
)
#: What the standard library raises for damaged archives.
_DAMAGED: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Member:
    """A graph file in an archive: its collection, split, file name, bytes, and how to open it."""

    subset: str
    split: str
    file: str
    size: int
    open: Callable[[], IO[bytes] | None]

    def path(self, data_root: Path) -> Path:
        return data_root.joinpath("npz", *self.subset.split(":"), self.split, self.file)


@dataclass(frozen=True)
class Unpacked:
    """What :func:`unpack` found and did.

    Parameters
    ----------
    files : dict
        (collection, split) -> file name -> bytes, of every requested part.
    written, kept : int
        Files written, and files that existed in the right size.
    """

    files: dict[Part, dict[str, int]]
    written: int
    kept: int


def unpack(
    path: Path, parts: Collection[Part], data_root: Path, on_progress: Report = lambda done, total: None
) -> Unpacked:
    """Unpack the graph files of some collections and splits into their folders below the data root.

    Files that exist in the right size are kept, so that an interrupted call is resumed by calling again.  Each file is
    written under a temporary name and checked to be a complete ``.npz`` before it gets its name.

    Parameters
    ----------
    path : Path
        ``.tar``, also compressed, or ``.zip``; recognised by its contents.
    parts : collection of (collection, split)
    data_root : Path
    on_progress : callable
        Called with the bytes of graph files handled so far and in all.

    Raises
    ------
    ArchiveError
        When the archive is damaged, holds no graphs of a requested part, or one of them is not an ``.npz`` file.
    DownloadError
        When the archive cannot be read, or a file cannot be written.
    """
    with _opened(path) as found:
        members = {(one.subset, one.split, one.file): one for one in found if (one.subset, one.split) in parts}
        files: dict[Part, dict[str, int]] = {part: {} for part in parts}
        for member in members.values():
            files[member.subset, member.split][member.file] = member.size
        if missing := sorted(" ".join(part) for part, sizes in files.items() if not sizes):
            raise ArchiveError(
                f"{path}: expected graphs of {', '.join(missing)} below <kind>/<name>/<split>/, found none; "
                "name another archive"
            )
        new = [one for one in members.values() if not _exists(one.path(data_root), one.size)]
        require_space(data_root, sum(one.size for one in new), f"unpacking {path.name}", DownloadError)
        for folder in {one.path(data_root).parent for one in new}:
            remove_partial_files(folder)
        total = sum(one.size for one in members.values())
        done = total - sum(one.size for one in new)
        for member in new:
            on_progress(done, total)
            _write(path, member, member.path(data_root))
            done += member.size
        on_progress(total, total)
    return Unpacked(files, len(new), len(members) - len(new))


def _exists(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(archive: Path, member: _Member, target: Path) -> None:
    with atomic_write(target, DownloadError) as temporary:
        with temporary.open("wb") as out:
            for chunk in _chunks(archive, member):
                out.write(chunk)
        try:
            NpzFile(temporary)
        except DataError as fault:
            raise ArchiveError(f"{archive}: {member.file} is not a complete .npz file") from fault


def _chunks(archive: Path, member: _Member) -> Iterator[bytes]:
    """The contents of a member, exactly ``size`` bytes."""
    left = member.size
    with _explained(archive):
        stream = member.open()
        while stream is not None and left > 0 and (chunk := stream.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk
        if stream is not None:
            stream.read(1)  # zipfile checks the CRC at the end of a member
        if left:
            raise EOFError(f"{member.file} ends {left} bytes early")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise ArchiveError(f"{path}: not a complete tar or zip archive ({reason}); download it again") from fault


@contextmanager
def _opened(path: Path) -> Iterator[list[_Member]]:
    """The graph files of an archive, which stays open inside the block."""
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"PK"
    except OSError as fault:
        raise DownloadError(f"{path}: cannot be read ({fault.strerror or fault}); name another archive") from fault
    with _explained(path):
        archive: Any = zipfile.ZipFile(path) if zipped else tarfile.open(path)  # noqa: SIM115
    with archive:
        with _explained(path):
            members = list(_tar_members(archive) if isinstance(archive, tarfile.TarFile) else _zip_members(archive))
        yield members


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for number, info in enumerate(archive):
        if info.size < 0 or number >= _MAX_MEMBERS:
            raise ValueError(f"{info.name}: {info.size} bytes, member {number}")
        if info.isreg() and not info.issparse():
            yield from _recognised(info.name, info.size, partial(archive.extractfile, info))
    # tarfile takes a damaged header for the end of the archive, which is a block of zeros.
    stream: Any = archive.fileobj
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("damaged header or no end mark")
    while stream.read(_CHUNK):  # gzip checks the CRC at the end of the file
        pass


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if not info.is_dir():
            yield from _recognised(info.filename, info.file_size, partial(archive.open, info))


def _recognised(name: str, size: int, open_: Callable[[], IO[bytes] | None]) -> Iterator[_Member]:
    found = _MEMBER.fullmatch(name)
    if found and found["file"].isprintable() and len(found["file"].encode()) <= _MAX_NAME:
        yield _Member(found["subset"].replace("/", ":"), found["split"], found["file"], size, open_)
