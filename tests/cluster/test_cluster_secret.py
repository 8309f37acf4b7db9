"""The cluster secret among real nodes: turned on and changed under writes; whoever has it not is told so."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
from pathlib import Path

import pytest

from durable_raft.cli.secret import add_secret, make_secret
from durable_raft.raft.messages import RequestVote
from durable_raft.raft.types import Index, NodeId, Term
from durable_raft.wire.messages import Hello, Proof
from durable_raft.wire.peer import encode_frame
from tests.cluster.attack import Attack
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.operators import operate, run
from tests.cluster.previous import previous_program
from tests.cluster.proxy import HOST
from tests.cluster.stranger import CHALLENGE, UUID, Somebody
from tests.cluster.workload import Workload, assert_on_all_nodes
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster

WRITES = 20
GUESSES = 50
"""Of one attacker, one after the other, before it rests for a second."""
NODES = ("n1", "n2", "n3")


class Files:
    """The files of the secret, one for each node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made = directory / "made"
        make_secret(self._made)

    def of(self, node_id: str) -> Path:
        """Return the file of a node, with what was made last."""
        file = self._directory / f"{node_id}.secret"
        if not file.exists():
            self.copy(node_id)
        return file

    def copy(self, node_id: str) -> None:
        """Give a node what was made last, as a whole new file."""
        new = self._directory / "new"
        new.touch(0o600)
        new.write_bytes(self._made.read_bytes())
        new.replace(self._directory / f"{node_id}.secret")

    def add(self) -> None:
        """Make a second secret."""
        add_secret(self._made)

    def turn(self) -> None:
        """Put the second line first."""
        self._made.write_text("".join(reversed(self._made.read_text().splitlines(keepends=True))))

    def drop(self) -> None:
        """Take the second line out."""
        self._made.write_text(self._made.read_text().splitlines(keepends=True)[0])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return the files of a secret."""
    return Files(tmp_path)


def with_secret(files: Files) -> dict[str, dict[str, object]]:
    """Return the setting of each node."""
    return {node_id: {"cluster_secret_file": files.of(node_id)} for node_id in NODES}


def are_proven(cluster: Cluster) -> bool:
    """Return whether the secret was proven on every link."""
    return all(
        info[f"raft_peer_{peer}"].endswith(",proven=1")
        for node_id, info in cluster.infos().items()
        for peer in cluster.running()
        if peer != node_id
    )


def test_the_secret_is_changed_under_writes(cluster_of: ClusterFactory, files: Files) -> None:
    """Each step on every node, as the page has it: no write fails, and nobody is ever refused."""
    cluster = cluster_of(3, settings_of=with_secret(files))
    cluster.wait_ready()
    cluster.wait(lambda: are_proven(cluster), "all links to be proven")
    with Workload(cluster).running() as workload:
        workload.wait_for(WRITES)
        for number, step in enumerate((files.add, files.turn, files.drop), 1):
            step()
            for node_id in NODES:
                files.copy(node_id)
                cluster.wait(
                    lambda number=number, node_id=node_id: cluster.log(node_id).count("cluster_secret_read") == number,  # type: ignore[misc]
                    f"{node_id} to read step {number}",
                )
                workload.wait_for(WRITES)
        cluster.wait(lambda: are_proven(cluster), "all links to be proven again")
        workload.wait_for(WRITES)
    assert workload.unknown == 0
    assert [info["raft_cluster_secrets"] for info in cluster.infos().values()] == ["1"] * 3
    assert all("peer_refused" not in cluster.log(node_id) for node_id in NODES)
    assert_on_all_nodes(cluster, workload.acknowledged)


@pytest.mark.parametrize("begins_with", ["this program", "the previous one"])
def test_the_secret_is_turned_on_under_writes(
    cluster_of: ClusterFactory, files: Files, tmp_path: Path, begins_with: str
) -> None:
    """Two rounds of restarts, in the first of which some nodes prove and others cannot, or know nothing of it."""
    program = previous_program(tmp_path / "previous") if begins_with == "the previous one" else None
    cluster = cluster_of(3, program=program)
    cluster.wait_ready()
    with Workload(cluster).running() as workload:
        for optional in (True, False):
            for node_id in NODES:
                settings: dict[str, object] = {"cluster_secret_file": files.of(node_id)}
                cluster.install(node_id, None)
                cluster.restart(node_id, settings=settings | ({"cluster_secret_optional": True} if optional else {}))
                cluster.wait_ready()
                workload.wait_for(WRITES)
            cluster.wait(lambda: are_proven(cluster), "all links to be proven")
    assert all("peer_refused" not in cluster.log(node_id) for node_id in NODES)
    assert_on_all_nodes(cluster, workload.acknowledged)


def guess(port: int, cluster_id: bytes, target: str) -> socket.socket:
    """Dial a node in the name of another, and prove anything, many times; return the last connection."""
    hello = Hello(NodeId("n2" if target != "n2" else "n1"), UUID, NodeId(target), "0.2.0 must-prove 1-2", CHALLENGE)
    for _ in range(GUESSES):
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), WAIT_S) as connection:
            connection.sendall(encode_frame(cluster_id, hello))
            connection.recv(1 << 16)
            connection.sendall(encode_frame(cluster_id, Proof(secrets.token_bytes(32))))
            while connection.recv(1 << 16):
                pass
    return socket.create_connection((HOST, port), WAIT_S)


def test_a_flood_of_wrong_proofs_deposes_nobody(cluster_of: ClusterFactory, files: Files) -> None:
    """Thousands of guesses at the leader's port, while clients write; a follower that starts then is heard."""
    cluster = cluster_of(3, settings_of=with_secret(files))
    leader = cluster.wait_ready()
    info = cluster.info(leader)
    assert info is not None
    port, cluster_id = cluster.nodes[leader].peer_port, bytes.fromhex(info["raft_cluster_id"])
    follower = cluster.followers()[0]
    with Workload(cluster).running() as workload, Attack(8, lambda: guess(port, cluster_id, leader)) as attack:
        cluster.wait(lambda: attack.closed > 8, "the flood to come")
        workload.wait_for(WRITES)
        cluster.restart(follower, settings=with_secret(files)[follower])
        cluster.wait_ready()
        workload.wait_for(WRITES)
        now = cluster.info(leader)
    assert now is not None
    assert (now["raft_role"], now["raft_current_term"]) == ("leader", info["raft_current_term"])
    assert int(now["raft_peer_refused"]) > GUESSES
    assert len(re.findall("event=peer_refused", cluster.log(leader))) < GUESSES
    assert_on_all_nodes(cluster, workload.acknowledged)


