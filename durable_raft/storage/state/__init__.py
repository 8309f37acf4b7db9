"""The KV state at a checkpoint on LMDB: ``DIR/kv``, and backups of it."""
