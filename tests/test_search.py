from __future__ import annotations

import builtins
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
from gbr.search import INTEGERS, folds, score, search
from gbr.train import train
from tests.ranking import problem


def training_rows(n_groups: int = 12) -> tuple[Rows, list[str]]:
    X, runtime, _ = problem(n_groups)
    return Rows(X, runtime, np.arange(0, len(X) + 1, 24)), [f"f{number // 2}" for number in range(n_groups)]


def make(**chosen: Any) -> Ranker:
    return Ranker("lightgbm", n_jobs=1, **({"n_estimators": 2, "num_leaves": 2, "learning_rate": 0.01} | chosen))


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_folds_hold_out_whole_families(families: list[str], n_folds: int) -> None:
    if len(set(families)) < 2:
        with pytest.raises(UsageError, match="at least two families"):
            folds(families, n_folds)
        return
    found = folds(families, n_folds)
    assert len(found) == min(n_folds, len(set(families)))
    assert (np.sum(found, axis=0) == 1).all()
    names = np.array(families)
    for out in found:
        assert out.any()
        assert set(names[out]).isdisjoint(names[~out])


def test_search_improves_the_rank_of_held_out_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gbr.search.INTEGERS", (("n_estimators", 20, 60), *INTEGERS[1:]))
    train, families = training_rows()
    values: list[float | None] = []
    found = search(make, train, families, 5, on_trial=lambda _, value: values.append(value))
    assert found.keys() == {"n_estimators", "num_leaves", "learning_rate", "min_child_samples"}
    assert len(values) == 5
    best = max(value for value in values if value is not None)
    assert best > values[0] + 0.1
    taus = []
    group = np.repeat(np.arange(12), 24)
    for out in folds(families):
        training = ~out[group]
        ranker = make(**found).fit(train.X[training], train.target[training], qid=group[training])
        held = [group == number for number in np.flatnonzero(out)]
        taus += [count_pairs(ranker.predict(train.X[rows]), train.target[rows]).untied_tau for rows in held]
    assert best == pytest.approx(np.mean(taus))


def test_search_keeps_defaults_that_are_not_beaten() -> None:
    assert search(lambda **_: make(), *training_rows(), 3) == {}


def test_score_depends_on_the_goal() -> None:
    scores, target = np.arange(10.0), np.array([5.0, 4, 3, 6, 7, 1, 2, 8, 9, 10])
    assert score(scores, target, "topk") == 1 - 3.0
    assert score(scores, target, "tau") == count_pairs(scores, target).untied_tau


def test_search_needs_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def failing(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[search\]'"):
        search(make, *training_rows(4), 2)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[search\]'"):
        train("tile:absent", trials=2)  # before the collection is looked for


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
def test_families_of_graph_names(kind: str, stem: str, name: str) -> None:
    assert family(kind, stem) == name
