"""Making recordings: the scripted workload on the store, and a real node that serves a client, both under strace."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import hiredis

from durable_raft.cli.local_cluster import HOST, LocalNode, free_ports, node_environment, serve_command
from durable_raft.kv.batch import decode_commands
from durable_raft.raft.types import EntryKind
from durable_raft.raft.versions import OURS
from tests.power_loss.disk import Image, build, replay
from tests.power_loss.images import everything
from tests.power_loss.operations import Marker, Recording
from tests.power_loss.pool import CHECKOUT
from tests.power_loss.stores import LMDB, PLANTED, reopen
from tests.power_loss.strace import UNPROMISED, CutShort, Tracer, strace_command
from tests.power_loss.workload import ROUNDS
from tests.support.log_building import read_all
from tests.support.waiting import wait_until

DIRECTORY: Final = "data/n1"
"""The data directory beneath the root: two levels that the program has to make."""
SECONDS_MAX: Final = 120.0
ATTEMPTS: Final = 10
TURNS: Final = 9
SETTINGS: Final = {"election_timeout_min_ms": 150, "election_timeout_max_ms": 200, "checkpoint_changes": 12}
"""Of the node: it is elected soon, and writes some checkpoints of its state on the way."""
WITHOUT_BYTES: Final = "lock.mdb"
"""Written through a map, which the trace does not show."""
OK: Final = b"+OK\r\n"
CHANGES: Final = (
    ("ADD n2=127.0.0.1:1@2", "UPDATE n2=127.0.0.1:3@4"),
    ("REMOVE n2", "ADD n3=127.0.0.1:1@2"),
)
"""Of the members, in each life; the ports of a learner that is never there are nobody's."""
AGAIN: Final = ("NOTREADY", "INPROGRESS")
"""Refusals of a change that is only asked for too early."""
Command = list[bytes]


def record_store(
    scratch: Path, seed: int, bug: str | None = None, rounds: int = ROUNDS, commit: str = LMDB
) -> Recording:
    """Record the scripted workload; ``bug`` names one of planted.py, ``commit`` what makes a write durable."""
    root, marks, trace = _places(scratch)
    program = [sys.executable, "-m", "tests.power_loss.workload", str(root / DIRECTORY), str(marks), str(seed)]
    program += [str(rounds), commit]
    finished = subprocess.run(
        [*strace_command(trace), *program, *([bug] if bug else [])],
        capture_output=True,
        text=True,
        env=_environment(),
        cwd=CHECKOUT,
        timeout=SECONDS_MAX,
        check=False,
    )
    if finished.returncode != 0:
        raise AssertionError(f"the workload failed: {finished.stdout[-2000:]}{finished.stderr[-4000:]}")
    tracer = Tracer(root, marks)
    tracer.run(trace)
    recording = Recording("store", seed, DIRECTORY, tracer.operations)
    check_replay(recording, root)
    return recording


def check_replay(recording: Recording, root: Path) -> None:
    """Check that the operations, all kept, give exactly what lies on the disk now: nothing was missed.

    Raises:
        AssertionError: a file differs.
    """
    snapshot = replay(recording.operations)[-1]
    # Everything counts as kept here, those files included whose bytes have no meaning.
    choice = everything(snapshot)
    kept = {each.number: -1 for state in snapshot.files.values() for each in state.pending}
    image = build(snapshot, type(choice)({**choice.kept, **kept}))
    found = _read_tree(root)
    expected = _comparable(image)
    different = [
        path
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path) and not f"/{path}".endswith(UNPROMISED)
    ]
    if different:
        raise AssertionError(f"seed {recording.seed}: the recording does not give what lies on the disk: {different}")


def _read_tree(root: Path) -> dict[str, bytes | None]:
    tree: dict[str, bytes | None] = {}
    for path in root.rglob("*"):
        has_bytes = path.is_file() and path.name != WITHOUT_BYTES
        tree[path.relative_to(root).as_posix()] = path.read_bytes() if has_bytes else None
    return tree


