"""What an operator asks of the configuration, what it comes to, and why it may be refused (Raft §6, Ongaro §4.3).

A change is any set of steps; they are made together, through one joint configuration if voters come or go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from durable_raft.errors import ChangeRefused
from durable_raft.raft.configuration import MEMBERS_MAX, was_used
from durable_raft.raft.quorum import has_quorum, majority
from durable_raft.raft.types import Configuration, Index, Member, NodeId

TEXT_BYTES_MAX: Final = 255
"""Of a node id or an address."""


class AddLearner(NamedTuple):
    """Let a new node be sent the log; it has no vote (Ongaro §4.2.1)."""

    member: Member


class Promote(NamedTuple):
    """Give a learner that has caught up a vote."""

    node_id: NodeId


class Demote(NamedTuple):
    """Take a voter's vote, and go on sending it the log."""

    node_id: NodeId


class Remove(NamedTuple):
    """Let a member go: its vote first, then the rest. Its id is not used again."""

    node_id: NodeId


class Readdress(NamedTuple):
    """Name other addresses of a member."""

    member: Member


Step: TypeAlias = AddLearner | Promote | Demote | Remove | Readdress


# -- refusals ---------------------------------------------------------------------------------------------------------


class NotLeading(ChangeRefused):
    """This node does not lead, or is handing leadership over: ask the leader."""


class NotReady(ChangeRefused):
    """The leader has not committed an entry of its term, or what is asked for needs something first: ask again."""


class StaleConfiguration(ChangeRefused):
    """The change was made against another configuration than the present one: somebody else was first. Look again."""

    def __init__(self, against: Index, present: Index) -> None:
        self.present: Final = present
        super().__init__(f"made against the configuration at {against}, but the present one is at {present}")


class ChangeInProgress(ChangeRefused):
    """Another change is not complete: one at a time."""


class NotCaughtUp(ChangeRefused):
    """A learner has not acknowledged what was committed when its promotion was first asked for: ask again later."""

    def __init__(self, node_id: NodeId, match_index: Index, needed_index: Index) -> None:
        self.node_id: Final = node_id
        self.match_index: Final = match_index
        """Up to where it holds the log."""
        self.needed_index: Final = needed_index
        """Up to where it has to."""
        super().__init__(
            f"{node_id} has not caught up: it holds the log up to {match_index}, and has to up to {needed_index}"
        )


class NoWorkingMajority(ChangeRefused):
    """The change would leave too few voters that answer."""


class IdUsed(ChangeRefused):
    """The node id was used before, or cannot be told from one that was."""


# -- what a change comes to -------------------------------------------------------------------------------------------


def next_configuration(before: Configuration, steps: Sequence[Step]) -> Configuration:
    """Return the first stage of a change (configuration.py); its index is that of ``before``.

    Raises:
        ChangeRefused: a step names nobody, or contradicts another; an id was used; nobody would be left to vote.
    """
    members = {member.node_id: member for member in before.members}
    voters, learners, leaving = set(before.voters), set(before.learners), set(before.leaving)
    _check_once(steps)
    for step in steps:
        if isinstance(step, AddLearner):
            node_id = step.member.node_id
            if was_used(before, node_id):
                raise IdUsed(f"the node id {node_id!r} was used before; every node needs one of its own")
            members[node_id] = step.member
            learners.add(node_id)
        elif isinstance(step, Readdress):
            _require(step.member.node_id in members, f"{step.member.node_id!r} is no member")
            members[step.member.node_id] = step.member
        elif isinstance(step, Promote):
            _require(step.node_id in learners, f"{step.node_id!r} is no learner: only a learner is promoted")
            learners.discard(step.node_id)
            voters.add(step.node_id)
        else:
            is_demoted = isinstance(step, Demote)
            known = voters if is_demoted else voters | learners
            _require(step.node_id in known, f"{step.node_id!r} is no {'voter' if is_demoted else 'member'}")
            if step.node_id in voters:
                voters.discard(step.node_id)
                learners.add(step.node_id)
            if not is_demoted:
                leaving.add(step.node_id)
    _check_texts(members.values())
    _require(bool(voters), "nobody would be left to vote")
    _require(len(members) <= MEMBERS_MAX, f"{len(members)} members, at most {MEMBERS_MAX} are possible")
    is_joint = voters != set(before.voters)
    after = replace(
        before,
        members=tuple(members[node_id] for node_id in sorted(members)),
        voters=tuple(sorted(voters)),
        outgoing=before.voters if is_joint else (),
        learners=tuple(sorted(learners - set(before.voters) if is_joint else learners)),
        leaving=tuple(sorted(leaving)),
    )
    _require(after != before, "that changes nothing")
    return after


def require_working_majority(after: Configuration, answering: Collection[NodeId]) -> None:
    """Go on only if those who answer are a quorum of ``after``, and of what it becomes.

    Raises:
        NoWorkingMajority: with the arithmetic.
    """
    if has_quorum(after, answering):
        return
    parts = []
    for name, half in (("the new voters", after.voters), ("the present voters", after.outgoing)):
        if half:
            found = [voter for voter in half if voter in answering]
            parts.append(
                f"of {name} {', '.join(half)} {len(found)} answer ({', '.join(found) or 'nobody'}), a majority is"
                f" {majority(len(half))}"
            )
    raise NoWorkingMajority("; ".join(parts))


def _check_once(steps: Sequence[Step]) -> None:
    """A node is named by one step, so that the order of steps does not matter."""
    named = [step.member.node_id if isinstance(step, AddLearner | Readdress) else step.node_id for step in steps]
    twice = sorted({node_id for node_id in named if named.count(node_id) > 1})
    _require(not twice, f"{', '.join(twice)} is named by two steps")
    _require(bool(named), "that changes nothing")


def _check_texts(members: Iterable[Member]) -> None:
    for member in members:
        for text in (member.node_id, member.client_address, member.peer_address):
            _require(len(text.encode()) <= TEXT_BYTES_MAX, f"{text!r:.60} is longer than {TEXT_BYTES_MAX} bytes")
        _require(bool(member.node_id), "a node id is not empty")


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise ChangeRefused(why)
