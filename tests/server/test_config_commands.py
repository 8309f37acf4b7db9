"""server/commands/config.py: settings can be read under both names, and never changed."""

from __future__ import annotations

import pytest

from durable_raft.kv.replies import ErrorReply
from durable_raft.server.commands.config import execute_config_command
from tests.support.node_status import LEADER, seen_by_client


def get(*patterns: bytes) -> object:
    """Return CONFIG GET ``patterns`` as a RESP3 client sees it."""
    return seen_by_client(execute_config_command(LEADER, [b"CONFIG", b"GET", *patterns]), 3)


def error(*words: bytes) -> str:
    """Return the error line of CONFIG ``words``."""
    reply = execute_config_command(LEADER, [b"CONFIG", *words])
    assert isinstance(reply, ErrorReply), reply
    return reply.line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"save", b""),
        (b"appendonly", b"yes"),
        (b"appendfsync", b"always"),
        (b"maxmemory", b"0"),
        (b"databases", b"1"),
        (b"cluster-require-full-coverage", b"no"),
        (b"notify-keyspace-events", b""),
        (b"proto-max-bulk-len", b"67108864"),
        (b"maxclients", b"10000"),
        (b"port", b"7001"),
    ],
)
def test_get_answers_what_tools_ask_for(name: bytes, value: bytes) -> None:
    """redis-benchmark, redis-py and others find the Redis settings they ask for, true of this server."""
    assert get(name) == {name: value}


def test_get_knows_our_own_settings_by_pattern() -> None:
    """Our settings are found by glob patterns, in any case, each once; an unknown name is an empty map."""
    assert get(b"HEARTBEAT-*", b"*beat-ms") == {b"heartbeat-ms": b"50"}
    assert get(b"nosuch") == {}
    everything = get(b"*")
    assert isinstance(everything, dict)
    assert {b"save", b"heartbeat-ms", b"clients-max", b"maxclients"} <= everything.keys()


def test_get_is_flat_in_resp2() -> None:
    """A RESP2 client gets names and values in turn."""
    reply = execute_config_command(LEADER, [b"config", b"get", b"app*"])
    assert seen_by_client(reply, 2) == [b"appendonly", b"yes", b"appendfsync", b"always"]


def test_set_refuses_known_settings_as_immutable() -> None:
    """CONFIG SET never changes anything, and says how settings are given."""
    assert error(b"SET", b"maxmemory", b"1") == (
        "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - can't set immutable config: "
        "settings are given at the start, by flag, environment or file"
    )


def test_statistics_and_the_file_are_not_touched() -> None:
    """CONFIG RESETSTAT and REWRITE are refused with the reason, not silently ignored."""
    assert error(b"RESETSTAT").startswith("ERR CONFIG RESETSTAT is not supported: ")
    assert error(b"REWRITE").startswith("ERR The server is running without a config file")
