"""Targets of fuzzing that are no texts: graph files, their copies, HLO, stores and archives."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import struct
import tarfile
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from gbr.data import packed
from gbr.data.npz import crc32
from gbr.errors import ArchiveError, DataError, HloError, StoreError
from tests.damage import damaged_arrays, damaged_bytes, damaged_json, damaged_text
from tests.soak.targets import Target, commanded, refused, scratch
from tests.soak.texts import ROOT, made, rarely

# Graph files.


def _graph_files() -> list[bytes]:
    """Graph files of both kinds, with few configurations."""
    found = []
    for folder in ("tile/cpu/test", "layout/cpu/random/test"):
        for path in sorted((ROOT / "data/npz" / folder).glob("*.npz"))[::4]:
            with np.load(path) as stored:
                arrays = {key: stored[key] for key in stored.files}
            for key in ("config_feat", "node_config_feat", *(name for name in arrays if name.startswith("config_run"))):
                if key in arrays:
                    arrays[key] = arrays[key][:3]
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            if buffer.tell() < 40_000:
                found.append(buffer.getvalue())
    return found


def _read_graph_file(data: bytes, folder: Path) -> None:
    """Read bytes as a graph file, its configurations and its features."""
    path = folder / "input.npz"
    path.write_bytes(data)
    _extracted(path)


def _extracted(path: Path) -> None:
    from gbr.data.build import extract
    from gbr.data.graph import read_graph

    tables: list[Any] = []
    if refused(lambda: tables.append(extract(read_graph(path))[1])) is None and not np.isfinite(tables[0]).all():
        raise AssertionError("features that are not finite")


def _damaged_arrays(data: bytes, choice: random.Random) -> bytes:
    """Damage the arrays inside an archive and pack them again, so that checksums and sizes are right."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = damaged_arrays({key: stored[key] for key in stored.files}, choice)
    if choice.random() < 0.3:
        key = choice.choice(list(arrays))
        arrays[key] = choice.choice([arrays[key][:0], arrays[key].T, arrays[key].astype(np.float64), arrays[key][None]])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _damaged_member(data: bytes, choice: random.Random) -> bytes:
    """Damage an archive, or one member of it under a checksum that fits: the header of an array, or its values."""
    if choice.random() < 0.5:
        return damaged_bytes(data, choice)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        victim = choice.choice(old.namelist())
        for name in old.namelist():
            member = old.read(name)
            if name == victim:
                member = damaged_bytes(member[:128], choice) + member[128:]
            new.writestr(name, member)
    return buffer.getvalue()


# Repacked copies.


@cache
def _copied() -> Path:
    """A layout graph and its copy, in a folder."""
    from gbr.data.graph import write_graph
    from gbr.data.repack import repack
    from tests.made import layout_arrays

    path = scratch() / "g.npz"
    write_graph(path, layout_arrays(9))
    repack(path)
    return path


def _copies() -> list[bytes]:
    return [_copied().with_suffix(packed.SUFFIX).read_bytes()]


def _damaged_copy(data: bytes, choice: random.Random) -> bytes:
    """Damage a copy: its bytes, its index, or its arrays, with checks that fit, as somebody who means harm would."""
    kind = choice.randrange(4)
    if kind == 0:
        return damaged_bytes(data, choice)
    magic, version, _, place, length, _ = packed._PREAMBLE.unpack(data[: packed._PREAMBLE.size])
    index = json.loads(data[place : place + length])
    body = data[packed._PREAMBLE.size : place]
    if kind >= 2:
        body = damaged_bytes(body, choice)[: len(body)].ljust(len(body), b"\0")
    told = json.dumps(index).encode()
    if kind <= 2:
        told = damaged_json(told, choice) if choice.random() < 0.9 else damaged_text(told, choice)
    told = _rechecked(told, body)
    place = packed._PREAMBLE.size + len(body)
    held = packed._PREAMBLE.pack(magic, version, crc32(told), place, len(told), place + len(told))
    return held + body + told


