"""RAFT.MEMBER and RAFT.TRANSFER: who is a member, and to change that (raft/changes.py); to hand leadership over.

A change is begun at the leader and goes on by itself, also when another node leads then. It is complete when ``LIST``
says ``stable`` and ``committed``, at the index that was answered or behind it. Only one is under way at a time. With
``AGAINST index`` it is refused when the configuration is another than that whose index ``LIST`` had. ``DRYRUN`` begins
nothing, and says what would come of it. A refusal has a code of its own:

================  ==================================================================================
``MOVED``         another node leads
``INPROGRESS``    another change is not complete
``STALE``         the configuration is another than that of ``AGAINST``: somebody else was first
``NOTREADY``      the leader is too new, or a disk is not admitted yet: ask again
``NOTCAUGHTUP``   the learner is not as far as it has to be: ask again
``NOMAJORITY``    too few voters would answer; the arithmetic is told
``IDUSED``        every node needs an id of its own
``TRYAGAIN``      leadership is being handed over
================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from durable_raft.addresses import check_membership, parse_member
from durable_raft.errors import ChangeRefused, ConfigError
from durable_raft.kv.errors import NOT_AN_INTEGER, SYNTAX_ERROR
from durable_raft.kv.numbers import parse_int64
from durable_raft.kv.replies import ErrorReply, MapReply, Reply
from durable_raft.raft.changes import (
    TEXT_BYTES_MAX,
    AddLearner,
    ChangeInProgress,
    IdUsed,
    NotCaughtUp,
    NotLeading,
    NotReady,
    NoWorkingMajority,
    Promote,
    Readdress,
    Remove,
    StaleConfiguration,
    Step,
    next_configuration,
)
from durable_raft.raft.configuration import next_stage
from durable_raft.raft.quorum import majority
from durable_raft.raft.types import Configuration, Index, Member, Membership, NodeId
from durable_raft.server.commands.actions import NodeActions
from durable_raft.server.commands.arguments import Args
from durable_raft.server.commands.cluster import client_address
from durable_raft.server.commands.status import NodeStatus
from durable_raft.server.commands.subcommands import Subcommand, execute_subcommand, table

_CODES: Final[Mapping[type[ChangeRefused], str]] = {
    ChangeInProgress: "INPROGRESS",
    StaleConfiguration: "STALE",
    NotReady: "NOTREADY",
    NotCaughtUp: "NOTCAUGHTUP",
    NoWorkingMajority: "NOMAJORITY",
    IdUsed: "IDUSED",
    NotLeading: "TRYAGAIN",
}
"""Codes by the class of the refusal; the others have Redis's ``ERR``."""


class _Call(NamedTuple):
    status: NodeStatus
    node: NodeActions


class _Options(NamedTuple):
    against: Index | None
    is_dry: bool


def execute_member_command(status: NodeStatus, node: NodeActions, args: Args) -> Reply:
    """Execute RAFT.MEMBER with at least one argument."""
    return execute_subcommand(MEMBER_SUBCOMMANDS, _Call(status, node), args)


def transfer(status: NodeStatus, node: NodeActions, args: Args) -> Reply:
    """Execute RAFT.TRANSFER: begin, and answer to whom; who leads is told by INFO."""
    if len(args) not in (1, 3) or (len(args) == 3 and args[1].lower() != b"to"):
        return SYNTAX_ERROR
    if not status.is_leader:
        return _elsewhere(status)
    try:
        return node.transfer(_node_id(args[2]) if len(args) == 3 else None).encode()
    except ChangeRefused as refusal:
        return _refused(refusal)


def _elsewhere(status: NodeStatus) -> ErrorReply:
    leader = status.live_leader()
    if leader is None:
        return ErrorReply("CLUSTERDOWN no leader; nothing was done")
    return ErrorReply(f"MOVED 0 {client_address(leader).in_redis_form()}")


def _refused(refusal: ChangeRefused) -> ErrorReply:
    return ErrorReply(f"{_CODES.get(type(refusal), 'ERR')} {refusal}")


def _node_id(text: bytes) -> NodeId:
    return NodeId(_decoded(text, TEXT_BYTES_MAX))


def _decoded(text: bytes, bytes_max: int) -> str:
    """Return an argument as text; a longer one is none, and would be quoted in an error of its length."""
    if len(text) > bytes_max:
        raise ChangeRefused(f"expected at most {bytes_max} bytes, found {len(text)}")
    return text.decode("utf-8", "backslashreplace")


# -- LIST -------------------------------------------------------------------------------------------------------------


def _list(call: _Call, args: Args) -> Reply:
    del args
    status = call.status
    leader: Reply = None if status.leader_id is None else status.leader_id.encode()
    return MapReply(
        [
            (b"cluster-id", status.cluster_id.hex().encode()),
            (b"index", status.configuration.index),
            (b"state", status.configuration_state().encode()),
            (b"committed", int(status.is_configuration_committed)),
            (b"leader", leader),
            (b"majority", majority(len(status.configuration.voters))),
            (b"members", [_member_row(status, member) for member in status.members]),
            (b"former", [node_id.encode() for node_id in status.configuration.former]),
        ]
    )


