"""The order that one connection sees, and what one connection sees of another's acknowledged writes."""

from __future__ import annotations

import random
import threading

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.raw import Conversation
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.cluster

COMMANDS = 1000


def chain(rng: random.Random, key: str) -> tuple[list[bytes], list[bytes]]:
    """Return random commands on one key and the replies that executing them one after another gives."""
    commands: list[bytes] = []
    replies: list[bytes] = []
    value: int | None = None
    for _ in range(COMMANDS):
        kind = rng.choice(("set", "get", "incr", "get", "del"))
        if kind == "set":
            value = rng.randrange(1000)
            commands.append(f"SET {key} {value}".encode())
            replies.append(b"+OK\r\n")
        elif kind == "incr":
            value = (value or 0) + 1
            commands.append(f"INCR {key}".encode())
            replies.append(b":%d\r\n" % value)
        elif kind == "del":
            commands.append(f"DEL {key}".encode())
            replies.append(b":%d\r\n" % (value is not None))
            value = None
        else:
            commands.append(f"GET {key}".encode())
            text = b"%d" % value if value is not None else None
            replies.append(b"$-1\r\n" if text is None else b"$%d\r\n%b\r\n" % (len(text), text))
    return commands, replies


def encode(command: bytes) -> bytes:
    """Return a command as an array of bulk strings."""
    words = command.split()
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pipelined_reads_see_the_writes_before_them_and_none_after(shared_cluster: Cluster, seed: int) -> None:
    """Four connections pipeline at the same time, cut at random bytes: each gets exactly its sequential replies."""
    leader = shared_cluster.leader()
    problems: list[str] = []

    def converse(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        commands, expected = chain(rng, f"key:{number}")
        data = b"".join(map(encode, commands))
        with Conversation(shared_cluster, leader) as conversation:
            sender = threading.Thread(target=send_in_pieces, args=(conversation, rng, data))
            sender.start()
            got = conversation.read_bytes(len(b"".join(expected)))
            sender.join()
        if got != b"".join(expected):
            problems.append(f"connection {number}: {got[:200]!r}...")

    threads = [threading.Thread(target=converse, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads), "a connection waits for replies"
    assert problems == []


def send_in_pieces(conversation: Conversation, rng: random.Random, data: bytes) -> None:
    """Send ``data`` cut at random places."""
    at = 0
    while at < len(data):
        size = rng.choice((1, 3, 17, 200, 5000))
        conversation.send_bytes(data[at : at + size])
        at += size


def test_acknowledged_write_is_seen_by_every_later_read(shared_cluster: Cluster) -> None:
    """What one connection was told is written, another reads, every time: reads are linearizable."""
    leader = shared_cluster.leader()
    with Conversation(shared_cluster, leader) as writer, Conversation(shared_cluster, leader) as reader:
        for number in range(500):
            assert writer.ask("SET", "a", str(number)) == "OK"
            assert reader.ask("GET", "a") == str(number)


def test_key_is_not_seen_after_its_time(shared_cluster: Cluster) -> None:
    """A read sent after a key's time is up never sees it, though nothing else is written meanwhile."""
    client = shared_cluster.client(shared_cluster.leader())
    for _ in range(20):
        client.set("a", "v", px=30)
        while (left := client.pttl("a")) >= 0:
            assert left <= 30
        assert left == -2
        assert client.get("a") is None
