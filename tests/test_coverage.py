"""What measures the rooms' coverage: every room has a limit, and what is left out says why (tests/coverage.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.coverage import LIMITS, Measured, table

ROOT: Final = Path(__file__).resolve().parents[1]

WITHOUT_LIMIT: Final = {"cli": "it is tested by starting the commands, in processes that are not measured"}
"""Room -> why it has none."""


def test_every_room_has_a_limit_or_a_reason() -> None:
    """One that is made later is measured, too."""
    rooms = {path.parent.name for path in (ROOT / "durable_raft").glob("*/__init__.py")}
    assert rooms == set(LIMITS) | set(WITHOUT_LIMIT)
    assert all((ROOT / "tests" / room).is_dir() for room in LIMITS)


@pytest.mark.parametrize(
    ("percent", "failure", "is_enough"), [(99.0, "", True), (98.99, "", False), (100.0, "1 failed", False)]
)
def test_a_room_under_its_limit_or_with_a_failing_test_is_not_enough(
    percent: float, failure: str, *, is_enough: bool
) -> None:
    """The table says so, too."""
    found = Measured("raft", 1000, 10, 400, 4, percent, "", failure)
    assert found.is_enough is is_enough
    assert ("not enough" in table([found])) is not is_enough


def test_what_is_left_out_says_why() -> None:
    """And it is little: a reason is owed for each line that no test executes on purpose."""
    pragmas = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "durable_raft").rglob("*.py")
        for line in path.read_text().splitlines()
        if "pragma: no" in line
    ]
    assert [line for line in pragmas if not re.search(r"# pragma: no (cover|branch) - \w+", line)] == []
    assert len(pragmas) <= 10
