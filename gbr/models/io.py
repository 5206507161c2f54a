"""A model directory: one file in the library's format, and a manifest with its SHA-256.

The model file is named after its content and the manifest is replaced last, so a directory always holds one complete
model, the old one or the new one.  Loading parses JSON and hands the verified bytes to the library; nothing is
unpickled or executed.  The checksum detects damage, not malice: load only models from a source that you trust.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gbr.data.files import atomic_write, parse_json, remove_partial_files, write_json
from gbr.errors import ModelError

MANIFEST: Final = "manifest.json"
#: Name of the estimate without training, see :mod:`gbr.models.physics`, where a run directory is expected.
PHYSICS: Final = "physics"
#: Libraries that read model files in their own format.
_READERS: Final = ("lightgbm", "xgboost")
_MODEL_FILE: Final = re.compile(r"model-[0-9a-f]{12}\.[a-z]+")
FORMAT: Final = "gbr-ranker"
FORMAT_VERSION: Final = 3
#: Keys of a manifest and their types.
_KEYS: Final[dict[str, type | tuple[type, ...]]] = {
    "backend": str,
    "settings": dict,
    "features": dict,
    "best_iteration": int,
    "best_score": (float, int, type(None)),
    "trained_on": (dict, type(None)),
    "versions": dict,
    "model": dict,
}


def write(folder: Path, data: bytes, suffix: str, about: dict[str, Any]) -> None:
    """Write a model and its manifest to ``folder``, which is created if missing; an earlier model is replaced."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"model-{digest[:12]}{suffix}"
    remove_partial_files(folder)
    with atomic_write(folder / name, ModelError) as part:
        part.write_bytes(data)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    body = {"model": {"file": name, "bytes": len(data), "sha256": digest}}
    write_json(folder / MANIFEST, head | about | body, ModelError)
    for other in folder.glob("model-*"):
        if other.name != name and is_model_file(other.name):  # of an earlier model or an interrupted run
            with suppress(OSError):
                other.unlink()


def has_run(folder: Path) -> bool:
    """Whether a folder has a readable model that ``gbr train`` wrote."""
    try:
        return bool(read_manifest(folder).get("trained_on"))
    except ModelError:
        return False


def older(present: Mapping[str, str], trained: Mapping[str, Any]) -> str | None:
    """Message for the libraries that are older than those that trained a model, which may predict other scores."""
    found = [
        f"{library} {trained[library]}, but {version} is installed"
        for library, version in present.items()
        if library in _READERS and _release(version) < _release(str(trained.get(library, "")))
    ]
    advice = (
        "an older library may read the model differently and shift its scores; install the newer one or train again"
    )
    return f"trained with {', '.join(found)}: {advice}" if found else None


def _release(version: str) -> list[int]:
    return list(map(int, re.findall("[0-9]{1,9}", version)[:3]))


def physics_target(folder: str | os.PathLike[str]) -> str | None:
    """Hardware of ``physics:<hardware>``, empty for ``physics`` alone; None for a model directory."""
    name, _, hardware = str(folder).partition(":")
    return hardware if name == PHYSICS and not Path(folder).is_dir() else None


def is_model_file(name: str) -> bool:
    """Whether a file name is that of a model file."""
    return name.isprintable() and _MODEL_FILE.fullmatch(name) is not None


def read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Read the verified bytes of a model, and its manifest; ModelError if there is none or it is damaged."""
    for retry in (True, False):
        manifest = read_manifest(folder)
        path = folder / str(manifest["model"].get("file"))
        try:
            if not is_model_file(path.name):
                raise ModelError(f"{folder / MANIFEST}: names no model file; train again or restore the folder")
            data = path.read_bytes()
        except FileNotFoundError as error:
            if retry:  # the model was replaced after its manifest was read
                continue
            raise ModelError(f"{path}: the model file is missing; train again or restore it") from error
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); train again or restore it") from error
        if hashlib.sha256(data).hexdigest() != manifest["model"].get("sha256"):
            raise ModelError(f"{path}: damaged or edited after it was saved; train again or restore the folder")
        break
    return data, manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a model; ModelError if it is missing, foreign, damaged or of another format version."""
    path = folder / MANIFEST
    try:
        manifest = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: holds no model ({MANIFEST} is missing); "
            "name a folder written by `python -m gbr.train` or Ranker.save"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"{path}: damaged or not JSON; train again or restore the folder") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(f"{path}: not the manifest of a gbr model; name a folder written by `python -m gbr.train`")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {manifest.get('format_version')}, this gbr reads {FORMAT_VERSION}; "
            "use the gbr that wrote it, or train again"
        )
    for key, expected in _KEYS.items():
        if key not in manifest or not isinstance(manifest[key], expected):
            raise ModelError(f"{path}: {key} is missing or invalid; train again or restore the folder")
    return manifest
