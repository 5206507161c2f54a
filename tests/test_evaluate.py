from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gbr import evaluate as command
from gbr.data.collection import resolve
from gbr.errors import DataError, ModelError
from tests.collection import rewrite, trained, write_collection


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 4, "valid": 2})
    trained(root)
    return write_collection(root, {"test": 2}, name="tile:other")


def test_a_split_scores_as_it_did_in_training(root: Path) -> None:
    found = command.evaluate(root / "run", resolve("tile:cpu", root), "valid", root, root / "store", jobs=1)
    trained_figures = json.loads((root / "run/metrics.json").read_text())
    assert found["subset"] == "tile:cpu"
    assert found["seconds"].keys() == {"build", "predict"}
    beside = found["valid"].pop("baselines")
    expected = trained_figures["valid"].pop("baselines")
    assert found["valid"] == trained_figures["valid"]
    assert beside == {name: figures for name, figures in expected.items() if name != "raw_l2"}


def test_batches_do_not_change_the_figures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subset = resolve("tile:cpu", root)
    whole = command.evaluate(root / "run", subset, "train", root, root / "store", jobs=1)
    for cells in (1, 70 * 836):
        monkeypatch.setattr("gbr.evaluation.scoring._CELLS_AT_ONCE", cells)
        assert command.evaluate(root / "run", subset, "train", root, root / "store", jobs=1)["train"] == whole["train"]


def test_a_model_scores_another_collection_of_its_kind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--model", root / "run", "--subset", "tile:other", "--split", "test", "--data", root, "--jobs", 1]
    assert command.main([*map(str, [*line, "--store", root / "store", "--json"])]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["n_graphs"] == 2
    assert command.main([*map(str, [*line, "--store", root / "store"])]) == 0
    told = capsys.readouterr().out
    assert "tile:other test: 2 graphs" in told
    assert max(map(len, told.splitlines())) <= 80


def test_a_split_without_runtimes_cannot_be_scored(root: Path, tmp_path: Path) -> None:
    write_collection(tmp_path, {"test": 1})
    (path,) = (tmp_path / "npz/tile/cpu/test").iterdir()
    rewrite(path, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    with pytest.raises(DataError, match="no graph has runtimes; take a split that has them"):
        command.evaluate(root / "run", resolve("tile:cpu", tmp_path), "test", tmp_path, tmp_path / "store", jobs=1)


def test_a_model_of_other_features_names_the_fix(root: Path, tmp_path: Path) -> None:
    manifest = json.loads((root / "run/manifest.json").read_text())
    for path in (root / "run").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for change, match in (
        ({"schema_hash": "0" * 12}, "was trained on 000000000000; train again: python -m gbr.train --subset tile:cpu"),
        ({"kind": "layout"}, "a tile collection, but the model ranks layout"),
    ):
        changed = manifest | {"trained_on": manifest["trained_on"] | change}
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(ModelError, match=match):
            command.evaluate(tmp_path, resolve("tile:cpu", root), "valid", root, root / "store", jobs=1)


@pytest.mark.parametrize(
    ("extra", "status", "match"),
    [
        (["--model", "nowhere", "--subset", "tile:cpu"], 1, "nowhere: holds no model"),
        (["--subset", "tile:cpu"], 2, "--model"),
        (["--model", "x", "--subset", "tile:cpu", "--protocol", "secret"], 2, "'secret' is not one of"),
    ],
)
def test_mistakes_are_one_line(
    root: Path, extra: list[str], status: int, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--data", str(root), *extra]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert match in line
