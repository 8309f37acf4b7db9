"""What real clients were told while nodes were killed and paused has an order that one store could have answered.

The clients stop at nothing: they ask whichever node they are sent to and remember exactly what they know. The seed
gives the commands; what they meet depends on the machine, so a failing history is written to a file.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.recorder import Recorder
from tests.cluster.registers import any_command, final_reads, judge
from tests.simulation.linearizability import Outcome, check, check_whole
from tests.simulation.sequential import NEVER, OK, READS, Kind, Operation

pytestmark = pytest.mark.cluster

SEED = 20_261_123
CLIENTS = 6

FAULTS = ("kill a follower", "kill the leader", "kill all", "pause the leader")
ROUNDS = 2


def group_command(rng: random.Random, number: int) -> list[bytes]:
    """Return a command on a group of three keys; 150 commands to a group, which is judged whole."""
    keys = [b"g%d:%d" % (number // 150, member) for member in range(3)]
    pair = rng.sample(keys, 2)
    return rng.choice(
        (
            [b"MSET", *(word for key in keys for word in (key, b"v%d" % number))],
            [b"MGET", *keys],
            [b"MGET", *pair],
            [b"DEL", *pair],
            [b"EXISTS", *keys],
            [b"GET", pair[0]],
            [b"SET", pair[0], b"v%d" % number],
        )
    )


def strike(cluster: Cluster, recorder: Recorder, fault: str) -> str:
    """Let one fault happen among traffic and heal it, with answers again after both; return the fault."""
    recorder.wait_for(200)
    leader = cluster.wait_ready()
    if fault == "pause the leader":
        cluster.pause(leader)
        cluster.leader(other_than=leader)
        recorder.wait_for(200)
        cluster.resume(leader)
    elif fault == "kill all":
        cluster.kill9()
        assert cluster.running() == []
        cluster.restart()
    else:
        victim = leader if fault == "kill the leader" else next(node for node in cluster.node_ids if node != leader)
        cluster.kill9(victim)
        assert not cluster.is_running(victim)
        recorder.wait_for(200)
        cluster.restart(victim)
    recorder.wait_for(100)
    return fault


def with_a_stale_read(history: Sequence[Operation]) -> list[Operation]:
    """Return the history with the last read of a value answered by one that was certainly overwritten long before."""
    reads = [each for each in history if each.kind is Kind.GET and each.output and each.returned != NEVER]
    for read in sorted(reads, key=lambda each: -each.invoked):
        of_key = [each for each in history if each.key == read.key and each.kind is Kind.SET and each.returned != NEVER]
        overwritten = sorted((each for each in of_key if each.returned < read.invoked), key=lambda each: each.returned)
        if len(overwritten) > 5 and overwritten[0].returned < overwritten[-1].invoked:
            return [each._replace(output=overwritten[0].input) if each is read else each for each in history]
    raise AssertionError("no key was written and read often enough")


def test_history_under_kills_and_pauses_is_linearizable(cluster: Cluster, tmp_path: Path) -> None:
    """Followers, leaders and all nodes are killed, leaders paused: every answer of every command fits one order."""
    recorder = Recorder(cluster, any_command, clients=CLIENTS, seed=SEED)
    with recorder.running():
        faults = Counter(strike(cluster, recorder, fault) for _ in range(ROUNDS) for fault in FAULTS)
    history = recorder.history + final_reads(cluster, {each.key for each in recorder.history})
    began = time.perf_counter()
    verdict = check(history)
    print(
        f"{recorder.summary()}; {verdict.keys} keys; judged in {time.perf_counter() - began:.2f} s, "
        f"{verdict.steps} steps; {dict(faults)}; {dict(Counter(str(each.kind) for each in history))}"
    )
    judge(verdict, history, tmp_path)
    assert faults == dict.fromkeys(FAULTS, ROUNDS)
    assert recorder.answered > 3000
    assert sum(each.returned == NEVER and each.kind not in READS for each in history) >= 3, "no fault met a write"
    assert min(Counter(each.kind for each in history).values()) > 50, "a command was hardly asked"
    assert check(with_a_stale_read(history)).outcome is Outcome.NOT_LINEARIZABLE, "this history would hide a stale read"


def test_commands_over_several_keys_are_atomic_under_kills(cluster: Cluster, tmp_path: Path) -> None:
    """MSET, MGET, DEL and EXISTS of several keys under kills: each group of keys has one order for all of them."""
    recorder = Recorder(cluster, group_command, clients=3, seed=SEED)
    with recorder.running():
        faults = Counter(strike(cluster, recorder, fault) for fault in FAULTS)
    groups: dict[bytes, list[Operation]] = {}
    for each in recorder.history:
        groups.setdefault(group_of(each), []).append(each)
    steps = 0
    for operations in groups.values():
        verdict = check_whole(operations)
        judge(verdict, operations, tmp_path)
        steps += verdict.steps
    print(f"{recorder.summary()}; {len(groups)} groups, {steps} steps; {dict(faults)}")
    assert faults == dict.fromkeys(FAULTS, 1)
    assert recorder.answered > 1000
    assert any(each.returned == NEVER for each in recorder.history), "no fault met a command"


def group_of(operation: Operation) -> bytes:
    """Return the group that a command of ``group_command`` is about."""
    first = operation.input if operation.key == b"" else operation.key
    while isinstance(first, tuple):
        first = first[0]
    assert isinstance(first, bytes)
    return first.partition(b":")[0]


def test_increments_under_kills_count_what_was_acknowledged(cluster: Cluster) -> None:
    """A counter ends between what was acknowledged and that plus the unknown; no value was given out twice."""
    recorder = Recorder(cluster, lambda _rng, _number: [b"INCR", b"hits"], clients=CLIENTS, seed=SEED)
    with recorder.running():
        faults = Counter(strike(cluster, recorder, fault) for fault in FAULTS)
    [final] = final_reads(cluster, [b"hits"])
    assert isinstance(final.output, bytes)
    given = [each.output for each in recorder.history if each.returned != NEVER]
    unknown = len(recorder.history) - len(given)
    print(f"{recorder.summary()}; final value {final.output.decode()}; {dict(faults)}")
    assert all(isinstance(value, int) for value in given), f"errors: {[v for v in given if not isinstance(v, int)][:3]}"
    assert len(set(given)) == len(given), "an increment was answered twice"
    assert len(given) <= int(final.output) <= len(given) + unknown
    assert faults == dict.fromkeys(FAULTS, 1)
    assert len(given) > 1000
    assert unknown > 0, "no fault met an increment"


def test_failing_history_is_kept(tmp_path: Path) -> None:
    """A history that has no order fails with the reason and the name of a file that has all of it."""
    history = [
        Operation(0, b"x", Kind.SET, b"1", OK, 0.0, 1.0),
        Operation(1, b"x", Kind.GET, None, None, 2.0, 3.0),
        Operation(2, b"x", Kind.SET, b"2", None, 2.5),
    ]
    with pytest.raises(AssertionError, match="key x is not linearizable") as failure:
        judge(check(history), history, tmp_path)
    path = Path(str(failure.value).rpartition("the whole history: ")[2])
    assert len(path.read_text().splitlines()) == len(history)
