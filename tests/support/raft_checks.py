"""The rules of Figure 3 over a whole cluster, checked after every event, and what each message promises.

The checker sees everything, so it judges by the disks: an entry is committed rightly when a majority of disks hold it,
a leader rightly elected when a majority of disks hold votes for it. ``Figure3`` outlives crashes of its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from durable_raft.errors import EntryUnread, InvariantViolation
from durable_raft.raft.core import Raft
from durable_raft.raft.invariants import counted_by
from durable_raft.raft.log import EntriesLost
from durable_raft.raft.messages import AppendEntriesResponse, Message, RequestVote, RequestVoteResponse
from durable_raft.raft.quorum import has_quorum
from durable_raft.raft.ready import Ready
from durable_raft.raft.types import Entry, EntryKind, Index, NodeId, Role
from tests.support.raft_disk import Disk


class BrokenRule(AssertionError):
    """A rule of Figure 3, or a promise to another node, was broken; the message says which and how."""


class CheckedNode(Protocol):
    """What the checker looks at."""

    @property
    def name(self) -> NodeId:
        """The node's id."""

    @property
    def disk(self) -> Disk:
        """What is flushed."""


def require(holds: bool, rule: str) -> None:
    """Raise ``BrokenRule`` unless ``holds``."""
    if not holds:
        raise BrokenRule(rule)


def ready_of(raft: Raft, now: int, *, may_apply: bool = True) -> Ready:
    """Return ``raft.ready``, which must be empty when ``raft.has_ready`` says that there is nothing."""
    is_there = raft.has_ready(now, may_apply=may_apply)
    ready = raft.ready(now, may_apply=may_apply)
    require(is_there or ready == Ready(), f"has_ready said no, and ready handed out {ready}")
    return ready


