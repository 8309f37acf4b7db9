"""Requests in: bytes of a client to runs of commands (kv/runs.py).

Two parsers stand behind one door. The *strict* one follows Redis 7.0 (networking.c, sds.c) byte for byte: inline
commands, limits, the exact error texts. The *fast* one takes whole commands in canonical form from the front of a
chunk: it splits the chunk at every CRLF, takes every other part as an argument, and believes the result only when each
header is exactly the header that the argument after it would be given. Commands of one name and one number of arguments
are looked at together, column by column. What passes is the only way to write those commands canonically, so the strict
parser would say the same; whatever does not pass is left to the strict parser. So are chunks of large arguments: the
strict one does not look at every byte of those.

A C parser made for replies (hiredis) is not used here. It takes what is no request (``+``, ``:``, ``%``, nested
arrays, nulls) and makes room for announced arrays before their elements arrive (16 GB for ``*2000000000``), so its
input and its output would both have to be checked: 0.15 µs for a command becomes 0.9 with the checks, against 0.6 here.

Where this differs from Redis, on purpose:

- Limits on the arguments of one request and on its bytes (Redis: 2^31 - 1 arguments, and a client that overflows its
  query buffer is dropped without a word).
- Length lines and inline lines are measured from their first byte, however they were cut into reads.
- A NUL byte in an inline line is a byte like any other; Redis takes it for the end of its buffer and waits for ever.
- ``POST`` and ``Host:`` end a connection as inline commands only: no browser can be made to begin with an array.
- A TLS handshake where RESP is expected ends the connection at its first byte. Redis waits for the end of a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import takewhile
from typing import Final

from durable_raft.errors import ProtocolError
from durable_raft.kv.runs import WIDTH_MAX, Run

LINE_BYTES_MAX: Final = 64 * 1024
"""Longest inline command or length line, without its end; PROTO_INLINE_MAX_SIZE of Redis."""

ARGS_MAX: Final = 1024 * 1024
"""Arguments of one request; the limit of Redis until 6.2."""

BULK_BYTES_MAX: Final = 512 << 20
"""Longest argument; proto-max-bulk-len of Redis."""

RUN_MAX: Final = 32
"""Commands of one run: what a run costs beside them is small then, and so is what it holds in replies."""

LARGE_BYTES: Final = 64 << 10
"""A longer argument is laid, as it comes, into an object of its own, which is what is handed out: copying 60 MB when
the last byte is there would hold the event loop for longer than heartbeats can wait."""

ARG_MEMORY_BYTES: Final = 48
"""What an argument takes in memory beside its bytes: an object's head and its place in the list."""

_ARG_OVERHEAD_BYTES: Final = len(b"$0\r\n\r\n")
_LENGTH: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
"""What string2ll of Redis takes, up to numbers that overflow 64 bits: those are over every limit anyway."""

_new_run: Final = tuple.__new__
_STRETCH: Final = slice(1 << 10, 6 << 10)
_CR: Final = b"\r"
_STAR: Final = ord("*")
_TLS_HANDSHAKE: Final = 0x16
"""The first byte of every TLS connection (RFC 8446 §5.1)."""
_DOLLAR: Final = ord("$")


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """What one request may take; an announced length beyond a limit is refused before its bytes arrive."""

    bulk_bytes_max: int = BULK_BYTES_MAX
    """Longest argument."""
    request_bytes_max: int = 1 << 30
    """Longest request sent as an array, on the wire: headers and arguments together."""
    args_max: int = ARGS_MAX
    """Most arguments of one request."""


DEFAULT_LIMITS: Final = ParserLimits()


