"""The order of a write through a real node is what the scripts tell (the language: tests/support/node_script.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_raft.errors import StoragePoisoned
from durable_raft.server.persister import QUICK_FLUSHES
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from tests.support.desk import N3, Desk, desk_at
from tests.support.desk_client import Client
from tests.support.node_script import run_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The events of the script cause exactly the lines under them."""
    text = path.read_text()

    happened = run_script(text, tmp_path / "n1")

    if request.config.getoption("--rewrite-scripts"):
        path.write_text(happened)
    assert happened == text or request.config.getoption("--rewrite-scripts")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_what_it_is_about(path: Path) -> None:
    """Its head tells what happens, why it matters and in which paragraph to read on."""
    head = path.read_text().partition("\n> ")[0]

    assert head.index("# ") < head.index("§") < head.index("\n# What happens: ") < head.index("\n# Why it matters: ")


def test_both_ways_of_a_write_are_told() -> None:
    """On the event loop, and by the log writer's thread."""
    assert [path.stem for path in SCRIPTS] == ["lone_write", "queued_write"]


def quick_leader(desk: Desk) -> Client:
    """Have n1 lead on a disk that has been quick, with nothing under way; return a client of it."""
    desk.lead()
    desk.acknowledge(N3)
    client = desk.client()
    for _ in range(QUICK_FLUSHES):
        client.send("set quick 1")
        desk.acknowledge()
    return client


def test_a_leader_replies_before_it_flushes_a_lone_write(tmp_path: Path) -> None:
    """In a turn that answers one write and takes in the next, the client does not wait for the next one's flush."""
    with desk_at(tmp_path / "n1") as desk:
        client = quick_leader(desk)
        client.send("set k v")
        desk.effects.clear()

        desk.loop.call_soon(client.send, "set k w")
        desk.acknowledge()

        assert [effect.split()[0] for effect in desk.effects] == ["sends", "sends", "applies", "replies", "has"]


def test_a_lone_write_that_fails_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the log writer's thread: nothing is promised after a flush that failed."""
    with desk_at(tmp_path / "n1") as desk:
        client = quick_leader(desk)

        def fails(_store: object, _writes: object, _compact_to: object) -> None:
            raise StoragePoisoned("the disk is gone")

        for store in (JournaledLogStore, LmdbLogStore):
            monkeypatch.setattr(store, "persist", fails)
        with pytest.raises(StoragePoisoned):
            client.send("set k v")
        assert client.replies[-1] is None
