"""The command ``gbr``, also ``python -m gbr``: list the commands, or run one of them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

import click

import gbr
from gbr import cli

#: Name of each command, which is its module, and what it does.
COMMANDS: Final = {
    "collect": "Measure configurations on this machine.",
    "download": "Download TpuGraphs, Google's graphs measured on TPUs.",
    "evaluate": "Score a trained model on a split of a collection.",
    "explain": "Explain why one configuration is ranked before another.",
    "features": "Build the feature store, show its content, list the feature columns.",
    "predict": "Rank the configurations of graph files, or the rows of tables.",
    "reproduce": "Reproduce the results on TpuGraphs: download, train, evaluate.",
    "submit": "Write or check a submission to the Kaggle competition.",
    "table": "Import measured tables: tuner caches, CSV, Parquet.",
    "train": "Train a ranker on a collection and score it.",
    "tune": "Search the configurations of a program with few measurements.",
}


class _Commands(cli.Group):
    """Imports the module of a command when it is run, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        package = cmd_name in ("collect", "tune")
        command: click.Command = import_module(f"gbr.{cmd_name}.__main__" if package else f"gbr.{cmd_name}").main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    "gbr", cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--version", is_flag=True, help="Print the version and exit.")
@cli.json_option
@click.pass_context
def main(ctx: click.Context, version: bool, as_json: bool) -> None:
    """Rank compiler configurations of tensor programs without running them."""
    if ctx.invoked_subcommand:
        return
    if version:
        print(f"gbr {gbr.__version__}")
    elif as_json:
        cli.emit_json([{"command": f"python -m gbr.{name}", "does": text} for name, text in COMMANDS.items()])
    else:
        print(ctx.get_help())


if __name__ == "__main__":
    sys.exit(main())
