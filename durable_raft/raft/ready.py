"""The work that one or more steps of the core produced, and the order in which it must be done.

``Raft.ready()`` hands it out once. The runtime then, in this order:

1. submits ``write`` to the log store (writes become durable in the order they were submitted);
2. sends ``messages`` (they promise nothing that is not durable already);
3. sends ``messages_after_write`` as soon as this write *and all submitted before it* are flushed;
4. applies ``committed`` and answers ``reads``, each read after the entry it names and before the next one.

When a write is flushed the runtime calls ``Raft.persisted(now, write.number)``, in the order of the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from durable_raft.raft.messages import Envelope
from durable_raft.raft.types import (
    Base,
    Configuration,
    Entry,
    HardState,
    Index,
    LogPoint,
    NodeId,
    Standing,
    value_class,
)


@value_class
class Write:
    """One atomic, durable change of the log store: all of it becomes visible and flushed together, or none."""

    number: int
    """1, 2, 3, ... within one life of the core; acknowledged in this order."""
    hard_state: HardState | None
    """The new hard state, or None when it did not change."""
    truncate_from: Index | None
    """Cut every entry from this index on before appending; None when nothing is cut (Raft §5.3)."""
    entries: tuple[Entry, ...]
    """Appended, contiguous, following what is left after the cut."""
    new_base: Base | None = None
    """Drop every entry and let the log begin behind this one, before appending: a snapshot was installed (Raft §7)."""
    standing: Standing | None = None
    """The new standing, or None when it did not change."""
    mended: tuple[Entry, ...] = ()
    """Entries to be written again in their places, before anything is cut: their records were rotten."""
    base_configuration: Configuration | None = None
    """With ``new_base``: the configuration that counts there; None: the fixed one of the first start."""


class ReadReady(NamedTuple):
    """A read that may be answered once the entry at ``read_index`` is applied (Ongaro §6.4)."""

    read_id: int
    read_index: Index


class Offer(NamedTuple):
    """A snapshot that a leader has for a follower whose next entry it has compacted (Raft §7)."""

    source: NodeId
    point: LogPoint


@dataclass(slots=True)
class Ready:
    """See the module docstring for the order in which the parts are to be worked off."""

    write: Write | None = None
    messages: list[Envelope] = field(default_factory=list)
    messages_after_write: list[Envelope] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    """Committed entries not handed out before, ascending and contiguous."""
    reads: list[ReadReady] = field(default_factory=list)
    """Ascending by read_index."""
    offer: Offer | None = None
    """A snapshot that the leader has and this node needs: to be fetched, then given to ``Raft.install_snapshot``."""
    lost_reads: list[int] = field(default_factory=list)
    """Reads that cannot be confirmed because leadership was lost; they had no effect and may be asked elsewhere."""
