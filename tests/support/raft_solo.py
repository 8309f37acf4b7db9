"""One real node, ``n1``, among peers that the test plays by hand: for rules about one message and its answer."""

from __future__ import annotations

from typing import TypeVar, Unpack

from durable_raft.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from durable_raft.raft.types import ORIGIN, Entry, Index, LogPoint, Role, Term
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk, entries_of
from tests.support.raft_nodes import Limits

M = TypeVar("M")


def solo(
    terms: str = "",
    *,
    term: int | None = None,
    vote: str | None = None,
    voters: str = "n1 n2 n3",
    **limits: Unpack[Limits],
) -> Cluster:
    """Return a cluster of which only n1 runs, started from a log of these terms."""
    return Cluster(voters, real="n1", disks={"n1": Disk(terms, term=term, vote=vote)}, **limits)


def ask(cluster: Cluster, source: str, message: Message) -> list[Message]:
    """Tell n1 ``message`` from ``source`` and return what it sends there upon it; what it sent before is lost."""
    cluster.sent("n1", source)
    cluster.tell("n1", source, message)
    return cluster.sent("n1", source)


def answer_of(cluster: Cluster, source: str, message: Message, kind: type[M]) -> M:
    """Tell n1 ``message`` from ``source`` and return its one answer, which must be a ``kind``."""
    answers = ask(cluster, source, message)
    assert len(answers) == 1, answers
    answer = answers[0]
    assert isinstance(answer, kind), answer
    return answer


def append_entries(
    terms: str, *, term: int, after: int, upto: int | None = None, commit: int = 0, read_round: int = 0
) -> AppendEntries:
    """Return what a leader of ``term`` with the log ``terms`` sends of the entries in (after, upto]."""
    log = entries_of(terms)
    previous = point_of(log, after)
    entries = log[after : len(log) if upto is None else upto]
    return AppendEntries(Term(term), previous.index, previous.term, previous.chain, entries, Index(commit), read_round)


def point_of(log: tuple[Entry, ...], index: int) -> LogPoint:
    """Return the point of the entry at ``index`` of ``log``, or the origin."""
    return LogPoint(log[index - 1].index, log[index - 1].term, log[index - 1].chain) if index else ORIGIN


def request_vote(term: int, index: int = 0, last_term: int = 0, *, pre_vote: bool = False) -> RequestVote:
    """Return a candidate's question, its log ending at ``index`` of ``last_term``."""
    return RequestVote(Term(term), Index(index), Term(last_term), pre_vote)


def vote(term: int, *, granted: bool = True, pre_vote: bool = False) -> RequestVoteResponse:
    """Return a voter's answer."""
    return RequestVoteResponse(Term(term), granted, pre_vote)


def accepted(term: int, match: int, read_round: int = 0) -> AppendEntriesResponse:
    """Return a follower's success."""
    return AppendEntriesResponse(Term(term), True, Index(match), Index(0), Term(0), Index(0), read_round)


def refused(term: int, rejected: int, conflict: int, conflict_term: int = 0) -> AppendEntriesResponse:
    """Return a follower's rejection of ``prev_log_index`` = ``rejected``."""
    return AppendEntriesResponse(Term(term), False, Index(0), Index(conflict), Term(conflict_term), Index(rejected), 0)


def campaign(cluster: Cluster) -> int:
    """Let n1 time out and win its pre-vote; return the term it campaigns in."""
    cluster.timeout("n1")
    core = cluster["n1"]
    term = core.current_term + 1
    for peer in core.state.peers:
        if core.role is Role.PRE_CANDIDATE:
            cluster.tell("n1", peer, vote(term, pre_vote=True))
    assert core.state.hard_state.current_term == term, core.role
    return term


def lead(cluster: Cluster) -> int:
    """Let n1 be elected by its played peers, forget what it sent so far, and return its term."""
    term = campaign(cluster)
    core = cluster["n1"]
    for peer in core.state.peers:
        if core.role is Role.CANDIDATE:
            cluster.tell("n1", peer, vote(term))
    assert core.role is Role.LEADER, core.role
    cluster.packets.clear()
    return term


def follow(cluster: Cluster, leader: str, term: int) -> None:
    """Let n1 hear a heartbeat from ``leader`` that says nothing of the log."""
    cluster.tell("n1", leader, append_entries("", term=term, after=0))
    cluster.packets.clear()


def appends_to(cluster: Cluster, peer: str) -> list[AppendEntries]:
    """Take the AppendEntries that n1 has sent to ``peer``."""
    return [message for message in cluster.sent("n1", peer) if isinstance(message, AppendEntries)]


__all__ = [
    "accepted",
    "answer_of",
    "append_entries",
    "appends_to",
    "ask",
    "campaign",
    "follow",
    "lead",
    "point_of",
    "refused",
    "request_vote",
    "solo",
    "vote",
]
