"""The keyspace as an overlay: layers over a base read as one state, through freezes, checkpoints and flushes."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable

import pytest

from durable_raft.kv import keyspace as keyspace_module
from durable_raft.kv.deadlines import HEAP_SLACK
from durable_raft.kv.keyspace import DROP_MAX, FROZEN_MAX, Keyspace
from durable_raft.kv.layer import CHANGE_BYTES, Layer
from durable_raft.kv.records import SHORT_KEY_BYTES_MAX, Record, StateSummary, make_record, order_key, value_of
from durable_raft.storage.state.change import Settlement
from tests.kv.state_views import CountedView, PlainView

KEYS = [b"", b"a", b"ab", b"b", b"k1", b"k2", b"k3", b"z", b"x" * 480, b"x" * 481, b"x" * 600 + b"1", b"x" * 600 + b"2"]


def summary_of(state: dict[bytes, Record]) -> StateSummary:
    """Return the summary that counting every record gives."""
    records = list(state.values())
    return StateSummary(len(records), sum(bool(r.deadline_ms) for r in records), sum(r.crc for r in records))


class Checked:
    """A keyspace beside a plain dict of what must be kept."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.keyspace = Keyspace()
        self.model: dict[bytes, Record] = {}
        self.frozen: deque[tuple[Layer, dict[bytes, Record]]] = deque()
        self.base: dict[bytes, Record] = {}
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        """Do one random thing to both."""
        choices = (
            (self.put, 30),
            (self.put_run, 20),
            (self.change, 10),
            (self.remove, 15),
            (self.persist, 8),
            (self.advance, 15),
            (self.freeze, 12),
            (self.end_checkpoint, 12),
            (self.settle, 10),
            (self.clear, 2),
        )
        (chosen,) = self.rng.choices([step for step, _ in choices], [weight for _, weight in choices])
        self.done[chosen.__name__] += 1
        chosen()

    def put(self) -> None:
        """Set a key, with a deadline or without; one that is past removes it."""
        key, value = self.rng.choice(KEYS), b"%d" % self.rng.randrange(99)
        deadline = self.rng.choice((None, self.keyspace.time_ms + self.rng.randint(-1, 20)))
        self.keyspace.put(key, value, deadline)
        if deadline is not None and deadline <= self.keyspace.time_ms:
            self.model.pop(key, None)
        else:
            self.model[key] = make_record(key, value, deadline or 0)

    def put_run(self) -> None:
        """Set several keys at once, one of them twice."""
        keys = self.rng.choices(KEYS, k=self.rng.randint(1, 6))
        values = [b"v" * self.rng.randrange(9) for _ in keys]
        self.keyspace.put_all_for_ever(keys, values)
        self.model |= {key: make_record(key, value) for key, value in zip(keys, values, strict=True)}

    def change(self) -> None:
        """Replace a value and leave its deadline, or put something behind it."""
        key = self.rng.choice(KEYS)
        before = self.model.get(key)
        if before is not None and self.rng.random() < 0.3:
            self.keyspace.extend(key, before, b"+")
            self.model[key] = make_record(key, bytes(before.value) + b"+", before.deadline_ms)
        else:
            self.keyspace.replace(key, self.keyspace.look_up(key), b"w")
            self.model[key] = make_record(key, b"w", before.deadline_ms if before else 0)

    def remove(self) -> None:
        """Remove a key."""
        key = self.rng.choice(KEYS)
        found, gone = self.keyspace.remove(key), self.model.pop(key, None)
        assert (None if found is None else bytes(found)) == (None if gone is None else bytes(gone.value))

    def persist(self) -> None:
        """Take a deadline away."""
        key = self.rng.choice(KEYS)
        assert self.keyspace.persist(key) == (key in self.model and self.model[key].deadline_ms > 0)
        if key in self.model:
            self.model[key] = make_record(key, self.model[key].value)

    def advance(self) -> None:
        """Move the time."""
        self.keyspace.advance_time(self.keyspace.time_ms + self.rng.randint(-5, 5))
        for gone in [k for k, r in self.model.items() if 0 < r.deadline_ms <= self.keyspace.time_ms]:
            del self.model[gone]

    def clear(self) -> None:
        """Remove all."""
        self.keyspace.clear()
        self.model.clear()

    def freeze(self) -> None:
        """Begin a checkpoint, if another may be under way."""
        if self.keyspace.may_freeze:
            self.frozen.append((self.keyspace.freeze(), dict(self.model)))

    def end_checkpoint(self) -> None:
        """End the oldest one as the disk would: base and frozen changes make the new base, settled from old heads."""
        if not self.frozen:
            return
        layer, expected = self.frozen.popleft()
        state = {} if layer.is_cleared else dict(self.base)
        settlement = Settlement(summary_of(state))
        for key, record in layer.sorted_changes():
            old = state.pop(key, None)
            settlement.settle([None if old is None else (old.crc, old.deadline_ms)], [record])
            if record is not None:
                state[key] = make_record(key, bytes(record.value), record.deadline_ms)
                assert state[key].crc == record.crc
        assert state == expected
        assert settlement.summary == summary_of(state)
        self.base = state
        self.keyspace.checkpointed(PlainView(state))

    def settle(self) -> None:
        """Look for a few keys below."""
        self.keyspace.settle(self.rng.randint(1, 3))

    def check(self) -> None:
        """Require that everything that can be asked agrees."""
        keyspace, model = self.keyspace, self.model
        expected = sorted(model.items(), key=lambda item: order_key(item[0]))
        assert _plain(keyspace.after(None, self.rng.randint(1, 5))) == expected
        start = self.rng.choice(KEYS)
        assert _plain(keyspace.after(start, 2)) == [i for i in expected if order_key(i[0]) > order_key(start)]
        assert dict(_plain((key, keyspace.find(key)) for key in KEYS)) == {key: model.get(key) for key in KEYS}
        deadlines = [record.deadline_ms for record in model.values() if record.deadline_ms]
        assert keyspace.next_deadline_ms() == min(deadlines, default=None)
        keys, with_deadline = keyspace.counts
        assert keys >= len(model)
        assert with_deadline >= len(deadlines)
        if keyspace.is_settled:
            assert (keys, with_deadline) == (len(model), len(deadlines))
        if self.rng.random() < 0.2:
            assert keyspace.summary() == summary_of(model)
            assert keyspace.is_settled
        values = sum(len(value_of(kept)) for kept in keyspace._active.changes.values() if kept is not None)
        size = values + sum(CHANGE_BYTES + len(key) for key in keyspace._active.changes)
        assert keyspace.active_bytes + keyspace._active.shared_bytes == size


