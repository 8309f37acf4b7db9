"""raftlog replay: the state at any index equals a plain dict that took the same commands."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from raftlog.replaying import NotReplayable, Source, State, Value, changes

from durable_raft.errors import CorruptRecord
from durable_raft.kv.machine import VALUE_BYTES_MAX, Machine
from durable_raft.raft.ready import Write
from durable_raft.raft.types import ORIGIN, Base, Entry, EntryKind, Index, LogPoint, Term, make_entry
from durable_raft.storage.directory import KV, holds_environment
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.records import LOG_KEY
from durable_raft.storage.state.records import stored_key
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.view import open_view
from tests.cluster.harness import Cluster
from tests.storage.raw import change, flip_bit
from tests.support.batches import batch_of
from tests.support.log_building import MEMBERSHIP, point_of
from tests.tools.directories import flip_bit_of_state, identity, make_log, raftlog

TIME_MS = 1_700_000_000_000
Batch = list[list[bytes]]


@dataclass
class Model:
    """A plain dict of (value, deadline), and the time."""

    held: dict[bytes, tuple[bytes, int | None]] = field(default_factory=dict)

    def apply(self, time_ms: int, batch: Batch) -> None:
        """Take the commands of an entry."""
        self.held = {key: each for key, each in self.held.items() if each[1] is None or each[1] > time_ms}
        for name, *args in batch:
            key = args[0] if args else b""
            value, deadline_ms = self.held.get(key, (b"", None))
            if name == b"set":
                self.held[key] = (args[1], time_ms + int(args[3]) if len(args) > 2 else None)
            elif name == b"append":
                self.held[key] = (value + args[1], deadline_ms)
            elif name == b"del":
                self.held.pop(key, None)
            elif name == b"flushall":
                self.held = {}


def random_batch(rng: random.Random) -> Batch:
    """Return some commands on a few keys; some of them expire soon."""
    batch: Batch = []
    for _ in range(rng.randrange(5)):
        key = b"key:%d" % rng.randrange(12)
        value = b"%d" % rng.randrange(1000)
        batch.append(
            rng.choice(
                [[b"set", key, value], [b"set", key, value, b"px", b"%d" % rng.randrange(1, 40)]] * 3
                + [[b"append", key, value]] * 3
                + [[b"del", key]] * 2
            )
        )
    if rng.random() < 0.03:
        batch.append([b"flushall"])
    return batch


def entries_of(batches: list[Batch | None], step_ms: int = 5) -> list[Entry]:
    """Return one entry per batch; a NOOP for None."""
    entries: list[Entry] = []
    for number, batch in enumerate(batches, start=1):
        entries.append(
            make_entry(
                previous=point_of(entries[-1]) if entries else ORIGIN,
                term=Term(1 + number // 20),
                kind=EntryKind.NOOP if batch is None else EntryKind.COMMANDS,
                timestamp_ms=TIME_MS + number * step_ms,
                payload=b"" if batch is None else batch_of(batch),
            )
        )
    return entries


def models_of(batches: list[Batch | None], step_ms: int = 5) -> list[dict[bytes, tuple[bytes, int | None]]]:
    """Return what the dict holds at each index, from 0."""
    model = Model()
    found = [dict(model.held)]
    for number, batch in enumerate(batches, start=1):
        model.apply(TIME_MS + number * step_ms, batch or [])
        found.append(dict(model.held))
    return found


def checkpoint(directory: Path, entries: list[Entry], batches: list[Batch | None], at: int) -> None:
    """Write the state behind the entry at ``at`` as a node's checkpoint does."""
    machine = Machine(random.Random(1))
    for entry, batch in zip(entries[:at], batches[:at], strict=True):
        machine.advance_time(entry.timestamp_ms)
        for command in batch or []:
            machine.execute(command)
    summary = machine.summary()
    LmdbKvStore.create(directory, identity("n1"), MEMBERSHIP)
    store = LmdbKvStore.open(directory)
    last = entries[at - 1]
    store.write_checkpoint(
        machine.freeze().sorted_changes(),
        is_cleared=False,
        applied=Base(point_of(last), last.timestamp_ms),
        summary=summary,
        membership=MEMBERSHIP,
    )
    store.close()


