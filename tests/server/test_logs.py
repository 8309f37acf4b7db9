"""server/logs.py: what a line looks like, and that a reader who stops reading stops nothing else."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator

import pytest

from durable_raft.server import logs
from durable_raft.server.logs import LogOutput, event, start_logging
from tests.support.waiting import WAIT_S


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: (read end, write end)."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.fixture(autouse=True)
def root_level() -> Iterator[None]:
    """Give the root logger its level back."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def lines_of(pipe: tuple[int, int], output: LogOutput) -> list[str]:
    """Close the log and return what it wrote."""
    assert output.close()
    os.close(pipe[1])
    with open(pipe[0], encoding="utf-8", closefd=False) as reader:
        return reader.read().splitlines()


def test_text_line_has_time_level_node_event_and_fields(pipe: tuple[int, int]) -> None:
    """One event is one line of key=value pairs after an RFC 3339 time in UTC; odd values are quoted."""
    output = start_logging(node_id="n1", level="info", log_format="text", descriptor=pipe[1])
    event(logging.getLogger("x"), logging.INFO, "became_leader", term=3, leader=None, reason='a "b"\nc=d', empty="")
    (line,) = lines_of(pipe, output)
    when, rest = line.split(" ", 1)
    assert time.strptime(when.partition(".")[0], "%Y-%m-%dT%H:%M:%S")
    assert len(when) == len("2026-11-23T05:49:00.123Z")
    assert when.endswith("Z")
    assert rest == 'INFO node=n1 event=became_leader term=3 leader=none reason="a \\"b\\"\\nc=d" empty=""'


def test_json_line_is_an_object_with_the_same_fields(pipe: tuple[int, int]) -> None:
    """In JSON numbers stay numbers, and what JSON has no form for becomes text."""
    output = start_logging(node_id="n1", level="info", log_format="json", descriptor=pipe[1])
    event(logging.getLogger("x"), logging.WARNING, "peer_refused", count=2, reason="ü\n", raw=b"\xff", name="n2")
    (line,) = lines_of(pipe, output)
    parsed = json.loads(line)
    parsed.pop("time")
    assert parsed == {
        "level": "WARNING",
        "node": "n1",
        "event": "peer_refused",
        "count": 2,
        "reason": "ü\n",
        "raw": "b'\\xff'",
        "name": "n2",
    }


def test_library_messages_and_exceptions_stay_on_one_line(pipe: tuple[int, int]) -> None:
    """A record that is no event of ours, with a traceback, is one line too, and says who logged it."""
    output = start_logging(node_id="n1", level="info", log_format="text", descriptor=pipe[1])
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("asyncio").exception("lost %s", "it")
    (line,) = lines_of(pipe, output)
    assert 'event=message logger=asyncio message="lost it" exception="Traceback' in line
    assert "ValueError: boom" in line


def test_events_below_the_level_are_not_logged(pipe: tuple[int, int]) -> None:
    """--log-level is the least level that comes out."""
    output = start_logging(node_id="n1", level="warning", log_format="text", descriptor=pipe[1])
    event(logging.getLogger("x"), logging.INFO, "quiet")
    event(logging.getLogger("x"), logging.WARNING, "loud")
    assert [line.rpartition("=")[2] for line in lines_of(pipe, output)] == ["loud"]


def test_a_value_that_cannot_be_written_costs_one_line_only(pipe: tuple[int, int]) -> None:
    """A field whose text fails ends neither the log nor the caller."""

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    output = start_logging(node_id="n1", level="info", log_format="text", descriptor=pipe[1])
    event(logging.getLogger("x"), logging.INFO, "bad", value=Bad())
    event(logging.getLogger("x"), logging.INFO, "good")
    lines = lines_of(pipe, output)
    assert lines[0].startswith("unloggable record 'bad'")
    assert lines[1].endswith("event=good")


def test_full_pipe_never_blocks_the_caller_and_losses_are_reported(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nobody reading, events are dropped and counted; once lines flow again the log says how many."""
    monkeypatch.setattr(logs, "QUEUE_RECORDS_MAX", 50)
    output = start_logging(node_id="n1", level="info", log_format="text", descriptor=pipe[1])
    logger = logging.getLogger("x")
    finished = threading.Event()

    def log_much() -> None:
        for number in range(2000):
            event(logger, logging.INFO, "filler", number=number, text="x" * 1000)
        finished.set()

    threading.Thread(target=log_much, daemon=True).start()
    assert finished.wait(WAIT_S), "logging into a full pipe blocked"
    dropped = output.dropped
    assert dropped > 1000
    assert not output.close(timeout_s=0.05)

    read: list[bytes] = []

    def read_all() -> None:
        while data := os.read(pipe[0], 1 << 16):
            read.append(data)

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    assert output.close(timeout_s=WAIT_S)
    os.close(pipe[1])
    reader.join(WAIT_S)
    lines = b"".join(read).decode().splitlines()
    assert f"count={dropped}" in lines[-1]
    assert "event=log_records_dropped" in lines[-1]
    assert len(lines) == 2000 - dropped + 1


def test_closed_pipe_is_survived(pipe: tuple[int, int]) -> None:
    """When the reader has gone away, events are counted as lost and nothing is raised."""
    output = start_logging(node_id="n1", level="info", log_format="text", descriptor=pipe[1])
    os.close(pipe[0])
    event(logging.getLogger("x"), logging.INFO, "unheard")
    assert output.close(timeout_s=WAIT_S)
    assert output.dropped >= 1
