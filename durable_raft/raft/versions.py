"""The version of a cluster: which forms its nodes may write for each other, and for a later program.

It is one number for everything that another program has to read: frames, records, entries, and what commands mean. It
is replicated state. It begins at 1, an entry of the kind VERSION raises it, and it never falls. A program can a range
of versions: it reads all up to the newest, and writes nothing that the present version of the cluster does not have.

============  =========================================================================================================
version 1     what 0.1.0 writes: frame version 5; records of the log 1, its meta up to 5; meta of the state up to 2;
              batches 2; configurations 1; journal 1; backups 1
version 2     entries of the kind VERSION; meta 3 of the state, and pieces of snapshots that name the version. So a
              program of version 1 refuses such a directory, and does not take its state for one of version 1
============  =========================================================================================================

Frames of the kinds CHALLENGE and PROOF and the flag TAGGED are of no version. They are used on a link when both ends
said in their Hello that they have a cluster secret, in a cluster of any version (wire/proof.py).

The payload of an entry of the kind VERSION is the version, u16, big-endian.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from durable_raft.errors import MalformedVersion, UnknownFormatVersion
from durable_raft.raft.types import Index

FIRST: Final = 1
"""Of every cluster before anybody raised it."""

VERSION_MAX: Final = 2**16 - 1

_U16: Final = struct.Struct(">H")
_SAID: Final = re.compile(r" (\d{1,5})-(\d{1,5})$", re.ASCII)


class Versions(NamedTuple):
    """Which versions of a cluster a program can."""

    oldest: int
    newest: int

    def has(self, version: int) -> bool:
        """Return whether a node of this program can be of a cluster of ``version``."""
        return self.oldest <= version <= self.newest

    def short(self) -> str:
        """Return it as nodes say it: ``1-2``."""
        return f"{self.oldest}-{self.newest}"

    def __str__(self) -> str:
        """Return it for people: ``version 1``, or ``versions 1 to 2``."""
        one = f"version {self.oldest}"
        return one if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


OURS: Final = Versions(FIRST, 2)
"""What this program can."""

_UNSAID: Final = Versions(FIRST, FIRST)
"""What 0.1.0 can, which does not say."""


def say(software: str, versions: Versions) -> str:
    """Return how a node says in its Hello what it can: behind the version of the software, which was there before."""
    return f"{software} {versions.short()}"


def heard(text: str) -> Versions:
    """Return what a node can that said ``text``; who says nothing of it is of 0.1.0."""
    found = _SAID.search(text)
    if found is None:
        return _UNSAID
    versions = Versions(int(found[1]), int(found[2]))
    return versions if FIRST <= versions.oldest <= versions.newest else _UNSAID


def require(versions: Versions, version: int, where: str) -> None:
    """Go on only if a program that can ``versions`` can be of a cluster of ``version``.

    Raises:
        UnknownFormatVersion: naming ``where`` that version was found, and the way out.
    """
    if not versions.has(version):
        raise UnknownFormatVersion(
            f"{where}: the cluster has version {version}, and this program can {versions}: install a newer one"
        )


def encode_version(version: int) -> bytes:
    """Return the payload of the entry that raises the version to ``version``."""
    return _U16.pack(version)


def decode_version(index: Index, payload: bytes) -> int:
    """Return the version that the entry at ``index`` with ``payload`` raises to.

    Raises:
        MalformedVersion: the payload is none.
    """
    if len(payload) != _U16.size or not (version := int.from_bytes(payload, "big")):
        raise MalformedVersion(f"entry {index}: {payload[:8].hex()!r} as a version, expected u16 above 0")
    return version
