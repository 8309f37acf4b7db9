"""Nodes that are forks of the test keep nothing of it, and nothing of it ends in them."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import pytest

from tests.support.forked_nodes import ForkedNodes

SOCKETS = 20


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_garbage_of_the_test_takes_no_file_of_a_node(tmp_path: Path) -> None:
    """The test's sockets are closed in the node, whose files take their numbers: nothing closes these once more."""
    gc.disable()
    try:
        left: list[object] = [socket.socket() for _ in range(SOCKETS)]
        left.append(left)
        del left
        nodes = ForkedNodes(1, tmp_path)
        try:
            nodes.start()
            assert nodes.leader() == "n1"
        finally:
            nodes.close()
    finally:
        gc.collect()
        gc.enable()
