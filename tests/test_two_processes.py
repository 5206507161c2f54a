"""Two processes in one folder: both finish with a complete result, or the second reports that the folder is in use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="no file locks here")

from features.hardware import PROFILES
from gbr import Ranker, train
from gbr.collect import __main__ as collect
from gbr.data.build import build
from gbr.data.collection import Subset
from gbr.data.files import exclusive_lock
from gbr.data.store import FeatureStore
from gbr.download import main as download
from tests.made import collection, write_collection
from tests.soak.kills import check_stores, digests, start, temporary_files

Capture = pytest.CaptureFixture[str]

BUILD = "gbr.features build --subset {subset} --data data --store {store} --jobs 1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_collection(tmp_path / "data", {"train": 8, "valid": 4})
    collection(tmp_path / "data", "layout:cpu:random", train=4, valid=2)
    return tmp_path


def run_both(folder: Path, *lines: str) -> list[tuple[int, str]]:
    """Run commands at the same time; status and stderr of each."""
    processes = [start(line.split(), folder) for line in lines]
    messages = [process.communicate()[1] for process in processes]
    return [(process.returncode, message) for process, message in zip(processes, messages, strict=True)]


def test_two_builds_make_one_store(folder: Path) -> None:
    subset = "layout:cpu:random"
    build(Subset(subset), folder / "data", folder / "single", jobs=1)
    line = BUILD.format(subset=subset, store="store")
    for status, message in run_both(folder, line, line):
        assert status == 0, message
    check_stores(folder)
    assert digests(folder / "store", "**/*.parquet") == digests(folder / "single", "**/*.parquet")
    stores = [FeatureStore(folder / name, subset).manifest for name in ("store", "single")]
    assert stores[0] == stores[1]
    assert not temporary_files(folder)


def test_two_builds_for_different_hardware_never_mix(folder: Path) -> None:
    expected = {}
    for name in ("cpu", "tpu"):
        build(Subset("tile:cpu"), folder / "data", folder / name, jobs=1, hardware=PROFILES[name])
        expected[name] = digests(folder / name / "tile/cpu", "**/*.parquet")
    assert expected["cpu"] != expected["tpu"]
    line = BUILD.format(subset="tile:cpu", store="store") + " --hardware "
    for status, message in run_both(folder, f"{line}cpu", f"{line}tpu"):
        assert status == 0, message
    built_for = FeatureStore(folder / "store", "tile:cpu").manifest["schema"]["hardware"]["name"]
    assert digests(folder / "store/tile/cpu", "**/*.parquet") == expected[built_for]


def test_two_trainings_leave_one_complete_run(folder: Path) -> None:
    line = "gbr.train --subset tile:cpu --data data --store store --out run --jobs 1 --set n_estimators=9 --seed "
    results = run_both(folder, f"{line}1", f"{line}2")
    assert 0 in [status for status, _ in results]
    for status, message in results:
        assert status == 0 or "run: another gbr.train is using this folder" in message, message
    Ranker.load(folder / "run")
    assert json.loads((folder / "run/metrics.json").read_text())["valid"]["n_graphs"] == 4
    assert len(list((folder / "run").glob("model-*"))) == 1


def error_of(capsys: Capture, main: Callable[[list[str]], int], line: str) -> str:
    """The one line with which a command gives way."""
    assert main(line.split()) == 1
    (error,) = [each for each in capsys.readouterr().err.splitlines() if ": error: " in each]
    return error


def test_a_locked_folder_is_an_error(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with exclusive_lock(folder / "run"):
        error = error_of(capsys, train.main, "--subset tile:cpu --data data --store store --out run")
        assert error.startswith("gbr train: error: run: another gbr.train is using this folder; wait until")
    with exclusive_lock(folder / "data2/npz/tile/cpu"):
        error = error_of(capsys, collect.main, "tile --out data2 --families vecmat")
        assert "data2/npz/tile/cpu: another gbr.collect is using this folder" in error
    with exclusive_lock(folder / "data2/archives"):
        for name in ("tile:xla", "eval-indices"):
            error = error_of(capsys, download, f"{name} --data data2 --base-url http://127.0.0.1:9")
            assert "data2/archives: another gbr.download is using this folder" in error
