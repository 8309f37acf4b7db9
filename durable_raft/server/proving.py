"""What the two ends of a link do about the cluster secret: who asks whom for a proof, and what is said without one.

Each node says in its Hello whether it must have a proof, may, or has no secret (wire/proof.py). Where both ends have
one it is proven, always. Where only one has, the link is made without if that one need not insist, and refused with the
reason if it must. An end that has proven nothing is told that reason and no more, and is believed nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from durable_raft.errors import Unproven
from durable_raft.raft.types import Identity
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.complaints import REASON_CHARACTERS_MAX
from durable_raft.wire.messages import Challenge, Confirmed, Hello, HelloReply, Proof
from durable_raft.wire.peer import TAGGED, FrameEncoder, PeerMessage, encode_frame
from durable_raft.wire.proof import (
    NONCE_BYTES,
    LinkKeys,
    Opener,
    Sealer,
    Stance,
    Transcript,
    derive,
    is_same,
    recognise,
    stance_of,
    transcript_of,
)

JOINED_BYTES_MAX: Final = 16 << 10
"""Frames up to here are copied to be written with their tag as one; a longer one goes before it, as it is."""

_WITHOUT: Final = (
    "{0} has no cluster secret, and {1} asks for one: set cluster_secret_file of {0} to a copy of the file of {1}"
)


class Proofs:
    """What all links of one node have in common of this."""

    def __init__(self, identity: Identity, cluster_secrets: ClusterSecrets) -> None:
        self.identity = identity
        self.secrets = cluster_secrets
        self.encoder = FrameEncoder(identity.cluster_id, TAGGED)
        """Makes frames that a tag follows; as it remembers the newest, all links share it."""


class Seal:
    """Puts tags behind the frames of one direction of one link."""

    def __init__(self, encoder: FrameEncoder, key: bytes) -> None:
        """Take frames from ``encoder``, which all links share."""
        self.encoder = encoder
        self._sealer = Sealer(key)

    def write(self, transport: asyncio.WriteTransport, frame: bytes) -> None:
        """Write the next frame, with its tag: each one that is tagged has to be sent."""
        tag = self._sealer.tag(self.encoder.digest(frame))
        if len(frame) <= JOINED_BYTES_MAX:
            transport.write(frame + tag)
        else:
            # Not ``writelines``, which in some versions of asyncio does not say that the kernel takes no more.
            transport.write(frame)
            transport.write(tag)


class _End:
    """What both ends of a link have."""

    def __init__(self, proofs: Proofs) -> None:
        self._proofs = proofs
        self.secret: bytes | None = None
        """Which one both ends have proven."""
        self.seal: Seal | None = None
        """Of what is sent; None: frames have no tags."""

    def say(self, transport: asyncio.WriteTransport, message: PeerMessage) -> None:
        """Send a message of one frame."""
        cluster_id = self._proofs.identity.cluster_id
        if self.seal is None:
            transport.write(encode_frame(cluster_id, message))
        else:
            self.seal.write(transport, encode_frame(cluster_id, message, TAGGED))


class DiallingEnd(_End):
    """The end that says who it is and proves first."""

    def __init__(self, proofs: Proofs, hello: Hello) -> None:
        """Begin with the Hello of this link, its version as ``version_of`` has it."""
        super().__init__(proofs)
        self._hello = hello
        self._keys: LinkKeys | None = None
        self._offered: bytes | None = None
        self.is_settled = stance_of(hello.version) is Stance.NONE
        """Whether what comes is believed, and may be answered: the other end has proven the secret, or need not."""

    def answer(self, challenge: Challenge) -> Proof:
        """Return the proof that is asked for.

        Raises:
            Unproven: it may not be asked for here, or not again.
        """
        if self.is_settled or self._keys is not None:
            raise Unproven(f"{self._hello.target_id} asks for a proof where none has its place")
        self._offered = self._proofs.secrets.proven
        transcript = transcript_of(self._proofs.identity.cluster_id, self._hello, challenge.nonce)
        self._keys = derive(self._offered, transcript)
        return Proof(self._keys.dialler_proof)

    def take(self, proof: Proof) -> Opener:
        """Take the other end's proof; return what checks its frames.

        Raises:
            Unproven: it proves nothing.
        """
        if self._keys is None or self.is_settled or not is_same(self._keys.listener_proof, proof.proof):
            raise Unproven(f"{self._hello.target_id} does not prove the cluster secret")
        self.secret, self.seal = self._offered, Seal(self._proofs.encoder, self._keys.dialler_key)
        self.is_settled = True
        return Opener(self._keys.listener_key)

    def check(self, message: PeerMessage) -> None:
        """Check that ``message`` may be believed here; it settles that there will be no proof, where none is needed.

        Raises:
            Unproven: the other end has not proven the secret; with the reason that it gave, if it did.
        """
        if self.is_settled:
            return
        target = self._hello.target_id
        if isinstance(message, HelloReply) and not message.accepted:
            raise Unproven(f"{target} refuses this node: {message.reason[:REASON_CHARACTERS_MAX]}")
        if self._keys is not None or not isinstance(message, (HelloReply, Confirmed)):
            raise Unproven(f"{target} goes on without a proof of the cluster secret")
        if self._proofs.secrets.stance is Stance.MUST:
            raise Unproven(_WITHOUT.format(target, "this node"))
        self.is_settled = True


class HearingEnd(_End):
    """The end that was dialled: it asks for a proof, and gives one to whoever has given its own."""

    def __init__(self, proofs: Proofs) -> None:
        super().__init__(proofs)
        self._transcript: Transcript | None = None
        self.is_waiting = False
        """Whether a proof is to come next, and nothing else."""

    def challenge(self, hello: Hello) -> Challenge | None:
        """Return what is to be asked of the dialler; None: nothing, the link needs no proof.

        Raises:
            Unproven: one end has no secret, and the other asks for one.
        """
        ours, theirs = self._proofs.secrets.stance, stance_of(hello.version)
        if ours is Stance.NONE and theirs is Stance.MUST:
            raise Unproven(_WITHOUT.format(hello.target_id, hello.node_id))
        if ours is Stance.MUST and theirs is Stance.NONE:
            raise Unproven(_WITHOUT.format(hello.node_id, hello.target_id))
        if Stance.NONE in (ours, theirs):
            return None
        self.is_waiting, challenge = True, Challenge(secrets.token_bytes(NONCE_BYTES))
        self._transcript = transcript_of(self._proofs.identity.cluster_id, hello, challenge.nonce)
        return challenge

    def take(self, proof: Proof) -> tuple[Proof, Opener, Seal]:
        """Take the dialler's proof; return ours, what checks its frames, and what tags those behind our proof.

        Raises:
            Unproven: it proves nothing, or was not asked for.
        """
        if self._transcript is None or not self.is_waiting:
            raise Unproven("a proof that was not asked for")
        found = recognise(self._proofs.secrets.accepted, self._transcript, proof.proof)
        if found is None:
            raise Unproven(f"{self._transcript.dialler_id} proves another cluster secret")
        self.is_waiting = False
        self.secret, keys = found
        return Proof(keys.listener_proof), Opener(keys.dialler_key), Seal(self._proofs.encoder, keys.listener_key)
