"""RAFT.MEMBER and RAFT.TRANSFER: what is begun, what is answered, and every refusal with a code of its own."""

from __future__ import annotations

import dataclasses

import pytest

from durable_raft.errors import ChangeRefused
from durable_raft.kv.replies import ErrorReply, MapReply, Reply
from durable_raft.raft.changes import (
    ChangeInProgress,
    IdUsed,
    NotCaughtUp,
    NotLeading,
    NotReady,
    NoWorkingMajority,
    StaleConfiguration,
)
from durable_raft.raft.types import Index, Member, NodeId
from durable_raft.server.commands.member import execute_member_command, transfer
from durable_raft.server.commands.status import NodeStatus
from durable_raft.server.members import NOWHERE
from tests.support.node_status import FOLLOWER, LEADER, LEADERLESS, N1, N2, N3, Actions

N4 = NodeId("n4")
THERE = Member(N4, "10.0.0.4:7004", "10.0.0.4:17004")


def ask(words: str, status: NodeStatus = LEADER, node: Actions | None = None) -> Reply:
    """Return the answer to RAFT.MEMBER with ``words``."""
    args = [b"raft.member", *words.encode().split()]
    return execute_member_command(status, node or Actions(status.configuration), args)


def facts(reply: Reply) -> dict[str, Reply]:
    """Return a map by its names."""
    assert isinstance(reply, MapReply), reply
    return {name.decode(): value for name, value in reply.pairs if isinstance(name, bytes)}


def error(reply: Reply) -> str:
    """Return the line of an error."""
    assert isinstance(reply, ErrorReply), reply
    return reply.line


def with_learner(status: NodeStatus = LEADER) -> NodeStatus:
    """Return ``status`` with n4 as a learner, at index 9."""
    before = status.configuration
    grown = dataclasses.replace(before, index=Index(9), members=(*before.members, THERE), learners=(N4,))
    return dataclasses.replace(status, configuration=grown)


def test_list_tells_members_and_how_far_a_change_is() -> None:
    """On every node, from its own newest configuration; how far logs match is known to the leader."""
    told = facts(ask("LIST"))
    assert (told["index"], told["state"], told["committed"], told["leader"]) == (0, b"stable", 1, b"n1")
    assert (told["majority"], told["former"], told["cluster-id"]) == (2, [], bytes(range(16)).hex().encode())
    rows = told["members"]
    assert isinstance(rows, list)
    first, second, _ = map(facts, rows)
    assert (first["id"], first["match-index"], first["connected"]) == (b"n1", 19, 1)
    assert (second["client"], second["peer"], second["member"]) == (b"10.0.0.2:7002", b"10.0.0.2:17002", b"voter")
    assert (second["match-index"], second["last-contact-ms"]) == (19, 12)
    joint = dataclasses.replace(LEADER.configuration, voters=(N1, N2), outgoing=(N1, N2, N3), leaving=(N3,))
    told = facts(ask("list", dataclasses.replace(FOLLOWER, configuration=joint, is_configuration_committed=False)))
    assert (told["state"], told["committed"]) == (b"joint", 0)
    rows = told["members"]
    assert isinstance(rows, list)
    assert [facts(row)["member"] for row in rows] == [b"voter", b"voter", b"outgoing"]
    assert facts(rows[0])["match-index"] is None


def test_a_change_tells_what_comes_of_it() -> None:
    """The voters and the majority when it is complete."""
    node = Actions()
    told = facts(ask("ADD n4=10.0.0.4:7004@9000", node=node))
    assert (told["begun"], told["index"], told["voters"]) == (1, 21, [b"n1", b"n2", b"n3"])
    assert (told["learners"], told["majority"], told["may-fail"]) == ([b"n4"], 2, 1)
    assert node.configuration.members[3] == Member(N4, "10.0.0.4:7004", "10.0.0.4:9000")
    told = facts(ask("PROMOTE n4", with_learner()))
    assert (told["voters"], told["majority"], told["may-fail"]) == ([b"n1", b"n2", b"n3", b"n4"], 3, 1)
    told = facts(ask("REMOVE n3"))
    assert (told["voters"], told["learners"], told["majority"], told["may-fail"]) == ([b"n1", b"n2"], [], 2, 0)
    node = Actions()
    assert facts(ask("UPDATE n2=db2:7002", node=node))["voters"] == [b"n1", b"n2", b"n3"]
    assert node.configuration.members[1] == Member(N2, "db2:7002", "db2:17002")


