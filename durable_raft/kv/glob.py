"""Redis's glob patterns over bytes: ``*``, ``?``, ``[abc]``, ``[^a-c]``, backslash escapes (util.c stringmatchlen).

A pattern is compiled once to a regular expression whose every ``*`` is followed by as little as possible and never
tried again once a later part fits (atomic groups), so no pattern takes exponential time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

PATTERN_BYTES_MAX: Final = 1 << 10
"""Longest pattern that is compiled, in some 10 ms at worst. Matching takes time in proportion to pattern times text:
a longer one against long keys would keep every other client waiting, and the followers, whose shortest election timeout
is 150 ms."""

_STAR: Final = 0x2A
_QUESTION: Final = 0x3F
_OPEN: Final = 0x5B
_CLOSE: Final = 0x5D
_CARET: Final = 0x5E
_BACKSLASH: Final = 0x5C
_DASH: Final = 0x2D


def glob_matches(pattern: bytes, text: bytes) -> bool:
    """Return whether the whole of ``text`` matches ``pattern``."""
    return compile_glob(pattern).fullmatch(text) is not None


@lru_cache(maxsize=64)
def compile_glob(pattern: bytes) -> re.Pattern[bytes]:
    """Return a regular expression whose ``fullmatch`` decides what ``pattern`` matches."""
    # Pieces between stars; each is a sequence of single-byte expressions.
    pieces: list[list[bytes]] = [[]]
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        if byte == _STAR:
            if pieces[-1] or len(pieces) == 1:
                pieces.append([])
            at += 1
        elif byte == _QUESTION:
            pieces[-1].append(b".")
            at += 1
        elif byte == _OPEN:
            expression, at = _bracket(pattern, at + 1)
            pieces[-1].append(expression)
        else:
            if byte == _BACKSLASH and at + 1 < len(pattern):
                at += 1
            pieces[-1].append(re.escape(pattern[at : at + 1]))
            at += 1
    # The first fit of each middle piece is final; only the last piece has to reach the end.
    first, *others = map(b"".join, pieces)
    middle = b"".join(b"(?>.*?%b)" % piece for piece in others[:-1])
    last = b".*%b" % others[-1] if others else b""
    return re.compile(first + middle + last, re.DOTALL)


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Return the expression for the class that begins at ``at``, behind its ``[``, and where the pattern goes on.

    Like Redis: an unclosed class ends with the pattern, a range given backwards is turned round, an empty class
    matches nothing.
    """
    negated = at < len(pattern) and pattern[at] == _CARET
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at] != _CLOSE:
        if pattern[at] == _BACKSLASH and at + 1 < len(pattern):
            members.add(pattern[at + 1])
            at += 2
        elif at + 2 < len(pattern) and pattern[at + 1] == _DASH:
            first, last = sorted((pattern[at], pattern[at + 2]))
            members.update(range(first, last + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    if not members:
        return (b"." if negated else b"(?!)."), at + 1
    return b"[%b%b]" % (b"^" if negated else b"", _ranges(members)), at + 1


def _ranges(members: set[int]) -> bytes:
    """Return what stands between the brackets, neighbours joined.

    Listed one by one, the five bytes of a wide range would become a thousand, and a pattern of them take a second.
    """
    runs: list[tuple[int, int]] = []
    for member in sorted(members):
        if runs and member == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], member
        else:
            runs.append((member, member))
    return b"".join(b"\\x%02x" % first if first == last else b"\\x%02x-\\x%02x" % (first, last) for first, last in runs)
