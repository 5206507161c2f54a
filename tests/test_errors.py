"""Messages cite files of strangers: they stay one line of a length that can be read, and give a terminal no orders."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbr.errors import DataError, GbrError, MissingLibraryError, UsageError


@given(st.text(max_size=3000))
def test_any_message_is_one_short_line(text: str) -> None:
    told = str(DataError(text))
    assert told.isprintable()
    assert len(told) <= 1003
    assert told == text or not text.isprintable() or len(text) > 1000


@pytest.mark.parametrize("text", ["data/größe.npz: torn; fetch it again", "", "a … b"])
def test_plain_messages_stay_as_they_are(text: str) -> None:
    assert str(GbrError(text)) == text


def test_what_a_terminal_obeys_is_shown() -> None:
    assert str(UsageError("a\x1b[2Jb\r\n\u202ec\udcff")) == r"a\x1b[2Jb\r\n\u202ec\udcff"


def test_both_ends_of_a_long_message_are_kept() -> None:
    told = str(GbrError(f"file.json: {'x' * 10**6}; fetch it again"))
    assert told.startswith("file.json: xx")
    assert told.endswith("xx; fetch it again")


@pytest.mark.parametrize("kind", [GbrError, DataError, MissingLibraryError])
def test_errors_come_back_from_other_processes(kind: type[GbrError]) -> None:
    again = pickle.loads(pickle.dumps(kind("graph.npz: torn")))
    assert type(again) is kind
    assert str(again) == "graph.npz: torn"
