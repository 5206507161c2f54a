"""What nodes and loops of a program add to a score."""
