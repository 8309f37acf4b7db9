"""What the core hands out for the machine becomes jobs: entries in order, and reads each in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from durable_raft.raft.ready import ReadReady
from durable_raft.raft.types import Entry
from durable_raft.server.dispatch import Dispatcher
from durable_raft.server.slices import Jobs, Steps


class Applier:
    """Of one node; belongs to the event loop."""

    def __init__(self, jobs: Jobs, dispatcher: Dispatcher, applied: Callable[[Entry], None]) -> None:
        """Bind the parts; ``applied`` is told of each entry once the machine has executed all of it."""
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._applied = applied

    def queue(self, committed: Sequence[Entry], reads: Sequence[ReadReady]) -> None:
        """Have entries applied in order, each read in its place: after the entry it names and before the next one."""
        position = 0
        for entry in committed:
            while position < len(reads) and reads[position].read_index < entry.index:
                self._queue_read(reads[position].read_id)
                position += 1
            # One that is dropped is covered by the state that takes the machine's place.
            self._jobs.add(partial(self._apply, entry), _do_nothing)
        for ready in reads[position:]:
            self._queue_read(ready.read_id)

    def _queue_read(self, read_id: int) -> None:
        give_back = partial(self._dispatcher.give_back_reads, (read_id,))
        self._jobs.add(partial(self._dispatcher.answer_reads, read_id), give_back)

    def _apply(self, entry: Entry) -> Steps:
        yield from self._dispatcher.apply(entry)
        self._applied(entry)
        yield


def _do_nothing() -> None:
    pass
