"""``durable-raft backup`` and ``restore``: the state at one log index in one file, and a new cluster from it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from durable_raft.addresses import Address, parse_address
from durable_raft.cli.asking import asks_a_node
from durable_raft.cli.progress import ProgressLine
from durable_raft.cli.resp_client import RespClient, Value
from durable_raft.errors import ConfigError, CorruptRecord, ErrorAnswered, NodeUnreachable, RequestError
from durable_raft.kv.records import Record
from durable_raft.raft.configuration import describe
from durable_raft.raft.versions import FIRST
from durable_raft.storage.state.backup import BackupReader, BackupWriter, Item
from durable_raft.storage.state.meta import KvMeta, unpack_kv_meta

CHECKPOINT_S: Final = 60.0
"""How long a checkpoint of the present state is waited for."""

RETRIES_MAX: Final = 20
PAUSE_S: Final = 0.25


class _BackupGroup(click.Group):
    """``backup --at ... FILE`` takes a backup, ``backup verify FILE`` checks one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let ``take`` be what is meant when no subcommand is named."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["take", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_BackupGroup, short_help="Back a cluster up, or check a backup.")
def backup() -> None:
    """Back a running cluster up into one file, or check such a file.

    \b
      durable-raft backup --at 127.0.0.1:7001 FILE
      durable-raft backup verify FILE

    The backup is the state of the node asked, leader or not, at the index it names: all that the node had applied when
    the command began is in it. Other commands go on meanwhile.
    """


@backup.command(short_help="Take a backup (what `backup --at` does).")
@asks_a_node("Client address of the node to ask")
@click.option("--force", is_flag=True, help="Replace FILE if it is there")
@click.argument("file", type=click.Path(path_type=Path))
def take(at: str, file: Path, *, force: bool) -> None:
    """Take a backup of the node at HOST:PORT into FILE."""
    if file.exists() and not force:
        raise ConfigError(f"{file} exists already: expected a new file, or --force")
    address = parse_address("at", at)
    _await_checkpoint(address)
    while True:
        try:
            meta = _take(address, file)
            break
        except CheckpointGone:
            click.echo("the node has let go of that checkpoint: starting over", err=True)
    click.echo(f"{file}: {_words(meta)}")


@backup.command(short_help="Check a backup.")
@click.argument("file", type=click.Path(path_type=Path))
def verify(file: Path) -> None:
    """Verify every byte of FILE, and say what is in it.

    Exit code 0 when it is whole, 3 when it is damaged (with the place), 5 when it is of a newer version.
    """
    with BackupReader(_existing(file)) as reader, ProgressLine("verified") as line:
        for _ in reader.pieces(lambda done: line.show(done.bytes_done, reader.size_bytes)):
            pass
    click.echo(f"{file}: {_words(reader.meta)}")


class CheckpointGone(RequestError):
    """The checkpoint that was being read is gone."""


def _await_checkpoint(address: Address) -> None:
    """Have all that the node has applied written to its checkpoint, and wait for it."""
    deadline = time.monotonic() + CHECKPOINT_S
    with RespClient(address) as client:
        wanted = int(client.info("raft")["raft_last_applied"])
        while int(client.info("raft")["raft_snapshot_index"]) < wanted:
            if time.monotonic() > deadline:
                raise NodeUnreachable(f"{address} wrote no checkpoint at {wanted} within {CHECKPOINT_S:g} s")
            client.call("RAFT", "CHECKPOINT")
            time.sleep(0.05)


def _take(address: Address, file: Path) -> KvMeta:
    meta, items = _piece(address, None, 0, None)
    index = meta.applied.point.index
    client: RespClient | None = None
    with BackupWriter(file, meta) as writer, ProgressLine("backed up") as line, ExitStack() as stack:
        while items:
            writer.write_items(items)
            line.show(writer.progress.keys, meta.summary.key_count)
            client = client or stack.enter_context(RespClient(address))
            found, items = _piece(address, client, index, writer.last_key)
            if found != meta:
                raise CheckpointGone(f"{address} no longer has its checkpoint at index {index}")
        writer.complete()
    return meta


