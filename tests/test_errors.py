"""Messages may quote untrusted files: they are one short, printable line."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbr.errors import DataError, GbrError, MissingLibraryError, UsageError


@given(st.text(max_size=3000))
def test_any_message_is_one_short_line(text: str) -> None:
    message = str(DataError(text))
    assert message.isprintable()
    assert len(message) <= 1003
    assert message == text or not text.isprintable() or len(text) > 1000


def test_control_characters_are_escaped() -> None:
    assert str(UsageError("a\x1b[2Jb\r\n\u202ec\udcff")) == r"a\x1b[2Jb\r\n\u202ec\udcff"


def test_both_ends_of_a_long_message_are_kept() -> None:
    message = str(GbrError(f"file.json: {'x' * 10**6}; fetch it again"))
    assert message.startswith("file.json: xx")
    assert message.endswith("xx; fetch it again")


@pytest.mark.parametrize("kind", [GbrError, DataError, MissingLibraryError])
def test_errors_can_be_pickled(kind: type[GbrError]) -> None:
    again = pickle.loads(pickle.dumps(kind("graph.npz: torn")))
    assert type(again) is kind
    assert str(again) == "graph.npz: torn"
