"""``durable-raft status``: a table of the nodes, each asked itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

import click

from durable_raft.addresses import Address, parse_address, parse_redis_address
from durable_raft.cli.asking import asks_a_node
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError
from durable_raft.server.exit_codes import ExitCode

TIMEOUT_S: Final = 2.0


@dataclass(slots=True)
class NodeStatus:
    """What one node says of itself; None where it could not be asked."""

    id: str | None
    address: str
    role: str
    """follower, pre-candidate, candidate, leader; ``unreachable`` when it did not answer. The table shows what a
    follower without a vote is."""
    term: int | None = None
    last_index: int | None = None
    flushed_index: int | None = None
    commit_index: int | None = None
    applied_index: int | None = None
    lag: int | None = None
    """Entries in the leader's log that this node has not flushed; None when there is no leader."""
    state: str = "-"
    """``ready``; the names of what is wrong, or ``not-ready``."""
    alarms: tuple[str, ...] = ()
    """What is wrong with it, and the way out."""
    timeouts: str | None = None
    """How long it waits for a leader and why, where that is longer than configured or an election failed."""
    clock_offset_ms: int | None = None
    """By how much its wall clock is ahead of the one a majority agrees on; None when it does not know."""
    clock_differs: bool = False
    """Whether its clock is so far off that it lets others lead."""
    member: str | None = None
    """What it is by its own newest configuration: voter, outgoing, learner, leaving; none when it is no member."""
    cluster_version: int | None = None
    """Of the cluster, as far as it has applied the log; 0.1.0 does not say."""
    versions: str | None = None
    """Which versions of a cluster it can, as ``1-2``; 0.1.0 can 1, and does not say."""
    error: str | None = None


def _integer(info: Mapping[str, str], key: str) -> int | None:
    text = info.get(key, "")
    return int(text) if text.lstrip("-").isdigit() else None


def ask(address: Address, timeout_s: float = TIMEOUT_S) -> NodeStatus:
    """Ask one node for its INFO raft; an error becomes a status ``unreachable``."""
    try:
        with RespClient(address, timeout_s) as client:
            info = client.info("raft")
    except RequestError as error:
        return NodeStatus(None, str(address), "unreachable", error=str(error))
    names = [name for name in info.get("raft_alarms", "").split(",") if name]
    # With a notice a node is ready all the same.
    is_ready = info.get("raft_ready", "")
    state = "ready" if is_ready == "1" else ",".join(names) or {"0": "not-ready"}.get(is_ready, "-")
    return NodeStatus(
        id=info.get("raft_node_id"),
        address=str(address),
        role=info.get("raft_role", "unknown"),
        term=_integer(info, "raft_current_term"),
        last_index=_integer(info, "raft_last_log_index"),
        flushed_index=_integer(info, "raft_flushed_index"),
        commit_index=_integer(info, "raft_commit_index"),
        applied_index=_integer(info, "raft_last_applied"),
        state=state,
        alarms=tuple(info.get(f"raft_alarm_{name}", name) for name in names),
        timeouts=_timeouts(info),
        clock_offset_ms=_integer(info, "raft_clock_offset_ms"),
        clock_differs=info.get("raft_clock_differs") == "1",
        member=info.get("raft_member"),
        cluster_version=_integer(info, "raft_cluster_version"),
        versions=info.get("raft_versions"),
    )


def _timeouts(info: Mapping[str, str]) -> str | None:
    """Return why a node waits longer than configured; None when it does not."""
    reasons = {
        "others are late by {} ms": _integer(info, "raft_late_ms"),
        "a flush takes {} ms": _integer(info, "raft_slow_flush_ms"),
        "{} elections were lost": _integer(info, "raft_failed_campaigns"),
    }
    why = ", ".join(reason.format(number) for reason, number in reasons.items() if number)
    return f"waits {info.get('raft_election_timeout_ms', '-')} ms for a leader: {why}" if why else None


def members(address: Address, timeout_s: float = TIMEOUT_S) -> list[Address]:
    """Return the client addresses of all members as the node at ``address`` knows them (CLUSTER NODES).

    Raises:
        RequestError: it does not answer.
    """
    with RespClient(address, timeout_s) as client:
        text = client.call("CLUSTER", "NODES")
    lines = text.decode().splitlines() if isinstance(text, bytes) else []
    places = [line.split(" ")[1].partition("@")[0] for line in lines if line]
    return [parse_redis_address("CLUSTER NODES", place) for place in places]


