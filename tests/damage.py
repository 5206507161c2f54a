"""What goes wrong with files: bytes and arrays that were whole, damaged at random."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Values that no real program has in most places.
ODD = (-5, -1, 0, 0.5, 1, 2, 3, 5, 6, 7, 16, 31, 100, 1e-30, 1e9, 2.0**31, 2.0**40, 2.0**53, 1e19, 3e38, np.nan, np.inf)

_RUNTIMES = ("config_runtime", "config_runtime_normalizers", "config_runtime_repeat")


def damaged_bytes(whole: bytes, choice: random.Random) -> bytes:
    """A few bytes changed, repeated, lost or put in; never empty."""
    mutant = bytearray(whole)
    for _ in range(choice.randint(1, 4)):
        at, size = choice.randrange(len(mutant)), choice.randrange(1, 12)
        kind = choice.randrange(5)
        if kind == 0:
            mutant[at] = choice.randrange(256)
        elif kind == 1:
            mutant[at] ^= 1 << choice.randrange(8)
        elif kind == 2:
            mutant[at : at + size] = choice.randbytes(choice.randrange(12))
        elif kind == 3:
            mutant[at : at + size] = b"\xff" * size
        else:
            source = choice.randrange(len(mutant))
            mutant[at:at] = mutant[source : source + size]
        mutant = mutant or bytearray(b"\n")
    return bytes(mutant)


def damaged_arrays(whole: Mapping[str, Any], choice: random.Random, n_configs: int = 4) -> dict[str, Any]:
    """A graph's arrays with its first configurations, and a few cells, opcodes and edges that are wrong."""
    arrays = {key: np.array(value) for key, value in whole.items()}
    configs = "config_feat" if "config_feat" in arrays else "node_config_feat"
    for key in (configs, *_RUNTIMES):
        if key in arrays:
            arrays[key] = arrays[key][:n_configs]
    for _ in range(choice.randint(1, 5)):
        _damage(arrays, configs, choice)
    return arrays


def _damage(arrays: dict[str, Any], configs: str, choice: random.Random) -> None:
    feat, edges = arrays["node_feat"], arrays["edge_index"]
    kind = choice.randrange(6)
    if kind <= 1:
        node = choice.randrange(len(feat))
        columns = np.flatnonzero(feat[node]) if choice.random() < 0.6 else np.arange(feat.shape[1])
        if len(columns):
            feat[node, choice.choice(columns.tolist())] = choice.choice(ODD)
    elif kind == 2:
        arrays["node_opcode"][choice.randrange(len(feat))] = choice.randrange(130)
    elif kind == 3 and len(edges):
        edge = choice.randrange(len(edges))
        edges[edge, 1] = choice.randrange(max(1, int(edges[edge, 0])))
    elif kind == 4 and len(edges):
        arrays["edge_index"] = np.delete(edges, choice.randrange(len(edges)), axis=0)
    else:
        cells = arrays[configs].reshape(-1)
        cells[choice.randrange(len(cells))] = choice.choice(ODD)
