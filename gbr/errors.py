"""Exceptions of gbr::

    GbrError                  an expected failure
    ├── UsageError            a wrong argument or option (also a ValueError)
    ├── DataError             a graph file or data set that is missing, damaged or invalid (also a ValueError)
    ├── HloError              bytes that are not a valid HLO protobuf (also a ValueError)
    ├── StoreError            a feature store that is missing, damaged or has another schema
    ├── ModelError            a model that is missing, damaged or does not match the features
    ├── CollectError          a measurement that fails or is unreliable
    ├── TuneError             a search that cannot continue, or a journal that cannot be used
    ├── DownloadError         a file that cannot be downloaded
    │   └── ArchiveError      an archive that is damaged, hostile or incomplete
    └── MissingLibraryError   an optional library that is not installed (also an ImportError)

A message is one line: what or where, what was expected, what was found, and what to do.  Commands print it and exit
with status 1, or 2 for a UsageError.
"""

from __future__ import annotations

import sys
import warnings
from functools import cache
from typing import Any, Final

_MAX_LENGTH: Final = 1000


class GbrError(Exception):
    """An expected failure.

    Parameters
    ----------
    message : str
        May quote untrusted files: unprintable characters are escaped, and a long message is shortened in the middle.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        if not message.isprintable():
            message = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
        if len(message) > _MAX_LENGTH:
            message = f"{message[: _MAX_LENGTH // 2]} … {message[-_MAX_LENGTH // 2 :]}"
        super().__init__(message)


class UsageError(GbrError, ValueError):
    """A wrong argument or option: exit status 2."""

    exit_code = 2


class DataError(GbrError, ValueError):
    """A graph file or data set that is missing, damaged or invalid."""


class HloError(GbrError, ValueError):
    """Bytes that are not a valid HLO protobuf."""


class StoreError(GbrError):
    """A feature store that is missing, damaged or has another schema."""


class ModelError(GbrError):
    """A model that is missing, damaged or does not match the features."""


class CollectError(GbrError):
    """A measurement that fails or is unreliable."""


class TuneError(GbrError):
    """A search that cannot continue, or a journal that cannot be used."""


class DownloadError(GbrError):
    """A file that cannot be downloaded."""


class ArchiveError(DownloadError):
    """An archive that is damaged, hostile or incomplete."""


class MissingLibraryError(GbrError, ImportError):
    """An optional library, or a system library that it needs, is not installed."""


class GbrWarning(UserWarning):
    """A result that is probably not what was meant; commands print it as one line on stderr."""


def one_line(fault: object) -> str:
    """The text of an error of another library, without line breaks."""
    return " ".join(str(fault).split())


@cache
def warn_once(message: str) -> None:
    """Issue a :class:`GbrWarning`, once per process and message."""
    warnings.warn(message, GbrWarning, stacklevel=4)


_show_other = warnings.showwarning


def show_warning(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
    """For ``warnings.showwarning``: a warning of gbr as one line, others as Python shows them."""
    if issubclass(category, GbrWarning):
        sys.stderr.write(f"gbr: warning: {message}\n")
    else:
        _show_other(message, category, *where, **options)
