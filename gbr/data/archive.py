"""Unpack graph files from tar and zip archives.

Only files named ``<collection folders>/<split>/<name>.npz`` are unpacked, regardless of the folders before that.  Their
destination depends only on these parts, so that no archive can write elsewhere.
"""

from __future__ import annotations

import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from gbr.data.collection import SPLITS, Subset
from gbr.data.files import Report, atomic_write, remove_partial_files, require_space
from gbr.data.npz import NpzFile
from gbr.errors import ArchiveError, DataError, DownloadError, one_line

_MEMBER: Final = re.compile(
    rf"(?:.*/)?(?P<folder>(?:tile/[^/]+|layout/[^/]+/[^/]+)/(?:{'|'.join(SPLITS)})/)(?P<file>[^./\\:][^/\\:]*\.npz)"
)
_CHUNK: Final = 1 << 20
#: Exceptions of the standard library for damaged archives.
_DAMAGED: Final = (OSError, EOFError, LookupError, ValueError, OverflowError, RuntimeError, struct.error, zlib.error)


class _Member(NamedTuple):
    """A graph file in an archive."""

    path: Path
    size: int
    open: Callable[[], IO[bytes]]


def unpack(
    path: Path, subset: str, split: str, data_root: Path, on_progress: Report = lambda done, total: None
) -> dict[str, int]:
    """Unpack the graph files of one split of a collection into their folder below the data root.

    Existing files of the right size are kept, so that calling again resumes an interrupted call.  Each file is written
    atomically, and only if it is a complete ``.npz``.

    Parameters
    ----------
    path : Path
        ``.tar``, also compressed, or ``.zip``; recognised by its contents.
    subset, split : str
        Such as ``layout:nlp:random`` and ``train``.
    data_root : Path
    on_progress : callable
        Called with the bytes of graph files processed so far and in total.

    Returns
    -------
    dict
        Sizes in bytes by file name.

    Raises
    ------
    DownloadError
        If a file cannot be written; an ArchiveError if the archive is damaged, contains no graphs of the split, or one
        of them is not an ``.npz`` file.
    """
    folder = Subset(subset).folder(data_root) / split
    inside = f"{subset.replace(':', '/')}/{split}/"
    try:
        with _open(path) as archive:
            members = [
                _Member(folder / found["file"], size, open_)
                for name, size, open_ in (_tar if isinstance(archive, tarfile.TarFile) else _zip)(archive)
                if (found := _MEMBER.fullmatch(name)) and found["folder"] == inside
            ]
            if not members:
                raise ArchiveError(f"{path}: expected graphs in {inside}, found none; name another archive")
            new = [one for one in members if not one.path.is_file() or one.path.stat().st_size != one.size]
            left, total = sum(one.size for one in new), sum(one.size for one in members)
            require_space(data_root, left, f"unpacking {path.name}", DownloadError)
            remove_partial_files(folder)
            for member in new:
                on_progress(total - left, total)
                _write(member, path)
                left -= member.size
            on_progress(total, total)
    except (tarfile.TarError, zipfile.BadZipFile, *_DAMAGED) as fault:
        reason = one_line(fault) or type(fault).__name__
        raise ArchiveError(f"{path}: not a complete tar or zip archive ({reason}); download it again") from fault
    return {one.path.name: one.size for one in members}


def _write(member: _Member, archive: Path) -> None:
    with member.open() as stream, atomic_write(member.path, DownloadError) as temporary:
        with temporary.open("wb") as out:
            shutil.copyfileobj(stream, out, _CHUNK)
        try:
            NpzFile(temporary)
        except DataError as fault:
            raise ArchiveError(f"{archive}: {member.path.name} is not a complete .npz file") from fault


def _open(path: Path) -> Any:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    return zipfile.ZipFile(path) if zipped else tarfile.open(path)


def _tar(archive: Any) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    for info in archive:
        if info.size < 0:  # tarfile would read the same header forever
            raise ValueError(f"{info.name}: {info.size} bytes")
        if info.isreg():
            yield info.name, info.size, partial(archive.extractfile, info)
    # tarfile treats a damaged header as the end of the archive, which must be a block of zeros.
    stream = archive.fileobj
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("damaged header or no end mark")
    while stream.read(_CHUNK):  # gzip checks its CRC at the end of the file
        pass


def _zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    return ((info.filename, info.file_size, partial(archive.open, info)) for info in archive.infolist())
