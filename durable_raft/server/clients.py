"""Client connections: bytes in, commands to the dispatcher, replies out in the order they were asked for."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from durable_raft.kv.commands import COMMANDS, lookup
from durable_raft.kv.replies import ErrorReply, Reply
from durable_raft.server.config import NodeConfig
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.logs import event
from durable_raft.server.pending import Slot
from durable_raft.server.session import Session
from durable_raft.wire.resp import RequestParser, encode_reply

_logger = logging.getLogger(__name__)

OWED_MAX = 16384
"""Replies owed to one connection before no more is read from it; read again at half of that. A client may pipeline
without limit: what it sends beyond this waits in the socket, where it costs the node nothing."""
