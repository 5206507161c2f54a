"""Tables of measurements: roles, splits, groups, costs and odd files."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gbr.data.table import Table, read_table, write_table
from gbr.data.table_roles import Roles
from gbr.errors import DataError

ROLES = """
group = ["kernel", "device"]
config = ["block", "shared"]
context = ["m"]
device = "device"
failed = ["broken"]
[target]
column = "time"
unit = "ms"
[split]
test = {device = ["W7800"]}
valid = {device = ["A4000"]}
"""
CSV = """kernel,device,block,shared,m,time
conv,AMD W7800,16,true,64,3.5
conv,A4000,16,true,64,1.5
conv,A100,16,true,64,2
conv,A100,32,,64,broken
gemm,A100,16,false,128,inf
conv,A100,64,False,64,1e-3
"""


def made(folder: Path, roles: str = ROLES, **files: str | bytes) -> Path:
    """Write a table; the name of a file has ``__`` for a dot or, before it, a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.toml").write_text(roles, encoding="utf-8")
    for name, content in (files or {"a__csv": CSV}).items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def simple(folder: Path, content: str | bytes, failed: str = "") -> Table:
    """A table of one group with columns a (config) and time."""
    return read_table(made(folder, f'group = []\nconfig = ["a"]\ntarget = "time"\n{failed}', t__csv=content))


def test_rows_are_ordered_by_split_and_group(tmp_path: Path) -> None:
    table = read_table(made(tmp_path / "small"))
    assert table.name == "small"
    assert [(each.name, each.split, each.start, each.stop) for each in table.groups] == [
        ("conv-A100", "train", 0, 3), ("gemm-A100", "train", 3, 4),
        ("conv-A4000", "valid", 4, 5), ("conv-AMD_W7800", "test", 5, 6),
    ]  # fmt: skip
    assert table.frame.columns == ["kernel", "device", "block", "shared", "m"]
    assert table.frame.dtypes == [pl.String, pl.String, pl.Int64, pl.Boolean, pl.Int64]
    assert table.frame["block"].to_list() == [16, 32, 64, 16, 16, 16]
    assert table.frame["shared"].to_list() == [True, None, False, False, True, True]
    np.testing.assert_array_equal(table.cost, [2, np.inf, 1e-3, np.inf, 1.5, 3.5])
    assert table.repeat is None
    assert set(table.source) == {"table.toml", "a.csv"}


