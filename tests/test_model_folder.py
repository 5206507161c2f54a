from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from gbr.errors import ModelError
from gbr.ranker import Ranker
from tests.ranking import BACKENDS, QUICK, frame, problem


@pytest.fixture(scope="module", params=BACKENDS)
def fitted(request: pytest.FixtureRequest) -> Ranker:
    X, runtime, qid = problem()
    return Ranker(request.param, **QUICK).fit(frame(X), runtime, qid=qid)


def test_a_saved_model_predicts_the_same_bits(fitted: Ranker, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = Ranker.load(tmp_path / "model")
    X, _, _ = problem(6, seed=9)
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert np.array_equal(loaded.feature_importances_, fitted.feature_importances_)
    assert loaded.settings_ == fitted.settings_
    assert loaded.feature_names_in_.tolist() == fitted.feature_names_in_.tolist()
    assert (loaded.best_iteration_, loaded.best_score_) == (fitted.best_iteration_, fitted.best_score_)
    assert type(clone(loaded)) is Ranker


def test_an_early_stopped_model_comes_back_at_its_best_round(tmp_path: Path) -> None:
    X, runtime, qid = problem(10)
    for backend in BACKENDS:
        ranker = Ranker(backend, early_stopping_rounds=3, **QUICK)
        ranker.fit(X, runtime, qid=qid, eval_set=problem(5, seed=4))
        ranker.save(tmp_path / backend)
        loaded = Ranker.load(tmp_path / backend)
        assert np.array_equal(loaded.predict(X), ranker.predict(X))
        assert loaded.best_score_ == ranker.best_score_


def test_the_library_alone_can_read_the_model_file(fitted: Ranker, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    X, _, _ = problem(3, seed=9)
    (path,) = tmp_path.glob("model-*")
    if fitted.backend == "ensemble":
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).suffix for name in archive.namelist()]
        assert names == [".txt", ".txt", ".txt", ".json", ".json"]
        return
    if fitted.backend == "lightgbm":
        import lightgbm

        raw = lightgbm.Booster(model_file=str(path)).predict(X)
    else:
        import xgboost

        booster = xgboost.Booster(model_file=str(path))
        raw = booster.inplace_predict(X, predict_type="margin")
    assert np.array_equal(-np.asarray(raw, np.float64), fitted.predict(X))


def test_saving_again_replaces_the_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    X, runtime, qid = problem(6)
    (tmp_path / "notes.md").write_text("mine")
    for backend in BACKENDS:
        Ranker(backend, **QUICK).fit(X, runtime, qid=qid).save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".md"]
    assert Ranker.load(tmp_path).backend == "xgboost"


def test_a_save_cut_short_leaves_the_old_model(fitted: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, runtime, qid = problem(6)
    Ranker(fitted.backend, **QUICK).fit(X, runtime, qid=qid).save(tmp_path)
    expected = Ranker.load(tmp_path).predict(X)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gbr.models.io.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(tmp_path)
    assert np.array_equal(Ranker.load(tmp_path).predict(X), expected)


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda folder, _: (folder / "manifest.json").unlink(), "holds no model .*python -m gbr.train"),
        (lambda folder, _: (folder / "manifest.json").write_text('{"format": '), "torn or not JSON"),
        (lambda folder, _: (folder / "manifest.json").write_text("[]"), "not the manifest of a gbr model"),
        (lambda folder, _: edit(folder / "manifest.json", format="other"), "not the manifest of a gbr model"),
        (lambda folder, _: edit(folder / "manifest.json", format_version=1), "format version 1, this gbr reads 3"),
        (lambda folder, _: edit(folder / "manifest.json", model=None), "names no model file"),
        (
            lambda folder, _: edit(folder / "manifest.json", model={"file": "../x.txt", "sha256": "0"}),
            "names no model file",
        ),
        (lambda folder, _: edit(folder / "manifest.json", settings={}), "do not fit"),
        (lambda folder, _: edit(folder / "manifest.json", features={"count": 4, "names": None}), "do not fit"),
        (lambda folder, _: edit(folder / "manifest.json", backend="catboost"), "do not fit .*catboost"),
        (lambda _, model: model.unlink(), "cannot be read"),
        (lambda _, model: model.write_bytes(model.read_bytes()[:-40]), "torn or edited"),
        (lambda _, model: model.write_bytes(model.read_bytes().replace(b"0", b"1", 1)), "torn or edited"),
    ],
)
def test_models_that_are_torn_foreign_or_edited(fitted: Ranker, tmp_path: Path, harm: Any, match: str) -> None:
    fitted.save(tmp_path)
    (model,) = tmp_path.glob("model-*")
    harm(tmp_path, model)
    with pytest.raises(ModelError, match=match):
        Ranker.load(tmp_path)


@pytest.mark.parametrize("junk", [b"", b"tree\nversion=v4\n", b"\x00\xff", b"{}"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_vouched_for_junk_is_refused_too(backend: str, junk: bytes, tmp_path: Path) -> None:
    from gbr.models import io

    X, runtime, qid = problem(4)
    Ranker(backend, **QUICK).fit(X, runtime, qid=qid).save(tmp_path)
    manifest = io.read_manifest(tmp_path)
    io.write(tmp_path, junk, ".txt", {k: v for k, v in manifest.items() if k not in ("model",)})
    with pytest.raises(ModelError, match="manifest and model do not fit"):
        Ranker.load(tmp_path)


def test_a_model_of_a_plain_table_ranks_no_graph(fitted: Ranker) -> None:
    with pytest.raises(ModelError, match=r"fitted on a plain table.*python -m gbr.train"):
        fitted.rank("graph.npz")
