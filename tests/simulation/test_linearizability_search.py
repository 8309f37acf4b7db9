"""The search for an order: agrees with trying every order, and takes no more work than it must."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kv.machines import new_machine
from tests.simulation import linearizability
from tests.simulation.histories import COMMANDS_OF_KEYS, COMMANDS_OF_ONE_KEY, history, random_history
from tests.simulation.linearizability import REGISTER_MODEL, STORE_MODEL, Model, Outcome, check, check_whole
from tests.simulation.sequential import NEVER, REGISTER, STORE, Kind, Operation

# -- against brute force --------------------------------------------------------------------------------------------


def brute_force(operations: Sequence[Operation], model: Model) -> bool:
    """Try every order, with no cache and no rule that leaves one out."""

    def can_go_on(state: object, rest: tuple[Operation, ...]) -> bool:
        if all(each.returned == NEVER for each in rest):
            return True
        for place, each in enumerate(rest):
            others = rest[:place] + rest[place + 1 :]
            if any(other.returned < each.invoked or _is_piped_before(other, each) for other in others):
                continue
            new, output = model.commands[each.kind](state, model.input_of(each))
            if (each.returned == NEVER or output == each.output) and can_go_on(new, others):
                return True
        return False

    return can_go_on(model.initial, tuple(operations))


def _is_piped_before(one: Operation, other: Operation) -> bool:
    is_one_pipeline = (one.client, one.invoked) == (other.client, other.invoked)
    return is_one_pipeline and NEVER not in (one.returned, other.returned) and 0 < one.place < other.place


VALUES = st.sampled_from([b"1", b"2", b"12"])
NUMBERS = st.sampled_from([0, 1, 2, 3])


@st.composite
def tiny_operation(draw: st.DrawFn, kinds: Sequence[Kind]) -> Operation:
    """One operation with an answer of the right kind, true or not."""
    kind = draw(st.sampled_from(kinds))
    keys = st.sampled_from([b"x", b"y"])
    given: object = None
    output: object = draw(st.one_of(st.none(), VALUES))
    if kind in (Kind.SET, Kind.SET_NX, Kind.SET_XX, Kind.SET_XX_GET, Kind.GETSET, Kind.APPEND):
        given = draw(VALUES)
    elif kind is Kind.MSET:
        given = ((b"x", draw(VALUES)), (b"y", draw(VALUES)))
    elif kind is Kind.DBSIZE:
        given = ()
    elif kind in (Kind.MGET, Kind.DEL_KEYS, Kind.EXISTS):
        given = (b"x", b"y")
    if kind in (Kind.SET, Kind.MSET):
        output = b"OK"
    elif kind in (Kind.SET_NX, Kind.SET_XX):
        output = draw(st.sampled_from([b"OK", None]))
    elif kind is Kind.MGET:
        output = (output, draw(st.one_of(st.none(), VALUES)))
    elif kind in (Kind.DEL, Kind.APPEND, Kind.INCR, Kind.DEL_KEYS, Kind.EXISTS, Kind.DBSIZE):
        output = draw(NUMBERS)
    invoked = draw(st.integers(0, 8))
    returned = NEVER if draw(st.integers(0, 3)) == 0 else invoked + draw(st.integers(0, 4))
    key = b"" if kind not in REGISTER else draw(keys) if Kind.MSET in kinds else b"x"
    return Operation(0, key, kind, given, output, invoked, returned)


@settings(max_examples=400)
@given(st.lists(tiny_operation(tuple(REGISTER)), max_size=6))
def test_agrees_with_brute_force_on_one_key(operations: list[Operation]) -> None:
    """On tiny histories, true and false, the verdict is that of trying every order."""
    expected = Outcome.LINEARIZABLE if brute_force(operations, REGISTER_MODEL) else Outcome.NOT_LINEARIZABLE
    assert check(operations).outcome is expected


@settings(max_examples=300)
@given(st.lists(tiny_operation(tuple(STORE)), max_size=5))
def test_agrees_with_brute_force_on_several_keys(operations: list[Operation]) -> None:
    """As for one key, for commands over two."""
    expected = Outcome.LINEARIZABLE if brute_force(operations, STORE_MODEL) else Outcome.NOT_LINEARIZABLE
    assert check_whole(operations).outcome is expected


@settings(max_examples=300)
@given(st.lists(tiny_operation(tuple(set(REGISTER) - {Kind.APPEND})), max_size=6), st.booleans())
def test_agrees_with_brute_force_on_pipelines(operations: list[Operation], are_known: bool) -> None:
    """As for one key, when two clients sent all their commands in one pipeline each."""
    operations = [
        each._replace(
            client=number % 2,
            invoked=number % 2,
            returned=10 + number if are_known else max(each.returned, number % 2),
            place=number // 2 + 1,
        )
        for number, each in enumerate(operations)
    ]
    expected = Outcome.LINEARIZABLE if brute_force(operations, REGISTER_MODEL) else Outcome.NOT_LINEARIZABLE
    assert check(operations).outcome is expected


@settings(max_examples=300)
@given(
    st.lists(tiny_operation(tuple(set(STORE) - {Kind.APPEND})), max_size=4),
    st.lists(tiny_operation((Kind.SET, Kind.SET_NX, Kind.SET_XX, Kind.DEL, Kind.MSET, Kind.INCR)), max_size=3),
)
def test_agrees_with_brute_force_when_much_is_unknown(known: list[Operation], unknown: list[Operation]) -> None:
    """As for several keys, when half of the history are changes of unknown outcome."""
    operations = [*known, *(each._replace(returned=NEVER) for each in unknown)]
    expected = Outcome.LINEARIZABLE if brute_force(operations, STORE_MODEL) else Outcome.NOT_LINEARIZABLE
    assert check_whole(operations).outcome is expected


@pytest.mark.parametrize("names", [COMMANDS_OF_ONE_KEY, COMMANDS_OF_KEYS], ids=["one key", "several keys"])
def test_agrees_with_brute_force_on_mutants_of_real_histories(names: Sequence[str]) -> None:
    """One answer or one time of a true history changed: refused exactly when brute force refuses, which is often."""
    model = REGISTER_MODEL if names is COMMANDS_OF_ONE_KEY else STORE_MODEL
    refused = 0
    for seed in range(400):
        rng = random.Random(seed)
        operations = list(random_history(rng, new_machine(), names, 7, keys=1 if model is REGISTER_MODEL else 2))
        victim, other = rng.sample(range(7), 2)
        later = rng.random() * 7
        operations[victim] = rng.choice(
            (
                operations[victim]._replace(output=operations[other].output),
                operations[victim]._replace(invoked=later, returned=later + 0.1),
            )
        )
        is_right = brute_force(operations, model)
        verdict = check(operations) if model is REGISTER_MODEL else check_whole(operations)
        assert (verdict.outcome is Outcome.LINEARIZABLE) == is_right, f"seed {seed}: {operations}"
        refused += not is_right
    print(f"{refused} of 400 refused")
    assert 100 < refused < 350


# -- how much it takes ----------------------------------------------------------------------------------------------


def test_work_grows_with_the_operations_only() -> None:
    """Many keys, 30 clients, some outcomes unknown: about one step for each operation at most."""
    rng = random.Random(1)
    values: dict[bytes, bytes] = {}
    operations = []
    for number in range(20_000):
        key, value = b"k%d" % rng.randrange(200), b"v%d" % number
        times = (number - 15 * rng.random(), NEVER if rng.random() < 0.002 else number + 15 * rng.random())
        if rng.random() < 0.5:
            operations.append(Operation(number % 30, key, Kind.GET, None, values.get(key), *times))
        else:
            values[key] = value
            operations.append(Operation(number % 30, key, Kind.SET, value, b"OK", *times))
    verdict = check(operations).require()
    assert verdict.keys == 200
    assert verdict.steps <= len(operations)


def test_unknown_outcomes_do_not_multiply() -> None:
    """A hundred unknown increments and writes that nobody needs cost few steps, in a yes and in a no."""
    lines = [f"{n}-? incr x" for n in range(50)] + [f"{n}-? set x v{n}" for n in range(50)]
    good = history(*lines, "60-61 set x 0 -> OK", *(f"{n}-{n + 1} get x -> b'0'" for n in range(70, 170, 2)))
    assert check(good).require().steps < 1000
    wrong = check([*good, *history("200-201 get x -> b'nobody wrote this'")])
    assert wrong.outcome is Outcome.NOT_LINEARIZABLE
    assert wrong.steps < 100_000


def test_changes_that_nobody_saw_do_not_multiply() -> None:
    """Which of many changes of unknown outcome took effect is not tried choice by choice when no answer tells."""
    asked = ("set x {n}.1", "set x {n}.2 nx", "set x {n}.3 xx", "getset x {n}.4", "getdel x", "del x", "incr x")
    lines = [f"{n}-? {asked[n % 7].format(n=n)}" for n in range(70)]
    lines += [f"{n}-{n + 1} del x -> {n % 2}" for n in range(100, 130)]
    assert check(history(*lines)).require().steps < 1_000
    wrong = check(history(*lines, "200-201 get x -> b'nobody wrote this'"))
    assert wrong.outcome is Outcome.NOT_LINEARIZABLE
    assert wrong.steps < 10_000


def test_comparisons_are_work_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that enters few configurations and compares each with very many gives up instead of going on."""
    lines = [f"{n}-? set x {n}" for n in range(12)] + [f"{n}-{n + 1} get x -> b'{n}'" for n in (20, 22)]
    wrong = history(*lines, *(f"{n}-? del x" for n in range(12, 20)), "30-31 get x -> b'nobody wrote this'")
    assert check(wrong).outcome is Outcome.NOT_LINEARIZABLE
    monkeypatch.setattr(linearizability, "COMPARISONS_A_STEP", 0)
    assert check(wrong).outcome is Outcome.UNDECIDED


def test_pipelines_are_judged_in_their_order() -> None:
    """A connection's commands are executed in order: two reads that go back are refused only if piped that way."""
    lines = ["0-9 set x 1 -> OK", "0-8 get x -> b'1'", "0-8 get x -> None"]
    first, new, old = (each._replace(client=number > 0) for number, each in enumerate(history(*lines)))
    assert check([first, new, old]).require()
    assert check([first, old._replace(place=1), new._replace(place=2)]).require()
    assert check([first, new._replace(place=1), old._replace(place=2)]).outcome is Outcome.NOT_LINEARIZABLE
