from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr import Ranker, read_graph
from gbr import evaluate as command
from gbr.data.collection import Subset
from gbr.errors import DataError, UsageError
from gbr.evaluation import protocol
from tests.made import collection, trained
from tests.ranking import groups_of


def official_errors(preds: np.ndarray, runtimes: np.ndarray, top: tuple[int, ...]) -> dict[int, float]:
    """As tiles_evaluate.py and layout_evaluate.py of TpuGraphs, with NumPy instead of TensorFlow."""
    time_best = np.min(runtimes)
    sorted_indices = sorted(range(len(preds)), key=lambda row: (preds[row], row))
    return {k: float((np.min(runtimes[sorted_indices[:k]]) - time_best) / time_best) for k in top}


few = st.integers(1, 6)
kernel = st.lists(st.tuples(few, few), min_size=1, max_size=14)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["a_b_1", "a_b_2", "c_1", "c_2", "c_3", "d"]), kernel, min_size=1))
def test_tile_figures_match_the_official_script(kernels: dict[str, list[tuple[int, int]]]) -> None:
    runtimes = [[runtime for _, runtime in rows] for rows in kernels.values()]
    normalizer = np.full(sum(map(len, runtimes)), 3, np.int64)
    groups = groups_of(*runtimes, names=tuple(kernels), normalizer=normalizer)
    scores = np.array([s for rows in kernels.values() for s, _ in rows], float)
    found = protocol.evaluate(scores, groups, "tile")

    by_benchmark: dict[str, list[dict[int, float]]] = defaultdict(list)
    for name, rows in kernels.items():
        if len(rows) >= 2:  # get_npz_split(min_configs=2)
            preds, runtimes = (np.array(column, float) for column in zip(*rows, strict=True))
            by_benchmark[name.rsplit("_", 1)[0]].append(official_errors(preds, runtimes / 3, (1, 5, 10)))
            equal = len(set(runtimes)) == 1  # such a kernel counts, and is listed
            assert found["unrankable"].get(name) == ("all runtimes are equal" if equal else None)
        else:
            assert found["skipped"][name] == "fewer than 2 configurations"
    assert found["n_graphs"] == sum(map(len, by_benchmark.values()))
    assert found["benchmarks"].keys() == by_benchmark.keys()
    for k in (1, 5, 10):
        means = {name: np.mean([errors[k] for errors in every]) for name, every in by_benchmark.items()}
        for name, mean in means.items():
            assert found["benchmarks"][name][f"slowdown@{k}"] == pytest.approx(mean, abs=1e-12)
        every = [errors[k] for errors_of in by_benchmark.values() for errors in errors_of]
        mean = pytest.approx(np.mean(every), abs=1e-12) if every else None
        assert found[f"slowdown@{k}"] == mean
        over = pytest.approx(np.mean(list(means.values())), abs=1e-12) if every else None
        assert found["over_benchmarks"][f"slowdown@{k}"] == over
    assert found["score"] == (pytest.approx(1 - found["slowdown@5"], abs=1e-12) if found["n_graphs"] else None)


def test_layout_figures_match_the_official_script() -> None:
    rng = np.random.default_rng(0)
    graphs = {"u": rng.integers(10**9, 2 * 10**9, 300), "v": rng.integers(1, 50, 2000)}
    groups = groups_of(*(runtime.tolist() for runtime in graphs.values()), [3, 4], names=(*graphs, "unlisted"))
    scores = {name: np.round(runtime * rng.lognormal(0, 0.4, len(runtime)), -1) for name, runtime in graphs.items()}
    listed = {"u": rng.integers(0, 300, 1000), "v": rng.choice(2000, 1000, replace=False), "elsewhere": np.array([0])}
    found = protocol.evaluate(np.concatenate([*scores.values(), [1.0, 2.0]]), groups, "layout", listed)
    for name in graphs:
        preds, runtimes = scores[name][listed[name]], graphs[name][listed[name]]
        errors = official_errors(preds, runtimes, (1, 10, 100))
        expected = {f"slowdown@{k}": error for k, error in errors.items()}
        expected["kendall_tau"] = scipy.stats.kendalltau(preds, runtimes).correlation
        assert found["graphs"][name] == pytest.approx(expected, abs=1e-12)
    for figure in ("kendall_tau", "slowdown@1", "slowdown@10", "slowdown@100"):
        assert found[figure] == pytest.approx(np.mean([found["graphs"][name][figure] for name in graphs]))
    assert found["score"] == found["kendall_tau"]
    assert found["repeated"] == {"u": len(set(listed["u"].tolist()))}
    assert found["absent"] == ["elsewhere"]
    assert found["skipped"] == {"unlisted": "none of its configurations are listed"}


