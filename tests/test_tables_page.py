"""The page docs/tables.md: its commands and Python code run, one after the other, on caches made up here."""

from __future__ import annotations

import itertools
import re
import shlex
import stat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gbr.__main__ import main
from gbr.data.table import read_table
from gbr.data.table_roles import read_roles
from tests.tables import made_caches

PAGE = Path(__file__).parents[1] / "docs/tables.md"
DEVICES = ("NVIDIA A100-PCIE-40GB", "NVIDIA RTX A4000", "NVIDIA RTX A6000", "AMD Radeon PRO W6600")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page names; five of the candidates were measured."""
    monkeypatch.chdir(tmp_path)
    made_caches(tmp_path / "caches", DEVICES)
    rng = np.random.default_rng(0)
    rows = list(itertools.product((16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 4), (0, 1)))
    same = {"kernel": "convolution_kernel", "device": "NVIDIA H100", "problem_x": 4096, "problem_y": 4096}
    names = ["block_size_x", "block_size_y", "tile_size_x", "use_shmem"]
    candidates = pl.DataFrame(rows, names, orient="row").with_columns(
        pl.lit(value).alias(key) for key, value in same.items()
    )
    time = [str(64 / x + x / 64 + 4 / tile) if at % 19 == 0 else "" for at, (x, _, tile, _) in enumerate(rows)]
    candidates.with_columns(time=pl.Series(time)).write_csv("candidates.csv")
    bench = tmp_path / "bench"
    bench.write_text('#!/bin/sh\necho "$2"."$4"\n')
    bench.chmod(bench.stat().st_mode | stat.S_IXUSR)
    wide = [f"gemm,{n},{block},{unroll},{block / 9 + unroll},{block / 5 - unroll}"
            for n in (64, 128) for block in (16, 32, 64) for unroll in (1, 2)]  # fmt: skip
    Path("wide.csv").write_text("\n".join(["kernel,n,block,unroll,a100_ms,h100_ms", *wide]))
    latencies = {name: rng.lognormal(1, 1, 20) for name in ("v100_1", "v100_32", "raspi4")}
    networks = [f"|{a}~0|+|{b}~0|{c}~1|" for a, b, c in itertools.product(("skip", "conv", "pool"), repeat=3)][:20]
    pl.DataFrame({"architecture": networks, **latencies}).write_parquet("nasbench201.parquet")
    systems = [f"{model},{scenario},Tokens/s,{device},{count},1,EPYC,{rng.lognormal(5)}"
               for model in ("llama", "mixtral") for scenario in ("Server", "Offline")
               for device in ("H100", "H200-NVL", "L40S") for count in (4, 8)]  # fmt: skip
    head = "Model MLC,Scenario,Units,Accelerator,# of Accelerators,# of Nodes,Processor,Avg. Result at System Name"
    Path("mlperf.csv").write_text("\n".join([head, *systems]))
    return tmp_path


def test_blocks_of_the_page_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8").replace("--budget 40", "--budget 8").replace("range(39)", "range(7)")
    calls: list[dict[str, Any]] = []

    def measure(**config: Any) -> float:
        calls.append(config)
        return config["block_size_x"] + config["block_size_y"] / 10

    shared: dict[str, Any] = {"measure": measure}
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                python, option, module, *arguments = shlex.split(line)
                assert (python, option) == ("python", "-m")
                if arguments[:1] == ["import"] and "*" in arguments[1]:
                    arguments[1:2] = map(str, sorted(Path().glob(arguments[1])))
                assert main([module.removeprefix("gbr."), *arguments]) == 0, capsys.readouterr().err
        elif "kernel_tuner" not in block and ("import optuna" not in block or pytest.importorskip("optuna")):
            exec(compile(block, str(PAGE), "exec"), shared)
    assert len(calls) == 8
    assert calls[0] == {"block_size_x": 16, "block_size_y": 1, "tile_size_x": 1, "use_shmem": 0}
    splits = {group.name.split("-")[1]: group.split for group in read_table("data/table/convolution").groups}
    assert splits == {
        "NVIDIA_A100": "test",
        "NVIDIA_RTX_A4000": "valid",
        "NVIDIA_RTX_A6000": "train",
        "AMD_Radeon_PRO_W6600": "train",
    }
    wide, networks = read_table("data/table/wide").roles, read_table("data/table/nas").roles
    assert (wide.config, wide.unit, set(wide.group)) == (("block", "unroll"), "ms", {"kernel", "n", "device"})
    assert (networks.group, networks.config) == (("device", "batch"), ("architecture",))
    (toml,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (files / "table.toml").write_text(toml)
    assert read_roles(files / "table.toml").test == {"device": ("A100",)}
