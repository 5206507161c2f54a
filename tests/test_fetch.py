"""Fetching from a real server on this machine that drops, lies, refuses and changes its mind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gbr.downloads import fetch as fetching
from gbr.downloads.fetch import TRIES, ask, fetch
from gbr.errors import DownloadError
from tests.mirror import Mirror, serving

BODY = bytes(range(256)) * 1200
OTHER = BODY[::-1]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving({"a.tar": BODY}) as mirror:
        yield mirror


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the fetcher would have waited between tries."""
    waited: list[float] = []
    monkeypatch.setattr(fetching, "time", type("Clock", (), {"sleep": waited.append}))
    return waited


def begun(folder: Path, length: int, **said: object) -> Path:
    """A part of ``length`` bytes as an interrupted run leaves it."""
    (folder / "a.tar.part").write_bytes(BODY[:length])
    (folder / "a.tar.part.json").write_text(json.dumps(said))
    return folder / "a.tar"


def whole(path: Path, body: bytes = BODY) -> None:
    """The file is there, and nothing else."""
    assert path.read_bytes() == body
    assert os.listdir(path.parent) == [path.name]


def test_a_file_comes_whole_in_one_request(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(f"{mirror.url}/a.tar", tmp_path / "new" / "a.tar", lambda done, total: seen.append((done, total)))
    whole(tmp_path / "new" / "a.tar")
    assert len(mirror.gets()) == 1
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert pauses == []


@pytest.mark.parametrize("size", [0, 1])
def test_files_of_hardly_any_bytes(mirror: Mirror, tmp_path: Path, size: int) -> None:
    mirror.files["a.tar"] = BODY[:size]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar", BODY[:size])


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_dropped_connection_goes_on_from_its_byte(
    mirror: Mirror, tmp_path: Path, pauses: list[float], validator: str
) -> None:
    mirror.drop = [100_000, 1, 150_000]
    mirror.validators = (validator,)
    told: list[str] = []
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", tell=told.append)
    whole(tmp_path / "a.tar")
    assert [request["Range"] for request in mirror.gets()] == [
        None,
        "bytes=100000-",
        "bytes=100001-",
        "bytes=250001-",
    ]
    assert mirror.gets()[1]["If-Range"] == mirror.said(BODY)[validator]
    assert pauses == [1, 1, 1]
    assert told[0] == "a.tar: the connection ended early at byte 100000; trying again in 1 s"


def test_a_server_without_ranges_is_begun_anew(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    mirror.drop = [200_000, 100_000]
    told: list[str] = []
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", tell=told.append)
    whole(tmp_path / "a.tar")
    assert any("starting over" in line for line in told)


@pytest.mark.parametrize("how", ["no validators", "weak tag"])
def test_nothing_is_gone_on_with_that_cannot_be_told_apart(mirror: Mirror, tmp_path: Path, how: str) -> None:
    mirror.weak, mirror.validators = (True, ("ETag",)) if how == "weak tag" else (False, ())
    mirror.drop = [100_000]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    assert [request["Range"] for request in mirror.gets()] == [None, None]


@pytest.mark.parametrize("careless", [False, True])
@pytest.mark.parametrize("size", [len(BODY), 50_000, len(BODY) + 10])
def test_a_file_that_changes_between_tries_is_fetched_anew(
    mirror: Mirror, tmp_path: Path, careless: bool, size: int
) -> None:
    """Also where the server goes on with the new file regardless of If-Range, or has less of it than is here."""
    mirror.careless = careless
    mirror.drop = [100_000]
    changed = (OTHER * 2)[:size]

    def change(text: str) -> None:
        mirror.files["a.tar"] = changed

    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", tell=change)
    whole(tmp_path / "a.tar", changed)


def test_an_answer_of_another_range_is_not_taken(mirror: Mirror, tmp_path: Path) -> None:
    mirror.drop = [100_000]
    mirror.shift = -1
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")


def test_a_later_run_goes_on_where_an_earlier_one_stopped(mirror: Mirror, tmp_path: Path) -> None:
    said = mirror.said(BODY)
    path = begun(tmp_path, 70_000, url=f"{mirror.url}/a.tar", size=len(BODY), validator=said["ETag"], md5=None)
    seen: list[int] = []
    fetch(f"{mirror.url}/a.tar", path, lambda done, total: seen.append(done))
    whole(path)
    assert seen[0] == 70_000
    assert [request["Range"] for request in mirror.gets()] == ["bytes=70000-"]


def test_a_part_that_only_lacks_its_name_is_not_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    path = begun(tmp_path, len(BODY), url=f"{mirror.url}/a.tar", size=len(BODY), validator='"x"', md5=None)
    fetch(f"{mirror.url}/a.tar", path)
    whole(path)
    assert mirror.asked == []


@pytest.mark.parametrize(
    "said",
    [
        {"url": "http://elsewhere/a.tar", "size": len(BODY), "validator": '"x"'},
        {"url": "URL", "size": 10, "validator": '"x"'},
        {"url": "URL", "size": "many", "validator": '"x"'},
        {"nonsense": 1},
    ],
    ids=["another server", "longer than the file", "no number", "another format"],
)
def test_a_part_of_unknown_origin_is_begun_anew(mirror: Mirror, tmp_path: Path, said: dict[str, object]) -> None:
    if said.get("url") == "URL":
        said = said | {"url": f"{mirror.url}/a.tar"}
    path = begun(tmp_path, 70_000, **said)
    (tmp_path / "a.tar.part").write_bytes(OTHER[:70_000])
    fetch(f"{mirror.url}/a.tar", path)
    whole(path)
    assert [request["Range"] for request in mirror.gets()] == [None]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(mirror: Mirror, tmp_path: Path, pauses: list[float], status: int) -> None:
    mirror.status = [status] * 3
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    assert pauses == [1, 2, 4]


def test_a_server_that_says_when_is_believed_within_reason(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    mirror.headers = {"Retry-After": "7"}
    mirror.status = [503]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    mirror.headers = {"Retry-After": "86400"}
    mirror.status = [429]
    fetch(f"{mirror.url}/a.tar", tmp_path / "b.tar")
    assert pauses == [7, 30]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "the server says 404 Not Found; name another server with --base-url, or a folder with --from"),
        (403, "the server says 403 Forbidden; it is not for everyone"),
        (401, "the server says 401 Unauthorized; it wants a login"),
        (410, "the server says 410 Gone"),
    ],
)
def test_a_refusal_is_final(mirror: Mirror, tmp_path: Path, pauses: list[float], status: int, message: str) -> None:
    mirror.status = [status]
    with pytest.raises(DownloadError, match=rf"{mirror.url}/a\.tar: {message}"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert len(mirror.gets()) == 1
    assert pauses == []
    assert os.listdir(tmp_path) == []


def test_a_server_that_stays_broken_is_given_up(mirror: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    mirror.status = [500] * 100
    with pytest.raises(DownloadError, match=f"the server says 500 .*; gave up after {TRIES} tries in a row"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert len(mirror.gets()) == TRIES
    assert pauses == [1, 2, 4, 8, 16, 30]
    assert os.listdir(tmp_path) == []


def test_what_came_before_giving_up_stays(mirror: Mirror, tmp_path: Path) -> None:
    mirror.drop = [100_000] + [0] * 50
    with pytest.raises(
        DownloadError, match=r"the connection ended early.*its first 100000 bytes stay in .*a\.tar\.part"
    ):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert (tmp_path / "a.tar.part").read_bytes() == BODY[:100_000]
    mirror.drop = []
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    assert mirror.gets()[-1]["Range"] == "bytes=100000-"


def test_tries_are_counted_anew_after_progress(mirror: Mirror, tmp_path: Path) -> None:
    mirror.drop = [10_000, *([0] * (TRIES - 1))] * 3
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")


def test_a_length_that_is_too_long_ends(mirror: Mirror, tmp_path: Path) -> None:
    mirror.surplus = 100
    with pytest.raises(DownloadError, match="gave up after"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_a_length_that_no_disk_has_is_told_at_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.surplus = 10**17
    with pytest.raises(DownloadError, match=r"needs 100000\.0 TB, the disk has"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert len(mirror.gets()) == 1
    assert os.listdir(tmp_path) == []


def test_a_length_that_is_too_short_is_what_is_taken(mirror: Mirror, tmp_path: Path) -> None:
    """The server's word is all there is; whether the file is whole is for those who read it."""
    mirror.surplus = -100
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar", BODY[:-100])


def test_no_length_is_no_obstacle(mirror: Mirror, tmp_path: Path) -> None:
    mirror.surplus = None
    seen: list[int | None] = []
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", lambda done, total: seen.append(total))
    whole(tmp_path / "a.tar")
    assert set(seen) == {None}
    assert ask(f"{mirror.url}/a.tar").size is None


def test_a_slow_server_is_waited_for(mirror: Mirror, tmp_path: Path) -> None:
    mirror.pause = 0.02
    seen: list[int] = []
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", lambda done, total: seen.append(done))
    whole(tmp_path / "a.tar")
    assert len(seen) > 3  # told as it comes, not in one go
    assert seen == sorted(seen)


def test_a_server_that_stalls_is_asked_again(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT", 0.1)
    mirror.pause = 1.0
    told: list[str] = []

    def hurry(text: str) -> None:
        told.append(text)
        mirror.pause = 0.0

    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", tell=hurry)
    whole(tmp_path / "a.tar")
    assert told == ["a.tar: the server does not answer at byte 0; trying again in 1 s"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_followed_also_when_going_on(mirror: Mirror, tmp_path: Path, status: int) -> None:
    mirror.files["b.tar"] = BODY
    mirror.headers = {"Location": f"{mirror.url}/b.tar"}
    mirror.status = [status, 200, status, 200]
    mirror.drop = [100_000]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    assert mirror.gets("b.tar")[1]["Range"] == "bytes=100000-"


def test_redirects_lead_to_the_web_only_and_end(mirror: Mirror, tmp_path: Path) -> None:
    mirror.headers = {"Location": "file:///etc/hostname"}
    mirror.status = [302]
    with pytest.raises(DownloadError, match="302"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    mirror.headers = {"Location": f"{mirror.url}/a.tar"}
    mirror.status = [302] * 50
    with pytest.raises(DownloadError, match="302"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert os.listdir(tmp_path) == []


def test_the_md5_that_a_server_names_is_checked(mirror: Mirror, tmp_path: Path) -> None:
    right = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    mirror.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={right}"}
    mirror.drop = [100_000]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    mirror.headers = {"x-goog-hash": f"md5={base64.b64encode(hashlib.md5(OTHER).digest()).decode()}"}
    with pytest.raises(DownloadError, match="does not have the MD5 that the server names, and is removed"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "b.tar")
    assert os.listdir(tmp_path) == ["a.tar"]


def test_coded_contents_are_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="the server sends it gzip-coded"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert mirror.gets()[0]["Accept-Encoding"] == "identity"


def test_no_byte_is_asked_for_that_finds_no_room(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DownloadError, match=r"a\.tar\.part needs .* MB, the disk has 1\.0 kB left; make room"):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_is_told_in_one_line_and_what_came_stays(mirror: Mirror, tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: the system refuses in the midst of writing."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DownloadError, match=r"a\.tar\.part: cannot be written \(File too large\); make room"):
            fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.tar.part").read_bytes() == BODY[:100_000]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    assert mirror.gets()[-1]["Range"] == "bytes=100000-"


def test_ctrl_c_leaves_what_came(mirror: Mirror, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 120_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar", interrupt)
    kept = (tmp_path / "a.tar.part").read_bytes()
    assert 120_000 < len(kept) < len(BODY)
    assert kept == BODY[: len(kept)]
    fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")
    whole(tmp_path / "a.tar")
    assert mirror.gets()[-1]["Range"] == f"bytes={len(kept)}-"


def test_two_runs_do_not_write_one_file(mirror: Mirror, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "a.tar.part").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match=r"a\.tar\.part: another gbr\.download is writing it"):
            fetch(f"{mirror.url}/a.tar", tmp_path / "a.tar")


def test_asking_tells_size_and_validator(mirror: Mirror) -> None:
    remote = ask(f"{mirror.url}/a.tar")
    assert (remote.size, remote.validator) == (len(BODY), mirror.said(BODY)["ETag"])
    assert mirror.gets() == []
    with pytest.raises(DownloadError, match=rf"{mirror.url}/b\.tar: the server says 404"):
        ask(f"{mirror.url}/b.tar")


def test_asking_survives_one_drop(mirror: Mirror) -> None:
    mirror.head_drops = 1
    assert ask(f"{mirror.url}/a.tar").size == len(BODY)
    mirror.head_drops = 2
    with pytest.raises(DownloadError, match="no connection"):
        ask(f"{mirror.url}/a.tar")


@pytest.mark.parametrize("status", [403, 405, 501, 503])
def test_a_server_that_does_not_answer_the_question_may_still_serve(mirror: Mirror, status: int) -> None:
    mirror.head_status = status
    assert ask(f"{mirror.url}/a.tar").size is None


def test_a_server_out_of_reach_is_told_in_one_line(mirror: Mirror, tmp_path: Path) -> None:
    with serving({}) as gone:
        url = gone.url
    with pytest.raises(DownloadError, match=rf"{re.escape(url)}/a\.tar: no connection \(.*refused\); look at your net"):
        ask(f"{url}/a.tar")
    with pytest.raises(DownloadError, match=r"refused; gave up after"):
        fetch(f"{url}/a.tar", tmp_path / "a.tar")
    for wrong in ("ftp://x/a.tar", "file:///etc/hostname", "a.tar"):
        with pytest.raises(DownloadError, match="want an address that begins with http"):
            ask(wrong)
    with pytest.raises(DownloadError, match="no address of a file"):
        ask("http://127.0.0.1:port/a.tar")
