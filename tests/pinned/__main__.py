"""Write the tables again."""

from tests.pinned import GRAPHS, write

for kind in GRAPHS:
    write(kind)
