"""Which file a log is in: a copy of a directory, by whatever tool, is in another one.

A file is named by its inode and the moment that was made (``statx``, Linux 4.11): a number alone is given out again
soon after a directory was removed. Neither changes while the file is there, under another name or after a restart of
the machine. A volume that is rolled back, and bytes put back into the same file, are not seen by it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

from durable_raft.storage.directory import DATA_FILE

_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_MASK: Final = struct.Struct("=I")
_BIRTH: Final = struct.Struct("=qI")
_BIRTH_AT: Final = 0x50
_PLACE: Final = struct.Struct(">QqI")


def place_of(environment: Path) -> bytes:
    """Return the name of the data file of ``environment``, 20 bytes.

    Raises:
        OSError: it cannot be looked at.
    """
    path = environment / DATA_FILE
    return _PLACE.pack(path.stat().st_ino, *_birth(path))


def _birth(path: Path) -> tuple[int, int]:
    """Return when ``path`` was made, in (s, ns) since the epoch; zeros where the system does not tell."""
    statx = getattr(ctypes.CDLL(None), "statx", None)
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx is None or statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        return 0, 0
    (mask,) = _MASK.unpack_from(buffer)
    if not mask & _STATX_BTIME:
        return 0, 0
    seconds, nanoseconds = _BIRTH.unpack_from(buffer, _BIRTH_AT)
    return seconds, nanoseconds
