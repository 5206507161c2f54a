"""What goes wrong with files: bytes, texts and arrays that were whole, damaged at random."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Values that are invalid in most positions.
ODD = (-5, -1, 0, 0.5, 1, 2, 3, 5, 6, 7, 16, 31, 100, 1e-30, 1e9, 2.0**31, 2.0**40, 2.0**53, 1e19, 3e38, np.nan, np.inf)

_RUNTIMES = ("config_runtime", "config_runtime_normalizers", "config_runtime_repeat")


def damaged_bytes(whole: bytes, choice: random.Random) -> bytes:
    """A few bytes changed, repeated, lost or put in; never empty."""
    mutant = bytearray(whole)
    for _ in range(choice.randint(1, 4)):
        at, source, size = choice.randrange(len(mutant)), choice.randrange(len(mutant)), choice.randrange(1, 12)
        kind = choice.randrange(4)
        if kind == 0:
            mutant[at] ^= choice.choice([1 << choice.randrange(8), choice.randrange(256)])
        elif kind == 1:
            mutant[at : at + size] = choice.randbytes(choice.randrange(12))
        elif kind == 2:
            mutant[at : at + size] = b"\xff" * size
        else:
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


#: Unusual JSON values.
STRANGE = (None, True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, -(2**63), 0.5, -1e308, "", "x", "\0", "..", "../x", "tile", "é\n", "9" * 400, [], {}, [[]], [0], [None], ["x"], {"x": 0}, {"": {}})  # fmt: skip  # noqa: E501

#: Pieces of text that readers stumble over.
SNAGS = (b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n\n", b'"', b"'", b",", b";", b"=", b":", b"[", b"{", b"NaN", b"-Infinity", b"1e999", b"-0", b"0x10", b"1_0", b"9" * 25, b"9" * 5000, b"1" + b"0" * 18, b"\\ud800", b"true", b"null", b"\xe2\x80\xa8", b"\x1b[2J")  # fmt: skip  # noqa: E501

_TOKEN = re.compile(rb"[0-9]+|[A-Za-z_]+|\S")


def damaged_json(whole: bytes, choice: random.Random) -> bytes:
    """A JSON text with values changed, lost, moved or doubled: mostly JSON still, and not what was to be there."""
    value = json.loads(whole)
    for _ in range(choice.randint(1, 3)):
        value = _other(value, choice)
    encoded = json.dumps(value).encode()
    return damaged_text(encoded, choice) if choice.random() < 0.15 else encoded


def _other(value: Any, choice: random.Random) -> Any:
    """The same value with one randomly chosen element changed."""
    if not isinstance(value, dict | list) or not value or choice.random() < 0.05:
        return copy.deepcopy(choice.choice(STRANGE))
    key: Any = choice.choice(list(value)) if isinstance(value, dict) else choice.randrange(len(value))
    kind = choice.randrange(10)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[key] = copy.deepcopy(value[choice.choice(list(value))] if isinstance(value, dict) else value[0])
    elif kind == 2 and isinstance(value, dict):
        value[choice.choice(["", "x", "../x", "\0"])] = value.pop(key)
    elif kind == 3 and isinstance(value[key], int | float):
        value[key] = value[key] * choice.choice([-1, 0, 2, 1000]) + choice.choice([-1, 0, 1, 0.5])
    else:
        value[key] = _other(value[key], choice)
    return value


def damaged_text(whole: bytes, choice: random.Random) -> bytes:
    """A text with words exchanged, lines lost, doubled and moved, and pieces put in that readers stumble over."""
    for _ in range(choice.randint(1, 3)):
        kind = choice.randrange(6)
        words = list(_TOKEN.finditer(whole)) if kind < 3 and len(whole) < 200_000 else []
        if words:
            word, other = choice.choice(words), choice.choice(words)
            new = (other[0], choice.choice(SNAGS), word[0] + choice.choice(SNAGS))[kind]
            whole = whole[: word.start()] + new + whole[word.end() :]
        elif kind < 5:
            lines = whole.split(b"\n")
            at, to = choice.randrange(len(lines)), choice.randrange(len(lines))
            line = lines[at] if kind == 3 else lines.pop(at)
            lines[to:to] = [line] * choice.randrange(3)
            whole = b"\n".join(lines)
        else:
            at = choice.randrange(len(whole) + 1)
            whole = choice.choice([whole[:at], whole[at:], whole.decode("latin-1").encode("utf-16")])
    return whole or b"\n"
