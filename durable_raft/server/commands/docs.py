"""What COMMAND DOCS tells of each command: redis-cli draws its hints and its ``help`` from it.

Summaries say what the command does *here*. ``since`` is the Redis version that brought the command, ``syntax`` is in
the notation of server/commands/syntax.py. A test holds this table against the tables of commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class CommandDoc(NamedTuple):
    """What is told of one command."""

    group: str
    """Redis's group: ``string``, ``generic``, ``connection``, ``server``, ``cluster``."""
    since: str
    complexity: str
    syntax: str
    summary: str
    """One sentence without its full stop."""


_O1: Final = "O(1)"
_ON_KEYS: Final = "O(N) where N is the number of keys given"
_ON_ALL: Final = "O(N) where N is the number of keys in the database"
_SET_SYNTAX: Final = (
    "key value [NX|XX] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]"
)

COMMAND_DOCS: Final[Mapping[bytes, CommandDoc]] = {
    # Strings.
    b"append": CommandDoc("string", "2.0.0", _O1, "key value", "Append a value to a key"),
    b"decr": CommandDoc("string", "1.0.0", _O1, "key", "Decrement the integer value of a key by one"),
    b"decrby": CommandDoc("string", "1.0.0", _O1, "key decrement", "Decrement the integer value of a key by a number"),
    b"psetex": CommandDoc(
        "string", "2.6.0", _O1, "key milliseconds value", "Set the value and the time to live in milliseconds of a key"
    ),
    b"setex": CommandDoc(
        "string", "2.0.0", _O1, "key seconds value", "Set the value and the time to live in seconds of a key"
    ),
    b"get": CommandDoc("string", "1.0.0", _O1, "key", "Get the value of a key"),
    b"getdel": CommandDoc("string", "6.2.0", _O1, "key", "Get the value of a key and delete the key"),
    b"getset": CommandDoc("string", "1.0.0", _O1, "key value", "Set the value of a key and return its old value"),
    b"incr": CommandDoc("string", "1.0.0", _O1, "key", "Increment the integer value of a key by one"),
    b"incrby": CommandDoc("string", "1.0.0", _O1, "key increment", "Increment the integer value of a key by a number"),
    b"mget": CommandDoc("string", "1.0.0", _ON_KEYS, "key...", "Get the values of all the given keys"),
    b"mset": CommandDoc("string", "1.0.1", _ON_KEYS, "(key value)...", "Set several keys, all of them in one step"),
    b"set": CommandDoc("string", "1.0.0", _O1, _SET_SYNTAX, "Set the string value of a key"),
    b"setnx": CommandDoc("string", "1.0.0", _O1, "key value", "Set the value of a key that does not exist"),
    b"strlen": CommandDoc("string", "2.2.0", _O1, "key", "Get the length of the value of a key"),
    # Any type.
    b"del": CommandDoc("generic", "1.0.0", _ON_KEYS, "key...", "Delete keys"),
    b"exists": CommandDoc("generic", "1.0.0", _ON_KEYS, "key...", "Count how many of the keys exist"),
    b"expire": CommandDoc("generic", "1.0.0", _O1, "key seconds [NX|XX|GT|LT]", "Set a key's time to live in seconds"),
    b"expireat": CommandDoc(
        "generic",
        "1.2.0",
        _O1,
        "key unix-time-seconds [NX|XX|GT|LT]",
        "Set when a key expires, in seconds of Unix time",
    ),
    b"pexpireat": CommandDoc(
        "generic",
        "2.6.0",
        _O1,
        "key unix-time-milliseconds [NX|XX|GT|LT]",
        "Set when a key expires, in milliseconds of Unix time",
    ),
    b"unlink": CommandDoc("generic", "4.0.0", _ON_KEYS, "key...", "Delete keys; here the same as DEL"),
    b"keys": CommandDoc("generic", "1.0.0", _ON_ALL, "pattern", "Find all keys that match a pattern"),
    b"persist": CommandDoc("generic", "2.2.0", _O1, "key", "Remove the expiration from a key"),
    b"pexpire": CommandDoc(
        "generic", "2.6.0", _O1, "key milliseconds [NX|XX|GT|LT]", "Set a key's time to live in milliseconds"
    ),
    b"pttl": CommandDoc("generic", "2.6.0", _O1, "key", "Get a key's time to live in milliseconds"),
    b"scan": CommandDoc(
        "generic",
        "2.8.0",
        "O(1) for every call. O(N) for a complete iteration",
        "cursor [MATCH pattern] [COUNT count] [TYPE type]",
        "Iterate over the keys, in key order",
    ),
    b"ttl": CommandDoc("generic", "1.0.0", _O1, "key", "Get a key's time to live in seconds"),
    b"type": CommandDoc("generic", "1.0.0", _O1, "key", "Determine the type of the value at a key"),
    b"wait": CommandDoc(
        "generic",
        "3.0.0",
        _O1,
        "numreplicas timeout",
        "Count the followers that have all of the log; an acknowledged write is on a majority without it",
    ),
    # Connections.
    b"asking": CommandDoc("cluster", "3.0.0", _O1, "", "Accepted; slots never move here"),
    b"auth": CommandDoc("connection", "1.0.0", _O1, "[username] password", "Authenticate to the server"),
    b"client": CommandDoc("connection", "2.4.0", "Depends on subcommand.", "", "A container for connection commands"),
    b"echo": CommandDoc("connection", "1.0.0", _O1, "message", "Return the given message"),
    b"hello": CommandDoc(
        "connection",
        "6.0.0",
        _O1,
        "[protover [AUTH (username password)] [SETNAME clientname]]",
        "Agree with the server on a protocol",
    ),
    b"ping": CommandDoc("connection", "1.0.0", _O1, "[message]", "Find out whether the server answers"),
    b"quit": CommandDoc("connection", "1.0.0", _O1, "", "Close the connection"),
    b"readonly": CommandDoc(
        "cluster", "3.0.0", _O1, "", "Let this connection read a follower's own, possibly stale, state"
    ),
    b"readwrite": CommandDoc("cluster", "3.0.0", _O1, "", "Make this connection's reads linearizable again"),
    b"reset": CommandDoc("connection", "6.2.0", _O1, "", "Reset the connection to its first state"),
    b"select": CommandDoc("connection", "1.0.0", _O1, "index", "Accepted for database 0, the only one"),
    # The server.
    b"cluster": CommandDoc("cluster", "3.0.0", "Depends on subcommand.", "", "A container for cluster commands"),
    b"command": CommandDoc(
        "server", "2.8.13", "O(N) where N is the number of commands", "", "Get details about all commands"
    ),
    b"config": CommandDoc("server", "2.0.0", "Depends on subcommand.", "", "A container for settings"),
    b"dbsize": CommandDoc("server", "1.0.0", _O1, "", "Return the number of keys"),
    b"flushall": CommandDoc("server", "1.0.0", _ON_ALL, "[ASYNC|SYNC]", "Remove all keys"),
    b"flushdb": CommandDoc("server", "1.0.0", _ON_ALL, "[ASYNC|SYNC]", "Remove all keys"),
    b"info": CommandDoc("server", "1.0.0", _O1, "[section...]", "Get information and statistics about this node"),
    b"raft": CommandDoc("server", "7.0.0", "Depends on subcommand.", "", "A container for what backups need"),
    b"raft.member": CommandDoc(
        "cluster", "7.0.0", "Depends on subcommand.", "", "A container for changes of the cluster's members"
    ),
    b"raft.transfer": CommandDoc(
        "cluster", "7.0.0", _O1, "[TO node-id]", "Hand leadership to another voter; writes are held, none fails"
    ),
    b"role": CommandDoc("server", "2.8.12", _O1, "", "Return whether this node leads, and its replication"),
    b"time": CommandDoc("server", "2.6.0", _O1, "", "Return this node's time of day"),
}
