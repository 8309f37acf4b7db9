"""What one store, asked one command at a time, would answer: the standard that a concurrent history is held against.

A register is one key and its state the value, ``None`` for no key. The whole store is a frozen set of (key, value)
pairs. Each command is one pure function ``(state, input) -> (new state, output)``; nothing expires. The functions are
our own reading of the Redis command reference, and not the code under test: the tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias


class Kind(StrEnum):
    """The commands that can be judged; the value is the command's name where that tells which it is."""

    GET = "GET"
    SET = "SET"
    SET_NX = "SET NX"
    SET_XX = "SET XX"
    SET_XX_GET = "SET XX GET"
    GETSET = "GETSET"
    GETDEL = "GETDEL"
    DEL = "DEL"
    APPEND = "APPEND"
    INCR = "INCR"
    MSET = "MSET"
    MGET = "MGET"
    DEL_KEYS = "DEL of keys"
    EXISTS = "EXISTS"
    DBSIZE = "DBSIZE"


OK: Final = b"OK"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
WOULD_OVERFLOW: Final = "ERR increment or decrement would overflow"

READS: Final = frozenset((Kind.GET, Kind.MGET, Kind.EXISTS, Kind.DBSIZE))
"""The commands that change nothing: a history may be judged without them."""

PASSIVE_ANSWERS: Final = frozenset(
    {
        (Kind.SET_NX, None),
        (Kind.SET_XX, None),
        (Kind.SET_XX_GET, None),
        (Kind.GETDEL, None),
        (Kind.DEL, 0),
        (Kind.DEL_KEYS, 0),
        (Kind.INCR, NOT_AN_INTEGER),
        (Kind.INCR, WOULD_OVERFLOW),
    }
)
"""Answers of the other commands that say that nothing was changed."""

EFFECTS: Final = {Kind.GETSET: Kind.SET, Kind.GETDEL: Kind.DEL, Kind.SET_XX_GET: Kind.SET_XX}
"""Commands that do to a state what another does, and answer something else."""

Value: TypeAlias = bytes | None
Input: TypeAlias = Hashable
"""The value of a register command, ``None`` when it has none; a tuple of keys, or of (key, value), of the others."""
Output: TypeAlias = Hashable
"""Bytes, a number, ``None`` for nil, a tuple of these for an array; an error line is a ``str``."""

State: TypeAlias = Hashable
Apply: TypeAlias = Callable[[Any, Any], tuple[Any, Output]]
"""``(state, input) -> (new state, output)``; the state and the input are of the kinds that the model has."""

INT64_MAX: Final = 2**63 - 1
NEVER: Final = math.inf
"""When an operation returned whose outcome nobody knows: it may take effect at any later time, or not at all."""


class Operation(NamedTuple):
    """One command of one client. Operations that certainly had no effect are not part of a history.

    ``invoked`` is not later than when the command could first be executed, ``returned`` not earlier than when it last
    could: any clock that never goes back. ``output`` means nothing when ``returned`` is ``NEVER``.
    """

    client: int
    key: bytes
    """The key of a register command; empty for the others."""
    kind: Kind
    input: Input
    output: Output
    invoked: float
    returned: float = NEVER
    place: int = 0
    """Where it stood in a pipeline, from 1: calls of one client at one moment are executed in this order; 0: in any."""

    def words(self) -> str:
        """Say it in one line, without its times."""
        target = f" {self.key.decode(errors='backslashreplace')}" if self.key else ""
        given = "" if self.input is None else f" {self.input!r}"
        answer = "no answer" if self.returned == NEVER else repr(self.output)
        return f"client {self.client}  {self.kind}{target}{given} -> {answer}"


_OF_ONE_KEY: Final = {
    (b"get", 1): Kind.GET,
    (b"getset", 2): Kind.GETSET,
    (b"getdel", 1): Kind.GETDEL,
    (b"del", 1): Kind.DEL,
    (b"append", 2): Kind.APPEND,
    (b"incr", 1): Kind.INCR,
}
_OF_SET: Final = {(): Kind.SET, (b"nx",): Kind.SET_NX, (b"xx",): Kind.SET_XX, (b"xx", b"get"): Kind.SET_XX_GET}
_OF_KEYS: Final = {b"mget": Kind.MGET, b"del": Kind.DEL_KEYS, b"exists": Kind.EXISTS, b"dbsize": Kind.DBSIZE}


def kind_and_input(args: Sequence[bytes]) -> tuple[bytes, Kind, Input]:
    """Return the (key, kind, input) of a command as a client sends it, its name in any case.

    Raises:
        ValueError: no model has this command.
    """
    name, rest = args[0].lower(), tuple(args[1:])
    if name == b"set" and (kind := _OF_SET.get(tuple(map(bytes.lower, rest[2:])))):
        return rest[0], kind, rest[1]
    if kind := _OF_ONE_KEY.get((name, len(rest))):
        return rest[0], kind, rest[1] if len(rest) > 1 else None
    if name == b"mset":
        return b"", Kind.MSET, tuple(zip(rest[::2], rest[1::2], strict=True))
    if name in _OF_KEYS:
        return b"", _OF_KEYS[name], rest
    raise ValueError(f"no model has {args!r}")


