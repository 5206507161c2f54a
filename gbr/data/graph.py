"""Read, validate and write graph files; layout configurations stay in the file and are read in blocks.

Format: Phothilimthana et al., "TpuGraphs: A Performance Prediction Dataset on Large Tensor Computational Graphs"
(NeurIPS 2023).  ``config_runtime_repeat``, an independent second measurement, is an extension of gbr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.hlo import (
    ELEMENT_TYPES,
    FEAT_ID,
    LAYOUT_CONFIG,
    N_FEAT,
    N_OPCODES,
    NODE_FEAT,
    OPCODE_ID,
    OPCODES,
    TILE_CONFIG,
)
from gbr.data import hlo
from gbr.data.configs import from_bounds
from gbr.data.files import atomic_write
from gbr.data.npz import BLOCK_BYTES, NpzFile
from gbr.errors import DataError, HloError, MissingLibraryError, UsageError

if TYPE_CHECKING:
    from features.tensors import Tensors

N_TILE: Final = len(TILE_CONFIG)
#: Slots of the layouts of a configurable node: output, input and kernel, six dimensions each.
N_LAYOUT: Final = len(LAYOUT_CONFIG)
#: A slot holds a dimension, or -1 for none.
LAYOUT_RANGE: Final = (-1, 5)

#: Largest valid value: floats represent integers up to it exactly, and real programs have values up to about 2**30.
LARGEST: Final = 2.0**53

#: Slots whose value may be -1 exist where those of another column do.
_SIGNED: Final = {
    **dict.fromkeys(("window_padding_low", "window_padding_high"), "window_size"),
    **dict.fromkeys(("padding_config_edge_padding_low", "padding_config_edge_padding_high"), "shape_dimensions"),
}

#: Suffix of repacked copies (:mod:`gbr.data.repack`).
REPACKED_SUFFIX: Final = ".gbr"
_HLO_SUFFIXES: Final = (".pb", ".hlo")

#: dtypes of the files of TpuGraphs, by key.
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
Blocks = Iterator[tuple[int, NDArray[Any]]]


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A tensor program, its configurations, and their runtimes if they were measured.

    Parameters
    ----------
    name : str
        Stem of the file.
    source : str
        Path, or ``<memory>``; for messages.
    kind : str
        ``tile``, ``layout``, or ``program`` for an HLO module without configurations.
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
        Configurable nodes of a layout graph.
    node_splits : int64 (k,) or None
    runtime : int64 (c,) or None
        Nanoseconds; None if absent or all zero (the test files of TpuGraphs).
    normalizer : int64 (c,) or None
        Divisor of a tile runtime.
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
    #: Source of the layout configurations, and its repacked copy if there is one.
    arrays: NpzFile | _Memory | None = None
    repacked: Repacked | None = None

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {self.kind}, {len(self.node_opcode):,} nodes, {self.n_configs:,} configurations>"

    def config_blocks(self, rows: int | None = None) -> Blocks:
        """Configurations in blocks of rows, in order.

        Parameters
        ----------
        rows : int, optional
            Configurations per block (the last may have fewer).  By default all at once for ``tile``, and a block that
            fits in the cache of a core for ``layout``.

        Yields
        ------
        int, array
            Index of the first row; float32 (b, 24) for ``tile``, int8 (b, nc, 18) for ``layout``.

        Raises
        ------
        DataError
            For an invalid layout value or a corrupt stream.  The CRC is checked after the last block.
        """
        if self.arrays is not None and self.repacked is None:
            for first, block in self.arrays.blocks("node_config_feat", rows):
                yield first, self.narrow(first, block)
            return
        n_codes = 0 if self.repacked is None else self.repacked.shape[1]
        step = rows or max(1, BLOCK_BYTES // (N_LAYOUT * n_codes) if n_codes else self.n_configs)
        for first in range(0, self.n_configs, step):
            yield first, self.configs(np.arange(first, min(first + step, self.n_configs)))

    def stored_blocks(self) -> Blocks:
        """Like :meth:`config_blocks` of a ``layout`` graph, but as stored: of any number type and not validated."""
        assert self.arrays is not None
        return self.arrays.blocks("node_config_feat")

    def narrow(self, first: int, block: NDArray[Any]) -> NDArray[np.int8]:
        """Validate a block of :meth:`stored_blocks` that starts at row ``first``, and convert it to int8."""
        with np.errstate(invalid="ignore"):
            narrow = block.astype(np.int8)
        low, high = LAYOUT_RANGE
        # The comparison detects fractions, NaN and overflow.
        if (narrow == block).all() and narrow.min() >= low and narrow.max() <= high:
            return narrow
        wrong = (narrow != block) | (narrow < low) | (narrow > high)
        row, node, slot = np.argwhere(wrong)[0].tolist()
        got = f"{block[row, node, slot]} at {(first + row, node, slot)}"
        raise _invalid(self.source, "node_config_feat", f"integers from {low} to {high}", got, in_file=True)

    def configs(self, rows: IntArray) -> NDArray[Any]:
        """Read some configurations.

        From a repacked copy, only these are read; from a graph file, all configurations up to the last of these.

        Parameters
        ----------
        rows : array-like of int (b,)
            In any order, repeats allowed.

        Returns
        -------
        float32 (b, 24) for ``tile``, int8 (b, nc, 18) for ``layout``

        Raises
        ------
        UsageError
            For an index out of range, or anything but a list of indices.
        DataError
            As for :meth:`config_blocks`.
        """
        given = np.asarray(rows)
        if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu") or np.ma.is_masked(rows):
            got = "masked values" if np.ma.is_masked(rows) else f"{given.dtype} of shape {given.shape}"
            raise UsageError(f"rows: expected a list of indices, got {got}")
        rows = given.astype(np.int64)
        wrong = (rows < 0) | (rows >= self.n_configs)
        if wrong.any():
            raise UsageError(f"rows: expected indices from 0 to {self.n_configs - 1}, got {rows[wrong.argmax()]}")
        if self.config_feat is not None:
            return self.config_feat[rows]
        if self.repacked is not None:
            return self.repacked.configs(rows)
        assert self.node_config_ids is not None
        found = np.empty((len(rows), len(self.node_config_ids), N_LAYOUT), np.int8)
        last = rows.max(initial=-1)
        for first, block in self.config_blocks():
            if first > last:
                break
            in_block = np.flatnonzero((rows >= first) & (rows < first + len(block)))
            found[in_block] = block[rows[in_block] - first]
        return found

    @classmethod
    def from_jax(cls, function: Callable[..., Any], *args: Any) -> Graph:
        """The program of a JAX function, without configurations.

        Parameters
        ----------
        function : callable
            As for ``jax.jit``.
        *args
            Its arguments: arrays, ``jax.ShapeDtypeStruct`` objects, or pytrees of these.

        Raises
        ------
        MissingLibraryError
            If JAX is not installed; it is part of the extra ``collect``.

        Examples
        --------
        >>> a = jax.ShapeDtypeStruct((512, 512), "float16")  # doctest: +SKIP
        >>> gbr.Graph.from_jax(lambda x, y: x @ y, a, a)  # doctest: +SKIP
        <Graph <lambda>: program, 3 nodes, 0 configurations>
        """
        try:
            import jax
        except ModuleNotFoundError as fault:
            raise MissingLibraryError("JAX is not installed; pip install 'gbr[collect]'") from fault
        module = jax.jit(function).lower(*args).compiler_ir("hlo").as_serialized_hlo_module_proto()
        return graph_from_arrays(getattr(function, "__name__", "program"), hlo.graph_arrays(module))

    def require_configs(self) -> None:
        """DataError if the graph is a program without configurations."""
        if self.kind == "program":
            raise DataError(
                f"{self.source}: a program without configurations; give them by --configs FILE.csv, in Python by "
                "Ranker.rank(graph, configs)"
            )

    def with_configs(self, configs: Any) -> Graph:
        """The same program with other configurations, and without runtimes.

        Parameters
        ----------
        configs : array or sequence
            Tiles: dictionaries of sizes by tensor, ``{"output_bounds": [64, 128], "kernel_bounds": [32]}``, whose sums
            and products are filled in, or an array (c, 24) with these, in the order of ``features.hlo.TILE_CONFIG``.
            Layouts: an array (c, nc, 18), one row per node of ``node_config_ids``.

        Raises
        ------
        DataError, UsageError
            For an invalid configuration.
        """
        program = {name: getattr(self, name) for name in ("node_feat", "node_opcode", "edge_index")}
        if isinstance(configs, list | tuple) and any(isinstance(each, Mapping) for each in configs):
            configs = from_bounds(configs)
        if np.ndim(configs) == 2:
            if (np.asarray(configs) < 0).any():
                raise _invalid(self.source, "config_feat", "sizes of 0 or more", "a negative one")
            return graph_from_arrays(self.name, program | {"config_feat": configs}, self.source)
        ids = {} if self.node_config_ids is None else {"node_config_ids": self.node_config_ids}
        return graph_from_arrays(self.name, program | ids | {"node_config_feat": configs}, self.source)

    def to_networkx(self) -> Any:
        """Convert the program to a ``networkx.DiGraph``.

        Nodes keep their indices, and edges lead from producer to consumer, the reverse of ``edge_index``.  Nodes have
        the attributes ``name`` (``convolution.4``), ``opcode``, ``shape``, ``element_type``, ``layout`` (minor to
        major), ``nbytes``, ``is_root`` and ``configurable``; the graph has ``name`` and ``kind``.

        Raises
        ------
        MissingLibraryError
            If networkx is not installed; it is part of the extra ``graph``.
        """
        try:
            import networkx
        except ModuleNotFoundError as fault:
            raise MissingLibraryError("networkx is not installed; pip install 'gbr[graph]'") from fault
        from features.tensors import Tensors  # compiles with numba

        tensors = Tensors(self.node_feat)
        configurable = set() if self.node_config_ids is None else set(self.node_config_ids.tolist())
        is_root = self.node_feat[:, FEAT_ID["is_root"]] > 0
        digraph = networkx.DiGraph(name=self.name, kind=self.kind)
        for node, name in enumerate(node_names(self.node_opcode)):
            digraph.add_node(
                node,
                name=name,
                opcode=OPCODES[self.node_opcode[node]],
                shape=tensors.shape(node),
                element_type=element_type(tensors, node),
                layout=tuple(tensors.layout(node).tolist()),
                nbytes=int(tensors.nbytes[node]),
                configurable=node in configurable,
                is_root=bool(is_root[node]),
            )
        digraph.add_edges_from((int(producer), int(consumer)) for consumer, producer in self.edge_index)
        return digraph


def node_names(opcode: NDArray[np.uint8]) -> list[str]:
    """Name of every node, ``<opcode>.<index>``, as graph files contain no names."""
    return [f"{OPCODES[each]}.{index}" for index, each in enumerate(opcode.tolist())]


def element_type(tensors: Tensors, node: int) -> str:
    """Element type of the output of a node, in the notation of HLO."""
    return ELEMENT_TYPES[int(tensors.element_type[node])]


def shape_text(tensors: Tensors, node: int) -> str:
    """Element type and extents of the output of a node, in the notation of HLO: ``f32[8,128]``."""
    return f"{element_type(tensors, node)}[{','.join(map(str, tensors.shape(node)))}]"


def layout_text(order: Iterable[int]) -> str:
    """A minor-to-major order in the notation of HLO: ``{1,0}``."""
    return "{" + ",".join(str(int(dim)) for dim in order) + "}"


def read_graph(path: Path | str, *, use_copy: bool = True) -> Graph:
    """Read and validate a graph file.

    The configurations of a layout file are read and validated later, by :meth:`Graph.config_blocks`.

    Parameters
    ----------
    path : path
        An ``.npz`` of TpuGraphs, or a serialized HLO module (HloModuleProto or HloProto) that ends in ``.pb`` or
        ``.hlo``.  A module gives a graph of kind ``program``, without configurations; see :meth:`Graph.with_configs`.
    use_copy : bool
        Read configurations from the copy that :func:`gbr.data.repack.repack` wrote, if it is up to date.

    Raises
    ------
    DataError
        If the file is missing, corrupt or invalid, or its repacked copy is damaged.
    HloError
        If a ``.pb`` or ``.hlo`` file is not an HLO module.

    Notes
    -----
    The numbered columns of ``node_feat`` and ``config_feat`` are 0-padded.  In copies of TpuGraphs that are padded with
    -1, the padding is replaced by 0.
    """
    path = Path(path)
    if path.suffix not in (".npz", *_HLO_SUFFIXES):
        raise DataError(f"{path}: expected a graph file that ends in .npz, or an HLO module in .pb or .hlo")
    if path.suffix not in _HLO_SUFFIXES:
        return _validated(path.stem, str(path), NpzFile(path), with_configs=True, use_copy=use_copy)
    try:
        return graph_from_arrays(path.stem, hlo.graph_arrays(path.read_bytes()), str(path))
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault})") from fault
    except HloError as fault:
        raise HloError(f"{path}: {fault}") from fault


def graph_from_arrays(name: str, arrays: Mapping[str, NDArray[Any]], source: str = "<memory>") -> Graph:
    """Create a validated graph from arrays named as in the files of TpuGraphs; errors as for :func:`read_graph`.

    Without ``config_feat`` and ``node_config_feat``, it is a graph of kind ``program``.
    """
    return _validated(name, source, _Memory(source, arrays), with_configs=False)


def write_graph(path: Path | str, graph_arrays: Mapping[str, NDArray[Any]]) -> None:
    """Validate a graph and write it in the format of TpuGraphs: same keys, dtypes and order of axes, compressed.

    Equal arrays give equal bytes.

    Parameters
    ----------
    path : path
        Ends in ``.npz``; written atomically.
    graph_arrays : mapping of str to array
        Keys of :data:`DTYPES`.

    Raises
    ------
    DataError
        For an invalid array or an unknown key, or if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise DataError(f"{path}: expected a name that ends in .npz")
    unknown = [key for key in graph_arrays if key not in DTYPES]
    if unknown:
        raise DataError(f"{path}: unknown key {unknown[0]}; the keys of a graph file are {', '.join(DTYPES)}")
    graph = _validated(path.stem, str(path), _Memory(path, graph_arrays), with_configs=True)
    for _ in graph.config_blocks():
        pass  # validates every configuration
    validated = ("node_feat", "node_opcode", "config_feat")
    arrays = {
        key: getattr(graph, key) if key in validated else graph_arrays[key] for key in DTYPES if key in graph_arrays
    }
    for key, array in arrays.items():  # + 0 makes -0 0
        arrays[key] = np.add(np.asarray(array), 0, dtype=DTYPES[key], casting="unsafe", order="C")
    with atomic_write(path, DataError) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _validated(
    name: str, source: str, arrays: NpzFile | _Memory, *, with_configs: bool, use_copy: bool = False
) -> Graph:
    check = _Checker(source, arrays)
    tile, layout = "config_feat" in arrays.keys, "node_config_feat" in arrays.keys
    if tile == layout and (tile or with_configs):
        got = "both" if tile else check.keys
        raise check.invalid("config_feat", "config_feat (tile) or node_config_feat (layout)", got)
    node_feat = check.array("node_feat", (None, N_FEAT), -LARGEST, LARGEST, np.float32)
    n, n_configs = len(node_feat), 0
    if not n:
        raise check.invalid("node_feat", "at least one node", "none")
    opcode = check.array("node_opcode", (n,), 0)
    node_feat = zero_padded(node_feat, NODE_FEAT, opcode)
    edges = check.array("edge_index", (None, 2), 0, n - 1)
    backward = edges[:, 1] >= edges[:, 0]
    if backward.any():
        row = int(backward.argmax())
        expected = "(consumer, operand) with operands numbered first"
        raise check.invalid("edge_index", expected, f"{tuple(edges[row].tolist())} in row {row}")
    config_feat = ids = splits = normalizer = repacked = None
    if tile:
        config_feat = check.array("config_feat", (None, N_TILE), -LARGEST, LARGEST, np.float32)
        n_configs = len(config_feat)
        config_feat = zero_padded(config_feat, TILE_CONFIG)
    elif layout or "node_config_ids" in arrays.keys:
        ids = check.array("node_config_ids", (None,), 0, n - 1)
        if len(np.unique(ids)) < len(ids) or (layout and not len(ids)):
            raise check.invalid("node_config_ids", "distinct nodes", "a duplicate" if len(ids) else "none")
        if "node_splits" in arrays.keys:
            splits = check.array("node_splits", (1, None), 0, n)[0]
        if layout:
            n_configs, *_ = check.header("node_config_feat", (None, len(ids), N_LAYOUT), "iuf")
            if use_copy and isinstance(arrays, NpzFile):
                repacked = find_repacked(arrays.path, arrays.fingerprint)
            if repacked is not None and repacked.shape != (n_configs, len(ids)):
                got = f"{repacked.shape}; delete it"
                raise DataError(f"{repacked.path}: expected {(n_configs, len(ids))} codes, got {got}")
    if (tile or layout) and not n_configs:
        raise check.invalid("config_feat" if tile else "node_config_feat", "configurations", "none")
    if "config_runtime_normalizers" in arrays.keys:
        normalizer = check.array("config_runtime_normalizers", (n_configs,), 1)
    return Graph(
        name=name,
        source=source,
        kind="tile" if tile else "layout" if layout else "program",
        node_feat=node_feat,
        node_opcode=np.where(opcode < N_OPCODES, opcode, 0).astype(np.uint8),
        edge_index=edges,
        n_configs=n_configs,
        config_feat=config_feat,
        node_config_ids=ids,
        node_splits=splits,
        runtime=check.runtimes("config_runtime", n_configs),
        normalizer=normalizer,
        repeat=check.runtimes("config_runtime_repeat", n_configs),
        arrays=arrays if layout else None,
        repacked=repacked,
    )


