"""A log that contradicts what is known to be committed is not followed, and nothing is cut for it.

Leader Completeness (Raft §5.4.3): every leader's log holds what was committed before its term. So a leader whose log
has another entry where this node knows a committed one cannot be, unless several disks went back and elected it
together: two old copies of directories outvote the third. A node cannot know which history its users want. Its copy may
be the last one of what clients were told is safe, so

- it cuts nothing up to its commit index, acknowledges nothing, and takes no snapshot in its log's place;
- it neither votes nor campaigns: it must not help the other history, nor overwrite it;
- it says so everywhere, until a leader's log holds its committed entries again.

What is known to be committed must outlive a restart for that. The standing (raft/types.py) names the newest such entry
of this log. It is stored soon after it is known (``Raft.remember``), and at once when a contradiction is met. It is a
lower bound and always true: the entry was flushed here before it is named. So a node counts on it when it starts.

Entries behind the log's begin are committed too. They are not there to be compared, but terms do not fall along a log:
an entry that lies before the base and is of a newer term than the base is another history's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from durable_raft.raft.state_parts import Contradiction
from durable_raft.raft.types import Entry, Index, LogPoint, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_raft.raft.log import RaftLog
    from durable_raft.raft.state import RaftState


def remember_committed(state: RaftState) -> None:
    """Have the next write name the newest entry of this log that is flushed here and known to be committed.

    Raises:
        CorruptRecord: its chain value cannot be read.
    """
    log = state.log
    index = min(log.commit_index, log.flushed)
    if index > state.standing.committed.index and index > log.base.index:
        point = LogPoint(index, log.term_at(index), log.chain_at(index))
        state.standing = replace(state.standing, committed=point)


def conflict(log: RaftLog, previous: LogPoint, entries: Sequence[Entry]) -> tuple[Index, Term] | None:
    """Return the first place at which ``entries`` behind ``previous`` contradict a committed entry of ``log``."""
    if previous.index > log.commit_index:
        return None
    if _contradicts(log, previous.index, previous.term):
        return previous.index, previous.term
    for entry in entries:
        if entry.index > log.commit_index:
            return None
        if _contradicts(log, entry.index, entry.term):
            return entry.index, entry.term
    return None


def _contradicts(log: RaftLog, index: Index, term: Term) -> bool:
    """Return whether an entry of ``term`` cannot stand at ``index``, where ``log`` has a committed one."""
    return term > log.base.term if index < log.base.index else log.term_at(index) != term


def note(state: RaftState, source: NodeId, index: Index, term: Term) -> None:
    """Remember that the log of ``source`` has an entry of ``term`` where this one has a committed one of another."""
    found = Contradiction(source, state.current_term, index, term)
    if state.doubts.contradiction is None or state.doubts.contradiction[:2] != found[:2]:
        state.observe("contradicts_committed", leader=source, index=index, term=term, committed=state.log.commit_index)
    state.doubts.contradiction = found
    remember_committed(state)


def is_over(state: RaftState, verified: Index) -> None:
    """Note that a leader's log agrees with this one up to ``verified``."""
    if state.doubts.contradiction is not None and verified >= state.log.commit_index:
        state.doubts.contradiction = None
        state.observe("contradiction_over", verified=verified)