def test_a_table_that_was_written_is_read(tmp_path: Path) -> None:
    roles = Roles(
        ("kernel", "odd \"name\" \\ ü"), ("x",), "time", ("m",), "kernel", "µs", "lower", ("times",),
        ("no", -1, True), "status", {"kernel": ("b", 1.5)}, {"m": (3, True)},
    )  # fmt: skip
    frame = pl.DataFrame(
        {"kernel": ["a", "b", "1.5", "c"], 'odd "name" \\ ü': [1, 1, 1, 1], "x": [1, 2, 3, 4], "m": [1, 2, 5, 3]}
    ).with_columns(
        time=pl.Series([1.0, 2.0, 3.0, 4.0]),
        times=pl.Series([[9.0, 1.0, 1.0, 3.0], [8.0, 4.0], None, [1.0]]),
        status=pl.Series(["yes", "no", "-1", "ok"]),
    )
    write_table(tmp_path, frame, roles)
    with pytest.raises(DataError, match="valid: no row has m = 'true'"):
        read_table(tmp_path)
    roles = Roles(**{**vars(roles), "valid": {"m": (3,)}})
    write_table(tmp_path, frame, roles)
    table = read_table(tmp_path)
    assert table.roles == roles
    assert table.groups[1].name == "c-1"
    np.testing.assert_array_equal(table.cost, [1, 4, np.inf, np.inf])
    assert table.repeat is None or len(table.repeat) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.parquet", "table.toml"]
    (tmp_path / "more.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"already holds more\.csv; choose another folder"):
        write_table(tmp_path, frame, roles)


def test_repeats_give_a_second_figure(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3], "time": [2.0, 3.0, 5.0], "times": [[9.0, 1.0, 4.0], [3.0, 2.0], [5.0]]})
    write_table(tmp_path / "lists", frame, Roles((), ("a",), "time", repeats=("times",)))
    np.testing.assert_array_equal(read_table(tmp_path / "lists").repeat, [4, 2, 5])
    frame = pl.DataFrame({"a": [1, 2], "rate": [2.0, 0.0], "second": ["4", "x"], "third": [4.0, 1.0]})
    write_table(tmp_path / "rates", frame, Roles((), ("a",), "rate", direction="higher", repeats=("second", "third")))
    table = read_table(tmp_path / "rates")
    np.testing.assert_array_equal(table.cost, [0.5, np.inf])
    np.testing.assert_array_equal(table.repeat, [0.25, np.inf])
    frame = pl.DataFrame({"a": [1, 2, 3], "time": [2.0, 3.0, 5.0], "again": [2.5, None, None]})
    write_table(tmp_path / "few", frame, Roles((), ("a",), "time", repeats=("again",)))
    assert read_table(tmp_path / "few").repeat is None


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ('group = ["kernel"', "not TOML"),
        ('config = ["block"]\ntarget = "time"', "group is missing; expected group, config, target"),
        ('groups = []\nconfig = ["block"]\ntarget = "time"', "unknown key groups; did you mean 'group'?"),
        ('group = ["kernal"]\nconfig = ["block"]\ntarget = "time"', "group: no column 'kernal'; did you mean 'kernel'"),
        ('group = []\nconfig = ["BLOCK"]\ntarget = "time"', "config: no column 'BLOCK'; did you mean 'block'?"),
        ('group = []\nconfig = ["block"]\ntarget = "qqq"', "target: no column 'qqq'; there is 'kernel', 'device', "),
        ('group = []\nconfig = []\ntarget = "time"', "config: expected at least one column that can be chosen"),
        ('group = ["m"]\nconfig = ["m"]\ntarget = "time"', "'m' is both config and group; expected one of them"),
        ('group = []\nconfig = ["time"]\ntarget = "time"', "'time' is both target and config"),
        ('group = []\nconfig = ["m", "m"]\ntarget = "time"', "config: 'm' is listed twice"),
        ('group = []\nconfig = [1]\ntarget = "time"', "config: expected the name of a column, got 1"),
        ('group = []\nconfig = ["m"]\ntarget = {column = "time", direction = "up"}', "expected lower or higher, got"),
        ('group = []\nconfig = ["m"]\ntarget = {unit = "ms"}', "target.column is missing"),
        ('group = []\nconfig = ["m"]\ntarget = "time"\nfailed = [[1]]', "failed: expected a list of strings, numbers"),
        (
            'group = []\nconfig = ["m"]\ntarget = "time"\nsplit = {test = {}}',
            "split.test: expected {column = [values]}",
        ),
        ('group = []\nconfig = ["m"]\ntarget = "time"\nsplit = {tst = {m = 1}}', "unknown key split.tst; did you mean"),
        (
            'group = []\nconfig = ["m"]\ntarget = "time"\nsplit = {test = {device = "A10"}}',
            "test: no row has device = 'A10'; did you mean 'A100'?",
        ),
        (
            'group = []\nconfig = ["m"]\ntarget = "time"\nsplit = {test = {device = "A4000", m = 128}}',
            "test: no row has all of device, m",
        ),
        ('group = []\nconfig = ["m"]\ntarget = "kernel"', "the target 'kernel' holds no number, but 'conv', 'gemm'"),
        ('group = []\nconfig = ["m"]\ntarget = "shared"', "the target 'shared' holds Boolean, expected numbers"),
    ],
)
def test_wrong_roles_are_one_line(tmp_path: Path, roles: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_table(made(tmp_path / "t", roles))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_that_the_other_one_leaves_empty_is_an_error(tmp_path: Path) -> None:
    roles = ROLES.replace('["A4000"]', '["AMD W7800"]')
    with pytest.raises(DataError, match="valid: all its rows are in test, too; expected other values of device"):
        read_table(made(tmp_path / "t", roles))


def test_what_may_be_wrong_with_rows_is_noted(tmp_path: Path) -> None:
    table = read_table(made(tmp_path / "t"))
    assert table.notes == ()
    roles = ROLES.replace("{device = ", "{block = ").replace("W7800", "16").replace("A4000", "32")
    more = CSV + "conv,A100,16,true,64,3\n,A100,16,true,64,3\nconv,,16,true,64,3\n"
    first, second, third = read_table(made(tmp_path / "u", roles, a__csv=more)).notes
    assert "1 of 6 groups have rows in several splits, so that figures of held-out rows say nothing of" in first
    assert "2 of 9 rows repeat a configuration of their group with another 'time'; training takes the best" in second
    assert "1 of 9 rows have no 'device', whose figures are missing" in third


def test_columns_that_some_files_lack_are_noted(tmp_path: Path) -> None:
    other = CSV.replace("block", "block_size")
    (note,) = read_table(made(tmp_path / "t", a__csv=CSV, b__csv=other, c__csv=other)).notes
    assert re.fullmatch(
        r"\S+/b\.csv and 1 more: no column 'block', its values are missing; 'block_size' is not in \S+/a\.csv", note
    )


def test_folders_of_splits(tmp_path: Path) -> None:
    roles = 'group = ["g"]\nconfig = ["a", "b"]\ntarget = "time"'
    folder = made(
        tmp_path / "t", roles, test___x__csv="g,a,time\nk,1,2\n", train___y__tsv="g\ta\tb\ttime\nk\tone\t2\t3\n"
    )
    table = read_table(folder)
    assert [(each.split, each.start, each.stop) for each in table.groups] == [("train", 0, 1), ("test", 1, 2)]
    assert len({each.name for each in table.groups}) == 2  # the same group in two splits
    assert table.frame.rows() == [("k", "one", 2), ("k", "1", None)]
    assert set(table.source) == {"table.toml", "train/y.tsv", "test/x.csv"}
    (folder / "z.csv").write_text("g,a,b,time\n")
    with pytest.raises(DataError, match="beside folders of splits"):
        read_table(folder)
    (folder / "z.csv").unlink()
    (folder / "train/w.csv").write_text("a,time\n1,1\n")
    with pytest.raises(DataError, match=r"w\.csv: no column 'g'"):
        read_table(folder)
    (folder / "train/w.csv").write_text("g,time\n1,1\n")
    with pytest.raises(DataError, match=r"w\.csv: no column 'a'"):
        read_table(folder)
    (folder / "train/w.csv").unlink()
    (folder / "table.toml").write_text(roles + '\nsplit = {test = {g = "k"}}')
    with pytest.raises(DataError, match=r"split: .*train is a folder of a split"):
        read_table(folder)


def test_names_of_groups_are_file_stems_and_unique(tmp_path: Path) -> None:
    names = [
        "a/b",
        "a b",
        "A B",
        "../x",
        "..",
        "",
        "ü\u200bö",
        "x" * 300,
        "x" * 301,
        "a.b",
        "コンボ" * 80,
        "1",
        "con|?*",
    ]
    frame = pl.DataFrame({"g": names, "a": range(len(names)), "time": [1.0] * len(names)})
    write_table(tmp_path / "t", frame, Roles(("g",), ("a",), "time"))
    table = read_table(tmp_path / "t")
    stems = [each.name for each in table.groups]
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert not stem.startswith((".", "-"))
        assert not set(stem) & set('/\\:*?"<>|\0 \u200b')
        assert len(stem.encode()) < 150
        (tmp_path / stem).touch()
    assert {"a.b", "x", "1"} <= set(stems)
    # The order of groups does not depend on other groups, unlike the suffix of a name.
    write_table(tmp_path / "fewer", frame[::2], Roles(("g",), ("a",), "time"))
    fewer = read_table(tmp_path / "fewer").frame["a"]
    assert fewer.to_list() == table.frame["a"].filter(table.frame["a"].is_in(fewer.implode())).to_list()


def test_csv_files_of_all_kinds(tmp_path: Path) -> None:
    for number, content in enumerate([
        "\ufeffa,time\n1,2\n2,3\n", "\ufeffa,time\n1,2\n2,3\n".encode("utf-16"), "a;time\n1;2\n2;3\n",
        'a ,"time"\r\n 1, 2\r\n 2 ,3\r\n', gzip.compress(b"a,time\n1,2\n2,3"),
    ]):  # fmt: skip
        table = simple(tmp_path / str(number), content)
        assert table.frame["a"].to_list() == [1, 2]
        np.testing.assert_array_equal(table.cost, [2, 3])
    table = simple(tmp_path / "missing", 'a,time\n1,2\nNA,3\n"",4\nNaN,5\n2.5,\n3,nan\n4,n/a\n')
    assert table.frame["a"].to_list() == [1, None, None, None, 2.5, 3, 4]
    np.testing.assert_array_equal(table.cost, [2, 3, 4, 5, *[np.inf] * 3])
    table = simple(tmp_path / "words", "a,time\nnone,2\nauto,3\n1,4\n,5\n")
    assert table.frame["a"].to_list() == ["none", "auto", "1", None]
    table = simple(tmp_path / "large", "a,time\n9223372036854775808,1\n1,2\n")
    assert table.frame["a"].dtype == pl.Float64
    table = simple(tmp_path / "thousands", 'a,time\n"1,024",1\n2,2\n')
    assert table.frame["a"].to_list() == ["1,024", "2"]


def test_decimal_commas(tmp_path: Path) -> None:
    table = simple(tmp_path / "commas", "a;time\n0,5;1,25\n1;failed\n2;2\n")
    assert table.frame["a"].to_list() == [0.5, 1, 2]
    np.testing.assert_array_equal(table.cost, [1.25, np.inf, 2])
    assert [note.split(": ")[1] for note in table.notes] == [
        f"column {name!r} has decimal commas" for name in "a time".split()
    ]
    for cells in (["1,1", "1,10"], ["1,024", "1.5"], ["1,2,3", "1,5"]):  # pairs, thousands, triples
        table = simple(tmp_path / cells[1], "a;time\n" + "".join(f"{cell};1\n" for cell in cells))
        assert table.frame["a"].to_list() == cells


def test_names_of_columns_become_unique(tmp_path: Path) -> None:
    roles = 'group = []\nconfig = ["a", "a_3", "column_4"]\ntarget = "a_2"'
    table = read_table(made(tmp_path / "csv", roles, t__csv="a,a_2,a,\n1,2,3,4\n"))
    assert table.frame.rows() == [(1, 3, 4)]
    assert [note.partition(": ")[2] for note in table.notes] == [
        "column 3, 'a', is read as 'a_3': the name is taken",
        "column 4, '', is read as 'column_4': the name is empty",
    ]
    path = made(tmp_path / "x=1", 'group = []\nconfig = ["x"]\ntarget = "x_2"', a__csv="") / "a.parquet"
    path.with_name("a.csv").unlink()
    pq.write_table(pa.table([[1, 2], [3.0, 4.0]], names=["x", "x"]), path)
    table = read_table(path.parent)
    np.testing.assert_array_equal(table.cost, [3, 4])


def test_types_of_data_frames(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "c": pd.Categorical(["a", "b", None]), "i": pd.Categorical([1, 2, 1]), "n": [1.0, None, 3.0],
            "o": [True, None, False], "d": pd.to_datetime(["2020-01-01"] * 3), "f": np.float32([0.5, 1, np.nan]),
            "u": np.array([1, 2, 2**64 - 1], np.uint64), "e": [None] * 3, "time": pd.Categorical(["1", "x", "3"]),
        }, index=[5, 6, 7],
    )  # fmt: skip
    config = list(frame.columns.drop("time"))
    folder = made(tmp_path / "t", f'group = []\nconfig = {config}\ntarget = "time"', a__csv="")
    (folder / "a.csv").unlink()
    frame.to_parquet(folder / "a.parquet")
    table = read_table(folder)
    assert table.frame["c"].to_list() == ["a", "b", None]
    assert table.frame["n"].to_list() == [1, None, 3]
    assert table.frame["o"].to_list() == [True, None, False]
    assert table.frame["f"].to_list() == [0.5, 1, None]
    assert set(table.frame.dtypes) <= {pl.Int64, pl.Float64, pl.Boolean, pl.String}
    np.testing.assert_array_equal(table.cost, [1, np.inf, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a valid csv file"),
        (b"a,time\n", "the files have no rows"),
        (b"a,time\n1,2,3\n", "not a valid csv file"),
        (b"a,time\n\xff,1\n", "not a valid csv file"),
        (b"\xff\xfea", "not a valid csv file"),
        (b"\x1f\x8b\x08truncated", "not a valid csv file"),
        (b"a,time\n1,-2\n2,3\n", "1 rows have 'time' -2, expected positive values; list values that mark failed"),
        (b"a,time\n1,0\n", "expected positive values"),
        (b"a,time\n1,x\n2,y\n", "holds no number, but 'x', 'y'"),
    ],
)
def test_wrong_csv_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        simple(tmp_path / "t", content)
    assert "\n" not in str(caught.value)


