"""Arguments as clients send them: how much of them an error repeats, and which may be shown in a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Args = Sequence[bytes]
"""A whole request, its name first."""

ECHOED_BYTES_MAX: Final = 128
"""How much of a client's own text an error repeats (Redis: ``%.128s``)."""


def echo(text: bytes) -> str:
    """Return a client's own text as an error line may repeat it: bounded, its bytes as they came."""
    return text[:ECHOED_BYTES_MAX].decode("utf-8", "surrogateescape")


def is_printable(text: bytes) -> bool:
    """Return whether ``text`` has no blank, newline or control character (Redis ``validateClientAttr``)."""
    return all(0x21 <= byte <= 0x7E for byte in text)
