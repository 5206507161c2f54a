"""Atomic writes, locks and strict JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gbr.data.files import atomic_write, exclusive_lock, parse_json, remove_partial_files, write_json
from gbr.errors import DataError, StoreError


def test_atomic_write_creates_folders_and_replaces_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.txt"
    before = os.umask(0o027)
    try:
        with atomic_write(path) as part:
            part.write_text("new")
            assert not path.exists()
            assert part.parent == path.parent  # the same file system, so that the rename is atomic
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["out.txt"]


def test_the_old_file_survives_an_interrupt(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt, match=r"^no$"), atomic_write(path) as part:  # noqa: PT012
        part.write_text("half")
        raise KeyboardInterrupt("no")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_path_that_cannot_be_written_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "out.json").mkdir()
    for path in (tmp_path / "file" / "out.json", tmp_path / "out.json"):
        with pytest.raises(DataError, match=r"^\S+out\.json: cannot be written \(.+\); choose a folder that is"):
            write_json(path, {}, DataError)
    assert sorted(os.listdir(tmp_path)) == ["file", "out.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from gbr.data.files import atomic_write
with atomic_write(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_partial_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.json"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".a.json.*.part"))) == 1
    for name, age in ((".a.json.01234567-1-x.part", 60), (".b.json.01234567-1-x.part", 90_000), ("c.part", 90_000)):
        (tmp_path / name).write_text("of another host")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with atomic_write(tmp_path / "mine.json") as mine:
        remove_partial_files(tmp_path / "missing")
        remove_partial_files(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([".a.json.01234567-1-x.part", mine.name, "c.part"])


def test_a_locked_folder_is_refused_and_removed_when_it_stays_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with exclusive_lock(folder, StoreError, "gbr.test"):
        assert folder.is_dir()
        with (
            pytest.raises(StoreError, match=r"a/b: another gbr\.test is using this folder; wait until"),
            exclusive_lock(folder, StoreError, "gbr.test"),
        ):
            pass
    assert not list(tmp_path.iterdir())
    with exclusive_lock(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_waiting_for_a_lock_reports_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hold = "import sys, time; from pathlib import Path; from gbr.data.files import exclusive_lock\n"
    hold += "with exclusive_lock(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(0.3)"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with exclusive_lock(tmp_path, owner="build", wait=True):
            assert "waiting for another build" in caplog.text
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"[-Infinity]", "invalid number -Infinity"),
        (b"[9223372036854775808]", "invalid number 9223372036854775808"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'["\xff"]', "can't decode"),
    ],
)
def test_invalid_json_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(data)
    assert "\n" not in str(caught.value)


def test_json_files_never_hold_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"größe": 1.0})
    assert parse_json((tmp_path / "out.json").read_bytes()) == {"größe": 1.0}
    assert parse_json("[9223372036854775807, -1e308]") == [2**63 - 1, -1e308]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "out.json", {"größe": float("nan")})
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {"größe": 1.0}
