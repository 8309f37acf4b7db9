"""Many small pieces of work, each in a forked child of this process, which may crash, hang or fill memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import selectors
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MEMORY_BYTES_MAX: Final = 4 << 30
"""Address space of a child."""

_PR_SET_PDEATHSIG: Final = 1

CPU_SPENT: Final = 86
"""Exit code of a child that used more CPU time than ``limit_cpu`` left it."""


@dataclass(slots=True)
class _Child(Generic[T]):
    task: T
    pid: int
    pipe: int
    ends_at: float
    said: bytes = b""


@dataclass(frozen=True, slots=True)
class _Failed:
    """In place of the result of work that raised."""

    trace: str


def in_children(
    tasks: Iterable[T], work: Callable[[T], R], *, jobs: int, seconds_max: float, is_quiet: bool = True
) -> Iterator[tuple[T, R | None]]:
    """Do each task in a child, ``jobs`` at once; yield it with its result, None when the child was killed or ended.

    Args:
        tasks: taken as children become free.
        work: runs in the child; its result is pickled.
        jobs: children at once.
        seconds_max: real time after which a child is killed.
        is_quiet: whether what children print is lost.

    Raises:
        RuntimeError: the work raised in a child.
    """
    waiting = iter(tasks)
    with selectors.DefaultSelector() as selector:
        children: dict[int, _Child[T]] = {}
        while True:
            while len(children) < jobs:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                child = _fork(task, work, seconds_max, is_quiet=is_quiet)
                children[child.pipe] = child
                selector.register(child.pipe, selectors.EVENT_READ)
            if not children:
                return
            for key, _ in selector.select(timeout=1.0):
                children[key.fd].said += (piece := os.read(key.fd, 1 << 20))
                if not piece:
                    selector.unregister(key.fd)
                    yield _end(children.pop(key.fd))
            for child in list(children.values()):
                if time.monotonic() > child.ends_at:
                    _kill(child.pid)


def limit_cpu(seconds: float) -> None:
    """End this process when it uses so much more CPU time, until this is called again; 0: no limit."""
    signal.signal(signal.SIGPROF, _spent)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _spent(_number: int, _frame: object) -> None:
    os._exit(CPU_SPENT)


def _fork(task: T, work: Callable[[T], R], seconds_max: float, *, is_quiet: bool) -> _Child[T]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(task, pid, reading, time.monotonic() + seconds_max)
    try:
        # Of its own group, so that processes it starts end with it.
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if is_quiet:
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
        _tell(writing, work(task))
    except BaseException:
        _tell(writing, _Failed(traceback.format_exc()))
    finally:
        os._exit(0)


def _tell(pipe: int, result: object) -> None:
    said = pickle.dumps(result)
    while said:
        said = said[os.write(pipe, said) :]


def _end(child: _Child[T]) -> tuple[T, R | None]:
    os.close(child.pipe)
    _kill(child.pid)
    os.waitpid(child.pid, 0)
    result = pickle.loads(child.said) if child.said else None
    if isinstance(result, _Failed):
        raise RuntimeError(f"{child.task}:\n{result.trace}")
    return child.task, result


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
