"""Clients of a few keys whose every answer is recorded, and judged key by key when the soak is over.

They go on to fresh keys after some hundred commands: the work of judging grows with the time and not faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.cluster.harness import Cluster
from tests.cluster.recorder import Recorder
from tests.cluster.registers import any_command, final_reads
from tests.simulation.linearizability import Outcome, Verdict, check
from tests.simulation.sequential import NEVER

CLIENTS: Final = 4
THINK_S: Final = 0.1
"""Between a client's commands: half an hour is some ten thousand of them."""


class History:
    """What a few clients asked and were told."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._recorder = Recorder(cluster, any_command, clients=CLIENTS, seed=seed, think_s=THINK_S)
        self.verdict = Verdict(Outcome.UNDECIDED, 0, 0, 0, "not judged")

    @contextmanager
    def running(self) -> Iterator[History]:
        """Ask while the block runs; raises AssertionError when a client ended."""
        with self._recorder.running():
            yield self

    def judge(self) -> Verdict:
        """Read every key once more, and look for an order of all that was answered."""
        history = self._recorder.history
        self.verdict = check(history + final_reads(self._cluster, {each.key for each in history}))
        return self.verdict

    def figures(self) -> dict[str, Any]:
        """Return what was asked and found."""
        return {
            "judgement": self.verdict.outcome.name.lower().replace("_", " "),
            "operations": self.verdict.operations,
            "unknown": sum(each.returned == NEVER for each in self._recorder.history),
            "keys": self.verdict.keys,
            "steps": self.verdict.steps,
            "not_answers": dict(sorted(self._recorder.counts.items())),
        }
