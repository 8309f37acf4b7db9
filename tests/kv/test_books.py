"""What a state costs: the overlay's memory, what is read from the base, and what is let go little by little."""

from __future__ import annotations

import random

import pytest

from durable_raft.kv import keyspace as keyspace_module
from durable_raft.kv import keyspace_commands, scan
from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.deadlines import HEAP_SLACK
from durable_raft.kv.glob import PATTERN_BYTES_MAX, compile_glob
from durable_raft.kv.keyspace import Keyspace
from durable_raft.kv.layer import CHANGE_BYTES, FREE_PIECE, Layer
from durable_raft.kv.machine import VALUE_BYTES_MAX, Machine
from durable_raft.kv.records import (
    EMPTY_STATE,
    SHORT_KEY_BYTES_MAX,
    Record,
    StateSummary,
    make_record,
    order_key,
    record_crc,
)
from durable_raft.kv.replies import PONG, Simple
from durable_raft.kv.slots import key_slot
from durable_raft.kv.sorting import PIECE_KEYS
from durable_raft.kv.steps import finish
from tests.kv.machines import NOW_MS, new_machine, run
from tests.kv.state_views import CountedView, PlainView


def view_of(keys: int, *, deadline_ms: int = 0) -> CountedView:
    """Return a state of keys k0, k1, ...; with a deadline the first expires then, and each a millisecond later."""
    names = [b"k%d" % number for number in range(keys)]
    return CountedView(
        {key: make_record(key, b"v", deadline_ms and deadline_ms + number) for number, key in enumerate(names)}
    )


# -- the overlay -------------------------------------------------------------------------------------------------------


def test_each_change_takes_its_key_and_value_and_something() -> None:
    """Whether the key was there before, in the same layer or below, or was removed."""
    keyspace = Keyspace(PlainView({b"below": make_record(b"below", b"12345")}))
    sizes = []
    for key, value, deadline in (
        (b"k", b"123", None),
        (b"k", b"1", None),
        (b"k", b"12345", 100),
        (b"k", b"12", None),
        (b"below", b"1", None),
        (b"below", b"", 100),
        (b"new", b"12", 100),
    ):
        before = keyspace.active_bytes
        keyspace.put(key, value, deadline)
        sizes.append(keyspace.active_bytes - before)
    assert sizes == [CHANGE_BYTES + 4, -2, 4, -3, CHANGE_BYTES + 6, -1, CHANGE_BYTES + 5]
    keyspace.remove(b"new")
    keyspace.remove(b"k")
    assert keyspace.active_bytes == 3 * CHANGE_BYTES + len(b"k" + b"below" + b"new")
    keyspace.put(b"k", b"1234", None)
    assert keyspace.active_bytes == 3 * CHANGE_BYTES + len(b"k" + b"below" + b"new" + b"1234")
    assert keyspace.overlay_bytes == keyspace.active_bytes
    assert keyspace.overlay_changes == 3
    keyspace.clear()
    assert (keyspace.overlay_bytes, keyspace.overlay_changes) == (0, 0)


def test_the_overlay_is_what_was_frozen_and_what_came_since() -> None:
    """Until the checkpoint ended."""
    keyspace = Keyspace()
    keyspace.put(b"k", b"123", None)
    keyspace.freeze()
    assert (keyspace.overlay_bytes, keyspace.active_bytes) == (CHANGE_BYTES + 4, 0)
    keyspace.put(b"k", b"1", None)
    assert (keyspace.overlay_bytes, keyspace.active_bytes) == (2 * CHANGE_BYTES + 6, CHANGE_BYTES + 2)
    assert keyspace.checkpointed(PlainView({b"k": make_record(b"k", b"123")})).changes == {}
    assert (keyspace.overlay_bytes, keyspace.active_bytes) == (CHANGE_BYTES + 2, CHANGE_BYTES + 2)
    keyspace.freeze()
    assert keyspace.checkpointed(PlainView({})).changes == {b"k": b"123"}, "the one before"


def test_no_checkpoint_ends_that_was_not_begun() -> None:
    """A mistake that is named."""
    keyspace = Keyspace()
    with pytest.raises(RuntimeError, match="no checkpoint is under way"):
        keyspace.checkpointed(EMPTY_STATE)


