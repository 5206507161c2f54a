"""Trees that come from a file: whole trees, or no model.

LightGBM and XGBoost trust what they read: a child that is its own ancestor hangs them, an index out of range reads
memory that is not theirs.  A checksum tells an accident, not a manifest that was edited along with it.  So the trees of
a model are checked here before a library sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

_END: Final = "\nend of trees\n"
#: No table is wider.
MAX_COLUMNS: Final = 1 << 24
#: Leaves beyond it are no model of runtimes; below it no sum of leaves overflows.
_HIGHEST: Final = 1e30
#: Lines before the trees in LightGBM's text, as a model of one score has them: it sizes its outputs by them.  A model
#: whose loss is not LightGBM's own names no objective.
_HEAD: Final = {
    "version": "v[34]",
    "num_class": "1",
    "num_tree_per_iteration": "1",
    "label_index": "[0-9]{1,9}",
    "max_feature_idx": "[0-9]{1,9}",
    "objective": r"(lambdarank|regression( sqrt)?|binary sigmoid:[0-9.e+-]{1,40})?",
}
#: What follows them; it takes the parameters apart without a look at their form.
_TAIL: Final = re.compile(
    r"(\nfeature_importances:\n([^\s=]+=[0-9.e+-]+\n)*)?"
    r"(\nparameters:\n(\[[a-z0-9_]+: [^\n]*\]\n)*\nend of parameters\n)?"
    r"(\npandas_categorical:null\n?)?"
)
#: Lines of a tree in LightGBM's text with one word per split, and those with one per leaf.
_PER_SPLIT: Final = "split_feature split_gain threshold decision_type left_child right_child internal_value internal_weight internal_count".split()  # noqa: E501
_PER_LEAF: Final = "leaf_value leaf_weight leaf_count leaf_const num_features".split()
_OTHERS: Final = "num_leaves num_cat cat_boundaries cat_threshold is_linear leaf_features leaf_coeff shrinkage".split()
_CATEGORICAL: Final = 1

#: Arrays of a tree in XGBoost's JSON with one number per node.
_PER_NODE: Final = "base_weights default_left left_children loss_changes parents right_children split_conditions split_indices split_type sum_hessian".split()  # noqa: E501
_CATEGORIES: Final = ("categories", "categories_nodes", "categories_segments", "categories_sizes")


def lightgbm_text(text: str) -> str:
    """Check the trees of a model in LightGBM's text.

    Returns
    -------
    str
        The model, without the places of its trees in the text, which would be believed.

    Raises
    ------
    ValueError
        When they are no trees, or ask for columns that the model has not.
    """
    head, _, rest = text.partition("\nTree=0\n")
    body, end, tail = rest.partition(_END)
    lines = [line for line in head.split("\n") if not line.startswith("tree_sizes=")]
    if not rest or lines[0] != "tree":
        raise ValueError("no trees of LightGBM")
    trees = [_fields(tree) for tree in re.split(r"\n+Tree=\d+\n", body)]
    _check_lightgbm(trees, _columns(lines))
    if not end:
        raise ValueError("its last tree is cut off")
    if not _TAIL.fullmatch(tail):
        raise ValueError("what follows its trees is no list of parameters")
    return "\n".join(lines) + "\n\nTree=0\n" + body + end + tail


def xgboost_json(data: bytes) -> bytes:
    """Check the trees of a model in XGBoost's JSON.

    Returns
    -------
    bytes
        The model, written anew: what the library parses is what was checked.

    Raises
    ------
    ValueError
        When they are no trees, or ask for columns that the model has not.
    """
    try:
        whole = json.loads(data)
        learner = whole["learner"]
        booster = learner["gradient_booster"]
        trees, info = booster["model"]["trees"], booster["model"]["tree_info"]
        n_columns = int(learner["learner_model_param"]["num_feature"])
        if booster["name"] != "gbtree" or len(trees) != len(info) or any(info) or not 0 < n_columns <= MAX_COLUMNS:
            raise ValueError("no trees for one score")
        _check_learner(learner, len(trees), n_columns)
        for number, tree in enumerate(trees):
            _check_xgboost(number, tree, n_columns)
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as fault:
        raise ValueError(f"no model of XGBoost ({type(fault).__name__}: {fault})") from fault
    return json.dumps(whole).encode()


def _columns(head: Sequence[str]) -> int:
    """Columns that a model in LightGBM's text takes, whose lines before its trees are whole."""
    pairs = [line.partition("=") for line in head[1:] if line]
    told = {key: value for key, _, value in pairs}
    if len(told) < len(pairs) or not told.keys() <= {*_HEAD, "feature_names", "feature_infos", "monotone_constraints"}:
        raise ValueError("lines before its trees that no model has")
    for key, wanted in _HEAD.items():
        if not re.fullmatch(wanted, told.get(key, "")):
            raise ValueError(f"{key}={told.get(key, '')[:40]}")
    found = int(told["max_feature_idx"]) + 1
    if found > MAX_COLUMNS:
        raise ValueError(f"{found} columns")
    for key in ("feature_names", "feature_infos", "monotone_constraints"):
        n_words = len(told.get(key, "").split())
        if n_words != found and (n_words or key != "monotone_constraints"):
            raise ValueError(f"{key} of {found} columns has {n_words} values")
    return found


