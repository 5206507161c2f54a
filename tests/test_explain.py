"""The explain command: text, JSON and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gbr import Ranker, cli
from gbr import explain as command
from gbr.attribution import (
    BlockEffect,
    ColumnEffect,
    Copy,
    Explanation,
    LoopChange,
    NodeChange,
    OperandChange,
    TensorChange,
    explain,
)
from gbr.report.tables import explanation_summary
from tests.made import trained, write_collection

Capture = pytest.CaptureFixture[str]

COLUMNS = (
    ColumnEffect("copies.all.cost", "log2", "all: bytes of all copies", (21.5, 0.0), -0.75, (("dot.7", 9.0),)),
    ColumnEffect("slate.all.modal", "share", "part whose row is the most frequent", (0.125, 1.0), 0.125, ()),
    ColumnEffect("config.is_default", "flag", "Whether every layout is left", (0.0, 1.0), -0.0625, ()),
)
LAYOUT = Explanation(
    graph="data/a_very_long_name_of_a_network.npz",
    kind="layout",
    n_configs=96,
    configs=(17, 0),
    chosen="default",
    scores=(-1.0, -2.0),
    places=(47, 1),
    runtimes=(1200.0, 1000.0),
    lead=-1.0,
    blocks=(BlockEffect("copies", "Copies.", -0.75), BlockEffect("slate", "Within the slate.", -0.25)),
    columns=COLUMNS,
    alike=-0.3125,
    parts="configurable nodes",
    n_parts=2,
    nodes=(
        NodeChange("convolution.1320", -0.5, (
            TensorChange("output", "bf16[1,96,96,64,4]", ("{4,3}", "{3,2,1,0,4}"), (4, 64), (32.0, 8.0)),
            TensorChange("kernel", "bf16[3,3,3,64,4]", ("{4,3}", None), (64, 64), (1.0, 1.0)),
        )),
        NodeChange("reshape.12", -0.25, (TensorChange("input", "f32[4,96]", ("{0,1}", None), (4, 96), (4.0, 1.0)),)),
    ),
    copies=(
        Copy("edge", "reshape.12 -> convolution.1320 input: layouts disagree", (3.2e6, 0.0), (100, 0)),
        Copy("back", "dot.7 kernel: from the layout set to the graph's", (0.0, 512.0), (0, 0)),
    ),
)  # fmt: skip
TILE = replace(
    LAYOUT,
    kind="tile",
    chosen="median",
    nodes=(),
    copies=(),
    kernel="dot.2",
    loops=(
        LoopChange("m0", "dot.2 dimension 0", 128, (64, 128), (2, 1), (0.0, 0.0), {"out": 1024.0, "right": 0.0}, 0.25),
        LoopChange("n1", "dot.2 dimension 1", 256, (100, 100), (3, 3), (0.171875, 0.171875), {"out": 4.0}, 0.0),
        LoopChange("k2", "reduced", 1, (1, 1), (1, 1), (0.0, 0.0), {"left": 4.0}, 0.0),
    ),
    operands=(OperandChange("parameter.0", "left", "f32[128,64]", 32768, (2e4, 3e4), (256, 512), (2e6, 32768)),),
)


def text_of(found: Explanation, top: int = 8) -> str:
    summary = explanation_summary(found, top)
    lines = [f"rank {rank}: configuration {config}" for rank, config in summary["ranks"]] + summary["sentences"]
    for title, columns, rows in summary["tables"]:
        lines += [title, *columns, *(str(cell) for row in rows for cell in row)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            LAYOUT,
            [
                "rank 1: configuration 0 (all layouts left to the compiler)\nrank 47: configuration 17",
                "The model ranks 17 after 0: their scores differ by 1.0000.",
                "Measured: 17 takes 1.200 times as long as 0.",
                "reshape.12 -> convolution.1320 input: layouts disagree\n3.2 MB, > 100\nNone",
                "total\n3.2 MB\n512 bytes",
                "-0.5000\nconvolution.1320 output\nbf16[1,96,96,64,4]\n"
                "{4,3}\nminor 4, padded x32\n{3,2,1,0,4}\nminor 64, padded x8",
                "convolution.1320 kernel\nbf16[3,3,3,64,4]\n{4,3}\nunset\n",
                "all: bytes of all copies (log2)\ndue to dot.7\n2^21.50\n2^0.00",
                "12.5%\n100.0%",
                "no\nyes",
                "-0.3125\nfeatures with equal values",
            ],
        ),
        (
            TILE,
            [
                "rank 1: configuration 0 (median of the predicted order)",
                "+0.2500\nm0: dot.2 dimension 0\nextent 128\nstrides: out 1.0 kB\n64 x 2\n128 x 1\n",
                "\n\nn1: dot.2 dimension 1\nextent 256\nstrides: out 4 bytes\n100 x 3\n17.2% waste\n100 x 3",
                "parameter.0 (left)\nf32[128,64], 32.8 kB\n20.0 kB in runs of 256 bytes\n2.0 MB moved",
            ],
        ),
    ],
)
def test_text_of_explanation(found: Explanation, expected: list[str]) -> None:
    text = text_of(found)
    for part in expected:
        assert part in text
    assert "k2" not in text  # a loop of extent 1


def test_long_tables_are_cut() -> None:
    text = text_of(LAYOUT, 1)
    assert "1 of 2; effect" in text
    assert "+0.0625\n2 other features with different values" in text
    assert "reshape.12 input" not in text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_collection(tmp_path_factory.mktemp("explain"), {"train": 4, "valid": 2})
    return trained(root, backend="lightgbm", settings={"n_estimators": 8})


def arguments(run: Path, *more: str) -> list[str]:
    graph = min((run.parent / "npz/tile/cpu/valid").glob("*.npz"))
    return ["--model", str(run), str(graph), *more]


def test_output_fits_80_columns(run: Path, capsys: Capture) -> None:
    assert command.main(arguments(run, "--config", "3", "--top", "4")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Loops of dot.2" in out
    for shown in (LAYOUT, TILE):
        for table in explanation_summary(shown)["tables"]:
            cli.table(*table)
    assert max(map(len, (out + capsys.readouterr().out).splitlines())) <= 80


def test_json_is_the_explanation(run: Path, capsys: Capture) -> None:
    line = arguments(run, "--config", "3", "--against", "9", "--json")
    for top in ([], ["--top", "2"]):
        assert command.main([*line, *top]) == 0
        found = explain(Ranker.load(run), line[2], 3, 9).as_dict(2 if top else None)
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))


@pytest.mark.parametrize(
    ("more", "status", "line"),
    [
        (["--config", "30"], 2, "config: expected 0 to 29, got 30"),
        (["--config", "3", "--against", "-1"], 2, "against: expected 0 to 29, got -1"),
        (["--config", "3", "--against", "3"], 2, "expected two configurations, got 3 twice"),
        (["--config", "1", "--top", "0"], 2, "'--top': 0 is not in the range x>=1"),
        (["--config", "0", "--model", "nowhere"], 1, "nowhere"),
    ],
)
def test_errors_are_one_line(run: Path, capsys: Capture, more: list[str], status: int, line: str) -> None:
    assert command.main(arguments(run, *more)) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert line in err
