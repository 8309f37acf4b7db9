"""Planted bugs of changes of members that a script shows (tests/raft/scripts): it no longer happens as it is told.

The simulation catches most of these, too. What the others break it meets too seldom: a member that is gone campaigns
just then, or a leader goes in the middle of a change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.simulation.mutants import planted
from tests.simulation.mutants_members import SHOWN_BY_SCRIPT
from tests.support.raft_script import run_script

SCRIPTS: Final = Path(__file__).parents[1] / "raft" / "scripts"

SHOWN_BY: Final = {
    **SHOWN_BY_SCRIPT,
    "learners_counted": "learner",
    "leader_without_a_vote_counts_itself": "leader_of_two_removed",
    "joint_committed_by_the_old": "joint_majorities",
    "joint_elected_by_the_new": "removed_leader_campaigns",
    "joint_elected_by_the_old": "joint_left_by_next_leader",
    "voters_changed_in_one_step": "members_one_at_a_time",
    "batch_committed_by_the_configuration_before": "joint_majorities",
    "configuration_counts_when_committed": "configuration_survives_crash",
    "cut_keeps_the_configuration": "configuration_cut",
    "cut_keeps_the_index": "configuration_cut",
    "restart_forgets_what_is_not_committed": "configuration_survives_crash",
    "compaction_forgets_the_configuration": "configuration_in_snapshot",
    "promoted_before_it_has_caught_up": "learner",
    "against_not_checked": "two_operators",
    "two_changes_at_once": "two_operators",
    "changed_before_the_term_began": "members_one_at_a_time",
    "id_used_again": "name_of_a_wiped_node",
    "former_members_not_listed": "removed_node_returns",
}
"""By mutant: the script that tells of it."""


@pytest.mark.parametrize(("name", "script"), SHOWN_BY.items())
def test_a_script_shows_the_bug(name: str, script: str) -> None:
    """Something else happens, or the script comes to a stop."""
    text = (SCRIPTS / f"{script}.txt").read_text()
    assert run_script(text) == text
    with planted(name):
        assert happened_with_it(text) != text


def happened_with_it(text: str) -> str:
    """Return what happens; of a script that cannot go on, why not."""
    try:
        return run_script(text)
    except AssertionError as error:
        return str(error)
