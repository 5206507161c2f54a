from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import gbr
from gbr import cli
from gbr.__main__ import commands
from gbr.__main__ import main as list_commands
from gbr.errors import DataError, MissingLibraryError, UsageError

Capture = pytest.CaptureFixture[str]

#: What no command may load before it knows that it has work to do.
HEAVY = ("numba", "lightgbm", "xgboost", "polars", "jax", "scipy", "sklearn", "rich", "jinja2")


def failing(fault: BaseException) -> int:
    @cli.command
    def main(argv: Sequence[str] | None = None) -> None:
        raise fault

    return main(None)


@pytest.mark.parametrize(
    ("fault", "status", "line"),
    [
        (DataError("a.npz: torn;\n fetch it"), 1, "gbr: error: a.npz: torn;\\n fetch it"),
        (UsageError("--k: no"), 2, "gbr: error: --k: no"),
        (MemoryError("Unable to allocate 9 TiB"), 1, "gbr: error: out of memory (Unable to allocate 9 TiB); free some"),
        (KeyboardInterrupt(), 130, "gbr: interrupted; every file written so far is whole"),
    ],
)
def test_an_expected_failure_is_one_line(capsys: Capture, fault: BaseException, status: int, line: str) -> None:
    assert failing(fault) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="defect"):
        failing(ZeroDivisionError("defect"))


def test_success_is_zero_and_gets_the_arguments() -> None:
    seen: list[object] = []
    assert cli.command(seen.append)(["--a"]) == 0
    assert seen == [["--a"]]


def arguments(*given: str) -> object:
    parser = cli.parser("gbr.x", "A test.")
    cli.add_subset(parser)
    cli.add_data(parser)
    cli.add_store(parser)
    cli.add_splits(parser)
    cli.add_jobs(parser)
    cli.add_json(parser)
    return vars(parser.parse_args(given))


def test_arguments_and_their_defaults() -> None:
    assert arguments("--subset", "tile") == {
        "subset": "tile",
        "data": Path("data"),
        "store": Path("data/store"),
        "split": None,
        "jobs": None,
        "json": False,
    }
    given = arguments("--subset", "tile", "--data", "d", "--split", "test, train,test", "--jobs", "3", "--json")
    assert given == {
        "subset": "tile",
        "data": Path("d"),
        "store": Path("data/store"),
        "split": ("test", "train"),
        "jobs": 3,
        "json": True,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the following arguments are required: --subset"),
        (["--subset", "tile", "--split", "train,dev"], "--split: got 'train,dev', want some of train,valid,test"),
        (["--subset", "tile", "--split", ","], "--split: got ','"),
        (["--subset", "tile", "--jobs", "0"], "--jobs: got '0', want a whole number from 1 on"),
        (["--subset", "tile", "--jobs", "two"], "--jobs: got 'two'"),
        (["--subset", "tile", "--sub", "x"], "unrecognized arguments: --sub x"),
    ],
)
def test_wrong_arguments_are_one_line_that_names_help(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"{message}.*; see `python -m gbr.x --help`") as told:
        arguments(*given)
    assert told.value.exit_code == 2


def test_progress_is_silent_where_it_is_quick(capsys: Capture) -> None:
    with cli.progress(3, "graphs") as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.5, 4.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    with cli.progress(5, "graphs") as advance:
        for _ in range(5):
            advance(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "gbr: graphs: 2 of 5 after 2 s",
        "gbr: graphs: 4 of 5 after 6 s",
        "gbr: graphs: 5 of 5 in 8 s",
    ]


def test_progress_on_a_terminal_draws_on_stderr_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli.progress(2, "graphs") as advance:
        advance(1)
        advance(1)
    assert capsys.readouterr().out == ""


