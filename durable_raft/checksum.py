"""CRC-32C (Castagnoli), the one checksum of disk, wire and snapshots; the only module that imports crcmod.

crcmod defines the checksum and always works. Its C extension computes 0.2-0.4 GB/s; installed without a compiler it
falls back to pure Python at 10 MB/s. google-crc32c, when its C extension is importable, computes the same bytes at
over 5 GB/s, so it is used instead. ``tests/test_checksum.py`` holds the two to each other.

``ALGORITHM_CRC32C`` is stored beside every checksum on disk and on the wire, so that another algorithm can be added
without making old bytes look damaged (rqlite #2647).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import crcmod

Extend = Callable[[int, bytes], int]

ALGORITHM_CRC32C: Final = 1
"""Algorithm id stored beside a checksum."""

_CASTAGNOLI: Final = 0x11EDC6F41
_crcmod_function: Callable[[bytes, int], int] = crcmod.mkCrcFun(_CASTAGNOLI, initCrc=0, xorOut=0xFFFFFFFF)


def crcmod_extend(crc: int, data: bytes) -> int:
    """Return the CRC-32C of the bytes already summed in ``crc`` followed by ``data``, computed by crcmod."""
    return _crcmod_function(data, crc)


def google_extend() -> Extend | None:
    """Return google-crc32c's extend function, or None when its C extension is not importable."""
    try:
        import google_crc32c
    except ImportError:
        return None
    if google_crc32c.implementation != "c":
        return None
    extend: Extend = google_crc32c.extend
    return extend


_fast = google_extend()

extend: Extend = _fast or crcmod_extend
"""``extend(crc, data)``: CRC-32C of what ``crc`` sums followed by ``data``; ``crc32c(data) == extend(0, data)``."""


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data`` as an unsigned 32-bit integer; ``crc32c(b"123456789") == 0xE3069283``."""
    return extend(0, data)


def implementation() -> str:
    """Name what computes the checksum: ``google-crc32c``, ``crcmod`` (C) or ``crcmod-pure`` (slow, 10 MB/s)."""
    if _fast is not None:
        return "google-crc32c"
    # crcmod's package binds its own name over its submodule's, so only sys.modules leads there.
    uses_c: bool = sys.modules["crcmod.crcmod"]._usingExtension  # noqa: SLF001 - crcmod says it nowhere else
    return "crcmod" if uses_c else "crcmod-pure"
