"""Everything a user can get wrong, through the commands: one clear line, exit 1 or 2, nothing half-written."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import evaluate, features, predict, train
from tests.collection import matmul_arrays, trained, write_collection

Spoil = Callable[[Path], None]
SHAPE = (96, 192, 128)


def savez(path: Path, drop: str = "", **changes: Any) -> None:
    """Write a graph file as NumPy would, unchecked."""
    arrays = {key: value for key, value in matmul_arrays(SHAPE, 20, seed=5).items() if key != drop} | changes
    np.savez_compressed(path, **arrays)


def fresh(key: str) -> np.ndarray:
    return np.array(matmul_arrays(SHAPE, 20, seed=5)[key])


def with_value(key: str, place: tuple[int, ...], value: float) -> Spoil:
    array = fresh(key)
    array[place] = value
    return lambda path: savez(path, **{key: array})


def truncate(path: Path) -> None:
    savez(path)
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    """One byte of compressed data changed: the sizes are right, the checksum is not."""
    savez(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as stored:
        member = stored.getinfo("node_feat.npy")
    data[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def huge_header(path: Path) -> None:
    """A header that promises terabytes."""
    savez(path, drop="config_feat")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**10, 24)})
    with zipfile.ZipFile(path, "a") as stored:
        stored.writestr("config_feat.npy", header.getvalue() + bytes(96))


#: What is wrong with a graph file -> how to make it so, and what the message must tell.
FILES: dict[str, tuple[Spoil, str]] = {
    "empty file": (lambda path: path.write_bytes(b"") and None, r"\.npz"),
    "not a zip": (lambda path: path.write_bytes(b"no zip at all" * 99) and None, r"\.npz"),
    "truncated zip": (truncate, r"\.npz"),
    "flipped byte": (flip, "node_feat"),
    "a folder": (lambda path: path.mkdir(), ""),
    "no node_feat": (lambda path: savez(path, drop="node_feat"), "node_feat"),
    "no edges": (lambda path: savez(path, drop="edge_index"), "edge_index"),
    "no configurations": (lambda path: savez(path, drop="config_feat"), "config"),
    "139 columns": (lambda path: savez(path, node_feat=fresh("node_feat")[:, 1:]), r"\(.*139\).*140"),
    "flat configurations": (lambda path: savez(path, config_feat=fresh("config_feat").ravel()), "config_feat"),
    "25 columns": (lambda path: savez(path, config_feat=np.ones((20, 25), np.float32)), "config_feat.*25.*24"),
    "no rows": (lambda path: savez(path, config_feat=np.ones((0, 24), np.float32)), "config"),
    "other length": (lambda path: savez(path, config_runtime=fresh("config_runtime")[1:]), "config_runtime.*19.*20"),
    "objects": (lambda path: savez(path, node_feat=np.array([{}, []], object)), "node_feat.*object"),
    "text": (lambda path: savez(path, node_feat=np.array([["a"] * 140] * 3)), "node_feat"),
    "fractional runtime": (lambda path: savez(path, config_runtime=fresh("config_runtime") + 0.5), "config_runtime"),
    "edge out of range": (with_value("edge_index", (0, 1), 99), "edge_index.*99"),
    "negative edge": (with_value("edge_index", (0, 1), -1), "edge_index.*-1"),
    "cycle": (with_value("edge_index", (0, 1), 2), "edge_index"),
    "NaN feature": (with_value("node_feat", (1, 3), np.nan), "node_feat.*nan"),
    "infinite feature": (with_value("node_feat", (1, 3), np.inf), "node_feat.*inf"),
    "NaN configuration": (with_value("config_feat", (4, 8), np.nan), "config_feat.*nan"),
    "negative runtime": (with_value("config_runtime", (2,), -5), "config_runtime.*-5"),
    "zero normalizer": (with_value("config_runtime_normalizers", (2,), 0), "normalizers"),
    "terabytes": (huge_header, "config_feat"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("good"), {"train": 3, "valid": 2, "test": 1})


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return trained(root)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A collection, its store and a model of one's own to spoil."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def failing(
    main: Callable[[list[str]], int], *arguments: object, status: int, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a command that must fail as it should; returns its one line."""
    assert main([*map(str, arguments)]) == status
    told = capsys.readouterr()
    assert told.out == ""
    errors = [line for line in told.err.splitlines() if not re.match(r"gbr: (tile means|features of) ", line)]
    assert len(errors) == 1, told.err
    assert re.match(r"gbr \w+: error: \S", errors[0])
    assert len(errors[0]) < 400
    return errors[0]


