"""Questions for a snapshot that come faster than its pieces are read: a peer is given one piece after the other."""

from __future__ import annotations

from pathlib import Path

from durable_raft.raft.types import Index
from durable_raft.wire.peer import FetchSnapshot
from tests.support.desk import N2, N3, desk_at


def test_a_peer_is_given_one_piece_at_a_time(tmp_path: Path) -> None:
    """Whoever asks on before it has the last one is not given more; another peer is served meanwhile."""
    with desk_at(tmp_path / "n1") as desk:
        question = FetchSnapshot(Index(0), False, b"", Index(0))
        for _ in range(100):
            desk._events.receive(N2, question)
        desk._events.receive(N3, question)
        desk.turn()
        assert desk.node.keeper.source.pieces == 2
        desk._events.receive(N2, question)
        desk.turn()
        assert desk.node.keeper.source.pieces == 3
