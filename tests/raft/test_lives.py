"""Old copies of whole directories (raft/lives.py): known before they promise anything, and when they may again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_raft.raft.messages import Introduce, IntroduceResponse, Resume, ResumeResponse
from durable_raft.raft.types import HardState, Index, KnownDisk, Life, NodeId, Role, Standing, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_solo import accepted, append_entries, appends_to, ask, campaign, lead, request_vote, vote

MINE = bytes(16)
"""The uuid that the cluster of the tests gives to n1."""
HERE, THERE = b"here", b"away"
BEFORE = (Life(3, b"life 3.."), Life(4, b"life 4.."))
"""What the directory of n1 has lived so far."""
NOW = Life(5, b"here   1")
"""The life that n1 begins with."""


def living(*, place: bytes = HERE, terms: str = "1 1", voters: str = "n1 n2 n3", is_accepted: bool = False) -> Cluster:
    """Return n1, whose directory was last in ``HERE``, among played peers that it knows."""
    disk = Disk(terms, place=place)
    peers = tuple(KnownDisk(NodeId(name), name.encode().ljust(16), ()) for name in voters.split()[1:])
    disk.standing = Standing(peers=peers, lives=BEFORE, place=HERE)
    cluster = Cluster(voters, real="n1", disks={"n1": disk})
    if is_accepted:
        cluster.crash("n1")
        cluster.node("n1").config = replace(cluster.node("n1").config, accept_old_copy=True)
        cluster.restart("n1")
    cluster.fire("n1")
    return cluster


def answer(
    cluster: Cluster,
    source: str,
    *,
    went_back: bool = False,
    in_place: bool = True,
    term: int = 1,
    owed: tuple[int, int] = (0, 0),
    owed_in: int = 1,
    nonce: bytes | None = None,
) -> None:
    """Have ``source`` answer to the life of n1."""
    nonce = cluster.node("n1").config.life if nonce is None else nonce
    cluster.tell(
        "n1",
        source,
        ResumeResponse(nonce, went_back, in_place, Term(term), Term(owed[0]), Index(owed[1]), Term(owed_in)),
    )


def introduced(cluster: Cluster, *, highest: int = 0) -> None:
    """Have both peers answer n1's introduction; ``highest`` is the latest life that one of them knew."""
    life = cluster.node("n1").config.life
    for peer, number in (("n2", highest), ("n3", 0)):
        cluster.tell("n1", peer, IntroduceResponse(MINE, False, peer.encode().ljust(16), life, number))


# -- the node that begins a life ---------------------------------------------------------------------------------------


def test_a_voter_promises_nothing_before_a_majority_looked_at_its_life() -> None:
    """It tells its life once that is flushed. One answer of two is enough where it is in its place."""
    cluster = living()
    assert cluster.sent("n1", "n2") == [Resume(MINE, (*BEFORE, NOW), True, False)]
    assert cluster.disk("n1").standing.lives == (*BEFORE, NOW)
    assert cluster["n1"].waits_for() == ("n2", "n3")
    (refusal,) = ask(cluster, "n2", request_vote(3, 9, 2))
    assert not refusal.vote_granted  # type: ignore[union-attr]
    cluster.now += 1_000
    cluster.fire("n1")
    assert cluster.role("n1") is Role.FOLLOWER
    assert ask(cluster, "n3", append_entries("1 1", term=3, after=2)) == []
    answer(cluster, "n3")
    assert cluster["n1"].is_voter
    assert cluster.counts["resumed"] == 1
    assert not cluster["n1"].is_old_copy
    cluster.now += 1_000
    (granted,) = ask(cluster, "n2", request_vote(4, 9, 2))
    assert granted.vote_granted  # type: ignore[union-attr]


def test_a_life_is_told_when_it_is_flushed() -> None:
    """Else a power cut could make it begin twice."""
    disk = Disk("1 1", place=HERE)
    cluster = Cluster("n1 n2 n3", real="n1", disks={"n1": disk})
    cluster.slow("n1")
    cluster.fire("n1")
    assert not cluster.sent("n1", "n2")
    cluster.flush("n1")
    assert [type(message) for message in cluster.sent("n1", "n2")] == [Resume]