def test_a_dry_run_begins_nothing() -> None:
    """It says what would come of it all the same."""
    node = Actions()
    before = node.configuration
    told = facts(ask("REMOVE n3 DRYRUN", node=node))
    assert (told["begun"], told["voters"], told["majority"]) == (0, [b"n1", b"n2"], 2)
    assert node.configuration == before
    node.refusal = NoWorkingMajority("of the new voters n1 answers")
    assert error(ask("REMOVE n3 DRYRUN", node=node)).startswith("NOMAJORITY of")


def test_a_node_is_replaced_in_two_steps_by_one_command() -> None:
    """Asked again it goes on: no vote is lost before another is there, and both change at once."""
    status = LEADER
    first = Actions()
    assert facts(ask("REPLACE n3 n4=10.0.0.4:7004", status, first))["learners"] == [b"n4"]
    assert first.configuration.outgoing == ()
    second = Actions(with_learner().configuration)
    told = facts(ask("REPLACE n3 n4=10.0.0.4:7004", with_learner(), second))
    assert (told["voters"], told["learners"]) == ([b"n1", b"n2", b"n4"], [])
    assert (second.configuration.outgoing, second.configuration.leaving) == ((N1, N2, N3), (N3,))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("REPLACE n9 n4=10.0.0.4:7004", "ERR 'n9' is no member"),
        ("REPLACE n3 n3=10.0.0.4:7004", "IDUSED a node is replaced by one with another id than 'n3'"),
        ("REPLACE n3 n4=10.0.0.5:7004", "ERR 'n4' is a member at another address"),
        ("ADD n5=10.0.0.4:7004", "ERR cluster=10.0.0.4:7004: expected every address once"),
        ("UPDATE n3=10.0.0.2:7002", "ERR cluster=10.0.0.2:7002: expected every address once"),
        ("ADD n5", "ERR cluster=n5: expected ID=HOST:PORT"),
        ("ADD n5=0.0.0.0:7001", "ERR cluster=n5=0.0.0.0:7001: expected an address that other machines can reach"),
        ("ADD n5=a..b:7001", "ERR cluster=a..b:7001: expected a host"),
        (f"ADD n5={'a' * 64}:7001", "ERR cluster="),
        (f"ADD n5=a:{'9' * 700}", "ERR cluster="),
        (f"UPDATE n3=a:1@{'9' * 700}", "ERR cluster="),
        ("ADD n4=10.0.0.9:7009", "IDUSED the node id 'n4' was used before"),
        ("PROMOTE n1", "ERR 'n1' is no learner"),
        ("REMOVE n9", "ERR 'n9' is no member"),
        ("REMOVE n3 AGAINST 8", "STALE made against the configuration at 8, but the present one is at 9"),
        ("REMOVE n3 AGAINST x", "ERR value is not an integer"),
        ("REMOVE n3 AGAINST -1", "ERR value is not an integer"),
        ("REMOVE n3 AGAINST", "ERR syntax error"),
        ("REMOVE n3 NOW", "ERR syntax error"),
        ("REMOVE", "ERR wrong number of arguments for 'raft.member|remove' command"),
        ("JOIN n3", "ERR unknown subcommand 'JOIN'. Try RAFT.MEMBER HELP."),
    ],
)
def test_what_makes_no_sense_is_refused(words: str, line: str) -> None:
    """With n4 as a learner, at index 9; nothing is begun."""
    status = with_learner()
    node = Actions(status.configuration)
    assert error(ask(words, status, node)).startswith(line)
    assert node.configuration == status.configuration


