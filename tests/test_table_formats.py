"""Import of tables: results of tuners and data frames, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gbr.data.table import Table, read_table
from gbr.data.table_formats import FORMATS, import_files
from gbr.data.table_names import split_name
from gbr.errors import DataError, UsageError
from gbr.table import _FORMATS, import_table, main

Capture = pytest.CaptureFixture[str]


def cache(device: str | None = "NVIDIA A100-PCIE-40GB", **changes: Any) -> dict[str, Any]:
    """A cache of Kernel Tuner with four configurations, of which two failed."""
    entries: dict[str, Any] = {}
    for x, y, value in ((16, 1, 2.0), (32, 1, "CompilationFailedConfig"), (16, 2, 1.5), (32, 2, 1e20)):
        measured = isinstance(value, float) and value < 10
        entries[f"{x},{y}"] = {
            "block": x, "tile": y, "time": value, "times": [9.0, 2 * y, 2 * y] if measured else [],
            "compile_time": 3.5, "timestamp": "2023", **({"GFLOP/s": 10 / value} if measured else {}),
        }  # fmt: skip
    content = {
        "device_name": device, "kernel_name": "conv", "problem_size": [4096, 512],
        "tune_params_keys": ["block", "tile"],
        "tune_params": {"block": [16, 32], "tile": [1, 2]}, "objective": "time", "cache": entries,
    }  # fmt: skip
    return {key: value for key, value in (content | changes).items() if value is not None}


def written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, str | bytes) else json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def imported(out: Path, *arguments: Any) -> Table:
    assert main(["import", *map(str, arguments), "--out", str(out)]) == 0
    return read_table(out)


def refused(capsys: Capture, out: Path, *arguments: Any) -> str:
    """The error, one line, of an import that fails and leaves nothing."""
    assert main(["import", *map(str, arguments), "--out", str(out)]) in (1, 2)
    assert not out.exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    *notes, error = captured.err.splitlines()
    assert all(note.startswith("gbr: ") for note in notes)
    return error


def test_formats_of_the_command() -> None:
    assert _FORMATS == FORMATS


def test_kernel_tuner(tmp_path: Path, capsys: Capture) -> None:
    files = [
        written(tmp_path / "one.json", cache()),
        written(tmp_path / "two.json.gz", cache("AMD Radeon PRO W6600")),
        written(tmp_path / "conv__RTX_2080_Ti.json", cache(None, problem_size=4096)),
    ]
    table = imported(tmp_path / "table/conv", *files, "--test", "device=w6600", "--valid", "device=2080 Ti")
    assert [(each.name, each.split) for each in table.groups] == [
        ("conv-NVIDIA_A100-PCIE-40GB-4096-512", "train"), ("conv-RTX_2080_Ti-4096-None", "valid"),
        ("conv-AMD_Radeon_PRO_W6600-4096-512", "test"),
    ]  # fmt: skip
    assert table.roles.config == ("block", "tile")
    assert table.roles.context == ("problem_x", "problem_y")
    assert (table.roles.device, table.roles.target, table.roles.unit) == ("device", "time", "ms")
    assert table.frame["block"].to_list()[:4] == [16, 32, 16, 32]
    np.testing.assert_array_equal(table.cost[:4], [2, np.inf, 1.5, np.inf])
    assert table.repeat is not None
    np.testing.assert_array_equal(table.repeat[:4], [2, np.inf, 4, np.inf])
    stored = pl.read_parquet(tmp_path / "table/conv/data.parquet")
    assert stored["error"].to_list()[:4] == [None, "CompilationFailedConfig", None, "1e+20"]
    out = capsys.readouterr().out.split()
    assert out[out.index("train") + 1 :][:3] == ["1", "4", "2"]

    rates = imported(tmp_path / "rates", files[0], "--target", "GFLOP/s", "--unit", "GFLOP/s", "--config", "tile")
    assert (rates.roles.direction, rates.roles.config, rates.roles.repeats) == ("higher", ("tile",), ())
    np.testing.assert_allclose(rates.cost, [0.2, np.inf, 0.15, np.inf])


def test_parameters_of_one_file_are_missing_in_others(tmp_path: Path) -> None:
    other = cache("V100", tune_params_keys=["block", "tile", "mode"])
    for number, entry in enumerate(other["cache"].values()):
        entry |= {"mode": "fast" if number else True, "tile": "auto"}
    table = imported(tmp_path / "t", written(tmp_path / "a.json", cache()), written(tmp_path / "b.json", other))
    assert table.roles.config == ("block", "tile", "mode")
    assert table.frame["mode"].to_list() == [*[None] * 4, "true", "fast", "fast", "fast"]
    assert table.frame["tile"].to_list() == ["1", "1", "2", "2", *["auto"] * 4]


def test_a_cache_of_a_run_that_was_stopped(tmp_path: Path, capsys: Capture) -> None:
    entries = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in cache()["cache"].items())
    begin = json.dumps(cache(cache={})).removesuffix("}}") + "\n"
    for number, (end, rows) in enumerate([(",", 4), ("", 4), ("\n", 4), (',\n"3,4": {"block": 3, "ti', 4)]):
        table = imported(tmp_path / str(number), written(tmp_path / "a.json", begin + entries + end))
        assert len(table.cost) == rows
        assert "completed the cache of a run that was stopped" in capsys.readouterr().err
    message = refused(capsys, tmp_path / "t", written(tmp_path / "a.json", begin[:100]))
    assert "not valid JSON" in message


def test_names_of_parameters_that_are_taken(tmp_path: Path) -> None:
    content = cache(tune_params_keys=["device", "kernel", "times", "time"])
    for number, entry in enumerate(content["cache"].values()):
        entry |= {"device": number, "kernel": 2 * number, "error": "no"}
    frame, roles, notes = import_files([written(tmp_path / "a.json", content)])
    assert roles.config == ("device", "kernel", "times", "time")
    assert roles.device == "device_2"
    assert roles.target == "time_2"
    assert roles.group[:2] == ("kernel_2", "device_2")
    assert frame["device"].to_list() == [0, 1, 2, 3]
    assert len(notes) >= 4


def test_t4(tmp_path: Path) -> None:
    def result(x: int, value: Any, invalidity: str = "correct") -> dict[str, Any]:
        measurements = [{"name": "time", "value": value, "unit": "ms"}, {"name": "power", "value": 3, "unit": "W"}]
        return {
            "configuration": {"x": x, "kind": "a"}, "objectives": ["time"], "invalidity": invalidity, "correctness": 1,
            "times": {"runtimes": [value, value] if invalidity == "correct" else []}, "measurements": measurements,
        }  # fmt: skip

    content = {"results": [result(1, 2.5), result(2, "CompilationFailedConfig", "compile")], "schema_version": "1.0.0"}
    table = imported(tmp_path / "t", written(tmp_path / "hotspot_A100_t4.json", content))
    assert [each.name for each in table.groups] == ["hotspot-A100"]
    assert (table.roles.config, table.roles.unit) == (("x", "kind"), "ms")
    np.testing.assert_array_equal(table.cost, [2.5, np.inf])
    np.testing.assert_array_equal(table.repeat, [2.5, np.inf])
    stored = pl.read_parquet(tmp_path / "t/data.parquet")
    assert stored["error"].to_list() == [None, "compile"]
    assert stored["power"].to_list() == [3, 3]


def test_triton(tmp_path: Path) -> None:
    config = {"kwargs": {"BLOCK": 64}, "num_warps": 4, "num_ctas": 1, "maxnreg": None, "pre_hook": None}
    other = config | {"kwargs": {"BLOCK": 128}}
    dumped = json.dumps(
        {"key": ["512", "torch.float16"], "configs_timings": [[config, [0.5, 0.4, 0.6]], [other, [float("inf")] * 3]]}
    )
    assert "Infinity" in dumped
    files = [
        written(tmp_path / "A100/x1/matmul.autotune.json", dumped),
        written(tmp_path / "A100/x2/matmul.autotune.json", dumped.replace("512", "1024")),
    ]
    table = imported(tmp_path / "cached", *files)
    assert [each.name for each in table.groups] == [f"matmul-A100-{size}-torch.float16" for size in (1024, 512)]
    assert table.roles.config == ("BLOCK", "num_warps", "num_ctas")
    assert table.frame["key_0"].to_list() == [1024, 1024, 512, 512]
    np.testing.assert_array_equal(table.cost, [0.5, np.inf] * 2)

    files = [written(tmp_path / f"x{number}/y/matmul.autotune.json", dumped) for number in range(2)]
    assert imported(tmp_path / "unknown", *files).roles.device is None

    entries = [
        {"kernel": "mm", "device": "H100", "key": {"M": 8}, "config": config, "timings": 0.5},
        {"kernel": "mm", "device": "H100", "key": {"M": 8}, "config": other, "error": "OutOfResources"},
        {"kernel": "mm", "shape": [4, 5], "config": {"BLOCK": 7}, "timings": [0.25, 0.2, 0.3]},
    ]
    table = imported(tmp_path / "dumped", written(tmp_path / "mine.json", entries))
    assert [each.name for each in table.groups] == ["mm-H100-8-None-None", "mm-None-None-4-5"]
    np.testing.assert_array_equal(table.cost, [0.5, np.inf, 0.25])


@pytest.mark.parametrize("name", ["journal.log", "study.db"])
def test_optuna(tmp_path: Path, name: str, capsys: Capture) -> None:
    optuna = pytest.importorskip("optuna")
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    path = tmp_path / name
    storage: Any = f"sqlite:///{path}"
    if name.endswith(".log"):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name="conv", direction="maximize")
    study.set_user_attr("gpu", "A100")
    study.set_user_attr("m", 512)
    ints, kinds = optuna.distributions.IntDistribution(1, 9), optuna.distributions.CategoricalDistribution(["u", True])
    states = optuna.trial.TrialState
    for x, state in enumerate((states.COMPLETE, states.FAIL, states.PRUNED, states.COMPLETE), 1):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x, "kind": "u"} if x > 1 else {"x": x}, state=state,
                distributions={"x": ints, "kind": kinds} if x > 1 else {"x": ints},
                value=float(x) if state == states.COMPLETE else None,
            )
        )  # fmt: skip
    study.ask()  # a trial that runs
    before = path.read_bytes()
    table = imported(tmp_path / "t", path)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "t"])
    assert [each.name for each in table.groups] == ["conv-A100-512"]
    assert table.roles.direction == "higher"
    assert table.frame.select("x", "kind").rows() == [(1, None), (2, "u"), (3, "u"), (4, "u")]
    np.testing.assert_array_equal(table.cost, [1, np.inf, np.inf, 0.25])

    optuna.create_study(storage=storage, study_name="two", directions=["minimize", "minimize"]).add_trial(
        optuna.trial.create_trial(params={"x": 1}, distributions={"x": ints}, values=[1.0, 2.0])
    )
    capsys.readouterr()
    assert "expected one objective" in refused(capsys, tmp_path / "u", path)
    for number, content in enumerate(
        [b"SQLite format 3\0" + b"junk" * 99, b'{"op_code": 99}\n{"op', b'{"op_code": []}\n']
    ):
        assert "not a storage of Optuna" in refused(capsys, tmp_path / "u", written(tmp_path / f"x{number}", content))


CSV = "kernel,gpu,param_a,b,runtime_ms,compile_time\nk,A100,1,x,2.5,9\nk,A100,2,y,fail,9\nk,V100,1,x,-1,9\n"


def test_roles_of_data_frames_are_guessed_or_given(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path / "a.csv", CSV)
    table = imported(tmp_path / "t", path, "--failed", "-1", "--test", "gpu=V100")
    assert "took target 'runtime_ms' (lower is better), device 'gpu', config 'param_a'" in capsys.readouterr().err
    assert table.roles.group == ("kernel", "gpu")
    assert (table.roles.unit, table.roles.config, table.roles.failed) == ("ms", ("param_a",), (-1,))
    np.testing.assert_array_equal(table.cost, [2.5, np.inf, np.inf])
    options = ["--group", "kernel", "--config", "param_a,b", "--device", "gpu", "--target", "compile_time"]
    table = imported(tmp_path / "t", path, *options, "--direction", "higher", "--context", "gpu", "--unit", "s")
    assert "took" not in capsys.readouterr().err
    assert (table.roles.context, table.roles.unit, table.roles.direction) == (("gpu",), "s", "higher")


def test_columns_that_vary_within_groups_are_configurations(tmp_path: Path, capsys: Capture) -> None:
    rows = [
        f"{at},k,{gpu},{m},{sms},{block},{algorithm},{at / 7},3,{1 + at % 5}"
        for at, (gpu, m, sms, block, algorithm) in enumerate(
            (gpu, m, sms, block, algorithm)
            for gpu, sms in (("A100", 108), ("V100", 80)) for m in (64, 128)
            for block in (1, 2, 4, 8) for algorithm in "ab"
        )
    ]  # fmt: skip
    path = written(tmp_path / "a.csv", "\n".join(["id,kernel,gpu,M,sms,block,algo,power,compile_time,time", *rows]))
    roles = imported(tmp_path / "t", path, "--test", "gpu=V100").roles
    assert (
        "config 'block', 'algo', group 'kernel', 'gpu', 'M', context 'M', 'sms', and left out 'id', "
        in capsys.readouterr().err
    )
    assert (roles.group, roles.device) == (("kernel", "gpu", "M"), "gpu")
    path = written(tmp_path / "b.csv", "a,b,time\n1,2,3\n2,2,4\n")
    assert imported(tmp_path / "u", path).roles.config == ("a",)
    assert "config 'a', all rows as one group, context 'b'" in capsys.readouterr().err


def test_repeats_are_neither_targets_nor_parameters(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path / "a.csv", "kernel,block,time,time_1,time_2\nk,1,2,2.5,3\nk,2,5,6,7\n")
    assert "--repeats: " in refused(capsys, tmp_path / "t", path, "--repeats", "time_3")
    table = imported(tmp_path / "t", path, "--repeats", "time_1,time_2")
    assert (table.roles.target, table.roles.config, table.roles.repeats) == ("time", ("block",), ("time_1", "time_2"))
    assert table.repeat is not None
    np.testing.assert_array_equal(table.repeat, [3, 7])


def test_wrong_options_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    path, out = written(tmp_path / "a.csv", CSV), tmp_path / "t"
    for options, message in [
        (["--target", "runtime"], "--target: "),
        (["--target", "runtime"], "has no column 'runtime'; did you mean 'runtime_ms'?"),
        (["--config", "a"], "config: no column 'a'"),
        (["--test", "gpu=H100", "--failed", "-1"], "no row has gpu = 'H100'; did you mean"),
        (["--test", "gpus=V100", "--failed", "-1"], "test: no column 'gpus'; did you mean 'gpu'?"),
        (["--test", "gpu"], "expected COLUMN=VALUE, got 'gpu'"),
        (["--config", "gpu", "--group", "gpu"], "'gpu' is both config and group"),
        ([], "1 rows have 'runtime_ms' -1, expected positive values"),
        (["--format", "t4"], "not valid JSON"),
        (["--format", "parquet"], "not a valid parquet file"),
    ]:
        assert message in refused(capsys, out, path, *options)
    for content, message in [
        ("a,total_time,mean_time\n1,2,3\n", "the target could be 'total_time', 'mean_time'; give --target"),
        ('a,time\n1,"1,5"\n', "'time' holds no number, but '1,5'; write numbers, or give --target"),
        ("a,b\n1,2\n", "no column is named like a runtime; give --target with one of 'a', 'b'"),
        ("a,b,time\n1,2,3\n", "cannot tell which columns are configurations; give --config with some of 'a', 'b'"),
        ("", "not a valid csv file"),
    ]:
        assert message in refused(capsys, out, written(path, content))
    assert "cannot be read" in refused(capsys, out, tmp_path / "none.csv")
    assert "cannot be read" in refused(capsys, out, tmp_path)


def test_several_data_frames_get_a_device(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{name}.csv", "param_a,time\n1,2\n") for name in ("run_A100", "run_H100", "mine")]
    table = imported(tmp_path / "t", *files)
    assert table.roles.device == "device"
    assert table.frame["device"].to_list() == ["A100", "H100", "mine"]
    assert imported(tmp_path / "one", files[0]).roles.device is None


def test_other_data_frames(tmp_path: Path) -> None:
    frame = pl.DataFrame({"cfg.a": [1, 2], "s": [{"x": 1}, {"x": 2}], "time": [2.0, 3.0], "times": [[1, 2], [3, 5]]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ipc(tmp_path / "a.feather")
    frame.write_ndjson(tmp_path / "a.jsonl")
    for name in ("a.parquet", "a.feather", "a.jsonl"):
        table = imported(tmp_path / name.replace(".", ""), tmp_path / name)
        np.testing.assert_array_equal(table.cost, [2, 3])
        np.testing.assert_array_equal(table.repeat, [2, 5])


def test_duckdb(tmp_path: Path, capsys: Capture) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.db"
    with duckdb.connect(str(path)) as database:
        database.execute('CREATE TABLE "my ""table" AS SELECT range AS param_a, range + 1.5 AS time FROM range(3)')
    np.testing.assert_array_equal(imported(tmp_path / "t", path).cost, [1.5, 2.5, 3.5])
    capsys.readouterr()
    assert "cannot be read" in refused(capsys, tmp_path / "u", written(tmp_path / "b.db", path.read_bytes()[:200]))
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE TABLE other AS SELECT 1 AS a")
    assert "holds 2 tables, expected one" in refused(capsys, tmp_path / "u", path)


@pytest.mark.parametrize(
    "name", [
        "conv__A100", "A100_conv", "conv-RTX_2080_Ti", "conv_gfx90a_v2", "x_v2", "results_t4", "t4", "A100", "a.b.c",
        "conv W7800 run2", "V100-16GB_gemm",
    ],
)  # fmt: skip
def test_a_device_in_a_name(name: str) -> None:
    expected = {
        "conv__A100": ("conv", "A100"), "A100_conv": ("conv", "A100"), "conv-RTX_2080_Ti": ("conv", "RTX 2080 Ti"),
        "conv_gfx90a_v2": ("conv_v2", "gfx90a"), "A100": ("gemm", "A100"), "conv W7800 run2": ("conv_run2", "W7800"),
        "V100-16GB_gemm": ("gemm", "V100-16GB"), "a.b.c": ("a", None), "t4": ("gemm", "t4"),
        "results_t4": ("results", "t4"),
    }  # fmt: skip
    assert split_name(Path("/data/gemm") / f"{name}.json") == expected.get(name, (name, None))
    assert split_name(Path("/data/gemm/A100_T4.json"), ("t4",)) == ("gemm", "A100")
    assert split_name(Path("/data/A100/x1/gemm.json")) == ("gemm", "A100")
    assert split_name(Path("/data/A100/x1/y/gemm.json")) == ("gemm", None)


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{}", "[1]", "3", "{", "[" * 100_000, '{"cache": 3}', '{"cache": {}}', '{"cache": {"1": 2}}', '{"cache"',
        '{"cache": {"1": {"time": 1}}, "tune_params_keys": 4}', '{"results": [{}]}', '{"results": {"a": 1}}',
        '[{"configuration": {}, "objectives": []}]', '{"configs_timings": [[1]], "key": []}', '[{"config": 3}]',
        '[{"config": {}, "timings": 1}]', '{"configs_timings": 1}', "\x00{", '{"key": [], "configs_timings": []}',
        '[{"config": {"kwargs": 3}}]', '{"cache": {"1": {"time": 1, "a": 1}}, "tune_params_keys": [[]]}',
    ],
)  # fmt: skip
def test_hostile_json_is_one_line(tmp_path: Path, capsys: Capture, content: str) -> None:
    path = written(tmp_path / "a.json", content)
    refused(capsys, tmp_path / "t", path)
    refused(capsys, tmp_path / "t", path, "--format", "kernel-tuner")
    refused(capsys, tmp_path / "t", path, "--format", "triton")


def test_odd_values_are_kept_or_failed(tmp_path: Path, capsys: Capture) -> None:
    content = cache()
    odd = [10**30, float("nan"), float("inf"), {"a": 1}]
    for value, entry in zip(odd, content["cache"].values(), strict=True):
        entry |= {"time": value, "block": value, "times": "no", "tile": 10**400}
    first = next(iter(content["cache"].values()))
    first |= {"time": 1.5, "times": [1, "x", None, 10**400]}
    table = imported(tmp_path / "t", written(tmp_path / "a.json", content))
    np.testing.assert_array_equal(table.cost, [1.5, np.inf, np.inf, np.inf])
    assert table.frame["block"].null_count() <= 1
    capsys.readouterr()
    path = written(tmp_path / "a.json.gz", content)
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read" in refused(capsys, tmp_path / "u", path)


def test_import_by_function(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.json", cache(name)) for name in ("A100", "H100")]
    table = import_table(map(str, paths), tmp_path / "t", test={"device": ("H100",)})
    imported(tmp_path / "u", *paths, "--test", "device=H100")
    assert (tmp_path / "t/table.toml").read_text() == (tmp_path / "u/table.toml").read_text()
    assert table.name == "t"
    assert table.frame.equals(read_table(tmp_path / "u").frame)
    assert [group.split for group in table.groups] == ["train", "test"]


def test_json_summary(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path / "a.json", cache())
    assert main(["import", str(path), "--out", str(tmp_path / "t"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["splits"] == {"train": {"groups": 1, "rows": 4, "failed": 2}}
    assert summary["target"] == {"column": "time", "unit": "ms", "direction": "lower"}


def test_targets_of_files_must_agree(tmp_path: Path) -> None:
    rates = cache(objective="GFLOP/s")
    files = [written(tmp_path / "a.json", cache()), written(tmp_path / "b.json", rates)]
    with pytest.raises(UsageError, match=r"b\.json: target 'GFLOP/s', but 'time' in .*a\.json; give --target"):
        import_files(files)
    _, roles, _ = import_files(files, given={"target": "GFLOP/s"})
    assert roles.direction == "higher"


def test_columns_of_targets_become_rows(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("net,v100_1,v100_32,gold_6240,raspi4\nskip~0,1,2,3,4\nconv~0,5,6,7,8\n")
    table = imported(tmp_path / "t", path, "--unpivot", "device,batch", "--unit", "ms", "--test", "device=raspi4")
    assert table.roles.group == ("device", "batch")
    assert (table.roles.config, table.roles.target, table.roles.unit) == (("net",), "time", "ms")
    rows = table.frame.with_columns(cost=table.cost).select("device", "batch", "net", "cost").rows()
    assert sorted(rows, key=str) == sorted(
        [
            ("v100", 1, "skip~0", 1.0), ("v100", 1, "conv~0", 5.0), ("v100", 32, "skip~0", 2.0),
            ("v100", 32, "conv~0", 6.0), ("gold_6240", None, "skip~0", 3.0), ("gold_6240", None, "conv~0", 7.0),
            ("raspi4", None, "skip~0", 4.0), ("raspi4", None, "conv~0", 8.0),
        ],
        key=str,
    )  # fmt: skip
    for names, message in ((("a", "b", "c"), "expected one or two names"), (("net",), "already a column 'net'")):
        with pytest.raises(UsageError, match=message):
            import_files([path], unpivot=names)
    with pytest.raises(UsageError, match="--unpivot: expected"):
        import_files([written(tmp_path / "a.json", cache())], unpivot=("device",))


WIDE = """kernel,n,block,alpha,{0},{1},note_w
gemm,64,8,0.5,1.5,2.5,9
gemm,64,16,1.5,1.25,2.75,9
gemm,32,8,0.5,3.5,4.5,9
"""


@pytest.mark.parametrize(
    ("heads", "options", "unit"),
    [
        (("a100_ms", "V100-ms"), [], "ms"),
        (("A100 (us)", "V100 (us)"), [], "us"),
        (("latency_a100", "latency_v100"), [], ""),
        (("a100_ms", "V100_ms"), ["--config", "block,alpha"], "ms"),
        (("a100_ms", "V100_ms"), ["--group", "kernel,n"], "ms"),
        (("a100", "v100"), ["--targets", "a100,v100", "--unit", "s"], "s"),
    ],
)
def test_parameters_that_are_numbers_are_no_devices(
    tmp_path: Path, capsys: Capture, heads: tuple[str, str], options: list[str], unit: str
) -> None:
    path = written(tmp_path / "wide.csv", WIDE.format(*heads))
    table = imported(tmp_path / "t", path, "--unpivot", "device", *options)
    assert (set(table.roles.group), table.roles.config) == ({"kernel", "n", "device"}, ("block", "alpha"))
    assert (table.roles.device, table.roles.target, table.roles.unit) == ("device", "time", unit)
    rows = table.frame.with_columns(pl.col("device").str.to_lowercase(), cost=table.cost)
    assert sorted(rows.select("device", "n", "block", "alpha", "cost").rows()) == [
        ("a100", 32, 8, 0.5, 3.5), ("a100", 64, 8, 0.5, 1.5), ("a100", 64, 16, 1.5, 1.25),
        ("v100", 32, 8, 0.5, 4.5), ("v100", 64, 8, 0.5, 2.5), ("v100", 64, 16, 1.5, 2.75),
    ]  # fmt: skip
    error = capsys.readouterr().err
    assert f"took {heads[0]!r}, {heads[1]!r} as 'time' by 'device'" in error
    path.write_text(path.read_text().replace(",2.5,", ",,"))
    assert len(imported(tmp_path / "t", path, "--unpivot", "device", *options).frame) == 5
    assert "1 empty cells are left out, as not measured" in capsys.readouterr().err
    assert "left out" not in error or "left out 'note_w'" in error


def test_columns_of_targets_that_are_ambiguous_are_an_error(tmp_path: Path, capsys: Capture) -> None:
    unpivot = ["--unpivot", "device"]
    path = written(tmp_path / "wide.csv", WIDE.format("a100", "v100"))
    message = "--unpivot: 'n', 'block', 'note_w' could be parameters; name the columns of targets with --targets"
    assert message in refused(capsys, tmp_path / "t", path, *unpivot)
    assert "no column 'a10'; did you mean 'a100'?" in refused(
        capsys, tmp_path / "t", path, *unpivot, "--targets", "a10"
    )
    assert "--targets: names the columns of --unpivot" in refused(capsys, tmp_path / "t", path, "--targets", "a100")
    path = written(tmp_path / "wide.csv", WIDE.format("a100_ms", "a100_gflops"))
    assert "'a100_ms', 'a100_gflops' differ in unit" in refused(capsys, tmp_path / "t", path, *unpivot)
    rates = imported(tmp_path / "r", path, *unpivot, "--targets", "a100_gflops").roles
    assert (rates.target, rates.direction) == ("gflops", "higher")


def test_a_table_with_other_files_is_kept(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path / "a.json", cache())
    other = written(tmp_path / "t/mine.csv", "a\n1\n")
    assert main(["import", str(path), "--out", str(tmp_path / "t")]) == 1
    assert "already holds mine.csv" in capsys.readouterr().err
    assert [each.name for each in other.parent.iterdir()] == ["mine.csv"]
    with pytest.raises(DataError, match=r"table\.toml: no such file"):
        read_table(other.parent)


@pytest.fixture
def caches(shared_data: Path) -> Callable[[str], list[Path]]:
    folder = shared_data / "tables/kernel_tuner"
    if not folder.is_dir():
        pytest.skip("no caches of Kernel Tuner")
    return lambda name: sorted(folder.glob(f"{name}__*.json.gz"))


def test_real_caches(caches: Callable[[str], list[Path]], tmp_path: Path) -> None:
    table = imported(tmp_path / "conv", *caches("convolution"), "--test", "device=W6600", "--valid", "device=A4000")
    assert [each.stop - each.start for each in table.groups] == [4362] * 4
    assert [each.split for each in table.groups] == ["train", "train", "valid", "test"]
    assert int(np.isinf(table.cost).sum()) == 795
    assert len(table.roles.config) == 10
    assert table.repeat is not None
    path = caches("gemm")[0]
    begin = time.process_time()
    table = imported(tmp_path / "gemm", path)
    assert time.process_time() - begin < 10  # about half a second
    entries = json.loads(gzip.decompress(path.read_bytes()))["cache"].values()
    np.testing.assert_array_equal(table.cost, [each["time"] for each in entries])
    for name in table.roles.config:
        assert table.frame[name].to_list() == [each[name] for each in entries]
