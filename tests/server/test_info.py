"""server/commands/info.py: INFO, ROLE and WAIT's count, as Redis clients and monitoring read them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from durable_raft.kv.replies import Verbatim
from durable_raft.raft.configuration import NO_MEMBERS
from durable_raft.raft.types import Index, Role
from durable_raft.raft.versions import Versions
from durable_raft.server.commands.info import info, replicas_caught_up, role
from durable_raft.server.commands.status import NodeStatus, TlsCounts
from tests.support.node_status import (
    FOLLOWER,
    LEADER,
    LEADERLESS,
    N1,
    N2,
    N3,
    connected_peer,
    lost_peer,
    seen_by_client,
)
from tests.support.redis_py import parse_info


def text(status: NodeStatus, *sections: bytes) -> str:
    """Return the text of INFO ``sections``."""
    reply = info(status, [b"INFO", *sections])
    assert isinstance(reply, Verbatim)
    return reply.text.decode()


def parsed(status: NodeStatus, *sections: bytes) -> dict[str, Any]:
    """Return INFO ``sections`` as redis-py reads them."""
    return parse_info(text(status, *sections))


def raft_lines(status: NodeStatus) -> dict[str, str]:
    """Return the fields of INFO raft as text."""
    lines = text(status, b"raft").splitlines()
    assert lines[0] == "# Raft"
    return dict(line.split(":", 1) for line in lines[1:])


def test_node_with_a_notice_is_ready_and_one_with_an_alarm_is_not() -> None:
    """Both are named alike, with their texts; a certificate that ends takes no node out of service."""
    warned = dataclasses.replace(LEADER, notices={"certificate_ends": "it ends\nsoon"})
    lines = raft_lines(warned)
    assert (lines["raft_ready"], lines["raft_alarms"]) == ("1", "certificate_ends")
    assert lines["raft_alarm_certificate_ends"] == "it ends soon"
    lines = raft_lines(dataclasses.replace(warned, alarms={"removed": "it was"}))
    assert (lines["raft_ready"], lines["raft_alarms"]) == ("0", "removed,certificate_ends")


def test_clients_with_tls_are_counted_where_it_is_spoken() -> None:
    """A node without it says nothing of it, as Redis does."""
    assert "tls" not in text(LEADER)
    counts = TlsCounts(connected=3, undecided=2, handshakes=9, refused=4, timed_out=1)
    found = parsed(dataclasses.replace(LEADER, tls=counts))
    assert (found["tls_connected_clients"], found["tls_undecided_clients"]) == (3, 2)
    assert (found["tls_handshakes"], found["tls_refused_clients"], found["tls_timed_out_handshakes"]) == (9, 4, 1)


def test_status_is_facts() -> None:
    """A status can be kept and compared: nothing in it asks the node for more (server/commands/actions.py does)."""
    called = {field.name for field in dataclasses.fields(NodeStatus) if callable(getattr(LEADER, field.name))}
    assert called == set()


def test_raft_section_has_the_documented_fields() -> None:
    """INFO raft gives every cursor and the hard state under their names."""
    lines = raft_lines(FOLLOWER)
    expected = {
        "raft_node_id": "n2",
        "raft_cluster_id": "000102030405060708090a0b0c0d0e0f",
        "raft_role": "follower",
        "raft_leader_id": "n1",
        "raft_current_term": "7",
        "raft_voted_for": "n1",
        "raft_first_log_index": "3",
        "raft_last_log_index": "20",
        "raft_flushed_index": "19",
        "raft_commit_index": "18",
        "raft_last_applied": "17",
        "raft_snapshot_index": "2",
        "raft_state_hash": "0000000000abcdef",
        "raft_flushes": "11",
        "raft_entries": "12",
        "raft_log_bytes": "13",
        "raft_fsync_latency_us": "p50=100,p99=200,max=300",
        "raft_commit_latency_us": "p50=400,p99=500,max=600",
        "raft_leaderless_ms": "0",
        "raft_election_timeout_ms": "600-1200",
        "raft_late_ms": "150",
        "raft_slow_flush_ms": "0",
        "raft_failed_campaigns": "1",
        "raft_writes_refused": "",
    }
    assert {name: lines[name] for name in expected} == expected


def test_raft_section_has_a_line_per_peer() -> None:
    """Each other voter has its match index (the leader only knows it), link, last contact and address."""
    assert raft_lines(LEADER)["raft_peer_n2"] == (
        "match_index=19,connected=1,replaced=0,last_contact_ms=12,address=10.0.0.2:7002,member=voter,versions="
    )
    assert raft_lines(LEADERLESS)["raft_peer_n1"] == (
        "match_index=,connected=0,replaced=0,last_contact_ms=5000,address=10.0.0.1:7001,member=voter,versions="
    )
    assert "raft_peer_n1" not in raft_lines(LEADER)


def test_raft_section_has_the_version_of_the_cluster() -> None:
    """And which ones this node and each peer that is heard can."""
    peers = {**LEADER.peers, N2: dataclasses.replace(LEADER.peers[N2], versions=Versions(1, 7))}
    lines = raft_lines(dataclasses.replace(LEADER, cluster_version=2, peers=peers))
    assert (lines["raft_cluster_version"], lines["raft_versions"]) == ("2", "1-2")
    assert lines["raft_peer_n2"].endswith(",versions=1-7")


def test_what_is_told_of_the_cluster_secret() -> None:
    """How many there are, what is wrong with their file, and which links they were proven on."""
    lines = raft_lines(LEADER)
    assert (lines["raft_cluster_secrets"], lines["raft_cluster_secret_problem"]) == ("0", "")
    assert "proven" not in lines["raft_peer_n2"]
    peers = {**LEADER.peers, N2: dataclasses.replace(LEADER.peers[N2], is_proven=True)}
    lines = raft_lines(dataclasses.replace(LEADER, peers=peers, cluster_secrets=2, cluster_secret_problem="no file"))
    assert (lines["raft_cluster_secrets"], lines["raft_cluster_secret_problem"]) == ("2", "no file")
    assert lines["raft_peer_n2"].endswith(",proven=1")
    assert lines["raft_peer_n3"].endswith(",proven=0")


def test_raft_section_shows_the_configuration_while_members_change() -> None:
    """Who votes, who does until the joint configuration is left, who only listens; and how far the change is."""
    assert raft_lines(LEADER)["raft_member"] == "voter"
    assert raft_lines(LEADER)["raft_configuration_state"] == "stable"
    joint = dataclasses.replace(
        LEADER.configuration,
        index=Index(20),
        voters=(N2, N3),
        outgoing=(N1, N2),
        leaving=(N1,),
    )
    lines = raft_lines(dataclasses.replace(LEADER, configuration=joint, is_configuration_committed=False))
    expected = {
        "raft_member": "outgoing",
        "raft_configuration_index": "20",
        "raft_configuration_state": "joint",
        "raft_configuration_committed": "0",
        "raft_voters": "2",
        "raft_learners": "0",
    }
    assert {name: lines[name] for name in expected} == expected
    left = dataclasses.replace(joint, outgoing=(), learners=(N1,))
    lines = raft_lines(dataclasses.replace(LEADER, configuration=left))
    assert (lines["raft_member"], lines["raft_configuration_state"]) == ("leaving", "leaving")
    assert (lines["raft_voters"], lines["raft_learners"]) == ("2", "1")


def test_a_node_that_is_no_member_yet_says_so() -> None:
    """It has no peers, and no leader."""
    lonely = dataclasses.replace(LEADERLESS, configuration=NO_MEMBERS, peers={})
    lines = raft_lines(lonely)
    assert (lines["raft_member"], lines["raft_configuration_state"], lines["raft_voters"]) == ("none", "none", "0")


def test_raft_section_shows_nobody_as_nothing() -> None:
    """No leader and no vote are empty values."""
    lines = raft_lines(dataclasses.replace(LEADERLESS, voted_for=None))
    assert (lines["raft_leader_id"], lines["raft_voted_for"]) == ("", "")
    assert (lines["raft_role"], lines["raft_leaderless_ms"]) == ("pre-candidate", "150")


def test_raft_section_says_why_writes_are_refused_on_one_line() -> None:
    """The reason of a refusal is shown, and a line break in it cannot forge a field."""
    status = dataclasses.replace(FOLLOWER, write_refusal="disk full\r\nraft_role:leader")
    assert raft_lines(status)["raft_writes_refused"] == "disk full  raft_role:leader"
    assert raft_lines(status)["raft_role"] == "follower"
    assert parsed(status, b"persistence")["aof_last_write_status"] == "err"


def test_info_has_what_clients_look_for() -> None:
    """redis-py, ioredis and glide find the fields by which they decide that a server is ready, and what it is."""
    fields = parsed(LEADER)
    expected = {
        "redis_version": "7.0.15",
        "durable_raft_version": "0.1.0",
        "redis_mode": "cluster",
        "cluster_enabled": 1,
        "loading": 0,
        "role": "master",
        "connected_slaves": 2,
        "connected_clients": 4,
        "maxclients": 10000,
        "total_connections_received": 9,
        "total_commands_processed": 100,
        "process_id": 4242,
        "tcp_port": 7001,
        "uptime_in_seconds": 90_000,
        "uptime_in_days": 1,
        "db0": {"keys": 5, "expires": 1, "avg_ttl": 0},
    }
    assert {name: fields[name] for name in expected} == expected


def test_counters_of_redis_are_not_repeated_under_raft() -> None:
    """Connections and commands are counted once, under Redis's names."""
    assert "raft_connections" not in raft_lines(LEADER)
    assert "raft_commands_processed" not in raft_lines(LEADER)