def test_a_life_is_told_again_until_all_know_it() -> None:
    """Every heartbeat at first; then at leisure, and when a link comes up."""
    cluster = living()
    answer(cluster, "n3")
    cluster.packets.clear()
    cluster.now += 50
    cluster.fire("n1")
    cluster.packets.clear()
    cluster["n1"].peers_changed(cluster.now)
    cluster.fire("n1")
    assert [packet.target for packet in cluster.packets if isinstance(packet.message, Resume)] == ["n2"]
    answer(cluster, "n2")
    assert not cluster["n1"].state.has_life_to_tell


def test_a_life_is_told_to_a_disk_that_replaced_another() -> None:
    """The disk that knew of it is gone, and the new one is to know a copy of this directory, too."""
    cluster = living()
    for peer in ("n2", "n3"):
        answer(cluster, peer)
    assert not cluster["n1"].state.has_life_to_tell
    cluster.packets.clear()

    cluster.tell("n1", "n2", Introduce(b"another disk".ljust(16), 1, b"another "))
    cluster.fire("n1")

    assert [packet.target for packet in cluster.packets if isinstance(packet.message, Resume)] == ["n2"]
    assert cluster["n1"].is_voter


def test_an_answer_to_another_life_is_not_an_answer() -> None:
    """It was delayed."""
    cluster = living()
    answer(cluster, "n3", nonce=b"life 4..", went_back=True)
    assert not cluster["n1"].is_voter
    assert cluster["n1"].waits_for() == ("n2", "n3")


def test_a_directory_that_was_copied_waits_for_all_and_for_a_leader() -> None:
    """A majority without it is in its place, so that can elect; only its leader's word for this very life counts."""
    cluster = living(place=THERE)
    assert cluster["n1"].is_old_copy
    answer(cluster, "n2")
    assert not cluster["n1"].is_voter
    assert cluster.counts.get("went_back", 0) == 0
    answer(cluster, "n3")
    assert cluster.counts["went_back"] == 1
    assert cluster.disk("n1").standing.is_copy
    introduced(cluster)
    assert not cluster["n1"].is_voter, "admitted by its peers, as a first disk is"
    heartbeat = append_entries("2 2", term=2, after=0)
    (said,) = ask(cluster, "n2", heartbeat)
    assert said.asks_admission  # type: ignore[union-attr]
    cluster.tell("n1", "n2", heartbeat._replace(admits=MINE))
    assert not cluster["n1"].is_voter
    cluster.tell("n1", "n2", heartbeat._replace(admits=MINE + cluster.node("n1").config.life))
    assert cluster["n1"].is_voter
    assert not cluster["n1"].is_old_copy
    standing = cluster.disk("n1").standing
    assert (standing.is_copy, standing.is_voter, standing.place) == (False, True, THERE)


def test_an_admitted_copy_keeps_the_vote_that_it_remembers() -> None:
    """A copy that voted for another in the very term of the leader who admits it changes no vote (Raft §5.2)."""
    cluster = living(place=THERE)
    answer(cluster, "n2")
    answer(cluster, "n3")
    introduced(cluster)
    state = cluster["n1"].state
    state.hard_state = HardState(Term(2), NodeId("n3"))
    heartbeat = append_entries("2 2", term=2, after=0)
    cluster.tell("n1", "n2", heartbeat._replace(admits=MINE + cluster.node("n1").config.life))
    assert cluster["n1"].is_voter
    assert (cluster["n1"].current_term, cluster["n1"].voted_for) == (2, "n3")


def test_a_copy_stays_one_over_restarts() -> None:
    """Until it is admitted."""
    cluster = living(place=THERE)
    answer(cluster, "n2", went_back=True)
    cluster.disk("n1").place = HERE
    cluster.crash("n1")
    cluster.restart("n1")
    cluster.fire("n1")
    introduced(cluster)
    assert cluster["n1"].is_old_copy
    assert not cluster["n1"].is_voter


def test_directories_that_were_all_moved_resume_when_all_have_answered() -> None:
    """As when a cluster changes machines. A vote that was forgotten is spent, in the highest term of all."""
    cluster = living(place=THERE)
    answer(cluster, "n2", in_place=False, term=4)
    assert not cluster["n1"].is_voter
    answer(cluster, "n3", term=3)
    assert cluster["n1"].is_voter
    assert (cluster["n1"].current_term, cluster["n1"].voted_for) == (4, "n1")
    assert cluster.disk("n1").standing.place == THERE
    (said,) = ask(cluster, "n2", request_vote(4, 9, 3))
    assert not said.vote_granted


