"""Plays troubles one after the other, sometimes several at once, and notes what each did to the cluster."""

from __future__ import annotations

import datetime
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from durable_raft.errors import RequestError
from tests.soak import client_troubles, node_troubles
from tests.soak.ground import Ground

Trouble = Callable[[Ground, random.Random], int]

TROUBLES: Final[Mapping[str, Trouble]] = {
    trouble.__name__: trouble
    for trouble in (
        client_troubles.pipelines,
        client_troubles.all_keys,
        client_troubles.large_values,
        client_troubles.unread_replies,
        client_troubles.half_sent_requests,
        client_troubles.garbage_of_clients,
        client_troubles.garbage_of_peers,
        client_troubles.strangers,
        node_troubles.impostors,
        node_troubles.wrong_clocks,
        node_troubles.full_disks,
        node_troubles.slow_disks,
        node_troubles.hung_disks,
    )
}
"""By name: what to do to a cluster."""

AT_ONCE: Final = (1, 1, 1, 1, 2, 3)
"""How many troubles a round has, one as likely as the other."""
NOT_ALONE: Final = "several at once"


@dataclass(slots=True)
class Round:
    """Troubles that were played at the same time, until the cluster had its leader again."""

    names: Sequence[str]
    began: float
    """By the monotonic clock, as ``ended``."""
    ended: float = 0.0
    terms: int = 0
    """How many terms were used meanwhile."""
    struck: Counter[str] = field(default_factory=Counter)
    """How often each struck."""
    missed: list[str] = field(default_factory=list)
    """What kept one from striking, in words: refusals and broken connections are expected of a cluster in trouble."""

    def __str__(self) -> str:
        """Say in one line when it was, by the time of day that the nodes' logs have too, and what came of it."""
        ended = datetime.datetime.now(tz=datetime.UTC)
        began = ended - datetime.timedelta(seconds=self.ended - self.began)
        struck = " ".join(f"{name}={self.struck[name]}" for name in self.names)
        return f"{began:%H:%M:%S}-{ended:%H:%M:%S} {struck} terms={self.terms} {' '.join(self.missed)}".rstrip()

    @property
    def title(self) -> str:
        """The trouble's name, or that it was not alone."""
        return self.names[0] if len(self.names) == 1 else NOT_ALONE


class Driver:
    """Chooses by a seed what strikes next."""

    def __init__(self, ground: Ground, names: Sequence[str], seed: int, highest_term: Callable[[], int]) -> None:
        """Play the troubles ``names``; ``highest_term`` of any node is asked before and after each round."""
        self._ground = ground
        self._names = names
        self._seed = seed
        self._highest_term = highest_term
        self.rounds: list[Round] = []
        self.faults: list[str] = []
        """What should not have been: wrong answers, waits in vain, errors that nobody expects."""

    def play_until(self, is_over: Callable[[], bool]) -> None:
        """Play rounds, each trouble about as often as the others, until ``is_over`` says so between two."""
        rng = random.Random(self._seed)
        deck = self._shuffled(rng)
        while not is_over():
            # Two cards of a deck are different troubles; where one deck ends and the next begins they may be alike.
            self.play(list(dict.fromkeys(next(deck) for _ in range(rng.choice(AT_ONCE)))))

    def _shuffled(self, rng: random.Random) -> Iterator[str]:
        while True:
            yield from rng.sample(self._names, len(self._names))

    def play(self, names: Sequence[str]) -> Round:
        """Let troubles strike at the same time, and wait until all nodes follow one leader again."""
        number = len(self.rounds)
        played = Round(names, time.monotonic(), terms=-self._highest_term())
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: self._strike(name, number, played), names))
        try:
            self._ground.cluster.wait_ready()
        except AssertionError as error:
            self.faults.append(f"after {' and '.join(names)}: {error}")
        played.ended = time.monotonic()
        played.terms += self._highest_term()
        self.rounds.append(played)
        print(played, flush=True)
        return played

    def _strike(self, name: str, number: int, played: Round) -> None:
        rng = random.Random(f"{self._seed}-{number}-{name}")
        try:
            played.struck[name] += TROUBLES[name](self._ground, rng)
        except (OSError, RequestError) as error:
            played.missed.append(f"{name}: {error}")
        except Exception as error:
            self.faults.append(f"{name}, round {number} of seed {self._seed}: {type(error).__name__}: {error}")

    def struck(self) -> Counter[str]:
        """Return how often each trouble struck, those that never did included."""
        counts = Counter(dict.fromkeys(self._names, 0))
        for each in self.rounds:
            counts.update(each.struck)
        return counts

    def without(self) -> list[str]:
        """Return the troubles that never struck."""
        return [name for name, times in self.struck().items() if not times]
