"""Search the configurations of a program for a fast one, with few measurements.

A :class:`Tuner` proposes configurations (``ask``) and learns from their runtimes (``tell``), starting from a model
trained on other programs.  :func:`search` measures and records the proposals, and finally compares the best with the
default.  ``python -m gbr.tune`` searches for kernels and JAX programs on this machine.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gbr import callable_module
from gbr.tune.configs import ConfigSpace, KernelSpace, TunedConfig, tune_configs
from gbr.tune.runner import Child, Found, Journal, Replay, Verdict, search
from gbr.tune.space import GraphSpace, ParameterSpace, Space, TableSpace
from gbr.tune.tuner import Best, Tuner

if TYPE_CHECKING:
    from gbr.tune.jax import TunedLayout, layout_space, load_layout, tile_space, tune_layout

__all__ = [
    "Best",
    "Child",
    "ConfigSpace",
    "Found",
    "GraphSpace",
    "Journal",
    "KernelSpace",
    "ParameterSpace",
    "Replay",
    "Space",
    "TableSpace",
    "TunedConfig",
    "TunedLayout",
    "Tuner",
    "Verdict",
    "layout_space",
    "load_layout",
    "search",
    "tile_space",
    "tune_configs",
    "tune_layout",
]


def tune(function: Any, args: Any, **options: Any) -> Any:
    """Tune the layouts of a JAX function, or choose from a list of configurations.

    ``gbr.tune(function, args, ...)`` is :func:`tune_layout`, ``gbr.tune(configs, measure, ...)`` :func:`tune_configs`.
    """
    return getattr(sys.modules[__name__], "tune_layout" if callable(function) else "tune_configs")(
        function, args, **options
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gbr.tune' has no attribute {name!r}")
    return getattr(import_module("gbr.tune.jax"), name)  # needs JAX and Numba


callable_module(__name__)
