from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.errors import StoreError, UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models import lightgbm
from gbr.models.base import Rows, backend
from gbr.models.batches import StreamedMatrix
from gbr.models.differences import PAIRS_PER_ROW, differences
from gbr.models.params import Settings, resolve
from tests.ranking import EVERY, QUICK, problem

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=8)
GB = 1 << 30


def streamed(
    X: np.ndarray, bounds: np.ndarray, rows: np.ndarray, cells: int = 60, memory: int = GB
) -> tuple[StreamedMatrix, list[tuple[int, int]]]:
    """The matrix, and the list of what is read of it."""
    seen: list[tuple[int, int]] = []

    def read(first: int, last: int) -> np.ndarray:
        seen.append((first, last))
        return X[bounds[first] : bounds[last]].copy()

    return StreamedMatrix(read, bounds, rows, X.shape[1], memory, cells), seen


@given(SIZES, st.integers(1, 80), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_it_is_the_matrix_it_stands_for(sizes: list[int], cells: int, random: Any) -> None:
    rng = np.random.default_rng(random.randrange(1000))
    bounds = np.cumsum([0, *sizes]).astype(np.int64)
    X = rng.normal(size=(sum(sizes), 3)).astype(np.float32)
    kept = [rng.permutation(np.arange(a, b))[: rng.integers(b - a + 1)] for a, b in pairwise(bounds)]
    rows = np.concatenate(kept).astype(np.int64)
    lazy, seen = streamed(X, bounds, rows, cells)
    assert lazy.shape == (len(rows), 3)
    assert seen == []
    found = list(lazy.batches())
    assert np.array_equal(np.concatenate([part for _, part in found]) if found else X[:0], X[rows])
    assert [at.start for at, _ in found[1:]] == [at.stop for at, _ in found[:-1]]
    slate = np.repeat(np.arange(len(sizes)), sizes)[rows]
    for at, _ in found:
        assert not set(slate[at]) & set(slate[at.stop :])
    for first, last in seen:
        assert last - first == 1 or 3 * (bounds[last] - bounds[first]) <= cells
    index = rng.integers(0, max(len(rows), 1), 20 if len(rows) else 0)
    seen.clear()
    assert np.array_equal(lazy[index], X[rows][index])
    assert len(seen) == len(set(seen))
    mask = rng.random(len(rows)) < 0.5
    assert np.array_equal(lazy[mask], X[rows][mask])
    order = np.concatenate([rng.permutation(np.flatnonzero(slate == number)) for number in range(len(sizes))])
    assert np.array_equal(lazy.view(order)[np.arange(len(rows))], X[rows][order])


def test_what_is_held_is_not_read_again() -> None:
    X = np.arange(40, dtype=np.float32).reshape(20, 2)
    lazy, seen = streamed(X, np.arange(0, 21, 5), np.arange(20), cells=20)
    for row in range(20):
        assert np.array_equal(lazy[np.array([row])], X[[row]])
    assert seen == [(0, 2), (2, 4)]


def test_scattered_slates_and_infinities_are_refused() -> None:
    X, bounds = np.zeros((20, 2), np.float32), np.arange(0, 21, 5)
    with pytest.raises(ValueError, match="rows of a slate do not stand together"):
        streamed(X, bounds, np.array([0, 6, 1]))
    X[13, 1] = np.inf
    lazy, _ = streamed(X, bounds, np.arange(10, 20))
    with pytest.raises(UsageError, match="row 3, column 1 is infinite"):
        lazy.batch(0)


# --- learning --------------------------------------------------------------------------------------------------------


def settings_of(name: str, objective: str, **changed: Any) -> Settings:
    given = QUICK | {"early_stopping_rounds": 10} | changed
    capacity = {key: given.get(key) for key in ("n_estimators", "num_leaves", "learning_rate", "min_child_samples")}
    return resolve(
        name, objective, capacity=capacity, early_stopping_rounds=given["early_stopping_rounds"], seed=0, n_jobs=1,
        params={}, n_slates=40, n_rows=1000, costs=(2, 4),
    )  # fmt: skip


def slates(n_slates: int = 40, size: int = 24, seed: int = 0) -> Rows:
    X, runtime, _ = problem(n_slates, size, seed)
    X[:, [2, 4]] = np.abs(X[:, [2, 4]])
    X[::7, 3] = np.nan
    return Rows(X, runtime, np.arange(0, len(X) + 1, size))


def outside(rows: Rows, cells: int = 700, **arguments: Any) -> Rows:
    assert isinstance(rows.X, np.ndarray)
    return Rows(streamed(rows.X, rows.indptr, np.arange(len(rows.X)), cells, **arguments)[0], rows.target, rows.indptr)


def taus(scores: np.ndarray, rows: Rows) -> float:
    return -float(np.mean([kendall_tau(scores[a:b], rows.target[a:b]) for a, b in pairwise(rows.indptr.tolist())]))


@pytest.mark.parametrize(("name", "objective"), [*EVERY, ("ensemble", "mixed-few"), ("costmodel", "nnls")])
@pytest.mark.parametrize("stopped", [False, True])
def test_batches_teach_what_the_whole_matrix_does(name: str, objective: str, stopped: bool) -> None:
    train, valid, chosen = slates(), slates(10, seed=1), settings_of(name, objective)
    library = backend(name)
    whole = library.fit(train, valid if stopped else None, chosen)
    parts = library.fit(outside(train), valid if stopped else None, chosen)
    if name in ("lightgbm", "costmodel"):
        assert parts.to_bytes() == whole.to_bytes()
    assert isinstance(valid.X, np.ndarray)
    expected = whole.predict(valid.X, 1, valid.indptr)
    found = parts.predict(valid.X, 1, valid.indptr)
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert taus(found, valid) == pytest.approx(taus(expected, valid), abs=0.01)


def test_xgboost_gives_the_same_bytes_in_one_batch() -> None:
    train, chosen = slates(), settings_of("xgboost", "pairwise")
    whole = backend("xgboost").fit(train, None, chosen).to_bytes()
    assert backend("xgboost").fit(outside(train, 1 << 20), None, chosen).to_bytes() == whole


def test_parts_of_a_long_slate_stay_in_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightgbm, "SUB_SLATE_ROWS", 9)
    train, chosen = slates(), settings_of("lightgbm", "lambdarank")
    whole = backend("lightgbm").fit(train, None, chosen).to_bytes()
    assert backend("lightgbm").fit(outside(train), None, chosen).to_bytes() == whole


