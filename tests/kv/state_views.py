"""State views in memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from itertools import islice

from durable_raft.kv.layer import Layer
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import Record, StateSummary, order_key


class PlainView:
    """A ``StateView`` over a dict that does not change."""

    def __init__(self, state: dict[bytes, Record]) -> None:
        self._state = state
        self._ordered = sorted(state.items(), key=lambda item: order_key(item[0]))
        due = [(record.deadline_ms, key) for key, record in state.items() if record.deadline_ms]
        self._due = sorted(due, key=lambda item: (item[0], order_key(item[1])))
        self.summary = StateSummary(len(state), len(due), sum(record.crc for record in state.values()))

    def get(self, key: bytes) -> Record | None:
        """See the protocol."""
        return self._state.get(key)

    def head(self, key: bytes) -> tuple[int, int] | None:
        """See the protocol."""
        record = self._state.get(key)
        return None if record is None else (record.crc, record.deadline_ms)

    def after(self, key: bytes | None, count: int, bytes_max: int) -> Sequence[tuple[bytes, Record]]:
        """See the protocol."""
        behind = (item for item in self._ordered if key is None or order_key(item[0]) > order_key(key))
        found: list[tuple[bytes, Record]] = []
        size = 0
        for item in islice(behind, count):
            size += len(item[0]) + len(item[1].value)
            if found and size > bytes_max:
                break
            found.append(item)
        return found

    def due(self, after: tuple[int, bytes] | None, count: int) -> Sequence[tuple[int, bytes]]:
        """See the protocol."""
        found = [
            item
            for item in self._due
            if after is None or (item[0], order_key(item[1])) > (after[0], order_key(after[1]))
        ]
        return found[:count]


class Checkpoints:
    """What a machine's checkpoints leave, and those that are under way."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._state: dict[bytes, Record] = {}
        self._frozen: deque[Layer] = deque()
        self.ended = 0

    def go_on(self, rng: random.Random) -> None:
        """Begin one, or end the oldest as the disk would."""
        if self._machine.may_freeze and rng.random() < 0.5:
            self._frozen.append(self._machine.freeze())
        elif self._frozen:
            layer = self._frozen.popleft()
            state = {} if layer.is_cleared else dict(self._state)
            for key, record in layer.sorted_changes():
                state.pop(key, None)
                if record is not None:
                    state[key] = record._replace(value=bytes(record.value))
            self._state = state
            self._machine.checkpointed(PlainView(state))
            self.ended += 1


class CountedView(PlainView):
    """A view that notes what is read of it."""

    def __init__(self, state: dict[bytes, Record]) -> None:
        super().__init__(state)
        self.reads: list[tuple[object, ...]] = []
        self.bytes_read = 0
        """Of values."""

    def get(self, key: bytes) -> Record | None:
        """See the protocol."""
        self.reads.append(("get", key))
        record = super().get(key)
        self.bytes_read += 0 if record is None else len(record.value)
        return record

    def head(self, key: bytes) -> tuple[int, int] | None:
        """See the protocol."""
        self.reads.append(("head", key))
        return super().head(key)

    def after(self, key: bytes | None, count: int, bytes_max: int) -> Sequence[tuple[bytes, Record]]:
        """See the protocol."""
        self.reads.append(("after", key, count))
        found = super().after(key, count, bytes_max)
        self.bytes_read += sum(len(record.value) for _, record in found)
        return found

    def due(self, after: tuple[int, bytes] | None, count: int) -> Sequence[tuple[int, bytes]]:
        """See the protocol."""
        self.reads.append(("due", after, count))
        return super().due(after, count)