def _rechecked(told: bytes, body: bytes) -> bytes:
    """The index with checks of the arrays as they are now; as it was, where it is no index any more."""
    try:
        index = json.loads(told)
        for about in index["arrays"].values():
            at = about["at"] - packed._PREAMBLE.size
            size = int(np.prod(about["shape"])) * np.dtype(about["dtype"]).itemsize
            about["crc"] = crc32(body[at : at + size])
        return json.dumps(index).encode()
    except Exception:  # checks of what is no index do not matter
        return told


def _read_copy(data: bytes, folder: Path) -> None:
    path = folder / "g.npz"
    if not path.exists():
        shutil.copy(_copied(), path)
    beside = path.with_suffix(packed.SUFFIX)
    beside.write_bytes(data)

    def use() -> None:
        copy = packed.Packed(beside)
        for key in ("node_feat", "config_runtime", packed.CONFIGS):
            copy.describe(key)
        rows, nodes = copy.distinct()
        if len(rows) != len(nodes) or sum(len(block) for _, block in copy.blocks()) != copy.shape[0]:
            raise AssertionError("a copy that does not add up")
        copy.configs(np.zeros(min(1, copy.shape[0]), np.int64))
        copy.codes(slice(0, 2))

    refused(use, DataError)
    _extracted(path)


# HLO.


def _programs() -> list[bytes]:
    from tests.hlo_modules import LAYOUTS, SMALL, TILES

    return [path.read_bytes() for path in (ROOT / "tests/data").glob("*.hlo.pb")] + [SMALL, TILES, LAYOUTS]


def _read_program(data: bytes, _folder: Path) -> None:
    """Read bytes as a serialised HLO module, and as tuning records."""
    from gbr.data.hlo import graph_arrays, identify, read_tuning

    def use() -> None:
        graph_arrays(data)
        if identify(data).endswith("TuningData"):
            read_tuning(data)

    refused(use, HloError)


# Stores.


def _tables() -> list[bytes]:
    return [path.read_bytes() for path in (made()[0] / "store").rglob("*.parquet")]


#: Beyond it damage, which is damaged again and again, would fill the memory itself.
_MOST_ROWS: Final = 10_000


def _damaged_table(data: bytes, choice: random.Random) -> bytes:
    """Damage bytes, or columns of a table that is whole again: their types, gaps, values, names and number."""
    import polars as pl

    if choice.random() < 0.4:
        return damaged_bytes(data, choice)
    frame = pl.read_parquet(io.BytesIO(data))
    special = [name for name in frame.columns if name.startswith("_")]
    for _ in range(choice.randint(1, 3)):
        name = choice.choice(special if choice.random() < 0.7 else frame.columns)
        column, kind = frame[name], choice.randrange(7)
        if kind == 0:
            kinds = [
                pl.String,
                pl.Int8,
                pl.Float64,
                pl.Int64,
                pl.Boolean,
                pl.List(pl.Int64),
                pl.Datetime,
                pl.Categorical,
            ]
            column = column.cast(choice.choice(kinds), strict=False)
        elif kind == 1:
            column = pl.Series(name, [None, *column[1:]], column.dtype)
        elif kind == 2:
            column = pl.Series(name, [choice.choice([-1, 2**62, 0, 10**6])] * len(frame))
        elif kind == 3:
            column = pl.Series(name, [[0.5] * choice.choice([0, 1, 5000])] * len(frame), pl.List(pl.Float32))
        elif kind == 4:
            frame = frame.drop(name)
            continue
        elif kind == 5:
            frame = choice.choice([frame.head(3), frame.vstack(frame), frame.head(0), pl.concat([frame] * 50)])
            frame = frame.head(_MOST_ROWS)
            continue
        else:
            column = pl.Series(name, [float(choice.choice(["nan", "inf", "-1e38"]))] * len(frame), pl.Float32)
        frame = frame.with_columns(column.alias(name))
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression=choice.choice(["zstd", "snappy", "uncompressed"]))
    return buffer.getvalue()


