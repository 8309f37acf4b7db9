"""The search for lost payloads (raft/healing.py): whom is asked, when and for how long; what is given, cut, let go."""

from __future__ import annotations

from itertools import pairwise

import pytest

from durable_raft.raft import healing
from durable_raft.raft.messages import FetchEntries, FetchEntriesResponse
from durable_raft.raft.types import Role
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_solo import accepted, append_entries, ask, lead, point_of, refused
from tests.support.raft_wounds import FIFTH, LOG, absent, asked, given, wounded

# -- whom is asked, when, and for how long -----------------------------------------------------------------------------


def test_what_is_found_lost_is_asked_for_at_once() -> None:
    """Not a heartbeat's time later; and it is said."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)})
    cluster.now += 40
    cluster.disk("n1").rotten = {2}
    cluster["n1"].lose(cluster.now, [cluster.disk("n1").lost(2)])
    assert cluster["n1"].deadline() == cluster.now
    assert cluster.counts["entry_lost"] == 1
    assert "entry_healed" not in cluster.counts
    cluster.fire("n1")
    assert list(asked(cluster).values()) == [[2]]


def test_a_leader_that_is_told_of_a_wound_steps_down_at_once() -> None:
    """Whoever reads the disk found it (the scrubber): the others hold the log whole."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)})
    lead(cluster)
    cluster.disk("n1").rotten = {2}
    cluster["n1"].lose(cluster.now, [cluster.disk("n1").lost(2)])
    assert cluster.role("n1") is Role.FOLLOWER


def test_a_wound_whose_entry_is_in_memory_costs_nothing() -> None:
    """It is written again from there; nobody is asked, and a leader leads on."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk("1")})
    lead(cluster)
    cluster.packets.clear()
    cluster.disk("n1").rotten = {2}
    cluster["n1"].lose(cluster.now, [cluster.disk("n1").lost(2)])
    assert cluster.role("n1") is Role.LEADER
    assert (cluster.counts["entry_lost"], cluster.counts["entry_healed"]) == (1, 1)
    cluster.fire("n1")
    assert asked(cluster) == {}
    assert not cluster["n1"].lost
    assert not cluster.disk("n1").rotten


def test_what_is_applied_and_found_lost_then_costs_the_leadership() -> None:
    """The machine reads far behind: the entry it cannot have is noted, and asked for."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)}, log_cache_bytes_max=0)
    term = lead(cluster)
    cluster.disk("n1").rotten = {2}
    cluster.tell("n1", "n2", accepted(term, 6))
    assert set(cluster["n1"].lost) == {2}
    assert cluster.role("n1") is Role.FOLLOWER
    assert [entry.index for entry in cluster.node("n1").applied] == [1]
    assert cluster["n1"].deadline() == cluster.now


def test_when_nothing_is_lost_any_more_nobody_is_asked() -> None:
    """And the rounds are not counted on."""
    cluster = wounded(2)
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=0))
    assert not cluster["n1"].lost
    cluster["n1"].peers_changed(cluster.now)
    cluster.fire("n1")
    assert asked(cluster) == {}
    healing.fetch(cluster["n1"].state)
    assert cluster["n1"].state.search.rounds == 0


@pytest.mark.parametrize(("voters", "rounds"), [("n1", 20), ("n1 n2", 20), ("n1 n2 n3", 40), ("n1 n2 n3 n4 n5", 80)])
def test_each_peer_is_asked_twenty_times_before_it_is_said_that_nobody_answers(voters: str, rounds: int) -> None:
    """Then again after as many rounds; a lone node has nobody to ask and says it as well."""
    disk = Disk(LOG)
    disk.rotten = {2, 4}
    cluster = Cluster(voters, real="n1", disks={"n1": disk})
    cluster.fire("n1")
    said = []
    for _ in range(3 * rounds):
        cluster["n1"].state.reset_election_deadline(cluster.now)
        cluster.now += 50
        cluster.fire("n1")
        said.append(cluster.counts.get("entries_missing", 0))
    assert [number for number, (before, after) in enumerate(pairwise([0, *said]), 1) if after > before] == [
        rounds,
        2 * rounds,
        3 * rounds,
    ]


def test_who_gave_something_is_asked_for_more_at_once() -> None:
    """A long list is healed as fast as the network carries it; the count of rounds starts again."""
    cluster = wounded(2, 4)
    cluster.fire("n1")
    for _ in range(5):
        cluster.now += 50
        cluster.fire("n1")
    assert cluster["n1"].state.search.rounds == 5
    cluster.packets.clear()
    cluster.tell("n1", "n3", given(entries_of(LOG)[1]))
    assert asked(cluster) == {"n3": [4]}
    assert cluster["n1"].state.search.rounds == 0
    assert cluster.counts["entry_healed"] == 1
    cluster.tell("n1", "n3", given(entries_of(LOG)[3]))
    assert asked(cluster) == {}


def test_who_gave_nothing_is_not_asked_at_once() -> None:
    """The next peer is, in its turn."""
    cluster = wounded(2)
    cluster.tell("n1", "n3", given(entries_of("1 3")[1]))
    assert asked(cluster) == {}
    assert "entry_healed" not in cluster.counts


