"""The one-line syntax of a command, and the tree of arguments that COMMAND DOCS makes of it.

::

    key                an argument, named in lower case; its type follows from its name
    NX                 a word given as it stands
    EX seconds         an argument after its word; EX (a b) for several
    [x]                x may be left out
    a|b                one of these
    (a b)              these belong together
    x...               x once or more; [x...] any number of times

The tree is Redis's (https://redis.io/docs/reference/command-arguments/); redis-cli draws its hints from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from durable_raft.kv.replies import MapReply, Reply, SetReply, Simple

_LEXEMES: Final = re.compile(r"\.\.\.|[\[\]()|]|[^\s\[\]()|.]+")

_TYPES: Final = {
    "key": "key",
    "pattern": "pattern",
    "unix-time-seconds": "unix-time",
    "unix-time-milliseconds": "unix-time",
} | dict.fromkeys(
    (
        "client-id",
        "count",
        "cursor",
        "decrement",
        "increment",
        "index",
        "milliseconds",
        "numreplicas",
        "protover",
        "seconds",
        "slot",
        "timeout",
    ),
    "integer",
)
"""Types of arguments by name; every other name is a string."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, or several that belong together."""

    name: str
    type: str
    """``key``, ``string``, ``integer``, ``pattern``, ``unix-time``, ``pure-token``, ``oneof`` or ``block``."""
    token: str | None = None
    """The word before it, or that it consists of."""
    flags: tuple[str, ...] = ()
    """Of ``optional`` and ``multiple``."""
    arguments: tuple[Argument, ...] = ()

    def reply(self) -> Reply:
        """Return the argument as COMMAND DOCS shows it."""
        pairs: list[tuple[Reply, Reply]] = [(b"name", self.name.encode()), (b"type", self.type.encode())]
        if self.type == "key":
            pairs.append((b"key_spec_index", 0))
        if self.token is not None:
            pairs.append((b"token", self.token.encode()))
        if self.flags:
            pairs.append((b"flags", SetReply([Simple(flag.encode()) for flag in self.flags])))
        if self.arguments:
            pairs.append((b"arguments", [argument.reply() for argument in self.arguments]))
        return MapReply(pairs)


def parse_syntax(text: str) -> tuple[Argument, ...]:
    """Return the arguments that ``text`` describes; raises ValueError where it is malformed."""
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the lexemes of one line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lexemes = _LEXEMES.findall(text)
        self._at = 0

    def parse(self) -> tuple[Argument, ...]:
        """Return all arguments."""
        arguments = self._alternatives() if self._lexemes else ()
        if self._at != len(self._lexemes):
            raise ValueError(f"unexpected {self._peek()!r} at lexeme {self._at} of {self._text!r}")
        return arguments

    def _peek(self) -> str:
        return self._lexemes[self._at] if self._at < len(self._lexemes) else ""

    def _take(self) -> str:
        lexeme = self._peek()
        self._at += 1
        return lexeme

    def _expect(self, lexeme: str) -> None:
        found = self._take()
        if found != lexeme:
            raise ValueError(f"expected {lexeme!r}, got {found!r} at lexeme {self._at - 1} of {self._text!r}")

    def _alternatives(self) -> tuple[Argument, ...]:
        choices = [self._sequence()]
        while self._peek() == "|":
            self._take()
            choices.append(self._sequence())
        if len(choices) == 1:
            return choices[0]
        return (_together("oneof", [_block(choice) for choice in choices]),)

    def _sequence(self) -> tuple[Argument, ...]:
        items: list[Argument] = []
        while self._peek() not in ("", "|", "]", ")"):
            items.append(self._item())
        if not items:
            raise ValueError(f"expected an argument, got {self._peek()!r} at lexeme {self._at} of {self._text!r}")
        return tuple(items)

    def _item(self) -> Argument:
        item = self._primary()
        if self._peek() == "...":
            self._take()
            item = replace(item, flags=(*item.flags, "multiple"))
        return item

    def _primary(self) -> Argument:
        lexeme = self._take()
        if lexeme in ("[", "("):
            inner = _block(self._alternatives())
            self._expect("]" if lexeme == "[" else ")")
            return replace(inner, flags=("optional", *inner.flags)) if lexeme == "[" else inner
        if lexeme.isupper():
            if self._peek() == "(" or self._peek().islower():
                return replace(self._primary(), token=lexeme)
            return Argument(lexeme.lower(), "pure-token", lexeme)
        if lexeme.islower():
            return Argument(lexeme, _TYPES.get(lexeme, "string"))
        raise ValueError(f"unexpected {lexeme!r} at lexeme {self._at - 1} of {self._text!r}")


def _block(arguments: Sequence[Argument]) -> Argument:
    """Return several arguments as one."""
    return arguments[0] if len(arguments) == 1 else _together("block", arguments)


def _together(kind: str, arguments: Sequence[Argument]) -> Argument:
    return Argument("_".join(argument.name for argument in arguments), kind, arguments=tuple(arguments))
