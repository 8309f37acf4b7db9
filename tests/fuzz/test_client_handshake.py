"""Thousands of handshakes that were damaged: none ends the node, and nothing is remembered of them."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from durable_raft.server.accepting import ClientSocket
from tests.fuzz.campaign import resident_bytes
from tests.fuzz.client_handshake import Port, open_port

CLIENTS = 1_500


def played(port: Port, clients: int) -> None:
    """Play so many."""
    for _ in range(clients):
        port.play()


def test_damaged_handshakes_end_nothing_and_leave_nothing(tmp_path: Path) -> None:
    """Some get through, or the fuzzer would never reach what is behind the handshake."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    logging.disable(logging.CRITICAL)
    try:
        with open_port(random.Random(seed), tmp_path) as port:
            played(port, CLIENTS // 4)
            before = resident_bytes()
            played(port, 3 * CLIENTS // 4)
            assert port.opened > CLIENTS // 10
            assert port.leftovers() == 0
            assert resident_bytes() - before < 16 << 20
    finally:
        logging.disable(logging.NOTSET)


def test_an_error_that_is_not_caught_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a few clients: the inputs reach what they are to reach."""

    def fail(_: ClientSocket) -> None:
        raise LookupError("said")

    monkeypatch.setattr(ClientSocket, "_say_last", fail)
    with open_port(random.Random(7), tmp_path) as port, pytest.raises(LookupError, match="said"):
        played(port, 100)
