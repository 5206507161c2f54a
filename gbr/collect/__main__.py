"""``python -m gbr.collect``: measure configurations on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbr import cli
from gbr.cli import note
from gbr.data.collection import SPLITS
from gbr.data.files import exclusive_lock, remove_partial_files
from gbr.data.hardware import note_machine
from gbr.errors import CollectError

if TYPE_CHECKING:
    from gbr.collect.tasks import Quality


@cli.group("gbr.collect")
def main() -> None:
    """Measure configurations on this machine; existing measurements are kept."""


def _add(kind: str, collection: str, names: str, what: str, rounds: int, title: str, description: str) -> None:
    """Add the command that measures a collection with the functions of ``gbr.collect.<kind>s``."""

    # fmt: off
    @main.command(kind, short_help=title, help=description)
    @click.option(f"--{names}", "names", type=cli.CommaList(), metavar="LIST",
                  help="Families, groups of families, or graphs.  [default: all]")
    @click.option("--jobs", type=cli.POSITIVE, default=1, metavar="N",
                  help=f"Number of {what}s to measure in parallel, one per core; they slow each other down.")
    @click.option("--out", type=cli.PATH, default=Path("data"), metavar="ROOT",
                  help=f"Folder in which {collection}/{{train,valid,test}}/*.npz are written.")
    @click.option("--configs", type=cli.POSITIVE, default=96, metavar="N", help=f"Configurations per {what}.")
    @click.option("--rounds", type=cli.POSITIVE, default=rounds, metavar="N", help="Rounds per pass.")
    @cli.seed_option
    @click.option("--table", "show_table", is_flag=True,
                  help="Print a Markdown table of measured graphs, measure nothing.")
    @cli.splits_option
    @cli.json_option
    def command(out: Path, show_table: bool, as_json: bool, **options: Any) -> None:
        from gbr.collect import tasks  # scipy, not for --help

        module = import_module(f"gbr.collect.{kind}s")  # numba and jax, not for --help
        if show_table:
            print(tasks.markdown(module.FAMILIES, out / collection))
            return
        found = _measure(module, out, out / collection, **options)
        _print(found, out, out / collection, as_json)
    # fmt: on


def _print(found: list[Quality], out: Path, folder: Path, as_json: bool) -> None:
    if as_json:
        cli.emit_json([{key: value for key, value in each._asdict().items() if value is not None} for each in found])
    elif found:
        columns = ("graph", "split", "configs", "spread", "retest tau")
        rows = [(each.graph, each.split, each.configs, each.spread, each.tau) for each in found]
        cli.table(f"Measured in {out}", columns, rows)
        name = ":".join(folder.relative_to(out / "npz").parts)
        note(f"train on them: python -m gbr.train --subset {name}" + (f" --data {out}" if out != Path("data") else ""))


def _measure(
    module: Any, out: Path, folder: Path, *, names: tuple[str, ...] | None, splits: tuple[str, ...] | None,
    configs: int, rounds: int, seed: int, jobs: int = 1,
    describe: Callable[[Path, Path], str | None] = note_machine,
) -> list[Quality]:  # fmt: skip
    """Measure the graphs without a file; ``describe`` writes ``hardware.toml`` to the folder of a collection."""
    from gbr.collect import tasks  # scipy, not for --help

    todo = tasks.choose(module.FAMILIES, names, splits or SPLITS, folder)
    found = []
    with ExitStack() as held:
        if not all(task.path.exists() for task in todo):
            # Another process would measure the same graphs and slow down this one.
            held.enter_context(exclusive_lock(folder, CollectError, "gbr.collect"))
        for directory in {task.path.parent for task in todo}:
            remove_partial_files(directory)
        missing = [task for task in todo if not task.path.exists()]
        if kept := len(todo) - len(missing):
            note(f"{kept} of {len(todo)} files exist and are kept; delete a file to measure it again")
        if missing and (doubt := describe(folder, out / "npz")):
            note(f"warning: {doubt}")
        advance = held.enter_context(cli.progress(len(missing), "measuring"))
        for quality in tasks.collect(module.measure_variant, missing, tasks.Settings(configs, rounds, seed), jobs):
            found.append(quality)
            for doubt in quality.doubts():
                note(f"warning: {doubt}")
            advance(1)
    return found


_add(
    "tile", "npz/tile/cpu", "families", "kernel", 15, "Tile sizes of compiled loop nests.",
    "Time tiled loop nests in two passes of CPU time.\n\nOne file per kernel; existing files are kept.",
)  # fmt: skip
_add(
    "layout", "npz/layout/cpu/random", "programs", "program", 25, "Layouts of JAX programs.",
    "Time JAX programs under layouts of their convolutions, dots and reshapes, in two passes of CPU time.\n\n"
    "One file per program; existing files are kept.  For a function of your own: gbr.collect.layout.",
)  # fmt: skip


@main.command("triton", short_help="Block sizes of Triton kernels on a GPU.")
@click.option("--kernels", "names", type=cli.CommaList(), metavar="LIST",
              help="Families (matmul_bert ...), kernels (matmul, softmax, layer_norm, attention), or graphs.  "
              "[default: all]")  # fmt: skip
@click.option("--out", type=cli.PATH, default=Path("data"), metavar="ROOT",
              help="Folder in which npz/tile/<gpu>/{train,valid,test}/*.npz are written.")  # fmt: skip
@click.option("--configs", type=cli.POSITIVE, default=60, metavar="N", help="Configurations per kernel.")
@click.option("--rounds", type=cli.POSITIVE, default=15, metavar="N", help="Rounds per pass.")
@cli.seed_option
@cli.splits_option
@cli.json_option
def _triton(out: Path, as_json: bool, **options: Any) -> None:
    """Time Triton kernels under block sizes, warps and stages on the GPU of this machine, in two passes.

    One file per kernel and shape; existing files are kept.  hardware.toml names the GPU and the slots of the
    configurations.  Needs PyTorch, Triton and JAX.
    """
    from gbr.collect import triton  # numba and jax, not for --help

    device = triton.device_name()
    folder = out / "npz" / "tile" / triton.folder_of(device)
    found = _measure(triton, out, folder, describe=lambda own, _top: triton.note_device(own, device), **options)
    _print(found, out, folder, as_json)


class _Numbers(cli.CommaList):
    """Positive integers separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not all(each.isdecimal() and 0 < int(each) < 1 << 20 for each in found):
            self.fail(f"expected positive integers, got {value!r}", param, ctx)
        return tuple(map(int, found))


