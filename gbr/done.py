"""What of reproducing the results is done already, and how long it took."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbr import __version__
from gbr.data.collection import SPLITS, Subset
from gbr.data.files import parse_json, write_json
from gbr.downloads.catalogue import INDEX_FILES
from gbr.errors import GbrError

if TYPE_CHECKING:
    from gbr.downloads.retrieve import Place

#: Splits that have runtimes.
SCORED: Final = ("train", "valid")
_STATE: Final = "state.json"


class State:
    """Figures and times of the collections, in a file that is written after every step.

    Parameters
    ----------
    out : Path
        Its folder.

    Raises
    ------
    GbrError
        When there is such a file and it cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / _STATE
        self._all: dict[str, Any] = {}
        if self._path.is_file():
            try:
                told = parse_json(self._path.read_bytes())
                # Another version has other models, and so other figures.
                self._all = _checked(told["collections"]) if told["gbr"] == __version__ else {}
            except (OSError, ValueError, KeyError, TypeError) as fault:
                raise GbrError(
                    f"{self._path}: cannot be read ({type(fault).__name__}); remove it: models and features stay"
                ) from fault

    def seconds(self, name: str) -> dict[str, float]:
        """Times of a collection by step."""
        return dict(self._of(name)["seconds"])

    def took(self, name: str, step: str, seconds: float) -> None:
        """Keep the time of a step; a build that found nothing to do does not hide how long it took."""
        before = self._of(name)["seconds"]
        if step != "build" or seconds > before.get(step, 0.0):
            before[step] = seconds
        self._write()

    def figures(self, name: str, made_of: Mapping[str, str]) -> dict[str, Any] | None:
        """Figures that were made of just this; None where there are none."""
        found = self._of(name)
        return found.get("valid") if found.get("made_of") == made_of else None

    def known(self) -> dict[str, dict[str, Any]]:
        """Collections that have figures: ``valid`` and ``seconds`` of each."""
        return {
            name: {"valid": found["valid"], "seconds": dict(found["seconds"])}
            for name, found in self._all.items()
            if "valid" in found
        }

    def keep(self, name: str, made_of: Mapping[str, str], valid: dict[str, Any]) -> None:
        """Keep figures."""
        self._of(name).update(made_of=dict(made_of), valid=valid)
        self._write()

    def _of(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._all.setdefault(name, {"seconds": {}})
        return found

    def _write(self) -> None:
        write_json(self._path, {"gbr": __version__, "collections": self._all})


def _checked(told: Any) -> dict[str, Any]:
    for found in told.values() if isinstance(told, dict) else [told]:
        seconds = found["seconds"]
        if not isinstance(seconds, dict) or not all(type(value) in (int, float) for value in seconds.values()):
            raise TypeError("times are no numbers")
        if not isinstance(found.get("valid", {}), dict):
            raise TypeError("figures are none")
    return dict(told)


def is_trained(subset: Subset, run: Path, store_root: Path) -> bool:
    """Whether the model is whole and is what this version makes of the graphs that are in the store."""
    from gbr import train
    from gbr.data.build import schema_of
    from gbr.data.store import FeatureStore
    from gbr.models import io

    store = FeatureStore(store_root, subset.name)
    try:
        manifest = io.read_manifest(run)
        trained_on = manifest["trained_on"]
        return bool(
            (run / train.METRICS).is_file()
            and manifest["versions"]["gbr"] == __version__
            and trained_on["schema_hash"] == schema_of(subset.kind).hash
            and trained_on["data"] == {split: train.fingerprint(store, split) for split in SCORED}
        )
    except (GbrError, KeyError, TypeError):
        return False


def built(subset: Subset, store_root: Path) -> set[str]:
    """Splits whose features are all in the store."""
    from gbr.data.build import schema_of
    from gbr.data.store import FeatureStore

    store = FeatureStore(store_root, subset.name)
    if not store.exists() or store.manifest["schema"]["hash"] != schema_of(subset.kind).hash:
        return set()
    expected = store.manifest["expected"]
    return {split for split in SPLITS if expected.get(split) and len(store.entries(split)) == expected[split]}


def made_of(subset: Subset, run: Path, place: Place) -> dict[str, str]:
    """What figures depend on: the model, which depends on its graphs, and the listed configurations."""
    from gbr.models import io

    found = {"model": str(io.read_manifest(run)["model"]["sha256"])}
    if subset.name in INDEX_FILES:
        listed = place.indices / INDEX_FILES[subset.name][0]
        found["indices"] = hashlib.sha256(listed.read_bytes()).hexdigest()
    return found
