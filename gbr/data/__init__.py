"""Files, graphs, collections and the feature store."""
