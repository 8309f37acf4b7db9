"""What a child process reads of a state, told to the node that goes on meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from durable_raft.storage.soundness import StateCheck
from durable_raft.storage.state.records import stored_key
from durable_raft.storage.state.swap import set_aside
from tests.tools.directories import flip_bit_of_state, make_state, whole


def damaged(directory: Path) -> StateCheck:
    """Return a check that has read a damaged state to its end and was not asked yet."""
    whole(directory, 9)
    flip_bit_of_state(directory, "keys", stored_key(b"key:000007"), 150)
    check = StateCheck(directory)
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    return check


def test_damage_is_told_once(tmp_path: Path) -> None:
    """And nothing after that."""
    check = damaged(tmp_path)
    assert "keys" in (check.poll() or "")
    assert check.poll() is None


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_damage_of_a_state_that_was_replaced_is_not_told(tmp_path: Path, *, is_rebuilt: bool) -> None:
    """Else the sound state that took its place would be blamed for it, and set aside."""
    check = damaged(tmp_path)
    set_aside(tmp_path, "kv.wounded")
    if is_rebuilt:
        make_state(tmp_path, None)
    assert check.poll() is None
    assert check.poll() is None
