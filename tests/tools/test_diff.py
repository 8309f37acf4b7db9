"""raftlog diff: where replicas differ, what they lack, and what is committed for certain."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from raftlog.commitment import Commitment, commitment_of
from raftlog.replicas import Held, Range, Replica

from durable_raft.raft.types import ORIGIN, Entry, Identity, Index, LogPoint, NodeId, Standing, Term
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY, pack_entries
from tests.storage.raw import change, flip_bit
from tests.support.log_building import MEMBERSHIP, point_of, write
from tests.tools.directories import make_log, make_state, raftlog, sets

# -- directories ------------------------------------------------------------------------------------------------------


def cluster(tmp_path: Path, *logs: list[Entry], term: int | None = None) -> list[Path]:
    """Make one directory per log, of n1, n2 and so on."""
    return [
        make_log(tmp_path / f"n{number}", log, node_id=f"n{number}", term=term) for number, log in enumerate(logs, 1)
    ]


def test_replicas_that_are_the_same(tmp_path: Path) -> None:
    """Exit code 0; nobody is behind, and a majority in one term proves all of it committed."""
    entries = sets(ORIGIN, [1, 1, 2, 2, 2])
    directories = cluster(tmp_path, entries, entries, entries)
    found = raftlog("diff", *directories)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0] == f"{directories[0]} node n1: entries 1..5, last term 2, no state"
    assert f"{directories[0]} and {directories[1]}: identical in 1..5" in lines
    assert "overall: no difference in 1..5" in lines
    ahead = ", ".join(map(str, directories))
    assert f"ahead: {ahead} alike, last entry index 5 term 2" in lines
    assert "certain: committed up to index 5 (term 2)" in lines
    assert "not certain" not in found.stdout


def test_behind_and_compacted(tmp_path: Path) -> None:
    """What each lacks is told; as far as they overlap they are identical, so exit code 0."""
    entries = sets(ORIGIN, [1] * 20)
    first = make_log(tmp_path / "n1", entries, compact_to=10)
    second = make_log(tmp_path / "n2", entries[:15], node_id="n2")
    make_state(first, entries[11])
    found = raftlog("diff", first, second)
    assert found.returncode == 0
    lines = found.stdout.splitlines()
    assert lines[0] == f"{first} node n1: entries 11..20, last term 1, state at index 12, compacted 1..10"
    assert lines[1] == f"{second} node n2: entries 1..15, last term 1, no state, behind: lacks 16..20"
    assert lines[2] == f"{first} and {second}: identical in 10..15"
    assert f"ahead: {first}, last entry index 20 term 1" in lines
    assert "certain: committed up to index 15 (term 1)" in lines
    assert f"  because applied up to index 12: the state in {first}" in lines
    assert any(line.startswith("not certain: 16..20: no state at a checkpoint covers it") for line in lines)


@pytest.mark.parametrize(
    ("other", "how", "index"),
    [
        (lambda entries: entries[:3] + sets(point_of(entries[2]), [2, 2]), "other term, other crc, other chain", 4),
        (lambda entries: entries[:3] + sets(point_of(entries[2]), [1, 1], "x"), "other crc, other chain", 4),
    ],
)
def test_the_first_difference(
    tmp_path: Path, other: Callable[[list[Entry]], list[Entry]], how: str, index: int
) -> None:
    """The first index and what is other there, of the pair and overall; exit code 1."""
    entries = sets(ORIGIN, [1] * 5)
    one, two, three = cluster(tmp_path, entries, entries, other(entries))
    found = raftlog("diff", one, two, three)
    assert (found.returncode, found.stderr) == (1, "")
    assert f"{one} and {two}: identical in 1..5" in found.stdout
    assert f"{one} and {three}: differ from index {index} on: {how} (term 1 crc " in found.stdout
    assert f"overall: they differ from index {index} on" in found.stdout


def test_histories_that_differ_before_what_is_common(tmp_path: Path) -> None:
    """The entry where they parted is compacted: only the chain of the base still tells; at the next entry too."""
    entries = sets(ORIGIN, [1] * 9)
    parted = sets(ORIGIN, [1], "x")
    parted += sets(point_of(parted[0]), [1] * 8)
    one = make_log(tmp_path / "n1", entries, compact_to=4)
    two = make_log(tmp_path / "n2", parted, node_id="n2")
    found = raftlog("diff", one, two)
    assert found.returncode == 1
    assert f"{one} and {two}: differ from index 4 on: other chain: they differ before that already" in found.stdout


def test_records_that_are_lost(tmp_path: Path) -> None:
    """An entry that one log does not know is not compared: exit code 1; a rotten payload changes nothing."""
    entries = sets(ORIGIN, [1] * 9)
    one, two = cluster(tmp_path, entries, entries)
    flip_bit(one, "log", LOG_KEY.pack(3, 0), 40 * 8)
    found = raftlog("diff", one, two)
    assert found.returncode == 0
    assert f"{one} note: 1 wounds: see raftlog verify" in found.stdout
    for index in (5, 6):
        change(two, "ident", IDENT_KEY.pack(index), None)
        change(two, "log", LOG_KEY.pack(index, 0), None)
    found = raftlog("diff", one, two, "--json")
    assert found.returncode == 1
    shown = json.loads(found.stdout)
    assert shown["replicas"][1]["unknown"] == [[5, 6]]
    assert shown["pairs"][0]["not_compared"] == [[5, 6]]
    assert shown["pairs"][0]["difference"] is None


def test_no_index_in_common(tmp_path: Path) -> None:
    """One ends before the other begins: nothing can be compared, exit code 1. An empty log overlaps there."""
    entries = sets(ORIGIN, [1] * 20)
    one = make_log(tmp_path / "n1", entries, compact_to=10)
    two = make_log(tmp_path / "n2", entries[:5], node_id="n2")
    three = make_log(tmp_path / "n3", [], node_id="n3")
    found = raftlog("diff", one, two)
    assert found.returncode == 1
    assert f"no index in common: {two} ends at 5, {one} begins behind 10" in found.stdout
    found = raftlog("diff", two, three)
    assert found.returncode == 0
    assert f"{three} node n3: entries none, last term 0, no state, behind: lacks 1..5" in found.stdout
    assert "nothing in common yet: a log is empty" in found.stdout


def test_json(tmp_path: Path) -> None:
    """All of it as one object."""
    entries = sets(ORIGIN, [1] * 5)
    other = entries[:3] + sets(point_of(entries[2]), [2])
    one, two = cluster(tmp_path, entries, other)
    make_state(one, entries[1])
    found = raftlog("diff", one, two, "--json")
    assert found.returncode == 1
    shown = json.loads(found.stdout)
    assert shown["code"] == 1
    assert shown["first_difference"] == 4
    (pair,) = shown["pairs"]
    assert (pair["directories"], pair["common"]) == ([str(one), str(two)], [0, 4])
    assert (pair["difference"]["index"], pair["difference"]["how"]) == (4, ["term", "crc", "chain"])
    assert [held["term"] for held in pair["difference"]["held"]] == [1, 2]
    assert pair["difference"]["held"][0]["crc"] == entries[3].crc
    assert shown["ahead"] == [str(two)], "the higher term, not the longer log (Raft §5.4.1)"
    assert (shown["certain"]["index"], shown["certain"]["chain"]) == (2, entries[1].chain)
    assert shown["not_certain"]["range"] == [3, 5]
    assert shown["replicas"][0]["checkpoint_index"] == 2
    assert shown["replicas"][1]["behind"] == [5, 5]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """Exit code 2 with the reason; the others are compared when they are two or more, and no majority is guessed."""
    entries = sets(ORIGIN, [1] * 5)
    one, two, three = cluster(tmp_path, entries, entries, entries)
    os.truncate(three / "raft" / "data.mdb", 3 * 4096)
    found = raftlog("diff", one, two, three)
    assert found.returncode == 2
    assert f"{one} and {two}: identical in 1..5" in found.stdout
    assert str(three) in found.stderr
    found = raftlog("diff", one, three)
    assert (found.returncode, found.stdout) == (2, "")
    for table in ("meta", "meta_copy"):
        flip_bit(two, table, b"meta", 99)
    found = raftlog("diff", one, two)
    assert (found.returncode, found.stdout) == (2, "")
    assert "meta: checksum" in found.stderr


def test_wrong_usage(tmp_path: Path) -> None:
    """Fewer than two directories, none that is one, or of two clusters: exit code 2."""
    (one,) = cluster(tmp_path, sets(ORIGIN, [1]))
    for arguments in ([], [one], [one, tmp_path], [one, tmp_path / "missing"]):
        found = raftlog("diff", *arguments)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr != ""
    LmdbLogStore.create(tmp_path / "x", Identity(b"another--cluster", NodeId("n2"), b"u" * 16), MEMBERSHIP)
    found = raftlog("diff", one, tmp_path / "x")
    assert (found.returncode, found.stdout) == (2, "")
    assert "directories of different clusters cannot be compared" in found.stderr


def test_a_running_nodes_directory(tmp_path: Path) -> None:
    """It is read while it is held; what comes later is seen the next time."""
    entries = sets(ORIGIN, [1] * 5)
    one, two = cluster(tmp_path, entries, entries)
    store = LmdbLogStore.open(one)
    store.load()
    shown = json.loads(raftlog("diff", one, two, "--json").stdout)
    assert [replica["is_running"] for replica in shown["replicas"]] == [True, False]
    assert shown["certain"]["index"] == 5
    store.persist([write(1, sets(point_of(entries[-1]), [1]))])
    shown = json.loads(raftlog("diff", one, two, "--json").stdout)
    assert shown["replicas"][1]["behind"] == [6, 6]
    assert (shown["certain"]["index"], shown["not_certain"]["range"]) == (5, [6, 6])
    store.close()


def test_a_state_whose_entry_no_log_has(tmp_path: Path) -> None:
    """It proves nothing of these logs, and is a conflict: exit code 1."""
    entries = sets(ORIGIN, [1] * 5)
    one, two = cluster(tmp_path, entries, entries, term=2)
    make_state(one, sets(ORIGIN, [1] * 3, "x")[-1])
    found = raftlog("diff", one, two)
    assert found.returncode == 1
    assert f"conflict: the state in {one} is at index 3 term 1" in found.stdout
    assert "certain: nothing" in found.stdout
    shutil.rmtree(one / "kv")
    assert raftlog("diff", one, two).returncode == 0


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    """The logs are compared without it."""
    entries = sets(ORIGIN, [1] * 5)
    one, two = cluster(tmp_path, entries, entries)
    make_state(one, entries[2])
    os.truncate(one / "kv" / "data.mdb", 100)
    found = raftlog("diff", one, two)
    assert found.returncode == 0
    assert f"{one} note: the state cannot be read: " in found.stdout


def test_a_chain_that_is_broken(tmp_path: Path) -> None:
    """A valid record of another history in the middle of a log is a difference at its index."""
    entries = sets(ORIGIN, [1] * 9)
    one, two = cluster(tmp_path, entries, entries)
    (stale,) = sets(LogPoint(Index(4), Term(1), 0x12345678), [1])
    idents, pieces = pack_entries([stale])
    change(two, "ident", idents[0][0], bytes(idents[0][1]))
    change(two, "log", pieces[0][0], bytes(pieces[0][1]))
    found = raftlog("diff", one, two)
    assert found.returncode == 1
    assert "differ from index 5 on: other chain" in found.stdout


def test_help_shows_examples_and_exit_codes() -> None:
    """One example a line, and what each exit code means."""
    found = raftlog("diff", "--help")
    assert "\n    raftlog diff n1 n2 n3\n" in found.stdout
    assert "0  identical as far as they overlap" in found.stdout


# -- what is certain --------------------------------------------------------------------------------------------------

VOTERS = ("n1", "n2", "n3")


def replica(node_id: str, terms: str, *, term: int | None = None, applied: int = 0, base: int = 0) -> Replica:
    """Return a stopped replica with an entry per digit of ``terms``; equal prefixes give equal entries."""
    entries = sets(ORIGIN, map(int, terms))
    held = {int(entry.index): Held(entry.term, entry.crc, entry.chain) for entry in entries[base:]}
    return Replica(
        f"/{node_id}",
        "cluster",
        node_id,
        VOTERS,
        is_voter=True,
        current_term=int(terms[-1]) if term is None else term,
        base=point_of(entries[base - 1]) if base else ORIGIN,
        entries=held,
        is_running=False,
        wounds=0,
        checkpoint=point_of(entries[applied - 1]) if applied else None,
    )


def certain(*replicas: Replica, is_all: bool = True) -> int:
    """Return up to where the log is certain."""
    found = commitment_of(replicas, is_all=is_all)
    assert (found.point is None) == (not found.reasons)
    return 0 if found.point is None else found.point.index


def test_applied_entries_are_certain() -> None:
    """One state is enough, whatever the terms, also for a log that begins there; not one that is before the first."""
    assert certain(replica("n1", "112", applied=2, term=9), replica("n2", "11", term=9)) == 2
    assert certain(replica("n1", "112", applied=2, term=9), replica("n2", "1122", term=9, base=2)) == 2
    assert certain(replica("n1", "112", term=9), replica("n2", "11", term=9)) == 0


def test_a_majority_in_its_term_is_certain() -> None:
    """Two of three, still in the term of the entry; one is none."""
    assert certain(replica("n1", "1122"), replica("n2", "1122")) == 4
    assert certain(replica("n1", "1122"), replica("n2", "112")) == 3
    assert certain(replica("n1", "1122"), replica("n2", "11", term=2)) == 0
    assert certain(replica("n1", "1122"), replica("n1", "1122")) == 0, "one node counts once"


def test_what_is_before_a_certain_entry_is_certain() -> None:
    """Entries of older terms are committed with the first of the leader's own (Raft §5.4.2)."""
    assert certain(replica("n1", "1112"), replica("n2", "111", term=2)) == 0
    assert certain(replica("n1", "1112"), replica("n2", "1112"), replica("n3", "1")) == 4