def _comparable(image: Image) -> dict[str, bytes | None]:
    tree: dict[str, bytes | None] = dict.fromkeys(image.directories)
    return tree | {path: None if path.endswith(WITHOUT_BYTES) else data for path, data in image.files}


def _places(scratch: Path) -> tuple[Path, Path, Path]:
    """Return (root, marks, trace), made anew."""
    shutil.rmtree(scratch, ignore_errors=True)
    root = scratch / "root"
    root.mkdir(parents=True)
    return root, scratch / "marks", scratch / "trace"


def _environment() -> dict[str, str]:
    """Return the environment of what is recorded; the event loop must not write past the trace, through io_uring."""
    path = os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "tools")))
    return node_environment() | {"PYTHONPATH": path, "UV_USE_IO_URING": "0"}


# -- a real node -----------------------------------------------------------------------------------------------


def record_node(
    scratch: Path, seed: int, bug: str | None = None, lives: int = 2, turns: int = TURNS, commit: str = LMDB
) -> Recording:
    """Record a cluster of one in some lives: killed at the end of each but the last, which is stopped.

    In each life a client sends some commands and waits for the answers, ``turns`` times. Before the last of them, in
    the first life, the version of the cluster is raised; and a learner comes, which nobody is, and changes its address.
    In the next life it goes. ``bug`` names one of planted.py.

    A checkpoint may be under way when it is killed. Whether the call it was in had its effect cannot be told from the
    trace, so that such a recording is thrown away for another.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _record_node(scratch, seed, bug, lives, turns, commit)
        except CutShort:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("not reached")


def _record_node(scratch: Path, seed: int, bug: str | None, lives: int, turns: int, commit: str) -> Recording:
    root, marks, trace = _places(scratch)
    rng = random.Random(seed)
    tracer = Tracer(root, marks)
    sent: list[Command] = []
    client_port, peer_port = free_ports(2)
    local = LocalNode("n1", client_port, peer_port, root / DIRECTORY)
    for life in range(lives):
        with _Node(local, trace, scratch / "node.log", commit, bug) as node:
            for left in reversed(range(rng.randint(turns, turns * 4 // 3))):
                if not (left or life):
                    # Before the learner comes: nobody would know what its program can.
                    node.raise_version()
                for change in () if left else CHANGES[life % len(CHANGES)]:
                    node.change(change)
                commands = [_command(rng, len(sent) + each) for each in range(rng.choice((1, 1, 2, 5, 12)))]
                node.ask(commands)
                sent += commands
            node.end(signal.SIGTERM if life == lives - 1 else signal.SIGKILL)
        tracer.run(trace)
        check_replay(Recording("node", seed, DIRECTORY, tracer.operations), root)
        replies = sum(each.fields["ok"] for each in tracer.operations if isinstance(each, Marker))
        if replies != len(sent):
            raise CutShort(f"{replies} answers in the trace, {len(sent)} came")
    reference = {"entry_of_command": _entries_of(root / DIRECTORY, sent)}
    return Recording("node", seed, DIRECTORY, tracer.operations, reference)


def _command(rng: random.Random, number: int) -> Command:
    size = rng.choice((1, 20, 20, 200, 3000, 9000))
    return [b"SET", b"key:%d" % number, rng.randbytes(size)]


def _entries_of(directory: Path, sent: Sequence[Command]) -> list[int]:
    """Return the index of the entry that holds each command.

    Raises:
        AssertionError: the log does not hold exactly the commands that were sent, in their order.
    """
    store = reopen(directory)
    try:
        stored = store.load()
        entries = read_all(store, stored.base.index + 1, stored.last.index + 1)
    finally:
        store.close()
    found = [
        (entry.index, command)
        for entry in entries
        if entry.kind is EntryKind.COMMANDS
        for command in decode_commands(entry.payload)
    ]
    held = [[command[0].upper(), *command[1:]] for _, command in found]
    if held != list(sent):
        raise AssertionError(f"the log holds {len(held)} commands, {len(sent)} were sent, or they differ")
    return [int(index) for index, _ in found]


class _Node:
    """One life of a node under strace, with one client."""

    def __init__(self, node: LocalNode, trace: Path, log: Path, commit: str, bug: str | None) -> None:
        self._port = node.client_port
        self._log = log
        program = [sys.executable, "-m", "tests.power_loss.stores"]
        command = serve_command(node, [node], SETTINGS | {"log_commit": commit}, program)
        with log.open("ab") as output:
            self._tracer = subprocess.Popen(
                [*strace_command(trace), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment() | ({} if bug is None else {PLANTED: bug}),
                process_group=0,
            )
        self._socket: socket.socket | None = None

    def __enter__(self) -> _Node:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._tracer.poll() is None:
            os.killpg(self._tracer.pid, signal.SIGKILL)
            self._tracer.wait()

    def ask(self, commands: Sequence[Command]) -> None:
        """Send commands at once and wait until each was answered with OK.

        Raises:
            AssertionError: another answer came.
        """
        connection = self._connected()
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        connection.sendall(b"".join(packed))
        answers = b""
        while len(answers) < len(commands) * len(OK):
            chunk = connection.recv(1 << 16)
            answers += chunk
            if not chunk or answers != (OK * len(commands))[: len(answers)]:
                raise AssertionError(self._explain(f"answered {answers[-200:]!r}"))

    def change(self, words: str) -> None:
        """Change the members, and wait until that is committed.

        Raises:
            AssertionError: it was refused for good.
        """

        def is_begun() -> bool:
            answer = self._answer(["RAFT.MEMBER", *words.split()])
            if isinstance(answer, hiredis.ReplyError) and not str(answer).startswith(AGAIN):
                raise AssertionError(self._explain(f"{words}: {answer}"))
            return not isinstance(answer, hiredis.ReplyError)

        def is_complete() -> bool:
            rows = self._answer(["RAFT.MEMBER", "LIST"])
            found = dict(zip(rows[::2], rows[1::2], strict=True))
            return bool(found[b"state"] == b"stable" and found[b"committed"] == 1)

        wait_until(is_begun, f"{words} to be begun", SECONDS_MAX, explain=self._explain)
        wait_until(is_complete, f"{words} to be complete", SECONDS_MAX, explain=self._explain)

    def raise_version(self) -> None:
        """Raise the version of the cluster; what is asked behind that finds it raised.

        Raises:
            AssertionError: it was refused.
        """
        answer = self._answer(["RAFT", "RAISEVERSION"])
        if answer != OURS.newest:
            raise AssertionError(self._explain(f"RAFT RAISEVERSION: {answer}"))

    def _answer(self, words: Sequence[str]) -> Any:
        """Return what one command is answered; an error as a value."""
        connection, reader = self._connected(), hiredis.Reader()
        connection.sendall(hiredis.pack_command(tuple(words)))  # type: ignore[arg-type]
        while (answer := reader.gets()) is False:
            reader.feed(connection.recv(1 << 16))
        return answer

    def _connected(self) -> socket.socket:
        if self._socket is None:
            wait_until(self._has_answered_or_ended, "the node to listen", SECONDS_MAX, explain=self._explain)
        if self._socket is None:
            raise AssertionError(self._explain("the node has ended"))
        return self._socket

    def _has_answered_or_ended(self) -> bool:
        with suppress(ConnectionError):
            self._socket = socket.create_connection((HOST, self._port), SECONDS_MAX)
        return self._socket is not None or self._tracer.poll() is not None

    def _explain(self, message: str) -> str:
        return f"{message}; the node says {self._log.read_text()[-3000:]}"

    def end(self, number: signal.Signals) -> None:
        """End the node, not its tracer, which then writes the rest of the trace and ends, too."""
        children = Path(f"/proc/{self._tracer.pid}/task/{self._tracer.pid}/children").read_text().split()
        os.kill(int(children[0]), number)
        self._tracer.wait(SECONDS_MAX)
