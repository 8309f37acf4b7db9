"""server/commands/cluster.py: what Redis Cluster clients are told of the group, whoever leads and whoever is dead."""

from __future__ import annotations

import dataclasses

import pytest
from redis.cluster import parse_cluster_slots

from durable_raft.kv.replies import ErrorReply
from durable_raft.raft.configuration import NO_MEMBERS
from durable_raft.raft.types import Configuration, Index, Member, Membership, NodeId
from durable_raft.server.commands.cluster import cluster_node_id, execute_cluster_command
from durable_raft.server.commands.info import replicas_caught_up
from durable_raft.server.commands.status import NodeStatus
from durable_raft.wire.resp import encode_reply
from tests.support.node_status import (
    CLUSTER_ID,
    FOLLOWER,
    LEADER,
    LEADERLESS,
    N1,
    N2,
    N3,
    Actions,
    lost_peer,
    seen_by_client,
)
from tests.support.redis_py import parse_cluster_info, parse_cluster_nodes

ID1, ID2, ID3 = (cluster_node_id(CLUSTER_ID, node_id).encode() for node_id in (N1, N2, N3))


def ask(status: NodeStatus, *words: bytes, protocol: int = 2) -> object:
    """Return what a client sees of CLUSTER ``words``."""
    return seen_by_client(execute_cluster_command(status, Actions(), [b"CLUSTER", *words]), protocol)


def nodes(status: NodeStatus) -> list[str]:
    """Return the lines of CLUSTER NODES."""
    text = ask(status, b"NODES")
    assert isinstance(text, bytes)
    assert text.endswith(b"\n")
    return text.decode().splitlines()


def error(status: NodeStatus, *words: bytes) -> str:
    """Return the error line of CLUSTER ``words``."""
    reply = execute_cluster_command(status, Actions(), [b"cluster", *words])
    assert isinstance(reply, ErrorReply), reply
    return reply.line


def test_node_id_is_forty_hex_digits_and_depends_on_cluster_and_node() -> None:
    """A node's id is 40 hex digits, stable, and differs between nodes and between clusters."""
    assert cluster_node_id(CLUSTER_ID, N1) == "0ccf67bffb563952c891fb965420a67efb097a67"
    others = {cluster_node_id(CLUSTER_ID, N1), cluster_node_id(CLUSTER_ID, N2), cluster_node_id(b"x" * 16, N1)}
    assert len(others) == 3
    assert all(len(node_id) == 40 for node_id in others)


@pytest.mark.parametrize("status", [LEADER, FOLLOWER], ids=["leader", "follower"])
def test_slots_gives_all_slots_to_the_leader_with_every_other_node_as_its_replica(status: NodeStatus) -> None:
    """Leader and follower alike answer CLUSTER SLOTS with one range, the leader first."""
    assert ask(status, b"SLOTS") == [
        [
            0,
            16383,
            [b"10.0.0.1", 7001, ID1, []],
            [b"10.0.0.2", 7002, ID2, []],
            [b"10.0.0.3", 7003, ID3, []],
        ]
    ]


def test_slots_has_metadata_maps_in_resp3() -> None:
    """The fourth item of a node is an empty map for a RESP3 client."""
    slots = ask(FOLLOWER, b"slots", protocol=3)
    assert isinstance(slots, list)
    assert slots[0][2] == [b"10.0.0.1", 7001, ID1, {}]


def test_slots_without_leader_names_the_answering_node_and_never_a_dead_one() -> None:
    """While no leader is known the answering node owns the slots, and the node whose link is down is not named."""
    assert ask(LEADERLESS, b"SLOTS") == [[0, 16383, [b"10.0.0.2", 7002, ID2, []], [b"10.0.0.3", 7003, ID3, []]]]


def test_slots_does_not_name_a_leader_whose_link_is_down() -> None:
    """A killed leader is known to be dead before its followers' election timeout ends: it is not named as owner."""
    status = dataclasses.replace(FOLLOWER, peers={**FOLLOWER.peers, N1: lost_peer()})
    assert status.leader_id == N1
    assert ask(status, b"SLOTS") == ask(LEADERLESS, b"SLOTS")


def test_slots_names_a_leader_that_refuses_this_node() -> None:
    """It was removed, and moves commands there; its clients learn who is a member before it ends."""
    refusing = dataclasses.replace(lost_peer(), refuses=True)
    status = dataclasses.replace(FOLLOWER, peers={**FOLLOWER.peers, N1: refusing})
    assert ask(status, b"SLOTS") == ask(FOLLOWER, b"SLOTS")


def test_slots_are_understood_by_redis_py() -> None:
    """redis-py reads the owner and the replicas from CLUSTER SLOTS."""
    assert parse_cluster_slots(ask(FOLLOWER, b"SLOTS")) == {
        (0, 16383): {"primary": ("10.0.0.1", 7001), "replicas": [("10.0.0.2", 7002), ("10.0.0.3", 7003)]}
    }


