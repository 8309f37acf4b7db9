"""``raftlog replay DIR --until INDEX``: the KV state as it was at a log index."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

import click

from durable_raft.errors import CorruptRecord
from durable_raft.kv.glob import PATTERN_BYTES_MAX
from durable_raft.storage.directory import KV, holds_environment
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.state.view import LmdbStateView, open_view
from raftlog.choose import DIRECTORY, INDEX, value_bytes_option
from raftlog.lines import quoted, text_of
from raftlog.replaying import NotReplayable, Source, State, Value, changes
from raftlog.running import CLEAN, REFUSED, complain, run

_EPILOG = """\b
Examples:
  raftlog replay DIR --until 4711
  raftlog replay DIR --until 4711 --get user:42 --get user:43
  raftlog replay DIR --until 4711 --scan 'user:*' --count 20
  raftlog replay DIR --until 4711 --diff 4720 --json

\b
Exit codes:
  0  done
  1  a wound on the way, which is named
  2  the index cannot be replayed; wrong usage; not a data directory; a format
     that this version does not know
"""

_Print = Callable[[Source, State], Iterator[str]]
"""Yields the lines to print of a state."""


@click.command(epilog=_EPILOG)
@DIRECTORY
@click.option("--until", "until", type=INDEX, required=True, metavar="INDEX", help="The last entry to apply.")
@click.option("--get", "keys", multiple=True, metavar="KEY", help="Print the value of KEY; may be repeated.")
@click.option("--scan", "pattern", is_flag=False, flag_value="*", metavar="[PATTERN]", help="List the keys, in order.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="With --scan: at most so many keys.")
@click.option("--diff", "other", type=INDEX, metavar="INDEX2", help="Print what is different at INDEX2.")
@value_bytes_option("As the nodes have it.")
@click.option("--json", "json", is_flag=True, help="JSON objects, one per line.")
def replay(
    directory: Path,
    until: int,
    keys: tuple[str, ...],
    pattern: str | None,
    count: int | None,
    other: int | None,
    value_bytes_max: int,
    *,
    json: bool,
) -> None:
    """Show the KV state of DIRECTORY as it was when the entry at INDEX had been applied.

    It is made from the checkpoint in DIRECTORY when that lies at or before INDEX, or else from the beginning of the
    log, by applying the entries as a node does. Without an action its size, state hash and cluster time are printed;
    keys that are expired and not dropped yet are counted, as DBSIZE does, but never shown. A log does not say what is
    committed: standard error says which entries may not have been.

    Nothing is locked or changed. A running node's state file grows while this reads. The changes since the checkpoint
    are held in memory.
    """
    show = _action(keys, pattern, count, other, json=json)

    def work(reader: LogReader) -> int:
        with ExitStack() as stack:
            source = Source(reader, _view(directory, reader, stack), value_bytes_max)
            try:
                state = source.state_at(until)
                _tell_committed(source, max(until, other or 0))
                for line in show(source, state):
                    sys.stdout.write(line + "\n")
            except NotReplayable as error:
                complain(f"{directory}: {error}")
                return REFUSED
        return CLEAN

    run(directory, work)


def _action(keys: tuple[str, ...], pattern: str | None, count: int | None, other: int | None, *, json: bool) -> _Print:
    """Return what is asked for.

    Raises:
        UsageError: two things at once, or something that cannot be.
    """
    if sum((bool(keys), pattern is not None, other is not None)) > 1:
        raise click.UsageError("--get, --scan and --diff exclude each other")
    if count is not None and pattern is None:
        raise click.UsageError("--count goes with --scan")
    if keys:
        return partial(_values, keys=list(map(os.fsencode, keys)), json=json)
    if pattern is not None:
        encoded = os.fsencode(pattern)
        if len(encoded) > PATTERN_BYTES_MAX:
            raise click.UsageError(f"PATTERN has {len(encoded)} bytes, more than {PATTERN_BYTES_MAX}")
        return partial(_keys, pattern=encoded, count=count, json=json)
    if other is not None:
        return partial(_changes, other=other, json=json)
    return partial(_summary, json=json)


def _view(directory: Path, reader: LogReader, stack: ExitStack) -> LmdbStateView | None:
    """Return a view of the checkpoint; None when there is none, or it is damaged and the log can do without."""
    if not holds_environment(directory, KV):
        return None
    try:
        return stack.enter_context(open_view(directory))
    except CorruptRecord as error:
        meta = reader.overview().meta
        if meta is None or meta.base.point.index:
            raise
        complain(f"the checkpoint cannot be read, so the log is replayed from its beginning: {error}")
        return None


def _tell_committed(source: Source, index: int) -> None:
    committed = source.committed()
    if index > committed:
        complain(f"nothing here says what is committed: entries above index {committed} may not have been committed")


# -- what is printed --------------------------------------------------------------------------------------------------


def _summary(_: Source, state: State, *, json: bool) -> Iterator[str]:
    summary = state.machine.summary()
    shown: dict[str, object] = {
        "index": state.point.index,
        "term": state.point.term,
        "keys": summary.key_count,
        "expires": summary.expires_count,
        "state_hash": f"{summary.state_hash:016x}",
        "cluster_time_ms": state.machine.time_ms,
        "replayed_from": state.start,
        "entries_applied": state.point.index - state.start,
    }
    if json:
        yield json_module.dumps(shown)
    else:
        yield from (f"{name}:{value}" for name, value in shown.items())


def _values(_: Source, state: State, *, keys: list[bytes], json: bool) -> Iterator[str]:
    for key in keys:
        found = state.value(key)
        if json:
            yield json_module.dumps({"key": text_of(key)} | (_object(found) or {"value": None}), ensure_ascii=False)
        else:
            yield "(nil)" if found is None else _in_quotes(found.value)


def _keys(_: Source, state: State, *, pattern: bytes, count: int | None, json: bool) -> Iterator[str]:
    for key in islice(state.matching(pattern), count):
        yield json_module.dumps({"key": text_of(key)}, ensure_ascii=False) if json else quoted(key)


def _changes(source: Source, state: State, *, other: int, json: bool) -> Iterator[str]:
    for key, old, new in changes(state, source.state_at(other)):
        kind = "added" if old is None else "removed" if new is None else "changed"
        if json:
            shown = {"change": kind, "key": text_of(key), "old": _object(old), "new": _object(new)}
            yield json_module.dumps(shown, ensure_ascii=False)
        elif old is None or new is None:
            found = old or new
            yield f"{'+' if old is None else '-'} {quoted(key)} {'' if found is None else _text(found)}"
        else:
            yield f"~ {quoted(key)} {_text(old)} -> {_text(new)}"


def _text(found: Value) -> str:
    deadline = "" if found.deadline_ms is None else f" (deadline_ms {found.deadline_ms})"
    return _in_quotes(found.value) + deadline


def _object(found: Value | None) -> dict[str, object] | None:
    return None if found is None else {"value": text_of(found.value), "deadline_ms": found.deadline_ms}


def _in_quotes(value: bytes) -> str:
    """Return a value as redis-cli prints it: always in quotes, so that none looks like ``(nil)``."""
    text = quoted(value)
    return text if text.startswith('"') else f'"{text}"'
