"""Logs: one event per line on stderr, as ``key=value`` text or as JSON, written by a thread of their own.

::

    2026-11-23T05:49:00.123Z INFO node=n1 event=became_leader term=3
    {"time": "2026-11-23T05:49:00.123Z", "level": "INFO", "node": "n1", "event": "became_leader", "term": 3}

A log that goes to a file can be rotated: move the file away and send SIGHUP (``reopen``).

The event loop only puts a record into a bounded queue. Whoever reads stderr may stop reading: a full pipe then stalls
the log thread and no heartbeat, and what does not fit into the queue is counted and reported once lines flow again.
Keys and values of clients are never logged.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import select
import stat
import threading
import time
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Final

QUEUE_RECORDS_MAX: Final = 8192
"""Records that wait for the log thread; at a few hundred bytes each this bounds the memory of a stalled log."""

_PLAIN: Final = re.compile(r"[^\s\"=\x00-\x1f\x7f]+")
"""Text values that need no quotes."""

CORE_EVENT_LEVELS: Final = {
    "granted_vote": logging.DEBUG,
    "became_pre_candidate": logging.DEBUG,
    "needs_snapshot": logging.DEBUG,
    "lost_state": logging.ERROR,
    "heartbeat_withheld": logging.WARNING,
    "entries_refused": logging.WARNING,
    "leader_with_hung_disk": logging.WARNING,
    "leader_without_room": logging.WARNING,
    "contradicts_committed": logging.ERROR,
    "went_back": logging.ERROR,
    "peer_went_back": logging.WARNING,
    "old_copy_accepted": logging.WARNING,
    "contradiction_over": logging.WARNING,
    "timeouts_raised": logging.WARNING,
    "chain_mismatch": logging.ERROR,
    "entry_lost": logging.ERROR,
    "entries_missing": logging.ERROR,
    "entry_healed": logging.WARNING,
    "lost_entries_cut": logging.WARNING,
    "disk_replaced": logging.WARNING,
    "replaced_disk_speaks": logging.DEBUG,
}
"""Levels of the core's events; the others are INFO."""


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Log that something happened: ``name`` in snake_case, and the values that say what.

    Args:
        level: INFO for roles, membership, snapshots; WARNING for what needs a look; ERROR when the node stops.
    """
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


# -- forms ------------------------------------------------------------------------------------------------------------


class _Formatter(logging.Formatter):
    """Turns a record into (key, value) pairs; subclasses write them down."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def pairs(self, record: logging.LogRecord) -> dict[str, object]:
        """Return what the line says after time and level, in order."""
        pairs: dict[str, object] = {"node": self._node_id}
        fields = getattr(record, "fields", None)
        if fields is None:
            # Not one of our events: a library's message.
            pairs |= {"event": "message", "logger": record.name, "message": record.getMessage()}
        else:
            pairs |= {"event": record.msg, **fields}
        if record.exc_info:
            pairs["exception"] = self.formatException(record.exc_info)
        return pairs

    @staticmethod
    def time_of(record: logging.LogRecord) -> str:
        """Return the record's time in UTC, to the millisecond (RFC 3339)."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class TextFormatter(_Formatter):
    """``TIME LEVEL key=value ...``; a value with spaces, quotes or control characters is written as a JSON string."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        pairs = " ".join(f"{key}={_text(value)}" for key, value in self.pairs(record).items())
        return f"{self.time_of(record)} {record.levelname} {pairs}"


def _text(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class JsonFormatter(_Formatter):
    """One JSON object per line; what JSON has no form for is written as text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        head = {"time": self.time_of(record), "level": record.levelname}
        return json.dumps(head | self.pairs(record), default=str, ensure_ascii=False)


# -- the way to stderr ------------------------------------------------------------------------------------------------


class _Enqueue(QueueHandler):
    """Hands records to the log thread as they are; never waits."""

    def __init__(self, records: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(records)
        self._records = records
        self.dropped = 0
        """Records that found the queue full, since the start. Written with the handler's lock held."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class LogOutput:
    """The log of this process, from ``start_logging`` on until it is closed."""

    def __init__(self, formatter: logging.Formatter, level: int, descriptor: int) -> None:
        self._formatter = formatter
        self._descriptor = descriptor
        self._path = _path_of(descriptor)
        """Where the log goes, if that is a file."""
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_RECORDS_MAX)
        self._handler = _Enqueue(self._records)
        self._unwritten = 0
        """Lines that the descriptor did not take. Written by the log thread only."""
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="log-output", daemon=True)
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(level)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records that were lost because nobody read the log, or not fast enough."""
        return self._handler.dropped + self._unwritten

    def close(self, timeout_s: float = 1.0) -> bool:
        """Write what waits and end; return False when nobody took it within ``timeout_s`` and it is lost."""
        logging.getLogger().removeHandler(self._handler)
        deadline = time.monotonic() + timeout_s
        try:
            self._records.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def reopen(self) -> bool:
        """Go on in a new file at the old one's path, which was moved away; return False when the log is no file.

        A signal handler may call it.
        """
        if self._path is None:
            return False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
        except OSError:
            # Its directory may be gone: better a log at the old place than none.
            return False
        os.dup2(descriptor, self._descriptor)
        os.close(descriptor)
        # Written here: a signal may have come while the queue was locked by this very thread.
        record = logging.LogRecord(__name__, logging.INFO, "", 0, "log_reopened", (), None)
        record.fields = {"path": self._path}
        self._write(record)
        return True

    def _run(self) -> None:
        while (record := self._records.get()) is not None:
            self._write(record)
            if self._records.empty():
                self._report_dropped()
        self._report_dropped()

    def _report_dropped(self) -> None:
        dropped = self.dropped
        if dropped == self._reported:
            return
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, "log_records_dropped", (), None)
        record.fields = {"count": dropped - self._reported, "total": dropped}
        self._reported = dropped
        self._write(record)

    def _write(self, record: logging.LogRecord) -> None:
        """Write one line straight to the descriptor: no buffer whose lock could outlive this thread.

        A log that nobody can read any more (a closed pipe, a full disk) is no reason to stop the node.
        """
        try:
            line = self._formatter.format(record) + "\n"
        except Exception as error:
            # Formatting runs other people's __str__; a line that fails must not end the log.
            line = f"unloggable record {record.msg!r}: {error!r}\n"
        rest = memoryview(line.encode("utf-8", "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                self._unwritten += 1
                return


def _path_of(descriptor: int) -> str | None:
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()) if is_file else None
    except OSError:
        return None


def start_logging(*, node_id: str, level: str, log_format: str, descriptor: int = 2) -> LogOutput:
    """Send the log of the whole process to a file descriptor; call ``close`` on the result at the end.

    Args:
        level: debug, info, warning or error.
        log_format: text or json.
        descriptor: 2 is stderr.
    """
    formatter = JsonFormatter(node_id) if log_format == "json" else TextFormatter(node_id)
    return LogOutput(formatter, getattr(logging, level.upper()), descriptor)
