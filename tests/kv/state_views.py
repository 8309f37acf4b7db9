"""A state view in memory."""

from __future__ import annotations

from collections.abc import Sequence

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

    def after(self, key: bytes | None, count: int) -> Sequence[tuple[bytes, Record]]:
        """See the protocol."""
        found = [item for item in self._ordered if key is None or order_key(item[0]) > order_key(key)]
        return found[:count]

    def due(self, after: tuple[int, bytes] | None, count: int) -> Sequence[tuple[int, bytes]]:
        """See the protocol."""
        found = [
            item
            for item in self._due
            if after is None or (item[0], order_key(item[1])) > (after[0], order_key(after[1]))
        ]
        return found[:count]
