"""One pass over the raw records of a log: every checksum, chain value and order checked, going on past damage.

The pass takes the items of the ``ident`` and ``log`` tables in the order of their keys and keeps no more than one entry
in memory. What is wrong comes out as wounds beside the entry they belong to; the caller decides whether to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from durable_raft.raft.types import Base, chain_crc, goes_back_in_time
from durable_raft.storage.log.records import (
    IDENT,
    LOG,
    LOG_KEY,
    IdentRecord,
    LogRecord,
    disagreement,
    unpack_ident,
    unpack_log,
)
from durable_raft.storage.wounds import NewerFormat, Wound, WoundedLog, WoundKind

RawItems = Iterable[tuple[bytes, bytes]]


@dataclass(slots=True)
class Walked:
    """One index of the log and what is known of it. Not frozen: made once per entry, a third of the cost."""

    index: int
    ident: IdentRecord | None
    """From the ident record or, when that is wounded, rebuilt from the log record; None when neither tells."""
    payload: bytes | None
    """None unless its checksum is right and ident does not contradict it."""
    wounds: tuple[Wound, ...]


@dataclass(slots=True)
class _Pieces:
    """The pieces of one log record."""

    index: int
    """-1 for a piece with a rotten key."""
    record: bytes
    wound: Wound | None


class LogWalk:
    """What the next entry has to follow; ``run`` may be called again with the items that come next."""

    def __init__(self, base: Base, *, chain_known: bool = True) -> None:
        self.idents = 0
        """Items of the ident table seen."""
        self.pieces = 0
        """Items of the log table seen."""
        self.restart(base, chain_known=chain_known)

    def restart(self, base: Base, *, chain_known: bool = True) -> None:
        """Expect the entry after ``base``, and judge its chain value when ``chain_known``."""
        self.index: int = base.point.index
        """Index of the last entry seen."""
        self._term: int = base.point.term
        self._timestamp_ms = base.timestamp_ms
        self.chain: int | None = base.point.chain if chain_known else None
        """Its chain value; None when damage hides it."""

    def run(self, idents: RawItems, pieces: RawItems) -> Iterator[Walked]:
        """Yield one ``Walked`` per index that has a record in either table, ascending."""
        groups = self._grouped(pieces)
        group = next(groups, None)
        for key, value in idents:
            self.idents += 1
            index = int.from_bytes(key, "big")
            if index != self.index + 1 and (wounds := self._key_wounds(index, key, value)):
                yield Walked(index, None, None, wounds)
                continue
            while group is not None and group.index < index:
                yield self._without_ident(group)
                group = next(groups, None)
            if group is not None and group.index == index:
                yield self._pair(index, key, value, group)
                group = next(groups, None)
            else:
                yield self._pair(index, key, value, None)
        while group is not None:
            yield self._without_ident(group)
            group = next(groups, None)

    def _without_ident(self, pieces: _Pieces) -> Walked:
        if pieces.index < 0 and pieces.wound is not None:
            return Walked(self.index, None, None, (pieces.wound,))
        return self._pair(pieces.index, b"", None, pieces)

    def _key_wounds(self, index: int, key: bytes, value: bytes) -> tuple[Wound, ...]:
        """Return what is wrong with an ident record in an unexpected place, so that a rotten key moves nothing else."""
        try:
            unpack_ident(key, value)
        except (WoundedLog, NewerFormat) as error:
            return error.wounds
        if index > self.index:
            return ()
        return (Wound(IDENT, index, None, f"an index above {self.index}", f"{index}", WoundKind.ORDER),)

    def _grouped(self, pieces: RawItems) -> Iterator[_Pieces]:
        """Join the pieces of each index; a rotten key (LMDB keeps them ascending) becomes a group of its own."""
        done = -1
        index = -1
        parts: list[bytes] = []
        wound: Wound | None = None
        for key, value in pieces:
            self.pieces += 1
            found, number = LOG_KEY.unpack(key) if len(key) == LOG_KEY.size else (-1, 0)
            if found != index:
                if found <= done:
                    yield _out_of_order(key)
                    continue
                if parts and found < index:
                    yield _out_of_order(LOG_KEY.pack(index, 0))
                elif parts:
                    yield _Pieces(index, parts[0] if len(parts) == 1 else b"".join(parts), wound)
                    done = index
                index, parts, wound = found, [], None
            if number != len(parts) and wound is None:
                wound = Wound(LOG, index, None, f"piece {len(parts)}", f"piece {number}", WoundKind.MISSING)
            parts.append(value)
        if parts:
            yield _Pieces(index, b"".join(parts), wound)

    def _pair(self, index: int, key: bytes, value: bytes | None, pieces: _Pieces | None) -> Walked:
        """Verify what the two tables say of ``index``, and that it follows what came before."""
        wounds: list[Wound] = []
        if index != self.index + 1:
            wounds.append(self._gap(index))
        ident = _ident(index, key, value, wounds)
        log = _log(index, pieces, wounds)
        payload = None
        if log is not None:
            payload = log.payload
            if ident is None:
                ident = self._rebuilt(log)
            elif (wound := disagreement(index, ident, log)) is not None:
                wounds.append(wound)
                payload = None
        self._follow(index, ident, wounds)
        return Walked(index, ident, payload, tuple(wounds))

    def _gap(self, index: int) -> Wound:
        self.chain = None
        following = self.index + 1
        return Wound(IDENT, following, None, f"index {following} next", f"index {index}", WoundKind.MISSING)

    def _rebuilt(self, log: LogRecord) -> IdentRecord | None:
        """Return the ident that a valid log record implies, when the chain before it is known."""
        if self.chain is None:
            return None
        chain = chain_crc(self.chain, log.crc)
        return IdentRecord(log.kind, log.term, log.timestamp_ms, len(log.payload), log.crc, chain)

    def _follow(self, index: int, ident: IdentRecord | None, wounds: list[Wound]) -> None:
        """Check that ``ident`` follows the entry before, and expect what follows it."""
        self.index = index
        if ident is None:
            self.chain = None
            return
        term = ident.term
        if self.chain is not None and (chain := chain_crc(self.chain, ident.crc)) != ident.chain:
            wounds.append(Wound(IDENT, index, term, f"chain {chain:#010x}", f"{ident.chain:#010x}", WoundKind.CHAIN))
        if term < self._term or goes_back_in_time(ident.kind, ident.timestamp_ms, self._timestamp_ms):
            expected = f"term >= {self._term}, timestamp >= {self._timestamp_ms}"
            found = f"term {term}, timestamp {ident.timestamp_ms}"
            wounds.append(Wound(IDENT, index, term, expected, found, WoundKind.ORDER))
        self.chain = ident.chain
        self._term = term
        self._timestamp_ms = ident.timestamp_ms


def _out_of_order(key: bytes) -> _Pieces:
    wound = Wound(LOG, None, None, "a 12-byte key in ascending order", f"0x{key.hex()}", WoundKind.ORPHAN)
    return _Pieces(-1, b"", wound)


def _ident(index: int, key: bytes, value: bytes | None, wounds: list[Wound]) -> IdentRecord | None:
    if value is None:
        wounds.append(Wound(IDENT, index, None, "a record, as log has one", "none", WoundKind.MISSING))
        return None
    try:
        return unpack_ident(key, value)
    except (WoundedLog, NewerFormat) as error:
        wounds += error.wounds
        return None


def _log(index: int, pieces: _Pieces | None, wounds: list[Wound]) -> LogRecord | None:
    if pieces is None:
        wounds.append(Wound(LOG, index, None, "a record, as ident has one", "none", WoundKind.MISSING))
        return None
    if pieces.wound is not None:
        wounds.append(pieces.wound)
        return None
    try:
        return unpack_log(index, pieces.record)
    except (WoundedLog, NewerFormat) as error:
        wounds += error.wounds
        return None