class Figure3:
    """What has happened in one cluster so far, as far as the rules need it."""

    def __init__(self, nodes: Iterable[CheckedNode], *, sees_all_disks: bool) -> None:
        self._nodes = list(nodes)
        self._sees_all_disks = sees_all_disks
        """False when the test plays some nodes by hand: then nothing is known of their disks."""
        self.leaders: dict[int, NodeId] = {}
        self._votes: dict[tuple[NodeId, int], NodeId] = {}
        self._chains: dict[tuple[int, int], int] = {}
        self.committed: list[Entry | None] = []
        """Entry at index + 1, once applied by anyone; None while only its chain is known."""
        self.committed_chains: list[int] = []
        self._commit_terms: list[int] = []
        """By position: the term in which the entry at that index (+ 1) was first seen committed; ascending."""

    # -- logs -----------------------------------------------------------------------------------------------------

    def entries_accepted(self, name: NodeId, entries: Iterable[Entry]) -> None:
        """Log Matching (§5.3): entries with one index and term are one entry, after identical logs."""
        for entry in entries:
            known = self._chains.setdefault((entry.index, entry.term), entry.chain)
            require(known == entry.chain, f"Log Matching: {name} has another {entry.index}/t{entry.term}")

    def entry_applied(self, name: NodeId, entry: Entry) -> None:
        """State Machine Safety (§5.4.3): no two nodes apply different entries at one index."""
        position = entry.index - 1
        require(position < len(self.committed), f"{name} applied {entry.index}, which is not committed")
        known = self.committed[position]
        if known is None:
            self.committed[position] = entry
            require(entry.chain == self.committed_chains[position], f"{name} applied another entry {entry.index}")
        else:
            require(known == entry, f"State Machine Safety: {name} applied {entry}, another node {known}")

    def committed_upto(self, name: NodeId, raft: Raft, before: int) -> None:
        """Check what ``raft`` newly holds committed, and note it."""
        # What a snapshot brought was committed by others before; its last entry stands for all before it.
        for index in range(max(before + 1, raft.log.base.index), raft.log.commit_index + 1):
            chain = raft.log.chain_at(Index(index))
            if index <= len(self.committed_chains):
                known = self.committed_chains[index - 1]
                require(known == chain, f"State Machine Safety: {name} committed another entry {index}")
                continue
            self.committed_chains.append(chain)
            self.committed.append(None)
            self._commit_terms.append(raft.current_term)
        if raft.role is Role.LEADER and raft.log.commit_index > before:
            self._require_lawful_commit(name, raft, before)

    def _require_lawful_commit(self, name: NodeId, raft: Raft, before: int) -> None:
        """A leader commits by an entry of its own term (§5.4.2) that a majority has flushed (§5.3)."""
        index = raft.log.commit_index
        term = raft.log.term_at(index)
        require(term == raft.current_term, f"{name} committed {index}/t{term} by counting in term {raft.current_term}")
        for place, configuration in counted_by(raft.state, Index(before)):
            chain = raft.log.chain_at(place)
            disks = [(node.name, node.disk) for node in self._nodes]
            # What lies before a log's base was committed, and is in the state beside it.
            holders = [holder for holder, disk in disks if disk.base.index >= place or disk.holds(place, chain)]
            enough = has_quorum(configuration, holders) or not self._sees_all_disks
            require(enough, f"{name} committed {place}, which only the disks of {holders} hold")

    # -- leaders --------------------------------------------------------------------------------------------------

    def leader_elected(self, name: NodeId, raft: Raft) -> None:
        """Election Safety (§5.2) and Leader Completeness (§5.4.3) for a node that has just won."""
        term = raft.current_term
        known = self.leaders.setdefault(term, name)
        require(known == name, f"Election Safety: {known} and {name} both lead term {term}")
        if self._sees_all_disks:
            voters = [node.name for node in self._nodes if self._disk_voted(node.disk, term, name)]
            is_elected = has_quorum(raft.configuration, voters)
            require(is_elected, f"{name} leads term {term}, but only {voters} hold votes for it")
        self._require_newest_configuration(name, raft)
        index = sum(1 for commit_term in self._commit_terms if commit_term < term)
        if index:
            has = index <= raft.log.last.index and raft.log.chain_at(Index(index)) == self.committed_chains[index - 1]
            require(has, f"Leader Completeness: {name} leads term {term} without the committed entry {index}")

    @staticmethod
    def _require_newest_configuration(name: NodeId, raft: Raft) -> None:
        """A server always uses the latest configuration in its log, committed or not (§6)."""
        log = raft.log
        found = 0
        for index in range(log.first_index, log.last.index + 1):
            try:
                (entry,) = log.entries(Index(index), Index(index + 1), 0)
            except (EntriesLost, EntryUnread):
                return
            if entry.kind is EntryKind.CONFIGURATION:
                found = index
        used = raft.configuration.index
        require(used == found or (not found and used <= log.base.index), f"{name} goes by {used}, its log has {found}")

    @staticmethod
    def _disk_voted(disk: Disk, term: int, candidate: NodeId) -> bool:
        """Return whether the disk proves, or has outlived, a vote."""
        held = disk.hard_state
        return held.current_term > term or (held.current_term == term and held.voted_for == candidate)

    # -- promises -------------------------------------------------------------------------------------------------

    def message_leaves(self, source: CheckedNode, target: NodeId, message: Message) -> None:
        """Nothing that promises leaves before what it promises is flushed (Figure 2: "before responding to RPCs")."""
        held = source.disk.hard_state
        if isinstance(message, RequestVoteResponse) and message.vote_granted and not message.pre_vote:
            self._vote_leaves(source, target, message.term)
        elif isinstance(message, RequestVote) and not message.pre_vote:
            self._vote_leaves(source, source.name, message.term)
        elif isinstance(message, AppendEntriesResponse):
            require(
                held.current_term >= message.term, f"{source.name} answers in term {message.term} before it is flushed"
            )
            if message.success and held.current_term == message.term:
                last = source.disk.last.index
                require(
                    message.match_index <= last, f"{source.name} acknowledges {message.match_index}, flushed: {last}"
                )

    def _vote_leaves(self, source: CheckedNode, candidate: NodeId, term: int) -> None:
        require(
            self._disk_voted(source.disk, term, candidate),
            f"{source.name}'s vote for {candidate} in term {term} leaves before it is flushed",
        )
        known = self._votes.setdefault((source.name, term), candidate)
        require(known == candidate, f"{source.name} votes twice in term {term}: {known}, {candidate}")


def highest_commit(cores: Iterable[Raft]) -> int:
    """Return the highest commit index that any of these cores knows."""
    return max((core.log.commit_index for core in cores), default=0)


__all__ = ["BrokenRule", "Figure3", "InvariantViolation", "highest_commit", "require"]
