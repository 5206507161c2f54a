"""Atomic writes, locks between processes, strict JSON, and disk space."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import socket
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, Final, NoReturn

from gbr.errors import DataError, GbrError, one_line

#: Called with the bytes done so far and the total (None if unknown).
Report = Callable[[int, int | None], None]

#: Lock file in a folder that is in use.
LOCK: Final = ".lock"
_ABANDONED_SECONDS: Final = 24 * 3600
#: Host and process in the name of a temporary file.
_WRITER: Final = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[^.]*\.part$")
#: A key of TOML that needs no quotes.
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
#: What file systems without locks report, such as Lustre and NFS by some mount options.
_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
#: Reserve of disk space for folders, rounding and other programs.
_SPARE_BYTES: Final = 1 << 26


@contextmanager
def atomic_write(path: Path, error: type[GbrError] = GbrError) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it replaces ``path``, on failure it is removed.

    ``error`` is raised if the folder or the file cannot be written.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.{_host()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
        part = Path(name)
        os.close(handle)
        umask = os.umask(0)
        os.umask(umask)
        with suppress(OSError):  # file systems without permissions
            part.chmod(0o666 & ~umask)
        yield part
        os.replace(part, path)
    except OSError as fault:
        reason = fault.strerror or fault
        raise error(
            f"{path}: cannot be written ({reason}); choose a folder that is writable and has free space"
        ) from fault
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def write_text(path: Path, text: str, error: type[GbrError] = GbrError) -> None:
    """Write text atomically, and delete temporary files of earlier attempts."""
    remove_partial_files(path.parent, escape(path.name))
    with atomic_write(path, error) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, error: type[GbrError] = GbrError) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json_text(value), error)


def read_toml(path: Path, expected: str, if_missing: str = "") -> dict[str, Any]:
    """Read TOML; a DataError says what is ``expected``, and what to do if the file is missing."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as fault:
        if if_missing and isinstance(fault, FileNotFoundError):
            raise DataError(f"{path}: no such file; {if_missing}") from fault
        raise DataError(f"{path}: cannot be read ({fault.strerror}); expected {expected} in TOML") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path}: not TOML ({one_line(fault)}); fix this line") from fault


def toml_text(*sections: tuple[str, Mapping[str, Any]]) -> str:
    """Names and values of sections as TOML, one without a name first; None and empty sections are left out."""
    parts = []
    for name, values in sections:
        lines = [f"[{name}]"] if name else []
        lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
        parts += ["\n".join(lines) + "\n"] if len(lines) > bool(name) else []
    return "\n".join(parts)


def _toml(value: Any) -> str:
    """A string, number, boolean, sequence or inline table."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        keys = [key if _BARE_KEY.fullmatch(key) else _toml(key) for key in map(str, value)]
        return f"{{{', '.join(f'{key} = {_toml(each)}' for key, each in zip(keys, value.values(), strict=True))}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value).lower()


def json_text(value: Any) -> str:
    """``value`` as indented JSON."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def parse_json(data: bytes | str) -> Any:
    """Parse JSON without NaN and infinity, and with integers of at most 64 bits; a ValueError for anything else."""
    try:
        return json.loads(data, parse_constant=_refuse, parse_float=_finite, parse_int=_int64)
    except RecursionError as fault:
        raise ValueError("nested too deeply") from fault


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"invalid number {text[:40]}")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse(text)


def _int64(text: str) -> int:
    return number if len(text) <= 20 and -(2**63) <= (number := int(text)) < 2**63 else _refuse(text)


@contextmanager
def exclusive_lock(
    folder: Path, error: type[GbrError] = GbrError, owner: str = "gbr process", *, wait: bool = False
) -> Iterator[None]:
    """Lock a folder against other processes, see :func:`lock`.

    A missing folder is created, and removed at the end unless it has content.  If another process, an ``owner``, holds
    the lock, ``wait`` for it, or raise ``error``.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not held.enter_context(lock(folder / LOCK)):
                    # A worker that starts by running the script of its parent would wait for the parent.
                    if not wait or getattr(multiprocessing.current_process(), "_inheriting", False):
                        raise error(
                            f"{folder}: another {owner} is using this folder; wait until it has finished, or choose "
                            "another"
                        )
                    logging.getLogger(__name__).warning("%s: waiting for another %s", folder, owner)
                    held.enter_context(lock(folder / LOCK, wait=True))
            except OSError as fault:
                raise error(
                    f"{folder}: cannot be written ({fault.strerror or fault}); choose a writable folder"
                ) from fault
            yield
    finally:
        for each in created:
            with suppress(OSError):  # usually not empty
                each.rmdir()


@contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file, which is created and at the end deleted, and yield whether no other process holds the lock.

    The system releases the lock when the process ends or is killed.  A file system without locks is reported once, and
    counts as not locked.
    """
    from filelock import FileLock, Timeout  # not for --help

    # A lock that is a mere file, as newer versions take instead, would outlive a process that is killed.
    options: dict[str, Any] = {"fallback_to_soft": False} if hasattr(FileLock, "fallback_to_soft") else {}
    held = FileLock(path, timeout=-1 if wait else 0, **options)
    try:
        held.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as fault:  # the latter from older versions, for ENOSYS
        if isinstance(fault, OSError) and fault.errno not in _NO_LOCKS:
            raise
        _report_no_locks(path.parent)
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()  # while the lock is held; a waiting process opens the file again
        held.release()


@cache
def _report_no_locks(folder: Path) -> None:
    logging.getLogger(__name__).warning(
        "%s: this file system has no locks; do not use the folder from two processes at the same time", folder
    )


@contextmanager
def put_aside(path: Path) -> Iterator[None]:
    """Rename an outdated file temporarily; it is restored on failure and deleted on success."""
    aside = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-old.part")
    with suppress(FileNotFoundError):
        os.replace(path, aside)
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            os.replace(aside, path)
        raise
    aside.unlink(missing_ok=True)


def remove_partial_files(folder: Path, pattern: str = "*") -> None:
    """Delete temporary files of :func:`atomic_write` that killed processes left.

    Files of running processes are kept; files of other hosts are deleted after a day.  ``pattern`` is a :mod:`glob`
    pattern of the names of the final files.
    """
    for part in folder.glob(f".{pattern}.*.part"):
        with suppress(OSError):
            writer = _WRITER.search(part.name)
            if writer and writer[1] == _host() and os.name == "posix":
                abandoned = not _is_running(int(writer[2]))
            else:
                abandoned = part.stat().st_mtime < time.time() - _ABANDONED_SECONDS
            if abandoned:
                part.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends no signal
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    with suppress(OSError, IndexError):  # in a container, dead processes may stay as zombies
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def _host() -> str:
    """Eight hex digits that identify the host or container, which has its own process ids."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def require_space(folder: Path, needed: int, what: str, error: type[GbrError] = GbrError) -> None:
    """Raise ``error`` if a disk lacks the space for ``needed`` bytes plus a reserve of 64 MiB."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if needed > 0 and free < needed + _SPARE_BYTES:
        raise error(
            f"{folder}: {what} needs {size_text(needed + _SPARE_BYTES)}, the disk has {size_text(free)} left; "
            "free some space or choose a folder on another disk"
        )


def size_text(size: float) -> str:
    """Format a size: ``3 bytes``, ``12.3 MB``; decimal units."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
