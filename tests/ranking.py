"""QueryGroups that can be learnt, and the backends that learn any of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gbr.models.params import OBJECTIVES

#: The cost model is left out: it learns sums, not interactions.
BACKENDS = [backend for backend in OBJECTIVES if backend != "costmodel"]
EVERY = [(backend, objective) for backend in BACKENDS for objective in OBJECTIVES[backend] if objective != "mixed-few"]
QUICK: dict[str, Any] = {"n_estimators": 40, "num_leaves": 7, "learning_rate": 0.15, "n_jobs": 1}


def problem(n_slates: int = 30, size: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """QueryGroups whose order follows an interaction of two columns, under offsets per slate of many orders of magnitude."""
    rng = np.random.default_rng(seed)
    rows = n_slates * size
    X = rng.normal(size=(rows, 5)).astype(np.float32)
    offset = np.repeat(rng.normal(0, 5, n_slates), size)
    log_time = np.where(X[:, 0] > 0, X[:, 1], -X[:, 1]) + 0.1 * rng.normal(size=rows) + offset
    return X, np.exp(log_time) * 1e6, np.repeat(np.arange(n_slates), size)


def frame(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=[f"block{place % 2}.c{place}" for place in range(X.shape[1])])
