"""``raftlog diff DIR DIR...``: whether replicas hold the same log, and what of it is committed for certain."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import click

from durable_raft.raft.types import LogPoint
from durable_raft.storage.directory import KV, holds_environment
from durable_raft.storage.state.verify import read_checkpoint
from raftlog.commitment import Commitment, commitment_of
from raftlog.gather import INTERRUPTED, Unreadable, in_child
from raftlog.replicas import Difference, Held, Missing, Pair, Range, Replica, compare, missing, read_replica
from raftlog.running import CLEAN, REFUSED, WOUNDED, complain

_EPILOG = """\b
Examples:
  raftlog diff n1 n2 n3
  raftlog diff /backup/n1 /var/lib/durable-raft/n1 --json

\b
Exit codes:
  0  identical as far as they overlap
  1  they differ, lack entries in between, or have no index in common
  2  a directory cannot be read or is of another cluster; or wrong usage
"""


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, required=True, metavar="DIRECTORY...", type=click.Path(path_type=Path))
@click.option("--json", "json", is_flag=True, help="One JSON object.")
def diff(directories: tuple[Path, ...], *, json: bool) -> None:
    """Compare the logs of two or more replicas by term, crc and chain at each index.

    Says where they first differ and how, what each lacks, who is ahead, and up to which index the log is committed for
    certain, with the reason. What is not certain may be committed all the same. Nothing is locked or changed; nodes
    that run are read one after the other.
    """
    if len(directories) < 2:
        raise click.UsageError("expected two directories or more")
    try:
        replicas, unreadable = _read(directories)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if len(replicas) < 2:
        sys.exit(REFUSED)
    clusters = sorted({replica.cluster_id for replica in replicas})
    if len(clusters) > 1:
        for replica in replicas:
            complain(f"{replica.directory} is of cluster {replica.cluster_id}")
        complain("directories of different clusters cannot be compared")
        sys.exit(REFUSED)
    found = _Findings(replicas, unreadable)
    click.echo(found.as_json() if json else "\n".join(found.lines()))
    sys.exit(found.code)


def _read(directories: Sequence[Path]) -> tuple[list[Replica], dict[str, str]]:
    """Return what can be read, and why the others cannot; those are told."""
    replicas: list[Replica] = []
    unreadable: dict[str, str] = {}
    for directory in directories:
        notes: list[str] = []
        # The state before the log: a running node's log holds its entry, or was compacted behind a later state.
        checkpoint = _checkpoint(directory, notes)
        try:
            replica = in_child(partial(read_replica, directory))
        except Unreadable as error:
            unreadable[str(directory)] = str(error)
            complain(f"{directory}: {error}")
            continue
        replica.checkpoint = checkpoint
        replica.notes += notes
        replicas.append(replica)
    return replicas, unreadable


def _checkpoint(directory: Path, notes: list[str]) -> LogPoint | None:
    if not holds_environment(directory, KV):
        return None
    try:
        return in_child(partial(read_checkpoint, directory)).applied.point
    except Unreadable as error:
        notes.append(f"the state cannot be read: {error}")
        return None


class _Findings:
    """All that is said of some replicas."""

    def __init__(self, replicas: list[Replica], unreadable: dict[str, str]) -> None:
        self._replicas = replicas
        self._unreadable = unreadable
        self._pairs = [compare(one, other) for one, other in combinations(replicas, 2)]
        first = min(replica.first for replica in replicas)
        self._span = Range(first, max(replica.last for replica in replicas))
        self._missing = [missing(replica, self._span) for replica in replicas]
        self._commitment = commitment_of(replicas, is_all=not unreadable)
        differing = [pair for pair in self._pairs if pair.difference is not None]
        self._first = min(differing, key=lambda pair: pair.difference.index if pair.difference else 0, default=None)

    @property
    def code(self) -> int:
        """Exit code."""
        if self._unreadable:
            return REFUSED
        is_odd = self._first is not None or self._commitment.conflicts
        is_lacking = any(lacking.unknown for lacking in self._missing)
        return WOUNDED if is_odd or is_lacking or any(pair.common is None for pair in self._pairs) else CLEAN

    def lines(self) -> Iterator[str]:
        """Yield what people read."""
        for replica, lacking in zip(self._replicas, self._missing, strict=True):
            yield _replica_line(replica, lacking)
            for note in replica.notes:
                yield f"{replica.directory} note: {note}"
        for pair in self._pairs:
            yield f"{pair.one.directory} and {pair.other.directory}: {_pair_text(pair)}"
        first = self._first.difference if self._first is not None else None
        if first is not None:
            yield f"overall: they differ from index {first.index} on"
        else:
            yield f"overall: no difference in {self._span}"
        yield f"ahead: {_ahead_text(self._ahead())}"
        yield from _commitment_lines(self._commitment)

    def _ahead(self) -> list[Replica]:
        """Return whose log is most up to date (Raft §5.4.1): the highest last term, and of these the highest index."""
        highest = max((replica.last_term, replica.last) for replica in self._replicas)
        return [replica for replica in self._replicas if (replica.last_term, replica.last) == highest]

    def as_json(self) -> str:
        """Return one JSON object on one line."""
        commitment = self._commitment
        first = self._first.difference if self._first is not None else None
        shown = {
            "code": self.code,
            "replicas": [_replica_object(*each) for each in zip(self._replicas, self._missing, strict=True)],
            "unreadable": self._unreadable,
            "pairs": [_pair_object(pair) for pair in self._pairs],
            "first_difference": None if first is None else first.index,
            "ahead": [replica.directory for replica in self._ahead()],
            "certain": {
                "index": None if commitment.point is None else commitment.point.index,
                "term": None if commitment.point is None else commitment.point.term,
                "chain": None if commitment.point is None else commitment.point.chain,
                "reasons": commitment.reasons,
                "conflicts": commitment.conflicts,
            },
            "not_certain": None
            if commitment.open_range is None
            else {"range": commitment.open_range, "reason": commitment.why_open},
        }
        return json_module.dumps(shown, ensure_ascii=False)


# -- for people -------------------------------------------------------------------------------------------------------


def _replica_line(replica: Replica, lacking: Missing) -> str:
    parts = [f"entries {Range(replica.first, replica.last)}" if replica.entries else "entries none"]
    parts.append(f"last term {replica.last_term}")
    parts.append("no state" if replica.checkpoint is None else f"state at index {replica.checkpoint.index}")
    if lacking.compacted is not None:
        parts.append(f"compacted {lacking.compacted}")
    parts += [f"not known {hole}" for hole in lacking.unknown]
    if lacking.behind is not None:
        parts.append(f"behind: lacks {lacking.behind}")
    if not replica.is_voter:
        parts.append("does not count as a voter")
    return f"{replica.directory} node {replica.node_id}: {', '.join(parts)}"


def _pair_text(pair: Pair) -> str:
    if pair.common is None:
        early, late = sorted((pair.one, pair.other), key=lambda replica: replica.last)
        return (
            f"no index in common: {early.directory} ends at {early.last}, {late.directory} begins behind"
            f" {late.base.index}"
        )
    if pair.common.last == 0:
        return "nothing in common yet: a log is empty"
    gaps = "".join(f", {gap} not compared" for gap in pair.not_compared)
    if pair.difference is None:
        return f"identical in {Range(max(pair.common.first, 1), pair.common.last)}{gaps}"
    return f"{_difference_text(pair.difference)}{gaps}"


def _difference_text(difference: Difference) -> str:
    here, there = map(_held_text, difference.held)
    how = ", ".join(f"other {name}" for name in difference.how)
    before = ": they differ before that already" if difference.how == ("chain",) else ""
    return f"differ from index {difference.index} on: {how}{before} ({here} against {there})"


def _held_text(held: Held) -> str:
    crc = "" if held.crc is None else f" crc {held.crc:08x}"
    return f"term {held.term}{crc} chain {held.chain:08x}"


def _ahead_text(ahead: Sequence[Replica]) -> str:
    names = ", ".join(replica.directory for replica in ahead) + (" alike" if len(ahead) > 1 else "")
    return f"{names}, last entry index {ahead[0].last} term {ahead[0].last_term}"


def _commitment_lines(commitment: Commitment) -> Iterator[str]:
    if commitment.point is None:
        yield "certain: nothing"
    else:
        yield f"certain: committed up to index {commitment.point.index} (term {commitment.point.term})"
    for reason in commitment.reasons:
        yield f"  because {reason}"
    if commitment.open_range is not None:
        yield f"not certain: {commitment.open_range}: {commitment.why_open}"
    for conflict in commitment.conflicts:
        yield f"conflict: {conflict}"


# -- as JSON ----------------------------------------------------------------------------------------------------------


def _replica_object(replica: Replica, lacking: Missing) -> dict[str, object]:
    return {
        "directory": replica.directory,
        "node_id": replica.node_id,
        "is_voter": replica.is_voter,
        "is_running": replica.is_running,
        "current_term": replica.current_term,
        "base_index": replica.base.index,
        "last_index": replica.last,
        "last_term": replica.last_term,
        "entries": len(replica.entries),
        "checkpoint_index": None if replica.checkpoint is None else replica.checkpoint.index,
        "compacted": lacking.compacted,
        "unknown": lacking.unknown,
        "behind": lacking.behind,
        "notes": replica.notes,
    }


def _pair_object(pair: Pair) -> dict[str, object]:
    difference = None
    if pair.difference is not None:
        held = [member._asdict() for member in pair.difference.held]
        difference = {"index": pair.difference.index, "how": pair.difference.how, "held": held}
    return {
        "directories": [pair.one.directory, pair.other.directory],
        "common": pair.common,
        "difference": difference,
        "not_compared": pair.not_compared,
    }