def test_a_node_does_not_start_with_a_file_that_it_cannot_use(tmp_path: Path) -> None:
    """It says what is wrong with it, and makes no directory."""
    file = tmp_path / "secret"
    file.write_text("a word\n")
    file.chmod(0o600)
    done = run("serve", "--dir", str(tmp_path / "data"), "--cluster-secret-file", str(file))
    assert done.returncode == 2
    assert "expected a secret of at least 32 characters in line 1, got 6" in done.stderr
    assert not (tmp_path / "data").exists()


def test_whoever_has_not_the_secret_is_refused(cluster_of: ClusterFactory, files: Files) -> None:
    """A stranger at the address of a node that is down, and a node that joins; with the file it catches up."""
    cluster = cluster_of(3, settings_of=with_secret(files))
    cluster.wait_ready()
    cluster.kill9("n3")
    leader = cluster.leader(other_than="n3")
    info = cluster.info(leader)
    assert info is not None
    stranger = Somebody(cluster, "n3")
    term, last = int(info["raft_current_term"]), int(info["raft_last_log_index"])

    async def tries() -> bytes:
        return await stranger.say(leader, RequestVote(Term(term + 1), Index(last + 9), Term(term), False))

    told = stranger.play(tries, listens=True)
    assert b"n3 has no cluster secret, and %s asks for one" % leader.encode() in told
    cluster.logged(leader, "n3 has no cluster secret")
    assert "peer_misbehaved" not in cluster.log(leader)
    assert cluster.client(leader).set("still", "here")
    now = cluster.info(leader)
    assert now is not None
    assert (now["raft_role"], int(now["raft_current_term"])) == ("leader", term)

    cluster.start("n3", settings=with_secret(files)["n3"])
    cluster.wait_ready()
    entry = cluster.join("n4", leader)
    operate(cluster, leader, "member", "add", entry)
    cluster.logged("n4", f"refuses this node: n4 has no cluster secret, and {leader} asks for one: set cluster_secret")
    cluster.restart("n4", settings={"cluster_secret_file": files.of("n4")})
    operate(cluster, leader, "member", "promote", "n4")
    cluster.wait_ready()
    assert are_proven(cluster)
