"""Which machine a collection was measured on: built-in profiles, this machine's own, and TOML files.

::

    name = "a server"
    vector_bytes = 64
    line_bytes = 64
    sublanes = 1                # optional: rows of a register
    tile_bounds = "elements"    # optional: or "registers", as TPUs count them

    [[caches]]                  # from the fastest to the largest, up to three
    bytes = "48 KiB"            # or a number
    ways = 12                   # 0: any line may lie anywhere
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
from gbr.data.machine import machine
from gbr.errors import DataError, GbrError, UsageError

FILE: Final = "hardware.toml"
#: What ``--hardware`` takes besides a file.
NAMES: Final = (*PROFILES, "machine")

_TPU_SOURCES: Final = ("xla", "nlp")
_REQUIRED: Final = ("name", "vector_bytes", "line_bytes", "caches")
_OPTIONAL: Final = ("sublanes", "tile_bounds")
#: No machine has more bytes in a cache, or more ways or rows; beyond them 64 bits would not hold every product.
_MOST_BYTES: Final = 1 << 40
_MOST_ROWS: Final = 1 << 20
_UNITS: Final = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Choice:
    """The profile for a collection.

    Parameters
    ----------
    hardware : Hardware
    note : str or None
        What had to be assumed, to be told to the user.
    """

    hardware: Hardware
    note: str | None = None


def choose(name: str | None, subset: Subset, data_root: Path | str) -> Choice:
    """Find the profile that a collection's features are computed for.

    In this order: what the user names; ``hardware.toml`` beside the data, in the collection's folder or one above it up
    to ``<data_root>/npz``; ``tpu`` for what TpuGraphs measured (sources xla and nlp); the generic ``cpu``.

    Parameters
    ----------
    name : str or None
        One of :data:`NAMES`, or a TOML file.
    subset : Subset
    data_root : path

    Raises
    ------
    UsageError
        For a name that is neither.
    DataError
        When a file is missing, torn or says what cannot be: names file, key, got and wanted.
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
        return Choice(found) if found else Choice(CPU, "this system does not tell its caches; taking the generic cpu")
    if not name.endswith(".toml"):
        raise UsageError(f"--hardware {name}: want {', '.join(NAMES)} or a file that ends in .toml")
    return Choice(load(Path(name)))


def beside(folder: Path, top: Path) -> Path | None:
    """The ``hardware.toml`` of a collection: in its folder, or the nearest one above it up to ``top``."""
    for place in (folder, *folder.parents):
        if (place / FILE).is_file():
            return place / FILE
        if place == top:
            break
    return None