def test_columns_that_few_rows_tell_apart_are_left_out_alike() -> None:
    train = slates()
    assert isinstance(train.X, np.ndarray)
    train.X[:, 0] = np.arange(len(train.X)) < 12
    for least in (5, 15):
        chosen = settings_of("lightgbm", "l2", min_child_samples=least)
        whole = backend("lightgbm").fit(train, None, chosen).to_bytes()
        assert backend("lightgbm").fit(outside(train), None, chosen).to_bytes() == whole
        assert (b"feature_infos=none " in whole) == (least > 12)


def test_bins_are_chosen_by_as_many_rows_as_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightgbm, "_LEAST_BINNED_BY", 100)
    train, chosen = slates(), settings_of("lightgbm", "l2")
    whole = backend("lightgbm").fit(train, None, chosen)
    few = backend("lightgbm").fit(outside(train, memory=300 * 32 * 5), None, chosen)
    assert b"bin_construct_sample_cnt: 300" in few.to_bytes()
    assert b"bin_construct_sample_cnt: 200000" in whole.to_bytes()
    assert isinstance(train.X, np.ndarray)
    scores = [taus(model.predict(train.X, 1, train.indptr), train) for model in (whole, few)]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)


def test_pairs_fit_their_memory() -> None:
    train = slates()
    for rows_per_slate in (6, 20):
        memory = 40 * rows_per_slate * PAIRS_PER_ROW * 2 * 2 * 4 * 5
        pairs, faster = differences(outside(train, memory=memory), seed=0)
        assert len(pairs) == len(faster)
        assert 0.7 * memory < 2 * pairs.nbytes <= memory


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "ensemble", "costmodel"])
def test_faults_of_the_source_come_through(name: str) -> None:
    def torn(first: int, last: int) -> np.ndarray:
        raise StoreError("torn")

    train = slates()
    lazy = Rows(StreamedMatrix(torn, train.indptr, np.arange(len(train.X)), 5, GB), train.target, train.indptr)
    fit: Callable[..., Any] = backend(name).fit
    objective = {"lightgbm": "l2", "xgboost": "pairwise", "ensemble": "mixed", "costmodel": "nnls"}[name]
    with pytest.raises(StoreError, match="torn"):
        fit(lazy, None, settings_of(name, objective))
