"""Writers that keep a pace, follow the leader, and remember what was acknowledged and when."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.cluster.harness import Cluster
from tests.cluster.raw import Conversation
from tests.support.threads import working

ANSWER_S: Final = 10.0
"""A command that is not answered for so long has an unknown fate."""
PAUSE_S: Final = 0.25
"""A time in which nothing was acknowledged is remembered when it is at least so long."""


class Load:
    """Writes unique keys at a rate; what is late is written at once when it can be."""

    def __init__(self, cluster: Cluster, rate: float, writers: int) -> None:
        """Have ``writers`` write ``rate`` keys a second together."""
        self._cluster = cluster
        self._pause_s = writers / rate
        self._writers = writers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: dict[str, str] = {}
        self.outcomes: Counter[str] = Counter()
        """``OK``, ``unknown`` where nobody said what became of it, or the first word of an error."""
        self.worst_pause_s = 0.0
        """Longest time in which nothing was acknowledged to anybody."""
        self.pauses: list[tuple[float, float]] = []
        """When nothing was acknowledged for ``PAUSE_S`` and more, from when to when, by the monotonic clock."""
        self._acknowledged_at = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Write while the block runs."""
        self._acknowledged_at = time.monotonic()
        try:
            with working(self._write, self._writers, self._stop):
                yield self
        finally:
            self._note_pause()

    def _write(self, writer: int) -> None:
        keys = self._paced(writer)
        target = self._cluster.node_ids[writer % len(self._cluster.node_ids)]
        while not self._stop.is_set():
            answer = self._converse(target, keys)
            target = self._next_target(target, answer)

    def _paced(self, writer: int) -> Iterator[str]:
        """Yield a key when it is time to write it, until it is time to stop."""
        due = time.monotonic()
        for number in itertools.count(1):
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            due += self._pause_s
            yield f"w{writer}:{number}"

    def _converse(self, target: str, keys: Iterator[str]) -> str | None:
        """Write to one node as long as it answers OK; return what it answered last, None when it did not."""
        answer: str | None = "OK"
        try:
            with Conversation(self._cluster, target) as client:
                while answer == "OK" and (key := next(keys, None)) is not None:
                    answer = None
                    client.send("SET", key, key)
                    answer = client.reply(ANSWER_S)
                    self._note(key, answer)
        except OSError:
            self._note("", None)
            return None
        return answer

    def _next_target(self, target: str, answer: str | None) -> str:
        """Return whom to ask next: the node named by -MOVED, else the next one."""
        if answer is not None and answer.startswith("-MOVED "):
            port = int(answer.rpartition(":")[2])
            return next(node_id for node_id, node in self._cluster.nodes.items() if node.client_port == port)
        ids = self._cluster.node_ids
        return ids[(ids.index(target) + 1) % len(ids)]

    def _note(self, key: str, answer: str | None) -> None:
        with self._lock:
            if answer == "OK":
                self.acknowledged[key] = key
                self._note_pause()
                self._acknowledged_at = time.monotonic()
            self.outcomes["unknown" if answer is None else answer.split(" ")[0]] += 1

    def _note_pause(self) -> None:
        began, now = self._acknowledged_at, time.monotonic()
        self.worst_pause_s = max(self.worst_pause_s, now - began)
        if now - began >= PAUSE_S:
            self.pauses.append((began, now))

    def worst_pause_between(self, began: float, ended: float) -> float:
        """Return the longest pause, in seconds, that began or ended between two times; 0.0: none is remembered."""
        with self._lock:
            return max((to - since for since, to in self.pauses if since <= ended and to >= began), default=0.0)
