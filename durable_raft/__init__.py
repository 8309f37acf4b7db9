"""A Raft-replicated key-value store whose log survives its disk."""

__version__ = "0.2.0"
