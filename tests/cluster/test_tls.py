"""Clusters that clients reach by TLS: real clients, a killed leader, a rotation under load, a flood of handshakes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from durable_raft.cli import resp_client
from durable_raft.cli.main import main
from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import Cluster
from tests.cluster.proxy import HOST
from tests.support.certificates import Certificates, crt, key, put_in_place
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster

NODES = ("n1", "n2", "n3")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Certificates]:
    """Certificates for three nodes and an application; whoever asks nodes in this process shows the latter."""
    made = Certificates(tmp_path / "tls")
    for node_id in (*NODES, "n4"):
        made.node(node_id)
    resp_client.use_tls(made.client_context(made.client("app")))
    yield made
    resp_client.use_tls(None)


def started(cluster_of: ClusterFactory, made: Certificates, **more: str) -> Cluster:
    """Start three nodes, each with its own certificate, and wait until they lead and follow."""
    settings_of = {node_id: made.settings(made.directory / node_id, **more) for node_id in NODES}
    cluster = cluster_of(3, settings_of=settings_of)
    cluster.wait_ready()
    return cluster


def shown(made: Certificates) -> dict[str, Any]:
    """Return how redis-py is told to speak TLS."""
    app = made.directory / "app"
    return {
        "ssl": True,
        "ssl_ca_certs": str(made.ca),
        "ssl_certfile": str(crt(app)),
        "ssl_keyfile": str(key(app)),
    }


def words_of(made: Certificates) -> list[str]:
    """Return how redis-cli and our own commands are told."""
    app = made.directory / "app"
    return ["--tls", "--cacert", str(made.ca), "--cert", str(crt(app)), "--key", str(key(app))]


def test_clients_and_commands_use_a_cluster_by_tls_only(cluster_of: ClusterFactory, made: Certificates) -> None:
    """redis-cli, redis-py, our commands, and a node that joins; whoever goes without is told what to do."""
    cluster = started(cluster_of, made)
    leader = cluster.leader()
    address = cluster.nodes[leader].address
    assert cluster.client(leader, **shown(made)).set("city", "Paris")
    if shutil.which("redis-cli"):
        call = ["redis-cli", "-c", "-p", str(cluster.nodes["n2"].client_port)]
        answer = subprocess.run([*call, *words_of(made), "GET", "city"], capture_output=True, text=True, check=True)
        assert answer.stdout == "Paris\n"
        answer = subprocess.run([*call, "GET", "city"], capture_output=True, text=True, check=False)
        assert "this port speaks TLS only" in answer.stdout + answer.stderr
    with pytest.raises(redis.RedisError, match="this port speaks TLS only"):
        cluster.client(leader).get("city")
    runner = CliRunner()
    status = runner.invoke(main, ["status", "--at", str(address), *words_of(made)])
    assert status.exit_code == 0, status.output
    assert status.output.count("ready") == 3
    backup = cluster.directory / "backup"
    result = runner.invoke(main, ["backup", "--at", str(address), *words_of(made), str(backup)])
    assert "1 keys at index" in result.output
    resp_client.use_tls(made.client_context(made.directory / "app"))
    entry = cluster.join("n4", leader, settings=made.settings(made.directory / "n4"))
    result = runner.invoke(main, ["member", "add", entry, "--at", str(address), *words_of(made)])
    assert result.exit_code == 0, result.output
    refused = runner.invoke(main, ["status", "--at", str(address)])
    assert "this port speaks TLS only" in refused.output


class Writer(threading.Thread):
    """Sets one key after the other and notes what was acknowledged, until it is told to end."""

    def __init__(self, client: redis.Redis | redis.RedisCluster, prefix: str, *, reconnects: bool = False) -> None:
        super().__init__(daemon=True)
        self._client, self._prefix, self._reconnects = client, prefix, reconnects
        self.acknowledged: list[str] = []
        self.errors: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """Write."""
        number = 0
        while not self.ended.is_set():
            number += 1
            name = f"{self._prefix}:{number}"
            try:
                self._client.set(name, name)
                self.acknowledged.append(name)
            except (redis.RedisError, OSError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            if self._reconnects and isinstance(self._client, redis.Redis):
                self._client.connection_pool.disconnect()

    def end(self) -> None:
        """Have it end, and wait."""
        self.ended.set()
        self.join(WAIT_S)
        assert not self.is_alive()


def test_cluster_client_goes_on_through_a_killed_leader(cluster_of: ClusterFactory, made: Certificates) -> None:
    """RedisCluster finds the next leader by TLS; what was acknowledged is there."""
    cluster = started(cluster_of, made)
    client = cluster.cluster_client(**shown(made))
    writer = Writer(client, "key")
    writer.start()
    cluster.wait(lambda: len(writer.acknowledged) > 50, "writes before the leader is killed")
    victim = cluster.leader()
    cluster.kill9(victim)
    cluster.leader(other_than=victim)
    before = len(writer.acknowledged)
    cluster.wait(lambda: len(writer.acknowledged) > before + 50, "writes after the leader was killed")
    writer.end()
    cluster.restart(victim, settings=made.settings(made.directory / victim))
    cluster.wait_ready()
    for name in writer.acknowledged:
        assert client.get(name) == name.encode()


def test_certificates_are_rotated_under_load_without_an_error(cluster_of: ClusterFactory, made: Certificates) -> None:
    """Clients that stay and clients that come again and again; then one is revoked, and it alone gets in no more."""
    lost = made.client("lost")
    cluster = started(cluster_of, made, tls_crl_file=str(made.revoke([])))
    leader = cluster.leader()
    writers = [
        Writer(cluster.client(leader, **shown(made)), "stays"),
        Writer(cluster.client(leader, **shown(made)), "comes", reconnects=True),
    ]
    for writer in writers:
        writer.start()
    for turn in range(1, 3):
        for node_id in NODES:
            put_in_place(made.node(f"next-{turn}-{node_id}"), made.directory / node_id)
        cluster.wait(
            lambda turn=turn: all(cluster.log(each).count("event=tls_reloaded") >= turn for each in NODES),  # type: ignore[misc]
            "new certificates on every node",
        )
        progress = [len(writer.acknowledged) for writer in writers]
        cluster.wait(
            lambda progress=progress: all(  # type: ignore[misc]
                len(writer.acknowledged) > before + 20 for writer, before in zip(writers, progress, strict=True)
            ),
            "writes with the new certificates",
        )
    assert served_by(cluster, leader, made) == crt(made.directory / f"next-2-{leader}").read_text().strip()
    made.revoke([lost])
    cluster.wait(lambda: cluster.log(leader).count("event=tls_reloaded") >= 3, "the new list")
    late = cluster.client(leader, **shown(made) | {"ssl_certfile": str(crt(lost)), "ssl_keyfile": str(key(lost))})
    with pytest.raises(redis.RedisError):
        late.ping()
    for writer in writers:
        writer.end()
        assert writer.errors == []
    assert cluster.leader() == leader
    info = cluster.info(leader)
    assert info is not None
    assert (info["raft_alarms"], info["raft_ready"]) == ("", "1")


def served_by(cluster: Cluster, node_id: str, made: Certificates) -> str:
    """Return the certificate that a node shows to a new client, in PEM."""
    context = made.client_context(made.directory / "app")
    with (
        socket.create_connection((HOST, cluster.nodes[node_id].client_port), WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as wrapped,
    ):
        found = wrapped.getpeercert(binary_form=True)
    assert found is not None
    return ssl.DER_cert_to_PEM_cert(found).strip()


def test_broken_files_are_told_and_the_node_stays_ready(cluster_of: ClusterFactory, made: Certificates) -> None:
    """A notice in INFO and in status; a bad start is refused."""
    settings = made.settings(made.directory / "n1")
    cluster = cluster_of(1, settings_of={"n1": settings})
    cluster.wait_ready()
    key(made.directory / "n1").chmod(0o644)
    crt(made.directory / "n1").write_text("no certificate")
    cluster.wait(lambda: "event=tls_reload_failed" in cluster.log("n1"), "the files to be refused")
    info = cluster.info("n1")
    assert info is not None
    assert (info["raft_alarms"], info["raft_ready"]) == ("tls_files_refused", "1")
    assert "expected certificates in PEM" in info["raft_alarm_tls_files_refused"]
    status = CliRunner().invoke(main, ["status", "--at", str(cluster.nodes["n1"].address), *words_of(made)])
    assert "ready" in status.output
    assert "n1: tls_cert_file=" in status.output
    assert cluster.stop("n1") == 0
    cluster.start("n1", settings=settings)
    assert cluster.wait_exit("n1") == 2
    assert "tls_cert_file=" in cluster.log("n1").splitlines()[-1]


# -- a flood ----------------------------------------------------------------------------------------------------------


def slow_certificate(stem: Path) -> dict[str, object]:
    """Make a certificate with the slowest key that is used, and return the settings of a node that shows it."""
    private, now = rsa.generate_private_key(65537, 4096), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "slow")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=90))
        .sign(private, SHA256())
    )
    crt(stem).write_bytes(certificate.public_bytes(Encoding.PEM))
    key(stem).touch(0o600)
    key(stem).write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files = {"tls_cert_file": str(crt(stem)), "tls_key_file": str(key(stem))}
    return {"tls_clients": "optional", "tls_auth_clients": "no", **files}


def hello() -> bytes:
    """Return the first message of a client that trusts anybody."""
    outgoing = ssl.MemoryBIO()
    tls = anybody().wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def anybody() -> ssl.SSLContext:
    """Return what a client that trusts anybody connects with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_leader_stays_leader_under_a_flood_of_handshakes(cluster_of: ClusterFactory, tmp_path: Path) -> None:
    """Hundreds at once, half of which go no further, with the slowest key; writes go on, and who is honest gets in."""
    cluster = cluster_of(3, **slow_certificate(tmp_path / "slow"))
    leader = cluster.wait_ready()
    before = cluster.info(leader)
    assert before is not None
    writer = Writer(cluster.client(leader), "key")
    writer.start()
    place = HOST, cluster.nodes[leader].client_port
    first = hello()
    with contextlib.ExitStack() as stack:
        for number in range(400):
            each = stack.enter_context(socket.create_connection(place, WAIT_S))
            # A whole first message, which costs the node a signature; or half of it.
            each.sendall(first if number % 2 else first[: len(first) // 2])
        honest = stack.enter_context(socket.create_connection(place, WAIT_S))
        with anybody().wrap_socket(honest) as wrapped:
            wrapped.sendall(b"PING\r\n")
            assert wrapped.recv(100) == b"+PONG\r\n"
        progress = len(writer.acknowledged)
        cluster.wait(lambda: len(writer.acknowledged) > progress + 50, "writes during the flood")
    writer.end()
    after = cluster.info(leader)
    assert after is not None
    assert writer.errors == []
    assert cluster.leader() == leader
    assert after["raft_current_term"] == before["raft_current_term"]
