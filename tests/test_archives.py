"""Archives as they are published, as they get torn, and as nobody honest makes them."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbr.downloads.archives import Entry, survey, unpack
from gbr.errors import ArchiveError, DownloadError
from tests.mirror import npz, tar, tree, zipped

TRAIN, VALID = ("tile:xla", "train"), ("layout:nlp:random", "valid")
GRAPHS = {
    "npz/tile/xla/train/a_1.npz": npz(3000),
    "npz/tile/xla/train/b_2.npz": npz(70_000, 1),
    "npz/layout/nlp/random/valid/bert.npz": npz(500, 2),
}


def saved(folder: Path, contents: bytes, name: str = "archive") -> Path:
    (folder / name).write_bytes(contents)
    return folder / name


def taken(path: Path, root: Path, *wanted: tuple[str, str]) -> dict[str, bytes]:
    """Survey and unpack; returns what is below ``root`` then."""
    unpack(path, survey(path, wanted or (TRAIN, VALID)), root)
    return tree(root)


MAKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": tar,
    "ustar": lambda members: tar(members, format=tarfile.USTAR_FORMAT),
    "gnu": lambda members: tar(members, format=tarfile.GNU_FORMAT),
    "tar.gz": lambda members: tar(members, "w:gz"),
    "zip": zipped,
    "stored zip": lambda members: zipped(members, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("prefix", ["", "./", "npz_all/", "some/other/"])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_layout_lands_in_the_same_place(tmp_path: Path, kind: str, prefix: str) -> None:
    members = {"README.md": b"hello", prefix + "sample_submission.csv": b"ID", "x/.hidden.npz": b""}
    members |= {prefix + name: body for name, body in GRAPHS.items()}
    path = saved(tmp_path, MAKERS[kind](members))
    assert taken(path, tmp_path / "data") == GRAPHS
    assert tree(tmp_path / "data") == GRAPHS


@pytest.mark.parametrize("kind", MAKERS)
def test_only_what_is_wanted_is_taken(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, MAKERS[kind](GRAPHS))
    assert list(taken(path, tmp_path / "data", VALID)) == ["npz/layout/nlp/random/valid/bert.npz"]


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "ustar"])
def test_names_may_be_long(tmp_path: Path, kind: str) -> None:
    name = f"npz/tile/xla/train/{'very_long_' * 20}.npz"
    assert list(taken(saved(tmp_path, MAKERS[kind]({name: npz(9)})), tmp_path / "data", TRAIN)) == [name]


def test_entries_say_where_they_go(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    assert survey(path, [VALID]) == [
        Entry("npz/layout/nlp/random/valid/bert.npz", "layout:nlp:random", "valid", "bert.npz", len(npz(500, 2)))
    ]


def test_the_real_files_come_out_as_they_went_in(shared_data: Path, tmp_path: Path) -> None:
    real = {f"npz/{name}": body for name, body in tree(shared_data / "npz").items()}
    wanted = {(":".join(name.split("/")[1:-2]), name.split("/")[-2]) for name in real}
    assert len(real) >= 5
    for kind in ("tar", "zip"):
        assert taken(saved(tmp_path, MAKERS[kind](real)), tmp_path / kind, *wanted) == real


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    taken(path, tmp_path / "data")
    here = tmp_path / "data" / "npz/tile/xla/train"
    before = (here / "a_1.npz").stat().st_mtime_ns
    (here / "b_2.npz").write_bytes(b"half")
    assert unpack(path, survey(path, [TRAIN]), tmp_path / "data") == (1, 1)
    assert (here / "a_1.npz").stat().st_mtime_ns == before
    assert (here / "b_2.npz").read_bytes() == GRAPHS["npz/tile/xla/train/b_2.npz"]


@pytest.mark.parametrize("kind", MAKERS)
def test_progress_goes_up_to_the_size_of_the_archive(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, MAKERS[kind](GRAPHS))
    seen: list[int] = []
    entries = survey(path, (TRAIN, VALID), lambda done, total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size
    unpack(path, entries, tmp_path / "data", lambda done, total: seen.append(done))
    assert max(seen) == path.stat().st_size


def refused(folder: Path, contents: bytes, why: str) -> None:
    """One error of one line before anything is written."""
    path = saved(folder, contents)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ArchiveError, match=why) as told:
        taken(path, folder / "data")
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(str(path))
    assert sorted(path.name for path in folder.iterdir()) == before


ESCAPES = [
    "../npz/tile/xla/train/x.npz",
    "npz/tile/xla/train/../../../../x.npz",
    "/npz/tile/xla/train/x.npz",
    "/etc/passwd",
    "a/../b",
    "..",
    "..\\x.npz",
    "C:\\x.npz",
    "C:x.npz",
    "\\\\host\\share\\x.npz",
]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("name", ESCAPES)
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    contents = MAKERS[kind](GRAPHS | {name: npz(10)})
    refused(tmp_path, contents, rf"refused: {re.escape(name)} leaves the folder; take the archive from its official")


def test_names_that_no_terminal_shows_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, tar(GRAPHS | {"npz/tile/xla/train/a\n.npz": npz(1)}), r"'npz.*a\\n\.npz' is no plain name")
    refused(tmp_path, zipped(GRAPHS | {"x": b""}).replace(b"x", b"\x07"), "is no plain name|no whole archive")


def special(kind: bytes, **fields: object) -> bytes:
    """A tar archive with one member that is no file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, body in GRAPHS.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        info = tarfile.TarInfo("npz/tile/xla/train/x.npz")
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "fields", "what"),
    [
        (tarfile.SYMTYPE, {"linkname": "/etc/passwd"}, "a symbolic link"),
        (tarfile.SYMTYPE, {"linkname": "a_1.npz"}, "a symbolic link"),
        (tarfile.LNKTYPE, {"linkname": "npz/tile/xla/train/a_1.npz"}, "a hard link"),
        (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 5}, "a device"),
        (tarfile.BLKTYPE, {"devmajor": 8}, "a device"),
        (tarfile.FIFOTYPE, {}, "a named pipe"),
        (tarfile.GNUTYPE_SPARSE, {}, "a sparse file"),
        (b"Z", {}, "a member of unknown kind"),
    ],
)
def test_links_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes, fields: dict[str, object], what: str) -> None:
    refused(tmp_path, special(kind, **fields), f"refused: npz/tile/xla/train/x.npz is {what}")


