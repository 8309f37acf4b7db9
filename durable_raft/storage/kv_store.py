"""The KV state at a checkpoint, on LMDB: ``DIR/kv`` (kv_records.py says what lies in it).

``write_checkpoint`` moves the changes since the last checkpoint into it, and the applied index with them, in one durable
transaction on the calling thread, always the same one (design contract 5). Views read on other threads meanwhile, and
see the checkpoint before.

The node's lock on the directory is the log store's (directory.py); it is opened first and closed last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durable_raft.errors import DirectoryRefused, InvariantViolation
from durable_raft.kv.records import Record, StateSummary
from durable_raft.raft.types import Base, Identity, Membership
from durable_raft.storage.directory import KV, create_environment, require_environment
from durable_raft.storage.environment import MAP_BYTES, Room, disk_free_bytes, measure, open_environment
from durable_raft.storage.kv_change import write_changes
from durable_raft.storage.kv_install import complete_swap, refuse_unfinished, state_exists
from durable_raft.storage.kv_meta import KvMeta, first_meta, put_kv_meta, read_kv_meta
from durable_raft.storage.kv_records import KvTables, open_kv_tables
from durable_raft.storage.kv_view import LmdbStateView
from durable_raft.storage.poison import PoisonLatch
from durable_raft.storage.preflight import DATA_FILE, check_data_file
from durable_raft.storage.wounds import Wound

if TYPE_CHECKING:
    from lmdb import Environment


def _no_pause() -> None:
    pass