def test_leader_lists_its_live_followers() -> None:
    """slaveN lines give address, match index and lag of every follower whose link is up."""
    status = dataclasses.replace(LEADER, peers={N2: lost_peer(5), N3: connected_peer(20)})
    fields = parsed(status, b"replication")
    assert fields["connected_slaves"] == 1
    assert fields["slave0"] == {"ip": "10.0.0.3", "port": 7003, "state": "online", "offset": 20, "lag": 0}
    assert "slave1" not in fields
    assert fields["master_repl_offset"] == 20


def test_follower_names_its_leader() -> None:
    """A follower's replication section names the leader and says that the link is up."""
    fields = parsed(FOLLOWER, b"replication")
    assert (fields["role"], fields["master_host"], fields["master_port"]) == ("slave", "10.0.0.1", 7001)
    assert (fields["master_link_status"], fields["slave_repl_offset"]) == ("up", 19)


@pytest.mark.parametrize(
    "status", [LEADERLESS, dataclasses.replace(FOLLOWER, peers={**FOLLOWER.peers, N1: lost_peer()})]
)
def test_follower_of_nobody_or_of_a_dead_leader_says_the_link_is_down(status: NodeStatus) -> None:
    """master_link_status is down while no leader is known, and while the link to the leader is."""
    assert parsed(status, b"replication")["master_link_status"] == "down"