def source(directory: Path, stack: ExitStack) -> Source:
    """Open a directory."""
    view = stack.enter_context(open_view(directory)) if holds_environment(directory, KV) else None
    return Source(stack.enter_context(LogReader.open(directory)), view, VALUE_BYTES_MAX)


def held(state: State) -> dict[bytes, tuple[bytes, int | None]]:
    """Return all that a state shows."""
    found = {}
    for key in state.matching():
        value = state.value(key)
        assert value is not None
        found[key] = (value.value, value.deadline_ms)
    assert list(found) == sorted(found)
    return found


BATCHES: list[Batch | None] = [
    None,
    [[b"set", b"city", b"Paris"], [b"set", b"n", b"1"]],
    [[b"set", b"city", b"\xffRome\n"], [b"set", b"soon", b"gone", b"px", b"8"], [b"incr", b"n"]],
    [[b"set", b"nil", b"(nil)"]],
    [[b"del", b"n"]],
    [],
]
"""Entries 1 to 6, 5 ms apart: ``soon`` expires between 4 and 5."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of six entries without a checkpoint."""
    return make_log(tmp_path / "node", entries_of(BATCHES))


@pytest.mark.parametrize("seed", range(6))
def test_every_index_equals_a_plain_dict(tmp_path: Path, seed: int) -> None:
    """From the empty state, from a checkpoint, and from one behind which the log begins; and every difference."""
    rng = random.Random(seed)
    batches = [None if rng.random() < 0.1 else random_batch(rng) for _ in range(60)]
    entries, models = entries_of(batches), models_of(batches)
    for at, compact_to in ((0, 0), (30, 0), (30, 20), (30, 30), (60, 60)):
        directory = make_log(tmp_path / f"{at}-{compact_to}", entries, compact_to=compact_to)
        if at:
            checkpoint(directory, entries, batches, at)
        with ExitStack() as stack:
            found = source(directory, stack)
            indexes = range(at if compact_to else 0, len(entries) + 1)
            assert found.ranges() == f"indexes [{indexes[0]}, 60]"
            states = {index: found.state_at(index) for index in indexes}
            for index, state in states.items():
                assert held(state) == models[index], f"seed {seed}, checkpoint {at}, index {index}"
                assert state.start == (at if index >= at else 0)
                assert state.machine.time_ms == (TIME_MS + 5 * index if index else 0)
            if compact_to:
                with pytest.raises(NotReplayable, match=rf"index {at - 1} cannot be replayed; indexes \[{at}, 60\]"):
                    found.state_at(at - 1)
            for _ in range(20):
                one, other = rng.choice(indexes), rng.choice(indexes)
                old, new = models[one], models[other]
                expected = [
                    (key, Value(*old[key]) if key in old else None, Value(*new[key]) if key in new else None)
                    for key in sorted({*old, *new})
                    if old.get(key) != new.get(key)
                ]
                assert list(changes(states[one], states[other])) == expected


def test_more_keys_than_one_page(tmp_path: Path) -> None:
    """Keys are listed in order across the pages of SCAN and the border between checkpoint and log, --count of them."""
    batches: list[Batch | None] = [[[b"set", b"%05d" % n, b"x"] for n in range(at, 4500, 3)] for at in range(3)]
    entries = entries_of(batches)
    directory = make_log(tmp_path / "node", entries, compact_to=2)
    checkpoint(directory, entries, batches, 2)
    found = raftlog("replay", directory, "--until", 3, "--scan")
    assert (found.returncode, found.stdout.split()) == (0, [f"{n:05d}" for n in range(4500)])
    found = raftlog("replay", directory, "--until", 2, "--scan", "0[13]*[27]", "--count", 3)
    assert (found.returncode, found.stdout.split()) == (0, ["01002", "01012", "01017"])


def test_summary(directory: Path) -> None:
    """Numbers of the state, where it was made from, and on standard error what may not be committed."""
    found = raftlog("replay", directory, "--until", 4)
    assert found.returncode == 0
    assert found.stderr == "nothing here says what is committed: entries above index 0 may not have been committed\n"
    lines = dict(line.split(":", 1) for line in found.stdout.splitlines())
    state_hash = lines.pop("state_hash")
    assert len(state_hash) == 16
    expected = {"index": 4, "term": 1, "keys": 4, "expires": 1, "cluster_time_ms": TIME_MS + 20}
    expected |= {"replayed_from": 0, "entries_applied": 4}
    assert lines == {name: str(value) for name, value in expected.items()}
    shown = json.loads(raftlog("replay", directory, "--until", 4, "--json").stdout)
    assert shown == expected | {"state_hash": state_hash}


