"""The mutation run tests itself: it finds mutants, plants them, and tells one that is caught from one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutation.campaign import EQUIVALENT, ROOMS, Campaign, complaints, known_equivalents, mutations_of_room
from tests.mutation.forks import in_children, limit_cpu
from tests.mutation.judging import SURVIVED, Verdict
from tests.mutation.mutations import is_another, mutations
from tests.mutation.planting import ROOT, mutated_functions, source

SOURCE = b'''
"""A docstring with 1 < 2."""

LIMIT: int = 3


def fits(length: int, *, strict: bool = False) -> bool:
    """Words."""
    if length < LIMIT and not strict:
        raise ValueError(f"{length + 1} is short")
    for each in (length, 2):
        if each:
            continue
    return min(length, LIMIT) - 1 == 2
'''


def afters() -> set[str]:
    """Return every changed line of ``SOURCE``."""
    return {each.after for each in mutations("x.py", SOURCE)}


def test_each_kind_of_change_is_made() -> None:
    """Bounds moved and turned, conditions, operators, constants, calls and statements."""
    assert afters() == {
        "LIMIT: int = 4",
        "LIMIT: int = 2",
        "def fits(length: int, *, strict: bool = True) -> bool:",
        "if length <= LIMIT and not strict:",
        "if length >= LIMIT and not strict:",
        "if length < LIMIT or not strict:",
        "if length < LIMIT and bool(strict):",
        "pass",
        "for each in (length, 3):",
        "for each in (length, 1):",
        "if not each:",
        "break",
        "return max(length, LIMIT) - 1 == 2",
        "return min(length, LIMIT) + 1 == 2",
        "return min(length, LIMIT) - 0 == 2",
        "return min(length, LIMIT) - 2 == 2",
        "return min(length, LIMIT) - 1 != 2",
        "return min(length, LIMIT) - 1 == 3",
        "return min(length, LIMIT) - 1 == 1",
    }


def test_a_change_that_is_no_program_or_the_same_is_no_mutant() -> None:
    """The compiler says so."""
    (mutation, *_) = mutations("x.py", b"LIMIT = 3 + 0\n")
    assert is_another(mutation, b"LIMIT = 3 + 0\n")
    assert not is_another(replace(mutation, text="3"), b"LIMIT = 3 + 0\n")
    assert not is_another(replace(mutation, text="3 )"), b"LIMIT = 3 + 0\n")


def test_no_change_moves_a_line() -> None:
    """Functions are found again by their first line."""
    source = b"def first():\n    call(\n        1,\n    )\n\n\ndef second():\n    return 1\n"
    for mutation in mutations("x.py", source):
        assert mutation.apply(source).count(b"\n") == source.count(b"\n")


def test_a_mutant_is_known_by_its_text() -> None:
    """Not by its line, which moves when something is added before it."""
    moved = mutations("x.py", b"\n\n" + SOURCE)
    assert [each.name for each in moved] == [each.name for each in mutations("x.py", SOURCE)]


def test_what_an_import_does_is_told_from_what_a_function_does() -> None:
    """The one needs a process that has not imported the module."""
    paths = ("durable_raft/raft/quorum.py", "durable_raft/raft/types.py")
    every = [each for path in paths for each in mutations(path, source(path))]
    found = {each.name: each for each in every}
    inside = found["durable_raft/raft/quorum.py majority: return voters // 2 + 1 => return voters // 2 - 1"]
    outside = found["durable_raft/raft/types.py EntryKind: NOOP = 0 => NOOP = 1"]
    assert [code.co_qualname for code in mutated_functions(inside) or []] == ["majority"]
    assert mutated_functions(outside) is None


def test_every_known_equivalent_is_a_mutant() -> None:
    """And each has a reason."""
    every = {each.name for room in ROOMS for each in mutations_of_room(room)}
    known = known_equivalents()
    assert set(known) <= every, set(known) - every
    assert all(len(reason) > 20 for reason in known.values())
    assert EQUIVALENT.read_text(encoding="utf-8").count(" => ") == len(known), "named twice"


def _work(task: int) -> int:
    if task == 1:
        limit_cpu(0.05)
        while True:
            pass
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * task


def test_children_that_hang_or_die_have_no_result() -> None:
    """The others have theirs."""
    results = dict(in_children([0, 1, 2, 3], _work, jobs=2, seconds_max=60.0))
    assert results == {0: 0, 1: None, 2: None, 3: 30}


def _raise(_task: int) -> int:
    raise LookupError("nothing here")


def test_work_that_raises_ends_the_run() -> None:
    """It is a mistake of the run, and no verdict."""
    with pytest.raises(RuntimeError, match="nothing here"):
        list(in_children([0], _raise, jobs=1, seconds_max=60.0))


EQUIVALENTS = [each for each in known_equivalents() if "Progress.became_matched: self.probe_sent" in each]


def test_a_run_tells_what_is_caught_from_what_is_not(tmp_path: Path) -> None:
    """Mutants that tests notice, mutants that change nothing, and one of a file that these tests do not know."""
    assert len(EQUIVALENTS) == 2
    unknown = "durable_raft/raft/healing.py _ask: if wanted: => if not wanted:"
    only = ["raft/quorum.py majority_value:", *EQUIVALENTS, unknown]
    files = ["tests/raft/test_quorum.py", "tests/raft/test_progress.py"]
    arguments = [f"{name}={value}" for name, values in (("--only", only), ("--tests", files)) for value in values]
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "tests.mutation", *arguments, "--seeds", "0", "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(result.read_text(encoding="utf-8"))
    assert found["survivors"] == [unknown]
    assert found["rooms"]["raft"]["equivalent"] == 2
    assert found["caught"] == found["mutants"] - 3 == 4, done.stderr


def test_a_run_fails_for_each_reason() -> None:
    """A survivor without a reason, a reason without a mutant, and a reason for a mutant that is caught."""
    one, other, third = mutations("x.py", SOURCE)[:3]
    campaign = Campaign(jobs=1, seeds=0, known={one.name: "because", "gone": "because"})
    campaign.verdicts = {one: SURVIVED, other: Verdict("test", "a test"), third: Verdict("hang")}
    assert complaints(campaign, [one, other, third]) == ["named as equivalent, and no mutant: gone"]
    campaign = Campaign(jobs=1, seeds=0, known={one.name: "because"})
    campaign.verdicts = {one: Verdict("test", "a test"), other: SURVIVED}
    assert complaints(campaign, [one, other, third]) == [
        f"named as equivalent, and caught by a test: {one}",
        f"survived: {other}",
    ]
