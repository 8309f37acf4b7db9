"""One cell of the fault matrix: a real node whose n-th call of one kind fails, what it did, and what is there later.

The node is a cluster of one, so that everything it acknowledges rests on its disk alone. It is started on an empty
directory, so that the creation is part of it; checkpoints and compactions come after a few writes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from durable_raft.addresses import Address
from durable_raft.cli.local_cluster import LocalNode, free_ports, serve_command
from durable_raft.cli.resp_client import RespClient
from durable_raft.errors import RequestError
from durable_raft.server.exit_codes import ExitCode
from tests.cluster.harness import checkout_environment
from tests.support.waiting import WAIT_S, wait_until

WRITES: Final = 24
"""Commands of the workload; every fourth a DEL of an older key."""

LARGE: Final = 10_000
"""Times a value is repeated now and then, so that it takes many pages: those are written together."""

SETTINGS: Final = {
    "checkpoint_changes": 4,
    "checkpoint_interval_ms": 50,
    "log_tail_entries": 2,
    "log_tail_bytes": 64,
    "map_bytes": 1 << 24,
    "disk_reserve_bytes": 1 << 16,
}
PATIENCE_S: Final = WAIT_S


class CellFailed(AssertionError):
    """A node broke its word, or hung."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one cell."""

    fired: bool
    """Whether the call was reached."""
    phase: str
    """``start`` or ``work``: how far the node had come."""
    ended: str
    """``exit N`` or ``went on``."""
    acknowledged: int


class Cell:
    """One run of the workload with one fault."""

    def __init__(self, directory: Path, call: str, error: str, number: int | None, commit: str = "lmdb") -> None:
        """Make call ``call`` number ``number`` fail with ``error``; None: let everything succeed, and count.

        ``commit`` is what makes the node's writes durable (``--log-commit``).
        """
        self._commit = commit
        self._directory = directory
        self._call, self._error, self._number = call, error, number
        port, peer = free_ports(2)
        self._node = LocalNode("n1", port, peer, directory / "n1")
        self._trace = directory / "trace"
        self._log = directory / "log"
        self._held: dict[str, str | None] = {}
        """What was acknowledged: key -> value, or None for a key that was deleted."""
        self._unsure: set[str] = set()
        self._term = 0

    def run(self) -> Outcome:
        """Play it; raises CellFailed."""
        process = self._start(self._strace())
        try:
            phase = self._work(process)
            code = self._end(process)
        finally:
            self._kill(process)
        fired = "(INJECTED)" in self._trace.read_text(errors="replace")
        if code not in (None, ExitCode.DISK_FAILED):
            raise CellFailed(self._explain(f"ended with {code}, expected {ExitCode.DISK_FAILED} of a failed disk"))
        if code is not None and not fired:
            raise CellFailed(self._explain(f"ended with {code}, and no call had failed"))
        self._look_again()
        return Outcome(fired, phase, "went on" if code is None else f"exit {code}", len(self._held))

    def calls(self) -> dict[str, int]:
        """Return how often each traced call was made."""
        text = self._trace.read_text(errors="replace")
        return {call: text.count(f" {call}(") for call in self._call.split(",")}

    # -- the node -------------------------------------------------------------------------------------------------

    def _strace(self) -> list[str]:
        program = shutil.which("strace") or "strace"
        inject = [] if self._number is None else ["-e", f"inject={self._call}:error={self._error}:when={self._number}"]
        return [program, "-f", "--seccomp-bpf", "-s", "8", "-o", str(self._trace), "-e", f"trace={self._call}", *inject]

    def _start(self, wrapper: list[str]) -> subprocess.Popen[bytes]:
        command = [*wrapper, *serve_command(self._node, [self._node], SETTINGS | {"log_commit": self._commit})]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=checkout_environment(), start_new_session=True)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the node leads; return whether it does."""

        def has_ended_or_leads() -> bool:
            return process.poll() is not None or self._leads()

        try:
            wait_until(has_ended_or_leads, "the node to lead, or to end", PATIENCE_S, explain=self._explain)
        except AssertionError as error:
            raise CellFailed(str(error)) from None
        return process.poll() is None

    def _leads(self) -> bool:
        try:
            with closing(RespClient(self._address(), PATIENCE_S)) as client:
                info = client.info("raft")
        except RequestError:
            return False
        if info["raft_role"] != "leader" or info["raft_last_applied"] != info["raft_last_log_index"]:
            return False
        self._note_term(int(info["raft_current_term"]))
        return True

    def _address(self) -> Address:
        return self._node.address

    def _note_term(self, term: int) -> None:
        if term < self._term:
            raise CellFailed(self._explain(f"term {term} after {self._term}"))
        self._term = term

    # -- the workload ---------------------------------------------------------------------------------------------

    def _work(self, process: subprocess.Popen[bytes]) -> str:
        if not self._ready(process):
            return "start"
        try:
            with closing(RespClient(self._address(), PATIENCE_S)) as client:
                for number in range(WRITES):
                    self._write(client, number)
                    time.sleep(0.004)  # lets checkpoints and compactions come in between: more calls, not luck
        except RequestError:
            pass
        return "work"

    def _write(self, client: RespClient, number: int) -> None:
        key = f"k{number}"
        if number % 4 == 3:
            key = f"k{number - 3}"
            self._unsure.add(key)
            client.call("DEL", key)
            self._held[key] = None
        else:
            self._unsure.add(key)
            value = f"v{number}" * (LARGE if number % 5 == 0 else 1)
            if client.call("SET", key, value) != b"OK":
                raise CellFailed(self._explain(f"SET {key} was refused"))
            self._held[key] = value
        self._unsure.discard(key)

    def _end(self, process: subprocess.Popen[bytes]) -> int | None:
        """Wait until all is in a checkpoint; return the exit code, None when the node still runs."""
        with suppress(RequestError), closing(RespClient(self._address(), PATIENCE_S)) as client:
            client.call("RAFT", "CHECKPOINT")

        def has_ended_or_rests() -> bool:
            return process.poll() is not None or self._rests()

        wait_until(has_ended_or_rests, "a checkpoint of all, or the end", PATIENCE_S, explain=self._explain)
        return process.poll()

    def _rests(self) -> bool:
        try:
            with closing(RespClient(self._address(), PATIENCE_S)) as client:
                info = client.info("raft")
        except RequestError:
            return False
        return info["raft_snapshot_index"] == info["raft_last_applied"]

    def _look_again(self) -> None:
        """Start the node without the fault: what was acknowledged is there, and it works."""
        process = self._start([])
        try:
            if not self._ready(process):
                raise CellFailed(self._explain(f"does not start again: exit {process.returncode}"))
            with closing(RespClient(self._address(), PATIENCE_S)) as client:
                for key, value in self._held.items():
                    found = client.call("GET", key)
                    if found != (None if value is None else value.encode()) and key not in self._unsure:
                        raise CellFailed(self._explain(f"{key} is {found!r:.60}, acknowledged was {value!r:.60}"))
                if client.call("SET", "afterwards", "x") != b"OK":
                    raise CellFailed(self._explain("takes no write after the restart"))
        finally:
            self._kill(process)

    def _explain(self, message: str) -> str:
        end = self._log.read_text(errors="replace")[-2000:]
        return f"{self._call} {self._error} call {self._number}: {message}\n{end}"
