"""The parts of a data directory, each checked by itself: log, KV state, and whether the two fit.

Every function here that reads a directory is to be run in a child process (gather.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from durable_raft.errors import CorruptRecord
from durable_raft.raft.configuration import describe, describe_stored, encode, stored_at
from durable_raft.raft.types import CONFIGURATION, Configuration, Index
from durable_raft.raft.versions import FIRST
from durable_raft.storage.directory import (
    DATA_FILE,
    KV,
    RAFT,
    environment_path,
    holds_environment,
    running_node,
)
from durable_raft.storage.log.journal_format import JOURNAL
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.reader import LogReader, structure_problems
from durable_raft.storage.state.meta import KvMeta
from durable_raft.storage.state.verify import read_checkpoint, verify_state
from durable_raft.storage.wounds import Wound, WoundKind
from raftlog.gather import Progress, Unreadable, clear_progress, in_child
from raftlog.running import CLEAN, REFUSED, WOUNDED

FIT: Final = "fit"

_BEYOND_REPAIR: Final = frozenset({WoundKind.TREE, WoundKind.NEWER_FORMAT, WoundKind.CHAIN, WoundKind.ORDER})
"""Not one record that another copy can stand in for: pages, a newer program, or two histories in one log. Nor is a
wound of the journal: each group of it is there twice."""

_LOOKS: Final = 50
"""Looks at a directory in which a node works; what is seen half done is whole at one of the next."""
_BETWEEN_LOOKS_SECONDS: Final = 0.02
_BETWEEN_PARTS_SECONDS: Final = 0.2


@dataclass(slots=True)
class Part:
    """What was found in one part of a directory."""

    name: str
    """``raft``, ``kv`` or ``fit``."""
    facts: dict[str, object] = field(default_factory=dict)
    """Members of its JSON object."""
    line: str = ""
    """The facts for people; empty when there are none."""
    wounds: list[Wound] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    """What no single record explains."""
    notes: list[str] = field(default_factory=list)
    """What was not checked, or mends itself."""

    @property
    def code(self) -> int:
        """Exit code: 0 clean; 1 wounds that heal from peers or by repair; 2 damage beyond."""
        if self.damage or any(wound.what in _BEYOND_REPAIR or wound.table == JOURNAL for wound in self.wounds):
            return REFUSED
        return WOUNDED if self.wounds else CLEAN


def parts_of(directory: Path) -> list[Part]:
    """Check the log, the KV state when there is one, and how they fit; whatever happens to one, the others are."""
    raft = _part(RAFT, directory, _check_raft)
    if not holds_environment(directory):
        return [raft]
    if not holds_environment(directory, KV):
        return [raft, _without_state(directory, raft)]
    kv = _part(KV, directory, _check_kv)
    if raft.facts and kv.facts:
        return [raft, kv, _part(FIT, directory, _check_fit)]
    return [raft, kv, Part(FIT, notes=["not checked: one of the two cannot be read"])]


def _part(name: str, directory: Path, check: Callable[[Path, Part], Part]) -> Part:
    """Return what ``check`` finds; a node that works there may show half of a change, so it is looked at again."""
    part = _looked_at(name, directory, check)
    if part.code != CLEAN and running_node(directory) is not None:
        time.sleep(_BETWEEN_PARTS_SECONDS)
        part = _looked_at(name, directory, check)
    return part


def _looked_at(name: str, directory: Path, check: Callable[[Path, Part], Part]) -> Part:
    """Return what ``check`` finds in a child process, after a look at the pages in another one."""
    part = Part(name)
    if name != FIT:
        try:
            part = in_child(partial(_check_structure, directory, part))
        except Unreadable as error:
            part.damage.append(str(error))
    try:
        return in_child(partial(check, directory, part))
    except Unreadable as error:
        # The same meta pages may have been refused twice.
        if str(error) not in part.damage:
            part.damage.append(str(error))
        return part


def _without_state(directory: Path, raft: Part) -> Part:
    """Return the part of a directory without ``kv``."""
    part = Part(KV)
    waiting = [name for name in ("kv.new", "kv.old") if holds_environment(directory, name)]
    if waiting:
        part.notes.append(f"no state, but {' and '.join(waiting)}: a swap is under way, or ends with the next start")
    elif not raft.facts:
        part.notes.append("no state; the log that tells whether there must be one cannot be read")
    elif base := raft.facts.get("base_index"):
        part.wounds.append(
            Wound(KV, None, None, f"a state, as the log begins behind {base}", "none", WoundKind.MISSING)
        )
        part.notes.append("another node, or a backup, has to give the state")
    else:
        part.notes.append("no state yet: the next start makes it from the log")
    return part


# -- pages ------------------------------------------------------------------------------------------------------------


def _check_structure(directory: Path, part: Part) -> Part:
    """Walk the pages, which says something only while nobody writes."""
    file = environment_path(directory, part.name) / DATA_FILE
    for _ in range(3):
        holder = running_node(directory)
        if holder is not None:
            part.notes.append(f"pages not checked: a node is running ({holder})")
            return part
        before = _signature(file)
        problems = structure_problems(directory, part.name)
        if not problems or (_signature(file) == before and running_node(directory) is None):
            part.damage += problems
            return part
    part.notes.append("pages not checked: the file changed each time they were")
    return part


def _signature(file: Path) -> tuple[int, int, int]:
    """Return what is different once somebody wrote the file."""
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


# -- records ----------------------------------------------------------------------------------------------------------


def _check_raft(directory: Path, part: Part) -> Part:
    """Walk the log."""
    progress = Progress(f"{directory} {part.name}")
    first = last = entries = 0
    said: dict[int, bytes | None] = {}
    with LogReader.open(directory) as reader:
        overview = reader.overview()
        part.wounds += overview.wounds
        for walked in reader.walk():
            if walked.ident is not None and walked.ident.kind == CONFIGURATION:
                said[walked.index] = walked.payload
            entries += 1
            first = first or walked.index
            last = walked.index
            part.wounds += walked.wounds
            progress(entries)
    clear_progress()
    part.facts = {"first_index": first, "last_index": last, "entries": entries}
    part.facts |= {"pending_groups": overview.pending_groups, "pending_entries": overview.pending_entries}
    part.line = f"entries {first}..{last}" if entries else "entries none"
    if overview.pending_groups:
        part.line += f", {overview.pending_entries} of them in {overview.pending_groups} groups of the journal"
    if overview.meta is None:
        part.damage.append("meta: no copy is valid; term, vote and members are lost")
        return part
    meta = overview.meta
    base = meta.base.point
    part.facts |= {"node_id": meta.identity.node_id, "cluster_id": meta.identity.cluster_id.hex()}
    part.facts |= {"current_term": meta.hard_state.current_term, "voted_for": meta.hard_state.voted_for}
    part.facts |= {"base_index": base.index, "base_term": base.term, "is_voter": meta.standing.is_voter}
    standing = meta.standing
    part.facts |= {"is_copy": standing.is_copy, "committed_index": standing.committed.index}
    part.facts |= {"life": standing.lives[-1].number if standing.lives else 0}
    part.facts |= {"configurations": [_configuration_fact(each) for each in meta.configurations]}
    if running_node(directory) is None:
        # While one runs, what lies beside the log may be of another moment.
        _check_configurations(meta, said, part)
    if not entries and base.index:
        part.line += f" behind {base.index}"
    if meta.configurations:
        part.line += f", configuration: {describe_stored(meta.configuration)}"
    return part


def _check_configurations(meta: Meta, said: dict[int, bytes | None], part: Part) -> None:
    """Compare what meta keeps of the configurations with their entries.

    Args:
        meta: of the log.
        said: index -> payload of each entry that has one; None: it is wounded.
        part: gets what is wrong.
    """
    base = meta.base.point.index
    known = {each.index: each for each in meta.configurations}
    for index in sorted({*said, *(each for each in known if each > base)}):
        payload, kept = said.get(index), known.get(Index(index))
        if kept is None:
            part.damage.append(f"entry {index} has a configuration that is not known beside the log: a node ignores it")
        elif index not in said:
            part.damage.append(f"{describe_stored(kept)} is known beside the log, and entry {index} is none or gone")
        elif payload is None:
            part.notes.append(
                f"entry {index}, a configuration, is written again at the start: it is known beside the log"
            )
        elif encode(kept) != payload:
            part.damage.append(
                f"entry {index} has another configuration than {describe_stored(kept)}, by which a node goes"
            )
    if len([index for index in known if index <= base]) > 1:
        part.damage.append(f"more than one configuration is known to count at the base, {base}")


def _check_kv(directory: Path, part: Part) -> Part:
    """Walk the state."""
    found = verify_state(directory, Progress(f"{directory} {part.name}"))
    clear_progress()
    part.wounds += found.wounds
    if found.meta is None:
        part.damage.append("meta: no copy is valid; which state it is cannot be told")
        return part
    point, summary = found.meta.applied.point, found.meta.summary
    part.facts = {"keys": summary.key_count, "expires": summary.expires_count, "applied_index": point.index}
    part.facts |= {"applied_term": point.term, "chain": point.chain, "state_hash": f"{summary.state_hash:016x}"}
    part.line = (
        f"keys {summary.key_count} at index {point.index} term {point.term} state_hash {summary.state_hash:016x}"
    )
    configuration = found.meta.stored_configuration
    part.facts |= {"configuration": None if configuration is None else _configuration_fact(configuration)}
    if configuration is not None:
        part.line += f", configuration: {describe_stored(configuration)}"
    part.facts |= {"cluster_version": found.meta.version}
    if found.meta.version > FIRST:
        part.line += f", cluster version {found.meta.version}"
    return part


def _configuration_fact(configuration: Configuration) -> dict[str, object]:
    members = [asdict(member) for member in configuration.members]
    return {"index": configuration.index, "configuration": describe(configuration), "members": members}


# -- how they fit -----------------------------------------------------------------------------------------------------


def _check_fit(directory: Path, part: Part) -> Part:
    """Look up the state's last entry in the log; again for a while when a node works there and it is not found."""
    for look in range(1, _LOOKS + 1):
        # The state first: while a node runs the log only grows towards it, or is compacted behind a newer state.
        meta = read_checkpoint(directory)
        part = _fit(directory, meta, Part(FIT))
        if part.code == CLEAN or look == _LOOKS or running_node(directory) is None:
            return part
        time.sleep(_BETWEEN_LOOKS_SECONDS)
    return part


