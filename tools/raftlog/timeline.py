"""``raftlog timeline DIR...``: what the nodes of a cluster did, on one axis, from their flight recorders."""

from __future__ import annotations

import json as json_module
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from durable_raft.raft.configuration import describe
from durable_raft.raft.types import Configuration, EntryKind, Index
from durable_raft.storage.flight import Field, Flown, load_flight
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.log.walk import Walked
from raftlog.gather import Unreadable, in_child
from raftlog.lanes import Lane
from raftlog.lines import version_of
from raftlog.running import CLEAN, REFUSED, WOUNDED, complain
from raftlog.timeline_html import in_words, page

_EPILOG = """\b
Examples:
  raftlog timeline n1 n2 n3
  raftlog timeline n1 n2 n3 --html timeline.html
  raftlog timeline n1 --since 2026-11-23T14:00:00.500Z --json

\b
Exit codes:
  0  shown
  1  shown, but one of the directories could not be read
  2  nothing to be shown, or wrong usage
"""

_WALL_MS_MAX: Final = 253_402_300_799_999
"""The last time that can be shown: the end of the year 9999."""


def _in_ms(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Return a date and time in ms since the Unix epoch; it is UTC unless it names another zone.

    Raises:
        click.BadParameter: it is not written as ISO 8601 says.
    """
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except ValueError:
        expected = "expected one such as 2026-11-23T14:00:00.500Z"
        raise click.BadParameter(f"{value!r} is no date and time; {expected}", context, parameter) from None


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained page.")
@click.option(
    "--since", metavar="TIME", callback=_in_ms, help="Leave out what was before (UTC, unless it names a zone)."
)
@click.option("--until", metavar="TIME", callback=_in_ms, help="Leave out what was after.")
@click.option("--json", "json", is_flag=True, help="One JSON object per event.")
def timeline(
    directories: tuple[Path, ...], html: Path | None, since: int | None, until: int | None, *, json: bool
) -> None:
    """Show elections, terms, votes, members, progress, snapshots and wounds of the nodes whose DIRECTORIES are given.

    The times are each node's own time of day, in UTC. A directory without a flight recorder's file is shown by the
    terms that begin in its log, and the configurations there.
    """
    lanes = [_lane(directory) for directory in directories]
    _name_apart(lanes, directories)
    for lane in lanes:
        for note in lane.notes:
            complain(f"{lane.name}: {note}")
    code = WOUNDED if any(lane.notes and not lane.events for lane in lanes) else CLEAN
    shown = [[each for each in lane.events if _is_within(each.wall_ms, since, until)] for lane in lanes]
    if not any(shown):
        complain("no events to be shown")
        sys.exit(REFUSED)
    if html is not None:
        times = [each.wall_ms for lane in lanes for each in lane.events]
        # A log without commands has no time; its 1970 would make everything else a dot at the other end.
        first = min((each for each in times if each), default=0)
        begin = first if since is None else max(since, first)
        end = max(times) if until is None else min(until, max(times))
        _write(html, page(lanes, begin, end))
        complain(f"{html}: {sum(map(len, shown))} events of {len(lanes)} nodes")
    if html is None or json:
        for line in _lines(lanes, shown, json=json):
            click.echo(line)
    sys.exit(code)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        complain(f"the page cannot be written: {error}")
        sys.exit(REFUSED)


def _is_within(wall_ms: int, since: int | None, until: int | None) -> bool:
    return (since is None or wall_ms >= since) and (until is None or wall_ms <= until)


# -- reading ----------------------------------------------------------------------------------------------------------


def _name_apart(lanes: Sequence[Lane], directories: Sequence[Path]) -> None:
    """Add the directory to names that are not unique."""
    counts = Counter(lane.name for lane in lanes)
    for lane, directory in zip(lanes, directories, strict=True):
        if counts[lane.name] > 1:
            lane.name = f"{lane.name} ({directory})"


def _lane(directory: Path) -> Lane:
    notes: list[str] = []
    try:
        flight = load_flight(directory)
    except OSError as error:
        flight = None
        notes.append(f"the flight recorder's file cannot be read: {error}")
    if flight is not None and flight.skipped:
        notes.append(f"{flight.skipped} records of the flight recorder are damaged, or were just being written")
    if flight is not None and flight.events:
        return Lane(flight.node_id or _name_in(flight.events) or directory.name, flight.events, notes)
    try:
        name, events = in_child(lambda: _from_log(directory))
    except Unreadable as error:
        return Lane(directory.name, [], [*notes, str(error)])
    notes.append("no flight recorder's file: only the terms that begin in the log are known")
    return Lane(name, events, notes)


def _name_in(events: Sequence[Flown]) -> str | None:
    """Return the node that the newest ``started`` names; None when none is left."""
    return next((str(each.fields["node"]) for each in reversed(events) if "node" in each.fields), None)


_ORDERS: Final = (EntryKind.TIME_RESET, EntryKind.VERSION, EntryKind.CONFIGURATION)
"""Entries that somebody asked for, and that say something to all nodes."""


def _order(walked: Walked, kind: int, configuration: Configuration | None) -> tuple[str, dict[str, Field]]:
    """Return the event of such an entry, and what it says."""
    if kind == EntryKind.TIME_RESET:
        return "time_reset_in_log", {}
    if kind == EntryKind.VERSION:
        return "version_in_log", {"version": version_of(walked)}
    return "configuration_in_log", {"members": None if configuration is None else describe(configuration)}


def _from_log(directory: Path) -> tuple[str, list[Flown]]:
    """Return the node's id and, for each term, the first entry of the log in it; configurations and wounds; its end.

    The entry that opens a term has the time of the entry before it: only a leader's commands bring its clock. So a term
    is put at its first commands, ``bound=latest``: it began by then. One without commands has the time of the entry
    before it, ``bound=earliest``; 0 when there is none. So has a configuration.

    Raises:
        StorageError: the log cannot be read.
    """
    events: list[Flown] = []
    index, term, at = 0, -1, 0
    opened: int | None = None
    """Index at which the present term begins, until its event is made."""

    def add(event: str, **fields: Field) -> None:
        events.append(Flown(len(events) + 1, at, 0, event, dict(fields)))

    with LogReader.open(directory) as reader:
        meta = reader.overview().meta
        known = {} if meta is None else {each.index: each for each in meta.configurations}
        for walked in reader.walk():
            index, ident = walked.index, walked.ident
            if ident is not None:
                if ident.term != term:
                    if opened is not None:
                        add("term_begins_in_log", term=term, index=opened, bound="earliest")
                    term, opened = ident.term, index
                at = min(ident.timestamp_ms, _WALL_MS_MAX)
                if ident.kind in _ORDERS:
                    name, fields = _order(walked, ident.kind, known.get(Index(index)))
                    add(name, term=term, index=index, **fields)
                if opened is not None and ident.kind == EntryKind.COMMANDS:
                    add("term_begins_in_log", term=term, index=opened, bound="latest")
                    opened = None
            for wound in walked.wounds:
                add("wound_in_log", index=index, what=wound.what.value)
    if opened is not None:
        add("term_begins_in_log", term=term, index=opened, bound="earliest")
    if term >= 0:
        add("log_ends", term=term, index=index)
    return (directory.name if meta is None else meta.identity.node_id), events


# -- text -------------------------------------------------------------------------------------------------------------


def _lines(lanes: Sequence[Lane], shown: Sequence[Sequence[Flown]], *, json: bool) -> Iterator[str]:
    merged = [(each, lane.name) for lane, events in zip(lanes, shown, strict=True) for each in events]
    merged.sort(key=lambda pair: (pair[0].wall_ms, pair[1], pair[0].number))
    for event, name in merged:
        at = datetime.fromtimestamp(event.wall_ms / 1000, UTC).isoformat(timespec="milliseconds")
        at = at.replace("+00:00", "Z")
        if json:
            told = {key: value for key, value in event.fields.items() if key not in ("time", "node", "event")}
            yield json_module.dumps({"time": at, "node": name, "event": event.event, **told}, ensure_ascii=False)
        else:
            yield f"{at} {name} {in_words(event)}"
