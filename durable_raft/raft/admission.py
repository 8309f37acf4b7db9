"""Admission of a disk: whose promises count (the forgetful voter; VSR's recovery has the same problem).

A node that comes back with an empty disk under its old id has forgotten its votes and what it acknowledged; counted as
if nothing had happened, it can elect a leader that lacks a committed entry. So a new disk is no voter: it stores and
answers, but grants no vote, stands for no election, and no leader counts it for a commit, a read or its quorum.

Every disk has a uuid. A node on a new disk introduces it to every peer; a peer answers when it is flushed there which
disk speaks under that id, and whether it knew another. (So every voter knows the disks of all others: one that does
not, because it is older than this rule, says that it knew another.) A new disk becomes a voter

- when *all* peers have answered and none knew another: nothing was ever promised under this id. So the first start of
  a cluster needs every node once;
- else when all have answered and the leader admits it: a ReadIndex round that was begun after the disk asked is
  confirmed by a majority that does not count it, and its log matches up to what was committed then.

Members come and go (membership.py), and who has to know a disk is what its own configuration says: every voter of it.
So a disk asks, and is admitted, only when its log holds the leader's newest configuration. A learner was never counted
by anybody, so its disk has nothing to forget: it asks as soon as the leader knows it. Whoever lost such a disk as a
voter has a log that says so by the time it is admitted, and is asked for the rest. A node of no configuration asks
nothing, and who is no member is not known by anybody.

A uuid is believed of the node that was met at its address, on the link that it speaks for (server/hearing.py). So an
introduction comes from whoever holds that address, and a stranger cannot have a disk replaced that is in use.

Why that is enough. From the moment t at which a peer knows the new disk it drops what still comes from the old one, a
vote counted in an open election included; so after the last such t nothing new rests on a promise of the old disk. A
commit or an election that rests on one was complete before, and shares a node with the majority that confirmed the
leader's term after t (a majority of all, and one less than a majority of the others, do not fit beside each other into
the others); so that leader's term is not lower, and by Leader Completeness (Raft §5.4.3) its log holds that commit. On
admission the disk adopts the leader's term and takes its vote of that term as given to the leader, so that no forgotten
vote can be given twice.

A directory that went back in time is admitted in the same way (lives.py). Its later self spoke from the same disk, so
instead of not hearing that any more, whoever answers its introduction voids what it said (``void``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_raft.raft.messages import AppendEntries, AppendEntriesResponse, Introduce, IntroduceResponse
from durable_raft.raft.progress import Progress
from durable_raft.raft.types import HardState, Index, KnownDisk, Life, NodeId

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_raft.raft.state import RaftState

_UNKNOWN_DISK: Final = bytes(16)
"""Stands for a disk that spoke under a node id before uuids were kept."""


# -- whoever has a disk -----------------------------------------------------------------------------------------------


def introduce(state: RaftState, now: int) -> None:
    """Have a new disk known to every peer that has not answered yet."""
    if state.standing.is_voter:
        return
    for peer in state.peers:
        if peer not in state.introduced:
            number = state.standing.lives[-1].number if state.standing.lives else 0
            # After the write: a copy that says so must not forget it (lives.py).
            state.send_after_write(peer, Introduce(state.config.node_uuid, number, state.config.life))
    _admit_newcomer(state, now)


def handle_introduce(state: RaftState, now: int, source: NodeId, message: Introduce) -> None:
    """Know the disk of ``source`` from now on, and say so when that is flushed; one that was replaced is not heard."""
    if not know(state, now, source, message.node_uuid):
        return
    if source in state.progress and state.progress[source].is_voter:
        # Its disk says that it holds nothing yet, whatever an earlier one of that name acknowledged.
        _begin_again(state, now, source)
    known = state.standing.peer(source)
    knew_another = known is not None and bool(known.former)
    if message.life_nonce and known is not None:
        # The number never falls: a copy that is admitted goes on behind all that anybody knew (lives.py).
        number = max(message.life_number, 0 if known.life is None else known.life.number)
        life = Life(number, message.life_nonce)
        if known.life != life:
            state.standing = state.standing.with_peer(replace(known, life=life))
        void(state, now, source, life.nonce)
    answer = IntroduceResponse(
        message.node_uuid, knew_another, state.config.node_uuid, message.life_nonce, _known_number(state, source)
    )
    state.send_after_write(source, answer)


def _known_number(state: RaftState, source: NodeId) -> int:
    """Return the number of the latest life that this node knows of the disk of ``source``; 0: of none."""
    known = state.standing.peer(source)
    return 0 if known is None or known.life is None else known.life.number


def handle_introduce_response(state: RaftState, now: int, source: NodeId, message: IntroduceResponse) -> None:
    """Note that ``source`` knows this disk, and which disk answered."""
    if message.introduced_uuid != state.config.node_uuid or message.life_nonce != state.config.life:
        return
    if not know(state, now, source, message.node_uuid):
        return
    state.introduced[source] = message.knew_another
    state.doubts.highest_life = max(state.doubts.highest_life, message.life_number)
    _admit_newcomer(state, now)


def asks(state: RaftState) -> bool:
    """Return whether this disk is known to whom it must be, and waits for a leader to admit it.

    A voter's must be known to every voter, a learner's to the leader.
    """
    if state.standing.is_voter:
        return False
    if state.has_vote:
        return all(peer in state.introduced for peer in state.voter_peers)
    is_member = state.config.node_id in state.configuration.learners
    return is_member and state.leader_id in state.introduced


def admit(state: RaftState, now: int, leader: NodeId, message: AppendEntries) -> None:
    """Become a voter if the leader says so: its term is ours, and our vote in it counts as given to it.

    A vote in this term that an old copy (lives.py) remembers stays as it is: it cannot be given twice either.
    """
    if message.admits == state.config.node_uuid + state.config.life and asks(state):
        state.hard_state = HardState(state.current_term, state.voted_for or leader)
        _become_voter(state, now, "leader")


def _admit_newcomer(state: RaftState, now: int) -> None:
    is_first = state.configuration.index == 0 and state.has_vote and not state.standing.is_copy
    if is_first and asks(state) and not any(state.introduced.values()):
        _become_voter(state, now, "nobody knew another disk")


def _become_voter(state: RaftState, now: int, by: str) -> None:
    standing = state.standing
    if standing.is_copy and standing.lives:
        # No life that its later self told anybody may speak against it again.
        number = max(state.doubts.highest_life, standing.lives[-1].number) + 1
        standing = replace(standing, lives=(Life(number, state.config.life),))
    state.standing = replace(standing, is_voter=True, is_copy=False, place=state.config.place)
    state.doubts.is_resumed = True
    if state.voter_peers:
        state.reset_election_deadline(now)
    state.observe("admitted", term=state.current_term, by=by)


def void(state: RaftState, now: int, source: NodeId, nonce: bytes) -> None:
    """Count nothing that ``source`` promised before the life of its directory that is called ``nonce``: it forgot."""
    if state.doubts.void_nonces.get(source) == nonce:
        return
    state.doubts.void_nonces[source] = nonce
    state.doubts.void_votes[source] = state.current_term
    state.votes.pop(source, None)
    if source in state.progress:
        state.read_round += 1
        progress = _begin_again(state, now, source)
        progress.heed_from = state.read_round


def know(state: RaftState, now: int, source: NodeId, node_uuid: bytes) -> bool:
    """Know ``node_uuid`` as the disk of ``source``; return False when it is one that was replaced, or no member's."""
    if source not in state.peer_set:
        return False
    known = state.standing.peer(source)
    if known is None:
        former: tuple[bytes, ...] = (_UNKNOWN_DISK,) if state.standing.is_voter else ()
        state.standing = state.standing.with_peer(KnownDisk(source, node_uuid, former))
    elif node_uuid in known.former:
        state.observe("replaced_disk_speaks", peer=source, uuid=node_uuid.hex())
        return False
    elif node_uuid != known.node_uuid:
        former = (*known.former, known.node_uuid)
        state.standing = state.standing.with_peer(KnownDisk(source, node_uuid, former))
        state.observe("disk_replaced", peer=source, uuid=node_uuid.hex(), was=known.node_uuid.hex())
        state.votes.pop(source, None)
        # The disk that knew this node's is gone; the new one is told again, of the disk or of its life.
        state.introduced.pop(source, None)
        state.doubts.answers.pop(source, None)
        state.retry_due = min(state.retry_due, now)
        if source in state.progress:
            _begin_again(state, now, source)
    return True


