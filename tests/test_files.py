from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gbr.data.files import replacing, sweep, write_json
from gbr.errors import DataError, GbrError, StoreError


def test_the_file_appears_whole_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.txt"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.parent == path.parent  # the same file system, so that the rename is one step
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["out.txt"]


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt("no")], ids=["error", "interrupt"])
def test_the_old_file_survives_a_failure(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def fail_halfway() -> None:
        with replacing(path) as part:
            part.write_text("ha")
            raise fault

    with pytest.raises(type(fault), match=r"^no$"):
        fail_halfway()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_the_umask_holds(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out.txt") as part:
            part.write_text("x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "out.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [GbrError, StoreError, DataError])
def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, error: type[GbrError]) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "out.json"
    with pytest.raises(
        error, match=r"file/out\.json: cannot be written \(.+\); name a folder you may write to"
    ) as caught:
        write_json(path, {}, error)
    assert "\n" not in str(caught.value)


def test_a_rename_onto_a_folder_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(StoreError, match=r"out\.json: cannot be written \(Is a directory\)"):
        write_json(tmp_path / "out.json", {}, StoreError)
    assert os.listdir(tmp_path) == ["out.json"]


def test_json_is_indented_utf8_and_ends_in_a_newline(tmp_path: Path) -> None:
    value = {"tau": 0.5, "graphs": {"größe": [1, 2]}, "note": None}
    write_json(tmp_path / "out.json", value)
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.startswith('{\n "tau": 0.5,')
    assert text.endswith("}\n")


def test_json_never_holds_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"tau": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "out.json", {"tau": float("nan")})
    assert json.loads((tmp_path / "out.json").read_text()) == {"tau": 1.0}


KILLED = """
import os, signal, sys
from pathlib import Path
from gbr.data.files import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_at_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.json"], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".part")
    with replacing(tmp_path / "b.json") as mine:
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [mine.name]
    assert os.listdir(tmp_path) == ["b.json"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to ask")
def test_a_killed_process_that_nobody_asked_about_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "a.json"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    os.kill(process.pid, 0)
    assert len(os.listdir(tmp_path)) == 1
    sweep(tmp_path)
    assert os.listdir(tmp_path) == []
    process.wait()


def test_what_another_machine_began_is_swept_after_a_day(tmp_path: Path) -> None:
    for name, age in ((".a.json.01234567-1-x.part", 60), (".b.json.01234567-1-x.part", 90_000), ("c.part", 90_000)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    sweep(tmp_path, "a.json")
    sweep(tmp_path / "nowhere")
    assert len(os.listdir(tmp_path)) == 3
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".a.json.01234567-1-x.part", "c.part"]
