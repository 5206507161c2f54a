"""Tuning a new device with the measurements of others: spaces, adaptation, and the tools that use them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from gbr import Ranker
from gbr import predict as predict_command
from gbr.adapt import LEAST, TableRows, adapt_rows
from gbr.data.table import write_table
from gbr.data.table_roles import Roles
from gbr.errors import DataError, ModelError, TuneError, UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models.transfer import Transfer, improvement
from gbr.train import train
from gbr.tune import TableSpace, Tuner
from gbr.tune import __main__ as tune_command
from gbr.tune.tables import Command

FIXED = {"device": "A6000", "kernel": "k"}
SPACE = pl.DataFrame(
    list(product([16, 32, 64, 128, 256], [1, 2, 4, 8], [True, False], ["row", "col"])),
    schema=["block_size_x", "tile", "shared", "order"],
    orient="row",
)


def runtimes(width: float, shared: float, noise: int) -> NDArray[np.float64]:
    """Runtimes on a device that prefers blocks of ``width`` and, below 0, shared memory; the largest tiles fail."""
    block, tile = SPACE["block_size_x"].to_numpy(), SPACE["tile"].to_numpy()
    log = np.abs(np.log2(block / width)) + 0.5 * np.abs(np.log2(tile / 4)) + shared * SPACE["shared"].to_numpy()
    log = log + 0.3 * (SPACE["order"] == "col").to_numpy() * (block > 64)
    cost = 2 ** (log + np.random.default_rng(noise).normal(0, 0.02, len(log)))
    return np.where(block * tile > 1024, np.inf, cost)


DEVICES = {"A100": (64, -0.5), "A4000": (128, 0.3), "3090": (128, 0.2), "W6800": (32, -0.4)}
COST = runtimes(100, 0.25, 9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    root = tmp_path_factory.mktemp("table")
    frames = [
        SPACE.with_columns(device=pl.lit(name), kernel=pl.lit("k"), time=pl.Series(runtimes(*about, number)))
        for number, (name, about) in enumerate(DEVICES.items())
    ]
    roles = Roles(("kernel", "device"), tuple(SPACE.columns), "time", device="device")
    write_table(root / "table" / "made", pl.concat(frames), roles)
    train("table:made", data=root, store=root / "store", out=root / "run")
    return Ranker.load(root / "run")


def test_a_search_with_history_needs_few_measurements(model: Ranker) -> None:
    space = TableSpace(SPACE, model, fixed=FIXED)
    needed = []
    for with_model in (True, False):
        tuner = Tuner(space, model if with_model else None)
        while tuner.best is None or tuner.best.runtime > 1.05 * COST.min():
            (config,) = tuner.ask()
            tuner.tell([config], [float(COST[config])])
        needed.append(len(tuner))
        assert not (with_model and tuner.failures)
    assert needed[0] <= 4
    assert needed[0] < needed[1] < 40


def test_batches_are_distinct_and_end_with_the_space(model: Ranker) -> None:
    space = TableSpace(SPACE, model, fixed=FIXED)
    tuner = Tuner(space, model)
    found: list[int] = []
    while batch := tuner.ask(33):
        found += batch
        tuner.tell(batch, [float(COST[config]) for config in batch])
    assert sorted(found) == list(range(len(SPACE)))
    assert tuner.n_left == 0
    assert set(tuner.failures) == set(np.flatnonzero(np.isinf(COST)).tolist())


def test_equal_seeds_give_equal_proposals(model: Ranker) -> None:
    def order(seed: int) -> list[int]:
        tuner = Tuner(TableSpace(SPACE, model, fixed=FIXED), model, seed=seed)
        for _ in range(8):
            (config,) = tuner.ask()
            tuner.tell([config], [float(COST[config])])
        return [*tuner.runtimes]

    assert order(1) == order(1)


def test_a_large_space_keeps_promising_rows_and_the_default(model: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[TableSpace.__module__], "MOST_ROWS", 20)
    whole = model.predict_table(SPACE.with_columns(pl.lit(value).alias(name) for name, value in FIXED.items()))
    slowest = int(whole["score"].arg_max() or 0)
    space = TableSpace(SPACE, model, fixed=FIXED, default=slowest)
    assert len(space) == 20
    assert space.default is not None
    assert space.rows[space.default] == slowest
    assert int(whole["score"].arg_min() or 0) in space.rows
    assert space.describe(3) == SPACE.row(int(space.rows[3]), named=True)


def test_spaces_refuse_several_groups_missing_columns_and_other_models(model: Ranker) -> None:
    with pytest.raises(DataError, match="no column 'kernel'"):
        TableSpace(SPACE, model)
    two = SPACE.with_columns(device=pl.Series(["A6000", "H100"] * (len(SPACE) // 2)), kernel=pl.lit("k"))
    with pytest.raises(DataError, match=r"2 groups .*expected the rows of one group"):
        TableSpace(two, model)
    plain = Ranker(n_estimators=2).fit(np.eye(8), np.arange(8.0))
    with pytest.raises(ModelError, match="not trained on a table"):
        TableSpace(SPACE, plain)


def test_measured_rows_improve_the_order(model: Ranker) -> None:
    """A device unlike all others: it prefers wide blocks."""
    rows = SPACE.with_columns(pl.lit(value).alias(name) for name, value in FIXED.items())
    cost = runtimes(512, 0.4, 5)
    worked = np.isfinite(cost)
    before = kendall_tau(model.predict_table(rows)["score"].to_numpy()[worked], cost[worked])
    after = []
    for seed in range(3):
        measured = np.random.default_rng(seed).choice(len(cost), 20, replace=False)
        adapted = model.adapt(rows, measured, cost[measured])
        assert adapted.n_measured == np.isfinite(cost[measured]).sum()
        after.append(kendall_tau(adapted.predict()[worked], cost[worked]))
    assert np.mean(after) > before + 0.05


def test_prepared_rows_are_adapted_many_times(model: Ranker) -> None:
    """Two draws, each with a failure, give the scores of rows that are prepared anew."""
    rows = SPACE.with_columns(pl.lit(value).alias(name) for name, value in FIXED.items())
    known = TableRows(rows, model)
    for seed in (0, 1, 0):
        measured = np.random.default_rng(seed).choice(len(COST), 20, replace=False)
        assert np.isinf(COST[measured]).any()
        expected = adapt_rows(rows, measured, COST[measured], ranker=model).predict()
        np.testing.assert_array_equal(model.adapt(known, measured, COST[measured]).predict(), expected)


def test_measured_rows_are_checked(model: Ranker) -> None:
    rows = SPACE.with_columns(pl.lit(value).alias(name) for name, value in FIXED.items())
    with pytest.raises(UsageError, match=f"at least {LEAST} different"):
        adapt_rows(rows, [0, 1, 2, 3, 4], [1.0, 2.0, None, float("nan"), 3.0], ranker=model)
    with pytest.raises(UsageError, match="expected 0 to"):
        adapt_rows(rows, [0, len(SPACE)], [1.0, 2.0], ranker=model)
    with pytest.raises(UsageError, match="different values"):
        adapt_rows(rows, range(6), [1.0] * 6, ranker=model)


def test_the_process_interpolates_and_knows_what_it_does_not_know() -> None:
    random = np.random.default_rng(0)
    choices = random.integers(0, 4, (200, 5))
    effect = random.normal(size=(5, 4))
    truth = sum(effect[at][choices[:, at]] for at in range(5))
    rows = random.choice(200, 60, replace=False)
    transfer = Transfer(choices, choices.astype(np.float32), np.zeros((0, 200)))
    mean, deviation = transfer.predict(rows, truth[rows])
    rest = np.setdiff1d(np.arange(200), rows)
    assert np.corrcoef(mean[rest], truth[rest])[0, 1] > 0.8
    assert deviation[rows].mean() < 0.5 * deviation[rest].mean()


def test_the_group_that_this_one_is_like_is_found() -> None:
    random = np.random.default_rng(1)
    choices = random.integers(0, 4, (300, 4))
    others = random.normal(size=(3, 300))
    rows = np.arange(12)
    transfer = Transfer(choices, choices.astype(np.float32), others, prior=others.mean(axis=0))
    mean, _ = transfer.predict(rows, 5 + 0.8 * others[1, rows])
    assert np.corrcoef(mean, others[1])[0, 1] > 0.95


def test_failures_spread_to_similar_configurations() -> None:
    choices = np.array(list(product(range(4), range(4), range(4))))
    transfer = Transfer(choices, choices.astype(np.float32), np.zeros((0, 64)))
    before = transfer.chance(np.zeros(0, np.int64), np.zeros(0, bool))
    after = transfer.chance(np.array([0, 63]), np.array([True, False]))
    assert not before.any()
    assert after[0] == after.max() > after[1] > after[62] > 0


def test_improvement_is_that_of_draws() -> None:
    draws = 1.5 + 0.7 * np.random.default_rng(0).normal(size=200_000)
    found = improvement(np.array([1.5]), np.array([0.7]), 1.2)[0]
    assert found == pytest.approx(np.maximum(1.2 - draws, 0).mean(), rel=0.02)


def test_optuna_samples_candidates(model: Ranker) -> None:
    optuna = pytest.importorskip("optuna", reason="needs optuna")
    from gbr.tune.optuna import Sampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cost = dict(zip(SPACE.rows(), COST.tolist(), strict=True))

    def objective(trial: Any) -> float:
        row = tuple(trial.suggest_categorical(name, SPACE[name].unique().sort().to_list()) for name in SPACE.columns)
        if np.isinf(cost[row]):
            raise optuna.TrialPruned
        return 1 / cost[row]

    study = optuna.create_study(direction="maximize", sampler=Sampler(model, SPACE, fixed=FIXED))
    study.optimize(objective, n_trials=5)
    assert 1 / study.best_value < 1.05 * COST.min()
    resumed = optuna.create_study(direction="maximize", sampler=Sampler(model, SPACE, fixed=FIXED))
    resumed.add_trials(study.trials)
    resumed.optimize(objective, n_trials=len(SPACE) + 5)
    assert len({tuple(trial.params.values()) for trial in resumed.trials}) == len(resumed.trials) == len(SPACE)


def test_optuna_refuses_values_that_are_no_candidates(model: Ranker) -> None:
    optuna = pytest.importorskip("optuna", reason="needs optuna")
    from gbr.tune.optuna import Sampler

    study = optuna.create_study(sampler=Sampler(model, SPACE, fixed=FIXED))
    with pytest.raises(UsageError, match="no parameter 'blok'"):
        study.optimize(lambda trial: trial.suggest_int("blok", 1, 2), n_trials=1)
    with pytest.raises(UsageError, match=r"candidate block_size_x=.* is not in"):
        study.optimize(lambda trial: trial.suggest_int("block_size_x", 1, 2), n_trials=1)


def test_kernel_tuner_replays_a_cache(model: Ranker, tmp_path: Path) -> None:
    tuner = pytest.importorskip("kernel_tuner", reason="needs kernel_tuner")
    from gbr.tune.kernel_tuner import Strategy

    params = {name: SPACE[name].unique(maintain_order=True).to_list() for name in SPACE.columns}
    entries = {
        ",".join(map(str, row)): {
            **dict(zip(SPACE.columns, row, strict=True)),
            **({"__error__": "CompilationFailedConfig"} if np.isinf(cost) else {}),
            "time": "CompilationFailedConfig" if np.isinf(cost) else cost,
        }
        for row, cost in zip(SPACE.rows(), COST.tolist(), strict=True)
    }
    cache = tmp_path / "cache.json"
    about = SimpleNamespace(device_name="NVIDIA RTX A6000", kernel_name="k", problem_size=[64])
    cache.write_text(
        json.dumps(
            {**vars(about), "tune_params_keys": [*params], "tune_params": params, "objective": "time", "cache": entries}
        )
    )
    results, env = tuner.tune_kernel(
        "k", "__global__ void k() {}", 64, [], params, lang="CUDA", cache=str(cache), simulation_mode=True, quiet=True,
        strategy=Strategy(model), strategy_options={"max_fevals": 6},
    )  # fmt: skip
    assert len(results) == 6
    assert env["best_config"]["time"] < 1.05 * COST.min()


@pytest.fixture(scope="module")
def files(model: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a ``run``, ``candidates.csv``, the ``measured.csv`` ones and those of ``two.parquet`` groups."""
    folder = tmp_path_factory.mktemp("files")
    model.save(folder / "run")
    rows = SPACE.with_columns(pl.lit(value).alias(name) for name, value in FIXED.items())
    rows.write_csv(folder / "candidates.csv")
    times = ["boom" if np.isinf(cost) else repr(cost) for cost in COST.tolist()]
    rows.with_columns(time=pl.Series(times)).write_csv(folder / "measured.csv")
    pl.concat([rows, rows.with_columns(device=pl.lit("H100"))]).write_parquet(folder / "two.parquet")
    return folder


