from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr import submission
from gbr.data.collection import OFFICIAL_TEST, Subset
from gbr.errors import DataError
from tests.made import collection

#: Every test graph of the competition, with few configurations each.
WHOLE = {
    name: {f"{name[-1]}{number}": 3 + number % 7 for number in range(count)} for name, count in OFFICIAL_TEST.items()
}
FEW = {"tile:xla": {"a": 7, "b": 2}, "layout:nlp:random": {"g": 4}}


def written(path: Path, sets: submission.TestSets, seed: int = 0) -> list[str]:
    """A submission in random order; returns its lines."""
    rng = np.random.default_rng(seed)
    rows = [
        submission.row(Subset(name), stem, rng.permutation(count))
        for name, graphs in sets.items()
        for stem, count in graphs.items()
    ]
    lines = ["ID,TopConfigs\n", *rows]
    path.write_text("".join(lines))
    return lines


def faults(path: Path, text: str | bytes, sets: submission.TestSets = FEW) -> list[str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    report = submission.check(path, sets)
    assert report.n_faults == len(report.faults)
    return report.faults


GOOD = "ID,TopConfigs\ntile:xla:a,6;0;1;2;3\ntile:xla:b,1;0\nlayout:nlp:random:g,2;0;3;1\n"


def test_a_whole_submission_has_894_rows_and_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    lines = written(path, WHOLE)
    assert len(lines) - 1 == submission.ROWS == 894
    report = submission.check(path, WHOLE)
    assert report == submission.Report(rows=894, complete=True)
    path.write_text("\r\n".join(line.strip() for line in lines))  # no end of the last line
    assert submission.check(path, WHOLE).n_faults == 0
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(line.strip().split(",") for line in lines)
    assert submission.check(path, WHOLE).n_faults == 0


def test_the_longest_rows_are_read_and_the_limit_of_csv_is_left_as_it_was(tmp_path: Path) -> None:
    sets = {"layout:nlp:random": {"g": 100_040, "h": 100_040}}
    path, limit = tmp_path / "s.csv", csv.field_size_limit()
    lines = written(path, sets)
    assert len(lines[1]) > 4 * limit
    assert submission.check(path, sets).n_faults == 0
    path.write_text(lines[0] + lines[1] + lines[2].replace(";77;", ";78;"))
    assert submission.check(path, sets).faults == [
        "line 3: 'layout:nlp:random:h': row number 78 stands there twice (1 too many)",
        "line 3: 'layout:nlp:random:h': 1 of 100040 row numbers are missing (first: 77)",
    ]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ID,TopConfigs", "id,TopConfigs", ["line 1: the header is 'id,TopConfigs', want ID,TopConfigs"]),
        ("ID,TopConfigs\n", "", ["line 1: the header is 'tile:xla:a,6;0;1;2;3', want ID,TopConfigs"]),
        ("ID,T", "\ufeffID,T", ["line 1: the header is '\\ufeffID,TopConfigs', want ID,TopConfigs"]),
        (GOOD, "", ["line 1: the file is empty", "tile:xla: 2 of 2", "layout:nlp:random: 1 of 1 IDs are missing"]),
        ("\ntile:xla:b", "\n\ntile:xla:b", ["line 3: is empty; take the line out"]),
        ("b,1;0", "b,1;0,", ["line 3: has 3 columns, want 2: ID,TopConfigs", "tile:xla: 1 of 2"]),
        ("xla:b,1;0", "xla:b;1;0", ["line 3: has 1 columns", "tile:xla: 1 of 2 IDs are missing (first: tile:xla:b)"]),
        ("tile:xla:b,", "tile:cpu:b,", ["line 3: unknown ID 'tile:cpu:b'; want <collection>:<graph>", "tile:xla: 1"]),
        ("tile:xla:b,", ",", ["line 3: unknown ID ''", "tile:xla: 1 of 2"]),
        (
            "tile:xla:b,1;0",
            "tile:xla:a,5",
            ["line 3: 'tile:xla:a' stands in line 2 already", "line 3: ", "tile:xla: 1"],
        ),
        ("a,6;0;1;2;3", "a,", ["line 2: 'tile:xla:a': names no configurations"]),
        ("a,6;0;1;2;3", "a,6;0;1;2", ["line 2: 'tile:xla:a': has 4 row numbers, want the best 5 of its 7"]),
        ("a,6;0;1;2;3", "a,6;0;1;2;3;4", ["line 2: 'tile:xla:a': has 6 row numbers, want the best 5 of its 7"]),
        ("a,6;0;1;2;3", "a,7;0;1;2;-1", ["line 2: 'tile:xla:a': row number 7 is out of range (2 such), want 0 to 6"]),
        ("a,6;0;1;2;3", "a,6;0;1;2;1", ["line 2: 'tile:xla:a': row number 1 stands there twice (1 too many)"]),
        ("a,6;0;1;2;3", "a,6;0.0;1;2;x", ["line 2: 'tile:xla:a': '0.0' at place 2 is no row number (2 such)"]),
        ("a,6;0;1;2;3", "a,6;0;1;2;", ["line 2: 'tile:xla:a': '' at place 5 is no row number (1 such)"]),
        ("a,6;0;1;2;3", "a,6;0;1;2;" + "9" * 30, ["line 2: 'tile:xla:a': '999999999999999999999999999999' at place 5"]),
        ("b,1;0", "b,0", ["line 3: 'tile:xla:b': has 1 row numbers, want the best 2 of its 2 configurations"]),
        ("g,2;0;3;1", "g,2;0;3", ["line 4: 'layout:nlp:random:g': 1 of 4 row numbers are missing (first: 1)"]),
        ("g,2;0;3;1", "g,2;0;3;1;4", ["line 4: 'layout:nlp:random:g': row number 4 is out of range (1 such)"]),
        ("g,2;0;3;1", "g,2;0;3;3", ["line 4: 'layout:nlp:random:g': row number 3 stands there twice", "line 4: "]),
        ("g,2;0;3;1\n", 'g,"2;0', ["line 4: cannot be read as CSV (unexpected end of data)", "layout:nlp:random: 1"]),
    ],
)
def test_every_fault_is_named_with_its_line(old: str, new: str, expected: list[str], tmp_path: Path) -> None:
    assert faults(tmp_path / "s.csv", GOOD) == []
    found = faults(tmp_path / "s.csv", GOOD.replace(old, new))
    assert len(found) == len(expected), found
    for told, wanted in zip(found, expected, strict=True):
        assert told.startswith(wanted)


