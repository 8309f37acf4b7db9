"""Recovery after a power cut, in a process of its own: a damaged map can kill the process that opens it.

``python -m tests.power_loss.recovery`` reads requests, one JSON object a line, ``{"directory": PATH, "probe": BOOL,
"node": BOOL}``, does with the directory what a node does when it starts, and answers each with one line::

    {"state": STATE}        the log opened and was verified wholly; see ``state_of``
    {"state": "absent"}     there is no log; a new one was created, opened and found to be empty
    {"error": TEXT}         recovery refused, or the state could not be written to afterwards; the directory is
                            called DIR

With ``node`` the KV state is opened beside the log, made to fit it and walked wholly. With ``probe`` recovery goes on
writing, closes, opens again and looks whether all of it is there.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Final

from durable_raft.raft.configuration import decode, stored_at
from durable_raft.raft.types import CONFIGURATION, VERSION, Entry, HardState, Index, Term
from durable_raft.raft.versions import FIRST, decode_version
from durable_raft.server.start.recovery import open_state
from durable_raft.storage.environment import MAP_BYTES
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.log_store import DirectoryLogStore
from durable_raft.storage.state.store import LmdbKvStore
from tests.power_loss.members import found_in
from tests.power_loss.operations import ABSENT
from tests.power_loss.stores import LMDB, open_store, reopen
from tests.support.log_building import (
    IDENTITY,
    MEMBERSHIP,
    configuration_entry,
    entries_after,
    point_of,
    read_all,
    write,
)

SECONDS_MAX: Final = 60
"""A recovery that hangs is killed by SIGALRM, which is then what it is known by."""

State = dict[str, Any]


def state_of(store: DirectoryLogStore) -> State:
    """Load the log; return all that must survive a power cut, in values that JSON gives back unchanged."""
    stored = store.load()
    if store.tolerated:
        raise AssertionError(f"the two copies of meta differ: {store.tolerated}")
    entries: list[Entry] = []
    if stored.last.index > stored.base.index:
        entries = read_all(store, stored.base.index + 1, stored.last.index + 1)
    return {
        "identity": f"{store.identity.cluster_id.hex()}/{store.identity.node_id}",
        "term": stored.hard_state.current_term,
        "vote": stored.hard_state.voted_for,
        "base": [stored.base.index, stored.base.term, stored.base.chain],
        "entries": [[entry.term, entry.chain] for entry in entries],
        **found_in(stored, store.membership, entries),
    }


def recover(directory: Path, *, is_node: bool, is_probed: bool) -> State | str:
    """Do what a node does when it starts; return what it found.

    Raises:
        StorageError: recovery refused.
        AssertionError: what was created or written afterwards is not there.
    """
    found: State | str = ABSENT
    is_there = LmdbLogStore.exists(directory)
    if not is_there:
        LmdbLogStore.create(directory, IDENTITY, MEMBERSHIP)
    store = reopen(directory)
    try:
        state = state_of(store)
    finally:
        store.close()
    if is_there:
        found = state
    elif state["entries"] or state["term"]:
        raise AssertionError(f"a new log is not empty: {state}")
    if is_node:
        state["version"] = _open_state(directory)
    if is_probed:
        _probe(directory)
    return found


def _open_state(directory: Path) -> int:
    """Open log and KV state as a node does, and walk the state; return the version of the cluster.

    Raises:
        StorageError: one is damaged, or they do not fit together.
        AssertionError: the state is lost, was set aside, or names another configuration or version than the log has at
            its place.
    """
    store = reopen(directory)
    try:
        raised = _versions_of(store)
        data = open_state(directory, store, map_bytes=MAP_BYTES)
        if not isinstance(data.kv, LmdbKvStore):
            raise AssertionError("the KV state is lost")
        try:
            if any(path.name.startswith("kv.wounded") for path in directory.iterdir()):
                raise AssertionError("the KV state was set aside")
            checkpoint = data.kv.checkpoint
            here = stored_at(data.stored.configurations, checkpoint.applied.point.index)
            if checkpoint.stored_configuration != here:
                raise AssertionError(f"the KV state names {checkpoint.stored_configuration}, the log has {here} there")
            before = [each for index, each in raised.items() if index <= checkpoint.applied.point.index]
            if before and checkpoint.version != before[-1]:
                raise AssertionError(f"the KV state has version {checkpoint.version}, the log {before[-1]} there")
            data.kv.verify()
            return max(checkpoint.version, *raised.values(), FIRST)
        finally:
            data.kv.close()
    finally:
        store.close()


def _versions_of(store: DirectoryLogStore) -> dict[Index, int]:
    """Return the versions that entries of the log raise to, by the entry's index."""
    stored = store.load()
    if stored.last.index == stored.base.index:
        return {}
    entries = read_all(store, stored.base.index + 1, stored.last.index + 1)
    return {each.index: decode_version(each.index, each.payload) for each in entries if each.kind is VERSION}


def _probe(directory: Path) -> None:
    """Write, compact and cut in what was recovered, opening it anew each time."""
    store = reopen(directory)
    try:
        stored = store.load()
        hard_state = HardState(Term(stored.hard_state.current_term + 1), IDENTITY.node_id)
        term = max(hard_state.current_term, stored.last.term)
        entries = entries_after(stored.last, 3, term=term, payload=b"after the power cut " * 200)
        # Timestamps never fall.
        entries = [entry for entry in entries if entry.timestamp_ms >= stored.last_timestamp_ms]
        changed = configuration_entry(point_of(entries[-1]) if entries else stored.last, "n1", term=term)
        if changed.timestamp_ms >= stored.last_timestamp_ms:
            entries.append(changed)
        store.persist([write(1, entries, hard_state=hard_state)])
        known = [*stored.configurations, *(decode(e.index, e.payload) for e in entries if e.kind is CONFIGURATION)]
        last = point_of(entries[-1]) if entries else stored.last
        base = store.compact(Index(max(stored.base.index, last.index - 1)), 5)
    finally:
        store.close()
    # Without the journal: what it holds is moved, and it goes.
    store = open_store(directory, LMDB)
    try:
        again = store.load()
        if (again.hard_state, again.last, again.base.index) != (hard_state, last, base):
            raise AssertionError(f"wrote {hard_state}, {last}, base {base}; found {again}")
        passed = [each for each in known if each.index <= base]
        kept = (*passed[-1:], *[each for each in known if each.index > base])
        if again.configurations != kept:
            raise AssertionError(f"with the base at {base} of {known} is left {again.configurations}")
    finally:
        store.close()


def _recovered(request: State) -> State | str:
    return recover(Path(request["directory"]), is_node=request["node"], is_probed=request["probe"])


def main() -> int:
    """Answer requests until there are no more."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(SECONDS_MAX)
        try:
            answer: State = {"state": _recovered(request)}
        except Exception as error:  # whatever recovery raises is what it found
            text = f"{type(error).__name__}: {error}"
            answer = {"error": text.replace(request["directory"], "DIR")}
        signal.alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