def test_slots_shows_an_ipv6_address_without_brackets() -> None:
    """An IPv6 host is given as clients want to connect to it: without the brackets of HOST:PORT."""
    alone = Member(NodeId("n1"), "[::1]:7001", "[::1]:17001")
    configuration = Configuration.initial(Membership((alone,)))
    status = dataclasses.replace(LEADER, configuration=configuration, myself=alone, peers={})
    assert ask(status, b"SLOTS") == [[0, 16383, [b"::1", 7001, ID1, []]]]


def with_learner(status: NodeStatus) -> NodeStatus:
    """Return ``status`` with n3 as a learner."""
    learning = dataclasses.replace(status.configuration, voters=(N1, N2), learners=(N3,))
    return dataclasses.replace(status, configuration=learning)


def test_a_learner_is_shown_and_nobody_is_sent_there_to_read() -> None:
    """Its state may be far behind, or none at all."""
    status = with_learner(LEADER)
    replica = [b"10.0.0.2", 7002, ID2, []]
    assert ask(status, b"SLOTS") == [[0, 16383, [b"10.0.0.1", 7001, ID1, []], replica]]
    lines = ask(status, b"NODES")
    assert isinstance(lines, bytes)
    flags = [line.split(b" ")[2] for line in lines.splitlines()]
    assert flags == [b"myself,master", b"slave", b"slave,nofailover"]
    shards = ask(status, b"SHARDS")
    assert isinstance(shards, list)
    assert str(shards).count("loading") == 1
    assert replicas_caught_up(dataclasses.replace(status, last_log_index=Index(1))) == 1
    assert replicas_caught_up(dataclasses.replace(LEADER, last_log_index=Index(1))) == 2


def test_a_node_that_is_no_member_names_itself() -> None:
    """Before it joins, and after it was removed: it knows its own address at least."""
    alone = dataclasses.replace(FOLLOWER, configuration=NO_MEMBERS, peers={}, leader_id=None)
    assert ask(alone, b"SLOTS") == [[0, 16383, [b"10.0.0.2", 7002, ID2, []]]]
    elsewhere = dataclasses.replace(FOLLOWER, configuration=NO_MEMBERS, peers={})
    assert ask(elsewhere, b"SLOTS") == ask(alone, b"SLOTS")


def test_shards_describes_one_shard_with_every_node() -> None:
    """CLUSTER SHARDS is one shard of all slots; each node has its role, offset and health (RESP3 maps)."""
    shards = ask(LEADERLESS, b"SHARDS", protocol=3)
    assert isinstance(shards, list)
    assert len(shards) == 1
    assert shards[0][b"slots"] == [0, 16383]
    facts = [(n[b"id"], n[b"role"], n[b"replication-offset"], n[b"health"]) for n in shards[0][b"nodes"]]
    assert facts == [
        (ID2, b"master", 19, b"online"),
        (ID1, b"replica", 0, b"fail"),
        (ID3, b"replica", 0, b"online"),
    ]
    assert list(shards[0][b"nodes"][0]) == [
        b"id",
        b"port",
        b"ip",
        b"endpoint",
        b"role",
        b"replication-offset",
        b"health",
    ]


def test_shards_is_flat_in_resp2() -> None:
    """A RESP2 client gets the maps of CLUSTER SHARDS as flat arrays: 4 items a shard, 14 a node."""
    shards = ask(LEADER, b"SHARDS")
    assert isinstance(shards, list)
    assert [len(shards[0]), *(len(node) for node in shards[0][3])] == [4, 14, 14, 14]
    assert shards[0][3][2] == [
        *(b"id", ID3, b"port", 7003, b"ip", b"10.0.0.3", b"endpoint", b"10.0.0.3"),
        *(b"role", b"replica", b"replication-offset", 20, b"health", b"online"),
    ]


def test_nodes_has_one_line_per_node_in_redis_form() -> None:
    """CLUSTER NODES gives id, address@bus, flags, master, contact, term as epoch, link and the owner's slots."""
    id1, id2, id3 = ID1.decode(), ID2.decode(), ID3.decode()
    assert nodes(FOLLOWER) == [
        f"{id1} 10.0.0.1:7001@17001 master - 0 1699999999988 7 connected 0-16383",
        f"{id2} 10.0.0.2:7002@17002 myself,slave {id1} 0 0 7 connected",
        f"{id3} 10.0.0.3:7003@17103 slave {id1} 0 1699999999988 7 connected",
    ]


def test_nodes_marks_a_dead_node_as_failed_and_disconnected() -> None:
    """A node whose link is down has the flag ``fail`` and no slots; the answering node stands in as master."""
    id1, id2 = ID1.decode(), ID2.decode()
    assert nodes(LEADERLESS)[:2] == [
        f"{id2} 10.0.0.2:7002@17002 myself,master - 0 0 7 connected 0-16383",
        f"{id1} 10.0.0.1:7001@17001 slave,fail {id2} 0 1699999995000 7 disconnected",
    ]


