"""Feature extractors for tensor programs and their compiler configurations: arrays in, vectors out.

:mod:`features.tile.extractor` and :mod:`features.layout.extractor` hold the extractors.  Nothing here reads files.
"""

from typing import Final

#: Distinguishes this package from other packages named ``features``.
OWNER: Final = "gbr"
