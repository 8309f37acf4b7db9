"""The transport between a connection and its socket: what it encrypts when, what it counts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from durable_raft.server.slices import SLICE_S, Turns
from durable_raft.server.tls_transport import PIECE_BYTES, RECORD_BYTES, SOCKET_BYTES, UNASKED_BYTES_MAX, TlsTransport
from tests.support.certificates import Certificates, crt, key


class Raw:
    """A socket's transport whose other end takes bytes when it is told to."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.high = 64 << 10
        self.is_closed = self.is_aborted = self.is_reading_paused = False
        self.writes: list[int] = []
        self.transport: TlsTransport | None = None

    def set_write_buffer_limits(self, high: int) -> None:
        """Note from when on the socket takes no more."""
        self.high = high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return something that tells that it was asked here."""
        return {"peername": ("10.0.0.1", 1)}.get(name, default)

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.is_closed or self.is_aborted

    def get_write_buffer_size(self) -> int:
        """Return what waits."""
        return len(self.waiting)

    def write(self, data: bytes) -> None:
        """Keep, and say when that is much."""
        assert not self.is_closing()
        self.writes.append(len(data))
        was_much = len(self.waiting) > self.high
        self.waiting += data
        if not was_much and len(self.waiting) > self.high and self.transport is not None:
            self.transport.may_send(may=False)

    def taken(self) -> bytes:
        """Let the other end take all that waits."""
        was_much, data = len(self.waiting) > self.high, bytes(self.waiting)
        self.waiting.clear()
        if was_much and self.transport is not None:
            self.transport.may_send(may=True)
        return data

    def close(self) -> None:
        """Close."""
        self.is_closed = True

    def abort(self) -> None:
        """Close at once."""
        self.is_aborted = True
        self.waiting.clear()

    def pause_reading(self) -> None:
        """Read no more."""
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        """Read again."""
        self.is_reading_paused = False


class Line:
    """Both ends of a connection behind its handshake; time passes when the loop turns."""

    def __init__(self, certificates: Certificates) -> None:
        node = certificates.node()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificates.client_context()
        server.load_cert_chain(crt(node), key(node))
        to_client, to_server, self._read, self._written = (ssl.MemoryBIO() for _ in range(4))
        self.client = client.wrap_bio(self._read, self._written, server_hostname="localhost")
        tls = server.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(3):
            for end, out, into in ((self.client, self._written, to_server), (tls, to_client, self._read)):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                into.write(out.read())
        self.now = 0.0
        self._soon: list[Callable[[], object]] = []
        self.raw = Raw()
        turns = Turns(self._soon.append, self._monotonic)
        self.end = TlsTransport(cast("asyncio.Transport", self.raw), tls, to_server, to_client, turns)
        self.raw.transport = self.end

    def _monotonic(self) -> float:
        self.now += SLICE_S / 100
        return self.now

    def turn(self) -> None:
        """Let the loop turn once."""
        soon, self._soon[:] = list(self._soon), []
        self.now += 0.01
        for each in soon:
            each()

    def run(self) -> None:
        """Let it turn until nothing is to be done."""
        while self._soon:
            self.turn()

    def heard(self) -> bytes:
        """Return what the client reads of what was sent; empty at the end, too."""
        self._read.write(self.raw.taken())
        found = bytearray()
        try:
            while piece := self.client.read(1 << 20):
                found += piece
        except ssl.SSLWantReadError:
            pass
        return bytes(found)

    def said(self, data: bytes) -> bytes:
        """Return the records in which the client sends ``data``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.client.write(rest) :]
        return self._written.read()


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """A connection."""
    return Line(Certificates(tmp_path / "tls"))


def test_small_replies_leave_at_once(line: Line) -> None:
    """They do not wait for a turn, and nothing of them is counted twice."""
    line.end.write(b"+OK\r\n")
    assert line.end.get_write_buffer_size() == len(line.raw.waiting) > 5
    assert line.heard() == b"+OK\r\n"
    assert line.end.get_write_buffer_size() == 0


