"""Commands on string values (Redis t_string.c), over the keyspace; replies and errors are Redis 7.0's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from durable_raft.kv.commands import wrong_arity
from durable_raft.kv.errors import (
    DECREMENT_WOULD_OVERFLOW,
    NOT_AN_INTEGER,
    SYNTAX_ERROR,
    VALUE_TOO_LONG,
    WOULD_OVERFLOW,
    invalid_expire_time,
    reply_too_large,
)
from durable_raft.kv.keyspace import Keyspace
from durable_raft.kv.long_values import Value
from durable_raft.kv.numbers import INT64_MAX, INT64_MIN, parse_int64
from durable_raft.kv.records import value_of
from durable_raft.kv.replies import OK, CommandSteps, ErrorReply, Reply, Simple
from durable_raft.kv.steps import (
    LARGE_BYTES,
    REPLY_BYTES_MAX,
    REPLY_ITEM_BYTES,
    Args,
    Budget,
    Columns,
    Handlers,
    one_by_one,
)

PLAIN: Final = frozenset(((b"set", 2),))
"""Commands that do nothing but set keys, by name and number of arguments."""

PAIRS_A_STEP: Final = 512
"""Keys that MSET sets in one step: it takes some tenths of a microsecond for each, however large the values are."""


def handlers(keyspace: Keyspace, value_bytes_max: int, reply_bytes_max: int = REPLY_BYTES_MAX) -> Handlers:
    """Return the commands of this module."""
    commands = _StringCommands(keyspace, value_bytes_max, reply_bytes_max)
    in_steps: dict[bytes, Callable[[Args], CommandSteps]] = {b"mget": commands.mget, b"mset": commands.mset}
    short: dict[bytes, Callable[[Args], Reply]] = {
        b"append": commands.append,
        b"decr": commands.decr,
        b"decrby": commands.decrby,
        b"get": commands.get,
        b"getdel": commands.getdel,
        b"getset": commands.getset,
        b"incr": commands.incr,
        b"incrby": commands.incrby,
        b"psetex": commands.psetex,
        b"set": commands.set,
        b"setex": commands.setex,
        b"setnx": commands.setnx,
        b"strlen": commands.strlen,
    }
    in_columns: dict[tuple[bytes, int], Columns] = {
        (b"decr", 1): one_by_one(keyspace, lambda key: commands.add(key, -1)),
        (b"get", 1): one_by_one(keyspace, keyspace.get),
        (b"incr", 1): one_by_one(keyspace, lambda key: commands.add(key, 1)),
        (b"set", 2): commands.set_all,
    }
    return Handlers(short, in_steps, in_columns)


@dataclass(slots=True)
class _SetOptions:
    """What stands behind ``SET key value``."""

    only_if_absent: bool = False
    only_if_present: bool = False
    returns_old: bool = False
    keeps_ttl: bool = False
    expiry: tuple[bytes, bytes] | None = None
    """(EX, PX, EXAT or PXAT in lower case, its argument)."""


def _parse_set_options(words: Sequence[bytes]) -> _SetOptions | None:
    """Return the options, or None for a syntax error."""
    options = _SetOptions()
    position = 0
    while position < len(words):
        word = words[position].lower()
        if word == b"nx" and not options.only_if_present:
            options.only_if_absent = True
        elif word == b"xx" and not options.only_if_absent:
            options.only_if_present = True
        elif word == b"get":
            options.returns_old = True
        elif word == b"keepttl" and options.expiry is None:
            options.keeps_ttl = True
        elif (
            word in (b"ex", b"px", b"exat", b"pxat")
            and (options.expiry is None or options.expiry[0] == word)  # The same one twice: the last counts.
            and not options.keeps_ttl
            and position + 1 < len(words)
        ):
            position += 1
            options.expiry = word, words[position]
        else:
            return None
        position += 1
    return options


class _StringCommands:
    def __init__(self, keyspace: Keyspace, value_bytes_max: int, reply_bytes_max: int) -> None:
        self._keyspace = keyspace
        self._reply_bytes_max = reply_bytes_max
        self._value_bytes_max = value_bytes_max
        self._get: Callable[[bytes], Value | None] = keyspace.get
        self._put: Callable[[bytes, bytes], None] = keyspace.put_for_ever

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, args: Args) -> Reply:
        return self._get(args[1])

    def mget(self, args: Args) -> CommandSteps:
        found: list[Reply] = []
        size, budget = 0, Budget(self._keyspace)
        for key in args[1:]:
            if budget.is_spent():
                yield
            value = self._get(key)
            size += REPLY_ITEM_BYTES if value is None else REPLY_ITEM_BYTES + len(value)
            if found and size > self._reply_bytes_max:
                return reply_too_large(self._reply_bytes_max)
            found.append(value)
        return found

    def strlen(self, args: Args) -> Reply:
        return len(self._get(args[1]) or b"")

    # -- setting ----------------------------------------------------------------------------------------------------

    def set(self, args: Args) -> Reply:
        if len(args) == 3:
            self._put(args[1], args[2])
            return OK
        options = _parse_set_options(args[3:])
        if options is None:
            return SYNTAX_ERROR
        deadline_ms: int | None = None
        if options.expiry is not None:
            unit, text = options.expiry
            deadline = self._deadline(b"set", unit, text)
            if isinstance(deadline, ErrorReply):
                return deadline
            deadline_ms = deadline
        looks = options.only_if_absent or options.only_if_present or options.returns_old or options.keeps_ttl
        old = self._keyspace.look_up(args[1]) if looks else None
        refused = (options.only_if_absent and old is not None) or (options.only_if_present and old is None)
        if not refused:
            if options.keeps_ttl:
                self._keyspace.replace(args[1], old, args[2])
            else:
                self._keyspace.put(args[1], args[2], deadline_ms)
        if options.returns_old:
            return None if old is None else value_of(old)
        return None if refused else OK

    def set_all(self, until: int, keys: list[bytes], values: list[bytes]) -> tuple[Simple, int]:
        del until  # Nothing is read.
        self._keyspace.put_all_for_ever(keys, values)
        return OK, len(keys)

    def setnx(self, args: Args) -> Reply:
        if self._get(args[1]) is not None:
            return 0
        self._keyspace.put(args[1], args[2], None)
        return 1

    def setex(self, args: Args) -> Reply:
        return self._set_with_ttl(args, b"ex")

    def psetex(self, args: Args) -> Reply:
        return self._set_with_ttl(args, b"px")

    def _set_with_ttl(self, args: Args, unit: bytes) -> Reply:
        deadline = self._deadline(args[0], unit, args[2])
        if isinstance(deadline, ErrorReply):
            return deadline
        self._keyspace.put(args[1], args[3], deadline)
        return OK

    def _deadline(self, command: bytes, unit: bytes, text: bytes) -> int | ErrorReply:
        """Return the time that an expiry option means, ms since the Unix epoch, or Redis's error."""
        value = parse_int64(text)
        if value is None:
            return NOT_AN_INTEGER
        if unit in (b"ex", b"exat"):
            value *= 1000
        deadline = value if unit in (b"exat", b"pxat") else value + self._keyspace.time_ms
        if value <= 0 or deadline > INT64_MAX:
            return invalid_expire_time(command)
        return deadline

    def getset(self, args: Args) -> Reply:
        # A value that is removed has been read, and is not read again to be replaced.
        value = self._keyspace.remove(args[1])
        self._put(args[1], args[2])
        return value

    def getdel(self, args: Args) -> Reply:
        return self._keyspace.remove(args[1])

    def mset(self, args: Args) -> CommandSteps:
        if len(args) % 2 == 0:
            return wrong_arity(args[0])
        for start in range(1, len(args), 2 * PAIRS_A_STEP):
            if start > 1:
                yield
            end = start + 2 * PAIRS_A_STEP
            self._keyspace.put_all_for_ever(args[start:end:2], args[start + 1 : end : 2])
        return OK

    def append(self, args: Args) -> Reply:
        record = self._keyspace.find(args[1])
        if record is None:
            self._keyspace.put(args[1], args[2], None)
            return len(args[2])
        length = len(record.value) + len(args[2])
        if length > self._value_bytes_max:
            return VALUE_TOO_LONG
        if length > LARGE_BYTES:
            self._keyspace.extend(args[1], record, args[2])
        else:
            self._keyspace.replace(args[1], record, bytes(record.value) + args[2])
        return length

    # -- counting ---------------------------------------------------------------------------------------------------

    def incr(self, args: Args) -> Reply:
        return self.add(args[1], 1)

    def decr(self, args: Args) -> Reply:
        return self.add(args[1], -1)

    def incrby(self, args: Args) -> Reply:
        amount = parse_int64(args[2])
        return NOT_AN_INTEGER if amount is None else self.add(args[1], amount)

    def decrby(self, args: Args) -> Reply:
        amount = parse_int64(args[2])
        if amount is None:
            return NOT_AN_INTEGER
        return DECREMENT_WOULD_OVERFLOW if amount == INT64_MIN else self.add(args[1], -amount)

    def add(self, key: bytes, amount: int) -> Reply:
        old = self._keyspace.look_up(key)
        value = b"0" if old is None else value_of(old)
        number = parse_int64(value) if isinstance(value, bytes) else None
        if number is None:
            return NOT_AN_INTEGER
        number += amount
        if not INT64_MIN <= number <= INT64_MAX:
            return WOULD_OVERFLOW
        self._keyspace.replace(key, old, b"%d" % number)
        return number
