"""commits.py finds what is wrong with a commit's message. The history itself is checked by the command."""

from __future__ import annotations

import pytest

from tests.commits import complaints

BODY = "\n\nWhy it was needed.\nChecked by pytest tests/raft."


@pytest.mark.parametrize(
    ("message", "count"),
    [
        ("Hold a command while the leader is unknown" + BODY, 0),
        ("x" * 72 + BODY, 0),
        ("x" * 73 + BODY, 1),
        ("Hold a command." + BODY, 1),
        ("Hold a command; move a read" + BODY, 1),
        ("Hold a command", 1),
        ("Hold a command\nand go on" + BODY, 1),
        ("Hold a command; move a read, " + "x" * 72 + ".", 4),
    ],
)
def test_rules_of_messages(message: str, count: int) -> None:
    """Length, full stop, several changes, the empty line and the body: each breach is one complaint."""
    assert len(complaints(message)) == count
