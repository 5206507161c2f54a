"""A model on disk: one file in the library's own format and a manifest that vouches for it.

The model file is named after its content and the manifest is replaced last, so a folder always holds one whole model:
the old one or the new one.  Reading parses JSON and hands verified bytes to the library; nothing is unpickled or run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gbr.data.files import atomic_write, parse_json, remove_partial_files, write_json
from gbr.errors import ModelError

MANIFEST: Final = "manifest.json"
_MODEL_FILE: Final = re.compile(r"model-[0-9a-f]{12}\.[a-z]+")
FORMAT: Final = "gbr-ranker"
FORMAT_VERSION: Final = 3

_NONE: Final = type(None)
_TEXTS: Final = ("versions", "data")
#: What a manifest holds besides settings and names of features, which the ranker looks at; and what of its training.
_HOLDS: Final = {
    "backend": (str,),
    "seed": (int,),
    "best_iteration": (int,),
    "best_score": (float, int, _NONE),
    "trained_on": (dict, _NONE),
    "versions": (dict,),
}
_LEARNT: Final = {
    "subset": (str, _NONE),
    "kind": (str, _NONE),
    "schema_hash": (str, _NONE),
    "rows": (int, _NONE),
    "data": (dict, _NONE),
    "hardware": (dict, _NONE),
}


def write(folder: Path, data: bytes, suffix: str, about: dict[str, Any]) -> None:
    """Write a model and its manifest into ``folder``, made when missing; an earlier model there is replaced.

    Raises
    ------
    ModelError
        When the folder cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    name = f"model-{digest[:12]}{suffix}"
    remove_partial_files(folder)
    with atomic_write(folder / name, ModelError) as part:
        part.write_bytes(data)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    body = {"model": {"file": name, "bytes": len(data), "sha256": digest}}
    write_json(folder / MANIFEST, head | about | body, ModelError)
    for other in folder.glob("model-*"):
        if other.name != name and is_model_file(other.name):  # of a model before, or of a run that was killed
            with suppress(OSError):
                other.unlink()


def is_model_file(name: str) -> bool:
    """Whether a file is a model's, whatever its folder's manifest says of it."""
    return _MODEL_FILE.fullmatch(name) is not None


def read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Read a model's bytes, verified, and its manifest.

    Raises
    ------
    ModelError
        When there is no model, or what is there is foreign, torn, edited or of a newer format.
    """
    try:
        return _read(folder)
    except FileNotFoundError:  # replaced by another model after its manifest was read
        pass
    try:
        return _read(folder)
    except FileNotFoundError as fault:
        raise ModelError(f"{fault.filename}: cannot be read (it is missing); train again or restore it") from fault


def _read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    manifest = read_manifest(folder)
    entry = manifest.get("model")
    name, wanted = (entry.get("file"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(wanted, str) or Path(name).name != name:
        raise ModelError(f"{folder / MANIFEST}: names no model file; train again or restore the folder")
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise ModelError(f"{folder / name}: cannot be read ({fault.strerror}); train again or restore it") from fault
    if hashlib.sha256(data).hexdigest() != wanted:
        raise ModelError(f"{folder / name}: torn or edited since it was saved; train again or restore the folder")
    return data, manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a model directory; ModelError when there is none of ours."""
    path = folder / MANIFEST
    try:
        manifest = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: holds no model ({MANIFEST} is missing); "
            "name a folder written by `python -m gbr.train` or Ranker.save"
        ) from None
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read ({fault.strerror})") from fault
    except ValueError as fault:
        raise ModelError(f"{path}: torn or not JSON; train again or restore the folder") from fault
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(f"{path}: not the manifest of a gbr model; name a folder written by `python -m gbr.train`")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {manifest.get('format_version')}, this gbr reads {FORMAT_VERSION}; "
            "use the gbr that wrote it, or train again"
        )
    missing = [f"{key} is missing" for key in _HOLDS if key not in manifest]
    if amiss := [*missing, *_amiss(manifest, _HOLDS), *_amiss(manifest.get("trained_on"), _LEARNT)]:
        raise ModelError(f"{path}: {amiss[0]}; train again or restore the folder")
    return manifest


def _amiss(told: Any, holds: Mapping[str, tuple[type, ...]]) -> Iterator[str]:
    """What a part of a manifest has in another kind than was written."""
    for key in holds.keys() & told.keys() if isinstance(told, dict) else ():
        if type(told[key]) not in holds[key]:
            yield f"{key}: got {str(told[key])[:40]!r}, which is none"
        elif (
            isinstance(told[key], dict)
            and key in _TEXTS
            and not all(isinstance(one, str) for one in told[key].values())
        ):
            yield f"{key}: want texts"
