"""Judges what the clients of a run were told: each object's history must be linearizable.

Registers and counters are judged key by key; a group of keys, over which one command may go, is judged whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation import clients
from tests.simulation.linearizability import Outcome, Verdict, check, check_whole
from tests.simulation.sequential import NEVER, Operation, kind_and_input
from tests.simulation.workload import object_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class Undecided(AssertionError):
    """The search gave up: the history proves nothing, neither way."""


class Judged(NamedTuple):
    """How much was judged."""

    objects: int = 0
    operations: int = 0
    steps: int = 0
    """Configurations tried."""


def judge(history: Iterable[clients.Operation]) -> Judged:
    """Judge a whole run.

    Args:
        history: without the operations that certainly had no effect.

    Raises:
        NotLinearizable: an answer that nothing explains, with what went on around it.
        Undecided: a history was too hard to judge.
    """
    single: list[Operation] = []
    groups: dict[bytes, list[Operation]] = {}
    for each in history:
        name = object_of(each.args)
        if name is None:
            continue
        part = groups.setdefault(name, []) if name[:1] == b"g" else single
        part.append(_recorded(each))
    return _summed([check(single), *(check_whole(part) for part in groups.values())])


def _summed(verdicts: Sequence[Verdict]) -> Judged:
    for verdict in verdicts:
        if verdict.outcome is Outcome.UNDECIDED:
            raise Undecided(verdict.explanation)
        verdict.require()
    return Judged(
        sum(each.keys for each in verdicts if each.operations),
        sum(each.operations for each in verdicts),
        sum(each.steps for each in verdicts),
    )


def _recorded(operation: clients.Operation) -> Operation:
    """Return a client's operation as the checker has it."""
    returned = NEVER if operation.returned is None else operation.returned
    asked = kind_and_input(operation.args)
    return Operation(operation.client, *asked, operation.answer, operation.invoked, returned, operation.place)
