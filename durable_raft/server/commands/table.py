"""COMMAND: the commands there are, the machine's and the connection's, as cluster clients and redis-cli ask for them.

Clients find a command's keys by first key, last key and step. For a command of several keys the *last* is given as the
first: all slots belong to the one group, so the keys of one command may be of any slots, and a client that is told of
one key sends the command whole instead of refusing it (redis-py: "all keys must map to the same key slot"). COMMAND
GETKEYS and the key specifications tell all keys. Shape of an entry: https://redis.io/commands/command/, all ten items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from durable_raft.kv.commands import CommandSpec, check_arity
from durable_raft.kv.errors import SYNTAX_ERROR
from durable_raft.kv.glob import glob_matches
from durable_raft.kv.replies import ErrorReply, MapReply, Reply, SetReply, Simple
from durable_raft.server.commands.arguments import Args
from durable_raft.server.commands.classify import ALL_COMMANDS
from durable_raft.server.commands.client import CLIENT_SUBCOMMANDS
from durable_raft.server.commands.cluster import CLUSTER_SUBCOMMANDS
from durable_raft.server.commands.config import CONFIG_SUBCOMMANDS
from durable_raft.server.commands.docs import COMMAND_DOCS, CommandDoc
from durable_raft.server.commands.member import MEMBER_SUBCOMMANDS
from durable_raft.server.commands.raft import RAFT_SUBCOMMANDS
from durable_raft.server.commands.subcommands import Subcommand, execute_subcommand, table
from durable_raft.server.commands.syntax import parse_syntax

Specs = Mapping[bytes, CommandSpec]


def execute_command_command(args: Args) -> Reply:
    """Execute COMMAND; without arguments it lists every command."""
    if len(args) == 1:
        return [_entry(spec) for spec in ALL_COMMANDS.values()]
    return execute_subcommand(COMMAND_SUBCOMMANDS, ALL_COMMANDS, args)


# -- an entry of COMMAND and COMMAND INFO -----------------------------------------------------------------------------


def _entry(spec: CommandSpec) -> Reply:
    """Return one command's ten items: name, arity, flags, first key, last key, step, categories, tips, keys, subs."""
    subcommands = [_subcommand_entry(spec, subcommand) for subcommand in CONTAINERS.get(spec.name, {}).values()]
    shown_last_key = spec.first_key  # See the module docstring.
    return [
        spec.name,
        spec.arity,
        _words(spec.flags),
        spec.first_key,
        shown_last_key,
        spec.key_step,
        _words(categories(spec)),
        SetReply([]),
        SetReply([_key_specification(spec)] if spec.first_key else []),
        SetReply(subcommands),
    ]


def _subcommand_entry(container: CommandSpec, subcommand: Subcommand[Any]) -> Reply:
    nothing = SetReply([])
    name = container.name + b"|" + subcommand.name
    flags, kinds = _words(container.flags), _words(categories(container))
    return [name, subcommand.arity, flags, 0, 0, 0, kinds, nothing, nothing, nothing]


def categories(spec: CommandSpec) -> list[bytes]:
    """Return the ACL categories that follow from a command's flags and its group."""
    flags = spec.flags
    found = [b"@write"] if b"write" in flags else [b"@read"] if b"readonly" in flags else []
    group = COMMAND_DOCS[spec.name].group if spec.name in COMMAND_DOCS else ""
    found += {"string": [b"@string"], "generic": [b"@keyspace"], "connection": [b"@connection"]}.get(group, [])
    if b"admin" in flags:
        found += [b"@admin", b"@dangerous"]
    return [*found, b"@fast" if b"fast" in flags else b"@slow"]


def _key_specification(spec: CommandSpec) -> Reply:
    is_write = b"write" in spec.flags
    last_key = spec.last_key - spec.first_key if spec.last_key >= 0 else spec.last_key
    spread: list[tuple[Reply, Reply]] = [(b"lastkey", last_key), (b"keystep", spec.key_step), (b"limit", 0)]
    return MapReply(
        [
            (b"flags", _words([b"RW", b"update"] if is_write else [b"RO", b"access"])),
            (b"begin_search", _typed(b"index", [(b"index", spec.first_key)])),
            (b"find_keys", _typed(b"range", spread)),
        ]
    )


def _typed(kind: bytes, pairs: list[tuple[Reply, Reply]]) -> Reply:
    return MapReply([(b"type", kind), (b"spec", MapReply(pairs))])


