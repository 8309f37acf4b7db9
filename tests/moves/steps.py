"""What is done to a cluster, the same to each system: the steps, and what each is made of.

Names are the same too: n1 is there from the beginning, n2 to n5 make it five, n6 to n10 take their places.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol


class Operators(Protocol):
    """Those who change a running cluster. Each method returns when it is done, and raises when it cannot be."""

    def members(self) -> list[str]:
        """Return who votes."""

    def leader(self) -> str:
        """Return who leads."""

    def add(self, name: str) -> None:
        """Start a new node on an empty disk, have it join and catch up, and give it a vote."""

    def replace(self, old: str, new: str) -> None:
        """Have a new node on an empty disk take the vote of a running one, which goes."""

    def remove(self, name: str) -> None:
        """Have a node go, and wait until it has stopped."""

    def move(self, name: str) -> None:
        """Have a node reached at other addresses, by clients and by the other nodes."""

    def transfer(self, target: str) -> None:
        """Hand leadership over."""

    def restart(self, name: str) -> None:
        """Stop a node with SIGTERM, start it, and wait until it has caught up."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything is done."""

    keys: int
    """In the cluster before it grows: what each new node has to be brought."""
    rate: float
    """Commands a second; three of four are writes."""
    clients: int
    calm: int
    """Acknowledged writes while nothing is done."""
    between: int
    """Acknowledged writes that are waited for after each action."""
    replaced: int
    """Of the five nodes; the others stay."""
    moved: int
    """Of the five nodes, as well."""
    handovers: int
    stops: int
    """How often the leader is stopped and started again."""
    rounds: int
    """Rolling restarts."""


Action = tuple[str, Callable[[], None]]
"""What is done, in words, and how."""
Actions = Callable[[Operators, random.Random], Iterator[Action]]
"""Yields one action after the other: who leads is asked when it is the action's turn."""

CALM: Final = "nothing is done"
HANDOVER: Final = "leadership is handed over"
STOP: Final = "the leader is stopped and started"
ROLLING: Final = "rolling restarts"
FOUNDERS: Final = ("n1",)
ADDED: Final = (("n2", "n3"), ("n4", "n5"))
REPLACED: Final = tuple((f"n{number}", f"n{number + 5}") for number in range(1, 6))
"""Only nodes that joined move. So n1 is replaced first: it was told its address when it founded the cluster."""


def plan(sizes: Sizes) -> Sequence[tuple[str, Actions]]:
    """Return the steps in their order, each with its name."""
    return (
        ("from 1 node to 3", partial(_add, ADDED[0])),
        ("from 3 to 5", partial(_add, ADDED[1])),
        ("nodes are replaced, one after the other", partial(_replace, sizes.replaced)),
        ("nodes get other addresses", partial(_move, sizes.moved)),
        ("from 5 to 3", _remove),
        (CALM, _rest),
        (HANDOVER, partial(_transfer, sizes.handovers)),
        (STOP, partial(_stop, sizes.stops)),
        (ROLLING, partial(_restart, sizes.rounds)),
    )


def _add(names: Sequence[str], operators: Operators, rng: random.Random) -> Iterator[Action]:
    del rng
    for name in names:
        yield f"{name} is added", partial(operators.add, name)


def _replace(count: int, operators: Operators, rng: random.Random) -> Iterator[Action]:
    first, *others = REPLACED
    for old, new in [first, *rng.sample(others, count - 1)]:
        yield f"{new} replaces {old}", partial(operators.replace, old, new)


def _move(count: int, operators: Operators, rng: random.Random) -> Iterator[Action]:
    for name in rng.sample(operators.members(), count):
        yield f"{name} moves", partial(operators.move, name)


def _remove(operators: Operators, rng: random.Random) -> Iterator[Action]:
    for name in rng.sample(operators.members(), 2):
        yield f"{name} is removed", partial(operators.remove, name)


def _rest(operators: Operators, rng: random.Random) -> Iterator[Action]:
    del operators, rng
    yield CALM, lambda: None


def _transfer(times: int, operators: Operators, rng: random.Random) -> Iterator[Action]:
    for _ in range(times):
        leader = operators.leader()
        target = rng.choice([name for name in operators.members() if name != leader])
        yield f"{leader} hands over to {target}", partial(operators.transfer, target)


def _stop(times: int, operators: Operators, rng: random.Random) -> Iterator[Action]:
    del rng
    for _ in range(times):
        leader = operators.leader()
        yield f"{leader}, which leads, is stopped and started", partial(operators.restart, leader)


def _restart(rounds: int, operators: Operators, rng: random.Random) -> Iterator[Action]:
    for _ in range(rounds):
        names = operators.members()
        for name in rng.sample(names, len(names)):
            yield f"{name} is stopped and started", partial(operators.restart, name)
