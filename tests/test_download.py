"""Downloads from a local server: transfers that are interrupted, and the command from nothing to graphs that train."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gbr import download
from gbr.data.collection import Subset, graph_files, resolve
from gbr.data.graph import read_graph
from gbr.download import COLLECTIONS, INDEX_FILES, TRIES, Archive, fetch, main, remote_sizes
from gbr.errors import DownloadError
from tests.collection import write_collection
from tests.made import collection
from tests.mirror import Mirror, npz, serving, tar, tree, zipped

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]

BODY = bytes(index * 7 % 251 for index in range(300_000))
OTHER = BODY[::-1]
LAYOUT = "layout:nlp:random"
TILE = [Archive("tile:xla", split) for split in ("train", "valid", "test")]
ARCHIVES = [*TILE, Archive(LAYOUT, "valid")]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited between attempts."""
    seen: list[float] = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=seen.append))
    return seen


@pytest.fixture
def server(pauses: list[float]) -> Iterator[Mirror]:
    with serving({"a.tar": BODY}) as mirror:
        yield mirror


def fetched(mirror: Mirror, folder: Path, notes: list[str] | None = None) -> bytes:
    """Download ``a.tar``; nothing else must be left in the folder."""
    fetch(f"{mirror.url}/a.tar", folder / "a.tar", note=(notes if notes is not None else []).append)
    assert os.listdir(folder) == ["a.tar"]
    return (folder / "a.tar").read_bytes()


def ranges(mirror: Mirror) -> list[str | None]:
    return [headers["Range"] for headers in mirror.gets()]


@pytest.mark.parametrize("size", [0, 1, len(BODY)])
def test_a_file_is_downloaded(server: Mirror, tmp_path: Path, pauses: list[float], size: int) -> None:
    server.files["a.tar"] = BODY[:size]
    seen: list[tuple[int, int | None]] = []
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a.tar").read_bytes() == BODY[:size]
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert pauses == []


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_dropped_connection_resumes_at_its_byte(
    server: Mirror, tmp_path: Path, pauses: list[float], validator: str
) -> None:
    server.drop, server.validators, notes = [98_304, 8_192, 150_000], (validator,), []
    assert fetched(server, tmp_path, notes) == BODY
    assert ranges(server) == [None, "bytes=98304-", "bytes=106496-", "bytes=253952-"]
    assert server.gets()[1]["If-Range"] == server.validators_of(BODY)[validator]
    assert pauses == [1, 1, 1]
    assert notes[0] == "a.tar: the connection ended early at byte 98304; trying again in 1 s"


@pytest.mark.parametrize(
    "settings", [{"ranges": False}, {"validators": ()}, {"headers": {"ETag": 'W/"weak"'}}, {"shift": -1}]
)
def test_a_server_that_cannot_resume_is_started_over(
    server: Mirror, tmp_path: Path, settings: dict[str, object]
) -> None:
    server.drop = [100_000]
    if "headers" in settings:
        server.validators = ()
    vars(server).update(settings)
    assert fetched(server, tmp_path) == BODY
    assert ranges(server)[-1] is None or not server.ranges


@pytest.mark.parametrize("ignore_validator", [False, True])
@pytest.mark.parametrize("size", [50_000, len(BODY) + 10])
def test_a_file_that_changes_between_attempts_is_started_over(
    server: Mirror, tmp_path: Path, ignore_validator: bool, size: int
) -> None:
    changed = (OTHER * 2)[:size]
    server.drop, server.ignore_validator = [100_000], ignore_validator

    def change(_: str) -> None:
        server.files["a.tar"] = changed

    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", note=change)
    assert (tmp_path / "a.tar").read_bytes() == changed


