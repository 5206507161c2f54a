"""The profile of the machine that runs this, from Linux's sysfs and cpuinfo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from features.hardware import CPU, N_LEVELS, Cache, Hardware

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: Flags of /proc/cpuinfo and the bytes of the vectors they tell of, the widest first; 64-bit machines have 16 at least.
_VECTORS: Final = (("avx512f", 64), ("avx", 32), ("", 16))


def machine(root: Path = Path("/")) -> Hardware | None:
    """Profile of this machine from Linux's sysfs and cpuinfo; None where they tell no data cache.

    A cache that several cores share counts whole: a process that runs alone has all of it.  Where others work at the
    same time, a TOML file with its share is the better profile.

    Parameters
    ----------
    root : Path
        Where ``sys`` and ``proc`` are.
    """
    levels: dict[int, Cache] = {}
    line = 0
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, nbytes = int(_line(index / "level")), _bytes(_line(index / "size"))
            if nbytes and level <= N_LEVELS and _line(index / "type") in ("Data", "Unified"):
                levels[level] = Cache(nbytes, _optional(index / "ways_of_associativity"))
                line = line or _optional(index / "coherency_line_size")
        except (OSError, ValueError):  # a level that some virtual machines leave out
            continue
    if not levels:
        return None
    try:
        cpu = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpu = ""
    flags = _field(cpu, "flags").split()
    vector = next(nbytes for flag, nbytes in _VECTORS if not flag or flag in flags)
    try:
        caches = tuple(levels[level] for level in sorted(levels))
        return Hardware(_field(cpu, "model name") or "machine", vector, line or CPU.line_bytes, caches)
    except ValueError:
        return None


def _line(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _optional(path: Path) -> int:
    try:
        return max(int(_line(path)), 0)
    except (OSError, ValueError):
        return 0


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:(.*)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _bytes(text: str) -> int:
    """Sysfs's ``48K`` in bytes."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if found is None:
        raise ValueError(f"got {text!r}, want bytes")
    return int(found[1]) * _UNITS[found[2]]