def test_listed_row_out_of_range_is_an_error() -> None:
    with pytest.raises(DataError, match="g: listed row 2 is out of range, the graph has 2"):
        protocol.evaluate(np.zeros(2), groups_of([1, 2], names=("g",)), "layout", {"g": np.array([0, 2])})


@pytest.mark.parametrize(("search", "repeating"), [("default", []), ("random", ["unet_3d.4x4.bf16"])])
def test_official_lists_are_read(shared_data: Path, search: str, repeating: list[str]) -> None:
    found = protocol.indices_of(Subset(f"layout:xla:{search}"), "valid", shared_data / "eval_indices")
    assert found is not None
    stored = json.loads((shared_data / f"eval_indices/xla_{search}.json").read_text())
    assert {name: rows.tolist() for name, rows in found.items()} == stored
    assert {len(rows) for rows in found.values()} == {1000}
    assert [name for name, rows in found.items() if len(np.unique(rows)) < 1000] == repeating


@pytest.mark.parametrize(
    ("subset", "split", "text", "error", "match"),
    [
        ("layout:cpu:random", "valid", "{}", UsageError, "layout:cpu:random has no listed configurations"),
        ("layout:xla:random", "train", "{}", UsageError, "listed for valid, not for train; use --split valid"),
        ("layout:nlp:random", "valid", "{}", DataError, r"nlp_random\.json: cannot be read .*eval-indices"),
        ("layout:xla:random", "valid", "[", DataError, r"xla_random\.json: invalid JSON"),
        ("layout:xla:random", "valid", '{"g": [1, -1]}', DataError, "g: expected a list of row indices"),
        ("layout:xla:random", "valid", '{"g": [99999999999999999999]}', DataError, "invalid number 9999"),
    ],
)
def test_invalid_lists_are_errors(
    subset: str, split: str, text: str, error: type[Exception], match: str, tmp_path: Path
) -> None:
    (tmp_path / "xla_random.json").write_text(text)
    with pytest.raises(error, match=match):
        protocol.indices_of(Subset(subset), split, tmp_path)


def run(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[str, str]:
    assert command.main([*map(str, line)]) == 0
    return capsys.readouterr()


def test_command_with_a_tile_collection(tile_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ("--data", tile_run, "--store", tile_run / "store")
    line = ("--model", tile_run / "run", "--subset", "tile:cpu", *paths, "--jobs", 1)
    full = json.loads(run(capsys, *line, "--json")[0])
    both = json.loads(run(capsys, *line, "--protocol", "official", "--json")[0])
    official = both["valid"].pop("official")
    assert both["valid"] == full["valid"]
    assert official["benchmarks"]["matmul"]["n_graphs"] == official["n_graphs"] == 3
    assert official["over_benchmarks"]["slowdown@1"] == official["slowdown@1"]
    out, _ = run(capsys, *line, "--protocol", "official")
    assert "tile:cpu valid, official protocol: 3 graphs, 1 benchmarks" in out
    assert "matmul (3)" in out
    assert max(map(len, out.splitlines())) <= 80


def test_command_with_a_layout_collection(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real validation graph, compared with figures from its scores."""
    graph = Path("npz/layout/xla/default/valid/unet_3d.4x4.bf16.npz")
    root = collection(tmp_path, "layout:xla:default", train=3)
    (root / graph).parent.mkdir()
    shutil.copy(shared_data / graph, root / graph)
    shutil.copytree(shared_data / "eval_indices", root / "eval_indices")
    model = trained(root, subset="layout:xla:default")
    line = ("--model", model, "--subset", "layout:xla:default", "--data", root, "--store", root / "store")
    out, err = run(capsys, *line, "--protocol", "official", "--json")
    found: dict[str, Any] = json.loads(out)["valid"]["official"]

    (rows,) = (json.loads((root / "eval_indices/xla_default.json").read_text())[name] for name in ["unet_3d.4x4.bf16"])
    preds = Ranker.load(model).predict_graph(root / graph)[rows]
    runtimes = read_graph(root / graph).runtime
    assert runtimes is not None
    expected = {f"slowdown@{k}": e for k, e in official_errors(preds, runtimes[rows], (1, 10, 100)).items()}
    expected["kendall_tau"] = scipy.stats.kendalltau(preds, runtimes[rows]).correlation
    assert found["graphs"] == {"unet_3d.4x4.bf16": pytest.approx(expected, abs=1e-12)}
    assert found["kendall_tau_ci"] is None
    assert "6 listed graphs are missing" in err
    shown, _ = run(capsys, *line, "--protocol", "official", "--indices", shared_data / "eval_indices")
    assert "layout:xla:default valid, official protocol: 1 graphs" in shown
