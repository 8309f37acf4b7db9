"""The machine beside a real redis-server: random commands over few keys must get the same replies, byte for byte.

Meant differences, which the commands here avoid: a key set with a past deadline is gone at once (Redis 7.0 counts it in
DBSIZE until it is looked at); a cursor of SCAN is digits and nothing else (Redis takes signs and the empty string too);
a zero byte does not end the text that an error shows.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.runs import Run
from tests.kv.redis_side import SideBySide
from tests.kv.state_views import Checkpoints
from tests.support.redis_oracle import RedisOracle, running_redis

COMMANDS_PER_SEED: Final = 2500
RUNS_PER_SEED: Final = 500
KEYS: Final = (b"a", b"b", b"c", b"{t}d", b"")
INTEGERS: Final = (
    *(0, 1, -1, 2, 10, 100_000),
    *((1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, (1 << 63) // 1000, (1 << 63) // 1000 + 1),
)
VALUES: Final = (b"", b"x", b"hello", b"10", b"-5", b"007", b" 1", b"1.5", b"-0", b"+1", b"\0\r\n\xff", b"9" * 30)
FAR_S: Final = (4_000_000_000, 4_000_000_001, 4_000_000_500)
"""Absolute deadlines, few of them so that GT and LT meet equal ones; relative ones, below, never come near them."""
WORDS: Final = (b"NX", b"xx", b"GT", b"Lt", b"GET", b"KEEPTTL", b"EX", b"px", b"EXAT", b"PXAT", b"foo", b"")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisOracle]:
    """Yield a connection to a redis-server that the tests of this file share."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def both(oracle: RedisOracle) -> Iterator[SideBySide]:
    """Yield an empty machine and an empty redis-server."""
    sides = SideBySide(oracle)
    yield sides
    sides.close()


