"""The command against a server on this machine, from nothing to graphs that train."""

from __future__ import annotations

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

import pytest

from gbr.data.collection import Subset, graph_files, resolve
from gbr.data.graph import read_graph
from gbr.download import main
from gbr.downloads import fetch
from gbr.downloads.catalogue import COLLECTIONS, INDEX_FILES, Piece
from gbr.downloads.retrieve import _peak
from gbr.errors import GbrError
from tests.collection import write_collection
from tests.made import collection
from tests.mirror import Mirror, npz, serving, tar, tree, zipped

Capture = pytest.CaptureFixture[str]

SIZES = {"train": 4, "valid": 2, "test": 1}
LAYOUT = "layout:nlp:random"


def lists(rows: int = 5) -> dict[str, bytes]:
    """The four lists of the official evaluation, as many graphs as the real ones."""
    counts = {"xla_default": 7, "xla_random": 7, "nlp_default": 20, "nlp_random": 20}
    return {
        f"eval_indices/{name}.json": json.dumps(
            {f"graph_{number}": list(range(rows)) for number in range(count)}
        ).encode()
        for name, count in counts.items()
    }


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small tile:xla and one split of a layout collection, by their paths."""
    root = write_collection(tmp_path_factory.mktemp("made"), SIZES, "tile:xla")
    collection(root, LAYOUT, valid=2)
    return {name: body for name, body in tree(root).items() if name.endswith(".npz")}


def of(graphs: dict[str, bytes], piece: Piece) -> dict[str, bytes]:
    return {name: body for name, body in graphs.items() if Path(name).parent == piece.folder(Path())}


TILE = [Piece("tile:xla", split) for split in SIZES]
PIECES = [*TILE, Piece(LAYOUT, "valid")]


@pytest.fixture
def mirror(graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(fetch, "time", type("Clock", (), {"sleep": lambda seconds: None}))
    with serving({piece.archive: tar(of(graphs, piece)) for piece in PIECES} | lists()) as mirror:
        yield mirror


@pytest.fixture
def run(mirror: Mirror, tmp_path: Path, capsys: Capture) -> Callable[..., tuple[int, str, str]]:
    """Run the command against the mirror: status, stdout, stderr."""

    def run(*arguments: str, network: bool = True) -> tuple[int, str, str]:
        base = ["--base-url", mirror.url] if network else []
        status = main([*arguments, "--data", str(tmp_path / "data"), *base])
        return status, *capsys.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]


def visible(root: Path) -> dict[str, bytes]:
    return {name: body for name, body in tree(root).items() if not Path(name).name.startswith(".")}


def test_a_collection_comes_ready_to_train(run: Run, graphs: dict[str, bytes], tmp_path: Path) -> None:
    status, out, err = run("tile")
    assert status == 0
    root = tmp_path / "data"
    assert out.splitlines() == [
        "tile:xla: 4 train, 2 valid, 1 test graphs",
        f"next: python -m gbr.train --subset tile:xla --data {root}",
    ]
    assert "CC BY 4.0" in err
    assert visible(root) == {name: body for name, body in graphs.items() if "/tile/" in name}
    assert os.listdir(root) == ["npz"]
    for path in graph_files(resolve("tile:xla", root), root, "train"):
        assert read_graph(path).n_configs == 30


def test_what_is_here_is_not_fetched_again(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("tile", "--split", "valid,test")[0] == 0
    mirror.asked.clear()
    status, out, err = run("tile", "--split", "valid,test")
    assert (status, mirror.asked) == (0, [])
    assert "tile:xla valid: 2 graphs are here already" in err
    assert out.startswith("tile:xla: 2 valid, 1 test graphs\n")
    # A file that went away or was cut is a reason to fetch again.
    lost = next((tmp_path / "data/npz/tile/xla/valid").glob("*.npz"))
    lost.write_bytes(b"cut")
    assert run("tile", "--split", "valid,test")[0] == 0
    assert len(mirror.gets()) == 1
    assert read_graph(lost).n_configs == 30


def test_data_unpacked_by_hand_are_known_by_their_number(
    run: Run, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data/npz/layout/xla/default/valid"
    folder.mkdir(parents=True)
    for number in range(7):
        (folder / f"{number}.npz").write_bytes(npz(9))
    assert run("layout:xla:default", "--split", "valid")[0] == 0
    assert mirror.asked == []
    (folder / "0.npz").rename(folder / ".0.npz")
    assert run("layout:xla:default", "--split", "valid")[0] == 1


def test_keep_leaves_the_archives_which_serve_again(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("tile", "--keep")[0] == 0
    archives = tmp_path / "data" / "archives"
    assert sorted(os.listdir(archives)) == sorted(piece.archive for piece in TILE)
    shutil.rmtree(tmp_path / "data" / "npz")
    mirror.asked.clear()
    assert run("tile")[0] == 0
    assert mirror.asked == []
    assert not archives.exists()


def test_json_is_for_machines(run: Run) -> None:
    status, out, _ = run("tile", "--split", "valid", "--json")
    assert status == 0
    assert json.loads(out) | {"next": None} == {
        "graphs": {"tile:xla": {"valid": 2}},
        "written": 2,
        "kept": 0,
        "next": None,
    }


def test_repack_copies_layouts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr("gbr.data.repack.repack_all", lambda *arguments: asked.append(arguments))
    assert run(LAYOUT, "tile:xla", "--split", "valid", "--repack")[0] == 0
    assert [arguments[:3] for arguments in asked] == [(Subset(LAYOUT), tmp_path / "data", ["valid"])]
    status, _, err = run("tile", "--repack")
    assert (status, "only layout graphs have a copy" in err) == (2, True)


def test_a_drop_in_the_midst_is_survived(run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path) -> None:
    mirror.drop = [9000, 100, 9000]
    status, _, err = run("tile", "--split", "train")
    assert status == 0
    assert "npz_tile_xla_train.tar: the connection ended early at byte 9000; trying again in 1 s" in err
    assert visible(tmp_path / "data") == of(graphs, TILE[0])


def test_ctrl_c_and_the_same_command_goes_on(graphs: dict[str, bytes], mirror: Mirror, tmp_path: Path) -> None:
    """A process of its own, stopped as a terminal stops it."""
    mirror.files["npz_tile_xla_train.tar"] = body = tar(of(graphs, TILE[0]) | {"padding": bytes(1 << 20)})
    mirror.pause = 0.05
    command = [sys.executable, "-m", "gbr.download", "tile:xla", "--split", "train", "--base-url", mirror.url]
    part = tmp_path / "data" / "archives" / "npz_tile_xla_train.tar.part"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > 50_000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "gbr download: interrupted; completed files are kept, run the same command again to resume"
    )
    assert "Traceback" not in err
    kept = part.read_bytes()
    assert 50_000 < len(kept) < len(body)
    assert kept == body[: len(kept)]
    assert not (tmp_path / "data" / "npz").exists()
    mirror.pause = 0.0
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert mirror.gets()[-1]["Range"] == f"bytes={len(kept)}-"
    assert visible(tmp_path / "data") == of(graphs, TILE[0])
    assert "--data" not in done.stdout


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"<html>log in</html>" * 99, "no whole archive"),
        (tar({"npz/tile/xla/valid/../../../../../x.npz": npz(9)}), "leaves the folder"),
        (tar({"npz/tile/xla/test/x.npz": npz(9)}), "holds no graphs of tile:xla valid"),
        (tar({"npz/tile/xla/valid/x.npz": b"no npz"}), r"is no whole \.npz"),
    ],
)
def test_a_bad_archive_is_one_error_and_is_not_kept(
    run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path, contents: bytes, message: str
) -> None:
    good = mirror.files["npz_tile_xla_valid.tar"]
    mirror.files["npz_tile_xla_valid.tar"] = contents
    status, out, err = run("tile", "--split", "valid")
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"gbr download: error: .*npz_tile_xla_valid\.tar: .*{message}.*fetches it anew\n", err)
    assert visible(tmp_path / "data") == {}
    mirror.files["npz_tile_xla_valid.tar"] = good
    assert run("tile", "--split", "valid")[0] == 0
    assert visible(tmp_path / "data") == of(graphs, TILE[1])


def test_a_length_that_is_too_short_is_noticed(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    mirror.surplus = -12_000
    status, _, err = run("tile", "--split", "train")
    assert status == 1
    assert re.search(r"no whole archive \(.*\); fetch it again; it is removed", err)
    assert visible(tmp_path / "data") == {}


def test_a_missing_archive_is_told_before_anything_is_fetched(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    status, _, err = run("tile", "layout:nlp:random")
    assert status == 1
    assert re.search(r"npz_layout_nlp_random_\w+\.tar: the server says 404", err)
    assert mirror.gets() == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("when", ["fetching and unpacking", "unpacking npz_tile_xla_valid.tar"])
def test_a_full_disk_is_told_beforehand(
    run: Run, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = usage.free

    def left(path: Path) -> object:
        fetched = when.startswith("unpacking") and (tmp_path / "data/archives/npz_tile_xla_valid.tar").exists()
        return usage._replace(free=1000 if fetched or when.startswith("fetching") else free)

    monkeypatch.setattr(shutil, "disk_usage", left)
    status, _, err = run("tile", "--split", "valid")
    assert status == 1
    assert re.search(rf"data\S*: {when} needs .* MB, the disk has 1\.0 kB left; make room", err)
    assert len(mirror.gets()) == (0 if when.startswith("fetching") else 1)
    assert [name for name in visible(tmp_path / "data") if name.endswith(".npz")] == []


def test_room_is_counted_for_what_is_there_at_once() -> None:
    assert _peak([(100, 0)], keep=False) == 200
    assert _peak([(100, 40)], keep=False) == 160
    assert _peak([(100, 0), (10, 0), (50, 0)], keep=False) == 210
    assert _peak([(100, 0), (10, 0), (150, 0)], keep=False) == 410
    assert _peak([(100, 0), (10, 0), (50, 0)], keep=True) == 320


def test_the_lists_of_the_official_evaluation(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    status, out, _ = run("eval-indices")
    assert status == 0
    assert visible(tmp_path / "data") == lists()
    assert "next: python -m gbr.evaluate" in out
    mirror.asked.clear()
    (tmp_path / "data/eval_indices/xla_random.json").write_text("{}")
    assert run("eval-indices")[0] == 0
    assert [path for _, path, _ in mirror.asked] == ["/eval_indices/xla_random.json"]
    assert visible(tmp_path / "data") == lists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not found", "no JSON"),
        (b"[]", "holds no graphs"),
        (b'{"a": [1, 2]}', "lists 1 graphs, want 7"),
        (b'{"a": [1, "x"]}', "want a list of row numbers"),
    ],
)
def test_a_bad_list_is_one_error(run: Run, mirror: Mirror, tmp_path: Path, body: bytes, message: str) -> None:
    mirror.files["eval_indices/xla_default.json"] = body
    status, _, err = run("eval-indices")
    assert status == 1
    assert err.count("\n") == 1
    assert message in err
    assert visible(tmp_path / "data") == {}


def test_the_real_lists_are_taken(run: Run, shared_data: Path, tmp_path: Path) -> None:
    assert run("eval-indices", "--from", str(shared_data), network=False)[0] == 0
    assert tree(tmp_path / "data" / "eval_indices") == tree(shared_data / "eval_indices")


@pytest.mark.parametrize("how", ["folder", "compressed", "npz_all", "kaggle", "named"])
def test_archives_that_are_here_need_no_network(
    run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path, how: str
) -> None:
    source = tmp_path / "downloads"
    source.mkdir()
    below = {f"npz_all/{name}": body for name, body in graphs.items()}
    if how == "folder":
        for piece in PIECES:
            (source / piece.archive).write_bytes(tar(of(graphs, piece)))
    elif how == "compressed":
        for piece in PIECES:
            (source / f"{piece.archive}.gz").write_bytes(tar(of(graphs, piece), "w:gz"))
    elif how == "npz_all":
        (source / "npz_all.tar").write_bytes(tar(below))
    else:
        name = "predict-ai-model-runtime.zip" if how == "kaggle" else "from-a-friend"
        (source / name).write_bytes(zipped(below | {"sample_submission.csv": b"ID,TopConfigs\n"}))
    before = tree(source)
    place = str(source / "from-a-friend") if how == "named" else str(source)
    assert run("tile", "--from", place, network=False)[0] == 0
    status, out, _ = run("layout:nlp:random", "tile", "--split", "valid", "--from", place, network=False)
    assert (status, mirror.asked) == (0, [])
    assert out.splitlines()[:2] == ["tile:xla: 2 valid graphs", "layout:nlp:random: 2 valid graphs"]
    assert visible(tmp_path / "data") == graphs
    assert tree(source) == before


def test_archives_that_are_not_here_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    place = str(tmp_path / "empty")
    status, _, err = run("tile", "--from", place, network=False)
    assert status == 1
    assert f"{place}: has no archive of tile:xla train; want npz_tile_xla_train.tar (or .tar.gz), npz_all.tar" in err
    status, _, err = run("eval-indices", "--from", place, network=False)
    assert status == 1
    assert f"{place}: has no xla_default.json; name a folder that has it" in err


def test_a_bad_archive_of_the_user_is_not_removed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "npz_tile_xla_valid.tar"
    path.write_bytes(b"torn")
    status, _, err = run("tile", "--split", "valid", "--from", str(tmp_path), network=False)
    assert (status, path.read_bytes()) == (1, b"torn")
    assert "removed" not in err


def rows(out: str) -> dict[tuple[str, str], list[str]]:
    cells = [line.split() for line in out.splitlines() if re.match(r"(tile|layout|eval)", line)]
    return {(name, part): rest for name, part, *rest in cells}


def test_the_list_tells_sizes_and_what_is_here(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    assert run("tile", "--split", "valid")[0] == 0
    folder = tmp_path / "data" / "archives"
    folder.mkdir()
    (folder / "npz_tile_xla_train.tar.part").write_bytes(bytes(2000))
    mirror.asked.clear()
    status, out, err = run("--list")
    found = rows(out)
    assert status == 0
    assert {method for method, _, _ in mirror.asked} == {"HEAD"}
    assert len(found) == 3 * len(COLLECTIONS) + 4
    size = len(mirror.files["npz_tile_xla_train.tar"])
    assert found["tile:xla", "train"] == [f"{size / 1000:.1f}", "kB", "5709", "2.0", "kB", "fetched"]
    assert found["tile:xla", "valid"][-2:] == ["all", "2"]
    assert found["layout:xla:default", "train"] == ["–", "61", "–"]
    assert found["eval-indices", "nlp_random.json"][-2:] == ["20", "–"]
    assert "in all; unpacking needs as much again" in out
    assert re.fullmatch(r"gbr: 11 of 19 sizes are not known: .*404.*\n", err)
    assert max(map(len, out.splitlines())) <= 80
    assert os.listdir(folder) == ["npz_tile_xla_train.tar.part"]


def test_the_list_needs_no_network(run: Run, mirror: Mirror, tmp_path: Path, capsys: Capture) -> None:
    with serving({}) as gone:
        url = gone.url
    assert main(["--list", "tile", "--data", str(tmp_path), "--base-url", url]) == 0
    out, err = capsys.readouterr()
    assert rows(out)["tile:xla", "train"] == ["–", "5709", "–"]
    assert re.fullmatch(r"gbr: 3 of 3 sizes are not known: .*no connection \(.*refused\).*\n", err)


def test_the_list_of_a_folder(run: Run, mirror: Mirror, graphs: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "npz_tile_xla_train.tar.gz").write_bytes(bytes(3000))
    (tmp_path / "predict-ai-model-runtime.zip").write_bytes(bytes(5_000_000))
    status, out, _ = run("--list", "--json", "--from", str(tmp_path), network=False)
    found = {(one["name"], one["part"]): one["bytes"] for one in json.loads(out)}
    assert (status, mirror.asked) == (0, [])
    assert found["tile:xla", "train"] == 3000
    assert sum(size or 0 for size in found.values()) == 5_003_000
    assert found["eval-indices", "xla_random.json"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a NAME: tile:xla, layout:xla:default"),
        (["tile:cpu"], "tile:cpu: no collection of TpuGraphs; there is tile:xla, "),
        (["layout:x"], "layout:x: no collection of TpuGraphs"),
        (["tile", "--split", "dev"], "'--split': expected some of train,valid,test, got 'dev'"),
        (["tile", "--base-url", "ftp://x"], "want an address that begins with http"),
        (["tile", "--base-url", "http://x", "--from", "."], "take one; --from uses no network"),
        (["tile", "--from", "/nowhere"], "--from /nowhere: no such folder or archive"),
    ],
)
def test_wrong_requests_are_one_line(capsys: Capture, arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_beginnings_of_names_and_all(run: Run, mirror: Mirror) -> None:
    _, out, _ = run("--list", "layout:xla", "--split", "test")
    assert list(rows(out)) == [("layout:xla:default", "test"), ("layout:xla:random", "test")]
    _, out, _ = run("--list", "all", "--split", "test")
    assert len(rows(out)) == len(COLLECTIONS)


def test_the_default_is_the_official_server(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(url: str, *_: object, **__: object) -> None:
        asked.append(url)
        raise GbrError("no network here")

    monkeypatch.setattr("gbr.downloads.retrieve.ask", answer)
    assert main(["layout:nlp:default", "--split", "valid", "--data", str(tmp_path)]) == 1
    assert asked == ["http://download.tensorflow.org/data/tpu_graphs/v0/npz_layout_nlp_default_valid.tar"]
    monkeypatch.setattr("gbr.downloads.retrieve.fetch", answer)
    assert main(["eval-indices", "--data", str(tmp_path)]) == 1
    assert asked[1] == (
        "https://raw.githubusercontent.com/google-research-datasets/tpu_graphs/main/"
        "tpu_graphs/baselines/layout/eval_indices/xla_default.json"
    )


def test_validation_graphs_are_those_of_the_official_lists(shared_data: Path) -> None:
    for subset, (name, graphs) in INDEX_FILES.items():
        listed = json.loads((shared_data / "eval_indices" / name).read_text())
        assert len(listed) == graphs == Piece(subset, "valid").graphs
