"""How much was tried and survived: one committed file, so that what is promised can cite it.

Drivers write to it where they are given ``--record``: a quick look shall not take the place of a long run.
``python -m tests.soak.counts`` puts the figures into docs/trust.md, which a test holds to them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gbr.data.files import atomic_write, write_json

PATH: Final = Path(__file__).with_name("counts.json")
PAGE: Final = Path(__file__).parents[2] / "docs" / "trust.md"

Counts = dict[str, dict[str, dict[str, Any]]]

#: Tables of the page: heading of the names, and per column its heading, driver and figure.
TABLES: Final[dict[str, tuple[str, tuple[tuple[str, str, str], ...]]]] = {
    "lost": (
        "command",
        (
            ("kills survived", "kills", "kills"),
            ("amid a file", "kills", "unfinished"),
            ("full disks", "disk", "full"),
            ("read-only disks", "disk", "read-only"),
            ("two at once: both end well", "together", "both"),
            ("one gives way", "together", "one"),
        ),
    ),
    "let in": (
        "files",
        (("inputs", "fuzz", "inputs"), ("seconds", "fuzz", "seconds"), ("faults mended", "fuzz", "mended")),
    ),
}


def record(kind: str, name: str, *, path: Path = PATH, **figures: Any) -> None:
    """Keep the figures of one run, also in the page; those of an earlier run of the same name give way.

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
        if path == PATH:
            write_page()


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


def table(name: str, counts: Counts) -> str:
    """One of :data:`TABLES` in Markdown, with the sums in its last row; a dash where nothing was tried yet."""
    heading, columns = TABLES[name]
    names = sorted({row for _, kind, _ in columns for row in counts.get(kind, {})})
    cells = [[counts.get(kind, {}).get(row, {}).get(figure) for _, kind, figure in columns] for row in names]
    known = [[cell for cell in column if cell is not None] for column in zip(*cells, strict=True)]
    sums = [sum(column) if column else None for column in known]
    lines = [f"| {heading} | {' | '.join(column for column, _, _ in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row, line in [*zip(names, cells, strict=True), *([("**in all**", sums)] if names else [])]:
        lines.append(f"| {row} | {' | '.join('–' if cell is None else f'{cell:,}' for cell in line)} |")
    return "\n".join(lines)


def filled(page: str, counts: Counts) -> str:
    """The page with its tables as they are to be."""
    for name in TABLES:
        block = f"<!-- counts {name}: begin -->\n{table(name, counts)}\n<!-- counts {name}: end -->"
        page, found = re.subn(
            f"<!-- counts {name}: begin -->.*?<!-- counts {name}: end -->",
            lambda _, new=block: new,
            page,
            flags=re.DOTALL,
        )
        if found != 1:
            raise SystemExit(f"{PAGE.name}: want one place for the counts {name!r}, found {found}")
    return page


def write_page() -> None:
    """Put the figures as they are into the page."""
    with atomic_write(PAGE) as part:
        part.write_text(filled(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    write_page()
