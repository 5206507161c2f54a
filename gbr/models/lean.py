"""Models cut down to the columns that their trees ask for.

LightGBM copies every row it predicts, all columns of it, before the first tree; of the layout columns its trees ask for
a fifth.  The cut model gives the same scores bit for bit: trees, thresholds and the order of the sum stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from gbr.models.base import Model
from gbr.models.checks import Matrix
from gbr.models.ensemble import EnsembleModel
from gbr.models.params import Settings

#: Lines of the head with one word per column.
_PER_COLUMN: Final = ("feature_names", "feature_infos")
_END: Final = "\nend of trees\n"


class LeanModel:
    """A model that takes all columns and hands those that it asks for to a smaller one.

    Parameters
    ----------
    whole, small : Model
    columns : int64 (columns of ``small``,)
        Ascending.
    """

    def __init__(self, whole: Model, small: Model, columns: NDArray[np.int64]) -> None:
        self._small = small
        self._columns = columns
        self.n_iterations = whole.n_iterations
        self.n_features = whole.n_features
        self.best_score = whole.best_score
        self.versions = whole.versions
        self.gains: Callable[[], NDArray[np.float64]] = whole.gains
        self.to_bytes: Callable[[], bytes] = whole.to_bytes
        self.stopped_at: Callable[[int], Model] = whole.stopped_at
        self.compare: Callable[[Matrix, int, int, int], NDArray[np.float64]] = whole.compare

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        asked: Any = np.take(X, self._columns, axis=1)
        return self._small.predict(asked, n_jobs, indptr)


def lean(model: Model, settings: Settings) -> Model:
    """Cut a model, or the members of an ensemble, down to the columns asked for, where that saves time.

    Parameters
    ----------
    model : Model
        Not changed.
    settings : Settings
        Of its fit.
    """
    if settings.backend == "ensemble":
        whole = cast(EnsembleModel, model)
        members = [replace(member, model=lean(member.model, member.settings)) for member in whole.members]
        return cast(Model, EnsembleModel(members, whole.best_score))
    if settings.backend != "lightgbm" or settings.objective == "difference":  # whose columns are pairs of columns
        return model
    from gbr.models.lightgbm import parse

    cut = cut_columns(model.to_bytes().decode())
    if cut is None:
        return model
    text, columns = cut
    return LeanModel(model, cast(Model, parse(text, settings)), columns)


def cut_columns(text: str) -> tuple[str, NDArray[np.int64]] | None:
    """Drop the columns that no tree of a model asks for.

    Parameters
    ----------
    text : str
        A model in LightGBM's own format, version 4.

    Returns
    -------
    str
        The model with its columns numbered anew.
    int64 (columns,)
        Their old numbers.
    None
        For a model without splits, or with leaves that name columns of their own (linear trees).
    """
    head, _, trees = text.partition("\nTree=0\n")
    trees, end, _ = trees.partition(_END)
    asked = sorted({int(word) for line in re.findall(r"^split_feature=(.*)$", trees, re.M) for word in line.split()})
    if not asked or not end or not head.startswith("tree\nversion=v4\n") or re.search(r"^is_linear=1$", trees, re.M):
        return None
    place = {str(column): str(number) for number, column in enumerate(asked)}
    kept = []
    for line in head.split("\n"):
        key, _, value = line.partition("=")
        if key in _PER_COLUMN:
            words = value.split(" ")
            kept.append(f"{key}={' '.join(words[column] for column in asked)}")
        elif key == "max_feature_idx":
            kept.append(f"{key}={len(asked) - 1}")
        elif key not in ("tree_sizes", "monotone_constraints"):  # in bytes, which change; and of use to training only
            kept.append(line)
    numbered = re.sub(
        r"^split_feature=(.*)$",
        lambda found: "split_feature=" + " ".join(place[word] for word in found[1].split()),
        trees,
        flags=re.M,
    )
    return "\n".join(kept) + "\n\nTree=0\n" + numbered + _END, np.array(asked, np.int64)
