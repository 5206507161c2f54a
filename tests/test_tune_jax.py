"""Tiles and layouts measured on this machine, the command, and the examples of docs/tuning.md."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gbr.errors import CollectError, TuneError, UsageError
from gbr.tune import Child, Tuner, Verdict, layout_space, load_layout, search, tile_space, tune_layout
from gbr.tune.__main__ import main
from tests.conftest import ROOT
from tests.made import rewrite, write_collection

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from gbr.collect.families import FAMILIES
from gbr.collect.layouts import Relayout, sample_layouts
from gbr.collect.timer import cores, pinned
from gbr.tune import jax as tune_jax
from gbr.tune.jax import named

PROGRAM = """
import jax.numpy as jnp
import numpy as np

def product():
    rng = np.random.default_rng(0)
    return lambda a, b: {"twice": 2 * jnp.tanh(a @ b)}, (rng.random((24, 16)), rng.random((16, 8)))

def nothing():
    return 3
"""


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    scores = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / 8.0)
    return jnp.einsum("bhts,bshd->bthd", scores, v)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("program") / "mine.py"
    path.write_text(PROGRAM)
    return f"{path}:product"


def test_tiles_are_measured_in_a_child(tmp_path: Path) -> None:
    space, task = tile_space("sum_major_96x80", candidates=12)
    assert set(space.describe(0).values()) == {80, 96}
    with Child(task, timeout=60.0) as child:
        found = search(Tuner(space), child, budget=4, rounds=2, journal=tmp_path / "journal.jsonl")
    assert (found.measured, found.failed) == (4, 0)
    assert found.default is not None
    assert found.default > 100  # nanoseconds


def test_a_kernel_with_a_wrong_result_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _, task = tile_space("sum_major_96x80", candidates=4)
    wrong = replace(FAMILIES["sum_major"], program=lambda x: jax.lax.reduce(x, np.float32(1), jax.lax.add, (0,)))
    monkeypatch.setitem(FAMILIES, "sum_major", wrong)
    with pinned(), pytest.raises(CollectError, match="differs from the JAX result"):
        task()(1)


def test_tune_layout_returns_an_equivalent_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(tune_jax, "_ROUNDS", 1)
    function, args = named(program)
    tuned = tune_layout(function, args, budget=3, candidates=6, journal=tmp_path / "journal.jsonl")
    assert tuned.found.measured == 3
    assert "default" in str(tuned)
    assert not {"array", "history"} & {*re.findall(r"\w+", repr(tuned))}
    np.testing.assert_allclose(jax.jit(tuned.function)(*args)["twice"], function(*args)["twice"], rtol=1e-4)

    configs = sample_layouts(Relayout(function, args).sites, 6, 0)
    chosen = replace(tuned, choice={"dot": [0]}, config=configs[1])
    chosen.save(tmp_path / "layout.json")
    assert len((tmp_path / "layout.json").read_text().splitlines()) == 7
    loaded = load_layout(tmp_path / "layout.json", function, args)
    assert loaded is not function
    np.testing.assert_allclose(jax.jit(loaded)(*args)["twice"], function(*args)["twice"], rtol=1e-4)
    with pytest.raises(TuneError, match="tuned for another function, other shapes or another version of JAX"):
        load_layout(tmp_path / "layout.json", lambda *args: function(*args)["twice"] + 1, args)
    with pytest.raises(UsageError, match=r"expected a tuple of the arguments of the function, got 1"):
        tune_layout(function, 1)  # type: ignore[arg-type]
    (tmp_path / "layout.json").write_text("{}")
    with pytest.raises(TuneError, match=r"not a file of TunedLayout\.save"):
        load_layout(tmp_path / "layout.json", function, args)


def test_layouts_are_measured_in_one_thread_on_one_core_after_jax_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def measured(runs: Sequence[Callable[[], object]], **_: object) -> tuple[list[int], list[int]]:
        assert len(cores()) == 1 or not hasattr(os, "sched_setaffinity")
        begin = time.thread_time(), time.process_time()
        for _ in range(20):
            runs[0]()
        shares.append((time.thread_time() - begin[0]) / (time.process_time() - begin[1]))
        return [1], [1]

    monkeypatch.setattr(tune_jax, "measure", measured)
    allowed = cores()
    args = tuple(jax.random.normal(jax.random.key(seed), (2, 128, 4, 64)) for seed in range(3))
    tune_layout(attention, args, budget=3, progress=False)
    assert cores() == allowed
    assert np.median(shares) > 0.95


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (1.1, 1.3, "1.20 times as fast as the default (1.10 to 1.30)"),
        (0.61, 1.04, "undecided, so the default is kept: the best other configuration is 0.61 to 1.04 times as fast"),
        (0.5, 0.9, "the default is best: the best other configuration is 0.50 to 0.90 times as fast"),
    ],
)
def test_verdicts_give_their_interval(low: float, high: float, text: str) -> None:
    assert str(Verdict(1, 1.2, low, high, 20)) == text


def test_a_program_of_a_file_is_measured_in_a_child(program: str) -> None:
    space, task = layout_space(program, candidates=6)
    assert space.describe(0) == {}
    assert all(name.startswith("dot ") for name in space.describe(1))
    with Child(task, timeout=120.0) as child:
        found = search(Tuner(space), child, budget=3, rounds=2)
    assert (found.measured, found.failed) == (3, 0)


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (tile_space, "matmul", "expected FAMILY_SHAPE such as .* unknown family '';.* more"),
        (tile_space, "sum_majr_3x2", "did you mean 'sum_major'?"),
        (tile_space, "sum_major_3", "expected 2 positive extents as in sum_major_.*, got '3'"),
        (tile_space, "sum_major_3x0", "expected 2 positive extents as in sum_major_.*, got '3x0'"),
        (named, "resnet", "unknown program; did you mean 'resnet_nhwc'?"),
        (named, "mine.py", "unknown program; for a file, expected FILE.py:NAME"),
        (named, "nowhere.py:f", "nowhere.py: no such Python file"),
        (named, "{}:nothing", "expected a function without arguments .* got TypeError"),
        (named, "{}:absent", "expected a function without arguments .* got KeyError"),
    ],
)
def test_unknown_kernels_and_programs_are_rejected(
    program: str, find: Callable[[str], object], name: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        find(name.format(program.rpartition(":")[0]))


def test_the_command_resumes_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_collection(tmp_path, {"test": 2}, n_configs=24)
    graph = sorted((root / "npz/tile/cpu/test").glob("*.npz"))[0]
    with np.load(graph) as arrays:
        first = arrays["config_runtime"][0]
    rewrite(graph, config_runtime_normalizers=np.full(24, first))
    arguments = ["--space", f"replay:{graph}", "--out", str(tmp_path / "out")]
    results = []
    for budget in ("6", "9"):
        assert main([*arguments, "--json", "--budget", budget]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert [(each["measured"], each["resumed"]) for each in results] == [(6, 0), (9, 6)]
    assert results[1]["best"]["runtime"] <= results[0]["best"]["runtime"]
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == results[1]
    assert main([*arguments, "--budget", "9"]) == 0
    text = capsys.readouterr().out
    assert "9 of 24 measured" in text
    assert "times as fast" in text


def test_the_command_replays_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_collection(tmp_path, {"test": 2}, n_configs=12) / "npz/tile/cpu/test"
    arguments = ["--space", f"replay:{folder}", "--budget", "3", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    assert [each["measured"] for each in json.loads(capsys.readouterr().out)] == [3, 3]
    assert len(list((tmp_path / "out").glob("*/journal.jsonl"))) == 2
    assert main(arguments) == 0
    assert "Replayed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--space", "cake:3"], "replay:GRAPH.npz or table:FILE.csv, got 'cake:3'", 2),
        (["--space", "replay:absent.npz"], "absent.npz", 1),
        (["--space", "tile:nothing_3x4"], "nothing_3x4: expected FAMILY_SHAPE", 2),
        (["--space", "replay:absent.npz", "--model", "absent"], "absent", 1),
    ],
)
def test_errors_of_the_command_are_one_line(
    arguments: list[str], message: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks[1:]:  # the first tunes a JAX function, as above
        exec(compile(block, "tuning.md", "exec"), {})
    printed = capsys.readouterr().out
    for expected in ("'BLOCK_M'", "'block_x'", "the default", "'threads'"):
        assert expected in printed
    assert (tmp_path / "transpose.jsonl").exists()
