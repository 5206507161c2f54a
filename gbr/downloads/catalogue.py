"""What of TpuGraphs is published where, and what of it is here.

Archives: https://github.com/google-research-datasets/tpu_graphs#dataset.  That page tells their names, not their sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gbr.data.collection import OFFICIAL, OFFICIAL_TEST, SPLITS
from gbr.data.files import parse_json, write_json
from gbr.errors import DownloadError, UsageError

BASE_URL: Final = "http://download.tensorflow.org/data/tpu_graphs/v0/"
INDICES_URL: Final = "https://raw.githubusercontent.com/google-research-datasets/tpu_graphs/main/tpu_graphs/baselines/layout/eval_indices/"
#: The name by which a user asks for the configurations that the official evaluation scores.
INDICES: Final = "eval-indices"
COLLECTIONS: Final = tuple(name for names in OFFICIAL.values() for name in names)
#: Their files, and the validation graphs each lists.
INDEX_FILES: Final = {
    "layout:xla:default": ("xla_default.json", 7),
    "layout:xla:random": ("xla_random.json", 7),
    "layout:nlp:default": ("nlp_default.json", 20),
    "layout:nlp:random": ("nlp_random.json", 20),
}

#: Graphs to train on and to validate with, by Phothilimthana et al., "TpuGraphs", NeurIPS 2023.
_GRAPHS: Final = {
    "tile:xla": (5709, 676),
    "layout:xla:default": (61, 7),
    "layout:xla:random": (69, 7),
    "layout:nlp:default": (198, 20),
    "layout:nlp:random": (207, 20),
}
_ENDINGS: Final = (".tar", ".tar.gz", ".tgz", ".zip")
#: Archives that hold all collections: Google's, and the one that Kaggle makes of the competition's data.
_WHOLE: Final = ("npz_all", "predict-ai-model-runtime")
#: Beside the graph files: what was unpacked, so that the archive need not be kept to know that nothing is missing.
_RECEIPT: Final = ".unpacked.json"


@dataclass(frozen=True, order=True)
class Piece:
    """One split of a collection, which is one archive of Google's.

    Parameters
    ----------
    subset : str
    split : str
    """

    subset: str
    split: str

    @property
    def stem(self) -> str:
        """The archive's name without its ending."""
        return f"npz_{self.subset.replace(':', '_')}_{self.split}"

    @property
    def archive(self) -> str:
        """The archive's name on Google's server."""
        return f"{self.stem}.tar"

    @property
    def graphs(self) -> int:
        """Graphs that were published."""
        known = dict(zip(SPLITS, (*_GRAPHS[self.subset], OFFICIAL_TEST[self.subset]), strict=True))
        return known[self.split]

    def folder(self, data_root: Path) -> Path:
        """Where its graphs are below the data root."""
        return data_root.joinpath("npz", *self.subset.split(":"), self.split)

    def count(self, data_root: Path) -> int:
        """Graph files that are there."""
        return len(self._sizes(data_root))

    def complete(self, data_root: Path) -> bool:
        """Whether all graphs are there: those that were unpacked, or else as many as were published."""
        there = self._sizes(data_root)
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            unpacked = parse_json((self.folder(data_root) / _RECEIPT).read_bytes())["files"]
            return all(there.get(name) == size for name, size in unpacked.items())
        return len(there) >= self.graphs

    def sign(self, data_root: Path, archive: str, sizes: dict[str, int]) -> None:
        """Write down which files of which size are all that an archive had."""
        write_json(self.folder(data_root) / _RECEIPT, {"archive": archive, "files": sizes}, DownloadError)

    def _sizes(self, data_root: Path) -> dict[str, int]:
        # Names that begin with a dot are what a writer of whole files has not finished yet.
        files = (path for path in self.folder(data_root).glob("*.npz") if not path.name.startswith("."))
        return {path.name: path.stat().st_size for path in files}


def asked_for(names: Iterable[str], splits: Sequence[str] | None) -> tuple[list[Piece], bool]:
    """Understand what a user names.

    Parameters
    ----------
    names : iterable of str
        Collections, beginnings of their names (``layout:xla``, ``tile``), ``all`` or ``eval-indices``.
    splits : sequence of str or None
        All where None.

    Returns
    -------
    list of Piece, bool
        In the order of :data:`COLLECTIONS`, and whether the lists of the official evaluation are among it.

    Raises
    ------
    UsageError
        For a name that is none.
    """
    chosen: set[str] = set()
    for name in names:
        meant = [one for one in COLLECTIONS if name in ("all", one) or one.startswith(f"{name}:")]
        if not meant and name != INDICES:
            raise UsageError(f"{name}: no collection of TpuGraphs; there is {', '.join((*COLLECTIONS, INDICES))}, all")
        chosen.update(meant)
    pieces = [Piece(one, split) for one in COLLECTIONS if one in chosen for split in splits or SPLITS]
    return pieces, INDICES in set(names)


def find_archives(place: Path, pieces: Collection[Piece]) -> dict[Path, list[Piece]]:
    """Find archives that were fetched by other means.

    Parameters
    ----------
    place : Path
        A folder with Google's archives (also compressed) or Kaggle's, or one archive that has it all.
    pieces : collection of Piece

    Returns
    -------
    dict
        Archive -> what is to be taken out of it.

    Raises
    ------
    DownloadError
        When one is not there.
    """
    if place.is_file():
        return {place: list(pieces)}
    found: dict[Path, list[Piece]] = {}
    for piece in pieces:
        candidates = (place / f"{stem}{ending}" for stem in (piece.stem, *_WHOLE) for ending in _ENDINGS)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise DownloadError(
                f"{place}: has no archive of {piece.subset} {piece.split}; want {piece.archive} (or .tar.gz), "
                f"{_WHOLE[0]}.tar or {_WHOLE[1]}.zip there, or name the archive itself"
            )
        found.setdefault(path, []).append(piece)
    return found