def _begin_again(state: RaftState, now: int, source: NodeId) -> Progress:
    """Know nothing of what ``source`` holds any more, and do not count it; return what is known now."""
    before, progress = state.progress[source], Progress(Index(state.log.last.index + 1), now)
    progress.is_voter = False
    # It may have been sent some of it already, before this node heard whose disk it is.
    progress.sent_index = before.sent_index
    # What an earlier life said stays void, however often this one introduces itself.
    progress.heed_from = before.heed_from
    state.progress[source] = progress
    return progress


# -- the leader -------------------------------------------------------------------------------------------------------


def note_standing(state: RaftState, progress: Progress, message: AppendEntriesResponse) -> bool:
    """Count a follower only if it is a voter; prove this leadership when its disk asks for admission.

    Returns:
        Whether the follower became a voter: then what its disk holds counts from now on.
    """
    became_voter = message.is_voter and not progress.is_voter
    progress.is_voter = message.is_voter
    if message.is_voter:
        progress.admission_round, progress.admit_at = 0, None
    elif not message.asks_admission:
        # It learned of a voter that does not know it yet.
        progress.admission_round, progress.admit_at = 0, None
    elif not progress.admission_round and message.match_index >= state.configuration.index:
        # It goes by this configuration or a later one, so it knows who has to know it.
        state.read_round += 1
        progress.admission_round = state.broadcast_round = state.read_round
    return became_voter


def confirm(state: RaftState, confirmed_round: Callable[[RaftState], int]) -> None:
    """See which disks that ask for admission may be told now: a majority has confirmed this leadership since.

    Args:
        state: a leader's.
        confirmed_round: the newest round that a majority has confirmed; asked only when a disk waits for it.
    """
    if state.log.commit_index < state.term_start_index:
        # What is committed is not known yet (Raft §8).
        return
    for progress in state.progress.values():
        is_waiting = progress.admission_round > 0 and progress.admit_at is None
        if is_waiting and progress.admission_round <= confirmed_round(state):
            progress.admit_at = state.log.commit_index


def admitted_disk(state: RaftState, peer: NodeId, progress: Progress) -> bytes:
    """Return the name of ``peer``'s disk and life if it is to be a voter from now on, else nothing."""
    if progress.is_voter or progress.admit_at is None or progress.match_index < progress.admit_at:
        return b""
    if progress.match_index < state.configuration.index:
        # It would not know all whom it has to be known to.
        return b""
    known = state.standing.peer(peer)
    if known is None:
        return b""
    return known.node_uuid if known.life is None else known.node_uuid + known.life.nonce
