"""RESP, the Redis protocol, for clients: the one door to requests (in) and replies (out)."""

from __future__ import annotations

from durable_raft.wire.resp_replies import (
    LARGE_BYTES,
    RESP2,
    encode_in_pieces,
    encode_replies,
    encode_reply,
    is_large,
)
from durable_raft.wire.resp_requests import ParserLimits, RequestParser

__all__ = [
    "LARGE_BYTES",
    "RESP2",
    "ParserLimits",
    "RequestParser",
    "encode_in_pieces",
    "encode_replies",
    "encode_reply",
    "is_large",
]
