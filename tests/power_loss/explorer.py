"""Goes through the images of one recording: builds them, has each distinct one recovered once, judges it at every cut.

The same image may be what a power cut leaves at several cuts; what must be found in it differs from cut to cut, so it
is judged at each, with the outcome it had the first time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.power_loss.disk import ALL, Choice, Image, Snapshot, build, replay
from tests.power_loss.images import PREFIX, Supply, essentials, everything
from tests.power_loss.judge import judge_of, verdict
from tests.power_loss.operations import Recording, described
from tests.power_loss.pool import Outcome, Pool

PROBE_EVERY: Final = 20
"""So many images for one that is also written to after its recovery."""
OPERATIONS_SHOWN: Final = 12

Waiting = list[tuple[int, str, Choice]]


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that must not be."""

    recording: Recording
    cut: int
    kind: str
    choice: Choice
    what: str

    def as_json(self) -> dict[str, Any]:
        """Return what makes the image again from the recording."""
        kept = {str(number): mask for number, mask in self.choice.kept.items()}
        return {"cut": self.cut, "kind": self.kind, "kept": kept, "extended": self.choice.is_extended}

    def lines(self) -> list[str]:
        """Say what was found, and what had been done just before, with the fate of each operation."""
        before = self.recording.operations[max(0, self.cut - OPERATIONS_SHOWN) : self.cut]
        snapshot = replay(self.recording.operations[: self.cut])[-1]
        pending = {each.number for each in (*snapshot.writes, *snapshot.names)}
        where = f"{self.recording.source}, seed {self.recording.seed}: a power cut after operation {self.cut - 1}"
        lines = [f"{where} ({self.kind}): {self.what}"]
        for operation in before:
            mask = self.choice.kept.get(operation.number, 0)
            fate = "kept" if mask == ALL else f"torn, pieces {mask:#b}" if mask else "lost"
            lines.append(f"    {described(operation)}{f'  <- {fate}' if operation.number in pending else ''}")
        return lines


def choice_of(image: Mapping[str, Any]) -> Choice:
    """Return the choice that ``Failure.as_json`` told of."""
    return Choice({int(number): mask for number, mask in image["kept"].items()}, image["extended"])


@dataclass(slots=True)
class Counts:
    """What was looked at."""

    recordings: int = 0
    operations: int = 0
    flushes: int = 0
    cuts: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Distinct images by the kind that first made them."""
    activities: Counter[str] = field(default_factory=Counter)
    """Distinct images by what was in flight at the cuts at which they were judged."""
    verdicts: int = 0
    """Images judged, counting each at every cut."""
    probes: int = 0
    failures: int = 0

    @property
    def images(self) -> int:
        """Distinct images."""
        return self.kinds.total()


class Explorer:
    """One recording under examination."""

    def __init__(
        self,
        recording: Recording,
        pool: Pool,
        rng: random.Random,
        outcomes: dict[bytes, Outcome | Waiting] | None = None,
    ) -> None:
        """Prepare; ``outcomes`` may be shared by several explorers, so that no image counts twice."""
        self.recording = recording
        self.counts = Counts(1, len(recording.operations), recording.flushes, len(recording.operations) + 1)
        self.failures: list[Failure] = []
        self._pool = pool
        self._rng = rng
        self._outcomes: dict[bytes, Outcome | Waiting] = {} if outcomes is None else outcomes
        self._snapshots = replay(recording.operations)
        self._judge = judge_of(recording)
        self._is_judging = False
        self._is_told: set[tuple[bytes, int]] = set()
        self._is_met: set[tuple[bytes, str]] = set()

    def run(self, images_max: int, *, until_failure: bool = False) -> None:
        """Look at the images that no campaign leaves out, then at others, until there are ``images_max`` or no more."""
        self.learn()
        for snapshot in self._snapshots:
            for kind, choice in essentials(snapshot):
                self.look(snapshot, kind, choice)
            if until_failure and self.failures:
                break
        else:
            self._look_further(images_max, until_failure=until_failure)
        self._pool.drain()

    def _look_further(self, images_max: int, *, until_failure: bool) -> None:
        supplies = [(snapshot, Supply(snapshot, self._rng)) for snapshot in self._snapshots]
        supplies = [(snapshot, supply) for snapshot, supply in supplies if not supply.is_exhausted]
        while supplies:
            before = self.counts.images
            self._rng.shuffle(supplies)
            for snapshot, supply in supplies:
                for kind, choice in supply.round():
                    self.look(snapshot, kind, choice)
                if self.counts.images >= images_max or (until_failure and self.failures):
                    return
            if self.counts.images == before:
                return

    def learn(self) -> None:
        """Recover what a killed process would have left at each cut, which tells some judges what to expect."""
        images = [(snapshot, everything(snapshot)) for snapshot in self._snapshots]
        digests = [self.look(snapshot, PREFIX, choice).digest for snapshot, choice in images]
        self._pool.drain()
        for cut, digest in enumerate(digests):
            outcome = self._outcomes[digest]
            assert isinstance(outcome, Outcome)
            self._judge.learn(cut, outcome)
        self._is_judging = True

    def look(self, snapshot: Snapshot, kind: str, choice: Choice) -> Image:
        """Have one image recovered, if it is new, and judged."""
        image = build(snapshot, choice)
        cut = snapshot.cut
        outcome = self._outcomes.get(image.digest)
        if outcome is None:
            self.counts.kinds[kind] += 1
            self._outcomes[image.digest] = [(cut, kind, choice)]
            is_probed = self.counts.images % PROBE_EVERY == 0
            self.counts.probes += is_probed
            self._pool.submit(image, lambda found: self._arrived(image.digest, found), is_probed=is_probed)
        elif isinstance(outcome, Outcome):
            self._judged(image.digest, cut, kind, choice, outcome)
        else:
            outcome.append((cut, kind, choice))
        return image

    def _arrived(self, digest: bytes, outcome: Outcome) -> None:
        waiting = self._outcomes[digest]
        assert not isinstance(waiting, Outcome)
        self._outcomes[digest] = outcome
        for cut, kind, choice in waiting:
            self._judged(digest, cut, kind, choice, outcome)

    def _judged(self, digest: bytes, cut: int, kind: str, choice: Choice, outcome: Outcome) -> None:
        if not self._is_judging:
            return
        self.counts.verdicts += 1
        for activity in self._judge.activities(cut):
            if (digest, activity) not in self._is_met:
                self._is_met.add((digest, activity))
                self.counts.activities[activity] += 1
        if (what := verdict(self._judge, cut, outcome)) is not None and (digest, cut) not in self._is_told:
            self._is_told.add((digest, cut))
            self.counts.failures += 1
            self.failures.append(Failure(self.recording, cut, kind, choice, what))