def zero_padded(
    array: NDArray[np.float32], names: tuple[str, ...], opcode: IntArray | None = None
) -> NDArray[np.float32]:
    """Replace -1 by 0 in the empty slots of numbered columns, as some copies of TpuGraphs are padded with -1."""
    if not (array == -1).any():
        return array
    padded = array.copy()
    found = False
    for column, name in enumerate(names):
        stem, _, slot = name.rpartition("_")
        if slot.isdigit():
            empty = array[:, column] == -1
            if stem in _SIGNED:
                exists = array[:, names.index(f"{_SIGNED[stem]}_{slot}")] != -1
                if stem.startswith("padding_config"):
                    exists &= opcode == OPCODE_ID["pad"]
                empty &= ~exists
            else:
                found |= bool(empty.any())
            padded[empty, column] = 0
    return padded if found else array


def _invalid(source: object, key: str, expected: object, got: object, *, in_file: bool = False) -> DataError:
    advice = "correct the array, or download the file again" if in_file else "correct the array"
    return DataError(f"{source}: {key}: expected {expected}, got {got}; {advice}")


def _first_that_is_not_whole(values: list[Any]) -> int | None:
    """Index of the first value that is not a whole number, if any."""
    whole = (isinstance(value, int | float) and value == value // 1 for value in values)
    return next((at for at, valid in enumerate(whole) if not valid), None)


class _Memory:
    """Arrays in memory, with the interface of NpzFile."""

    def __init__(self, source: object, arrays: Mapping[str, NDArray[Any]]) -> None:
        for key, value in arrays.items():
            if np.ma.is_masked(value):
                raise _invalid(source, key, "a value everywhere", "masked values")
        self._arrays = {key: np.asarray(value) for key, value in arrays.items()}
        self.keys = tuple(self._arrays)

    def read(self, key: str) -> NDArray[Any]:
        return self._arrays[key]

    member = read

    def blocks(self, key: str, rows: int | None = None) -> Blocks:
        array = self._arrays[key]
        step = rows or max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
        for first in range(0, len(array), step):
            yield first, array[first : first + step]


class _Checker:
    """Reads and validates the arrays of one graph."""

    def __init__(self, source: str, arrays: NpzFile | _Memory) -> None:
        self._source = source
        self._arrays = arrays
        self.keys = f"keys {', '.join(arrays.keys) or 'none'}"

    def invalid(self, key: str, expected: object, got: object) -> DataError:
        """Error of one array."""
        return _invalid(self._source, key, expected, got, in_file=isinstance(self._arrays, NpzFile))

    def header(self, key: str, expected: tuple[int | None, ...], kinds: str) -> tuple[int, ...]:
        """Check the shape (None: any extent) and kind of dtype of an array without reading its values."""
        if key not in self._arrays.keys:
            raise self.invalid(key, f"{key} among the keys", self.keys)
        about = self._arrays.member(key)
        shape = about.shape
        if len(shape) != len(expected) or any(b not in (None, a) for a, b in zip(shape, expected, strict=True)):
            extents = ", ".join("*" if extent is None else str(extent) for extent in expected)
            raise self.invalid(key, f"shape ({extents})", shape)
        if about.dtype.kind not in kinds:
            got = str(about.dtype)
            if isinstance(about, np.ndarray) and (at := _first_that_is_not_whole(about.ravel().tolist())) is not None:
                got = f"{got}, with {about.ravel().tolist()[at]!r} at {at}"
            numbers = "integers" if kinds == "iu" else "numbers"
            if key.startswith("config_runtime"):
                numbers = "whole nanoseconds, as integers"
            raise self.invalid(key, numbers, got)
        return shape

    def array(
        self,
        key: str,
        expected: tuple[int | None, ...],
        low: float,
        high: float = np.inf,
        dtype: type[np.generic] = np.int64,
    ) -> NDArray[Any]:
        self.header(key, expected, "iu" if dtype is np.int64 else "iuf")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self._arrays.read(key), dtype)
        valid = (values >= low) & (values <= high)  # False for NaN
        if not valid.all():
            at = tuple(np.argwhere(~valid)[0].tolist())
            limits = "finite numbers up to 2**53" if high == LARGEST else f"{low} to {high}"
            raise self.invalid(key, limits, f"{values[at]} at {at}")
        return values

    def runtimes(self, key: str, n_configs: int) -> IntArray | None:
        if key not in self._arrays.keys:
            return None
        values = self.array(key, (n_configs,), 0)
        zero = values == 0
        if zero.any() and not zero.all():
            raise self.invalid(key, "all positive, or all 0 if unknown", f"0 at {int(zero.argmax())}")
        return None if zero.all() else values


