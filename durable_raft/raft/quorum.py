"""Majority arithmetic (Raft §5.2, §5.3), for the core and for whoever judges what it did: it is computed only here."""

from __future__ import annotations

from collections.abc import Iterable


def majority(voters: int) -> int:
    """Return how many of ``voters`` nodes are a majority."""
    return voters // 2 + 1


def majority_value(values: Iterable[int]) -> int:
    """Return the highest value that a majority of the voters has reached, given each voter's value."""
    descending = sorted(values, reverse=True)
    return descending[majority(len(descending)) - 1]
