"""Runs recoveries: writes images to a memory file system and has worker processes open them.

A worker may die of an image (SIGBUS, SIGABRT); that is the outcome of the image it was at, and the ones behind it go to
a new worker.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self

from tests.power_loss.disk import WITHOUT_MEANING, Image

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DEPTH: Final = 4
"""Images prepared ahead for each worker."""
RUBBISH: Final = random.Random(0).randbytes(1 << 16)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What recovery made of an image."""

    state: str | None
    """The state found, as JSON; None when recovery failed."""
    error: str | None = None
    """Why it failed."""


Then = Callable[[Outcome], None]


@dataclass(slots=True)
class _Slot:
    """A place for one image."""

    root: Path
    shape: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Directories and files that lie there; None: unknown, so that everything is made anew."""


@dataclass(slots=True)
class _Task:
    slot: _Slot
    request: str
    then: Then


class Worker:
    """One recovering process, started when it is first needed and again after it has died."""

    def __init__(self, errors: Path) -> None:
        """Have what a dying process says added to the file ``errors``."""
        self._errors = errors
        self.process: subprocess.Popen[str] | None = None
        self.deaths = 0

    def send(self, request: str) -> None:
        """Ask; the answers come in the same order."""
        if self.process is None:
            self.process = self._start()
        assert self.process.stdin is not None
        # One that has died of an image before is noticed when its answer is awaited; then all is sent again.
        with suppress(BrokenPipeError):
            self.process.stdin.write(request)
            self.process.stdin.flush()

    def receive(self) -> Outcome:
        """Wait for the next answer; when the process has died instead, all that was sent after it is lost."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return Outcome(None, f"recovery died: {self._buried()}")
        answer = json.loads(line)
        state = answer.get("state")
        # Many images hold the same state.
        text = None if state is None else sys.intern(json.dumps(state, sort_keys=True))
        return Outcome(text, answer.get("error"))

    def ask(self, directory: Path) -> Outcome:
        """Have one directory recovered and wait for it."""
        self.send(request_for(directory))
        return self.receive()

    def close(self) -> None:
        """Kill the process."""
        if self.process is not None:
            self.process.kill()
            self._buried()
            self.deaths -= 1

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "tools")))}
        with self._errors.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.power_loss.recovery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=CHECKOUT,
            )

    def _buried(self) -> str:
        process, self.process = self.process, None
        assert process is not None
        code = process.wait()
        self.deaths += 1
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def request_for(directory: Path, *, is_node: bool = False, is_probed: bool = False) -> str:
    """Return the line that asks for a recovery (recovery.py)."""
    return json.dumps({"directory": str(directory), "node": is_node, "probe": is_probed}) + "\n"


@dataclass(slots=True)
class _Lane:
    """A worker, the places for its images, and those that wait for it."""

    worker: Worker
    slots: list[_Slot]
    queue: deque[_Task] = field(default_factory=deque)

    def submit(self, task: _Task) -> None:
        self.queue.append(task)
        self.worker.send(task.request)

    def finish(self) -> None:
        """Wait for the oldest task and hand on its outcome."""
        task = self.queue.popleft()
        outcome = self.worker.receive()
        if self.worker.process is None:
            task.slot.shape = None
            for waiting in self.queue:
                self.worker.send(waiting.request)
        self.slots.append(task.slot)
        task.then(outcome)


class Pool:
    """Some workers; outcomes come to the callbacks, on the calling thread, inside ``submit`` and ``drain``."""

    def __init__(self, scratch: Path, directory: str, *, is_node: bool = False, workers: int = 1) -> None:
        """Prepare to check images in places under ``scratch``.

        Args:
            scratch: best in memory.
            directory: the data directory inside each image.
            is_node: it is a node's, with a KV state beside the log.
            workers: processes.
        """
        self._directory = directory
        self._is_node = is_node
        self.errors = scratch / "recovery.err"
        """What dying workers had to say."""
        self._lanes = [
            _Lane(Worker(self.errors), [_Slot(scratch / f"image-{lane}-{slot}") for slot in range(DEPTH)])
            for lane in range(workers)
        ]
        for lane in self._lanes:
            for slot in lane.slots:
                slot.root.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for lane in self._lanes:
            lane.worker.close()

    @property
    def deaths(self) -> int:
        """Workers that died of an image."""
        return sum(lane.worker.deaths for lane in self._lanes)

    def submit(self, image: Image, then: Then, *, is_probed: bool = False) -> None:
        """Have an image recovered; ``then`` gets the outcome, not necessarily in order."""
        lane = min(self._lanes, key=lambda each: len(each.queue))
        while not lane.slots:
            lane.finish()
        slot = lane.slots.pop()
        materialise(image, slot.root, slot.shape)
        is_kept = not is_probed and any(path.startswith(f"{self._directory}/") for path, _ in image.files)
        slot.shape = _shape(image) if is_kept else None
        request = request_for(slot.root / self._directory, is_node=self._is_node, is_probed=is_probed)
        lane.submit(_Task(slot, request, then))

    def drain(self) -> None:
        """Wait for every outcome."""
        for lane in self._lanes:
            while lane.queue:
                lane.finish()


def _shape(image: Image) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return image.directories, tuple(path for path, _ in image.files)


def materialise(image: Image, root: Path, shape: tuple[tuple[str, ...], tuple[str, ...]] | None = None) -> None:
    """Write an image under ``root``; ``shape`` says which directories and files lie there already, None: unknown."""
    if shape != _shape(image) or not _is_as_it_was(root, image):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for directory in image.directories:
            (root / directory).mkdir()
    is_rubbish = image.digest[0] & 1
    for path, data in image.files:
        if is_rubbish and PurePosixPath(path).name in WITHOUT_MEANING:
            data = RUBBISH[: len(data)]
        # Written over, not anew: a memory file system then keeps its pages.
        fd = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)


def _is_as_it_was(root: Path, image: Image) -> bool:
    """Return whether recovery of the last image of this shape left no file or directory more or less."""
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
    return found == sorted([*image.directories, *(path for path, _ in image.files)])
