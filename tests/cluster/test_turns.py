"""The rule of turns.py: what is work of a node is found, what struck its machine once is not."""

from __future__ import annotations

import pytest

from tests.cluster.turns import too_long


def _line(what: str, took_ms: float) -> str:
    return f"2026-01-01T00:00:00.000Z WARNING node=n1 event=slow_turn what={what} processor_ms={took_ms} turns=1\n"


ONCE, AGAIN, MUCH = _line("Node._process", 56.4), _line("Node._process", 50.1), _line("Node._process", 100.1)


@pytest.mark.parametrize(
    ("logs", "found"),
    [
        ([_line("Node._process", 49.9) * 9], ""),
        ([ONCE, _line("CoreTimer._ring", 56.4)], ""),
        ([ONCE, _line("Node._process", 12.0)], ""),
        ([ONCE + AGAIN], "Node._process held a loop for 56.4 and 50.1 ms"),
        ([ONCE, AGAIN], "Node._process held a loop for 56.4 and 50.1 ms"),
        ([MUCH], "Node._process held a loop for 100.1 ms"),
    ],
)
def test_what_is_done_again_or_takes_very_long_is_found(logs: list[str], found: str) -> None:
    """Twice over 50 ms with the same callback, on one node or on two, or once over 100 ms."""
    assert too_long(logs) == found