class Draw:
    """Random commands: mostly well formed, often enough not."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._forms: dict[bytes, Callable[[], list[bytes]]] = {
            b"set": lambda: [self.key(), self.value(), *self.set_options()],
            b"setex": lambda: [self.key(), self.relative(1), self.value()],
            b"psetex": lambda: [self.key(), self.relative(1000), self.value()],
            b"expire": lambda: [self.key(), self.relative(1), *self.conditions()],
            b"pexpire": lambda: [self.key(), self.relative(1000), *self.conditions()],
            b"expireat": lambda: [self.key(), self.absolute(1), *self.conditions()],
            b"pexpireat": lambda: [self.key(), self.absolute(1000), *self.conditions()],
            b"mset": lambda: [pick() for _ in range(self.rng.randint(1, 3)) for pick in (self.key, self.value)],
            b"incrby": lambda: [self.key(), self.number()],
            b"decrby": lambda: [self.key(), self.number()],
            b"keys": lambda: [self.rng.choice((b"*", b"[a-c]", b"?", b"\\a", b"[^a]", b"{*"))],
            b"flushall": self.flush_options,
            b"flushdb": self.flush_options,
            b"scan": lambda: [
                b"0",
                b"COUNT",
                b"1000",
                *self.rng.choice(([], [b"MATCH", b"[ab]"], [b"TYPE", b"string"])),
            ],
        }

    def command(self) -> list[bytes]:
        """Return the next command."""
        name = self.rng.choice((b"set", b"set", b"expire", b"pexpireat", *COMMANDS))
        shown = name.upper() if self.rng.random() < 0.3 else name
        if self.rng.random() < 0.03 and name not in (b"flushall", b"flushdb", b"scan", b"keys"):
            return [shown, *(self.rng.choice((*KEYS, *WORDS, b"-5")) for _ in range(self.rng.randint(0, 5)))]
        if name in (b"flushall", b"flushdb") and self.rng.random() < 0.9:
            return [b"dbsize"]
        if name in self._forms:
            return [shown, *self._forms[name]()]
        spec = COMMANDS[name]
        if spec.arity < 0:
            return [shown, *(self.key() for _ in range(self.rng.randint(1, 4)))]
        return [shown, *[self.key(), self.value()][: spec.arity - 1]]

    def key(self) -> bytes:
        """Return one of few keys."""
        return self.rng.choice(KEYS)

    def value(self) -> bytes:
        """Return a value: text, or a number at a boundary."""
        return self.rng.choice(VALUES) if self.rng.random() < 0.6 else self.number()

    def number(self) -> bytes:
        """Return an integer, mostly in range."""
        return self.rng.choice(VALUES) if self.rng.random() < 0.1 else b"%d" % self.rng.choice(INTEGERS)

    def word(self) -> bytes:
        """Return an option's name."""
        return self.rng.choice(WORDS)

    def relative(self, per_second: int) -> bytes:
        """Return a time to live, of so many that it does not matter that the two servers read it ms apart."""
        if self.rng.random() < 0.2:
            return self.rng.choice((b"0", b"-1", b"x", b"1.5", *(b"%d" % (sign << 62) for sign in (2, 1, -1))))
        return b"%d" % (self.rng.randrange(10**6, 10**9) * per_second)

    def absolute(self, per_second: int) -> bytes:
        """Return a deadline: in the past, far away, or none at all."""
        if self.rng.random() < 0.3:
            return self.rng.choice((b"0", b"1", b"-1", b"x", b"%d" % ((1 << 63) - 1), b"%d" % (1 << 63)))
        return b"%d" % (self.rng.choice(FAR_S) * per_second)

    def conditions(self) -> list[bytes]:
        """Return conditions of EXPIRE, often none."""
        if self.rng.random() < 0.1:
            return [self.word(), self.word()]
        return self.rng.choice(([], [b"NX"], [b"xx"], [b"GT"], [b"lt"], [b"XX", b"GT"], [b"LT", b"XX"], [b"nx", b"GT"]))

    def flush_options(self) -> list[bytes]:
        """Return options of FLUSHALL."""
        return self.rng.choice(([], [b"async"], [b"SYNC"], [b"x"], [b"async", b"sync"]))

    def scan_options(self) -> list[bytes]:
        """Return options of SCAN."""
        return self.rng.choice(([], [b"MATCH", b"[ab]"], [b"type", b"string"], [b"TYPE", b"list"], [b"MATCH"]))

    def set_options(self) -> list[bytes]:
        """Return options of SET, sometimes at odds with each other."""
        words: list[bytes] = []
        for _ in range(self.rng.choice((0, 0, 1, 1, 2, 3))):
            word = self.word()
            words.append(word)
            if word in (b"EX", b"px"):
                words.append(self.relative(1 if word == b"EX" else 1000))
            elif word in (b"EXAT", b"PXAT"):
                words.append(self.absolute(1 if word == b"EXAT" else 1000))
        return words


@pytest.mark.parametrize("seed", range(6))
def test_random_commands_get_the_same_replies(both: SideBySide, seed: int) -> None:
    """After every command of a random sequence the replies, and the keys with what is left of their time, agree."""
    draw = Draw(seed)
    for number in range(COMMANDS_PER_SEED):
        command = draw.command()
        try:
            both.check(command)
            both.check([b"PTTL", command[1] if len(command) > 1 else b"a"])
            for key in KEYS if number % 5 == 0 else ():
                both.check([b"PTTL", key])
            both.check([b"MGET", *KEYS])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, command {number}, {command}: {error}") from error
    assert both.errors > COMMANDS_PER_SEED // 50, "the sequence hardly met an error"
    assert both.equal > COMMANDS_PER_SEED, "the sequence hardly met an exact reply"


@pytest.mark.parametrize("seed", range(4))
def test_runs_over_checkpoints_get_the_same_replies(both: SideBySide, seed: int) -> None:
    """Runs of plain commands between others, while what they change moves to the disk, and keys are counted."""
    draw, rng, checkpoints = Draw(seed), random.Random(seed), Checkpoints(both.machine)
    for number in range(RUNS_PER_SEED):
        command = draw.command()
        count = rng.randint(2, 6)
        keys = [draw.key() for _ in range(count)]
        run = rng.choice(
            (
                Run(b"set", count, [*keys, *[draw.value() for _ in keys]]),
                Run(b"set", count, [*keys, *[draw.value() for _ in keys]]),
                Run(b"incr", count, keys),
                Run(b"del", count, keys),
                Run(b"get", count, keys),
                Run(b"mset", 1, [word for key in keys for word in (key, draw.value())]),
                Run(b"setex", count, [*keys, *[b"1000"] * count, *[draw.value() for _ in keys]]),
            )
        )
        try:
            both.check(command)
            both.check_run(run)
            if rng.random() < 0.3:
                both.check([b"DBSIZE"])
            both.check([b"MGET", *KEYS])
            both.check([b"PTTL", keys[0]])
            checkpoints.go_on(rng)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, command {number}, {command}, {run}: {error}") from error
    assert checkpoints.ended > RUNS_PER_SEED // 5


