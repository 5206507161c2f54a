"""Hardware profiles of collections: built-in profiles, this machine, and TOML files.

::

    name = "a server"
    vector_bytes = 64
    line_bytes = 64
    sublanes = 1                # optional: rows of a register
    tile_bounds = "elements"    # optional: or "registers", as on TPUs

    [[caches]]                  # from the fastest to the largest, up to three
    bytes = "48 KiB"            # or a number
    ways = 12                   # 0: fully associative
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from features.hardware import CPU, N_LEVELS, PROFILES, TILE_BOUNDS, TPU, Cache, Hardware
from gbr.data.collection import Subset
from gbr.data.files import write_text
from gbr.errors import DataError, GbrError, UsageError

FILE: Final = "hardware.toml"
#: Values of ``--hardware`` besides a file.
NAMES: Final = (*PROFILES, "machine")

_TPU_SOURCES: Final = ("xla", "nlp")
_REQUIRED: Final = ("name", "vector_bytes", "line_bytes", "caches")
_OPTIONAL: Final = ("sublanes", "tile_bounds")
#: Upper limits, so that all products fit in 64 bits.
_MAX_BYTES: Final = 1 << 40
_MAX_ROWS: Final = 1 << 20
_UNITS: Final = {
    "": 1,
    "B": 1,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}
#: Flags of /proc/cpuinfo and their vector sizes in bytes, the widest first; 64-bit machines have at least 16.
_VECTORS: Final = (("avx512f", 64), ("avx", 32), ("", 16))


@dataclass(frozen=True, slots=True)
class Choice:
    """The profile for a collection.

    Parameters
    ----------
    hardware : Hardware
    note : str or None
        An assumption to report to the user.
    """

    hardware: Hardware
    note: str | None = None


def choose(name: str | None, subset: Subset, data_root: Path | str) -> Choice:
    """Choose the hardware profile for the features of a collection.

    In this order: the given name; ``hardware.toml`` in the folder of the collection or one above it up to
    ``<data_root>/npz``; ``tpu`` for the collections of TpuGraphs (sources xla and nlp); the generic ``cpu``.

    Parameters
    ----------
    name : str or None
        One of :data:`NAMES`, or a TOML file.
    subset : Subset
    data_root : path

    Raises
    ------
    UsageError
        For an unknown name.
    DataError
        When a file is missing or invalid.
    """
    if name is None:
        path = beside(subset.folder(Path(data_root)), Path(data_root) / "npz")
        if path is not None:
            return Choice(load(path))
        return Choice(TPU if subset.parts[1] in _TPU_SOURCES else CPU)
    if name in PROFILES:
        return Choice(PROFILES[name])
    if name == "machine":
        found = machine()
        return (
            Choice(found)
            if found
            else Choice(CPU, "this system does not report its caches; using the generic cpu profile")
        )
    if not name.endswith(".toml"):
        raise UsageError(f"--hardware {name}: expected {', '.join(NAMES)} or a file that ends in .toml")
    return Choice(load(Path(name)))


def beside(folder: Path, top: Path) -> Path | None:
    """The ``hardware.toml`` of a collection: in its folder, or the nearest one above it up to ``top``."""
    for each in (folder, *folder.parents):
        if (each / FILE).is_file():
            return each / FILE
        if each == top:
            break
    return None


def load(path: Path) -> Hardware:
    """Read a profile.

    Raises
    ------
    DataError
        When the file is missing or invalid.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror}); expected a hardware profile in TOML") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path}: not TOML ({' '.join(str(fault).split())}); fix this line") from fault
    return parse(values, str(path), DataError)


