"""Coverage-guided fuzzing of the readers: every input must be read, or refused with a one-line error of gbr.

python -m tests.soak.fuzz [npz arrays packed hlo store archive csv journal profile manifest model lists] [--seconds 600]

Needs atheris (extra ``soak``).  A failing input stays in ``--corpus`` as ``found-…``; add its kind to
tests/test_damage.py, which tries a few inputs of every target in each run of the test suite.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from features.hardware import PROFILES, Hardware
from features.hlo import N_FEAT
from gbr import Graph, Ranker, submit
from gbr.data import hardware
from gbr.data.archive import unpack
from gbr.data.build import extract, schema_of
from gbr.data.collection import Subset
from gbr.data.graph import REPACKED_SUFFIX, Repacked, graph_from_arrays, read_graph, write_graph
from gbr.data.hlo import graph_arrays
from gbr.data.repack import repack
from gbr.data.store import FeatureStore
from gbr.download import Archive
from gbr.errors import DataError, DownloadError, GbrError, HloError, StoreError, TuneError
from gbr.evaluation.protocol import indices_of
from gbr.tune import Journal, ParameterSpace
from tests.made import collection, layout_arrays, tile_arrays, trained, write_collection
from tests.mirror import npz, tar, zipped
from tests.reference_hlo import SMALL

ROOT: Final = Path(__file__).parents[2]
#: Between a manifest and its model file, in one input.
_SEPARATOR: Final = b"\0\0\0\0"
_MAX_MESSAGE: Final = 2000
Mutator = Callable[[bytes, random.Random], bytes]
_PARTS: Final = (("tile:xla", "train"), ("layout:nlp:random", "valid"))


class Target(NamedTuple):
    """One kind of input."""

    #: Valid inputs.
    seeds: Callable[[], list[bytes]]
    #: Returns a damaged copy of an input; may raise any exception for an input that is too damaged already.
    mutate: Mutator
    #: Reads an input, given a folder; raises for anything but success or an error of gbr.
    read: Callable[[bytes, Path], object]


def damaged(target: Target, data: bytes, seed: int) -> bytes:
    """A copy of an input damaged by its target, or in its bytes if the target cannot parse it any more."""
    choice = random.Random(seed)
    try:
        return target.mutate(data, choice)
    except KeyboardInterrupt:
        raise
    except BaseException:  # panics of Polars are not Exceptions
        return damaged_bytes(data or b"\n", choice)


def refused(read: Callable[[], object], error: type[GbrError] = GbrError) -> bool:
    """Whether gbr refuses an input; its message must be one printable line."""
    try:
        read()
    except error as fault:
        message = str(fault)
        assert message.isprintable(), message
        assert 0 < len(message) <= _MAX_MESSAGE, message
        return True
    return False


#: Values that are invalid in most positions.
ODD = (-5, -1, 0, 0.5, 1, 2, 3, 5, 6, 7, 16, 31, 100, 1e-30, 1e9, 2.0**31, 2.0**40, 2.0**53, 1e19, 3e38, np.nan, np.inf)


def damaged_bytes(whole: bytes, choice: random.Random) -> bytes:
    """A few bytes changed, repeated, lost or put in; never empty."""
    mutant = bytearray(whole)
    for _ in range(choice.randint(1, 4)):
        at, source, size = choice.randrange(len(mutant)), choice.randrange(len(mutant)), choice.randrange(1, 12)
        kind = choice.randrange(4)
        if kind == 0:
            mutant[at] ^= choice.choice([1 << choice.randrange(8), choice.randrange(256)])
        elif kind == 1:
            mutant[at : at + size] = choice.randbytes(choice.randrange(12))
        elif kind == 2:
            mutant[at : at + size] = b"\xff" * size
        else:
            mutant[at:at] = mutant[source : source + size]
        mutant = mutant or bytearray(b"\n")
    return bytes(mutant)


#: Unusual JSON values.
STRANGE = (None, True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, -(2**63), 0.5, -1e308, "", "x", "\0", "..", "../x", "tile", "é\n", "9" * 400, [], {}, [[]], [0], [None], ["x"], {"x": 0}, {"": {}})  # fmt: skip  # noqa: E501

#: Pieces of text that readers stumble over.
SNAGS = (b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n\n", b'"', b"'", b",", b";", b"=", b":", b"[", b"{", b"NaN", b"-Infinity", b"1e999", b"-0", b"0x10", b"1_0", b"9" * 25, b"9" * 5000, b"1" + b"0" * 18, b"\\ud800", b"true", b"null", b"\xe2\x80\xa8", b"\x1b[2J")  # fmt: skip  # noqa: E501

_TOKEN = re.compile(rb"[0-9]+|[A-Za-z_]+|\S")


def damaged_json(whole: bytes, choice: random.Random) -> bytes:
    """A JSON text with values changed, lost or copied: mostly JSON still, and not what was to be there."""
    root: Any = [json.loads(whole)]
    for _ in range(choice.randint(1, 3)):
        parent, key = root, 0
        while isinstance(parent[key], dict | list) and parent[key] and choice.random() < 0.95:
            parent = parent[key]
            key = choice.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        if choice.random() < 0.1 and parent is not root:
            del parent[key]
        else:
            beside = parent.values() if isinstance(parent, dict) else parent
            parent[key] = copy.deepcopy(choice.choice([*STRANGE, *beside]))
    encoded = json.dumps(root[0]).encode()
    return damaged_text(encoded, choice) if choice.random() < 0.15 else encoded


def damaged_text(whole: bytes, choice: random.Random) -> bytes:
    """A text with words exchanged, lines lost, doubled and moved, and pieces put in that readers stumble over."""
    for _ in range(choice.randint(1, 3)):
        kind = choice.randrange(6)
        words = list(_TOKEN.finditer(whole)) if kind < 3 and len(whole) < 200_000 else []
        if words:
            word, other = choice.choice(words), choice.choice(words)
            new = (other[0], choice.choice(SNAGS), word[0] + choice.choice(SNAGS))[kind]
            whole = whole[: word.start()] + new + whole[word.end() :]
        elif kind < 5:
            lines = whole.split(b"\n")
            at, to = choice.randrange(len(lines)), choice.randrange(len(lines))
            line = lines[at] if kind == 3 else lines.pop(at)
            lines[to:to] = [line] * choice.randrange(3)
            whole = b"\n".join(lines)
        else:
            at = choice.randrange(len(whole) + 1)
            whole = choice.choice([whole[:at], whole[at:], whole.decode("latin-1").encode("utf-16")])
    return whole or b"\n"


def _text(data: bytes, choice: random.Random) -> bytes:
    return damaged_text(data, choice) if choice.random() < 0.8 else damaged_bytes(data, choice)


def _json(data: bytes, choice: random.Random) -> bytes:
    return damaged_json(data, choice) if choice.random() < 0.85 else _text(data, choice)


def half_bytes(mutate: Mutator) -> Mutator:
    """Damages arbitrary bytes in half of the cases, so that checksums are wrong, too."""
    return lambda data, choice: (damaged_bytes if choice.random() < 0.5 else mutate)(data, choice)


def temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="gbr-fuzz-"))


@cache
def made() -> tuple[Path, list[Path]]:
    """A small collection with its store, and a model of every backend."""
    root = temporary()
    write_collection(root, {"train": 3, "valid": 2, "test": 1})
    few = {"n_estimators": 3, "num_leaves": 6}
    runs = [trained(root, out=root / name, backend=name, settings=few) for name in ("lightgbm", "xgboost", "ensemble")]
    X = np.random.default_rng(0).random((60, 3))
    ranker = Ranker("costmodel", "nnls", costs=[0, 2])  # of a plain table
    ranker.fit(X, X[:, 0] + X[:, 2], qid=np.repeat(np.arange(6), 10)).save(root / "costmodel")
    return root, [*runs, root / "costmodel"]


def _graph_files() -> list[bytes]:
    """Small graph files of both kinds, with three configurations."""
    found = []
    for folder in ("tile/cpu/test", "layout/cpu/random/test"):
        for path in sorted((ROOT / "data/npz" / folder).glob("*.npz"))[::4]:
            with np.load(path) as stored:
                few = {key for key in stored.files if "config_" in key} - {"node_config_ids"}
                found.append(_zipped({key: stored[key][:3] if key in few else stored[key] for key in stored.files}))
    return [data for data in found if len(data) < 40_000]


def _zipped(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _damage_member(data: bytes, choice: random.Random) -> bytes:
    """Damage the header or the values of one array, with a valid checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = choice.choice(old.infolist())
        for entry in old.infolist():
            member, size = old.read(entry), choice.choice([128, entry.file_size])
            if entry is chosen:
                member = damaged_bytes(member[:size], choice) + member[size:]
            new.writestr(entry.filename, member, entry.compress_type)
    return buffer.getvalue()


