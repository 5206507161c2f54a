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

A GPU has its own figures, those of ``features/devices.toml`` under the same names; ``device`` takes them, and the name,
from there, and further keys replace them::

    device = "NVIDIA A100"      # or: kind = "gpu", name, units, bandwidth_gbs, clock_mhz, lanes, rates …

``[config]``, of any profile, names the slots of tile configurations, in their order; without a name, or with an empty
one, a slot is a tile bound.  :mod:`features.tile.names` has the names that features know::

    [config]
    output_bounds = ["block_m", "block_n"]
    kernel_bounds = ["block_k", "block_n"]
    input_bounds = ["num_stages", "num_warps", "allow_tf32"]
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from features.hardware import CPU, N_LEVELS, PROFILES, TILE_BOUNDS, TPU, Cache, Gpu, Hardware, SlotNames
from gbr.data.collection import KINDS, SPLITS, Subset
from gbr.data.devices import Device, find_device
from gbr.data.files import read_toml, toml_text, write_text
from gbr.errors import DataError, GbrError, UsageError, warn_once

FILE: Final = "hardware.toml"
#: Values of ``--hardware`` besides a device and a file.
NAMES: Final = (*PROFILES, "machine")

_TPU_SOURCES: Final = ("xla", "nlp")
#: Keys of a profile and of a cache: whether they are required.
_PROFILE: Final = {
    "name": True, "vector_bytes": True, "line_bytes": True, "caches": True, "sublanes": False, "tile_bounds": False,
    "config": False,
}  # fmt: skip
_GPU: Final = {"name": True, "kind": True, "config": False} | {
    each.name: each.default is MISSING for each in fields(Gpu)
}
_TPU: Final = {"name": True, "device": True, "config": False}
_KIND: Final = "gpu"
#: MiB of L2 per unit of a device whose L2 is not published.
_L2_PER_UNIT: Final = 0.25
_RATES: Final = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")
_CACHE: Final = {"bytes": True, "ways": True}
#: Upper limits, so that all products fit in 64 bits.
_MAX_BYTES: Final = 1 << 40
_MAX_ROWS: Final = 1 << 20
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: Flags of /proc/cpuinfo and their vector sizes in bytes, the widest first; 64-bit machines have at least 16.
_VECTORS: Final = (("avx512f", 64), ("avx", 32), ("lasx", 32), ("", 16))


def choose(name: str | None, subset: Subset, data_root: Path | str) -> Hardware:
    """Choose the hardware profile for the features of a collection.

    In this order: the given name; ``hardware.toml`` in the folder of the collection or one above it up to
    ``<data_root>/npz``; ``tpu`` for the collections of TpuGraphs (sources xla and nlp); the generic ``cpu``.  A name is
    one of :data:`NAMES`, a device that :func:`gbr.data.devices.find_device` knows, or a TOML file.  Slots of
    configurations keep the names that ``hardware.toml`` gives them.

    Raises
    ------
    UsageError
        For an unknown name, or ``machine`` on a system that does not report its caches.
    DataError
        When a file is missing or invalid.
    """
    path = beside(subset.folder(Path(data_root)), Path(data_root) / "npz")
    if name is None:
        return load(path) if path else TPU if subset.parts[1] in _TPU_SOURCES else CPU
    found = named(name)
    if path and not found.config:
        with suppress(DataError):  # another machine is asked for, so that an invalid file does not matter
            return replace(found, config=load(path).config)
    return found


def named(name: Hardware | str) -> Hardware:
    """The profile that a value of ``--hardware`` names; a profile itself."""
    if isinstance(name, Hardware):
        return name
    if name in PROFILES:
        return PROFILES[name]
    if name == "machine":
        if found := machine():
            return found
        raise UsageError(f"--hardware machine: this system does not report its caches; use {' or '.join(PROFILES)}")
    if name.endswith(".toml"):
        return load(Path(name))
    try:
        return _of_device(find_device(name))
    except UsageError as fault:
        raise UsageError(
            f"--hardware {name}: expected {', '.join(NAMES)}, a device ({fault}) or a file that ends in .toml"
        ) from fault


def measured_on(path: Path) -> tuple[str, Hardware, bool] | None:
    """Collection and hardware of a path at or below ``npz/<collection>/<split>`` of a data root; None for other paths.

    The last value is whether a ``hardware.toml`` gives the hardware; else it is assumed.
    """
    parts = path.absolute().parts
    tops = [number for number, part in enumerate(parts) if part == "npz"]
    splits = [number for number, part in enumerate(parts) if part in SPLITS]
    if not tops or not splits or not tops[-1] + 2 < splits[-1] or parts[tops[-1] + 1] not in KINDS:
        return None
    subset, root = Subset(":".join(parts[tops[-1] + 1 : splits[-1]])), Path(*parts[: tops[-1]])
    with suppress(GbrError):  # an invalid hardware.toml matters where features are built
        return subset.name, choose(None, subset, root), beside(subset.folder(root), root / "npz") is not None
    return None