def _piece(address: Address, client: RespClient | None, index: int, after: bytes | None) -> tuple[KvMeta, list[Item]]:
    """Ask for the next records; a connection that broke is made again, a bounded number of times."""
    arguments: list[str | bytes] = ["RAFT", "SNAPSHOT", str(index), *([] if after is None else [after])]
    for attempt in range(RETRIES_MAX):
        try:
            if client is not None:
                return _unpack(address, client.call(*arguments))
            with RespClient(address) as fresh:
                return _unpack(address, fresh.call(*arguments))
        except (NodeUnreachable, ErrorAnswered):
            client = None
            if attempt + 1 == RETRIES_MAX:
                raise
            time.sleep(PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def _unpack(address: Address, reply: Value) -> tuple[KvMeta, list[Item]]:
    if not isinstance(reply, list) or len(reply) < 2 or len(reply) % 4 != 2 or not isinstance(reply[1], bytes):
        raise CorruptRecord(f"{address}: RAFT SNAPSHOT answered {reply!r:.80}, expected index, meta record, records")
    items: list[Item] = []
    for at in range(2, len(reply), 4):
        key, value, deadline_ms, crc = reply[at : at + 4]
        if not (
            isinstance(key, bytes)
            and isinstance(value, bytes)
            and isinstance(deadline_ms, int)
            and isinstance(crc, int)
        ):
            raise CorruptRecord(f"{address}: RAFT SNAPSHOT gave a record of the wrong types for key {key!r:.80}")
        items.append((key, Record(value, deadline_ms, crc)))
    return unpack_kv_meta("RAFT SNAPSHOT", reply[1]), items


def _words(meta: KvMeta) -> str:
    point, summary = meta.applied.point, meta.summary
    return (
        f"{summary.key_count} keys at index {point.index} (term {point.term}), state hash {summary.state_hash:016x},"
        f" from node {meta.identity.node_id} of cluster {meta.identity.cluster_id.hex()},"
        f" {describe(meta.configuration)}" + (f", cluster version {meta.version}" if meta.version > FIRST else "")
    )


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ConfigError(f"{file}: expected a backup file, found none")
    return file


@click.command(short_help="Make a node of a new cluster from a backup.")
@click.option("--dir", "directory", required=True, type=click.Path(path_type=Path), help="Where; must be empty or new")
@click.option("--id", "node_id", required=True, metavar="ID", help="This node's id in --cluster")
@click.option("--cluster", required=True, metavar="LIST", help="All nodes of the new cluster: ID=HOST:PORT[@PORT],...")
@click.option("--cluster-name", default="default", metavar="NAME", help="As for serve; part of the new cluster's id")
@click.option("--cluster-id", metavar="HEX", help="32 hex digits instead of the id derived from file, name and nodes")
@click.option("--reset-time", "resets_time", is_flag=True, help="Set the cluster time to the nodes' clocks, even back")
@click.argument("file", type=click.Path(path_type=Path))
def restore(
    file: Path,
    directory: Path,
    node_id: str,
    cluster: str,
    cluster_name: str,
    cluster_id: str | None,
    *,
    resets_time: bool,
) -> None:
    """Make the directory of one node of a new cluster that begins with the state in FILE.

    Run it once for every node, with the same FILE and --cluster, then start them all with `durable-raft serve` and the
    same --cluster. It is another cluster than the one that was backed up: nodes of the two never talk, and its members
    are those of --cluster alone.

    The backup's time is the new cluster's, or later. With --reset-time, for a backup whose time is in the future, the
    first leader sets it to the clock that a majority of the nodes agrees on.
    """
    from durable_raft.server.settings.config import load_config
    from durable_raft.server.start.restore import restore_node
    from durable_raft.storage.time_request import request_time_reset

    flags = {"id": node_id, "dir": str(directory), "cluster": cluster, "cluster_name": cluster_name}
    config = load_config(flags | ({"cluster_id": cluster_id} if cluster_id else {}), {})
    with ProgressLine("restored") as line:
        meta = restore_node(_existing(file), config, lambda done, size: line.show(done.bytes_done, size))
    if resets_time:
        request_time_reset(directory)
    click.echo(f"{directory}: {_words(meta)}")
    click.echo(f"start it with: durable-raft serve --id {node_id} --dir {directory} --cluster {cluster}", err=True)
