"""A disk that is watched, fails, hangs or is full, under real nodes: what was acknowledged was flushed before.

System calls are traced and made to fail by strace; every test asserts that its fault really came.
"""

from __future__ import annotations

import itertools
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from durable_raft.server.exit_codes import ExitCode
from durable_raft.server.node import HOUSEKEEPING_S
from durable_raft.server.persister import LONE_BYTES_MAX, QUICK_FLUSH_S
from durable_raft.wire.peer import FRAME_VERSION, FrameKind
from tests.cluster.conftest import ClusterFactory, Strace
from tests.cluster.harness import EAGER, PATIENT, Cluster
from tests.cluster.raw import Conversation
from tests.cluster.workload import Workload, assert_on_all_nodes

pytestmark = pytest.mark.cluster

LEADER: Final = "n1"
"""Stands for election long before the others, so that it is the leader whose disk fails."""
STARTS_MAX: Final = 5
HUNG_S: Final = 8
"""Longer than a patient node waits before it stands, and then some."""

REPLIES: Final = "write,writev,sendto,sendmsg"
"""The calls with which replies may leave."""
FLUSHES: Final = "fdatasync,pwrite64,open,openat"
FLUSHED: Final = re.compile(r"fdatasync\b.*= 0$", re.MULTILINE)
META_WRITTEN: Final = re.compile(r"pwrite64\((\d+), .*, 120, (?:32|4128)(?:\)| <unfinished)")
"""LMDB commits by writing the 120 bytes of a meta page on a descriptor that syncs by itself (``SYNCED``)."""
SYNCED: Final = re.compile(r"data\.mdb\", [^)]*O_DSYNC.* = (\d+)$", re.MULTILINE)

JOURNAL_OPENED: Final = re.compile(r"raft/journal\", O_RDWR[^)]*\) = (\d+)$", re.MULTILINE)
JOURNAL_WRITTEN: Final = re.compile(r"pwrite64\(\d+, \"DRJG")
FLUSH_BEGUN: Final = re.compile(r"(\d+) +fdatasync\((\d+)(?:\) += 0| <unfinished)")
FLUSH_ENDED: Final = re.compile(r"(\d+) +<\.\.\. fdatasync resumed>\) += 0")
QUIET_WRITES: Final = 40

APPEND_SENT: Final = rf'"DRpf\{FRAME_VERSION}\1\{FrameKind.APPEND_ENTRIES}'
"""How strace shows the beginning of an AppendEntries frame (wire/peer.py)."""

TIMEOUT_NOW_SENT: Final = rf'"DRpf\{FRAME_VERSION}\1\{FrameKind.TIMEOUT_NOW:o}'
"""The same of a TimeoutNow."""

CLIENTS: Final = 3
"""Whose commands share the flush that fails."""
LONE_FLUSHES: Final = 20
LONE_WRITES_MAX: Final = 1000
"""In so many writes a leader flushes that many on the thread that sends, where flushes are quick."""


def _trace(cluster: Cluster, node_id: str) -> Path:
    return cluster.directory / f"{node_id}.trace"


def _start_traced(cluster: Cluster, node_ids: list[str], strace: Strace, calls: str, inject: str | None = None) -> None:
    """Start all nodes anew, the given ones under strace, with n1 the leader.

    n1 stands first unless the machine stood still just then: after such an election all is started once more.
    """
    for _ in range(STARTS_MAX):
        cluster.kill9()
        for node_id in cluster.node_ids:
            eager = EAGER if node_id == LEADER else {}
            if node_id in node_ids:
                cluster.run_under(node_id, strace(_trace(cluster, node_id), calls, inject), **eager)
            else:
                cluster.start(node_id, settings=eager)
        if cluster.wait_ready() == LEADER:
            return
    pytest.fail(f"{LEADER} lost {STARTS_MAX} elections, for which it stood long before the others")


