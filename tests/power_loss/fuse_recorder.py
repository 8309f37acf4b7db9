"""A disk that remembers every write and every flush: one file in a FUSE file system, meant to back a loop device.

``python -m tests.power_loss.fuse_recorder MOUNTPOINT IMAGE LOG`` serves two files: ``disk``, with the bytes of IMAGE,
and ``marks``. Each request that changes something is added to LOG in the order in which the kernel sent it, as one
pickle of (name, offset, bytes); a flush has None for bytes. It ends when the file system is unmounted.

The protocol of /dev/fuse is spoken directly (linux/fuse.h, version 7.31), so that no library is needed; of it, what two
files of fixed names take.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import stat
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

REQUEST: Final = struct.Struct("<IIQQIIII")
"""length, opcode, unique, node, uid, gid, pid, padding."""
REPLY: Final = struct.Struct("<IiQ")
INIT_REPLY: Final = struct.Struct("<IIIIHHIIHH32x")
ATTRIBUTES: Final = struct.Struct("<6Q10I")
ENTRY_HEAD: Final = struct.Struct("<4Q2I")
ATTRIBUTES_HEAD: Final = struct.Struct("<QII")
OPENED: Final = struct.Struct("<QII")
READ: Final = struct.Struct("<QQII")
WRITE: Final = struct.Struct("<QQIIQII")
WRITTEN: Final = struct.Struct("<II")

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ_FILE, WRITE_FILE = 1, 2, 3, 4, 14, 15, 16
RELEASE, FSYNC, FLUSH, INIT, INTERRUPT, DESTROY, FORGET_MANY = 18, 20, 25, 26, 36, 38, 42
WITHOUT_REPLY: Final = (FORGET, INTERRUPT, FORGET_MANY)

ROOT: Final = 1
FILES: Final = {b"disk": 2, b"marks": 3}
NAMES: Final = {node: name.decode() for name, node in FILES.items()}
DIRECT_IO: Final = 1
"""Every write of the kernel comes here at once, in its size and order."""
REQUEST_BYTES_MAX: Final = (1 << 17) + 4096


class Recorder:
    """Answers the kernel."""

    def __init__(self, device: int, image: bytes, log: Path) -> None:
        self._device = device
        self._bytes = {2: bytearray(image), 3: bytearray()}
        self._log = log.open("wb")
        self._answers: Mapping[int, Callable[[int, bytes], bytes]] = {
            INIT: self._init,
            LOOKUP: self._lookup,
            GETATTR: lambda node, _: ATTRIBUTES_HEAD.pack(0, 0, 0) + self._attributes(node),
            SETATTR: lambda node, _: ATTRIBUTES_HEAD.pack(0, 0, 0) + self._attributes(node),
            OPEN: lambda node, _: OPENED.pack(node, DIRECT_IO, 0),
            READ_FILE: self._read,
            WRITE_FILE: self._write,
            FSYNC: self._fsync,
            FLUSH: lambda *_: b"",
            RELEASE: lambda *_: b"",
            DESTROY: lambda *_: b"",
        }

    def run(self) -> None:
        """Serve until the file system is unmounted."""
        while True:
            try:
                request = os.read(self._device, REQUEST_BYTES_MAX)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, opcode, unique, node, *_ = REQUEST.unpack_from(request)
            if opcode in WITHOUT_REPLY:
                continue
            code, body = 0, b""
            try:
                answer = self._answers.get(opcode)
                code, body = (-errno.ENOSYS, b"") if answer is None else (0, answer(node, request[REQUEST.size :]))
            except FileNotFoundError:
                code = -errno.ENOENT
            os.write(self._device, REPLY.pack(REPLY.size + len(body), code, unique) + body)

    def _init(self, _: int, body: bytes) -> bytes:
        readahead = struct.unpack_from("<III", body)[2]
        return INIT_REPLY.pack(7, 31, readahead, 0, 16, 12, 1 << 17, 1, 0, 0)

    def _lookup(self, _: int, body: bytes) -> bytes:
        node = FILES.get(body.rstrip(b"\0"))
        if node is None:
            raise FileNotFoundError
        return ENTRY_HEAD.pack(node, 0, 3600, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
        size = 0 if node == ROOT else len(self._bytes[node])
        return ATTRIBUTES.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size, _ = READ.unpack_from(body)
        return bytes(self._bytes[node][offset : offset + size])

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = WRITE.unpack_from(body)
        data = body[WRITE.size : WRITE.size + size]
        self._bytes[node][offset : offset + size] = data
        pickle.dump((NAMES[node], offset, data), self._log)
        return WRITTEN.pack(size, 0)

    def _fsync(self, node: int, _: bytes) -> bytes:
        pickle.dump((NAMES[node], 0, None), self._log)
        return b""


def main(mount_point: str, image: str, log: str) -> int:
    """Mount, say so with a line, and serve."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"recorder", mount_point.encode(), b"fuse", 0, options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount of a FUSE file system: {os.strerror(code)}")
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    recorder = Recorder(device, Path(image).read_bytes(), Path(log))
    recorder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
