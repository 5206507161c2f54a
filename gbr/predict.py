"""Command: rank the configurations of graph files.

python -m gbr.predict --model runs/tile-cpu/20250101-120000 graph.npz --top 5
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbr import _cli

if TYPE_CHECKING:
    from gbr.ranker import Ranker

_HEADER: Final = ("graph", "place", "config", "score")


def _main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    from gbr.ranker import Ranker

    ranker = Ranker.load(args.model)
    # All of it before the first line: output that breaks off in the middle looks whole to the next program.
    rankings = [ranking(ranker, path, args.top) for path in args.graphs]
    if args.format == "json":
        _cli.emit_json(rankings)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_HEADER)
    for one in rankings:
        writer.writerows(_lines(one))


def ranking(ranker: Ranker, path: Path, top: int | None = None) -> dict[str, Any]:
    """Order the configurations of one graph file.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``.
    path : Path
    top : int, optional
        Keep the best only.

    Returns
    -------
    dict
        ``graph`` (the path), ``configs`` (row numbers in the file, best first; ties in the order of the file) and
        ``scores`` (lower is predicted faster; only their order has meaning).

    Raises
    ------
    ModelError, DataError
        As :meth:`gbr.ranker.Ranker.predict_graph`.
    """
    scores = ranker.predict_graph(path)
    order = scores.argsort(kind="stable")[:top]
    return {"graph": str(path), "configs": order.tolist(), "scores": scores[order].tolist()}


def _lines(one: dict[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    for place, (config, score) in enumerate(zip(one["configs"], one["scores"], strict=True), start=1):
        yield one["graph"], place, config, repr(score)


def _parser() -> _cli.Parser:
    parser = _cli.parser(
        "gbr.predict",
        "Rank the configurations of graph files: row numbers, best first, and scores.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder written by gbr.train")
    parser.add_argument("graphs", type=Path, nargs="+", metavar="GRAPH.npz")
    parser.add_argument("--top", type=_at_least_one, default=None, metavar="K", help="the best K only (default: all)")
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="default: csv")
    return parser


def _at_least_one(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number from 1 on")
    return number


main = _cli.command(_main)

if __name__ == "__main__":
    raise SystemExit(main(None))