def no_parts(folder: Path) -> None:
    assert [path for path in folder.rglob("*") if path.suffix == ".part"] == []


@pytest.mark.parametrize("fault", FILES)
def test_a_bad_graph_file(
    fault: str, root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, told = FILES[fault]
    data = Path(shutil.copytree(root / "npz", tmp_path / "data" / "npz")).parent
    bad = data / "npz" / "tile" / "cpu" / "train" / "zz_bad.npz"
    spoil(bad)
    where = ["--subset", "tile:cpu", "--data", data, "--store", tmp_path / "store", "--jobs", 1]
    for line in (
        failing(features.main, "build", *where, status=1, capsys=capsys),
        failing(train.main, *where, "--out", tmp_path / "run", status=1, capsys=capsys),
        failing(predict.main, "--model", run, bad, status=1, capsys=capsys),
    ):
        assert "zz_bad.npz" in line
        assert re.search(told, line), line
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "store").rglob("zz_bad*")) == []
    no_parts(tmp_path / "store")


def test_prediction_prints_nothing_before_all_files_are_read(
    root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next((root / "npz" / "tile" / "cpu" / "test").glob("*.npz"))
    line = failing(predict.main, "--model", run, good, tmp_path / "absent.npz", status=1, capsys=capsys)
    assert "absent.npz" in line


@pytest.mark.parametrize(
    ("subset", "told"),
    [
        ("tile:mars", r"tile:mars.*tile:cpu"),
        ("layout", r"layout.*tile:cpu"),
        ("tile/cpu", r"tile/cpu.*tile:cpu"),
        ("../tile", r"tile:cpu"),
        ("", r"tile:cpu"),
    ],
)
def test_an_unknown_subset_lists_what_there_is(
    subset: str, told: str, root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--subset", subset, "--data", root, "--store", tmp_path / "store"]
    for line in (
        failing(features.main, "build", *where, status=2, capsys=capsys),
        failing(train.main, *where, "--out", tmp_path / "run", status=2, capsys=capsys),
        failing(evaluate.main, "--model", run, *where, status=2, capsys=capsys),
    ):
        assert re.search(told, line), line
    assert list(tmp_path.iterdir()) == []


def test_a_root_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (tmp_path / "absent", tmp_path):
        line = failing(
            train.main, "--subset", "tile", "--data", data, "--out", tmp_path / "run", status=2, capsys=capsys
        )
        assert str(data) in line
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split(copy: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "npz" / "tile" / "cpu" / "test")
    (copy / "npz" / "tile" / "cpu" / "test").mkdir()
    where = ["--subset", "tile:cpu", "--data", copy, "--store", copy / "store"]
    assert "test" in failing(features.main, "build", *where, "--split", "test", status=1, capsys=capsys)
    assert "test" in failing(evaluate.main, "--model", run, *where, "--split", "test", status=1, capsys=capsys)


@pytest.mark.parametrize("arguments", [[], ["--split", "trian"], ["--jobs", "0"], ["--jobs", "many"], ["--nope"]])
def test_usage(arguments: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subset = ["--subset", "tile:cpu"] if arguments else []
    line = failing(features.main, "build", *subset, *arguments, status=2, capsys=capsys)
    assert (arguments or ["--subset"])[-1] in line


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            ["--backend", "xgboost", "--set", "max_depth=zero"],
            "params: XGBoost: Invalid Parameter format for max_depth",
        ),
        (["--backend", "lightgbm", "--set", "lambda_l1=abc"], "params: LightGBM: .*abc"),
    ],
)
def test_a_value_that_the_library_refuses(
    extra: list[str], told: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--subset", "tile:cpu", "--data", root, "--store", root / "store", "--jobs", 1, "--out", tmp_path / "run"]
    assert re.search(told, failing(train.main, *where, *extra, status=2, capsys=capsys))
    assert not (tmp_path / "run").exists()


def test_an_out_folder_below_a_file(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    where = ["--subset", "tile:cpu", "--data", root, "--store", root / "store", "--out", tmp_path / "file" / "run"]
    assert "is a file; name a folder" in failing(train.main, *where, status=2, capsys=capsys)


class TestModels:
    """A folder that is no model, or none for these features."""

    def wrong(self, folder: Path, root: Path, capsys: pytest.CaptureFixture[str], told: str) -> None:
        graph = next((root / "npz" / "tile" / "cpu" / "test").glob("*.npz"))
        where = ["--subset", "tile:cpu", "--data", root, "--store", root / "store"]
        for line in (
            failing(predict.main, "--model", folder, graph, status=1, capsys=capsys),
            failing(evaluate.main, "--model", folder, *where, status=1, capsys=capsys),
        ):
            assert re.search(told, line), line

    def test_absent(self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.wrong(tmp_path / "absent", root, capsys, "absent")

    def test_empty_folder(self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.wrong(tmp_path, root, capsys, re.escape(str(tmp_path)))

    def test_torn_manifest(self, copy: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = copy / "run" / "manifest.json"
        manifest.write_text(manifest.read_text()[:50])
        self.wrong(copy / "run", root, capsys, "manifest.json")

    def test_manifest_of_something_else(self, copy: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (copy / "run" / "manifest.json").write_text("[1, 2]")
        self.wrong(copy / "run", root, capsys, "manifest.json")

    def test_torn_booster(self, copy: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (booster,) = [path for path in (copy / "run").iterdir() if path.suffix != ".json"]
        booster.write_bytes(booster.read_bytes()[:100])
        self.wrong(copy / "run", root, capsys, re.escape(str(copy / "run")))

    def test_other_features(self, copy: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = copy / "run" / "manifest.json"
        current = json.loads(manifest.read_text())
        schema_hash = next(
            value["schema_hash"]
            for value in (current, *current.values())
            if isinstance(value, dict) and "schema_hash" in value
        )
        manifest.write_text(manifest.read_text().replace(schema_hash, "0123456789ab"))
        self.wrong(copy / "run", root, capsys, r"0123456789ab.*python -m gbr\.train --subset tile:cpu")


class TestStores:
    """The store is ours to rebuild; a torn or foreign one never gives wrong features."""

    def where(self, copy: Path) -> list[object]:
        return ["--subset", "tile:cpu", "--data", copy, "--store", copy / "store", "--jobs", 1]

    def manifest(self, copy: Path) -> Path:
        return copy / "store" / "tile" / "cpu" / "manifest.json"

    def test_another_schema_is_built_again(self, copy: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = self.manifest(copy)
        schema_hash = json.loads(manifest.read_text())["schema"]["hash"]
        manifest.write_text(manifest.read_text().replace(schema_hash, "0123456789ab"))
        assert features.main(["build", *map(str, self.where(copy)), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["built"], report["kept"], report["schema"]) == (6, 0, schema_hash)

    def test_a_torn_manifest(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.manifest(copy).write_text("{")
        line = failing(features.main, "info", *self.where(copy)[:6], status=1, capsys=capsys)
        assert "manifest.json" in line

    def test_no_store(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.rmtree(copy / "store")
        line = failing(features.main, "info", *self.where(copy)[:6], status=1, capsys=capsys)
        assert "python -m gbr.features build --subset tile:cpu" in line

    def test_a_torn_table_is_built_again(self, copy: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        torn = next((copy / "store" / "tile" / "cpu" / "valid").glob("*.parquet"))
        torn.write_bytes(torn.read_bytes()[:-20])
        assert evaluate.main(["--model", str(run), *map(str, self.where(copy)), "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["valid"]["graphs"] == json.loads((run / "metrics.json").read_text())["valid"]["graphs"]


class TestOut:
    """Folders that cannot be written."""

    def test_a_file_in_the_way_of_the_store(
        self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "store").write_text("mine")
        where = ["--subset", "tile:cpu", "--data", root, "--store", tmp_path / "store", "--jobs", 1]
        for main, extra in ((features.main, ["build"]), (train.main, ["--out", tmp_path / "run"])):
            line = failing(main, *extra, *where, status=1, capsys=capsys)
            assert str(tmp_path / "store") in line
        assert (tmp_path / "store").read_text() == "mine"
        assert not (tmp_path / "run").exists()

    def test_a_file_in_the_way_of_the_run(self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("mine")
        where = ["--subset", "tile:cpu", "--data", root, "--store", root / "store", "--jobs", 1]
        failing(train.main, *where, "--out", tmp_path / "file", status=2, capsys=capsys)
        assert (tmp_path / "file").read_text() == "mine"
