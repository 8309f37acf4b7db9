"""The commands a connection answers itself, held against a real redis-server: same errors, same shapes.

Only what must be equal is compared: where this server differs on purpose (settings, HELP texts) its own tests say how.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import hiredis
import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.server.commands.docs import COMMAND_DOCS
from durable_raft.server.commands.session import Session
from durable_raft.server.commands.specs import CONNECTION_COMMANDS
from tests.support.node_status import LEADER, answered, seen_by_client
from tests.support.redis_oracle import RedisOracle, running_redis

SAME_REPLIES = """
PING
PING hi
PING a b
ping
ECHO
ECHO hi
SELECT 0
SELECT 1
SELECT x
SELECT 99999999999999999999
READONLY
READWRITE
READONLY x
RESET
RESET x
ASKING
TIME x
WAIT
WAIT x 1
WAIT 0 x
WAIT 0 -1
AUTH
AUTH a
AUTH default b
AUTH a b
AUTH a b c
HELLO x
HELLO 1
HELLO 4
HELLO 99999999999999999999
HELLO 2 SETNAME
HELLO 2 AUTH default
HELLO 2 AUTH a b
HELLO 2 FOO
HELLO 3 SETNAME 'a b'
CLIENT
CLIENT Foo
CLIENT foo 'a b' c
CLIENT HELP x
CLIENT GETNAME
CLIENT GETNAME x
CLIENT SETNAME
CLIENT SETNAME me
CLIENT GETNAME
CLIENT SETNAME 'a b'
CLIENT SETNAME ''
CLIENT GETNAME
CLIENT REPLY foo
CLIENT REPLY ON
CLIENT NO-EVICT foo
CLIENT NO-EVICT on
CLIENT KILL
CLIENT KILL 1.2.3.4:5
CLIENT KILL ID 0
CLIENT KILL ID x
CLIENT KILL ID 123456
CLIENT KILL ADDR 1.2.3.4:5
CLIENT KILL TYPE foo
CLIENT KILL TYPE pubsub
CLIENT KILL USER foo
CLIENT KILL FOO bar
CLIENT KILL SKIPME foo
CLIENT KILL ID 5 ADDR
CLIENT LIST TYPE foo
CLIENT LIST TYPE pubsub
CLIENT LIST TYPE
CLIENT LIST ID x
CLIENT LIST ID 0
CLIENT LIST foo
CONFIG
CONFIG Foo
CONFIG GET
CONFIG GET save
CONFIG GET nosuch
CONFIG GET maxmemory
CONFIG GET maxmemory-policy
CONFIG GET cluster-enabled
CONFIG GET 'notify-keyspace-event[s]'
CONFIG GET CLUSTER-E?ABLED
CONFIG SET a
CONFIG SET nosuch b
CONFIG SET a b c
COMMAND Foo
COMMAND COUNT x
COMMAND INFO nosuch
COMMAND DOCS nosuch
COMMAND GETKEYS
COMMAND GETKEYS get
COMMAND GETKEYS get a
COMMAND GETKEYS mset a b c d
COMMAND GETKEYS mget a b c
COMMAND GETKEYS ping x
COMMAND GETKEYS foo x
COMMAND GETKEYS get a b
COMMAND LIST FOO
COMMAND LIST FILTERBY FOO x
COMMAND LIST FILTERBY MODULE nosuch
COMMAND LIST FILTERBY ACLCAT nosuch
CLUSTER
CLUSTER Foo
CLUSTER KEYSLOT
CLUSTER KEYSLOT foo
CLUSTER KEYSLOT a{foo}b
CLUSTER KEYSLOT a{}b
CLUSTER COUNTKEYSINSLOT -1
CLUSTER COUNTKEYSINSLOT 16384
CLUSTER COUNTKEYSINSLOT x
CLUSTER COUNTKEYSINSLOT 0
CLUSTER REPLICAS nobody
CLUSTER SLAVES nobody
INFO nosuch
INFO cluster
info CLUSTER
ROLE x
""".strip().splitlines()
"""Requests, in an order that matters (names that are set), whose replies must be equal in both protocols."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisOracle]:
    """A redis-server in cluster mode."""
    directory = tmp_path_factory.mktemp("redis")
    with running_redis(directory, "--cluster-enabled", "yes") as running:
        yield running


def words(line: str) -> list[bytes]:
    """Return a request as redis-cli would read it."""
    return [word.encode() for word in shlex.split(line)]


