"""A cell of the fault matrix for each call and error, another each run; ``python -m tests.fault_matrix`` plays all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fault_matrix.cell import Cell, CellFailed
from tests.fault_matrix.matrix import CALLS, COMMITS, ERRORS, count_calls, why_not

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def needs_strace() -> None:
    """Skip where nothing can be injected."""
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """How often the workload makes each call, by what makes a write durable."""
    return {commit: count_calls(tmp_path_factory.mktemp("counted"), commit) for commit in COMMITS}


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_error_at_any_write_or_flush_loses_nothing(
    counts: dict[str, dict[str, int]], tmp_path: Path, call: str, error: str, commit: str
) -> None:
    """Whichever call fails, the node stops with a documented exit code or goes on, and keeps its word."""
    assert counts[commit][call], "the workload does not make it"
    number = random.randint(1, counts[commit][call])
    while True:
        print(f"python -m tests.fault_matrix --log-commit {commit} --call {call} --error {error} --number {number}")
        directory = tmp_path / str(number)
        directory.mkdir()
        if Cell(directory, call, error, number, commit).run().fired:
            return
        # Calls are counted thread by thread, and which thread flushes depends on the machine.
        assert number > 1, "the first call of a thread is made in every run"
        number //= 2


def test_a_lost_write_would_be_seen(tmp_path: Path) -> None:
    """The check itself: an acknowledgement that the disk does not bear out is found."""
    cell = Cell(tmp_path, "fdatasync", "EIO", 60_000)
    assert cell.run().acknowledged > 15, "there was too little to lose"
    cell._held["k0"] = "something else"
    with pytest.raises(CellFailed, match="acknowledged was 'something else'"):
        cell._look_again()
