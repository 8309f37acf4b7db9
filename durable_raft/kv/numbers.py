"""Integers as Redis reads them from arguments and values (util.c string2ll)."""

from __future__ import annotations

import re
from typing import Final

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")


def parse_int64(text: bytes) -> int | None:
    """Return the signed 64-bit integer that ``text`` is, or None: no sign but "-", no spaces, no leading zeros."""
    if _INTEGER.fullmatch(text) is None:
        return None
    value = int(text)
    return value if INT64_MIN <= value <= INT64_MAX else None