def test_figure_8() -> None:
    """(c): S1 leads term 4 and brings its entry of term 2 to a majority, which S5 may still overwrite with term 3.

    Without S5's log nothing shows that; only the term in which the three are does. With S5's log its term is higher.
    """
    voters = ("n1", "n2", "n3", "n4", "n5")
    seen = [replace(replica(name, "12", term=4), voters=voters) for name in ("n1", "n2", "n3")]
    assert certain(*seen) == 0
    fourth = replace(replica("n4", "1", term=3), voters=voters)
    fifth = replace(replica("n5", "13", term=3), voters=voters)
    assert certain(*seen, fourth, fifth) == 0
    # (e): an entry of term 4 itself on a majority.
    assert certain(*(replace(replica(name, "124"), voters=voters) for name in ("n1", "n2", "n3")), fifth) == 3


def test_all_logs_of_stopped_nodes() -> None:
    """No voter without the entry can win an election any more, though the terms went on; not so if one is not known."""
    one, two, three = replica("n1", "112", term=5), replica("n2", "112", term=5), replica("n3", "11", term=4)
    assert certain(one, two, three) == 3
    assert certain(one, two) == 0
    assert certain(one, two, three, is_all=False) == 0
    assert certain(one, two, replace(three, is_running=True)) == 0
    assert certain(one, two, replace(three, wounds=1)) == 0


