from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

import gbr
from gbr import cli
from gbr.__main__ import COMMANDS
from gbr.__main__ import main as gbr_main
from gbr.errors import DataError, MissingLibraryError, UsageError
from gbr.models.base import Round

Capture = pytest.CaptureFixture[str]

#: What no command may import before it has work to do.
HEAVY = ("numba", "lightgbm", "xgboost", "polars", "pyarrow", "jax", "scipy", "sklearn", "rich", "jinja2")


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("a.npz: truncated;\n fetch it"), 1, "gbr x: error: a.npz: truncated;\\n fetch it"),
        (UsageError("--k: no"), 2, "gbr x: error: --k: no"),
        (MemoryError("Unable to allocate 9 TiB"), 1, "gbr x: error: out of memory (Unable to allocate 9 TiB); free"),
        (KeyboardInterrupt(), 130, "gbr x: interrupted; completed files are kept"),
    ],
)
def test_expected_error_is_one_line_on_stderr(capsys: Capture, error: BaseException, status: int, line: str) -> None:
    @cli.command("gbr.x")
    def main() -> None:
        raise error

    assert main([]) == status
    error = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError, match="bug"):  # a bug keeps its traceback
        main([])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def parse(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and parsed values of a command with the shared options."""
    parsed: dict[str, Any] = {}

    @cli.command("gbr.x")
    @cli.subset_option
    @cli.data_option
    @cli.splits_option
    @cli.skip_option
    @cli.jobs_option
    @cli.memory_option
    @cli.json_option
    @click.option("--models", multiple=True)
    def main(**options: Any) -> None:
        parsed.update(options)

    return main(arguments), parsed


def test_shared_options() -> None:
    default = {
        "subset": "tile", "data": Path("data"), "splits": None, "skip_known_bad": False, "jobs": None,
        "memory": None, "as_json": False, "models": (),
    }  # fmt: skip
    assert parse("--subset", "tile") == (0, default)
    line = "--subset tile --data d --split test,train,test --skip known-bad --memory 0.5 --models a b --json --models c"
    assert parse(*line.split(), "--jobs", "3") == (0, {
        "subset": "tile", "data": Path("d"), "splits": ("test", "train"), "skip_known_bad": True, "jobs": 3,
        "memory": cli.GIB // 2, "as_json": True, "models": ("a", "b", "c"),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "Missing option '--subset'"),
        ("--subset tile --split train,dev", "'--split': expected some of train,valid,test, got 'train,dev'"),
        ("--subset tile --split ,", "'--split': expected some of train,valid,test, got ','"),
        ("--subset tile --jobs 0", "'--jobs': 0 is not in the range x>=1"),
        ("--subset tile --memory 0", "'--memory': 0.0 is not in the range 0<x<="),
        ("--subset tile --sub x", "No such option:? '?--sub"),
        ("--subset tile --models", "Option '--models' requires an argument"),
    ],
)
def test_usage_error_is_one_line_that_refers_to_help(line: str, message: str, capsys: Capture) -> None:
    assert parse(*line.split()) == (2, {})
    err = capsys.readouterr().err
    assert re.fullmatch(rf"gbr x: error: .*{message}.*; see `python -m gbr\.x --help`\n", err)


@pytest.mark.parametrize("seconds", [0.0, 0.4])
def test_progress_is_logged_at_increasing_intervals_without_a_terminal(
    seconds: float, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seconds:
        monkeypatch.setattr(cli, "_FIRST_LINE", 0.05)
    with cli.progress(5, "graphs") as advance, cli.busy("fitting"), cli.transfer("a.tar") as report:
        advance(2)
        report(9, None)
        time.sleep(seconds)
    out, err = capsys.readouterr()
    assert out == ""
    for name, running, ended in (
        ("graphs", r"2 of 5, \d s so far, about \d s left", r"2 of 5, done in \d s"),
        ("fitting", r"\d s so far", r"done in \d s"),
        (r"a\.tar", r"9 bytes, \d s so far", r"9 bytes, done in \d s"),
    ):
        lines = re.findall(rf"^gbr: {name}: (.*)$", err, re.MULTILINE)
        assert (2 <= len(lines) <= 5) == bool(seconds)
        for line in lines[:-1]:
            assert re.fullmatch(running, line)
        assert not lines or re.fullmatch(ended, lines[-1])


def test_time_left_of_a_transfer_ignores_what_was_present_and_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    task = cli._Task("a", None, cli.size_text)
    task.report(5000, 20_000)
    clock[0] = 5
    task.report(10_000, 20_000)
    assert task.line() == "a: 10.0 kB of 20.0 kB, 5 s so far, about 10 s left"
    task.report(0, 800)
    clock[0] = 9
    task.report(400, 800)
    assert task.line() == "a: 400 bytes of 800 bytes, 4 s so far, about 4 s left"


def test_terminal_gets_a_bar_on_stderr_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli.progress(2, "graphs") as advance:
        advance(1)
    with cli.transfer("a.tar") as report:
        report(10, None)
        report(20, 20)
    with cli.busy("fitting"):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_fit_the_terminal_and_lose_nothing(
    columns: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "a_very_long_graph_name_" * 6
    names = ["graph", "tau", "95 %", "rows", "slowdown@1"]
    rows = [[name, 0.51239, "0.50 0.53", 7, 1.5], ["[b]", None, None, 12345678, 2.0]]
    cli.table("What [bold]is[/bold] there", names, rows)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= max(columns, 64)
    assert lines[0] == "What [bold]is[/bold] there"
    assert name in "".join(line.split("  ")[0] for line in lines)
    for text in ("0.5124", "0.50 0.53", "[b]", "–", "12345678", "slowdown@1"):
        assert text in out
    assert "\x1b" not in out


def test_interrupting_a_fit_once_ends_it_and_twice_interrupts_the_command(capsys: Capture) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with cli.rounds("fitting") as on_round:
        assert not on_round(Round("lightgbm l2", 1, 9, 0.25))
        signal.raise_signal(signal.SIGINT)
        assert on_round(Round("lightgbm l2", 2, 9, 0.5))
    assert "interrupted in round 2 of lightgbm l2: the best model so far is kept" in capsys.readouterr().err
    with cli.rounds("fitting"):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match=""):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_no_color_is_respected(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for no_color, styled in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        cli.table("title", ["a"], [[1]])
        assert ("\x1b" in capsys.readouterr().out) == styled


def test_json_output_has_no_nan(capsys: Capture) -> None:
    cli.emit_json({"a": [1, None, "ü"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "ü"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.emit_json(float("nan"))


def test_help_of_every_command_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from gbr.__main__ import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    assert main([name, '--help']) == 0, name\n"
        f"print('imported', sorted(set({HEAVY}) & sys.modules.keys()))"
    )
    done = run("-c", script)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "imported []"
    for name in COMMANDS:
        assert f"Usage: gbr {name} " in done.stdout


def test_commands_are_listed(capsys: Capture) -> None:
    assert gbr_main([]) == 0
    listed = capsys.readouterr().out
    assert re.search("\n  train  +Train a ranker", listed)
    assert max(map(len, listed.splitlines())) <= 80
    assert gbr_main(["--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"command": "python -m gbr.train", "does": COMMANDS["train"]} in entries
    assert gbr_main(["--version"]) == 0
    assert capsys.readouterr().out == f"gbr {gbr.__version__}\n"
    assert gbr_main(["trian"]) == 2
    assert "No such command 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize(("subset", "status"), [("tile", 0), ("mars", 2)])
def test_module_and_subcommand_behave_the_same(subset: str, status: int, capsys: Capture) -> None:
    by_module = run("-m", "gbr.features", "columns", "--subset", subset, "--json")
    assert gbr_main(["features", "columns", "--subset", subset, "--json"]) == by_module.returncode == status
    out, err = capsys.readouterr()
    assert (out, err) == (by_module.stdout, by_module.stderr)
    assert err.startswith("gbr features: error: --subset mars" if status else "")


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "gbr"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 141
    assert done.stderr == ""


def test_public_names_are_lazy_and_present() -> None:
    done = run("-c", f"import gbr, sys; print(sorted(set({(*HEAVY, 'numpy', 'click')}) & sys.modules.keys()))")
    assert done.stdout == "[]\n"
    for name in gbr.__all__:
        assert getattr(gbr, name) is not None
        assert name in dir(gbr)
    with pytest.raises(AttributeError, match="module 'gbr' has no attribute 'Rankr'"):
        _ = gbr.Rankr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "belongs to another project and shadows the package of gbr"),
        ("raise RuntimeError('needs a GPU')", r"cannot be imported \(needs a GPU\)"),
    ],
)
def test_features_package_of_another_project_is_reported(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").write_text(content)
    for module in ("gbr.train", "gbr.tune"):
        done = run("-m", module, "--help", cwd=tmp_path)
        assert done.returncode == MissingLibraryError.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert re.search(message, done.stderr)
    done = run("-c", "from gbr import read_graph", cwd=tmp_path)
    assert "gbr.errors.MissingLibraryError: features: " in done.stderr.splitlines()[-1]


def test_a_module_named_features_does_not_hinder_the_ranking_of_tables(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("OWN = 5")
    code = (
        "import features, gbr; r = gbr.Ranker(n_estimators=3, n_jobs=1).fit([[i] for i in range(99)], range(99)); "
        "r.save('model'); print(gbr.Ranker.load('model').score([[1], [60]], [1, 2]), features.OWN); gbr.read_graph"
    )
    done = run("-c", code, cwd=tmp_path)
    assert done.stdout == "1.0 5\n"
    assert "features.py belongs to another project and shadows the package of gbr" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("tr", ["plain,train"]), ("features bu", ["plain,build"]), ("train --backend xg", ["plain,xgboost"])],
)
def test_shell_completion(
    words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"_GBR_COMPLETE": "bash_complete", "COMP_WORDS": f"gbr {words}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    assert gbr_main([]) == 0
    assert capsys.readouterr().out.split() == expected
