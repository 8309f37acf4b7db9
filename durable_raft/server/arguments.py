"""Arguments as clients send them, and the refusals that are worded alike everywhere (wording: redis 7.0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_raft.kv.replies import ErrorReply

Args = Sequence[bytes]
"""A whole request, its name first."""

ECHOED_BYTES_MAX: Final = 128
"""How much of a client's own text an error repeats (Redis: ``%.128s``)."""

INTEGER_BYTES_MAX: Final = 20
"""Length of the longest 64-bit integer, ``-9223372036854775808``; longer text is refused unread."""

SYNTAX_ERROR: Final = ErrorReply("ERR syntax error")
NOT_AN_INTEGER: Final = ErrorReply("ERR value is not an integer or out of range")


def parse_integer(text: bytes) -> int | None:
    """Return a signed 64-bit integer in its shortest decimal form; None for anything else (Redis ``string2ll``)."""
    if len(text) > INTEGER_BYTES_MAX or not text.removeprefix(b"-").isdigit():
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 and str(value).encode() == text else None


def is_arity_right(arity: int, args: Args) -> bool:
    """Return whether ``args`` has exactly ``arity`` items, or at least ``-arity`` when that is negative."""
    return len(args) == arity if arity >= 0 else len(args) >= -arity


def wrong_arity(command: str) -> ErrorReply:
    """Return the refusal of a wrong number of arguments; ``command`` is ``name`` or ``name|subcommand``."""
    return ErrorReply(f"ERR wrong number of arguments for '{command}' command")


def echo(text: bytes) -> str:
    """Return a client's own text as an error line may repeat it: bounded, and on one line."""
    return text[:ECHOED_BYTES_MAX].decode("utf-8", "backslashreplace").replace("\r", " ").replace("\n", " ")


def is_printable(text: bytes) -> bool:
    """Return whether ``text`` has no blank, newline or control character (Redis ``validateClientAttr``)."""
    return all(0x21 <= byte <= 0x7E for byte in text)