def report_unnamed_slots(kind: str, hardware: Hardware) -> None:
    """Warn, once per process, that configurations of tiles on a GPU are read as sizes only."""
    if kind == "tile" and hardware.gpu and not hardware.config:
        warn_once(
            f"{hardware.name} has no names of slots: all values of a configuration are read as sizes of tiles, by "
            f"their position; if some are parameters such as num_warps, name the slots in the [config] of a {FILE}"
        )


def beside(folder: Path, top: Path) -> Path | None:
    """The ``hardware.toml`` of a collection: in its folder, or the nearest one above it up to ``top``."""
    for each in (folder, *folder.parents):
        if (each / FILE).is_file():
            return each / FILE
        if each == top:
            break
    return None


def load(path: Path) -> Hardware:
    """Read a profile; a :class:`DataError` if the file is missing or invalid."""
    return parse(read_toml(path, "a hardware profile"), str(path), DataError)


def parse(values: Any, where: str, error: type[GbrError]) -> Hardware:
    """Create a profile from the values of a TOML or JSON file, as :func:`as_dict` returns them.

    ``error`` is raised for a key that is missing, unknown or out of range; ``where`` is the file, for its message.
    """
    try:
        if isinstance(values, Mapping) and "device" in values:
            return _with_device(values)
        if isinstance(values, Mapping) and "kind" in values:
            return _gpu(values)
        _check_keys(values, _PROFILE, "a hardware profile")
        name, caches, bounds = _name(values), values["caches"], values.get("tile_bounds", TILE_BOUNDS[0])
        if not isinstance(caches, list) or not 0 < len(caches) <= N_LEVELS:
            raise ValueError(f"caches: expected one to {N_LEVELS} [[caches]], got {reprlib.repr(caches)}")
        levels = []
        for number, cache in enumerate(caches):
            key = f"caches[{number}]"
            _check_keys(cache, _CACHE, key)
            levels.append(Cache(_size(cache, "bytes", f"{key}."), _number(cache["ways"], f"{key}.ways", 0)))
        sublanes, line = _number(values.get("sublanes", 1), "sublanes", 1), _size(values, "line_bytes")
        vector, slots = _size(values, "vector_bytes"), _slots(values)
        return Hardware(name, vector, line, tuple(levels), sublanes, bounds, config=slots)
    except (ValueError, UsageError) as fault:
        raise error(f"{where}: {fault}") from fault


def _with_device(values: Mapping[str, Any]) -> Hardware:
    """A device of the table, with the figures that the file gives instead."""
    if not isinstance(values["device"], str):
        raise ValueError(f"device: expected a name, got {reprlib.repr(values['device'])}")
    device = find_device(values["device"])
    found = _of_device(device)
    if found.gpu is None:
        _check_keys({"name": device.name, **values}, _TPU, "the profile of a TPU")
        return replace(found, name=_name({"name": device.name, **values}), config=_slots(values))
    given = {key: value for key, value in values.items() if key != "device"}
    return _gpu({"name": device.name, "kind": _KIND, **_figures(found.gpu), **given})


def _of_device(device: Device) -> Hardware:
    if device.kind != _KIND:
        vmem = () if device.shared_kb is None else (Cache(int(device.shared_kb * 1024), 0),)
        return replace(TPU, name=device.name, caches=vmem or TPU.caches)
    figures = {each.name: value for each in fields(Gpu) if (value := getattr(device, each.name)) is not None}
    figures.setdefault("l2_mb", _L2_PER_UNIT * device.units)
    return Hardware.of_gpu(device.name, Gpu(**figures | {"rates": tuple(device.rates.items())}))


def _gpu(values: Mapping[str, Any]) -> Hardware:
    if values["kind"] != _KIND:
        raise ValueError(f"kind: expected {_KIND!r}, or no kind for a machine with caches, got {values['kind']!r}")
    _check_keys(values, _GPU, "the profile of a GPU")
    rates = values.get("rates", {})
    if not isinstance(rates, Mapping) or not {*rates} <= {*_RATES}:
        raise ValueError(f"rates: expected TFLOP/s by type ({', '.join(_RATES)}), got {reprlib.repr(rates)}")
    figures = {each.name: values[each.name] for each in fields(Gpu) if each.name in values and each.name != "rates"}
    counts = {each.name for each in fields(Gpu) if each.type == "int"}
    for key, value in [*figures.items(), *((f"rates.{key}", value) for key, value in rates.items())]:
        if type(value) is not int and (type(value) is not float or key in counts):
            raise ValueError(f"{key}: expected {'an integer' if key in counts else 'a number'}, got {value!r}")
        if value > _MAX_ROWS:
            raise ValueError(f"{key}: expected at most {_MAX_ROWS}, got {value!r}")
    return Hardware.of_gpu(_name(values), Gpu(**figures, rates=tuple(rates.items())), _slots(values))


def _figures(gpu: Gpu) -> dict[str, Any]:
    return asdict(gpu) | {"rates": dict(gpu.rates)}


def _name(values: Mapping[str, Any]) -> str:
    name = values["name"]
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name: expected a string, got {reprlib.repr(name)}")
    return name


