"""Feature vectors of tile configurations: the tile sizes of one fused kernel."""