def test_a_disk_that_is_no_voter_does_not_count() -> None:
    """What it holds, a disk that lost its promises may have from anywhere."""
    second = replace(replica("n2", "1122"), is_voter=False)
    assert certain(replica("n1", "1122"), second) == 0
    assert certain(replica("n1", "1122"), replica("n9", "1122")) == 0, "nor does one that is not a member"


def test_directories_that_name_different_voters() -> None:
    """Then no majority is counted."""
    found = commitment_of([replica("n1", "1"), replace(replica("n2", "1"), voters=("n1", "n2"))], is_all=True)
    assert found.point is None
    assert "name different voters" in found.why_open


def test_who_contradicts_what_is_committed() -> None:
    """A log with another entry where one is proven committed is named; one that is behind is not."""
    found: Commitment = commitment_of(
        [replica("n1", "112", applied=3), replica("n2", "113"), replica("n3", "11")], is_all=True
    )
    assert found.point is not None
    assert found.point.index == 3
    (conflict,) = found.conflicts
    assert conflict.startswith("/n2 holds at index 3 term 3 chain ")
    assert found.open_range is None


def test_the_open_range_and_its_reason() -> None:
    """What lies behind the last certain entry, and what is lacking for it."""
    found = commitment_of([replica("n1", "11222"), replica("n2", "112")], is_all=True)
    assert found.open_range == Range(4, 5)
    assert "behind index 3 no majority of the voters (n1, n2, n3)" in found.why_open


def test_standing_is_read_from_the_directory(tmp_path: Path) -> None:
    """A directory that is no voter's is shown as such, and proves nothing."""
    entries = sets(ORIGIN, [1] * 5)
    one = make_log(tmp_path / "n1", entries)
    two = make_log(tmp_path / "n2", entries, node_id="n2", standing=Standing(is_voter=False))
    found = raftlog("diff", one, two)
    assert found.returncode == 0
    assert f"{two} node n2: entries 1..5, last term 1, no state, does not count as a voter" in found.stdout
    assert "certain: nothing" in found.stdout