def _fit(directory: Path, state: KvMeta, part: Part) -> Part:
    """Compare the state with the log at the index where it was taken, as a node does when it starts."""
    point = state.applied.point
    part.facts = {"applied_index": point.index, "applied_term": point.term, "chain": point.chain}
    with LogReader.open(directory) as reader:
        overview = reader.overview()
        try:
            found = reader.point_at(point.index)
        except CorruptRecord:
            part.notes.append(f"not checked: the log's entry {point.index} is damaged")
            return part
    log = overview.meta
    if log is not None and log.identity != state.identity:
        part.damage.append(
            f"the log belongs to node {log.identity.node_id} ({log.identity.node_uuid.hex()}) of cluster"
            f" {log.identity.cluster_id.hex()}, the state to {state.identity.node_id}"
            f" ({state.identity.node_uuid.hex()}) of {state.identity.cluster_id.hex()}"
        )
    elif log is not None and point.index < log.base.point.index:
        part.damage.append(
            f"the state ends at index {point.index}, but the log begins behind {log.base.point.index}: the entries"
            " between are missing"
        )
    elif found is None or found.point.term != point.term:
        seen = f"none (last {overview.last_index})" if found is None else f"term {found.point.term}"
        part.wounds.append(
            Wound("log", point.index, None, f"term {point.term}, as the state has", seen, WoundKind.DISAGREES)
        )
        part.notes.append("the state came as a snapshot and the log was not yet replaced: the next start does it")
    elif found.point.chain != point.chain:
        part.damage.append(
            f"at index {point.index} the log has chain {found.point.chain:#010x}, the state {point.chain:#010x}: one"
            " of the two is another history's"
        )
    elif log is not None and (known := stored_at(log.configurations, point.index)) != state.stored_configuration:
        part.damage.append(
            f"at index {point.index} the log has another configuration than the state: {describe_stored(known)}, and"
            f" not {describe_stored(state.stored_configuration)}"
        )
    else:
        part.line = f"state and log agree at index {point.index} term {point.term} chain {point.chain:#010x}"
    return part