@pytest.mark.parametrize(("mode", "what"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFCHR, "device")])
def test_links_in_zip_archives_are_refused(tmp_path: Path, mode: int, what: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("npz/tile/xla/train/x.npz")
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path, stream.getvalue(), f"x.npz is a {what}")


@pytest.mark.parametrize("other", ["npz/tile/xla/train/a_1.npz", "npz_all/npz/tile/xla/train/a_1.npz"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_file_twice_is_refused(tmp_path: Path, kind: str, other: str) -> None:
    stream = io.BytesIO()
    names = ["npz/tile/xla/train/a_1.npz", other]
    if kind == "tar":
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    else:
        with zipfile.ZipFile(stream, "w") as zip_archive:
            for name in names:
                zip_archive.writestr(name, b"")
    refused(tmp_path, stream.getvalue(), f"{names[0]} and {other} are the same file twice")


def pax(headers: dict[str, str], body: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("npz/tile/xla/train/x.npz")
        info.size = len(body)
        info.pax_headers = headers
        archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000000000000"},
        {"GNU.sparse.map": "0,1,5,1", "GNU.sparse.size": "1000000000000"},
    ],
)
@pytest.mark.parametrize("body", [b"", b"9999\n0\n1\n" + bytes(503)])
def test_sparse_files_are_refused_before_their_map_is_read(
    tmp_path: Path, headers: dict[str, str], body: bytes
) -> None:
    """``tarfile`` alone would read a map that is not there for ever."""
    refused(tmp_path, pax(headers, body), "is a sparse file")


def header(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("npz/tile/xla/train/x.npz")
    info.size = size
    info.type = kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (header(1 << 60) + bytes(2048), "no whole archive"),
        (header(-512) + bytes(2048), "has -512 bytes"),
        (pax({"size": "99999999999999"}, b"x"), "no whole archive"),
        (pax({"size": "-1024"}, b"x"), "has -1024 bytes|no whole archive"),
        (header(1 << 40, tarfile.GNUTYPE_LONGNAME) + bytes(2048), "has a name or description of 1099511627776 bytes"),
        (header(1 << 40, tarfile.XHDTYPE) + bytes(2048), "has a name or description of"),
        ((header(512, tarfile.GNUTYPE_LONGNAME) + b"a" * 512) * 5000 + bytes(1024), "no whole archive"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, contents: bytes, why: str) -> None:
    refused(tmp_path, contents, why)


def forged(contents: bytes, offset: int, value: int) -> bytes:
    """A zip archive with a number of its directory's last entry replaced."""
    at = contents.rindex(b"PK\x01\x02") + offset
    return contents[:at] + struct.pack("<I", value) + contents[at + 4 :]


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (24, 4_000_000_000, r"claims 4000000000 bytes out of \d+"),
        (24, 100, "no whole archive"),
        (20, 4_000_000_000, "members overlap"),
        (16, 12345, "no whole archive .*CRC"),
        (42, 1, "no whole archive"),
        (8, 1, "is encrypted"),
        (8, 12 << 16, "has compression method 12"),
    ],
    ids=["bomb", "short", "overlap", "crc", "offset", "encrypted", "bzip2"],
)
def test_forged_directories_are_refused(tmp_path: Path, offset: int, value: int, why: str) -> None:
    refused(tmp_path, forged(zipped(GRAPHS), offset, value), why)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gbr.downloads.archives._MOST_MEMBERS", 2)
    refused(tmp_path, tar(GRAPHS), "more than 2 members")


