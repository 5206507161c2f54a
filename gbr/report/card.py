"""The model card ``MODEL.md`` of a run directory: what a model was trained on, how well it ranks, and its limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gbr.data.collection import TABLE, things
from gbr.evaluation.figures import Figures
from gbr.models.params import GUARANTEED_FOLDS

CARD: Final = "MODEL.md"
#: Fewer scored groups are named as a limit.
_FEW: Final = 30


def model_card(manifest: Mapping[str, Any], figures: Figures) -> str:
    """The card as Markdown, from the manifest of a model and its figures."""
    trained, settings = manifest["trained_on"], manifest["settings"]
    kind, splits = trained["kind"], [split for split in ("train", "valid", "test") if split in figures]
    groups = things(kind)
    counts = ", ".join(f"{figures[split]['n_graphs']:,} {split}" for split in splits)
    hardware = "as in the table" if kind == TABLE else f"`{json.dumps(trained['hardware'])}`"
    sampled = f", at most {trained['sample']:,} of each" if trained["sample"] else ""
    model = f"{settings['backend']}, objective {settings['objective']}"
    if settings["backend"] == "prior":
        model = "LightGBM that starts from the order of the history of other groups, and corrects it (`prior`)"
    about = {
        "Trained on": f"`{trained['subset']}`, {trained['rows']:,} distinct configurations{sampled}",
        "Scored " + groups: counts,
        "Hardware": hardware,
        "Model": f"{model}, {manifest['best_iteration']:,} rounds",
        "Features": f"{manifest['features']['count']} columns, schema {trained['schema_hash']}",
        "Seed": manifest["seed"],
        "Versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        "Data": ", ".join(f"{split} {digest}" for split, digest in trained["data"].items()),
        "Model file": f"`{manifest['model']['file']}`",
    }
    lines = [f"# Model of {trained['subset']}", "", "Written by `gbr.train`.", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "## Use", ""]
    lines += [f"It orders the configurations within one of the {groups}, predicted fastest first. Load it with"]
    lines += ["`gbr.Ranker.load`, or pass its folder as `--model`.", "", "## Figures", ""]
    for title, columns, rows in Figures.tables(figures, splits[::-1]):
        lines += [title, "", _row(columns), _row(["---", *["---:"] * (len(columns) - 1)])]
        lines += [*map(_row, rows), ""]
    lines += ["tau is Kendall's: 1 is the measured order, 0 is chance. slowdown@K is how much slower the best of the K"]
    lines += ["configurations ranked first is than the best of all. Intervals are of the mean.", "", "## Limits", ""]
    text = "\n".join([*lines, *(f"- {limit}" for limit in _limits(manifest, figures)), ""])
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may be no valid text


def _limits(manifest: Mapping[str, Any], figures: Figures) -> list[str]:
    trained = manifest["trained_on"]
    kind = trained["kind"]
    groups = things(kind)
    if manifest["settings"]["objective"] == "runtime":
        limits = [f"Predicted runtimes and their intervals hold for {groups} like those it was trained on."]
        if (folds := trained.get("folds")) and folds < GUARANTEED_FOLDS:
            limits.append(f"Only {folds} folds were held out in turn: intervals are estimates, without a guarantee.")
    else:
        limits = [f"Scores are no runtimes: only their order within one of the {groups} has a meaning."]
    if kind == TABLE:
        limits.append("It ranks tables with the columns of its training table; it knows no programs.")
    else:
        limits.append(
            f"It learned from runtimes on `{trained['hardware']['name']}`; on other hardware its order may be no "
            "better than chance."
        )
    limits.append("Train figures are of data that the model was fitted on, and say nothing of others.")
    if "valid" in figures:
        again = ", and the model that is kept was fitted on it as well" if trained["fitted_on_valid"] else ""
        limits.append(f"Valid chose columns and rounds{again}: its figures are optimistic.")
    limits += Figures.beaten(figures, ("test", "valid"))
    held_out = "test" if "test" in figures else "valid" if "valid" in figures else None
    if held_out is None:
        limits.append(f"No held-out {groups} were scored: its quality elsewhere is unknown.")
        return limits
    taus = {name: graph["kendall_tau"] for name, graph in figures[held_out]["graphs"].items()}
    if taus:
        worst = min(taus, key=lambda name: taus[name])
        limits.append(f"Quality varies: tau of {held_out} is lowest for {worst!a}, {taus[worst]:.3f}.")
    if len(taus) < _FEW:
        limits.append(f"Only {len(taus)} {groups} of {held_out} were scored: the figures are uncertain.")
    return limits


def _row(cells: Any) -> str:
    return f"| {' | '.join(cell or '' for cell in cells)} |"
