"""The list of work (raft/work_list.py): what counts as a loss to be noticed, and what waits for the machine."""

from __future__ import annotations

from durable_raft.raft.core import Raft
from durable_raft.raft.ready import Ready
from durable_raft.raft.types import Index, LostEntry, Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_solo import accepted, lead, solo
from tests.support.raft_wounds import wounded


def quiet_leader() -> tuple[Cluster, Raft]:
    """Return a leader with three entries, all flushed, applied and in memory, that has nothing to do."""
    cluster = solo()
    term = lead(cluster)
    for payload in ("a", "b"):
        cluster.propose("n1", payload)
    for peer in ("n2", "n3"):
        for match in (1, 3):
            cluster.tell("n1", peer, accepted(term, match))
    core = cluster["n1"]
    assert not core.has_ready(cluster.now)
    return cluster, core


def known_lost(core: Raft, index: int) -> None:
    """Have a loss known that was noticed before, as it is while its copy is on the way to the disk."""
    (entry,) = core.log.entries(Index(index), Index(index + 1), 0)
    core.log.lost[Index(index)] = LostEntry(entry.index, entry.term, entry.crc, entry.chain)


def test_a_leader_whose_lost_entry_left_its_memory_has_work() -> None:
    """While a copy is in memory it can send it; afterwards others hold the log whole and it does not."""
    cluster, core = quiet_leader()
    known_lost(core, 2)
    assert not core.has_ready(cluster.now)
    core.log._cache.pop(Index(2))
    assert core.has_ready(cluster.now)
    core.ready(cluster.now)
    assert core.role is Role.FOLLOWER


def test_a_follower_that_noticed_its_losses_has_no_work() -> None:
    """They are asked for when its timer says so."""
    cluster = wounded(2)
    cluster.fire("n1")
    core = cluster["n1"]
    assert core.lost
    assert core.role is Role.FOLLOWER
    assert not core.has_ready(cluster.now)
    assert core.ready(cluster.now) == Ready()


def test_what_is_for_the_machine_waits_for_it() -> None:
    """Entries, and reads though the entry they name was applied long ago."""
    cluster = solo(voters="n1")
    cluster.timeout("n1")
    core = cluster["n1"]
    cluster.defers_work = True
    cluster.read("n1")
    assert core.has_ready(cluster.now)
    assert core.has_ready(cluster.now, may_apply=True)
    assert not core.has_ready(cluster.now, may_apply=False)
    assert core.ready(cluster.now, may_apply=False) == Ready()
    assert len(core.ready(cluster.now).reads) == 1
    assert not core.has_ready(cluster.now)


def test_what_is_not_for_the_machine_does_not_wait() -> None:
    """It goes to the disk and to peers."""
    cluster, core = quiet_leader()
    core.propose(b"x", 0)
    assert core.has_ready(cluster.now, may_apply=False)
    ready = core.ready(cluster.now, may_apply=False)
    assert ready.write is not None
    assert len(ready.messages) == 2