def _read_table(data: bytes, folder: Path) -> None:
    """Read bytes as one graph of a store."""
    from gbr.data.store import FeatureStore

    root = folder / "store"
    if not (root / "tile").exists():
        shutil.copytree(made()[0] / "store", root, dirs_exist_ok=True)
    (path,) = list(root.rglob("train/*.parquet"))[:1]
    path.write_bytes(data)
    refused(lambda: FeatureStore(root, "tile:cpu").load("train"), StoreError)


# Archives.

_PLACES: Final = (("tile:xla", "train"), ("layout:nlp:random", "valid"))
_NAMES: Final = (
    "npz/tile/xla/train/a.npz",
    "npz/tile/xla/train/b.npz",
    "npz/layout/nlp/random/valid/c.npz",
    "README.md",
)
_ODD_NAMES: Final = ("../x.npz", "/x.npz", "npz/tile/xla/train/../../x.npz", "npz\\tile\\xla\\train\\x.npz", "C:x.npz", "npz/tile/xla/train/.npz", "npz/tile/xla/train/\x1b.npz", "npz/tile/xla/train/a.npz/", "npz/tile/xla/train/a\0.npz", "npz/tile/xla/train/" + 300 * "x" + ".npz", "tile/xla/train/é.npz", "", ".", "//", 3000 * "x/" + "tile/xla/train/x.npz", "npz/tile/xla/train/con.npz", "npz/tile/xla/train/a.npz:x")  # fmt: skip  # noqa: E501
_TAR_KINDS: Final = b"0\0123456789xgLKSVDMNZ"
_BLOCK: Final = 512


def _archives() -> list[bytes]:
    from tests.mirror import npz, tar, zipped

    members = {name: npz(40 + place, place) for place, name in enumerate(_NAMES)}
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    found = [tar(members, format=layout) for layout in formats]
    return [*found, tar(members, "w:gz"), zipped(members), zipped(members, zipfile.ZIP_STORED)]


def _damaged_archive(data: bytes, choice: random.Random) -> bytes:
    kind = choice.randrange(4)
    if kind == 0:
        return damaged_bytes(data, choice)
    if kind == 1:
        return _forged(choice)
    if data.startswith(b"\x1f\x8b"):
        return gzip.compress(_damaged_tar(gzip.decompress(data), choice), 1)
    if data.startswith(b"PK"):
        return _damaged_directory(data, choice)
    return _damaged_tar(data, choice)


