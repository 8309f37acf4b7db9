"""server/commands/table.py, docs.py and syntax.py: COMMAND over both tables of commands."""

from __future__ import annotations

from typing import Any

import pytest

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.replies import ErrorReply
from durable_raft.server.commands.classify import ALL_COMMANDS
from durable_raft.server.commands.docs import COMMAND_DOCS
from durable_raft.server.commands.specs import CONNECTION_COMMANDS
from durable_raft.server.commands.syntax import Argument, parse_syntax
from durable_raft.server.commands.table import CONTAINERS, execute_command_command, keys_of
from tests.support.node_status import seen_by_client


def ask(*words: bytes, protocol: int = 2) -> Any:
    """Return what a client sees of COMMAND ``words``."""
    return seen_by_client(execute_command_command([b"COMMAND", *words]), protocol)


def error(*words: bytes) -> str:
    """Return the error line of COMMAND ``words``."""
    reply = execute_command_command([b"command", *words])
    assert isinstance(reply, ErrorReply), reply
    return reply.line


def test_all_commands_of_both_tables_are_listed() -> None:
    """COMMAND has one entry of ten items for each command; COUNT and LIST agree with it."""
    entries = ask()
    assert {entry[0] for entry in entries} == COMMANDS.keys() | CONNECTION_COMMANDS.keys()
    assert {len(entry) for entry in entries} == {10}
    assert ask(b"COUNT") == len(entries) == len(ask(b"LIST"))


def test_entry_has_arity_flags_and_keys() -> None:
    """An entry starts with name, arity, flags and the places of the keys."""
    [entry] = ask(b"INFO", b"GET")
    assert [entry[0], entry[1], *entry[3:6]] == [b"get", 2, 1, 1, 1]
    assert b"readonly" in entry[2]
    assert {b"@read", b"@string"} <= set(entry[6])


def test_entry_of_several_keys_names_the_first_as_the_last() -> None:
    """Clients may send keys of different slots in one command, so they are told of its first key only."""
    several = [spec for spec in COMMANDS.values() if spec.last_key not in (0, spec.first_key)]
    assert {b"mget", b"mset"} <= {spec.name for spec in several}
    for spec in several:
        [entry] = ask(b"INFO", spec.name)
        assert entry[3:5] == [spec.first_key, spec.first_key]


def test_info_of_unknown_names_is_null_and_of_subcommands_is_an_entry() -> None:
    """COMMAND INFO answers in the order asked, null for what there is not, and knows ``container|subcommand``."""
    unknown, subcommand, nobody, alias = ask(b"INFO", b"nosuch", b"CLIENT|setname", b"client|nosuch", b"get|x")
    assert unknown is nobody is alias is None
    assert subcommand[:2] == [b"client|setname", 3]


def test_containers_list_their_subcommands() -> None:
    """The tenth item of a container holds an entry for each of its subcommands."""
    for name, subcommands in CONTAINERS.items():
        [entry] = ask(b"INFO", name)
        assert {item[0] for item in entry[9]} == {name + b"|" + subcommand for subcommand in subcommands}


def test_list_filters() -> None:
    """COMMAND LIST FILTERBY knows MODULE, ACLCAT and PATTERN, and nothing else."""
    assert ask(b"LIST", b"filterby", b"MODULE", b"json") == []
    assert b"get" in ask(b"LIST", b"FILTERBY", b"aclcat", b"READ")
    assert b"set" not in ask(b"LIST", b"FILTERBY", b"aclcat", b"read")
    assert set(ask(b"LIST", b"FILTERBY", b"PATTERN", b"P?N[gh]")) == {b"ping"}
    assert error(b"LIST", b"FILTERBY", b"FOO", b"x") == error(b"LIST", b"FOO") == "ERR syntax error"


def test_get_keys_finds_every_key() -> None:
    """COMMAND GETKEYS gives all keys of a request, though entries hide all but the first."""
    assert ask(b"GETKEYS", b"MSET", b"a", b"1", b"b", b"2") == [b"a", b"b"]
    assert ask(b"GETKEYS", b"mget", b"a", b"b", b"c") == [b"a", b"b", b"c"]
    assert ask(b"GETKEYS", b"set", b"a", b"mget") == [b"a"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((b"nosuch", b"x"), "ERR Invalid command specified"),
        ((b"ping", b"x"), "ERR The command has no key arguments"),
        ((b"get", b"a", b"b"), "ERR Invalid number of arguments specified for command"),
    ],
)
def test_get_keys_refuses_what_has_none(words: tuple[bytes, ...], line: str) -> None:
    """An unknown command, one without keys and a wrong arity get Redis's errors."""
    assert error(b"GETKEYS", *words) == line


