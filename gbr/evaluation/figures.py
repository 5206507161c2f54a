"""The figures of a run: a dictionary, tables of it, and these tables as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from operator import itemgetter
from typing import Any, Final, NamedTuple

from gbr.data.collection import SPLITS, Subset, things
from gbr.evaluation import baselines, runtimes
from gbr.evaluation.metrics import TOP


class FigureTable(NamedTuple):
    """Figures of one split: the model and the baselines."""

    title: str
    columns: list[str]
    rows: list[list[str | None]]


#: Smaller differences of slowdowns are noise.
_MARGIN: Final = 0.01


class Figures(dict[str, Any]):
    """The content of ``metrics.json``, as ``train`` and ``evaluate`` return it; a notebook shows its tables."""

    def tables(self, splits: Sequence[str] = SPLITS) -> Iterator[FigureTable]:
        """One table for each of the splits that has figures, and one more where runtimes are predicted."""
        kind = Subset(self["subset"]).kind
        # The layout score is the mean tau, which is a column already.
        names = ["kendall_tau", "kendall_tau_ci", "opa", *(f"slowdown@{k}" for k in TOP[kind])]
        names += ["score"] if kind == "tile" else []
        columns = ["", "tau", "95 %", "OPA", *(name.removeprefix("slowdown") for name in names[3:])]
        for split in (split for split in splits if split in self):
            found = self[split]
            reasons = "; ".join(dict.fromkeys(found["skipped"].values()))
            skipped = f", {len(found['skipped'])} cannot be ranked ({reasons})" if reasons else ""
            units = things(kind)[: -1 if found["n_graphs"] == 1 else None]
            failed = ""
            if failures := found.get("failures"):
                auc = "" if failures["auc"] is None else f", AUC of the chance to fail {failures['auc']:.2f}"
                share = f"{failures['failed']:.1%} of the rows failed, {failures['failed@10']:.1%} of the first 10"
                failed = f"; {share}{auc}"
            title = f"{self['subset']} {split}: {found['n_graphs']} {units}{skipped}{failed}  (@K: slowdown@K)"
            named = {text: found["baselines"].get(key) for key, text in baselines.NAMES.items()}
            rows = [
                [text, *(_cell(values.get(name), name) for name in names)]
                for text, values in ({"model": found} | named).items()
                if values
            ]
            yield FigureTable(title, columns, rows)
            if runtime := found.get("runtime"):
                named = {text: runtime["baselines"].get(key) for key, text in runtimes.NAMES.items()}
                rows = [
                    [text, *(_share(values.get(key), key) for key in runtimes.FIGURES)]
                    for text, values in ({"model": runtime} | named).items()
                    if values
                ]
                yield FigureTable(f"{self['subset']} {split}: runtimes", ["", *runtimes.FIGURES.values()], rows)

    def beaten(self, splits: Sequence[str] = SPLITS) -> Iterator[str]:
        """What to know of each split where a baseline ranks as well as the model, or predicts runtimes better."""
        for split in (split for split in splits if split in self):
            found = self[split]
            tau, loss = found["kendall_tau"], found["slowdown@1"]
            named = {text: found["baselines"].get(key, {}) for key, text in baselines.NAMES.items() if key != "retest"}
            best, value = _best(named, "kendall_tau", max)
            if best is not None and tau is not None and value >= tau:
                yield (
                    f"{split}: the baseline {best!r} ranks as well as the model or better: "
                    f"tau {_cell(value)} and {_cell(tau)}"
                )
            best, value = _best(named, "slowdown@1", min)
            if best is not None and loss is not None and value < loss - _MARGIN:
                yield (
                    f"{split}: the first configuration by the baseline {best!r} is faster than that by the model: "
                    f"slowdown@1 {value:.1%} and {loss:.1%}"
                )
            if runtime := found.get("runtime"):
                named = {text: runtime["baselines"].get(key, {}) for key, text in runtimes.NAMES.items()}
                best, value = _best(named, "mape", min)
                if best is not None and value < runtime["mape"]:
                    yield (
                        f"{split}: the baseline {best!r} predicts runtimes better than the model: "
                        f"MAPE {value:.1%} and {runtime['mape']:.1%}"
                    )

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """A line per table for IPython, which would print the figures of every graph."""
        for title, (_, *names), ((_, *cells), *_baselines) in self.tables():
            found = ", ".join(f"{name} {cell}" for name, cell in zip(names, cells, strict=True))
            printer.text(f"{title.partition('  (')[0]}: {found}\n")

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str | None], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell or '')}</{tag}>" for cell in cells) + "</tr>"

        return "".join(
            f"<table><caption>{escape(title)}</caption><thead>{row(columns, 'th')}</thead>"
            f"<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table>"
            for title, columns, rows in self.tables()
        )


def _best(
    named: Mapping[str, Mapping[str, Any]], figure: str, choose: Callable[..., tuple[str | None, float]]
) -> tuple[str | None, float]:
    """The baseline with the largest or smallest value of a figure, and the value; None without one."""
    found = [(text, values[figure]) for text, values in named.items() if values.get(figure) is not None]
    return choose(found, key=itemgetter(1), default=(None, 0.0))


def _share(value: float | None, key: str) -> str | None:
    """A share in percent; factors and coefficients as they are."""
    return None if value is None else f"{value:.3g}" if key in ("r2_log", "width") else f"{value:.1%}"


def _cell(value: Any, name: str = "") -> str | None:
    # A fourth digit would be noise at a few hundred graphs.
    if name.startswith("slowdown") and value is not None:
        return f"{value:.1%}"
    if isinstance(value, list):
        return f"{value[0]:.2f} {value[1]:.2f}"
    return None if value is None else f"{value:z.3f}"  # no -0.000
