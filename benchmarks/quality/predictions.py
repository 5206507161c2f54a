"""Predictions as they come, on disk, so that an interrupted bench goes on where it stopped.

::

    <root>/<collection>-<hash>/about.json
    <root>/<collection>-<hash>/<protocol>/<contender>/<fold>.npy

The hash is over all that shapes a prediction: features, graphs, options, libraries, and the code that fits.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import gbr
from gbr.data.files import atomic_write, write_json

FloatArray = NDArray[np.float64]

#: Modules of gbr that shape a prediction.
_SHAPING: Final = ("ranker", "evaluation/baselines")
#: Modules below gbr.models that do not.
_APART: Final = "io".split()
_OWN: Final = "columns contenders folds".split()
_SECONDS: Final = "seconds.json"


class Predictions:
    """Scores of held-out rows by protocol, contender and fold.

    Parameters
    ----------
    root : Path
    collection : str
    about : mapping
        What shapes the predictions; JSON.
    """

    def __init__(self, root: Path, collection: str, about: Mapping[str, Any]) -> None:
        whole = {**about, "code": code_hash(), "libraries": libraries()}
        text = json.dumps(whole, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = root / f"{collection.replace(':', '-')}-{digest}"
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", whole)

    def path(self, protocol: str, contender: str, fold: int) -> Path:
        """File of one fold."""
        return self.folder / protocol / contender.replace(",", "").replace(" ", "-") / f"{fold}.npy"

    def has(self, protocol: str, contender: str, fold: int) -> bool:
        """Whether a fold is there."""
        return self.path(protocol, contender, fold).exists()

    def write(self, protocol: str, contender: str, fold: int, scores: FloatArray) -> None:
        """Keep a fold, whole or not at all."""
        self.keep(self.path(protocol, contender, fold), scores)

    def read(self, protocol: str, contender: str, fold: int) -> FloatArray:
        """Scores of the fold's held-out rows, float64 (rows,)."""
        return np.asarray(np.load(self.path(protocol, contender, fold)))

    def seconds(self, protocol: str) -> dict[str, list[float]]:
        """Seconds of every fit made so far, by its key."""
        path = self.folder / protocol / _SECONDS
        if not path.exists():
            return {}
        return {str(key): list(values) for key, values in json.loads(path.read_text()).items()}

    def took(self, protocol: str, key: str, seconds: float) -> None:
        """Keep how long a fit took."""
        known = self.seconds(protocol)
        known.setdefault(key, []).append(round(seconds, 3))
        write_json(self.folder / protocol / _SECONDS, known)

    @staticmethod
    def keep(path: Path, values: FloatArray) -> None:
        """Write an array, whole or not at all."""
        with atomic_write(path) as part, part.open("wb") as file:
            np.save(file, values)


def code_hash() -> str:
    """12 hex digits over the code that fits, without its comments and docstrings."""
    own = Path(gbr.__file__).parent
    paths = [path for path in sorted(own.glob("models/*.py")) if path.stem not in _APART]
    paths += [own / f"{name}.py" for name in _SHAPING]
    paths += [Path(__file__).with_name(f"{name}.py") for name in _OWN]
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                # A string that stands alone says something to the reader only.
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def libraries() -> dict[str, str]:
    """Versions of the packages that predictions depend on."""
    packages = packages_distributions()
    return {name: version(packages[name][0]) for name in ("lightgbm", "numpy", "scipy", "xgboost")}


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
