"""Majority arithmetic (Raft §5.2, §5.3, §6), for the core and for whoever judges what it did; computed only here.

All majorities are of a ``Configuration``: of its voters and, while it is joint, of its outgoing voters as well (Raft
§6, "separate majorities from both the old and new configurations"). Learners count nowhere. Nor does the node that
counts, unless it is a voter.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping

from durable_raft.raft.types import Configuration, NodeId


def majority(voters: int) -> int:
    """Return how many of ``voters`` nodes are a majority."""
    return voters // 2 + 1


def majority_value(values: Iterable[int]) -> int:
    """Return the highest value that a majority of the voters has reached, given each voter's value."""
    descending = sorted(values, reverse=True)
    return descending[majority(len(descending)) - 1]


def halves(configuration: Configuration) -> tuple[tuple[NodeId, ...], ...]:
    """Return the sets of voters of which each has to give a majority: one or, while it is joint, two."""
    if configuration.outgoing:
        return configuration.voters, configuration.outgoing
    return (configuration.voters,)


def is_majority(voters: Collection[str], ids: Container[str]) -> bool:
    """Return whether ``ids`` has a majority of ``voters``; of no voters there is none."""
    return sum([voter in ids for voter in voters]) >= majority(len(voters))


def has_quorum(configuration: Configuration, ids: Container[str]) -> bool:
    """Return whether ``ids`` has every majority that ``configuration`` asks for."""
    return all(is_majority(half, ids) for half in halves(configuration))


def is_refused(configuration: Configuration, ids: Container[str]) -> bool:
    """Return whether ``ids``, who refuse, are a majority that is asked for: then the others have no quorum."""
    return any(is_majority(half, ids) for half in halves(configuration))


def quorum_value(configuration: Configuration, values: Mapping[NodeId, int]) -> int:
    """Return the highest value that every majority has reached, given each voter's value."""
    return min([majority_value([values[voter] for voter in half]) for half in halves(configuration)])


def can_be_held(voters: Collection[str], absent: Container[str]) -> bool:
    """Return whether a majority of ``voters`` may hold what those in ``absent`` certainly do not."""
    return is_majority(voters, [voter for voter in voters if voter not in absent])
