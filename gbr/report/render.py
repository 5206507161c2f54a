"""From the figures of a run to what a person reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from gbr.data.files import write_text
from gbr.errors import UsageError
from gbr.evaluation import data_quality
from gbr.evaluation.metrics import TOP
from gbr.evaluation.scoring import BASELINE_NAMES
from gbr.report import plots

#: Looks of the lines of a learning curve after the first.
_STYLES: Final = ("second", "third dashed", "fourth dotted", "thin")


def page(summary: dict[str, Any]) -> str:
    """Fill the template of a run's report.

    Parameters
    ----------
    summary : dict
        Of :func:`gbr.report.report.summarise_run`.

    Returns
    -------
    str
        One HTML file with all it needs inside.
    """
    kind = summary["kind"]
    splits = [split for split in summary["splits"] if split["graphs"]]
    learning = summary["learning"]
    return _filled(
        "report.html",
        summary=summary,
        kind=kind,
        thing="kernel" if kind == "tile" else "program",
        things="kernels" if kind == "tile" else "programs",
        hero=_hero(summary),
        headline=[_headline(name, figures, kind) for name, figures in summary["figures"].items()],
        tau_up={split["name"]: _tau_scale(split["graphs"], flip=True) for split in splits},
        tau_across={split["name"]: _tau_scale(split["graphs"], flip=False) for split in splits},
        budget_scales={split["name"]: _budget_scales(split["budget"]) for split in splits},
        budget_words={split["name"]: _budget_words(split["budget"]) for split in splits},
        any_retest=any(split["budget"]["retest"] for split in splits),
        learning_scales=_learning_scales(learning) if learning else None,
        data_rows=_data_rows(summary["data"]),
        n_jumps=sum(split["jumps"] for split in summary["data"]),
        refused=[
            (name, graph, why)
            for name, figures in summary["figures"].items()
            for graph, why in figures["skipped"].items()
        ],
        drawn=_drawn(summary),
        styles=_STYLES,
        windows=data_quality.WINDOWS,
        least_t=data_quality.LEAST_T,
        least_shift=data_quality.LEAST_SHIFT,
    )


def prediction_page(summary: dict[str, Any]) -> str:
    """Fill the template of a prediction's report, of :func:`gbr.report.report.summarise_prediction`."""
    scales = []
    for graph in summary["graphs"]:
        histogram = graph["histogram"]
        width, highest = histogram["width"], max(histogram["counts"])
        scales.append((plots.linear(0, width or 1.0), plots.counted(highest, flip=True)))
    return _filled("prediction.html", summary=summary, scales=scales)


def explanation_page(summary: dict[str, Any]) -> str:
    """Fill the template of an explanation's report, of :func:`gbr.report.report.summarise_explanation`."""
    return _filled("explanation.html", summary=summary)


def write(path: Path, text: str) -> None:
    """Write a report, whole or not at all; UsageError where it cannot be written."""
    write_text(path, text, UsageError)


def _filled(template: str, **context: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gbr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "two": _two,
        "three": _three_or_dash,
        "percent": percent,
        "rounded": _rounded,
        "times": _times,
        "short": _short,
    }
    environment.filters["parts"] = _parts
    environment.globals |= {
        "bare": plots.bare, "curve": plots.curve, "rounded": _rounded, "short": _short, "whole": _whole,
    }  # fmt: skip
    return environment.get_template(template).render(**context)


def _parts(name: str) -> list[str]:
    """A graph's name, cut behind its separators."""
    return re.split(r"(?<=[_.:/-])", name)


def _headline(split: str, figures: dict[str, Any], kind: str) -> dict[str, Any]:
    beside = figures["baselines"]
    rows = [("model", figures)] + [(name, beside[key]) for key, name in BASELINE_NAMES.items() if key in beside]
    return {
        "name": split,
        "learnt": figures["learnt"],
        "n_graphs": figures["n_graphs"],
        "skipped": figures["skipped"],
        "top": TOP[kind],
        "rows": [
            {
                "name": name,
                "tau": own.get("kendall_tau"),
                "interval": own.get("kendall_tau_ci"),
                "opa": own.get("opa"),
                "slowdown": {k: own.get(f"slowdown@{k}") for k in TOP[kind]},
                "score": own.get("score"),
            }
            for name, own in rows
        ],
    }