def test_what_is_not_there_leaves_no_trace() -> None:
    """To remove it, or to take a deadline away, changes nothing, not even the overlay."""
    keyspace = Keyspace(view_of(1))
    assert keyspace.remove(b"other") is None
    assert not keyspace.persist(b"other")
    assert (keyspace.overlay_changes, keyspace.overlay_bytes) == (0, 0)
    assert keyspace.summary().key_count == 1


def test_a_layer_is_let_go_in_pieces() -> None:
    """Between two of them other threads may run; nothing is left."""
    layer = Layer()
    for number in range(2 * FREE_PIECE + 1):
        layer.put(b"%d" % number, make_record(b"%d" % number, b"v", 1000 + number))
    list(layer.ordered(None))
    left: list[int] = []
    layer.dissolve(lambda: left.append(len(layer.changes)))
    assert left == [FREE_PIECE + 1, 1, 0]
    assert (layer.changes, list(layer._order), len(layer.due)) == ({}, [], 0)
    layer.dissolve(lambda: left.append(-1))
    assert left[-1] == 0


@pytest.mark.parametrize("count", [0, 1, PIECE_KEYS, PIECE_KEYS + 1, 3 * PIECE_KEYS])
def test_changes_are_sorted(count: int) -> None:
    """All of them, in the order of keys, long ones among them."""
    layer = Layer()
    rng = random.Random(count)
    keys = [b"%d" % rng.getrandbits(40) + b"x" * rng.choice((0, 0, 0, 600)) for _ in range(count)]
    for key in keys:
        layer.exchange(key, None, None)
    assert [key for key, _ in layer.sorted_changes()] == list(layer.ordered(None))


# -- the base ----------------------------------------------------------------------------------------------------------


def test_deadlines_of_the_base_are_read_in_chunks_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one is needed and none is at hand; after the last chunk never again."""
    monkeypatch.setattr(keyspace_module, "DUE_CHUNK", 2)
    view = view_of(5, deadline_ms=100)
    keyspace = Keyspace(view, 50)
    assert view.reads == []
    assert keyspace.next_deadline_ms() == 100
    assert keyspace.next_deadline_ms() == 100
    assert view.reads == [("due", None, 2)]
    keyspace.advance_time(104)
    assert keyspace.next_deadline_ms() is None
    due = [read for read in view.reads if read[0] == "due"]
    assert due == [("due", None, 2), ("due", (101, b"k1"), 2), ("due", (103, b"k3"), 2)]
    assert keyspace.summary() == StateSummary()


def test_a_base_without_deadlines_is_not_asked_for_any() -> None:
    """Neither for the next one nor when the time moves."""
    view = view_of(3)
    keyspace = Keyspace(view)
    keyspace.put(b"other", b"v", 50)
    assert keyspace.next_deadline_ms() == 50
    keyspace.advance_time(60)
    assert view.reads == []


def test_a_new_base_is_asked_anew_and_one_that_was_cleared_is_not() -> None:
    """After a checkpoint its deadlines are others."""
    keyspace = Keyspace(view_of(2, deadline_ms=100))
    assert keyspace.next_deadline_ms() == 100
    keyspace.freeze()
    keyspace.checkpointed(view_of(2, deadline_ms=70))
    assert keyspace.next_deadline_ms() == 70
    keyspace.freeze()
    keyspace.clear()
    view = view_of(2, deadline_ms=70)
    keyspace.checkpointed(view)
    keyspace.put(b"k", b"v", 90)
    assert keyspace.next_deadline_ms() == 90
    assert view.reads == []


@pytest.mark.parametrize(("keys", "reads"), [(3, 2), (4, 2), (5, 3), (8, 3), (0, 1)])
def test_keys_of_the_base_are_read_in_chunks(keys: int, reads: int) -> None:
    """Until one is empty: one that has few keys may have large values."""
    view = view_of(keys)
    assert len(list(Keyspace(view).after(None, 4))) == keys
    assert len(view.reads) == reads
    assert {read[2] for read in view.reads} == {4}


def test_a_page_of_a_scan_is_read_at_once() -> None:
    """And one key more, which tells whether there is another page."""
    view = view_of(9)
    machine = Machine(random.Random(1), base=view)
    cursor, page = run(machine, "SCAN 0 COUNT 3")  # type: ignore[misc]
    assert page == [b"k0", b"k1", b"k2"]
    assert cursor != b"0"
    assert view.reads == [("after", None, 4)]


# -- bounds of commands ------------------------------------------------------------------------------------------------


def test_as_many_keys_may_be_listed_as_the_bound_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more, and KEYS refuses, and a slot is not counted."""
    monkeypatch.setattr(keyspace_commands, "KEYS_MAX", 2)
    monkeypatch.setattr("durable_raft.kv.machine.KEYS_MAX", 2)
    machine = new_machine("SET a 1", "SET b 1")
    assert run(machine, "KEYS *") == [b"a", b"b"]
    assert finish(machine.count_keys_in_slot(key_slot(b"a"))) == 1
    assert finish(machine.count_keys_in_slot(key_slot(b"c"))) == 0
    run(machine, "SET c 1")
    assert "too many keys" in str(run(machine, "KEYS *"))
    assert "too many keys" in str(finish(machine.count_keys_in_slot(key_slot(b"a"))))


