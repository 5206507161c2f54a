"""Feature vectors of layout configurations: memory layouts of convolutions, dots and reshapes."""
