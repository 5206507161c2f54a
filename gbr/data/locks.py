"""Two processes at one folder: both may work, or the second is told that the first is there.

Folders themselves are locked (``flock``), so nothing lies about, and the system lets go when a process ends, however it
ends.  Systems and file systems without such locks do without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gbr.errors import GbrError


@contextmanager
def alone(
    folder: Path, error: type[GbrError] = GbrError, who: str = "process of gbr", *, shared: bool = False
) -> Iterator[Callable[[], None]]:
    """Hold a folder against other processes for as long as it is worked in, where the system has file locks.

    Parameters
    ----------
    folder : Path
        Made when missing, with those above it, and removed again where it is empty then.
    error : type
    who : str
        What is at work where it is held already, for the message.
    shared : bool
        Others may hold it with ``shared``, too.

    Yields
    ------
    callable
        Lets others hold it with ``shared`` from then on.

    Raises
    ------
    error
        When another process holds it, or it cannot be made.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    handle = hold(folder, error, who, shared=shared)
    try:
        yield lambda: _lock(handle, shared=True)
    finally:
        for place in made:
            with suppress(OSError):  # not empty, as a rule
                place.rmdir()
        os.close(handle)


def hold(folder: Path, error: type[GbrError] = GbrError, who: str = "process of gbr", *, shared: bool = False) -> int:
    """What :func:`alone` does until the file descriptor that is returned is closed."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder if os.name == "posix" else os.devnull, os.O_RDONLY)
        except OSError as fault:
            raise error(
                f"{folder}: cannot be worked in ({fault.strerror or fault}); name a folder you may write to"
            ) from fault
        try:
            _lock(handle, shared=shared)
            # Whoever held it before may have removed it.
            if os.name != "posix" or (folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())):
                return handle
        except BlockingIOError as fault:
            os.close(handle)
            raise error(f"{folder}: another {who} is at work there; let it finish, or name another folder") from fault
        os.close(handle)


def _lock(handle: int, *, shared: bool) -> None:
    try:
        import fcntl
    except ImportError:  # not POSIX
        return
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return
