"""The machine's state on its way to and from the disk: checkpoints, snapshots, backups, hashes, the scrubber."""
