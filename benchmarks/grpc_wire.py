"""As much of HTTP/2 and gRPC as one connection to etcd needs (RFC 9113, RFC 7541), for the open loop.

A gRPC library in Python takes longer for a call than etcd does. Every request has the same header block, nothing in it
is indexed or compressed, and of the answers only the frames are looked at: an answer is a DATA frame and trailers; a
gRPC error has no DATA.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from benchmarks.etcd import put_request, range_request

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
FRAME_HEADER_BYTES = 9
WINDOW_BYTES = 65_535
"""What either side may send at first, on the connection."""
WINDOW_BYTES_MAX = (1 << 31) - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _header_block(method: str) -> bytes:
    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    # POST and http from the static table; then literals without indexing: :path, :authority, content-type, te.
    block = b"\x83\x86\x04" + text(f"/etcdserverpb.KV/{method}") + b"\x01" + text("localhost")
    return block + b"\x0f\x10" + text("application/grpc") + b"\x00" + text("te") + text("trailers")


_PUT, _RANGE = _header_block("Put"), _header_block("Range")


class EtcdWire:
    """Puts and linearizable ranges, each a stream of its own."""

    def __init__(self) -> None:
        self._received = b""
        self._next_stream = 1
        self._numbers: dict[int, int] = {}
        self._has_data: set[int] = set()
        self._window = WINDOW_BYTES
        self._held: deque[tuple[int, bytes]] = deque()
        """What the other end has no room for yet, with the size of its DATA."""

    def opening(self) -> bytes:
        """Return preface and settings: no header table, no push, windows as large as they can be."""
        settings = b"\0\1\0\0\0\0" + b"\0\2\0\0\0\0" + b"\0\4" + WINDOW_BYTES_MAX.to_bytes(4, "big")
        wider = (WINDOW_BYTES_MAX - WINDOW_BYTES).to_bytes(4, "big")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        return preface + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, wider)

    def request(self, number: int, key: bytes, value: bytes | None) -> bytes:
        """Return a Put or a Range; nothing while the other end has no room for it."""
        message = range_request(key) if value is None else put_request(key, value)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._numbers[stream] = number
        headers = _frame(HEADERS, END_HEADERS, stream, _RANGE if value is None else _PUT)
        self._held.append((len(body), headers + _frame(DATA, END_STREAM, stream, body)))
        return self._sendable()

    def feed(self, data: bytes) -> tuple[Sequence[int], bytes]:
        """Take frames; raises RuntimeError at a call that failed and at the connection's end."""
        self._received += data
        answered: list[int] = []
        replies = b""
        at = 0
        while len(self._received) - at >= FRAME_HEADER_BYTES:
            header = self._received[at : at + FRAME_HEADER_BYTES]
            end = at + FRAME_HEADER_BYTES + int.from_bytes(header[:3], "big")
            if len(self._received) < end:
                break
            stream = int.from_bytes(header[5:], "big") & WINDOW_BYTES_MAX
            payload = self._received[at + FRAME_HEADER_BYTES : end]
            replies += self._take(header[3], header[4], stream, payload, answered)
            at = end
        self._received = self._received[at:]
        return answered, replies + self._sendable()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, answered: list[int]) -> bytes:
        """Take one frame; return what it is to be answered with."""
        if kind in (RST_STREAM, GOAWAY):
            raise RuntimeError(f"etcd ended a stream or the connection: {payload!r}")
        if kind in (SETTINGS, PING) and not flags & ACK:
            return _frame(kind, ACK, 0, payload if kind == PING else b"")
        if kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        if kind == DATA:
            self._has_data.add(stream)
        if kind == HEADERS and flags & END_STREAM:
            if stream not in self._has_data:
                raise RuntimeError(f"etcd answered a call with an error: {payload!r}")
            self._has_data.discard(stream)
            answered.append(self._numbers.pop(stream))
        return b""

    def _sendable(self) -> bytes:
        sent = b""
        while self._held and self._held[0][0] <= self._window:
            size, frames = self._held.popleft()
            self._window -= size
            sent += frames
        return sent
