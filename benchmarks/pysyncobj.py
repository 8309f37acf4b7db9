"""PySyncObj: the Raft library in Python that is used most, with its journal and its defaults."""

from __future__ import annotations

import contextlib
import sys

from benchmarks.clusters import Node, RespCluster
from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import HOST
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError


class PySyncObjCluster(RespCluster):
    """Nodes of PySyncObj, each with a RESP port (pysyncobj_node.py)."""

    system = "pysyncobj"

    def command(self, node: Node) -> list[str]:
        """Return ``python -m benchmarks.pysyncobj_node ...``."""
        others = ",".join(f"{HOST}:{each.peer_port}" for each in self.nodes if each is not node)
        command = [sys.executable, "-m", "benchmarks.pysyncobj_node", "--port", str(node.client_port)]
        command += ["--self", f"{HOST}:{node.peer_port}", "--others", others]
        return [*command, "--dir", str(node.directory)]

    def is_leader(self, node: Node) -> bool:
        """Ask it."""
        with contextlib.suppress(RequestError), RespClient(Address(HOST, node.client_port), 2.0) as client:
            return client.info("raft")["role"] == "leader"
        return False
