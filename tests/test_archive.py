"""Archives as they are published, damaged, and hostile."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gbr.data.archive import unpack
from gbr.errors import ArchiveError, DownloadError
from tests.mirror import file_size_limit, npz, tar, tree, zipped

PARTS = TRAIN, VALID = ("tile:xla", "train"), ("layout:nlp:random", "valid")
GRAPHS = {
    "npz/tile/xla/train/a_1.npz": npz(3000),
    "npz/tile/xla/train/b_2.npz": npz(70_000, 1),
    "npz/layout/nlp/random/valid/bert.npz": npz(500, 2),
}
MAKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": tar,
    "gnu": lambda members: tar(members, format=tarfile.GNU_FORMAT),
    "tar.gz": lambda members: tar(members, "w:gz"),
    "zip": zipped,
    "stored zip": lambda members: zipped(members, zipfile.ZIP_STORED),
}


def saved(folder: Path, contents: bytes) -> Path:
    path = folder / "archive"
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("prefix", ["", "./", "npz_all/", "../../"])
@pytest.mark.parametrize("kind", MAKERS)
def test_graphs_are_unpacked_below_any_prefix(tmp_path: Path, kind: str, prefix: str) -> None:
    others = {"README.md": b"hello", prefix + "sample_submission.csv": b"ID", "tile/xla/train/.hidden.npz": b""}
    path = saved(tmp_path, MAKERS[kind](others | {prefix + name: body for name, body in GRAPHS.items()}))
    seen: list[tuple[int, int | None]] = []
    found = unpack(path, *TRAIN, tmp_path / "data", lambda done, total: seen.append((done, total)))
    assert found == {"a_1.npz": len(npz(3000)), "b_2.npz": len(npz(70_000, 1))}
    assert unpack(path, *VALID, tmp_path / "data") == {"bert.npz": len(npz(500, 2))}
    assert tree(tmp_path / "data") == GRAPHS
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_real_files_are_unpacked_unchanged(shared_data: Path, tmp_path: Path) -> None:
    real = {f"npz/{name}": body for name, body in tree(shared_data / "npz").items()}
    parts = {(":".join(name.split("/")[1:-2]), name.split("/")[-2]) for name in real}
    for kind in ("tar", "zip"):
        for subset, split in parts:
            unpack(saved(tmp_path, MAKERS[kind](real)), subset, split, tmp_path / kind)
        assert tree(tmp_path / kind) == real


def test_interrupted_unpacking_resumes_and_replaces_incomplete_files(tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    path, folder = saved(tmp_path, tar(GRAPHS)), tmp_path / "data/npz/tile/xla/train"
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        unpack(path, *TRAIN, tmp_path / "data", interrupt)
    assert os.listdir(folder) == ["a_1.npz"]
    before = (folder / "a_1.npz").stat().st_mtime_ns
    (folder / "b_2.npz").write_bytes(b"half")
    unpack(path, *TRAIN, tmp_path / "data")
    assert (folder / "a_1.npz").stat().st_mtime_ns == before
    assert (folder / "b_2.npz").read_bytes() == GRAPHS["npz/tile/xla/train/b_2.npz"]


def test_hostile_members_write_nothing(tmp_path: Path) -> None:
    stream = io.BytesIO()
    names = ["../x.npz", "/etc/x.npz", "npz/tile/xla/train/../../x.npz", "tile/xla/train/c:x.npz", "..\\train\\x.npz"]
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, body in GRAPHS.items() | {(name, npz(9)) for name in names}:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"npz/tile/xla/train/{number}.npz")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    path = saved(tmp_path, stream.getvalue())
    for part in PARTS:
        unpack(path, *part, tmp_path / "data")
    with pytest.raises(ArchiveError, match=r"expected graphs in layout/nlp/random/test/, found none; name"):
        unpack(path, "layout:nlp:random", "test", tmp_path / "data")
    assert tree(tmp_path / "data") == GRAPHS
    assert sorted(os.listdir(tmp_path)) == ["archive", "data"]


def damaged(contents: bytes, at: int) -> bytes:
    return contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1 :]


def offsets(contents: bytes) -> list[int]:
    """Positions of the headers of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        return [info.offset for info in archive]


@pytest.mark.parametrize(
    "contents",
    [
        *(make(GRAPHS)[:-1200] for make in MAKERS.values()),
        tar(GRAPHS)[: offsets(tar(GRAPHS))[1]],
        damaged(tar(GRAPHS), offsets(tar(GRAPHS))[1] + 3),
        damaged(tar(GRAPHS, "w:gz"), -6),
        b"",
        b"<!DOCTYPE html><title>Log in</title>" * 40,
        gzip.compress(b"x" * 9999),
    ],
    ids=[*(f"cut {kind}" for kind in MAKERS), "no end mark", "checksum", "gzip CRC", "empty", "page", "no tar"],
)
def test_damaged_archives_are_refused_before_anything_is_written(tmp_path: Path, contents: bytes) -> None:
    if contents[:2] not in (b"PK", b"\x1f\x8b"):
        contents = contents.rstrip(b"\0")  # the padding at the end of a tar archive
    path = saved(tmp_path, contents)
    with pytest.raises(ArchiveError, match=r"archive: not a complete tar or zip archive \(.*\); download it again$"):
        unpack(path, *TRAIN, tmp_path / "data")
    assert os.listdir(tmp_path) == ["archive"]


@pytest.mark.parametrize("body", [b"not an archive", npz(2000)[:-30]])
def test_damaged_graphs_are_refused(tmp_path: Path, body: bytes) -> None:
    path = saved(tmp_path, tar(GRAPHS | {"npz/tile/xla/train/c_3.npz": body}))
    with pytest.raises(ArchiveError, match=r"c_3\.npz is not a complete \.npz file"):
        unpack(path, *TRAIN, tmp_path / "data")
    assert sorted(tree(tmp_path / "data")) == ["npz/tile/xla/train/a_1.npz", "npz/tile/xla/train/b_2.npz"]


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    with (
        file_size_limit(20_000),
        pytest.raises(DownloadError, match=r"b_2\.npz: cannot be written \(File too large\)") as caught,
    ):
        unpack(path, *TRAIN, tmp_path / "data")
    assert not isinstance(caught.value, ArchiveError)  # the archive is good, and kept
    assert list(tree(tmp_path / "data")) == ["npz/tile/xla/train/a_1.npz"]
