"""Redis Cluster's hash slots: CRC-16/XMODEM of the key, or of its first {tag}, modulo 16384.

Source: https://redis.io/docs/reference/cluster-spec/ "Key distribution model".
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16384


def key_slot(key: bytes) -> int:
    """Return the slot of ``key``: when it holds a non-empty {tag}, only the tag counts."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