def test_wrong_parquet_files_are_one_line(tmp_path: Path) -> None:
    folder = made(tmp_path, 'group = []\nconfig = ["a"]\ntarget = "time"', t__parquet=b"PAR1xxxxxxxxPAR1")
    with pytest.raises(DataError, match="not a valid parquet file"):
        read_table(folder)
    pl.DataFrame({"a": [[1], [2]], "time": [1, 2]}).write_parquet(folder / "t.parquet")
    with pytest.raises(DataError, match=r"column 'a' holds List\(Int64\), expected numbers, booleans or strings"):
        read_table(folder)
    (folder / "t.parquet").unlink()
    with pytest.raises(DataError, match=r"no data file; expected files that end in \.parquet, \.csv, \.tsv"):
        read_table(folder)
    with pytest.raises(DataError, match=r"table\.toml: no such file; write it, or import data files"):
        read_table(folder / "none")


def test_failed_values_are_numbers_or_strings(tmp_path: Path) -> None:
    content = "a,time\n1,-1\n2,oom\n3,1e20\n4,2\n5,-1.0\n"
    table = simple(tmp_path / "t", content, 'failed = [-1, "oom", 1e20]')
    np.testing.assert_array_equal(table.cost, [np.inf, np.inf, np.inf, 2, np.inf])


