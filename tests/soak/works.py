"""The commands that are killed, and run out of disk: what each begins with, and what has to come of it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gbr.data.graph import write_graph
from tests.collection import trained, write_collection
from tests.made import collection, layout_arrays

ROOT: Final = Path(__file__).parents[2]
#: A layout graph with so many configurations is written to the store in several groups of rows.
MANY: Final = 9000

Result = Mapping[str, Any]


class TornError(Exception):
    """A file that a reader would open is not whole."""


def _nothing_served(_: Path) -> AbstractContextManager[Sequence[str]]:
    return nullcontext(())


@dataclass(frozen=True)
class Work:
    """One command, started in a folder of its own.

    Parameters
    ----------
    arguments : sequence of str
        Of ``python -m``; places are relative to the folder.
    prepare : callable
        Makes what the command begins with; called once, every run gets a copy.
    result : callable
        From the folder to what two runs have to have in common.
    check : callable
        Opens what a reader would open in mid-way; raises for a torn file.
    finished : sequence of str
        Patterns of files that no later run may change.
    serve : callable
        From the prepared folder to a context manager of further arguments, for as long as the command runs.
    """

    arguments: Sequence[str]
    prepare: Callable[[Path], object]
    result: Callable[[Path], Result]
    check: Callable[[Path], object]
    finished: Sequence[str] = ()
    serve: Callable[[Path], AbstractContextManager[Sequence[str]]] = _nothing_served


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """Contents of files; those that are being written begin with a dot."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if not path.name.startswith(".")}
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def store_is_whole(folder: Path) -> None:
    """Read every graph that a store says it has."""
    from gbr.data.store import FeatureStore

    for manifest in (folder / "store").rglob("manifest.json"):
        name = ":".join(manifest.parent.relative_to(folder / "store").parts)
        store = FeatureStore(folder / "store", name)
        for split in ("train", "valid", "test"):
            if stems := store.stems(split):
                store.load(split, stems)


def graphs_are_whole(folder: Path) -> None:
    """Read every graph file and every repacked copy."""
    from gbr import read_graph
    from gbr.data.packed import Packed

    for path in sorted(folder.rglob("*.npz")):
        if not path.name.startswith("."):
            for _ in read_graph(path, use_copy=False).config_blocks():
                pass
    for path in sorted(folder.rglob("*.gbr")):
        if not path.name.startswith("."):
            packed = Packed(path)
            packed.codes(slice(None))


def _manifest(folder: Path) -> dict[str, Any]:
    """What a store says of its graphs, without which gbr wrote it."""
    return {
        str(path.relative_to(folder)): json.loads(path.read_text())["graphs"] for path in folder.rglob("manifest.json")
    }


def _built(folder: Path) -> Result:
    store_is_whole(folder)
    return digests(folder, "store/**/*.parquet", "data/**/*.gbr") | _manifest(folder / "store")


def _both(*checks: Callable[[Path], object]) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        for each in checks:
            each(folder)

    return check


def _tiles(folder: Path) -> None:
    write_collection(folder / "data", {"train": 24, "valid": 6, "test": 6})


def _layouts(folder: Path) -> None:
    """Programs that were measured, and two with more configurations than a group of rows holds."""
    for split in ("train", "valid", "test"):
        there = folder / "data/npz/layout/cpu/random" / split
        there.mkdir(parents=True)
        for path in sorted((ROOT / "data/npz/layout/cpu/random" / split).glob("*.npz"))[:6]:
            shutil.copy(path, there)
    for seed in range(2):
        write_graph(folder / f"data/npz/layout/cpu/random/train/many_{seed}.npz", layout_arrays(MANY, seed))


_STORE: Final = ("--data", "data", "--store", "store")
_BUILD: Final = ("gbr.features", "build", *_STORE)


def _trained_work() -> Work:
    def check(folder: Path) -> None:
        from gbr import Ranker

        run = folder / "run"
        if (run / "manifest.json").exists():
            Ranker.load(run)
        if (run / "metrics.json").exists():
            json.loads((run / "metrics.json").read_text())
        store_is_whole(folder)

    def result(folder: Path) -> Result:
        figures: dict[str, Any] = json.loads((folder / "run/metrics.json").read_text())
        del figures["seconds"]
        check(folder)
        return digests(folder, "run/model-*", "run/manifest.json", "store/**/*.parquet") | figures

    arguments = ["gbr.train", "--subset", "tile:cpu", *_STORE, "--out", "run", "--set", "n_estimators=20"]
    return Work(
        [*arguments, "--backend", "lightgbm", "--seed", "1", "--jobs", "1"],
        lambda folder: write_collection(folder / "data", {"train": 4, "valid": 1, "test": 1}),
        result,
        check,
        ["store/**/*.parquet"],
    )