def _damage_arrays(data: bytes, choice: random.Random) -> bytes:
    """Damage values, shapes or types of arrays, with valid checksums."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = {key: stored[key] for key in stored.files}
    for _ in range(choice.randint(1, 5)):
        key = choice.choice([*arrays, "node_feat", "node_feat"])
        array = arrays[key]
        cells = np.flatnonzero(array) if choice.random() < 0.6 else np.arange(array.size)
        if choice.random() < 0.1:
            arrays[key] = choice.choice([array[:0], array[1:], array.T, array.astype(np.float64), array[None]])
        elif len(cells):
            at = choice.choice(cells.tolist())
            below = choice.randrange(max(1, int(array.flat[at]))) if array.dtype.kind in "iu" else 0  # a valid operand
            array.flat[at] = choice.choice([below, choice.randrange(120)] if array.dtype.kind in "iu" else ODD)
    return _zipped(arrays)


def _read_graph_file(data: bytes, folder: Path) -> None:
    (folder / "input.npz").write_bytes(data)
    _extract(lambda: read_graph(folder / "input.npz"))


def _extract(graph: Callable[[], Graph], profile: Hardware | None = None) -> None:
    def check() -> None:
        assert np.isfinite(extract(graph(), profile)[1]).all(), "features are not finite"

    refused(check)


@cache
def _repacked() -> Path:
    path = temporary() / "g.npz"
    write_graph(path, layout_arrays(9))
    repack(path)
    return path


def _read_copy(data: bytes, folder: Path) -> None:
    path = folder / "g.npz"
    shutil.copy(_repacked(), path)
    path.with_suffix(REPACKED_SUFFIX).write_bytes(data)

    def use() -> None:
        copy = Repacked(path.with_suffix(REPACKED_SUFFIX))
        copy.codes(slice(None))
        copy.configs(np.zeros(min(1, copy.shape[0]), np.int64))

    refused(use, DataError)
    _extract(lambda: read_graph(path))


def _damage_table(data: bytes, choice: random.Random) -> bytes:
    """Remove, cast or fill a column of a table, or change its rows."""
    frame = pl.read_parquet(io.BytesIO(data))
    name, kind = choice.choice(frame.columns), choice.randrange(4)
    if kind == 0:
        frame = frame.drop(name)
    elif kind == 1:
        dtype = choice.choice([pl.String, pl.Int8, pl.Float64, pl.Int64, pl.Boolean])
        frame = frame.with_columns(frame[name].cast(dtype, strict=False))
    elif kind == 2:
        value = choice.choice([None, -1, 2**62, float("nan"), float("inf")])
        frame = frame.with_columns(pl.Series(name, [value] * len(frame)))
    else:
        frame = choice.choice([frame.head(3), frame.vstack(frame), frame.head(0)]).head(10_000)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _read_table(data: bytes, folder: Path) -> None:
    root = folder / "store"
    shutil.copytree(made()[0] / "store", root, dirs_exist_ok=True)
    next(root.rglob("train/*.parquet")).write_bytes(data)
    refused(lambda: FeatureStore(root, "tile:cpu").load("train"), StoreError)


def _archives() -> list[bytes]:
    names = ("npz/tile/xla/train/a.npz", "npz/tile/xla/train/b.npz", "npz/layout/nlp/random/valid/c.npz", "README.md")
    members = {name: npz(40 + number, number) for number, name in enumerate(names)}
    odd = {name: npz(9) for name in ("../x.npz", "/x.npz", "npz/tile/xla/train/../../x.npz", f"{300 * 'x/'}x.npz")}
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    plain = [tar(members, format=layout) for layout in formats]
    zips = [zipped(members | odd), zipped(members, zipfile.ZIP_STORED)]
    return [*plain, tar(members | odd), tar(members, "w:gz"), *zips]


def _damage_archive(data: bytes, choice: random.Random) -> bytes:
    """Damage a field of a tar header, with a valid checksum."""
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return damaged_bytes(data, choice)
    at = choice.choice(heads)
    head = bytearray(data[at : at + 512])
    start, size = choice.choice([(0, 100), (124, 12), (156, 1), (157, 100), (345, 155)])
    value = choice.choice([choice.randbytes(size), b"\xff" * size, b"\x80" + choice.randbytes(size), b"-1", b"../x"])
    head[start : start + size] = value[:size].ljust(size, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + 512 :]


def _read_archive(data: bytes, folder: Path) -> None:
    path, root = folder / "archive", folder / "data"
    path.write_bytes(data)
    for part in _PARTS:
        refused(partial(unpack, path, *part, root), DownloadError)
    allowed = [root.joinpath("npz", *subset.split(":"), split) for subset, split in _PARTS]
    written = [each for each in folder.rglob("*") if not each.is_dir() and each not in (path, folder / "seed")]
    assert all(each.parent in allowed and not each.is_symlink() for each in written), written
    shutil.rmtree(root, ignore_errors=True)


@cache
def _test_graphs() -> dict[str, dict[str, int]]:
    root = temporary()
    collection(root, "tile:xla", test=2)
    collection(root, "layout:xla:random", test=8)
    return submit.find_test_graphs(root)


def _submissions() -> list[bytes]:
    rows = [
        submit.row(Subset(name), stem, np.arange(count))
        for name, graphs in _test_graphs().items()
        for stem, count in graphs.items()
    ]
    valid = f"{submit.HEADER}\n{''.join(rows)}"
    return [valid.encode(), valid.replace("\n", "\r\n").encode(), b'ID,TopConfigs\n"tile:xla:a","0;1;2;3;4"\n']


def _read_submission(data: bytes, folder: Path) -> None:
    path = folder / "submission.csv"
    path.write_bytes(data)
    faults = submit.check(path, _test_graphs()).faults
    assert all(fault.isprintable() for fault in faults), faults


_SPACE: Final = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})


def _journals() -> list[bytes]:
    path = temporary() / "journal.jsonl"
    with Journal(path, _SPACE) as journal:
        header = path.read_bytes()
        for config in range(5):
            with journal.measuring(config):
                journal.write(config, f"crashed: {config}" if config % 2 else 1.5 + config)
        with suppress(KeyboardInterrupt), journal.measuring(7):
            raise KeyboardInterrupt
        journal._append({"begin": 8})
    return [path.read_bytes(), header]


def _damage_journal(data: bytes, choice: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = choice.randrange(len(lines))
    lines[at] = damaged_json(lines[at], choice)
    return b"\n".join(lines) if choice.random() < 0.5 else _text(data, choice)


def _read_journal(data: bytes, folder: Path) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(data)

    def outcomes() -> list[tuple[int, float | str]]:
        with Journal(path, _SPACE) as journal:
            return journal.outcomes

    if refused(outcomes, TuneError):
        assert path.read_bytes() == data, "a refused journal was changed"
    else:
        found = outcomes()
        assert found == outcomes()
        assert all(0 <= config < len(_SPACE) for config, _ in found)


def _profiles() -> list[bytes]:
    path = temporary() / "hardware.toml"
    found = [each.read_bytes() for each in sorted((ROOT / "data/npz").rglob("hardware.toml"))]
    for profile in PROFILES.values():
        hardware.save(path, profile)
        found.append(path.read_bytes())
    return found


def _read_profile(data: bytes, folder: Path) -> None:
    path = folder / "hardware.toml"
    path.write_bytes(data)
    found: list[Hardware] = []
    if not refused(lambda: found.append(hardware.load(path)), DataError):
        hardware.save(path, found[0])
        assert hardware.load(path) == found[0]
        _extract(lambda: graph_from_arrays("made", tile_arrays(3)), found[0])


def _read_list(data: bytes, folder: Path) -> None:
    receipt = folder / "npz/tile/xla/train/.unpacked.json"
    receipt.parent.mkdir(parents=True, exist_ok=True)
    receipt.write_bytes(data)
    (folder / "xla_default.json").write_bytes(data)
    refused(lambda: indices_of(Subset("layout:xla:default"), "valid", folder), DataError)
    Archive("tile:xla", "train").complete(folder)


def _read_manifest(data: bytes, folder: Path) -> None:
    shutil.copytree(made()[0] / "store", folder / "store", dirs_exist_ok=True)
    (folder / "store/tile/cpu/manifest.json").write_bytes(data)
    store = FeatureStore(folder / "store", "tile:cpu")
    if not refused(lambda: store.check(schema_of("tile").hash)):
        refused(lambda: store.load("train"))


def _models() -> list[bytes]:
    found = []
    for run in made()[1]:
        manifest = (run / "manifest.json").read_bytes()
        found.append(manifest + _SEPARATOR + (run / json.loads(manifest)["model"]["file"]).read_bytes())
    return found


def _damage_model(data: bytes, choice: random.Random) -> bytes:
    """Damage the model file, whose SHA-256 is in its manifest, or the manifest."""
    manifest, _, model = data.partition(_SEPARATOR)
    if choice.random() < 0.5:
        return manifest + _SEPARATOR + damaged_bytes(model, choice)
    return damaged_json(manifest, choice) + _SEPARATOR + model


def _read_model(data: bytes, folder: Path) -> None:
    manifest, _, model = data.partition(_SEPARATOR)
    run = folder / "model"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    with suppress(Exception):  # the manifest may name no file
        (run / Path(json.loads(manifest)["model"]["file"]).name).write_bytes(model)
    (run / "manifest.json").write_bytes(manifest)

    def use() -> None:
        ranker = Ranker.load(run)
        if ranker.n_features_in_ <= 10_000:
            assert np.isfinite(ranker.predict(np.zeros((3, ranker.n_features_in_), np.float32))).all()
        repr(ranker)

    refused(use)


def _read_program(data: bytes, _: Path) -> None:
    found: list[dict[str, Any]] = []
    if not refused(lambda: found.append(graph_arrays(data)), HloError):
        (arrays,) = found
        nodes = range(len(arrays["node_opcode"]))
        assert arrays["node_feat"].shape == (len(nodes), N_FEAT)
        assert all(operand in nodes and operand < user in nodes for user, operand in arrays["edge_index"].tolist())
        assert set(arrays["node_config_ids"].tolist()) <= set(nodes)
        assert arrays["node_splits"][0, -1] == len(nodes)


LISTS: Final = (
    b'{"unet_3d.4x4.bf16": [3, 1, 4, 1], "bert": [0]}',
    b'{"archive": "npz_tile_xla_train.tar", "files": {"a.npz": 3, "b.npz": 5}}',
)


def _files(pattern: str) -> list[bytes]:
    """Contents of the generated files that match."""
    return [path.read_bytes() for path in sorted(made()[0].glob(pattern))]


TARGETS: Final[dict[str, Target]] = {
    "npz": Target(_graph_files, half_bytes(_damage_member), _read_graph_file),
    "arrays": Target(_graph_files, _damage_arrays, _read_graph_file),
    "packed": Target(
        lambda: [_repacked().with_suffix(REPACKED_SUFFIX).read_bytes()], half_bytes(_damage_member), _read_copy
    ),
    "hlo": Target(
        lambda: [*(path.read_bytes() for path in (ROOT / "tests/data").glob("*.hlo.pb")), SMALL],
        damaged_bytes,
        _read_program,
    ),
    "store": Target(lambda: _files("store/**/*.parquet"), half_bytes(_damage_table), _read_table),
    "archive": Target(_archives, half_bytes(_damage_archive), _read_archive),
    "csv": Target(_submissions, _text, _read_submission),
    "journal": Target(_journals, _damage_journal, _read_journal),
    "profile": Target(_profiles, _text, _read_profile),
    "manifest": Target(lambda: _files("store/**/manifest.json"), _json, _read_manifest),
    "model": Target(_models, _damage_model, _read_model),
    "lists": Target(lambda: list(LISTS), _json, _read_list),
}


def main() -> int:
    """Fuzz the named readers, or all, and print how many inputs were tried."""
    parser = argparse.ArgumentParser(prog="tests.soak.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs" / "fuzz")
    args = parser.parse_args()
    failed = False
    for name in args.targets or TARGETS:
        command = [sys.executable, "-m", "tests.soak.guided", name, str(args.seconds), str(args.corpus / name)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, errors="replace", check=False)
        stats = dict(line[6:].split(": ") for line in done.stderr.splitlines() if line.startswith("stat::"))
        inputs = int(stats.get("number_of_executed_units", 0))
        print(json.dumps({"target": name, "inputs": inputs, "exit": done.returncode}), flush=True)
        if done.returncode:
            failed = True
            print(done.stderr[-6000:], file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
