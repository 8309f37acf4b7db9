"""Commands on keys whatever their values (Redis db.c, expire.c); replies and errors are Redis 7.0's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from durable_raft.kv.errors import (
    INVALID_CURSOR,
    NOT_AN_INTEGER,
    PATTERN_TOO_LONG,
    SYNTAX_ERROR,
    TOO_MANY_KEYS,
    invalid_expire_time,
    reply_too_large,
)
from durable_raft.kv.glob import PATTERN_BYTES_MAX, compile_glob
from durable_raft.kv.keyspace import PAGE_KEYS, Keyspace
from durable_raft.kv.numbers import INT64_MAX, INT64_MIN, parse_int64
from durable_raft.kv.records import deadline_of
from durable_raft.kv.replies import OK, CommandSteps, ErrorReply, Reply, Simple
from durable_raft.kv.scan import ScanCursors
from durable_raft.kv.steps import REPLY_BYTES_MAX, REPLY_ITEM_BYTES, Args, Budget, Columns, Handlers, one_by_one

TTL_NO_KEY: Final = -2
TTL_NO_DEADLINE: Final = -1
SCAN_COUNT_DEFAULT: Final = 10
SCAN_COUNT_MAX: Final = 10_000
"""COUNT is a hint; a longer page would keep everyone else waiting."""

KEYS_MAX: Final = 250_000
"""KEYS looks at every key while no other command runs: some microseconds each."""

SCAN_BYTES_MAX: Final = 1 << 20
"""Bytes of keys after which a page ends early."""

_CURSOR: Final = re.compile(rb"[0-9]{1,20}")
_STRING: Final = Simple(b"string")
_NONE: Final = Simple(b"none")


def handlers(keyspace: Keyspace, cursors: ScanCursors, reply_bytes_max: int = REPLY_BYTES_MAX) -> Handlers:
    """Return the commands of this module."""
    commands = _KeyspaceCommands(keyspace, cursors, reply_bytes_max)
    in_steps: dict[bytes, Callable[[Args], CommandSteps]] = {
        b"dbsize": commands.dbsize,
        b"del": commands.delete,
        b"exists": commands.exists,
        b"keys": commands.keys,
        b"scan": commands.scan,
        b"unlink": commands.delete,
    }
    short: dict[bytes, Callable[[Args], Reply]] = {
        b"expire": commands.expire,
        b"expireat": commands.expireat,
        b"flushall": commands.flush,
        b"flushdb": commands.flush,
        b"persist": commands.persist,
        b"pexpire": commands.pexpire,
        b"pexpireat": commands.pexpireat,
        b"pttl": commands.pttl,
        b"ttl": commands.ttl,
        b"type": commands.type,
    }
    in_columns: dict[tuple[bytes, int], Columns] = {
        (b"del", 1): one_by_one(keyspace, lambda key: int(keyspace.remove(key) is not None)),
        (b"exists", 1): one_by_one(keyspace, lambda key: int(keyspace.look_up(key) is not None)),
        (b"unlink", 1): one_by_one(keyspace, lambda key: int(keyspace.remove(key) is not None)),
    }
    return Handlers(short, in_steps, in_columns)


class _KeyspaceCommands:
    def __init__(self, keyspace: Keyspace, cursors: ScanCursors, reply_bytes_max: int) -> None:
        self._keyspace = keyspace
        self._cursors = cursors
        self._reply_bytes_max = reply_bytes_max

    # -- keys -------------------------------------------------------------------------------------------------------

    def dbsize(self, args: Args) -> CommandSteps:
        del args
        yield from self._keyspace.settle_in_steps()
        return self._keyspace.counts[0]

    def delete(self, args: Args) -> CommandSteps:
        removed, budget = 0, Budget(self._keyspace)
        for key in args[1:]:
            if budget.is_spent():
                yield
            removed += self._keyspace.remove(key) is not None
        return removed

    def exists(self, args: Args) -> CommandSteps:
        found, budget = 0, Budget(self._keyspace)
        for key in args[1:]:
            if budget.is_spent():
                yield
            found += self._keyspace.look_up(key) is not None
        return found

    def type(self, args: Args) -> Reply:
        return _NONE if self._keyspace.look_up(args[1]) is None else _STRING

    def flush(self, args: Args) -> Reply:
        if len(args) > 2 or (len(args) == 2 and args[1].lower() not in (b"sync", b"async")):
            return SYNTAX_ERROR
        self._keyspace.clear()
        return OK

    def keys(self, args: Args) -> CommandSteps:
        if len(args[1]) > PATTERN_BYTES_MAX:
            return PATTERN_TOO_LONG
        yield from self._keyspace.settle_in_steps()
        if self._keyspace.counts[0] > KEYS_MAX:
            return TOO_MANY_KEYS
        matches = compile_glob(args[1]).fullmatch
        found: list[Reply] = []
        size = 0
        for page in self._keyspace.pages(None):
            yield
            matching = [key for key, _ in page if matches(key)]
            size += sum(map(len, matching)) + REPLY_ITEM_BYTES * len(matching)
            if size > self._reply_bytes_max:
                return reply_too_large(self._reply_bytes_max)
            found += matching
        return found

    # -- scanning ---------------------------------------------------------------------------------------------------

    def scan(self, args: Args) -> CommandSteps:
        if _CURSOR.fullmatch(args[1]) is None or int(args[1]) >= 1 << 64:
            return INVALID_CURSOR
        options = _parse_scan_options(args[2:])
        if isinstance(options, ErrorReply):
            return options
        cursor = int(args[1])
        after = self._cursors.look_up(cursor) if cursor else None
        looked_at, size = 0, 0
        last = b""
        found: list[Reply] = []
        for page in self._keyspace.pages(after, min(options.count + 1, PAGE_KEYS)):
            for key, _ in page:
                if looked_at >= options.count or size > SCAN_BYTES_MAX:
                    # There is another key behind the page's last.
                    return [b"%d" % self._cursors.give_out(last), found]
                looked_at, size, last = looked_at + 1, size + len(key), key
                if options.wants(key):
                    found.append(key)
            yield
        return [b"0", found]

    # -- expiry -----------------------------------------------------------------------------------------------------

    def expire(self, args: Args) -> Reply:
        return self._expire(args, 1000, self._keyspace.time_ms)

    def pexpire(self, args: Args) -> Reply:
        return self._expire(args, 1, self._keyspace.time_ms)

    def expireat(self, args: Args) -> Reply:
        return self._expire(args, 1000, 0)

    def pexpireat(self, args: Args) -> Reply:
        return self._expire(args, 1, 0)

    def _expire(self, args: Args, unit_ms: int, base_ms: int) -> Reply:
        conditions = _parse_expire_conditions(args[3:])
        if isinstance(conditions, ErrorReply):
            return conditions
        value = parse_int64(args[2])
        if value is None:
            return NOT_AN_INTEGER
        deadline_ms = value * unit_ms + base_ms
        if deadline_ms > INT64_MAX or value * unit_ms < INT64_MIN:
            return invalid_expire_time(args[0])
        key = args[1]
        record = self._keyspace.find(key)
        if record is None or not _may_expire(conditions, record.deadline_ms or None, deadline_ms):
            return 0
        self._keyspace.expire_at(key, record, deadline_ms)
        return 1

    def ttl(self, args: Args) -> Reply:
        left_ms = self._left_ms(args[1])
        return left_ms if left_ms < 0 else (left_ms + 500) // 1000

    def pttl(self, args: Args) -> Reply:
        return self._left_ms(args[1])

    def _left_ms(self, key: bytes) -> int:
        kept = self._keyspace.look_up(key)
        if kept is None:
            return TTL_NO_KEY
        deadline_ms = deadline_of(kept)
        if not deadline_ms:
            return TTL_NO_DEADLINE
        # The key is still there, so it has time left: it goes when an entry says so.
        return max(1, deadline_ms - max(self._keyspace.time_ms, self._keyspace.shown_ms))

    def persist(self, args: Args) -> Reply:
        return int(self._keyspace.persist(args[1]))


# -- options ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _ScanOptions:
    pattern: bytes | None = None
    count: int = SCAN_COUNT_DEFAULT
    type_name: bytes | None = None

    def wants(self, key: bytes) -> bool:
        if self.type_name is not None and self.type_name != b"string":
            return False
        return self.pattern is None or compile_glob(self.pattern).fullmatch(key) is not None


def _parse_scan_options(words: Sequence[bytes]) -> _ScanOptions | ErrorReply:
    options = _ScanOptions()
    for position in range(0, len(words), 2):
        if position + 1 == len(words):
            return SYNTAX_ERROR
        name, value = words[position].lower(), words[position + 1]
        if name == b"match":
            if len(value) > PATTERN_BYTES_MAX:
                return PATTERN_TOO_LONG
            options.pattern = value
        elif name == b"count":
            count = parse_int64(value)
            if count is None:
                return NOT_AN_INTEGER
            if count < 1:
                return SYNTAX_ERROR
            options.count = min(count, SCAN_COUNT_MAX)
        elif name == b"type":
            options.type_name = value.lower()
        else:
            return SYNTAX_ERROR
    return options


def _parse_expire_conditions(words: Sequence[bytes]) -> frozenset[bytes] | ErrorReply:
    """Return which of NX, XX, GT, LT were given (lower case)."""
    conditions = frozenset(word.lower() for word in words)
    for word in words:
        if word.lower() not in (b"nx", b"xx", b"gt", b"lt"):
            return ErrorReply(f"ERR Unsupported option {word.decode('utf-8', 'surrogateescape')}")
    if b"nx" in conditions and len(conditions) > 1:
        return ErrorReply("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"gt", b"lt"} <= conditions:
        return ErrorReply("ERR GT and LT options at the same time are not compatible")
    return conditions


def _may_expire(conditions: frozenset[bytes], present_ms: int | None, deadline_ms: int) -> bool:
    """Return whether the conditions allow a new deadline; for GT and LT, none counts as infinitely far away."""
    if b"nx" in conditions and present_ms is not None:
        return False
    if b"xx" in conditions and present_ms is None:
        return False
    if b"gt" in conditions and (present_ms is None or deadline_ms <= present_ms):
        return False
    return not (b"lt" in conditions and present_ms is not None and deadline_ms >= present_ms)
