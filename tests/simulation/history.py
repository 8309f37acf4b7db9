"""What a history must fulfil, judged per key in time linear in its length: necessary, not sufficient.

The linearizability checker judges fully; this finds the common sins at once and names them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.clients import Operation, WrongAnswer


def check_history(history: Sequence[Operation]) -> None:
    """Judge every key's history.

    Raises:
        WrongAnswer: naming the operations that contradict each other.
    """
    by_key: dict[bytes, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    for key, operations in sorted(by_key.items()):
        if key[:1] == b"c":
            _check_counter(operations)
        elif key[:1] == b"r":
            _check_register(operations)


def _check_counter(operations: list[Operation]) -> None:
    """Increments give distinct values; whoever asks later never sees less; nothing is counted that was not asked."""
    seen: dict[int, Operation] = {}
    done: list[tuple[int, int, Operation]] = []
    asked = 0
    for operation in operations:
        asked += not operation.is_read
        if operation.returned is None:
            continue
        answer = operation.answer
        value = answer if isinstance(answer, int) else int(answer or b"0")
        if not operation.is_read:
            if value in seen:
                raise WrongAnswer(f"lost update: {seen[value].words()} and {operation.words()}")
            seen[value] = operation
        done.append((operation.returned, value, operation))
    done.sort(key=lambda item: item[0])
    position, highest = 0, (0, None)
    best: tuple[int, Operation | None] = highest
    for operation in sorted((item[2] for item in done), key=lambda op: op.invoked):
        while position < len(done) and done[position][0] < operation.invoked:
            if done[position][1] > best[0]:
                best = (done[position][1], done[position][2])
            position += 1
        answer = operation.answer
        value = answer if isinstance(answer, int) else int(answer or b"0")
        if best[1] is not None and (value < best[0] or (value == best[0] and not operation.is_read)):
            raise WrongAnswer(f"not linearizable: {best[1].words()}, then {operation.words()}")
        if value > asked:
            raise WrongAnswer(f"counted what nobody asked for ({asked} increments): {operation.words()}")


def _check_register(operations: list[Operation]) -> None:
    """A value read was written, not later than it was read, and not overwritten for certain before the read began."""
    writers: dict[bytes, list[Operation]] = {}
    sure: list[tuple[int, int, Operation]] = []
    for operation in operations:
        if operation.args[0] == b"set":
            writers.setdefault(operation.args[2], []).append(operation)
        if operation.is_read or operation.returned is None:
            continue
        if operation.args[0] == b"del" or operation.answer == b"OK":
            sure.append((operation.returned, operation.invoked, operation))
    sure.sort(key=lambda item: item[0])
    latest: Operation | None = None
    position = 0
    reads = sorted((op for op in operations if op.is_read and op.returned is not None), key=lambda op: op.invoked)
    for read in reads:
        while position < len(sure) and sure[position][0] < read.invoked:
            if latest is None or sure[position][1] > latest.invoked:
                latest = sure[position][2]
            position += 1
        _check_read(read, latest, writers)


def _check_read(read: Operation, latest: Operation | None, writers: dict[bytes, list[Operation]]) -> None:
    """Judge one read; ``latest`` is, of all changes that ended before it began, the one that began last."""
    value = read.answer
    if value is None:
        return
    sources = (
        [op for op in writers.get(value, ()) if op.invoked <= (read.returned or 0)] if isinstance(value, bytes) else []
    )
    if not sources:
        raise WrongAnswer(f"read what nobody wrote: {read.words()}")
    overwritten = latest is not None and all(
        source.returned is not None and source is not latest and source.returned < latest.invoked for source in sources
    )
    if overwritten and latest is not None:
        raise WrongAnswer(f"stale read: {sources[-1].words()}, then {latest.words()}, then {read.words()}")
