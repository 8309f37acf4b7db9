"""cli/membership.py without a cluster: what a node that is to join makes of whatever answers it."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.cli.membership import joined
from durable_raft.errors import ConfigError, NodeUnreachable
from durable_raft.raft.types import Identity, Index, Member, Membership, NodeId
from durable_raft.server.settings.config import NO_SEEDS, NodeConfig, Seeds, load_config
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.cli.test_resp_client import scripted

CLUSTER_ID = b"c" * 16


def bulk(text: str) -> bytes:
    """Return a RESP2 bulk string."""
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


def pairs(*facts: tuple[str, bytes]) -> bytes:
    """Return a RESP2 map: a flat array."""
    return b"*%d\r\n" % (2 * len(facts)) + b"".join(bulk(name) + value for name, value in facts)


def answer(*, cluster_id: str = CLUSTER_ID.hex(), index: bytes = b":7\r\n", members: bytes = b"") -> bytes:
    """Return what RAFT.MEMBER LIST answers in a cluster of n1, of which n4 is a learner."""
    rows = [
        pairs(
            *(("id", bulk(name)), ("member", bulk(part)), ("client", bulk(f"h{name}:1")), ("peer", bulk(f"h{name}:2"))),
            *(("match-index", b"$-1\r\n"), ("connected", b":1\r\n"), ("last-contact-ms", b"$-1\r\n")),
        )
        for name, part in (("n1", "voter"), ("n4", "learner"))
    ]
    return pairs(
        ("cluster-id", bulk(cluster_id)),
        ("index", index),
        *(("state", bulk("stable")), ("committed", b":1\r\n"), ("leader", bulk("n1")), ("majority", b":1\r\n")),
        ("members", members or b"*2\r\n" + b"".join(rows)),
        ("former", b"*1\r\n" + bulk("n2")),
    )


def asked(directory: Path, reply: bytes, node_id: str = "n4", **flags: str) -> NodeConfig:
    """Return the configuration of a node that joins where ``reply`` is the answer."""
    with scripted(reply) as address:
        given = {"id": node_id, "dir": str(directory), "listen": "10.0.0.4:7001", "join": str(address), **flags}
        return joined(load_config(given, {}))


def make(directory: Path) -> None:
    """Make a directory of n4, which has no members yet."""
    LmdbLogStore.create(directory, Identity(CLUSTER_ID, NodeId("n4"), b"4" * 16), Membership(()))


GARBAGE = [
    b"+OK\r\n",
    b":1\r\n",
    b"$-1\r\n",
    b"*0\r\n",
    b"*1\r\n:1\r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"-ERR unknown command\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    pairs(("cluster-id", bulk("x"))),
    answer(cluster_id="xyz"),
    answer(cluster_id="00"),
    answer(index=bulk("7")),
    answer(members=b"*1\r\n:1\r\n"),
    answer(members=b"*1\r\n*2\r\n" + bulk("id") + bulk("n1")),
]


def test_a_new_node_is_told_cluster_and_members(tmp_path: Path) -> None:
    """All but itself; the directory is made of that."""
    assert asked(tmp_path / "d", answer()).seeds == Seeds(
        Index(7), (Member(NodeId("n1"), "hn1:1", "hn1:2"),), CLUSTER_ID
    )


@pytest.mark.parametrize("reply", GARBAGE)
def test_what_is_no_answer_is_told_as_such(tmp_path: Path, reply: bytes) -> None:
    """A new node has to be told; one that has a directory goes on without."""
    with pytest.raises(NodeUnreachable, match="a new node has to ask the cluster"):
        asked(tmp_path / "d", reply)
    make(tmp_path / "d")
    assert asked(tmp_path / "d", reply).seeds == NO_SEEDS


@pytest.mark.parametrize("node_id", ["n1", "n2"])
def test_an_id_is_used_once(tmp_path: Path, node_id: str) -> None:
    """A voter's or a former member's is refused for an empty directory."""
    with pytest.raises(ConfigError, match="no node of the cluster ever had"):
        asked(tmp_path / "d", answer(), node_id)


def test_the_cluster_that_was_named_is_the_only_one_to_join(tmp_path: Path) -> None:
    """Where the operator says which one it is, an answer of another is refused."""
    with pytest.raises(ConfigError, match="cluster_id=64646464"):
        asked(tmp_path / "d", answer(), cluster_id="64" * 16)
    assert asked(tmp_path / "d", answer(), cluster_id="63" * 16).cluster_id == CLUSTER_ID


def test_a_node_that_has_a_directory_starts_though_another_cluster_answers(tmp_path: Path) -> None:
    """The address is that cluster's by now; whose the directory is, is looked up there (server/start/opening.py)."""
    make(tmp_path / "d")
    config = asked(tmp_path / "d", answer(cluster_id="64" * 16), "n1")
    assert (config.cluster_id, config.seeds.cluster_id) == (None, b"d" * 16)
