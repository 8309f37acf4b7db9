"""Bytes fed to a parser of frames, and what of damaged ones may be believed."""

from __future__ import annotations

from durable_raft.errors import PeerError
from durable_raft.wire.peer import FrameParser, PeerMessage, encode_frame
from tests.wire.peer_messages import CLUSTER
from tests.wire.resp_inputs import cut


def feed_all(parser: FrameParser, chunks: list[bytes]) -> list[PeerMessage] | PeerError:
    """Return the messages in ``chunks``, or the error they end with; any other exception is a failure."""
    try:
        return [message for chunk in chunks for message in parser.feed(chunk)]
    except PeerError as error:
        return error


def require_damage_noticed(
    parser: FrameParser, messages: list[PeerMessage], at: int, added: bytes, removed: int, cuts: list[int]
) -> None:
    """Replace, remove or add bytes: require the messages before the damage at most, and no other error.

    Raises:
        AssertionError: another message was believed.
    """
    good = b"".join(encode_frame(CLUSTER, message) for message in messages)
    at %= len(good)
    damaged = good[:at] + added + good[at + removed :]
    found = feed_all(parser, cut(damaged, cuts))
    if isinstance(found, list):
        assert found == messages[: len(found)]
        assert damaged == good or len(found) < len(messages)