@pytest.mark.parametrize(
    "words", ["PROMOTE {}", "REMOVE {}", "ADD {}=a:1", "ADD n5={}:1", "REPLACE n3 {}", "REPLACE {} n4=a:1"]
)
def test_a_long_argument_is_not_quoted(words: str) -> None:
    """The reply would be as long, and the loop would be held while it is made."""
    line = error(ask(words.format("x" * 100_000)))
    assert line.startswith("ERR expected at most ")
    assert len(line) < 100
    assert error(transfer(LEADER, Actions(), [b"raft.transfer", b"to", b"x" * 100_000])).startswith(
        "ERR expected at most"
    )


def test_bytes_that_are_no_text_name_nobody() -> None:
    """They are quoted as text, so that the reply stays one line."""
    for name in (b"\xff\x00", b"n3\r\n+OK", b"\xed\xa0\x80"):
        assert "is no member" in error(execute_member_command(LEADER, Actions(), [b"raft.member", b"remove", name]))


def test_options_come_in_any_order() -> None:
    """And in any case."""
    status = with_learner()
    for words in ("remove n3 dryrun against 9", "REMOVE n3 AGAINST 9 DRYRUN"):
        assert facts(ask(words, status))["begun"] == 0


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (ChangeInProgress("x"), "INPROGRESS"),
        (StaleConfiguration(Index(1), Index(2)), "STALE"),
        (NotReady("x"), "NOTREADY"),
        (NotCaughtUp(N4, Index(5), Index(9)), "NOTCAUGHTUP"),
        (NoWorkingMajority("x"), "NOMAJORITY"),
        (IdUsed("x"), "IDUSED"),
        (NotLeading("x"), "TRYAGAIN"),
        (ChangeRefused("x"), "ERR"),
    ],
)
def test_every_refusal_has_a_code_of_its_own(refusal: ChangeRefused, code: str) -> None:
    """Programs look at it; people read the rest."""
    node = Actions()
    node.refusal = refusal
    for reply in (ask("REMOVE n3", node=node), transfer(LEADER, node, [b"raft.transfer"])):
        assert error(reply) == f"{code} {refusal}"


def test_who_does_not_lead_sends_to_the_leader() -> None:
    """Nothing was done; without a leader there is nobody to ask."""
    request = [b"raft.transfer"]
    for reply in (ask("REMOVE n3", FOLLOWER), transfer(FOLLOWER, Actions(), request)):
        assert error(reply) == "MOVED 0 10.0.0.1:7001"
    for reply in (ask("REMOVE n3", LEADERLESS), transfer(LEADERLESS, Actions(), request)):
        assert error(reply).startswith("CLUSTERDOWN")


def test_a_transfer_names_to_whom() -> None:
    """Whoever was asked for, or whoever is fit best."""
    node = Actions()
    assert transfer(LEADER, node, [b"raft.transfer"]) == b"n3"
    assert transfer(LEADER, node, [b"raft.transfer", b"to", b"n2"]) == b"n2"
    assert node.transfers == [None, N2]
    for words in ([b"to"], [b"at", b"n2"], [b"to", b"n2", b"n3"]):
        assert error(transfer(LEADER, node, [b"raft.transfer", *words])) == "ERR syntax error"


def test_who_has_an_address_that_is_none_can_be_removed() -> None:
    """A leader that lied named it; while it is there, nobody else's address is in doubt."""
    status = with_learner()
    nowhere = dataclasses.replace(THERE, client_address=NOWHERE, peer_address=NOWHERE)
    configuration = dataclasses.replace(status.configuration, members=(*status.members[:3], nowhere))
    status = dataclasses.replace(status, configuration=configuration)
    assert facts(ask("REMOVE n4", status, Actions(configuration)))["learners"] == []
