"""Which entries a verb shows: by term, kind, key, or a regular expression over the arguments of their commands.

An entry of which damage hides what is asked for is shown rather than dropped: it may be the one that is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.machine import VALUE_BYTES_MAX
from durable_raft.raft.types import EntryKind
from durable_raft.storage.log.walk import Walked
from raftlog.lines import commands_of

Choice = Callable[[Walked], bool]
"""Says of an entry whether it is shown."""

INDEX = click.IntRange(min=0, max=(1 << 64) - 2)
"""An index and the one behind it are u64 in a record's key."""

DIRECTORY_PATH = click.Path(path_type=Path, file_okay=False)
DIRECTORY = click.argument("directory", type=DIRECTORY_PATH)
FROM = click.option("--from", "lo", type=INDEX, default=0, metavar="I", help="First index to show.")
TO = click.option("--to", "last", type=INDEX, default=None, metavar="I", help="Last index to show.")
JSON = click.option("--json", "json", is_flag=True, help="One JSON object per line.")


def value_bytes_option(meaning: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Return the option that says how long a value may be that an applied command makes."""
    return click.option(
        "--value-bytes-max",
        type=click.IntRange(min=1),
        default=VALUE_BYTES_MAX,
        show_default=True,
        metavar="BYTES",
        help=meaning,
    )


def range_end(lo: int, last: int | None) -> int | None:
    """Return the index behind ``last``.

    Raises:
        UsageError: it lies before ``lo``.
    """
    if last is not None and last < lo:
        raise click.UsageError(f"--to {last} lies before --from {lo}")
    return None if last is None else last + 1


def of_term(term: int) -> Choice:
    """Choose the entries of a term."""
    return lambda walked: walked.ident is None or walked.ident.term == term


def of_kind(kind: EntryKind) -> Choice:
    """Choose the entries of a kind."""
    return lambda walked: walked.ident is None or walked.ident.kind == kind


def naming(key: bytes) -> Choice:
    """Choose the entries with a command that names ``key`` where the table of commands says that keys are."""
    return _with_commands(lambda command: key in keys_of(command))


def matching(pattern: re.Pattern[bytes]) -> Choice:
    """Choose the entries with an argument, a command's name included, in which ``pattern`` is found."""
    return _with_commands(lambda command: any(map(pattern.search, command)))


def _with_commands(is_meant: Callable[[list[bytes]], bool]) -> Choice:
    def choose(walked: Walked) -> bool:
        if is_hidden(walked):
            return True
        commands = commands_of(walked)
        return not isinstance(commands, str) and any(map(is_meant, commands or ()))

    return choose


def is_hidden(walked: Walked) -> bool:
    """Return whether damage hides which commands an entry has, if any."""
    if walked.ident is not None and walked.ident.kind == EntryKind.NOOP:
        return False
    return walked.ident is None or walked.payload is None or isinstance(commands_of(walked), str)


def keys_of(command: list[bytes]) -> list[bytes]:
    """Return the keys that a command names; none for one that the table does not know."""
    spec = COMMANDS.get(command[0].lower())
    if spec is None or not spec.first_key:
        return []
    end = spec.last_key if spec.last_key >= 0 else len(command) + spec.last_key
    return command[spec.first_key : end + 1 : spec.key_step]
