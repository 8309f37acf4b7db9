"""RESP, the Redis protocol, for clients: the one door to requests (in) and replies (out)."""

from __future__ import annotations

from durable_raft.wire.resp_replies import encode_replies, encode_reply
from durable_raft.wire.resp_requests import ParserLimits, RequestParser

__all__ = ["ParserLimits", "RequestParser", "encode_replies", "encode_reply"]