def _fields(tree: str) -> dict[str, str]:
    pairs = [line.partition("=") for line in tree.split("\n") if line]
    fields = {key: value for key, _, value in pairs}
    if len(fields) < len(pairs) or not fields.keys() <= {*_PER_SPLIT, *_PER_LEAF, *_OTHERS}:
        raise ValueError("a tree has lines that no tree has")
    return fields


def _check_lightgbm(trees: Sequence[dict[str, str]], n_columns: int) -> None:
    leaves = _integers([tree.get("num_leaves", "") for tree in trees])
    if len(leaves) != len(trees) or (leaves < 1).any():
        raise ValueError("a tree without leaves")
    for tree, n_leaves in zip(trees, leaves.tolist(), strict=True):
        for keys, count in ((_PER_SPLIT, n_leaves - 1), (_PER_LEAF, n_leaves)):
            for key in keys:
                n_words = len(tree.get(key, "").split())
                # A tree of one leaf is written without the leaf's statistics.
                if key in tree and n_words != count and (n_words or n_leaves > 1 or key == "leaf_value"):
                    raise ValueError(f"{key} of a tree with {n_leaves} leaves has {n_words} values")
        _check_extras(tree, n_columns)
    grown = [tree for tree, n_leaves in zip(trees, leaves.tolist(), strict=True) if n_leaves > 1]
    needed = ("split_feature", "threshold", "decision_type", "left_child", "right_child", "leaf_value")
    if any(key not in tree for tree in grown for key in needed) or any("leaf_value" not in tree for tree in trees):
        raise ValueError("a tree lacks its splits")
    leaf_values = np.array(" ".join(tree["leaf_value"] for tree in trees).split(), np.float64)
    if not (np.abs(leaf_values) <= _HIGHEST).all():
        raise ValueError("a leaf of a tree is beyond all values")
    _in_range("split_feature", _integers([tree["split_feature"] for tree in grown]), 0, n_columns - 1)
    for tree in grown:
        left, right = _integers([tree["left_child"]]), _integers([tree["right_child"]])
        splits = np.arange(len(left))
        children = np.sort(np.concatenate([left, right]))
        # Splits are numbered as they were made, so a child comes after its parent: no way leads back.
        if not np.array_equal(children, [*range(-len(left) - 1, 0), *range(1, len(left))]):
            raise ValueError("the children of a tree are not each one's own")
        if ((left >= 0) & (left <= splits) | (right >= 0) & (right <= splits)).any():
            raise ValueError("a tree has a child before its parent")