def blocks(contents: bytes) -> list[int]:
    """Where the headers of a plain tar archive are."""
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        return [info.offset for info in archive]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_torn_archives_are_refused(tmp_path: Path, kind: str, part: float) -> None:
    whole = MAKERS[kind](GRAPHS)
    # A tar archive ends in padding, which nothing is lost with.
    end = len(whole.rstrip(b"\0")) if kind in ("tar", "gnu", "ustar") else len(whole)
    refused(tmp_path, whole[: int(part * end)], "no whole archive")


def test_archives_cut_between_members_are_refused(tmp_path: Path) -> None:
    whole = tar(GRAPHS)
    for cut in blocks(whole)[1:]:
        refused(tmp_path, whole[:cut], "it ends without its end mark")


def test_a_damaged_header_is_no_end_of_the_archive(tmp_path: Path) -> None:
    """``tarfile`` alone would stop there and say nothing."""
    whole = bytearray(tar(GRAPHS))
    whole[blocks(bytes(whole))[1] + 3] ^= 1
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        assert len(archive.getnames()) == 1
    refused(tmp_path, bytes(whole), r"no whole archive \(bad checksum\)")


def test_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    whole = bytearray(tar(GRAPHS, "w:gz"))
    whole[-6] ^= 1
    refused(tmp_path, bytes(whole), "no whole archive .*CRC")


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"<!DOCTYPE html><title>Log in to the hotel</title>" * 40,
        b"\x1f\x8b\x08\0garbage",
        gzip.compress(b"x" * 9999),
    ],
    ids=["empty", "page", "gzip", "gzip of no tar"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, contents: bytes) -> None:
    refused(tmp_path, contents, "no whole archive")


