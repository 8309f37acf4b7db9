"""``durable-raft member`` and ``transfer``: change the members of a running cluster, and hand leadership over.

Each command asks the leader (RAFT.MEMBER), waits while that is not ready yet, and ends when the change is complete. It
names the configuration that was seen. So of two operators one is told that the other was first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final, TypedDict, Unpack, cast

import click

from durable_raft.addresses import parse_address, parse_member
from durable_raft.cli.asking import asks_a_node
from durable_raft.cli.membership import Listing, MemberRow, listing, pairs_of
from durable_raft.cli.resp_client import ClusterClient, RespClient, Value
from durable_raft.cli.status import members
from durable_raft.errors import ErrorAnswered, NodeUnreachable, RequestError
from durable_raft.raft.types import Member

PAUSE_S: Final = 0.1
LOST_S: Final = 5.0
"""How long leaders must know nothing of a change before it is called lost: a deposed one knows it sooner."""
WAITED_FOR: Final = ("INPROGRESS", "NOTREADY", "NOTCAUGHTUP")
"""Refusals that time cures."""


class ChangeLost(RequestError):
    """The change was not completed: its leader lost leadership before anybody else held it, or it takes too long."""


class _Operator:
    """Asks for one change, and follows it to its end."""

    def __init__(self, at: str, timeout_s: float, *, as_json: bool) -> None:
        first = parse_address("at", at)
        nodes = [first, *(each for each in members(first) if each != first)]
        self._client = click.get_current_context().with_resource(ClusterClient(nodes))
        self._deadline = time.monotonic() + timeout_s
        self._as_json = as_json
        self._said = ""

    def say(self, text: str) -> None:
        """Tell how far it is, each thing once; to stderr, so that the answer stands alone."""
        if text != self._said:
            self._said = text
            click.echo(text, err=True)

    def finish(self, facts: dict[str, object], text: str) -> None:
        """Tell what came of it."""
        click.echo(json.dumps(facts) if self._as_json else text)

    def leaders_listing(self) -> Listing:
        """Return what the leader says of the members."""
        while True:
            try:
                found = listing(self._client)
                row = None if found.leader is None else found.find(found.leader)
                if row is not None:
                    with RespClient(parse_address("client", row.client)) as leader:
                        told = listing(leader)
                    if told.leader == row.id:
                        return told
                self._wait("there is no leader")
            except NodeUnreachable as error:
                self._wait(str(error))

    def _wait(self, why: str) -> None:
        if time.monotonic() > self._deadline:
            raise ChangeLost(f"it takes too long: {why}")
        self.say(why)
        time.sleep(PAUSE_S)

    def ask(self, *words: str, against: int | None = None, is_dry: bool = False) -> dict[str, Value]:
        """Ask until the leader begins, or refuses for good; return what it answers."""
        while True:
            seen = self.leaders_listing().index if against is None else against
            options = ["AGAINST", str(seen), *(["DRYRUN"] if is_dry else [])]
            try:
                return pairs_of(self._client.call("RAFT.MEMBER", *words, *options))
            except ErrorAnswered as error:
                code, _, why = str(error).partition(" ")
                if is_dry or code not in WAITED_FOR:
                    raise
                self._wait(why)

    def follow(self, begun: dict[str, Value]) -> Listing:
        """Wait until what was begun is complete.

        Raises:
            ChangeLost: it is not there; or others have changed the members since, so that nobody can tell.
        """
        index, lost_from = cast("int", begun["index"]), 0.0
        while True:
            found, now = self.leaders_listing(), time.monotonic()
            if found.index < index:
                # One that leads no more, and does not know it yet, may have answered.
                lost_from = lost_from or now
                if now - lost_from > LOST_S:
                    raise ChangeLost(f"the change at index {index} was lost with its leader; nothing has changed")
                self._wait(f"configuration {found.index} is older than what was begun at {index}")
                continue
            lost_from = 0.0
            if found.is_complete:
                _require_outcome(begun, found)
                return found
            self._wait(f"configuration {found.index} is {found.state}, {'' if found.committed else 'not '}committed")

    def transfer(self, target: str | None) -> str:
        """Hand leadership over; return to whom. Whoever leads already need not be asked."""
        if target is not None and self.leaders_listing().leader == target:
            return target
        words = ["TO", target] if target else []
        reply = self._client.call("RAFT.TRANSFER", *words)
        chosen = cast("bytes", reply).decode()
        self.say(f"leadership goes to {chosen}")
        while self.leaders_listing().leader != chosen:
            self._wait(f"{chosen} does not lead yet")
        return chosen


def _require_outcome(begun: dict[str, Value], found: Listing) -> None:
    """Check that a complete configuration is what was begun, and not another's that took its place in the log."""
    voters, learners = ([row.id for row in found.members if row.member == part] for part in ("voter", "learner"))
    if (voters, learners) != (_names(begun["voters"]), _names(begun["learners"])):
        now = " ".join(["voters", *voters, *(["and learners", *learners] if learners else [])])
        raise ChangeLost(
            f"another change was made since, or took the place of this one: at index {found.index} there are {now}"
        )


def _require_addresses(asked: Member, found: Listing) -> None:
    row = found.find(asked.node_id)
    if row is None or (row.client, row.peer) != (asked.client_address, asked.peer_address):
        where = "no member" if row is None else f"at {row.client} and {row.peer}"
        raise ChangeLost(f"another change was made since, or took the place of this one: {asked.node_id} is {where}")


def _names(values: Value) -> list[str]:
    return [cast("bytes", value).decode() for value in cast("list[Value]", values)]