# -- one key --------------------------------------------------------------------------------------------------------


def _get(state: Value, _: None) -> tuple[Value, Output]:
    return state, state


def _set(_: Value, value: bytes) -> tuple[Value, Output]:
    return value, OK


def _set_nx(state: Value, value: bytes) -> tuple[Value, Output]:
    return (value, OK) if state is None else (state, None)


def _set_xx(state: Value, value: bytes) -> tuple[Value, Output]:
    return (state, None) if state is None else (value, OK)


def _set_xx_get(state: Value, value: bytes) -> tuple[Value, Output]:
    return (state, None) if state is None else (value, state)


def _getset(state: Value, value: bytes) -> tuple[Value, Output]:
    return value, state


def _getdel(state: Value, _: None) -> tuple[Value, Output]:
    return None, state


def _del(state: Value, _: None) -> tuple[Value, Output]:
    return None, 0 if state is None else 1


def _append(state: Value, value: bytes) -> tuple[Value, Output]:
    # APPEND of nothing to a missing key makes an empty value.
    new = (state or b"") + value
    return new, len(new)


def is_counted(value: bytes) -> bool:
    """Return whether INCR takes ``value`` for a number."""
    try:
        number = int(value)
    except ValueError:
        return False
    # int() also takes blanks, underscores, "+1" and "007"; Redis takes one spelling of each number.
    return b"%d" % number == value and -INT64_MAX - 1 <= number <= INT64_MAX


def _incr(state: Value, _: None) -> tuple[Value, Output]:
    if state is not None and not is_counted(state):
        return state, NOT_AN_INTEGER
    number = int(state or b"0")
    if number == INT64_MAX:
        return state, WOULD_OVERFLOW
    return b"%d" % (number + 1), number + 1


REGISTER: Final[Mapping[Kind, Apply]] = {
    Kind.GET: _get,
    Kind.SET: _set,
    Kind.SET_NX: _set_nx,
    Kind.SET_XX: _set_xx,
    Kind.SET_XX_GET: _set_xx_get,
    Kind.GETSET: _getset,
    Kind.GETDEL: _getdel,
    Kind.DEL: _del,
    Kind.APPEND: _append,
    Kind.INCR: _incr,
}
"""The model of one key; it begins as ``None``."""


# -- the whole store ------------------------------------------------------------------------------------------------

Pairs: TypeAlias = frozenset[tuple[bytes, bytes]]


def _mset(state: Pairs, pairs: tuple[tuple[bytes, bytes], ...]) -> tuple[Pairs, Output]:
    return frozenset((dict(state) | dict(pairs)).items()), OK


def _mget(state: Pairs, keys: tuple[bytes, ...]) -> tuple[Pairs, Output]:
    values = dict(state)
    return state, tuple(values.get(key) for key in keys)


def _del_keys(state: Pairs, keys: tuple[bytes, ...]) -> tuple[Pairs, Output]:
    left = frozenset(pair for pair in state if pair[0] not in keys)
    return left, len(state) - len(left)


def _exists(state: Pairs, keys: tuple[bytes, ...]) -> tuple[Pairs, Output]:
    present = dict(state)
    return state, sum(key in present for key in keys)


def _dbsize(state: Pairs, _: tuple[()]) -> tuple[Pairs, Output]:
    return state, len(state)


def _lifted(apply: Apply) -> Apply:
    """Make a command on a register one on the store; its input is (key, input)."""

    def apply_to_store(state: Pairs, given: tuple[bytes, Input]) -> tuple[Pairs, Output]:
        key, value = given
        values = dict(state)
        old = values.pop(key, None)
        new, output = apply(old, value)
        if new is old:
            return state, output
        if new is not None:
            values[key] = new
        return frozenset(values.items()), output

    return apply_to_store


STORE: Final[Mapping[Kind, Apply]] = {
    **{kind: _lifted(apply) for kind, apply in REGISTER.items()},
    Kind.MSET: _mset,
    Kind.MGET: _mget,
    Kind.DEL_KEYS: _del_keys,
    Kind.EXISTS: _exists,
    Kind.DBSIZE: _dbsize,
}
"""The model of all keys together; it begins empty. Register commands have (key, input) for input: ``store_input``."""

NO_KEYS: Final[Pairs] = frozenset()


def store_input(operation: Operation) -> Input:
    """Return the input of an operation as ``STORE`` wants it."""
    return (operation.key, operation.input) if operation.kind in REGISTER else operation.input
