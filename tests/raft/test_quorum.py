"""Majority arithmetic."""

from __future__ import annotations

import itertools

import pytest

from durable_raft.raft.quorum import majority, majority_value


@pytest.mark.parametrize(("voters", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_majority_is_more_than_half(voters: int, expected: int) -> None:
    """The least number such that two majorities always share a node."""
    assert majority(voters) == expected
    assert 2 * majority(voters) > voters >= 2 * (majority(voters) - 1)


@pytest.mark.parametrize("voters", [1, 2, 3, 4, 5])
def test_majority_value_is_the_highest_that_a_majority_reached(voters: int) -> None:
    """Against the definition, for all values up to three."""
    for values in itertools.product(range(4), repeat=voters):
        reached = [value for value in range(4) if sum(other >= value for other in values) >= majority(voters)]
        assert majority_value(values) == max(reached)
