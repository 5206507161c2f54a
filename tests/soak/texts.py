"""Targets of fuzzing that are texts: tables, journals, profiles, manifests, lists, and the files of models."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from gbr.errors import DataError, GbrError, TuneError
from tests.damage import damaged_bytes, damaged_json, damaged_text
from tests.soak.targets import Target, commanded, refused, scratch

ROOT: Final = Path(__file__).parents[2]
#: Between a manifest and its booster.
SEAM: Final = b"\0\0\0\0"
#: Columns above this are not predicted with: the matrix itself would be what takes long.
_MOST_COLUMNS: Final = 10_000


@cache
def made() -> tuple[Path, list[Path]]:
    """A small collection with its store, and a model of every backend that was trained on it."""
    from gbr import Ranker
    from tests.collection import trained, write_collection

    root = scratch()
    write_collection(root, {"train": 3, "valid": 2, "test": 1})
    few = {"n_estimators": 3, "num_leaves": 6}
    runs = [trained(root, out=root / name, backend=name, settings=few) for name in ("lightgbm", "xgboost", "ensemble")]
    X = np.random.default_rng(0).random((60, 3))
    for name, objective in (("costmodel", "nnls"), ("ensemble", "mixed-few")):  # of a plain table
        ranker = Ranker(name, objective, n_estimators=2, num_leaves=4, costs=[0, 2])
        ranker.fit(X, X[:, 0] + X[:, 2], qid=np.repeat(np.arange(6), 10)).save(root / objective)
        runs.append(root / objective)
    return root, runs


def rarely(data: bytes, one_in: int) -> bool:
    """Whether an input is one of few: told by its bytes, so that it is found again."""
    return hashlib.sha256(data).digest()[0] % one_in == 0


def _text(data: bytes, choice: random.Random) -> bytes:
    return damaged_text(data, choice) if choice.random() < 0.8 else damaged_bytes(data, choice)


# Submissions.


@cache
def _tests() -> tuple[Path, dict[str, dict[str, int]]]:
    """Test graphs of two collections of the competition, one of them whole, and how many configurations each has."""
    from gbr.submission import graphs_there
    from tests.made import collection

    root = scratch()
    collection(root, "tile:xla", test=2)
    collection(root, "layout:xla:random", test=8)
    return root, graphs_there(root)


def _submissions() -> list[bytes]:
    rows = [f"{name}:{stem}" for name, graphs in _tests()[1].items() for stem in graphs]
    counts = [count for graphs in _tests()[1].values() for count in graphs.values()]
    whole = "ID,TopConfigs\n" + "".join(
        f"{row},{';'.join(map(str, range(5 if row.startswith('tile') else count)))}\n"
        for row, count in zip(rows, counts, strict=True)
    )
    return [whole.encode(), whole.replace("\n", "\r\n").encode(), b'ID,TopConfigs\n"tile:xla:a","0;1;2;3;4"\n']


def _read_submission(data: bytes, folder: Path) -> None:
    from gbr import submit
    from gbr.submission import check

    path = folder / "submission.csv"
    path.write_bytes(data)
    root, sets = _tests()
    report = check(path, sets)
    if any("\n" in fault or not fault.isprintable() for fault in report.faults):
        raise AssertionError(f"no lines: {report.faults}")
    if rarely(data, 20):
        status, _ = commanded(submit.main, "--check", path, "--data", root)
        if status != min(1, report.n_faults):
            raise AssertionError(f"status {status} with {report.n_faults} faults")


# Journals of a search.


def _space():  # type: ignore[no-untyped-def]
    from gbr.tune import ParameterSpace

    return ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})


def _journals() -> list[bytes]:
    from gbr.tune import Journal

    path = scratch() / "journal.jsonl"
    with Journal(path, _space()) as journal:
        header = path.read_bytes()
        for config in range(5):
            journal.begin(config)
            journal.write(config, f"crashed: {config}" if config % 2 else 1.5 + config)
        journal.begin(7)
        journal.stopped(7)
        journal.begin(8)
        journal.begin(8)
    return [path.read_bytes(), header]


def _damaged_journal(data: bytes, choice: random.Random) -> bytes:
    lines = data.split(b"\n")
    if choice.random() < 0.5:
        at = choice.randrange(len(lines))
        lines[at] = damaged_json(lines[at], choice)
        return b"\n".join(lines)
    return _text(data, choice)


def _read_journal(data: bytes, folder: Path) -> None:
    from gbr.tune import Journal, Tuner, search

    path, space = folder / "journal.jsonl", _space()
    path.write_bytes(data)

    def outcomes() -> list[tuple[int, float | str]]:
        with Journal(path, space) as journal:
            return journal.outcomes

    if refused(outcomes, TuneError) is not None:
        if path.read_bytes() != data:
            raise AssertionError("a journal that is not ours was changed")
        return
    if outcomes() != (found := outcomes()) or not all(0 <= config < len(space) for config, _ in found):
        raise AssertionError("a journal that is not read twice alike")
    if rarely(data, 20):
        refused(lambda: search(Tuner(space), lambda config: 1.0 + config, budget=4, journal=path, rounds=0))


# Profiles of a machine.


def _profiles() -> list[bytes]:
    from features.hardware import PROFILES
    from gbr.data.hardware import save

    path = scratch() / "hardware.toml"
    found = [path.read_bytes() for path in sorted((ROOT / "data/npz").rglob("hardware.toml"))]
    for profile in PROFILES.values():
        save(path, profile)
        found.append(path.read_bytes())
    return found


@cache
def _graph():  # type: ignore[no-untyped-def]
    from gbr.data.graph import graph_from_arrays
    from tests.made import tile_arrays

    return graph_from_arrays("made", tile_arrays(3))


def _read_profile(data: bytes, folder: Path) -> None:
    from gbr.data.build import extract
    from gbr.data.hardware import load, save

    path = folder / "hardware.toml"
    path.write_bytes(data)
    found = []
    if refused(lambda: found.append(load(path)), DataError) is not None:
        return
    save(path, found[0])
    if load(path) != found[0]:
        raise AssertionError("a profile that is not read as it was written")
    tables = []
    if refused(lambda: tables.append(extract(_graph(), found[0])[1])) is None and not np.isfinite(tables[0]).all():
        raise AssertionError("features that are not finite")


# Manifests of stores and models.


def _manifests() -> list[bytes]:
    root, runs = made()
    return [
        path.read_bytes() for path in (root / "store/tile/cpu/manifest.json", *(run / "manifest.json" for run in runs))
    ]


def _json_or_text(data: bytes, choice: random.Random) -> bytes:
    return damaged_json(data, choice) if choice.random() < 0.85 else _text(data, choice)


def _read_manifest(data: bytes, folder: Path) -> None:
    root, runs = made()
    if b'"graphs"' in data:
        _read_store(data, folder, root)
        return
    for run in runs:
        name = json.loads((run / "manifest.json").read_bytes())["model"]["file"]
        if name.encode() in data:
            _load_model(data, {name: (run / name).read_bytes()}, folder, root)
            return
    _load_model(data, {}, folder, root)


def _read_store(data: bytes, folder: Path, root: Path) -> None:
    from gbr import features
    from gbr.data.build import schema_of
    from gbr.data.store import FeatureStore

    place = folder / "store"
    if not place.exists():
        shutil.copytree(root / "store", place)
    (place / "tile/cpu/manifest.json").write_bytes(data)
    store = FeatureStore(place, "tile:cpu")
    if refused(lambda: store.check(schema_of("tile").hash)) is None:
        for split in ("train", "valid", "test"):
            refused(lambda split=split: store.load(split))  # type: ignore[misc]
    if rarely(data, 4):
        for told in ([], ["--json"]):
            commanded(features.main, "info", "--subset", "tile:cpu", "--data", root, "--store", place, *told)


def _load_model(data: bytes, files: dict[str, bytes], folder: Path, root: Path) -> None:
    from gbr import Ranker, predict

    place = folder / "model"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "manifest.json").write_bytes(data)
    for name, held in files.items():
        (place / name).write_bytes(held)

    def use() -> None:
        ranker = Ranker.load(place)
        if ranker.n_features_in_ <= _MOST_COLUMNS:
            if not np.isfinite(ranker.predict(np.zeros((3, ranker.n_features_in_), np.float32))).all():
                raise AssertionError("scores that are not finite")
            if len(ranker.feature_importances_) != ranker.n_features_in_:
                raise AssertionError("importances of other columns")
        repr(ranker)

    refused(use)
    if rarely(data, 8):
        graph = next((root / "npz/tile/cpu/test").glob("*.npz"))
        more = ["--report", folder / "report.html"] if rarely(data[::-1], 8) else []
        commanded(predict.main, "--model", place, graph, *more)


# Models.


def _models() -> list[bytes]:
    found = []
    for run in made()[1]:
        manifest = (run / "manifest.json").read_bytes()
        found.append(manifest + SEAM + (run / json.loads(manifest)["model"]["file"]).read_bytes())
    return found


def _damaged_model(data: bytes, choice: random.Random) -> bytes:
    """Damage the model file, which no longer has the SHA-256 of its manifest, or the manifest."""
    manifest, _, booster = data.partition(SEAM)
    if choice.random() < 0.5:
        return manifest + SEAM + damaged_bytes(booster, choice)
    return damaged_json(manifest, choice) + SEAM + booster


def _read_model(data: bytes, folder: Path) -> None:
    """Read bytes as the manifest of a model and, after four NULs, its booster; rank with it."""
    manifest, _, booster = data.partition(SEAM)
    files = {}
    with suppress(Exception):  # a manifest that names no file needs none
        files[Path(json.loads(manifest)["model"]["file"]).name] = booster
    _load_model(manifest, files, folder, made()[0])


# Lists, and what gbr wrote down beside the data.


def _lists() -> list[bytes]:
    from gbr import __version__

    found: Sequence[object] = (
        {"unet_3d.4x4.bf16": [3, 1, 4, 1], "bert": [0]},
        {"archive": "npz_tile_xla_train.tar", "files": {"a.npz": 3, "b.npz": 5}},
        {"gbr": __version__, "collections": {"tile:xla": {"seconds": {"build": 1.5}, "valid": {}, "made_of": {}}}},
        {"url": "http://x/y", "size": 10, "etag": "a", "modified": None, "md5": None},
    )
    return [json.dumps(value).encode() for value in found]


def _read_list(data: bytes, folder: Path) -> None:
    from gbr.data.collection import Subset
    from gbr.done import State
    from gbr.downloads.catalogue import Piece
    from gbr.evaluation.protocol import indices_of

    for name in ("xla_default.json", "state.json", "npz/tile/xla/train/.unpacked.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    refused(lambda: indices_of(Subset("layout:xla:default"), "valid", folder), DataError)
    Piece("tile:xla", "train").complete(folder)

    def state() -> None:
        held = State(folder)
        held.known()
        held.seconds("tile:xla")
        held.figures("tile:xla", {})
        held.took("tile:xla", "fit", 1.0)

    refused(state, GbrError)


TEXTS: Final = {
    "csv": Target(_submissions, _text, _read_submission),
    "journal": Target(_journals, _damaged_journal, _read_journal),
    "profile": Target(_profiles, _text, _read_profile),
    "manifest": Target(_manifests, _json_or_text, _read_manifest),
    "model": Target(_models, _damaged_model, _read_model),
    "lists": Target(_lists, _json_or_text, _read_list),
}