def _forged(choice: random.Random) -> bytes:
    """An archive with members that no honest one has."""
    from tests.mirror import npz

    buffer = io.BytesIO()
    names = [choice.choice([*_NAMES, *_ODD_NAMES]) for _ in range(choice.randint(1, 4))] + [
        *_NAMES[: choice.randrange(4)]
    ]
    bodies = [choice.choice([b"", b"x", npz(9), npz(2000), bytes(50_000)]) for _ in names]
    if choice.random() < 0.4:
        with (
            warnings.catch_warnings(action="ignore"),
            zipfile.ZipFile(buffer, "w", choice.choice([0, 8, 8, 12, 14])) as archive,
        ):
            for name, body in zip(names, bodies, strict=True):
                info = zipfile.ZipInfo(name)
                info.external_attr = choice.choice([0, 0o100644, 0o120777, 0o020666, 0o040755]) << 16
                info.create_system = choice.choice([0, 3])
                archive.writestr(info, body)
        return buffer.getvalue()
    layout = choice.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=buffer, mode=choice.choice(["w", "w:gz"]), format=layout) as archive:  # type: ignore[call-overload]
        for name, body in zip(names, bodies, strict=True):
            info = tarfile.TarInfo(name)
            info.type = bytes([choice.choice(_TAR_KINDS)]) if choice.random() < 0.3 else tarfile.REGTYPE
            info.linkname = choice.choice(["", "/etc/passwd", names[0], "../x"])
            info.size = len(body) if choice.random() < 0.9 else choice.choice([0, 1, 10**6, 8**11 - 1])
            if layout == tarfile.PAX_FORMAT and choice.random() < 0.4:
                key = choice.choice(["size", "path", "linkpath", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.name", "mtime", "hdrcharset", "x"])  # fmt: skip  # noqa: E501
                info.pax_headers = {
                    key: choice.choice(["1", "-1", "99999999999", "1e9", "nan", "../x", "BINARY", "x" * 20_000])
                }
            archive.addfile(info, io.BytesIO(body) if len(body) == info.size else None)
    return buffer.getvalue()


def _damaged_tar(data: bytes, choice: random.Random) -> bytes:
    """Damage a header and make its checksum fit, or exchange blocks."""
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    heads = [at for at, block in enumerate(blocks) if block[257:262] == b"ustar"]
    for _ in range(choice.randint(1, 3)):
        if heads and choice.random() < 0.8:
            at = choice.choice(heads)
            head = bytearray(blocks[at].ljust(_BLOCK, b"\0")[:_BLOCK])
            start, size = choice.choice([(0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 16), (345, 155)])  # fmt: skip  # noqa: E501
            value = choice.choice([choice.randbytes(size), b"\xff" * size, b"\x80" + choice.randbytes(size), b"7" * size, b"-1", bytes([choice.choice(_TAR_KINDS)]), b"../x", b""])  # fmt: skip  # noqa: E501
            head[start : start + size] = value[:size].ljust(size, b"\0")
            head[148:156] = b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
            blocks[at] = bytes(head)
        elif blocks:
            at, to = choice.randrange(len(blocks)), choice.randrange(len(blocks))
            blocks[at:at] = [blocks[to]] * choice.randrange(3)
            del blocks[to]
    return b"".join(blocks) or b"\n"


def _damaged_directory(data: bytes, choice: random.Random) -> bytes:
    """Damage numbers in the headers of a zip archive."""
    held = bytearray(data)
    marks = [at for at in range(len(data) - 30) if data[at : at + 4] in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")]
    for _ in range(choice.randint(1, 3)):
        at = choice.choice(marks) + choice.randrange(4, 46, 2)
        number = choice.choice([0, 1, 8, 99, 0xFFFF, choice.randrange(1 << 16), len(data) & 0xFFFF])
        width = choice.choice(["<H", "<I"])
        if at + 4 <= len(held):
            struct.pack_into(width, held, at, number if width == "<H" else choice.choice([number, 0xFFFFFFFF, 1 << 31]))
    return bytes(held)


def _read_archive(data: bytes, folder: Path) -> None:
    from gbr import download
    from gbr.downloads.archives import survey, unpack

    path, root = folder / "archive", folder / "data"
    path.write_bytes(data)
    entries: list[Any] = []

    def take() -> None:
        entries.extend(survey(path, _PLACES[: 1 + rarely(data, 2)]))
        unpack(path, entries, root)

    told = refused(take, ArchiveError)
    if rarely(data, 8):
        commanded(download.main, "tile:xla", "--split", "train", "--from", path, "--data", root)
    here = {place for place in folder.rglob("*") if not place.is_dir()} - {path}
    if told is None and not {entry.path(root) for entry in entries} <= here:
        raise AssertionError("files are missing")
    if any(place.is_symlink() or place.suffix not in (".npz", ".json") or root not in place.parents for place in here):
        raise AssertionError(f"files that nobody asked for: {here}")
    shutil.rmtree(root, ignore_errors=True)


BINARIES: Final = {
    "npz": Target(_graph_files, _damaged_member, _read_graph_file),
    "arrays": Target(_graph_files, _damaged_arrays, _read_graph_file),
    "packed": Target(_copies, _damaged_copy, _read_copy),
    "hlo": Target(_programs, damaged_bytes, _read_program),
    "store": Target(_tables, _damaged_table, _read_table),
    "archive": Target(_archives, _damaged_archive, _read_archive),
}
