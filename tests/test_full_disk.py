"""Files that cannot grow, and folders that take nothing: one line, nothing lost, the same result once there is room.

A full disk is simulated by a limit on the size of files.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gbr import Ranker, evaluate, features, predict, submit, train
from gbr import __main__ as top
from gbr.collect import __main__ as collect
from gbr.tune import __main__ as tune
from tests.made import collection, trained, write_collection
from tests.mirror import file_size_limit
from tests.soak.kills import check_graphs, check_stores, digests, temporary_files

pytest.importorskip("resource", reason="no limit on the size of files here")

Capture = pytest.CaptureFixture[str]

STORE = "--data data --store store"
#: Function of a command, its arguments, and bytes that its files may have: less than its largest file.
CASES: Mapping[str, tuple[Callable[[list[str]], int], str, int]] = {
    "build": (features.main, f"build --subset tile:cpu {STORE} --jobs 1", 3000),
    "repack": (features.main, f"build --subset layout:cpu:random {STORE} --jobs 1 --repack", 4500),
    "train": (train.main, f"--subset tile:cpu {STORE} --out run --set n_estimators=3 --jobs 1", 14_000),
    "evaluate": (evaluate.main, f"--subset tile:cpu --model model {STORE} --report page.html --jobs 1", 9000),
    "predict": (predict.main, "--model model data/npz/tile/cpu/test --report page.html", 0),
    "submit": (submit.main, f"--models official {STORE} --out s.csv --jobs 1", 30),
    "tune": (tune.main, "--space replay:data/npz/tile/cpu/train --budget 5 --out out", 200),
    "collect": (collect.main, "tile --out data2 --families vecmat --configs 2 --rounds 1", 1500),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small collections, models, and kernels that are compiled: their cache is not what is tested."""
    root = tmp_path_factory.mktemp("prepared")
    write_collection(root / "data", {"train": 4, "valid": 2, "test": 2})
    collection(root / "data", "tile:xla", train=1, test=2)
    collection(root / "data", "layout:cpu:random", train=2, test=1)
    trained(root / "data", out=root / "model", settings={"n_estimators": 3})
    trained(root / "data", subset="tile:xla", out=root / "official", settings={"n_estimators": 3})
    shutil.rmtree(root / "data/store")
    return root


@pytest.fixture
def work(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with a copy of the collections and models."""
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def started(name: str, *extra: str) -> int:
    if name == "collect":
        pytest.importorskip("jax")
    main, line, _ = CASES[name]
    return main([*line.split(), *extra])


def left(folder: Path) -> dict[str, Any]:
    """What has to be the same: measured runtimes and the minute of a report are not."""
    check_stores(folder)
    check_graphs(folder)
    found: dict[str, Any] = digests(folder, "store/**/*.parquet", "data/**/*.gbr", "run/model-*", "s.csv*")
    for path in folder.glob("out/*/journal.jsonl"):
        found[path.parent.name] = [line for line in path.read_text().splitlines() if "config" in line]
    return found | {path.name: True for path in folder.glob("data2/**/*.npz")} | {"page": Path("page.html").exists()}


@pytest.mark.parametrize("name", CASES)
def test_a_command_reports_a_full_disk_and_resumes_later(
    work: Path, prepared: Path, capsys: Capture, name: str
) -> None:
    with file_size_limit(CASES[name][2]):
        status = started(name)
    (fault,) = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert status in (1, 2)  # 2: the report cannot be written
    assert "File too large" in fault
    assert not temporary_files(work)
    left(work)  # existing files are complete
    Ranker.load("model")
    assert started(name) == 0
    found = left(work)
    shutil.rmtree(work)
    shutil.copytree(prepared, work)
    os.chdir(work)
    assert started(name) == 0
    assert left(work) == found


@pytest.mark.parametrize("name", CASES)
def test_a_command_reports_a_read_only_disk(
    work: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refused(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    before = {path for path in work.rglob("*") if path.is_file()}
    monkeypatch.setattr("tempfile.mkstemp", refused)
    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    assert started(name) in (1, 2)
    faults = capsys.readouterr().err.splitlines()
    assert len([line for line in faults if ": error: " in line]) == 1
    assert "Read-only file system" in faults[-1]
    assert {path for path in work.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("work")
def test_metrics_are_printed_when_the_report_cannot_be_written(capsys: Capture) -> None:
    assert started("build") == 0
    capsys.readouterr()
    with file_size_limit(9000):
        assert started("evaluate", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["valid"]["n_graphs"] == 2
    assert "page.html: cannot be written (File too large)" in err


@pytest.mark.usefixtures("capsys")  # which keeps what is printed in memory
def test_an_old_run_survives_when_a_new_one_fills_the_disk(work: Path) -> None:
    assert started("train") == 0
    before = {path.name: path.read_bytes() for path in (work / "run").iterdir()}
    with file_size_limit(max(map(len, before.values()))):
        assert started("train", "--set", "n_estimators=40") == 1
    Ranker.load("run")
    assert {path.name: path.read_bytes() for path in (work / "run").iterdir()} == before


@pytest.mark.usefixtures("capsys")
def test_a_complete_store_is_not_written_to(work: Path) -> None:
    assert started("build") == 0
    written = {path: path.stat().st_mtime_ns for path in (work / "store").rglob("*")}
    with file_size_limit(0):
        assert started("build") == 0
    assert {path: path.stat().st_mtime_ns for path in (work / "store").rglob("*")} == written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_full_stdout_is_an_error_and_full_stderr_is_ignored(stream: str) -> None:
    with open("/dev/full", "w") as full:
        sent: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
        done = subprocess.run([sys.executable, "-m", top.__package__], text=True, check=False, **sent)
    if stream == "stdout":
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "gbr: error: standard output: cannot be written (No space left on device); free space or choose another "
            "folder"
        ]
    else:
        assert done.returncode == 0
        assert "Train a ranker" in done.stdout