def _words(words: Iterable[bytes]) -> Reply:
    return SetReply([Simple(word) for word in sorted(words)])


# -- subcommands ------------------------------------------------------------------------------------------------------


def _count(commands: Specs, args: Args) -> Reply:
    del args
    return len(commands)


def _info(commands: Specs, args: Args) -> Reply:
    names = [name.lower() for name in args[2:]] or list(commands)
    return [_entry_of(commands, name) for name in names]


def _entry_of(commands: Specs, name: bytes) -> Reply:
    """Return the entry of ``name`` or ``name|subcommand``; None when there is no such command."""
    container, _, subcommand_name = name.partition(b"|")
    spec = commands.get(container)
    if spec is None or not subcommand_name:
        return _entry(spec) if spec else None
    subcommand = CONTAINERS.get(container, {}).get(subcommand_name)
    return _subcommand_entry(spec, subcommand) if subcommand else None


def _list(commands: Specs, args: Args) -> Reply:
    names: list[Reply] = list(commands)
    if len(args) == 2:
        return names
    if len(args) != 5 or args[2].lower() != b"filterby":
        return SYNTAX_ERROR
    value = args[4]
    match args[3].lower():
        case b"module":
            return []
        case b"aclcat":
            return [spec.name for spec in commands.values() if b"@" + value.lower() in categories(spec)]
        case b"pattern":
            return [name for name in commands if glob_matches(value.lower(), name)]
        case _:
            return SYNTAX_ERROR


def _get_keys(commands: Specs, args: Args) -> Reply:
    command = args[2:]
    spec = commands.get(command[0].lower())
    if spec is None:
        return ErrorReply("ERR Invalid command specified")
    if not spec.first_key:
        return ErrorReply("ERR The command has no key arguments")
    if check_arity(spec, command) is not None:
        return ErrorReply("ERR Invalid number of arguments specified for command")
    return list(keys_of(spec, command))


def keys_of(spec: CommandSpec, command: Args) -> Sequence[bytes]:
    """Return the keys of a request of the right arity."""
    last_key = spec.last_key if spec.last_key >= 0 else len(command) + spec.last_key
    return command[spec.first_key : last_key + 1 : spec.key_step]


# -- DOCS -------------------------------------------------------------------------------------------------------------


def _docs(commands: Specs, args: Args) -> Reply:
    names = [name.lower() for name in args[2:]] or list(commands)
    known = [name for name in names if name in commands and name in COMMAND_DOCS]
    return MapReply([(name, _doc(name, COMMAND_DOCS[name])) for name in known])


def _doc(name: bytes, doc: CommandDoc) -> Reply:
    pairs: list[tuple[Reply, Reply]] = [
        (b"summary", doc.summary.encode()),
        (b"since", doc.since.encode()),
        (b"group", doc.group.encode()),
        (b"complexity", doc.complexity.encode()),
    ]
    arguments = parse_syntax(doc.syntax)
    if arguments:
        pairs.append((b"arguments", [argument.reply() for argument in arguments]))
    subcommands = CONTAINERS.get(name, {}).values()
    if subcommands:
        docs: list[tuple[Reply, Reply]] = [
            (name + b"|" + sub.name, _doc(b"", doc._replace(syntax=sub.usage, summary=sub.help))) for sub in subcommands
        ]
        pairs.append((b"subcommands", MapReply(docs)))
    return MapReply(pairs)


COMMAND_SUBCOMMANDS: Final = table(
    Subcommand(b"count", 2, _count, "", "Return the number of commands"),
    Subcommand(b"docs", -2, _docs, "[command-name...]", "Return documentation of the given commands, or of all"),
    Subcommand(b"getkeys", -4, _get_keys, "command [arg...]", "Return the keys of a full command"),
    Subcommand(b"info", -2, _info, "[command-name...]", "Return details about the given commands, or about all"),
    Subcommand(
        b"list",
        -2,
        _list,
        "[FILTERBY (MODULE module-name|ACLCAT category|PATTERN pattern)]",
        "Return the names of all commands, or of some",
    ),
)

CONTAINERS: Final[Mapping[bytes, Mapping[bytes, Subcommand[Any]]]] = {
    b"client": CLIENT_SUBCOMMANDS,
    b"cluster": CLUSTER_SUBCOMMANDS,
    b"command": COMMAND_SUBCOMMANDS,
    b"config": CONFIG_SUBCOMMANDS,
    b"raft": RAFT_SUBCOMMANDS,
    b"raft.member": MEMBER_SUBCOMMANDS,
}
