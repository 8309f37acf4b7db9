"""A million inputs for the parsers, the handshake and the core: none ends a node, and none is remembered."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest

from durable_raft.raft import validation
from tests.fuzz import campaign
from tests.fuzz.campaign import play_block

INPUTS = 1_000_000


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Nobody reads a hundred thousand complaints."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_million_inputs_end_nothing_and_leave_nothing() -> None:
    """Some twenty seconds of work; the seed is fresh each time, and a failure names its block."""
    result = campaign.campaign(random.SystemRandom().randrange(10**9), INPUTS)
    assert result.inputs == INPUTS
    assert result.growth_bytes() < 16 << 20


def test_a_core_that_believes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one block: the inputs reach what they are to reach."""
    monkeypatch.setattr(validation, "validate", lambda *_: None)
    with pytest.raises(RuntimeError, match="block 1, core: InvariantViolation"):
        play_block(1)