def _member_row(status: NodeStatus, member: Member) -> Reply:
    peer = status.peers.get(member.node_id)
    is_self = member.node_id == status.node_id
    return MapReply(
        [
            (b"id", member.node_id.encode()),
            (b"member", status.part_of(member.node_id).encode()),
            (b"client", member.client_address.encode()),
            (b"peer", member.peer_address.encode()),
            (b"match-index", status.flushed_index if is_self else None if peer is None else peer.match_index),
            (b"connected", int(status.is_reachable(member.node_id))),
            (b"last-contact-ms", 0 if is_self else None if peer is None else peer.last_contact_ms),
        ]
    )


# -- changes ----------------------------------------------------------------------------------------------------------


def _options(words: Args) -> _Options | ErrorReply:
    """Return what stands behind the members: ``[AGAINST index] [DRYRUN]``, in any order."""
    against: Index | None = None
    is_dry, at = False, 0
    while at < len(words):
        word = words[at].lower()
        if word == b"dryrun":
            is_dry, at = True, at + 1
        elif word == b"against" and at + 1 < len(words):
            number = parse_int64(words[at + 1])
            if number is None or number < 0:
                return NOT_AN_INTEGER
            against, at = Index(number), at + 2
        else:
            return SYNTAX_ERROR
    return _Options(against, is_dry)


def _changing(count: int, steps_of: Callable[[Configuration, Args], Sequence[Step]]) -> Callable[[_Call, Args], Reply]:
    """Return what executes a subcommand with ``count`` arguments; ``steps_of`` makes the steps of them."""

    def execute(call: _Call, args: Args) -> Reply:
        options = _options(args[2 + count :])
        if isinstance(options, ErrorReply):
            return options
        status, configuration = call.status, call.status.configuration
        if not status.is_leader:
            return _elsewhere(status)
        try:
            steps = steps_of(configuration, args[2 : 2 + count])
            if options.against in (None, configuration.index) and any(map(_names_address, steps)):
                check_membership(Membership(next_configuration(configuration, steps).members))
            begun = call.node.change_members(steps, options.against, is_dry=options.is_dry)
        except ChangeRefused as refusal:
            return _refused(refusal)
        except ConfigError as error:
            return ErrorReply(f"ERR {error}")
        return _outcome(begun, is_dry=options.is_dry)

    return execute


def _names_address(step: Step) -> bool:
    """Return whether an address is to be looked at; whoever has an unlawful one can still be removed."""
    return isinstance(step, AddLearner | Readdress)


def _outcome(begun: Configuration, *, is_dry: bool) -> Reply:
    """Return what was begun, and what it comes to when it is complete."""
    last = begun
    while (following := next_stage(last)) is not None:
        last = following
    return MapReply(
        [
            (b"begun", int(not is_dry)),
            (b"index", begun.index),
            (b"voters", [node_id.encode() for node_id in last.voters]),
            (b"learners", [node_id.encode() for node_id in last.learners]),
            (b"majority", majority(len(last.voters))),
            (b"may-fail", len(last.voters) - majority(len(last.voters))),
        ]
    )


def _member(text: bytes) -> Member:
    return parse_member(_decoded(text, 3 * TEXT_BYTES_MAX))


def _add(_: Configuration, args: Args) -> Sequence[Step]:
    return [AddLearner(_member(args[0]))]


def _promote(_: Configuration, args: Args) -> Sequence[Step]:
    return [Promote(_node_id(args[0]))]


def _remove(_: Configuration, args: Args) -> Sequence[Step]:
    return [Remove(_node_id(args[0]))]


def _update(_: Configuration, args: Args) -> Sequence[Step]:
    return [Readdress(_member(args[0]))]


def _replace(before: Configuration, args: Args) -> Sequence[Step]:
    """Return the next step from one node to another: the new one joins, then both change places at once."""
    old, new = _node_id(args[0]), _member(args[1])
    if old not in before.ids():
        raise ChangeRefused(f"{old!r} is no member")
    if old == new.node_id:
        raise IdUsed(f"a node is replaced by one with another id than {old!r}")
    if new.node_id not in before.ids():
        # A learner has nothing that must be there before it goes.
        return [AddLearner(new), *([] if before.has_voter(old) else [Remove(old)])]
    if new not in before.members:
        raise ChangeRefused(f"{new.node_id!r} is a member at another address")
    return [*([Promote(new.node_id)] if new.node_id in before.learners else []), Remove(old)]


_OPTIONS: Final = "[AGAINST index] [DRYRUN]"

MEMBER_SUBCOMMANDS: Final = table(
    Subcommand(b"add", -3, _changing(1, _add), f"id=host:port {_OPTIONS}", "Add a node as a learner, without a vote"),
    Subcommand(b"list", 2, _list, "", "Return the members, and how far a change of them is"),
    Subcommand(b"promote", -3, _changing(1, _promote), f"node-id {_OPTIONS}", "Give a learner a vote"),
    Subcommand(b"remove", -3, _changing(1, _remove), f"node-id {_OPTIONS}", "Remove a node; its id is not used again"),
    Subcommand(
        b"replace",
        -4,
        _changing(2, _replace),
        f"node-id id=host:port {_OPTIONS}",
        "Add a node as a learner; asked again, give it the vote of another, which is removed",
    ),
    Subcommand(b"update", -3, _changing(1, _update), f"id=host:port {_OPTIONS}", "Change the addresses of a node"),
)
