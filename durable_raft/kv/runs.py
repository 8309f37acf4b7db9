"""Runs: commands of one name and one number of arguments that follow each other, kept in columns.

::

    SET a 1      name    SET
    SET b 2  =   length  3
    SET c 3      args    a b c 1 2 3

The first arguments of all commands come first, then all second ones. So the keys of a run are one slice, and a single
command is its arguments as they are. A run travels like this from the parser through the log to every machine, and
nothing is taken apart on the way: what costs little for a command costs next to nothing for each of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final, NamedTuple

WIDTH_MAX: Final = 4
"""Most arguments of a command that is put together with others; what has more is a run by itself."""

_new_run: Final = tuple.__new__


class Run(NamedTuple):
    """One command, or several of one name that have equally many arguments."""

    name: bytes
    length: int
    """How many commands; one if they have no arguments."""
    args: list[bytes]
    """Column by column, without the names."""

    @property
    def width(self) -> int:
        """How many arguments each command has."""
        return len(self.args) // self.length

    def columns(self) -> list[list[bytes]]:
        """Return the first arguments of all commands, their second ones, and so on."""
        args, count = self.args, self.length
        return [args[at : at + count] for at in range(0, len(args), count)]

    def rows(self) -> Iterable[Sequence[bytes]]:
        """Return the commands one by one, each with its name first."""
        return self.rows_named(self.name)

    def rows_named(self, name: bytes) -> Iterable[Sequence[bytes]]:
        """Return the commands one by one under another spelling of their name."""
        if self.length == 1:
            return ([name, *self.args],)
        return zip(repeat(name), *self.columns())


def may_join(one: Run, other: Run) -> bool:
    """Return whether the commands of two runs of one name may be one run."""
    width = len(one.args) // one.length
    return 1 <= width <= WIDTH_MAX and len(other.args) == width * other.length


def joined(name: bytes, runs: Sequence[Run]) -> Run:
    """Return the commands of several runs, of which each may join the first, as one run."""
    first = runs[0]
    if len(runs) == 1:
        return _new_run(Run, (name, first.length, first.args))
    args: list[bytes] = []
    for column in range(len(first.args) // first.length):
        for run in runs:
            args += run.args[column * run.length : (column + 1) * run.length]
    return Run(name, sum([run.length for run in runs]), args)


def commands_of(runs: Iterable[Run]) -> list[list[bytes]]:
    """Return the commands of ``runs`` one by one, each with its name first."""
    return [list(command) for run in runs for command in run.rows()]