def comparable(reply: object) -> object:
    """Return a reply in a form that can be compared: errors by their text, verbatim text by its text."""
    if isinstance(reply, hiredis.ReplyError):
        return f"error {reply}"
    if isinstance(reply, list):
        return [comparable(item) for item in reply]
    return str(reply) if type(reply).__name__ == "VerbatimString" else reply


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_those_of_redis(oracle: RedisOracle, protocol: int) -> None:
    """Every request of the list gets the same reply from us as from Redis, over one session."""
    session = Session(id=1_000_000)
    differences = []
    for line in SAME_REPLIES:
        name = shlex.split(line)[0].lower()
        if name == "reset" or line is SAME_REPLIES[0]:
            oracle.ask(b"RESET")
            oracle.ask(b"HELLO", b"%d" % protocol)
        expected = comparable(oracle.ask(*words(line)))
        reply = answered(session, words(line), LEADER)
        if name == "reset":
            oracle.ask(b"HELLO", b"%d" % protocol)
        got = comparable(seen_by_client(reply, protocol))
        if got != expected:
            differences.append(f"{line}\n    redis: {expected!r}\n    ours:  {got!r}")
    assert not differences, "\n".join(differences)


def test_hello_has_the_fields_of_redis(oracle: RedisOracle) -> None:
    """HELLO's map has Redis's keys in Redis's order, and the values that do not depend on the process."""
    theirs = oracle.ask(b"HELLO", b"3")
    ours = seen_by_client(
        answered(Session(id=1), [b"HELLO", b"3"], LEADER),
        3,
    )
    assert isinstance(theirs, dict)
    assert isinstance(ours, dict)
    assert list(ours) == list(theirs)
    same = (b"server", b"version", b"proto", b"mode", b"role", b"modules")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


OUR_OWN = (b"raft", b"raft.member", b"raft.transfer")
"""The commands that Redis does not have."""


def _entries(reply: object) -> Mapping[bytes, list[Any]]:
    assert isinstance(reply, list)
    return {entry[0]: entry for entry in reply if entry is not None}


def test_command_table_agrees_with_redis(oracle: RedisOracle) -> None:
    """Arity, first key and step of every command are Redis's, and so are the flags that clients act on."""
    oracle.ask(b"HELLO", b"2")
    names = [*COMMANDS, *(name for name in CONNECTION_COMMANDS if name not in OUR_OWN)]
    theirs = _entries(oracle.ask(b"COMMAND", b"INFO", *names))
    request = [b"COMMAND", b"INFO", *names]
    ours = _entries(seen_by_client(answered(Session(id=1), request, LEADER), 2))
    assert ours.keys() == theirs.keys()
    relevant = {b"write", b"readonly", b"denyoom", b"fast"}

    def facts(entry: list[Any]) -> list[object]:
        return [entry[1], entry[3], entry[5], sorted(relevant & set(entry[2]))]

    assert {name: facts(entry) for name, entry in ours.items()} == {
        name: facts(entry) for name, entry in theirs.items()
    }


def test_docs_agree_with_redis(oracle: RedisOracle) -> None:
    """Group and version of every command, and the words before and types of its plain arguments, are Redis's."""
    oracle.ask(b"HELLO", b"3")
    names = [name for name in COMMAND_DOCS if name not in OUR_OWN]
    theirs = oracle.ask(b"COMMAND", b"DOCS", *names)
    request = [b"COMMAND", b"DOCS", *names]
    ours = seen_by_client(answered(Session(id=1), request, LEADER), 3)
    assert isinstance(theirs, dict)
    assert isinstance(ours, dict)
    assert {name: (doc[b"group"], doc[b"since"]) for name, doc in ours.items()} == {
        name: (theirs[name][b"group"], theirs[name][b"since"]) for name in ours
    }
    for name in (b"get", b"set", b"mget", b"expire", b"incrby", b"decrby", b"setex", b"psetex", b"wait", b"echo"):
        assert _shape(ours[name]) == _shape(theirs[name]), name


def _shape(doc: Mapping[bytes, Any]) -> list[object]:
    """Return the type, word and flags of each argument, in depth; names of choices are free."""
    return [
        (argument[b"type"], argument.get(b"token"), sorted(argument.get(b"flags", [])), _shape(argument))
        for argument in doc.get(b"arguments", [])
    ]
