"""Features of measured tables: history and nearest rows against naive twins, blocks of GPU kernels, odd columns."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from features.table import gpu, history
from features.table.history import History
from gbr.data.table import Table, make_table, read_rows, read_table
from gbr.data.table_features import TableFeatures, known_features, save_known_rows
from gbr.data.table_roles import Roles
from gbr.errors import DataError, GbrWarning, UsageError
from tests.tables import made_rows

FloatArray = np.ndarray
SHARPNESS = 4.0


# --- history ----------------------------------------------------------------------------------------------------------


def naive_nearest(points: FloatArray, among: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    distances = np.sqrt(((points[:, None] - among) ** 2).sum(axis=2))
    near = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return near, np.take_along_axis(distances, near, axis=1)


def naive_history(
    row: FloatArray, groups: list[tuple[FloatArray, FloatArray]], distances: FloatArray, own: int | None
) -> list[float]:
    """Columns of one row, group by group; ``groups`` are positions and costs."""
    seen = sorted((number for number in range(len(groups)) if number != own), key=lambda number: distances[number])
    found = []
    for number in seen:
        positions, cost = groups[number]
        ranks = (rankdata(cost) - 1) / max(1, len(cost) - 1)
        worked = np.isfinite(cost)
        slowest = cost[worked].max() if worked.any() else 1.0
        slowdown = np.log2(np.where(worked, cost, slowest) / (cost[worked].min() if worked.any() else slowest))
        values = np.stack([ranks, slowdown, ~worked])
        same = (positions == row).all(axis=1)
        if same.any():
            found.append([*values[:, same].mean(axis=1), 0.0])
            continue
        distinct = np.unique(positions, axis=0)
        mean = np.stack([values[:, (positions == each).all(axis=1)].mean(axis=1) for each in distinct], axis=1)
        near, gap = naive_nearest(row[None], distinct, 4)
        weights = np.exp(-gap[0]) / np.exp(-gap[0]).sum()
        found.append([*(mean[:, near[0]] @ weights), gap[0, 0]])
    rank, slowdown, failed, gap = np.array(found).T
    weights = np.exp(-SHARPNESS * distances[seen] - gap)
    weights /= weights.sum()
    mean = weights @ rank
    spread = np.sqrt(weights @ (rank - mean) ** 2)
    least = [rank.mean(), rank.min(), rank.max(), spread]
    return [mean, rank[0], *least, weights @ slowdown, slowdown[0], weights @ failed, gap[0], distances[seen[0]]]


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_history_equals_its_naive_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, rng.integers(2, 5))
    indptr = np.cumsum([0, *sizes])
    positions = rng.random((9, 2))[rng.integers(0, 9, indptr[-1])] * 3  # configurations repeat, distances do not tie
    cost = np.where(rng.random(len(positions)) < 0.2, np.inf, rng.integers(1, 6, len(positions)))
    between = rng.random((len(sizes), len(sizes)))
    groups = [(positions[a:b], cost[a:b]) for a, b in pairwise(indptr)]
    found = History(positions, cost, indptr, between, len(sizes))
    for own in (None, 0, len(sizes) - 1):
        rows = np.concatenate([positions[:5], rng.random((3, 2)) * 4])
        expected = [naive_history(row, groups, between[0], own) for row in rows]
        np.testing.assert_allclose(found(rows, between[0], own), expected, atol=1e-12)


def test_groups_with_the_same_configurations_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups have the same ones, in another order and one of them twice; a third has others."""
    rng = np.random.default_rng(0)
    first, rows = rng.random((9, 2)), rng.random((5, 2))
    groups = [first, first[[*rng.permutation(9), 3]], rng.random((7, 2))]
    cost = [rng.permutation(len(each)) + 1.0 for each in groups]
    indptr, between = np.cumsum([0, *map(len, groups)]), rng.random((3, 3))
    found = History(np.concatenate(groups), np.concatenate(cost), indptr, between, 3)
    searched = []
    nearest = history._nearest

    def counted(points: FloatArray, among: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
        searched.append(len(among))
        return nearest(points, among, k)

    monkeypatch.setattr(history, "_nearest", counted)
    both = np.concatenate([rows, first[:2]])
    expected = [naive_history(row, [*zip(groups, cost, strict=True)], between[0], None) for row in both]
    np.testing.assert_allclose(found(both, between[0]), expected, atol=1e-12)
    assert sorted(searched) == [7, 9]


def test_history_without_other_groups_is_missing() -> None:
    positions = np.arange(4.0)[:, None]
    found = History(positions, 1 + np.arange(4.0), np.array([0, 4]), np.zeros((1, 1)), 1)
    assert np.isnan(found(positions, np.zeros(1), 0)).all()
    assert not np.isnan(found(positions, np.zeros(1))).any()


def test_history_of_configurations_that_are_far_from_all_is_finite() -> None:
    found = History(
        np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 2.0, 3.0]), np.array([0, 2, 3]), np.zeros((2, 2)), 2
    )
    assert np.isfinite(found(np.array([[1e6]]), np.zeros(2))).all()