@main.command("models", short_help="Running times of networks.")
@click.option(
    "--models",
    "files",
    type=cli.PATH,
    multiple=True,
    metavar="FILE...",
    help="Descriptions of models: TOML, or a config.json of Hugging Face.  [default: those of gbr]",
)
@click.option("--names", type=cli.CommaList(), metavar="LIST", help="Models or families.  [default: all]")
@click.option(
    "--out", type=cli.PATH, default=Path("data"), metavar="ROOT", help="Folder in which table/models/ is written."
)
@click.option(
    "--threads", type=_Numbers(), metavar="LIST", help="Numbers of threads.  [default: 1,2, if there are two cores]"
)
@click.option(
    "--dtypes",
    type=cli.CommaList(("float32", "bfloat16")),
    default="float32,bfloat16",
    metavar="LIST",
    help="Types of numbers.",
)
@click.option(
    "--batch",
    "batches",
    type=_Numbers(),
    metavar="LIST",
    help="Sequences or images at once.  [default: drawn for each model]",
)
@click.option(
    "--sequence",
    "sequences",
    type=_Numbers(),
    metavar="LIST",
    help="Lengths of sequences.  [default: drawn for each model]",
)
@click.option("--rounds", type=cli.POSITIVE, default=15, metavar="N", help="Rounds per pass.")
@cli.seed_option
@click.option("--limit", type=cli.POSITIVE, metavar="N", help="Measure N rows at most.")
@click.option("--seconds", type=cli.POSITIVE_FLOAT, metavar="S", help="Begin no further model after S seconds.")
@click.option("--device", metavar="NAME", help="Name of this machine.  [default: that of its processor]")
@click.option(
    "--merge",
    type=cli.PATH,
    multiple=True,
    metavar="FILE...",
    help="Add the rows of other machines, data.parquet of their tables, and measure nothing.",
)
@click.option("--table", "show_table", is_flag=True, help="Print a Markdown table of measured rows, measure nothing.")
@cli.json_option
def _models(
    files: tuple[Path, ...],
    names: tuple[str, ...] | None,
    out: Path,
    threads: tuple[int, ...],
    dtypes: tuple[str, ...],
    batches: tuple[int, ...] | None,
    sequences: tuple[int, ...] | None,
    rounds: int,
    seed: int,
    limit: int | None,
    seconds: float | None,
    device: str | None,
    merge: tuple[Path, ...],
    show_table: bool,
    as_json: bool,
) -> None:
    """Time forward passes, prompts and single tokens of networks in JAX, in two passes.

    One row per model, batch, sequence, type and number of threads, with the metadata of the model and of this machine;
    measured rows are kept.  One thread: CPU time; more: time passed, so let nothing else run.
    """
    from gbr.collect import models  # polars, not for --help
    from gbr.data import architectures

    folder = out / "table" / "models"
    if show_table:
        print(models.markdown(models.read_rows(folder)))
        return
    if merge:
        found = models.add_rows(folder, [models.read_rows(path) for path in merge])
    else:
        known = dict(architectures.models())
        if files:
            known = {name: each for path in files for name, each in architectures.read_models(path).items()}
        tasks = models.plan(models.choose(known, names), dtypes, threads, seed, batches, sequences)
        settings = models.Settings(rounds, seed)
        with ExitStack() as held:
            measured = models.measure(
                folder,
                tasks,
                settings,
                device=device,
                limit=limit,
                seconds=seconds or float("inf"),
                warn=lambda text: note(f"warning: {text}"),
                started=lambda count: held.enter_context(cli.progress(count, "measuring")),
            )
        if measured is None:
            note(f"{folder}: all rows have been measured")
            return
        found = measured
    quality = models.retest(found)
    if as_json:
        cli.emit_json({"rows": found.to_dicts(), "retest": quality})
        return
    columns = ("model", "phase", "batch", "sequence", "dtype", "threads")
    table = [
        (*(row[name] for name in columns), f"{1e3 * row['time']:.3g}", f"{row['repeat'] / row['time']:.3f}")
        for row in found.iter_rows(named=True)
    ]
    cli.table(f"Measured in {folder}", (*columns, "ms", "retest"), table)
    note(
        f"retest: half of {quality['rows']} rows within {quality['median']:.1%}, "
        f"nine tenths within {quality['nine tenths']:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
