"""The version of a cluster: what a node says that it can, the entry that raises it, and who refuses what."""

from __future__ import annotations

import pytest

from durable_raft.errors import MalformedVersion, PeerMisbehaved, UnknownFormatVersion
from durable_raft.raft.messages import FetchEntriesResponse
from durable_raft.raft.types import ORIGIN, VERSION, Entry, EntryKind, Index, LogPoint, Term, make_entry
from durable_raft.raft.versions import (
    FIRST,
    OURS,
    VERSION_MAX,
    Versions,
    decode_version,
    encode_version,
    heard,
    require,
    say,
)
from tests.support.raft_solo import append_entries, ask, solo


def test_what_a_node_says_is_what_others_hear() -> None:
    """Behind the version of its software, where a node of 0.1.0 looks at nothing."""
    assert say("0.2.0", OURS) == "0.2.0 1-2"
    for versions in (OURS, Versions(1, 1), Versions(3, 70), Versions(1, VERSION_MAX)):
        assert heard(say("7.0.0.dev1+x 1", versions)) == versions


@pytest.mark.parametrize("text", ["0.1.0", "", "1", "0.2.0 1", "0.2.0 0-2", "0.2.0 3-2", "0.2.0 1-2 ", "x 1-²", "1-2"])
def test_who_says_nothing_of_it_can_the_first_version(text: str) -> None:
    """So does who says what no program says: no number of it is believed."""
    assert heard(text) == Versions(FIRST, FIRST)


def test_golden_bytes_of_the_payload() -> None:
    """They are stored, and sent."""
    assert (encode_version(2), encode_version(258)) == (b"\x00\x02", b"\x01\x02")
    assert [decode_version(Index(3), encode_version(each)) for each in (1, 2, VERSION_MAX)] == [1, 2, VERSION_MAX]


@pytest.mark.parametrize("payload", [b"", b"\x02", b"\x00\x00", b"\x00\x00\x02"])
def test_a_payload_that_is_no_version_is_refused(payload: bytes) -> None:
    """With the entry that has it."""
    with pytest.raises(MalformedVersion, match=f"entry 3: {payload.hex()!r} as a version, expected u16 above 0"):
        decode_version(Index(3), payload)


def test_a_program_refuses_a_cluster_that_it_cannot() -> None:
    """With what it can, and the way out."""
    require(OURS, OURS.newest, "here")
    why = "here: the cluster has version 3, and this program can versions 1 to 2: install a newer one"
    with pytest.raises(UnknownFormatVersion, match=why):
        require(Versions(1, 2), 3, "here")
    with pytest.raises(UnknownFormatVersion, match="has version 1, and this program can version 2"):
        require(Versions(2, 2), 1, "here")


def test_a_leader_appends_the_entry_and_nobody_else_does() -> None:
    """At the time of the entry before: the version has no time of its own."""
    cluster = solo("1 1", term=1, voters="n1")
    cluster.elect("n1")
    raft = cluster["n1"]
    entry = raft.propose(encode_version(2), raft.log.last_timestamp_ms, VERSION)
    assert entry is not None
    assert (entry.kind, entry.payload, raft.log.last.index) == (VERSION, b"\x00\x02", entry.index)
    assert solo("1 1")["n1"].propose(encode_version(2), 0, VERSION) is None


def _malformed(previous: LogPoint) -> Entry:
    return make_entry(previous=previous, term=Term(2), kind=EntryKind.VERSION, timestamp_ms=9, payload=b"\x02")


def test_a_leader_that_sends_no_version_is_refused_before_it_is_stored() -> None:
    """No correct node proposes one; stored, it would end every node where it is applied."""
    cluster = solo("1 1", term=1)
    sound = append_entries("1 1 2", term=2, after=2)
    previous = LogPoint(sound.prev_log_index, sound.prev_log_term, sound.prev_log_chain)
    with pytest.raises(PeerMisbehaved, match="entry 3: '02' as a version"):
        ask(cluster, "n2", sound._replace(entries=(_malformed(previous),)))
    assert cluster["n1"].log.last.index == 2
    healing = FetchEntriesResponse(Term(2), (_malformed(ORIGIN),), (), ORIGIN, ORIGIN)
    with pytest.raises(PeerMisbehaved, match="entry 1: '02' as a version"):
        ask(cluster, "n2", healing)
