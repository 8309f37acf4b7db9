"""The id of a cluster, where the operator gives none: derived from its name and its first members."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from durable_raft.server.settings.config import CLUSTER_ID_BYTES, NodeConfig


def derive_cluster_id(config: NodeConfig, random_bytes: Callable[[int], bytes]) -> bytes:
    """Return the 16-byte id that a data directory made for ``config`` is stamped with.

    Nodes that are first started with the same --cluster-name and --cluster agree on it without talking: it is the
    beginning of the SHA-256 over both. A cluster of one has nobody to agree with and gets a random id, so that two
    nodes started alike never take each other for the same cluster. The id is minted once; afterwards the directory's
    is the one that counts, whatever addresses are given then.

    Args:
        random_bytes: returns that many random bytes (``secrets.token_bytes``); asked only for a cluster of one.
    """
    if config.cluster_id is not None:
        return config.cluster_id
    if len(config.membership.voters) == 1:
        return random_bytes(CLUSTER_ID_BYTES)
    # Names and addresses hold neither spaces nor line ends, so that the text can be read in one way only.
    lines = [config.cluster_name]
    lines += sorted(
        f"{member.node_id} {member.client_address} {member.peer_address}" for member in config.membership.voters
    )
    return hashlib.sha256("\n".join(lines).encode()).digest()[:CLUSTER_ID_BYTES]
