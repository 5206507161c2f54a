"""Trees from files: whole ones pass unchanged, damaged ones never reach a library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb

from gbr.models.forest import lightgbm_text, xgboost_json

RNG = np.random.default_rng(0)
X = np.column_stack([RNG.random((300, 5)), RNG.integers(0, 12, 300)])
Y = X[:, 0] + X[:, 1] * X[:, 2] + np.sin(X[:, 5])


def booster(categorical: list[int] | None = None, rounds: int = 4, **params: Any) -> lgb.Booster:
    data = lgb.Dataset(X, Y, categorical_feature=categorical or "auto")
    return lgb.train({"verbose": -1, "num_leaves": 8, "num_threads": 1, "seed": 0} | params, data, rounds)


TEXT = booster().model_to_string()
FOREST = bytes(
    xgb.train({"max_leaves": 8, "nthread": 1, "grow_policy": "lossguide"}, xgb.DMatrix(X, Y, nthread=1), 4).save_raw(
        "json"
    )
)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"linear_tree": True},
        {"categorical": [5], "min_data_per_group": 5},
        {"min_data_in_leaf": 200},  # no split at all
        {"rounds": 1},
    ],
    ids=["plain", "linear", "categorical", "stumps", "one tree"],
)
def test_whole_trees_of_lightgbm_pass(given: dict[str, Any]) -> None:
    whole = booster(**given)
    again = lgb.Booster(model_str=lightgbm_text(whole.model_to_string()))
    np.testing.assert_array_equal(again.predict(X, num_threads=1), whole.predict(X, num_threads=1))
    assert again.model_to_string() == whole.model_to_string()


def test_whole_trees_of_xgboost_pass() -> None:
    again = xgb.Booster()
    again.load_model(bytearray(xgboost_json(FOREST)))
    assert bytes(again.save_raw("json")) == FOREST


def line(key: str, change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    """Change the words of the first line of this name."""

    def damage(text: str) -> str:
        found = re.search(rf"^{key}=(.*)$", text, re.MULTILINE)
        assert found
        return text[: found.start(1)] + " ".join(change(found[1].split())) + text[found.end(1) :]

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda _: "", "no trees of LightGBM"),
        (lambda text: text[: len(text) // 2], "has [0-9]+ values|cut off|lacks|lines that no tree has"),
        (line("left_child", lambda words: ["0", *words[1:]]), "not each one's own"),
        (line("right_child", lambda words: [*words[:-1], "99"]), "not each one's own"),
        (line("left_child", lambda words: words[:-1]), "left_child of a tree with 8 leaves has 6 values"),
        (line("num_leaves", lambda _: ["1000000000"]), "values"),
        (line("num_leaves", lambda _: ["-1"]), "without leaves"),
        (line("split_feature", lambda words: ["6", *words[1:]]), "split_feature 6 of a tree, want 0 to 5"),
        (line("split_feature", lambda words: ["-1", *words[1:]]), "split_feature -1"),
        (line("max_feature_idx", lambda _: ["1"]), "feature_names of 2 columns has 6 values"),
        (line("max_feature_idx", lambda _: ["99999999999"]), "max_feature_idx=99999999999"),
        (line("max_feature_idx", lambda _: ["99999999"]), "100000000 columns"),
        (line("num_class", lambda _: ["3"]), "num_class=3"),
        (line("num_tree_per_iteration", lambda _: ["2"]), "num_tree_per_iteration=2"),
        (line("objective", lambda _: ["multiclass", "num_class:9"]), "objective=multiclass num_class:9"),
        (lambda text: text.replace("label_index=", "average_output\nlabel_index="), "lines before its trees"),
        (line("leaf_value", lambda words: ["nan", *words[1:]]), "beyond all values"),
        # This one made LightGBM read memory that is not its own.
        (lambda text: text.replace("[data: ]", "[data]"), "no list of parameters"),
        (lambda text: text.replace("\nend of parameters", ""), "no list of parameters"),
        (line("decision_type", lambda words: ["1", *words[1:]]), "categories of a tree do not fit"),
        (line("num_cat", lambda _: ["3"]), "categories of a tree do not fit"),
        (line("leaf_value", lambda words: words * 2), "leaf_value of a tree with 8 leaves has 16 values"),
        (lambda text: text.replace("shrinkage=", "leaf_value=1\nshrinkage=", 1), "lines that no tree has"),
        (lambda text: text.replace("split_gain=", "unheard_of=", 1), "lines that no tree has"),
        (line("threshold", lambda _: []), "threshold of a tree"),
    ],
)
def test_damaged_trees_of_lightgbm_are_refused(damage: Callable[[str], str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        lightgbm_text(damage(TEXT))


def test_a_ring_of_children_is_refused() -> None:
    """Each child is somebody's and only once, and yet there is no way out: a library would go round for ever."""
    text = line("left_child", lambda _: ["2", "-1", "1"])(booster(num_leaves=4).model_to_string())
    text = line("right_child", lambda _: ["-2", "-3", "-4"])(text)
    with pytest.raises(ValueError, match="a child before its parent"):
        lightgbm_text(text)


def at(*path: str | int, value: object) -> Callable[[Any], None]:
    """Set one place of a model."""

    def damage(whole: Any) -> None:
        for key in path[:-1]:
            whole = whole[key]
        whole[path[-1]] = value

    return damage


MODEL = ("learner", "gradient_booster", "model")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (at(*MODEL, "trees", 0, "left_children", 0, value=0), "not each one's own"),
        (at(*MODEL, "trees", 0, "right_children", 0, value=999), "not each one's own"),
        (at(*MODEL, "trees", 0, "split_indices", 0, value=6), "split_indices 6 of a tree, want 0 to 5"),
        (at(*MODEL, "trees", 0, "parents", 1, value=5), "child before its parent"),
        (at(*MODEL, "trees", 0, "split_conditions", value=[]), "tree 0 is not whole"),
        (
            at(*MODEL, "trees", 0, "split_conditions", 0, value=float("nan")),
            "split_conditions of tree 0 are not finite",
        ),
        (at(*MODEL, "trees", 1, "id", value=0), "tree 1 is not whole"),
        (at(*MODEL, "trees", 0, "categories", value=[1]), "has categories"),
        (at(*MODEL, "trees", 0, "tree_param", "num_nodes", value="-1"), "tree 0 is not whole"),
        (at(*MODEL, "trees", 0, "tree_param", "num_feature", value="7"), "for other columns"),
        (at(*MODEL, "tree_info", value=[0]), "no trees for one score"),
        (at("learner", "learner_model_param", "num_feature", value="0"), "no trees for one score"),
        (at("learner", "gradient_booster", "name", value="dart"), "no trees for one score"),
        (at("learner", "gradient_booster", value=[]), "no model of XGBoost"),
        (at("learner", value=None), "no model of XGBoost"),
    ],
)
def test_damaged_trees_of_xgboost_are_refused(damage: Callable[[Any], None], told: str) -> None:
    whole = json.loads(FOREST)
    damage(whole)
    with pytest.raises(ValueError, match=told):
        xgboost_json(json.dumps(whole).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b"null"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|no model of XGBoost|decode"):
        xgboost_json(data)
