"""Is there an order of a history's operations that one store could have answered, each between its call and its answer?

The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993) with Lowe's cache of the configurations
already tried ("Testing for Linearizability", 2017), as in Porcupine: take an operation that may be next, that is one
called before every open operation's answer; apply it to the state; undo it when nothing fits behind it. Histories are
judged key by key (one is linearizable exactly if each object's part is: Herlihy and Wing 1990, Theorem 1); commands
over several keys are judged whole, in small histories.

An unknown outcome is an operation that is open for ever and need not be taken. Before the search, what need not be told
apart is called alike (reduction.py). In it, five rules keep the work small, none of which changes a verdict:

- A known operation that changes nothing is taken for good as soon as its answer fits: any order can begin with it.
- Known operations are tried before unknown ones.
- Of unknown operations that ask the same, the one called first goes first: the others can do nothing that it cannot.
  (For that an unknown operation is not held to its place in a pipeline.)
- An unknown operation is taken only directly before an operation that it makes a difference to: one taken earlier could
  be left out, or taken later.
- A configuration is not tried when one was with the same known operations taken, the same state, and no unknown one
  taken that is not taken here: that could do all that this one can. (An order with the fewest unknown operations, each
  as late as can be, never comes by it.)

Memory and work are bounded: the cache has a limit in bytes and in entries, its entries are compared only so often, and
a search that reaches a limit ends *undecided*, which is never taken for a yes. The entries grow with the operations of
one key: some hundred operations a key keep it fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise
from operator import attrgetter
from typing import Final

from tests.simulation.reduction import reduced
from tests.simulation.refutation import explain
from tests.simulation.sequential import (
    NEVER,
    NO_KEYS,
    PASSIVE_ANSWERS,
    READS,
    REGISTER,
    STORE,
    Apply,
    Input,
    Kind,
    Operation,
    Output,
    State,
    store_input,
)

STEPS_MAX: Final = 1_000_000
"""Default limit of configurations tried for one key; well-behaved histories need about one for each operation."""
COMPARISONS_A_STEP: Final = 50
"""So many comparisons with other configurations count as much as one step; well-behaved histories need hardly any."""
EXPLANATION_STEPS_MAX: Final = 20_000
"""Of all searches together that make the explanation of a no smaller, and of the search for all states possible before
the answer that does not fit, which has no first order to stop at. What they do not find stays in the explanation."""
CACHE_BYTES_MAX: Final = 256 << 20
ENTRY_BYTES: Final = 400
"""A tuple, a list, two masks without their digits, and the place in the dictionary of a cache that just grew."""
PAIR_BYTES: Final = 150
"""A key of a state of the whole store: the pair, and its place in the frozen set; key and value are shared."""

_BY_CALL: Final = attrgetter("invoked")


class Outcome(Enum):
    """What the search found."""

    LINEARIZABLE = auto()
    NOT_LINEARIZABLE = auto()
    UNDECIDED = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a history."""

    outcome: Outcome
    operations: int
    """How many were judged."""
    keys: int
    """Into how many histories of their own they fell."""
    steps: int
    """Configurations tried."""
    explanation: str = ""
    """Why there is no order, or where the search gave up; empty when linearizable."""

    def require(self) -> Verdict:
        """Return the verdict when it is a yes.

        Raises:
            NotLinearizable: it is a no, or undecided.
        """
        if self.outcome is not Outcome.LINEARIZABLE:
            raise NotLinearizable(self.explanation)
        return self


class NotLinearizable(AssertionError):
    """The history was not shown to be linearizable."""


@dataclass(frozen=True, slots=True)
class Model:
    """A sequential object: how it begins and what each command does."""

    name: str
    commands: Mapping[Kind, Apply]
    initial: State
    input_of: Callable[[Operation], Input]


REGISTER_MODEL: Final = Model("key", REGISTER, None, attrgetter("input"))
STORE_MODEL: Final = Model("store", STORE, NO_KEYS, store_input)


