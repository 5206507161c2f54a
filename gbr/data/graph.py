"""One ``.npz`` of TpuGraphs -> a validated graph; layout configurations stay in the file and come in blocks.

Format: Phothilimthana et al., "TpuGraphs: A Performance Prediction Dataset on Large Tensor Computational Graphs"
(NeurIPS 2023).  ``config_runtime_repeat``, an independent second measurement, is gbr's own addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.files import atomic_write
from gbr.data.npz import BLOCK_BYTES
from gbr.data.packed import LAYOUT_RANGE as LAYOUT_RANGE
from gbr.data.packed import N_LAYOUT as N_LAYOUT
from gbr.data.packed import Packed
from gbr.data.sources import Arrays, Blocks, InFile, InMemory
from gbr.errors import DataError, UsageError

N_FEAT: Final = 140
N_TILE: Final = 24
MAX_OPCODE: Final = 120

#: Floats count exactly up to here; the largest number of a real program is about 2**30.
LARGEST: Final = 2.0**53

#: dtypes of TpuGraphs' files, by key.
DTYPES: Final[Mapping[str, type[np.generic]]] = {
    "node_feat": np.float32,
    "node_opcode": np.uint8,
    "edge_index": np.int64,
    "config_feat": np.float32,
    "node_config_ids": np.int64,
    "node_config_feat": np.float32,
    "node_splits": np.int64,
    "config_runtime": np.int64,
    "config_runtime_normalizers": np.int64,
    "config_runtime_repeat": np.int64,
}

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Graph:
    """A tensor program, the configurations it may be compiled with, and their runtimes where they were measured.

    Parameters
    ----------
    name : str
        Stem of the file.
    source : str
        Path, or ``<memory>``; for messages.
    kind : str
        ``tile`` or ``layout``.
    node_feat : float32 (n, 140)
        HLO attributes of every node, 0-padded.
    node_opcode : uint8 (n,)
        Opcode ids; 0 is unknown.
    edge_index : int64 (m, 2)
        Row (u, v): u consumes the output of v; v < u.
    n_configs : int
    config_feat : float32 (c, 24) or None
        Tile configurations.
    node_config_ids : int64 (nc,) or None
        Nodes a layout configuration speaks about.
    node_splits : int64 (k,) or None
    runtime : int64 (c,) or None
        Nanoseconds; None where there are none or all are zero (the test files of TpuGraphs).
    normalizer : int64 (c,) or None
        What a tile runtime is divided by.
    repeat : int64 (c,) or None
        Runtimes of an independent second measurement [ns].
    """

    name: str
    source: str
    kind: str
    node_feat: NDArray[np.float32]
    node_opcode: NDArray[np.uint8]
    edge_index: IntArray
    n_configs: int
    config_feat: NDArray[np.float32] | None
    node_config_ids: IntArray | None
    node_splits: IntArray | None
    runtime: IntArray | None
    normalizer: IntArray | None
    repeat: IntArray | None
    layouts: _Layouts | None = field(default=None, repr=False)

    def config_blocks(self, rows: int | None = None) -> Blocks:
        """Configurations in blocks of whole rows, in order.

        Parameters
        ----------
        rows : int, optional
            Configurations per block (the last may have fewer).  By default all at once for ``tile`` and about 8 MiB
            for ``layout``.

        Yields
        ------
        int, array
            Number of the first row; float32 (b, 24) for ``tile``, int8 (b, nc, 18) for ``layout``.

        Raises
        ------
        DataError
            For a layout value that is no whole number in -1 … 5, or a stream that is torn; a wrong CRC shows after
            the last block, so only an iteration that ends by itself is known to be whole.
        """
        if self.config_feat is not None:
            step = rows or self.n_configs
            for first in range(0, self.n_configs, step):
                yield first, self.config_feat[first : first + step]
            return
        assert self.layouts is not None
        assert self.node_config_ids is not None
        yield from self.layouts.blocks(rows or max(1, 8 * BLOCK_BYTES // (len(self.node_config_ids) * N_LAYOUT)))

    def stored_blocks(self) -> Blocks:
        """Configurations of a ``layout`` graph as they are stored: of any number type, and not validated.

        Yields
        ------
        int, array (b, nc, 18)
            Number of the first row, and about 1 MiB of configurations.

        Raises
        ------
        DataError
            For a stream that is torn.
        """
        assert self.layouts is not None
        return self.layouts.stored()

    def configs(self, rows: IntArray) -> NDArray[Any]:
        """Some configurations.

        A layout graph with a repacked copy reads these alone; any other one is read up to the last of them.

        Parameters
        ----------
        rows : array-like of int (b,)
            In any order, also repeated.

        Returns
        -------
        float32 (b, 24) for ``tile``, int8 (b, nc, 18) for ``layout``

        Raises
        ------
        UsageError
            For a row that is no configuration.
        DataError
            As :meth:`config_blocks`.
        """
        rows = np.asarray(rows, np.int64)
        wrong = (rows < 0) | (rows >= self.n_configs)
        if wrong.any():
            raise UsageError(f"rows: got {rows[wrong.argmax()]}, want 0 to {self.n_configs - 1}")
        if self.config_feat is not None:
            return self.config_feat[rows]
        if self.packed is not None:
            return self.packed.configs(rows)
        assert self.node_config_ids is not None
        taken = np.empty((len(rows), len(self.node_config_ids), N_LAYOUT), np.int8)
        last = rows.max(initial=-1)
        for first, block in self.config_blocks():
            if first > last:
                break
            here = np.flatnonzero((rows >= first) & (rows < first + len(block)))
            taken[here] = block[rows[here] - first]
        return taken

    @property
    def packed(self) -> Packed | None:
        """The repacked copy that configurations are read from, where there is a fresh one."""
        return None if self.layouts is None else self.layouts.packed

    def to_networkx(self) -> Any:
        """Give the program as a ``networkx.DiGraph``, to look at and to ask questions of.

        Nodes are numbered as in the file, and edges lead from producer to consumer: ``edge_index`` turned round.  A
        node knows its ``name`` (``convolution.4``), ``opcode``, ``shape``, ``element_type``, ``layout`` (minor to
        major), ``nbytes``, ``is_root``, and whether it is ``configurable``; the graph its ``name`` and ``kind``.

        Raises
        ------
        MissingLibraryError
            When networkx is not installed; the extra ``graph`` brings it.
        """
        from gbr.data.graphnx import to_networkx

        return to_networkx(self)

    def narrow(self, first: int, block: NDArray[Any]) -> NDArray[np.int8]:
        """Validate a block of :meth:`stored_blocks` that starts at row ``first``.

        Raises
        ------
        DataError
            For a layout value that is no whole number in -1 … 5.
        """
        assert self.layouts is not None
        return self.layouts.narrow(first, block)


def read_graph(path: Path | str, *, use_copy: bool = True) -> Graph:
    """Read and validate one graph file.

    Everything is read but the configurations of a layout file, which :meth:`Graph.config_blocks` reads and validates.

    Parameters
    ----------
    path : path
    use_copy : bool
        Read from the copy that :func:`gbr.data.repack.repack` wrote beside the file, where there is one of the file as it
        is now: everything in it is the same.

    Raises
    ------
    DataError
        When the file is missing, torn, or breaks the format; the message names file, key, what was found and wanted.
        When the copy is damaged.
    """
    return _graph(Path(path).stem, InFile(path, use_copy=use_copy))


def graph_from_arrays(name: str, arrays: Mapping[str, NDArray[Any]], source: str = "<memory>") -> Graph:
    """Make a validated graph of arrays named as in TpuGraphs' files.

    Raises
    ------
    DataError
        As :func:`read_graph`.
    """
    return _graph(name, InMemory(arrays, source))


def write_graph(path: Path | str, graph_arrays: Mapping[str, NDArray[Any]]) -> None:
    """Validate a graph and write it as TpuGraphs does: same keys, dtypes and order of axes, compressed.

    Equal arrays make equal bytes.

    Parameters
    ----------
    path : path
        Ends in ``.npz``; the file appears whole or not at all.
    graph_arrays : mapping of str to array
        Keys of :data:`DTYPES`.

    Raises
    ------
    DataError
        When an array breaks the format, a key is not of it, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise DataError(f"{path}: want a name that ends in .npz")
    unknown = [key for key in graph_arrays if key not in DTYPES]
    if unknown:
        raise DataError(f"{path}: {unknown[0]}: no key of a graph file; keys are {', '.join(DTYPES)}")
    graph = graph_from_arrays(path.stem, graph_arrays, str(path))
    for _ in graph.config_blocks():
        pass  # validates every configuration
    arrays = {key: np.asarray(graph_arrays[key]).astype(dtype) for key, dtype in DTYPES.items() if key in graph_arrays}
    with atomic_write(path, DataError) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _graph(name: str, arrays: Arrays) -> Graph:
    check = _Checker(arrays)
    kind = check.kind()
    node_feat = check.floats("node_feat", (None, N_FEAT))
    n = len(node_feat)
    if not n:
        raise check.wrong("node_feat", "no nodes", "at least one")
    opcode = check.integers("node_opcode", (n,), low=0)
    edges = check.integers("edge_index", (None, 2))
    _check_edges(check, edges, n)
    config_feat = ids = splits = layouts = None
    if kind == "tile":
        config_feat = check.floats("config_feat", (None, N_TILE))
        n_configs = len(config_feat)
    else:
        ids = check.integers("node_config_ids", (None,), low=0, high=n - 1)
        if not len(ids) or len(np.unique(ids)) < len(ids):
            raise check.wrong("node_config_ids", "a node twice" if len(ids) else "no node", "distinct nodes")
        n_configs, *_ = check.shape("node_config_feat", (None, len(ids), N_LAYOUT), "iuf")
        layouts = _Layouts(check, (n_configs, len(ids), N_LAYOUT))
        if "node_splits" in arrays.keys:
            splits = check.integers("node_splits", (1, None), low=0, high=n)[0]
    if not n_configs:
        raise check.wrong("config_feat" if kind == "tile" else "node_config_feat", "no configurations", "some")
    normalizer = None
    if "config_runtime_normalizers" in arrays.keys:
        normalizer = check.integers("config_runtime_normalizers", (n_configs,), low=1)
    return Graph(
        name=name,
        source=arrays.source,
        kind=kind,
        node_feat=node_feat,
        node_opcode=np.where(opcode > MAX_OPCODE, 0, opcode).astype(np.uint8),
        edge_index=edges,
        n_configs=n_configs,
        config_feat=config_feat,
        node_config_ids=ids,
        node_splits=splits,
        runtime=_runtimes(check, "config_runtime", n_configs),
        normalizer=normalizer,
        repeat=_runtimes(check, "config_runtime_repeat", n_configs),
        layouts=layouts,
    )


