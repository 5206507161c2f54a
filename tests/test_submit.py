from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

import gbr
from gbr import Ranker, submit
from gbr.data.collection import OFFICIAL_TEST, Subset
from gbr.errors import DataError, ModelError, UsageError
from tests.made import collection, trained, write_collection

Capture = pytest.CaptureFixture[str]
#: Test graphs of each collection made here.
COUNTS = {"tile:xla": 3, "layout:xla:random": 2, "layout:nlp:default": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three collections, two models of the first and one of the second."""
    root = tmp_path_factory.mktemp("data")
    write_collection(root, {"train": 3, "valid": 1, "test": 3}, name="tile:xla")
    collection(root, "layout:xla:random", train=3, test=2)
    collection(root, "layout:nlp:default", test=2)
    plain: dict[str, Any] = {"backend": "lightgbm", "objective": "l2"}
    trained(root, subset="tile:xla", out=root / "first", **plain)
    trained(root, subset="tile:xla", out=root / "second", seed=1, backend="xgboost", objective="pairwise")
    trained(root, subset="layout:xla:random", out=root / "layout", **plain)
    return root


def graph(root: Path, name: str) -> Path:
    collection_name, _, stem = name.rpartition(":")
    return root.joinpath("npz", *collection_name.split(":"), "test", f"{stem}.npz")


def rows_of(path: Path) -> dict[str, list[int]]:
    header, *lines = path.read_text().splitlines()
    assert header == "ID,TopConfigs"
    return {name: list(map(int, order.split(";"))) for name, order in (line.split(",") for line in lines)}


def test_rows_are_the_orders_of_the_models(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    found = gbr.submit([f"{root}/first", root / "layout"], str(root), out=str(out), jobs=1)
    rows = rows_of(out)
    assert len(rows) == sum(found["rows"].values()) == 5
    assert list(rows) == sorted(rows, key=lambda name: (list(OFFICIAL_TEST).index(name.rpartition(":")[0]), name))
    for name, order in rows.items():
        tile = name.startswith("tile")
        expected = Ranker.load(root / ("first" if tile else "layout")).rank(graph(root, name)).tolist()
        assert order == (expected[:5] if tile else expected)
    assert found["models"] == {name: int(name in ("tile:xla", "layout:xla:random")) for name in OFFICIAL_TEST}
    assert list(tmp_path.iterdir()) == [out]


def test_models_of_one_collection_are_averaged_by_rank(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    models = [root / "first", root / "second", root / "second"]
    submit.submit(models, root, root / "store", out, jobs=1)
    for name, order in rows_of(out).items():
        total = sum(rankdata(Ranker.load(model).predict_graph(graph(root, name))) for model in models)
        assert order == sorted(range(30), key=lambda row: (total[row], row))[:5]


def test_filled_rows_hold_the_order_of_the_files(root: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "s.csv"
    line = ["--models", root / "layout", "--data", root, "--store", root / "store", "--out", out, "--jobs", 1]
    assert submit.main([*map(str, line), "--fill"]) == 0
    rows = rows_of(out)
    assert len(rows) == sum(COUNTS.values())
    assert rows["tile:xla:matmul_4"] == [0, 1, 2, 3, 4]
    assert rows["layout:nlp:default:test_1"] == [0, 1, 2, 3, 4, 5]
    printed = capsys.readouterr()
    for warning in (
        "tile:xla: no model; its rows hold the order of the files",
        "layout:xla:default: 0 of 8 rows, and Kaggle refuses an incomplete submission",
        "tile:xla: 3 of 844 rows",
    ):
        assert f"WARNING: {warning}" in printed.err
    assert max(map(len, printed.out.splitlines()[1:])) <= 80
    assert submit.main(["--check", str(out), "--data", str(root)]) == 1
    assert "no faults, but only 7 of 894 rows; Kaggle refuses" in capsys.readouterr().err


def test_faults_are_listed_and_exit_1(root: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "s.csv"
    path.write_text("ID,TopConfigs\n" + "nothing,1\n" * 30)
    line = ["--check", str(path), "--data", str(root)]
    assert submit.main(line) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 20
    assert f"{path}: 33 faults in 30 rows" in printed.err
    assert submit.main([*line, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 33


def test_real_test_graphs(root: Path, shared_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shared_data / "npz/tile/xla/test", data / "npz/tile/xla/test")
    shutil.copytree(shared_data / "npz/layout/nlp/random/test", data / "npz/layout/nlp/random/test")
    out, sets = tmp_path / "s.csv", submit.find_test_graphs(data)
    submit.submit([root / "first"], data, tmp_path / "store", out, jobs=1, fill=True)
    assert sum(map(len, sets.values())) == len(rows_of(out)) == 3
    assert submit.check(out, sets).faults == []
    for name, order in rows_of(out).items():
        with np.load(graph(data, name)) as arrays:
            count = len(arrays["config_runtime"])
        assert sorted(order) == list(range(count)) if name.startswith("layout") else len(order) == min(5, count)


def test_models_that_cannot_rank_a_collection_are_refused(root: Path, tmp_path: Path) -> None:
    def write(*models: Path, data: Path = root, out: Path = tmp_path / "s.csv", force: bool = False) -> None:
        submit.submit(models, data, root / "store", out, jobs=1, force=force)

    plain: dict[str, Any] = {"backend": "lightgbm", "objective": "l2"}
    measured = trained(write_collection(tmp_path / "a", {"train": 2}), **plain)
    on_cpu = trained(
        write_collection(tmp_path / "b", {"train": 2}, "tile:xla"), subset="tile:xla", hardware="cpu", **plain
    )
    with pytest.raises(UsageError, match="trained on tile:cpu, expected one of tile:xla"):
        write(measured)
    with pytest.raises(UsageError, match="trained for 'cpu', but tile:xla was measured on 'tpu'; train with"):
        write(on_cpu)
    with pytest.raises(UsageError, match="ranks tile:xla for other hardware"):
        write(root / "first", on_cpu, force=True)
    with pytest.raises(ModelError, match="nowhere"):
        write(Path("nowhere"))
    with pytest.raises(DataError, match="tile/xla/test"):
        write(root / "first", data=tmp_path)
    with pytest.raises(UsageError, match="is a directory; name a file"):
        write(root / "first", out=tmp_path)
    assert not (tmp_path / "s.csv").exists()


def test_usage_errors(tmp_path: Path, capsys: Capture) -> None:
    for line in ([], ["--models", "x", "--check", "y"]):
        assert submit.main(line) == 2
        assert "expected either --models" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read \(No such file .*\); name a submission"):
        submit.check(tmp_path / "nowhere.csv", {})


#: Every test graph of the competition, with few configurations each.
WHOLE = {
    name: {f"{name[-1]}{number}": 3 + number % 7 for number in range(count)} for name, count in OFFICIAL_TEST.items()
}
FEW = {"tile:xla": {"a": 7, "b": 2}, "layout:nlp:random": {"g": 4}}
GOOD = "ID,TopConfigs\ntile:xla:a,6;0;1;2;3\ntile:xla:b,1;0\nlayout:nlp:random:g,2;0;3;1\n"


def faults(path: Path, text: str, graphs: submit.TestGraphs = FEW) -> list[str]:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return submit.check(path, graphs).faults


def test_a_complete_submission_has_894_rows_and_no_fault(tmp_path: Path, capsys: Capture) -> None:
    path, rng = tmp_path / "s.csv", np.random.default_rng(0)
    rows = [
        submit.row(Subset(name), stem, rng.permutation(count))
        for name, graphs in WHOLE.items()
        for stem, count in graphs.items()
    ]
    lines = [submit.HEADER, *map(str.strip, rows)]
    path.write_text("\r\n".join(lines))  # no end of the last line
    report = submit.check(path, WHOLE)
    assert (report.rows, report.faults, report.unchecked) == (894, [], {})
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(line.split(",") for line in lines)
    assert submit.check(path, WHOLE).faults == []
    assert submit.main(["--check", str(path), "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "894 rows, no faults" in printed.out
    assert "layout:nlp:random: 17 rows were checked for their format only" in printed.err


def test_the_longest_rows_are_read(tmp_path: Path) -> None:
    row = submit.row(Subset("layout:nlp:random"), "g", np.arange(100_040)[::-1])
    sets = {"layout:nlp:random": {"g": 100_040}}
    assert faults(tmp_path / "s.csv", f"ID,TopConfigs\n{row}", sets) == []
    assert faults(tmp_path / "s.csv", f"ID,TopConfigs\n{row.replace(';77;', ';78;')}", sets) == [
        "line 2: 'layout:nlp:random:g': index 78 occurs more than once"
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ID,T", "\ufeffID,T", ["line 1: expected the header ID,TopConfigs, got '\\ufeffID,TopConfigs'"]),
        (GOOD, "", ["line 1: expected the header", "tile:xla: 2 of 2", "layout:nlp:random: 1 of 1 IDs are missing"]),
        ("b,1;0", "b,1;0,", ["line 3: expected 2 columns (ID,TopConfigs), got 3", "tile:xla: 1 of 2 IDs are missing"]),
        ("tile:xla:b,", "tile:cpu:b,", ["line 3: unknown ID 'tile:cpu:b'; expected <collection>:<test", "tile:xla: 1"]),
        ("tile:xla:b,1;0", "tile:xla:a,6;0;1;2;3", ["line 3: 'tile:xla:a' repeats the ID of line 2", "tile:xla: 1"]),
        ("a,6;0;1;2;3", "a,6;0;1;2;-1", ["line 2: 'tile:xla:a': '-1' is not a configuration index"]),
        ("a,6;0;1;2;3", "a,6;0;1;2", ["line 2: 'tile:xla:a': expected the best 5 indices, got 4"]),
        ("a,6;0;1;2;3", "a,7;0;1;2;3", ["line 2: 'tile:xla:a': index 7 is out of range; expected 0 to 6"]),
        ("a,6;0;1;2;3", "a,6;0;1;2;1", ["line 2: 'tile:xla:a': index 1 occurs more than once"]),
        ("g,2;0;3;1", "g,2;0;3", ["line 4: 'layout:nlp:random:g': expected all 4 indices, got 3"]),
        ("g,2;0;3;1\n", 'g,"2;0', ["line 4: not CSV (unexpected end of data)", "layout:nlp:random: 1"]),
    ],
)
def test_every_fault_is_reported_with_its_line(old: str, new: str, expected: list[str], tmp_path: Path) -> None:
    assert faults(tmp_path / "s.csv", GOOD) == []
    found = faults(tmp_path / "s.csv", GOOD.replace(old, new))
    assert len(found) == len(expected), found
    for fault, start in zip(found, expected, strict=True):
        assert fault.startswith(start)


def test_rows_of_missing_graphs_are_checked_for_their_format(tmp_path: Path) -> None:
    text = GOOD + "layout:xla:default:u,1;0;2\nlayout:xla:default:v,1;2;3\ntile:xla:z,9;8;7;6;5;4\ntile:xla:y,7;1\n"
    assert faults(tmp_path / "s.csv", text) == [
        "line 6: 'layout:xla:default:v': index 3 is out of range; expected 0 to 2",
        "line 7: 'tile:xla:z': expected the best 5 indices, got 6",
    ]
    assert submit.check(tmp_path / "s.csv", FEW).unchecked == {"layout:xla:default": 2, "tile:xla": 2}
    unknown = "ID,TopConfigs\nlayout:xla:default:unknown,0\n"
    found = faults(tmp_path / "s.csv", unknown, {"layout:xla:default": WHOLE["layout:xla:default"]})
    assert found[0].startswith("line 2: unknown ID 'layout:xla:default:unknown'")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["tile", "layout"]), st.lists(st.integers(-1, 7), max_size=8), st.integers(1, 6))
def test_an_order_is_correct_by_definition(kind: str, order: list[int], count: int) -> None:
    correct = len(set(order)) == len(order) and set(order) <= set(range(count))
    correct &= len(order) == (min(5, count) if kind == "tile" else count)
    assert (submit._order_fault(";".join(map(str, order)), kind, count) is None) == correct


def test_test_graphs_and_their_configurations(tmp_path: Path) -> None:
    assert submit.find_test_graphs(tmp_path) == {}
    collection(tmp_path, "layout:nlp:random", test=2, train=1)
    collection(tmp_path, "tile:cpu", test=1)
    assert submit.find_test_graphs(tmp_path) == {"layout:nlp:random": {"test_0": 5, "test_1": 6}}
    (tmp_path / "npz/tile/xla/test").mkdir(parents=True)
    np.savez(tmp_path / "npz/tile/xla/test/a.npz", other=np.zeros(3))
    with pytest.raises(DataError, match=r"a\.npz: has no config_feat; download the graph again"):
        submit.find_test_graphs(tmp_path)