def _slots(values: Mapping[str, Any]) -> SlotNames:
    """Names of slots; :class:`Hardware` checks them."""
    config = values.get("config", {})
    if not isinstance(config, Mapping):
        raise ValueError(f"config: expected lists of names by bounds, got {reprlib.repr(config)}")
    for stem, names in config.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"config.{stem}: expected a list of names, got {reprlib.repr(names)}")
    return tuple((stem, tuple(names)) for stem, names in config.items())


def as_dict(hardware: Hardware) -> dict[str, Any]:
    """Convert a profile to the values that :func:`parse` reads, for manifests."""
    config = {"config": {stem: list(names) for stem, names in hardware.config}} if hardware.config else {}
    if hardware.gpu:
        return {"name": hardware.name, "kind": _KIND, **_figures(hardware.gpu), **config}
    values = {key: value for key, value in asdict(hardware).items() if key not in ("gpu", "config")}
    caches = [{"bytes": cache.nbytes, "ways": cache.ways} for cache in hardware.caches]
    return values | {"caches": caches} | config


def save(path: Path, hardware: Hardware) -> None:
    """Write a profile as TOML, atomically; a :class:`DataError` if the file cannot be written."""
    values = as_dict(hardware)
    tables = [(key, values.pop(key, {})) for key in ("rates", "config")]
    for cache in values.pop("caches", []):
        size = cache["bytes"] if cache["bytes"] % 1024 else f"{cache['bytes'] >> 10} KiB"
        tables.append(("[caches]", {"bytes": size, "ways": cache["ways"]}))
    write_text(path, toml_text(("", values), *tables), DataError)


def note_machine(folder: Path, top: Path) -> str | None:
    """Write the profile of this machine to the folder of a collection that has none; a message if it is unknown."""
    if beside(folder, top) is not None:
        return None
    if found := machine():
        save(folder / FILE, found)
        return None
    return f"this system does not report its caches: without {folder / FILE}, features use the generic cpu profile"


def _check_keys(values: Any, keys: Mapping[str, bool], what: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"expected {what} with {', '.join(keys)}, got {reprlib.repr(values)}")
    for key in {**keys, **values}:
        if key not in keys or (key not in values and keys[key]):
            fault = f"{key} is missing" if key in keys else f"unknown key {key}"
            raise ValueError(f"{fault} in {what}; expected {', '.join(keys)}")


def _number(value: Any, where: str, least: int, most: int = _MAX_ROWS) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{where}: expected an integer from {least} to {most}, got {reprlib.repr(value)}")
    return value


def _size(values: Mapping[str, Any], key: str, where: str = "") -> int:
    """A number of bytes: an integer, or a text like ``48 KiB``."""
    value = values[key]
    nbytes = _bytes(value) if isinstance(value, str) else value
    if nbytes is None:
        raise ValueError(f'{where}{key}: expected bytes, or a string like "48 KiB", got {reprlib.repr(value)}')
    return _number(nbytes, f"{where}{key}", 1, _MAX_BYTES)


def _bytes(text: str) -> int | None:
    """``48 KiB`` in bytes; None for an invalid text."""
    found = re.fullmatch(r"([0-9]{1,18})\s*(?:([KMG])(?:iB)?|B?)", text.strip(), re.IGNORECASE)
    return int(found[1]) * _UNITS[(found[2] or "").upper()] if found else None


def machine(root: Path = Path("/")) -> Hardware | None:
    """Profile of this machine from Linux's sysfs and cpuinfo; None if they report no data cache.

    A cache that several cores share counts in full.  If other processes run at the same time, use a TOML file with the
    share of this process.  ``root`` is the folder of ``sys`` and ``proc``.
    """
    levels: dict[int, Cache] = {}
    line = 0
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        # Some virtual machines do not report all levels.
        level, nbytes = _count(index / "level"), _bytes(_text(index / "size"))
        if nbytes and 0 < level <= N_LEVELS and _text(index / "type") in ("Data", "Unified"):
            levels[level] = Cache(nbytes, _count(index / "ways_of_associativity"))
            line = line or _count(index / "coherency_line_size")
    cpu = cpuinfo(root)
    flags = f"{cpu.get('flags', '')} {cpu.get('features', '')}".split()  # x86, and most others
    vector = next(nbytes for flag, nbytes in _VECTORS if not flag or flag in flags)
    if "sve" in flags:  # vectors of Arm from 16 to 256 bytes
        vector = max(vector, _count(root / "proc/sys/abi/sve_default_vector_length"))
    name = cpu.get("model name") or cpu.get("cpu model") or cpu.get("cpu") or ""
    if not name and "cpu part" in cpu:
        name = f"Arm implementer {cpu.get('cpu implementer', '')} part {cpu['cpu part']}"
    try:
        return Hardware(name or "machine", vector, line or CPU.line_bytes, tuple(levels[at] for at in sorted(levels)))
    except ValueError:
        return None


def cpuinfo(root: Path) -> dict[str, str]:
    """Values of Linux's cpuinfo by key in lower case, those of the last processor; empty on other systems."""
    lines = re.findall(r"^(.*?)\s*:(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return {key.lower(): " ".join(value.split()) for key, value in lines}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _count(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0