def test_nodes_are_understood_by_redis_py() -> None:
    """redis-py's parser of CLUSTER NODES finds addresses, flags, epoch and slots."""
    parsed = parse_cluster_nodes(ask(LEADER, b"NODES"))
    assert parsed["10.0.0.1:7001"]["flags"] == "myself,master"
    assert parsed["10.0.0.1:7001"]["slots"] == [["0", "16383"]]
    assert parsed["10.0.0.3:7003"] == {
        "node_id": ID3.decode(),
        "hostname": "",
        "flags": "slave",
        "master_id": ID1.decode(),
        "last_ping_sent": "0",
        "last_pong_rcvd": "1699999999988",
        "epoch": "7",
        "slots": [],
        "migrations": [],
        "connected": True,
    }


@pytest.mark.parametrize("name", [b"REPLICAS", b"slaves"])
def test_replicas_lists_the_lines_of_the_owners_replicas(name: bytes) -> None:
    """CLUSTER REPLICAS and SLAVES of the owner's id give the node lines of all others."""
    assert ask(LEADER, name, ID1.upper()) == [line.encode() for line in nodes(LEADER)[1:]]


def test_replicas_refuses_other_ids() -> None:
    """A replica's id and an unknown id get Redis's errors."""
    assert error(LEADER, b"REPLICAS", ID2) == "ERR The specified node is not a master"
    assert error(LEADER, b"REPLICAS", b"nobody") == "ERR Unknown node nobody"


@pytest.mark.parametrize(
    ("leaderless_ms", "state"), [(0, "ok"), (2000, "ok"), (2001, "fail")], ids=["leader", "held", "too long"]
)
def test_info_fails_only_after_the_hold_time(leaderless_ms: int, state: str) -> None:
    """cluster_state is ok while commands are held for want of a leader, and fail once they are refused."""
    text = ask(dataclasses.replace(LEADERLESS, leaderless_ms=leaderless_ms), b"INFO")
    parsed = parse_cluster_info(text)
    assert parsed["cluster_state"] == state
    assert parsed["cluster_slots_assigned"] == parsed["cluster_slots_ok"] == "16384"
    assert (parsed["cluster_known_nodes"], parsed["cluster_size"]) == ("3", "1")
    assert parsed["cluster_current_epoch"] == parsed["cluster_my_epoch"] == "7"
    assert isinstance(text, bytes)
    assert text.count(b"\r\n") == text.count(b"\n") == len(parsed)


def test_my_id_is_the_answering_nodes() -> None:
    """CLUSTER MYID is the id that CLUSTER NODES shows as myself."""
    assert ask(FOLLOWER, b"MyId") == ID2


def test_key_slot_hashes_the_tag_only() -> None:
    """CLUSTER KEYSLOT is CRC16 of the key, or of its {tag}, modulo 16384 (values from a real Redis)."""
    assert ask(FOLLOWER, b"KEYSLOT", b"foo") == 12182
    assert ask(FOLLOWER, b"KEYSLOT", b"a{foo}b") == 12182


def test_count_keys_in_slot_asks_the_machine() -> None:
    """CLUSTER COUNTKEYSINSLOT answers what the machine counts for that slot."""
    assert ask(FOLLOWER, b"COUNTKEYSINSLOT", b"16383") == 16


@pytest.mark.parametrize("slot", [b"-1", b"16384"])
def test_count_keys_in_slot_refuses_slots_that_are_none(slot: bytes) -> None:
    """A number outside 0..16383 is an invalid slot."""
    assert error(FOLLOWER, b"COUNTKEYSINSLOT", slot) == "ERR Invalid slot"


@pytest.mark.parametrize("slot", [b"x", b"", b"-", b"01", b"1 ", b"9" * 5000])
def test_count_keys_in_slot_refuses_what_is_no_integer(slot: bytes) -> None:
    """Text that is not a 64-bit integer in its shortest form is refused, however long."""
    assert error(FOLLOWER, b"COUNTKEYSINSLOT", slot) == "ERR value is not an integer or out of range"


def test_unknown_subcommand_and_wrong_arity_are_worded_like_redis() -> None:
    """An unknown subcommand is repeated as it was written; a wrong arity names ``cluster|name``."""
    assert error(FOLLOWER, b"Foo") == "ERR unknown subcommand 'Foo'. Try CLUSTER HELP."
    assert error(FOLLOWER, b"KeySlot") == "ERR wrong number of arguments for 'cluster|keyslot' command"
    assert error(FOLLOWER, b"help", b"x") == "ERR wrong number of arguments for 'cluster|help' command"


def test_unknown_subcommand_is_repeated_on_one_line_and_bounded() -> None:
    """What a client sent cannot break the error line, nor make it long."""
    seen = encode_reply(execute_cluster_command(FOLLOWER, Actions(), [b"cluster", b"a\r\nb\xff\xc3\xa9"]), 2)
    assert seen == b"-ERR unknown subcommand 'a  b\xff\xc3\xa9'. Try CLUSTER HELP.\r\n"
    assert len(error(FOLLOWER, b"x" * 100_000)) < 200


def test_help_names_every_subcommand() -> None:
    """CLUSTER HELP has a line for each subcommand and its sentence below."""
    lines = ask(FOLLOWER, b"HELP")
    assert isinstance(lines, list)
    assert lines[0] == b"CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    assert b"KEYSLOT key" in lines
    assert lines[-2:] == [b"HELP", b"    Print this help."]
