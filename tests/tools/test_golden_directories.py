"""Whole data directories of released programs: this one opens them, and finds in them what was written.

They are only ever added to. Each was made by one node of that release with --log-commit as its name says: SET, MSET,
APPEND, INCR and DEL, a checkpoint, a reset of the time, more commands, and with lmdb a learner that is added. The one
with a journal was killed; its last entry is in the journal alone.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

import pytest
from raftlog.replaying import Source

from durable_raft.kv.machine import VALUE_BYTES_MAX
from durable_raft.raft.types import Member, Membership, NodeId
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.start.opening import open_node
from durable_raft.storage.log.reader import LogReader
from durable_raft.storage.state.verify import read_checkpoint
from durable_raft.storage.state.view import open_view
from tests.tools.directories import raftlog

GOLDEN: Final = Path(__file__).parent / "golden"
NAMES: Final = sorted(path.name.removesuffix(".tar.xz") for path in GOLDEN.iterdir())
OWN: Final = Member(NodeId("n1"), "127.0.0.1:17911", "127.0.0.1:27911")

EXPECTED: Final = {
    b"a": b"1",
    b"city": b"Paris",
    b"ttl": b"x",
    b"long": b"x" * 5000 + b"y",
    b"n": b"3",
    b"after": b"checkpoint",
    b"gone": None,
    **{b"k%d" % number: b"v" * number for number in range(20)},
}


@pytest.fixture(params=NAMES)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory of a released program."""
    with tarfile.open(GOLDEN / f"{request.param}.tar.xz") as files:
        files.extractall(tmp_path, filter="data")
    return tmp_path / str(request.param)


def values(directory: Path) -> dict[bytes, bytes | None]:
    """Return what the newest entry leaves of the keys that were written, by checkpoint and log."""
    with LogReader.open(directory) as reader, open_view(directory) as view:
        state = Source(reader, view, VALUE_BYTES_MAX).state_at(reader.overview().last_index)
        found = {key: state.value(key) for key in EXPECTED}
    return {key: None if value is None else value.value for key, value in found.items()}


def test_there_are_directories_of_each_way_to_commit() -> None:
    """None was lost."""
    assert {"0.1.0-journal", "0.1.0-lmdb"} <= set(NAMES)


def test_what_was_written_is_found(directory: Path) -> None:
    """By the tools, and again after a node has opened the directory: that writes nothing that 0.1.0 cannot read."""
    assert raftlog("verify", directory).returncode == 0
    assert values(directory) == EXPECTED
    config = NodeConfig(
        node_id=OWN.node_id,
        directory=directory,
        client_host="127.0.0.1",
        client_port=17911,
        peer_host="127.0.0.1",
        peer_port=27911,
        membership=Membership((OWN,)),
    )
    data = open_node(config)
    assert data.kv is not None
    assert data.kv.checkpoint.version == 1
    data.kv.close()
    data.log_store.close()
    assert read_checkpoint(directory).version == 1
    assert values(directory) == EXPECTED