class _Checker:
    """Reads arrays of one source and raises a DataError where one is not what it should be."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def wrong(self, key: str, got: object, want: object) -> DataError:
        advice = "fetch the file again, or mend what wrote it"
        return DataError(f"{self.arrays.source}: {key}: got {got}, want {want}; {advice}")

    def keys(self) -> str:
        few = self.arrays.keys[: len(DTYPES)]
        return f"keys {', '.join(few) or 'none'}" + (" and more" if len(few) < len(self.arrays.keys) else "")

    def kind(self) -> str:
        tile, layout = "config_feat" in self.arrays.keys, "node_config_feat" in self.arrays.keys
        if tile == layout:
            got = "both config_feat and node_config_feat" if tile else self.keys()
            raise self.wrong("config_feat", got, "config_feat (tile) or node_config_feat (layout)")
        return "tile" if tile else "layout"

    def shape(self, key: str, want: tuple[int | None, ...], kinds: str) -> tuple[int, ...]:
        """Check an array's shape (None: any extent) and kind of dtype without reading its values."""
        if key not in self.arrays.keys:
            raise self.wrong(key, self.keys(), f"{key} among them")
        shape, dtype = self.arrays.describe(key)
        wanted = (
            "(" + ", ".join("*" if extent is None else str(extent) for extent in want) + ("," * (len(want) == 1)) + ")"
        )
        if len(shape) != len(want) or any(b not in (None, a) for a, b in zip(shape, want, strict=True)):
            raise self.wrong(key, f"shape {shape}", wanted)
        if dtype.kind not in kinds:
            raise self.wrong(key, dtype, "whole numbers" if kinds == "iu" else "numbers")
        return shape

    def floats(self, key: str, want: tuple[int | None, ...]) -> NDArray[np.float32]:
        self.shape(key, want, "iuf")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self.arrays.read(key), np.float32)
        possible = np.abs(values) <= LARGEST  # false for NaN, too
        if not possible.all():
            at = tuple(int(place) for place in np.argwhere(~possible)[0])
            raise self.wrong(key, f"{values[at]} at {at}", "finite numbers up to 2**53")
        return values

    def integers(
        self, key: str, want: tuple[int | None, ...], low: int | None = None, high: int | None = None
    ) -> IntArray:
        self.shape(key, want, "iu")
        values = np.ascontiguousarray(self.arrays.read(key), np.int64)
        outside = np.zeros(values.shape, bool)
        if low is not None:
            outside |= values < low
        if high is not None:
            outside |= values > high
        if outside.any():
            at = tuple(int(place) for place in np.argwhere(outside)[0])
            raise self.wrong(key, f"{values[at]} at {at}", f"{low} or more" if high is None else f"{low} to {high}")
        return values