SCRIPTS: Final = {
    "set options twice": """
        SET k v EX 1000000 EX 2000000
        SET k v PX 1000000000 px 2000000000
        SET k v EXAT 4000000000 EXAT 4000000001
        SET k v PXAT 4000000000000 PXAT 4000000001000
        TTL k
        SET k v EX x EX 1000
        SET k v EX 1000 EX x
        SET k v NX NX
        SET k v XX XX GET GET
        SET k v KEEPTTL KEEPTTL
        SET k v EX EX
        SET k v EX 1000 PX 1000
        SET k v EX 1000 KEEPTTL
        SET k v EXAT 4000000000 PXAT 4000000000000
    """,
    "order of errors": """
        SET k v NX EX 0
        SET k v EX x XX NX
        SET k v EX x
        EXPIRE k x FOO
        EXPIRE k x NX XX
        EXPIRE nosuch x
        EXPIRE nosuch 9223372036854775807
        EXPIRE k 9223372036854775807 NX GT
        PEXPIRE k 9223372036854775807
        PEXPIREAT k 9223372036854775807
        PTTL nosuch
        EXPIREAT k 9223372036854775
        EXPIREAT k 9223372036854776
        EXPIREAT k -9223372036854776
        EXPIREAT k -9223372036854775
        EXISTS k
        SET s text
        INCRBY s x
        INCRBY s 9223372036854775808
        DECRBY s -9223372036854775808
        DECRBY nosuch -9223372036854775808
    """,
    "scan": """
        MSET a 1 b 2 c 3
        SCAN x
        SCAN 1x
        SCAN ' 1'
        SCAN 18446744073709551616
        SCAN 0 COUNT
        SCAN 0 COUNT 0
        SCAN 0 COUNT -1
        SCAN 0 COUNT x
        SCAN 0 COUNT 9223372036854775808
        SCAN 0 MATCH
        SCAN 0 FOO bar
        SCAN 0 COUNT 0 FOO bar
        SCAN x FOO
        SCAN 00 COUNT 100
        SCAN 0 count 100 match [ab] type string
        SCAN 0 COUNT 100 TYPE STRING
        SCAN 0 COUNT 100 TYPE list
        SCAN 0 COUNT 100 TYPE nosuch
        SCAN 0 COUNT 100 COUNT 200 MATCH a MATCH b
    """,
    "flush": """
        FLUSHALL ASYNC SYNC
        FLUSHALL x
        FLUSHDB Async
        FLUSHALL sync
        DBSIZE
    """,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=[name.replace(" ", "_") for name in SCRIPTS])
def test_script_gets_the_same_replies(both: SideBySide, script: str) -> None:
    """Corners of the grammar that chance seldom meets: repeated options, which of two errors comes first."""
    for line in script.strip().splitlines():
        both.check([word.encode() for word in shlex.split(line)])


def test_append_limit(both: SideBySide) -> None:
    """APPEND past the longest value gets Redis's error."""
    assert both.of_redis([b"CONFIG", b"SET", b"proto-max-bulk-len", b"1mb"]) == b"+OK\r\n"
    both.machine = type(both.machine)(random.Random(1), value_bytes_max=1 << 20)
    for args in ([b"SET", b"k", b"x" * ((1 << 20) - 1)], [b"APPEND", b"k", b"y"], [b"APPEND", b"k", b"z"]):
        both.check(args)
    both.check([b"STRLEN", b"k"])
    assert both.of_redis([b"CONFIG", b"SET", b"proto-max-bulk-len", b"512mb"]) == b"+OK\r\n"