def check(history: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Judge a history of register commands, each key by itself.

    Args:
        history: in any order.
        steps_max: configurations that may be tried for one key.

    Raises:
        ValueError: an operation that has no key of its own, or that returned before it was invoked.
    """
    by_key: dict[bytes, list[Operation]] = {}
    for operation in history:
        key = operation[1]
        if key in by_key:
            by_key[key].append(operation)
        else:
            by_key[key] = [operation]
    return _judge(by_key, REGISTER_MODEL, steps_max)


def check_whole(history: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Judge a small history that has commands over several keys, as one object; arguments and errors as ``check``."""
    return _judge({b"": list(history)}, STORE_MODEL, steps_max)


def _judge(parts: Mapping[bytes, list[Operation]], model: Model, steps_max: int) -> Verdict:
    total = sum(map(len, parts.values()))
    steps = 0
    undecided: list[str] = []
    for key, operations in parts.items():
        outcome, tried = _search(operations, model, steps_max)
        steps += tried
        name = f"{model.name} {key.decode(errors='backslashreplace')}".strip()
        if outcome is Outcome.NOT_LINEARIZABLE:
            explanation = f"{name} is not linearizable: {_explain(operations, model, steps_max)}"
            return Verdict(outcome, total, len(parts), steps, explanation)
        if outcome is Outcome.UNDECIDED:
            undecided.append(f"{name}: {len(operations)} operations, undecided after {tried} steps")
    if undecided:
        return Verdict(Outcome.UNDECIDED, total, len(parts), steps, "\n".join(undecided))
    return Verdict(Outcome.LINEARIZABLE, total, len(parts), steps)


def _explain(operations: Sequence[Operation], model: Model, steps_max: int) -> str:
    left = min(steps_max, EXPLANATION_STEPS_MAX)

    def is_refuted(part: Sequence[Operation]) -> bool:
        nonlocal left
        outcome, tried = _search(part, model, left)
        left -= tried
        return outcome is Outcome.NOT_LINEARIZABLE

    def end_states(part: Sequence[Operation]) -> set[State]:
        ends: set[State] = set()
        _Search(_Plan.of(part, model), min(steps_max, EXPLANATION_STEPS_MAX)).run(ends)
        return ends

    return explain(operations, is_refuted, end_states)


@dataclass(slots=True, eq=False)
class _Plan:
    """One object's operations in columns, in two linked lists: the known ones, then the unknown ones, each by call.

    Places: ``0 .. boundary - 1`` known, ``boundary`` the end of that list, ``boundary + 1 .. end - 1`` unknown,
    ``end``. The list of the known begins behind ``end + 1``, that of the unknown behind ``boundary``.
    """

    boundary: int
    end: int
    initial: State
    state_bytes_max: int
    """How much a state can take that is not shared with an operation."""
    applies: list[Apply]
    inputs: list[Input]
    outputs: list[object]
    invoked: list[float]
    returned: list[float]
    passive: list[bool]
    """Whether the operation, if its answer is true, changed nothing; False when the outcome is unknown."""
    needed: list[int] = field(default_factory=list)
    """The bit of the operation that goes first, 0 when there is none: before a known one the known one before it in its
    pipeline, before an unknown one the one that asks the same."""

    @classmethod
    def of(cls, operations: Sequence[Operation], model: Model) -> _Plan:
        """Lay the operations out; raises ValueError as ``check``."""
        known = sorted((each for each in operations if each[6] != NEVER), key=_BY_CALL)
        unknown = sorted((each for each in operations if each[6] == NEVER and each.kind not in READS), key=_BY_CALL)
        commands = model.commands
        stop = Operation(0, b"", Kind.GET, (b"", None), None, math.inf)
        rows = [*known, stop, *unknown, stop]
        try:
            applies = [commands[each[2]] for each in rows]
        except KeyError as error:
            raise ValueError(f"the model of a {model.name} has no {error.args[0]}") from None
        _, _, _, inputs, outputs, invoked, returned, _ = map(list, zip(*rows, strict=True))
        if model is not REGISTER_MODEL:
            inputs = [model.input_of(each) for each in rows]
        passive = [each[2] in READS or (each[2], each[4]) in PASSIVE_ANSWERS for each in known]
        passive += [False] * (len(rows) - len(known))
        plan = cls(
            len(known),
            len(rows) - 1,
            model.initial,
            _state_bytes_max(operations, model),
            applies,
            inputs,
            outputs,
            invoked,
            returned,
            passive,
        )
        for each in known:
            if each[6] < each[5]:
                raise ValueError(f"returned at {each.returned} before it was invoked at {each.invoked}: {each.words()}")
        plan._find_needed(known, unknown)
        return plan

    def _find_needed(self, known: Sequence[Operation], unknown: Sequence[Operation]) -> None:
        self.needed = [0] * (self.end + 1)
        piped = [(each.client, each.invoked, each.place, place) for place, each in enumerate(known) if each.place]
        for (client, invoked, _, before), (*pipeline, _, place) in pairwise(sorted(piped)):
            if pipeline == [client, invoked]:
                self.needed[place] = 1 << before
        last: dict[tuple[Kind, bytes, Input], int] = {}
        for place, operation in enumerate(unknown, start=self.boundary + 1):
            asks = (operation.kind, operation.key, operation.input)
            self.needed[place] = last.get(asks, 0)
            last[asks] = 1 << place


def _state_bytes_max(operations: Sequence[Operation], model: Model) -> int:
    """Bound what one state takes: only APPEND makes long values, and only the store has many."""
    values = [each.input for each in operations if isinstance(each.input, bytes)]
    appended = sum(len(each.input) for each in operations if each.kind is Kind.APPEND and isinstance(each.input, bytes))
    bytes_max = appended + max(map(len, values), default=0) if appended else 0
    if model is STORE_MODEL:
        inputs = (each.input for each in operations if each.kind is Kind.MSET and isinstance(each.input, tuple))
        keys = {key for pairs in inputs for key, _ in pairs} | {each.key for each in operations}
        bytes_max += PAIR_BYTES * (len(keys) + 2)
    return bytes_max


class _OutOfSteps(Exception):
    """The cache is full, or too much was compared."""


class _Search:
    """A search for an order, depth first: what was taken so far, the state it made, and the way back."""

    def __init__(self, plan: _Plan, steps_max: int) -> None:
        self._plan = plan
        self._head = plan.end + 1
        self._after = [*range(1, plan.end + 2), 0]
        self._before = [self._head, *range(plan.end + 1)]
        self._bits = [1 << place for place in range(plan.end + 1)]
        entry_bytes = ENTRY_BYTES + plan.end // 7 + plan.state_bytes_max
        self._steps_max = min(steps_max, CACHE_BYTES_MAX // entry_bytes)
        self._known_bits = (1 << plan.boundary) - 1
        self._cache: dict[tuple[int, State], list[int]] = {}
        """Known operations taken and the state they made -> the unknown ones taken, in every way that was tried."""
        self.steps = 0
        self._comparisons_left = self._steps_max * COMPARISONS_A_STEP
        self._stack: list[tuple[int, State, float]] = []
        self._state = plan.initial
        self._taken = 0
        self._open_known = plan.boundary
        self._unknown_from: tuple[State] | None = None
        """The state in which the last operation was taken, if that was an unknown one."""

    def run(self, ends: set[State] | None = None) -> Outcome:
        """Look for an order.

        Args:
            ends: when given, the search goes on behind the first order, and collects the states in which orders end.
        """
        place, deadline, is_passive_turn = self._after[self._head], math.inf, True
        try:
            while self._open_known or ends is not None:
                found = self._find(place, deadline, is_passive_turn) if self._open_known else None
                if found is not None:
                    self._take(*found)
                    place, deadline, is_passive_turn = self._after[self._head], math.inf, True
                    continue
                if not self._open_known and ends is not None:
                    ends.add(self._state)
                if not self._stack:
                    return Outcome.NOT_LINEARIZABLE
                place, deadline, is_passive_turn = *self._undo(), False
        except _OutOfSteps:
            return Outcome.UNDECIDED
        return Outcome.LINEARIZABLE

    def _find(self, place: int, deadline: float, is_passive_turn: bool) -> tuple[int, State, float] | None:
        """Return the next operation to take: its place, the state it makes, and where to go on when it was no good.

        Everything before ``place`` was tried; the first open operation among that returned at ``deadline``. The end of
        a list is invoked at infinity; the deadline is finite there, because some known operation is open.
        """
        plan, after, state, taken = self._plan, self._after, self._state, self._taken
        invoked, returned, passive, boundary = plan.invoked, plan.returned, plan.passive, plan.boundary
        needed = plan.needed
        while True:
            if invoked[place] <= deadline:
                if passive[place] is is_passive_turn and taken & needed[place] == needed[place]:
                    new, output = plan.applies[place](state, plan.inputs[place])
                    fits = output == plan.outputs[place] if place < boundary else new != state
                    if fits and (self._unknown_from is None or self._is_changed_by_unknown(place, new, output)):
                        if is_passive_turn:
                            # No operation meets a deadline before all time: nothing else is tried on the way back.
                            return place, new, -math.inf
                        if self._is_new(taken | self._bits[place], new):
                            return place, new, deadline
                if returned[place] < deadline:
                    deadline = returned[place]
                place = after[place]
            elif is_passive_turn:
                place, deadline, is_passive_turn = after[self._head], math.inf, False
            elif place <= boundary:
                place = after[boundary]
            else:
                return None

    def _is_changed_by_unknown(self, place: int, new: State, output: Output) -> bool:
        """Return whether the unknown operation just taken makes a difference to this one."""
        assert self._unknown_from is not None
        return self._plan.applies[place](self._unknown_from[0], self._plan.inputs[place]) != (new, output)

    def _is_new(self, taken: int, state: State) -> bool:
        """Enter a configuration into the cache; return whether none was there that could do all that it can."""
        known = taken & self._known_bits
        unknown = taken ^ known
        tried = self._cache.get((known, state))
        if tried is None:
            tried = self._cache[known, state] = []
        else:
            self._comparisons_left -= len(tried)
            if any(each & unknown == each for each in tried):
                return False
        if self.steps >= self._steps_max or self._comparisons_left < 0:
            raise _OutOfSteps
        self.steps += 1
        tried.append(unknown)
        return True

    def _take(self, place: int, new: State, deadline: float) -> None:
        self._stack.append((place, self._state, deadline))
        left, right = self._before[place], self._after[place]
        self._after[left] = right
        self._before[right] = left
        if place < self._plan.boundary:
            self._open_known -= 1
            self._unknown_from = None
        else:
            self._unknown_from = (self._state,)
        self._taken |= self._bits[place]
        self._state = new

    def _undo(self) -> tuple[int, float]:
        """Put the last operation taken back; return the place behind it and the deadline there."""
        place, self._state, deadline = self._stack.pop()
        self._after[self._before[place]] = self._before[self._after[place]] = place
        self._taken ^= self._bits[place]
        boundary = self._plan.boundary
        self._open_known += place < boundary
        self._unknown_from = (self._stack[-1][1],) if self._stack and self._stack[-1][0] > boundary else None
        return self._after[place], min(deadline, self._plan.returned[place])


def _search(operations: Sequence[Operation], model: Model, steps_max: int) -> tuple[Outcome, int]:
    """Look for an order; return what was found and the number of configurations tried."""
    search = _Search(_Plan.of(reduced(operations), model), steps_max)
    return search.run(), search.steps