def _check_edges(check: _Checker, edges: IntArray, n: int) -> None:
    outside = ((edges < 0) | (edges >= n)).any(axis=1)
    if outside.any():
        row = int(outside.argmax())
        raise check.wrong("edge_index", f"{tuple(edges[row].tolist())} in row {row}", f"nodes 0 to {n - 1}")
    backward = edges[:, 1] >= edges[:, 0]
    if backward.any():
        row = int(backward.argmax())
        raise check.wrong(
            "edge_index",
            f"{tuple(edges[row].tolist())} in row {row}",
            "(consumer, operand) with operands numbered first",
        )


def _runtimes(check: _Checker, key: str, n_configs: int) -> IntArray | None:
    if key not in check.arrays.keys:
        return None
    values = check.integers(key, (n_configs,), low=0)
    zero = values == 0
    if zero.all():
        return None
    if zero.any():
        raise check.wrong(key, f"0 at {int(zero.argmax())} among others", "all positive, or all 0 for unknown")
    return values


class _Layouts:
    """The configurations of a layout graph, where they are stored."""

    def __init__(self, check: _Checker, shape: tuple[int, ...]) -> None:
        self._check = check
        self._shape = shape
        self.packed = check.arrays.packed

    def stored(self) -> Blocks:
        return self._check.arrays.blocks("node_config_feat")

    def blocks(self, rows: int) -> Blocks:
        """Gather the stored blocks, checked and narrowed to int8, into blocks of ``rows``."""
        n_configs, *row = self._shape
        if self.packed is not None:
            for first in range(0, n_configs, rows):
                yield first, self.packed.configs(slice(first, first + rows))
            return
        start = filled = 0
        block = np.empty((min(rows, n_configs), *row), np.int8)
        for first, piece in self.stored():
            narrow = self.narrow(first, piece)
            while len(narrow):
                part, narrow = narrow[: len(block) - filled], narrow[len(block) - filled :]
                block[filled : filled + len(part)] = part
                filled += len(part)
                if filled == len(block):
                    yield start, block
                    start += filled
                    filled = 0
                    block = np.empty((min(rows, n_configs - start), *row), np.int8)

    def narrow(self, first: int, piece: NDArray[Any]) -> NDArray[np.int8]:
        with np.errstate(invalid="ignore"):
            narrow = piece.astype(np.int8)
        low, high = LAYOUT_RANGE
        # The comparison catches fractions, NaN, and whatever wrapped around.
        if (narrow == piece).all() and narrow.min() >= low and narrow.max() <= high:
            return narrow
        wrong = (narrow != piece) | (narrow < low) | (narrow > high)
        row, node, slot = (int(place) for place in np.argwhere(wrong)[0])
        raise self._check.wrong(
            "node_config_feat",
            f"{piece[row, node, slot]} at {(first + row, node, slot)}",
            f"whole numbers {low} to {high}",
        )