def test_values(directory: Path) -> None:
    """In quotes as redis-cli prints them; (nil) is a key that is not there, or is expired."""
    found = raftlog("replay", directory, "--until", 4, "--get", "city", "--get", "n", "--get", "soon", "--get", "nil")
    assert (found.returncode, found.stdout.splitlines()) == (0, [r'"\xffRome\n"', '"2"', '"gone"', '"(nil)"'])
    found = raftlog("replay", directory, "--until", 5, "--get", "city", "--get", "n", "--get", "soon")
    assert found.stdout.splitlines() == [r'"\xffRome\n"', "(nil)", "(nil)"]
    found = raftlog("replay", directory, "--until", 4, "--get", "soon", "--get", "none", "--json")
    assert [json.loads(line) for line in found.stdout.splitlines()] == [
        {"key": "soon", "value": "gone", "deadline_ms": TIME_MS + 15 + 8},
        {"key": "none", "value": None},
    ]
    assert raftlog("replay", directory, "--until", 0, "--get", "city").stdout == "(nil)\n"


def test_keys(directory: Path) -> None:
    """In order; the pattern is Redis's; the default is all."""
    assert raftlog("replay", directory, "--until", 3, "--scan").stdout.split() == ["city", "n", "soon"]
    assert raftlog("replay", directory, "--until", 6, "--scan", "n*").stdout.split() == ["nil"]
    found = raftlog("replay", directory, "--until", 6, "--json", "--count", "1", "--scan")
    assert [json.loads(line) for line in found.stdout.splitlines()] == [{"key": "city"}]


def test_difference(directory: Path) -> None:
    """What was added, changed and removed from --until to --diff, with both values; the other way round likewise."""
    found = raftlog("replay", directory, "--until", 2, "--diff", 4)
    assert found.returncode == 0
    deadline = f"(deadline_ms {TIME_MS + 23})"
    assert found.stdout.splitlines() == [
        r'~ city "Paris" -> "\xffRome\n"',
        '~ n "1" -> "2"',
        '+ nil "(nil)"',
        f'+ soon "gone" {deadline}',
    ]
    found = raftlog("replay", directory, "--until", 4, "--diff", 2)
    assert found.stdout.splitlines()[2:] == ['- nil "(nil)"', f'- soon "gone" {deadline}']
    found = raftlog("replay", directory, "--until", 4, "--diff", 6, "--json")
    assert [json.loads(line) for line in found.stdout.splitlines()] == [
        {"change": "removed", "key": "n", "old": {"value": "2", "deadline_ms": None}, "new": None},
        {"change": "removed", "key": "soon", "old": {"value": "gone", "deadline_ms": TIME_MS + 23}, "new": None},
    ]
    assert raftlog("replay", directory, "--until", 6, "--diff", 6).stdout == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "7"], "index 7 cannot be replayed; indexes [0, 6] can: the log holds [1, 6], there is no"),
        (["--until", "6", "--diff", "9"], "index 9 cannot be replayed; indexes [0, 6] can"),
        ([], "Missing option '--until'"),
        (["--until", "x"], "'x' is not a valid integer"),
        (["--until", "2", "--scan", "--diff", "3"], "--get, --scan and --diff exclude each other"),
        (["--until", "2", "--count", "3"], "--count goes with --scan"),
        (["--until", "2", "--scan", "a" * 1025], "PATTERN has 1025 bytes, more than 1024"),
    ],
)
def test_what_cannot_be_asked(directory: Path, options: list[str], said: str) -> None:
    """Exit code 2 and what was expected; nothing on standard output."""
    found = raftlog("replay", directory, *options)
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr


def test_no_data_directory(tmp_path: Path) -> None:
    """Exit code 2."""
    found = raftlog("replay", tmp_path, "--until", 1)
    assert (found.returncode, found.stdout) == (2, "")
    assert "is not a data directory" in found.stderr


