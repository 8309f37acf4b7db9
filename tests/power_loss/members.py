"""How a state tells of the configurations of a log, and what of them must be true of every recovered one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from durable_raft.checksum import crc32c
from durable_raft.raft.configuration import decode, describe, encode
from durable_raft.raft.types import CONFIGURATION, Configuration, Entry, Membership, StoredLog

Told = list[Any]
"""Index, words, and the checksum of the payload, which has the addresses as well."""


def told(configuration: Configuration) -> Told:
    """Return one configuration as a state tells it."""
    return [configuration.index, describe(configuration), crc32c(encode(configuration))]


def told_of(configurations: Iterable[Configuration], membership: Membership) -> dict[str, Any]:
    """Return those of a log, ascending, and the one that its node goes by: the newest, or that of the first start."""
    found = [told(each) for each in configurations]
    return {"configurations": found, "goes_by": found[-1] if found else told(Configuration.initial(membership))}


def found_in(stored: StoredLog, membership: Membership, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the same of a log that was recovered, with all entries it has.

    Raises:
        AssertionError: what is known beside the entries is not what they say.
    """
    held = [decode(each.index, each.payload) for each in entries if each.kind is CONFIGURATION]
    behind = [each for each in stored.configurations if each.index > stored.base.index]
    if behind != held or len(stored.configurations) > len(held) + 1:
        known, said = ([told(each) for each in some] for some in (stored.configurations, held))
        raise AssertionError(f"configurations {known} are known, the entries behind {stored.base.index} say {said}")
    goes_by = told(stored.newest_configuration(membership))
    return {"configurations": [told(each) for each in stored.configurations], "goes_by": goes_by}


def grown(old: Sequence[Told], new: Sequence[Told], old_last: int, new_base: int) -> bool:
    """Return whether ``new`` is what becomes of ``old`` in a log that is appended to and compacted.

    Args:
        old: those of the log before.
        new: those of the log after.
        old_last: where the log ended before.
        new_base: where it begins after.
    """
    every = [*old, *(each for each in new if each[0] > old_last)]
    passed = [each for each in every if each[0] <= new_base]
    return list(new) == [*passed[-1:], *(each for each in every if each[0] > new_base)]