@pytest.mark.parametrize("leads", [False, True])
def test_a_directory_of_which_a_later_life_is_known_is_a_copy(*, leads: bool) -> None:
    """Whenever the answer comes."""
    cluster = living()
    if leads:
        answer(cluster, "n2")
        cluster.now += 1_000
        lead(cluster)
    answer(cluster, "n3", went_back=True)
    assert cluster.role("n1") is Role.FOLLOWER
    assert cluster.disk("n1").standing.is_copy
    assert not cluster["n1"].is_voter
    cluster["n1"].peers_changed(cluster.now)
    cluster.fire("n1")
    assert [message for message in cluster.sent("n1", "n2") if isinstance(message, Introduce)]


def test_a_copy_that_was_admitted_counts_its_lives_on_from_the_latest_that_was_known() -> None:
    """So that a peer which goes back itself does not accuse it of what it was cleared of."""
    cluster = living()
    answer(cluster, "n3", went_back=True)
    introduced(cluster, highest=9)
    life = cluster.node("n1").config.life
    cluster.tell("n1", "n2", append_entries("2 2", term=2, after=0)._replace(admits=MINE + life))
    assert cluster.disk("n1").standing.lives == (Life(10, life),)


def test_a_directory_that_holds_less_than_it_acknowledged_is_a_copy() -> None:
    """The ends of logs are compared as by a voter (Raft §5.4.1)."""
    cluster = living()
    answer(cluster, "n3", owed=(1, 2))
    assert cluster["n1"].is_voter
    cluster = living()
    answer(cluster, "n3", owed=(1, 3))
    assert not cluster["n1"].is_voter
    assert cluster["n1"].is_old_copy
    assert cluster.counts["went_back"] == 1


@pytest.mark.parametrize("leader", ["n2", "n3"])
def test_a_log_is_judged_as_its_life_found_it(leader: str) -> None:
    """A leader fills it up before the answer to this life is there: its own, or another peer's."""
    cluster = living()
    if leader == "n2":
        answer(cluster, "n2")
    cluster.tell("n1", leader, append_entries("1 1 1", term=1, after=2))
    assert cluster.disk("n1").last.index == (3 if leader == "n2" else 2)
    answer(cluster, "n3", owed=(1, 3))
    assert cluster["n1"].is_old_copy


def test_a_leader_that_has_not_said_what_it_is_owed_is_followed_and_not_answered() -> None:
    """It might forget it over the answer. It is asked again at once, not at leisure."""
    cluster = living()
    answer(cluster, "n2")
    cluster.fire("n1")
    cluster.packets.clear()
    for _ in range(20):
        cluster.now += 50
        cluster.tell("n1", "n3", append_entries("1 1 1", term=3, after=2))
        cluster.fire("n1")
    assert cluster["n1"].state.leader_id == "n3"
    assert {type(message) for message in cluster.sent("n1", "n3")} == {Resume}
    assert cluster.disk("n1").last.index == 2
    answer(cluster, "n3")
    (said,) = ask(cluster, "n3", append_entries("1 1 1", term=3, after=2))
    assert said.match_index == 3  # type: ignore[union-attr]


def test_what_is_acknowledged_in_this_life_is_not_owed_by_an_earlier_one() -> None:
    """The answer to the question that was asked twice comes twice."""
    cluster = living()
    answer(cluster, "n3")
    cluster.tell("n1", "n3", append_entries("1 1 1", term=1, after=2))
    answer(cluster, "n3", owed=(1, 3))
    assert cluster["n1"].is_voter


def test_what_is_acknowledged_in_this_life_to_a_new_disk_is_not_owed_by_an_earlier_one() -> None:
    """A peer's disk was replaced while this node was down, answers first, and tells only later that it is another."""
    cluster = living()
    answer(cluster, "n2")
    answer(cluster, "n3")
    cluster.tell("n1", "n3", append_entries("1 1 1", term=1, after=2))
    assert cluster.disk("n1").last.index == 3
    cluster.tell("n1", "n3", Introduce(b"another disk".ljust(16), 1, b"another "))
    answer(cluster, "n3", owed=(1, 3))
    assert cluster["n1"].is_voter