def _assert_each_write_flushed(cluster: Cluster, node_ids: list[str]) -> None:
    """Assert that each of a sequence of writes is acknowledged after flushes of its own on all of the nodes."""

    def flushes() -> list[tuple[int, int]]:
        counts = []
        for node_id in node_ids:
            text = _trace(cluster, node_id).read_text()
            synced = set(SYNCED.findall(text))
            counts.append((len(FLUSHED.findall(text)), sum(fd in synced for fd in META_WRITTEN.findall(text))))
        return counts

    with Conversation(cluster, LEADER) as client:
        before = flushes()
        for number in range(40):
            assert client.ask("SET", f"key{number}", "x") == "OK"
            after = flushes()
            for (data_before, meta_before), (data, meta) in zip(before, after, strict=True):
                assert data > data_before, f"write {number} was acknowledged without an fdatasync"
                assert meta > meta_before, f"write {number} was acknowledged without a synced meta page"
            before = after


def _journal_flushes(trace: Path) -> int:
    """Return how many flushes of the journal have ended."""
    text = trace.read_text()
    journal, under_way, count = set(JOURNAL_OPENED.findall(text)), {}, 0
    for line in text.splitlines():
        if (begun := FLUSH_BEGUN.match(line)) is not None:
            thread, fd = begun.groups()
            if "unfinished" in line:
                under_way[thread] = fd
            else:
                count += fd in journal
        elif (ended := FLUSH_ENDED.match(line)) is not None:
            count += under_way.pop(ended[1], None) in journal
    return count


def _assert_each_write_flushed_once(cluster: Cluster, node_ids: list[str]) -> None:
    """Assert that each of a sequence of writes is acknowledged after a flush of the journal, and few after more."""
    counts: dict[str, list[int]] = {node_id: [] for node_id in node_ids}
    begun = time.monotonic()
    with Conversation(cluster, LEADER) as client:
        for number in range(QUIET_WRITES + 1):
            assert client.ask("SET", f"key{number}", "x") == "OK"
            for node_id in node_ids:
                counts[node_id].append(_journal_flushes(_trace(cluster, node_id)))
    for node_id in node_ids:
        each = [after - before for before, after in itertools.pairwise(counts[node_id])]
        assert min(each) >= 1, f"{node_id}: a write was acknowledged without a flush of the journal: {each}"
        # What the node has to say for itself comes between, four times a second and now and then.
        assert sum(each) - len(each) < QUIET_WRITES / 4 + (time.monotonic() - begun) / HOUSEKEEPING_S, each


def test_each_write_has_one_flush_of_the_journal_on_a_single_node(cluster_of: ClusterFactory, strace: Strace) -> None:
    """And no transaction of LMDB is waited for."""
    cluster = cluster_of(1, log_commit="journal")
    _start_traced(cluster, [LEADER], strace, FLUSHES)
    _assert_each_write_flushed_once(cluster, [LEADER])


def test_each_write_has_one_flush_of_the_journal_on_a_majority(cluster_of: ClusterFactory, strace: Strace) -> None:
    """With one of three nodes dead, on both that are left."""
    cluster = cluster_of(3, log_commit="journal", **PATIENT)
    _start_traced(cluster, ["n1", "n2"], strace, FLUSHES)
    cluster.kill9("n3")
    _assert_each_write_flushed_once(cluster, ["n1", "n2"])


def test_under_load_each_group_has_one_flush(cluster_of: ClusterFactory, strace: Strace) -> None:
    """Many clients share them, and LMDB's transactions are far fewer."""
    cluster = cluster_of(1, log_commit="journal")
    _start_traced(cluster, [LEADER], strace, FLUSHES)
    workload = Workload(cluster)
    with workload.running():
        workload.wait_for(300)
    text = _trace(cluster, LEADER).read_text()
    groups, flushes = len(JOURNAL_WRITTEN.findall(text)), _journal_flushes(_trace(cluster, LEADER))
    assert abs(groups - flushes) <= 1, f"{groups} groups, {flushes} flushes"
    synced = set(SYNCED.findall(text))
    assert sum(fd in synced for fd in META_WRITTEN.findall(text)) < groups / 2
    assert_on_all_nodes(cluster, workload.acknowledged)


