"""Reads TuningData and ModuleTuningData of TpuGraphs: HLO modules with their measured configurations.

Field numbers are those of ``proto/tuning.proto`` (google-research-datasets/tpu_graphs, Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.hlo import MAX_RANK
from gbr.data.hlo import Module, padded
from gbr.data.protobuf import decode, field


@dataclass(frozen=True)
class TileSizes:
    kernel: tuple[int, ...] = field(1)
    output: tuple[int, ...] = field(2)
    input: tuple[int, ...] = field(3)


@dataclass(frozen=True)
class OpConfig:
    tile: TileSizes = field(1)


@dataclass(frozen=True)
class Tensor:
    dims: tuple[int, ...] = field(1)


@dataclass(frozen=True)
class NodeLayout:
    tensors: tuple[Tensor, ...] = field(1)


@dataclass(frozen=True)
class LayoutConfig:
    nodes: tuple[NodeLayout, ...] = field(1)


@dataclass(frozen=True)
class ModuleConfig:
    layout: LayoutConfig = field(1)


@dataclass(frozen=True)
class Profile:
    compute_time_ns: int = field(4)


@dataclass(frozen=True)
class Run:
    op_config: OpConfig = field(1)
    module_config: ModuleConfig = field(2)
    error: bool = field(3)
    profile: Profile = field(4)


@dataclass(frozen=True)
class Tuning:
    """ModuleTuningData: a module and its runs, failed ones included."""

    module: Module = field(1)
    runs: tuple[Run, ...] = field(3)
    node_config_ids: tuple[int, ...] = field(4)

    @property
    def kind(self) -> str:
        return "layout" if self.node_config_ids else "tile"

    @property
    def runtime(self) -> np.ndarray:
        return np.array([run.profile.compute_time_ns for run in self.runs], np.int64)

    @property
    def measured(self) -> np.ndarray:
        """Runs that TpuGraphs keeps: no error and a runtime (above 1 ns for tile sizes)."""
        failed = np.array([run.error for run in self.runs])
        return ~failed & (self.runtime > (self.kind == "tile"))

    @property
    def config(self) -> np.ndarray:
        """Float32 (runs, 24) for tile sizes, int8 (runs, nodes, 18) for layouts."""
        if self.kind == "tile":
            blocks: list[Any] = []
            for name in ("kernel", "output", "input"):
                bounds = [getattr(run.op_config.tile, name) for run in self.runs]
                block = padded(bounds, MAX_RANK, totals=True)
                block[[not row for row in bounds], -1] = 0  # unlike in node_feat
                blocks.append(block)
            return np.concatenate(blocks, axis=1).astype(np.float32)
        rows: list[tuple[int, ...]] = []
        for run in self.runs:
            for node in run.module_config.layout.nodes:
                rows += [tensor.dims for tensor in node.tensors] + [()] * (3 - len(node.tensors))
        return padded(rows, MAX_RANK, fill=-1).astype(np.int8).reshape(len(self.runs), len(self.node_config_ids), 18)


@dataclass(frozen=True)
class TuningData:
    modules: tuple[Tuning, ...] = field(1)


def read_tuning(data: bytes) -> tuple[Tuning, ...]:
    """The records of a TuningData."""
    return decode(TuningData, data).modules