def test_work_without_an_end_is_told_of_ever_more_rarely(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_PATIENCE", 0.02)
    with cli.busy("fitting"):
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 7
    assert lines[0] == "gbr: fitting: 0 s so far"
    assert re.fullmatch(r"gbr: fitting: done in \d+ s", lines[-1])
    monkeypatch.undo()
    with cli.busy("fitting"):
        pass
    assert capsys.readouterr() == ("", "")
    with pytest.raises(KeyboardInterrupt, match="by hand"), cli.busy("fitting"):
        raise KeyboardInterrupt("by hand")
    assert capsys.readouterr() == ("", "")


def test_work_without_an_end_spins_on_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli.busy("fitting"):
        pass
    assert capsys.readouterr().out == ""


def test_long_lines_of_a_description_are_folded_and_commands_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "62")
    command = "Example: python -m gbr.x --models a/very/long/path another/long/path --out submission.csv"
    listed = "  tile:FAMILY    tiles of a kernel, as many as there are in a file of that name"
    told = cli.parser("gbr.x", "A sentence. " * 8, f"{listed}\n{command}").format_help().splitlines()
    assert command in told
    assert max(len(line) for line in told if line != command) <= 62
    first = next(number for number, line in enumerate(told) if line.startswith("  tile:FAMILY    "))
    assert told[first + 1].startswith(" " * 17)
    assert " ".join(" ".join(told[first : first + 2]).split()) == " ".join(listed.split())


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_listing_fits_the_terminal_and_loses_nothing(
    columns: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = "search the configurations of a program for a fast one, measuring few"
    cli.listing([("gbr.tune", text * 2), ("gbr.b", "short")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= min(80, columns)
    assert lines[-1] == "gbr.b     short"
    assert " ".join(" ".join(lines[:-1]).split()) == f"gbr.tune {text * 2}"


def test_tables_fit_80_columns_and_lose_nothing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    name = "a_very_long_graph_name_" * 6
    cli.table("What [bold]is[/bold] there", ["graph", "tau", "rows"], [[name, 0.51239, 7], ["[b]", None, 12345678]])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[0] == "What [bold]is[/bold] there"
    assert name in "".join(line.split()[0] for line in out.splitlines()[3:6])
    assert "0.5124" in out
    assert "[b]" in out
    assert "–" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(("no_color", "styled"), [("", True), ("1", False)])
def test_a_terminal_without_colours_gets_plain_letters(
    no_color: str, styled: bool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli.table("title", ["a"], [[1]])
    assert ("\x1b" in capsys.readouterr().out) == styled


def test_json_has_no_nan(capsys: Capture) -> None:
    cli.emit_json({"a": [1, None, "ü"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "ü"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.emit_json(float("nan"))


def run(*command: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=os.environ | environment, check=False
    )


def test_help_loads_nothing_heavy() -> None:
    names = [name.split()[-1] for name, _ in commands()]
    assert "gbr.features" in names
    script = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    module = importlib.import_module(name)\n"
        "    module = module if hasattr(module, 'main') else importlib.import_module(name + '.__main__')\n"
        "    assert module.main(['--help']) == 0, name\n"
        f"print('loaded', sorted(set({HEAVY}) & sys.modules.keys()))"
    )
    done = run("-c", script)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_the_commands_are_listed_with_one_line_each(capsys: Capture) -> None:
    assert list_commands([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("python -m gbr.features  ")]
    assert not [line for line in lines if "gbr.data.graph" in line or "__main__" in line]
    assert list_commands(["--json"]) == 0
    assert [entry["command"] for entry in json.loads(capsys.readouterr().out)] == [
        " ".join(line.split()[:3]) for line in lines if line.startswith("python -m ")
    ]
    assert max(map(len, lines)) <= 80
    assert list_commands(["--version"]) == 0
    assert capsys.readouterr().out == f"gbr {gbr.__version__}\n"


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "gbr"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 141
    assert done.stderr == ""


def test_public_names_are_lazy_and_there() -> None:
    done = run("-c", f"import gbr, sys; print(sorted(set({(*HEAVY, 'numpy')}) & sys.modules.keys()))")
    assert done.stdout == "[]\n"
    for name in gbr.__all__:
        assert getattr(gbr, name) is not None
        assert name in dir(gbr)
    with pytest.raises(AttributeError, match="module 'gbr' has no attribute 'Rankr'"):
        _ = gbr.Rankr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "belongs to another project and hides gbr's own package"),
        ("raise RuntimeError('needs a GPU')", r"cannot be imported \(needs a GPU\)"),
    ],
)
def test_another_projects_features_package_is_explained(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").write_text(content)
    done = run("-m", "gbr.features", "columns", "--subset", "tile", cwd=tmp_path)
    assert done.returncode == MissingLibraryError.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr)
    done = run("-c", "from gbr import Ranker", cwd=tmp_path)
    assert "gbr.errors.MissingLibraryError: features: " in done.stderr.splitlines()[-1]
