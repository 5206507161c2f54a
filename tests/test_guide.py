"""The guide's code runs as it stands there, in one session, on some of the measured data."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gbr.data.build import build
from gbr.data.collection import resolve
from tests.test_readme import ROOT, blocks

#: Graphs per split of the collection that the guide is tried on.
_FEW = {"train": 10, "valid": 4}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source, folder = ROOT / "data/npz/tile/cpu", tmp_path / "data/npz/tile/cpu"
    folder.mkdir(parents=True)
    shutil.copy(source / "hardware.toml", folder)
    for split, count in _FEW.items():
        paths = sorted((source / split).glob("*.npz"))
        (folder / split).mkdir()
        for path in paths[:: len(paths) // count][:count]:
            shutil.copy(path, folder / split)
    build(resolve("tile:cpu", tmp_path / "data"), tmp_path / "data", tmp_path / "data/store", jobs=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_blocks_run_one_after_the_other(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for number, code in enumerate(blocks("docs/guide.md", "python")):
        exec(compile(code, f"docs/guide.md, block {number}", "exec"), names)
    out = capsys.readouterr().out
    tau = re.search(r"Kendall tau of held-out families: (\S+)$", out, re.MULTILINE)
    slowdown = re.search(r"slowdown of the best of five: (\S+)%$", out, re.MULTILINE)
    assert tau
    assert slowdown
    assert float(tau[1]) > 0.3
    assert 0 <= float(slowdown[1]) < 40
    assert "'mine': " in out
    valid, X = names["valid"], names["X"]
    assert isinstance(valid, pl.DataFrame)
    assert isinstance(X, pl.DataFrame)
    assert {"mine.nodes", "mine.over_least_footprint", "mine.rank_of_cycles"} < set(X.columns)
    assert names["operations"]
    written = pl.read_csv(checkout / "submission.csv")
    assert written.columns == ["ID", "TopConfigs"]
    blend = names["blend"]
    assert isinstance(blend, pl.DataFrame)
    for name, top in written.rows():
        own = blend.filter(graph=name.removeprefix("tile:xla:"))
        first = own["row"].to_numpy()[np.argsort(own["score"].to_numpy(), kind="stable")][:5]
        assert [int(row) for row in top.split(";")] == first.tolist()
    assert len(written) == valid["graph"].n_unique()