def tuned(files: Path, name: str, *arguments: object) -> int:
    """Run the command of tuning in ``files``."""
    options = ["--space", f"table:{files / name}", "--model", files / "run", *arguments]
    return tune_command.main([*map(str, options)])


def test_a_table_with_its_target_is_replayed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned(files, "measured.csv", "--budget", 6, "--default", 7, "--out", files / "replay", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"]["runtime"] < 1.05 * COST.min()
    assert result["default"] == COST[7]
    assert result["verdict"]["speedup"] == pytest.approx(COST[7] / result["best"]["runtime"])
    assert "recorded as failed" not in result["failed"].values()


@pytest.mark.skipif(os.name != "posix", reason="needs sh")
def test_a_command_measures_a_table_and_resumes(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = r"sh -c 'test {tile} -lt 8 && echo \"{order}: step 3, 1.{block_size_x}5e1 ms\"'"
    options = "--measure", command, "--group", "k-H100", "--out", files / "search"
    assert tuned(files, "two.parquet", *options, "--budget", 2) == 0
    captured = capsys.readouterr()
    assert "time" in captured.out
    assert "the default is row 80, the first of the group; --default names another one" in captured.err
    assert tuned(files, "two.parquet", *options, "--budget", 4, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["measured"], result["resumed"], result["space"]) == (4, 2, "k-H100")
    assert result["best"]["runtime"] == pytest.approx(float(f"1.{result['best']['choice']['block_size_x']}5e1"))
    assert {*result["failed"].values()} == {"exit status 1"}


def test_commands_say_why_they_failed() -> None:
    rows = [{"a.b": 3, "word": "it's $(date)"}]

    def measured(code: str, higher: bool = False) -> float | str:
        command = Command(shlex.join([sys.executable, "-c", code, "{a.b}", "{word}"]), rows, higher=higher)
        return command().__call__(0)

    assert measured("import sys; print(sys.argv[1:], len(sys.argv[2]), 'in A100')") == 12
    assert measured("print('2 GB/s, .5')", higher=True) == 2
    assert measured("print('v2.0, none')") == "no number in its output: v2.0, none"
    assert str(measured("print('step 1: nan')")) == "nan"
    assert measured("import sys; print(1); sys.exit('too {{large}}')") == "exit status 1: too {large}"
    with pytest.raises(TuneError, match=r"--measure: no-such-3: cannot be run \(No such file"):
        Command("no-such-{a.b}", rows).measure(0)
    for wrong, message in (("x {a}", "no column 'a'"), ("x", r"such as \{a.b\}"), ("x '{word}", "No closing")):
        with pytest.raises(UsageError, match=message):
            Command(wrong, rows)


def test_searches_of_tables_say_what_is_missing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (("two.parquet", "--measure", "x {tile}"), "2 groups ('k-A6000', 'k-H100'); choose one by --group NAME"),
        (("two.parquet", "--group", "k-h100"), "expected a command by --measure, or recorded values to replay"),
        (("two.parquet", "--measure", "x {tile}", "--group", "k-h10"), "did you mean 'k-H100'?"),
        (("measured.csv", "--default", 80), "row 80 is not one of the 80 of group k-A6000"),
    ):
        assert tuned(files, *arguments) in (1, 2)
        assert message in capsys.readouterr().err.splitlines()[-1]
    for options, message in (
        ((), "--measure: expected a command, or --model"),
        (("--measure", "x {tile}", "--group", "k"), "--group: expected a run that was trained on a table"),
        (("--measure", "x {tile}", "--model", "physics"), "--model: expected a run that was trained on a table"),
        (("--measure", "x {tile}", "--default", "80"), "default: expected 0 to 79, got 80"),
    ):
        assert tune_command.main(["--space", f"table:{files / 'measured.csv'}", *options]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="needs sh")
def test_a_table_is_searched_without_a_model(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parameters are the columns that the command takes; rows that differ in others are equal."""
    command = r"sh -c 'test {tile} -lt 8 || exit 3; echo $(({block_size_x} * {tile}))'"
    options = ["--space", f"table:{files / 'candidates.csv'}", "--measure", command, "--out", str(files / "plain")]
    assert tune_command.main([*options, "--budget", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["measured"], {*result["failed"].values()}) == (20, {"exit status 3"})
    assert result["use"]["choice"] == {"tile": 1, "block_size_x": 16}
    worked = [row for row in SPACE.rows(named=True) if row["tile"] < 8]
    assert result["best"]["runtime"] == min(row["block_size_x"] * row["tile"] for row in worked)


@pytest.mark.skipif(os.name != "posix", reason="needs sh")
def test_a_finished_search_keeps_its_verdict_and_another_command_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = files / "log"
    measure = f"sh -c 'echo {{tile}} >> {log}; echo {{tile}}'"
    options = ["--space", f"table:{files / 'candidates.csv'}", "--out", str(files / "again"), "--budget"]
    printed = []
    for budget in ("3", "3", "4"):
        assert tune_command.main([*options, budget, "--measure", measure]) == 0
        printed.append((capsys.readouterr().out.splitlines()[-3:], len(log.read_text().splitlines())))
    assert printed[0] == printed[1]
    assert printed[0][1] == 3 + 10 * 3 + 10 * 2
    assert printed[2][1] > printed[1][1]
    verdict = "the default is best: the best other configuration is 0.25 to 0.25 times as fast"
    assert printed[0][0][1:] == [f"Compared in 20 alternating rounds: {verdict}", "Use: tile=1"]
    assert tune_command.main([*options, "4", "--measure", "echo 2{tile}"]) == 1
    assert "journal.jsonl: its command is " in (message := capsys.readouterr().err.splitlines()[-1])
    assert "not 'echo 2{tile}'; choose another folder" in message


def test_rows_of_a_file_that_were_measured_adapt_the_order(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pl.read_csv(files / "measured.csv")
    given = np.isin(np.arange(len(rows)), np.random.default_rng(0).choice(len(rows), 20, replace=False))
    partly = rows.with_columns(time=pl.when(pl.Series(given)).then("time"))
    partly.write_csv(path := files / "partly.csv")

    def predict(*arguments: object) -> int:
        return predict_command.main(["--model", str(files / "run"), "--adapt", *map(str, arguments)])

    assert predict(path) == 0
    found = pl.read_csv(capsys.readouterr().out.encode())
    assert found.columns == ["file", "group", "rank", "row", "score", "failure", "measured", *found.columns[7:]]
    assert set(found.filter("measured")["row"]) == set(np.flatnonzero(given).tolist())
    model = Ranker.load(files / "run")
    known = np.flatnonzero(given)
    expected = model.adapt(partly, known, [None if np.isinf(cost) else cost for cost in COST[known].tolist()])
    assert found["row"].to_list() == expected.rank().tolist()
    # Rows that failed, and those that are known to fail, come last.
    assert np.isinf(COST[found["row"].to_numpy()[-np.isinf(COST).sum() :]]).all()

    assert predict_command.main(["--model", str(files / "run"), str(path)]) == 0
    assert "values of 'time' are ignored (gbr predict --adapt learns from them)" in capsys.readouterr().err
    # A group without measured rows keeps the order of the model.
    both = pl.concat([partly, rows.with_columns(device=pl.lit("V100"), time=pl.lit(None, pl.String))])
    both.write_csv(files / "both.csv")
    assert predict(files / "both.csv") == 0
    captured = capsys.readouterr()
    every = pl.read_csv(captured.out.encode())
    assert every.filter(group="k-A6000")["row"].to_list() == found["row"].to_list()
    alone = model.rank_table(both).filter(group="k-V100")
    assert every.filter(group="k-V100")["row"].to_list() == alone["row"].to_list()
    assert "group 'k-V100': working rows with a value of 'time': expected at least 5 different" in captured.err
    assert "got 0; ranked by the model alone" in captured.err

    throughput = partly.with_columns(time=(1 / pl.col("time").cast(pl.Float64, strict=False)).cast(pl.String))
    throughput = throughput.with_columns(time=pl.when(partly["time"] == "boom").then(pl.lit("0")).otherwise("time"))
    model.table.roles = replace(model.table.roles, direction="higher")
    assert model.rank_table(throughput, adapt=True)["row"].to_list() == found["row"].to_list()

    for frame, message in (
        (rows.drop("time"), "no column 'time' with measured values"),
        (partly.head(9), "group 'k-A6000': working rows with a value of 'time': expected at least 5 different"),
        (rows.with_columns(time=pl.lit(2)), "expected different values"),
    ):
        frame.write_csv(files / "wrong.csv")
        assert predict(files / "wrong.csv") == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
