"""Rank compiler configurations of tensor programs without running them.

Importing this package is cheap: what it offers is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from gbr.errors import GbrError, MissingLibraryError

if TYPE_CHECKING:
    from gbr.data.frames import load
    from gbr.data.graph import Graph, read_graph, write_graph
    from gbr.data.groups import QueryGroups
    from gbr.data.store import FeatureStore
    from gbr.ranker import Ranker

    __version__: str

__all__ = [
    "FeatureStore",
    "GbrError",
    "Graph",
    "QueryGroups",
    "Ranker",
    "__version__",
    "load",
    "read_graph",
    "write_graph",
]

_HOME: Final = {
    "FeatureStore": "gbr.data.store",
    "Graph": "gbr.data.graph",
    "Ranker": "gbr.ranker",
    "QueryGroups": "gbr.data.groups",
    "load": "gbr.data.frames",
    "read_graph": "gbr.data.graph",
    "write_graph": "gbr.data.graph",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'gbr' has no attribute {name!r}")
    check_features()
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def check_features() -> None:
    """Make sure that the top-level package ``features`` is the one that came with gbr.

    Raises
    ------
    MissingLibraryError
        When it is another project's, or not there.
    """
    advice = "install gbr in an environment of its own, or `pip uninstall features` and reinstall gbr"
    try:
        found = import_module("features")
    except Exception as fault:  # another project's package may fail in any way
        raise MissingLibraryError(
            f"features: the package of this name cannot be imported ({fault}); {advice}"
        ) from fault
    if getattr(found, "OWNER", None) != "gbr":
        place = getattr(found, "__file__", None) or ", ".join(getattr(found, "__path__", ())) or "an unknown place"
        raise MissingLibraryError(f"features: {place} belongs to another project and hides gbr's own package; {advice}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gbr")
    except PackageNotFoundError:
        return "0+unknown"
