"""Error replies that several commands share, in Redis 7.0's words where it has any."""

from __future__ import annotations

from typing import Final

from durable_raft.kv.glob import PATTERN_BYTES_MAX
from durable_raft.kv.replies import ErrorReply

SYNTAX_ERROR: Final = ErrorReply("ERR syntax error")
NOT_AN_INTEGER: Final = ErrorReply("ERR value is not an integer or out of range")
WOULD_OVERFLOW: Final = ErrorReply("ERR increment or decrement would overflow")
DECREMENT_WOULD_OVERFLOW: Final = ErrorReply("ERR decrement would overflow")
VALUE_TOO_LONG: Final = ErrorReply("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
PATTERN_TOO_LONG: Final = ErrorReply(f"ERR pattern is longer than {PATTERN_BYTES_MAX} bytes")
TOO_MANY_KEYS: Final = ErrorReply("ERR too many keys to look at all of them in one command, use SCAN")
INVALID_CURSOR: Final = ErrorReply("ERR invalid cursor")


def invalid_expire_time(command: bytes) -> ErrorReply:
    """Return the error for a time to live that is not positive or overflows."""
    return ErrorReply(f"ERR invalid expire time in '{command.decode()}' command")


def reply_too_large(bytes_max: int) -> ErrorReply:
    """Return the error for a command whose reply would be longer than any may be."""
    return ErrorReply(f"ERR the reply would be longer than {bytes_max} bytes (reply_bytes_max): ask for less at once")
