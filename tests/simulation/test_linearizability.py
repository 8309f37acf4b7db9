"""The checker itself: refuses what is known to be wrong, accepts what a real store did, agrees with brute force."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.kv.machines import new_machine
from tests.simulation.histories import (
    COMMANDS_OF_KEYS,
    COMMANDS_OF_ONE_KEY,
    as_output,
    history,
    random_command,
    random_history,
)
from tests.simulation.linearizability import NotLinearizable, Outcome, check, check_whole
from tests.simulation.sequential import (
    NEVER,
    PASSIVE_ANSWERS,
    READS,
    REGISTER,
    STORE,
    Kind,
    Operation,
    kind_and_input,
    store_input,
)

GOOD = {
    "nothing": [],
    "one after the other": ["0-1 set x 1 -> OK", "2-3 get x -> b'1'", "4-5 del x -> 1", "6-7 get x -> None"],
    "a read beside a write sees it": ["0-9 set x 1 -> OK", "1-2 get x -> b'1'"],
    "a read beside a write does not see it": ["0-9 set x 1 -> OK", "1-2 get x -> None"],
    "two writes at once, either first": ["0-5 set x 1 -> OK", "0-5 set x 2 -> OK", "6-7 get x -> b'1'"],
    "touching times are at once": ["0-5 set x 1 -> OK", "5-6 get x -> None"],
    "an unknown write was done": ["0-? set x 1", "5-6 get x -> b'1'"],
    "an unknown write was not done": ["0-? set x 1", "5-6 get x -> None"],
    "an unknown write was done late": ["0-? set x 1", "5-6 get x -> None", "7-8 get x -> b'1'"],
    "an unknown deletion between": ["0-1 set x 1 -> OK", "2-? del x", "3-4 get x -> b'1'", "5-6 get x -> None"],
    "unknown increments were done, some": ["0-? incr x", "0-? incr x", "0-? incr x", "5-6 incr x -> 3"],
    "two unknown writes, one after the other": ["0-? set x a", "0-? append x b", "5-6 get x -> b'ab'"],
    "of two SET NX at once one wins": ["0-5 set x 1 nx -> OK", "0-5 set x 2 nx -> None", "6-7 get x -> b'1'"],
    "appends in the order of their lengths": ["0-9 append x a -> 2", "0-9 append x b -> 1", "10-11 get x -> b'ba'"],
    "exchange": ["0-9 getset x 1 -> b'2'", "0-9 getset x 2 -> None", "10-11 getdel x -> b'1'", "12-13 get x -> None"],
    "an increment of text": ["0-1 set x a -> OK", "2-3 incr x -> 'ERR value is not an integer or out of range'"],
    "keys are apart": ["0-1 set x 1 -> OK", "2-3 get y -> None", "4-5 get x -> b'1'"],
}

WRONG = {
    "stale read": ["0-1 set x 1 -> OK", "2-3 set x 2 -> OK", "4-5 get x -> b'1'"],
    "lost write": ["0-1 set x 1 -> OK", "2-3 get x -> None"],
    "read of what nobody wrote": ["0-1 set x 1 -> OK", "2-3 get x -> b'7'"],
    "read before it was written": ["0-1 get x -> b'1'", "2-3 set x 1 -> OK"],
    "lost update": ["0-5 incr x -> 1", "0-5 incr x -> 1"],
    "increment applied twice": ["0-1 incr x -> 1", "2-3 get x -> b'2'"],
    "more increments than asked, known and unknown": ["0-1 incr x -> 1", "0-? incr x", "2-3 incr x -> 4"],
    "a value going back": ["0-9 set x 1 -> OK", "1-2 get x -> b'1'", "3-4 get x -> None"],
    "two readers, opposite orders": [
        "0-9 set x 1 -> OK",
        "0-9 set x 2 -> OK",
        "1-2 get x -> b'1'",
        "3-4 get x -> b'2'",
        "5-6 get x -> b'1'",
    ],
    "unknown write seen, then gone": ["0-? set x 1", "2-3 get x -> b'1'", "4-5 get x -> None"],
    "unknown write seen, then overwritten, then back": [
        "0-? set x 1",
        "2-3 get x -> b'1'",
        "4-5 set x 2 -> OK",
        "6-7 get x -> b'1'",
    ],
    "unknown write seen before it was asked": ["0-1 get x -> b'1'", "2-? set x 1"],
    "two winners of SET NX": ["0-5 set x 1 nx -> OK", "0-5 set x 2 nx -> OK"],
    "no winner of SET NX": ["0-5 set x 1 nx -> None", "0-5 set x 2 nx -> None"],
    "deleted twice": ["0-1 set x 1 -> OK", "2-5 del x -> 1", "2-5 del x -> 1"],
    "taken twice": ["0-1 set x 1 -> OK", "2-5 getdel x -> b'1'", "2-5 getdel x -> b'1'"],
    "append applied twice": ["0-1 append x a -> 1", "2-3 append x b -> 3"],
    "appends out of order": ["0-1 append x a -> 1", "2-3 append x b -> 2", "4-5 get x -> b'ba'"],
    "wrong only on one key": ["0-1 set y 1 -> OK", "2-3 get y -> b'1'", "4-5 set x 1 -> OK", "6-7 get x -> None"],
}

GOOD_WHOLE = {
    "nothing": [],
    "all at once": ["0-9 mset x 1 y 1 -> OK", "1-2 mget x y -> (b'1', b'1')", "3-4 dbsize -> 2"],
    "not yet": ["0-9 mset x 1 y 1 -> OK", "1-2 mget x y -> (None, None)", "3-4 exists x y x -> 3"],
    "mixed with single keys": ["0-1 mset x 1 y 5 -> OK", "2-3 incr y -> 6", "4-5 mget y z -> (b'6', None)"],
    "deletion of keys": ["0-1 mset x 1 y 1 -> OK", "2-3 del x y z -> 2", "4-5 dbsize -> 0", "6-7 del x y -> 0"],
    "unknown writes, alike but for the key": ["0-? incr x", "0-? incr y", "1-2 get y -> b'1'", "3-4 get x -> None"],
    "an unknown MSET was done": ["0-? mset x 1 y 1", "1-2 get x -> None", "3-4 get y -> b'1'", "5-6 get x -> b'1'"],
}

WRONG_WHOLE = {
    "MSET seen by halves": ["0-9 mset x 1 y 1 -> OK", "1-2 mget x y -> (b'1', None)"],
    "MSET seen by halves, key by key": ["0-9 mset x 1 y 1 -> OK", "1-2 get x -> b'1'", "3-4 get y -> None"],
    "an unknown MSET done by halves": ["0-? mset x 1 y 1", "1-2 get x -> b'1'", "3-4 exists x y -> 1"],
    "deletion by halves": ["0-1 mset x 1 y 1 -> OK", "2-9 del x y -> 2", "3-4 dbsize -> 1"],
    "each deleted twice": ["0-1 mset x 1 y 1 -> OK", "2-9 del x y -> 2", "2-9 del y x -> 2"],
    "a count too many": ["0-1 set x 1 -> OK", "2-3 dbsize -> 2"],
    "orders that agree only key by key": [
        "0-9 mset x 1 y 1 -> OK",
        "0-9 mset x 2 y 2 -> OK",
        "10-11 mget x y -> (b'1', b'2')",
    ],
}


@pytest.mark.parametrize("lines", GOOD.values(), ids=GOOD)
def test_accepts_histories_that_are_right(lines: Sequence[str]) -> None:
    """Every known good history is linearizable: key by key, and as one object."""
    verdict = check(history(*lines)).require()
    assert (verdict.outcome, verdict.operations) == (Outcome.LINEARIZABLE, len(lines))
    check_whole(history(*lines)).require()


@pytest.mark.parametrize("lines", WRONG.values(), ids=WRONG)
def test_refuses_histories_that_are_wrong(lines: Sequence[str]) -> None:
    """Every known wrong history is refused, for a key named: key by key, and as one object."""
    verdict = check(history(*lines))
    assert verdict.outcome is Outcome.NOT_LINEARIZABLE
    assert verdict.explanation.startswith("key x is not linearizable: no order explains the answer of\n")
    assert check_whole(history(*lines)).outcome is Outcome.NOT_LINEARIZABLE
    with pytest.raises(NotLinearizable, match="key x is not linearizable"):
        verdict.require()


@pytest.mark.parametrize("lines", GOOD_WHOLE.values(), ids=GOOD_WHOLE)
def test_accepts_histories_of_several_keys_that_are_right(lines: Sequence[str]) -> None:
    """Every known good history of commands over several keys is linearizable."""
    check_whole(history(*lines)).require()


@pytest.mark.parametrize("lines", WRONG_WHOLE.values(), ids=WRONG_WHOLE)
def test_refuses_histories_of_several_keys_that_are_wrong(lines: Sequence[str]) -> None:
    """Every known wrong history of commands over several keys is refused."""
    verdict = check_whole(history(*lines))
    assert verdict.outcome is Outcome.NOT_LINEARIZABLE
    assert verdict.explanation.startswith("store is not linearizable")


def test_check_refuses_what_it_cannot_judge() -> None:
    """A command over several keys, and a return before the call, are errors, not verdicts."""
    with pytest.raises(ValueError, match="the model of a key has no MSET"):
        check(history("0-1 mset x 1 y 1 -> OK"))
    with pytest.raises(ValueError, match="returned at 1 before it was invoked at 2: client 0  GET x -> None"):
        check(history("2-1 get x -> None"))
    with pytest.raises(ValueError, match="no model has"):
        kind_and_input([b"SET", b"x", b"1", b"EX", b"9"])


# -- what it says ---------------------------------------------------------------------------------------------------


def test_explanation_shows_what_matters_and_no_more() -> None:
    """Of a thousand operations the answer that fits nowhere is shown with what it contradicts."""
    lines = [
        line
        for n in range(250)
        for line in (f"{4 * n}-{4 * n + 1} set x {n} -> OK", f"{4 * n + 2}-{4 * n + 3} get x -> b'{n}'")
    ]
    lines[301] = "602-603 get x -> b'17'"
    explanation = check(history(*lines)).explanation
    print(explanation)
    shown = explanation.splitlines()
    assert shown[1].strip() == "client 301  GET x -> b'17'"
    assert "the state is b'150'," in shown[2]
    assert any("SET x b'17' -> b'OK'" in line for line in shown), "who wrote the value read"
    assert any("SET x b'150' -> b'OK'" in line for line in shown), "what overwrote it"
    assert sum("<== this answer" in line for line in shown) == 1
    assert not any("GET" in line for line in shown[4:-1]), "reads that do not matter"
    assert len(shown) < 15


def test_explanation_keeps_the_read_that_makes_the_difference() -> None:
    """A read that another read contradicts is part of the explanation."""
    explanation = check(history(*WRONG["a value going back"], "1-2 get x -> b'1'")).explanation
    assert "GET x -> b'1'" in explanation
    assert "GET x -> None  <== this answer" in explanation
    assert check(history(*WRONG["unknown write seen, then gone"])).explanation.count("no answer") == 1


def test_search_that_reaches_its_limit_is_undecided() -> None:
    """A history too hard for the steps allowed is neither accepted nor refused, and says which key it was."""
    lines = [f"0-99 append x {'a' * n} -> {n}" for n in range(1, 12)] + ["100-101 get x -> b'b'"]
    verdict = check(history("0-1 get y -> None", *lines), steps_max=5)
    assert verdict.outcome is Outcome.UNDECIDED
    with pytest.raises(NotLinearizable, match="key x: 12 operations, undecided after 5 steps"):
        verdict.require()
    refuted = check(history(*lines, *(line.replace(" x ", " y ") for line in WRONG["stale read"])), steps_max=8)
    assert refuted.outcome is Outcome.NOT_LINEARIZABLE, "a refutation counts more than a key undecided"


# -- against a real store -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_accepts_what_a_real_machine_did(seed: int) -> None:
    """Whatever one machine answered, with calls earlier, answers later, and some lost, is linearizable."""
    rng = random.Random(seed)
    check(random_history(rng, new_machine(), COMMANDS_OF_ONE_KEY, 200, keys=rng.choice((1, 3)))).require()
    check_whole(random_history(rng, new_machine(), COMMANDS_OF_KEYS, 60, keys=rng.choice((1, 3)))).require()


@pytest.mark.parametrize("seed", range(40))
def test_refuses_an_answer_that_nobody_could_give(seed: int) -> None:
    """One read of what was never written is found in a long history, wherever it is."""
    rng = random.Random(seed)
    operations = list(random_history(rng, new_machine(), COMMANDS_OF_ONE_KEY, 200))
    place = rng.choice([n for n, each in enumerate(operations) if each.kind is Kind.GET and each.returned != NEVER])
    operations[place] = operations[place]._replace(output=b"invented")
    verdict = check(operations)
    assert verdict.outcome is Outcome.NOT_LINEARIZABLE
    assert "-> b'invented'  <== this answer" in verdict.explanation


def test_refuses_a_read_whose_write_is_missing() -> None:
    """A write left out of a true history, though its value was read, is found, every time."""
    found = 0
    # Two values appended may make a third one.
    names = [name for name in COMMANDS_OF_ONE_KEY if name != "append"]
    for seed in range(20):
        operations = list(random_history(random.Random(seed), new_machine(), names, 80))
        read_values = [each.output for each in operations if each.kind is Kind.GET and each.returned != NEVER]
        written = [each.input for each in operations]
        for value in read_values:
            if isinstance(value, bytes) and value.endswith(b"000") and written.count(value) == 1:
                without = [each for each in operations if each.input != value]
                assert check(without).outcome is Outcome.NOT_LINEARIZABLE, f"seed {seed}: {value!r}"
                found += 1
    print(f"{found} writes left out")
    assert found > 50


@pytest.mark.parametrize("seed", range(20))
def test_models_answer_as_the_machine_does(seed: int) -> None:
    """Each command of each model answers as the machine does, from every state that random commands lead to."""
    rng = random.Random(seed)
    machine = new_machine()
    state: object = frozenset()
    registers: dict[bytes, object] = {}
    for number in range(300):
        args = random_command(rng, COMMANDS_OF_KEYS, [b"a", b"b", b"c"], number)
        key, kind, given = kind_and_input(args)
        operation = Operation(0, key, kind, given, None, 0, 0)
        before, expected = state, as_output(machine.execute(args))
        state, output = STORE[kind](state, store_input(operation))
        assert output == expected, f"{args} in state {before}"
        assert state == before or not (kind in READS or (kind, output) in PASSIVE_ANSWERS), f"{args} in state {before}"
        if kind in REGISTER and registers:
            assert REGISTER[kind](registers.get(key), given) == (dict(state).get(key), output)  # type: ignore[call-overload]
        registers = dict(state)  # type: ignore[call-overload]