class RequestParser:
    """The requests of one connection, fed by hand."""

    def __init__(self, limits: ParserLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._strict = StrictParser(limits)
        # A command inside a chunk no longer than each limit is within all of them.
        self._fast_bytes_max = min(limits.bulk_bytes_max, limits.request_bytes_max, limits.args_max)
        self.error: ProtocolError | None = None
        """Set by the first malformed input; nothing is parsed after it."""

    @property
    def held_bytes(self) -> int:
        """Memory that a request which has begun and is not complete takes, about; 0 between requests."""
        return self._strict.held_bytes

    def feed(self, data: bytes) -> list[Run]:
        """Take the next bytes and return the commands that are now complete, in order.

        Their names are spelled as they came. When malformed input is met, the commands before it are returned,
        ``error`` is set, and this and all further input is ignored. Which commands are returned, and when, does not
        depend on how the bytes were cut into chunks; which of them are one run does.
        """
        if self.error is not None:
            return []
        runs: list[Run] = []
        try:
            self._parse(data, runs)
            self._strict.trim()
        except ProtocolError as error:
            # Its traceback would keep this parser and what it was fed until the garbage collector comes.
            self.error = error.with_traceback(None)
            self._strict = StrictParser(self._limits)  # Lets go of what it holds.
        return runs

    def _parse(self, data: bytes, runs: list[Run]) -> None:
        strict = self._strict
        if strict.is_waiting:
            strict.append(data)
            command = strict.next_command()
            if command is None:
                return
            runs.append(_single(command))
            data = strict.take_rest()
        if len(data) <= self._fast_bytes_max and not _holds_large_arguments(data):
            data = take_canonical(data, runs)
        if data:
            strict.append(data)
            while (command := strict.next_command()) is not None:
                runs.append(_single(command))


def _single(command: list[bytes]) -> Run:
    return Run(command[0], 1, command[1:])


# -- the fast parser ------------------------------------------------------------------------------------------------


def _holds_large_arguments(data: bytes) -> bool:
    """Guess whether the chunk's arguments are large, from a stretch of it in which small ones would end."""
    return len(data) > _STRETCH.stop and data.find(_CR, _STRETCH.start, _STRETCH.stop) < 0


class _BulkHeaders(dict[int, bytes]):
    """Length of an argument to its canonical header; only the common ones are kept."""

    def __missing__(self, length: int) -> bytes:
        return b"$%d" % length


_COUNTS: Final = {b"*%d" % count: count for count in range(1, 1025)}
_bulk_header: Final = _BulkHeaders({length: b"$%d" % length for length in range(1025)}).__getitem__


def take_canonical(data: bytes, runs: list[Run]) -> bytes:
    """Append the commands at the front of ``data`` that are complete and canonical; return the bytes that are left."""
    parts = data.split(b"\r\n")
    last = len(parts) - 1  # What follows the last CRLF; every part before it was ended by one.
    at = 0
    while at < last:
        count = _COUNTS.get(parts[at])
        if count is None:
            break
        step = 1 + 2 * count
        after = at + step
        third = after + step
        if third < last and 1 < count <= WIDTH_MAX + 1 and parts[third] == parts[after] == parts[at]:
            taken = _take_run(parts, at, step)
            if taken is not None:
                runs.append(taken)
                at += taken.length * step
                continue
        args = parts[at + 2 : after : 2]
        if after > last or parts[at + 1 : after : 2] != list(map(_bulk_header, map(len, args))):
            joined = _join_arguments(parts, at + 1, count)
            if joined is None:
                break
            args, after = joined
        name = args.pop(0)
        runs.append(_new_run(Run, (name, 1, args)))
        at = after
    return parts[last] if at == last else b"\r\n".join(parts[at:])


def _take_run(parts: list[bytes], at: int, step: int) -> Run | None:
    """Return the commands from ``parts[at]`` on that are like the first, each of ``step`` parts, as one run.

    Returns None when they are fewer than two, or one of them is not canonical as it was split.
    """
    end = min(at + step * RUN_MAX, len(parts) - 1)
    end -= (end - at) % step
    count = _number_alike(parts[at:end:step], parts[at + 2 : end : step])
    end = at + step * count
    if count < 2 or parts[at + 1 : end : step].count(parts[at + 1]) < count:
        return None
    if parts[at + 1] != _bulk_header(len(parts[at + 2])):
        return None
    args: list[bytes] = []
    for place in range(at + 4, at + step, 2):
        column = parts[place:end:step]
        if parts[place - 1 : end : step] != list(map(_bulk_header, map(len, column))):
            return None
        args += column
    return _new_run(Run, (parts[at + 2], count, args))


def _number_alike(heads: list[bytes], names: list[bytes]) -> int:
    """Return how many commands at the front have the head and the name of the first."""
    head, name = heads[0], names[0]
    if heads.count(head) == len(heads) and names.count(name) == len(names):
        return len(heads)
    alike = takewhile((head, name).__eq__, zip(heads, names, strict=True))
    return sum(1 for _ in alike)


def _join_arguments(parts: Sequence[bytes], at: int, count: int) -> tuple[list[bytes], int] | None:
    """Return ``count`` arguments from ``parts[at]`` on, some with CRLF inside, and where the next command begins.

    Returns None when they are incomplete or not canonical.
    """
    last = len(parts) - 1
    args: list[bytes] = []
    for _ in range(count):
        header = parts[at]
        if header[:1] != b"$" or _LENGTH.fullmatch(header, 1) is None:
            return None
        missing = int(header[1:])
        first = at = at + 1
        while at < last and missing > len(parts[at]):
            missing -= len(parts[at]) + 2
            at += 1
        if at >= last or missing != len(parts[at]):
            return None
        at += 1
        args.append(b"\r\n".join(parts[first:at]))
    return args, at


# -- the strict parser ----------------------------------------------------------------------------------------------


class StrictParser:
    """Redis 7.0's own parser: every request, every limit, every error text, one argument at a time."""

    def __init__(self, limits: ParserLimits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._at = 0
        """Where in the buffer the next byte to be parsed stands; trimmed once a chunk, not once a command."""
        self._args: list[bytes] = []
        self._args_missing = 0
        """Arguments of the array being read that are still to come; 0 between requests."""
        self._bulk_missing = -1
        """Length of the argument being read; -1 while its header is still to come."""
        self._large: BytesIO | None = None
        """What is there of it, if it is longer than ``LARGE_BYTES``; the buffer then holds only what comes behind."""
        self._request_bytes = 0
        """Bytes of the array being read, up to the end of the last argument announced."""
        self._args_bytes = 0
        """Memory of the arguments that are there."""

    @property
    def is_waiting(self) -> bool:
        """Whether a request has begun and is not complete."""
        return self._args_missing > 0 or self._at < len(self._buffer)

    @property
    def held_bytes(self) -> int:
        """Memory of a request that has begun and is not complete, about."""
        large_bytes = 0 if self._large is None else self._large.tell()
        return len(self._buffer) - self._at + large_bytes + self._args_bytes

    def append(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._large is not None:
            missing = self._bulk_missing - self._large.tell()
            with memoryview(data) as view:
                self._large.write(view[:missing])
            data = data[missing:]
        self._buffer += data

    def trim(self) -> None:
        """Let go of what is parsed, and of a buffer that a large request made large."""
        if not self._at:
            return
        if self._at == len(self._buffer):
            self._buffer = bytearray()
        else:
            del self._buffer[: self._at]
        self._at = 0

    def take_rest(self) -> bytes:
        """Hand back what is not parsed; only between requests."""
        rest = bytes(self._buffer[self._at :])
        self._at = len(self._buffer)
        self.trim()
        return rest

    def next_command(self) -> list[bytes] | None:
        """Return the next complete command, or None when more bytes are needed.

        Raises:
            ProtocolError: malformed input; nothing more can be parsed.
        """
        while True:
            if self._args_missing:
                return self._read_arguments()
            if self._at == len(self._buffer):
                return None
            is_array = self._buffer[self._at] == _STAR
            command = self._begin_array() if is_array else self._read_inline()
            if command is None:
                return None
            if command:
                return command

    # -- inline commands ----------------------------------------------------------------------------------------------

    def _read_inline(self) -> list[bytes] | None:
        """Return the command on the line (empty for a blank line), or None when its end is missing."""
        if self._buffer[self._at] == _TLS_HANDSHAKE:
            raise ProtocolError("ERR TLS is not spoken here (tls_clients): connect without it")
        end = self._find(b"\n", "too big inline request")
        if end < 0:
            return None
        line = bytes(self._buffer[self._at : end])
        self._at = end + 1
        args = split_inline(line.removesuffix(_CR))
        if args is None:
            raise _malformed("unbalanced quotes in request")
        if args and args[0].lower() in (b"post", b"host:"):
            # A browser was made to send HTTP here; nothing in its body may be executed (Redis CVE-2016-10517).
            raise ProtocolError(f"ERR HTTP is not spoken here: got {args[0]!r}", close_silently=True)
        return args

    # -- arrays -------------------------------------------------------------------------------------------------------

    def _begin_array(self) -> list[bytes] | None:
        """Read ``*count`` and go on with the arguments; an empty list for a count that announces none."""
        start = self._at
        end = self._find_length_end("too big mbulk count string")
        if end < 0:
            return None
        count = self._parse_length(end)
        if count is None or count > self._limits.args_max:
            raise _malformed("invalid multibulk length")
        if count <= 0:
            return []
        self._request_bytes = self._at - start
        self._check_request_bytes(count * _ARG_OVERHEAD_BYTES)
        self._args_missing = count
        return []

    def _read_arguments(self) -> list[bytes] | None:
        while self._args_missing:
            if self._bulk_missing < 0 and not self._read_bulk_header():
                return None
            missing = self._bulk_missing if self._large is None else self._bulk_missing - self._large.tell()
            end = self._at + missing
            # Two bytes end an argument; like Redis, we do not look at them.
            if len(self._buffer) < end + 2:
                return None
            if self._large is None:
                with memoryview(self._buffer) as view:
                    self._args.append(bytes(view[self._at : end]))
            else:
                # This copies nothing: it is the object that was written to (CPython, Modules/_io/bytesio.c).
                self._args.append(self._large.getvalue())
                self._large = None
            self._args_bytes += self._bulk_missing + ARG_MEMORY_BYTES
            self._at = end + 2
            self._bulk_missing = -1
            self._args_missing -= 1
        args, self._args, self._args_bytes = self._args, [], 0
        return args

    def _read_bulk_header(self) -> bool:
        """Read ``$length``; return whether it was there."""
        start = self._at
        end = self._find_length_end("too big bulk count string")
        if end < 0:
            return False
        if self._buffer[start] != _DOLLAR:
            got = bytes(self._buffer[start : start + 1]).decode("utf-8", "surrogateescape")
            raise _malformed(f"expected '$', got '{got}'")
        length = self._parse_length(end)
        if length is None or not 0 <= length <= self._limits.bulk_bytes_max:
            raise _malformed("invalid bulk length")
        self._check_request_bytes(self._at - start + length + 2)
        self._request_bytes += self._at - start + length + 2
        self._bulk_missing = length
        if length > LARGE_BYTES:
            self._begin_large()
        return True

    def _begin_large(self) -> None:
        """Lay what is there of a large argument into an object of its own."""
        self._large = BytesIO()
        end = min(self._at + self._bulk_missing, len(self._buffer))
        with memoryview(self._buffer) as view:
            self._large.write(view[self._at : end])
        self._at = end

    def _check_request_bytes(self, more: int) -> None:
        total = self._request_bytes + more
        if total > self._limits.request_bytes_max:
            raise _malformed(f"request of {total} bytes or more, at most {self._limits.request_bytes_max} are taken")

    # -- lines --------------------------------------------------------------------------------------------------------

    def _find(self, end: bytes, complaint: str) -> int:
        """Return where the line that begins here ends, or -1 when its end is missing.

        Raises:
            ProtocolError: ``complaint``, when the line is longer than any may be.
        """
        found = self._buffer.find(end, self._at, self._at + LINE_BYTES_MAX + 1)
        if found < 0 and len(self._buffer) - self._at > LINE_BYTES_MAX:
            raise _malformed(complaint)
        return found

    def _find_length_end(self, complaint: str) -> int:
        """Return where the CR of a length line stands once the byte after it is there too, else -1; raises as _find."""
        end = self._find(_CR, complaint)
        if end == len(self._buffer) - 1:
            return -1
        return end

    def _parse_length(self, end: int) -> int | None:
        """Go past the length line whose CR stands at ``end`` and return its number, or None when it is none.

        The byte after CR is skipped whatever it is, as Redis does.
        """
        text = bytes(self._buffer[self._at + 1 : end])
        self._at = end + 2
        return int(text) if _LENGTH.fullmatch(text) else None


def _malformed(what: str) -> ProtocolError:
    return ProtocolError("ERR Protocol error: " + what.replace("\r", " ").replace("\n", " "))


# -- inline commands ------------------------------------------------------------------------------------------------

_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_BLANKS: Final = b" \t\n\v\f\r"
_ARGUMENT: Final = re.compile(
    rb"""
    (?P<plain> [^ \t\n\r"']*+ )
    (?: " (?P<double> (?: [^"\\] | \\. )*+ ) " (?= [ \t\n\v\f\r] | \Z )
      | ' (?P<single> (?: \\' | [^'] )*+ ) ' (?= [ \t\n\v\f\r] | \Z )
      | (?= [ \t\n\r] | \Z )
    )
    [ \t\n\v\f\r]*+
    """,
    re.VERBOSE | re.DOTALL,
)
"""One argument and the blanks after it. Possessive, because Redis never goes back to read a quote in another way; a
blank in a character class counts even though the expression is verbose."""


def split_inline(line: bytes) -> list[bytes] | None:
    """Return the arguments of an inline command, or None when its quotes do not balance (sdssplitargs of Redis).

    ``"..."`` knows ``\\xHH``, ``\\n``, ``\\r``, ``\\t``, ``\\b``, ``\\a`` and takes any other escaped byte as it is;
    ``'...'`` knows only ``\\'``. A closing quote ends the argument and must be followed by a blank or the end.
    """
    args: list[bytes] = []
    line = line.lstrip(_BLANKS)
    at = 0
    while at < len(line):
        found = _ARGUMENT.match(line, at)
        if found is None:
            return None
        plain, double, single = found["plain"], found["double"], found["single"]
        if double is not None:
            plain += _ESCAPE.sub(_unescape, double)
        elif single is not None:
            plain += single.replace(rb"\'", b"'")
        args.append(plain)
        at = found.end()
    return args


def _unescape(escape: re.Match[bytes]) -> bytes:
    if escape[1] is not None:
        return bytes.fromhex(escape[1].decode())
    return _ESCAPES.get(escape[2], escape[2])
