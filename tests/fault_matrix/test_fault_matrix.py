"""A sample of the fault matrix; ``python -m tests.fault_matrix`` plays all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.fault_matrix.cell import Cell, CellFailed
from tests.fault_matrix.matrix import count_calls, places, play, why_not

pytestmark = pytest.mark.cluster

SAMPLE: Final = 3


@pytest.fixture(scope="module", autouse=True)
def needs_strace() -> None:
    """Skip where nothing can be injected."""
    if reason := why_not():
        pytest.skip(reason)


@pytest.mark.timeout(300)
def test_error_at_any_write_or_flush_loses_nothing(tmp_path: Path) -> None:
    """Whichever call fails, the node stops with a documented exit code or goes on, and keeps its word."""
    counts = count_calls(tmp_path)
    assert {call for call, count in counts.items() if count} >= {"pwrite64", "writev", "fdatasync", "fsync", "rename"}
    table = play(list(places(counts, SAMPLE)), counts, 2)
    assert not table.failures, "\n".join(table.failures)
    assert not table.silent()
    assert table.acknowledged > 100, "there was too little to lose"


def test_a_lost_write_would_be_seen(tmp_path: Path) -> None:
    """The check itself: an acknowledgement that the disk does not bear out is found."""
    cell = Cell(tmp_path, "fdatasync", "EIO", 60_000)
    cell.run()
    cell._held["k0"] = "something else"
    with pytest.raises(CellFailed, match="acknowledged was 'something else'"):
        cell._look_again()
