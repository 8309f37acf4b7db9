"""The client port where TLS is spoken, over real sockets: who gets in, how the others are turned away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import tempfile
import time
from pathlib import Path

import pytest

from durable_raft.server.commands.session import ClientCertificate
from durable_raft.server.tls import TlsKeeper, load
from tests.support.certificates import Certificates
from tests.support.tls_port import listening, refused, run
from tests.support.waiting import WAIT_S

PLAIN_REFUSED = b"-ERR this port speaks TLS only: connect with TLS (redis-cli --tls, rediss:// or ssl=True)\r\n"


# -- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_that_shows_a_certificate_is_served_and_known(version: ssl.TLSVersion) -> None:
    """Its name is a fact of its session, and CLIENT LIST tells it."""

    async def main() -> None:
        async with listening() as port:
            context = port.made.client_context(port.made.client("the app"))
            context.maximum_version = version
            reader, writer = await port.secure(None, context)
            writer.write(b"PING\r\nCLIENT INFO\r\n")
            assert await reader.readexactly(7) == b"+PONG\r\n"
            size = int((await reader.readuntil(b"\r\n"))[1:])
            line = (await reader.readexactly(size + 2)).decode()
            assert line.endswith(f" tls={version.name.replace('_', '.')} tls-name=the%20app\n\r\n")
            (session,) = port.clients.sessions.values()
            assert session.certificate == ClientCertificate("the app", ())
            counts = port.clients.counts()
            assert counts.tls is not None
            assert (counts.connected, counts.tls.connected, counts.tls.undecided) == (1, 1, 0)
            writer.close()
            await port.until(port.nothing_left)

    run(main)


def test_node_certificate_tells_who_the_node_is() -> None:
    """Its URI is kept as well: a node may be a client of another."""

    async def main() -> None:
        async with listening() as port:
            reader, writer = await port.secure(port.made.node("other"))
            writer.write(b"PING\r\n")
            assert await reader.readexactly(7) == b"+PONG\r\n"
            (session,) = port.clients.sessions.values()
            assert session.certificate == ClientCertificate("n1", ("durable-raft://default/n1",))
            writer.close()

    run(main)


def test_client_that_resumes_its_session_is_known_and_a_reload_forgets_it() -> None:
    """Tickets are as by default; new files are new keys for them, so that a revocation holds for everybody."""

    async def main() -> None:
        async with listening() as port:
            context = port.made.client_context(port.made.client())

            def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None, bytes]:
                with (
                    socket.create_connection(("127.0.0.1", port.port), WAIT_S) as plain,
                    context.wrap_socket(plain, server_hostname="localhost", session=session) as wrapped,
                ):
                    wrapped.sendall(b"CLIENT INFO\r\n")
                    line = wrapped.recv(1000)
                    return wrapped.session, wrapped.session_reused, line

            session, _, _ = await asyncio.to_thread(connect, None)
            session, is_resumed, line = await asyncio.to_thread(connect, session)
            assert is_resumed
            assert b" tls-name=app\n" in line
            keeper = port.acceptor.contexts
            assert isinstance(keeper, TlsKeeper)
            keeper._take(load(keeper._settings, time.time()))
            _, is_resumed, line = await asyncio.to_thread(connect, session)
            assert not is_resumed
            assert b" tls-name=app\n" in line

    run(main)


def test_both_are_served_where_tls_is_optional() -> None:
    """The first byte tells; a plain client is known as one."""

    async def main() -> None:
        async with listening("optional") as port:
            plain, secure = await port.plain(), await port.secure(port.made.client())
            for reader, writer in (plain, secure):
                writer.write(b"PING\r\n")
                assert await reader.readexactly(7) == b"+PONG\r\n"
            assert sorted(session.tls for session in port.clients.sessions.values()) == ["", "TLSv1.3"]
            for _, writer in (plain, secure):
                writer.close()
            await port.until(port.nothing_left)

    run(main)


def test_certificate_may_be_left_out_where_it_is_optional() -> None:
    """But none that the CA did not sign is taken."""

    async def main() -> None:
        async with listening(tls_auth_clients="optional") as port:
            reader, writer = await port.secure(None)
            writer.write(b"PING\r\n")
            assert await reader.readexactly(7) == b"+PONG\r\n"
            assert [session.certificate for session in port.clients.sessions.values()] == [None]
            writer.close()
            with tempfile.TemporaryDirectory() as place:
                foreign = Certificates(Path(place) / "tls").client()
                await refused(port, foreign)

    run(main)


# -- who does not -----------------------------------------------------------------------------------------------------


def test_who_is_not_let_in_is_told_why_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """No certificate, another CA's, one that ended, a revoked one: the client gets an alert, the log a line."""
    told: dict[str, str] = {}

    async def main() -> None:
        async with listening(tls_crl_file="") as port:
            foreign = Certificates(port.made.directory / "foreign")
            context = port.made.client_context()
            context.load_cert_chain(*(str(foreign.client()) + end for end in (".crt", ".key")))
            told["none"] = await refused(port, None)
            told["foreign"] = await refused(port, None, context)
            told["expired"] = await refused(port, port.made.expired())
            told["early"] = await refused(port, port.made.early())
            told["revoked"] = await refused(port, port.made.directory / "revoked")
            reader, writer = await port.secure(port.made.client())
            writer.write(b"PING\r\n")
            assert await reader.readexactly(7) == b"+PONG\r\n"
            writer.close()
            assert port.clients.tls.refused == 5
            assert port.clients.connections_received == 1
            await port.until(port.nothing_left)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert told == {
        "none": "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "foreign": "TLSV1_ALERT_UNKNOWN_CA",
        "expired": "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "early": "SSLV3_ALERT_BAD_CERTIFICATE",
        "revoked": "SSLV3_ALERT_CERTIFICATE_REVOKED",
    }
    reasons = " ".join(str(record.__dict__["fields"]["reason"]) for record in caplog.records)
    for words in ("DID_NOT_RETURN_A_CERTIFICATE", "certificate has expired", "not yet valid", "certificate revoked"):
        assert words in reasons


