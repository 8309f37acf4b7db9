"""The same command on a machine and on a real redis-server, the replies side by side as the bytes of RESP2."""

from __future__ import annotations

import random
import socket
import time

import hiredis

from durable_raft.kv.commands import COMMANDS, check_arity, unknown_command
from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import Reply
from durable_raft.kv.runs import Run
from durable_raft.kv.steps import finish
from durable_raft.wire.resp import encode_reply
from tests.support.redis_oracle import RedisOracle

TTL_SLACK_MS = 5000
"""How far the two may be apart in what is left of a time to live: the two read the time one after the other."""


class SideBySide:
    """A machine and a redis-server that are given the same commands."""

    def __init__(self, oracle: RedisOracle) -> None:
        self.machine = Machine(random.Random(1))
        self.equal = 0
        """Replies so far that were the same byte for byte."""
        self.errors = 0
        """Those of them that were errors."""
        self._socket = socket.create_connection(("127.0.0.1", oracle.port), timeout=5.0)
        assert self.of_redis([b"FLUSHALL"]) == b"+OK\r\n"

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def of_machine(self, args: list[bytes]) -> bytes:
        """Return the machine's reply, a command of the wrong name or arity answered as the server does."""
        self.machine.advance_time(time.time_ns() // 1_000_000)
        name = args[0].lower()
        spec = COMMANDS.get(name)
        reply: Reply
        if spec is None:
            reply = unknown_command(args)
        elif (reply := check_arity(spec, args)) is None:
            reply = self.machine.execute([name, *args[1:]])
        return encode_reply(reply, 2)

    def of_redis(self, args: list[bytes]) -> bytes:
        """Return the bytes that redis-server answers."""
        request = b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)
        self._socket.sendall(b"*%d\r\n" % len(args) + request)
        reader, received = hiredis.Reader(), b""
        while reader.gets() is False:
            part = self._socket.recv(65536)
            assert part, f"redis-server closed the connection on {args}"
            reader.feed(part)
            received += part
        return received

    def check(self, args: list[bytes]) -> None:
        """Execute a command on both and require the same reply: type, value and error text."""
        ours, theirs = self.of_machine(args), self.of_redis(args)
        name = args[0].lower()
        if ours == theirs:
            self.equal += 1
            self.errors += ours.startswith(b"-")
            return
        if name in (b"ttl", b"pttl") and min(integer(ours), integer(theirs)) >= 0:
            unit_ms = 1000 if name == b"ttl" else 1
            assert abs(integer(ours) - integer(theirs)) * unit_ms <= TTL_SLACK_MS, (args, ours, theirs)
        elif name in (b"keys", b"scan"):
            assert unordered(ours) == unordered(theirs), (args, ours, theirs)
        else:
            assert ours == theirs, args

    def check_run(self, run: Run) -> None:
        """Execute commands on both, on the machine as they are executed from the log: all at once, and in columns."""
        self.machine.advance_time(time.time_ns() // 1_000_000)
        found = finish(self.machine.execute_run(run))
        replies = found if isinstance(found, list) else [found] * run.length
        ours = [encode_reply(reply, 2) for reply in replies]
        theirs = [self.of_redis(list(command)) for command in run.rows()]
        assert ours == theirs, run


def integer(reply: bytes) -> int:
    """Return the number of an integer reply."""
    assert reply.startswith(b":"), reply
    return int(reply[1:])


def unordered(reply: bytes) -> tuple[bytes, list[bytes]]:
    """Return the kind and the sorted lines of an array: the order of keys is each server's own."""
    return reply[:4], sorted(reply.split(b"\r\n"))
