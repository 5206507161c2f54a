"""Outputs are written beside and renamed: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gbr.errors import GbrError


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
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
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
    with replacing(path, error) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _cannot_write(path: Path, fault: OSError) -> str:
    return f"{path}: cannot be written ({fault.strerror or fault}); name a folder you may write to, with free space"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
