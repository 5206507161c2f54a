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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gbr import Ranker, evaluate, features, predict, submit, train
from gbr import __main__ as top
from gbr.collect import __main__ as collect
from gbr.tune import __main__ as tune
from tests.made import collection, trained, write_collection
from tests.mirror import file_size_limit
from tests.soak.kills import check_graphs, check_stores, digests

pytest.importorskip("resource", reason="no limit on the size of files here")

Capture = pytest.CaptureFixture[str]
Command = tuple[Callable[[list[str]], int], str]

STORE = "--data data --store store"
#: What is started, and bytes that its files may have, one case each: from the first file to the last.
CASES: Mapping[str, tuple[Command, tuple[int, ...]]] = {
    "build": ((features.main, f"build --subset tile:cpu {STORE} --jobs 1"), (0, 3000)),
    "repack": ((features.main, f"build --subset layout:cpu:random {STORE} --jobs 1 --repack"), (4500,)),
    "train": ((train.main, f"--subset tile:cpu {STORE} --out run --set n_estimators=3 --jobs 1"), (14000,)),
    "evaluate": (
        (evaluate.main, f"--subset tile:cpu --model model {STORE} --report page.html --jobs 1"),
        (3000,),
    ),
    "predict": ((predict.main, "--model model data/npz/tile/cpu/test --report page.html"), (0,)),
    "submit": ((submit.main, f"--models official {STORE} --out s.csv --jobs 1"), (30,)),
    "tune": ((tune.main, "--space replay:data/npz/tile/cpu/train --budget 5 --out out"), (200,)),
    "collect": ((collect.main, "tile --out data2 --families vecmat --configs 2 --rounds 1"), (1500,)),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small collections, a model, and kernels that are compiled: their cache is not what is tested."""
    root = tmp_path_factory.mktemp("prepared")
    write_collection(root / "data", {"train": 4, "valid": 2, "test": 2})
    collection(root / "data", "tile:xla", train=1, test=2)
    collection(root / "data", "layout:cpu:random", train=2, test=1)
    trained(root / "data", out=root / "model", settings={"n_estimators": 3})
    trained(root / "data", subset="tile:xla", out=root / "official", settings={"n_estimators": 3})
    shutil.rmtree(root / "data/store")
    return root


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, Any]]:
    """What a command leaves when nothing is in its way."""
    found: dict[str, Mapping[str, Any]] = {}

    def of(name: str) -> Mapping[str, Any]:
        if name not in found:
            folder = tmp_path_factory.mktemp("whole") / "work"
            shutil.copytree(prepared, folder)
            with at(folder):
                assert started(name) == 0
            found[name] = left(folder)
        return found[name]

    return of


@contextmanager
def at(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def started(name: str) -> int:
    main, line = CASES[name][0]
    return main(line.split())


def left(folder: Path) -> dict[str, Any]:
    """What has to be the same: measured runtimes and the minute of a report are not."""
    check_stores(folder)
    check_graphs(folder)
    found: dict[str, Any] = digests(folder, "store/**/*.parquet", "data/**/*.gbr", "run/model-*", "s.csv*")
    for path in folder.glob("out/*/journal.jsonl"):
        found[path.parent.name] = [line for line in path.read_text().splitlines() if "config" in line]
    return (
        found | {path.name: True for path in folder.glob("data2/**/*.npz")} | {"page": (folder / "page.html").exists()}
    )


@pytest.mark.parametrize(("name", "limit"), [(name, limit) for name, case in CASES.items() for limit in case[1]])
def test_a_command_reports_a_full_disk_and_resumes_later(
    prepared: Path, whole: Callable[[str], Mapping[str, Any]], tmp_path: Path, capsys: Capture, name: str, limit: int
) -> None:
    if name == "collect":
        pytest.importorskip("jax")
    expected = whole(name)
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    capsys.readouterr()
    with at(folder):
        with file_size_limit(limit):
            status = started(name)
        faults = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
        assert status in (1, 2)  # 2: the report cannot be written
        assert len(faults) == 1
        assert "File too large" in faults[0]
        assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
        left(folder)  # existing files are complete
        Ranker.load("model")
        assert started(name) == 0
    assert left(folder) == expected


@pytest.mark.parametrize("name", list(CASES))
def test_a_command_reports_a_read_only_disk(
    prepared: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "collect":
        pytest.importorskip("jax")
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    before = {path for path in folder.rglob("*") if path.is_file()}

    def refused(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("tempfile.mkstemp", refused)
    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    with at(folder):
        assert started(name) in (1, 2)
    faults = capsys.readouterr().err.splitlines()
    assert len([line for line in faults if ": error: " in line]) == 1
    assert "Read-only file system" in faults[-1]
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_metrics_are_printed_when_the_report_cannot_be_written(prepared: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    with at(folder):
        assert started("build") == 0
        capsys.readouterr()
        with file_size_limit(9000):
            assert evaluate.main([*CASES["evaluate"][0][1].split(), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["valid"]["n_graphs"] == 2
    assert "page.html: cannot be written (File too large)" in err


def test_an_old_run_survives_when_a_new_one_fills_the_disk(prepared: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    with at(folder):
        assert started("train") == 0
        before = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
        with file_size_limit(max(map(len, before.values()))):
            line = CASES["train"][0][1].replace("n_estimators=3", "n_estimators=40")
            assert train.main(line.split()) == 1
        Ranker.load("run")
    assert {path.name: path.read_bytes() for path in (folder / "run").iterdir()} == before


@pytest.mark.usefixtures("capsys")  # which keeps what is printed in memory
def test_a_complete_store_is_not_written_to(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    with at(folder):
        assert started("build") == 0
        written = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*")}
        with file_size_limit(0):
            assert started("build") == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*")} == written


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