def parse(values: Any, where: str, error: type[GbrError]) -> Hardware:
    """Create a profile from the values of a TOML or JSON file.

    Parameters
    ----------
    values : mapping
        As returned by :func:`as_dict`.
    where : str
        File, for messages.
    error : type of GbrError

    Raises
    ------
    error
        For a key that is missing, unknown or out of range.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where}: expected a hardware profile, got {type(values).__name__}")
    _check_keys(values, _REQUIRED, _OPTIONAL, where, error)
    name, bounds = values["name"], values.get("tile_bounds", TILE_BOUNDS[0])
    if not isinstance(name, str) or not name.strip():
        raise error(f"{where}: name: expected a string, got {name!r}")
    if bounds not in TILE_BOUNDS:
        raise error(f"{where}: tile_bounds: expected {' or '.join(map(repr, TILE_BOUNDS))}, got {bounds!r}")
    caches = values["caches"]
    if not isinstance(caches, list) or not 0 < len(caches) <= N_LEVELS:
        got = len(caches) if isinstance(caches, list) else repr(caches)
        raise error(f"{where}: caches: expected one to {N_LEVELS} [[caches]], got {got}")
    levels = []
    for number, cache in enumerate(caches):
        key = f"caches[{number}]"
        if not isinstance(cache, Mapping):
            raise error(f"{where}: {key}: expected bytes and ways, got {cache!r}")
        _check_keys(cache, ("bytes", "ways"), (), f"{where}: {key}", error)
        levels.append(
            Cache(
                _size(cache["bytes"], f"{where}: {key}.bytes", error),
                _number(cache["ways"], f"{where}: {key}.ways", 0, error),
            )
        )
    vector, line = (_size(values[key], f"{where}: {key}", error) for key in ("vector_bytes", "line_bytes"))
    sublanes = _number(values.get("sublanes", 1), f"{where}: sublanes", 1, error)
    try:
        return Hardware(name, vector, line, tuple(levels), sublanes, bounds)
    except ValueError as fault:  # valid sizes that contradict each other
        raise error(f"{where}: {fault}") from fault


def as_dict(hardware: Hardware) -> dict[str, Any]:
    """Convert a profile to the values that :func:`parse` reads, for manifests."""
    return asdict(hardware) | {"caches": [{"bytes": cache.nbytes, "ways": cache.ways} for cache in hardware.caches]}


def save(path: Path, hardware: Hardware) -> None:
    """Write a profile as TOML, atomically.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    values = as_dict(hardware)
    caches = values.pop("caches")
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    for cache in caches:
        lines += ["", "[[caches]]", f"bytes = {json.dumps(_text(cache['bytes']))}", f"ways = {cache['ways']}"]
    write_text(path, "\n".join(lines) + "\n", DataError)


def note_machine(folder: Path, top: Path) -> str | None:
    """Write the profile of this machine to a collection that has none; returns a message if it is unknown.

    Parameters
    ----------
    folder : Path
        Folder of the collection, created if missing.
    top : Path
        Uppermost folder that :func:`beside` searches.
    """
    if beside(folder, top) is not None:
        return None
    found = machine()
    if found is None:
        return f"this system does not report its caches: without {folder / FILE}, features use the generic cpu profile"
    save(folder / FILE, found)
    return None


def _check_keys(
    values: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...], where: str, error: type[GbrError]
) -> None:
    for key in required:
        if key not in values:
            raise error(f"{where}: {key} is missing; expected {', '.join(required)}")
    for key in values:
        if key not in required + optional:
            raise error(f"{where}: unknown key {key}; expected {', '.join(required + optional)}")


def _number(value: Any, where: str, least: int, error: type[GbrError]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_ROWS:
        raise error(f"{where}: expected an integer from {least} to {_MAX_ROWS}, got {_short(value)}")
    return value


def _size(value: Any, where: str, error: type[GbrError]) -> int:
    nbytes = _bytes(value) if isinstance(value, str) else value
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or not 1 <= nbytes <= _MAX_BYTES:
        raise error(f'{where}: expected bytes as a positive integer or a string like "48 KiB", got {_short(value)}')
    return nbytes


def _bytes(text: str) -> int | None:
    """``48 KiB`` in bytes; None for an invalid text."""
    found = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    return int(found[1]) * unit if found and unit else None


def _short(value: Any) -> str:
    """Format a value for a message, as Python refuses to print integers of thousands of digits."""
    return "a number that is too large" if isinstance(value, int) and abs(value) > _MAX_BYTES else repr(value)


def _text(nbytes: int) -> str | int:
    for unit in ("GiB", "MiB", "KiB"):
        if nbytes % _UNITS[unit.upper()] == 0:
            return f"{nbytes // _UNITS[unit.upper()]} {unit}"
    return nbytes


def machine(root: Path = Path("/")) -> Hardware | None:
    """Profile of this machine from Linux's sysfs and cpuinfo; None if they report no data cache.

    A cache that several cores share counts in full.  If other processes run at the same time, use a TOML file with the
    share of this process.

    Parameters
    ----------
    root : Path
        Folder of ``sys`` and ``proc``.
    """
    levels: dict[int, Cache] = {}
    line = 0
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, nbytes = int(_line(index / "level")), _bytes(_line(index / "size"))
            if nbytes and level <= N_LEVELS and _line(index / "type") in ("Data", "Unified"):
                levels[level] = Cache(nbytes, _optional(index / "ways_of_associativity"))
                line = line or _optional(index / "coherency_line_size")
        except (OSError, ValueError):  # some virtual machines do not report all levels
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
