"""Client connections: bytes in, commands to the dispatcher, replies out in the order they were asked for."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from durable_raft.addresses import Address
from durable_raft.kv.commands import CommandSpec
from durable_raft.kv.replies import ErrorReply, Later, Reply
from durable_raft.kv.runs import Run
from durable_raft.server.commands.actions import NodeActions
from durable_raft.server.commands.classify import Request, classify, refusal
from durable_raft.server.commands.connection import execute_connection_command
from durable_raft.server.commands.session import Session
from durable_raft.server.commands.status import ClientCounts, NodeStatus, TlsCounts
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.logs import event
from durable_raft.server.memory import NodeMemory
from durable_raft.server.pending import NO_REPLY, Slot
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.slices import Turns
from durable_raft.wire.resp import LARGE_BYTES, ParserLimits, RequestParser, encode_reply

_logger = logging.getLogger(__name__)

OWED_MAX = 16384
"""Replies owed to one connection before no more is read from it; read again at half of that. A client may pipeline
without limit: what it sends beyond this waits in its socket, where it costs the node nothing."""

PIECE_BYTES = 16_384
"""What is parsed and dispatched at once: some hundreds of short commands, a millisecond. A loop hands in up to 16 such
pieces with one call."""


def _address(name: tuple[str, int] | None) -> str:
    """Return HOST:PORT of a socket's name, an IPv6 address in brackets; empty when there is none."""
    return str(Address(name[0], name[1])) if name else ""


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._parser = RequestParser(clients.parser_limits)
        self._transport: asyncio.Transport | None = None
        self._slots: deque[Slot] = deque()
        self._owed = 0
        """Replies that the slots owe."""
        self._waits: deque[tuple[Slot, list[bytes]]] = deque()
        """WAITs of this connection, to be answered once its writes before them are."""
        self._answered_bytes = 0
        """Bytes of replies that are there and wait for their turn."""
        self._made_bytes = 0
        """Bytes of the reply that is being made."""
        self._input: deque[bytes] = deque()
        """What has come in and waits for a turn; nothing is read meanwhile."""
        self._input_at = 0
        """How much of the first of it is taken already."""
        self._is_turn_due = False
        self._is_paused = False
        self._is_ended = False
        """Whether the client sends no more."""
        self._is_closing = False
        self._is_flush_due = False
        self.session: Session = clients.new_session()
        self.writes_outstanding = 0
        self.batched = 0

    @property
    def is_readonly(self) -> bool:
        """Whether READONLY was given."""
        return self.session.readonly

    # -- memory (server/memory.py) --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"client {self.session.address}"

    @property
    def is_kept_waiting(self) -> bool:
        """Whether nothing is read from it at the moment."""
        return self._is_paused

    @property
    def unread_bytes(self) -> int:
        """Bytes of replies that wait for it."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._made_bytes + self._answered_bytes + unsent

    def _note_memory(self, *, is_new: bool) -> None:
        """Count what has come in and is no command yet; this connection may be closed by that."""
        waiting = sum(map(len, self._input)) - self._input_at if self._input else 0
        self._clients.memory.requests.note(self, self._parser.held_bytes + waiting, is_new=is_new)

    def evict(self, reason: str) -> None:
        """Close; say why if the client has read everything before it."""
        transport = self._transport
        is_heard = transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()
        if transport is not None and is_heard:
            self._transport = None
            transport.write(encode_reply(ErrorReply(f"ERR {reason}"), self.session.protocol))
            transport.close()
        self.abort()
        self._parser = RequestParser(self._clients.parser_limits)  # Lets go of what it holds.

    # -- the transport's events -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client in, or turn it away when there are too many."""
        self._transport = transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.session.address = _address(transport.get_extra_info("peername"))
        self.session.local_address = _address(transport.get_extra_info("sockname"))
        self.session.created_us = time.monotonic_ns() // 1000
        if self._clients.is_ended:
            self.abort()
        elif not self._clients.admit(self):
            transport.write(encode_reply(ErrorReply("ERR max number of clients reached"), 2))
            self._is_closing = True
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; what it still waits for is answered to nobody."""
        del exc
        self._is_closing = True
        self._transport = None
        self._clients.forget(self)

    def eof_received(self) -> bool:
        """Answer what is owed, then close: a client may close its half and still wait for replies."""
        self._is_ended = True
        if not self._input:
            self.session.closing = True
            self.flush()
        return True

    def data_received(self, data: bytes) -> None:
        """Execute the commands that are complete, in order: at once if this turn of the loop has time for them."""
        if self._is_closing or self.session.closing:
            return
        if not self._input and len(data) <= PIECE_BYTES and self._clients.turns.may_go_on():
            self._take_piece(data)
            self._pause_if_owed()
            if self._is_flush_needed:
                self.flush()
        else:
            self._input.append(data)
            self._note_memory(is_new=False)
            if len(self._input) == 1 and self._take_turn():
                self._clients.turns.wait(self._take_turn)
        self._clients.turns.rest()

    def _take_turn(self) -> bool:
        """Execute what has come in, piece by piece while there is time; return whether more of it waits for a turn.

        What is left for want of room for replies waits for ``flush``.
        """
        turns, pieces = self._clients.turns, self._input
        self._is_turn_due = True
        while pieces and not self._is_closing and not self.session.closing and self._owed <= OWED_MAX:
            if not turns.may_go_on():
                break
            self._take_piece(self._next_piece())
        if self._is_closing or self.session.closing:
            pieces.clear()
        elif not pieces and self._is_ended:
            self.session.closing = True
        self._pause_if_owed()
        self.flush()
        self._is_turn_due = bool(pieces) and self._owed <= OWED_MAX
        return self._is_turn_due

    def _next_piece(self) -> bytes:
        data, at = self._input[0], self._input_at
        if len(data) - at <= PIECE_BYTES:
            self._input.popleft()
            self._input_at = 0
            return data[at:]
        self._input_at = at + PIECE_BYTES
        return data[at : at + PIECE_BYTES]

    def _take_piece(self, data: bytes) -> None:
        runs = self._parser.feed(data)
        self._note_memory(is_new=bool(runs))
        if self._is_closing:
            return
        self._take(runs)
        if self._parser.error is not None and not self.session.closing:
            self.session.closing = True
            if not self._parser.error.close_silently:
                self._owe().fill(ErrorReply(str(self._parser.error)))

    def _pause_if_owed(self) -> None:
        """Read no more from a client that is owed much, or whose last bytes still wait."""
        transport = self._transport
        is_much = self._owed > OWED_MAX or bool(self._input)
        if is_much and not self._is_paused and transport is not None and not transport.is_closing():
            self._is_paused = True
            transport.pause_reading()

    # -- commands -------------------------------------------------------------------------------------------------

    def _take(self, runs: list[Run]) -> None:
        """Execute requests in order: a run of the machine's at once, all others one by one."""
        session = self.session
        for run in runs:
            spec = classify(run)
            if spec is None or spec.is_connections or session.silent_commands:
                # CLIENT REPLY SKIP may end within a run, and QUIT ends it.
                for request in run.rows() if spec is None else run.rows_named(spec.name):
                    session.begin_command()
                    self._execute(spec, request)
                    if session.closing:
                        return
            else:
                self._dispatch(spec, run)
                if session.closing:
                    return

    def _execute(self, spec: CommandSpec | None, request: Request) -> None:
        if spec is None:
            self._owe().fill(refusal(request))
        elif spec.is_connections:
            self._answer([*request])
        else:
            self._dispatch(spec, Run(spec.name, 1, [*request[1:]]))

    def _dispatch(self, spec: CommandSpec, run: Run) -> None:
        self._clients.commands_processed += run.length
        self._clients.dispatcher.route_run(self._owe(run.length), spec, run)

    def _answer(self, request: list[bytes]) -> None:
        """Answer a command of the connection's; a WAIT when the writes before it are answered."""
        self._clients.commands_processed += 1
        slot = self._owe()
        if request[0] == b"wait" and self.writes_outstanding:
            self._waits.append((slot, request))
            return
        reply = self._clients.execute(self.session, request)
        if isinstance(reply, Later):
            self._clients.dispatcher.answer_later(slot, reply.steps)
            return
        # HELLO's own reply already speaks the protocol it switched to; CLIENT REPLY OFF has none.
        slot.protocol = NO_REPLY if self.session.drops_reply else self.session.protocol
        slot.fill(reply)

    def _owe(self, replies: int = 1) -> Slot:
        session = self.session
        slot = Slot(self, NO_REPLY if session.drops_reply else session.protocol, replies)
        self._slots.append(slot)
        self._owed += replies
        return slot

    # -- replies --------------------------------------------------------------------------------------------------

    def expect_reply(self, reply_bytes: int) -> bool:
        """Count a reply that is being made; return whether this connection is still there to read it."""
        self._made_bytes = reply_bytes
        if self._transport is not None:
            self._clients.memory.replies.hold(self, self.unread_bytes)
        return self._transport is not None

    def became_answered(self, reply_bytes: int) -> None:
        """Have ``flush`` called when the node sends the replies of this turn; cut off a client that does not read."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._clients.outbox.add_connection(self)
        if self._transport is None or self._transport.is_closing():
            return
        # Only what already waits counts: a single reply may be larger than the limit.
        self._made_bytes = 0
        waiting = self.unread_bytes
        self._answered_bytes += reply_bytes
        self._clients.memory.replies.hold(self, waiting + reply_bytes)
        if waiting > self._clients.config.output_bytes_max:
            event(_logger, logging.WARNING, "client_too_slow", client=self.session.address, waiting_bytes=waiting)
            self.abort()

    @property
    def _is_flush_needed(self) -> bool:
        """Whether ``flush`` has anything to do before the next reply is there: with most commands it has not."""
        slots = self._slots
        return bool(self._waits) or self.session.closing or not slots or slots[0].reply is not None

    def flush(self) -> None:
        """Send the replies at the head of the queue that are there."""
        self._is_flush_due = False
        while self._waits and not self.writes_outstanding:
            slot, args = self._waits.popleft()
            slot.fill(self._clients.execute(self.session, args))
        out = self._take_replies()
        transport = self._transport
        if transport is None or transport.is_closing():
            # uvloop refuses writes from the moment the other end is gone, before it says so to ``connection_lost``.
            return
        if out:
            self._write(transport, out)
        if self.session.closing and not self._slots:
            self._is_closing = True
            transport.close()
        elif self._is_paused and self._owed < OWED_MAX // 2:
            self._go_on_reading(transport)

    def _take_replies(self) -> list[bytes]:
        """Return the replies at the head of the queue that are there."""
        slots = self._slots
        out: list[bytes] = []
        while slots and (reply := slots[0].reply) is not None:
            self._owed -= slots.popleft().owed
            if isinstance(reply, bytes):
                out.append(reply)
            else:
                out += reply
        return out

    def _write(self, transport: asyncio.Transport, out: list[bytes]) -> None:
        """Write replies: small ones together, a large one by itself, which copies nothing."""
        size = sum(map(len, out))
        self._answered_bytes -= size
        self._write_pieces(transport, out, size)
        self._clients.memory.replies.share.hold(self, self.unread_bytes)

    @staticmethod
    def _write_pieces(transport: asyncio.Transport, out: list[bytes], size: int) -> None:
        if size < LARGE_BYTES:
            transport.write(b"".join(out))
            return
        small: list[bytes] = []
        for piece in out:
            if len(piece) >= LARGE_BYTES:
                if small:
                    transport.write(b"".join(small))
                    small = []
                transport.write(piece)
            else:
                small.append(piece)
        if small:
            transport.write(b"".join(small))

    def _go_on_reading(self, transport: asyncio.Transport) -> None:
        """Take what has come in already, then read more."""
        if not self._input:
            self._is_paused = False
            transport.resume_reading()
        elif not self._is_turn_due:
            self._is_turn_due = True
            self._clients.turns.wait(self._take_turn)

    def close(self) -> None:
        """Send what is answered and close; what is owed stays unanswered."""
        self.flush()
        if self._transport is not None:
            self._is_closing = True
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection with nothing more said."""
        self._is_closing = self.session.closing = True
        self._slots.clear()
        self._input.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class Outbox:
    """Connections with replies that became ready and were not sent yet, in the order in which they became so."""

    def __init__(self) -> None:
        self._connections: list[Connection] = []

    def add_connection(self, connection: Connection) -> None:
        """Have ``connection`` flushed at the node's next turn to reply."""
        self._connections.append(connection)

    def flush(self) -> None:
        """Send every reply that became ready in this turn."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.flush()


class Clients:
    """All client connections of one node."""

    def __init__(
        self,
        config: NodeConfig,
        dispatcher: Dispatcher,
        status: Callable[[ClientCounts], NodeStatus],
        node: NodeActions,
        outbox: Outbox,
        memory: NodeMemory,
    ) -> None:
        """Bind the parts; connections whose replies are ready go to ``outbox``, which the node flushes."""
        self.memory = memory
        self.config = config
        self.outbox = outbox
        self.dispatcher = dispatcher
        self._status = status
        self._node = node
        self.parser_limits = ParserLimits(
            bulk_bytes_max=config.value_bytes_max, request_bytes_max=config.request_bytes_max
        )
        self.sessions: dict[int, Session] = {}
        self.connections: dict[int, Connection] = {}
        self.connections_received = 0
        self.commands_processed = 0
        self.tls = TlsCounts()
        """What is counted of TLS, by whoever speaks it (accepting.py)."""
        self._server: asyncio.Server | None = None
        self.is_ended = False
        """Whether every connection was dropped; one that was being accepted may still come."""
        self.turns: Turns
        """Whose turn it is; there once it listens."""

    async def start(self, host: str, port: int, accept: Callable[[], asyncio.Protocol] | None = None) -> None:
        """Listen for clients; raises OSError when the address cannot be listened on.

        Args:
            accept: returns what receives from a new socket; a connection when it is not given.
        """
        loop = asyncio.get_running_loop()
        self.turns = Turns(loop.call_soon, time.monotonic)
        self._server = await loop.create_server(accept or (lambda: Connection(self)), host, port, backlog=1024)

    def stop_listening(self) -> None:
        """Take no new connection."""
        if self._server is not None:
            self._server.close()

    def execute(self, session: Session, args: list[bytes]) -> Reply:
        """Execute a command of the connection's, as classify.py leaves it."""
        return execute_connection_command(session, args, lambda: self._status(self.counts()), self._node, self)

    def counts(self) -> ClientCounts:
        """Return what is counted of connections and their commands."""
        self.tls.connected = sum(1 for session in self.sessions.values() if session.tls) if self.tls.handshakes else 0
        return ClientCounts(len(self.connections), self.connections_received, self.commands_processed, self.tls)

    def abort_session(self, session: Session) -> None:
        """End a connection with nothing more said."""
        self.connections[session.id].abort()

    def new_session(self) -> Session:
        """Return the session of a connection that is being made."""
        self.connections_received += 1
        return Session(id=self.connections_received)

    def has_room(self, beside: int) -> bool:
        """Return whether one more may come when ``beside`` sockets are there that are no connections."""
        return len(self.connections) + beside < self.config.clients_max

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in; return False when there are too many."""
        if not self.has_room(0):
            return False
        self.connections[connection.session.id] = connection
        self.sessions[connection.session.id] = connection.session
        return True

    def forget(self, connection: Connection) -> None:
        """Count a connection out."""
        self.connections.pop(connection.session.id, None)
        self.sessions.pop(connection.session.id, None)
        self.memory.requests.forget(connection)
        self.memory.replies.share.forget(connection)

    def close(self) -> None:
        """Send what is answered and close every connection."""
        for connection in list(self.connections.values()):
            connection.close()

    def abort(self) -> None:
        """Drop every connection with nothing more said, and whoever comes later."""
        self.is_ended = True
        for connection in list(self.connections.values()):
            connection.abort()
