"""Downloads from a local server: transfers that are interrupted, and the command from nothing to graphs that train."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gbr import download
from gbr.data.collection import graph_files, resolve
from gbr.data.graph import read_graph
from gbr.download import COLLECTIONS, INDEX_FILES, TRIES, Archive, fetch, main, remote_sizes
from gbr.errors import DownloadError
from tests.made import collection, write_collection
from tests.mirror import Mirror, file_size_limit, npz, serving, tar, tree, zipped

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]

BODY = bytes(index * 7 % 251 for index in range(300_000))
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


def fetched(mirror: Mirror, folder: Path) -> bytes:
    """Download ``a.tar``; nothing else must be left in the folder."""
    fetch(f"{mirror.url}/a.tar", folder / "a.tar")
    assert os.listdir(folder) == ["a.tar"]
    return (folder / "a.tar").read_bytes()


def ranges(mirror: Mirror) -> list[str | None]:
    return [headers["Range"] for headers in mirror.gets()]


@pytest.mark.parametrize(("size", "sized"), [(0, True), (len(BODY), True), (len(BODY), False)])
def test_a_file_is_downloaded(server: Mirror, tmp_path: Path, size: int, sized: bool) -> None:
    server.files["a.tar"], server.sized = BODY[:size], sized
    seen: list[tuple[int, int | None]] = []
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a.tar").read_bytes() == BODY[:size]
    assert seen[-1] == (size, size if sized else None)
    assert remote_sizes([f"{server.url}/a.tar"]) == [size if sized else 0]


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_dropped_connection_is_resumed(
    server: Mirror, tmp_path: Path, pauses: list[float], capsys: Capture, validator: str
) -> None:
    server.drop, server.validators = [98_304, 8_192, 150_000], (validator,)
    assert fetched(server, tmp_path) == BODY
    assert ranges(server) == [None, "bytes=98304-", "bytes=106496-", "bytes=253952-"]
    assert server.gets()[1]["If-Range"] == server.validators_of(BODY)[validator]
    assert pauses == [1, 1, 1]
    assert "a.tar: the connection ended early at byte 98304; trying again in 1 s" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"ranges": False}, {"validators": ()}])
def test_a_server_that_cannot_resume_is_started_over(server: Mirror, tmp_path: Path, settings: dict[str, Any]) -> None:
    server.drop = [100_000]
    vars(server).update(settings)
    assert fetched(server, tmp_path) == BODY


@pytest.mark.parametrize("ignore_validator", [False, True])
def test_a_file_that_changes_between_attempts_is_started_over(
    server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore_validator: bool
) -> None:
    changed = BODY[::-1] + b"longer"
    server.drop, server.ignore_validator = [100_000], ignore_validator
    change = SimpleNamespace(sleep=lambda _: server.files.update({"a.tar": changed}))
    monkeypatch.setattr(download, "time", change)
    assert fetched(server, tmp_path) == changed


@pytest.mark.parametrize(
    "state",
    [{"url": "http://elsewhere/a.tar", "size": len(BODY), "validator": '"x"'}, {"size": 10, "validator": '"x"'}],
)
def test_a_partial_file_of_unknown_origin_is_started_over(
    server: Mirror, tmp_path: Path, state: dict[str, object]
) -> None:
    (tmp_path / "a.tar.part").write_bytes(BODY[70_000::-1])
    (tmp_path / "a.tar.part.json").write_text(json.dumps({"url": f"{server.url}/a.tar"} | state))
    assert fetched(server, tmp_path) == BODY
    assert ranges(server) == [None]


def test_a_busy_server_is_asked_again(server: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    server.status = [429, 503, 429]
    assert fetched(server, tmp_path) == BODY
    assert pauses == [2, 4, 8]


def test_a_refusal_is_final(server: Mirror, tmp_path: Path) -> None:
    server.status = [410]
    with pytest.raises(DownloadError, match=r"a\.tar: the server says 410 .*; name another server with --base"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    assert (len(server.gets()), os.listdir(tmp_path)) == (1, [])
    with pytest.raises(DownloadError, match=r"b\.tar: the server says 404"):
        remote_sizes([f"{server.url}/b.tar"])


def test_attempts_without_progress_are_limited(server: Mirror, tmp_path: Path, pauses: list[float]) -> None:
    server.drop = [100_000] + [0] * 50
    with pytest.raises(DownloadError, match=rf"ended early; gave up after {TRIES} attempts .* resume at byte 98304"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    server.drop = [10_000, *([0] * (TRIES - 1))] * 3  # progress resets the count
    assert fetched(server, tmp_path) == BODY


def test_a_disk_that_fills_up_keeps_what_was_downloaded(server: Mirror, tmp_path: Path) -> None:
    with (
        file_size_limit(98_304),
        pytest.raises(DownloadError, match=r"a\.tar\.part: cannot be written \(File too large\); make room"),
    ):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar")
    assert fetched(server, tmp_path) == BODY
    assert ranges(server)[-1] == "bytes=98304-"


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


LISTS = {f"eval_indices/{name}": b'{"a": [0, 1, 2]}' for name in INDEX_FILES.values()}


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
    with serving({one.name: tar(members(graphs, one)) for one in ARCHIVES} | LISTS) as mirror:
        yield mirror


@pytest.fixture
def run(mirror: Mirror, tmp_path: Path, capsys: Capture) -> Run:
    """Run the command against the mirror, or with ``--from``: status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        base = [] if "--from" in arguments else ["--base-url", mirror.url]
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
    assert out == "tile:xla: 4 train, 2 valid, 1 test graphs\n"
    assert "CC BY 4.0" in err
    assert visible(root) == {name: body for name, body in graphs.items() if "/tile/" in name}
    assert os.listdir(root) == ["npz"]
    for path in graph_files(resolve("tile:xla", root), root, "train"):
        assert read_graph(path).n_configs == 30


