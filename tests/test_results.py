"""The figures of the campaigns in tests/README.md are those of the committed runs (tests/results)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.corruption.campaign import CONFIGURATION_ROT
from tests.corruption.damage import KINDS
from tests.corruption.journals import JOURNAL_KINDS
from tests.fault_matrix.matrix import CALLS
from tests.moves.campaign import FULL
from tests.moves.steps import plan
from tests.power_loss.campaign import ALL_BUGS
from tests.results import record, tables
from tests.simulation.campaign import PLAYED
from tests.simulation.swarm import FAULTS, LINK_FAULTS
from tests.soak.driver import NOT_ALONE, TROUBLES


def test_figures_of_the_campaigns_are_those_of_the_committed_runs() -> None:
    """``python -m tests.results`` would change nothing in tests/README.md."""
    text = tables.DOCUMENT.read_text()
    assert tables.filled(text) == text


def test_every_campaign_is_shown() -> None:
    """What is made from a campaign's figures stands in tests/README.md once, and each file there is shown."""
    named = re.findall(r"<!-- table: (\w+) -->", tables.DOCUMENT.read_text())
    assert sorted(named) == sorted(tables.TABLES)
    files = {path.stem for path in tables.RESULTS.glob("*.json")}
    assert files == {file for file, _ in tables.TABLES.values()}


def test_figures_speak_of_what_the_campaigns_play_now() -> None:
    """A mutant, fault, call or kind of damage that was added or renamed since has no figures, and must be played."""
    figures = {name: tables.result(name)["figures"] for name, _ in tables.TABLES.values()}
    assert list(figures["mutants"]) == list(PLAYED)
    assert list(figures["simulation"]["faults"]) == [*FAULTS, *LINK_FAULTS]
    assert set(figures["power_loss_bugs"]) == set(ALL_BUGS)
    assert set(figures["fault_matrix"]["calls"]) == set(CALLS)
    assert set(figures["corruption"]["quick"]["outcomes"]) == {*KINDS, CONFIGURATION_ROT}
    assert set(figures["corruption_journal"]["quick"]["outcomes"]) == {*JOURNAL_KINDS}
    for name in ("power_loss", "block_level", "fault_matrix", "corruption"):
        assert "--log-commit journal" not in tables.result(name)["command"]
        assert "--log-commit journal" in tables.result(f"{name}_journal")["command"]
    assert list(figures["soak"]["troubles"]) == [*TROUBLES, NOT_ALONE]
    assert list(figures["moves"]["steps"]) == [name for name, _ in plan(FULL)]


@pytest.mark.parametrize(
    ("arguments", "drawn", "command"),
    [
        (["--seeds", "5", "--json", "f"], 7, "python -m m --seeds 5 --first 7"),
        (["--json=f", "--first", "3"], 7, "python -m m --first 3"),
        (["--directory", "d", "--first", "3"], 7, "python -m m --first 3"),
        (["--first=3"], 7, "python -m m --first=3"),
        ([], None, "python -m m"),
    ],
)
def test_command_of_a_campaign_plays_it_again(arguments: list[str], drawn: int | None, command: str) -> None:
    """It names the seed that was drawn, and not where the figures went."""
    assert record.command_line("m", arguments, first=drawn) == command


def test_figures_are_left_where_they_were_asked_for(tmp_path: Path) -> None:
    """A file has the command, the seeds, the day and the figures; without ``--json`` none is written."""
    record.save(None, "c", "1 to 2", {})
    path = tmp_path / "results" / "x.json"
    record.save(path, "c", "1 to 2", {"a": 1})
    left = json.loads(path.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", left.pop("date"))
    assert left == {"command": "c", "seeds": "1 to 2", "figures": {"a": 1}}
    assert list(tmp_path.iterdir()) == [path.parent]


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        ("InvariantViolation: broken: Durability: n5's vote leaves before it is flushed", "Durability"),
        ("InvariantViolation: broken: Acknowledged => flushed: n5 counts on 25", "Acknowledged => flushed"),
        ("InvariantViolation: Damage is never silent (lost_write in log): starts", "Damage is never silent"),
        ("InvariantViolation: broken: vote of term 14 changed from n3 to n2", "one vote a term"),
        ("InvariantViolation: entry 26: chain expected 0x5e, found 0x3c", "the chain"),
        ("InvariantViolation: log: 4 of term 1 does not follow", "a check of the code itself"),
        ("Livelock: Liveness: healed, but the cluster does not agree", "Liveness"),
        ("StatesDiffer: n1 before 256: another state than another node's", "states differ"),
        ("WrongAnswer: not in the connection's order: client 2", "a wrong answer"),
    ],
)
def test_rule_that_caught_a_mutant_is_named(found: str, rule: str) -> None:
    """The table has the name of the rule, or the kind of error when the message begins with none."""
    assert tables.rule_of(found) == rule
