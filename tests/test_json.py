"""JSON of strangers: what the standard library writes is read as it reads it, what it should not read is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.data.strict_json import parsed

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(PLAIN, st.booleans(), st.sampled_from([None, 1]))
def test_what_is_written_is_read(value: Any, ascii_only: bool, indent: int | None) -> None:
    told = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert parsed(told) == parsed(told.encode()) == json.loads(told) == value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} 2', "Extra data"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' stands there twice"),
        (b'["\0"]', "Invalid control character"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is beyond all numbers"),
        (b"[9223372036854775808]", "9223372036854775808 takes more than 64 bits"),
        (b"[-9223372036854775809]", "takes more than 64 bits"),
        (b"9" * 100_000, "takes more than 64 bits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM|Expecting value"),
        ("{}".encode("utf-16"), "invalid start byte"),
        (b'["\xff"]', "invalid start byte"),
        (rb'["\ud800"]', "surrogates not allowed"),
        (rb'{"\uDfff": 0}', "surrogates not allowed"),
    ],
)
def test_what_has_no_one_meaning_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as told:
        parsed(data)
    assert "\n" not in str(told.value)


def test_both_halves_of_a_character_are_text() -> None:
    assert parsed(rb'["\ud83d\ude00"]') == ["\U0001f600"]
