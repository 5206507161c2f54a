"""TuningData and ModuleTuningData of TpuGraphs: a module with its measured configurations.

Field numbers are those of ``proto/tuning.proto`` (google-research-datasets/tpu_graphs, Apache-2.0) and of
xla.ExecutionProfile; the layout of a row is that of ``FeaturizeTileSizeConfig`` and ``FeaturizeLayoutConfig`` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.hlo import LAYOUT_CONFIG, MAX_RANK, TILE_CONFIG
from gbr.data.hlo.encode import Arrays, encode, padded, totalled
from gbr.data.hlo.module import MODULE, Module, check
from gbr.data.hlo.wire import BOOL, HINT, INT, INTS, MANY, ONE, UINT, Field, Message
from gbr.errors import HloError

_TENSORS: Final = len(LAYOUT_CONFIG) // MAX_RANK


@dataclass(frozen=True, eq=False)
class Tuning:
    """A module and its runs, one row per run, failed ones included.

    Parameters
    ----------
    module : Module
        The program; for tile sizes one kernel.
    fingerprint : int
        Hash that TpuGraphs gave it; 0 when there is none.
    kind : str
        "tile" or "layout".
    config : float32 (r, 24) or int8 (r, nc, 18)
        Columns of :data:`features.hlo.TILE_CONFIG`, or of :data:`features.hlo.LAYOUT_CONFIG` per configurable node.
    runtime : int64 (r,)
        Nanoseconds; 0 where nothing was measured.
    failed, is_default : bool (r,)
        Runs that ended in an error, and the configuration that the compiler itself would take.
    node_config_ids : int64 (nc,)
        Configurable nodes, in the order of ``config``'s second axis; empty for tile sizes.
    """

    module: Module
    fingerprint: int
    kind: str
    config: NDArray[Any]
    runtime: NDArray[np.int64]
    failed: NDArray[np.bool_]
    is_default: NDArray[np.bool_]
    node_config_ids: NDArray[np.int64]

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Runs that TpuGraphs keeps, bool (r,): no error and a runtime (above 1 ns for tile sizes)."""
        return ~self.failed & (self.runtime > (1 if self.kind == "tile" else 0))

    @property
    def normalizer(self) -> int:
        """Runtime of the first measured default run in nanoseconds; 0 when there is none."""
        chosen = np.flatnonzero(self.measured & self.is_default)
        return int(self.runtime[chosen[0]]) if len(chosen) else 0

    def arrays(self) -> Arrays:
        """Everything that TpuGraphs' .npz of this module holds, measured runs only, under its keys and dtypes.

        Raises
        ------
        HloError
            Where a tile kernel has no measured default run to normalise by.
        """
        graph, kept = encode(self.module), self.measured
        if self.kind == "layout":
            return {
                **graph,
                "node_config_ids": self.node_config_ids,
                "node_config_feat": self.config[kept].astype(np.float32),
                "config_runtime": self.runtime[kept],
            }
        if not self.normalizer:
            raise HloError(
                f"HLO module {self.module.name!r}: no measured default run, so no config_runtime_normalizers"
            )
        return {
            "node_opcode": graph["node_opcode"],
            "node_feat": graph["node_feat"],
            "edge_index": graph["edge_index"],
            "config_feat": self.config[kept],
            "config_runtime": self.runtime[kept],
            "config_runtime_normalizers": np.full(int(kept.sum()), self.normalizer, np.int64),
        }


@dataclass(frozen=True, slots=True)
class _TileSizes:
    kernel: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    input: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _OpConfig:
    tile: _TileSizes | None = None


@dataclass(frozen=True, slots=True)
class _TensorLayout:
    dims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _NodeLayout:
    tensors: tuple[_TensorLayout, ...] = ()


@dataclass(frozen=True, slots=True)
class _LayoutConfig:
    nodes: tuple[_NodeLayout, ...] = ()


@dataclass(frozen=True, slots=True)
class _ModuleConfig:
    layout: _LayoutConfig | None = None


@dataclass(frozen=True, slots=True)
class _Profile:
    compute_time_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Run:
    op_config: _OpConfig = _OpConfig()
    module_config: _ModuleConfig = _ModuleConfig()
    error: bool = False
    profile: _Profile = _Profile()
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class _ModuleTuning:
    module: Module | None = None
    fingerprint: int = 0
    runs: tuple[_Run, ...] = ()
    config_index_to_node: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Collection:
    modules: tuple[_ModuleTuning, ...] = ()