def test_entries_are_given_as_many_as_an_append_entries_may_carry() -> None:
    """Up to the bound itself, one at least, and the others another time."""
    log = entries_of("1 1 1 1")
    wanted = FetchEntries(tuple(point_of(log, index) for index in range(1, 5)))
    for bytes_max, count in ((16, 4), (15, 3), (12, 3), (11, 2), (4, 1), (1, 1)):
        cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk("1 1 1 1")}, append_bytes_max=bytes_max)
        (answer,) = ask(cluster, "n2", wanted)
        assert isinstance(answer, FetchEntriesResponse)
        assert answer.entries == log[:count]
        assert answer.absent == ()


def test_an_entry_that_is_not_flushed_is_not_given() -> None:
    """It may be cut yet; that it is absent is not said either."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk("1")})
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1", term=1, after=1))
    (answer,) = ask(cluster, "n2", FetchEntries((point_of(entries_of("1 1"), 2),)))
    assert isinstance(answer, FetchEntriesResponse)
    assert (answer.entries, answer.absent) == ((), ())


@pytest.mark.parametrize(
    ("rotten", "base", "is_wanted"), [((3,), 2, False), ((3,), 3, True), ((3, 5), 3, True), ((2,), 3, False)]
)
def test_a_snapshot_is_wanted_for_what_lies_before_the_sender_s_log(
    rotten: tuple[int, ...], base: int, is_wanted: bool
) -> None:
    """For any entry that is not applied here; what its log still holds the sender can send itself."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)})
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=5, commit=2))
    cluster.disk("n1").rotten = set(rotten)
    cluster["n1"].lose(cluster.now, [cluster.disk("n1").lost(index) for index in rotten])
    log = entries_of(LOG)
    cluster.tell("n1", "n3", given(snapshot=point_of(log, 4), base=point_of(log, base)))
    assert bool(cluster.offers) is is_wanted


def test_the_cut_takes_every_entry_that_was_never_committed() -> None:
    """From the first such entry on, and it is said."""
    cluster = wounded(4, 5)
    log = entries_of(LOG)
    for peer in ("n2", "n3"):
        cluster.tell("n1", peer, absent(3, point_of(log, 4), point_of(log, 5)))
    assert not cluster["n1"].lost
    assert cluster["n1"].log.last.index == 3
    assert cluster.counts["lost_entries_cut"] == 1


def test_a_peer_that_has_left_the_term_of_the_loss_behind_needs_no_newer_one() -> None:
    """A wounded node campaigns for a newer term while somebody's answers are too old, and not afterwards."""
    cluster = wounded(5)
    state = cluster["n1"].state
    cluster.tell("n1", "n2", absent(2, FIFTH))
    state.search.rounds = 39
    assert not healing.needs_newer_term(state)
    state.search.rounds = 40
    assert healing.needs_newer_term(state)
    cluster.tell("n1", "n2", absent(3))
    assert not healing.needs_newer_term(state)


def test_the_log_may_go_up_to_the_last_needless_entry() -> None:
    """Of several that the checkpoint covers, the one at its very index included."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)})
    cluster.tell("n1", "n2", append_entries(LOG, term=2, after=5, commit=5))
    cluster.disk("n1").rotten = {1, 3, 4}
    cluster["n1"].lose(cluster.now, [cluster.disk("n1").lost(index) for index in (1, 3, 4)])
    cluster["n1"].checkpointed(point_of(entries_of(LOG), 3))
    cluster["n1"].state.search.rounds = 39
    assert cluster["n1"].needless_prefix() is None
    cluster["n1"].state.search.rounds = 40
    assert cluster["n1"].needless_prefix() == 3


def test_no_more_than_sixty_four_entries_are_asked_for_at_once() -> None:
    """The others when these are on their way."""
    cluster = wounded(*range(1, 71), terms=" ".join(["1"] * 70))
    cluster.fire("n1")
    assert [len(indexes) for indexes in asked(cluster).values()] == [64]


def test_a_leader_that_cannot_send_what_it_lost_leads_no_longer() -> None:
    """Whatever the machine does at that moment."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)}, log_cache_bytes_max=0)
    term = lead(cluster)
    cluster.disk("n1").rotten = {2}
    cluster.defers_work = True
    cluster.tell("n1", "n2", refused(term, rejected=5, conflict=2))
    cluster["n1"].ready(cluster.now, may_apply=False)
    assert cluster.role("n1") is Role.FOLLOWER


def test_a_leader_that_cannot_give_what_it_lost_leads_no_longer() -> None:
    """It noticed when another asked for that entry."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk(LOG)}, log_cache_bytes_max=0)
    lead(cluster)
    cluster.disk("n1").rotten = {2}
    cluster.defers_work = True
    cluster.tell("n1", "n2", FetchEntries((point_of(entries_of(LOG), 2),)))
    assert cluster.role("n1") is Role.FOLLOWER


def test_what_is_absent_is_said_up_to_where_the_answer_is_full() -> None:
    """What lies behind an entry that may not be given yet is looked for; what lies behind a full answer is not."""
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": Disk("1")}, append_bytes_max=4)
    cluster.slow("n1")
    cluster.tell("n1", "n2", append_entries("1 1", term=1, after=1))
    missing = point_of(entries_of("1 1 1"), 3)
    (answer,) = ask(cluster, "n2", FetchEntries((point_of(entries_of("1 1"), 2), missing)))
    assert isinstance(answer, FetchEntriesResponse)
    assert answer.absent == (missing,)
    cluster.fast("n1")
    first, second = (point_of(entries_of("1 1"), index) for index in (1, 2))
    (answer,) = ask(cluster, "n2", FetchEntries((first, second, missing)))
    assert isinstance(answer, FetchEntriesResponse)
    assert ([entry.index for entry in answer.entries], answer.absent) == ([1], ())