class Repacked:
    """The configurations of a layout graph, memory-mapped from its repacked copy; a DataError if it is not complete.

    Attributes
    ----------
    fingerprint : str
        :attr:`gbr.data.npz.NpzFile.fingerprint` of the graph file.
    shape : tuple of int
        Configurations and configurable nodes.
    rows, owner : int8 (rows, 18), int64 (rows,)
        Distinct rows of all nodes, in order of appearance, and the node of each.
    first, order : int64 (nodes + 1,), int32 (rows,)
        The rows of node ``i`` are ``order[first[i]:first[i + 1]]``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = NpzFile(path)
            self._codes = file.map("codes")
            self.shape: tuple[int, int] = self._codes.shape
            self.rows, self.owner = file.read("rows"), file.read("owner").astype(np.int64)
            self.fingerprint = f"{int(file.read('source')):016x}"
            low, high = LAYOUT_RANGE
            if not (
                self._codes.dtype.kind == "u"
                and self.rows.dtype == np.int8
                and self.rows.shape == (len(self.owner), N_LAYOUT)
                and ((self.rows >= low) & (self.rows <= high)).all()
                and ((self.owner >= 0) & (self.owner < self.shape[1])).all()
            ):
                raise ValueError("invalid arrays")
            self._counts = np.bincount(self.owner, minlength=self.shape[1])
        except (DataError, LookupError, TypeError, ValueError) as fault:
            raise self._error(f"not a complete repacked copy ({fault})") from fault
        self.order = np.argsort(self.owner, kind="stable").astype(np.int32)
        self.first = np.concatenate(([0], np.cumsum(self._counts)))
        self._table = self.rows[self.order]

    def codes(self, rows: slice | NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
        """Index of each node's row among the rows of that node: uint8, uint16 or uint32 (b, nodes).

        ``rows`` is a slice or int64 (b,).  A code out of range is a DataError.
        """
        found = np.array(self._codes[rows])
        if (found >= self._counts).any():
            raise self._error("a code out of range")
        return found

    def configs(self, rows: slice | NDArray[np.int64]) -> NDArray[np.int8]:
        """Some configurations, int8 (b, nodes, 18); ``rows`` as in :meth:`codes`."""
        return np.take(self._table, self.codes(rows) + self.first[:-1], axis=0)

    def _error(self, what: str) -> DataError:
        return DataError(
            f"{self.path}: {what}; delete it, or write it again with `python -m gbr.features build --repack`"
        )


def find_repacked(path: Path, fingerprint: str) -> Repacked | None:
    """Open the repacked copy of a graph file, or return None if it is missing or outdated."""
    copy = path.with_suffix(REPACKED_SUFFIX)
    if not copy.exists():
        return None
    repacked = Repacked(copy)
    return repacked if repacked.fingerprint == fingerprint else None