def _hero(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The figures to know when there is time for four."""
    split, figures = next(iter(summary["figures"].items()))
    things = "kernels" if summary["kind"] == "tile" else "programs"
    beside = figures["baselines"]
    told = []
    if figures["kendall_tau"] is not None:
        sure = figures["kendall_tau_ci"]
        ceiling = beside.get("retest", {}).get("kendall_tau")
        told = [
            (
                f"{figures['kendall_tau']:.3f}",
                f"Kendall’s tau over {figures['n_graphs']} {things} of {split}"
                + (f" ({sure[0]:.2f}–{sure[1]:.2f})" if sure else "")
                + (f"; a second measurement reaches {ceiling:.3f}" if ceiling else ""),
            ),
            (
                percent(figures["slowdown@1"]),
                "slower than the best when its first choice is taken"
                + _beside(beside, "default_configuration", "slowdown@1", "the compiler’s default: {}"),
            ),
            (
                percent(figures["slowdown@5"]),
                "slower when its first five are measured"
                + _beside(beside, "random_order", "slowdown@5", "any five: {}"),
            ),
        ]
    flagged = sum(split["jumps"] for split in summary["data"])
    looked_at = sum(split["graphs"] for split in summary["data"])
    told.append((str(flagged), f"of {looked_at:,} {things} have runtimes that jump in blocks"))
    return [{"figure": figure, "says": says} for figure, says in told]


def _beside(baselines: dict[str, Any], name: str, figure: str, text: str) -> str:
    found = baselines.get(name, {}).get(figure)
    return "" if found is None else f" ({text.format(percent(found))})"


def _tau_scale(graphs: list[dict[str, Any]], *, flip: bool) -> plots.Scale:
    shown = [value for graph in graphs for value in (*(graph["interval"] or ()), graph["figures"]["kendall_tau"])]
    lowest = min(0.0, min(shown))
    return plots.linear(max(-1.0, lowest - 0.02 * (lowest < 0)), 1.0, flip=flip)


def _budget_scales(budget: dict[str, Any]) -> tuple[plots.Scale, plots.Scale]:
    # What lies far above the first choice of the model is cut: chance at K = 1 would flatten everything else.
    highest = max(*budget["most"], *budget["model"], min(budget["random"][0], 4 * max(budget["most"])), 0.01)
    return plots.logarithmic(1, max(2, budget["k"][-1])), plots.rooted(highest, flip=True)


def _budget_words(budget: dict[str, Any]) -> str:
    for wanted in (0.01, 0.02, 0.05, 0.1):
        enough = next((k for k, most in zip(budget["k"], budget["most"], strict=True) if most <= wanted), None)
        if enough is not None and enough < budget["k"][-1]:
            return f"With its first {enough} measured, nine of ten are within {_rounded(wanted)} of their best."
    return ""


def _learning_scales(learning: dict[str, Any]) -> tuple[plots.Scale, plots.Scale]:
    taus = [tau for curve in learning["curves"] for tau in curve["tau"]]
    last = max(curve["rounds"][-1] for curve in learning["curves"])
    low, high = min(taus), max(taus)
    margin = max(0.01, 0.06 * (high - low))
    return plots.logarithmic(1, max(2, last)), plots.linear(low - margin, min(1.0, high + margin), 5, flip=True)


def _data_rows(data: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Label and cells of what was found about the runtimes, a column per split."""

    def row(label: str, key: str, text: Any) -> tuple[str, list[str]]:
        return label, ["–" if split[key] is None else text(split[key]) for split in data]

    return [
        row("graphs", "graphs", _whole),
        row("configurations", "configs", _whole),
        row("identical to an earlier one of their graph", "duplicates", percent),
        row("… whose runtimes differ by (median)", "duplicate_spread", percent),
        row("graphs that cannot be ranked", "unrankable", _whole),
        row("slowest over fastest (median)", "spread", _times),
        row(f"graphs where that is below {data_quality.SMALL_SPREAD}", "small_spread", _whole),
        row("tau of a second measurement (mean)", "retest", _two),
        row(f"graphs where that is below {data_quality.LOW_RETEST}", "low_retest", _whole),
        row("graphs whose runtimes jump in blocks", "jumps", _whole),
    ]


def _drawn(summary: dict[str, Any]) -> dict[str, Any]:
    """What the page's script draws."""
    graphs = {
        f"{split['name']}/{graph['name']}": _drawn_graph(graph) | {"facts": _facts(graph)}
        for split in summary["splits"]
        for graph in split["graphs"]
    }
    first = len(summary["splits"][0]["graphs"]) if summary["splits"] else 0
    return {"graphs": graphs, "suspects": [_drawn_graph(one) for one in summary["suspects"]], "first": first}


def _drawn_graph(graph: dict[str, Any]) -> dict[str, Any]:
    tau = graph.get("figures", {}).get("kendall_tau")
    jumps = [{"row": jump["row"]} for jump in graph["quality"]["jumps"]]
    return {**graph["points"], "tau": None if tau is None else round(tau, 3), "jumps": jumps}


def _facts(graph: dict[str, Any]) -> list[tuple[str, str]]:
    own, quality, sure = graph["figures"], graph["quality"], graph["interval"]
    told = [
        ("Kendall tau", f"{own['kendall_tau']:.3f}" + (f" ({sure[0]:.2f}–{sure[1]:.2f})" if sure else "")),
        ("first choice", f"{percent(own['slowdown@1'])} slower"),
        ("best of first five", f"{percent(own['slowdown@5'])} slower"),
        ("configurations", f"{quality['configs']:,}"),
        ("slowest over fastest", _times(quality["spread"])),
    ]
    if quality["distinct"] < quality["configs"]:
        told.append(("distinct", f"{quality['distinct']:,}"))
    if quality["retest"] is not None:
        told.append(("retest tau", f"{quality['retest']:.3f}"))
    if graph["seen"] is not None:
        told.append(("family", f"{graph['family']}, {'seen' if graph['seen'] else 'not seen'} in training"))
    if graph["doubts"]:
        told.append(("doubts", "; ".join(graph["doubts"])))
    return told


def percent(value: float | None) -> str:
    """A share for a person: 0.017 -> 1.7 %."""
    if value is None:
        return "–"
    return f"{100 * value:.0f}\u00a0%" if value >= 0.9995 else f"{100 * value:.1f}\u00a0%"


def _rounded(value: float) -> str:
    """A share without needless digits, for a tick or a threshold: 0.05 -> 5 %."""
    return f"{100 * value:g}\u00a0%"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _three_or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _times(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}×" if value < 1.5 else f"{value:.1f}×"


def _short(value: float) -> str:
    return f"{value:.6g}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"
