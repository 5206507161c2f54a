"""Arrays in, vectors out: feature extractors for tensor programs and their compiler configurations.

Knows no file and no model.  The extractors are in :mod:`features.tile.extractor` and :mod:`features.layout.extractor`.
"""

from __future__ import annotations

from typing import Final

#: Tells this package from another one of the same name.
OWNER: Final = "gbr"
