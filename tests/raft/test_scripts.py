"""Every script in tests/raft/scripts does what it says (the language: tests/support/raft_script.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_scripts_are_found() -> None:
    """The scenarios that everybody knows from the paper are among them."""
    assert {"figure_7", "figure_8", "election", "pre_vote", "log_repair", "slow_disk"} <= {
        path.stem for path in SCRIPTS
    }


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