def test_plain_client_of_a_port_with_tls_is_told_once_and_closed() -> None:
    """Whatever it sends, and however much: one error in RESP, and the end."""

    async def main() -> None:
        async with listening() as port:
            for sent in (b"PING\r\n", b"*1\r\n$4\r\nPING\r\n" * 3, b"GET / HTTP/1.1\r\n\r\n", b"\x00"):
                reader, writer = await port.plain()
                writer.write(sent)
                assert await reader.read() == PLAIN_REFUSED
                writer.close()
            await port.until(port.nothing_left)
            assert port.clients.connections_received == 0

    run(main)


def test_tls_to_a_port_without_it_ends_at_once() -> None:
    """At its first byte: a client that waited for an answer would wait for as long as it likes."""

    async def main() -> None:
        async with listening("off") as port:
            with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
                await port.secure(None)
            reader, writer = await port.plain()
            writer.write(b"PING\r\n\x16\x03\x01")
            assert await reader.read() == b"+PONG\r\n-ERR TLS is not spoken here (tls_clients): connect without it\r\n"
            writer.close()

    run(main)


def test_old_version_of_tls_is_refused() -> None:
    """Where only the newest is spoken."""

    async def main() -> None:
        async with listening(tls_protocols="TLSv1.3") as port:
            context = port.made.client_context(port.made.client())
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            assert await refused(port, None, context) == "TLSV1_ALERT_PROTOCOL_VERSION"

    run(main)


# -- what holds for every connection ----------------------------------------------------------------------------------


def test_commands_behind_the_handshake_need_not_wait_for_its_end() -> None:
    """A client may send them together with its last message."""

    async def main() -> None:
        async with listening() as port:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = port.made.client_context(port.made.client())
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            reader, writer = await port.plain()
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            writer.write(outgoing.read())
            while True:
                incoming.write(await reader.read(1 << 16))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
            tls.write(b"PING\r\nQUIT\r\n")
            writer.write(outgoing.read())
            incoming.write(await reader.read())
            assert tls.read(100) == b"+PONG\r\n+OK\r\n"
            writer.close()

    run(main)


def test_half_close_is_answered_before_the_end() -> None:
    """As without TLS: what is owed is sent, then the connection ends, and says so."""

    async def main() -> None:
        async with listening() as port:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = port.made.client_context(port.made.client()).wrap_bio(incoming, outgoing, server_hostname="localhost")
            reader, writer = await port.plain()
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                writer.write(outgoing.read())
                incoming.write(await reader.read(1 << 16))
            tls.write(b"PING\r\n")
            writer.write(outgoing.read())
            writer.write_eof()
            incoming.write(await reader.read())
            assert tls.read(100) == b"+PONG\r\n"
            assert tls.read(100) == b""
            writer.close()
            await port.until(port.nothing_left)

    run(main)


def test_large_reply_reaches_a_client_that_reads_slowly() -> None:
    """Whole and in order, with a small one behind it: what the socket does not take waits, encrypted or not."""

    async def main() -> None:
        async with listening() as port:
            reader, writer = await port.secure(port.made.client())
            value = bytes(range(256)) * (1 << 15)
            writer.write(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\nPING\r\n" % (len(value), value))
            await port.until(lambda: bool(port.clients.connections))
            (connection,) = port.clients.connections.values()
            await port.until(lambda: connection.unread_bytes > 1 << 20)
            assert await reader.readuntil(b"\r\n") == b"$%d\r\n" % len(value)
            found = b""
            while len(found) < len(value):
                found += await reader.read(min(100_000, len(value) - len(found)))
                await asyncio.sleep(0)
            assert found == value
            assert await reader.readexactly(9) == b"\r\n+PONG\r\n"
            assert connection.unread_bytes == 0
            writer.close()

    run(main)


def test_client_that_does_not_read_is_cut_off_in_tls_too(caplog: pytest.LogCaptureFixture) -> None:
    """What is not encrypted yet counts like what waits for the socket."""

    async def main() -> None:
        async with listening(output_bytes_max="1MiB") as port:
            _, writer = await port.secure(port.made.client())
            request = b"*2\r\n$4\r\nECHO\r\n$100000\r\n" + b"x" * 100_000 + b"\r\n"
            with contextlib.suppress(ConnectionError):
                for _ in range(400):
                    writer.write(request)
                    if not port.clients.connections and port.clients.connections_received:
                        break
                    await asyncio.sleep(0)
                await port.until(port.nothing_left)
            writer.transport.abort()

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "client_too_slow" in [record.msg for record in caplog.records]


def test_broken_record_ends_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing behind it is executed."""

    async def main() -> None:
        async with listening() as port:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = port.made.client_context(port.made.client()).wrap_bio(incoming, outgoing, server_hostname="localhost")
            reader, writer = await port.plain()
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                writer.write(outgoing.read())
                incoming.write(await reader.read(1 << 16))
            writer.write(outgoing.read())
            await port.until(lambda: bool(port.clients.connections))
            tls.write(b"PING\r\n")
            record = bytearray(outgoing.read())
            record[-1] ^= 1
            writer.write(bytes(record))
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            assert port.clients.commands_processed == 0
            await port.until(port.nothing_left)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "RECORD_MAC" in str(caplog.records[-1].__dict__["fields"]["reason"])
