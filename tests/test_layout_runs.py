"""Training and scoring layouts through the commands: baselines, skipped graphs, the real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gbr import predict as predict_command
from gbr import train as train_command
from tests.made import collection

QUICK = ["--jobs", "1", "--set", "n_estimators=5"]


def run(root: Path, data: Path, subset: str, *extra: str) -> dict[str, object]:
    line = ["--subset", subset, "--data", str(data), "--store", str(root / "store"), "--out", str(root / "run")]
    assert train_command.main([*line, *QUICK, *extra]) == 0
    figures = json.loads((root / "run/metrics.json").read_text())
    assert isinstance(figures, dict)
    return figures


def test_layouts_are_set_beside_counting_and_raw_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path, "layout:made:random", train=4, valid=2)
    run(tmp_path, tmp_path, "layout:made:random")
    printed = capsys.readouterr().out
    assert "fewest nodes set" in printed
    assert "raw columns, L2" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_unrankable_graphs_are_skipped_and_all_configurations_of_a_real_file_ranked(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(tmp_path, shared_data, "layout:xla:default")
    assert figures["valid"]["graphs"].keys() == {"unet_3d.4x4.bf16"}  # type: ignore[index]
    capsys.readouterr()
    (path,) = (shared_data / "npz/layout/nlp/random/test").glob("*.npz")
    assert predict_command.main(["--model", str(tmp_path / "run"), str(path), "--format", "csv"]) == 0
    rows = [int(line.split(",")[2]) for line in capsys.readouterr().out.splitlines()[1:]]
    with np.load(path) as data:
        assert sorted(rows) == list(range(len(data["config_runtime"])))


def test_known_bad_graphs_are_left_out_with_the_reason(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--subset", "layout:xla:default", "--data", str(shared_data), "--store", str(tmp_path / "store")]
    assert train_command.main([*line, "--out", str(tmp_path / "run"), *QUICK, "--skip", "known-bad"]) == 1
    assert "no graphs with runtimes" in capsys.readouterr().err
    assert train_command.main([*line, "--skip", "unet"]) == 2
    assert "'unet' is not" in capsys.readouterr().err


def test_a_group_of_identical_configurations_is_skipped_with_its_reason(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "npz/layout/xla"
    folder = tmp_path / "npz/layout/xla/random"
    for split, path in (
        ("train", source / "default/train/unet3d.npz"),
        ("valid", source / "random/train/openai_v0_rnn_optimized.npz"),
    ):
        (folder / split).mkdir(parents=True)
        (folder / split / path.name).write_bytes(path.read_bytes())
    figures = run(tmp_path, tmp_path, "layout:xla:random")
    skipped = figures["valid"]["skipped"]  # type: ignore[index]
    assert skipped == {"openai_v0_rnn_optimized": "all configurations are identical"}
