"""A large command on its way through one node: in slices, with other events between them, and in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.kv import large_batch
from durable_raft.kv.batch import decode_commands
from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.runs import Run
from durable_raft.raft.types import EntryKind, Term, make_entry
from durable_raft.server import dispatch, pending
from durable_raft.server.pending import Slot
from tests.support.batches import batch_of
from tests.support.desk import N2, N3, Desk, desk_at
from tests.support.desk_client import Client
from tests.support.raft_solo import accepted

VALUE = "v" * 1000


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch of 500 bytes be large, and a slice have 100."""
    monkeypatch.setattr(large_batch, "SLICE_BYTES", 100)
    for module in (large_batch, pending, dispatch):
        monkeypatch.setattr(module, "LARGE_BYTES", 500)
    # Arguments are cut from 64 KiB on; for the test all of the value is one argument in many packed bytes.
    monkeypatch.setattr(large_batch, "SLICE_ARGS", 1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower that knows no leader."""
    with desk_at(tmp_path / "n1") as made:
        yield made


def send(desk: Desk) -> Client:
    """Have a new client's large SET taken in, and no turn given."""
    client = desk.client()
    slot = Slot(client, 2)
    client.slots.append(slot)
    desk.dispatcher.route_run(slot, COMMANDS[b"set"], Run(b"set", 1, [b"large", VALUE.encode()]))
    return client


def one_turn(desk: Desk) -> None:
    """Run what the loop has now, and not what that asks for."""
    for _ in range(len(desk.loop.soon)):
        callback, args = desk.loop.soon.popleft()
        callback(*args)


def test_a_large_batch_is_encoded_in_turns(desk: Desk) -> None:
    """The loop has other turns before it is proposed; what comes behind it stays behind it."""
    desk.lead()
    before = len(desk.proposed)
    client = send(desk)
    turns = 0
    while len(desk.proposed) == before:
        one_turn(desk)
        turns += 1
        assert turns < 100
    assert turns > 3
    client.send("set small 1")
    desk.acknowledge()
    desk.acknowledge()
    assert [decode_commands(entry.payload)[0][1] for entry in desk.proposed[before:]] == [b"large", b"small"]
    assert client.replies == [b"+OK\r\n", b"+OK\r\n"]


def test_a_large_batch_that_was_not_proposed_moves_with_its_commands(desk: Desk) -> None:
    """Leadership is lost while it is encoded: it had no effect, and its client is sent on."""
    desk.lead()
    before = len(desk.proposed)
    client = send(desk)
    one_turn(desk)
    assert desk.dispatcher.has_due()
    desk.follow(N3)
    assert (client.replies[0] or b"").startswith(b"-MOVED ")
    assert len(desk.proposed) == before


def test_a_large_entry_is_decoded_in_turns_before_it_is_applied(desk: Desk) -> None:
    """A follower answers its leader meanwhile; then the entry is applied, and what is behind it."""
    log = desk.raft.log
    payloads = [
        batch_of([[b"set", b"large", VALUE.encode()], [b"set", b"b", b"1"]]),
        batch_of([[b"get", b"b"]]),
    ]
    entries = []
    place = log.last
    term = desk.raft.current_term + 1
    for payload in payloads:
        entry = make_entry(
            previous=place, term=Term(term), kind=EntryKind.COMMANDS, timestamp_ms=2_000_000, payload=payload
        )
        entries.append(entry)
        place = type(place)(entry.index, entry.term, entry.chain)
    desk.follow(N2, *entries, term=term)
    desk.turn()
    assert log.last_applied == entries[-1].index
    assert desk.machine.execute([b"get", b"large"]) == VALUE.encode()


def test_heartbeats_are_answered_while_a_large_entry_is_decoded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn is longer than a slice: between two of them the node hears its leader."""
    steps = 0
    step = large_batch.BatchDecoder.step

    def count(decoder: large_batch.BatchDecoder) -> bool:
        nonlocal steps
        steps += 1
        return step(decoder)

    monkeypatch.setattr(large_batch.BatchDecoder, "step", count)
    log = desk.raft.log
    payload = batch_of([[b"set", b"large", VALUE.encode()]])
    entry = make_entry(
        previous=log.last, term=Term(7), kind=EntryKind.COMMANDS, timestamp_ms=2_000_000, payload=payload
    )
    desk.follow(N2, entry, term=7)
    assert steps > 2
    assert log.last_applied == entry.index


def test_a_leader_does_not_decode_what_it_proposed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It still has the commands."""
    desk.lead()
    monkeypatch.setattr(large_batch.BatchDecoder, "step", None)
    client = desk.client()
    client.send(f"set large {VALUE}")
    desk.hear(N2, accepted(desk.raft.current_term, desk.raft.log.last.index, desk.raft.state.read_round))
    assert client.replies == [b"+OK\r\n"]
