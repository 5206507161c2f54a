from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.hardware import TPU
from gbr import evaluate as command
from gbr.data.build import build
from gbr.data.collection import resolve
from gbr.data.store import FeatureStore
from gbr.errors import DataError, GbrWarning
from tests.made import rewrite, trained, write_collection

Capture = pytest.CaptureFixture[str]


def evaluate(root: Path, split: str = "valid", **options: Any) -> dict[str, Any]:
    return command.evaluate(root / "run", "tile:cpu", split, root, root / "store", jobs=1, **options)


def test_split_scores_as_in_training(tile_run: Path) -> None:
    figures = evaluate(tile_run)
    expected = json.loads((tile_run / "run/metrics.json").read_text())["valid"]
    del expected["baselines"]["raw_l2"]  # which is fitted, not saved
    assert figures["valid"] == expected
    assert figures["subset"] == "tile:cpu"
    assert figures["seconds"].keys() == {"build", "predict"}


def test_batches_do_not_change_the_figures(tile_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(tile_run, "train")["train"]
    for cells in (1, 70 * 836):
        monkeypatch.setattr("gbr.evaluate._CELLS_AT_ONCE", cells)
        assert evaluate(tile_run, "train")["train"] == whole


def test_model_scores_another_collection_of_its_kind(tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    write_collection(tmp_path, {"test": 2}, name="tile:other")
    paths = ["--data", tmp_path, "--store", tmp_path / "store"]
    line = [*map(str, ["--model", tile_run / "run", "--subset", "tile:other", "--split", "test", *paths, "--jobs", 1])]
    assert command.main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["n_graphs"] == 2
    assert command.main(line) == 0
    out = capsys.readouterr().out
    assert "tile:other test: 2 graphs" in out
    assert max(map(len, out.splitlines())) <= 80


def test_split_without_runtimes_is_an_error(tile_run: Path, tmp_path: Path) -> None:
    write_collection(tmp_path, {"test": 1})
    (path,) = (tmp_path / "npz/tile/cpu/test").iterdir()
    rewrite(path, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    with pytest.raises(DataError, match="no graph has runtimes; use a split that has them"):
        command.evaluate(tile_run / "run", "tile:cpu", "test", tmp_path, tmp_path / "store", jobs=1)


def test_features_for_other_hardware_are_kept(tmp_path: Path) -> None:
    root = write_collection(tmp_path, {"train": 2, "valid": 1})
    run = trained(root)
    with pytest.warns(GbrWarning, match="features for .*cpu.* are replaced by those for .*tpu"):
        build(resolve("tile:cpu", root), root, root / "store", jobs=1, hardware=TPU)
    before = FeatureStore(root / "store", "tile:cpu").manifest
    figures = evaluate(root)
    assert figures["valid"]["graphs"] == json.loads((run / "metrics.json").read_text())["valid"]["graphs"]
    assert FeatureStore(root / "store", "tile:cpu").manifest == before
