"""Features, stores and models are equal bit for bit for any number of threads and processes."""

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
from gbr.data import build
from gbr.data.build import extract, schema_of
from gbr.data.collection import resolve
from gbr.models.params import OBJECTIVES
from gbr.train import train
from tests.conftest import ROOT
from tests.ranking import embedded_files, rows_of

EVERY = [
    (backend, objective)
    for backend, offered in OBJECTIVES.items()
    if backend not in ("prior", "runtime")
    for objective in offered
]


@cache
def groups(kind: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    files = embedded_files(kind, split)
    return rows_of(files[:: max(1, len(files) // count)][:count])


def without_threads(model: bytes) -> bytes:
    """A model without its number of threads, which LightGBM's text and the index of an ensemble contain."""
    if zipfile.is_zipfile(io.BytesIO(model)):
        with zipfile.ZipFile(io.BytesIO(model)) as members:
            return b"".join(without_threads(members.read(name)) for name in members.namelist())
    return re.sub(rb"\[num_threads: \d+\]", b"", re.sub(rb'"n_jobs": \d+', b"", model))


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_models_do_not_depend_on_threads(backend: str, objective: str) -> None:
    kind = "layout" if objective in ("mixed-few", "nnls") else "tile"
    X, runtime, qid = groups(kind, "train", 6)
    X_test = groups(kind, "test", 3)[0]
    costs = [schema_of(kind).names.index(name) for name in schema_of(kind).costs] or None
    models, scores = [], []
    for n_jobs in (1, 2, 1):
        ranker = Ranker(backend, objective, n_estimators=5, learning_rate=0.2, costs=costs, n_jobs=n_jobs)
        ranker.fit(X, runtime, qid=qid, eval_set=groups(kind, "valid", 3))
        models.append(ranker.model_.to_bytes())
        scores += [ranker.set_params(n_jobs=n_jobs).predict(X_test) for n_jobs in (1, 2)]
    assert models[0] == models[2]
    assert len({without_threads(model) for model in models}) == 1
    for other in scores[1:]:
        np.testing.assert_array_equal(other, scores[0])
    assert np.ptp(scores[0])


def test_layout_features_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read_graph(embedded_files("layout", "test")[0])
    assert graph.node_config_ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    configs = np.tile(np.concatenate([block for _, block in graph.config_blocks()]), (6, 1, 1))
    expected = LayoutExtractor(program, graph.node_config_ids).vectors(configs)
    for threads in (2, 5):
        with ThreadPoolExecutor(threads) as pool:
            vectors = LayoutExtractor(program, graph.node_config_ids).vectors(configs, pool.map)
        np.testing.assert_array_equal(vectors, expected)
    expected = extract(graph)[1]
    monkeypatch.setattr(build, "_CODES_AT_ONCE", 200)  # a few dozen configurations
    for threads in (1, 5):
        monkeypatch.setattr(build, "cores", lambda threads=threads: threads)
        np.testing.assert_array_equal(extract(graph)[1], expected)


# --- from files to scores, in this process and in another -------------------------------------------------------------


def pipeline(root: Path, out: Path, jobs: int) -> None:
    """Build, train and predict; writes a store, a run and scores to ``out``."""
    subset = resolve("layout:cpu:random", root)
    build.build(subset, root, out / "store", jobs=1)  # a pool of processes costs seconds; test_build.py has one
    settings = {"n_estimators": 3, "learning_rate": 0.2}
    train(subset, root, out / "store", out / "run", backend="lightgbm", settings=settings, jobs=jobs)
    for path in subset.folder(root).glob("test/*.npz"):
        (out / f"{path.stem}.scores").write_bytes(Ranker.load(out / "run").predict_graph(path).tobytes())


def content(path: Path) -> Any:
    """Digest of a file, or its JSON, without threads and seconds."""
    if path.name == "metrics.json":
        return json.loads(path.read_text()) | {"seconds": None}
    if path.name == "manifest.json" and "model" in (manifest := json.loads(path.read_text())):
        manifest["settings"]["n_jobs"] = manifest["model"] = None
        return manifest
    data = path.read_bytes()
    return hashlib.sha256(without_threads(data) if path.name.startswith("model-") else data).hexdigest()


def test_processes_with_one_and_two_threads_write_equal_files(tmp_path: Path) -> None:
    for split, count in {"train": 2, "valid": 1, "test": 1}.items():
        folder = tmp_path / "npz/layout/cpu/random" / split
        folder.mkdir(parents=True)
        for path in sorted(embedded_files("layout", split), key=lambda path: path.stat().st_size)[:count]:
            shutil.copy(path, folder)
    roots = [tmp_path / "1", tmp_path / "2"]
    pipeline(tmp_path, roots[0], 1)
    code = "import sys; from pathlib import Path; from tests.test_determinism import pipeline; "
    code += "pipeline(Path(sys.argv[1]), Path(sys.argv[2]), 2)"
    environ = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "2"}
    command = [sys.executable, "-c", code, str(tmp_path), str(roots[1])]
    subprocess.run(command, cwd=ROOT, env=environ, check=True, stderr=subprocess.DEVNULL)
    outputs = []
    for root in roots:
        files = [path for path in root.rglob("*") if path.is_file()]
        # The name of a model file contains its digest.
        names = [re.sub("model-.*", "model", str(path.relative_to(root))) for path in files]
        outputs.append(dict(zip(names, map(content, files), strict=True)))
    assert outputs[0] == outputs[1]
    assert sum(name.endswith(".parquet") for name in outputs[0]) == 4
    assert sum(name.endswith(".scores") for name in outputs[0]) == 1