def _plan(begun: dict[str, Value]) -> tuple[dict[str, object], str]:
    """Return what a change comes to, as facts and in words."""
    voters, learners = _names(begun["voters"]), _names(begun["learners"])
    index, majority, may_fail = (cast("int", begun[name]) for name in ("index", "majority", "may-fail"))
    facts = {"index": index, "voters": voters, "learners": learners, "majority": majority, "may_fail": may_fail}
    text = f"voters {' '.join(voters)}: a majority is {majority}, {may_fail} may fail"
    return facts, text + (f"; learners {' '.join(learners)}" if learners else "")


class _Options(TypedDict):
    """What each command that changes the members is given (``_changing``)."""

    at: str
    timeout_s: float
    as_json: bool
    against: int | None
    dry_run: bool


def _change(*words: str, **options: Unpack[_Options]) -> None:
    """Carry one change out, or say what would come of it."""
    operator = _Operator(options["at"], options["timeout_s"], as_json=options["as_json"])
    dry_run = options["dry_run"]
    begun = operator.ask(*words, against=options["against"], is_dry=dry_run)
    facts, text = _plan(begun)
    if not dry_run:
        operator.say(f"begun at index {facts['index']}: {text}")
        found = operator.follow(begun)
        if words[0] == "UPDATE":
            _require_addresses(parse_member(words[1]), found)
    operator.finish({"changed": not dry_run, **facts}, f"{'would be: ' if dry_run else ''}{text}")


def _common(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; progress goes to stderr"),
        click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds that it may take"),
        asks_a_node("Client address of any node"),
    ):
        function = option(function)
    return function


def _changing(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--against", type=int, metavar="INDEX", help="Refuse if the configuration is not that of INDEX"),
        click.option("--dry-run", is_flag=True, help="Change nothing; say what the majority would be"),
    ):
        function = option(function)
    return _common(function)


@click.group(short_help="Show or change the members of a cluster.")
def member() -> None:
    """Show or change the members of a running cluster.

    One change at a time; it goes on by itself, also when this command is stopped.

    \b
    Exit code 0 when it is complete, 1 when it is refused or was lost, 4 when nobody answers or leads.
    """


@member.command("list")
@asks_a_node("Client address of any node")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table")
def list_members(at: str, *, as_json: bool) -> None:
    """Show who the members are, as the node at HOST:PORT knows them."""
    with RespClient(parse_address("at", at)) as client:
        found = listing(client)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    click.echo(_table(found.members))
    stage = "" if found.committed else ", not committed"
    click.echo(
        f"configuration {found.index}: {found.state}{stage}; leader {found.leader or '-'}; majority {found.majority}"
    )


_COLUMNS: Final = ("NODE", "MEMBER", "CLIENT", "PEER", "MATCH", "LINK")


def _table(rows: Sequence[MemberRow]) -> str:
    cells = [_COLUMNS]
    for row in rows:
        match = "-" if row.match_index is None else str(row.match_index)
        cells.append((row.id, row.member, row.client, row.peer, match, "up" if row.connected else "down"))
    widths = [max(len(each[column]) for each in cells) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, each, widths)).rstrip() for each in cells)


@member.command()
@click.argument("node", metavar="ID=HOST:PORT[@PEER_PORT]")
@_changing
def add(node: str, **options: Unpack[_Options]) -> None:
    """Add a node as a learner: it is sent the log, and has no vote. Start it with 'serve --join'."""
    _change("ADD", node, **options)


@member.command()
@click.argument("node_id", metavar="ID")
@_changing
def promote(node_id: str, **options: Unpack[_Options]) -> None:
    """Give a learner a vote, once it has caught up."""
    _change("PROMOTE", node_id, **options)


@member.command()
@click.argument("node_id", metavar="ID")
@_changing
def remove(node_id: str, **options: Unpack[_Options]) -> None:
    """Remove a node. It stops by itself, and its id is not used again."""
    _change("REMOVE", node_id, **options)


@member.command()
@click.argument("node", metavar="ID=HOST:PORT[@PEER_PORT]")
@_changing
def update(node: str, **options: Unpack[_Options]) -> None:
    """Change the addresses at which a node is reached."""
    _change("UPDATE", node, **options)


@member.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW=HOST:PORT[@PEER_PORT]")
@_changing
def replace(
    old: str, new: str, at: str, timeout_s: float, against: int | None, *, as_json: bool, dry_run: bool
) -> None:
    """Replace a node by one with a new id: it joins, catches up, and takes the vote of the old one, which goes.

    The old node may be down. Start the new one with 'serve --join' before this, or meanwhile.
    """
    operator = _Operator(at, timeout_s, as_json=as_json)
    while True:
        begun = operator.ask("REPLACE", old, new, against=against, is_dry=dry_run)
        facts, text = _plan(begun)
        if dry_run:
            operator.finish({"changed": False, **facts}, f"the next step would be: {text}")
            return
        operator.say(f"begun at index {facts['index']}: {text}")
        found = operator.follow(begun)
        against = None
        if found.find(old) is None:
            operator.finish({"changed": True, **facts}, text)
            return


@click.command(short_help="Hand leadership to another node.")
@click.option("--to", "target", metavar="ID", help="To whom; else to the voter that has most of the log")
@_common
def transfer(at: str, target: str | None, timeout_s: float, *, as_json: bool) -> None:
    """Hand leadership to another voter. Writes are held meanwhile, and none fails."""
    operator = _Operator(at, timeout_s, as_json=as_json)
    chosen = operator.transfer(target)
    operator.finish({"leader": chosen}, f"{chosen} leads")