_TILE: Final = Message(
    "TileSizeConfig", _TileSizes, {1: Field("kernel", INTS), 2: Field("output", INTS), 3: Field("input", INTS)}
)
_NODE: Final = Message(
    "NodeLayoutConfig",
    _NodeLayout,
    {1: Field("tensors", MANY, Message("TensorLayoutConfig", _TensorLayout, {1: Field("dims", INTS)}))},
)
_RUN: Final = Message(
    "ConfigProfile",
    _Run,
    {
        1: Field("op_config", ONE, Message("HloOpConfig", _OpConfig, {1: Field("tile", ONE, _TILE)})),
        2: Field(
            "module_config",
            ONE,
            Message(
                "HloModuleConfig",
                _ModuleConfig,
                {1: Field("layout", ONE, Message("LayoutConfig", _LayoutConfig, {1: Field("nodes", MANY, _NODE)}))},
            ),
        ),
        3: Field("error", BOOL),
        4: Field("profile", ONE, Message("ExecutionProfile", _Profile, {4: Field("compute_time_ns", INT)})),
        5: Field("is_default", BOOL),
    },
)
_MODULE_TUNING: Final = Message(
    "ModuleTuningData",
    _ModuleTuning,
    {
        1: Field("module", ONE, MODULE),
        2: Field("fingerprint", UINT),
        3: Field("runs", MANY, _RUN),
        4: Field("config_index_to_node", INTS),
    },
)
_COLLECTION: Final = Message("TuningData", _Collection, {1: Field("modules", MANY, _MODULE_TUNING)})


def decode_tuning(data: bytes, kind: str) -> tuple[Tuning, ...]:
    """Decode ``data``, a message of the given ``kind``: "TuningData" or "ModuleTuningData".

    Raises
    ------
    HloError
        For a module that :func:`gbr.data.hlo.module.check` refuses, runs without or with mixed configurations, and layouts
        that do not fit the configurable nodes.
    """
    records = _COLLECTION.decode(data).modules if kind == "TuningData" else (_MODULE_TUNING.decode(data),)
    return tuple(_tuning(record) for record in records)


def _tuning(record: _ModuleTuning) -> Tuning:
    if record.module is None:
        raise HloError(f"ModuleTuningData without a module; {HINT}")
    module = check(record.module)
    where = f"HLO module {module.name!r}"
    kinds = {_kind(run) for run in record.runs}
    if len(kinds) != 1 or "" in kinds:
        found = ", ".join(sorted(kind or "none" for kind in kinds)) or "no run"
        raise HloError(f"{where}: wanted runs that all have tile sizes or all have layouts, got {found}")
    kind = kinds.pop()
    nodes = np.array(record.config_index_to_node, np.int64)
    runtime = np.array([run.profile.compute_time_ns for run in record.runs], np.int64)
    if runtime.min() < 0:
        raise HloError(f"{where}: run {int(runtime.argmin())} took {runtime.min()} ns; {HINT}")
    return Tuning(
        module=module,
        fingerprint=record.fingerprint,
        kind=kind,
        config=_tile_rows(record.runs) if kind == "tile" else _layout_rows(record.runs, nodes, len(module), where),
        runtime=runtime,
        failed=np.array([run.error for run in record.runs]),
        is_default=np.array([run.is_default for run in record.runs]),
        node_config_ids=nodes,
    )


def _kind(run: _Run) -> str:
    if run.op_config.tile is not None:
        return "tile"
    return "layout" if run.module_config.layout is not None else ""


def _tile_rows(runs: tuple[_Run, ...]) -> NDArray[np.float32]:
    sizes = [run.op_config.tile or _TileSizes() for run in runs]
    blocks = []
    for bounds in ([each.kernel for each in sizes], [each.output for each in sizes], [each.input for each in sizes]):
        block = totalled(bounds, MAX_RANK)
        # Unlike node_feat, a tile configuration has 0 as the product of no bounds.
        block[[not row for row in bounds], -1] = 0
        blocks.append(block)
    rows = np.concatenate(blocks, axis=1).astype(np.float32)
    assert rows.shape[1] == len(TILE_CONFIG)
    return rows


def _layout_rows(runs: tuple[_Run, ...], nodes: NDArray[np.int64], n_nodes: int, where: str) -> NDArray[np.int8]:
    if len(nodes) and (nodes.min() < 0 or nodes.max() >= n_nodes):
        raise HloError(f"{where}: configurable nodes {nodes.min()}..{nodes.max()}, the graph has {n_nodes}; {HINT}")
    rows: list[tuple[int, ...]] = []
    for number, run in enumerate(runs):
        layouts = run.module_config.layout.nodes if run.module_config.layout else ()
        if len(layouts) != len(nodes):
            raise HloError(
                f"{where}, run {number}: layouts of {len(layouts)} nodes, configurable are {len(nodes)}; {HINT}"
            )
        for layout in layouts:
            if len(layout.tensors) > _TENSORS:
                raise HloError(f"{where}, run {number}: {len(layout.tensors)} layouts for one node, at most {_TENSORS}")
            rows += [tensor.dims for tensor in layout.tensors] + [()] * (_TENSORS - len(layout.tensors))
    values = padded(rows, MAX_RANK, fill=-1)
    limit = np.iinfo(np.int8).max
    if values.size and (values.min() < -1 or values.max() > limit):
        raise HloError(f"{where}: a layout names dimensions {values.min()}..{values.max()}, wanted -1..{limit}; {HINT}")
    return values.astype(np.int8).reshape(len(runs), len(nodes), len(LAYOUT_CONFIG))
