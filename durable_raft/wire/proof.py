"""The proof that both ends of a link know the cluster's secret, and the tags of the frames behind it.

The secret itself is never sent. The handshake of a link with a secret::

    dialler                                                       listener
    Hello: who dials, whom it wants, its program, a nonce    ->
                                                             <-   Challenge: another nonce
    Proof, of the dialler                                    ->
                                                             <-   Proof, of the listener
    every frame with a tag                                   <->  every frame with a tag

Both ends write the same *transcript*: the cluster's id and all that the Hello and the Challenge said. HKDF-SHA256
(RFC 5869), with the secret as key and the SHA-256 of the transcript as salt, derives four values of 32 bytes from them:
the two proofs and, for each direction, the key of its tags. So a proof fits one link, one role and what was said there:
it cannot be used again, sent back to whoever made it, or relayed to a link on which something else was said. Whoever
dials proves first, so a stranger that dials is given nothing that depends on the secret.

A tag has 16 bytes: keyed BLAKE2b (RFC 7693) over the number of the frame in its direction, u64 big-endian from 0, and
the SHA-256 of the whole frame. The flag ``TAGGED`` in the header says that it follows the frame. A frame that is
changed, left out, sent again or in another order has another number or another hash, and so a wrong tag. The hash is
made once, however many links the frame is sent on.

Which secret it is, the dialler says by its proof; the listener answers with the same. Nothing is encrypted.
"""

from __future__ import annotations

import enum
import hmac
import re
import struct
from collections.abc import Iterable
from hashlib import blake2b, sha256
from typing import Final, NamedTuple

from durable_raft.errors import ForgedFrame
from durable_raft.raft.types import NodeId
from durable_raft.wire.messages import Hello

NONCE_BYTES: Final = 16
TAG_BYTES: Final = 16
_KEY_BYTES: Final = 32
_LABEL: Final = b"durable-raft proof of the cluster secret 1"
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_STANCE: Final = re.compile(r" (may-prove|must-prove) \d{1,5}-\d{1,5}$", re.ASCII)


class Stance(enum.Enum):
    """What a node does about proofs; the value is said in its Hello, behind the version of the software."""

    NONE = ""
    """It has no secret."""
    MAY = "may-prove"
    """It proves to whoever can, and hears others as well."""
    MUST = "must-prove"
    """It hears nobody without proof."""

    def behind(self, software: str) -> str:
        """Return the version of the software with what the node does; programs of before read over it."""
        return f"{software} {self.value}" if self.value else software


def stance_of(version: str) -> Stance:
    """Return what a node does that says ``version`` in its Hello (raft/versions.py says how it ends)."""
    found = _STANCE.search(version)
    return Stance.NONE if found is None else Stance(found[1])


class Transcript(NamedTuple):
    """All that was said on a link before the proofs; both ends must have heard the same."""

    cluster_id: bytes
    dialler_id: NodeId
    dialler_uuid: bytes
    listener_id: NodeId
    """Whom the dialler wants."""
    version: str
    """As the dialler said it, with what it does about proofs."""
    dialler_nonce: bytes
    """The challenge of its Hello."""
    listener_nonce: bytes

    def digest(self) -> bytes:
        """Return the SHA-256 of its fields, each with its length before it."""
        summed = sha256()
        for field in self:
            data = field.encode() if isinstance(field, str) else field
            summed.update(_U32.pack(len(data)) + data)
        return summed.digest()


def transcript_of(cluster_id: bytes, hello: Hello, nonce: bytes) -> Transcript:
    """Return the transcript of a link on which ``hello`` was answered with a Challenge of ``nonce``."""
    return Transcript(
        cluster_id, hello.node_id, hello.node_uuid, hello.target_id, hello.version, hello.challenge, nonce
    )


class LinkKeys(NamedTuple):
    """What only the two ends of one link know, each of 32 bytes; the proofs become known to whoever listens in."""

    dialler_proof: bytes
    listener_proof: bytes
    dialler_key: bytes
    """Of the tags of what the dialler sends."""
    listener_key: bytes


def prepare() -> None:
    """Load what ``derive`` needs. It takes tens of ms, and 9 MB, which a node without a secret does not need."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf import hkdf

    del hashes, hkdf


def derive(secret: bytes, transcript: Transcript) -> LinkKeys:
    """Return the proofs and keys of the link with ``transcript``."""
    # See ``prepare``.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    length = _KEY_BYTES * len(LinkKeys._fields)
    derived = HKDF(SHA256(), length, transcript.digest(), _LABEL).derive(secret)
    return LinkKeys(*(derived[at : at + _KEY_BYTES] for at in range(0, length, _KEY_BYTES)))


def recognise(secrets: Iterable[bytes], transcript: Transcript, proof: bytes) -> tuple[bytes, LinkKeys] | None:
    """Return which secret the dialler has proven, and the keys of the link; None: none of them."""
    found: tuple[bytes, LinkKeys] | None = None
    for secret in secrets:
        keys = derive(secret, transcript)
        if is_same(keys.dialler_proof, proof):
            found = secret, keys
    return found


def is_same(proof: bytes, other: bytes) -> bool:
    """Return whether two proofs are the same; how long that takes tells nothing of where they differ."""
    return hmac.compare_digest(proof, other)


# -- tags -----------------------------------------------------------------------------------------------------------


def frame_digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """Return what of a frame the tag is made over: the hash of its bytes, header and body."""
    summed = sha256()
    for part in parts:
        summed.update(part)
    return summed.digest()


class Sealer:
    """Makes the tags of one direction of one link, each frame's in its order."""

    __slots__ = ("_keyed", "_number")

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=TAG_BYTES)
        self._number = 0

    def tag(self, digest: bytes) -> bytes:
        """Return the tag of the next frame, whose ``frame_digest`` is ``digest``."""
        made = self._keyed.copy()
        made.update(_U64.pack(self._number) + digest)
        self._number += 1
        return made.digest()


class Opener:
    """Checks the tags of one direction of one link."""

    __slots__ = ("_sealer",)

    def __init__(self, key: bytes) -> None:
        self._sealer = Sealer(key)

    def check(self, digest: bytes, tag: bytes) -> None:
        """Check that the next frame is the one that the other end sent next.

        Raises:
            ForgedFrame: the tag is another; from then on no frame is believed.
        """
        if not hmac.compare_digest(self._sealer.tag(digest), tag):
            raise ForgedFrame(
                "the tag of a frame is wrong: it was changed, left out, or sent again by somebody between"
            )
