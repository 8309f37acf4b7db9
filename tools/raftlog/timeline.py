"""``raftlog timeline DIR...``: what the nodes of a cluster did, on one axis, from their flight recorders."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click

from durable_raft.storage.flight import Flown, read_flight
from durable_raft.storage.reader import LogReader
from raftlog.gather import Unreadable, in_child
from raftlog.running import CLEAN, REFUSED, complain
from raftlog.timeline_html import page

_EPILOG = """\b
Examples:
  raftlog timeline n1 n2 n3
  raftlog timeline n1 n2 n3 --html timeline.html
  raftlog timeline n1 --since 2026-11-23T14:00:00 --json

\b
Exit codes:
  0  shown
  2  nothing to be shown, or wrong usage
"""

ROLES = {
    "became_follower": "follower",
    "became_pre_candidate": "pre-candidate",
    "became_candidate": "candidate",
    "became_leader": "leader",
}


@dataclass(frozen=True, slots=True)
class Span:
    """A node in one role."""

    begin_ms: int
    end_ms: int
    role: str
    term: int | None


@dataclass(slots=True)
class Lane:
    """One node's events."""

    name: str
    events: list[Flown]
    notes: list[str] = field(default_factory=list)

    def spans(self, end_ms: int) -> list[Span]:
        """Return the node's roles up to ``end_ms``; a life that ends without a word ends at its last event."""
        found: list[Span] = []
        role: str | None = None
        term: int | None = None
        begin = last = 0
        for event in self.events:
            changes = event.event in ROLES or event.event in ("started", "stopped")
            if changes and role is not None:
                # Whoever is started again was killed at some time after the last event.
                found.append(Span(begin, last if event.event == "started" else event.wall_ms, role, term))
                role = None
            if event.event == "started" or event.event in ROLES:
                role, begin = ROLES.get(event.event, "follower"), event.wall_ms
                told = event.fields.get("term")
                term = told if isinstance(told, int) else term
            last = event.wall_ms
        if role is not None:
            found.append(Span(begin, max(last, end_ms if self._is_last(end_ms) else last), role, term))
        return found

    def _is_last(self, end_ms: int) -> bool:
        return bool(self.events) and end_ms - self.events[-1].wall_ms < 2_000


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained page.")
@click.option("--since", type=click.DateTime(), help="Leave out what was before (UTC).")
@click.option("--until", type=click.DateTime(), help="Leave out what was after (UTC).")
@click.option("--json", "json", is_flag=True, help="One JSON object per event.")
def timeline(
    directories: tuple[Path, ...], html: Path | None, since: datetime | None, until: datetime | None, *, json: bool
) -> None:
    """Show elections, terms, votes, progress, snapshots and wounds of the nodes whose DIRECTORIES are given.

    The times are each node's own time of day. A directory without a flight recorder's file is shown by the terms that
    begin in its log.
    """
    lanes = [_lane(directory) for directory in directories]
    for lane in lanes:
        lane.events = [each for each in lane.events if _is_within(each.wall_ms, since, until)]
        for note in lane.notes:
            complain(f"{lane.name}: {note}")
    if not any(lane.events for lane in lanes):
        complain("no events to be shown")
        sys.exit(REFUSED)
    if html is not None:
        html.write_text(page([(lane.name, lane.events, lane.spans(_end(lanes))) for lane in lanes]))
        complain(f"{html}: {sum(len(lane.events) for lane in lanes)} events of {len(lanes)} nodes")
    else:
        for line in _lines(lanes, json=json):
            click.echo(line)
    sys.exit(CLEAN)


def _end(lanes: Sequence[Lane]) -> int:
    return max(lane.events[-1].wall_ms for lane in lanes if lane.events)


def _is_within(wall_ms: int, since: datetime | None, until: datetime | None) -> bool:
    at = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return (since is None or at >= since.replace(tzinfo=UTC)) and (until is None or at <= until.replace(tzinfo=UTC))


def _lane(directory: Path) -> Lane:
    events = read_flight(directory)
    names = [str(each.fields["node"]) for each in events if each.event == "started" and "node" in each.fields]
    if events:
        return Lane(names[-1] if names else directory.name, events)
    try:
        name, events = in_child(lambda: _from_log(directory))
    except Unreadable as error:
        return Lane(directory.name, [], [str(error)])
    return Lane(name, events, ["no flight recorder's file: only the terms that begin in the log are known"])


def _from_log(directory: Path) -> tuple[str, list[Flown]]:
    """Return the node's id and, for each term, the first entry of the log in it."""
    events: list[Flown] = []
    with LogReader.open(directory) as reader:
        meta = reader.overview().meta
        term = -1
        for walked in reader.walk():
            ident = walked.ident
            if ident is not None and ident.term != term:
                term = ident.term
                fields = {"term": term, "index": walked.index}
                events.append(Flown(walked.index, ident.timestamp_ms, 0, "term_begins_in_log", dict(fields)))
    return (directory.name if meta is None else meta.identity.node_id), events


def _lines(lanes: Sequence[Lane], *, json: bool) -> Iterator[str]:
    merged = sorted((event.wall_ms, lane.name, event) for lane in lanes for event in lane.events)
    for wall_ms, name, event in merged:
        at = datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if json:
            yield json_module.dumps({"time": at, "node": name, "event": event.event, **event.fields})
        else:
            told = "".join(f" {key}={value}" for key, value in event.fields.items())
            yield f"{at} {name} {event.event}{told}"
