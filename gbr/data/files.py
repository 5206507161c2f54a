"""Outputs are written beside and renamed: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, Final

from gbr.errors import GbrError

#: Is told how many bytes are done, and of how many (None where that is unknown).
Report = Callable[[int, int | None], None]

_LEFTOVER_SECONDS: Final = 24 * 3600
#: Machine and process in the name of an unfinished file.
_WRITER: Final = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[^.]*\.part$")
#: What a disk needs besides the files: folders, rounding, other programs.
_SPARE: Final = 1 << 26


@contextmanager
def replacing(path: Path, error: type[GbrError] = GbrError) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; on success it becomes ``path``, on failure it is removed.

    Raises
    ------
    error
        Where the folder cannot be made or written (the ``OSError`` told in one line).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = f"{_machine()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.{writer}", suffix=".part", dir=path.parent)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
    except OSError as fault:
        raise error(_cannot_write(path, fault)) from fault
    part = Path(name)
    try:
        yield part
        os.replace(part, path)
    except OSError as fault:
        raise error(_cannot_write(path, fault)) from fault
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any, error: type[GbrError] = GbrError) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json_text(value), error)


def json_text(value: Any) -> str:
    """``value`` as indented JSON."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, text: str, error: type[GbrError] = GbrError) -> None:
    """Write a text, whole or not at all, and delete what killed runs left unfinished of it."""
    sweep(path.parent, escape(path.name))
    with replacing(path, error) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def put_aside(path: Path) -> Iterator[None]:
    """Take a file away that is about to be outdated; it comes back on failure, and is gone on success."""
    aside = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-old.part")
    with suppress(FileNotFoundError):
        os.replace(path, aside)
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            os.replace(aside, path)
        raise
    aside.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "*") -> None:
    """Delete what killed runs left unfinished of files that :func:`replacing` was to write.

    A process of this machine is known to be gone; one of another machine is taken to be after a day.

    Parameters
    ----------
    folder : Path
        Need not exist.
    name : str
        Pattern of :mod:`glob`, of the files that were to be.
    """
    for part in folder.glob(f".{name}.*.part"):
        with suppress(OSError):
            if _is_abandoned(part):
                part.unlink()


def _is_abandoned(part: Path) -> bool:
    writer = _WRITER.search(part.name)
    if writer and writer[1] == _machine() and os.name == "posix" and not _is_alive(int(writer[2])):
        return True
    return part.stat().st_mtime < time.time() - _LEFTOVER_SECONDS


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    with suppress(OSError, IndexError):  # one that was killed is there until its parent asks what became of it
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


@cache
def _machine() -> str:
    """Eight hex digits that tell machines apart which share a folder."""
    return hashlib.sha256(f"{socket.gethostname()} {_boot()}".encode()).hexdigest()[:8]


def _boot() -> str:
    """What changes when process numbers begin anew: a start of the machine, or of a container."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def require_space(folder: Path, needed: int, what: str, error: type[GbrError] = GbrError) -> None:
    """Make sure that a disk has room before it is filled.

    Parameters
    ----------
    folder : Path
        Need not exist yet.
    needed : int
        Bytes.
    what : str
        What is to be written, for the message.
    error : type

    Raises
    ------
    error
        Where there is less, with a little to spare.
    """
    if needed <= 0:
        return
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE:
        raise error(
            f"{folder}: {what} needs {size_text(needed + _SPARE)}, the disk has {size_text(free)} left; "
            "make room or name a folder on another disk"
        )


def size_text(size: float) -> str:
    """Bytes as people read them: ``3 bytes``, ``12.3 MB``; decimal, as disks and networks are sold."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def _cannot_write(path: Path, fault: OSError) -> str:
    return f"{path}: cannot be written ({fault.strerror or fault}); name a folder you may write to, with free space"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
