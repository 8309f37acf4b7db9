"""Lives of a directory: an old copy of a whole directory is known before it can promise anything.

A directory that is restored from an image is a sound disk that went back in time: it has forgotten votes and entries
that its node promised since, with every checksum right. Counted as if nothing had happened, it elects a leader that
lacks what was acknowledged (VSR and "Protocol-Aware Recovery for Consensus-Based Storage", FAST '18, have the same
problem with a disk that lost its end). Nothing inside the directory can tell, so three witnesses outside do:

*Its place.* A voter's standing names the file that its log was in (the inode and when it was made). A copy, by whatever
tool, is another file. This witness is exact, needs nobody else, and sees a copy of the present life too. It is blind to
a volume that was rolled back underneath, and to bytes put back into the same file.

*Its lives.* Each start draws a nonce, stores it behind those before it, and tells it to every peer, who flush it before
they answer. A peer that knows a later life than the directory can prove knows for certain that it went back. Lives that
no peer was told of, and a copy of the present life, are not seen.

*What is owed.* A leader remembers up to where each voter acknowledged its log (term and index of that entry, and its
own term; stored with the next standing). What was acknowledged is cut only for a later leader's log, and the write that
cuts notes that leader's term. So a log that ends before what is owed (compared as in Raft §5.4.1), and was not cut in a
later term than it is owed in, went back. What is known lags, and then accuses nobody: it was true once. Both sides keep
to what was before this life: the log is judged as the life found it, and until a leader has said what it is owed,
nothing is taken from it, and nothing answered (``is_unheard``). Else what it is owed would be of this life as well, and
accuse a node of what it acknowledged a moment ago. A leader that forgets what a follower holds keeps what it is owed.

No copy is counted before it was looked at. In each life a voter first *resumes*: it grants no vote, does not campaign,
and no leader counts it, until enough peers have answered and none objects.

- In its place, and a majority (itself included) answered: it resumes. No cluster without a majority could work, so this
  costs a round trip at a start, never availability. Its log may be behind, and too many of the voters that it knows may
  be gone for good; so the majority of a newer configuration counts as well, if a peer says that it goes by that one.
- Not in its place: it may owe anything, so it hears *all* peers. When a majority of the voters besides it are in their
  places, they can elect a leader without it. Then it is a *copy*: a disk that forgot, which that leader admits
  as it admits a new disk (admission.py; the argument there is of promises, not of what else is on the disk). When no
  such majority is left, all or most directories were moved, as when a cluster changes machines. Then the other two
  witnesses decide, once all have answered.
- A peer knows of a later life, or it owes more than it holds: it is a copy, whenever that is said.

Admission needs that nothing rests any more on what the later self promised. A disk that was replaced is not heard any
more; a copy speaks from the same disk. So whoever answers it voids what the later self said: votes of terms up to its
own current term, and acknowledgements of what it sent as a leader before (``admission.void``). From then on a vote can
only have been asked for in a newer term, and so of the copy. A copy that was admitted counts its lives on from behind
the latest that any peer knew. So a peer that goes back itself, to before that, does not accuse it.

A node that resumes without having been in its place may have forgotten a vote. Whoever got it has its term, and a
candidate flushes its term before it asks; so the highest term of all answers is adopted, its vote spent.

What remains: a volume that was rolled back is known if one who answers knows a later life, or was its leader since.
When two of three go back at once, each may be the other's only witness; the third then cuts nothing (contradiction.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_raft.raft import admission
from durable_raft.raft.messages import Resume, ResumeResponse
from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.state_parts import Found
from durable_raft.raft.types import Configuration, Life, NodeId, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_raft.raft.state import RaftState

LIVES_KEPT: Final = 16
"""Lives that a directory can prove. A peer that was away for longer knows only that it has not heard of a later one."""


def begin(state: RaftState) -> None:
    """Begin a life: have it stored, and promise nothing before peers have answered to it."""
    if not state.config.life or not state.voter_peers:
        return
    standing, config = state.standing, state.config
    if standing.is_voter:
        state.doubts.found = Found((state.log.last.term, state.log.last.index), standing.cut_in)
    number = standing.lives[-1].number + 1 if standing.lives else 1
    lives = (*standing.lives, Life(number, config.life))[-LIVES_KEPT:]
    if config.accept_old_copy and (standing.is_copy or not is_in_place(state)):
        state.observe("old_copy_accepted", life=number)
        state.standing = replace(standing, is_voter=True, is_copy=False, lives=lives, place=config.place)
        return
    state.standing = replace(standing, lives=lives)
    state.doubts.is_resumed = not standing.is_voter


def is_in_place(state: RaftState) -> bool:
    """Return whether this directory is where it last promised something, as far as that is known."""
    return not state.standing.place or state.standing.place == state.config.place


def resume(state: RaftState, now: int) -> None:
    """Tell this life to every peer and leader that has not answered yet, once it is flushed; then see who has.

    Whose answer is needed changes with the members.
    """
    if state.has_life_to_tell:
        _tell(state)
    consider(state, now)


def _tell(state: RaftState) -> None:
    standing = state.standing
    message = Resume(state.config.node_uuid, standing.lives, is_in_place(state), state.config.accept_old_copy)
    asked = list(state.peers)
    if state.leader_id is not None and state.leader_id not in (state.config.node_id, *asked):
        # What makes it a member is behind the end of this log.
        asked.append(state.leader_id)
    for told in _told(state):
        asked += [voter for voter in told.voters if voter not in (state.config.node_id, *asked)]
    for peer in asked:
        if peer not in state.doubts.answers:
            state.send_after_write(peer, message)


def is_unheard(state: RaftState, leader: NodeId) -> bool:
    """Return whether ``leader`` has yet to say what an earlier life owes it: nothing is taken from it before.

    It may be none of this node's peers: the log that makes it one is what it has to give, or what went back.
    """
    return leader not in state.doubts.answers and state.doubts.found is not None


def wait_for(state: RaftState, now: int, leader: NodeId) -> None:
    """Follow ``leader``, take nothing from it, and tell it this life again soon if no answer comes."""
    state.hear_leader(now, leader)
    state.retry_due = min(state.retry_due, now + state.config.heartbeat_ms)


def handle_resume(state: RaftState, now: int, source: NodeId, message: Resume) -> None:
    """Know the life of ``source``, unless a later one is known; say so when that is flushed, and what is owed."""
    if not message.lives or not admission.know(state, now, source, message.node_uuid):
        return
    known = state.standing.peer(source)
    if known is None:
        return
    newest = message.lives[-1]
    went_back = not message.is_accepted and _went_back(known.life, message.lives)
    if went_back:
        state.observe("peer_went_back", peer=source, life=newest.number, known=known.life.number if known.life else 0)
    elif known.life is None or newest.number > known.life.number or message.is_accepted:
        state.standing = state.standing.with_peer(replace(known, life=newest))
    led_in, term, index = state.owed_by(source)
    if went_back or not message.is_in_place:
        state.remember_owed()
        admission.void(state, now, source, newest.nonce)
    answer = ResumeResponse(
        newest.nonce, went_back, state.standing.is_voter and is_in_place(state), state.current_term, term, index, led_in
    )
    state.send_after_write(source, answer)


def _went_back(known: Life | None, lives: Sequence[Life]) -> bool:
    """Return whether a directory with ``lives`` certainly never lived the life that is known of it."""
    if known is None or known.number < lives[0].number:
        return False
    return all(life.nonce != known.nonce for life in lives)


def handle_resume_response(state: RaftState, now: int, source: NodeId, message: ResumeResponse) -> None:
    """Note what ``source`` knows of this directory."""
    doubts, found = state.doubts, state.doubts.found
    if message.nonce != state.config.life or not state.standing.is_voter:
        return
    # What it says again it may be owed by this life, from another disk than the first time, too.
    is_first = source not in doubts.answered
    doubts.answered.add(source)
    doubts.answers[source] = message
    owed = (message.owed_term, message.owed_index)
    if state.config.accept_old_copy:
        pass
    elif message.went_back:
        _become_copy(state, now, f"{source} knows a later life")
    elif is_first and found is not None and owed > found.last and message.owed_in >= found.cut_in:
        held = f"{found.last[1]}/t{found.last[0]}"
        _become_copy(state, now, f"it acknowledged {owed[1]}/t{owed[0]} to {source}, and ended at {held}")
    consider(state, now)


def consider(state: RaftState, now: int) -> None:
    """Resume if enough peers have answered and none objects."""
    answers, in_place = state.doubts.answers, is_in_place(state)
    if state.doubts.is_resumed or not state.standing.is_voter:
        return
    heard = {state.config.node_id, *answers}
    if in_place and not any(has_quorum(each, heard) for each in (state.configuration, *_told(state))):
        return
    if not in_place and not answers.keys() >= set(state.voter_peers):
        return
    if not in_place and has_quorum(state.configuration, [peer for peer, said in answers.items() if said.is_in_place]):
        _become_copy(state, now, "it is not in its place")
        return
    if not in_place:
        state.spend_vote(now, max(answer.term for answer in answers.values()))
    state.doubts.is_resumed = True
    if state.standing.place != state.config.place:
        state.standing = replace(state.standing, place=state.config.place)
    state.reset_election_deadline(now)
    state.observe("resumed", life=state.standing.lives[-1].number, term=state.current_term)


def hear_members(state: RaftState, now: int, source: NodeId, told: Configuration | None) -> None:
    """Note which configuration ``source`` goes by; None: by none that is newer than this log's."""
    state.doubts.told.pop(source, None)
    if told is not None:
        state.doubts.told[source] = told
        state.retry_due = now


def _told(state: RaftState) -> list[Configuration]:
    """Return what peers go by that is newer than this log's configuration, where this node has a vote in it."""
    own, newest = state.config.node_id, state.configuration.index
    return [told for told in state.doubts.told.values() if told.index > newest and own in told.voters]


def _become_copy(state: RaftState, now: int, reason: str) -> None:
    """Be a disk that forgot what it promised: its peers void that, and a leader that needs it not admits it."""
    if state.role is not Role.FOLLOWER:
        state.become_follower(now, state.current_term, None)
    state.standing = replace(state.standing, is_voter=False, is_copy=True)
    state.doubts.found = None
    state.retry_due = now
    state.introduced.clear()
    state.observe("went_back", reason=reason, life=state.standing.lives[-1].number, last_log_index=state.log.last.index)
