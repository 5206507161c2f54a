"""The collector of Triton kernels with a fake timer; the kernels themselves need a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gbr
from features.tile.names import named_slots
from gbr import read_graph
from gbr.collect import __main__ as command
from gbr.collect import triton
from gbr.collect.tasks import Settings
from gbr.data.graph import write_graph
from gbr.data.hardware import load
from gbr.errors import CollectError, UsageError

GRAPHS = ("matmul_bert_128x768x768-f16", "softmax_t5_4096x640-f16", "attention_llama_32x512x128-f16")


class Gpu:
    """A GPU whose kernels take as many nanoseconds as their parameters say, and hold blocks of 64 rows at most."""

    def __init__(self) -> None:
        self.now = 0

    def clock(self) -> int:
        return self.now

    def prepare(
        self, group: str, sizes: tuple[int, ...], dtype: str, seed: int
    ) -> Callable[[triton.Config], Callable[[], object]]:
        del group, sizes, dtype, seed

        def checked(config: triton.Config) -> Callable[[], object]:
            if config["block_m"] > 64:
                raise RuntimeError("out of resource: shared memory")

            def run() -> None:
                self.now += 1000 * sum(config.values())

            return run

        return checked


def split(stem: str) -> tuple[triton.Family, str]:
    name, _, variant = stem.rpartition("_")
    return triton.FAMILIES[name], variant


@pytest.mark.parametrize("stem", GRAPHS)
def test_graphs_are_written_with_named_slots(stem: str, tmp_path: Path) -> None:
    gpu, (family, variant) = Gpu(), split(stem)
    arrays = triton.measure_variant(family.name, variant, Settings(24, 3), gpu.prepare, gpu.clock)
    folder = tmp_path / "npz" / "tile" / triton.folder_of("NVIDIA A100-SXM4-40GB")
    assert triton.note_device(folder, "NVIDIA A100-SXM4-40GB") is None
    path = folder / family.split / f"{stem}.npz"
    write_graph(path, arrays)
    graph, hardware = read_graph(path), load(folder / "hardware.toml")
    assert graph.runtime is not None
    assert (folder.name, hardware.name) == ("nvidia-a100-sxm4-40gb", "NVIDIA A100-SXM4-40GB")
    slots, configs = named_slots(hardware.config), graph.configs(np.arange(graph.n_configs))
    values = {name: slots.parameter(name, configs) for names in triton.SLOTS.values() for name in names}
    if family.group == "attention":
        values["block_k"] /= triton.parsed(variant)[0][-1]
    assert (values["block_m"] <= 64).all()
    np.testing.assert_array_equal(graph.runtime, 1000 * sum(values.values()))
    np.testing.assert_array_equal(graph.repeat, graph.runtime)
    assert set(graph.normalizer) == {graph.runtime[0]}  # type: ignore[arg-type]
    scores = gbr.Ranker.physics().predict_graph(path)
    assert len(set(scores)) > 5


@pytest.mark.parametrize("wrong", [("matmul", "huh"), ("conv", "1"), ("softmax", "3x4x5-f16"), ("matmul", "0x4x5-f16")])
def test_kernels_that_are_not_known_are_refused(wrong: tuple[str, str]) -> None:
    assert triton.kernel_graph("softmax", "3x4-bf16").kind == "program"
    with pytest.raises(UsageError, match=r"kernel_graph: expected matmul, softmax, .* got '"):
        triton.kernel_graph(*wrong)


def test_configurations_are_distinct_and_start_with_the_default() -> None:
    for group, space in triton.SPACES.items():
        configs = triton.sample_configs(group, 60, seed=0)
        assert (len(configs), configs[0]) == (60, triton.DEFAULTS[group])
        assert len({tuple(config.values()) for config in configs}) == 60
        assert all(value in (*space[name], configs[0][name]) for each in configs for name, value in each.items())
    assert sum(len(family.stems) for family in triton.FAMILIES.values()) >= 120


def test_networks_are_in_one_split_and_shapes_measured_once() -> None:
    network = {family.name.rsplit("_", 1)[1]: family.split for family in triton.FAMILIES.values()}
    assert set(network.values()) == {"train", "valid", "test"}
    for family in triton.FAMILIES.values():
        assert network[family.name.rsplit("_", 1)[1]] == family.split
        assert len(set(family.stems)) == len(family.stems)


def test_a_kernel_of_which_nothing_runs_is_an_error() -> None:
    def prepare(*_about: object) -> Callable[[triton.Config], Callable[[], object]]:
        def checked(_config: triton.Config) -> Callable[[], object]:
            raise RuntimeError("no kernel image")

        return checked

    with pytest.raises(CollectError, match=r"expected two configurations that run, got 0 \(no kernel image\)"):
        triton.measure_variant("matmul_bert", "128x768x768-f16", Settings(5, 3), prepare)


def test_the_command_measures_on_the_gpu_that_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = Gpu()

    def measure(name: str, variant: str, settings: Settings) -> dict[str, np.ndarray]:
        return original(name, variant, settings, gpu.prepare, gpu.clock)

    original = triton.measure_variant
    monkeypatch.setattr(triton, "measure_variant", measure)
    monkeypatch.setattr(triton, "device_name", lambda: "Some GPU")
    argv = ["triton", "--out", str(tmp_path), "--configs", "12", "--rounds", "3", "--kernels", "softmax_bert"]
    assert command.main([*argv, "--split", "train"]) == 0
    shown = capsys.readouterr()
    assert "unknown device 'Some GPU'" in shown.err
    assert len(list((tmp_path / "npz/tile/some-gpu/train").glob("*.npz"))) == 12
    assert command.main(argv) == 0
    assert "12 of 12 files exist" in capsys.readouterr().err


def test_without_pytorch_or_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import torch
    except ImportError:
        expected = "needs PyTorch and Triton"
    else:
        if torch.cuda.is_available():
            pytest.skip("a GPU is present")
        expected = "no GPU"
    assert command.main(["triton"]) == 1
    assert expected in capsys.readouterr().err
