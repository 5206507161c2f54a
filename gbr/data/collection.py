"""Collections of graph files: names, folders, kinds and official IDs."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from gbr.errors import DataError, UsageError

#: Kinds of graphs, and the kind of measured tables.
KINDS: Final = ("tile", "layout")
TABLE: Final = "table"
SPLITS: Final = ("train", "valid", "test")

#: The collections of TpuGraphs, and the number of test graphs of each, 894 in total: the rows of a submission to the
#: Kaggle competition.
OFFICIAL_TEST: Final = {
    "tile:xla": 844,
    "layout:xla:default": 8,
    "layout:xla:random": 8,
    "layout:nlp:default": 17,
    "layout:nlp:random": 17,
}
#: Their names by kind.
OFFICIAL: Final = {kind: tuple(name for name in OFFICIAL_TEST if name.startswith(kind)) for kind in KINDS}
#: Collection that a kind is resolved to if no official collection is present.
_MEASURED: Final = {"tile": "tile:cpu", "layout": "layout:cpu:random"}

#: Graphs of TpuGraphs with corrupted runtimes, as shell patterns of stems by collection: runtimes jump between blocks
#: of configurations or do not depend on them.  Found by the second-placed team of the Kaggle competition.
KNOWN_BAD: Final = {
    "layout:xla:default": ("unet*", "mlperf_bert_batch_24_2x2*", "magenta_dynamic*"),
    "layout:xla:random": ("unet*", "magenta_dynamic*"),
}


@dataclass(frozen=True)
class Subset:
    """A collection of graphs, named by its folder.

    Parameters
    ----------
    name : str
        ``tile:xla``, ``layout:nlp:random``, ``layout:cpu:random`` …
    note : str or None
        Message on how a short name was resolved; None for a full name.
    """

    name: str
    note: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the name, which are nested folders."""
        return tuple(self.name.split(":"))

    @property
    def kind(self) -> str:
        """``tile``, ``layout`` or ``table``."""
        return self.parts[0]

    def folder(self, data_root: Path) -> Path:
        """Folder of the splits, or of a table, below ``data_root``."""
        if self.kind == TABLE:
            return Path(data_root).joinpath(*self.parts)
        return Path(data_root).joinpath("npz", *self.parts)

    def id(self, stem: str) -> str:
        """Official ID of a graph, ``<collection>:<stem>``, as in a submission."""
        return f"{self.name}:{stem}"


def available(data_root: Path) -> list[Subset]:
    """Collections with at least one ``.npz`` in a split, and measured tables, by name."""
    top = Path(data_root) / "npz"
    folders = [*top.glob("tile/*"), *top.glob("layout/*/*")]
    subsets = (Subset(":".join(folder.relative_to(top).parts)) for folder in folders)
    tables = [Subset(f"{TABLE}:{path.parent.name}") for path in Path(data_root).glob(f"{TABLE}/*/table.toml")]
    return sorted([*tables, *(each for each in subsets if splits_present(each, data_root))], key=lambda each: each.name)


def resolve(name: str, data_root: Path) -> Subset:
    """Find a collection by its name.

    A short name such as ``tile`` or ``layout:xla`` is resolved to the official collection if present, else to the
    measured one, else to the only one whose name begins with it.

    Raises
    ------
    UsageError
        If there is no such collection, or several official ones match a short name; the message lists them.
    """
    present = {subset.name: subset for subset in available(data_root)}
    if name in present:
        return present[name]
    matches = [official for official in OFFICIAL.get(name, ()) if official in present]
    matches = matches or [measured for measured in present if _MEASURED.get(name) == measured]
    matches = matches or [full for full in present if full.startswith(f"{name}:")]
    if len(matches) == 1:
        return Subset(matches[0], f"{name} means {matches[0]} here")
    if matches:
        raise UsageError(f"--subset {name}: could be {', '.join(matches)}; give one of these")
    hint = f"there is {', '.join(present)}" if present else f"{Path(data_root) / 'npz'} holds no collection at all"
    advice = "give one of these, or another folder with --data"
    if not present:
        advice = "name another folder with --data: tile:cpu is in the repository of gbr"
    if name in OFFICIAL_TEST:
        advice = f"{advice}, or run `python -m gbr.download {name}`"
    raise UsageError(f"--subset {name}: no such collection below {data_root}; {hint}; {advice}")


def graph_files(subset: Subset, data_root: Path, split: str) -> list[Path]:
    """Graph files of one split, sorted by name; a :class:`DataError` if there are none."""
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    folder = subset.folder(data_root) / split
    files = _npz(folder)
    if not files:
        state = "holds no .npz file" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {state}; {subset.name} needs its {split} graphs there, or name another split")
    return files


def splits_present(subset: Subset, data_root: Path) -> tuple[str, ...]:
    """Splits with graph files, or with rows of a table, in the order of :data:`SPLITS`."""
    if subset.kind == TABLE:
        folder = subset.folder(data_root)
        with suppress(OSError, ValueError):  # an invalid table.toml is reported where the table is read
            stated = tomllib.loads((folder / "table.toml").read_text(encoding="utf-8-sig")).get("split")
            if stated:
                return tuple(split for split in SPLITS if split == "train" or split in stated)
        return tuple(split for split in SPLITS if (folder / split).is_dir()) or SPLITS[:1]
    return tuple(split for split in SPLITS if _npz(subset.folder(data_root) / split))


def things(kind: str) -> str:
    """What the configurations of a collection are of: groups of a measured table, else graphs."""
    return "groups" if kind == TABLE else "graphs"


def known_bad(subset: Subset, stem: str) -> bool:
    """Whether a graph is in the list of graphs with corrupted runtimes, :data:`KNOWN_BAD`."""
    return any(fnmatchcase(stem, pattern) for pattern in KNOWN_BAD.get(subset.name, ()))


def family(kind: str, stem: str) -> str:
    """The family of related graphs: one benchmark (tile) or one architecture (layout), derived from the name.

    The name of a tile graph is its benchmark, ``_`` and an identifier of the kernel, as in the official evaluation;
    that of a layout graph begins with the letters of its architecture.  A graph named by a hash is the only one of its
    family.
    """
    if re.fullmatch(r"[0-9a-f]{32}", stem):
        return stem
    if kind == TABLE:
        return stem
    if kind == "tile":
        return stem.rsplit("_", 1)[0]
    begins = re.match(r"[A-Za-z]+", stem)
    return begins.group().lower() if begins else stem


def _npz(folder: Path) -> list[Path]:
    # Names that begin with a dot are temporary files of an atomic write.
    return sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
