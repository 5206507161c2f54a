from __future__ import annotations

import builtins
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.data.collection import family
from gbr.errors import MissingLibraryError, UsageError
from gbr.evaluation.metrics import count_pairs
from gbr.models.rows import Rows
from gbr.ranker import Ranker
from gbr.search import folds, score, search
from tests.ranking import problem


def rows(n_slates: int = 12) -> tuple[Rows, list[str]]:
    X, runtime, qid = problem(n_slates)
    indptr = np.concatenate(([0], np.cumsum(np.bincount(qid)))).astype(np.int64)
    return Rows(X, runtime, indptr), [f"f{number // 2}" for number in range(n_slates)]


def make(**chosen: Any) -> Ranker:
    return Ranker("lightgbm", n_jobs=1, **({"n_estimators": 2, "num_leaves": 2, "learning_rate": 0.01} | chosen))


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_folds_hold_out_whole_families_and_every_slate_once(families: list[str], n_folds: int) -> None:
    if len(set(families)) < 2:
        with pytest.raises(UsageError, match="at least two families"):
            folds(families, n_folds)
        return
    found = folds(families, n_folds)
    assert len(found) == min(n_folds, len(set(families)))
    assert (np.sum(found, axis=0) == 1).all()
    for out in found:
        assert out.any()
        held = {name for name, is_out in zip(families, out, strict=True) if is_out}
        assert held.isdisjoint(name for name, is_out in zip(families, out, strict=True) if not is_out)


def test_a_search_finds_settings_that_rank_held_out_families_better() -> None:
    train, families = rows()
    told: list[tuple[int, float]] = []
    found = search(make, train, families, 8, on_trial=lambda number, best: told.append((number, best)))
    assert found.keys() == {"n_estimators", "num_leaves", "learning_rate", "min_child_samples"}
    assert [number for number, _ in told] == list(range(1, 9))
    assert told[-1][1] > told[0][1] + 0.1

    # What the search says of its choice is what a plain loop finds.
    taus = []
    slate = np.repeat(np.arange(12), train.sizes)
    for out in folds(families):
        learn = ~out[slate]
        ranker = make(**found).fit(train.X[learn], train.target[learn], qid=slate[learn])
        for number in np.flatnonzero(out):
            own = slate == number
            taus.append(count_pairs(ranker.predict(train.X[own]), train.target[own]).untied_tau)
    assert told[-1][1] == pytest.approx(np.mean(taus))
    assert search(make, train, families, 8) == found


def test_nothing_is_chosen_that_does_not_beat_the_defaults() -> None:
    train, families = rows()
    assert search(lambda **_: make(), train, families, 3) == {}


def test_the_goal_decides_what_counts() -> None:
    scores, target = np.arange(10.0), np.array([5.0, 4, 3, 6, 7, 1, 2, 8, 9, 10])
    assert score(scores, target, "topk") == 1 - 3.0
    assert score(scores, target, "tau") == count_pairs(scores, target).untied_tau


@pytest.mark.parametrize(
    ("trials", "goal", "match"),
    [(0, "tau", "positive number of trials, got 0"), (2, "top", "goal: expected 'tau' or 'topk', got 'top'")],
)
def test_what_cannot_be_searched(trials: int, goal: str, match: str) -> None:
    train, families = rows(4)
    with pytest.raises(UsageError, match=match):
        search(make, train, families, trials, goal=goal)


def test_without_optuna_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def failing(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", failing)
    train, families = rows(4)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[search\]'"):
        search(make, train, families, 2)


@pytest.mark.parametrize(
    ("kind", "stem", "name"),
    [
        ("tile", "matmul_nn_128x128x64", "matmul_nn"),
        ("tile", "resnet_v2_50_batch_16_3f2a", "resnet_v2_50_batch_16"),
        ("layout", "resnet50.2x2.fp32", "resnet"),
        ("layout", "unet_3d.4x4.bf16", "unet"),
        ("layout", "transformer_encoder-grad", "transformer"),
        ("layout", "23559853d9702baaaacbb0c83fd32266", "23559853d9702baaaacbb0c83fd32266"),
    ],
)
def test_relatives_are_told_by_their_names(kind: str, stem: str, name: str) -> None:
    assert family(kind, stem) == name


def test_rows_keep_their_slates_when_duplicates_go() -> None:
    from gbr.data.groups import QueryGroups
    from gbr.train import indptr_of

    sizes = [3, 0, 4]
    indptr = np.cumsum([0, *sizes])
    slates = QueryGroups(
        ("a", "b", "c"), indptr, ("x.y",), np.zeros((7, 1), np.float32), None, None, None, np.zeros(7, int)
    )
    kept = np.array([0, 2, 3, 6])
    bounds = indptr_of(slates, kept)
    assert bounds.tolist() == [0, 2, 2, 4]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        assert (slates.qid[kept][start:stop] == number).all()
