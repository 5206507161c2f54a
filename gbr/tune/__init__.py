"""Search the configurations of a program for a fast one, with as few measurements as possible.

A :class:`Tuner` proposes what to measure (ask) and learns from what came of it (tell), beside what a model trained on
other programs expects.  :func:`search` is the loop around it: it measures, writes down, and compares the best with the
default.  ``python -m gbr.tune`` does so for kernels and JAX programs on this machine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gbr.tune.child import Child
    from gbr.tune.journal import Journal
    from gbr.tune.kernels import tile_space
    from gbr.tune.loop import Found, Verdict, search
    from gbr.tune.programs import TunedLayout, layout_space, tune_layout
    from gbr.tune.replay import Replay
    from gbr.tune.space import GraphSpace, ParameterSpace, Space
    from gbr.tune.tuner import Best, Tuner

__all__ = [
    "Best",
    "Child",
    "Found",
    "GraphSpace",
    "Journal",
    "ParameterSpace",
    "Replay",
    "Space",
    "TunedLayout",
    "Tuner",
    "Verdict",
    "layout_space",
    "search",
    "tile_space",
    "tune_layout",
]

_HOME: Final = {
    "Best": "gbr.tune.tuner",
    "Child": "gbr.tune.child",
    "Found": "gbr.tune.loop",
    "GraphSpace": "gbr.tune.space",
    "Journal": "gbr.tune.journal",
    "ParameterSpace": "gbr.tune.space",
    "Replay": "gbr.tune.replay",
    "Space": "gbr.tune.space",
    "TunedLayout": "gbr.tune.programs",
    "Tuner": "gbr.tune.tuner",
    "Verdict": "gbr.tune.loop",
    "layout_space": "gbr.tune.programs",
    "search": "gbr.tune.loop",
    "tile_space": "gbr.tune.kernels",
    "tune_layout": "gbr.tune.programs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gbr.tune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
