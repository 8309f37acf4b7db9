"""Arguments as clients send them, and the refusals that are worded alike everywhere (wording: redis 7.0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_raft.kv.replies import ErrorReply

Args = Sequence[bytes]
"""A whole request, its name first."""

ECHOED_BYTES_MAX: Final = 128
"""How much of a client's own text an error repeats (Redis: ``%.128s``)."""

SYNTAX_ERROR: Final = ErrorReply("ERR syntax error")
NOT_AN_INTEGER: Final = ErrorReply("ERR value is not an integer or out of range")


def echo(text: bytes) -> str:
    """Return a client's own text as an error line may repeat it: bounded, its bytes as they came."""
    return text[:ECHOED_BYTES_MAX].decode("utf-8", "surrogateescape")


def is_printable(text: bytes) -> bool:
    """Return whether ``text`` has no blank, newline or control character (Redis ``validateClientAttr``)."""
    return all(0x21 <= byte <= 0x7E for byte in text)