def test_all_nodes_name_one_replication_id() -> None:
    """The replication id is the data set's: every node of the cluster shows the same."""
    ids = {parsed(status, b"replication")["master_replid"] for status in (LEADER, FOLLOWER)}
    assert len(ids) == 1
    assert len(ids.pop()) == 40


@pytest.mark.parametrize("sections", [(), (b"all",), (b"everything",), (b"DEFAULT",), (b"raft", b"all")])
def test_every_section_is_shown_by_default(sections: tuple[bytes, ...]) -> None:
    """INFO without a section, and the words for everything, give all sections in one order, blank lines between."""
    titles = [line for line in text(LEADER, *sections).splitlines() if line.startswith("#")]
    assert titles == [
        *("# Server", "# Clients", "# Memory", "# Persistence", "# Stats", "# Replication"),
        *("# CPU", "# Cluster", "# Raft", "# Keyspace"),
    ]
    assert text(LEADER, *sections).count("\r\n\r\n# ") == len(titles) - 1


def test_sections_are_chosen_in_any_case_once_and_unknown_ones_are_empty() -> None:
    """Several sections may be named, in any case; a name twice counts once; nobody knows ``nosuch``."""
    chosen = text(LEADER, b"KEYSPACE", b"Cluster", b"cluster", b"nosuch", b"\xff")
    assert chosen == "# Cluster\r\ncluster_enabled:1\r\n\r\n# Keyspace\r\ndb0:keys=5,expires=1,avg_ttl=0\r\n"
    assert text(LEADER, b"nosuch") == ""


def test_keyspace_of_an_empty_database_has_no_line() -> None:
    """Redis shows no db0 line while there is no key."""
    assert text(dataclasses.replace(LEADER, keys=0), b"keyspace") == "# Keyspace\r\n"


def test_memory_is_also_written_for_people() -> None:
    """Sizes are shown as Redis shows them."""
    status = dataclasses.replace(LEADER, memory_bytes=3 * 512 * 1024 * 1024)
    fields = parsed(status, b"memory")
    assert (fields["used_memory"], fields["used_memory_human"]) == (1_610_612_736, "1.50G")
    assert fields["maxmemory_human"] == "0B"


def test_info_is_text_in_both_protocols() -> None:
    """INFO is a bulk string in RESP2 and verbatim text in RESP3."""
    reply = info(LEADER, [b"INFO", b"cluster"])
    assert seen_by_client(reply, 2) == b"# Cluster\r\ncluster_enabled:1\r\n"
    assert str(seen_by_client(reply, 3)).endswith("# Cluster\\r\\ncluster_enabled:1\\r\\n'")


def test_role_of_a_leader_lists_followers_as_text() -> None:
    """ROLE on the leader: master, offset, and [host, port, offset] of each live follower, as bulk strings."""
    assert role(LEADER) == [b"master", 20, [[b"10.0.0.2", b"7002", b"19"], [b"10.0.0.3", b"7003", b"20"]]]


def test_role_of_a_follower_names_the_leader() -> None:
    """ROLE on a follower: slave, the leader's host and port, the link's state, and the flushed index."""
    assert role(FOLLOWER) == [b"slave", b"10.0.0.1", 7001, b"connected", 19]
    dead = dataclasses.replace(FOLLOWER, peers={**FOLLOWER.peers, N1: lost_peer()})
    assert role(dead) == [b"slave", b"10.0.0.1", 7001, b"connect", 19]


@pytest.mark.parametrize("raft_role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_role_without_a_leader_is_slave_of_nobody(raft_role: Role) -> None:
    """Whoever knows no leader is a slave whose link is not there."""
    assert role(dataclasses.replace(LEADERLESS, role=raft_role)) == [b"slave", b"", 0, b"connect", 19]


def test_replicas_caught_up_counts_whole_logs_only() -> None:
    """A follower counts for WAIT when all of the leader's log is flushed there, and not one entry less."""
    assert replicas_caught_up(LEADER) == 1
    both = dataclasses.replace(LEADER, peers={N2: connected_peer(20), N3: connected_peer(20)})
    assert replicas_caught_up(both) == 2