def test_a_log_that_begins_late(tmp_path: Path) -> None:
    """Without its checkpoint there is nothing to begin with; with one behind a gap only the checkpoint itself."""
    entries = entries_of(BATCHES)
    directory = make_log(tmp_path / "node", entries, compact_to=4)
    found = raftlog("replay", directory, "--until", 5)
    assert found.returncode == 2
    assert "index 5 cannot be replayed; no index can: the log holds [5, 6], there is no checkpoint" in found.stderr
    checkpoint(directory, entries, BATCHES, 2)
    found = raftlog("replay", directory, "--until", 5)
    assert found.returncode == 2
    assert "index 5 cannot be replayed; indexes [2, 2] can: " in found.stderr
    found = raftlog("replay", directory, "--until", 2, "--get", "city")
    assert (found.returncode, found.stdout, found.stderr) == (0, '"Paris"\n', "")


def test_what_is_committed_for_certain(tmp_path: Path) -> None:
    """Up to the checkpoint, wherever the replay begins, nothing is in doubt."""
    entries = entries_of(BATCHES)
    directory = make_log(tmp_path / "node", entries)
    checkpoint(directory, entries, BATCHES, 4)
    for index in (2, 4):
        assert raftlog("replay", directory, "--until", index).stderr == ""
    assert "entries above index 4 may not have been committed" in raftlog("replay", directory, "--until", 5).stderr


def test_a_wound_on_the_way(directory: Path) -> None:
    """It is named, exit code 1; before it everything can be replayed."""
    flip_bit(directory, "log", LOG_KEY.pack(3, 0), 40 * 8)
    found = raftlog("replay", directory, "--until", 5, "--get", "city")
    assert (found.returncode, found.stdout) == (1, "")
    assert "stopped at index 3: --until 2 is the last state before the wound" in found.stderr
    assert "log index 3 term 1: checksum: expected crc 0x" in found.stderr
    assert raftlog("replay", directory, "--until", 2, "--get", "city").stdout == '"Paris"\n'


def test_an_entry_that_is_gone(tmp_path: Path) -> None:
    """A hole is a wound, also right behind the checkpoint, where no entry before it would show it."""
    entries = entries_of(BATCHES)
    directory = make_log(tmp_path / "node", entries)
    checkpoint(directory, entries, BATCHES, 3)
    change(directory, "ident", (4).to_bytes(8, "big"), None)
    change(directory, "log", LOG_KEY.pack(4, 0), None)
    found = raftlog("replay", directory, "--until", 5)
    assert (found.returncode, found.stdout) == (1, "")
    assert "ident index 4: missing" in found.stderr


def test_damage_to_the_checkpoint(tmp_path: Path) -> None:
    """A rotten record is named when it is read; a checkpoint that cannot be opened is done without if possible."""
    entries = entries_of(BATCHES)
    directory = make_log(tmp_path / "node", entries)
    checkpoint(directory, entries, BATCHES, 3)
    compacted = make_log(tmp_path / "compacted", entries, compact_to=3)
    checkpoint(compacted, entries, BATCHES, 3)
    flip_bit_of_state(directory, "keys", stored_key(b"city"), 14 * 8)
    found = raftlog("replay", directory, "--until", 4, "--get", "city")
    assert (found.returncode, found.stdout) == (1, "")
    assert "keys key b'city': checksum" in found.stderr
    for each in (directory, compacted):
        flip_bit_of_state(each, "meta", b"meta", 99)
        flip_bit_of_state(each, "meta_copy", b"meta", 99)
    found = raftlog("replay", directory, "--until", 4, "--get", "city")
    assert (found.returncode, found.stdout) == (0, '"\\xffRome\\n"\n')
    assert "so the log is replayed from its beginning: meta: checksum" in found.stderr
    found = raftlog("replay", compacted, "--until", 4)
    assert (found.returncode, found.stdout) == (1, "")
    assert "meta: checksum" in found.stderr


def test_another_history(tmp_path: Path) -> None:
    """A log that does not continue the checkpoint is not applied to it; another node's is not either."""
    entries = entries_of(BATCHES)
    others = entries_of([[[b"set", b"other", b"history"]], *BATCHES[1:]])
    directory = make_log(tmp_path / "node", others)
    checkpoint(directory, entries, BATCHES, 3)
    with ExitStack() as stack:
        found = source(directory, stack)
        assert found.committed() == 0
        with pytest.raises(CorruptRecord, match=r"entry 4 with chain .* does not continue the checkpoint at index 3"):
            found.state_at(5)
    foreign = make_log(tmp_path / "foreign", entries, node_id="n2")
    shutil.copytree(directory / "kv", foreign / "kv")
    answer = raftlog("replay", foreign, "--until", 5)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "the state belongs to node n1, the log to n2" in answer.stderr


