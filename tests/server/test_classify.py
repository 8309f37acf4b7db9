"""server/commands/classify.py: which command a request is, and how one is refused."""

from __future__ import annotations

import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.replies import ErrorReply
from durable_raft.kv.runs import Run
from durable_raft.server.commands.classify import ALL_COMMANDS, classify, refusal


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_name_is_found_in_any_case(name: bytes) -> None:
    """The spec has it as the tables do."""
    spec = ALL_COMMANDS[name]
    for spelling in (name, name.upper(), name.capitalize()):
        assert classify(Run(spelling, 1, [b"Arg"] * (abs(spec.arity) - 1))) is spec
    assert spec.is_connections == (name not in COMMANDS)


@pytest.mark.parametrize("name", [name for name, spec in ALL_COMMANDS.items() if abs(spec.arity) > 1])
def test_wrong_arity_is_refused(name: bytes) -> None:
    """Of the machine's commands and of the connection's, with the name in lower case."""
    assert classify(Run(name.upper(), 1, [])) is None
    expected = f"ERR wrong number of arguments for '{name.decode()}' command"
    assert refusal([name.upper()]) == ErrorReply(expected)


def test_a_run_has_the_arity_of_its_commands() -> None:
    """Not of all of them together."""
    assert classify(Run(b"SET", 2, [b"a", b"b", b"1", b"2"])) is COMMANDS[b"set"]
    assert classify(Run(b"GET", 4, [b"k"] * 4)) is COMMANDS[b"get"]
    assert classify(Run(b"GET", 2, [b"k"] * 4)) is None
    assert classify(Run(b"SET", 4, [b"k"] * 4)) is None


def test_an_unknown_command_is_refused_as_it_was_sent() -> None:
    """Name and arguments are Redis's to show."""
    assert classify(Run(b"Nosuch", 2, [b"a", b"b"])) is None
    expected = "ERR unknown command 'Nosuch', with args beginning with: 'a' "
    assert refusal([b"Nosuch", b"a"]) == ErrorReply(expected)
