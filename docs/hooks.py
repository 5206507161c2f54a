"""Hooks of the site: pages that are generated, and links to files outside of ``docs``.

``make docs`` writes the site to ``build/docs``.  Home is the README; commands and features are described by the code,
and notebooks are shown with the outputs they were committed with.
"""

from __future__ import annotations

import re
from html import escape
from math import isnan
from pathlib import Path
from posixpath import join, normpath, relpath
from typing import TYPE_CHECKING, Any, Final

import click

from features.layout.extractor import schema as layout_schema
from features.schema import Block
from features.table import gpu as table_gpu
from features.table import history
from features.tile import gpu
from features.tile.extractor import schema as tile_schema
from gbr.__main__ import COMMANDS
from gbr.__main__ import main as gbr_command
from gbr.data.devices import FIGURES, devices, figures

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT: Final = Path(__file__).parents[1]
#: File of the repository -> page of the site, for those outside of docs.
PAGES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "data/README.md": "data.md",
} | {f"benchmarks/results/{path.name}": f"results/{path.name}" for path in ROOT.glob("benchmarks/results/*.md")}
NOTEBOOKS: Final = {f"examples/{path.name}": f"examples/{path.stem}.md" for path in ROOT.glob("examples/*.ipynb")}
#: Module or notebook -> page that is made from it.
MADE: Final = {f"features/{kind}/extractor.py": f"reference/{kind}.md" for kind in ("tile", "layout", "table")} | {
    "gbr/__main__.py": "reference/commands.md",
    "features/devices.toml": "reference/devices.md",
    **NOTEBOOKS,
}
SOURCES: Final = {page: source for source, page in (PAGES | NOTEBOOKS).items()}
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")
_FENCE: Final = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
#: Styles of data frames, and what keeps the theme from applying its own.
_FRAME: Final = re.compile(
    r'(?<=<div>)\s*<style(?: scoped)?>.*?</style>|(?<=<table) border="1" class="dataframe"', re.DOTALL
)
_ROLE: Final = re.compile(r":(?:class|data|func|meth|mod):<code>~?([^<]*)</code>")
#: What makes a browser ask another host.
_REMOTE: Final = re.compile(
    r"""<(?:script|img|iframe|link (?!rel="canonical"))[^>]*(?:src|href)="?(?:https?:)?//[^>]*>"""
)

_TILE: Final = """\
Columns of `tile:*` collections. The block `gpu` replaces `cache` where the hardware is a GPU, and named slots
replace the columns of `config` ([Hardware](../hardware.md#names-of-slots)).
`python -m gbr.features columns --subset tile` prints the same."""
_LAYOUT: Final = """\
Columns of `layout:*` collections. `python -m gbr.features columns --subset layout` prints the same."""
_TABLE: Final = """\
Most columns of a [table](../tables.md) follow from its own columns: the parameters (`config`), their products, ratios
(`pairs`, `ratios`) and positions within the group (`relative`), numbers of the `context` and figures of the `device`;
for runtimes also categories of the group (`kinds`) and amounts of work (`amounts`).
`python -m gbr.features columns --subset table:NAME` lists those of your table. These are the same for all tables:"""

