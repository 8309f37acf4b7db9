"""A million inputs for the parsers, the handshake, the core and nodes: none ends one, and none is remembered."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import get_args

import pytest

from durable_raft.kv.machine import Machine
from durable_raft.raft import validation
from durable_raft.server.state.keeper import StateKeeper
from durable_raft.server.state.snapshot_source import SnapshotSource
from durable_raft.server.state.state_hashes import StateHashes
from durable_raft.server.timekeeper import Timekeeper
from durable_raft.wire.messages import FrameKind, NodeMessage, PeerMessage
from durable_raft.wire.peer import FrameParser, encode_frame
from tests.fuzz import campaign, inputs
from tests.fuzz.campaign import play_block
from tests.fuzz.dice import Dice
from tests.fuzz.lies import CORE_KINDS, MAKERS, NODE_KINDS, Liar
from tests.fuzz.node import tell_nodes
from tests.fuzz.targets import log_of
from tests.support.raft_solo import solo
from tests.wire.peer_messages import CLUSTER, EXAMPLES

INPUTS = 1_000_000


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Nobody reads a hundred thousand complaints."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_no_kind_of_message_is_forgotten() -> None:
    """Each frame is there to be damaged, and each message that is said on a link is made up and told to a node."""
    assert {frame[6] for frame in inputs.FRAMES} == set(FrameKind)
    assert {type(example) for example in EXAMPLES.values()} == set(get_args(PeerMessage))
    assert set(MAKERS) == set(NODE_KINDS) == set(get_args(NodeMessage))
    assert {kind for kind in MAKERS if kind.__module__ == "durable_raft.raft.messages"} == set(CORE_KINDS)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_made_up_is_what_the_wire_lets_through(kind: type[NodeMessage]) -> None:
    """Else the core would be asked what nobody can ask it."""
    rng = random.Random(7)
    liar = Liar(rng, solo("1 1 2 2 3", term=3)["n1"], log_of)
    made = [liar.message(kind) for _ in range(200)]
    assert {type(message) for message in made} == {kind}
    parser = FrameParser(CLUSTER, 1 << 20)
    heard = [message for each in made for message in parser.feed(encode_frame(CLUSTER, each))]
    assert heard == made


def test_a_million_inputs_end_nothing_and_leave_nothing() -> None:
    """Some twenty seconds of work; the seed is fresh each time, and a failure names its block."""
    result = campaign.campaign(random.SystemRandom().randrange(10**9), INPUTS)
    assert result.failures == []
    assert result.inputs == INPUTS
    assert result.growth_bytes() < 16 << 20


def test_a_core_that_believes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one block: the inputs reach what they are to reach."""
    monkeypatch.setattr(validation, "validate", lambda *_: None)
    with pytest.raises(RuntimeError, match="block 1, core: InvariantViolation"):
        play_block(1)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (StateKeeper, "_install"),
        (StateKeeper, "_set_aside"),
        (Timekeeper, "_reset_applied"),
        (StateHashes, "verdict"),
        (SnapshotSource, "_read"),
        (Machine, "raise_version"),
    ],
)
def test_what_nodes_are_told_gets_far(part: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where a node installs a snapshot, or sets its state aside: a bug there would be found."""

    def fail(*_: object, **__: object) -> None:
        raise LookupError(name)

    monkeypatch.setattr(part, name, fail)
    with pytest.raises(LookupError, match=name):
        tell_nodes(Dice(5), 100_000)
