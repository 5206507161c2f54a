"""Training and scoring layouts through the commands: baselines, skipped graphs, the real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import predict as predict_command
from gbr import train as train_command
from gbr.data.graph import write_graph
from tests.made import collection, layout_arrays

QUICK = ["--jobs", "1", "--set", "n_estimators=5"]


def run(root: Path, data: Path, subset: str) -> dict[str, Any]:
    line = ["--subset", subset, "--data", str(data), "--store", str(root / "store"), "--out", str(root / "run")]
    assert train_command.main([*line, *QUICK]) == 0
    figures: dict[str, Any] = json.loads((root / "run/metrics.json").read_text())
    return figures


def test_layouts_are_set_beside_baselines_and_equal_ones_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection(tmp_path, "layout:made:random", train=3, valid=1)
    arrays = layout_arrays()
    arrays["node_config_feat"][:] = -1
    write_graph(tmp_path / "npz/layout/made/random/valid/same.npz", arrays)
    figures = run(tmp_path, tmp_path, "layout:made:random")
    assert figures["valid"]["skipped"] == {"same": "all configurations are identical"}
    printed = capsys.readouterr().out
    assert "fewest nodes set" in printed
    assert "raw columns, L2" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_unrankable_graphs_are_skipped_and_all_configurations_of_a_real_file_ranked(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(tmp_path, shared_data, "layout:xla:default")
    assert figures["valid"]["graphs"].keys() == {"unet_3d.4x4.bf16"}
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
