"""What a command answers: plain Python values, encoded by wire/resp.py for the protocol the client speaks.

==================  ============================  =======================
Python value        RESP2                         RESP3
==================  ============================  =======================
``Simple(b"OK")``   ``+OK``                       the same
``bytes``           bulk string                   the same
``LongValue``       bulk string                   the same
``int``             ``:n``                        the same
``None``            ``$-1``                       ``_``
``list``            array                         the same
``ErrorReply``      ``-line``                     the same
``MapReply``        flat array                    ``%`` map
``SetReply``        array                         ``~`` set
``Verbatim``        bulk string                   ``=`` verbatim, ``txt``
==================  ============================  =======================

``Later`` is none of these: it stands for the reply until that is there.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, NamedTuple, TypeAlias

from durable_raft.kv.long_values import Value


class Simple(NamedTuple):
    """A status line."""

    text: bytes


class ErrorReply(NamedTuple):
    """An error line without its leading ``-``; the first word is the code client libraries look at."""

    line: str


class MapReply(NamedTuple):
    """Key and value pairs in order."""

    pairs: list[tuple[Reply, Reply]]


class SetReply(NamedTuple):
    """Members of a set, in a fixed order."""

    members: list[Reply]


class Verbatim(NamedTuple):
    """Text meant for people (INFO, CLUSTER NODES)."""

    text: bytes


class Later(NamedTuple):
    """A reply that is yet to be found, in steps (kv/steps.py)."""

    steps: CommandSteps


CommandSteps: TypeAlias = "Generator[None, None, Reply]"
"""A command under way; its value is the reply."""

Reply: TypeAlias = "Simple | Value | int | list[Reply] | ErrorReply | MapReply | SetReply | Verbatim | Later | None"

OK: Final = Simple(b"OK")
PONG: Final = Simple(b"PONG")
