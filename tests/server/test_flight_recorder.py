"""The flight recorder: what of the core's life it notes, and that it is never in the node's way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from durable_raft.raft.messages import RequestVoteResponse
from durable_raft.server.clock import SystemClock
from durable_raft.server.flight_recorder import FlightRecorder
from durable_raft.storage.flight import FLIGHT, read_flight
from tests.support.raft_solo import answer_of, request_vote, solo


def test_a_recorder_that_fails_says_so_once_and_rests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the system while it opens or writes never reaches the node."""
    recorder = FlightRecorder(tmp_path, SystemClock())
    recorder.note("started", node="n1")
    assert recorder._writer is not None
    os.close(recorder._writer._fd)
    recorder._writer._fd = os.open(os.devnull, os.O_RDONLY)
    for _ in range(3):
        recorder.note("event", path="a\udcffb")
    recorder.close()
    assert [record.message for record in caplog.records] == ["flight_recorder_off"]
    assert [each.event for each in read_flight(tmp_path)] == ["started"]
    (tmp_path / FLIGHT).unlink()
    (tmp_path / FLIGHT).mkdir()
    recorder = FlightRecorder(tmp_path, SystemClock())
    for name in ("started", "event", "stopped"):
        recorder.note(name, node="n1")
    recorder.close()
    assert [record.message for record in caplog.records] == ["flight_recorder_off"] * 2


def test_a_term_is_told_once_and_progress_only_when_there_is_any(tmp_path: Path) -> None:
    """A term that an event named is not told again, one that came in silence is; the indexes when they moved."""
    cluster = solo("1 1 2", term=3)
    recorder = FlightRecorder(tmp_path, SystemClock())
    recorder.note("before", number=1)
    recorder.note("started", node="n1")
    recorder.recovered(cluster["n1"])
    for _ in range(3):
        recorder.progress(cluster["n1"])
    answer_of(cluster, "n2", request_vote(7), RequestVoteResponse)
    for _ in range(3):
        recorder.progress(cluster["n1"])
    recorder.close()
    found = [(each.event, each.fields.get("term")) for each in read_flight(tmp_path)]
    assert found == [("started", None), ("recovered", 3), ("progress", None), ("term_changed", 7)]