def test_what_was_cut_for_a_later_leader_is_not_owed() -> None:
    """Its entries may be of older terms than what was cut (Figure 8). What was acknowledged since is owed."""
    cluster = living(terms="1 3")
    answer(cluster, "n3")
    cluster.tell("n1", "n3", append_entries("1 2 2 4", term=4, after=1, upto=2))
    assert cluster.disk("n1").standing.cut_in == 4
    cluster.restart("n1")
    answer(cluster, "n2", owed=(3, 2), owed_in=3)
    assert cluster["n1"].is_voter
    answer(cluster, "n3", owed=(2, 3), owed_in=4)
    assert not cluster["n1"].is_voter


def test_a_newer_term_pays_what_is_owed_of_an_older_one() -> None:
    """Its suffix was cut since, and replaced."""
    cluster = living(terms="1 2")
    answer(cluster, "n3", owed=(1, 7))
    assert cluster["n1"].is_voter


def test_a_late_answer_that_says_what_is_owed_counts_too() -> None:
    """A leader gives its office up: it lacks what it acknowledged."""
    cluster = living()
    answer(cluster, "n2")
    cluster.now += 1_000
    lead(cluster)
    answer(cluster, "n3", owed=(7, 3))
    assert cluster.role("n1") is Role.FOLLOWER
    assert not cluster["n1"].is_voter


def test_an_operator_may_accept_an_old_copy() -> None:
    """It votes at once, whatever is known of it."""
    cluster = living(place=THERE, is_accepted=True)
    assert cluster["n1"].is_voter
    assert cluster.counts["old_copy_accepted"] == 1
    answer(cluster, "n3", went_back=True)
    assert cluster["n1"].is_voter
    assert not cluster["n1"].is_old_copy


def test_lives_are_not_counted_where_there_is_nobody_to_tell() -> None:
    """A cluster of one."""
    cluster = Cluster("n1", disks={"n1": Disk("1 1", place=HERE)})
    assert cluster["n1"].is_voter
    cluster.timeout("n1")
    assert cluster.role("n1") is Role.LEADER


# -- its peers ---------------------------------------------------------------------------------------------------------


def knowing(life: Life | None, *, voters: str = "n1 n2 n3") -> Cluster:
    """Return n1, a voter that knows ``life`` of the disk of n2."""
    disk = Disk("1 1")
    disk.standing = Standing(peers=(KnownDisk(NodeId("n2"), b"disk of n2------", (), life),))
    return Cluster(voters, real="n1", disks={"n1": disk})


def resume(*lives: Life, in_place: bool = True, accepted: bool = False) -> Resume:
    """Return what n2 says when it begins the last of ``lives``."""
    return Resume(b"disk of n2------", lives, in_place, accepted)


@pytest.mark.parametrize(
    ("known", "lives", "went_back"),
    [
        (None, (NOW,), False),
        (Life(4, b"life 4.."), (*BEFORE, NOW), False),
        (Life(2, b"life 2.."), (*BEFORE, NOW), False),
        (NOW, (*BEFORE, NOW), False),
        (Life(4, b"another4"), (*BEFORE, NOW), True),
        (Life(5, b"another5"), (*BEFORE, NOW), True),
        (Life(9, b"life 9.."), (*BEFORE, NOW), True),
    ],
)
def test_a_peer_tells_whether_it_knows_a_later_life(
    known: Life | None, lives: tuple[Life, ...], *, went_back: bool
) -> None:
    """A life that the directory cannot prove, and that is not older than what it can."""
    cluster = knowing(known)
    cluster.slow("n1")
    is_news = known != NOW and not went_back
    assert bool(ask(cluster, "n2", resume(*lives))) is not is_news, "it answers when the life is flushed"
    if is_news:
        cluster.flush("n1")
    disk = cluster.disk("n1").standing.peer(NodeId("n2"))
    assert disk is not None
    assert disk.life == (known if went_back else NOW)
    cluster.fast("n1")
    assert [each.went_back for each in ask(cluster, "n2", resume(*lives))] == [went_back]  # type: ignore[union-attr]


def test_a_life_that_an_operator_accepts_is_known_in_place_of_a_later_one() -> None:
    """So that it has to be accepted once."""
    cluster = knowing(Life(9, b"life 9.."))
    (said,) = ask(cluster, "n2", resume(*BEFORE, NOW, accepted=True))
    assert not said.went_back  # type: ignore[union-attr]
    disk = cluster.disk("n1").standing.peer(NodeId("n2"))
    assert disk is not None
    assert disk.life == NOW


