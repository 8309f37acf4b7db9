"""How long a write may take before its disk counts as hung: longer when it is large.

A sound disk that is given 64 MiB is busy with them for longer than an election timeout. A node that took that for a
hang would give its leadership up, and the next leader would do so with the same entry.
"""

from __future__ import annotations

from typing import Final

SLOWEST_BYTES_PER_MS: Final = 16 << 10
"""What a disk is granted that must not count as hung: 16 MiB/s, records and their pages around the payload included."""


def flush_patience_ms(base_ms: int, unflushed_bytes: int) -> int:
    """Return how long the oldest write in flight may take (ms).

    Args:
        base_ms: what a small write may take.
        unflushed_bytes: payload bytes of all writes in flight: they share the disk, and often one transaction.
    """
    return base_ms + unflushed_bytes // SLOWEST_BYTES_PER_MS
