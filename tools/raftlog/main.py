"""The commands: ``raftlog stat DIR``, ``raftlog dump DIR`` and so on; also mounted as ``durable-raft log``.

All read in a child process, so that a page that kills its reader is reported and not suffered. All but ``repair`` and
``recover``, which write new directories, take no lock either, so they work on the directory of a running node. Data
goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import click

from durable_raft.raft.configuration import describe, stored_at
from durable_raft.raft.types import EntryKind
from durable_raft.storage.log.reader import LogReader, Overview
from durable_raft.storage.wounds import Wound
from raftlog.choose import DIRECTORY, FROM, JSON, TO, Choice, naming, of_kind, of_term, range_end
from raftlog.diff import diff
from raftlog.export import export
from raftlog.grep import grep
from raftlog.lines import as_json, as_text, print_entries, version_of, wound_object
from raftlog.repair import recover, repair
from raftlog.replay import replay
from raftlog.running import EXIT_CODES, code_of, complain, run
from raftlog.tail import tail
from raftlog.timeline import timeline
from raftlog.verify import verify

_STAT_EPILOG = f"""\b
Examples:
  raftlog stat DIR
  raftlog stat DIR --json

{EXIT_CODES}"""

_DUMP_EPILOG = f"""\b
Examples:
  raftlog dump DIR --from 100 --to 120
  raftlog dump DIR --key user:42 --json
  raftlog dump DIR --kind noop
  raftlog dump DIR --term 7 --raw

{EXIT_CODES}"""


KIND: Final = click.Choice(["noop", "commands", "configuration", "version"])


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at the log in a node's data directory, running or not: no verb locks or changes it.

    Two verbs write, with --apply only, and refuse the directory of a running node: repair and recover make new
    directories from what others hold.
    """


@main.command(epilog=_STAT_EPILOG)
@DIRECTORY
@click.option("--json", "json", is_flag=True, help="One JSON object, with every wound.")
def stat(directory: Path, *, json: bool) -> None:
    """Say whose log DIRECTORY holds, its term and vote, its extent and size, and how many wounds it has.

    What is pending is in the journal and not in LMDB yet. It counts in all but the sizes of the file.
    """
    run(directory, partial(_stat, json=json))


@main.command(epilog=_DUMP_EPILOG)
@DIRECTORY
@FROM
@TO
@click.option("--term", type=click.IntRange(min=0), default=None, help="Only entries of this term.")
@click.option("--kind", type=KIND, default=None, help="Only entries of this kind.")
@click.option("--key", default=None, help="Only entries with a command that names this key.")
@click.option("--raw", is_flag=True, help="The payload in hexadecimal digits in place of the commands.")
@JSON
def dump(
    directory: Path,
    lo: int,
    last: int | None,
    term: int | None,
    kind: str | None,
    key: str | None,
    *,
    raw: bool,
    json: bool,
) -> None:
    """Show the entries of DIRECTORY, one per line with its commands, going on past damage.

    A wounded entry is shown with what is still known of it and each WOUND; with --term, --kind or --key it is shown
    when it cannot be told whether it is meant.
    """
    hi = range_end(lo, last)
    choices: list[Choice] = []
    if term is not None:
        choices.append(of_term(term))
    if kind is not None:
        choices.append(of_kind(EntryKind[kind.upper()]))
    if key is not None:
        choices.append(naming(os.fsencode(key)))
    show = partial(as_json if json else as_text, raw=raw)

    def print_them(reader: LogReader) -> int:
        chosen = (walked for walked in reader.walk(lo, hi) if all(choice(walked) for choice in choices))
        return print_entries(chosen, show)

    run(directory, print_them)


# -- stat -------------------------------------------------------------------------------------------------------------


def _stat(reader: LogReader, *, json: bool) -> int:
    overview = reader.overview()
    wounds = list(overview.wounds)
    payload_bytes, raised_to = 0, 0
    for walked in reader.walk():
        payload_bytes += len(walked.payload or b"")
        wounds += walked.wounds
        raised_to = max(raised_to, version_of(walked) or 0)
    lines = [*_stat_lines(overview), ("payload_bytes", payload_bytes)]
    if raised_to:
        # Where nothing raises it the log does not know the version: a checkpoint does (``verify``).
        lines.append(("cluster_version_raised_to", raised_to))
    if json:
        click.echo(_stat_object(overview, lines, wounds))
        return code_of(wounds)
    for name, value in [*lines, ("wounds", len(wounds))]:
        click.echo(f"{name}:{value}")
    for wound in wounds:
        complain(f"wound: {wound}")
    return code_of(wounds)


def _stat_object(overview: Overview, lines: list[tuple[str, object]], wounds: list[Wound]) -> str:
    """Return the JSON object: the lines, but voters and wounds as arrays of objects, and no vote as null."""
    shown: dict[str, object] = dict(lines)
    if (meta := overview.meta) is not None:
        shown["raft_voted_for"] = meta.hard_state.voted_for
        shown["voters"] = [
            {"node_id": v.node_id, "client_address": v.client_address, "peer_address": v.peer_address}
            for v in meta.membership.voters
        ]
    shown["wounds"] = [wound_object(wound) for wound in wounds]
    return json_module.dumps(shown, ensure_ascii=False)


def _stat_lines(overview: Overview) -> Iterator[tuple[str, object]]:
    """Yield name and value of each line; the names are those of INFO raft where it has them."""
    meta = overview.meta
    if meta is not None:
        base = meta.base.point
        yield "raft_cluster_id", meta.identity.cluster_id.hex()
        yield "raft_node_id", meta.identity.node_id
        yield "raft_node_uuid", meta.identity.node_uuid.hex()
        yield "raft_current_term", meta.hard_state.current_term
        yield "raft_voted_for", meta.hard_state.voted_for or ""
        yield "base_index", base.index
        yield "base_term", base.term
        yield "voters", ",".join(f"{v.node_id}={v.client_address}@{v.peer_address}" for v in meta.membership.voters)
        if (first := stored_at(meta.configurations, base.index)) is not None:
            yield "base_configuration_index", first.index
            yield "base_configuration", describe(first)
        if meta.configurations:
            yield "configuration_index", meta.configuration.index
            yield "configuration", describe(meta.configuration)
    yield "raft_first_log_index", overview.first_index
    yield "raft_last_log_index", overview.last_index
    yield "entries", overview.entries
    if meta is not None:
        yield "log_commit", "lmdb" if meta.journal is None else "journal"
    yield "pending_groups", overview.pending_groups
    yield "pending_entries", overview.pending_entries
    yield "used_bytes", overview.used_bytes
    yield "file_bytes", overview.file_bytes


main.add_command(verify)
main.add_command(diff)
main.add_command(tail)
main.add_command(grep)
main.add_command(repair)
main.add_command(recover)
main.add_command(timeline)
main.add_command(replay)
main.add_command(export)

if __name__ == "__main__":
    main()