def _check_extras(tree: dict[str, str], n_columns: int) -> None:
    """Check the categories and the linear leaves of a tree."""
    decisions = _integers([tree.get("decision_type", "")])
    _in_range("decision_type", decisions, 0, 255)
    n_cat = int(tree.get("num_cat", "0"))
    categorical = (decisions & _CATEGORICAL) > 0
    if n_cat or categorical.any():
        bounds = _integers([tree.get("cat_boundaries", "")])
        words = _integers([tree.get("cat_threshold", "")])
        which = np.array(tree.get("threshold", "").split(), np.float64)[categorical]
        if len(bounds) != n_cat + 1 or bounds[0] or (np.diff(bounds) < 0).any() or bounds[-1] != len(words):
            raise ValueError("the categories of a tree do not fit")
        _in_range("category", which.astype(np.int64), 0, n_cat - 1)
    linear = int(tree.get("is_linear", "0"))
    if linear:
        columns, counts = _integers([tree.get("leaf_features", "")]), _integers([tree.get("num_features", "")])
        _in_range("leaf_features", columns, 0, n_columns - 1)
        if (
            (counts < 0).any()
            or counts.sum() != len(columns)
            or len(tree.get("leaf_coeff", "").split()) != len(columns)
        ):
            raise ValueError("the linear leaves of a tree do not fit")


def _check_learner(learner: dict[str, Any], n_trees: int, n_columns: int) -> None:
    """Check what stands around the trees: the library sizes its outputs by it, and finds the trees of a round."""
    model, param = learner["gradient_booster"]["model"], learner["learner_model_param"]
    base = float(param["base_score"].removeprefix("[").removesuffix("]"))
    if param["num_class"] != "0" or param.get("num_target", "1") != "1" or not abs(base) <= _HIGHEST:
        raise ValueError("no model of one score")
    if learner["feature_names"] or len(types := learner["feature_types"]) not in (0, n_columns) or "c" in types:
        raise ValueError("columns have names or categories, which gbr does not train")
    if any(model.get("cats", {}).values()):
        raise ValueError("the model has categories, which gbr does not train")
    side_by_side = int(model["gbtree_model_param"]["num_parallel_tree"])
    if not 0 < side_by_side <= max(1, n_trees) or int(model["gbtree_model_param"]["num_trees"]) != n_trees:
        raise ValueError("its trees are not as many as it says")
    if model["iteration_indptr"] != list(range(0, n_trees + 1, side_by_side)) or n_trees % side_by_side:
        raise ValueError("its rounds are not made of its trees")


def _check_xgboost(number: int, tree: dict[str, Any], n_columns: int) -> None:
    known = {*_PER_NODE, *_CATEGORIES, "id", "tree_param"}
    param = {key: int(value) for key, value in tree["tree_param"].items()}
    n = param["num_nodes"]
    if not tree.keys() <= known or tree["id"] != number or any(len(tree[key]) != n for key in _PER_NODE):
        raise ValueError(f"tree {number} is not whole")
    if param["num_feature"] != n_columns or param["num_deleted"] or param["size_leaf_vector"] > 1:
        raise ValueError(f"tree {number} is for other columns")
    if any(tree[key] for key in _CATEGORIES) or any(tree["split_type"]):
        raise ValueError(f"tree {number} has categories, which gbr does not train")
    left, right = (np.asarray(tree[key], np.int64) for key in ("left_children", "right_children"))
    split = np.flatnonzero(left >= 0)
    children = np.concatenate([left[split], right[split]])
    if not np.array_equal(np.sort(children), np.arange(1, n)) or (right[left < 0] != -1).any():
        raise ValueError(f"the children of tree {number} are not each one's own")
    parents = np.full(n, -1, np.int64)
    parents[children] = np.concatenate([split, split])
    if (parents >= np.arange(n)).any() or (np.asarray(tree["parents"], np.int64)[1:] != parents[1:]).any():
        raise ValueError(f"tree {number} has a child before its parent")
    _in_range("split_indices", np.asarray(tree["split_indices"], np.int64), 0, n_columns - 1)
    for key in ("split_conditions", "base_weights"):
        values = np.asarray(tree[key], np.float64)
        if not np.isfinite(values).all() or (np.abs(values[left < 0]) > _HIGHEST).any():
            raise ValueError(f"{key} of tree {number} are not finite")


def _integers(lines: Sequence[str]) -> IntArray:
    """Whole numbers of some lines, one after the other, int64."""
    try:
        return np.array(" ".join(lines).split(), dtype=object).astype(np.int64)
    except OverflowError as fault:
        raise ValueError(f"a number of a tree takes more than 64 bits ({fault})") from fault


def _in_range(name: str, values: IntArray, low: int, high: int) -> None:
    outside = (values < low) | (values > high)
    if outside.any():
        raise ValueError(f"{name} {values[outside][0]} of a tree, want {low} to {high}")
