"""Whoever dials a node that has a cluster secret, or is dialled by one, and says what a test likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from durable_raft.errors import PeerError
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.wire.messages import Challenge, Hello, HelloReply, Proof
from durable_raft.wire.peer import TAGGED, FrameParser, PeerMessage, encode_frame
from durable_raft.wire.proof import Opener, Sealer, derive, frame_digest, transcript_of
from tests.support.peer_house import CLUSTER_ID, HELLO

SECRET = b"a secret of the cluster, of 32 or more characters"
OTHER_SECRET = b"another secret, which nobody of this cluster has!"
PROVING = HELLO._replace(version="0.2.0 must-prove 1-2")
NONCE = b"n" * 16


def secrets_in(directory: Path) -> ClusterSecrets:
    """Return the secrets of a node whose file has ``SECRET``."""
    file = directory / "secret"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    return ClusterSecrets(file)


class Caller:
    """Whoever dials n1, and says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = FrameParser(CLUSTER_ID, 1 << 16)
        self.sealer: Sealer | None = None
        self.sent = b""
        """All that it has said."""

    def say_bytes(self, data: bytes) -> None:
        """Send anything."""
        self.sent += data
        self._writer.write(data)

    def say(self, *messages: PeerMessage) -> None:
        """Send messages, with their tags if the secret was proven."""
        for message in messages:
            self.say_bytes(self.framed(message))

    def framed(self, message: PeerMessage) -> bytes:
        """Return the next frame, as it would be sent."""
        if self.sealer is None:
            return encode_frame(CLUSTER_ID, message)
        frame = encode_frame(CLUSTER_ID, message, TAGGED)
        return frame + self.sealer.tag(frame_digest(frame))

    async def hear(self) -> PeerMessage:
        """Return the next message."""
        while True:
            data = await self._reader.read(1 << 16)
            assert data, "the link was closed"
            if messages := self._parser.feed(data):
                (message,) = messages
                return message

    async def rest(self) -> list[PeerMessage]:
        """Return all that comes until the link is closed."""
        found = []
        with suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                found += self._parser.feed(data)
        return found

    async def challenged(self, hello: Hello = PROVING) -> bytes:
        """Say who dials; return the nonce of the challenge."""
        self.say(hello)
        challenge = await self.hear()
        assert isinstance(challenge, Challenge)
        return challenge.nonce

    async def join(self, hello: Hello = PROVING) -> None:
        """Prove the secret, and wait to be accepted."""
        keys = derive(SECRET, transcript_of(CLUSTER_ID, hello, await self.challenged(hello)))
        self.say(Proof(keys.dialler_proof))
        found: list[PeerMessage] = []
        while not (found and isinstance(found[-1], HelloReply)):
            data = await self._reader.read(1 << 16)
            assert data, "the link was closed"
            found += self._parser.feed(data)
            if found == [Proof(keys.listener_proof)]:
                found += self._parser.secure(Opener(keys.listener_key))
        self.sealer = Sealer(keys.dialler_key)

    async def close(self) -> None:
        """End the link."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Impostor:
    """Somebody at the address of a peer."""

    def __init__(
        self, to_hello: list[PeerMessage], to_proof: Callable[[Proof], list[PeerMessage]] | None = None
    ) -> None:
        """Answer each Hello, and each Proof."""
        self._to_hello, self._to_proof = to_hello, to_proof
        self.heard: list[PeerMessage] = []
        self._open = 0

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[None]:
        """Listen."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", port):
            yield
        while self._open:
            await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        parser = FrameParser(CLUSTER_ID, 1 << 16)
        with suppress(ConnectionError, PeerError):
            while data := await reader.read(1 << 16):
                for message in parser.feed(data):
                    self.heard.append(message)
                    for answer in self._answers(message):
                        writer.write(encode_frame(CLUSTER_ID, answer))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._open -= 1

    def _answers(self, message: PeerMessage) -> list[PeerMessage]:
        if isinstance(message, Hello):
            return self._to_hello
        return self._to_proof(message) if isinstance(message, Proof) and self._to_proof is not None else []
