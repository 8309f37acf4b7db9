"""THE MACHINE: deterministic, commands in order give replies. Knows nothing of Raft, files or the time of day."""