def test_every_acknowledged_write_is_flushed_first_on_a_single_node(cluster_of: ClusterFactory, strace: Strace) -> None:
    """Writes one after the other each have an fdatasync and a synced meta page before their reply."""
    cluster = cluster_of(1, log_commit="lmdb")
    _start_traced(cluster, [LEADER], strace, FLUSHES)
    _assert_each_write_flushed(cluster, [LEADER])


def test_every_acknowledged_write_is_flushed_first_on_a_majority(cluster_of: ClusterFactory, strace: Strace) -> None:
    """With one of three nodes dead, both the leader and the follower that is left flush each write before its reply."""
    cluster = cluster_of(3, log_commit="lmdb", **PATIENT)
    _start_traced(cluster, ["n1", "n2"], strace, FLUSHES)
    cluster.kill9("n3")
    _assert_each_write_flushed(cluster, ["n1", "n2"])


def test_a_lone_write_is_on_its_way_while_its_leader_flushes(cluster_of: ClusterFactory, strace: Strace) -> None:
    """A leader sends a write to both followers before it flushes it on the thread that sends (Ongaro §10.2.1)."""
    cluster = cluster_of(3, **PATIENT)
    _start_traced(cluster, [LEADER], strace, f"fdatasync,{REPLIES}")
    happened = ""
    with Conversation(cluster, LEADER) as client:
        for number in range(LONE_WRITES_MAX):
            assert client.ask("SET", f"key{number}", "x") == "OK"
            happened = _on_the_loop(_trace(cluster, LEADER))
            if happened.count("f") == LONE_FLUSHES:
                break
        else:
            pytest.skip(f"flushes take longer than {QUICK_FLUSH_S} s here: a leader leaves them all to another thread")
    # A heartbeat or a checkpoint may come between; not every time.
    assert len(re.findall("s+f", happened)) > LONE_FLUSHES * 3 / 4, happened


def _on_the_loop(trace: Path) -> str:
    """Return what the thread that replies did from its first AppendEntries on: s to send one, f a flush, r a reply."""
    lines = trace.read_text().splitlines()
    loop = next(line.split()[0] for line in lines if '"+OK' in line)
    marks = ((APPEND_SENT, "s"), ("fdatasync(", "f"), ('"+OK', "r"))
    happened = "".join(mark for line in lines if line.split()[0] == loop for sign, mark in marks if sign in line)
    return happened.lstrip("f")


@pytest.mark.parametrize("fault", ["fdatasync:error=EIO:when=40+", "fdatasync:error=EIO:when=40"])
def test_failed_flush_ends_the_node(cluster_of: ClusterFactory, strace: Strace, fault: str) -> None:
    """A node whose fdatasync fails, if only once, exits with 6 and acknowledges nothing more; what it had is there."""
    _check_failing_disk(cluster_of, strace, fault)


@pytest.mark.parametrize(
    "fault", ["pwrite64:error=EIO:when=40+", "pwrite64:error=EIO:when=40", "pwrite64:error=EIO:when=41"]
)
def test_failed_write_ends_the_node(cluster_of: ClusterFactory, strace: Strace, fault: str) -> None:
    """The same when a page, of data or the meta page behind it, cannot be written."""
    _check_failing_disk(cluster_of, strace, fault)


def _check_failing_disk(cluster_of: ClusterFactory, strace: Strace, fault: str) -> None:
    """Check a node that ends in the write of a client's command, which is then not answered."""
    # A write of the node's own may be the one that fails: then all clients may have been answered, of an earlier flush.
    assert any(_answered_after(cluster_of, strace, fault) < CLIENTS for _ in range(3)), "the failed write was answered"


