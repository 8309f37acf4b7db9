"""The version of the cluster at one node: who may raise it and when, what raising does, and who is not heard then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.errors import PeerTooOld, UnknownFormatVersion
from durable_raft.kv.errors import NOT_AN_INTEGER, SYNTAX_ERROR
from durable_raft.kv.replies import ErrorReply
from durable_raft.raft.changes import Remove
from durable_raft.raft.configuration import encode
from durable_raft.raft.types import (
    CONFIGURATION,
    VERSION,
    Configuration,
    Entry,
    EntryKind,
    Index,
    Membership,
    NodeId,
    Term,
    make_entry,
)
from durable_raft.raft.versions import OURS, Versions, encode_version
from durable_raft.server.cluster_version import CHANGING, NOT_LEADING
from durable_raft.server.commands.raft import execute_raft_command
from durable_raft.server.commands.status import ClientCounts
from durable_raft.server.report import Reporter
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.opening import open_node
from durable_raft.server.start.restore import restore_node
from durable_raft.server.watchdog import Watchdog
from durable_raft.storage.state.backup import BackupWriter
from durable_raft.storage.state.meta import first_meta
from durable_raft.storage.state.verify import read_checkpoint
from durable_raft.wire.messages import HelloReply, SnapshotChunk
from tests.support.desk import MEMBERS, N1, N2, N3, Desk, desk_at
from tests.support.log_building import IDENTITY
from tests.support.node_status import Actions
from tests.support.peer_house import HELLO, House, in_a_house

BEFORE = Versions(1, 1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Node n1, a follower; both peers are heard, and can what it can."""
    with desk_at(tmp_path / "n1") as made:
        have_said(made, n2=OURS, n3=OURS)
        yield made


def have_said(desk: Desk, **versions: Versions) -> None:
    """Have these peers be heard, and no others."""
    desk.node.peers.versions = {NodeId(name): each for name, each in versions.items()}  # type: ignore[misc]


def raising(desk: Desk, version: int) -> Entry:
    """Return the entry of a leader of the next term that raises the version."""
    return entry_of(desk, VERSION, encode_version(version))


def entry_of(desk: Desk, kind: EntryKind, payload: bytes) -> Entry:
    """Return an entry of a leader of the next term."""
    term = Term(desk.raft.current_term + 1)
    return make_entry(previous=desk.raft.log.last, term=term, kind=kind, timestamp_ms=0, payload=payload)


# -- when it may be raised ---------------------------------------------------------------------------------------------


def test_a_leader_raises_it_when_all_can(desk: Desk) -> None:
    """It counts once the entry is applied, and not before."""
    desk.lead()
    assert desk.node.raise_version(None, is_dry=False) == 2
    desk.turn()
    assert desk.node.version.present == 1
    desk.acknowledge()
    assert desk.node.version.present == 2


def test_a_dry_run_proposes_nothing(desk: Desk) -> None:
    """It says what would be."""
    desk.lead()
    before = desk.raft.log.last
    assert desk.node.raise_version(None, is_dry=True) == 2
    assert desk.raft.log.last == before


def test_only_a_leader_raises_it(desk: Desk) -> None:
    """And none that is handing leadership over."""
    assert desk.node.raise_version(None, is_dry=False) is NOT_LEADING
    desk.lead()
    desk.node.transfer(N2)
    assert desk.raft.is_transferring
    assert desk.node.raise_version(None, is_dry=False) is NOT_LEADING


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"n2": OURS, "n3": BEFORE}, "n3 can version 1"),
        ({"n2": OURS}, "n3 is not heard"),
        ({"n2": BEFORE}, "n2 can version 1; n3 is not heard"),
        ({"n2": Versions(3, 4), "n3": OURS}, "n2 can versions 3 to 4"),
    ],
)
def test_one_member_that_cannot_keeps_it(desk: Desk, said: dict[str, Versions], why: str) -> None:
    """So does one that is not heard: nobody knows what it runs by now."""
    desk.lead()
    have_said(desk, **said)
    before = desk.raft.log.last
    expected = ErrorReply(f"ERR the cluster keeps version 1, for version 2: {why}")
    assert desk.node.raise_version(None, is_dry=False) == expected
    assert desk.raft.log.last == before


