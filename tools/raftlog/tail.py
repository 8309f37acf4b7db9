"""``raftlog tail DIR``: the last entries, and with ``-f`` those that come."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from durable_raft.errors import CorruptRecord
from durable_raft.raft.types import Index, LogPoint, Term
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.walk import Walked
from durable_raft.storage.wounds import Wound
from raftlog.choose import DIRECTORY, JSON
from raftlog.lines import as_json, as_text
from raftlog.running import EXIT_CODES, code_of, complain, run

_POLL_SECONDS: Final = 0.2
_REMEMBERED: Final = 10_000
"""Entries shown last of which is known what they were, to tell where a log was cut."""

_EPILOG = f"""\b
Examples:
  raftlog tail DIR
  raftlog tail DIR -n 100 --json
  raftlog tail -f DIR

{EXIT_CODES}"""


@click.command(epilog=_EPILOG)
@DIRECTORY
@click.option("-n", "--lines", "count", type=click.IntRange(min=0), default=10, show_default=True, help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with the entries that come, until Ctrl-C.")
@JSON
def tail(directory: Path, count: int, *, follow: bool, json: bool) -> None:
    """Show the last entries of DIRECTORY, as dump does.

    A node cuts entries that were not committed when a new leader has others in their place: -f says so on standard
    error and shows what came instead.
    """
    shown = _Tail(as_json if json else as_text)
    reading, writing = os.pipe()

    def print_them(reader: LogReader) -> int:
        os.close(writing)
        if follow:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            shown.begin(reader, count)
            # Readable once the parent says so, or is gone.
            while follow and not select.select([reading], [], [], _POLL_SECONDS)[0]:
                shown.go_on(reader)
        except KeyboardInterrupt:
            if not follow:
                raise
        return code_of(shown.wounds)

    if follow:
        # Ctrl-C is the usual end. It reaches both processes; a signal that only this one gets is passed on.
        signal.signal(signal.SIGINT, lambda *_: os.write(writing, b"."))
    run(directory, print_them)


class _Tail:
    """What was shown so far."""

    def __init__(self, line_of: Callable[[Walked], str]) -> None:
        self._line_of = line_of
        self._next = 1
        """Index to be shown next."""
        self._points: deque[LogPoint] = deque(maxlen=_REMEMBERED)
        self.wounds: list[Wound] = []

    def begin(self, reader: LogReader, count: int) -> None:
        """Show the last ``count`` entries."""
        overview = reader.overview()
        base = overview.meta.base.point.index if overview.meta is not None else 0
        start = max(overview.last_index - count, base)
        with contextlib.suppress(CorruptRecord):
            if before := reader.point_at(start):
                self._points.append(before.point)
        self._show(reader, start + 1)

    def _show(self, reader: LogReader, lo: int) -> None:
        """Show the entries from ``lo`` on."""
        self._next = lo
        for walked in reader.walk(self._next):
            sys.stdout.write(self._line_of(walked) + "\n")
            self.wounds += walked.wounds
            self._next = max(self._next, walked.index + 1)
            if walked.ident is not None:
                point = LogPoint(Index(walked.index), Term(walked.ident.term), walked.ident.chain)
                self._points.append(point)
        sys.stdout.flush()

    def go_on(self, reader: LogReader) -> None:
        """Show what came since, and say what was cut or compacted meanwhile."""
        cut_to = self._cut_to(reader)
        if cut_to is not None:
            complain(f"-- the log was cut: from index {cut_to} on it is another now --")
            self._next = min(self._next, cut_to)
        overview = reader.overview()
        base = overview.meta.base.point.index if overview.meta is not None else 0
        if base >= self._next:
            complain(f"-- entries {self._next}..{base} were compacted before they could be shown --")
            self._next = base + 1
        if overview.last_index >= self._next:
            self._show(reader, self._next)

    def _cut_to(self, reader: LogReader) -> int | None:
        """Return the first index passed that the log holds no longer, or holds otherwise; None while it holds all."""
        cut_to = None
        while self._points:
            last = self._points[-1]
            try:
                found = reader.point_at(last.index)
            except CorruptRecord:
                return cut_to
            if found is not None and found.point == last:
                return cut_to
            overview = reader.overview()
            if overview.meta is not None and last.index < overview.meta.base.point.index:
                # Compacted: what was committed is cut no more.
                return cut_to
            cut_to = last.index
            self._points.pop()
        return cut_to
