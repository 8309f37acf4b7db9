"""The commands: ``raftlog stat DIR`` and ``raftlog dump DIR``; also mounted as ``durable-raft log``.

Both read without any lock, so they work on the directory of a running node, and in a child process, so that a page
that kills its reader is reported and not suffered. Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from durable_raft.storage.reader import LogReader, Overview
from durable_raft.storage.walk import Walked
from durable_raft.storage.wounds import Wound
from raftlog.lines import as_json, as_text
from raftlog.running import DIRECTORY, EXIT_CODES, code_of, complain, run


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at the log in a node's data directory, running or not; nothing is locked or changed."""


@main.command(epilog=EXIT_CODES)
@DIRECTORY
def stat(directory: Path) -> None:
    """Say whose log DIRECTORY holds, its term and vote, its extent and size, and how many wounds it has."""
    run(directory, _stat)


@main.command(epilog=EXIT_CODES)
@DIRECTORY
@click.option("--from", "lo", type=click.IntRange(min=0), default=0, metavar="I", help="First index to show.")
@click.option("--to", "last", type=click.IntRange(min=0), default=None, metavar="I", help="Last index to show.")
@click.option("--term", type=click.IntRange(min=0), default=None, help="Only entries of this term.")
@click.option("--json", "json", is_flag=True, help="One JSON object per line.")
def dump(directory: Path, lo: int, last: int | None, term: int | None, *, json: bool) -> None:
    """Show the entries of DIRECTORY, one per line with its commands, going on past damage.

    A wounded entry is shown with what is still known of it and each WOUND; with --term it is shown when its term
    cannot be told.
    """
    if last is not None and last < lo:
        raise click.UsageError(f"--to {last} lies before --from {lo}")
    show = as_json if json else as_text

    def print_them(reader: LogReader) -> int:
        hi = None if last is None else last + 1
        return _print_entries(_of_term(reader.walk(lo, hi), term), show)

    run(directory, print_them)


# -- dump -------------------------------------------------------------------------------------------------------------


def _of_term(walk: Iterator[Walked], term: int | None) -> Iterator[Walked]:
    return (walked for walked in walk if term is None or walked.ident is None or walked.ident.term == term)


def _print_entries(walk: Iterator[Walked], show: Callable[[Walked], str]) -> int:
    wounds: list[Wound] = []
    for walked in walk:
        sys.stdout.write(show(walked) + "\n")
        wounds += walked.wounds
    return code_of(wounds)


# -- stat -------------------------------------------------------------------------------------------------------------


def _stat(reader: LogReader) -> int:
    overview = reader.overview()
    wounds = list(overview.wounds)
    payload_bytes = 0
    for walked in reader.walk():
        payload_bytes += len(walked.payload or b"")
        wounds += walked.wounds
    for name, value in [*_stat_lines(overview), ("payload_bytes", payload_bytes), ("wounds", len(wounds))]:
        click.echo(f"{name}:{value}")
    for wound in wounds:
        complain(f"wound: {wound}")
    return code_of(wounds)


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
    yield "raft_first_log_index", overview.first_index
    yield "raft_last_log_index", overview.last_index
    yield "entries", overview.entries
    yield "used_bytes", overview.used_bytes
    yield "file_bytes", overview.file_bytes


if __name__ == "__main__":
    main()