def test_large_reply_is_encrypted_as_the_socket_takes_it(line: Line) -> None:
    """All of it is counted from the first moment on; what is encrypted and waits is bounded."""
    data = bytes(range(256)) * (4 << 12)
    line.end.write(data)
    assert line.end.get_write_buffer_size() == len(data)
    line.run()
    assert SOCKET_BYTES < len(line.raw.waiting) < SOCKET_BYTES + 2 * PIECE_BYTES
    assert line.end.get_write_buffer_size() > len(data) - SOCKET_BYTES
    found = b""
    while len(found) < len(data):
        piece = line.heard()
        assert piece
        found += piece
        line.run()
    assert found == data
    assert line.end.get_write_buffer_size() == 0


def test_one_turn_of_the_loop_encrypts_for_the_time_of_a_slice(line: Line) -> None:
    """However much waits, and however fast the socket is: here it takes everything."""
    line.raw.high = 1 << 40
    line.end.write(bytes(250 * PIECE_BYTES))
    turns = 0
    while line.end.get_write_buffer_size() > len(line.raw.waiting):
        line.turn()
        turns += 1
    assert 3 <= turns <= 6


def test_replies_keep_their_order_behind_a_large_one(line: Line) -> None:
    """A small one that comes behind waits for it."""
    parts = [b"a", b"b" * (5 * PIECE_BYTES), b"c", b"d" * RECORD_BYTES, b"e" * 100_000, b"f"]
    for part in parts:
        line.end.write(part)
    found = b""
    for _ in range(30):
        line.run()
        found += line.heard()
    assert found == b"".join(parts)


def test_close_sends_what_was_written_and_says_that_it_is_the_end(line: Line) -> None:
    """Behind it nothing is taken, and the client can tell the end from a broken connection."""
    line.end.write(b"x" * (3 * PIECE_BYTES))
    line.end.close()
    assert line.end.is_closing()
    assert not line.raw.is_closed
    line.end.write(b"never")
    found = b""
    for _ in range(10):
        line.run()
        found += line.heard()
    assert found == b"x" * (3 * PIECE_BYTES)
    assert line.raw.is_closed
    assert line.client.read(1) == b""


def test_abort_drops_what_waits(line: Line) -> None:
    """Nothing is encrypted for nobody, and memory is let go of."""
    line.end.write(bytes(10 * PIECE_BYTES))
    line.end.abort()
    line.run()
    assert line.raw.is_aborted
    assert not line.end._backlog
    assert line.raw.writes == []
    assert line.end.get_write_buffer_size() == 0


def test_what_comes_in_is_there_at_once_whatever_its_pieces(line: Line) -> None:
    """Records that are cut anywhere, and several at once."""
    data = b"*1\r\n$4\r\nPING\r\n" * 5000
    records = line.said(data)
    found = line.end.received(records[:7])
    assert found == b""
    found += line.end.received(records[7:20_000])
    assert found
    found += line.end.received(records[20_000:])
    assert found == data
    assert not line.end.is_ended


def test_end_of_the_client_is_noticed(line: Line) -> None:
    """Behind what it sent before."""
    records = line.said(b"QUIT\r\n")
    with pytest.raises(ssl.SSLWantReadError):
        line.client.unwrap()
    assert line.end.received(records + line._written.read()) == b"QUIT\r\n"
    assert line.end.is_ended
    assert line.end.received(bytes(1 << 20)) == b""
    assert line.end._incoming.pending == 0


def test_flipped_bit_is_found(line: Line) -> None:
    """And the other end is told."""
    records = bytearray(line.said(b"SET a 1\r\n"))
    records[-1] ^= 1
    with pytest.raises(ssl.SSLError, match=r"bad record mac|decryption failed"):
        line.end.received(bytes(records))
    line.end.say_last()
    with pytest.raises(ssl.SSLError, match="alert bad record mac"):
        line.heard()


def test_answers_that_nobody_asked_for_are_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS 1.3 answers a request for new keys; a client that asks for ever and reads nothing is cut off."""
    outgoing = ssl.MemoryBIO()
    monkeypatch.setattr(line.end, "_outgoing", outgoing)
    for _ in range(UNASKED_BYTES_MAX // 1000):
        outgoing.write(bytes(1000))
        line.end.received(b"")
    outgoing.write(bytes(SOCKET_BYTES + 1000))
    with pytest.raises(ssl.SSLError, match="does not read"):
        line.end.received(b"")
