"""``python -m gbr``: list the commands."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import gbr
from gbr import cli

#: How the docstring of a module begins that ``python -m`` runs.
_COMMAND: Final = re.compile(r"(?:Command|``python -m [\w.]+``): *(.+)")


def commands() -> list[tuple[str, str]]:
    """Modules that are commands and what they do, from their docstrings; none of them is imported."""
    found = []
    for module in pkgutil.iter_modules(gbr.__path__, "gbr."):
        source = _source(f"{module.name}.__main__" if module.ispkg else module.name)
        told = _COMMAND.match(ast.get_docstring(ast.parse(source)) or "")
        if told and module.name != "gbr.__main__":
            found.append((f"python -m {module.name}", told[1].rstrip(".")))
    return found


def _source(name: str) -> str:
    spec = find_spec(name)
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


def _main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("gbr", "Rank compiler configurations of tensor programs without running them.")
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    cli.add_json(parser)
    args = parser.parse_args(argv)
    if args.version:
        print(f"gbr {gbr.__version__}")
    elif args.json:
        cli.emit_json([{"command": name, "does": text} for name, text in commands()])
    else:
        cli.listing(commands())
        print("Each of them tells more with --help.")


main = cli.command(_main)

if __name__ == "__main__":
    raise SystemExit(main(None))