def test_a_later_run_resumes(server: Mirror, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 120_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", interrupt)
    kept = (tmp_path / "a.tar.part").read_bytes()
    assert 120_000 < len(kept) < len(BODY)
    assert kept == BODY[: len(kept)]
    assert fetched(server, tmp_path) == BODY
    assert ranges(server) == [None, f"bytes={len(kept)}-"]


def test_a_complete_partial_file_is_not_requested_again(server: Mirror, tmp_path: Path) -> None:
    state = {"url": f"{server.url}/a.tar", "size": len(BODY), "validator": '"x"', "md5": None}
    (tmp_path / "a.tar.part").write_bytes(BODY)
    (tmp_path / "a.tar.part.json").write_text(json.dumps(state))
    assert fetched(server, tmp_path) == BODY
    assert server.requests == []


@pytest.mark.parametrize(
    "state",
    [
        {"url": "http://elsewhere/a.tar", "size": len(BODY), "validator": '"x"'},
        {"size": 10, "validator": '"x"'},
        {"size": "many", "validator": '"x"'},
        {"nonsense": 1},
    ],
    ids=["other server", "longer than the file", "no number", "other format"],
)
def test_a_partial_file_of_unknown_origin_is_started_over(
    server: Mirror, tmp_path: Path, state: dict[str, object]
) -> None:
    (tmp_path / "a.tar.part").write_bytes(OTHER[:70_000])
    (tmp_path / "a.tar.part.json").write_text(json.dumps({"url": f"{server.url}/a.tar"} | state))
    assert fetched(server, tmp_path) == BODY
    assert ranges(server) == [None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server: Mirror, tmp_path: Path, pauses: list[float], status: int) -> None:
    server.status = [status] * 3
    assert fetched(server, tmp_path) == BODY
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize(("retry_after", "pause"), [("7", 7), ("86400", 30)])
def test_retry_after_is_respected_within_reason(
    server: Mirror, tmp_path: Path, pauses: list[float], retry_after: str, pause: float
) -> None:
    server.headers, server.status = {"Retry-After": retry_after}, [503]
    assert fetched(server, tmp_path) == BODY
    assert pauses == [pause]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server: Mirror, tmp_path: Path, pauses: list[float], status: int) -> None:
    server.status = [status]
    with pytest.raises(
        DownloadError, match=rf"a\.tar: the server says {status} \w+.*; name another server with --base"
    ):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    assert (len(server.gets()), pauses, os.listdir(tmp_path)) == (1, [], [])


