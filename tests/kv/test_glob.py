"""Glob patterns: what they match, held against redis-server, and that none takes long."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from durable_raft.kv.glob import compile_glob, glob_matches
from tests.support.redis_oracle import RedisOracle, running_redis

ALPHABET = b"ab[]^-\\*?"
PATTERNS_PER_SEED = 1500


@pytest.fixture(scope="module")
def keys() -> list[bytes]:
    """Return every text of up to three bytes of the patterns' own alphabet but the empty one, and some longer."""
    rng = random.Random(7)
    short = [bytes(text) for length in (1, 2, 3) for text in itertools.product(b"ab]-\\*", repeat=length)]
    return sorted({*short, *(random_bytes(rng, 4, 8) for _ in range(200)), b"\n", b"a\nb", b"\0", b"c", b"Z", b"_"})


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory, keys: list[bytes]) -> Iterator[RedisOracle]:
    """Yield a connection to a redis-server that holds the keys."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        running.ask(b"MSET", *(word for key in keys for word in (key, b"")))
        yield running


def random_bytes(rng: random.Random, least: int, most: int) -> bytes:
    """Return a text or pattern over the alphabet."""
    return bytes(rng.choices(ALPHABET, weights=(5, 4, 4, 4, 2, 3, 2, 3, 2), k=rng.randint(least, most)))


def check(oracle: RedisOracle, keys: list[bytes], pattern: bytes) -> int:
    """Require that KEYS finds on redis-server what the pattern matches here; return how many keys that are."""
    found = oracle.ask(b"KEYS", pattern)
    assert isinstance(found, list), (pattern, found)
    ours = [key for key in keys if glob_matches(pattern, key)]
    assert ours == sorted(found), f"{pattern!r}: only here or only there: {set(ours) ^ set(found)}"
    return len(ours)


@pytest.mark.parametrize("seed", range(4))
def test_random_patterns_match_as_in_redis(oracle: RedisOracle, keys: list[bytes], seed: int) -> None:
    """Random patterns of the special bytes, whole and broken, match the keys that KEYS finds."""
    rng = random.Random(seed)
    matched = [check(oracle, keys, random_bytes(rng, 0, 9)) for _ in range(PATTERNS_PER_SEED)]
    assert sum(count > 0 for count in matched) > PATTERNS_PER_SEED // 10, "hardly a pattern matched anything"


@pytest.mark.parametrize(
    "pattern",
    [
        *(b"", b"*", b"**", b"?", b"a*b*a", b"*a", b"a*", b"*ab*", b"*a*b*"),
        *(b"[", b"[^", b"[]", b"[^]", b"[]a]", b"[^]a]", b"[a", b"[^a", b"[a-", b"[a-]", b"[a-]]", b"[b-a]", b"[^b-a]"),
        *(b"[-]", b"[a^]", b"[^^]", b"[--a]", b"[\\]]", b"[\\]", b"[a\\", b"[\\a-b]", b"[a-\\]]", b"[a-\\", b"[?*]"),
        *(b"\\", b"\\\\", b"\\*", b"\\a", b"a\\", b"*\\", b"\\[a]", b"?\\?", b"a?b", b"???", b"*?", b"?*?"),
        *(
            b"\n",
            b"a?b",
            b"a\nb",
            b"a.b",
            b".",
            b"$",
            b"(",
            b"a|b",
            b"^",
            b"[\n]",
            b"\0",
            b"A",
            b"[A-Z]",
            b"z",
            b"[Z_]",
        ),
    ],
)
def test_pattern_matches_as_in_redis(oracle: RedisOracle, keys: list[bytes], pattern: bytes) -> None:
    """Unclosed and empty classes, ranges given backwards, escapes at the end: as in Redis."""
    check(oracle, keys, pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (b"", b"", True),
        (b"*", b"", True),
        (b"?", b"", False),
        (b"h?llo", b"hello", True),
        (b"h?llo", b"hllo", False),
        (b"h*llo", b"heeeello", True),
        (b"h[ae]llo", b"hillo", False),
        (b"h[^e]llo", b"hallo", True),
        (b"h[a-b]llo", b"hbllo", True),
        (b"h\\*llo", b"h*llo", True),
        (b"h\\*llo", b"hello", False),
        (b"user:*:name", b"user:1:name:name", True),
        (b"?", b"\n", True),
        (b"\xff*", b"\xff\x00", True),
        (b"[\x80-\xff]", b"\x90", True),
        (b"[\x80-\xff]", b"a", False),
    ],
)
def test_match(pattern: bytes, text: bytes, matches: bool) -> None:
    """The examples of Redis's documentation; bytes are unsigned on every machine."""
    assert glob_matches(pattern, text) == matches


@pytest.mark.parametrize(
    "unit", [b"[\x00-\xff]", b"[\x01-\xff]", b"[^\x01-\xfe]", b"*[\x00-\x7f]", b"[a-b]", b"*a", b"(", b"[a]", b"[ac]"]
)
def test_expression_grows_with_its_pattern_only(unit: bytes) -> None:
    """What is compiled is at most ten times as long as the pattern: a wide range costs no more than a narrow one."""
    pattern = unit * 100
    assert len(compile_glob(pattern).pattern) <= 10 * len(pattern)


@pytest.mark.parametrize("negation", [b"", b"^"])
@pytest.mark.parametrize(
    ("members", "listed"),
    [
        (b"ac", {97, 99}),
        (b"a-cx-z", {97, 98, 99, 120, 121, 122}),
        (b"\x00-\xff", set(range(256))),
        (b"\x01-\xfe", set(range(1, 255))),
        (b"a-bc-d", {97, 98, 99, 100}),
        (b"\x00", {0}),
        (b"\xff\xfd", {253, 255}),
    ],
)
def test_class_holds_just_its_members(negation: bytes, members: bytes, listed: set[int]) -> None:
    """Each of the 256 bytes is in a class, or outside a negated one, only if it or a range with it is listed."""
    found = {byte for byte in range(256) if glob_matches(b"[%b%b]" % (negation, members), bytes([byte]))}
    assert found == (set(range(256)) - listed if negation else listed)


NASTY = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from durable_raft.kv.glob import glob_matches
text = b"a" * 20_000
for pattern in (b"a*" * 30 + b"b", b"*a" * 500 + b"b", b"*?" * 200 + b"b", b"*[ab]" * 100 + b"c*", b"*" * 50_000 + b"b",
                b"?" * 200_000, b"[a" * 20_000, b"a*" * 10_000, b"*aab" * 100, b"*" + b"a" * 300 + b"b*"):
    assert not glob_matches(pattern, text) or pattern in (b"a*" * 10_000,), pattern[:20]
print("done")
"""


def test_no_pattern_takes_long() -> None:
    """Patterns that make a backtracking matcher take for ever are done within a bound on processor time."""
    done = subprocess.run([sys.executable, "-c", NASTY], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
