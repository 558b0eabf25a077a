"""Running one process in a prepared root with mounts. Never knows snapshots or the graph."""