def _answered_after(cluster_of: ClusterFactory, strace: Strace, fault: str) -> int:
    """Check a node whose disk fails in a cluster of its own; return how many clients it answered after the fault."""
    cluster = cluster_of(1)
    # What a first start makes is behind it: the fault is to strike while it works.
    cluster.wait_ready()
    _start_traced(cluster, [LEADER], strace, f"fdatasync,pwrite64,{REPLIES}", fault)
    acknowledged: list[str] = []
    with ExitStack() as stack:
        clients = [stack.enter_context(Conversation(cluster, LEADER)) for _ in range(CLIENTS)]
        while not any(client.is_closed for client in clients):
            assert len(acknowledged) < 3000, "the fault did not come"
            key = f"key{len(acknowledged)}"
            for number, client in enumerate(clients):
                client.send("SET", f"{key}:{number}", "x")
            acknowledged += [f"{key}:{n}" for n, client in enumerate(clients) if client.reply() == "OK"]
    assert cluster.wait_exit(LEADER) == ExitCode.DISK_FAILED, cluster.explain("not the exit code of a failed disk")
    cluster.logged(LEADER, "event=stopping")
    cluster.logged(LEADER, "Input/output error")
    before, injected, after = _trace(cluster, LEADER).read_text().partition("(INJECTED)")
    assert injected
    # The loop may still answer what an earlier flush made durable before it hears of this one.
    late = after.count('"+OK\\r\\n"')
    assert len(acknowledged) == before.count('"+OK\\r\\n"') + late > 0
    cluster.start(LEADER)
    cluster.wait_ready()
    with Conversation(cluster, LEADER) as client:
        assert [key for key in acknowledged if client.ask("GET", key) != "x"] == []
        assert client.ask("SET", "afterwards", "x") == "OK"
    return late


def test_leader_with_a_failed_disk_is_replaced(cluster_of: ClusterFactory, strace: Strace) -> None:
    """A leader whose disk fails under load exits with 6, the others go on, and nothing acknowledged is lost.

    Its last word is that another is to lead, so nobody has to wait until its silence is noticed.
    """
    cluster = cluster_of(3, **PATIENT)
    _start_traced(cluster, [LEADER], strace, f"fdatasync,{REPLIES}", "fdatasync:error=EIO:when=100+")
    workload = Workload(cluster)
    with workload.running():
        assert cluster.wait_exit(LEADER) == ExitCode.DISK_FAILED, cluster.explain("not the exit code of a failed disk")
        before, injected, after = _trace(cluster, LEADER).read_text().partition("(INJECTED)")
        assert injected
        assert TIMEOUT_NOW_SENT not in before
        assert after.count(TIMEOUT_NOW_SENT) == 1
        workload.wait_for(50)
        cluster.start(LEADER)
        cluster.wait_ready()
    assert_on_all_nodes(cluster, workload.acknowledged)


@pytest.mark.parametrize("value_bytes", [LONE_BYTES_MAX + 1, 0], ids=["on its thread", "on the loop, perhaps"])
def test_leader_with_a_hung_disk_is_replaced(cluster_of: ClusterFactory, strace: Strace, value_bytes: int) -> None:
    """A leader whose fdatasync takes seconds hands over, lives on and catches up; its thread waits, not its loop.

    Small writes may be waited for by the loop itself: then the node is silent meanwhile, and is replaced.
    """
    cluster = cluster_of(3, **PATIENT)
    _start_traced(cluster, [LEADER], strace, "fdatasync", f"fdatasync:delay_enter={HUNG_S}000000:when=100")
    workload = Workload(cluster, value_bytes=value_bytes)
    with workload.running():
        cluster.leader(other_than=LEADER)
        if value_bytes:
            stuck = cluster.info(LEADER)
            assert stuck is not None, cluster.explain("the node with the hung disk does not answer")
            assert int(stuck["raft_flushed_index"]) < int(stuck["raft_last_log_index"])
        workload.wait_for(50)
        if value_bytes:
            assert "event=heartbeat_withheld" in cluster.log(LEADER)
            assert "event=leader_with_hung_disk" in cluster.log(LEADER)
    assert_on_all_nodes(cluster, workload.acknowledged)
    assert "(DELAYED)" in _trace(cluster, LEADER).read_text()
