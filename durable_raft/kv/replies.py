"""What a command answers: plain Python values, encoded by wire/resp.py for the protocol the client speaks.

==================  ============================  =======================
Python value        RESP2                         RESP3
==================  ============================  =======================
``Simple(b"OK")``   ``+OK``                       the same
``bytes``           bulk string                   the same
``int``             ``:n``                        the same
``None``            ``$-1``                       ``_``
``list``            array                         the same
``ErrorReply``      ``-line``                     the same
``MapReply``        flat array                    ``%`` map
``SetReply``        array                         ``~`` set
``Verbatim``        bulk string                   ``=`` verbatim, ``txt``
==================  ============================  =======================
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias


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


Reply: TypeAlias = "Simple | bytes | int | list[Reply] | ErrorReply | MapReply | SetReply | Verbatim | None"

OK: Final = Simple(b"OK")
PONG: Final = Simple(b"PONG")
