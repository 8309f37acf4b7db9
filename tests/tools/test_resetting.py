"""``raftlog repair --reset-term`` and ``--reset-disks``: what is forgotten, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.raft.ready import Write
from durable_raft.raft.types import ORIGIN, Entry, HardState, Index, KnownDisk, NodeId, Standing, Term
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.log_building import entries_after, point_of
from tests.tools.test_repair import directory_of, new_ones, raftlog, rot

LAST = 2**63 - 1


@pytest.fixture
def log() -> list[Entry]:
    """Return six entries, the last ones of term 3."""
    first = entries_after(ORIGIN, 4, term=1)
    return first + entries_after(point_of(first[-1]), 2, term=3)


def stored(directory: Path) -> tuple[HardState, Standing, list[Entry]]:
    """Return what a directory holds."""
    store = LmdbLogStore.open(directory)
    try:
        found = store.load()
        return found.hard_state, found.standing, store.entries(Index(1), Index(found.last.index + 1), 1 << 30)
    finally:
        store.close()


def know(directory: Path, *known: KnownDisk, cut_in: int = 0) -> None:
    """Have a directory know these disks of its peers."""
    store = LmdbLogStore.open(directory)
    try:
        store.load()
        store.persist([Write(2, None, None, (), None, Standing(peers=known, cut_in=Term(cut_in)))])
    finally:
        store.close()


def three(place: Path, log: list[Entry]) -> list[Path]:
    """Return the directories of a cluster whose term no election can pass; one has not all entries."""
    held = {"n1": log, "n2": log, "n3": log[:5]}
    return [directory_of(place, node, entries, term=LAST) for node, entries in held.items()]


def repair(directories: list[Path], *options: str) -> tuple[int, str]:
    """Run the tool on all of them."""
    peers = [word for directory in directories[1:] for word in ("--peers", str(directory))]
    return raftlog("repair", directories[0], *peers, *options)


def test_terms_begin_again_above_every_entry(tmp_path: Path, log: list[Entry]) -> None:
    """And no vote is left; the logs come out whole."""
    directories = three(tmp_path, log)
    code, said = repair(directories, "--reset-term")
    assert code == 1, said
    assert not new_ones(tmp_path), "a dry run wrote"
    assert "all begin again in term 4, which is above every entry" in said
    code, said = repair(directories, "--reset-term", "--apply")
    assert code == 0, said
    for made in new_ones(tmp_path).values():
        held, _, entries = stored(made)
        assert held == HardState(Term(4), None)
        assert entries == log


def test_terms_begin_again_above_every_leader_that_was_acknowledged_to(tmp_path: Path, log: list[Entry]) -> None:
    """It may have died before an entry of its own was stored anywhere."""
    directories = three(tmp_path, log)
    know(directories[0], KnownDisk(NodeId("n2"), b"n2".ljust(16, b"-"), (), None, Term(3), Index(6), Term(9)))
    know(directories[1], cut_in=8)
    assert "all begin again in term 10" in repair(directories, "--reset-term")[1]


@pytest.mark.parametrize("option", ["--reset-term", "--lose-from-index=5"])
def test_nobody_is_owed_what_was_given_up(tmp_path: Path, log: list[Entry], option: str) -> None:
    """Else each node calls the others copies, and nobody can lead. What they acknowledge from then on is owed."""
    directories = [directory_of(tmp_path, node, log, term=4) for node in ("n1", "n2", "n3")]
    know(directories[0], KnownDisk(NodeId("n2"), b"n2".ljust(16, b"-"), (), None, Term(3), Index(6), Term(4)))
    if option.startswith("--lose"):
        for directory in directories:
            rot(directory, 5)
    code, said = repair(directories, option, "--apply")
    assert code == 0, said
    for made in new_ones(tmp_path).values():
        held, standing, _ = stored(made)
        assert standing.cut_in == held.current_term + 1 > 4


def test_a_node_that_is_not_there_may_hold_a_vote(tmp_path: Path, log: list[Entry]) -> None:
    """So nothing is forgotten without every directory."""
    for option in ("--reset-term", "--reset-disks"):
        code, said = repair(three(tmp_path / option, log)[:2], option, "--apply")
        assert code == 2, said
        assert "every member's directory is needed" in said
        assert "missing n3" in said


def test_entries_of_the_last_terms_cannot_be_helped(tmp_path: Path) -> None:
    """There is no room above them."""
    entries = entries_after(ORIGIN, 2, term=LAST)
    directories = [directory_of(tmp_path, node, entries, term=LAST) for node in ("n1", "n2", "n3")]
    code, said = repair(directories, "--reset-term", "--apply")
    assert code == 2, said
    assert "no room for terms above it" in said


def test_the_directories_that_are_given_are_the_disks(tmp_path: Path, log: list[Entry]) -> None:
    """What others knew instead is not heard any more; what they knew of the others stays."""
    directories = three(tmp_path, log)
    real = {node: node.encode().ljust(16, b"-") for node in ("n1", "n2", "n3")}
    older, forged = b"an older disk---", b"a forged disk---"
    know(
        directories[0],
        KnownDisk(NodeId("n2"), real["n2"], (older,)),
        KnownDisk(NodeId("n3"), forged, (older, real["n3"])),
    )
    code, said = repair(directories, "--reset-disks", "--apply")
    assert code == 0, said
    assert "n1 know another disk of n3" in said
    assert "are in doubt" not in said
    _, standing, _ = stored(new_ones(tmp_path)["n1"])
    known = {each.node_id: (each.node_uuid, each.former) for each in standing.peers}
    assert known == {NodeId("n2"): (real["n2"], (older,)), NodeId("n3"): (real["n3"], (older, forged))}


def test_an_operator_is_told_when_more_are_in_doubt_than_a_majority_can_bear(tmp_path: Path, log: list[Entry]) -> None:
    """Then only he can know that nothing is lost."""
    directories = three(tmp_path, log)
    known = [KnownDisk(NodeId(node), b"a forged disk---", (node.encode().ljust(16, b"-"),)) for node in ("n2", "n3")]
    know(directories[0], *known)
    assert "2 of 3 are in doubt" in repair(directories, "--reset-disks")[1]
