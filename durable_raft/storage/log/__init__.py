"""The Raft log on LMDB: ``DIR/raft``."""
