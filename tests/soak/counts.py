"""How much was tried and survived: one committed file, so that what is promised can cite it.

Drivers write to it where they are given ``--record``: a quick look shall not take the place of a long run.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gbr._files import write_json

PATH: Final = Path(__file__).with_name("counts.json")

Counts = dict[str, dict[str, dict[str, Any]]]


def record(kind: str, name: str, *, path: Path = PATH, **figures: Any) -> None:
    """Keep the figures of one run; those of an earlier run of the same name give way.

    Parameters
    ----------
    kind : str
        Driver: ``kills``, ``disk``, ``together``, ``fuzz``.
    name : str
        What was put to the test, a command or a reader.
    path : Path
    **figures
        Numbers, or short strings that name no place of this machine; the date (UTC) is added.
    """
    with _alone(path.parent):
        known = read(path)
        known.setdefault(kind, {})[name] = figures | {"date": datetime.now(UTC).date().isoformat()}
        write_json(path, {kind: dict(sorted(known[kind].items())) for kind in sorted(known)})


def read(path: Path = PATH) -> Counts:
    """All figures: driver -> name -> figure -> value; empty where there are none yet."""
    counts: Counts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return counts


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two drivers may come to their end at once."""
    folder_itself = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(folder_itself, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder_itself)