def _unmeasured(folder: Path) -> Result:
    """Graphs and configurations of measured files, without their runtimes, which no run repeats."""
    graphs_are_whole(folder)
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as stored:
            told = b"".join(stored[key].tobytes() for key in stored.files if "runtime" not in key)
            found[path.name] = hashlib.sha256(told).hexdigest()
    return found


def _collected(*arguments: str) -> Work:
    return Work(
        ["gbr.collect", *arguments, "--out", "data"],
        lambda folder: folder.mkdir(exist_ok=True),
        _unmeasured,
        graphs_are_whole,
        ["data/**/*.npz", "data/**/hardware.toml"],
    )


def _downloaded() -> Work:
    from tests.mirror import serving, tar, tree
    from tests.test_download import lists

    def prepare(folder: Path) -> None:
        """Graphs to be served; the command itself begins with nothing."""
        write_collection(folder / "served", {"train": 40, "valid": 10, "test": 10}, "tile:xla", n_configs=1500)

    @contextmanager
    def serve(prepared: Path) -> Iterator[Sequence[str]]:
        graphs = tree(prepared / "served")
        bodies = {
            f"npz_tile_xla_{split}.tar": tar({name: body for name, body in graphs.items() if f"/{split}/" in name})
            for split in ("train", "valid", "test")
        }
        with serving(bodies | lists()) as mirror:
            mirror.pause = 0.02
            mirror.drop = [100_000]  # the first connection is lost
            yield ["--base-url", mirror.url]

    def check(folder: Path) -> None:
        graphs_are_whole(folder / "data")
        served = folder / "served/npz"
        for path in (folder / "data/npz").rglob("[!.]*.npz"):
            if path.read_bytes() != (served / path.relative_to(folder / "data/npz")).read_bytes():
                raise TornError(f"{path.name}: not as it was served")
        for path in (folder / "data").rglob("*.json"):
            if not path.name.startswith(".") and path.name.endswith(".json") and ".part" not in path.name:
                json.loads(path.read_text())

    def result(folder: Path) -> Result:
        check(folder)
        if (folder / "data/archives").exists():
            raise TornError("archives stay behind")
        return digests(folder, "data/**/*.npz", "data/eval_indices/*.json")

    return Work(
        ["gbr.download", "tile:xla", "eval-indices", "--data", "data"],
        prepare,
        result,
        check,
        ["data/npz/**/*.npz", "data/eval_indices/*.json"],
        serve,
    )


def _outcomes(path: Path) -> list[tuple[int, object]]:
    """Measurements in a journal, in order; a torn last line is cut off by the next search."""
    lines = path.read_bytes().split(b"\n")[:-1]
    found = [json.loads(line) for line in lines]
    return [(each["config"], each.get("runtime", each.get("failed"))) for each in found if "config" in each]


def _each_once(folder: Path) -> None:
    for path in (folder / "out").rglob("journal.jsonl"):
        counts = Counter(config for config, _ in _outcomes(path))
        if twice := [config for config, count in counts.items() if count > 1]:
            raise TornError(f"configuration {twice[0]} was measured {counts[twice[0]]} times")
    for path in (folder / "out").rglob("result.json"):
        json.loads(path.read_text())


def _replayed() -> Work:
    """Runtimes that were measured before: every search comes to the same history."""

    def prepare(folder: Path) -> None:
        (folder / "graphs").mkdir(parents=True)
        for path in sorted((ROOT / "data/npz/tile/cpu/test").glob("*.npz"))[::54]:
            shutil.copy(path, folder / "graphs")

    def result(folder: Path) -> Result:
        _each_once(folder)
        found: dict[str, Any] = {}
        for path in sorted((folder / "out").rglob("journal.jsonl")):
            told = json.loads(path.with_name("result.json").read_text())
            for differs in ("seconds", "resumed"):
                del told[differs]
            found[path.parent.name] = [_outcomes(path), told]
        return found

    arguments = ["gbr.tune", "--space", "replay:graphs", "--budget", "16", "--out", "out"]
    return Work(arguments, prepare, result, _each_once, ["out/**/journal.jsonl"])


