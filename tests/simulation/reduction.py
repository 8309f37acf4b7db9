"""What of a history can be called alike before its order is searched: fewer different operations, the same verdict.

A key that is out of reach for most of a run has hundreds of operations of unknown outcome, each with its own value.
Which of them took effect is mostly nobody's business, and a search that tells them apart would try every choice.

- A value that no known answer shows is as good as any other such value. The commands move values and compare them with
  nothing; so an order that fits fits with all these values made one, and the other way round: a state that holds
  one of them contradicts every answer that shows a value either way. (APPEND makes values of values: a history that has
  it is left as it is. INCR looks at numbers: they are left too.)
- Of an unknown outcome only the effect counts: GETSET is a SET, GETDEL a DEL.
- The keys of MSET and of DEL may be named in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.simulation.sequential import EFFECTS, NEVER, Kind, Operation, is_counted

UNSEEN: Final = b"(a value that no answer shows)"


def reduced(operations: Sequence[Operation]) -> Sequence[Operation]:
    """Return a history of one object that has an order exactly if ``operations`` has one."""
    if all(each[6] != NEVER for each in operations) or any(each[2] is Kind.APPEND for each in operations):
        return operations
    seen: set[object] = set()
    for each in operations:
        if each[6] != NEVER:
            seen.update(each[4] if isinstance(each[4], tuple) else (each[4],))
    if UNSEEN in seen:
        return operations
    return [_reduced(each, seen) for each in operations]


def _reduced(operation: Operation, seen: set[object]) -> Operation:
    client, key, kind, given, output, invoked, returned, place = operation
    if returned == NEVER:
        kind = EFFECTS.get(kind, kind)
    if isinstance(given, bytes):
        given = _value(given, seen)
    elif isinstance(given, tuple) and kind is Kind.MSET:
        given = tuple(sorted((key, _value(value, seen)) for key, value in dict(given).items()))
    elif isinstance(given, tuple) and kind is Kind.DEL_KEYS:
        given = tuple(sorted(set(given)))
    return Operation(client, key, kind, given, output, invoked, returned, place)


def _value(value: bytes, seen: set[object]) -> bytes:
    return value if value in seen or is_counted(value) else UNSEEN
