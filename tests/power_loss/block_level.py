"""The same one layer below: a real ext4 on a disk that remembers, and power cuts of the disk.

``python -m tests.power_loss.block_level --images 500`` (root only; loop devices and FUSE) runs the scripted workload on
ext4 on a loop device over fuse_recorder.py, then makes images of the *device*: what was flushed is there, other writes
may be lost or torn. Each image is mounted, so that ext4 replays its journal, and recovered as the others are. So here
nothing about file systems is assumed; the model is the device's: a flush makes everything durable that had reached the
device before it did.

All mounts are made in a mount namespace of this program's own and end with it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from tests.power_loss.campaign import fresh_seed, scratch_directory
from tests.power_loss.disk import Choice, Snapshot, build, snapshots_of
from tests.power_loss.images import Supply, essentials
from tests.power_loss.judge import StoreJudge, verdict
from tests.power_loss.operations import ROOT, Flush, Link, Marker, Operation, Recording, Write
from tests.power_loss.planted import BUGS
from tests.power_loss.pool import CHECKOUT, Outcome, Worker
from tests.power_loss.stores import COMMITS, LMDB
from tests.power_loss.workload import ROUNDS
from tests.results import record as results

MODULE: Final = "tests.power_loss.block_level"
DISK_BYTES: Final = 8 << 20
DISK: Final = 1
NAMESPACE: Final = "POWER_LOSS_NAMESPACE"
"""Set in the environment of the program once it runs in its own mount namespace."""
ISOLATED: Final = ("unshare", "--mount", "--propagation", "private")
IMAGES_A_CUT: Final = 24


def missing() -> str | None:
    """Return why this cannot run here, or None."""
    if os.geteuid() != 0:
        return "only root may mount"
    for program in ("unshare", "mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            return f"there is no {device}"
    trial = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace of its own: {trial.stderr.strip()}" if trial.returncode else None


def record(scratch: Path, seed: int, bug: str | None, commit: str) -> Recording:
    """Run the workload on ext4 on the recording disk; the device is the one file of the recording."""
    image, log, fuse, mount = scratch / "ext4", scratch / "log", scratch / "fuse", scratch / "mount"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-F", "-b", "4096", str(image))
    initial = image.read_bytes()
    fuse.mkdir()
    mount.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.power_loss.fuse_recorder", str(fuse), str(image), str(log)],
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n", "the recording disk does not start"
        _run("mount", "-o", "loop", str(fuse / "disk"), str(mount))
        try:
            program = [sys.executable, "-m", "tests.power_loss.workload", str(mount / "data/n1"), str(fuse / "marks")]
            _run(*program, str(seed), str(ROUNDS), commit, *([bug] if bug else []))
        finally:
            _run("umount", str(mount))
    finally:
        _run("umount", str(fuse))
        server.communicate(timeout=30)
    return Recording("store", seed, "data/n1", list(_operations(log, initial)))


def _run(*command: str) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=120, check=False)
    if finished.returncode != 0:
        raise AssertionError(f"{command} ended with {finished.returncode}: {finished.stdout}{finished.stderr}")


def _operations(log: Path, initial: bytes) -> Iterator[Operation]:
    """Yield the operations on the device; a flush covers all before it, as the loop device sends one at a time."""
    yield Link(0, ROOT, "disk", DISK, False)
    yield Flush(1, ROOT, (0,))
    yield Write(2, DISK, 0, initial)
    yield Flush(3, DISK, (2,))
    number = 4
    pending: list[int] = []
    for name, offset, data in _log_of(log):
        if name == "marks":
            if data is None:
                continue
            for line in data.splitlines():
                fields = json.loads(line)
                yield Marker(number, fields.pop("kind"), fields)
                number += 1
            continue
        if data is None:
            yield Flush(number, DISK, tuple(pending))
            pending.clear()
        else:
            yield Write(number, DISK, offset, data)
            pending.append(number)
        number += 1


def _log_of(log: Path) -> Iterator[tuple[str, int, Any]]:
    with log.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)


class BlockExplorer:
    """Device images of one recording, mounted and recovered one after the other."""

    def __init__(self, recording: Recording, scratch: Path, seed: int, kept: Path | None) -> None:
        """Prepare; ``kept`` gets the first failing image, in which ``mount -o loop`` shows what is left."""
        self._recording = recording
        self._judge = StoreJudge(recording)
        self._image = scratch / "image"
        self._mount = scratch / "recovered"
        self._mount.mkdir()
        self._rng = random.Random(seed)
        self._worker = Worker(scratch / "recovery.err")
        self._outcomes: dict[bytes, Outcome] = {}
        self.kinds: Counter[str] = Counter()
        self.activities: Counter[str] = Counter()
        self.failures: list[str] = []
        self.kept = kept

    def run(self, images: int, *, until_failure: bool = False) -> None:
        """Look at some images of every cut, spread over the recording."""
        cuts = sum(1 for _ in self._cuts())
        for done, snapshot in enumerate(self._cuts(), start=1):
            for kind, choice in self._some(snapshot):
                if self.kinds.total() >= images * done // cuts:
                    break
                self.look(snapshot, kind, choice)
                if until_failure and self.failures:
                    return

    def close(self) -> None:
        """End the recovering process."""
        self._worker.close()

    def _cuts(self) -> Iterator[Snapshot]:
        """Yield the snapshots before which something changed, from the first mark to the last."""
        marks = [each.number for each in self._recording.operations if isinstance(each, Marker)]
        for snapshot in snapshots_of(self._recording.operations):
            if marks[0] < snapshot.cut <= marks[-1] + 1:
                yield snapshot

    def _some(self, snapshot: Snapshot) -> list[tuple[str, Choice]]:
        """Return some images of a cut, of its kinds in turn, so that a few of them are as mixed as many."""
        supply = Supply(snapshot, self._rng)
        by_kind: dict[str, list[tuple[str, Choice]]] = {}
        for kind, choice in (*essentials(snapshot), *(each for _ in range(3) for each in supply.round())):
            by_kind.setdefault(kind, []).append((kind, choice))
        for choices in by_kind.values():
            self._rng.shuffle(choices)
        kinds = list(by_kind.values())
        self._rng.shuffle(kinds)
        turns = zip_longest(*kinds)
        return [each for turn in turns for each in turn if each is not None][:IMAGES_A_CUT]

    def look(self, snapshot: Snapshot, kind: str, choice: Choice) -> None:
        """Mount one image, recover what is in it, judge it."""
        image = build(snapshot, choice)
        outcome = self._outcomes.get(image.digest)
        if outcome is None:
            self.kinds[kind] += 1
            self.activities.update(self._judge.activities(snapshot.cut))
            ((_, data),) = image.files
            self._image.write_bytes(data)
            _run("mount", "-o", "loop", str(self._image), str(self._mount))
            try:
                outcome = self._worker.ask(self._mount / self._recording.directory)
            finally:
                _run("umount", str(self._mount))
            self._outcomes[image.digest] = outcome
        if (what := verdict(self._judge, snapshot.cut, outcome)) is not None:
            if not self.failures and self.kept is not None:
                shutil.copy(self._image, self.kept)
            self.failures.append(f"a power cut after device operation {snapshot.cut - 1} ({kind}): {what}")


def main(arguments: Sequence[str]) -> int:
    """Run the program; 0: nothing found, 1: something, 2: not possible here."""
    parser = argparse.ArgumentParser(prog="python -m tests.power_loss.block_level", description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--log-commit", choices=COMMITS, default=LMDB, help="what makes a write durable")
    parser.add_argument("--broken", choices=sorted(BUGS))
    results.add_option(parser)
    options = parser.parse_args(arguments)
    if (reason := missing()) is not None:
        print(f"not possible here: {reason}")
        return 2
    if NAMESPACE not in os.environ:
        os.environ[NAMESPACE] = "1"
        program = [sys.executable, "-m", "tests.power_loss.block_level", *arguments]
        os.execvp(ISOLATED[0], [*ISOLATED, *program])
    seed = fresh_seed() if options.seed is None else options.seed
    with scratch_directory() as scratch:
        recording = record(scratch, seed, options.broken, options.log_commit)
        # A planted bug is meant to be found, and its image of no interest.
        kept = None if options.broken else Path(tempfile.gettempdir()) / f"power-loss-ext4-{seed}.img"
        explorer = BlockExplorer(recording, scratch, seed, kept)
        try:
            explorer.run(options.images, until_failure=options.broken is not None)
        finally:
            explorer.close()
    figures = {
        "operations": len(recording.operations),
        "flushes": recording.flushes,
        "images": explorer.kinds.total(),
        "kinds": dict(sorted(explorer.kinds.items())),
        "activities": dict(sorted(explorer.activities.items())),
        "failures": len(explorer.failures),
    }
    results.save(options.json, results.command_line(MODULE, arguments, seed=seed), str(seed), figures)
    kinds, activities = (
        ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        for counts in (explorer.kinds, explorer.activities)
    )
    print(f"seed {seed}: {len(recording.operations)} device operations, {recording.flushes} flushes")
    print(f"{explorer.kinds.total()} distinct images of ext4 ({kinds}), {len(explorer.failures)} failures")
    print(f"in flight: {activities}")
    if explorer.failures:
        print("\n".join([*explorer.failures[:5], *([f"the first image: {kept}"] if kept else [])]))
    return 1 if explorer.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
