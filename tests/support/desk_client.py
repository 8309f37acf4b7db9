"""Clients of a desk (desk.py): what a connection is to the dispatcher, in the hands of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.replies import Later, Reply
from durable_raft.server.dispatch import QUICK_COMMIT_S
from durable_raft.server.pending import Slot
from tests.support.batches import run_of

if TYPE_CHECKING:
    from tests.support.desk import Desk


def _joined(reply: bytes | list[bytes]) -> bytes:
    return reply if isinstance(reply, bytes) else b"".join(reply)


class Client:
    """A connection: sends commands, collects replies."""

    def __init__(self, desk: Desk, *, is_readonly: bool = False) -> None:
        self._desk = desk
        self.writes_outstanding = 0
        self.batched = 0
        self.is_readonly = is_readonly
        self.slots: list[Slot] = []
        self._replied = 0

    def expect_reply(self, reply_bytes: int) -> bool:
        """Wait for every reply."""
        del reply_bytes
        return True

    def became_answered(self, reply_bytes: int) -> None:
        """Replies are read from the slots."""

    def send(self, *commands: str) -> None:
        """Send commands, all in one turn of the loop; a batch that is in flight by then has been so for a while."""
        self._desk.now += QUICK_COMMIT_S
        for command in commands:
            args = [word.encode() for word in command.split()]
            slot = Slot(self, 2)
            self.slots.append(slot)
            self._desk.dispatcher.route_run(slot, COMMANDS[args[0]], run_of([args]))
        self._desk.turn()

    def send_run(self, *commands: str) -> None:
        """Send commands of one name as one run."""
        run = [[word.encode() for word in command.split()] for command in commands]
        slot = Slot(self, 2, len(run))
        self.slots.append(slot)
        self._desk.dispatcher.route_run(slot, COMMANDS[run[0][0]], run_of(run))
        self._desk.turn()

    def send_later(self, reply: Reply) -> None:
        """Send a command of the connection's whose answer is found later."""
        assert isinstance(reply, Later)
        slot = Slot(self, 2)
        self.slots.append(slot)
        self._desk.dispatcher.answer_later(slot, reply.steps)

    @property
    def replies(self) -> list[bytes | None]:
        """The replies so far, None for those still owed."""
        return [slot.reply if slot.reply is None else _joined(slot.reply) for slot in self.slots]

    def flush(self) -> list[bytes]:
        """Return the replies that may be sent now, in order, each once."""
        free: list[bytes] = []
        while self._replied < len(self.slots) and (reply := self.slots[self._replied].reply) is not None:
            free.append(_joined(reply))
            self._replied += 1
        return free
