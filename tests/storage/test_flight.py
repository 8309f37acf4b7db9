"""The flight recorder's rings: what comes back, in which order, what is left out, and what is replaced."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from durable_raft.checksum import crc32c
from durable_raft.storage.flight import (
    EVENT_BYTES,
    FLIGHT,
    HEAD_BYTES,
    FlightWriter,
    load_flight,
    read_flight,
)

ROOT = Path(__file__).parents[2]

FILE_BYTES = 4 << 20


def small_writer(directory: Path, node_id: str = "n1") -> FlightWriter:
    """Open a file of 8 slots for events and 4 for progress."""
    return FlightWriter(directory, node_id, event_slots=8, progress_slots=4)


def filled(directory: Path, events: int) -> bytes:
    """Write that many events; return the file's bytes."""
    writer = small_writer(directory)
    for number in range(events):
        writer.write(number, number, "event", {"number": number})
    writer.close()
    return (directory / FLIGHT).read_bytes()


def test_events_come_back_in_order_over_several_lives(tmp_path: Path) -> None:
    """The numbers go on where the last life ended; the file has its full size from the first moment."""
    for life in range(3):
        writer = FlightWriter(tmp_path, "n1")
        assert (tmp_path / FLIGHT).stat().st_size == FILE_BYTES
        for number in range(4):
            event = "progress" if number % 2 else "event"
            writer.write(1_000 + life, life, event, {"life": life, "number": number, "none": None})
        writer.close()
        writer.close()
    flight = load_flight(tmp_path)
    assert flight is not None
    assert (flight.node_id, flight.skipped) == ("n1", 0)
    assert [each.number for each in flight.events] == list(range(1, 13))
    assert [(each.fields["life"], each.fields["number"]) for each in flight.events] == [
        (i, n) for i in range(3) for n in range(4)
    ]
    assert (tmp_path / FLIGHT).stat().st_size == FILE_BYTES


@pytest.mark.parametrize("lives", [1, 7])
def test_the_rings_keep_the_last(tmp_path: Path, lives: int) -> None:
    """The file never grows, and a restart amid a ring overwrites the oldest, not the newest."""
    for life in range(lives):
        writer = small_writer(tmp_path)
        for number in range(21 // lives):
            writer.write(life * 21 // lives + number, 0, "event", {})
        writer.close()
    assert (tmp_path / FLIGHT).stat().st_size == HEAD_BYTES + 8 * EVENT_BYTES + 4 * 128
    assert [each.wall_ms for each in read_flight(tmp_path)] == list(range(13, 21))


def test_progress_does_not_push_out_events(tmp_path: Path) -> None:
    """Thousands of progress records take the room of progress records only."""
    writer = small_writer(tmp_path)
    writer.write(1, 1, "became_leader", {"term": 1})
    huge = 1 << 62
    for number in range(1_000):
        writer.write(number, number, "progress", {"last": huge, "commit": huge, "applied": huge})
    writer.close()
    found = read_flight(tmp_path)
    assert [each.event for each in found] == ["became_leader"] + ["progress"] * 4
    assert found[-1].fields == {"last": huge, "commit": huge, "applied": huge}


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    """The event stays, without its longest fields; what no record can hold becomes text."""
    writer = small_writer(tmp_path)
    fields = {f"field{n}": "x" * 1000 for n in range(5)}
    writer.write(1, 1, "long", {**fields, "term": 7, "huge": 1 << 80})
    writer.write(-5, -5, "e" * 1_000, {"path": "a\udcffb", "bytes": b"\xff", "list": [1]})
    writer.close()
    long, odd = read_flight(tmp_path)
    assert long.event == "long"
    assert long.fields["term"] == 7
    assert (odd.wall_ms, odd.event) == (0, "e" * 60)
    assert odd.fields == {"path": "a\\udcffb", "bytes": r"b'\xff'", "list": "[1]"}


def test_every_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    """Whatever bit of a record rots, the others come back and it is counted."""
    sound = filled(tmp_path, 5)
    begin = HEAD_BYTES + 2 * EVENT_BYTES
    length = len(sound[begin : begin + EVENT_BYTES].rstrip(b"\0"))
    for bit in range(length * 8):
        data = bytearray(sound)
        data[begin + bit // 8] ^= 1 << bit % 8
        (tmp_path / FLIGHT).write_bytes(data)
        flight = load_flight(tmp_path)
        assert flight is not None
        assert [each.fields["number"] for each in flight.events] == [0, 1, 3, 4], bit
        assert flight.skipped == 1


@pytest.mark.parametrize("place", [0, 7, 30])
def test_the_writer_goes_on_behind_rot(tmp_path: Path, place: int) -> None:
    """With the newest record rotten, its number or its body, the numbers go on behind the newest valid one."""
    sound = bytearray(filled(tmp_path, 5))
    sound[HEAD_BYTES + 4 * EVENT_BYTES + place] ^= 0x40
    (tmp_path / FLIGHT).write_bytes(sound)
    writer = small_writer(tmp_path)
    writer.write(9, 9, "event", {"number": 9})
    writer.close()
    found = [(each.number, each.fields["number"]) for each in read_flight(tmp_path)]
    assert found == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 9)]


def test_a_damaged_head_is_read_and_then_replaced(tmp_path: Path) -> None:
    """Without its head a file of the usual size still tells its events; the writer begins a new one."""
    writer = FlightWriter(tmp_path, "n1")
    writer.write(1, 1, "event", {})
    writer.close()
    data = bytearray((tmp_path / FLIGHT).read_bytes())
    data[20] ^= 1
    (tmp_path / FLIGHT).write_bytes(data)
    flight = load_flight(tmp_path)
    assert flight is not None
    assert flight.node_id is None
    assert [each.event for each in flight.events] == ["event"]
    FlightWriter(tmp_path, "n1").close()
    assert read_flight(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"no ring at all" * 1000, os.urandom(70_000), b"\0" * FILE_BYTES])