def test_the_most_useful_sharpness_is_chosen() -> None:
    """Near groups agree, far ones are the opposite."""
    rng = np.random.default_rng(0)
    positions, cost, place = [], [], np.repeat([0.0, 1.0], 4)
    for number in range(8):
        order = rng.permutation(60)[:, None].astype(float)
        positions.append(order)
        cost.append(1 + (order[:, 0] if number < 4 else 60 - order[:, 0]))
    distances = np.abs(place[:, None] - place)
    indptr = np.arange(9) * 60
    assert History(np.concatenate(positions), np.concatenate(cost), indptr, distances, 8).sharpness > 1


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_nearest_rows_equal_their_naive_twin(n: int, m: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, among = rng.random((n, 3)), rng.random((m, 3))
    near, distances = history._nearest(points, among, k)
    expected, expected_distances = naive_nearest(points, among, k)
    np.testing.assert_array_equal(near, expected)
    np.testing.assert_allclose(distances, expected_distances)


# --- GPU kernels ------------------------------------------------------------------------------------------------------

#: units, warp, threads, blocks, registers, shared KiB of an A100 (compute capability 8.0).
A100 = np.array([[108, 32, 2048, 32, 65536, 164.0]])


def of_block(device: FloatArray = A100, extents: dict[str, float] | None = None, **config: float) -> dict[str, float]:
    arrays = [{name: np.array([float(value)]) for name, value in each.items()} for each in (config, extents or {})]
    (row,) = gpu.columns(arrays[0], arrays[1], device)
    return dict(zip([column.name for column in gpu.BLOCK.columns], row.tolist(), strict=True))


@pytest.mark.parametrize(
    ("threads", "blocks", "occupancy"),
    [
        # With 34 registers per thread, 65536 registers hold 1927 threads.
        (1024, 2, 0.5),  # two blocks need 69632 registers
        (256, 8, 7 * 256 / 2048),
        (32, 32, 0.5),  # at most 32 blocks on compute capability 8.0
        (768, 2, 0.75),
    ],
)
def test_occupancy_of_documented_cases(threads: int, blocks: int, occupancy: float) -> None:
    found = of_block(threads_x=threads)
    assert found["by_threads"] == blocks
    assert found["occupancy"] == pytest.approx(occupancy)
    assert found["warps"] == threads / 32


def test_blocks_of_the_grid_and_waves() -> None:
    found = of_block(threads_x=16, threads_y=8, work_x=4, work_y=2, extents={"extent_x": 1000, "extent_y": 100})
    blocks = np.ceil(1000 / 64) * np.ceil(100 / 16)
    assert found["blocks"] == pytest.approx(np.log2(blocks))
    assert found["padding"] == pytest.approx(1 - 1000 * 100 / (1024 * 112))
    assert found["work"] == 3
    assert found["area"] == 10
    assert found["width"] == -1
    assert found["idle_lanes"] == 0
    assert found["blocks_per_unit"] == pytest.approx(np.log2(blocks / 108))
    resident = min(2048 // 128, 32, 65536 // (128 * (32 + 2 * 8)))
    waves = blocks / (108 * resident)
    assert found["waves"] == pytest.approx(np.log2(waves))
    assert found["last_wave"] == pytest.approx(np.log2(np.ceil(waves) / waves))


def test_tiles_of_a_matrix_product_and_unknown_devices() -> None:
    found = of_block(tile_x=128, tile_y=64, tile_k=32, warps=4, stages=2)
    assert found["threads"] == 7
    assert found["by_shared"] == pytest.approx(np.log2(164 * 1024 / ((128 + 64) * 32 * 2 * 4)))
    unknown = of_block(np.full((1, 6), np.nan), threads_x=48)
    assert unknown["idle_lanes"] == pytest.approx(1 - 48 / 64)  # a warp of 32 is assumed
    assert np.isnan(unknown["occupancy"])
    assert np.isnan(of_block(threads_x=0)["threads"])


def test_names_are_recognised() -> None:
    names = ("BLOCK_SIZE_X", "tile_size_y", "num_warps", "other", "block_size_x")
    assert gpu.recognised(names) == {"threads_x": 0, "warps": 2, "work_y": 1}
    assert gpu.applies(gpu.recognised(names))
    assert not gpu.applies(gpu.recognised(("tile_size_y",)))
    assert gpu.recognised(("m", "n", "k"), gpu.EXTENTS) == {"extent_x": 0, "extent_y": 1}


# --- tables -----------------------------------------------------------------------------------------------------------

ROLES = Roles(("prog",), ("a", "b", "kind"), "time", test={"prog": ("p3",)}, valid={"prog": ("p2",)})


def table_of(frame: pl.DataFrame, roles: Roles = ROLES) -> Table:
    return make_table("t", roles, [(None, Path("t"), frame)], Path("table.toml"))


def test_a_table_may_have_one_group_without_a_name() -> None:
    table = table_of(made_rows(1, 30), Roles((), ("a", "b", "kind"), "time"))
    features = TableFeatures(table)
    assert np.isnan(features(table.frame, table.groups)[:, -1]).all()  # no history
    again = read_rows(made_rows(1, 30), features.roles)
    assert np.isfinite(features(again.frame, again.groups)[:, -1]).all()


def test_saved_rows_restore_the_features(tmp_path: Path) -> None:
    table = table_of(made_rows(4, 20))
    features = TableFeatures(table)
    save_known_rows(tmp_path, features.known)
    again = known_features(tmp_path)
    assert again.schema.hash == features.schema.hash
    saved, roles = read_table(tmp_path).roles, table.roles
    assert (saved.target, saved.unit, saved.direction) == (roles.target, roles.unit, roles.direction)
    np.testing.assert_array_equal(again(table.frame, table.groups), features(table.frame, table.groups))
    changed = replace(table, cost=table.cost * 2)
    assert TableFeatures(changed).schema.hash != features.schema.hash


def test_training_rows_do_not_see_their_own_costs() -> None:
    """And validation rows none but those of training, so that all are predicted as new groups are."""
    frame = made_rows(4, 20)
    table = table_of(frame)
    for number in (0, 2):
        group = table.groups[number]
        changed = replace(table, cost=np.where(np.arange(80) // 20 == number, table.cost[::-1], table.cost))
        before, after = (
            TableFeatures(each)(table.frame[group.start : group.stop], [group]) for each in (table, changed)
        )
        np.testing.assert_array_equal(before, after)


def test_values_that_training_lacks_and_missing_ones() -> None:
    frame = made_rows(4, 20)
    features = TableFeatures(table_of(frame))
    rows = frame.drop("time").with_columns(kind=pl.lit("new"), b=pl.lit(None))
    X = features((table := read_rows(rows, ROLES)).frame, table.groups)
    columns = dict(zip(features.schema.names, X.T, strict=True))
    assert np.isnan(columns["config.kind"]).all()
    assert np.isnan(columns["config.b"]).all()
    assert np.isfinite(columns["history.rank"]).all()


def test_values_of_other_types() -> None:
    """Numbers and booleans may be written as strings, infinite numbers are missing, words are refused."""
    frame = made_rows(4, 20).with_columns(flag=pl.int_range(80) % 3 == 0)
    features = TableFeatures(table_of(frame, replace(ROLES, config=("a", "b", "kind", "flag"))))

    def of(**changes: pl.Expr) -> np.ndarray:
        table = read_rows(frame.with_columns(**changes), features.roles)
        return features(table.frame, table.groups)

    np.testing.assert_array_equal(of(), of(a=pl.col("a").cast(pl.String), flag=pl.col("flag").cast(pl.String)))
    np.testing.assert_array_equal(of(), of(flag=pl.col("flag").cast(pl.Int8), kind=pl.col("kind").cast(pl.Categorical)))
    np.testing.assert_array_equal(of(b=pl.lit(None)), of(b=pl.lit(float("inf"))))
    with pytest.raises(
        DataError, match="column 'a' holds 'many'; expected numbers or booleans, as in the training rows"
    ):
        of(a=pl.lit("many"))


def test_values_that_no_training_row_has_are_named() -> None:
    features = TableFeatures(table := table_of(made_rows(4, 10)))
    assert not list(features.unseen(table.frame))
    a, kind = pl.Series([1, None]), pl.Series(["x", "w"])
    assert list(features.unseen(table.frame[:2].with_columns(a=a, kind=kind))) == [
        "1 rows have no 'a', which all training rows have",
        "1 rows have 'kind' 'w', which no training row has: it counts as missing",
    ]


def test_many_levels_have_no_columns_but_history() -> None:
    frame = made_rows(4, 50).with_columns(kind=pl.Series([f"c{row % 45}" for row in range(200)]))
    table = table_of(frame)
    features = TableFeatures(table)
    assert not any("=" in name for name in features.schema.names)
    assert np.isfinite(features(table.frame, table.groups)[:, features.schema.names.index("history.rank")]).all()


def test_unknown_devices_are_a_warning() -> None:
    names = {"p0": "A100", "p1": "A10o", "p2": "my board", "p3": "H100"}
    frame = made_rows(4, 10).with_columns(device=pl.col("prog").replace(names))
    roles = replace(ROLES, group=("device",), device="device", test={"device": ("H100",)}, valid={})
    message = (
        r"unknown device 'A10o'; did you mean .*A100.* \(and 1 more unknown devices\); features of this device are"
    )
    with pytest.warns(GbrWarning, match=message) as caught:
        features = TableFeatures(table := table_of(frame, roles))
    assert len(caught) == 1
    X = features(table.frame, table.groups)
    units = X[:, features.schema.names.index("device.units")]
    assert np.isnan(units[table.frame["device"].to_numpy() == "A10o"]).all()
    assert (units[table.frame["device"].to_numpy() == "H100"] == 132).all()


def test_figures_in_the_context_tell_which_unknown_devices_are_alike() -> None:
    frame = made_rows(3, 10).with_columns(bandwidth_gbs=pl.col("prog").replace_strict({"p0": 90.0, "p1": 900, "p2": 9}))
    roles = replace(ROLES, context=("bandwidth_gbs",), test={"prog": ("p2",)}, valid={})
    features = TableFeatures(table := table_of(frame, roles))
    assert "context.bandwidth_gbs" in features.schema.names
    for group, figure in (("p0", 120.0), ("p1", 800.0)):
        rows = table.frame.filter(prog=group).with_columns(prog=pl.lit("p2"), bandwidth_gbs=pl.lit(figure))
        ranks = rankdata(table.cost[table.frame["prog"].to_numpy() == group])
        first, second = (np.corrcoef(each, ranks)[0, 1] for each in features.by_group(rows)[0])
        assert first > 0.99 > second  # rows are in their own group, and near some in the other one


# --- rows to rank -----------------------------------------------------------------------------------------------------


def test_rows_to_rank(tmp_path: Path) -> None:
    frame = made_rows(3, 4)[::-1].drop("time")
    frame.write_csv(path := tmp_path / "rows.csv")
    table = read_rows(path, ROLES)
    assert [(group.name, group.split, group.stop - group.start) for group in table.groups] == [
        ("p0", "", 4), ("p1", "", 4), ("p2", "", 4)
    ]  # fmt: skip
    assert table.frame.equals(frame[table.row])
    for source in (frame, frame.to_pandas(), frame.to_arrow(), str(path)):
        assert read_rows(source, ROLES).frame.equals(table.frame)
    assert read_rows(frame.with_columns(note=pl.lit(1)), ROLES).notes == (
        "rows: columns that the model does not use: 'note'",
    )


def test_columns_of_several_types_are_strings() -> None:
    columns: dict[str, list[Any]] = {
        "prog": ["p0"] * 3, "a": [1, 2, 3], "b": [1.0, 2.5, 4.0], "kind": ["x", "y", "z"],
        "time": [2.5, "failed", np.nan], "times": [[1.0], [], None],
    }  # fmt: skip
    for source in (columns, pd.DataFrame(columns), pd.DataFrame(columns, dtype=object)):
        table = read_rows(source, ROLES, measured=True)
        np.testing.assert_array_equal(table.cost, [2.5, np.inf, np.nan])
        assert table.frame["a"].to_list() == [1, 2, 3]
        assert table.frame["kind"].to_list() == ["x", "y", "z"]


def test_rows_that_do_not_fit() -> None:
    frame = made_rows(3, 4)
    with pytest.raises(DataError, match="rows: no column 'kind', which the model needs; did you mean 'kinds'"):
        read_rows(frame.rename({"kind": "kinds"}), ROLES)
    with pytest.raises(DataError, match="no rows"):
        read_rows(frame[:0], ROLES)
    with pytest.raises(UsageError, match="expected a path or a data frame, got int"):
        read_rows(3, ROLES)
    assert read_rows(frame.lazy(), ROLES).frame.equals(read_rows(frame, ROLES).frame)


# --- structured strings and devices that can be chosen ----------------------------------------------------------------


def structured(strings: list[str], devices: list[str] | None = None) -> Table:
    """Two groups of the same configurations."""
    frame = pl.DataFrame({"group": ["a"] * len(strings) + ["b"] * len(strings), "net": strings * 2})
    if devices is not None:
        frame = frame.with_columns(pl.Series("device", devices * 2))
    frame = frame.with_columns(time=pl.int_range(1, len(frame) + 1).cast(pl.Float64))
    config = ("net",) if devices is None else ("net", "device")
    roles = Roles(("group",), config, "time", device=None if devices is None else "device")
    return make_table("t", roles, [(None, Path("t.csv"), frame)], Path("table.toml"))


def test_words_of_structured_strings_are_parameters() -> None:
    ops = ("conv", "skip", "pool")
    strings = [f"|{a}~0|+|{b}~0|{number}~1|" for a in ops for b in ops for number in range(4)]
    table = structured(strings)
    features = TableFeatures(table)
    configs = features.configs(table.frame)
    assert configs.columns == ["net[0]", "net[2]", "net[4]"]
    assert configs["net[0]"].to_list()[:12] == ["conv"] * 12
    assert configs["net[4]"].to_list()[:5] == [0, 1, 2, 3, 0]
    names = list(features.schema.names)
    X = features(table.frame, table.groups)
    for op in ops:
        counts = X[:, names.index(f"config.net: {op}")]
        np.testing.assert_array_equal(counts, [each.count(op) for each in strings * 2])
    new = table.frame.with_columns(net=pl.lit("|conv~0|+|other~0|")).head(len(strings))  # unknown and missing words
    assert np.isnan(features(new, table.groups[:1])[:, names.index("config.net[2]")]).all()


@pytest.mark.parametrize("strings", [["a b", "c d"] * 20, [f"x {n}" for n in range(40)], ["a", *"bcdefg" * 6]])
def test_other_strings_are_categories(strings: list[str]) -> None:
    table = structured(strings)
    assert TableFeatures(table).configs(table.frame).columns == ["net"]


def test_figures_of_a_device_that_can_be_chosen() -> None:
    table = structured(["x", "y", "x", "y"], ["A100", "A100", "V100", "V100"])
    features = TableFeatures(table)
    X = features(table.frame, table.groups)
    bandwidth = X[:, list(features.schema.names).index("config.device.bandwidth_gbs")]
    assert (bandwidth[:2] > bandwidth[2:4]).all()
    assert not any(name.startswith("device.") for name in features.schema.names)
