"""Members of a running etcd come and go: the calls of ``etcdctl member`` and ``etcdctl move-leader``.

etcd serves each of them as JSON over HTTP, too, so that neither a program nor a compiled protocol is needed. Its ids
are numbers of 64 bits, which JSON has as strings.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.clusters import READY_S, Node
from benchmarks.etcd import Etcd
from durable_raft.cli.local_cluster import HOST, free_ports, wait_until

CALL_S = 10.0
STOP_S = 60.0
PAUSE_S = 0.1
"""Between two tries: etcd refuses a change until all members have been connected for five seconds, and a learner's
promotion until it has caught up."""


def call(node: Node, name: str, **fields: object) -> dict[str, Any]:
    """Ask one node; ``name`` is a path below /v3, such as ``cluster/member/list``.

    Raises:
        OSError: it cannot be reached, or refuses; its text says why.
    """
    request = urllib.request.Request(
        f"http://{HOST}:{node.client_port}/v3/{name}", data=json.dumps(fields).encode(), method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise OSError(f"{node.name} refuses {name}: {error.read().decode(errors='replace')}") from error


class EtcdMembers(Etcd):
    """An etcd cluster that begins with one node; ``nodes`` are those that vote."""

    def __init__(self, directory: Path) -> None:
        """Give n1 its ports."""
        super().__init__(directory, 1)
        self._known = {"n1": self._list("new", self.nodes)}

    def _list(self, state: str, nodes: list[Node]) -> list[str]:
        peers = ",".join(f"{each.name}={_peer_url(each.peer_port)}" for each in nodes)
        return ["--initial-cluster", peers, "--initial-cluster-state", state]

    def command(self, node: Node) -> list[str]:
        """Return ``etcd ...``, with those whom it was told of when it was added."""
        command = super().command(node)
        at = command.index("--initial-cluster")
        command[at : at + 2] = self._known[node.name]
        return command

    def is_leader(self, node: Node) -> bool:
        """Ask its status."""
        try:
            status = call(node, "maintenance/status")
        except OSError:
            return False
        return bool(status.get("leader") == status["header"]["member_id"])

    def find(self, name: str) -> Node:
        """Return one of the nodes that vote."""
        return next(node for node in self.nodes if node.name == name)

    def add(self, name: str) -> None:
        """``member add --learner``, a start on an empty disk, ``member promote``."""
        client_port, peer_port = free_ports(2)
        node = Node(name, client_port, peer_port, self.directory / name)
        self._until_accepted("cluster/member/add", peerURLs=[_peer_url(peer_port)], isLearner=True)
        self._known[name] = self._list("existing", [*self.nodes, node])
        self.start([node])
        try:
            self._until_accepted("cluster/member/promote", ID=self._id(node))
        finally:
            self.nodes.append(node)
        self._wait_serving(node)

    def remove(self, name: str) -> None:
        """``move-leader`` if it leads, ``member remove``; a removed node ends by itself."""
        node = self.find(name)
        self._lead_elsewhere(node)
        self._until_accepted("cluster/member/remove", besides=node, ID=self._id(node))
        self._wait_end(node)
        self.nodes.remove(node)

    def move(self, name: str) -> None:
        """``move-leader`` if it leads, ``member update --peer-urls``, a stop, and a start at the new addresses."""
        node = self.find(name)
        self._lead_elsewhere(node)
        client_port, peer_port = free_ports(2)
        self._until_accepted("cluster/member/update", besides=node, ID=self._id(node), peerURLs=[_peer_url(peer_port)])
        self._end(node)
        node.client_port, node.peer_port = client_port, peer_port
        self.start([node])
        self._wait_serving(node)

    def restart(self, name: str) -> None:
        """Stop with SIGTERM, start, and wait until it serves."""
        node = self.find(name)
        self._end(node)
        self.start([node])
        self._wait_serving(node)

    def transfer(self, name: str) -> None:
        """``move-leader``, and wait until that node leads."""
        target = self.find(name)
        call(self.leader(), "maintenance/transfer-leadership", targetID=self._id(target))
        if not wait_until(lambda: self.is_leader(target), READY_S):
            raise RuntimeError(f"{name} does not lead within {READY_S} s: see {self.directory}")

    def _lead_elsewhere(self, node: Node) -> None:
        if self.is_leader(node):
            self.transfer(next(each.name for each in self.nodes if each is not node))

    def _id(self, node: Node) -> str:
        """Return the number by which etcd knows a node: of its address, for it has no name before it has started."""
        url = _peer_url(node.peer_port)
        for member in call(self.leader(), "cluster/member/list")["members"]:
            if url in member["peerURLs"]:
                return str(member["ID"])
        raise RuntimeError(f"etcd has no member at {url}")

    def _until_accepted(self, name: str, besides: Node | None = None, **fields: object) -> None:
        """Ask any node but one again and again until it does what is asked; raises RuntimeError."""
        refused: list[str] = []

        def is_accepted() -> bool:
            try:
                call(next(node for node in self.nodes if node is not besides), name, **fields)
            except OSError as error:
                refused[:] = [str(error)]
                return False
            return True

        if not wait_until(is_accepted, READY_S, PAUSE_S):
            raise RuntimeError(f"etcd refused for {READY_S} s: {refused[0]}")

    def _wait_serving(self, node: Node) -> None:
        if not wait_until(lambda: self.answers(node), READY_S):
            raise RuntimeError(f"{node.name} does not serve within {READY_S} s: see {self.directory}")

    def _end(self, node: Node) -> None:
        assert node.process is not None
        node.process.terminate()
        self._wait_end(node)

    def _wait_end(self, node: Node) -> None:
        assert node.process is not None
        node.process.wait(STOP_S)


def _peer_url(port: int) -> str:
    return f"http://{HOST}:{port}"
