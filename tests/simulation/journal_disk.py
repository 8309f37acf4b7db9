"""The commit journal of a simulated disk: its bytes, which a power cut tears, and the real store over them.

The real journal and the real store work on a file of sectors. What was flushed is durable; of what was not, a power cut
keeps any sectors. What the disk said is flushed is noted where the real store returns, and nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Final, cast

from durable_raft.errors import DiskFull, StoragePoisoned
from durable_raft.raft.ready import Write
from durable_raft.raft.types import HardState, Index, StoredLog
from durable_raft.storage.log import journal_format
from durable_raft.storage.log.journal_format import BLOCK_BYTES, RING_AT, Header
from durable_raft.storage.log.journaled_store import JournaledLogStore
from durable_raft.storage.log.log_store import HomeStore
from durable_raft.storage.log.plan import Plan
from durable_raft.storage.log.tables import Space
from tests.support.journal_files import MemoryJournalFile, MemoryJournalPlace, some_of

if TYPE_CHECKING:
    from tests.simulation.disk import Disk, Promised, Room
    from tests.simulation.sim_store import SimStore

RING_BLOCKS: Final = (8, 12, 40)
"""Small, so that it goes round and is full now and then."""


class SimJournalFile(MemoryJournalFile):
    """Fails when its disk was told to."""

    def __init__(self, header: Header, disk: Disk) -> None:
        super().__init__(header)
        self._disk = disk
        self.is_power_going = False
        """Whether the power goes before the next flush is done."""
        self.rotten_in = 0
        """The life of the node in which a page of it last rotted."""

    def flush(self) -> None:
        """Flush, or fail: then some sectors may be on the disk all the same."""
        disk = self._disk
        if self.is_power_going:
            raise OSError("simulated power cut")
        if disk.fails is not None:
            reason, disk.fails = disk.fails, None
            self.write_back(some_of(len(self.sectors()), disk.rng))
            raise OSError(f"simulated {reason}")
        super().flush()

    def rot_group(self, rng: random.Random) -> bool:
        """Put rubbish into both copies of a group that LMDB may lack and that is not the last; return whether."""
        ring = bytes(self.durable[RING_AT:])
        heads = {head.number: head for head, _, _ in journal_format._heads(ring, self.header.uuid)}
        newest = heads.get(max(heads, default=0))
        if newest is None:
            return False
        numbers = [number for number in heads if newest.held < number < newest.number]
        if not numbers:
            return False
        head = heads[rng.choice(numbers)]
        for copy in (0, 1):
            at = RING_AT + head.offset + copy * journal_format.copy_bytes(head.length)
            self.damage(at, rng.randbytes(journal_format.HEAD_BYTES))
        return True

    def rot_page(self, rng: random.Random) -> bool:
        """Put rubbish into one page of the ring, at most once in a life: two could take a group; return whether."""
        if self.rotten_in == self._disk.life:
            return False
        self.rotten_in = self._disk.life
        pages = self._pending_pages()
        if pages:
            self.damage(RING_AT + rng.choice(pages), rng.choice((bytes(BLOCK_BYTES), rng.randbytes(BLOCK_BYTES))))
        return bool(pages)

    def _pending_pages(self) -> list[int]:
        """Return where in the ring groups lie that LMDB may lack."""
        heads = [head for head, _, _ in journal_format._heads(bytes(self.durable[RING_AT:]), self.header.uuid)]
        held = max((head.held for head in heads), default=0)
        pending = {head.number: head for head in heads if head.number > held}.values()
        sizes = [(head.offset, 2 * journal_format.copy_bytes(head.length)) for head in pending]
        return [at for offset, size in sizes for at in range(offset, offset + size, BLOCK_BYTES)]


class SimJournalPlace(MemoryJournalPlace):
    """Where a simulated disk keeps its journal."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def create(self, header: Header) -> None:
        """Make an empty journal, atomically."""
        self.file = SimJournalFile(header, self._disk)

    @property
    def sim_file(self) -> SimJournalFile | None:
        """The file, if there is one."""
        return cast("SimJournalFile | None", self.file)

    def image(self) -> tuple[Header, bytes] | None:
        """Return what is durable."""
        return None if self.file is None else (self.file.header, bytes(self.file.durable))

    def put_back(self, image: tuple[Header, bytes] | None) -> None:
        """Hold again what ``image`` does."""
        self.file = None
        if image is not None:
            header, data = image
            self.create(header)
            assert self.file is not None
            self.file.damage(0, data)


class SimJournaledStore(JournaledLogStore):
    """The real store over a simulated home and journal, for one life of a node."""

    def __init__(
        self, home: SimStore, place: SimJournalPlace, on_flushed: Callable[[HardState], None], *, is_used: bool
    ) -> None:
        """Join them; ``on_flushed`` is told the hard state that each group left."""
        ring_bytes = home.disk.rng.choice(RING_BLOCKS) * BLOCK_BYTES
        super().__init__(cast("HomeStore", home), place, is_used=is_used, ring_bytes=ring_bytes)
        self._sim_home = home
        self._sim_place = place
        self._on_flushed = on_flushed
        self._planned: Plan | None = None

    @property
    def number(self) -> int:
        """Number of the last write that was flushed."""
        return 0 if self._stand is None else self._stand.number

    def load(self) -> StoredLog:
        """Load; see ``Disk.was_found``."""
        stored = super().load()
        disk = self._sim_home.disk
        if disk.was_found(stored):
            self._on_flushed(stored.hard_state)
        # Nothing is pending now.
        self._sim_home.books = disk.held = deepcopy(disk.promised)
        return stored

    def _merged(self, plan: Plan) -> Write:
        self._planned = self._sim_home.disk.in_flight = plan
        return super()._merged(plan)

    def persist(self, writes: Sequence[Write], compact_to: Index | None = None) -> None:
        """Persist, then note what is promised."""
        self._planned = None
        super().persist(writes, compact_to)
        disk = self._sim_home.disk
        disk.in_flight = None
        if self._planned is not None:
            promised: Promised = disk.promised
            promised.take(self._planned)
            if self._planned.hard_state is not None:
                self._on_flushed(self._planned.hard_state)

    def _note_moved(self, number: int) -> None:
        super()._note_moved(number)
        self._sim_home.disk.pending_bytes = self._pending.record_bytes

    def lose_power(self, writes: Sequence[Write]) -> None:
        """Begin to persist ``writes``, and have the power go before they are flushed."""
        file = self._sim_place.sim_file
        if file is None or self._journal is None or self._poison is not None:
            return
        file.is_power_going = True
        with suppress(StoragePoisoned, DiskFull):
            self.persist(writes)
        file.is_power_going = False

    def space(self) -> Space:
        """Return the room left; what is pending has its room already."""
        room: Room = self._sim_home.space()
        owned = max(0, room.owned_bytes - self._pending.record_bytes)
        return cast("Space", room._replace(owned_bytes=owned))