def _tuned() -> Work:
    """A kernel that is measured: nothing is lost, nothing is measured twice; the runtimes are those of the machine."""

    def result(folder: Path) -> Result:
        _each_once(folder)
        outcomes = _outcomes(folder / "out/journal.jsonl")
        failed = {str(reason) for _, reason in outcomes if isinstance(reason, str)}
        return {
            "measured": len(outcomes),
            "told": json.loads((folder / "out/result.json").read_text())["measured"],
            "failed": [reason for reason in failed if not re.fullmatch(r"ended the process \d+ times", reason)],
        }

    arguments = ["gbr.tune", "--space", "tile:vecmat_768x3072", "--budget", "25", "--candidates", "64", "--out", "out"]
    return Work(arguments, lambda folder: folder.mkdir(exist_ok=True), result, _each_once, ["out/**/journal.jsonl"])


def _page(path: Path) -> str:
    """A report without the minute in which it was made."""
    text = path.read_text(encoding="utf-8")
    if not text.rstrip().endswith("</html>"):
        raise TornError(f"{path.name}: torn")
    return hashlib.sha256(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text).encode()).hexdigest()


def _pages(folder: Path) -> None:
    for path in folder.glob("[!.]*.html"):
        _page(path)


def _predicted() -> Work:
    def prepare(folder: Path) -> None:
        write_collection(folder / "data", {"train": 4, "valid": 1, "test": 3}, n_configs=10)
        trained(folder / "data", out=folder / "model")

    def result(folder: Path) -> Result:
        return {"report": _page(folder / "report.html"), "stdout": (folder / "stdout").read_text()}

    arguments = ["gbr.predict", "--model", "model", "data/npz/tile/cpu/test", "--top", "3", "--report", "report.html"]
    return Work([*arguments, "--jobs", "1"], prepare, result, _pages)


def _evaluated() -> Work:
    def result(folder: Path) -> Result:
        figures: dict[str, Any] = json.loads((folder / "stdout").read_text())
        del figures["seconds"]
        _page(folder / "report.html")  # which tells the seconds, too
        return figures | digests(folder, "store/**/*.parquet")

    def prepare(folder: Path) -> None:
        write_collection(folder / "data", {"train": 4, "valid": 10, "test": 1})
        trained(folder / "data", out=folder / "model")
        shutil.rmtree(folder / "data/store")

    arguments = ["gbr.evaluate", "--model", "model", "--subset", "tile:cpu", *_STORE, "--report", "report.html"]
    return Work(
        [*arguments, "--json", "--jobs", "1"], prepare, result, _both(_pages, store_is_whole), ["store/**/*.parquet"]
    )


def _submitted() -> Work:
    def prepare(folder: Path) -> None:
        write_collection(folder / "data", {"train": 3, "valid": 1, "test": 20}, name="tile:xla")
        collection(folder / "data", "layout:xla:random", train=3, test=4)
        for name in ("tile:xla", "layout:xla:random"):
            trained(
                folder / "data", subset=name, out=folder / name.replace(":", "-"), backend="lightgbm", objective="l2"
            )
        shutil.rmtree(folder / "data/store")

    def check(folder: Path) -> None:
        store_is_whole(folder)
        if (path := folder / "submission.csv").exists() and path.read_text().count("\n") != 25:
            raise TornError("submission.csv: torn")

    def result(folder: Path) -> Result:
        check(folder)
        return digests(folder, "submission.csv", "submission.csv.parts/**/*")

    arguments = ["gbr.submit", "--models", "tile-xla", "layout-xla-random", *_STORE, "--out", "submission.csv"]
    return Work([*arguments, "--jobs", "1"], prepare, result, check, ["store/**/*.parquet"])


WORKS: Final[Mapping[str, Callable[[], Work]]] = {
    "build": lambda: Work(
        [*_BUILD, "--subset", "tile:cpu", "--jobs", "1"], _tiles, _built, store_is_whole, ["store/**/*.parquet"]
    ),
    "build layout": lambda: Work(
        [*_BUILD, "--subset", "layout:cpu:random", "--jobs", "2"],
        _layouts,
        _built,
        store_is_whole,
        ["store/**/*.parquet"],
    ),
    "repack": lambda: Work(
        [*_BUILD, "--subset", "layout:cpu:random", "--jobs", "1", "--repack"],
        _layouts,
        _built,
        _both(store_is_whole, graphs_are_whole),
        ["store/**/*.parquet", "data/**/*.gbr"],
    ),
    "train": _trained_work,
    "collect": lambda: _collected("tile", "--families", "reduce", "--configs", "8", "--rounds", "1", "--split", "test"),
    "collect layout": lambda: _collected("layout", "--programs", "retrieval,lenet", "--configs", "4", "--rounds", "1"),
    "download": _downloaded,
    "tune": _replayed,
    "tune tile": _tuned,
    "predict": _predicted,
    "evaluate": _evaluated,
    "submit": _submitted,
}