def test_keys_of_every_command_of_least_arity_exist() -> None:
    """The places of keys in the table fit the arity: the shortest request of each command has its first key."""
    for spec in ALL_COMMANDS.values():
        request = [b"%d" % place for place in range(abs(spec.arity))]
        if spec.first_key:
            assert keys_of(spec, request)[0] == b"%d" % spec.first_key, spec.name


# -- DOCS -------------------------------------------------------------------------------------------------------------


def test_every_command_is_documented() -> None:
    """No command of either table lacks its documentation: redis-cli would give no hint for it."""
    assert not ALL_COMMANDS.keys() - COMMAND_DOCS.keys()


def test_every_syntax_can_be_read_and_fits_the_arity() -> None:
    """Each syntax parses, and has as many obligatory arguments as the arity says (containers apart)."""
    for spec in ALL_COMMANDS.values():
        arguments = parse_syntax(COMMAND_DOCS[spec.name].syntax)
        if spec.name not in CONTAINERS:
            least = 1 + sum(_least_words(argument) for argument in arguments)
            assert least == abs(spec.arity), spec.name
    for name, subcommands in CONTAINERS.items():
        for subcommand in subcommands.values():
            least = 2 + sum(_least_words(argument) for argument in parse_syntax(subcommand.usage))
            # Redis's own arity of GETKEYS counts one argument of the command it is given.
            assert least == abs(subcommand.arity) - (subcommand.name == b"getkeys"), (name, subcommand.name)


def _least_words(argument: Argument) -> int:
    """Return how many words an argument takes at least."""
    if "optional" in argument.flags:
        return 0
    inner = [_least_words(part) for part in argument.arguments]
    own = {"oneof": min(inner, default=0), "block": sum(inner), "pure-token": 1}.get(argument.type, 1)
    return own + (argument.token is not None and argument.type != "pure-token")


def test_docs_are_maps_of_the_commands_asked_for() -> None:
    """COMMAND DOCS maps known names to their documentation, unknown ones are left out, no name means all."""
    docs = ask(b"DOCS", b"GET", b"nosuch", protocol=3)
    assert list(docs) == [b"get"]
    assert docs[b"get"][b"group"] == b"string"
    assert docs[b"get"][b"arguments"] == [{b"name": b"key", b"type": b"key", b"key_spec_index": 0}]
    assert ask(b"DOCS", protocol=3).keys() == ALL_COMMANDS.keys()


def test_docs_of_a_container_document_its_subcommands() -> None:
    """CLIENT's documentation holds that of each of its subcommands, with arguments."""
    docs = ask(b"DOCS", b"client", protocol=3)[b"client"][b"subcommands"]
    assert docs.keys() == {b"client|" + name for name in CONTAINERS[b"client"]}
    assert docs[b"client|setname"][b"arguments"] == [{b"name": b"connection-name", b"type": b"string"}]


def test_syntax_becomes_a_tree_of_arguments() -> None:
    """Options, choices, words before arguments and repetitions come out as Redis's argument types."""
    key, condition, pairs = parse_syntax("key [NX|EX seconds] (field value)...")
    assert key == Argument("key", "key")
    assert condition == Argument(
        "nx_seconds",
        "oneof",
        flags=("optional",),
        arguments=(Argument("nx", "pure-token", "NX"), Argument("seconds", "integer", "EX")),
    )
    assert pairs == Argument(
        "field_value",
        "block",
        flags=("multiple",),
        arguments=(Argument("field", "string"), Argument("value", "string")),
    )


@pytest.mark.parametrize("text", ["[key", "key)", "a|", "()", "key ]", "...", "Mixed"])
def test_malformed_syntax_is_refused(text: str) -> None:
    """A slip in the table of documentation is found, not shown to users."""
    with pytest.raises(ValueError, match="lexeme"):
        parse_syntax(text)
