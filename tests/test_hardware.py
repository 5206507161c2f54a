"""Hardware profiles: files, this machine, the choice for a collection, and their use in stores and models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.hardware import CPU, TPU, Cache, Gpu, Hardware
from gbr import Ranker, read_graph
from gbr import features as features_command
from gbr import train as train_command
from gbr.data import hardware, pool
from gbr.data.build import build, extract, schema_of
from gbr.data.collection import Subset, resolve
from gbr.data.hardware import machine
from gbr.data.store import FeatureStore
from gbr.errors import DataError, ModelError, UsageError
from gbr.evaluate import evaluate
from tests.made import write_collection

DATA = Path(__file__).parents[1] / "data"
XEON = Hardware("Intel Xeon, AVX-512", 64, 64, (Cache(48 << 10, 12), Cache(2 << 20, 16), Cache(32 << 20, 16)))
SMALL = """name = "small"
vector_bytes = 16
line_bytes = 32

[[caches]]
bytes = 4096
ways = 2
"""
GPU = """device = "NVIDIA A100"

[config]
output_bounds = ["block_m", "block_n"]
input_bounds = ["num_stages", "", "num_warps"]
"""


def of_device(name: str) -> Hardware:
    return hardware.choose(name, Subset("tile:any"), "nowhere")


def sysfs(root: Path, levels: list[dict[str, str]], cpuinfo: str) -> Path:
    for number, files in enumerate(levels):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{number}"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    return root


def level(number: int, kind: str, size: str, ways: str = "8") -> dict[str, str]:
    return {
        "level": str(number), "type": kind, "size": size, "ways_of_associativity": ways, "coherency_line_size": "64"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", 0, 64, (Cache(1024, 2),)), "sizes must be positive"),
        (("x", 32, 64, (Cache(256, 8),)), "must hold a line of 64 bytes per way"),
    ],
)
def test_contradictory_profiles_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hardware(*arguments)  # type: ignore[arg-type]


def test_register_tiles() -> None:
    assert [TPU.register_tile(width) for width in (8, 4, 2, 1)] == [(8, 128), (8, 128), (16, 128), (32, 128)]
    assert [XEON.register_tile(width) for width in (8, 4, 2)] == [(1, 8), (1, 16), (1, 32)]


NAMED = replace(XEON, config=(("output_bounds", ("block_m", "")), ("kernel_bounds", ("unroll",))))
DEVICES = tuple(map(of_device, ("a100", "RTX 4090", "MI300X", "H200", "TPU v4")))


@pytest.mark.parametrize("profile", [CPU, TPU, XEON, NAMED, *DEVICES, Hardware('a "b" \\', 32, 64, (Cache(1000, 3),))])
def test_profiles_round_trip(profile: Hardware, tmp_path: Path) -> None:
    hardware.save(tmp_path / "a" / "hardware.toml", profile)
    assert hardware.load(tmp_path / "a" / "hardware.toml") == profile
    assert hardware.parse(json.loads(json.dumps(hardware.as_dict(profile))), "x", ModelError) == profile


INVALID_SMALL = [
    ('name = "small"\n', "", r"name is missing in a hardware profile; expected name, vector_bytes, "),
    ("vector_bytes = 16", "vector_bytes = 17", r"a vector of 17 bytes does not hold 1 rows"),
    ("line_bytes = 32", 'line_bytes = "64 kB"', r"line_bytes: expected .* like \"48 KiB\", got '64 kB'$"),
    ("line_bytes = 32", "lines = 32\nline_bytes = 32", r"unknown key lines in a hardware profile; expected name, "),
    ("line_bytes = 32", 'tile_bounds = "x"\nline_bytes = 32', r"tile_bounds must be one of elements, registers"),
    ("ways = 2", "ways = 1.5", r"caches\[0\].ways: expected an integer from 0 to 1048576, got 1.5$"),
    ("[[caches]]\nbytes = 4096\nways = 2", "caches = []", r"caches: expected one to 3 \[\[caches\]\], got \[\]$"),
    ("line_bytes = 32", "line_bytes = ", r"not TOML \(.*\); fix this line$"),
    ("line_bytes = 32", f"line_bytes = {'9' * 5000}", "not TOML"),
    ("line_bytes = 32", f"line_bytes = {'[' * 5000}", "not TOML"),
    ("line_bytes = 32", f"line_bytes = 0x{'f' * 5000}", "limit"),
    ("line_bytes = 32", 'line_bytes = 32\n"a\\u001B[2J" = 1', r"unknown key a\\x1b\[2J"),
]
INVALID_GPU = [
    ("A100", "A1000", r"unknown device 'NVIDIA A1000'; did you mean NVIDIA A100"),
    ('"NVIDIA A100"', "7", r"device: expected a name, got 7$"),
    ("[config]", "units = 0\n[config]", r"units: expected positive numbers, got 0$"),
    ("[config]", "units = 1.5\n[config]", r"units: expected an integer, got 1.5$"),
    ("[config]", "sms = 7\n[config]", r"unknown key sms in the profile of a GPU; expected name, kind, config"),
    ("[config]", "rates = { fp12 = 1 }\n[config]", r"rates: expected TFLOP/s by type \(fp64, .*\), got "),
    ("[config]", "shared_block_kb = 200\n[config]", r"shared_block_kb: 200 exceeds shared_kb, 164$"),
    ("output_bounds", "output", r"config: unknown key output; expected kernel_bounds, output_bounds"),
    ('"block_n"]', '"block_n", "c", "d", "e", "f", "g"]', r"output_bounds: expected at most 6 names, got 7$"),
    ('"block_n"]', '"block_m"]', r"config.output_bounds: 'block_m' names two slots$"),
    ('"block_n"]', '"block n"]', r"config.output_bounds: expected names such as block_m, got 'block n'$"),
    ('"block_n"]', '"input_bounds_0"]', r"config.output_bounds: expected names such as block_m, got 'input_bo"),
    ('"block_n"]', "3]", r"config.output_bounds: expected a list of names, got \['block_m', 3\]$"),
    ('device = "NVIDIA A100"', 'kind = "fpga"', r"kind: expected 'gpu', or no kind for a machine with caches"),
    ('device = "NVIDIA A100"', 'kind = "gpu"\nname = "x"', r"units is missing in the profile of a GPU; expected "),
]


@pytest.mark.parametrize(
    ("valid", "before", "after", "message"),
    [(valid, *each) for valid, cases in ((SMALL, INVALID_SMALL), (GPU, INVALID_GPU)) for each in cases],
)
def test_invalid_files_are_refused(valid: str, before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in valid
    path = tmp_path / "mine.toml"
    path.write_text(valid.replace(before, after))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: .*{message}"):
        hardware.load(path)


def test_devices_are_profiles_of_their_kind(tmp_path: Path) -> None:
    gpu = of_device("a100").gpu
    assert gpu is not None
    assert (gpu.units, gpu.threads, gpu.shared_kb, dict(gpu.rates)["fp16"]) == (108, 2048, 164, 312)
    assert (of_device("a100").register_tile(2), of_device("TPU v4").tile_bounds) == ((1, 64), "registers")
    path = tmp_path / "npz/tile/mine/hardware.toml"
    path.parent.mkdir(parents=True)
    path.write_text(GPU.replace("[config]", 'name = "half of it"\nunits = 54\n[config]'))
    found = hardware.choose(None, Subset("tile:mine"), tmp_path)
    assert found == Hardware.of_gpu("half of it", replace(gpu, units=54), found.config)
    assert found.config == (
        ("output_bounds", ("block_m", "block_n")),
        ("input_bounds", ("num_stages", "", "num_warps")),
    )
    # Names of slots are those of the collection, whatever the machine.
    for name in ("MI300X", "cpu"):
        assert hardware.choose(name, Subset("tile:mine"), tmp_path).config == found.config


def test_files_of_the_page_are_profiles(tmp_path: Path) -> None:
    text = (DATA.parent / "docs/hardware.md").read_text(encoding="utf-8")
    cpu, half, gpu, slots = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = []
    for content in (cpu, half, gpu, f"{half}\n{slots}"):
        (tmp_path / "a.toml").write_text(content, encoding="utf-8")
        found.append(hardware.load(tmp_path / "a.toml"))
    assert [each.name for each in found] == ["a server", "half an A100", "an imaginary GPU", "half an A100"]
    own = found[2].gpu
    assert own is not None
    assert replace(own, l2_mb=4) == Gpu(80, 1600, 1800, 128, own.rates)  # others are the defaults
    assert dict(own.rates)["fp32"] == pytest.approx(own.units * own.lanes * 2 * own.clock_mhz / 1e6, rel=0.01)
    assert found[3].config == (
        ("output_bounds", ("block_m", "block_n")),
        ("kernel_bounds", ("block_k", "block_n")),
        ("input_bounds", ("num_stages", "num_warps", "allow_tf32")),
    )


def test_missing_files_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml: cannot be read \(No such file"):
        hardware.choose(str(tmp_path / "none.toml"), Subset("tile:cpu"), tmp_path)
    with pytest.raises(UsageError, match=r"--hardware x: expected .* or a file that ends in \.toml$"):
        hardware.choose("x", Subset("tile:cpu"), tmp_path)
    with pytest.raises(ModelError, match=r"manifest: expected a hardware profile with name, .*, got None"):
        hardware.parse(None, "manifest", ModelError)


def test_the_nearest_file_is_used_before_the_source(tmp_path: Path) -> None:
    def chosen(name: str, given: str | None = None) -> str:
        return hardware.choose(given, Subset(name), tmp_path).name

    assert [chosen(name) for name in ("tile:xla", "layout:nlp:random", "tile:cpu", "layout:mine:random")] == [
        "tpu", "tpu", "cpu", "cpu"
    ]  # fmt: skip
    for folder in ("outside", "npz", "npz/layout/xla", "npz/layout/xla/random"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "hardware.toml").write_text(SMALL.replace("small", folder))
    (tmp_path / "hardware.toml").write_text("above the collections: not looked at")
    assert chosen("layout:xla:random") == "npz/layout/xla/random"
    assert chosen("layout:xla:default") == "npz/layout/xla"
    assert chosen("tile:xla") == "npz"
    assert chosen("tile:xla", "cpu") == "cpu"
    assert chosen("tile:xla", str(tmp_path / "outside" / "hardware.toml")) == "outside"
    (tmp_path / "npz/hardware.toml").unlink()
    assert chosen("tile:xla") == "tpu"


def test_the_committed_collections_have_the_profile_of_their_machine() -> None:
    for name in ("tile:cpu", "layout:cpu:random"):
        assert hardware.choose(None, Subset(name), DATA) == XEON


def test_the_machine_is_read_from_complete_and_incomplete_sysfs(tmp_path: Path) -> None:
    root = sysfs(
        tmp_path / "whole",
        [level(1, "Data", "48K", "12"), level(1, "Instruction", "64K"), level(2, "Unified", "2048K", "16"),
         level(3, "Unified", "32M", "16"), level(4, "Unified", "1G", "16")],
        "processor\t: 0\nmodel name\t: A  fast\tone\nflags\t\t: fpu sse2 avx avx2 avx512f\n",
    )  # fmt: skip
    assert machine(root) == Hardware("A fast one", 64, 64, XEON.caches)
    partial = level(2, "Unified", "512K")
    del partial["ways_of_associativity"]
    root = sysfs(tmp_path / "a", [level(1, "Data", "32K"), partial, {"level": "3"}], "flags : fpu avx\n")
    assert machine(root) == Hardware("machine", 32, 64, (Cache(32 << 10, 8), Cache(512 << 10, 0)))
    arm = sysfs(tmp_path / "b", [level(1, "Data", "64K", "4")], "Features : fp asimd\n")
    assert machine(arm) == Hardware("machine", 16, 64, (Cache(64 << 10, 4),))
    part = "CPU implementer : 0x41\nCPU part : 0xd40\n"
    sve = sysfs(tmp_path / "sve", [level(1, "Data", "64K", "4")], f"Features : fp asimd sve sve2\n{part}")
    (sve / "proc/sys/abi").mkdir(parents=True)
    (sve / "proc/sys/abi/sve_default_vector_length").write_text("32\n")
    assert machine(sve) == Hardware("Arm implementer 0x41 part 0xd40", 32, 64, (Cache(64 << 10, 4),))
    assert machine(tmp_path / "nowhere") is None
    assert machine(sysfs(tmp_path / "c", [level(1, "Instruction", "32K")], "")) is None
    assert machine(sysfs(tmp_path / "d", [level(1, "Data", "1K", "99")], "")) is None


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/pod/job\n", {"pod/cpu.max": "250000 100000", "pod/job/cpu.max": "max 100000"}, (3, 8 << 30)),
        ("0::/pod/job\n", {"pod/memory.max": "4096000", "pod/job/memory.max": "max"}, (64, 4096000)),
        ("0::/host/only\n", {"cpu.max": "50000 100000", "memory.high": "4096000"}, (1, 4096000)),
        ("4:cpuacct,cpu:/a\n3:memory:/a/b\n0::/\n",
         {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "-1",
          "cpu/cpu.cfs_period_us": "100000", "memory/a/memory.limit_in_bytes": "8192000"}, (4, 8192000)),
        ("", {}, (64, 8 << 30)),
    ],
)  # fmt: skip
def test_cores_and_memory_are_those_of_nested_containers(
    groups: str, files: dict[str, str], expected: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(
        "os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 << 20}[name], raising=False
    )
    assert (pool.cores(tmp_path), pool.memory(tmp_path)) == expected


def test_an_unknown_machine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "machine", lambda: None)
    with pytest.raises(UsageError, match="--hardware machine: this system does not report its caches; use cpu or tpu"):
        hardware.choose("machine", Subset("tile:cpu"), tmp_path)
    note = hardware.note_machine(tmp_path / "npz/tile/cpu", tmp_path / "npz")
    assert note is not None
    assert re.match(r"this system does not report its caches: without .*hardware\.toml, features use", note)
    assert not list(tmp_path.rglob("*.toml"))
    monkeypatch.setattr(hardware, "machine", lambda: XEON)
    assert hardware.choose("machine", Subset("tile:cpu"), tmp_path) == XEON


def test_the_profile_of_this_machine_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "machine", lambda: XEON)
    collection = Path("npz/layout/cpu/random")
    hardware.note_machine(tmp_path / collection, tmp_path / "npz")
    path = tmp_path / collection / "hardware.toml"
    assert hardware.load(path) == XEON
    monkeypatch.setattr(hardware, "machine", lambda: CPU)
    hardware.note_machine(tmp_path / collection, tmp_path / "npz")
    assert hardware.load(path) == XEON
    path.rename(tmp_path / "npz/hardware.toml")
    hardware.note_machine(tmp_path / collection, tmp_path / "npz")
    assert not path.exists()


def test_a_store_for_other_hardware_is_stale(tmp_path: Path) -> None:
    subset = Subset("tile:cpu")
    write_collection(tmp_path, {"train": 2, "valid": 1})

    def built(profile: Hardware | None = None, **given: object) -> tuple[int, int, str]:
        report = build(subset, tmp_path, tmp_path / "store", jobs=1, hardware=profile, **given)  # type: ignore[arg-type]
        return report.built, report.kept, report.hardware

    def matrix() -> np.ndarray:
        return FeatureStore(tmp_path / "store", "tile:cpu").load("train").X

    assert built() == (3, 0, "cpu")
    generic = matrix()
    assert built() == built(CPU) == (0, 3, "cpu")
    hardware.save(tmp_path / "npz/tile/cpu/hardware.toml", XEON)
    assert built() == (3, 0, XEON.name)
    manifest = json.loads((tmp_path / "store/tile/cpu/manifest.json").read_text())
    assert hardware.parse(manifest["schema"]["hardware"], "manifest", DataError) == XEON
    paths = sorted((tmp_path / "npz/tile/cpu/train").iterdir())
    np.testing.assert_array_equal(matrix(), np.concatenate([extract(read_graph(path), XEON)[1] for path in paths]))
    names = np.array(schema_of("tile").names)
    blocks = {name.split(".")[0] for name in names[(matrix() != generic).any(axis=0)]}
    assert blocks == {"cache"}
    assert built(CPU, splits=("train",)) == (2, 0, "cpu")
    assert FeatureStore(tmp_path / "store", "tile:cpu").entries("valid") == {}
    np.testing.assert_array_equal(matrix(), generic)


def test_a_model_keeps_the_profile_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_collection(tmp_path, {"train": 4, "valid": 1})
    (tmp_path / "mine.toml").write_text(SMALL)
    where = [*map(str, ["--subset", "tile:cpu", "--data", tmp_path, "--store", tmp_path / "store", "--jobs", 1])]
    assert features_command.main(["build", *where, "--hardware", str(tmp_path / "mine.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hardware"] == "small"
    assert features_command.main(["info", *where[:-2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hardware"]["vector_bytes"] == 16
    line = [*where, "--out", str(tmp_path / "run"), "--backend", "lightgbm", "--columns", "cache"]
    assert train_command.main([*line, "--hardware", str(tmp_path / "mine.toml"), "--set", "n_estimators=5"]) == 0
    assert train_command.main([*line, "--hardware", "gpu"]) == 2
    assert "--hardware gpu: expected cpu, tpu" in capsys.readouterr().err
    ranker = Ranker.load(tmp_path / "run")
    assert ranker.trained_on_ is not None
    assert ranker.trained_on_["hardware"] == {
        "name": "small", "vector_bytes": 16, "line_bytes": 32, "sublanes": 1, "tile_bounds": "elements",
        "caches": [{"bytes": 4096, "ways": 2}],
    }  # fmt: skip
    path = next((tmp_path / "npz/tile/cpu/valid").iterdir())
    schema, X, _ = extract(read_graph(path), Hardware("small", 16, 32, (Cache(4096, 2),)))
    used = [schema.names.index(name) for name in ranker.feature_names_in_]
    np.testing.assert_array_equal(scores := ranker.predict_graph(path), ranker.predict(X[:, used]))
    assert (ranker.predict(extract(read_graph(path))[1][:, used]) != scores).any()
    evaluate(tmp_path / "run", resolve("tile:cpu", tmp_path), "valid", tmp_path, tmp_path / "store", jobs=1)
    assert FeatureStore(tmp_path / "store", "tile:cpu").manifest["schema"]["hardware"]["name"] == "small"
    ranker.trained_on_["hardware"]["vector_bytes"] = "wide"
    with pytest.raises(ModelError, match=r"trained_on\.hardware: vector_bytes: expected bytes.*, got 'wide'"):
        ranker.rank(path)
