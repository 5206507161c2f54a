"""Bring what TpuGraphs publishes into the data root: fetch, check, unpack, and know what need not be done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gbr import cli
from gbr.data.collection import Subset
from gbr.data.files import exclusive_lock, remove_partial_files, require_space
from gbr.downloads.archives import survey, unpack
from gbr.downloads.catalogue import BASE_URL, INDEX_FILES, INDICES_URL, Piece, find_archives
from gbr.downloads.fetch import ask, fetch
from gbr.errors import ArchiveError, DataError, DownloadError

#: Requests for sizes at a time.
SIDE_BY_SIDE: Final = 8

_ARCHIVES: Final = "archives"
_INDICES_FOLDER: Final = "eval_indices"


@dataclass(frozen=True)
class Place:
    """Where data come from and go to.

    Parameters
    ----------
    data_root : Path
    base_url : str, optional
        A mirror: archives in it, the lists of the official evaluation in ``eval_indices/`` below.  The official
        servers where None.
    source : Path, optional
        Folder of archives that were fetched by other means, or one archive; then no network is used.
    """

    data_root: Path
    base_url: str | None = None
    source: Path | None = None

    @property
    def archives(self) -> Path:
        """Where archives are while they are fetched and unpacked."""
        return self.data_root / _ARCHIVES

    @property
    def indices(self) -> Path:
        """Where the lists of the official evaluation go."""
        return self.data_root / _INDICES_FOLDER

    @contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Hold the folder of archives, which is gone afterwards where none stays.

        Raises
        ------
        DownloadError
            When another process fetches into it.
        """
        with exclusive_lock(self.archives, DownloadError, "gbr.download"):
            remove_partial_files(self.archives)
            try:
                yield
            finally:
                with suppress(OSError):  # archives stay
                    self.archives.rmdir()

    def url(self, piece: Piece) -> str:
        """Address of an archive."""
        return _address(self.base_url or BASE_URL, piece.archive)

    def index_url(self, name: str) -> str:
        """Address of a list of the official evaluation."""
        return _address(_address(self.base_url, _INDICES_FOLDER) if self.base_url else INDICES_URL, name)

    def find_index(self, name: str) -> Path:
        """A list in the folder ``source``.

        Raises
        ------
        DownloadError
            When it is not there.
        """
        assert self.source is not None
        for path in (self.source / name, self.source / _INDICES_FOLDER / name):
            if path.is_file():
                return path
        raise DownloadError(f"{self.source}: has no {name}; name a folder that has it, or leave out --from")

    def fetched(self, piece: Piece) -> int:
        """Bytes of an archive that are here."""
        path = self.archives / piece.archive
        return size_of(path) or size_of(path.with_name(f"{path.name}.part"))


@dataclass
class Files:
    """How many graph files were unpacked, and how many of an unpacked archive were there before."""

    written: int = 0
    kept: int = 0


def get_graphs(pieces: Sequence[Piece], place: Place, keep: bool = False) -> Files:
    """Make sure that the graphs of some collections and splits are below the data root.

    Those that are there are left alone.  Each archive is fetched, read to its end, unpacked and removed before the
    next one.

    Parameters
    ----------
    pieces : sequence of Piece
    place : Place
    keep : bool
        Leave the archives in ``place.archives``.

    Returns
    -------
    Files

    Raises
    ------
    DownloadError
        When the disk has not enough room, a server or folder does not have an archive, or one is torn or hostile; what
        is whole by then stays, and a further call goes on from there.
    """
    missing = []
    for piece in pieces:
        if piece.complete(place.data_root):
            cli.note(f"{piece.subset} {piece.split}: {piece.count(place.data_root)} graphs are here already")
        else:
            missing.append(piece)
    files = Files()
    if place.source:
        for archive, held in find_archives(place.source, missing).items():
            _take(archive, held, place.data_root, files)
    elif missing:
        with place.exclusive_lock():
            _fetch_all(missing, place, keep, files)
    return files


