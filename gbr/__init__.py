"""Rank compiler configurations of tensor programs without running them.

Everyday use::

    gbr.build("tile:cpu")                              # compute features
    gbr.train("tile:cpu", out="runs/tile")             # fit, score, save
    gbr.evaluate("runs/tile", "tile:cpu", "test")      # score again
    gbr.predict("runs/tile", ["graph.npz"], top=5)     # rank the configurations of graph files
    gbr.submit(["runs/xla"], out="submission.csv")     # write a submission to Kaggle
    gbr.tune(function, arguments, budget=12)           # search for a fast layout of a JAX function
    gbr.tune(configs, measure, budget=12)              # search a list of configurations, such as those of Triton
    gbr.Ranker().fit(X, y, qid=qid).predict(X)         # rank rows of any feature matrix

Importing this package is cheap: public names are imported on first use.  ``train``, ``evaluate``, ``predict``,
``submit`` and ``tune`` are modules (``python -m gbr.train``) that are called like their function of the same name.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from gbr.errors import GbrError, MissingLibraryError

if TYPE_CHECKING:
    from gbr import collect, plot
    from gbr.data.graph import Graph, read_graph, write_graph
    from gbr.data.groups import QueryGroups
    from gbr.data.store import FeatureStore, load
    from gbr.evaluate import evaluate
    from gbr.features import build
    from gbr.predict import predict
    from gbr.ranker import Ranker
    from gbr.submit import submit
    from gbr.train import train
    from gbr.tune import tune

    __version__: str

#: Module -> public names that are imported from it; the others of ``__all__`` are callable modules.
_MODULES: Final = {
    "gbr.data.graph": ("Graph", "read_graph", "write_graph"),
    "gbr.data.groups": ("QueryGroups",),
    "gbr.data.store": ("FeatureStore", "load"),
    "gbr.features": ("build",),
    "gbr.ranker": ("Ranker",),
}
_PUBLIC: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "FeatureStore",
    "GbrError",
    "Graph",
    "QueryGroups",
    "Ranker",
    "__version__",
    "build",
    "collect",
    "evaluate",
    "load",
    "plot",
    "predict",
    "read_graph",
    "submit",
    "train",
    "tune",
    "write_graph",
]


class _CallableModule(ModuleType):
    """A module that is called like its function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    @property
    def _function(self) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        from inspect import signature  # takes as long to import as all of this module

        return signature(self._function)


def callable_module(name: str) -> None:
    """Make the module ``gbr.<function>`` callable, so that ``gbr.train(...)`` and ``python -m gbr.train`` both work."""
    sys.modules[name].__class__ = _CallableModule


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        with suppress(metadata.PackageNotFoundError):
            return metadata.version("gbr")
        return "0+unknown"
    if name not in __all__:
        raise AttributeError(f"module 'gbr' has no attribute {name!r}")
    if name != "Ranker":  # which ranks tables as well
        check_features()
    return getattr(import_module(_PUBLIC[name]), name) if name in _PUBLIC else import_module(f"gbr.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def check_features() -> None:
    """Check that the top-level package ``features`` belongs to gbr; else MissingLibraryError."""
    advice = "rename it if it is yours; else install gbr in a separate environment, or uninstall it and reinstall gbr"
    try:
        found = import_module("features")
    except Exception as fault:  # another project's package may fail in any way
        raise MissingLibraryError(
            f"features: the package of this name cannot be imported ({fault}); {advice}"
        ) from fault
    if getattr(found, "OWNER", None) != "gbr":
        path = getattr(found, "__file__", None) or ", ".join(getattr(found, "__path__", ())) or "unknown path"
        raise MissingLibraryError(
            f"features: {path} belongs to another project and shadows the package of gbr; {advice}"
        )


if sys.argv[:1] == ["-m"]:  # the module of `python -m gbr.train` goes on to import those of `features`
    try:
        check_features()
    except MissingLibraryError as fault:
        sys.exit(f"gbr: error: {fault}")