@pytest.mark.parametrize("command", ["KEYS {}", "SCAN 0 MATCH {}"])
def test_a_pattern_may_be_as_long_as_the_bound_says(command: str) -> None:
    """And not longer."""
    machine = new_machine("SET a 1")
    assert "longer" not in str(run(machine, command.format("a" * PATTERN_BYTES_MAX)))
    assert "longer" in str(run(machine, command.format("a" * (PATTERN_BYTES_MAX + 1))))


def test_neighbours_in_a_class_are_joined() -> None:
    """Wherever they stand: a class of ranges stays as short as its pattern."""
    assert len(compile_glob(b"[\x01\x03-\xff]").pattern) < 30


def test_names_of_commands_are_keys_like_others() -> None:
    """DEL and EXISTS look at what follows their name."""
    machine = new_machine("SET del 1", "SET exists 1", "SET a 1")
    assert run(machine, "EXISTS a") == 1
    assert run(machine, "DEL a") == 1
    assert run(machine, "DBSIZE") == 2


def test_time_to_live_counts_from_the_time_that_is_shown() -> None:
    """When that is later than the cluster time; what is still there has a millisecond left at least."""
    machine = new_machine("SET k v PX 1400")
    for shown, left_ms, left_s in (
        (0, 1400, 1),
        (1, 1399, 1),
        (900, 500, 1),
        (901, 499, 0),
        (1399, 1, 0),
        (5000, 1, 0),
    ):
        machine.show_time(NOW_MS + shown)
        assert (run(machine, "PTTL k"), run(machine, "TTL k")) == (left_ms, left_s)
    machine.show_time(NOW_MS - 500)
    assert run(machine, "PTTL k") == 1400


def test_time_to_live_of_a_state_that_begins() -> None:
    """No time was shown yet."""
    machine = Machine(random.Random(1))
    machine.execute([b"psetex", b"k", b"5", b"v"])
    assert run(machine, "PTTL k") == 5


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 10_000])
def test_a_record_has_one_checksum_however_it_is_computed(length: int) -> None:
    """In one piece or in two, when it is made or checked."""
    value = bytes(length)
    record = make_record(b"key", value, 77)
    assert record == Record(value, 77, record_crc(b"key", 77, value))
    assert record.crc != record_crc(b"key", 78, value)
    assert record.crc != record_crc(b"kez", 77, value)


def test_the_empty_state_is_empty() -> None:
    """Whatever it is asked for."""
    assert EMPTY_STATE.summary == StateSummary(0, 0, 0)
    assert EMPTY_STATE.get(b"k") is None
    assert not EMPTY_STATE.after(None, 5, 5)
    assert not EMPTY_STATE.due(None, 5)


# -- the machine's door ------------------------------------------------------------------------------------------------


def test_a_machine_is_checkpointed_as_its_keyspace_is() -> None:
    """What it freezes is what changed, and what it says of its size is the overlay's."""
    machine = new_machine("SET a 123")
    assert machine.overlay_bytes == machine.active_bytes == CHANGE_BYTES + 4
    assert machine.overlay_changes == 1
    layer = machine.freeze()
    assert dict(layer.sorted_changes()) == {b"a": make_record(b"a", b"123")}
    assert (machine.overlay_bytes, machine.active_bytes, machine.overlay_changes) == (CHANGE_BYTES + 4, 0, 0)
    assert machine.checkpointed(PlainView({b"a": make_record(b"a", b"123")})).changes == {}
    assert machine.overlay_bytes == 0
    assert run(machine, "GET a") == b"123"


