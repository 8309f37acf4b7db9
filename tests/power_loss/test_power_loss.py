"""Power cuts at every operation of the real store and of a real node: nothing that was promised is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.power_loss.campaign import (
    NODE,
    STORE,
    Campaign,
    empty_classes,
    find_bug,
    fresh_seed,
    replayed,
    report,
    scratch_directory,
)
from tests.power_loss.explorer import Explorer
from tests.power_loss.operations import Flush, Link, Marker, Operation, Recording
from tests.power_loss.planted import BUGS, JOURNAL_BUGS, NODE_BUGS
from tests.power_loss.pool import CHECKOUT, Pool
from tests.power_loss.record import record_node, record_store
from tests.power_loss.stores import COMMITS
from tests.power_loss.strace import missing_strace
from tests.support.waiting import WAIT_S

STORE_IMAGES: Final = 700
NODE_IMAGES: Final = 400
TURNS: Final = 2
"""Of a node's client; the recording is that much shorter than the campaign's."""


RECORDINGS_MAX: Final = 6
"""Recordings made until all that must be met was: on a busy machine a checkpoint may end before a call that is cut."""
KNOWN_SEEDS: Final = {"space-reused": 2}
"""Planted bug -> seed of a recording in which it does harm, where most recordings have no such moment."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory in memory; skip where nothing can be recorded."""
    if (reason := missing_strace()) is not None:
        pytest.skip(reason)
    with scratch_directory() as directory:
        yield directory


def play(campaign: Campaign, source: str, images: int) -> None:
    """Explore ``images``, and as many again of another recording while something that must be met was not."""
    for _ in range(RECORDINGS_MAX):
        campaign.run(campaign.images + images, (source,))
        if campaign.failures or not empty_classes(campaign.counts, (source,), campaign.commit):
            return


def assert_nothing_lost(campaign: Campaign, source: str, images: int, place: Path, commit: str) -> None:
    """Assert that a campaign was as large as meant, met everything it should, and found nothing."""
    print("\n".join(campaign.table()))
    assert not campaign.failures, "\n".join(report(campaign.failures, place))
    assert campaign.images >= images
    assert campaign.deaths == 0
    assert empty_classes(campaign.counts, (source,), commit) == []
    assert campaign.counts[source].probes > images // 40


@pytest.mark.parametrize("commit", COMMITS)
def test_store_keeps_what_it_promised(scratch: Path, tmp_path: Path, commit: str) -> None:
    """A cut of creation, append, hard state, truncation or compaction loses no promise and leaves no half state."""
    seed = fresh_seed()
    print(f"python -m tests.power_loss --source store --log-commit {commit} --images {STORE_IMAGES} --seed {seed}")
    campaign = Campaign(scratch, seed, rounds=1, commit=commit)
    play(campaign, STORE, STORE_IMAGES)
    assert_nothing_lost(campaign, STORE, STORE_IMAGES, tmp_path, commit)


@pytest.mark.cluster
@pytest.mark.parametrize("commit", COMMITS)
def test_node_keeps_what_it_acknowledged(scratch: Path, tmp_path: Path, commit: str) -> None:
    """Every command that was answered with OK before the cut is in the log afterwards, term and vote with it."""
    campaign = Campaign(scratch, fresh_seed(), turns=TURNS, commit=commit)
    play(campaign, NODE, NODE_IMAGES)
    assert_nothing_lost(campaign, NODE, NODE_IMAGES, tmp_path, commit)


@pytest.mark.parametrize("bug", [*BUGS, *JOURNAL_BUGS])
def test_planted_bug_is_found(scratch: Path, tmp_path: Path, bug: str) -> None:
    """The explorer sees each bug among the first images, and the file it leaves shows the same failure again."""
    assert_found(bug, scratch, tmp_path)


@pytest.mark.cluster
@pytest.mark.parametrize("bug", NODE_BUGS)
def test_bug_planted_in_a_node_is_found(scratch: Path, tmp_path: Path, bug: str) -> None:
    """The same with those of a real node."""
    assert_found(bug, scratch, tmp_path)


def assert_found(bug: str, scratch: Path, tmp_path: Path) -> None:
    """Assert that a planted bug is found, and found again in the file that is left.

    A recording may have no moment in which the bug does harm: space is used again in few of them.
    """
    for number in range(RECORDINGS_MAX):
        seed = fresh_seed() if number else KNOWN_SEEDS.get(bug, fresh_seed())
        campaign = find_bug(scratch / str(number), bug, seed, rounds=1, turns=TURNS)
        if campaign.failures:
            break
    assert campaign.failures, f"{bug}: not found in {RECORDINGS_MAX} times {campaign.images} images"
    lines = report(campaign.failures, tmp_path)
    (path,) = tmp_path.glob("power-loss-*.json.gz")
    assert lines[-1] == f"replay: python -m tests.power_loss --replay {path}"
    again = replayed(path, scratch / "again")
    assert [failure.what for failure in again][:1] == [campaign.failures[0].what]


