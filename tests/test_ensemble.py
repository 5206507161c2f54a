from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest

from gbr.errors import ModelError
from gbr.evaluation.metrics import kendall_tau
from gbr.models import ensemble
from gbr.models.params import MEMBERS
from gbr.ranker import Ranker
from tests.ranking import QUICK, problem


def amounts(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """QueryGroups whose times are priced sums of what two columns stand for."""
    rng = np.random.default_rng(seed)
    held = rng.integers(0, 1000, (400, 3)) * rng.integers(0, 2, (400, 3))
    X = np.log2(1.0 + held)
    base = np.repeat(rng.uniform(1e4, 1e6, 20), 20)
    return X, base + 3.0 * held[:, 0] + 0.5 * held[:, 2], np.repeat(np.arange(20), 20)


def test_its_score_is_the_mean_of_its_members_each_over_its_spread() -> None:
    X, runtime, qid = problem(16)
    ranker = Ranker("ensemble", **QUICK).fit(X, runtime, qid=qid)
    expected = np.zeros(len(X))
    for number, (backend, objective) in enumerate(MEMBERS["mixed"]):
        alone = Ranker(backend, objective, random_state=number, **QUICK).fit(X, runtime, qid=qid).predict(X)
        expected += alone / np.mean([alone[qid == slate].std() for slate in np.unique(qid)]) / len(MEMBERS["mixed"])
    np.testing.assert_allclose(ranker.predict(X), expected, rtol=1e-9)


def test_a_mixture_holds_on_where_its_members_err() -> None:
    X, runtime, qid = problem(20)
    other = problem(20, seed=1)
    alone = [
        Ranker(backend, objective, **QUICK).fit(X, runtime, qid=qid).score(*other[:2], qid=other[2])
        for backend, objective in MEMBERS["mixed"]
    ]
    assert Ranker(**QUICK).fit(X, runtime, qid=qid).score(*other[:2], qid=other[2]) > np.mean(alone)


def test_few_slates_with_costs_bring_in_the_cost_model() -> None:
    X, runtime, qid = amounts()
    few = Ranker(costs=[0, 2], **QUICK).fit(X, runtime, qid=qid)
    assert few.settings_.objective == "mixed-few"
    assert [type(member.model).__name__ for member in few.model_.members][-1] == "CostModel"
    assert Ranker(**QUICK).fit(X, runtime, qid=qid).settings_.objective == "mixed"
    many = np.repeat(np.arange(100), 4)
    assert Ranker(costs=[0, 2], **QUICK).fit(X, runtime, qid=many).settings_.objective == "mixed"
    assert Ranker(costs=[0], goal="topk", **QUICK).fit(X, runtime, qid=qid).settings_.objective == "mixed-top"


def test_the_cost_model_finds_the_prices() -> None:
    X, runtime, qid = amounts()
    ranker = Ranker("costmodel", costs=[0, 1, 2]).fit(X, runtime, qid=qid)
    prices = ranker.model_.gains()
    assert prices[0] / prices[2] == pytest.approx(6.0, rel=0.1)
    assert prices[1] < 0.02 * prices[2]
    X_new, runtime_new, qid_new = amounts(seed=1)
    for slate in np.unique(qid_new):
        own = qid_new == slate
        assert kendall_tau(ranker.predict(X_new[own]), runtime_new[own]) > 0.9


def test_the_cost_model_takes_columns_by_name_and_comes_back(tmp_path: Any) -> None:
    import pandas as pd

    X, runtime, qid = amounts()
    table = pd.DataFrame(X, columns=["a.x", "a.y", "b.z"])
    ranker = Ranker("costmodel", costs=["b.z", "a.x"]).fit(table, runtime, qid=qid)
    ranker.save(tmp_path)
    loaded = Ranker.load(tmp_path)
    assert loaded.costs == ["b.z", "a.x"]
    assert np.array_equal(loaded.predict(table[table.columns[::-1]]), ranker.predict(X))


def test_saving_twice_gives_the_same_bytes() -> None:
    X, runtime, qid = problem(8)
    first, second = (Ranker("ensemble", **QUICK).fit(X, runtime, qid=qid).model_.to_bytes() for _ in range(2))
    assert first == second


def _rewritten(data: bytes, **changes: Any) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(held, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "members.json":
                index = json.loads(content)
                index[0] |= changes
                content = json.dumps(index).encode()
            new.writestr(name, content)
    return held.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "missing.txt"},
        {"file": "1-lightgbm-speed.json"},
        {"spread": 0},
        {"spread": "wide"},
        {"settings": {"backend": "os"}},
        {"settings": None},
        {"iterations": None},
    ],
)
def test_archives_with_an_edited_index_are_refused(changes: dict[str, Any]) -> None:
    X, runtime, qid = problem(4)
    ranker = Ranker("ensemble", **QUICK).fit(X, runtime, qid=qid)
    data = ranker.model_.to_bytes()
    assert len(ensemble.load(data, ranker.settings_).members) == len(MEMBERS["mixed"])
    with pytest.raises(ValueError, match=r"."):
        ensemble.load(_rewritten(data, **changes), ranker.settings_)


def test_an_ensemble_of_unknown_members_is_a_model_error(tmp_path: Any) -> None:
    from gbr.models import io as modeldir

    X, runtime, qid = problem(4)
    ranker = Ranker("ensemble", **QUICK).fit(X, runtime, qid=qid)
    ranker.save(tmp_path)
    about = {name: value for name, value in modeldir.read_manifest(tmp_path).items() if name != "model"}
    unknown = _rewritten(ranker.model_.to_bytes(), settings=dict(about["settings"], backend="os"))
    modeldir.write(tmp_path, unknown, ".zip", about)
    with pytest.raises(ModelError, match="got 'os' with 'mixed' for backend and objective"):
        Ranker.load(tmp_path)
