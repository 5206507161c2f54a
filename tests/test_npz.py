from __future__ import annotations

import io
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbr.data import npz
from gbr.data.npz import NpzFile
from gbr.errors import DataError

ARRAYS: dict[str, Any] = {
    "matrix": np.arange(600, dtype=np.float32).reshape(30, 20),
    "cube": np.arange(24, dtype=np.int64).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "big_endian": np.arange(5, dtype=">i4"),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 7), np.float32),
    "bytes": np.arange(200, dtype=np.uint8),
    "flags": np.array([True, False]),
}


@pytest.fixture(params=["isal", "zlib"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(npz, "inflate", zlib)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **ARRAYS)
    return path


def write_member(path: Path, content: bytes, name: str = "a.npy", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def as_npy(array: np.ndarray, **header: Any) -> bytes:
    """The .npy bytes of an array, with some of its header forged."""
    stream = io.BytesIO()
    described = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue() + array.tobytes()


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
def test_arrays_equal_those_of_numpy(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    read = NpzFile(path)
    assert read.keys == tuple(ARRAYS)
    with np.load(path) as expected:
        for key, array in expected.items():
            member, found = read.member(key), read.read(key)
            assert (member.shape, member.dtype) == (array.shape, array.dtype) == (found.shape, found.dtype)
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, array)


@pytest.mark.usefixtures("_library")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 5), st.integers(0, 6)),
    block=st.integers(1, 3000),
    compressed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_together_are_the_array(
    tmp_path: Path, shape: tuple[int, ...], block: int, compressed: bool, seed: int
) -> None:
    path = tmp_path / "a.npz"
    array = np.random.default_rng(seed).integers(-1, 6, shape).astype(np.float32)
    (np.savez_compressed if compressed else np.savez)(path, a=array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npz, "BLOCK_BYTES", block)
        blocks = list(NpzFile(path).blocks("a"))
    rows = max(1, block // max(1, 4 * shape[1] * shape[2]))
    assert [first for first, _ in blocks] == list(range(0, shape[0], rows))
    found = np.concatenate([block for _, block in blocks]) if blocks else np.zeros(shape)
    np.testing.assert_array_equal(found, array)


def test_memory_does_not_grow_with_the_member(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    array = np.tile(np.arange(18, dtype=np.float32), (4000, 100, 1))
    np.savez_compressed(path, a=array)
    total = array.astype(np.float64).sum()
    size = array.nbytes
    del array
    tracemalloc.start()
    try:
        found = sum(float(block.sum(dtype=np.float64)) for _, block in NpzFile(path).blocks("a"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == total
    assert size > 28e6
    assert peak < 5e6


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), library=st.sampled_from(["isal", "zlib"]))
def test_a_changed_byte_never_changes_a_value(archive: Path, position: float, flip: int, library: str) -> None:
    content = bytearray(archive.read_bytes())
    content[int(position * len(content))] ^= flip
    damaged = archive.with_name("damaged.npz")
    damaged.write_bytes(content)
    found, message = {}, None
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile and NumPy may warn about what they then refuse
        if library == "zlib":
            patch.setattr(npz, "inflate", zlib)
        try:
            read = NpzFile(damaged)
            for key in read.keys:
                found[key] = read.read(key)
        except DataError as fault:
            message = str(fault)
    assert message is None or (message.startswith(f"{damaged}: ") and "\n" not in message)
    for key in found.keys() & ARRAYS.keys():
        np.testing.assert_array_equal(found[key], ARRAYS[key])


def test_truncated_and_missing_files_and_folders_are_refused(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.npz: not a complete \.npz archive .*download or write it again"):
        NpzFile(archive)
    with pytest.raises(DataError, match=r"none\.npz: cannot be read \(No such file"):
        NpzFile(archive.with_name("none.npz"))
    with pytest.raises(DataError, match="cannot be read"):
        NpzFile(archive.parent)


@pytest.mark.usefixtures("_library")
def test_a_wrong_crc_is_found_after_the_last_block(tmp_path: Path) -> None:
    array = np.arange(1000, dtype=np.float32).reshape(100, 10)
    path = write_member(tmp_path / "a.npz", as_npy(array), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(array[50].tobytes())] ^= 1
    path.write_bytes(content)
    blocks = NpzFile(path).blocks("a")
    next(blocks)
    with pytest.raises(DataError, match=r"a\.npz: a: corrupt \(CRC [0-9a-f]{8}, expected [0-9a-f]{8}\)"):
        next(blocks)
    with pytest.raises(DataError, match="CRC"):
        NpzFile(path).read("a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY\x01\x00", "ends 2 bytes early"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"x" * 99, "not in .npy format 1.0"),
        (as_npy(np.zeros(4), shape=(5,)), r"float64 \(5,\) needs \d+ bytes, got \d+"),
        (as_npy(np.zeros(4), shape=(-4,)), r"expected an array of numbers, got float64 \(-4,\)"),
        (as_npy(np.zeros(2), descr="|O"), "expected an array of numbers, got object"),
    ],
)
def test_an_invalid_member_is_refused_before_anything_is_allocated(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write_member(tmp_path / "a.npz", content)
    with pytest.raises(DataError, match=rf"a\.npz: a: .*{message}"):
        NpzFile(path).read("a")


def test_missing_and_column_major_arrays_are_errors(archive: Path) -> None:
    with pytest.raises(KeyError, match="none"):
        NpzFile(archive).read("none")
    with pytest.raises(DataError, match="columns: expected C order, got column-major order; write"):
        next(NpzFile(archive).blocks("columns"))


def test_an_impossible_size_is_refused(tmp_path: Path) -> None:
    """A decompression bomb: the directory and the header declare 100 GB, the file holds a kilobyte."""
    path = write_member(tmp_path / "a.npz", as_npy(np.zeros(10), shape=(12_500_000_000,)))
    patch(path, 24, (4_000_000_000).to_bytes(4, "little"))
    with pytest.raises(DataError, match=r"\d+ bytes cannot hold 4000000000"):
        NpzFile(path).read("a")


def patch(path: Path, offset: int, value: bytes) -> None:
    """Overwrite bytes of the first entry of the directory."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)


def test_other_compression_and_encryption_are_refused(tmp_path: Path) -> None:
    path = write_member(tmp_path / "a.npz", as_npy(np.zeros(10)), method=zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="unsupported compression method 14"):
        NpzFile(path).read("a")
    write_member(path, as_npy(np.zeros(10)))
    patch(path, 8, b"\1")
    with pytest.raises(DataError, match="encrypted"):
        NpzFile(path).read("a")


def test_the_fingerprint_depends_on_the_contents(tmp_path: Path) -> None:
    def fingerprint(name: str, **arrays: Any) -> str:
        np.savez_compressed(tmp_path / name, **arrays)
        return NpzFile(tmp_path / name).fingerprint

    one = fingerprint("1.npz", a=np.arange(4), b=np.zeros(3))
    assert fingerprint("2.npz", b=np.zeros(3), a=np.arange(4)) == one  # neither file name nor order matter
    assert fingerprint("3.npz", a=np.arange(4), b=np.array([0.0, 0.0, 1.0])) != one
    assert fingerprint("4.npz", a=np.arange(4), c=np.zeros(3)) != one


def test_uncompressed_arrays_can_be_mapped(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    for key in ("matrix", "cube", "bytes"):
        mapped = NpzFile(tmp_path / "a.npz").map(key)
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(mapped, ARRAYS[key])
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    with pytest.raises(DataError, match=r"matrix: corrupt \(it cannot be memory-mapped"):
        NpzFile(tmp_path / "b.npz").map("matrix")
