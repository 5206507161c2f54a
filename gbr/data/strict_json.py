"""JSON out of files that nobody vouches for: it has one meaning, or none.

The standard library reads more than the standard (RFC 8259) allows and less than it must: the last of two equal keys
silently wins, ``NaN`` and ``1e999`` are numbers, text of other encodings is guessed at, and deep nesting ends in a
``RecursionError``.  Here each of these is a ``ValueError``, as any other mistake is.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

_LARGEST: Final = 2**63
#: How half of a character outside the first 65,536 begins in an escape; alone it is no text.
_SURROGATES: Final = tuple(rf"\u{first}{second}" for first in "dD" for second in "89abcdefABCDEF")


def parsed(data: bytes | str) -> Any:
    """Read a JSON text: UTF-8 without a mark, whole numbers of 64 bits, finite fractions, every key once.

    Raises
    ------
    ValueError
        For anything else; its message is one line.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        found = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
        )
    except RecursionError as fault:
        raise ValueError("nested too deeply") from fault
    if any(half in text for half in _SURROGATES):
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError, a ValueError
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond all numbers")
    return number


def _whole(text: str) -> int:
    number = int(text) if len(text) <= 20 else _LARGEST
    if not -_LARGEST <= number < _LARGEST:
        raise ValueError(f"{text[:40]} takes more than 64 bits")
    return number
