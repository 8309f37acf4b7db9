"""SCAN: a key that is there throughout is never missed, whatever else comes and goes and whatever cursors are lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from durable_raft.kv.keyspace import Keyspace
from durable_raft.kv.keyspace_commands import handlers
from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import ErrorReply
from durable_raft.kv.scan import CURSOR_BITS, ScanCursors
from durable_raft.kv.steps import at_once
from tests.kv.machines import error_of, new_machine, run

PAGES_MAX = 10_000


def page(machine: Machine, cursor: bytes, *options: bytes) -> tuple[bytes, list[bytes]]:
    """Return the following cursor and the keys of one page."""
    reply = machine.execute([b"scan", cursor, *options])
    assert isinstance(reply, list), reply
    following, keys = reply
    assert isinstance(following, bytes)
    assert isinstance(keys, list)
    return following, [key for key in keys if isinstance(key, bytes)]


def scan(
    machine: Machine, *options: bytes, between: Callable[[], object] = lambda: None, cursor: bytes = b"0"
) -> Iterator[bytes]:
    """Yield the keys of a whole scan; ``between`` is called after every page."""
    for _ in range(PAGES_MAX):
        cursor, keys = page(machine, cursor, *options)
        yield from keys
        if cursor == b"0":
            return
        between()
    raise AssertionError(f"the scan did not end in {PAGES_MAX} pages")


def numbered(count: int) -> list[bytes]:
    """Return keys in order."""
    return [b"key:%05d" % number for number in range(count)]


def machine_with(keys: list[bytes]) -> Machine:
    """Return a machine that holds ``keys``."""
    machine = new_machine()
    for key in keys:
        machine.execute([b"set", key, b"v"])
    return machine


@pytest.mark.parametrize("count", [None, 1, 2, 9, 10, 11, 99, 100, 101, (1 << 63) - 1])
@pytest.mark.parametrize("size", [0, 1, 10, 100])
def test_undisturbed_scan_returns_each_key_once(size: int, count: int | None) -> None:
    """Pages of any size make up the whole, in order, without repetition; a page holds COUNT keys, 10 if not given."""
    machine = machine_with(numbered(size))
    options = () if count is None else (b"COUNT", b"%d" % count)
    assert list(scan(machine, *options)) == numbered(size)
    assert len(page(machine, b"0", *options)[1]) == min(size, count or 10)


@pytest.mark.parametrize("seed", range(20))
def test_keys_present_throughout_are_never_missed(seed: int) -> None:
    """While other keys are set, deleted and expire between pages, every lasting key is returned, nothing unheard of."""
    rng = random.Random(seed)
    everything = numbered(300)
    lasting = set(rng.sample(everything, 150))
    passing = [key for key in everything if key not in lasting]
    machine = machine_with(everything)

    def disturb() -> None:
        for key in rng.sample(passing, 30):
            machine.execute(
                rng.choice(([b"del", key], [b"set", key, b"w"], [b"psetex", key, b"%d" % rng.randint(1, 5), b"w"]))
            )
        machine.advance_time(machine.time_ms + 1)

    found = list(scan(machine, b"COUNT", b"%d" % rng.randint(1, 20), between=disturb))
    assert lasting <= set(found) <= set(everything)
    assert len(found) == len(set(found))


def test_scan_goes_on_when_the_key_of_its_cursor_is_gone() -> None:
    """A cursor stands for a place in the order, not for a key that must be there."""
    machine = machine_with(numbered(30))
    cursor, found = page(machine, b"0")
    run(machine, "DEL " + " ".join(key.decode() for key in found))
    assert list(scan(machine, cursor=cursor)) == numbered(30)[10:]


def test_asking_for_the_same_page_again_gives_it_again() -> None:
    """A client whose connection broke asks with its last cursor again and misses nothing."""
    machine = machine_with(numbered(50))
    cursor, _ = page(machine, b"0")
    first_following, first = page(machine, cursor)
    second_following, second = page(machine, cursor)
    assert first == second == numbered(50)[10:20]
    assert list(scan(machine, cursor=first_following)) == list(scan(machine, cursor=second_following))


def test_scans_side_by_side_do_not_mix() -> None:
    """Each of several scans goes its own way through the keys."""
    machine = machine_with(numbered(40))
    scans = [scan(machine, b"COUNT", b"%d" % count) for count in (1, 3, 7)]
    turns = [list(keys) for keys in zip(*scans, strict=True)]
    assert turns == [[key] * 3 for key in numbered(40)]


def test_unknown_cursor_begins_at_the_first_key() -> None:
    """A cursor of another node, or from before a restart, repeats keys and misses none."""
    machine = machine_with(numbered(25))
    for cursor in (b"1", b"17", b"18446744073709551615", b"9007199254740993"):
        assert list(scan(machine, cursor=cursor)) == numbered(25)


def test_failover_in_the_middle_of_a_scan_misses_nothing() -> None:
    """A scan that goes on at another replica, which never gave out its cursor, still returns every key."""
    here, there = machine_with(numbered(100)), machine_with(numbered(100))
    there.execute([b"scan", b"0"])
    elsewhere = Machine(random.Random(99))
    elsewhere.advance_time(here.time_ms)
    for key in numbered(100):
        elsewhere.execute([b"set", key, b"v"])
    cursor, found = page(here, b"0")
    assert {*found, *scan(elsewhere, cursor=cursor)} == set(numbered(100))


def small_scan(keys: list[bytes], cursors: ScanCursors) -> Callable[[bytes], tuple[bytes, list[bytes]]]:
    """Return SCAN over ``keys`` with a given table of cursors."""
    keyspace = Keyspace()
    for key in keys:
        keyspace.put(key, b"v", None)
    execute = at_once(handlers(keyspace, cursors).in_steps[b"scan"])

    def next_page(cursor: bytes) -> tuple[bytes, list[bytes]]:
        reply = execute([b"scan", cursor])
        assert isinstance(reply, list)
        following, found = reply
        assert isinstance(following, bytes)
        assert isinstance(found, list)
        return following, [key for key in found if isinstance(key, bytes)]

    return next_page


def test_table_of_one_cursor_serves_one_scan() -> None:
    """The cursor given out last is always known, however small the table."""
    next_page = small_scan(numbered(45), ScanCursors(random.Random(1), cursors_max=1))
    found: list[bytes] = []
    cursor, keys = next_page(b"0")
    for _ in range(4):
        found += keys
        cursor, keys = next_page(cursor)
    assert found + keys == numbered(45)
    assert cursor == b"0"


def test_full_table_forgets_the_cursor_unused_for_longest() -> None:
    """The oldest gives way and begins again; one that was just used stays."""
    cursors = ScanCursors(random.Random(1), cursors_max=2)
    old, used = cursors.give_out(b"old"), cursors.give_out(b"used")
    assert cursors.look_up(old) == b"old"
    assert cursors.look_up(used) == b"used"
    assert cursors.look_up(old) == b"old"
    new = cursors.give_out(b"new")
    assert cursors.look_up(used) is None
    assert cursors.look_up(old) == b"old"
    assert cursors.look_up(new) == b"new"


def test_table_of_cursors_is_bounded() -> None:
    """Scans that are never finished do not fill memory."""
    cursors = ScanCursors(random.Random(1), cursors_max=100)
    for number in range(1000):
        cursors.give_out(b"%d" % number)
    assert len(cursors._after) == 100


def test_cursor_is_never_zero_nor_one_that_is_in_use() -> None:
    """0 would end the scan, and a cursor in use would send its scan elsewhere; such a draw is drawn again."""

    class Draws(random.Random):
        def __init__(self, *draws: int) -> None:
            super().__init__(0)
            self.draws = list(draws)

        def getrandbits(self, k: int) -> int:
            assert k == CURSOR_BITS
            return self.draws.pop(0)

    cursors = ScanCursors(Draws(0, 5, 5, 0, 6))
    assert [cursors.give_out(b"a"), cursors.give_out(b"b")] == [5, 6]
    assert (cursors.look_up(5), cursors.look_up(6)) == (b"a", b"b")


def test_match_and_type_filter_what_a_page_returns() -> None:
    """Keys that do not match are looked at and not returned; other types than string there are none."""
    machine = machine_with([*numbered(100), b"other"])
    matching = [key for key in numbered(100) if key.endswith(b"7")]
    assert list(scan(machine, b"MATCH", b"*7")) == matching
    assert page(machine, b"0", b"MATCH", b"other")[1] == []
    assert list(scan(machine, b"match", b"other")) == [b"other"]
    assert len(list(scan(machine, b"TYPE", b"String"))) == 101
    assert list(scan(machine, b"TYPE", b"list")) == []
    assert list(scan(machine, b"TYPE", b"string", b"MATCH", b"*7", b"COUNT", b"3")) == matching


def test_empty_key_is_scanned() -> None:
    """The empty key is the first of all, and a scan goes on after it."""
    machine = machine_with([b"", b"a", b"b"])
    assert list(scan(machine, b"COUNT", b"1")) == [b"", b"a", b"b"]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("SCAN x", "ERR invalid cursor"),
        ("SCAN -1", "ERR invalid cursor"),
        ("SCAN ''", "ERR invalid cursor"),
        ("SCAN 1.5", "ERR invalid cursor"),
        ("SCAN 18446744073709551616", "ERR invalid cursor"),
        ("SCAN x COUNT", "ERR invalid cursor"),
        ("SCAN 0 COUNT", "ERR syntax error"),
        ("SCAN 0 COUNT 0", "ERR syntax error"),
        ("SCAN 0 COUNT -5", "ERR syntax error"),
        ("SCAN 0 COUNT x", "ERR value is not an integer or out of range"),
        ("SCAN 0 COUNT 9223372036854775808", "ERR value is not an integer or out of range"),
        ("SCAN 0 MATCH", "ERR syntax error"),
        ("SCAN 0 FOO 1", "ERR syntax error"),
    ],
)
def test_error(command: str, line: str) -> None:
    """A cursor or an option that is none gets Redis's error."""
    assert error_of(new_machine("SET k v"), command) == line


def test_scan_does_not_change_the_state() -> None:
    """Cursors are the node's own: a machine that scanned has the digest of one that did not."""
    machine = machine_with(numbered(50))
    before = machine.digest()
    assert not isinstance(machine.execute([b"scan", b"0"]), ErrorReply)
    assert machine.digest() == before
