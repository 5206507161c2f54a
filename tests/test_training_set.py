from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import train as command
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore
from gbr.models import training_set
from gbr.models.rows import Rows, StreamedMatrix, in_memory
from gbr.models.training_set import Selection, default_memory, features, fit_memory, held_out, most_binned
from tests.made import trained, write_collection

#: Memory in which the bins of the training graphs below fit, but not their floats.
STREAMED = 500_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data"), {"train": 6, "valid": 3})


@pytest.fixture(scope="module")
def store(root: Path) -> FeatureStore:
    trained(root, backend="lightgbm", settings={"n_estimators": 1})
    return FeatureStore(root / "store", "tile:cpu")


def selection(*sizes: int) -> Selection:
    rows = 2 * np.arange(sum(sizes))
    return Selection(rows, np.random.default_rng(0).random(len(rows)), np.cumsum([0, *sizes]))


def memory_for(rows: int) -> int:
    """Smallest memory in which the bins of ``rows`` rows of 7 columns fit."""
    return next(memory for memory in range(10**6) if most_binned(7, memory) == rows)


def test_all_rows_are_used_where_their_bins_fit() -> None:
    every = selection(5, 30, 10)
    for requested in (None, 30):
        assert fit_memory(every, 7, memory_for(45), requested, 0) is every


@pytest.mark.parametrize(
    ("requested", "fitting", "most", "sizes"),
    [(None, 44, 29, [5, 29, 10]), (None, 20, 7, [5, 7, 7]), (9, 45, 9, [5, 9, 9]), (9, 20, 7, [5, 7, 7])],
)
def test_rows_are_sampled_on_request_or_where_bins_do_not_fit(
    requested: int | None, fitting: int, most: int, sizes: list[int]
) -> None:
    every = selection(5, 30, 10)
    chosen = fit_memory(every, 7, memory_for(fitting), requested, 0)
    assert chosen.most == most
    assert np.diff(chosen.indptr).tolist() == sizes
    assert np.array_equal(chosen.target, every.target[chosen.rows // 2])


def test_features_in_memory_equal_streamed_features(store: FeatureStore) -> None:
    known = store.load("train")
    rows = np.sort(np.random.default_rng(0).choice(len(known.X), 100, replace=False))
    names = training_set.columns_of(store, ["nodes", "config"])
    expected = known.select(["config", "nodes"]).X[rows]
    whole, needed = len(known.X) * len(names) * 4, len(rows) * len(names) * 4
    for memory in (whole, whole - 1, needed):
        found = features(store, "train", known, rows, names, memory)
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, expected)
    streamed = features(store, "train", known, rows, names, needed - 1)
    assert isinstance(streamed, StreamedMatrix)
    assert streamed.n_batches > 1
    assert np.array_equal(streamed.gathered(), expected)


def test_validation_graphs_are_sampled_where_they_do_not_fit(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = store.load("valid")
    names = known.columns
    whole = held_out(store, "valid", known, names, 1 << 30, 0)
    assert np.array_equal(whole.X, known.X)
    few = held_out(store, "valid", known, names, 16 * len(names) * 15, 0)
    assert few.sizes.tolist() == [5, 5, 5]
    monkeypatch.setattr(training_set, "EARLY_STOPPING_ROWS", 3)
    fewer = held_out(store, "valid", known, names, 16 * len(names) * 15, 0)
    assert fewer.sizes.tolist() == [3, 3, 3]
    assert isinstance(fewer.X, np.ndarray)
    for target, row in zip(fewer.target, fewer.X, strict=True):
        assert target in known.target[(row == known.X).all(axis=1)]


def test_in_memory_samples_every_group(store: FeatureStore) -> None:
    known = store.load("train")
    every = np.arange(len(known.X))
    X = features(store, "train", known, every, known.columns, 4 * len(known.columns) * 60)
    found = in_memory(Rows(X, known.target, known.indptr), seed=0)
    assert isinstance(found.X, np.ndarray)
    assert found.sizes.tolist() == [10] * 6
    assert found.target[0] in known.target[: known.indptr[1]][(known.X[: known.indptr[1]] == found.X[0]).all(axis=1)]
    assert in_memory(found, seed=0) is found


def test_default_memory_is_a_quarter_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}[name])
    assert default_memory() == 102_400
    monkeypatch.delattr("os.sysconf")
    assert 1 << 26 < default_memory() <= 2 << 30


def manifest(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "manifest.json").read_text()))


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_streamed_training_equals_training_in_memory(root: Path, tmp_path: Path, backend: str) -> None:
    options = {"backend": backend, "columns": ["all"]}
    runs = [trained(root, out=tmp_path / f"{memory}", memory=memory, **options) for memory in (1 << 30, STREAMED)]
    first, second = map(manifest, runs)
    assert first["trained_on"] == second["trained_on"]
    if backend == "lightgbm":
        assert first["model"] == second["model"]
    figures = [json.loads((run / "metrics.json").read_text()) for run in runs]
    for split in ("train", "valid"):
        taus = [found[split]["kendall_tau"] for found in figures]
        assert taus[1] == pytest.approx(taus[0], abs=0.01)


def test_streamed_features_are_never_all_in_memory(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = FeatureStore.load
    most: list[int] = []

    def recording(self: FeatureStore, split: str, *arguments: Any, **named: Any) -> QueryGroups:
        groups = load(self, split, *arguments, **named)
        most.append(groups.X.size)
        return groups

    monkeypatch.setattr(FeatureStore, "load", recording)
    monkeypatch.setattr("gbr.evaluate._CELLS_AT_ONCE", 1)
    trained(root, out=tmp_path / "run", memory=STREAMED, settings={"n_estimators": 3})
    assert max(most) <= STREAMED / 4


def test_run_reports_its_sample(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = manifest(trained(root, out=tmp_path / "whole", backend="lightgbm"))["trained_on"]
    assert (whole["rows"], whole["sample"]) == (170, None)
    assert "training on" not in capsys.readouterr().err
    line = ["--subset", "tile:cpu", "--data", root, "--store", root / "store", "--jobs", 1, "--set", "n_estimators=5"]
    line = [*map(str, line), "--backend", "lightgbm", "--columns", "all", "--out"]
    assert command.main([*line, str(tmp_path / "few"), "--sample", "10"]) == 0
    assert "training on 60 of 170 rows, at most 10 per graph\n" in capsys.readouterr().err
    few = manifest(tmp_path / "few")["trained_on"]
    assert (few["rows"], few["sample"]) == (60, 10)
    assert command.main([*line, str(tmp_path / "small"), "--memory", "0.0001"]) == 0
    most = most_binned(896, 107_374) // 6
    assert f"{most} per graph: more do not fit --memory 0.0001 GiB\n" in capsys.readouterr().err
    assert manifest(tmp_path / "small")["trained_on"]["rows"] == 6 * most