def test_many_groups_and_one_huge_group(tmp_path: Path) -> None:
    n = 30_000
    frame = pl.DataFrame({"g": np.arange(n) // 3, "a": np.arange(n), "time": np.arange(1.0, n + 1)})
    write_table(tmp_path / "many", frame, Roles(("g",), ("a",), "time"))
    table = read_table(tmp_path / "many")
    assert len(table.groups) == n // 3
    assert all(each.stop - each.start == 3 for each in table.groups)
    np.testing.assert_array_equal(table.cost, table.frame["a"].to_numpy() + 1)
    write_table(tmp_path / "one", frame, Roles((), ("a", "g"), "time"))
    assert [(each.name, each.stop) for each in read_table(tmp_path / "one").groups] == [("one", n)]


def test_real_tables(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tables"
    if not folder.is_dir():
        pytest.skip("no tables")
    roles = """
        group = ["Benchmark", "Scenario", "Units", "Model MLC"]
        config = ["Accelerator", "# of Accelerators", "Processor_2"]
        target = {column = "Avg. Result at System Name", direction = "higher"}
    """
    content: Any = (folder / "mlperf-inference-v5.csv").read_bytes()
    table = read_table(made(tmp_path / "mlperf", roles, a__csv=content))
    assert len(table.cost) == 861
    assert len(table.notes) == 6
    assert "repeat a configuration of their group" in table.notes[-1]
