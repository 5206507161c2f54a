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
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from gbr.data.collection import SPLITS
from gbr.data.files import Report, atomic_write, remove_partial_files, require_space
from gbr.data.npz import NpzFile
from gbr.errors import ArchiveError, DataError, DownloadError

_MEMBER: Final = re.compile(
    rf"(?:.*/)?(?P<subset>tile/[^/]+|layout/[^/]+/[^/]+)/(?P<split>{'|'.join(SPLITS)})/(?P<file>[^./\\:][^/\\:]*\.npz)"
)
_CHUNK: Final = 1 << 20
#: Exceptions of the standard library for damaged archives.
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


class _Member(NamedTuple):
    """A graph file in an archive."""

    subset: str
    split: str
    file: str
    size: int
    open: Callable[[], IO[bytes]]

    def path(self, data_root: Path) -> Path:
        """Destination of the unpacked file."""
        return data_root.joinpath("npz", *self.subset.split(":"), self.split, self.file)

    def is_unpacked(self, data_root: Path) -> bool:
        path = self.path(data_root)
        return path.is_file() and path.stat().st_size == self.size


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
    ArchiveError
        If the archive is damaged, contains no graphs of the split, or one of them is not an ``.npz`` file.
    DownloadError
        If a file cannot be written.
    """
    with _damage_reported(path), _open(path) as archive:
        list_members = _tar_members if isinstance(archive, tarfile.TarFile) else _zip_members
        members = [one for one in list_members(archive) if (one.subset, one.split) == (subset, split)]
        if not members:
            raise ArchiveError(
                f"{path}: expected graphs in {subset.replace(':', '/')}/{split}/, found none; name another archive"
            )
        new = [one for one in members if not one.is_unpacked(data_root)]
        left, total = sum(one.size for one in new), sum(one.size for one in members)
        require_space(data_root, left, f"unpacking {path.name}", DownloadError)
        remove_partial_files(members[0].path(data_root).parent)
        for member in new:
            on_progress(total - left, total)
            _write(member, data_root, path)
            left -= member.size
        on_progress(total, total)
    return {one.file: one.size for one in members}


def _write(member: _Member, data_root: Path, archive: Path) -> None:
    with member.open() as stream, atomic_write(member.path(data_root), DownloadError) as temporary:
        with temporary.open("wb") as out:
            shutil.copyfileobj(stream, out, _CHUNK)
        try:
            NpzFile(temporary)
        except DataError as fault:
            raise ArchiveError(f"{archive}: {member.file} is not a complete .npz file") from fault


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise ArchiveError(f"{path}: not a complete tar or zip archive ({reason}); download it again") from fault


def _open(path: Path) -> Any:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    return zipfile.ZipFile(path) if zipped else tarfile.open(path)


def _tar_members(archive: Any) -> Iterator[_Member]:
    for info in archive:
        if info.size < 0:  # tarfile would read the same header forever
            raise ValueError(f"{info.name}: {info.size} bytes")
        if info.isreg():
            yield from _recognised(info.name, info.size, partial(archive.extractfile, info))
    # tarfile treats a damaged header as the end of the archive, which must be a block of zeros.
    stream = archive.fileobj
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("damaged header or no end mark")
    while stream.read(_CHUNK):  # gzip checks its CRC at the end of the file
        pass


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        yield from _recognised(info.filename, info.file_size, partial(archive.open, info))


def _recognised(name: str, size: int, open_: Callable[[], IO[bytes]]) -> Iterator[_Member]:
    if found := _MEMBER.fullmatch(name):
        yield _Member(found["subset"].replace("/", ":"), found["split"], found["file"], size, open_)
