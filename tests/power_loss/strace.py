"""Recording a process with strace: its system calls on the files under a directory, as operations in their order.

A call that another thread's call interrupts in the trace has a beginning and an end. A write, a change of a name and a
marker count from their beginning (what a cut in the middle leaves is then any part of them), a flush from its end, and
it covers what had ended when it began. So an order that the trace cannot tell is taken as the worse one.

What the model does not know (writes through a map of any file but LMDB's lock file, links, copies inside the kernel) is
refused loudly. sync_file_range is left out on purpose: it promises nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from tests.power_loss.operations import ROOT, Flush, Link, Marker, Operation, Rename, Truncate, Unlink, Write

LOCK_FILE: Final = "lock.mdb"
"""LMDB writes it through a map; what is in it after a power cut must not matter."""

UNPROMISED: Final = ("/flight", "/fatal-signal")
"""Files that survive a process and promise nothing beyond: never synced, so they would hide what is."""

STRING_BYTES_MAX: Final = 1 << 24

WRITES: Final = ("write", "pwrite64", "writev", "pwritev")
SENDS: Final = ("sendto", "sendmsg")
FLUSHES: Final = ("fsync", "fdatasync")
OPENS: Final = ("open", "openat", "creat")
MAKES: Final = ("mkdir", "mkdirat")
REMOVES: Final = ("unlink", "unlinkat", "rmdir")
RENAMES: Final = ("rename", "renameat", "renameat2")
DUPLICATES: Final = ("dup", "dup2", "dup3")
LINKS: Final = ("link", "linkat", "symlink", "symlinkat")
COPIES: Final = ("copy_file_range", "sendfile", "splice")
UNKNOWN: Final = ("pwritev2", "truncate", "fallocate", *LINKS, *COPIES, "mmap", "msync", "io_uring_setup")
"""Refused when a file under the root is concerned."""
CALLS: Final = (
    *WRITES,
    *SENDS,
    *FLUSHES,
    *OPENS,
    *MAKES,
    *REMOVES,
    *RENAMES,
    *DUPLICATES,
    *UNKNOWN,
    "lseek",
    "ftruncate",
    "close",
)

_CALL: Final = re.compile(r"(\w+)\((.*)\)\s+= (-?\w+|\?)")
_RESUMED: Final = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_UNFINISHED: Final = "<unfinished ...>"
_HEX: Final = r"(?:\\x[0-9a-f]{2})*"
_DESCRIPTOR: Final = re.compile(rf"(-?\d+|AT_FDCWD)<({_HEX})>")
_STRING: Final = re.compile(rf'"({_HEX})"(\.\.\.)?')
_LAST_NUMBER: Final = re.compile(r"(\d+)$")
_OK: Final = b"+OK\r\n"


class Unmodelled(Exception):
    """The process did something to its files that the model cannot replay; nothing may be concluded."""


def missing_strace() -> str | None:
    """Return why nothing can be recorded here, or None."""
    program = shutil.which("strace")
    if program is None:
        return "strace is not installed"
    trial = subprocess.run([program, "-f", "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {trial.stderr.strip()[-200:]}" if trial.returncode else None


def strace_command(trace: Path) -> list[str]:
    """Return what goes before a command line to have it recorded; ``?`` lets a call be missing on a machine."""
    calls = ",".join(f"?{call}" for call in CALLS)
    return ["strace", "-f", "-y", "-xx", "-v", "-s", str(STRING_BYTES_MAX), "-o", str(trace), "-e", f"trace={calls}"]


class CutShort(Unmodelled):
    """The process was killed inside a call, and nobody knows whether it had its effect; another run will do."""


class Call(NamedTuple):
    """One system call that ended well."""

    name: str
    arguments: str
    result: int
    began: int
    """Line of the trace."""
    ended: int


def read_calls(lines: Sequence[str], root: str) -> list[Call]:
    """Return the calls of a trace that did not fail.

    Raises:
        CutShort: a call on a file under ``root`` was cut short by the process's end.
    """
    watched = "".join(f"\\x{byte:02x}" for byte in root.encode())
    calls: list[Call] = []
    halves: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        process, _, text = line.partition(" ")
        text = text.strip()
        began = number
        if text.endswith(_UNFINISHED):
            halves[process] = (number, text.removesuffix(_UNFINISHED))
            continue
        if (resumed := _RESUMED.match(text)) is not None:
            began, first = halves.pop(process)
            text = first.rstrip() + resumed[2]
        if (found := _CALL.match(text)) is None or found[3].startswith("-"):
            continue
        if found[3] == "?":
            halves[process] = (number, text)
            continue
        calls.append(Call(found[1], found[2], int(found[3], 0), began, number))
    for number, text in halves.values():
        if watched in text:
            raise CutShort(f"line {number}: the process ended in the middle of {text[:80]}")
    return calls


def _bytes_of(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _strings(call: Call) -> list[bytes]:
    found = []
    for match in _STRING.finditer(call.arguments):
        if match[2]:
            raise Unmodelled(f"line {call.began}: a string of {call.name} is cut short in the trace")
        found.append(_bytes_of(match[1]))
    return found


@dataclass(slots=True)
class _Descriptor:
    inode: int
    is_synced: bool
    offset: int | None
    """None: unknown until the next lseek, because reads move it unseen."""


_Pending: TypeAlias = tuple[int, ...]


class Tracer:
    """Turns the traces of one or more runs over one directory into operations."""

    def __init__(self, root: Path, marks: Path) -> None:
        """Watch ``root``, an empty directory; lines written to ``marks``, JSON objects with a ``kind``, are markers."""
        self._root = str(root.resolve())
        self._marks = str(marks.resolve())
        self.operations: list[Operation] = []
        self.entries: dict[int, dict[str, int]] = {ROOT: {}}
        """The tree as the process sees it: directory -> name -> inode."""
        self._inodes = 1
        self._descriptors: dict[int, _Descriptor] = {}
        self._ended: dict[int, list[int]] = {ROOT: []}
        """Operations of each inode that have ended and are not flushed."""
        self._began: dict[int, tuple[int, _Pending]] = {}
        """Line of a call under way -> (operation that it made, or -1; operations that it covers)."""

    def run(self, trace: Path) -> None:
        """Add one run of a process; descriptors start from nothing, files stay as they are."""
        self._descriptors.clear()
        calls = read_calls(trace.read_text().splitlines(), self._root)
        events = [(call.began, 0, call) for call in calls] + [(call.ended, 1, call) for call in calls]
        for _, is_end, call in sorted(events, key=lambda event: event[:2]):
            (self._end if is_end else self._begin)(call)

    # -- the two ends of a call -----------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        made = -1
        covers: _Pending = ()
        if call.name in WRITES or call.name in SENDS:
            made = self._write(call)
        elif call.name in (*FLUSHES, "ftruncate"):
            file = self._file(call)
            if file is not None and call.name in FLUSHES:
                covers = tuple(self._ended[file.inode])
            elif file is not None:
                made = self._add(Truncate(len(self.operations), file.inode, self._trailing_number(call)))
        elif call.name in (*MAKES, *REMOVES, *RENAMES):
            made = self._change_name(call)
        elif call.name == "close":
            self._descriptors.pop(self._number(call), None)
        elif call.name in UNKNOWN and "FALLOC_FL_KEEP_SIZE" not in call.arguments:
            # Room behind the end of a file changes neither its size nor a byte of it.
            self._refuse_unknown(call)
        self._began[call.began] = (made, covers)

    def _change_name(self, call: Call) -> int:
        """Add a change of names; return its number, -1 when it is elsewhere."""
        if call.name in RENAMES:
            return self._rename(call)
        if (path := self._path(call)) is None:
            return -1
        if call.name in MAKES:
            return self._link(path, is_directory=True)
        directory, name = self._place(path)
        del self.entries[directory][name]
        return self._add(Unlink(len(self.operations), directory, name))

    def _end(self, call: Call) -> None:
        made, covers = self._began.pop(call.began)
        file = self._file(call) if call.name in (*WRITES, *FLUSHES, *DUPLICATES, "lseek") else None
        if made >= 0:
            self._note_end(made)
            if file is not None and file.is_synced:
                self._flush(file.inode, (made,))
        elif call.name in FLUSHES and file is not None:
            self._flush(file.inode, covers)
        elif call.name in OPENS:
            self._open(call)
        elif call.name == "lseek" and file is not None:
            file.offset = call.result
        elif call.name in DUPLICATES:
            self._descriptors.pop(call.result, None)
            if file is not None:
                self._descriptors[call.result] = file

    def _add(self, operation: Operation) -> int:
        self.operations.append(operation)
        return operation.number

    def _note_end(self, number: int) -> None:
        match self.operations[number]:
            case Write(inode=inode) | Truncate(inode=inode):
                self._ended[inode].append(number)
            case Link(directory=directory) | Unlink(directory=directory):
                self._ended[directory].append(number)
            case Rename(source=source, target=target):
                for directory in {source, target}:
                    self._ended[directory].append(number)

    def _flush(self, inode: int, covers: _Pending) -> None:
        self._ended[inode] = [number for number in self._ended[inode] if number not in covers]
        self._add(Flush(len(self.operations), inode, covers))

    # -- single calls -----------------------------------------------------------------------------------------------

    def _write(self, call: Call) -> int:
        """Add a write, a marker or an answer to a client; return the number of a write, else -1."""
        descriptor = _DESCRIPTOR.match(call.arguments)
        shown = "" if descriptor is None else _bytes_of(descriptor[2]).decode(errors="replace")
        if shown != self._marks and not shown.startswith("/"):
            if (count := b"".join(_strings(call))[: call.result].count(_OK)) and shown.startswith(("socket:", "TCP:")):
                self._add(Marker(len(self.operations), "reply", {"ok": count}))
            return -1
        if shown == self._marks:
            for line in b"".join(_strings(call)).splitlines():
                fields = json.loads(line)
                self._add(Marker(len(self.operations), fields.pop("kind"), fields))
            return -1
        if (file := self._file(call)) is None:
            return -1
        data = b"".join(_strings(call))[: call.result]
        if len(data) != call.result:
            raise Unmodelled(
                f"line {call.began}: {call.name} wrote {call.result} bytes, but the trace shows {len(data)}"
            )
        if call.name in ("pwrite64", "pwritev"):
            offset = self._trailing_number(call)
        elif file.offset is None:
            raise Unmodelled(f"line {call.began}: {call.name} at a place that no lseek told")
        else:
            offset = file.offset
            file.offset += len(data)
        return self._add(Write(len(self.operations), file.inode, offset, data))

    def _open(self, call: Call) -> None:
        if (path := self._path(call)) is None:
            return
        if path == self._root:
            self._descriptors[call.result] = _Descriptor(ROOT, False, None)
            return
        directory, name = self._place(path)
        flags = set(re.findall(r"O_\w+", call.arguments)) | ({"O_TRUNC", "O_WRONLY"} if call.name == "creat" else set())
        inode = self.entries[directory].get(name)
        if inode is None:
            self._note_end(self._link(path, is_directory=False))
            inode = self.entries[directory][name]
        elif "O_TRUNC" in flags:
            self._note_end(self._add(Truncate(len(self.operations), inode, 0)))
        if "O_APPEND" in flags:
            raise Unmodelled(f"line {call.began}: {path} is opened for appending")
        is_synced = bool(flags & {"O_DSYNC", "O_SYNC"})
        self._descriptors[call.result] = _Descriptor(inode, is_synced, 0 if "O_WRONLY" in flags else None)

    def _link(self, path: str, *, is_directory: bool) -> int:
        directory, name = self._place(path)
        inode, self._inodes = self._inodes, self._inodes + 1
        self.entries[directory][name] = inode
        self._ended[inode] = []
        if is_directory:
            self.entries[inode] = {}
        return self._add(Link(len(self.operations), directory, name, inode, is_directory))

    def _rename(self, call: Call) -> int:
        paths = list(self._paths(call))
        inside = [path for path in paths if self._is_inside(path)]
        if not inside:
            return -1
        if len(inside) != 2 or "RENAME_" in call.arguments:
            raise Unmodelled(f"line {call.began}: rename of {paths}")
        (source, old), (target, new) = map(self._place, inside)
        self.entries[target][new] = self.entries[source].pop(old)
        return self._add(Rename(len(self.operations), source, old, target, new))

    def _refuse_unknown(self, call: Call) -> None:
        # libuv has a ring for epoll_ctl, which is harmless, and one for files, which it polls from the kernel.
        if call.name == "msync" or (call.name == "io_uring_setup" and "SETUP_SQPOLL" in call.arguments):
            raise Unmodelled(f"line {call.began}: {call.name}")
        if call.name == "mmap" and not ("PROT_WRITE" in call.arguments and "MAP_SHARED" in call.arguments):
            return
        named = [_bytes_of(match[2]).decode(errors="replace") for match in _DESCRIPTOR.finditer(call.arguments)]
        if named and named[0].endswith(UNPROMISED):
            return
        if call.name != "mmap":
            named += self._paths(call)
        touched = [path for path in named if self._is_inside(path) and not path.endswith(f"/{LOCK_FILE}")]
        if touched:
            raise Unmodelled(f"line {call.began}: {call.name} on {touched}")

    # -- names and descriptors ------------------------------------------------------------------------------------

    def _is_inside(self, path: str) -> bool:
        return path == self._root or (path.startswith(self._root + "/") and not path.endswith(UNPROMISED))

    def _number(self, call: Call) -> int:
        found = _DESCRIPTOR.match(call.arguments)
        return int(found[1]) if found is not None and found[1] != "AT_FDCWD" else -1

    def _file(self, call: Call) -> _Descriptor | None:
        """Return the descriptor that is the call's first argument, when its file lies under the root."""
        number = self._number(call)
        if (descriptor := self._descriptors.get(number)) is not None:
            return descriptor
        found = _DESCRIPTOR.match(call.arguments)
        if found is not None and self._is_inside(_bytes_of(found[2]).decode(errors="replace")):
            raise Unmodelled(f"line {call.began}: {call.name} on descriptor {number}, whose opening was not seen")
        return None

    def _paths(self, call: Call) -> Iterator[str]:
        """Yield the paths that a call names, made absolute."""
        base = ""
        for match in re.finditer(rf"{_DESCRIPTOR.pattern}|{_STRING.pattern}", call.arguments):
            if match[2] is not None:
                base = _bytes_of(match[2]).decode(errors="surrogateescape")
            elif match[3] is not None:
                path = _bytes_of(match[3]).decode(errors="surrogateescape")
                if not path.startswith("/") and not base:
                    continue
                # The directory may be named through a link; the file itself may be gone.
                whole = Path(base, path)
                yield str(whole.parent.resolve() / whole.name)

    def _path(self, call: Call) -> str | None:
        """Return the first path that a call names, when it lies under the root."""
        path = next(self._paths(call), None)
        return path if path is not None and self._is_inside(path) else None

    def _place(self, path: str) -> tuple[int, str]:
        """Return (directory, name) of a path below the root."""
        *parents, name = path[len(self._root) + 1 :].split("/")
        directory = ROOT
        for parent in parents:
            directory = self.entries[directory][parent]
        return directory, name

    def _trailing_number(self, call: Call) -> int:
        found = _LAST_NUMBER.search(call.arguments)
        if found is None:
            raise Unmodelled(f"line {call.began}: no offset in {call.name}")
        return int(found[1])
