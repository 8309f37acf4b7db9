"""A node that had better not lead lets others stand first. Its clock is wrong: what it stamps is right only because
others correct it. Or an operator made it the last resort (priority.py).

It votes as ever, and stands after some election timeouts of silence: a cluster with no other node left must be led.
"""

from __future__ import annotations

from typing import Final

from durable_raft.raft.state import RaftState

LET_PASS_MAX: Final = 5
"""Election timeouts that a reluctant node lets pass, one after the other, before it stands."""


def holds_back(state: RaftState) -> bool:
    """Return whether this node lets the election timeout that has just elapsed pass."""
    if not state.voter_peers or not (state.reluctance.holds or state.priorities.is_last_resort(state.rivals())):
        return False
    state.reluctance.let_pass += 1
    return state.reluctance.let_pass <= LET_PASS_MAX


def is_needed(state: RaftState) -> None:
    """Note that a candidate lacks what this log holds: nobody may be elected without this node."""
    state.reluctance.let_pass = LET_PASS_MAX