def test_existing_graphs_are_not_downloaded_again(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("tile", "--split", "valid,test")[0] == 0
    mirror.requests.clear()
    status, out, _ = run("tile", "--split", "valid,test", "--json")
    assert (status, mirror.requests) == (0, [])
    assert json.loads(out) == {"graphs": {"tile:xla": {"valid": 2, "test": 1}}}
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
    archives = tmp_path / "data" / "archives"
    assert run("tile", "--split", "valid", "--keep")[0] == 0
    assert os.listdir(archives) == [TILE[1].name]
    shutil.rmtree(tmp_path / "data" / "npz")
    mirror.requests.clear()
    assert run("tile", "--split", "valid")[0] == 0
    assert (mirror.gets(), os.listdir(archives)) == ([], [])


def test_a_bad_archive_is_one_error_and_is_removed(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    good, mirror.files[TILE[1].name] = mirror.files[TILE[1].name], b"<html>log in</html>" * 99
    status, out, err = run("tile", "--split", "valid")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"gbr download: error: .*npz_tile_xla_valid\.tar: not a complete tar or zip archive .*\n", err)
    assert visible(tmp_path / "data") == {}
    mirror.files[TILE[1].name] = good
    assert run("tile", "--split", "valid")[0] == 0


def test_a_missing_archive_is_reported_before_anything_is_downloaded(run: Run, mirror: Mirror) -> None:
    status, _, err = run("tile", LAYOUT)
    assert (status, mirror.gets()) == (1, [])
    assert re.search(r"npz_layout_nlp_random_\w+\.tar: the server says 404", err)


def test_a_full_disk_is_reported_beforehand(run: Run, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    status, _, err = run("tile", "--split", "valid")
    assert status == 1
    assert re.search(r"data\S*: downloading and unpacking needs .* MB, the disk has 1\.0 kB left", err)
    assert mirror.gets() == []


def test_the_lists_of_the_official_evaluation(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("eval-indices")[0] == 0
    assert visible(tmp_path / "data") == LISTS
    mirror.requests.clear()
    (tmp_path / "data/eval_indices/xla_random.json").write_text("{}")
    assert run("eval-indices")[0] == 0
    assert [path for _, path, _ in mirror.requests] == ["/eval_indices/xla_random.json"]
    assert visible(tmp_path / "data") == LISTS


def test_a_bad_list_is_one_error(run: Run, mirror: Mirror) -> None:
    mirror.files["eval_indices/xla_default.json"] = b'{"a": ["x"]}'
    status, _, err = run("eval-indices")
    assert status == 1
    assert re.fullmatch(r"gbr download: error: .*xla_default\.json.*\n", err)


@pytest.mark.parametrize("form", ["folder", "compressed", "npz_all.tar", "predict-ai-model-runtime.zip"])
def test_local_archives_need_no_network(
    run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    if form in ("folder", "compressed"):
        source, suffix, mode = folder, *(("", "w") if form == "folder" else (".gz", "w:gz"))
        for one in ARCHIVES:
            (folder / f"{one.name}{suffix}").write_bytes(tar(members(graphs, one), mode))
    else:
        source, make = folder / form, tar if form.endswith("tar") else zipped
        source.write_bytes(make({f"npz_all/{name}": body for name, body in graphs.items()} | {"sample.csv": b"ID\n"}))
    before = tree(folder)
    assert run("tile", "--from", str(source))[0] == 0
    assert run(LAYOUT, "--split", "valid", "--from", str(source))[0] == 0
    assert mirror.requests == []
    assert visible(tmp_path / "data") == graphs
    assert tree(folder) == before


def test_missing_and_damaged_local_archives_are_reported(run: Run, tmp_path: Path) -> None:
    for name, message in (("tile", "npz_tile_xla_train.tar (or .tar.gz) not found"), ("eval-indices", "not found")):
        status, _, err = run(name, "--from", str(tmp_path))
        assert (status, message in err) == (1, True)
    path = tmp_path / TILE[1].name
    path.write_bytes(b"damaged")
    assert run("tile", "--split", "valid", "--from", str(tmp_path))[0] == 1
    assert path.read_bytes() == b"damaged"


def test_the_list_shows_sizes_and_what_exists(run: Run, mirror: Mirror) -> None:
    for one in (Archive(name, split) for name in COLLECTIONS for split in ("train", "valid", "test")):
        mirror.files.setdefault(one.name, bytes(5000))
    run("tile", "--split", "test")
    entries = json.loads(run("--list", "--json")[1])
    assert len(entries) == 15
    size = len(mirror.files[TILE[2].name])
    assert entries[2] == {"name": "tile:xla", "split": "test", "bytes": size, "graphs": 844, "present": 1}
    status, out, _ = run("--list", "tile")
    assert status == 0
    assert re.search(r"tile:xla +test +\S+ kB +844 +1", out)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "expected a NAME: tile:xla"),
        (["tile:cpu"], "tile:cpu: not a collection of TpuGraphs; expected one of tile:xla"),
        (["tile", "--from", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], match: str) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert match in err
