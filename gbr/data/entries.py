"""What the manifest of a feature store may say: it may come from a stranger with the store.

Stems and counts of it become paths and sizes of arrays, so they are looked at before anything is read by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gbr.data.parquet import MEASURED

_COUNTS: Final = ("rows", "distinct", "columns", "bytes")
#: What every graph's entry has.
_KEYS: Final = frozenset((*_COUNTS, "labelled", "measured", "degenerate", "source"))
_MOST: Final = 1 << 48


def check(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that no store has.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError
    """
    if not isinstance(manifest["gbr"], str):
        raise TypeError("its version is no text")
    _check_schema(manifest["schema"])
    if not all(map(_is_count, manifest["expected"].values())):
        raise ValueError("its numbers of graphs are none")
    for entries in manifest["graphs"].values():
        for stem, entry in entries.items():
            if not stem or stem.startswith(".") or Path(stem).name != stem or "\\" in stem or not stem.isprintable():
                raise ValueError(f"{stem[:80]!r} is no name of a graph")
            _check_entry(stem, entry)


def _check_schema(schema: Mapping[str, Any]) -> None:
    columns, shared = schema["columns"], schema["shared"]
    if not isinstance(columns, list) or not isinstance(shared, list):
        raise TypeError("its columns are no lists")
    if not all(isinstance(name, str) for name in (schema["hash"], *columns, *shared)):
        raise TypeError("its columns are no texts")
    own = set(columns)
    if len(own) < len(columns) or len(set(shared)) < len(shared) or not set(shared) <= own:
        raise ValueError("its columns are not each one's own")
    if not isinstance(schema.get("hardware"), dict | None):
        raise TypeError("its hardware is no profile")


def _check_entry(stem: str, entry: Mapping[str, Any]) -> None:
    if not entry.keys() >= _KEYS or not all(_is_count(entry[name]) for name in _COUNTS):
        raise ValueError(f"what it says of {stem[:80]} is not whole")
    if not isinstance(entry["measured"], list) or not set(entry["measured"]) <= set(MEASURED):
        raise ValueError(f"what it says is measured of {stem[:80]} is not known")
    if not isinstance(entry["source"], dict) or not isinstance(entry["degenerate"], str | None):
        raise TypeError(f"what it says of {stem[:80]} is of another kind")
    if not isinstance(entry["labelled"], bool):
        raise TypeError(f"whether {stem[:80]} is labelled is not told")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST
