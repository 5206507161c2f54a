"""``python -m gbr.table``: import measured tables, which are collections then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbr import cli
from gbr.data.collection import SPLITS, TABLE

if TYPE_CHECKING:
    from gbr.data.table import Table

#: As gbr.data.table_formats.FORMATS, which is not imported for --help.
_FORMATS = ("kernel-tuner", "t4", "triton", "optuna", "csv", "parquet")


@cli.group("gbr.table")
def main() -> None:
    """Import measured tables: tuner caches, CSV, Parquet."""


class _Values(click.ParamType):  # type: ignore[type-arg]
    """``COLUMN=VALUE,VALUE``, converted to a column and a tuple of values."""

    name = "values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        column, _, values = value.partition("=")
        found = tuple(filter(None, map(str.strip, values.split(","))))
        if not column.strip() or not found:
            self.fail(f"expected COLUMN=VALUE, got {value!r}", param, ctx)
        return column.strip(), found


def _split_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        f"--{name}",
        type=_Values(),
        multiple=True,
        metavar="COLUMN=VALUE,...",
        help=f"Rows of the split {name}: the values, or words of them; of several columns, all must match.",
    )


@main.command("import", short_help="Import files as one table.")
@click.argument("files", nargs=-1, required=True, type=cli.PATH, metavar="FILE...")
@click.option(
    "--out",
    type=cli.PATH,
    required=True,
    metavar="DIR",
    help="Folder of the table: ROOT/table/NAME for --subset table:NAME with --data ROOT.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(_FORMATS),
    help="Format of the files.  [default: from their names and content]",
)
@_split_option("test")
@_split_option("valid")
@click.option(
    "--group",
    type=cli.CommaList(),
    metavar="LIST",
    help="Columns whose equal values make a group: rows that compete with one another.",
)
@click.option("--config", type=cli.CommaList(), metavar="LIST", help="Columns that can be chosen.")
@click.option(
    "--context", type=cli.CommaList(), metavar="LIST", help="Columns that describe the program and the device."
)
@click.option("--device", metavar="COLUMN", help="Column with names of devices.")
@click.option("--target", metavar="COLUMN", help="Column of the runtime or throughput.")
@click.option("--unit", metavar="UNIT", help="Unit of the target.")
@click.option("--direction", type=click.Choice(("lower", "higher")), help="Whether lower or higher targets are better.")
@click.option(
    "--repeats",
    type=cli.CommaList(),
    metavar="LIST",
    help="Column of lists, or columns, with single measurements of the target.",
)
@click.option(
    "--failed",
    type=cli.CommaList(),
    metavar="VALUES",
    help="Values of the target that mark a failed configuration; strings, infinity and missing values always do.",
)
@click.option(
    "--unpivot",
    type=cli.CommaList(),
    metavar="NAME[,NUMBER]",
    help="For a table with one column of targets per device: rows instead of columns, with the names of the columns in "
    "a new column, for example `device`; with `device,batch`, v100_1 and v100_32 are batch 1 and 32 of v100.",
)
@click.option(
    "--targets",
    type=cli.CommaList(),
    metavar="LIST",
    help="The columns of --unpivot.  [default: those named like a time or rate, such as a100_ms; else all numbers "
    "without a role]",
)
@cli.json_option
def import_(
    files: tuple[Path, ...], out: Path, kind: str | None, test: tuple[tuple[str, tuple[str, ...]], ...],
    valid: tuple[tuple[str, tuple[str, ...]], ...], unpivot: Sequence[str] | None, targets: Sequence[str] | None,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Import files as one table: caches of Kernel Tuner, T4, Triton, Optuna, CSV, Parquet and other data frames.

    Formats of tuners tell what the columns mean.  For data frames, the options do; without them, names of columns do.
    Several files get a column with the device, which each file or its name gives.

    Triton: *.autotune.json of its cache (TRITON_CACHE_AUTOTUNING=1), or a JSON list of {"kernel": ..., "device": ...,
    "key": {"M": 512}, "config": {"kwargs": {"BLOCK": 64}, "num_warps": 4}, "timings": MILLISECONDS or "error": ...}.
    """
    failed = tuple(map(_number, given["failed"])) if given["failed"] else None
    given |= {"failed": failed, "test": dict(test) or None, "valid": dict(valid) or None}
    table = import_table(files, out, kind, unpivot or (), targets or (), **given)
    if as_json:
        cli.emit_json(_summary(table, out))
    else:
        cli.table(str(out), ("split", "groups", "rows", "failed"), _rows(table))
    _note_next(out)


def _note_next(out: Path) -> None:
    """Say how to train on a table, or that its folder is not where ``--subset`` looks."""
    folder = out.resolve()
    if folder.parent.name != TABLE:
        cli.note(
            f"--subset {TABLE}:{folder.name} finds tables in ROOT/{TABLE} only, such as data/{TABLE}/{folder.name}"
        )
        return
    is_default = folder.parents[1] == Path("data").resolve()
    cli.note(f"next: gbr train --subset {TABLE}:{folder.name}{'' if is_default else f' --data {folder.parents[1]}'}")


def import_table(
    files: Iterable[str | Path],
    out: str | Path,
    kind: str | None = None,
    unpivot: Sequence[str] = (),
    targets: Sequence[str] = (),
    **roles: Any,
) -> Table:
    """Import files as one table, and write it to a folder.

    Parameters
    ----------
    files : iterable of path
        Caches of Kernel Tuner, T4 files, results of Triton and Optuna, or data frames.
    out : path
        Folder of the table: ``<root>/table/<name>`` for ``gbr.train("table:<name>", data=<root>)``.
    kind : str, optional
        One of :data:`gbr.data.table_formats.FORMATS`; by default, name and content of each file tell.
    unpivot, targets : sequence of str
        For data frames with a column of targets per device, as the options of the command.
    **roles
        Fields of :class:`gbr.data.table_roles.Roles` that replace those of the formats, such as
        ``test={"device": ("A100",)}``; None for those of the formats.

    Returns
    -------
    Table

    Raises
    ------
    UsageError
        If roles cannot be guessed, or given ones do not fit the columns.
    DataError
        If a file is missing, damaged or of another format.
    """
    from gbr.data.table import make_table, write_table  # polars, not for --help
    from gbr.data.table_formats import import_files
    from gbr.data.table_roles import FILE

    paths, out = list(dict.fromkeys(map(Path, files))), Path(out)
    frame, found, notes = import_files(paths, kind, roles, unpivot, targets)
    table = make_table(out.resolve().name, found, [(None, paths[0], frame)], out / FILE, notes=notes)
    for each in table.notes:
        cli.note(each)
    write_table(out, frame, found)
    return table


def _number(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value


def _summary(table: Table, out: Path) -> dict[str, Any]:
    roles = table.roles
    return {
        "table": str(out),
        "splits": {split: dict(zip(("groups", "rows", "failed"), row, strict=True)) for split, *row in _rows(table)},
        "group": roles.group,
        "config": roles.config,
        "context": roles.context,
        "device": roles.device,
        "target": {"column": roles.target, "unit": roles.unit, "direction": roles.direction},
        "repeats": roles.repeats,
    }


def _rows(table: Table) -> list[tuple[str, int, int, int]]:
    """Groups, rows and failed rows of each split that is present."""
    rows = []
    for split in SPLITS:
        groups = [group for group in table.groups if group.split == split]
        if groups:
            cost = table.cost[groups[0].start : groups[-1].stop]
            rows.append((split, len(groups), len(cost), int((cost == float("inf")).sum())))
    return rows


if __name__ == "__main__":
    sys.exit(main())
