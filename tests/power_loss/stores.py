"""The log store of a recording and of its recovery: on LMDB alone, or with the journal in front of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from durable_raft.storage.log.journal import DiskJournalPlace
from durable_raft.storage.log.journal_format import BLOCK_BYTES
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore

LMDB: Final = "lmdb"
JOURNAL: Final = "journal"
COMMITS: Final = (LMDB, JOURNAL)

RING_BYTES: Final = 24 * BLOCK_BYTES
"""Small, as each image holds all of it; and so that it goes round some times."""

PLANTED: Final = "POWER_LOSS_BUG"
"""Variable of the environment that names the bug planted in a node."""

AnyStore = LmdbLogStore | JournaledLogStore


def open_store(directory: Path, commit: str) -> AnyStore:
    """Open the log for writing, to be committed as ``commit`` says; what was in the journal is never left out."""
    home = LmdbLogStore.open(directory)
    if commit == LMDB and home.mark is None:
        return home
    return JournaledLogStore(home, DiskJournalPlace(home.path), is_used=commit == JOURNAL, ring_bytes=RING_BYTES)


def reopen(directory: Path) -> AnyStore:
    """Open the log as its last life did: with its journal when LMDB names one."""
    home = LmdbLogStore.open(directory)
    mark = home.mark
    home.close()
    return open_store(directory, LMDB if mark is None else JOURNAL)


def main() -> int:
    """Run ``durable-raft`` with a small journal: ``python -m tests.power_loss.stores serve ...``."""
    from durable_raft.cli.main import main as run
    from tests.power_loss.planted import plant

    plant(os.environ.get(PLANTED))
    options = JournaledLogStore.__init__.__kwdefaults__
    assert options is not None
    options["ring_bytes"] = RING_BYTES
    run(prog_name="durable-raft")
    return 0


if __name__ == "__main__":
    sys.exit(main())