def test_it_is_raised_as_far_as_all_can_and_no_further(desk: Desk) -> None:
    """Whoever asks for more is told who cannot."""
    desk.lead()
    have_said(desk, n2=Versions(1, 9), n3=Versions(1, 7))
    more = desk.node.raise_version(3, is_dry=True)
    assert more == ErrorReply("ERR the cluster keeps version 1, for version 3: n1 can versions 1 to 2")
    assert desk.node.raise_version(None, is_dry=True) == 2


def test_it_never_falls(desk: Desk) -> None:
    """Neither asked for, nor by an entry of a leader that was late."""
    desk.follow(N2, raising(desk, 2))
    desk.follow(N2, raising(desk, 1), term=desk.raft.current_term + 1)
    assert desk.node.version.present == 2
    desk.lead()
    assert desk.node.raise_version(1, is_dry=False) == ErrorReply("ERR the cluster has version 2, and it never falls")


def test_a_learner_counts_as_a_member(desk: Desk) -> None:
    """It is sent what is written, too; and while members change nobody knows who will be one."""
    learner = replace(MEMBERS[2], node_id=NodeId("n4"))
    members = replace(Configuration.initial(Membership(MEMBERS)), members=(*MEMBERS, learner), learners=(NodeId("n4"),))
    desk.follow(N2, entry_of(desk, CONFIGURATION, encode(members)))
    desk.lead()
    refused = desk.node.raise_version(None, is_dry=False)
    assert refused == ErrorReply("ERR the cluster keeps version 1, for version 2: n4 is not heard")
    have_said(desk, n2=OURS, n3=OURS, n4=OURS)
    assert desk.node.raise_version(None, is_dry=True) == 2
    desk.raft.change(desk.now_ms, desk.raft.configuration.index, [Remove(NodeId("n4"))])
    assert desk.node.raise_version(None, is_dry=True) is CHANGING


# -- what it does ------------------------------------------------------------------------------------------------------


def test_a_program_that_cannot_it_ends_where_it_is_raised(desk: Desk) -> None:
    """It has executed nothing of what comes behind, and has lost nothing."""
    with pytest.raises(UnknownFormatVersion, match="has version 3, and this program can versions 1 to 2: install"):
        desk.follow(N2, raising(desk, 3))


def test_checkpoints_name_it_and_a_start_goes_on_with_it(tmp_path: Path) -> None:
    """The checkpoint at the entry itself has it, though the log may be gone by the next start."""
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, raising(desk, 2))
        desk.node.request_checkpoint()
        desk.turn()
    assert read_checkpoint(tmp_path / "n1").version == 2
    with desk_at(tmp_path / "n1") as desk:
        assert desk.node.version.present == 2