_DEVICES: Final = """\
Accelerators that gbr knows: `--hardware` and `device` of a [hardware file](../hardware.md) take them, tables and
[machines for networks](../models.md#describing) too. Case, vendor and brand do not matter, and form and memory choose
between devices of one name: `a100`, `rtx_4090`, `A100-PCIe-80GB`. Figures are public ones of one GPU or chip.

A dash is a figure that is not published or does not exist."""
#: Figures of a device that the page lists.
_SHOWN: Final = "units memory_gb bandwidth_gbs clock_mhz l2_mb shared_kb fp32 tf32 fp16 bf16 fp8 int8".split()


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside of docs and those that the code describes."""
    from mkdocs.structure.files import File

    tile = list(tile_schema().blocks)
    tile.insert(3, gpu.BLOCK)
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()} | {
        "reference/commands.md": commands(),
        "reference/devices.md": known_devices(),
        "reference/tile.md": blocks("Features of tiles", _TILE, tile),
        "reference/layout.md": blocks("Features of layouts", _LAYOUT, layout_schema().blocks),
        "reference/table.md": blocks("Features of tables", _TABLE, [history.BLOCK, table_gpu.BLOCK]),
    }
    for source, page in NOTEBOOKS.items():
        made[page], pictures = notebook(ROOT / source)
        for name, content in pictures.items():
            files.append(File.generated(config, f"examples/{name}", content=content))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at pages of the site."""
    return relinked(markdown, page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """Turn roles of docstrings, such as :func:`gbr.evaluate`, into links where there is a target, and :: into :."""
    html = html.replace("::</p>", ":</p>")
    return _ROLE.sub(r'<autoref optional identifier="\1"><code>\1</code></autoref>', html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Fail if the page asks another host for anything."""
    if found := _REMOTE.search(output):
        from mkdocs.exceptions import PluginError

        raise PluginError(f"{page.file.src_uri}: expected no scripts, styles or images of other hosts, got {found[0]}")
    return output


def relinked(markdown: str, page: str) -> str:
    """Links of a page from files of the repository to pages of the site; the text alone where there is none."""
    folder = join("docs", page) if page not in SOURCES else SOURCES[page]

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = normpath(join(folder, "..", target))
        if uri := (PAGES | MADE).get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None):
            return f"{image}[{text}]({relpath(uri, join(page, '..'))}{anchor or ''})"
        return (text if "`" in text or "/" not in text else f"`{text}`") if (ROOT / path).exists() else match[0]

    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in _FENCE.split(markdown))


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page, and its pictures by name."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(path), {"unique_key": path.stem})
    about = f"This page is the notebook `examples/{path.name}`; to run it, open it in Jupyter."
    return f"{_FRAME.sub('', text)}\n\n{about}\n", resources["outputs"]


def blocks(title: str, about: str, shown: Any) -> str:
    """The page of the columns of some blocks."""
    return "\n\n".join([f"# {title}", about, *map(_block, shown)])


def _block(block: Block) -> str:
    scope = "one value per configuration" if block.per_config else "one value per graph"
    rows = "\n".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(column.unit)}</td><td>{escape(column.doc)}</td></tr>"
        for name, column in zip(block.names, block.columns, strict=True)
    )
    head = "<tr><th>column</th><th>unit</th><th>meaning</th></tr>"
    return (
        f"## {block.name}\n\n{block.doc[0].upper()}{block.doc[1:].rstrip('.')}: {len(block)} columns, {scope}.\n\n"
        f"<table><thead>{head}</thead><tbody>\n{rows}\n</tbody></table>"
    )


def known_devices() -> str:
    """The page of the devices and their figures."""
    at = [[column.name for column in FIGURES].index(name) for name in _SHOWN]
    rows = "\n".join(
        f"<tr><td>{escape(each.name)}</td><td>{each.kind}, {escape(each.architecture)}</td>"
        + "".join(f"<td>{'–' if isnan(value) else f'{value:g}'}</td>" for value in figures(each)[at])
        + "</tr>"
        for each in devices().values()
    )
    head = "".join(f"<th>{name}</th>" for name in ("device", "kind", *_SHOWN))
    meanings = "\n".join(f"| `{column.name}` | {column.unit} | {column.doc} |" for column in FIGURES)
    return "\n\n".join(
        [
            "# Known devices",
            _DEVICES,
            f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>",
            f"## Figures\n\n| figure | unit | meaning |\n|---|---|---|\n{meanings}",
        ]
    )


def commands() -> str:
    """The page of all commands, from their parsers."""
    parts = [
        "# Commands",
        "`gbr train` is short for `python -m gbr.train`, and so for every command. Results go to stdout, progress and "
        "messages to stderr. Exit status: 0 for success, 1 for an expected failure, 2 for wrong usage, 130 for an "
        "interrupt.",
    ]
    top = click.Context(gbr_command, info_name="gbr")
    for name in COMMANDS:
        parts += _command(gbr_command.get_command(top, name), click.Context(gbr_command, info_name="gbr"), name, 2)
    return "\n\n".join(parts)


def _command(command: Any, parent: click.Context, name: str, level: int) -> list[str]:
    ctx = command.context_class(command, parent=parent, info_name=name, **command.context_settings)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    parts = [f"{'#' * level} {ctx.command_path}", _prose(command.help), f"```text\n{usage}\n```"]
    records = [record for param in command.get_params(ctx) if (record := param.get_help_record(ctx)) and record[1]]
    rows = "\n".join(f"<tr><td><code>{escape(flag)}</code></td><td>{escape(text)}</td></tr>" for flag, text in records)
    parts.append(f"<table><thead><tr><th>option</th><th>meaning</th></tr></thead><tbody>\n{rows}\n</tbody></table>")
    parts.append(_prose(command.epilog))
    for below in getattr(command, "commands", {}):
        parts += _command(command.commands[below], ctx, below, level + 1)
    return [part for part in parts if part]


def _prose(text: str | None) -> str:
    """The help of a command: paragraphs that must not be wrapped become blocks of code."""
    found = []
    for paragraph in re.split(r"\n\s*\n", (text or "").replace("\f", "").strip()):
        if paragraph.startswith("\b"):
            found.append("```text\n" + paragraph.removeprefix("\b").strip("\n") + "\n```")
        else:
            found.append(escape(" ".join(paragraph.split()), quote=False))
    return "\n\n".join(found)
