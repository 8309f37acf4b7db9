"""THE ALGORITHM: no socket, file, clock, thread, randomness of its own, or log call. ``core.Raft`` is the only door."""
