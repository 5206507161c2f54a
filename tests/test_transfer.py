"""The line that tells how far bytes are on their way."""

from __future__ import annotations

import sys

import pytest

from gbr import cli

Capture = pytest.CaptureFixture[str]


def told(monkeypatch: pytest.MonkeyPatch, total: int | None, *reports: tuple[float, int]) -> None:
    """Report bytes at seconds; the last pair is when the transfer ends."""
    clock = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    with cli.transfer("a.tar") as report:
        for clock[0], done in reports:
            report(done, total)


def test_plain_lines_with_rate_and_what_is_left(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    mega = 1_000_000
    told(monkeypatch, 5500 * mega, (9, 500 * mega), (10, 600 * mega), (12, 800 * mega), (19, 5500 * mega))
    assert capsys.readouterr().err.splitlines() == [
        "gbr: a.tar: 800.0 MB of 5.5 GB, 100.0 MB/s, about 47 s left",
        "gbr: a.tar: 5.5 GB in 10 s, 500.0 MB/s",
    ]


def test_lines_come_ever_more_rarely_but_come(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, 10**9, *((second, second * 1000) for second in range(1000)))
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 20
    assert lines[-2].endswith("1.0 kB/s, about 277.5 h left")


def test_a_size_that_is_not_known_and_a_new_start(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, None, (0, 0), (5, 5000), (100, 0), (104, 400))
    assert capsys.readouterr().err.splitlines() == [
        "gbr: a.tar: 5.0 kB, 1.0 kB/s",
        "gbr: a.tar: 400 bytes, 100 bytes/s",
        "gbr: a.tar: 400 bytes in 4 s, 100 bytes/s",
    ]


def test_what_is_quick_is_silent(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, 9, (0, 0), (1, 5), (1.9, 9))
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_on_stderr(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli.transfer("a.tar") as report:
        report(10, None)
        report(20, 20)
    assert capsys.readouterr().out == ""
