"""A small file system for each node's directory: filled to the last byte, slowed down or hung, and set right again."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FILLER: Final = "filler"
PROBE: Final = "probe"
MIB: Final = 1 << 20
ALLOCATIONS: Final = 20
"""How often at most is tried to allocate all that is free, before the rest is written."""
THROTTLE: Final = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")
"""Takes ``MAJOR:MINOR WRITES`` a second, 0: as many as there are (Linux, cgroup-v1/blkio-controller)."""

_FIFREEZE: Final = 0xC0045877
_FITHAW: Final = 0xC0045878


class NoDisks(Exception):
    """The machine does not allow what a small file system needs; the text says what."""


class Disks:
    """File systems mounted at ``place``/NODE."""

    def __init__(self, place: Path, kind: str, size: int) -> None:
        """Remember where they will be.

        Args:
            place: the directory of a cluster.
            kind: ``tmpfs``, or one that is made by ``mkfs.KIND``.
            size: bytes of each.
        """
        self._place = place
        self._kind = kind
        self._size = size
        self.mounted: list[Path] = []

    def mount(self, node_ids: Iterable[str]) -> None:
        """Mount one for each node; raises NoDisks."""
        if os.geteuid() != 0:
            raise NoDisks("only root may mount a small file system")
        for node_id in node_ids:
            point = self._place / node_id
            point.mkdir(parents=True)
            for command in self._commands(point):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise NoDisks(f"a small file system cannot be mounted: {done.stderr.strip()}")
            self.mounted.append(point)

    def unmount(self) -> None:
        """Take all of them away; the nodes are dead."""
        for point in self.mounted:
            subprocess.run(["umount", "-l", str(point)], check=False)
        self.mounted.clear()

    def _commands(self, point: Path) -> list[list[str]]:
        """Return what mounts a file system at ``point``."""
        if self._kind == "tmpfs":
            return [["mount", "-t", "tmpfs", "-o", f"size={self._size}", "none", str(point)]]
        image = point.with_name(f"{point.name}.{self._kind}")
        with image.open("wb") as file:
            file.truncate(self._size)
        made = [f"mkfs.{self._kind}", "-q", "-m", "0", str(image)]
        if shutil.which(made[0]) is None:
            raise NoDisks(f"{made[0]} is not installed")
        return [made, ["mount", "-o", "loop", str(image), str(point)]]

    def fill(self, node_id: str) -> None:
        """Leave not a byte, unless the node gives some back at this moment."""
        with (self._place / node_id / FILLER).open("ab", buffering=0) as filler:
            # The most of it without writing it; what another file gave back may take a moment to be free again.
            for _ in range(ALLOCATIONS):
                end, free = filler.seek(0, os.SEEK_END), self.free_bytes(node_id)
                if free < MIB:
                    break
                with suppress(OSError):
                    os.posix_fallocate(filler.fileno(), end, free)
            for size in (MIB, 4096, 1):
                with suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def make_room(self, node_id: str) -> None:
        """Take the file away."""
        (self._place / node_id / FILLER).unlink()

    def free_bytes(self, node_id: str) -> int:
        """Return what is free."""
        found = os.statvfs(self._place / node_id)
        return found.f_bavail * found.f_frsize

    def flush_s(self, node_id: str) -> float:
        """Write a little and return how many seconds its flush takes; 0.0: there is no room for it."""
        with suppress(OSError), (self._place / node_id / PROBE).open("wb", buffering=0) as probe:
            probe.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(probe.fileno())
            return time.perf_counter() - began
        return 0.0

    @contextmanager
    def slow(self, node_id: str, writes_per_second: int) -> Iterator[None]:
        """Let the disk under a file system do so few writes a second meanwhile; a flush is several. Raises NoDisks."""
        if not THROTTLE.exists():
            raise NoDisks(f"a disk cannot be slowed down without {THROTTLE}")
        device = (self._place / node_id).stat().st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        THROTTLE.write_text(f"{name} {writes_per_second}")
        try:
            yield
        finally:
            THROTTLE.write_text(f"{name} 0")

    @contextmanager
    def hung(self, node_id: str) -> Iterator[None]:
        """Let all that changes a file system wait meanwhile (ioctl_fifreeze)."""
        place = os.open(self._place / node_id, os.O_RDONLY)
        try:
            fcntl.ioctl(place, _FIFREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(place, _FITHAW, 0)
        finally:
            os.close(place)