def test_attempts_without_progress_are_limited(server: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    server.status = [500] * 100
    with pytest.raises(DownloadError, match=f"the server says 500 .*; gave up after {TRIES} attempts without progress"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    assert pauses == [1, 2, 4, 8, 16, 30]
    server.status, server.drop = [], [100_000] + [0] * 50
    with pytest.raises(DownloadError, match=r"the connection ended early; .*its first 98304 bytes are kept in .*part;"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    server.drop = [10_000, *([0] * (TRIES - 1))] * 3  # progress resets the count
    assert fetched(server, tmp_path) == BODY


def test_wrong_lengths(server: Mirror, tmp_path: Path) -> None:
    server.surplus = 100
    with pytest.raises(DownloadError, match="gave up after"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    server.surplus = 10**17
    with pytest.raises(DownloadError, match=r"needs 100000\.0 TB, the disk has"):
        fetch(f"{server.url}/b/../a.tar", tmp_path / "b.tar")
    server.surplus = None
    fetch(f"{server.url}/a.tar", tmp_path / "c.tar")
    assert (tmp_path / "c.tar").read_bytes() == BODY
    assert remote_sizes([f"{server.url}/a.tar"]) == [None]


def test_a_server_that_stalls_is_asked_again(server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    server.pause, notes = 1.0, []

    def hurry(text: str) -> None:
        notes.append(text)
        server.pause = 0.0

    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", note=hurry)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert notes == ["a.tar: the server does not answer at byte 0; trying again in 1 s"]


def test_redirects_are_followed_also_when_resuming(server: Mirror, tmp_path: Path) -> None:
    server.files["b.tar"] = BODY
    server.headers, server.status, server.drop = {"Location": f"{server.url}/b.tar"}, [302, 200, 302, 200], [100_000]
    assert fetched(server, tmp_path) == BODY
    assert ranges(server)[-1] == "bytes=98304-"


@pytest.mark.parametrize("location", ["file:///etc/hostname", "/a.tar"])
def test_redirects_lead_to_http_and_end(server: Mirror, tmp_path: Path, location: str) -> None:
    server.headers, server.status = {"Location": location}, [302] * 50
    with pytest.raises(DownloadError, match="not the http address of a file"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")


def test_the_md5_of_the_server_is_checked(server: Mirror, tmp_path: Path) -> None:
    md5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    server.headers, server.drop = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}, [100_000]
    assert fetched(server, tmp_path) == BODY
    server.files["a.tar"] = OTHER
    with pytest.raises(DownloadError, match="MD5 differs from the server's; the file is removed"):
        fetch(f"{server.url}/a.tar", tmp_path / "b.tar")
    assert os.listdir(tmp_path) == ["a.tar"]


def test_a_disk_that_fills_up_keeps_what_was_downloaded(server: Mirror, tmp_path: Path) -> None:
    """A limit on the size of files fails in the middle of a write, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (98_304, hard))
    try:
        with pytest.raises(DownloadError, match=r"a\.tar\.part: cannot be written \(File too large\); make room"):
            fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fetched(server, tmp_path) == BODY
    assert ranges(server)[-1] == "bytes=98304-"


def test_sizes_on_a_server(server: Mirror) -> None:
    assert remote_sizes([f"{server.url}/a.tar"] * 2) == [len(BODY)] * 2
    with pytest.raises(DownloadError, match=r"b\.tar: the server says 404"):
        remote_sizes([f"{server.url}/b.tar"])
    server.head_status = 405
    assert remote_sizes([f"{server.url}/a.tar"]) == [None]


def test_a_server_that_cannot_be_reached(tmp_path: Path, pauses: list[float]) -> None:
    with serving({}) as gone:
        url = f"{gone.url}/a.tar"
    with pytest.raises(DownloadError, match=r"a\.tar: no connection \(.*refused\); check your network"):
        remote_sizes([url])
    with pytest.raises(DownloadError, match=r"refused; gave up after"):
        fetch(url, tmp_path / "a.tar")
    for wrong in ("ftp://x/a.tar", "a.tar", "http://127.0.0.1:port/a.tar"):
        with pytest.raises(DownloadError, match="not the http address of a file"):
            remote_sizes([wrong])


def index_lists() -> dict[str, bytes]:
    """The four lists of the official evaluation, of as many graphs as the real ones."""
    return {
        f"eval_indices/{name}": json.dumps({f"graph_{number}": [0, 1, 2] for number in range(count)}).encode()
        for name, count in INDEX_FILES.values()
    }


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small tile:xla and one split of a layout collection, by path."""
    root = write_collection(tmp_path_factory.mktemp("made"), {"train": 4, "valid": 2, "test": 1}, "tile:xla")
    collection(root, LAYOUT, valid=2)
    return {name: body for name, body in tree(root).items() if name.endswith(".npz")}


def members(graphs: dict[str, bytes], archive: Archive) -> dict[str, bytes]:
    return {name: body for name, body in graphs.items() if Path(name).parent == archive.folder(Path())}


@pytest.fixture
def mirror(graphs: dict[str, bytes], pauses: list[float]) -> Iterator[Mirror]:
    with serving({one.name: tar(members(graphs, one)) for one in ARCHIVES} | index_lists()) as mirror:
        yield mirror


@pytest.fixture
def run(mirror: Mirror, tmp_path: Path, capsys: Capture) -> Run:
    """Run the command against the mirror: status, stdout, stderr."""

    def run(*arguments: str, network: bool = True) -> tuple[int, str, str]:
        base = ["--base-url", mirror.url] if network else []
        status = main([*arguments, "--data", str(tmp_path / "data"), *base])
        return status, *capsys.readouterr()

    return run


def visible(root: Path) -> dict[str, bytes]:
    return {name: body for name, body in tree(root).items() if not Path(name).name.startswith(".")}


def test_a_collection_is_ready_to_train(run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path) -> None:
    mirror.drop = [9000]
    status, out, err = run("tile")
    root = tmp_path / "data"
    assert status == 0
    assert out.splitlines() == [
        "tile:xla: 4 train, 2 valid, 1 test graphs",
        f"next: python -m gbr.train --subset tile:xla --data {root}",
    ]
    assert "CC BY 4.0" in err
    assert visible(root) == {name: body for name, body in graphs.items() if "/tile/" in name}
    assert os.listdir(root) == ["npz"]
    for path in graph_files(resolve("tile:xla", root), root, "train"):
        assert read_graph(path).n_configs == 30


def test_existing_graphs_are_not_downloaded_again(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("tile", "--split", "valid,test")[0] == 0
    mirror.requests.clear()
    status, out, err = run("tile", "--split", "valid,test", "--json")
    assert (status, mirror.requests) == (0, [])
    assert "tile:xla valid: 2 graphs exist already" in err
    assert json.loads(out) | {"next": None} == {
        "graphs": {"tile:xla": {"valid": 2, "test": 1}},
        "written": 0,
        "kept": 0,
        "next": None,
    }
    damaged = next((tmp_path / "data/npz/tile/xla/valid").glob("*.npz"))
    damaged.write_bytes(b"cut")
    assert run("tile", "--split", "valid,test")[0] == 0
    assert len(mirror.gets()) == 1
    assert read_graph(damaged).n_configs == 30


def test_graphs_unpacked_by_hand_are_counted(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / "data/npz/layout/xla/default/valid"
    folder.mkdir(parents=True)
    for number in range(7):
        (folder / f"{number}.npz").write_bytes(npz(9))
    assert run("layout:xla:default", "--split", "valid")[0] == 0
    assert mirror.requests == []
    (folder / "0.npz").unlink()
    assert run("layout:xla:default", "--split", "valid")[0] == 1


def test_kept_archives_are_used_again(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("tile", "--keep")[0] == 0
    archives = tmp_path / "data" / "archives"
    assert sorted(os.listdir(archives)) == sorted(one.name for one in TILE)
    shutil.rmtree(tmp_path / "data" / "npz")
    mirror.requests.clear()
    assert run("tile")[0] == 0
    assert mirror.gets() == []
    assert not archives.exists()


def test_repack(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("gbr.data.repack.repack_all", lambda *arguments: calls.append(arguments))
    assert run(LAYOUT, "tile:xla", "--split", "valid", "--repack")[0] == 0
    assert [arguments[:3] for arguments in calls] == [(Subset(LAYOUT), tmp_path / "data", ["valid"])]


def test_ctrl_c_and_resume(graphs: dict[str, bytes], mirror: Mirror, tmp_path: Path) -> None:
    """In a process of its own, interrupted as by a terminal."""
    mirror.files[TILE[0].name] = body = tar(members(graphs, TILE[0]) | {"padding": bytes(1 << 21)})
    mirror.pause = 0.05
    command = [sys.executable, "-m", "gbr.download", "tile:xla", "--split", "train", "--base-url", mirror.url]
    part = tmp_path / "data" / "archives" / f"{TILE[0].name}.part"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > 50_000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    kept = part.read_bytes()
    assert kept == body[: len(kept)]
    assert not (tmp_path / "data" / "npz").exists()
    mirror.pause = 0.0
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert ranges(mirror)[-1] == f"bytes={len(kept)}-"
    assert visible(tmp_path / "data") == members(graphs, TILE[0])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"<html>log in</html>" * 99, "not a complete tar or zip archive"),
        (tar({"npz/tile/xla/test/x.npz": npz(9)}), "expected graphs of tile:xla valid"),
        (tar({"npz/tile/xla/valid/x.npz": b"no npz"}), r"is not a complete \.npz"),
    ],
)
def test_a_bad_archive_is_one_error_and_is_removed(
    run: Run, mirror: Mirror, tmp_path: Path, contents: bytes, message: str
) -> None:
    good, mirror.files[TILE[1].name] = mirror.files[TILE[1].name], contents
    status, out, err = run("tile", "--split", "valid")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        rf"gbr download: error: .*npz_tile_xla_valid\.tar: .*{message}.*\(the archive is removed\)\n", err
    )
    assert visible(tmp_path / "data") == {}
    mirror.files[TILE[1].name] = good
    assert run("tile", "--split", "valid")[0] == 0


def test_a_missing_archive_is_reported_before_anything_is_downloaded(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    status, _, err = run("tile", LAYOUT)
    assert status == 1
    assert re.search(r"npz_layout_nlp_random_\w+\.tar: the server says 404", err)
    assert mirror.gets() == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("step", ["downloading and unpacking", "unpacking npz_tile_xla_valid.tar"])
def test_a_full_disk_is_reported_beforehand(
    run: Run, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    usage, archive = shutil.disk_usage(tmp_path), tmp_path / "data/archives" / TILE[1].name
    full = step.startswith("downloading")
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=1000 if full or archive.exists() else usage.free)
    )
    status, _, err = run("tile", "--split", "valid")
    assert status == 1
    assert re.search(rf"data\S*: {step} needs .* MB, the disk has 1\.0 kB left", err)
    assert len(mirror.gets()) == (0 if full else 1)


def test_the_lists_of_the_official_evaluation(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    status, out, _ = run("eval-indices")
    assert status == 0
    assert visible(tmp_path / "data") == index_lists()
    assert "next: python -m gbr.evaluate" in out
    mirror.requests.clear()
    (tmp_path / "data/eval_indices/xla_random.json").write_text("{}")
    assert run("eval-indices")[0] == 0
    assert [path for _, path, _ in mirror.requests] == ["/eval_indices/xla_random.json"]
    assert visible(tmp_path / "data") == index_lists()


@pytest.mark.parametrize("body", [b"not found", b"[]", b'{"a": [1, 2]}', b'{"a": [1, "x"]}'])
def test_a_bad_list_is_one_error(run: Run, mirror: Mirror, tmp_path: Path, body: bytes) -> None:
    mirror.files["eval_indices/xla_default.json"] = body
    status, _, err = run("eval-indices")
    assert status == 1
    assert re.fullmatch(r"gbr download: error: .*xla_default\.json.*\n", err)
    assert visible(tmp_path / "data") == {}


def test_real_lists_are_accepted(run: Run, shared_data: Path, tmp_path: Path) -> None:
    assert run("eval-indices", "--from", str(shared_data), network=False)[0] == 0
    assert tree(tmp_path / "data" / "eval_indices") == tree(shared_data / "eval_indices")


@pytest.mark.parametrize("form", ["folder", "compressed", "npz_all", "kaggle", "named"])
def test_local_archives_need_no_network(
    run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    source = tmp_path / "downloads"
    source.mkdir()
    everything = {f"npz_all/{name}": body for name, body in graphs.items()}
    if form in ("folder", "compressed"):
        suffix, mode = ("", "w") if form == "folder" else (".gz", "w:gz")
        for one in ARCHIVES:
            (source / f"{one.name}{suffix}").write_bytes(tar(members(graphs, one), mode))
    elif form == "npz_all":
        (source / "npz_all.tar").write_bytes(tar(everything))
    else:
        name = "predict-ai-model-runtime.zip" if form == "kaggle" else "renamed"
        (source / name).write_bytes(zipped(everything | {"sample_submission.csv": b"ID,TopConfigs\n"}))
    before = tree(source)
    place = str(source / "renamed") if form == "named" else str(source)
    assert run("tile", "--from", place, network=False)[0] == 0
    status, out, _ = run(LAYOUT, "tile", "--split", "valid", "--from", place, network=False)
    assert (status, mirror.requests) == (0, [])
    assert out.splitlines()[:2] == ["tile:xla: 2 valid graphs", "layout:nlp:random: 2 valid graphs"]
    assert visible(tmp_path / "data") == graphs
    assert tree(source) == before


def test_missing_local_archives_are_reported(run: Run, tmp_path: Path) -> None:
    for name, message in (("tile", "no archive of tile:xla train"), ("eval-indices", "xla_default.json not found")):
        status, _, err = run(name, "--from", str(tmp_path), network=False)
        assert (status, f"{tmp_path}: {message}" in err) == (1, True)
    path = tmp_path / TILE[1].name
    path.write_bytes(b"damaged")
    assert run("tile", "--split", "valid", "--from", str(tmp_path), network=False)[0] == 1
    assert path.read_bytes() == b"damaged"


def test_the_list_shows_sizes_and_what_exists(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    for one in (Archive(name, split) for name in COLLECTIONS for split in ("train", "valid", "test")):
        mirror.files.setdefault(one.name, bytes(5000))
    run("tile", "--split", "test")
    (tmp_path / "data/archives").mkdir()
    (tmp_path / "data/archives" / f"{TILE[0].name}.part").write_bytes(bytes(1200))
    entries = {(one["name"], one["part"]): one for one in json.loads(run("--list", "--json")[1])}
    assert len(entries) == 15 + 4
    assert entries["tile:xla", "test"] == {
        "name": "tile:xla",
        "part": "test",
        "graphs": 844,
        "here": 1,
        "complete": True,
        "fetched": 0,
        "url": f"{mirror.url}/{TILE[2].name}",
        "bytes": len(mirror.files[TILE[2].name]),
    }
    assert entries["tile:xla", "train"]["fetched"] == 1200
    status, out, _ = run("--list", "tile")
    assert status == 0
    assert re.search(r"tile:xla +test +\S+ kB +844 +all 1", out)
    assert re.search(r"tile:xla +train +\S+ kB +5709 +1\.2 kB downloaded", out)
    del mirror.files[TILE[0].name]
    status, out, err = run("--list", "tile")
    assert (status, "sizes are unknown" in err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "expected a NAME: tile:xla"),
        (["tile:cpu"], "tile:cpu: not a collection of TpuGraphs; expected one of tile:xla"),
        (["tile", "--split", "dev"], "--split"),
        (["tile", "--base-url", "ftp://x"], "--base-url ftp://x: expected an address"),
        (["tile", "--from", "nowhere"], "--from nowhere: no such folder"),
        (["tile", "--from", ".", "--base-url", "http://x"], "exclude each other"),
        (["tile", "--repack"], "--repack: only layout graphs are repacked"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], match: str) -> None:
    status, _, err = run(*arguments, network=False)
    assert status == 2
    assert match in err