def test_a_foreign_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    """Whatever lies there: the reader finds nothing, the writer starts over."""
    (tmp_path / FLIGHT).write_bytes(content)
    assert read_flight(tmp_path) == []
    writer = small_writer(tmp_path)
    writer.write(1, 1, "event", {})
    writer.close()
    assert [each.number for each in read_flight(tmp_path)] == [1]


def test_another_nodes_file_is_replaced(tmp_path: Path) -> None:
    """A ring that was copied from another node does not become this node's past."""
    filled(tmp_path, 5)
    small_writer(tmp_path, "n2").close()
    flight = load_flight(tmp_path)
    assert flight is not None
    assert (flight.node_id, flight.events) == ("n2", [])


def test_a_file_that_is_cut_short_tells_what_is_left(tmp_path: Path) -> None:
    """Every length is read without an error, and the writer goes on with it."""
    sound = filled(tmp_path, 8)
    for length in range(0, len(sound), 61):
        (tmp_path / FLIGHT).write_bytes(sound[:length])
        kept = [each.fields["number"] for each in read_flight(tmp_path)]
        assert kept == list(range(len(kept)))
        writer = small_writer(tmp_path)
        writer.write(1, 1, "event", {"number": "new"})
        writer.close()
        assert [each.fields["number"] for each in read_flight(tmp_path)][-1] == "new"


def test_what_is_no_file_is_an_os_error(tmp_path: Path) -> None:
    """A directory or a pipe in its place is refused without waiting."""
    assert load_flight(tmp_path) is None
    assert load_flight(tmp_path / "nowhere") is None
    for make in (os.mkdir, os.mkfifo):
        place = tmp_path / make.__name__
        place.mkdir()
        make(place / FLIGHT)
        with pytest.raises(OSError, match=r"regular file|directory"):
            load_flight(place)
        with pytest.raises(OSError, match=r"regular file|directory"):
            FlightWriter(place, "n1")


def test_a_valid_checksum_is_not_believed_blindly(tmp_path: Path) -> None:
    """A body that is no event, a date that cannot be and an impossible number are damage, not a traceback."""
    sound = filled(tmp_path, 3)
    times = (1).to_bytes(8, "big") * 2
    number = (2).to_bytes(8, "big")
    year_10000 = (253_402_300_800_000).to_bytes(8, "big") * 2
    event = b"\x92\xa1e\x80"
    for head, body in (
        (number + times, b"\xc1"),
        (number + times, b"\x92\xa1e"),
        (number + times, b"\x93\xa1e\x80\x01"),
        (number + times, b"\x92\xa1e\x05"),
        (number + year_10000, event),
        (b"\xff" * 8 + times, event),
    ):
        record = head + len(body).to_bytes(2, "big") + body
        record += crc32c(record).to_bytes(4, "big")
        data = bytearray(sound)
        at = HEAD_BYTES + EVENT_BYTES
        data[at : at + EVENT_BYTES] = record.ljust(EVENT_BYTES, b"\0")
        (tmp_path / FLIGHT).write_bytes(data)
        flight = load_flight(tmp_path)
        assert flight is not None
        assert ([each.fields["number"] for each in flight.events], flight.skipped) == ([0, 2], 1), body


def test_random_damage_is_survived(tmp_path: Path) -> None:
    """Whatever is wrong with the bytes, reader and writer go on, and no event is invented."""
    sound = filled(tmp_path, 20)
    seed = random.getrandbits(32)
    rng = random.Random(seed)
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(1, 300)] = rng.randbytes(rng.randrange(300))
        (tmp_path / FLIGHT).write_bytes(data)
        found = read_flight(tmp_path)
        assert {each.event for each in found} <= {"event"}, seed
        assert all(each.fields["number"] == each.number - 1 for each in found), seed
        small_writer(tmp_path).close()


def test_a_killed_process_leaves_its_events(tmp_path: Path) -> None:
    """What was written before kill -9 is there, though nobody synced."""
    program = (
        "import os, signal, sys; from pathlib import Path; from durable_raft.storage.flight import FlightWriter\n"
        "writer = FlightWriter(Path(sys.argv[1]), 'n1')\n"
        "for number in range(100): writer.write(number, number, 'event', {})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=environment, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [each.wall_ms for each in read_flight(tmp_path)] == list(range(100))
