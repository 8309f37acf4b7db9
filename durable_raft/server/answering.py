"""Executes runs on the machine and answers whoever waits for them, in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from durable_raft.kv.machine import Machine
from durable_raft.kv.replies import Reply
from durable_raft.kv.steps import finish
from durable_raft.server.pending import Part, Waiting
from durable_raft.server.slices import Steps
from durable_raft.wire.resp import is_large

VALUES_A_STEP: Final = 16
"""Values that are answered in one step, none of them large."""

_RETURNS_VALUES: Final = frozenset({b"get", b"getdel", b"getset"})
"""Commands whose replies may be large."""

_SHOWS_TIME_LEFT: Final = frozenset({b"ttl", b"pttl"})
"""Reads whose reply moves with the time of day; what they decide does not."""


class Answering:
    """Of one state: another machine has another."""

    def __init__(self, machine: Machine, shown_ms: Callable[[], int]) -> None:
        """Execute on ``machine``; ``shown_ms`` gives the time that is left to live from."""
        self._machine = machine
        self._shown_ms = shown_ms

    def is_short(self, name: bytes) -> bool:
        """Return whether a command is executed and answered in one step, whatever it finds."""
        return name not in self._machine.in_steps and name not in _RETURNS_VALUES

    def answer(self, part: Part) -> Steps:
        """Execute a part, and give each of its commands its reply."""
        if part.spec.name in _RETURNS_VALUES:
            yield from self._with_values(part)
        elif self._machine.is_in_steps(part.run()):
            for waiting in part.items:
                yield from self._in_steps(waiting)
        else:
            yield from self._at_once(part)

    def answer_now(self, part: Part) -> None:
        """Do the same at once, of commands that are short."""
        finish(self._at_once(part))

    def _at_once(self, part: Part) -> Steps:
        if part.spec.name in _SHOWS_TIME_LEFT:
            self._machine.show_time(self._shown_ms())
        part.fill((yield from self._machine.execute_run(part.run())))

    def _in_steps(self, waiting: Waiting) -> Steps:
        name, is_write = waiting.spec.name, waiting.spec.is_write
        execute = self._machine.in_steps[name]
        is_wanted = True
        for args in waiting.run.rows_named(name):
            if is_wanted or is_write:
                reply = yield from execute(args)
                is_wanted = yield from waiting.slot.add_in_steps(reply)
        waiting.slot.fill_added()

    def _with_values(self, part: Part) -> Steps:
        """Answer runs whose replies may be large."""
        execute, name = self._machine.execute, part.spec.name
        for number, waiting in enumerate(part.items, start=1):
            slot, run = waiting.slot, waiting.run
            if run.length > 1:
                yield from self._run_with_values(waiting)
            elif is_large(reply := execute((name, *run.args))):
                yield from slot.add_in_steps(reply)
                slot.fill_added()
            else:
                slot.fill(reply)
            if not number % VALUES_A_STEP:
                yield

    def _run_with_values(self, waiting: Waiting) -> Steps:
        execute, slot, name = self._machine.execute, waiting.slot, waiting.spec.name
        small: list[Reply] = []
        are_large, is_wanted = False, True
        for args in waiting.run.rows_named(name):
            if not is_wanted and not waiting.spec.is_write:
                continue
            reply = execute(args)
            are_large |= is_large(reply)
            if not are_large:
                small.append(reply)
                continue
            for earlier in small:
                yield from slot.add_in_steps(earlier)
            small.clear()
            is_wanted = yield from slot.add_in_steps(reply)
        if are_large:
            slot.fill_added()
        else:
            slot.fill_all(small)