def find_leader(statuses: Sequence[NodeStatus]) -> NodeStatus | None:
    """Return the leader: of those that say they are, the one of the newest term (an old one may not know yet)."""
    leaders = [status for status in statuses if status.role == "leader"]
    return max(leaders, key=lambda status: status.term or 0, default=None)


def cluster_status(addresses: Sequence[Address]) -> list[NodeStatus]:
    """Ask all nodes at once and work out how far each is behind the leader; in the order of the addresses."""
    with ThreadPoolExecutor(max_workers=len(addresses)) as pool:
        statuses = list(pool.map(ask, addresses))
    leader = find_leader(statuses)
    if leader is not None and leader.last_index is not None:
        for status in statuses:
            if status.flushed_index is not None:
                status.lag = max(0, leader.last_index - status.flushed_index)
    return statuses


def complaints(status: NodeStatus) -> Iterator[str]:
    """Yield what is wrong with a node and not in the table."""
    named = status.id or status.address
    for trouble in (*status.alarms, *([status.error] if status.error else [])):
        yield f"{named}: {trouble}"
    if status.clock_differs and status.clock_offset_ms is not None:
        offset_s = status.clock_offset_ms / 1000
        yield f"{named}: its clock is {offset_s:+.1f} s off what a majority of clocks says: set it right"


def version_of(statuses: Sequence[NodeStatus]) -> str | None:
    """Return how far the version of the cluster could be raised, or who keeps it; None: nothing is to be said of it."""
    present = max((each.cluster_version or 1 for each in statuses), default=1)
    newest = {each.id or each.address: int((each.versions or "1").rpartition("-")[2]) for each in statuses}
    if max(newest.values(), default=1) <= present:
        return None
    if (able := min(newest.values())) > present:
        return f"cluster version {present}: all nodes can {able} (durable-raft raise-version)"
    unable = [node for node, each in newest.items() if each <= present]
    return f"cluster version {present}: {', '.join(unable)} can no newer one, or did not say"


def _shown_role(status: NodeStatus) -> str:
    """Return the role, or what a node without a vote is."""
    if status.role != "follower" or status.member is None or status.member in ("voter", "outgoing"):
        return status.role
    return status.member


_COLUMNS: Final = ("NODE", "ADDRESS", "ROLE", "TERM", "LAST", "FLUSHED", "COMMIT", "APPLIED", "LAG", "STATE")
_LEFT_ALIGNED: Final = 3


def table(statuses: Sequence[NodeStatus]) -> str:
    """Return the statuses as a table for people; ``-`` where a value is not known."""
    rows = [_COLUMNS, *(tuple(_cells(status)) for status in statuses)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < _LEFT_ALIGNED else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cells(status: NodeStatus) -> list[str]:
    values = (
        status.id,
        status.address,
        _shown_role(status),
        status.term,
        status.last_index,
        status.flushed_index,
        status.commit_index,
        status.applied_index,
        status.lag,
        status.state,
    )
    return ["-" if value is None else str(value) for value in values]


@click.command(short_help="Show the nodes of a cluster.")
@asks_a_node("Client address of any node")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table")
def status(at: str, *, as_json: bool) -> None:
    """Ask every node of a cluster who it is and how far its log has come.

    LAG is the number of entries in the leader's log that a node has not flushed to its disk yet. STATE is "ready" for a
    node that takes part; else it names what is wrong, and the lines below the table say what to do.

    \b
    Exit code 0 when there is a leader, 4 when there is none or the node at HOST:PORT does not answer.
    """
    statuses = cluster_status(members(parse_address("at", at)))
    leader = find_leader(statuses)
    if as_json:
        click.echo(json.dumps({"leader": leader.id if leader else None, "nodes": [asdict(each) for each in statuses]}))
    else:
        click.echo(table(statuses))
        for each in statuses:
            for complaint in complaints(each):
                click.echo(complaint, err=True)
            if each.timeouts:
                click.echo(f"{each.id} {each.timeouts}")
        if (line := version_of(statuses)) is not None:
            click.echo(line)
    if leader is None:
        click.echo("no leader", err=True)
        click.get_current_context().exit(ExitCode.UNREACHABLE)