@pytest.mark.parametrize(
    ("payload", "code", "said"),
    [
        (batch_of([[b"hset", b"a", b"b", b"c"]]), 2, "entry 1: command b'hset' is none that this build knows"),
        (batch_of([[b"set", b"a"]]), 1, "entry 1: 2 arguments of b'set', expected -3"),
        (b"\x09nothing", 2, "entry 1: batch of version 9"),
        (b"\x01nothing", 1, "entry 1: batch of 8 bytes"),
    ],
)
def test_what_this_build_cannot_apply(tmp_path: Path, payload: bytes, code: int, said: str) -> None:
    """It is never skipped."""
    entry = make_entry(previous=ORIGIN, term=Term(1), kind=EntryKind.COMMANDS, timestamp_ms=1, payload=payload)
    found = raftlog("replay", make_log(tmp_path / "node", [entry]), "--until", 1)
    assert (found.returncode, found.stdout) == (code, "")
    assert said in found.stderr


def test_a_log_that_is_cut_meanwhile(tmp_path: Path) -> None:
    """What a running node takes away before it was read is noticed."""
    entries = entries_of(BATCHES)
    directory = make_log(tmp_path / "node", entries)
    with ExitStack() as stack:
        store = stack.enter_context(closing(LmdbLogStore.open(directory)))
        store.load()
        # LMDB opens a file once in a process, so that the two share it here.
        found = Source(LogReader(store._environment, store._tables), None, VALUE_BYTES_MAX)
        store.persist([Write(1, None, Index(5), ())])
        with pytest.raises(NotReplayable, match="entry 5 was compacted or cut while the log was read"):
            found.state_at(6)
        assert found.state_at(4).point == LogPoint(Index(4), Term(1), entries[3].chain)


def test_the_setting_of_the_nodes(tmp_path: Path) -> None:
    """A command that was refused because of --value-bytes-max is refused again."""
    directory = make_log(tmp_path / "node", entries_of([[[b"set", b"a", b"12345"], [b"append", b"a", b"6"]]]))
    assert raftlog("replay", directory, "--until", 1, "--get", "a").stdout == '"123456"\n'
    found = raftlog("replay", directory, "--until", 1, "--get", "a", "--value-bytes-max", 5)
    assert found.stdout == '"12345"\n'


@pytest.mark.cluster
def test_a_real_node(tmp_path: Path) -> None:
    """While it runs and after: each index that was answered equals a dict; the hash is what the node says."""
    cluster = Cluster(1, tmp_path / "cluster")
    try:
        node = cluster.leader()
        client = cluster.client(node)
        model: dict[str, str] = {}
        models: dict[int, dict[str, str]] = {}
        for number in range(60):
            key = f"key:{number % 17}"
            if number % 5 == 4:
                client.delete(key)
                model.pop(key, None)
            else:
                client.set(key, f"value {number}")
                model[key] = f"value {number}"
            info = cluster.info(node)
            assert info is not None
            models[int(info["raft_last_applied"])] = dict(model)
            if number == 30:
                client.execute_command("RAFT", "CHECKPOINT")  # type: ignore[no-untyped-call]
        directory = cluster.nodes[node].directory
        last = max(models)
        shown = json.loads(raftlog("replay", directory, "--until", last, "--json").stdout)
        assert {shown["state_hash"]} == cluster.state_hashes()
        assert 0 < shown["replayed_from"] < last
        for index in sorted(models)[::7]:
            found = raftlog("replay", directory, "--until", index, "--scan")
            assert (found.returncode, found.stdout.split()) == (0, sorted(models[index]))
        assert cluster.stop(node) == 0
        with ExitStack() as stack:
            stopped = source(directory, stack)
            for index, expected in models.items():
                values = {key.decode(): value.decode() for key, (value, _) in held(stopped.state_at(index)).items()}
                assert values == expected
    finally:
        cluster.close()