def test_an_archive_without_what_is_wanted_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    with pytest.raises(
        ArchiveError, match=r"no graphs of layout:nlp:random test, but other files \(npz/tile/xla/train"
    ):
        survey(path, [("layout:nlp:random", "test"), VALID])
    with pytest.raises(ArchiveError, match=r"no graphs of tile:xla train; want \.npz files below"):
        survey(saved(tmp_path, tar({})), [TRAIN])
    with pytest.raises(DownloadError, match=r"absent: cannot be read \(No such file"):
        survey(tmp_path / "absent", [TRAIN])


def test_a_member_that_is_no_npz_is_not_put_in_its_place(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS | {"npz/tile/xla/train/c_3.npz": b"torn in the making"}))
    entries = survey(path, [TRAIN])
    with pytest.raises(ArchiveError, match=r"npz/tile/xla/train/c_3\.npz is no whole \.npz"):
        unpack(path, entries, tmp_path / "data")
    assert sorted(tree(tmp_path / "data")) == ["npz/tile/xla/train/a_1.npz", "npz/tile/xla/train/b_2.npz"]


def test_an_archive_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    entries = survey(path, [TRAIN])
    saved(tmp_path, tar({"npz/tile/xla/train/a_1.npz": npz(3001)}))
    with pytest.raises(ArchiveError, match="it changed while it was read"):
        unpack(path, entries, tmp_path / "data")
    saved(tmp_path, tar({"npz/tile/xla/train/a_1.npz": npz(3000)}))
    with pytest.raises(ArchiveError, match="it changed while it was read"):
        unpack(path, entries, tmp_path / "data")
    assert list(tree(tmp_path / "data")) == ["npz/tile/xla/train/a_1.npz"]


def test_ctrl_c_while_unpacking_leaves_whole_files(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    entries = survey(path, (TRAIN, VALID))

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(path, entries, tmp_path / "data", interrupt)
    assert tree(tmp_path / "data") == {name: GRAPHS[name] for name in list(GRAPHS)[:1]}
    assert unpack(path, entries, tmp_path / "data") == (2, 1)


def test_leftovers_of_killed_runs_are_swept_up(tmp_path: Path) -> None:
    path = saved(tmp_path, tar(GRAPHS))
    folder = tmp_path / "data/npz/tile/xla/train"
    folder.mkdir(parents=True)
    (folder / ".a_1.npz.x1y2.part").write_bytes(b"old")
    os.utime(folder / ".a_1.npz.x1y2.part", (0, 0))
    (folder / ".a_1.npz.z3z4.part").write_bytes(b"another process is at it")
    unpack(path, survey(path, [TRAIN]), tmp_path / "data")
    assert sorted(os.listdir(folder)) == [".a_1.npz.z3z4.part", "a_1.npz", "b_2.npz"]


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = saved(tmp_path, tar(GRAPHS))
    entries = survey(path, [TRAIN])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DownloadError, match=r"b_2\.npz: cannot be written \(File too large\)") as told:
            unpack(path, entries, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(told.value, ArchiveError)  # the archive is good, and worth keeping
    assert list(tree(tmp_path / "data")) == ["npz/tile/xla/train/a_1.npz"]


SMALL = {"npz/tile/xla/train/a.npz": npz(700), "npz/tile/xla/train/b.npz": npz(90, 1), "x": b"y" * 600}


@pytest.mark.parametrize("kind", ["gnu", "tar.gz", "zip", "stored zip"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_whatever_is_damaged_ends_in_files_or_in_one_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, flips: list[tuple[float, int]]
) -> None:
    tmp_path = tmp_path_factory.mktemp("fuzz")
    contents = bytearray(MAKERS[kind](SMALL))
    for place, value in flips:
        contents[int(place * len(contents))] ^= value
    path = saved(tmp_path, bytes(contents))
    try:
        found = taken(path, tmp_path / "data", TRAIN)
    except DownloadError:
        found = tree(tmp_path / "data")
    assert all(name.startswith("npz/tile/xla/train/") for name in found)
    assert not [name for name in found if name.endswith(".part")]
    if kind in ("tar.gz", "zip", "stored zip"):  # these carry CRCs; a plain tar has none of its contents
        assert set(found.values()) <= set(SMALL.values())