def _plain(items: Iterable[tuple[bytes, Record | None]]) -> list[tuple[bytes, Record | None]]:
    """Return keys and records, each value in one piece."""
    return [(key, None if r is None else r._replace(value=bytes(r.value))) for key, r in items]


@pytest.mark.parametrize("seed", range(8))
def test_layers_read_as_one_state(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, order, counts, hash and deadlines are those of a plain dict, whatever is in which layer."""
    monkeypatch.setattr(keyspace_module, "DUE_CHUNK", 2)
    checked = Checked(seed)
    for _ in range(1500):
        checked.step()
        checked.check()
    assert checked.done["end_checkpoint"] > 50
    assert checked.done["clear"] > 5


def test_different_ways_to_a_state_give_one_summary() -> None:
    """The state hash depends on the state alone, and another value, deadline or key gives another hash."""
    one, other = Keyspace(), Keyspace()
    for number in range(100):
        one.put(b"%d" % number, b"v", None)
    for number in reversed(range(200)):
        other.put(b"%d" % number, b"w", 1000)
    for number in range(200):
        other.put(b"%d" % number, b"v", None)
    for number in range(100, 200):
        other.remove(b"%d" % number)
    assert one.summary() == other.summary()
    for key, value, deadline in ((b"7", b"w", None), (b"7", b"v", 9), (b"100", b"v", None)):
        before = one.summary().state_hash
        one.put(key, value, deadline)
        assert one.summary().state_hash != before


def test_expired_keys_are_never_seen_and_dropped_in_bounded_steps() -> None:
    """When more keys expire at once than one entry drops, none is seen, and each entry drops its share."""
    keyspace = Keyspace()
    for number in range(DROP_MAX * 2 + 10):
        keyspace.put(b"%05d" % number, b"v", 100)
    keyspace.put(b"stays", b"v", None)
    keyspace.advance_time(100)
    assert keyspace.summary().key_count == DROP_MAX + 11
    assert [key for key, _ in keyspace.after(None)] == [b"stays"]
    assert keyspace.get(b"%05d" % (DROP_MAX * 2)) is None
    assert not keyspace.remove(b"%05d" % (DROP_MAX * 2))
    assert keyspace.next_deadline_ms() == 101
    late = b"%05d" % (DROP_MAX * 2 + 1)
    keyspace.replace(late, keyspace.look_up(late), b"again")
    assert keyspace.find(b"%05d" % (DROP_MAX * 2 + 1)) == make_record(b"%05d" % (DROP_MAX * 2 + 1), b"again")
    keyspace.advance_time(101)
    keyspace.advance_time(102)
    assert keyspace.summary().key_count == 2
    assert keyspace.next_deadline_ms() is None


def test_replicas_drop_the_same_keys_wherever_they_lie() -> None:
    """Which keys one entry drops does not depend on what is in the overlay and what in the base."""
    keys = [b"%05d" % number for number in range(DROP_MAX * 3)]
    whole, layered = Keyspace(), Keyspace()
    state: dict[bytes, Record] = {}
    for number, key in enumerate(keys):
        deadline = 100 + number * 7 % 10
        whole.put(key, b"v", deadline)
        layered.put(key, b"v", deadline)
        state[key] = make_record(key, b"v", deadline)
        if number == DROP_MAX:
            layered.freeze()
            layered.checkpointed(PlainView(dict(state)))
        elif number == DROP_MAX * 2:
            layered.freeze()
    for time_ms in (150, 151, 152):
        whole.advance_time(time_ms)
        layered.advance_time(time_ms)
        assert whole.summary() == layered.summary()
    assert whole.summary().key_count == 0


def test_heap_of_deadlines_stays_bounded() -> None:
    """A key whose time to live is set again and again, or that is made and deleted for ever, does not fill memory."""
    keyspace = Keyspace()
    for number in range(100_000):
        keyspace.put(b"k", b"v", number + 1_000_000)
        if number % 2:
            keyspace.remove(b"k")
    assert len(keyspace._active.due) <= 2 * (HEAP_SLACK + 2)
    keyspace.put(b"k", b"v", 50)
    assert keyspace.next_deadline_ms() == 50
    keyspace.advance_time(50)
    assert keyspace.summary() == StateSummary()


def test_deadlines_that_were_passed_are_not_read_again_after_a_checkpoint() -> None:
    """Thousands may have expired while it was written, and the next look at them is one turn of the event loop."""
    records = {b"%05d" % number: make_record(b"%05d" % number, b"v", 100 + number) for number in range(3000)}
    keyspace = Keyspace(PlainView(records))
    keyspace.put(b"soon", b"v", 50)
    keyspace.freeze()
    for _ in range(10):
        keyspace.advance_time(3000)
    assert keyspace.counts == (3001 - 10 * DROP_MAX, 3001 - 10 * DROP_MAX)
    view = CountedView(records)
    keyspace.checkpointed(view)
    assert keyspace.is_dropping
    assert [read[0] for read in view.reads] == ["due"]
    keyspace.freeze()
    keyspace.put_all_for_ever([b"%05d" % number for number in range(2500)], [b"v"] * 2500)
    keyspace.reset_time(40)
    assert keyspace.next_deadline_ms() == 2600, "those before have none any more"
    keyspace.put(b"sooner", b"v", 45)
    keyspace.freeze()
    keyspace.checkpointed(PlainView({key: records[key] for key in [*records][10 * DROP_MAX :]}))
    keyspace.checkpointed(
        PlainView({key: records[key] for key in [*records][2500:]} | {b"sooner": make_record(b"sooner", b"v", 45)})
    )
    assert keyspace.next_deadline_ms() == 45, "what the checkpoint put before them counts"


def test_overlay_says_how_much_memory_it_takes() -> None:
    """The size follows values as they are replaced, and starts again with a checkpoint."""
    keyspace = Keyspace()
    for _ in range(10):
        keyspace.put(b"k", bytes(100_000), None)
    assert 100_000 < keyspace.overlay_bytes < 102_000
    keyspace.freeze()
    assert keyspace.overlay_changes == 0
    assert keyspace.overlay_bytes > 100_000
    keyspace.checkpointed(PlainView({b"k": make_record(b"k", bytes(100_000))}))
    assert keyspace.overlay_bytes == 0


def test_a_value_that_three_layers_share_is_counted_once() -> None:
    """In the lowest of them that is left."""
    keyspace = Keyspace()
    value = bytes(100_000)
    keyspace.put(b"k", value, None)
    for _ in range(FROZEN_MAX):
        keyspace.freeze()
        record = keyspace.find(b"k")
        assert record is not None
        keyspace.extend(b"k", record, b"+")
        assert 100_000 < keyspace.overlay_bytes < 102_000
    for count in range(FROZEN_MAX):
        keyspace.checkpointed(PlainView({b"k": make_record(b"k", value + b"+" * count)}))
        assert 100_000 < keyspace.overlay_bytes < 102_000
    assert keyspace.active_bytes == keyspace.overlay_bytes


def test_only_so_many_checkpoints_at_a_time() -> None:
    """One freeze more before the first checkpoint ended is a mistake that is named."""
    keyspace = Keyspace()
    for _ in range(FROZEN_MAX):
        assert keyspace.may_freeze
        keyspace.freeze()
    assert not keyspace.may_freeze
    with pytest.raises(RuntimeError, match="under way"):
        keyspace.freeze()
    keyspace.checkpointed(PlainView({}))
    keyspace.freeze()


def test_order_of_long_keys_is_a_total_order_of_bounded_length() -> None:
    """Order keys are distinct, at most 496 bytes, and those of short keys are the keys."""
    keys = [b"x" * length + tail for length in (0, 1, 479, 480, 481, 10_000) for tail in (b"", b"a", b"b")]
    orders = {order_key(key) for key in keys}
    assert len(orders) == len(set(keys))
    assert max(map(len, orders)) == SHORT_KEY_BYTES_MAX + 16
    assert all(order_key(key) == key for key in keys if len(key) <= SHORT_KEY_BYTES_MAX)
