"""How much memory there is: of the machine, of the control groups this process is in, and by ``ulimit -v``."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_V1_UNLIMITED: Final = 1 << 60
"""A control group of version 1 without a limit shows the largest number of whole pages that a signed word holds."""


def memory_of_system(map_bytes: int, root: Path = Path("/")) -> int:
    """Return how many bytes this process can use: the least of all limits that it has.

    Args:
        map_bytes: of one LMDB environment. The maps of both take address space, so they leave less under ``ulimit -v``;
            they are the system's page cache and count in no other limit.
        root: of the file system, for tests.
    """
    limits = [_machine(root), *_control_groups(root)]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(max(0, address_space - 2 * map_bytes))
    return min(limits)


def _machine(root: Path) -> int:
    """Return the machine's memory; without /proc, what the C library says."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemTotal":
                return int(rest.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_groups(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups and of all around them, of either version."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits(root, ("sys/fs/cgroup", "sys/fs/cgroup/unified"), path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(root, ("sys/fs/cgroup/memory",), path, "memory.limit_in_bytes")


def _limits(root: Path, mounts: tuple[str, ...], path: str, file: str) -> Iterator[int]:
    """Yield the limit of the group at ``path`` and of every group around it.

    A container may see its own group as the root of the mount, though its path names it from outside: whatever of the
    path is not there is passed over.
    """
    inner = Path(path.lstrip("/"))
    for mount in mounts:
        for group in (inner, *inner.parents):
            limit = _read_limit(root / mount / group / file)
            if limit is not None:
                yield limit


def _read_limit(path: Path) -> int | None:
    try:
        limit = int(path.read_text())
    except (OSError, ValueError):
        # "max" is no number: no limit.
        return None
    return limit if 0 < limit < _V1_UNLIMITED else None
