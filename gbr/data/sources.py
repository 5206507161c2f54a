"""Where the named arrays of a graph come from: its file, a repacked copy beside it, or memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gbr.data.npz import BLOCK_BYTES, NpzFile
from gbr.data.packed import Packed, fresh

Blocks = Iterator[tuple[int, NDArray[Any]]]


class Arrays(Protocol):
    """Named arrays, in a file or in memory."""

    source: str
    keys: tuple[str, ...]
    packed: Packed | None

    def describe(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]: ...

    def read(self, key: str) -> NDArray[Any]: ...

    def blocks(self, key: str) -> Blocks: ...


class InFile:
    """A graph file, and its repacked copy for what that holds."""

    def __init__(self, path: Path | str, *, use_copy: bool) -> None:
        self._file = NpzFile(path)
        self.source = str(path)
        self.keys = self._file.keys
        self.packed = fresh(Path(path), self._file.fingerprint) if use_copy else None

    def describe(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if self.packed is not None:
            return self.packed.describe(key)
        member = self._file.member(key)
        return member.shape, member.dtype

    def read(self, key: str) -> NDArray[Any]:
        return self._file.read(key) if self.packed is None else self.packed.read(key)

    def blocks(self, key: str) -> Blocks:
        return self._file.blocks(key) if self.packed is None else self.packed.blocks()


class InMemory:
    packed: Packed | None = None

    def __init__(self, arrays: Mapping[str, NDArray[Any]], source: str) -> None:
        self._arrays = {key: np.asarray(value) for key, value in arrays.items()}
        self.source = source
        self.keys = tuple(self._arrays)

    def describe(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        return self._arrays[key].shape, self._arrays[key].dtype

    def read(self, key: str) -> NDArray[Any]:
        return self._arrays[key]

    def blocks(self, key: str) -> Blocks:
        array = self._arrays[key]
        step = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
        for first in range(0, len(array), step):
            yield first, array[first : first + step]