def test_a_layer_orders_keys_up_to_the_length_that_counts_and_beyond() -> None:
    """A key of 480 bytes by itself, a longer one by its beginning and a hash; from any place on."""
    layer = Layer()
    keys = [b"b" * 480, b"b" * 481, b"b" * 479, b"a", b"c", b"b" * 600 + b"1", b"b" * 600 + b"2"]
    for key in keys:
        layer.exchange(key, None, None)
        list(layer.ordered(None))
    layer.exchange(b"aa", None, None)
    expected = sorted([*keys, b"aa"], key=order_key)
    assert list(layer.ordered(None)) == expected
    assert [key for key, _ in layer.sorted_changes()] == expected
    for place, key in enumerate(expected):
        assert list(layer.ordered(key)) == expected[place + 1 :]
    assert list(layer.ordered(b"")) == expected


def test_long_keys_in_a_piece_are_placed_by_their_order() -> None:
    """Though most of it is short."""
    layer = Layer()
    for key in (b"b" * 600 + b"1", b"b" * 600 + b"2", b"b" * 600 + b"3", b"a", b"c"):
        layer.exchange(key, None, None)
    keys = [key for key, _ in layer.sorted_changes()]
    assert keys == sorted(keys, key=order_key)
    assert [order_key(key) for key in keys] == sorted(order_key(key) for key in keys)


def test_a_cleared_layer_knows_nothing() -> None:
    """Not even a deadline."""
    layer = Layer()
    layer.put(b"k", make_record(b"k", b"v", 100))
    layer.clear()
    assert layer.is_cleared
    assert (layer.changes, len(layer.due), layer.size_bytes, list(layer.ordered(None))) == ({}, 0, 0, [])


@pytest.mark.parametrize(("value", "crc"), [(b"", 0xDBD9D91D), (b"v", 0xAAE9B2D1), (bytes(5000), 0x29D8D4FE)])
def test_checksums_are_what_they_were_when_they_were_stored(value: bytes, crc: int) -> None:
    """In numbers: older directories and other nodes hold them."""
    assert record_crc(b"key", 77, value) == crc
    assert make_record(b"key", value, 77).crc == crc


def test_a_slot_is_of_what_stands_between_the_first_braces() -> None:
    """If something does; as Redis Cluster says."""
    assert key_slot(b"{a}b") == key_slot(b"a")
    assert key_slot(b"x{a}{b}") == key_slot(b"a")
    for whole in (b"{}a", b"x{}a", b"{a", b"a}", b"}a{", b"x{}{a}"):
        assert key_slot(whole) not in (key_slot(b""), key_slot(b"a")), whole


def test_bounds_are_what_they_were() -> None:
    """Replicas must agree on some, clients see others, and all were chosen: one that changes is changed on purpose."""
    assert (keyspace_module.DROP_MAX, keyspace_module.DROP_MAX_BEFORE) == (200, 1000)
    assert keyspace_module.DUE_CHUNK == 256
    assert PATTERN_BYTES_MAX == 1024
    assert keyspace_commands.KEYS_MAX == 250_000
    assert (keyspace_commands.SCAN_COUNT_DEFAULT, keyspace_commands.SCAN_COUNT_MAX) == (10, 10_000)
    assert (scan.CURSORS_MAX, scan.CURSOR_BITS) == (10_000, 53)
    assert VALUE_BYTES_MAX == 512 * 1024 * 1024
    assert (CHANGE_BYTES, HEAP_SLACK, PIECE_KEYS, FREE_PIECE) == (300, 1024, 2048, 512)
    assert SHORT_KEY_BYTES_MAX == 480
    assert len(order_key(b"x" * 481)) == 496
    assert Simple(b"PONG") == PONG


def test_what_is_not_given() -> None:
    """A state begins at time 0, keys are read 64 at a time, and a command is the machine's, not the connection's."""
    view = view_of(1)
    assert Keyspace().time_ms == 0
    assert list(Keyspace(view).after(None)) == [(b"k0", make_record(b"k0", b"v"))]
    assert view.reads == [("after", None, 64), ("after", b"k0", 64)]
    assert not any(spec.is_connections for spec in COMMANDS.values())
