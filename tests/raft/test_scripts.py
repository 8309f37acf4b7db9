"""Every script in tests/raft/scripts does what it says (the language: tests/support/raft_script.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import raft_script
from tests.support.raft_script import run_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    """The events of the script cause exactly the lines under them."""
    text = path.read_text()

    happened = run_script(text)

    if request.config.getoption("--rewrite-scripts"):
        path.write_text(happened)
    assert happened == text or request.config.getoption("--rewrite-scripts")


HOW_TO_READ = '# ">" marks an event; what it causes is below it. '


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_what_it_is_about(path: Path) -> None:
    """Its head tells what happens, why it matters and in which paragraph to read on, before the first event."""
    head = path.read_text().partition("\n> ")[0]

    assert head.index("# ") < head.index("§") < head.index("\n# What happens: ") < head.index("\n# Why it matters: ")
    assert head.splitlines()[-1].startswith(HOW_TO_READ)


def test_every_event_is_described() -> None:
    """The head of the interpreter has a line for each event that it knows, and knows each that it describes."""
    described = set(re.findall(r"(?:^    |\| )([a-z]+)(?= |$)", raft_script.__doc__ or "", re.MULTILINE))

    assert set(raft_script.EVENTS) <= described


def test_scenarios_that_must_be_told_are_there() -> None:
    """What the paper and the house's own rules are known by."""
    told = {path.stem for path in SCRIPTS}
    assert {"election", "figure_7", "figure_8", "log_repair", "slow_disk"} <= told, "from the paper"
    assert {"unsent_entry_committed", "unsent_entry_overwritten", "late_flush", "one_node"} <= told, "what is flushed"
    assert {"split_votes", "late_votes", "vote_survives_crash", "election_restriction"} <= told, "votes"
    assert {"pre_vote", "partitioned_node_returns", "check_quorum"} <= told, "leaders without a majority"
    assert {"reads", "read_across_leaders", "snapshot", "send_window"} <= told, "beside the log"
    assert {"members_one_at_a_time", "two_operators", "learner", "replace_with_one_down"} <= told, "members"
    assert {"joint_majorities", "joint_left_by_next_leader", "leader_without_vote"} <= told, "joint configurations"
    assert {"removed_leader_campaigns", "removed_leader_stops", "leader_of_two_removed"} <= told, "leaders that go"
    assert {"removed_node_returns", "removed_node_is_left_alone", "name_of_a_wiped_node"} <= told, "nodes that went"
    assert {"configuration_cut", "configuration_survives_crash", "configuration_in_snapshot"} <= told, (
        "where they count"
    )
    assert {"voter_of_another_configuration", "promotion_and_crash", "admission_during_change"} <= told, "both sides"
    assert "transfer" in told
    assert {"new_cluster", "disk_admitted", "entry_healed", "entry_cut"} <= told, "disks and rot"


def test_script_that_lies_is_caught() -> None:
    """An expected line that does not happen, or one that is missing, makes a difference."""
    honest = run_script("> cluster n1 n2 n3\n> timeout n1\n")

    assert "n1 becomes pre-candidate" in honest
    assert run_script(honest) == honest
    assert run_script(honest.replace("pre-candidate", "leader")) != honest.replace("pre-candidate", "leader")


def test_script_with_an_unknown_event_names_the_line() -> None:
    """A typing error in a script is reported with its line."""
    with pytest.raises(AssertionError, match="line 2: > tmieout n1"):
        run_script("> cluster n1 n2 n3\n> tmieout n1\n")
