"""The exit codes of every command, in one place; they are documented in ``durable-raft --help``."""

from __future__ import annotations

import enum

from durable_raft.errors import (
    ConfigError,
    DirectoryLost,
    DirectoryRefused,
    DiskFull,
    InvariantViolation,
    NodeRemoved,
    NodeUnreachable,
    StorageError,
    StoragePoisoned,
    UnknownFormatVersion,
)


class ExitCode(enum.IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1
    """The answer is no: a check found something, a write was lost, an error that has no code of its own."""
    USAGE = 2
    """The command line or the configuration cannot work."""
    DAMAGED = 3
    """Stored data fail their checksums."""
    UNREACHABLE = 4
    """No node answers there, or there is no leader."""
    REFUSED = 5
    """The directory or the address may not be used: in use, another cluster's, another node's, a newer format."""
    DISK_FAILED = 6
    """A write or sync failed; the node stopped at once. What was acknowledged is on the disk."""
    DIRECTORY_LOST = 7
    """The data directory was removed, replaced or unmounted under the node; it stopped at once."""
    REMOVED = 8
    """The node was removed from its cluster, and stopped."""
    BUG = 70
    """An invariant was broken by our own code; the node stopped (EX_SOFTWARE)."""
    INTERRUPTED = 130
    """Ctrl-C."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an error that ends a command."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case DirectoryRefused() | UnknownFormatVersion():
            return ExitCode.REFUSED
        case DirectoryLost():
            return ExitCode.DIRECTORY_LOST
        case StoragePoisoned() | DiskFull():
            return ExitCode.DISK_FAILED
        case StorageError():
            return ExitCode.DAMAGED
        case NodeUnreachable():
            return ExitCode.UNREACHABLE
        case NodeRemoved():
            return ExitCode.REMOVED
        case InvariantViolation():
            return ExitCode.BUG
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
    return ExitCode.FAILED
