"""Files that only their owner may read: keys and secrets that a command makes."""

from __future__ import annotations

import os
from pathlib import Path

from durable_raft.errors import ConfigError
from durable_raft.storage.directory import sync_path


def write_private(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600, and have it on the disk.

    Raises:
        FileExistsError: there is one; it is never overwritten.
        ConfigError: it cannot be made.
    """
    try:
        # Nobody else may read it, not even for a moment.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: expected a path where a file can be made, got {error}") from error
    with os.fdopen(descriptor, "wb") as made:
        made.write(data)
    sync_path(path)
    sync_path(path.parent)
