"""Planted bugs, each a way in which real systems went wrong; the simulation must catch every one of them.

``planted(name)`` puts one bug into the product for the length of a ``with`` block, by replacing the one function that
keeps the rule. A mutant that no seed catches is a hole in the simulation.
"""

from __future__ import annotations

from tests.simulation import (
    mutants_copies,
    mutants_disk,
    mutants_journal,
    mutants_links,
    mutants_members,
    mutants_peers,
    mutants_priority,
    mutants_raft,
    mutants_room,
    mutants_service,
    mutants_slices,
    mutants_state,
    mutants_time,
    mutants_timeouts,
    mutants_wounds,
)
from tests.simulation.planting import MUTANTS, planted

__all__ = [
    "MUTANTS",
    "mutants_copies",
    "mutants_disk",
    "mutants_journal",
    "mutants_links",
    "mutants_members",
    "mutants_peers",
    "mutants_priority",
    "mutants_raft",
    "mutants_room",
    "mutants_service",
    "mutants_slices",
    "mutants_state",
    "mutants_time",
    "mutants_timeouts",
    "mutants_wounds",
    "planted",
]
