"""Collections: name -> folders, kind and official IDs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from gbr.errors import DataError, UsageError

KINDS: Final = ("tile", "layout")
SPLITS: Final = ("train", "valid", "test")

#: The collections of TpuGraphs per kind.
OFFICIAL: Final = {
    "tile": ("tile:xla",),
    "layout": ("layout:xla:default", "layout:xla:random", "layout:nlp:default", "layout:nlp:random"),
}
#: Test graphs of each of them, 894 in all: the rows of a submission to the Kaggle competition.
OFFICIAL_TEST: Final = {
    "tile:xla": 844,
    "layout:xla:default": 8,
    "layout:xla:random": 8,
    "layout:nlp:default": 17,
    "layout:nlp:random": 17,
}
#: What a kind alone stands for where no official collection of it is present.
_MEASURED: Final = {"tile": "tile:cpu", "layout": "layout:cpu:random"}

#: Graphs of TpuGraphs whose runtimes are corrupted, as shell patterns of their stems by collection, found by the 2nd
#: place of the Kaggle competition: runtimes jump between blocks of configurations or do not depend on them.
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
        What a short name was resolved to, for the user; None for a full name.
    """

    name: str
    note: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The name's parts, which are its folders."""
        return tuple(self.name.split(":"))

    @property
    def kind(self) -> str:
        """``tile`` or ``layout``."""
        return self.parts[0]

    def folder(self, data_root: Path) -> Path:
        """The folder below ``data_root`` that holds the splits."""
        return Path(data_root).joinpath("npz", *self.parts)

    def id(self, stem: str) -> str:
        """Official ID of a graph, ``<collection>:<stem>``, as in a submission."""
        return f"{self.name}:{stem}"


def available(data_root: Path) -> list[Subset]:
    """Collections with at least one ``.npz`` in a split, by name."""
    return sorted(_found(Path(data_root)), key=lambda subset: subset.name)


def resolve(name: str, data_root: Path) -> Subset:
    """Find the collection a user names.

    ``tile`` or ``layout`` alone stands for the official collection where one is present, else for the measured one.

    Raises
    ------
    UsageError
        When there is no such collection, or several official ones that a short name could mean; the message lists them.
    """
    there = {subset.name: subset for subset in available(data_root)}
    if name in there:
        return there[name]
    meant = [official for official in OFFICIAL.get(name, ()) if official in there]
    if not meant and _MEASURED.get(name) in there:
        meant = [_MEASURED[name]]
    if len(meant) == 1:
        return Subset(meant[0], f"{name} means {meant[0]} here")
    if meant:
        raise UsageError(f"--subset {name}: could be {', '.join(meant)}; give one of these")
    hint = f"there is {', '.join(there)}" if there else f"{Path(data_root) / 'npz'} holds no collection at all"
    advice = "give one of these" if there else "name another folder with --data, or run `python -m gbr.download`"
    raise UsageError(f"--subset {name}: no such collection below {data_root}; {hint}; {advice}")


def graph_files(subset: Subset, data_root: Path, split: str) -> list[Path]:
    """Graph files of one split, sorted by name.

    Raises
    ------
    UsageError
        For a split that is not one of :data:`SPLITS`.
    DataError
        When the folder is missing or holds no ``.npz``.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    folder = subset.folder(data_root) / split
    files = _npz(folder)
    if not files:
        state = "holds no .npz file" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder}: {state}; {subset.name} needs its {split} graphs there (or leave {split} out of --split)"
        )
    return files


def splits_present(subset: Subset, data_root: Path) -> tuple[str, ...]:
    """Those of :data:`SPLITS` that have graph files."""
    return tuple(split for split in SPLITS if _npz(subset.folder(data_root) / split))


def known_bad(subset: Subset, stem: str) -> bool:
    """Whether a graph is on the list of those with corrupted runtimes, :data:`KNOWN_BAD`."""
    return any(fnmatchcase(stem, pattern) for pattern in KNOWN_BAD.get(subset.name, ()))


def family(kind: str, stem: str) -> str:
    """The family of related graphs: one benchmark (tile) or one architecture (layout), derived from the name.

    A tile graph's name is its benchmark, ``_`` and an identifier of the kernel, as in the official evaluation; a
    layout graph's begins with the letters of its architecture.  A graph named by a hash alone is a family of its own.
    """
    if re.fullmatch(r"[0-9a-f]{32}", stem):
        return stem
    if kind == "tile":
        return stem.rsplit("_", 1)[0]
    begins = re.match(r"[A-Za-z]+", stem)
    return begins.group().lower() if begins else stem


def _npz(folder: Path) -> list[Path]:
    # Names that begin with a dot are what a writer of whole files has not finished yet.
    return sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))


def _found(data_root: Path) -> Iterator[Subset]:
    for kind in KINDS:
        depth = 1 if kind == "tile" else 2
        for folder in (data_root / "npz" / kind).glob("/".join(["*"] * depth)):
            subset = Subset(":".join(folder.relative_to(data_root / "npz").parts))
            if splits_present(subset, data_root):
                yield subset
