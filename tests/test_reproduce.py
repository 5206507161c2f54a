from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbr import __version__, evaluate, reproduce, train
from gbr.data.collection import Subset
from gbr.download import COLLECTIONS, INDEX_FILES, Archive
from tests.made import collection, write_collection
from tests.mirror import Mirror, serving, tar

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Five tiny collections as on a server: archives, and the lists of the official evaluation."""
    root = tmp_path_factory.mktemp("published")
    write_collection(root, {"train": 2, "valid": 1, "test": 1}, "tile:xla", n_configs=12)
    for name in COLLECTIONS[1:]:
        collection(root, name, train=2, valid=2, test=1)
    files = {}
    for archive in (Archive(name, split) for name in COLLECTIONS for split in ("train", "valid", "test")):
        paths = sorted(archive.folder(root).iterdir())
        files[archive.name] = tar({path.relative_to(root).as_posix(): path.read_bytes() for path in paths})
    lists = {
        f"eval_indices/{name}": b'{"valid_0": [0, 1, 2, 3, 3], "valid_1": [5, 0, 1]}' for name in INDEX_FILES.values()
    }
    return files | lists


@pytest.fixture
def mirror(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    small = {"n_estimators": 3, "num_leaves": 4, "learning_rate": 0.3, "min_child_samples": 2}
    monkeypatch.setattr("gbr.models.params.default_capacity", lambda *_: small)
    with serving(published) as mirror:
        yield mirror


def line(root: Path, mirror: Mirror, *more: str) -> list[str]:
    folders = ["--data", root / "data", "--store", root / "store", "--out", root / "out", "--base-url", mirror.url]
    return [*map(str, folders), "--jobs", "1", *more]


def fetched(mirror: Mirror) -> list[str]:
    return sorted({path[1:] for method, path, _ in mirror.requests if method == "GET"})


def test_from_nothing_to_the_table_after_an_interrupt(
    mirror: Mirror, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names = tmp_path / "out", ["tile:xla", "layout:nlp:default", "layout:nlp:random"]
    trained: list[str] = []
    real_train, interrupt_at = train.train, [1]

    def train_one(subset: Subset, *arguments: Any, **settings: Any) -> dict[str, Any]:
        if len(trained) in interrupt_at:
            raise KeyboardInterrupt
        trained.append(subset.name)
        return real_train(subset, *arguments, **settings)

    monkeypatch.setattr(train, "train", train_one)
    command = line(tmp_path, mirror, "--subset", "tile", "layout:nlp")
    assert reproduce.main(command) == 130
    assert list(json.loads((out / "results.json").read_text())["collections"]) == names[:1]
    assert "npz_layout_nlp_default_valid.tar" in fetched(mirror)
    assert "npz_layout_nlp_random_train.tar" not in fetched(mirror)

    # The same command resumes.
    mirror.requests.clear()
    interrupt_at.clear()
    assert reproduce.main([*command, "--json"]) == 0
    assert trained == names
    assert fetched(mirror) == [f"npz_layout_nlp_random_{split}.tar" for split in ("train", "valid")]
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((out / "results.json").read_text())
    for name, found in results["collections"].items():
        run = out / name.replace(":", "-")
        again = evaluate.evaluate(
            run, Subset(name), "valid", tmp_path / "data", tmp_path / "store", jobs=1, protocol="official"
        )
        assert found["valid"] == again["valid"]
        assert found["model"] == str(run)
    page = (out / "results.md").read_text()
    tile, default, random = (f"{results['collections'][name]['valid']['score']:.3f}" for name in names)
    assert f"| gbr, all configurations | {tile} | – | – | {default} | {random} | – | – |" in page
    assert "| 6th place: graph networks | 0.975 | 0.455 | 0.671 | 0.539 | 0.927 | 0.694 | 0.706 |" in page

    # Nothing is left to do: no request, no training, and the same metrics.
    mirror.requests.clear()
    assert reproduce.main(command) == 0
    assert capsys.readouterr().out == page
    assert (mirror.requests, len(trained)) == ([], 3)

    # A model of another version is trained again, and damaged results are computed again.
    manifest = out / "tile-xla/manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"gbr": "{__version__}"', '"gbr": "0.0.0"'))
    (out / "results.json").write_text("{")
    assert reproduce.main(command) == 0
    assert trained[3:] == ["tile:xla"]
    assert (out / "results.md").read_text() == page


def test_local_archives(published: dict[str, bytes], mirror: Mirror, tmp_path: Path, capsys: Capture) -> None:
    for name, body in published.items():
        if name.startswith(("npz_layout_xla_random", "eval_indices")):
            (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "here" / name).write_bytes(body)
    folders = ["--data", tmp_path / "data", "--store", tmp_path / "store", "--out", tmp_path / "out", "--jobs", 1]
    command = [*map(str, folders), "--from", str(tmp_path / "here"), "--subset", "layout:xla:random"]
    assert reproduce.main(command) == 0
    assert re.search(r"gbr, all configurations \| – \| – \| \S+ \| – \| –", capsys.readouterr().out)
    assert mirror.requests == []


def test_only_collections_can_be_reproduced(capsys: Capture) -> None:
    for name in ("tile:cpu", "eval-indices"):
        assert reproduce.main(["--subset", name]) == 2
        assert f"{name}: not a collection of TpuGraphs" in capsys.readouterr().err