def explored(recording: Recording, scratch: Path) -> Explorer:
    """Explore a recording until a failure is found."""
    with Pool(scratch / "images", recording.directory, is_node=recording.is_node) as pool:
        explorer = Explorer(recording, pool, random.Random(1))
        explorer.run(200, until_failure=True)
    return explorer


def renumbered(operations: Sequence[Operation]) -> list[Operation]:
    """Return operations in a new order with the numbers that belong to it."""
    numbers = {operation.number: number for number, operation in enumerate(operations)}
    found: list[Operation] = []
    for number, operation in enumerate(operations):
        if isinstance(operation, Flush):
            covers = tuple(numbers[each] for each in operation.covers)
            found.append(replace(operation, number=number, covers=covers))
        else:
            found.append(replace(operation, number=number))
    return found


@pytest.mark.cluster
def test_node_that_acknowledges_before_its_flush_is_found(scratch: Path) -> None:
    """With every OK moved before the flush that it followed, commands that were acknowledged are missing."""
    recording = record_node(scratch / "recorded", 1, lives=1, turns=TURNS)
    operations: list[Operation] = []
    for operation in recording.operations:
        operations.append(operation)
        if isinstance(operation, Marker):
            flush = max(place for place, each in enumerate(operations) if isinstance(each, Flush))
            operations.insert(flush, operations.pop())
    assert explored(recording, scratch / "good").failures == []
    early = replace(recording, operations=renumbered(operations))
    assert explored(early, scratch / "early").failures


@pytest.mark.cluster
def test_node_on_a_disk_that_does_not_flush_is_found(scratch: Path) -> None:
    """With flushes that flush nothing, the model itself drops what the node was sure of."""
    recording = record_node(scratch / "recorded", 2, lives=1, turns=TURNS)
    lying = [replace(each, covers=()) if isinstance(each, Flush) else each for each in recording.operations]
    assert explored(replace(recording, operations=lying), scratch / "images").failures


@pytest.mark.cluster
def test_state_that_is_not_flushed_is_found(scratch: Path) -> None:
    """With the flushes of the KV state's file alone lost, recovery meets a damaged state beside a sound log."""
    recording = record_node(scratch / "recorded", 3, lives=1, turns=TURNS)
    files = [each.inode for each in recording.operations if isinstance(each, Link) and each.name == "data.mdb"]
    assert len(files) == 2, "one of the log, one of the state"
    lying = [
        replace(each, covers=()) if isinstance(each, Flush) and each.inode == files[-1] else each
        for each in recording.operations
    ]
    failures = explored(replace(recording, operations=lying), scratch / "images").failures
    assert failures
    assert any(words in failures[0].what for words in ("DIR/kv", "keys key", "the KV state was set aside"))


def test_recording_of_the_store_depends_on_its_seed_alone(scratch: Path) -> None:
    """Two recordings of one seed promise the same at the same places, and so do their images: a seed replays."""
    first, second, other = (record_store(scratch / "recorded", seed, rounds=1) for seed in (5, 5, 6))
    assert shape_of(first) == shape_of(second)
    assert shape_of(first) != shape_of(other)


def shape_of(recording: Recording) -> list[object]:
    """Return what a recording shows, without the process id that goes into LOCK."""
    return [
        (type(each), each.kind, each.fields) if isinstance(each, Marker) else (type(each), getattr(each, "covers", 0))
        for each in recording.operations
    ]


def block_level(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the block-level form as the program it is: it needs a mount namespace of its own."""
    program = [sys.executable, "-m", "tests.power_loss.block_level", *options]
    finished = subprocess.run(program, capture_output=True, text=True, cwd=CHECKOUT, timeout=WAIT_S, check=False)
    if finished.returncode == 2:
        pytest.skip(finished.stdout.strip())
    return finished


@pytest.mark.parametrize("commit", COMMITS)
def test_ext4_on_a_disk_that_loses_writes_keeps_what_was_promised(commit: str) -> None:
    """Images of the device itself, mounted so that ext4 replays its journal, hold what the store had promised."""
    seed = fresh_seed()
    finished = block_level("--images", "40", "--seed", str(seed), "--log-commit", commit)
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "40 distinct images" in finished.stdout


def test_missing_flush_is_found_below_ext4() -> None:
    """With LMDB's flushes off the device never gets what was promised, and the images of it show that."""
    finished = block_level("--images", "150", "--seed", str(fresh_seed()), "--broken", "no-flush")
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "1 failures" in finished.stdout