def test_a_directory_beyond_what_the_program_can_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not set aside as damage: a newer program goes on with it."""
    with desk_at(tmp_path / "n1") as desk:
        desk.follow(N2, raising(desk, 2))
        desk.node.request_checkpoint()
        desk.turn()
        config = desk.node._config
    monkeypatch.setattr("durable_raft.server.start.recovery.OURS", BEFORE)
    names = {path.name for path in (tmp_path / "n1").iterdir()}
    with pytest.raises(UnknownFormatVersion, match="the cluster has version 2, and this program can version 1: inst"):
        open_node(config)
    assert {path.name for path in (tmp_path / "n1").iterdir()} == names


def backup_of(version: int, file: Path) -> Path:
    """Make a backup of an empty state of a cluster of ``version``."""
    with BackupWriter(file, replace(first_meta(IDENTITY, Membership(MEMBERS)), version=version)) as writer:
        writer.complete()
    return file


def test_a_backup_keeps_the_version_and_is_refused_beyond_what_the_program_can(tmp_path: Path) -> None:
    """A new cluster that begins with it has it, for its state may have what older programs cannot read."""
    config = NodeConfig(
        node_id=N1,
        directory=tmp_path / "n1",
        client_host="127.0.0.1",
        client_port=7001,
        peer_host="127.0.0.1",
        peer_port=17001,
        membership=Membership(MEMBERS),
    )
    with pytest.raises(UnknownFormatVersion, match="backup-3: the cluster has version 3, and this program can version"):
        restore_node(backup_of(3, tmp_path / "backup-3"), config, lambda *_: None)
    assert not config.directory.exists()
    restore_node(backup_of(2, tmp_path / "backup-2"), config, lambda *_: None)
    assert read_checkpoint(config.directory).version == 2


def test_what_nodes_say_of_their_states_differs_where_the_version_does(desk: Desk) -> None:
    """It is replicated state: a node that lost it is found out like any other whose state differs."""
    hashes, settled = desk.node.keeper.hashes, desk.node.keeper.checkpointer.settled
    one, two = (hashes.settled(settled.point, settled.summary, version) for version in (1, 2))
    assert one.state_hash == settled.summary.state_hash != two.state_hash


def test_info_has_it_and_what_each_node_can(desk: Desk) -> None:
    """Of a peer that is not heard nothing is said."""
    have_said(desk, n2=BEFORE)
    desk.follow(N2, raising(desk, 2))
    reporter = Reporter(desk.node._config, desk.node._store, desk.node, Watchdog(lambda: 0.0))
    status = reporter.status(ClientCounts(0, 0, 0))
    assert (status.cluster_version, status.versions) == (2, OURS)
    assert [status.peers[peer].versions for peer in (N2, N3)] == [BEFORE, None]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reply", "raised"),
    [
        ([], 2, [2]),
        ([b"7"], 7, [7]),
        ([b"dryrun"], 2, []),
        ([b"7", b"DRYRUN"], 7, []),
        ([b"0"], NOT_AN_INTEGER, []),
        ([b"65536"], NOT_AN_INTEGER, []),
        ([b"two"], NOT_AN_INTEGER, []),
        ([b"2", b"3"], SYNTAX_ERROR, []),
        ([b"dryrun", b"dryrun"], SYNTAX_ERROR, []),
    ],
)
def test_the_command(words: list[bytes], reply: object, raised: list[int]) -> None:
    """RAFT RAISEVERSION [version] [DRYRUN]."""
    node = Actions()
    assert execute_raft_command(node, (b"raft", b"raiseversion", *words)) == reply
    assert node.versions == raised


# -- links -------------------------------------------------------------------------------------------------------------


def test_who_cannot_the_version_is_not_heard_and_told_why() -> None:
    """A node of 0.1.0 says nothing of versions: it can 1. While that is the cluster's, it is heard."""

    async def story(house: House) -> None:
        old = await house.dial()
        await old.join()
        assert house.peers.versions == {N2: BEFORE}
        house.cluster_version = 2
        again = await house.dial()
        again.say(HELLO)
        *_, answer = await again.answers()
        assert isinstance(answer, HelloReply)
        why = "n2 can version 1, but this cluster has version 2: install a newer program there"
        assert (answer.accepted, answer.reason) == (False, why)

    assert in_a_house(story).failures == []


def test_a_snapshot_of_a_version_that_the_program_cannot_is_not_taken(desk: Desk) -> None:
    """The link ends, with what is to be done; the node goes on, and holds what it held."""
    empty = SnapshotChunk(Index(300), Term(6), 7, 1_000, 0, 0, 0, False, b"", [], [], [], [], True)
    desk.arrive(N2, empty._replace(version=OURS.newest))
    with pytest.raises(
        PeerTooOld, match="a snapshot from n2 has version 3, and this node can versions 1 to 2: install"
    ):
        desk.arrive(N2, empty._replace(version=OURS.newest + 1))
    assert desk.node.version.present == 1


def test_what_a_peer_can_is_known_while_it_is_heard() -> None:
    """By its newest link: it may come back with another program."""

    async def story(house: House) -> None:
        new = await house.dial()
        await new.join(HELLO._replace(version="0.2.0 1-2"))
        assert house.peers.versions == {N2: OURS}
        await new.close()
        async with asyncio.timeout(20):
            while house.peers.versions:
                await asyncio.sleep(0.001)

    assert in_a_house(story).failures == []
