"""How ``memory_max`` is cut up: the shares of a node's budget, and which settings have to fit into them.

The interpreter with all its modules comes first (``BASE_BYTES``). What is left, the *plan*, is cut into shares. Each is
a bound of its own, so that no use of memory can crowd out another. One part in sixteen is nobody's share: a request is
there twice for a moment when it becomes an entry.

Half of the machine is the default of ``memory_max`` because the other half has its uses: buffers that the C library
keeps, LMDB's pages that a transaction writes, and the page cache, which is what reads are served from. LMDB's maps are
page cache: they are not counted.

``value_bytes_max`` is not cut down to the plan. It decides what a command does, so it has to be the same on all nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from durable_raft.addresses import refuse

BASE_BYTES: Final = 64 << 20
"""What a node takes before anybody asks it for anything."""

MEMORY_BYTES_MIN: Final = 128 << 20
"""With less than this the shares are too small for a node that is any use."""

PAGE_BYTES: Final = 4096

CONNECTION_BYTES: Final = 16 << 10
"""What a connection takes that does nothing."""

TLS_BYTES: Final = 32 << 10
"""What it takes on top when it speaks TLS: 17 to 25 KiB of OpenSSL's; a record that is not complete takes 16 more."""

SHARES: Final[Mapping[str, int]] = {
    "requests": 8,
    "replies": 8,
    "queues": 8,
    "peers": 8,
    "log": 8,
    "overlay": 4,
    "snapshots": 16,
}
"""Name of a share -> how many such shares would make up the plan; together they are fifteen sixteenths of it."""


class _Fit(NamedTuple):
    """How much of the plan a setting may take."""

    part: int
    """One part in so many."""
    unit_bytes: int
    """What one of the setting's units takes."""
    what: str
    """What it is, for whoever set too much."""


FITS: Final[Mapping[str, _Fit]] = {
    "request_bytes_max": _Fit(16, 1, "half of the share of requests"),
    "output_bytes_max": _Fit(16, 1, "half of the share of replies"),
    "reply_bytes_max": _Fit(16, 1, "half of the share of replies"),
    "pending_bytes_max": _Fit(8, 1, "the share of queues"),
    "batch_bytes_max": _Fit(64, 1, "an eighth of the share of queues"),
    "append_bytes_max": _Fit(64, 1, "an eighth of the share of peers"),
    "append_inflight_bytes_max": _Fit(32, 1, "a quarter of the share of peers"),
    "log_cache_bytes_max": _Fit(16, 1, "half of the share of the log"),
    "overlay_bytes_max": _Fit(4, 1, "the share of the overlay"),
    "checkpoint_bytes": _Fit(12, 1, "a third of the share of the overlay"),
    "checkpoint_pages": _Fit(16, PAGE_BYTES, "the share of snapshots, 4 KiB a page"),
    "clients_max": _Fit(16, CONNECTION_BYTES, "one part in sixteen of the plan, 16 KiB a connection"),
}
"""By setting. Its default is cut down to this; a given value that is larger is refused."""


def plan_bytes(memory_max: int) -> int:
    """Return what of ``memory_max`` is cut into shares."""
    return memory_max - BASE_BYTES


def share_bytes(name: str, memory_max: int) -> int:
    """Return how many bytes the share ``name`` has."""
    return plan_bytes(memory_max) // SHARES[name]


def _fit_of(name: str, *, is_tls: bool) -> _Fit:
    if not is_tls or name != "clients_max":
        return FITS[name]
    unit_bytes = CONNECTION_BYTES + TLS_BYTES
    return _Fit(16, unit_bytes, f"one part in sixteen of the plan, {unit_bytes >> 10} KiB a connection with TLS")


def setting_max(name: str, memory_max: int, *, is_tls: bool = False) -> int:
    """Return the most that the setting ``name`` of ``FITS`` may be; ``is_tls``: clients may speak TLS."""
    fit = _fit_of(name, is_tls=is_tls)
    return max(1, plan_bytes(memory_max) // fit.part // fit.unit_bytes)


def plan_memory(wanted: int, available: int) -> int:
    """Return ``memory_max`` for a process that can use ``available`` bytes; ``wanted`` is 0 for the default.

    Raises:
        ConfigError: there is too little, or less than is wanted.
    """
    source = (
        f"the {available} bytes that the machine, its control group or ulimit -v less both LMDB maps (map_bytes) leave"
    )
    if not wanted and available // 2 < MEMORY_BYTES_MIN:
        refuse("memory_max", available // 2, f"at least {MEMORY_BYTES_MIN}; by default it is half of {source}")
    if wanted > available:
        refuse("memory_max", wanted, f"at most {source}")
    return wanted or available // 2


def check_fits(memory_max: int, values: Mapping[str, int], *, is_tls: bool = False) -> None:
    """Check that settings fit into ``memory_max``; ``is_tls``: clients may speak TLS.

    Raises:
        ConfigError: one does not; the sentence says which, and what would.
    """
    if memory_max < MEMORY_BYTES_MIN:
        refuse("memory_max", memory_max, f"at least {MEMORY_BYTES_MIN}: a node does not work with less")
    for name in FITS:
        fit, most = _fit_of(name, is_tls=is_tls), setting_max(name, memory_max, is_tls=is_tls)
        if values[name] > most:
            needed = values[name] * fit.unit_bytes * fit.part + BASE_BYTES
            expected = f"at most {most}, {fit.what}, or memory_max={needed} instead of {memory_max}"
            refuse(name, values[name], expected)
