"""Troubles that clients and strangers make, over the network alone.

Each function strikes once, at nodes that chance chooses, and returns how often that told: 0, when something else was in
the way. It raises OSError or RequestError when it was not answered, and AssertionError when an answer was wrong.
"""

from __future__ import annotations

import asyncio
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final

from durable_raft.raft.messages import Introduce, RequestVote
from durable_raft.raft.types import Index, NodeId, Term
from durable_raft.wire.messages import Hello
from durable_raft.wire.peer import PeerMessage, encode_frame
from tests.cluster.attack import Attack, closed_for, half_a_message, sent
from tests.cluster.proxy import HOST
from tests.cluster.stranger import CHALLENGE, UUID, Somebody, never_right
from tests.fuzz import inputs
from tests.soak.ground import ANSWER_S, Ground

PIPELINE_KEYS: Final = 50_000
"""Different keys of pipelines: with those of the load they stay below the number from which KEYS is refused."""
CLOSED: Final = 3
"""Connections that a share of memory has to close before it counts as full."""
FULL_S: Final = 30.0
"""How long is tried to fill one."""
PATIENCE_S: Final = 10.0
"""How long a node may take to close a connection on which nothing more will come."""
GARBAGE: Final = 40
"""Connections on which garbage is sent, one after the other."""

_large_values: Final = count()

HOSTILE_REQUESTS: Final = (
    b"*2147483647\r\n",
    b"*1048577\r\n$3\r\nSET\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2147483648\r\n",
    b"*3\r\n$3\r\nSET\r\n$-1\r\n",
    b"*1\r\n" * 10_000,
    b"x" * 100_000,
    b"MGET" + b" unread" * 1_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


def pipelines(ground: Ground, rng: random.Random) -> int:
    """Send a great number of commands at once, and read what is answered; a follower answers them, too."""
    sizes, name = ground.sizes, rng.choice((b"SET", b"SET", b"DEL"))
    value = b"$3\r\nabc\r\n" if name == b"SET" else b""
    request = b"*%d\r\n$3\r\n%s\r\n$9\r\npip:%%05d\r\n%s" % (3 if value else 2, name, value)
    data = b"".join(request % (number % PIPELINE_KEYS) for number in range(sizes.pipeline))
    port = ground.cluster.nodes[ground.any_node(rng)].client_port
    with socket.create_connection((HOST, port), ANSWER_S) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, data)
        answered = 0
        while answered < sizes.pipeline and (received := connection.recv(1 << 20)):
            answered += received.count(b"\n")
        sending.result()
    return int(answered == sizes.pipeline)


def all_keys(ground: Ground, rng: random.Random) -> int:
    """KEYS from four clients at once, then SCAN in large pages, then a command that names thousands of keys."""
    node_id = ground.any_node(rng)

    def keys() -> list[bytes]:
        with ground.asking(node_id) as ask:
            ask("READONLY")
            found = ask("KEYS", "*")
        assert isinstance(found, list)
        return [each for each in found if isinstance(each, bytes)]

    with ThreadPoolExecutor(4) as pool:
        found = [each.result() for each in [pool.submit(keys) for _ in range(4)]]
    with ground.asking(node_id) as ask:
        ask("READONLY")
        cursor = b"0"
        while not ground.over.is_set():
            page = ask("SCAN", cursor, "COUNT", "10000")
            assert isinstance(page, list)
            assert isinstance(page[0], bytes)
            cursor = page[0]
            if cursor == b"0":
                break
        ask("EXISTS", *found[0][:20_000])
    return len(found)


