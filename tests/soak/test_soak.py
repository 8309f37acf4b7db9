"""The soak itself, for a moment: it writes, troubles the nodes, and finds every acknowledged write again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_raft.wire.peer import encode_frame
from tests.cluster.disks import NoDisks
from tests.cluster.harness import UNHURRIED
from tests.fuzz import inputs
from tests.soak.driver import TROUBLES
from tests.soak.ground import Sizes
from tests.soak.report import figures
from tests.soak.soak import calm, troubled
from tests.wire.peer_messages import CLUSTER, EXAMPLES, OTHER_CLUSTER

pytestmark = pytest.mark.cluster

SMALL = Sizes(pipeline=5_000, value_bytes=4_000_000, hold_s=0.5)
MEMORY_MAX = 256 << 20


def test_garbage_of_peers_is_of_the_cluster_that_it_is_sent_to() -> None:
    """A sound frame of the fuzzers' cluster becomes the frame that another cluster's node would send."""
    for message in EXAMPLES.values():
        assert inputs.of_cluster(encode_frame(CLUSTER, message), OTHER_CLUSTER) == encode_frame(OTHER_CLUSTER, message)


def test_soak_writes_and_finds_it_again(tmp_path: Path) -> None:
    """For as long as a few writes take, with no work beside it and no trouble."""
    with calm(tmp_path, rate=50, writers=2, bound_ms=2000, seed=1) as soak:
        soak.run(0, lambda _: soak.cluster.wait(lambda: len(soak.load.acknowledged) > 10, "writes"), 0)
        found = figures(soak)
    assert not soak.problems, soak.problems
    assert soak.load.outcomes["OK"] == found["acknowledged"] > 10
    assert 0 < soak.load.worst_pause_s <= found["seconds"] + 1
    assert soak.seen.leaders
    assert soak.seen.longest_timeout_ms >= 300
    assert found["history"]["judgement"] == "linearizable"


def test_every_trouble_strikes_and_nothing_is_lost(tmp_path: Path) -> None:
    """Each once, two or three at a time: none is a word only, and none leaves the cluster with a problem."""
    names = random.Random(7).sample(list(TROUBLES), len(TROUBLES))
    try:
        with troubled(
            tmp_path / "nodes", names, rate=20, writers=2, seed=7, memory_max=MEMORY_MAX, sizes=SMALL, **UNHURRIED
        ) as soak:
            assert soak.driver is not None
            play = soak.driver.play

            def all_of_them(_: Callable[[], bool]) -> None:
                for start in range(0, len(names), 3):
                    play(names[start : start + 3])

            soak.run(0, all_of_them, 0)
            found = figures(soak)
    except NoDisks as error:
        pytest.skip(str(error))
    print(found)
    assert not soak.problems, "\n".join(soak.problems)
    assert set(found["troubles"]) > set(TROUBLES)
    assert 0 < found["most_memory_bytes"] <= found["memory_max_bytes"]
