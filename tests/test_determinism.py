"""What is the same bit for bit, run after run and for any number of threads and processes: features, stores, models."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.graph import Program
from features.layout.extractor import LayoutExtractor
from gbr import Ranker, read_graph
from gbr.data import build as builds
from gbr.data.build import extract, schema_of
from gbr.models.params import OBJECTIVES
from tests.conftest import ROOT

FOLDERS = {"tile": ROOT / "data/npz/tile/cpu", "layout": ROOT / "data/npz/layout/cpu/random"}
EVERY = [(backend, objective) for backend, offered in OBJECTIVES.items() for objective in offered]
PRICED = ("mixed-few", "nnls")


def some(kind: str, split: str, count: int) -> list[Path]:
    """A few of a split's graphs, from all over it."""
    files = sorted(FOLDERS[kind].glob(f"{split}/*.npz"))
    return files[:: max(1, len(files) // count)][:count]


@cache
def slates(kind: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    graphs = [read_graph(path) for path in some(kind, split, count)]
    X = np.concatenate([extract(graph)[1] for graph in graphs])
    runtime = np.concatenate([graph.runtime for graph in graphs if graph.runtime is not None])
    return X, runtime, np.repeat(np.arange(count), [graph.n_configs for graph in graphs])


def trees(model: bytes) -> bytes:
    """A model without the number of threads it was trained by, which LightGBM's text and an ensemble's index record."""
    if zipfile.is_zipfile(io.BytesIO(model)):
        with zipfile.ZipFile(io.BytesIO(model)) as members:
            return b"".join(trees(members.read(name)) for name in members.namelist())
    return re.sub(rb"\[num_threads: \d+\]", b"", re.sub(rb'"n_jobs": \d+', b"", model))


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_a_seed_makes_the_same_model_for_any_number_of_threads(backend: str, objective: str) -> None:
    kind = "layout" if objective in PRICED else "tile"
    X, runtime, qid = slates(kind, "train", 6)
    costs = [schema_of(kind).names.index(name) for name in schema_of(kind).costs] or None
    models, scores = [], []
    for n_jobs in (1, 2, 1):
        ranker = Ranker(backend, objective, n_estimators=5, learning_rate=0.2, costs=costs, n_jobs=n_jobs)
        ranker.fit(X, runtime, qid=qid, eval_set=slates(kind, "valid", 3))
        models.append(ranker.model_.to_bytes())
        for asked in (1, 2):
            X_test = slates(kind, "test", 3)[0]
            scores.append(ranker.set_params(n_jobs=asked).predict(X_test))
    assert models[0] == models[2]
    assert len({trees(model) for model in models}) == 1
    for other in scores[1:]:
        np.testing.assert_array_equal(other, scores[0])
    assert np.ptp(scores[0])


def test_a_saved_model_scores_graph_files_alike(tmp_path: Path) -> None:
    X, runtime, qid = slates("layout", "train", 6)
    costs = [schema_of("layout").names.index(name) for name in schema_of("layout").costs]
    X_test = slates("layout", "test", 3)[0]
    for backend, objective in (("ensemble", "mixed-few"),):
        ranker = Ranker(backend, objective, n_estimators=6, learning_rate=0.2, costs=costs, n_jobs=1)
        wanted = ranker.fit(X, runtime, qid=qid).predict(X_test)
        first, second = tmp_path / f"{objective}1", tmp_path / f"{objective}2"
        ranker.save(first)
        loaded = Ranker.load(first)
        np.testing.assert_array_equal(loaded.predict(X_test), wanted)
        loaded.save(second)
        names = sorted(path.name for path in first.iterdir())
        assert names == sorted(path.name for path in second.iterdir())
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_layout_columns_do_not_depend_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in some("layout", "train", 3):
        wanted = extract(read_graph(path))[1]
        monkeypatch.setattr(builds, "cores", lambda: threads)
        monkeypatch.setattr(builds, "_CODES_AT_ONCE", 200)  # some dozen configurations at once
        np.testing.assert_array_equal(extract(read_graph(path))[1], wanted)
        monkeypatch.undo()


def test_a_slate_described_by_several_threads_is_the_same() -> None:
    graph = read_graph(some("layout", "test", 1)[0])
    assert graph.node_config_ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    configs = np.concatenate([block for _, block in graph.config_blocks()])
    configs = np.tile(configs, (6, 1, 1))  # enough to be shared out
    alone = LayoutExtractor(program, graph.node_config_ids).vectors(configs)
    with ThreadPoolExecutor(2) as pool:
        together = LayoutExtractor(program, graph.node_config_ids).vectors(configs, pool.map)
    np.testing.assert_array_equal(together, alone)


# --- from files to scores, in processes of their own -----------------------------------------------------------------

_RUN = """
import sys
from pathlib import Path

from gbr import Ranker
from gbr.data.build import build
from gbr.data.collection import resolve
from gbr.train import train

if __name__ == "__main__":
    root, out, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for name in ("tile:cpu", "layout:cpu:random"):
        subset = resolve(name, root)
        build(subset, root, out / "store", jobs=jobs)
        run = out / name.split(":")[0]
        train(subset, root, out / "store", run, settings={"n_estimators": 4, "learning_rate": 0.2}, jobs=jobs)
        for path in sorted(subset.folder(root).glob("test/*.npz")):
            (out / f"{path.stem}.scores").write_bytes(Ranker.load(run).predict_graph(path).tobytes())
"""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")


def told(path: Path) -> Any:
    """What a file holds but for threads and seconds: a digest, or a manifest without what follows from threads."""
    if path.name == "metrics.json":
        return json.loads(path.read_text()) | {"seconds": None}
    if path.name == "manifest.json" and "model" in (manifest := json.loads(path.read_text())):
        manifest["settings"]["n_jobs"] = manifest["model"] = None
        manifest["params"] = {**manifest.get("params", {}), "n_jobs": None}
        return manifest
    content = path.read_bytes()
    return hashlib.sha256(trees(content) if path.name.startswith("model-") else content).hexdigest()


def test_processes_of_one_thread_and_of_two_write_the_same_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for kind, counts in (("tile", (4, 2, 1)), ("layout", (3, 1, 1))):
        for split, count in zip(("train", "valid", "test"), counts, strict=True):
            folder = data / "npz" / FOLDERS[kind].relative_to(ROOT / "data/npz") / split
            folder.mkdir(parents=True)
            for path in some(kind, split, count):
                shutil.copy(path, folder)
    script = tmp_path / "run.py"
    script.write_text(_RUN)
    found = []
    for jobs in (1, 2):
        environ = os.environ | dict.fromkeys(_THREADS, str(jobs)) | {"PYTHONHASHSEED": str(jobs)}
        out = tmp_path / f"{jobs}"
        command = [sys.executable, str(script), str(data), str(out), str(jobs)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        files = [path for path in out.rglob("*") if path.is_file()]
        # A model's file is called by its digest, and so by its threads.
        found.append({re.sub("model-.*", "model", str(path.relative_to(out))): told(path) for path in files})
    assert found[0].keys() == found[1].keys()
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []
    assert sum(name.endswith(".parquet") for name in found[0]) == 12
    assert sum(name.endswith(".scores") for name in found[0]) == 2
