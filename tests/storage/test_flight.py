"""The flight recorder's ring: what comes back, in which order, and what is left out."""

from __future__ import annotations

from pathlib import Path

from durable_raft.storage.flight import FLIGHT, SLOT_BYTES, SLOTS, FlightWriter, read_flight


def test_events_come_back_in_order_over_several_lives(tmp_path: Path) -> None:
    """The numbers go on where the last life ended."""
    for life in range(3):
        writer = FlightWriter(tmp_path)
        for number in range(4):
            writer.write(1_000 + life, life, "event", {"life": life, "number": number, "none": None})
        writer.close()
    found = read_flight(tmp_path)
    assert [each.number for each in found] == list(range(1, 13))
    assert [(each.fields["life"], each.fields["number"]) for each in found] == [
        (i, n) for i in range(3) for n in range(4)
    ]


def test_the_ring_keeps_the_last(tmp_path: Path) -> None:
    """The file does not grow beyond its slots."""
    writer = FlightWriter(tmp_path)
    for number in range(SLOTS + 10):
        writer.write(number, number, "event", {})
    writer.close()
    found = read_flight(tmp_path)
    assert (tmp_path / FLIGHT).stat().st_size <= SLOTS * SLOT_BYTES
    assert [each.wall_ms for each in found] == list(range(10, SLOTS + 10))


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    """The event stays, without its longest fields; numbers that no record can hold become text."""
    writer = FlightWriter(tmp_path)
    fields = {f"field{n}": "x" * 1000 for n in range(5)}
    writer.write(1, 1, "long", {**fields, "term": 7, "huge": 1 << 80})
    writer.close()
    (found,) = read_flight(tmp_path)
    assert found.event == "long"
    assert found.fields["term"] == 7


def test_rotten_and_torn_slots_are_skipped(tmp_path: Path) -> None:
    """Whatever byte is damaged, the others come back."""
    writer = FlightWriter(tmp_path)
    for number in range(5):
        writer.write(number, number, "event", {"number": number})
    writer.close()
    sound = (tmp_path / FLIGHT).read_bytes()
    for at in range(3 * SLOT_BYTES, 3 * SLOT_BYTES + 50):
        data = bytearray(sound)
        data[at] ^= 0x10
        (tmp_path / FLIGHT).write_bytes(data)
        found = [each.fields["number"] for each in read_flight(tmp_path) if "number" in each.fields]
        assert [n for n in found if n != 2] == [0, 1, 3, 4]
    (tmp_path / FLIGHT).write_bytes(sound[:-100])
    assert len(read_flight(tmp_path)) >= 4
