"""The syntax of addresses: what an operator may say and what is refused, the form Redis writes, and that it is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from durable_raft.addresses import Address, format_cluster, parse_address, parse_cluster, parse_redis_address
from durable_raft.errors import ConfigError
from durable_raft.raft.types import Member, Membership, NodeId

ROOT = Path(__file__).resolve().parents[1]


def test_cluster_list_gives_sorted_members_with_peer_ports() -> None:
    """Members are sorted by id; the peer port is the client port + 10000 unless given after @."""
    membership = parse_cluster("n3=c:7003@9000, n1=A:7001,n2=[::1]:7002")
    assert membership == Membership(
        (
            Member(NodeId("n1"), "a:7001", "a:17001"),
            Member(NodeId("n2"), "[::1]:7002", "[::1]:17002"),
            Member(NodeId("n3"), "c:7003", "c:9000"),
        )
    )


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:1", "127.0.0.1", 1), ("Db-1.example:65535", "db-1.example", 65535), ("[0:0::1]:80", "::1", 80)],
)
def test_address_is_parsed_and_normalised(text: str, host: str, port: int) -> None:
    """Hosts become lower case, IPv6 addresses their shortest form without brackets."""
    address = parse_address("listen", text)
    assert (address.host, address.port) == (host, port)
    assert parse_address("listen", str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":7001", "host", "host:", "host:0", "host:65536", "host:-1", "host:7x", "host:٣", "::1:80", "[x]:1"),
        *("a b:1", "host:" + "9" * 5000, "a..b:1", ".:1", ".a:1", f"{'a' * 64}:1", f"{'a' * 64}.b:1"),
    ],
)
def test_malformed_address_is_refused_with_its_value(text: str) -> None:
    """A host or port that is missing, malformed or out of range is refused; the message holds setting and value."""
    with pytest.raises(ConfigError, match="listen=") as caught:
        parse_address("listen", text)
    assert text in str(caught.value)


@pytest.mark.parametrize("host", ["a", "a.b", "a.b.", f"{'a' * 63}.{'b' * 63}", "-", "_x", ".".join("abc" * 90)])
def test_a_host_that_is_taken_can_be_looked_up(host: str) -> None:
    """Whoever dials it meets an error of the system's at most: one that Python raises for its form ends the node."""
    assert parse_address("listen", f"{host}:1").host.encode("idna")


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ("n1=a:1,n1=b:1", "every node id once"),
        ("n1=a:1,n2=a:1", "client address of n1 and the client address of n2"),
        ("n1=a:1@500,n2=a:2@500", "peer address of n1 and the peer address of n2"),
        ("n1=a:1@2,n2=a:2", "peer address of n1 and the client address of n2"),
        ("n1=a:1@1", "client address of n1 and the peer address of n1"),
        ("n 1=a:1", "letters, digits"),
        ("=a:1", "letters, digits"),
        ("x" * 65 + "=a:1", "1 to 64"),
        ("a:1", "ID=HOST:PORT"),
        ("n1=a:1,", "ID=HOST:PORT"),
        ("n1=a:1@0", "a port from 1"),
        ("n1=a:1@", "a port from 1"),
        ("n1=0.0.0.0:1", "wildcard"),
        ("n1=[::]:1", "wildcard"),
    ],
)
def test_bad_cluster_is_refused_with_the_reason(cluster: str, reason: str) -> None:
    """Two nodes with one id or address, bad names and wildcards are refused, each with its own reason."""
    with pytest.raises(ConfigError, match="cluster=") as caught:
        parse_cluster(cluster)
    assert reason in str(caught.value)


def test_port_too_high_for_the_default_peer_port_is_refused() -> None:
    """A client port above 55535 leaves no room for + 10000: the peer port must be given, and may be."""
    with pytest.raises(ConfigError, match=r"a:55536.*\+ 10000.*65536.*@PEER_PORT"):
        parse_cluster("n1=a:55536")
    assert parse_cluster("n1=a:55536@1000").voters[0].peer_address == "a:1000"
    assert parse_cluster("n1=a:55535").voters[0].peer_address == "a:65535"


@pytest.mark.parametrize("cluster", ["n1=A:7001", "n2=[0:0::1]:7002,n1=db-1.example:7001@65535"])
def test_written_list_is_read_as_the_same_membership(cluster: str) -> None:
    """What a tool tells an operator to start nodes with means the membership it made."""
    membership = parse_cluster(cluster)
    assert parse_cluster(format_cluster(membership)) == membership


# -- as Redis writes them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["127.0.0.1:7001", "::1:7001", "fe80::a:b:7001", "db-1.example:7001"])
def test_address_in_redis_form_is_read_and_written(text: str) -> None:
    """MOVED and CLUSTER NODES give IPv6 hosts without brackets."""
    assert parse_redis_address("MOVED", text).in_redis_form() == text


def test_brackets_are_read_in_redis_form_too() -> None:
    """Other servers of the protocol write them."""
    assert (
        parse_redis_address("MOVED", "[::1]:7001") == Address("::1", 7001) == parse_redis_address("MOVED", "::1:7001")
    )


@pytest.mark.parametrize("text", ["", "7001", ":7001", "::1", "[::1]", "::1:70000", "host:x"])
def test_malformed_address_in_redis_form_is_refused(text: str) -> None:
    """A peer that answers nonsense is not followed into it."""
    with pytest.raises(ConfigError, match="MOVED="):
        parse_redis_address("MOVED", text)


def test_no_other_module_takes_addresses_apart() -> None:
    """A second parser is a weaker one sooner or later: the bounds of ports and the form of hosts are in one module."""
    takes_apart = re.compile(r"""rpartition\(":"\)|rsplit\(":"|strip\("\[\]"\)|replace\("\[", ""\)|\b65_?535\b""")
    modules = [path for room in ("durable_raft", "tools") for path in sorted((ROOT / room).rglob("*.py"))]
    found = {path.name for path in modules if takes_apart.search(path.read_text(encoding="utf-8"))}
    assert found == {"addresses.py"}
