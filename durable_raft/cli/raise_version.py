"""``durable-raft raise-version``: the last step of an upgrade, after which no older program can be gone back to."""

from __future__ import annotations

import json
import time
from typing import Final

import click

from durable_raft.addresses import parse_address
from durable_raft.cli.asking import asks_a_node
from durable_raft.cli.resp_client import RespClient
from durable_raft.cli.status import NodeStatus, cluster_status, find_leader, members
from durable_raft.errors import ErrorAnswered, NodeUnreachable, RequestError

PAUSE_S: Final = 0.1
ASK_S: Final = 5.0
"""How long the leader may take to answer."""


@click.command("raise-version", short_help="Raise the version of a cluster after an upgrade.")
@click.argument("version", type=int, required=False)
@asks_a_node("Client address of any node")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds that it may take")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what the version would be, or who cannot it")
def raise_version(version: int | None, at: str, timeout_s: float, *, as_json: bool, dry_run: bool) -> None:
    """Raise the version of the cluster as far as all its nodes can, or to VERSION.

    From then on the nodes may write what older programs cannot read: a downgrade is a restore of a backup. All members
    have to run, each with a program that can the version. It is over when every node has it.

    \b
    Exit code 0 when it is done, 1 when it is refused or takes too long, 4 when nobody answers or leads.
    """
    first, deadline = parse_address("at", at), time.monotonic() + timeout_s
    words = [] if version is None else [str(version)]
    wanted = _ask(cluster_status(members(first)), [*words, *(["DRYRUN"] if dry_run else [])])
    while not dry_run and (behind := _behind(cluster_status(members(first)), wanted)):
        if time.monotonic() > deadline:
            late = ", ".join(behind)
            raise RequestError(f"it takes too long: {late} did not say version {wanted}; it may be asked for again")
        time.sleep(PAUSE_S)
    facts = {"cluster_version": wanted, "raised": not dry_run}
    text = f"the cluster {'would have' if dry_run else 'has'} version {wanted}"
    click.echo(json.dumps(facts) if as_json else text)


def _ask(statuses: list[NodeStatus], words: list[str]) -> int:
    leader = find_leader(statuses)
    if leader is None:
        raise NodeUnreachable("no node leads")
    with RespClient(parse_address("leader", leader.address), ASK_S) as client:
        reply = client.call("RAFT", "RAISEVERSION", *words)
    if not isinstance(reply, int):
        raise ErrorAnswered(f"RAFT RAISEVERSION answered {reply!r:.80}, expected a version")
    return reply


def _behind(statuses: list[NodeStatus], version: int) -> list[str]:
    """Return who is not known to have the version."""
    return [each.id or each.address for each in statuses if (each.cluster_version or 0) < version]
