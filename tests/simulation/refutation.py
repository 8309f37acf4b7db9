"""Why a history is not linearizable, in few lines: the answer that does not fit, and the operations around it.

The history is cut at the first answer that no order explains (what is linearizable is so at each earlier time), reads
that do not matter are left out, and the rest is drawn as a timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, TypeAlias

from tests.simulation.sequential import NEVER, READS, Kind, Operation, State

IsRefuted: TypeAlias = Callable[[Sequence[Operation]], bool]

RECENT_SHOWN: Final = 8
"""Operations shown that ended before the one that does not fit began."""
BAR_COLUMNS: Final = 40
STATES_SHOWN: Final = 8


_BY_CALL: Final = attrgetter("invoked")


def explain(
    operations: Sequence[Operation], is_refuted: IsRefuted, end_states: Callable[[Sequence[Operation]], set[State]]
) -> str:
    """Say which answer no order explains, what would have been possible, and what went on around it.

    Args:
        operations: of one object, known to be refuted.
        is_refuted: whether there is certainly no order of some operations.
        end_states: the states in which orders of some operations end.
    """
    cut = _first_refuted_cut(operations, is_refuted)
    culprit = max((each for each in cut if each.returned != NEVER), key=attrgetter("returned"))
    others = [each for each in cut if each is not culprit]
    shown = _without_reads(_around(others, culprit), cut, is_refuted)
    possible = sorted(map(_state_words, end_states(others))) or ["one of too many to try"]
    more = f" and {len(possible) - STATES_SHOWN} more" if len(possible) > STATES_SHOWN else ""
    return "\n".join(
        [
            "no order explains the answer of",
            f"    {culprit.words()}",
            f"when all that was answered before it is done, the state is {' or '.join(possible[:STATES_SHOWN])}{more},",
            f"or what operations then open make of it; {len(shown) + 1} of {len(operations)} operations:",
            *_timeline([*shown, culprit], culprit),
        ]
    )


def _first_refuted_cut(operations: Sequence[Operation], is_refuted: IsRefuted) -> list[Operation]:
    """Return what had happened when the first answer came that no order explains.

    What is linearizable is so at each earlier time, with outcomes unknown that were not yet known: hence the bisection.
    """

    def cut_at(time: float) -> list[Operation]:
        return [
            each if each.returned <= time else each._replace(returned=NEVER)
            for each in operations
            if each.invoked <= time
        ]

    times = sorted({each.returned for each in operations if each.returned != NEVER})
    lo, hi = 0, len(times) - 1
    while lo < hi:
        middle = (lo + hi) // 2
        if is_refuted(cut_at(times[middle])):
            hi = middle
        else:
            lo = middle + 1
    return cut_at(times[lo])


def _around(others: Sequence[Operation], culprit: Operation) -> list[Operation]:
    """Return the operations worth showing: open beside the culprit, ended shortly before it, or naming its answer."""
    ended = sorted((each for each in others if each.returned < culprit.invoked), key=attrgetter("returned"))
    recent = set(ended[-RECENT_SHOWN:])
    answer = culprit.output if culprit.kind is not Kind.INCR else None
    shown = [
        each
        for each in others
        if culprit.invoked <= each.returned < NEVER
        or each in recent
        or (each.input is not None and each.input == answer)
        or (each.returned == NEVER and each.kind not in READS)
    ]
    unknown = [each for each in shown if each.returned == NEVER and each.input != answer]
    surplus = set(unknown[:-RECENT_SHOWN])
    return sorted((each for each in shown if each not in surplus), key=_BY_CALL)


def _without_reads(shown: Sequence[Operation], cut: Sequence[Operation], is_refuted: IsRefuted) -> list[Operation]:
    """Leave out the reads without which there is no order either; the others' answers are part of the contradiction."""
    left = [each for each in cut if each.kind not in READS or each in shown]
    if not is_refuted(left):
        left = list(cut)
    kept = []
    for each in shown:
        without = [other for other in left if other is not each]
        if each.kind in READS and is_refuted(without):
            left = without
        else:
            kept.append(each)
    return kept


def _state_words(state: State) -> str:
    if isinstance(state, frozenset):
        return "{" + ", ".join(f"{key!r}: {value!r}" for key, value in sorted(state)) + "}"
    return "no key" if state is None else repr(state)


def _timeline(operations: Sequence[Operation], culprit: Operation) -> list[str]:
    """Draw each operation as a bar from its call to its answer, in order of the calls; open ends run off the edge."""
    known = [each.returned for each in operations if each.returned != NEVER]
    first = min(each.invoked for each in operations)
    last = max(*known, *(each.invoked for each in operations))
    columns = sorted({time for each in operations for time in (each.invoked, min(each.returned, last))})
    # Columns are ranks, not times: what matters is what came before what, and gaps may be a thousand times the calls.
    scale = max(1.0, len(columns) / BAR_COLUMNS)
    rank = {time: int(number / scale) for number, time in enumerate(columns)}
    width = rank[columns[-1]] + 1
    lines = []
    for each in sorted(operations, key=_BY_CALL):
        lo, hi = rank[each.invoked], rank[min(each.returned, last)]
        bar = (" " * lo + "#" * (hi - lo + 1)).ljust(width) if each.returned != NEVER else (" " * lo).ljust(width, "?")
        until = f"{each.returned - first:<12.6g}" if each.returned != NEVER else "?".ljust(12)
        mark = "  <== this answer" if each is culprit else ""
        lines.append(f"    {each.invoked - first:>12.6g} .. {until} |{bar}|  {each.words()}{mark}")
    return lines