def test_the_votes_of_what_went_back_are_void() -> None:
    """In a cluster of five: also the one that was under way, in terms that were asked for before."""
    cluster = knowing(Life(9, b"life 9.."), voters="n1 n2 n3 n4 n5")
    term = campaign(cluster)
    cluster.tell("n1", "n2", vote(term))
    cluster.tell("n1", "n2", resume(*BEFORE, NOW))
    cluster.tell("n1", "n2", vote(term))
    cluster.tell("n1", "n3", vote(term))
    assert cluster.role("n1") is Role.CANDIDATE
    cluster.tell("n1", "n4", vote(term))
    assert cluster.role("n1") is Role.LEADER


def test_the_acknowledgements_of_what_went_back_are_void() -> None:
    """Those of what the leader sent before; and what it says itself counts when it is a voter."""
    cluster = knowing(Life(4, b"life 4.."))
    lead(cluster)
    cluster.tell("n1", "n2", resume(*BEFORE, NOW, in_place=False))
    cluster.tell("n1", "n2", accepted(2, 3))
    assert cluster["n1"].log.commit_index == 0
    cluster.timeout("n1")
    newest = max(message.read_round for message in appends_to(cluster, "n2"))
    cluster.tell("n1", "n2", accepted(2, 3, newest))
    assert cluster["n1"].log.commit_index == 3


def test_what_is_void_stays_void_when_the_introduction_comes_twice() -> None:
    """A second copy of the question arrives when the disk counts again, and then an answer from before it went back."""
    cluster = Cluster(real="n1", disks={"n1": Disk("1 1", term=1)})
    term = lead(cluster)
    question = Introduce(b"disk of n2------", 5, b"here   1")
    cluster.tell("n1", "n2", question)
    n2, progress = NodeId("n2"), cluster["n1"].progress
    cluster.tell("n1", "n2", accepted(term, 3, progress[n2].heed_from))
    assert (progress[n2].match_index, progress[n2].is_voter) == (3, True)
    cluster.tell("n1", "n2", question)
    cluster.tell("n1", "n2", accepted(term, 3, 0))
    assert (progress[n2].match_index, progress[n2].is_voter) == (0, False)


def test_a_copy_is_known_by_its_introduction_and_its_number_does_not_fall() -> None:
    """Its lives go on behind all that anybody knew."""
    cluster = knowing(Life(9, b"life 9.."))
    (said,) = ask(cluster, "n2", Introduce(b"disk of n2------", 5, b"here   1"))
    assert isinstance(said, IntroduceResponse)
    assert (said.life_nonce, said.life_number) == (b"here   1", 9)
    disk = cluster.disk("n1").standing.peer(NodeId("n2"))
    assert disk is not None
    assert disk.life == Life(9, b"here   1")
    (again,) = ask(cluster, "n2", resume(Life(10, b"here   1")))
    assert not again.went_back  # type: ignore[union-attr]


def test_a_leader_remembers_what_was_acknowledged_to_it() -> None:
    """As long as it leads, after it has lost its office, and after a restart as far as that was stored."""
    cluster = knowing(Life(4, b"life 4.."))
    lead(cluster)
    cluster.tell("n1", "n2", accepted(2, 3))
    (said,) = ask(cluster, "n2", resume(*BEFORE, NOW))
    assert (said.owed_in, said.owed_term, said.owed_index) == (2, 2, 3)  # type: ignore[union-attr]
    cluster.tell("n1", "n3", append_entries("1 1", term=3, after=2))
    cluster.restart("n1")
    (said,) = ask(cluster, "n2", resume(*BEFORE, NOW))
    assert (said.owed_in, said.owed_term, said.owed_index) == (2, 2, 3)  # type: ignore[union-attr]


def test_a_leader_remembers_what_a_directory_owes_that_is_not_in_its_place() -> None:
    """What that said before is void: it is owed none the less, also when the question comes twice."""
    cluster = knowing(Life(4, b"life 4.."))
    lead(cluster)
    cluster.tell("n1", "n2", accepted(2, 3))
    for _ in range(2):
        (said,) = ask(cluster, "n2", resume(*BEFORE, NOW, in_place=False))
        assert (said.owed_in, said.owed_term, said.owed_index) == (2, 2, 3)  # type: ignore[union-attr]