def get_indices(place: Place) -> None:
    """Make sure that the four lists of the official evaluation are below the data root.

    Raises
    ------
    DownloadError, DataError
        When one cannot be had, or is no such list.
    """
    for subset, (name, _) in INDEX_FILES.items():
        whole = place.indices / name
        if whole.is_file():
            with suppress(DataError, DownloadError):
                _check_indices(subset, whole)
                cli.note(f"{whole} is here already")
                continue
        with place.exclusive_lock():
            _get_index(subset, name, place)


def _get_index(subset: str, name: str, place: Place) -> None:
    whole, staged = place.indices / name, place.archives / name
    if place.source:
        _copy(place.find_index(name), staged)
    else:
        fetch(place.index_url(name), staged, tell=cli.note)
    try:
        _check_indices(subset, staged)
        whole.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, whole)
    except OSError as fault:
        raise DownloadError(f"{whole}: cannot be written ({fault.strerror or fault})") from fault
    finally:
        staged.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _fetch_all(pieces: Sequence[Piece], place: Place, keep: bool, files: Files) -> None:
    paths = {piece: place.archives / piece.archive for piece in pieces}
    sizes = {piece: size_of(path) for piece, path in paths.items()}
    absent = [piece for piece in pieces if not paths[piece].is_file()]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for piece, remote in zip(absent, pool.map(ask, map(place.url, absent)), strict=True):
            sizes[piece] = remote.size or 0
    needed = _peak([(sizes[piece], place.fetched(piece)) for piece in pieces], keep)
    require_space(place.data_root, needed, "fetching and unpacking", DownloadError)
    for piece, path in paths.items():
        if not path.is_file():
            with cli.transfer(piece.archive) as report:
                fetch(place.url(piece), path, report, cli.note)
        try:
            _take(path, [piece], place.data_root, files)
        except ArchiveError as fault:
            path.unlink(missing_ok=True)
            raise ArchiveError(f"{fault}; it is removed, the same command fetches it anew") from fault
        if not keep:
            path.unlink(missing_ok=True)


def _take(archive: Path, pieces: Sequence[Piece], data_root: Path, files: Files) -> None:
    """Check an archive and unpack what it holds of some collections."""
    # Short enough for a line of 80 columns beside the bar.
    name = archive.name.removeprefix("npz_").removesuffix(".tar")
    with cli.transfer(f"checking {name}") as report:
        entries = survey(archive, {(piece.subset, piece.split) for piece in pieces}, report)
    needed = sum(entry.size for entry in entries if size_of(entry.path(data_root)) != entry.size)
    require_space(pieces[0].folder(data_root), needed, f"unpacking {archive.name}", DownloadError)
    with cli.transfer(f"unpacking {name}") as report:
        written, kept = unpack(archive, entries, data_root, report)
    files.written += written
    files.kept += kept
    for piece in pieces:
        there = {one.file: one.size for one in entries if (one.subset, one.split) == (piece.subset, piece.split)}
        if len(there) != piece.graphs:
            cli.note(
                f"{archive.name}: {len(there)} graphs of {piece.subset} {piece.split}, {piece.graphs} were published"
            )
        piece.sign(data_root, archive.name, there)


def _peak(archives: Iterable[tuple[int, int]], keep: bool) -> int:
    """Bytes needed at once; ``archives``: size of each, and how much of it is here.  A tar's files are its size."""
    taken = most = 0
    for size, here in archives:
        taken += 2 * size - here
        most = max(most, taken)
        taken -= 0 if keep else size
    return most


def _check_indices(subset: str, path: Path) -> None:
    from gbr.evaluation.protocol import SPLIT, indices_of

    wanted = INDEX_FILES[subset][1]
    found = indices_of(Subset(subset), SPLIT, path.parent) or {}
    if len(found) != wanted:
        raise DownloadError(f"{path}: lists {len(found)} graphs, want {wanted}; name another server or folder")


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as fault:
        raise DownloadError(f"{target}: cannot be copied from {source} ({fault.strerror or fault})") from fault


def _address(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{name}"