def large_values(ground: Ground, rng: random.Random) -> int:
    """Write a large value, read it again, and delete it."""
    number = next(_large_values)
    key, value = f"large:{number}", (b"%08d" % rng.randrange(10**8)) * (ground.sizes.value_bytes // 8)
    with ground.asking(ground.cluster.leader()) as ask:
        ask("SET", key, value)
        assert ask("GET", key) == value, f"{key} was acknowledged and is another one"
        for earlier in range(number + 1):
            ask("DEL", f"large:{earlier}")
    return 1


def unread_replies(ground: Ground, rng: random.Random) -> int:
    """Ask for large replies on several connections, and read none."""
    value = bytes(ground.share("replies") // 12)
    node_id = ground.any_node(rng)
    with ground.asking(ground.cluster.leader()) as ask:
        if ask("STRLEN", "unread") != len(value):
            ask("SET", "unread", value)
    with ground.asking(node_id) as ask:
        # A follower learns a moment later that it is committed.
        ask("READONLY")
        ground.wait_at_most(lambda: ask("STRLEN", "unread") == len(value), FULL_S)
    port = ground.cluster.nodes[node_id].client_port
    return _fill(ground, node_id, "replies", Attack(20, partial(_deaf, port, b"READONLY\r\n" + b"GET unread\r\n" * 5)))


def half_sent_requests(ground: Ground, rng: random.Random) -> int:
    """Send the larger half of large requests on several connections, and of messages at the peer port."""
    node_id = ground.any_node(rng)
    node, part = ground.cluster.nodes[node_id], ground.share("requests") // 15
    request = b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$%d\r\n" % (part * 3 // 2) + bytes(part)
    somebody = Somebody(ground.cluster, _other(ground, node_id, rng))
    hello = encode_frame(somebody.cluster_id, Hello(somebody.name, UUID, NodeId(node_id), "1", CHALLENGE))
    message = half_a_message(somebody.cluster_id, part)
    with Attack(5, partial(sent, node.peer_port, hello + message)):
        return _fill(ground, node_id, "requests", Attack(24, partial(sent, node.client_port, request)))


def garbage_of_clients(ground: Ground, rng: random.Random) -> int:
    """Send damaged requests, hostile ones, and bytes that are none; count what is refused."""
    port = ground.cluster.nodes[ground.any_node(rng)].client_port
    requests = [inputs.request(rng) for _ in range(GARBAGE)] + [rng.randbytes(5000), *HOSTILE_REQUESTS]
    return sum(b"-ERR" in _said(port, request) for request in requests if not ground.over.is_set())


def garbage_of_peers(ground: Ground, rng: random.Random) -> int:
    """Send damaged frames, before a handshake and after a stranger's, and bytes that are none; count the closed."""
    node_id = ground.any_node(rng)
    somebody = Somebody(ground.cluster, _other(ground, node_id, rng))
    hello = encode_frame(somebody.cluster_id, Hello(somebody.name, UUID, NodeId(node_id), "1", CHALLENGE))
    closed = 0
    for _ in range(GARBAGE):
        frames = inputs.of_cluster(b"".join(inputs.frame(rng) for _ in range(3)), somebody.cluster_id)
        data = rng.choice((frames, hello + frames, rng.randbytes(500)))
        _said(ground.cluster.nodes[node_id].peer_port, data)
        closed += 1
    return closed


def strangers(ground: Ground, rng: random.Random) -> int:
    """Say in the name of another node, but not at its address, what nobody says and what a liar could; count links."""
    node_id = ground.any_node(rng)
    somebody = Somebody(ground.cluster, _other(ground, node_id, rng))
    term, last = (ground.counter(node_id, name) for name in ("raft_current_term", "raft_last_log_index"))
    lies: list[PeerMessage] = [
        RequestVote(Term(term + 1), Index(last + 9), Term(term), False),
        Introduce(b"somebody's disk-"),
    ]

    async def say() -> int:
        said = 0
        for message in [*never_right(), *lies]:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await somebody.say(node_id, message, waits=False)
                    said += 1
        return said

    return somebody.play(say, listens=False)


def _other(ground: Ground, node_id: str, rng: random.Random) -> str:
    return rng.choice([each for each in ground.cluster.node_ids if each != node_id])


def _deaf(port: int, data: bytes) -> socket.socket:
    """Return a connection on which ``data`` was sent, and whose kernel keeps little of the answer; raises OSError."""
    connection = socket.socket()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(ANSWER_S)
        connection.connect((HOST, port))
        connection.sendall(data)
    except OSError:
        connection.close()
        raise
    return connection


def _fill(ground: Ground, node_id: str, share: str, attack: Attack) -> int:
    """Attack until connections were closed because a share of memory was full, and some time more; return how many."""
    before = closed_for(ground.cluster, node_id, share)
    with attack:
        ground.wait_at_most(lambda: closed_for(ground.cluster, node_id, share) >= before + CLOSED, FULL_S)
        ground.hold()
        return max(0, closed_for(ground.cluster, node_id, share) - before)


def _said(port: int, data: bytes) -> bytes:
    """Return what is answered to ``data`` and no more until the connection is closed; raises OSError: it is not."""
    said = bytearray()
    with socket.create_connection((HOST, port), PATIENCE_S) as connection, suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(1 << 16):
            said += chunk
    return bytes(said)
