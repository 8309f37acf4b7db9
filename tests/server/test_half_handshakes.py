"""Handshakes that do not come to an end, over real sockets: each ends alone, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from durable_raft.server import accepting, handshakes
from durable_raft.server.accepting import HANDSHAKE_BYTES_MAX, HELLO_BYTES_MAX
from tests.support.tls_port import listening, refused, run


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_half_a_handshake_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """It has no session meanwhile, is no connection, and nothing is left of it."""
    monkeypatch.setattr(handshakes, "DEADLINE_S", 0.3)

    async def main() -> None:
        async with listening() as port:
            reader, writer = await port.plain()
            writer.write(sent)
            await port.until(lambda: port.clients.tls.undecided == 1)
            assert not port.clients.sessions
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert port.clients.tls.timed_out == 1
            await port.until(port.nothing_left)
            writer.close()

    run(main)


def test_silent_client_is_kept_where_it_may_be_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool may connect long before it asks; a handshake that has begun has its deadline there, too."""
    monkeypatch.setattr(handshakes, "DEADLINE_S", 0.3)

    async def main() -> None:
        async with listening("optional") as port:
            silent, half = await port.plain(), await port.plain()
            half[1].write(b"\x16\x03")
            with contextlib.suppress(ConnectionError):
                assert await half[0].read() == b""
            silent[1].write(b"PING\r\n")
            assert await silent[0].readexactly(7) == b"+PONG\r\n"
            for _, writer in (silent, half):
                writer.close()

    run(main)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16" * 100,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + b"x" * 1000,
        b"\x16GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_behind_the_first_byte_ends_its_own_connection(sent: bytes) -> None:
    """At once, with TLS's alert at most."""

    async def main() -> None:
        async with listening() as port:
            reader, writer = await port.plain()
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert answer == b"" or answer[0] == 0x15  # an alert (RFC 8446 §6)
            writer.close()
            await port.until(port.nothing_left)
            assert port.clients.tls.refused == 1

    run(main)


def test_client_that_sends_much_before_it_has_heard_anything_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A first message is one record at most: more is no handshake, and is not kept."""

    async def main() -> None:
        async with listening() as port:
            reader, writer = await port.plain()
            with contextlib.suppress(ConnectionError):
                writer.write(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(HELLO_BYTES_MAX))
                assert await reader.read() == b""
            writer.close()
            await port.until(port.nothing_left)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "before it has heard anything" in str(caplog.records[-1].__dict__["fields"]["reason"])


def test_who_is_turned_away_is_logged_once_for_each_address(caplog: pytest.LogCaptureFixture) -> None:
    """A flood from one host makes one line, and does not hide the next host with the same trouble."""

    async def main() -> None:
        async with listening() as port:
            for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
                port.acceptor.complain(address, "it does not speak TLS")
            assert port.clients.tls.refused == 3

    with caplog.at_level(logging.WARNING):
        run(main)
    reasons = [record.__dict__["fields"]["reason"] for record in caplog.records]
    assert reasons == ["10.0.0.1: it does not speak TLS", "10.0.0.2: it does not speak TLS"] * 2


def test_what_waits_for_its_turn_is_counted_and_closed_when_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a request that is half sent: the share of requests is for both, and nothing more is read meanwhile."""
    monkeypatch.setattr(handshakes, "OPEN_MAX", 0)
    half = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

    async def main() -> None:
        async with listening() as port:
            share = port.clients.memory.requests.share
            reader, writer = await port.plain()
            writer.write(half)
            await port.until(lambda: share.held == len(half))
            writer.write(bytes(1000))
            (held,) = share.holders
            assert held.name == "handshake of 127.0.0.1"
            share.bytes_max = 1
            other, other_writer = await port.plain()
            other_writer.write(half)
            with contextlib.suppress(ConnectionError):
                await reader.read()
                await other.read()
            assert share.closed == 2
            await port.until(port.nothing_left)
            for each in (writer, other_writer):
                each.close()

    run(main)


def test_handshake_of_many_bytes_is_dropped(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of certificates without end, say."""
    monkeypatch.setattr(accepting, "HANDSHAKE_BYTES_MAX", 200)
    assert HANDSHAKE_BYTES_MAX > 200

    async def main() -> None:
        async with listening() as port:
            await refused(port, port.made.client())
            await port.until(port.nothing_left)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "more than 200 bytes" in str(caplog.records[-1].__dict__["fields"]["reason"])


def test_client_that_goes_away_in_its_handshake_leaves_nothing() -> None:
    """Wherever it was."""

    async def main() -> None:
        async with listening() as port:
            for sent in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
                for ends in (asyncio.StreamWriter.close, lambda writer: writer.transport.abort()):
                    _, writer = await port.plain()
                    writer.write(sent)
                    await port.until(lambda: port.clients.tls.undecided == 1)
                    ends(writer)
                    await port.until(port.nothing_left)

    run(main)


def test_sockets_that_are_no_connection_yet_count_as_clients() -> None:
    """Else clients_max would bound nothing; who comes beyond it is closed, and told where that can be done."""

    async def main() -> None:
        for mode in ("required", "optional"):
            async with listening(mode, clients_max=3) as port:
                held = [await port.plain() for _ in range(2)]
                reader, writer = await port.secure(port.made.client())
                writer.write(b"PING\r\n")
                assert await reader.readexactly(7) == b"+PONG\r\n"
                late, _ = late_both = await port.plain()
                expected = b"" if mode == "required" else b"-ERR max number of clients reached\r\n"
                assert await late.read() == expected
                held[0][1].close()
                await port.until(lambda port=port: port.clients.tls.undecided == 1)  # type: ignore[misc]
                again, again_writer = await port.secure(port.made.client("again"))
                again_writer.write(b"PING\r\n")
                assert await again.readexactly(7) == b"+PONG\r\n"
                for each in (held[1][1], writer, late_both[1], again_writer):
                    each.close()

    run(main)
