"""The keyspace as an overlay: layers over a base read as one state, through freezes, checkpoints and flushes."""

from __future__ import annotations

import random

import pytest

from durable_raft.kv import keyspace as keyspace_module
from durable_raft.kv.keyspace import DROP_MAX, Keyspace
from durable_raft.kv.layer import HEAP_SLACK, Layer
from durable_raft.kv.records import SHORT_KEY_BYTES_MAX, Record, StateSummary, make_record, order_key
from tests.kv.state_views import PlainView

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
        self.frozen: tuple[Layer, dict[bytes, Record]] | None = None
        self.base: dict[bytes, Record] = {}
        self.checkpoints = self.clears = 0

    def step(self) -> None:
        """Do one random thing to both."""
        rng, keyspace, model = self.rng, self.keyspace, self.model
        key = rng.choice(KEYS)
        choice = rng.random()
        if choice < 0.4:
            value, deadline = b"%d" % rng.randrange(99), rng.choice((None, keyspace.time_ms + rng.randint(-1, 20)))
            keyspace.put(key, value, deadline)
            if deadline is not None and deadline <= keyspace.time_ms:
                model.pop(key, None)
            else:
                model[key] = make_record(key, value, deadline or 0)
        elif choice < 0.55:
            assert keyspace.remove(key) == model.pop(key, None)
        elif choice < 0.65:
            assert keyspace.persist(key) == (key in model and model[key].deadline_ms > 0)
            if key in model:
                model[key] = make_record(key, model[key].value)
        elif choice < 0.8:
            keyspace.advance_time(keyspace.time_ms + rng.randint(-5, 5))
            for gone in [k for k, r in model.items() if 0 < r.deadline_ms <= keyspace.time_ms]:
                del model[gone]
        elif choice < 0.98:
            self.checkpoint()
        else:
            self.clears += 1
            keyspace.clear()
            model.clear()

    def checkpoint(self) -> None:
        """Begin a checkpoint, or end the one under way as the disk would: base and frozen changes make the new base."""
        if self.frozen is None:
            self.frozen = self.keyspace.freeze(), dict(self.model)
            return
        layer, expected = self.frozen
        state = {} if layer.is_cleared else dict(self.base)
        for key, record in layer.sorted_changes():
            if record is None:
                state.pop(key, None)
            else:
                state[key] = record
        assert state == expected
        self.base, self.frozen = state, None
        self.keyspace.checkpointed(PlainView(state))
        self.checkpoints += 1

    def check(self) -> None:
        """Require that everything that can be asked agrees."""
        keyspace, model = self.keyspace, self.model
        expected = sorted(model.items(), key=lambda item: order_key(item[0]))
        assert list(keyspace.after(None, self.rng.randint(1, 5))) == expected
        start = self.rng.choice(KEYS)
        assert list(keyspace.after(start, 2)) == [i for i in expected if order_key(i[0]) > order_key(start)]
        assert {key: keyspace.find(key) for key in KEYS} == {key: model.get(key) for key in KEYS}
        assert keyspace.summary == summary_of(model)
        deadlines = [record.deadline_ms for record in model.values() if record.deadline_ms]
        assert keyspace.next_deadline_ms() == min(deadlines, default=None)


@pytest.mark.parametrize("seed", range(8))
def test_layers_read_as_one_state(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, order, counts, hash and deadlines are those of a plain dict, whatever is in which layer."""
    monkeypatch.setattr(keyspace_module, "DUE_CHUNK", 2)
    checked = Checked(seed)
    for _ in range(1500):
        checked.step()
        checked.check()
    assert checked.checkpoints > 50
    assert checked.clears > 5


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
    assert one.summary == other.summary
    for key, value, deadline in ((b"7", b"w", None), (b"7", b"v", 9), (b"100", b"v", None)):
        before = one.summary.state_hash
        one.put(key, value, deadline)
        assert one.summary.state_hash != before


def test_expired_keys_are_never_seen_and_dropped_in_bounded_steps() -> None:
    """When more keys expire at once than one entry drops, none is seen, and each entry drops its share."""
    keyspace = Keyspace()
    for number in range(DROP_MAX * 2 + 10):
        keyspace.put(b"%05d" % number, b"v", 100)
    keyspace.put(b"stays", b"v", None)
    keyspace.advance_time(100)
    assert keyspace.summary.key_count == DROP_MAX + 11
    assert [key for key, _ in keyspace.after(None)] == [b"stays"]
    assert keyspace.get(b"%05d" % (DROP_MAX * 2)) is None
    assert not keyspace.remove(b"%05d" % (DROP_MAX * 2))
    assert keyspace.next_deadline_ms() == 101
    keyspace.replace(b"%05d" % (DROP_MAX * 2 + 1), b"again")
    assert keyspace.find(b"%05d" % (DROP_MAX * 2 + 1)) == make_record(b"%05d" % (DROP_MAX * 2 + 1), b"again")
    keyspace.advance_time(101)
    keyspace.advance_time(102)
    assert keyspace.summary.key_count == 2
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
        assert whole.summary == layered.summary
    assert whole.summary.key_count == 0


def test_heap_of_deadlines_stays_bounded() -> None:
    """A key whose time to live is set again and again, or that is made and deleted for ever, does not fill memory."""
    keyspace = Keyspace()
    for number in range(100_000):
        keyspace.put(b"k", b"v", number + 1_000_000)
        if number % 2:
            keyspace.remove(b"k")
    assert len(keyspace._active._heap) <= HEAP_SLACK + 3
    keyspace.put(b"k", b"v", 50)
    assert keyspace.next_deadline_ms() == 50
    keyspace.advance_time(50)
    assert keyspace.summary == StateSummary()


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


def test_only_one_checkpoint_at_a_time() -> None:
    """A second freeze before the first checkpoint ended is a mistake that is named."""
    keyspace = Keyspace()
    keyspace.freeze()
    with pytest.raises(RuntimeError, match="under way"):
        keyspace.freeze()


def test_order_of_long_keys_is_a_total_order_of_bounded_length() -> None:
    """Order keys are distinct, at most 496 bytes, and those of short keys are the keys."""
    keys = [b"x" * length + tail for length in (0, 1, 479, 480, 481, 10_000) for tail in (b"", b"a", b"b")]
    orders = {order_key(key) for key in keys}
    assert len(orders) == len(set(keys))
    assert max(map(len, orders)) == SHORT_KEY_BYTES_MAX + 16
    assert all(order_key(key) == key for key in keys if len(key) <= SHORT_KEY_BYTES_MAX)
