"""What can go wrong, one class per place.  A message says what, where, what was wanted and what to do."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 1000


class GbrError(Exception):
    """An expected failure: one line for the user, exit status 1.

    Parameters
    ----------
    message : str
        May cite a file of a stranger: what a terminal would obey is escaped, and what is too long is left out.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_line(message))


class UsageError(GbrError, ValueError):
    """A request that cannot be right, whatever the files hold: exit status 2."""

    exit_code = 2


class DataError(GbrError, ValueError):
    """A graph file (.npz) that is missing, torn or breaks its format."""


class HloError(GbrError, ValueError):
    """Bytes that are not the HLO protobuf they should be."""


class StoreError(GbrError):
    """A feature store that is missing, torn or of another schema."""


class ModelError(GbrError):
    """A model directory that is missing, torn or does not fit the features."""


class CollectError(GbrError):
    """A measurement that cannot be made or trusted."""


class DownloadError(GbrError):
    """A file that cannot be fetched, or an archive that cannot be trusted."""


class ArchiveError(DownloadError):
    """An archive that is torn, hostile or has nothing of what is wanted: no use going on with it."""


class TuneError(GbrError):
    """A search that cannot go on, or its journal."""


class MissingLibraryError(GbrError, ImportError):
    """An optional library, or a system library below one, is not there."""


def _line(message: str) -> str:
    told = message
    if not told.isprintable():
        told = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in told)
    if len(told) > _LONGEST:
        told = f"{told[: _LONGEST // 2]} … {told[-_LONGEST // 2 :]}"
    return told