def test_what_is_no_text_is_told_and_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = faults(tmp_path / "s.csv", GOOD.encode() + b"\xff\xfe\x00,1\n")
    assert found == [
        "line 5: unknown ID '\\\\xff\\\\xfe\\x00'; want <collection>:<graph>, of " + ", ".join(OFFICIAL_TEST)
    ]
    monkeypatch.setattr(submission, "_LONGEST", 1000)
    found = faults(tmp_path / "s.csv", GOOD + "tile:xla:c," + "1;" * 700 + "\n")
    assert found[0] == "line 5: cannot be read as CSV (field larger than field limit (1000))"


def test_the_first_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("ID,TopConfigs\n" + "nothing,1\n" * 50)
    report = submission.check(path, {}, most=3)
    assert [fault.split(":")[0] for fault in report.faults] == ["line 2", "line 3", "line 4"]
    assert report.n_faults == report.rows == 50


def test_rows_of_graphs_that_are_not_there_are_checked_for_their_form(tmp_path: Path) -> None:
    text = GOOD + "layout:xla:default:u,1;0;2\nlayout:xla:default:v,1;2;3\ntile:xla:z,9;8;7;6;5;4\ntile:xla:y,7;-1\n"
    assert faults(tmp_path / "s.csv", text) == [
        "line 6: 'layout:xla:default:v': row number 3 is out of range (1 such), want 0 to 2",
        "line 6: 'layout:xla:default:v': 1 of 3 row numbers are missing (first: 0)",
        "line 7: 'tile:xla:z': has 6 row numbers, want the best 5",
        "line 8: 'tile:xla:y': row number -1 is out of range (1 such), want 0 and above",
    ]
    report = submission.check(tmp_path / "s.csv", FEW)
    assert report.unchecked == {"layout:xla:default": 2, "tile:xla": 2}
    assert not report.complete
    # Where the collection is there whole, such a graph does not exist.
    stranger = "ID,TopConfigs\nlayout:xla:default:stranger,0\n"
    found = faults(tmp_path / "s.csv", stranger, {"layout:xla:default": WHOLE["layout:xla:default"]})
    assert found[0] == ("line 2: unknown ID 'layout:xla:default:stranger'; layout:xla:default has no such test graph")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["tile", "layout"]), st.lists(st.integers(-1, 7), max_size=8), st.integers(1, 6))
def test_an_order_is_good_where_the_definition_says_so(kind: str, order: list[int], count: int) -> None:
    good = len(set(order)) == len(order) and set(order) <= set(range(count))
    good &= len(order) == (min(5, count) if kind == "tile" else count)
    found = list(submission._order_faults(";".join(map(str, order)), kind, count))
    assert (not found) == good


def test_graphs_there_are_those_of_the_test_splits(tmp_path: Path, shared_data: Path) -> None:
    assert submission.graphs_there(tmp_path) == {}
    collection(tmp_path, "layout:nlp:random", test=2, train=1)
    collection(tmp_path, "tile:cpu", test=1)
    assert submission.graphs_there(tmp_path) == {"layout:nlp:random": {"test_0": 5, "test_1": 6}}
    found = submission.graphs_there(shared_data)
    assert found.keys() == {"tile:xla", "layout:nlp:random"}
    for name, graphs in found.items():
        for stem, count in graphs.items():
            with np.load(Subset(name).folder(shared_data) / "test" / f"{stem}.npz") as arrays:
                assert len(arrays["config_runtime"]) == count


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"s\.csv: cannot be read \(No such file"):
        submission.check(tmp_path / "s.csv", {})
    folder = tmp_path / "npz/tile/xla/test"
    folder.mkdir(parents=True)
    np.savez(folder / "a.npz", other=np.zeros(3))
    with pytest.raises(DataError, match=r"a\.npz: has neither config_feat nor node_config_feat"):
        submission.graphs_there(tmp_path)
