"""What a journal's file adds to what LMDB holds at one moment, for whoever reads the log without holding it.

The file is read before LMDB's read transaction begins. A group that LMDB held at the first moment it holds at the
second, too, and space is used again only for groups that follow. So of one generation nothing is missing between the
two. A node that begins another generation meanwhile makes the two differ: then both are read again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from durable_raft.errors import CorruptRecord, InvariantViolation, UnknownFormatVersion
from durable_raft.raft.types import Index
from durable_raft.storage.log.journal import journal_path, read_blocks, ring_of, write_of
from durable_raft.storage.log.journal_format import JOURNAL, RING_AT, find_groups
from durable_raft.storage.log.meta import JournalMark
from durable_raft.storage.log.pending import Pending, pending_group
from durable_raft.storage.wounds import NewerFormat, Wound, WoundedLog, WoundKind


def glance_at_journal(environment: Path) -> bytes | None:
    """Return the bytes of the journal beside an environment; None when there is none, or it cannot be read."""
    with contextlib.suppress(OSError):
        fd = os.open(journal_path(environment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_blocks(fd)
        finally:
            os.close(fd)
    return None


def pending_in(image: bytes | None, mark: JournalMark | None, last: Index) -> tuple[Pending, tuple[Wound, ...]]:
    """Return what is pending, as far as it can be read, and what is wrong with the journal.

    Args:
        image: of the journal's file, read before ``mark``.
        mark: what LMDB says of it.
        last: index of LMDB's last entry.
    """
    pending = Pending(last)
    if mark is None:
        return pending, ()
    wounds: list[Wound] = []
    try:
        if image is None:
            raise WoundedLog([Wound(JOURNAL, None, None, f"journal {mark.uuid.hex()}", "none", WoundKind.MISSING)])
        ring_of(image, mark)
        groups, wounds = find_groups(image[RING_AT:], mark)
        for group in groups:
            pending.append(pending_group(write_of(group), group.sum, 0))
    except (WoundedLog, NewerFormat) as error:
        wounds += error.wounds
    except (CorruptRecord, UnknownFormatVersion, InvariantViolation) as error:
        expected = "groups that follow what LMDB holds"
        wounds.append(Wound(JOURNAL, None, None, expected, str(error), WoundKind.ORDER))
    return pending, tuple(wounds)