def load(path: Path) -> Hardware:
    """Read a profile.

    Raises
    ------
    DataError
        When the file is missing, torn or says what cannot be.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror}); want a hardware profile in TOML") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path}: not TOML ({' '.join(str(fault).split())}); mend the line") from fault
    return parse(told, str(path), DataError)


def parse(told: Any, where: str, error: type[GbrError]) -> Hardware:
    """Read a profile from the plain values of a TOML or JSON file.

    Parameters
    ----------
    told : mapping
        As :func:`as_dict` gives it.
    where : str
        File, for messages.
    error : type of GbrError

    Raises
    ------
    error
        For a key that is missing, unknown or out of range: names where, key, got and wanted.
    """
    if not isinstance(told, Mapping):
        raise error(f"{where}: got {type(told).__name__} for a hardware profile, want a table")
    _check_keys(told, _REQUIRED, _OPTIONAL, where, error)
    name, bounds = told["name"], told.get("tile_bounds", TILE_BOUNDS[0])
    if not isinstance(name, str) or not name.strip():
        raise error(f"{where}: name: got {name!r}, want a text")
    if bounds not in TILE_BOUNDS:
        raise error(f"{where}: tile_bounds: got {bounds!r}, want {' or '.join(map(repr, TILE_BOUNDS))}")
    caches = told["caches"]
    if not isinstance(caches, list) or not 0 < len(caches) <= N_LEVELS:
        got = f"{len(caches)} of them" if isinstance(caches, list) else repr(caches)
        raise error(f"{where}: caches: got {got}, want one to {N_LEVELS} [[caches]]")
    levels = []
    for number, cache in enumerate(caches):
        key = f"caches[{number}]"
        if not isinstance(cache, Mapping):
            raise error(f"{where}: {key}: got {cache!r}, want bytes and ways")
        _check_keys(cache, ("bytes", "ways"), (), f"{where}: {key}", error)
        levels.append(
            Cache(
                _size(cache["bytes"], f"{where}: {key}.bytes", error),
                _number(cache["ways"], f"{where}: {key}.ways", 0, error),
            )
        )
    vector, line = (_size(told[key], f"{where}: {key}", error) for key in ("vector_bytes", "line_bytes"))
    sublanes = _number(told.get("sublanes", 1), f"{where}: sublanes", 1, error)
    try:
        return Hardware(name, vector, line, tuple(levels), sublanes, bounds)
    except ValueError as fault:  # sizes that are right by themselves and do not fit together
        raise error(f"{where}: {fault}") from fault


def as_dict(hardware: Hardware) -> dict[str, Any]:
    """A profile as the plain values that :func:`parse` reads, for manifests."""
    told = asdict(hardware)
    return told | {"caches": [{"bytes": cache.nbytes, "ways": cache.ways} for cache in hardware.caches]}


def save(path: Path, hardware: Hardware) -> None:
    """Write a profile as TOML, whole or not at all.

    Raises
    ------
    DataError
        When the file cannot be written.
    """
    told = as_dict(hardware)
    caches = told.pop("caches")
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    for cache in caches:
        lines += ["", "[[caches]]", f"bytes = {json.dumps(_text(cache['bytes']))}", f"ways = {cache['ways']}"]
    write_text(path, "\n".join(lines) + "\n", DataError)


def note_machine(folder: Path, top: Path) -> str | None:
    """Write this machine's profile into a collection that has none; says what was not possible, if anything.

    Parameters
    ----------
    folder : Path
        The collection's, which is made when missing.
    top : Path
        As far up as :func:`beside` looks.
    """
    if beside(folder, top) is not None:
        return None
    found = machine()
    if found is None:
        return f"this system does not tell its caches; write {folder / FILE} yourself, or features take a generic cpu"
    save(folder / FILE, found)
    return None


def _check_keys(
    told: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...], where: str, error: type[GbrError]
) -> None:
    for key in required:
        if key not in told:
            raise error(f"{where}: {key} is missing; want {', '.join(required)}")
    for key in told:
        if key not in required + optional:
            raise error(f"{where}: got the unknown key {key}; want {', '.join(required + optional)}")


def _number(value: Any, where: str, least: int, error: type[GbrError]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_ROWS:
        raise error(f"{where}: got {_short(value)}, want a whole number from {least} to {_MOST_ROWS}")
    return value


def _size(value: Any, where: str, error: type[GbrError]) -> int:
    nbytes = _bytes(value) if isinstance(value, str) else value
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or not 1 <= nbytes <= _MOST_BYTES:
        raise error(f'{where}: got {_short(value)}, want bytes: a whole number from 1 on, or a text like "48 KiB"')
    return nbytes


def _bytes(text: str) -> int | None:
    """``48 KiB`` in bytes; None for another text."""
    found = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    return int(found[1]) * unit if found and unit else None


def _short(value: Any) -> str:
    """A value for a message; Python tells no number of thousands of digits."""
    return "a number beyond all sizes" if isinstance(value, int) and abs(value) > _MOST_BYTES else repr(value)


def _text(nbytes: int) -> str | int:
    for unit in ("GiB", "MiB", "KiB"):
        if nbytes % _UNITS[unit.upper()] == 0:
            return f"{nbytes // _UNITS[unit.upper()]} {unit}"
    return nbytes
