"""Inspection of a data directory, on the storage room alone; installed beside the node as ``raftlog``."""
