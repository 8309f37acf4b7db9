"""The model of the disk, the reading of traces and the choice of images, on cases small enough to be seen through."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.power_loss.disk import ALL, PAGE, SECTOR, Choice, Image, Snapshot, build, content, replay
from tests.power_loss.images import KINDS, TORN_512, TORN_4096, Supply, essentials
from tests.power_loss.operations import (
    ROOT,
    Flush,
    Link,
    Marker,
    Operation,
    Recording,
    Rename,
    Truncate,
    Unlink,
    Write,
    load,
    save,
)
from tests.power_loss.planted import BUGS
from tests.power_loss.pool import Outcome, Pool, materialise
from tests.power_loss.strace import Tracer, Unmodelled

FILE = 1
LINE_END = "\r\n"
MADE = Link(0, ROOT, "file", FILE, False)


def files_of(snapshot: Snapshot, *kept: int, **masks: int) -> dict[str, bytes]:
    """Return path -> bytes of the image in which those operations were kept; ``n3=5`` keeps two pieces of number 3."""
    choice = dict.fromkeys(kept, ALL) | {int(name[1:]): mask for name, mask in masks.items()}
    return dict(build(snapshot, Choice(choice)).files)


class TestDisk:
    """What may be left."""

    def test_flush_of_a_file_leaves_its_name_pending(self) -> None:
        """Bytes that were flushed are of no use until the directory is flushed, too."""
        operations: list[Operation] = [MADE, Write(1, FILE, 0, b"abc"), Flush(2, FILE, (1,)), Flush(3, ROOT, (0,))]
        snapshots = replay(operations)
        assert files_of(snapshots[3]) == {}
        assert files_of(snapshots[3], 0) == {"file": b"abc"}
        assert files_of(snapshots[4]) == {"file": b"abc"}

    def test_writes_are_kept_in_any_combination(self) -> None:
        """Each of two writes may be lost by itself; where both are kept the later one wins; the size follows."""
        operations: list[Operation] = [
            MADE,
            Flush(1, ROOT, (0,)),
            Write(2, FILE, 0, b"aaaa"),
            Write(3, FILE, 2, b"bbbb"),
        ]
        snapshot = replay(operations)[-1]
        assert files_of(snapshot) == {"file": b""}
        assert files_of(snapshot, 2) == {"file": b"aaaa"}
        assert files_of(snapshot, 3) == {"file": b"\0\0bbbb"}
        assert files_of(snapshot, 2, 3) == {"file": b"aabbbb"}

    def test_write_is_torn_between_sectors(self) -> None:
        """A mask keeps single sectors; those between have what was there before."""
        data = b"a" * 100 + b"b" * SECTOR + b"c" * 100
        operations: list[Operation] = [MADE, Flush(1, ROOT, (0,)), Write(2, FILE, SECTOR - 100, data)]
        snapshot = replay(operations)[-1]
        assert files_of(snapshot, n2=0b101)["file"] == bytes(412) + b"a" * 100 + bytes(SECTOR) + b"c" * 100
        assert files_of(snapshot, n2=0b010)["file"] == bytes(SECTOR) + b"b" * SECTOR

    def test_synced_write_flushes_its_pages_and_no_others(self) -> None:
        """A flush of one write takes along what was written before to the same page, nothing else."""
        operations: list[Operation] = [
            MADE,
            Flush(1, ROOT, (0,)),
            Write(2, FILE, 0, b"a" * 600 + bytes(PAGE - 600) + b"far"),
            Write(3, FILE, 10, b"meta"),
            Flush(4, FILE, (3,)),
        ]
        found = files_of(replay(operations)[-1])["file"]
        assert found == b"a" * 10 + b"meta" + b"a" * 586 + bytes(PAGE - 600)

    def test_flush_covers_only_what_it_names(self) -> None:
        """A write that was under way when the flush began stays pending."""
        operations: list[Operation] = [MADE, Flush(1, ROOT, (0,)), Write(2, FILE, 0, b"a"), Write(3, FILE, PAGE, b"b")]
        snapshot = replay([*operations, Flush(4, FILE, (2,))])[-1]
        assert files_of(snapshot) == {"file": b"a"}

    def test_names_are_lost_with_what_builds_on_them(self) -> None:
        """A rename without the file's creation does nothing; a creation without the rename leaves the old name."""
        operations: list[Operation] = [MADE, Rename(1, ROOT, "file", ROOT, "final")]
        snapshot = replay(operations)[-1]
        assert files_of(snapshot, 1) == {}
        assert files_of(snapshot, 0) == {"file": b""}
        assert files_of(snapshot, 0, 1) == {"final": b""}

    def test_rename_between_directories_needs_both_flushed(self) -> None:
        """A name that moved from one directory to another is safe when both were flushed."""
        operations: list[Operation] = [
            MADE,
            Link(1, ROOT, "sub", 2, True),
            Flush(2, ROOT, (0, 1)),
            Rename(3, ROOT, "file", 2, "new"),
            Flush(4, ROOT, (3,)),
            Flush(5, 2, (3,)),
        ]
        snapshots = replay(operations)
        assert files_of(snapshots[5]) == {"file": b""}
        assert files_of(snapshots[6]) == {"sub/new": b""}

    def test_contents_come_back_with_an_unlink_that_was_lost(self) -> None:
        """A file whose removal was not flushed may be there again, with what was flushed of it."""
        operations: list[Operation] = [
            MADE,
            Write(1, FILE, 0, b"x"),
            Flush(2, FILE, (1,)),
            Flush(3, ROOT, (0,)),
            Unlink(4, ROOT, "file"),
        ]
        snapshot = replay(operations)[-1]
        assert files_of(snapshot) == {"file": b"x"}
        assert files_of(snapshot, 4) == {}

    def test_truncation_is_pending_until_flushed(self) -> None:
        """A new size may be lost or kept like a write; a flush makes it durable."""
        operations: list[Operation] = [
            MADE,
            Flush(1, ROOT, (0,)),
            Write(2, FILE, 0, b"abcd"),
            Flush(3, FILE, (2,)),
            Truncate(4, FILE, 2),
        ]
        snapshots = replay([*operations, Flush(5, FILE, (4,))])
        assert files_of(snapshots[5]) == {"file": b"abcd"}
        assert files_of(snapshots[5], 4) == {"file": b"ab"}
        assert files_of(snapshots[6]) == {"file": b"ab"}

    def test_extended_file_has_zeros_for_lost_bytes(self) -> None:
        """In the images of that kind the size survives the bytes."""
        state = replay([MADE, Write(1, FILE, 0, b"abcd")])[-1].files[FILE]
        assert content(state, Choice({}, is_extended=True)) == bytes(4)

    def test_digest_tells_images_apart_by_what_has_a_meaning(self) -> None:
        """Equal bytes by different ways have one digest; the bytes of LOCK count nothing, its being there does."""
        named = Flush(1, ROOT, (0,))
        at_once = replay([MADE, named, Write(2, FILE, 0, b"a" * PAGE + b"b")])[-1]
        in_two = replay([MADE, named, Write(2, FILE, PAGE, b"b"), Write(3, FILE, 0, b"a" * PAGE)])[-1]
        everything = Choice({2: ALL, 3: ALL})
        assert build(at_once, everything).digest == build(in_two, everything).digest
        assert build(at_once, everything).digest != build(at_once, Choice({})).digest
        lock = replay([Link(0, ROOT, "LOCK", FILE, False), named, Write(2, FILE, 0, b"pid 7")])[-1]
        assert build(lock, everything).digest == build(lock, Choice({})).digest
        assert build(lock, everything).digest != build(replay([])[-1], Choice({})).digest


class TestImages:
    """Which images are made."""

    def test_all_tears_of_a_write_are_made(self) -> None:
        """A write of two pages and a bit gives every beginning and end, each unit lost and each alone."""
        snapshot = replay([MADE, Flush(1, ROOT, (0,)), Write(2, FILE, 0, bytes(2 * PAGE) + b"x")])[-1]
        supply = Supply(snapshot, random.Random(1))
        masks: dict[str, set[int]] = {kind: set() for kind in KINDS}
        for _ in range(100):
            for kind, choice in supply.round():
                masks[kind].add(choice.kept[2])
        pages = {0: (1 << 8) - 1, 1: ((1 << 8) - 1) << 8, 2: 1 << 16}
        one = set(pages.values())
        assert masks[TORN_4096] >= one | {sum(one) - mask for mask in one}
        assert masks[TORN_512] >= {1 << bit for bit in range(17)} | {(1 << bit) - 1 for bit in range(1, 17)}

    def test_essentials_hold_each_loss(self) -> None:
        """Of three pending writes: none, all, each one lost, each one kept, each prefix."""
        writes: list[Operation] = [Write(number, FILE, number * PAGE, b"x") for number in (2, 3, 4)]
        snapshot = replay([MADE, Flush(1, ROOT, (0,)), *writes])[-1]
        found = {frozenset(choice.kept) for _, choice in essentials(snapshot) if not choice.is_extended}
        subsets = [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)]
        assert found == {frozenset(subset) for subset in subsets}


def hexed(text: str) -> str:
    """Return text as strace -xx shows it."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


class TestTrace:
    """How system calls become operations."""

    def operations(self, tmp_path: Path, *lines: str) -> list[Operation]:
        """Return the operations of a trace in which FILE, ROOT and MARKS stand for paths; strings are put in hex."""
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        tracer = Tracer(root, tmp_path / "marks")
        trace = tmp_path / "trace"
        names = {"FILE": f"{root}/file", "ROOT": f"{root}", "MARKS": f"{tmp_path}/marks"}
        text = "\n".join(lines)
        for name, path in names.items():
            text = text.replace(name, hexed(path))
        trace.write_text(text)
        tracer.run(trace)
        return tracer.operations

    def test_calls_of_lmdb(self, tmp_path: Path) -> None:
        """Data by lseek and writev and a flush, then the meta page on a descriptor that syncs by itself."""
        promise = '{"kind": "promise"}'
        vector = f'[{{iov_base="{hexed("ab")}", iov_len=2}}, {{iov_base="{hexed("c")}", iov_len=1}}]'
        operations = self.operations(
            tmp_path,
            '7 openat(AT_FDCWD<ROOT>, "FILE", O_RDWR|O_CREAT, 0644) = 6<FILE>',
            '7 openat(AT_FDCWD<ROOT>, "FILE", O_WRONLY|O_DSYNC|O_CLOEXEC) = 7<FILE>',
            "7 lseek(6<FILE>, 8, SEEK_SET) = 8",
            f"7 writev(6<FILE>, {vector}, 2) = 3",
            "7 fdatasync(6<FILE>) = 0",
            f'7 pwrite64(7<FILE>, "{hexed("m")}", 1, 2) = 1',
            f'7 write(9<MARKS>, "{hexed(promise)}", {len(promise)}) = {len(promise)}',
            "7 close(7<FILE>) = 0",
        )
        assert operations == [
            Link(0, ROOT, "file", 1, False),
            Write(1, 1, 8, b"abc"),
            Flush(2, 1, (1,)),
            Write(3, 1, 2, b"m"),
            Flush(4, 1, (3,)),
            Marker(5, "promise", {}),
        ]

    def test_flush_covers_what_had_ended_when_it_began(self, tmp_path: Path) -> None:
        """A write of another thread that overlaps the flush is not covered, whichever of them ends first."""
        operations = self.operations(
            tmp_path,
            '7 openat(AT_FDCWD<ROOT>, "FILE", O_RDWR|O_CREAT, 0644) = 6<FILE>',
            f'7 pwrite64(6<FILE>, "{hexed("a")}", 1, 0) = 1',
            rf'8 pwrite64(6<FILE>, "{hexed("b")}", 1, 1 <unfinished ...>',
            "7 fdatasync(6<FILE> <unfinished ...>",
            "8 <... pwrite64 resumed>) = 1",
            "7 <... fdatasync resumed>) = 0",
        )
        assert operations[1:] == [Write(1, 1, 0, b"a"), Write(2, 1, 1, b"b"), Flush(3, 1, (1,))]

    def test_answers_to_clients_are_counted(self, tmp_path: Path) -> None:
        """What goes to a socket is a marker with the number of OKs in it; other answers are none."""
        socket = hexed("socket:[123]")
        answers = f"+OK{LINE_END}" * 2
        operations = self.operations(
            tmp_path,
            f'7 sendto(5<{socket}>, "{hexed(answers)}", {len(answers)}, 0, NULL, 0) = {len(answers)}',
            f'7 write(5<{socket}>, "{hexed(":1" + LINE_END)}", 4) = 4',
        )
        assert operations == [Marker(0, "reply", {"ok": 2})]

    @pytest.mark.parametrize(
        "line",
        [
            "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 6<FILE>, 0) = 0x7f0000000000",
            '7 linkat(AT_FDCWD<ROOT>, "FILE", AT_FDCWD<ROOT>, "FILE", 0) = 0',
            "7 fallocate(6<FILE>, 0, 0, 4096) = 0",
            "7 msync(0x7f0000000000, 4096, MS_SYNC) = 0",
            f'7 write(6<FILE>, "{hexed("x")}", 1) = 1',
            f'7 pwrite64(8<FILE>, "{hexed("x")}", 1, 0) = 1',
            f'7 pwrite64(6<FILE>, "{hexed("x")}"..., 2, 0) = 2',
            f'7 pwrite64(6<FILE>, "{hexed("x")}", 1, 0 <unfinished ...>',
            f'7 pwrite64(6<FILE>, "{hexed("x")}", 1, 0) = ?',
        ],
    )
    def test_what_cannot_be_replayed_is_refused(self, tmp_path: Path, line: str) -> None:
        """Writes through a map, links, unknown places, bytes that the trace does not show: nothing may be concluded."""
        with pytest.raises(Unmodelled):
            self.operations(tmp_path, '7 openat(AT_FDCWD<ROOT>, "FILE", O_RDWR|O_CREAT, 0644) = 6<FILE>', line)


def test_recording_survives_its_file(tmp_path: Path) -> None:
    """What is loaded is what was saved."""
    operations: list[Operation] = [
        MADE,
        Write(1, FILE, 3, b"\0\xff"),
        Flush(2, FILE, (1,)),
        Marker(3, "promise", {"state": [1, None]}),
    ]
    recording = Recording("store", 7, "data", operations, {"entry_of_command": [1, 2]})
    image = {"cut": 2, "kind": "prefix", "kept": {"1": 5}, "extended": False}
    save(tmp_path / "case", recording, [image])
    assert load(tmp_path / "case") == (recording, [image])


class TestPool:
    """The processes that recover."""

    EMPTY = Image((), (), b"\0")

    def test_death_is_the_outcome_of_the_image_it_came_from(self, tmp_path: Path) -> None:
        """A worker that dies is known by its signal, and the images behind the deadly one are still recovered."""
        outcomes: dict[int, Outcome] = {}
        with Pool(tmp_path, "data") as pool:
            pool.submit(self.EMPTY, lambda outcome: outcomes.update({0: outcome}))
            pool.drain()
            process = pool._lanes[0].worker.process
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)
            for number in (1, 2, 3):
                pool.submit(self.EMPTY, lambda outcome, number=number: outcomes.update({number: outcome}))  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            pool.drain()
        assert outcomes[1] == Outcome(None, "recovery died: SIGKILL")
        assert [outcomes[number].state for number in (0, 2, 3)] == ['"absent"'] * 3
        assert pool.deaths == 1

    def test_image_replaces_whatever_lay_there(self, tmp_path: Path) -> None:
        """Files of the image before, and what a recovery added to them, are gone; a shorter file is short."""
        first = Image(("a",), (("a/x", b"long"), ("y", b"")), b"\0")
        second = Image(("a",), (("a/x", b"s"), ("y", b"")), b"\0")
        materialise(first, tmp_path / "image")
        materialise(second, tmp_path / "image", (("a",), ("a/x", "y")))
        assert (tmp_path / "image/a/x").read_bytes() == b"s"
        (tmp_path / "image/a/left").touch()
        materialise(first, tmp_path / "image", (("a",), ("a/x", "y")))
        assert sorted(path.name for path in (tmp_path / "image").rglob("*")) == ["a", "x", "y"]


def test_every_planted_bug_is_described() -> None:
    """The table of bugs has a sentence for each, and at least the five that any storage may have."""
    assert set(BUGS) >= {"no-flush", "no-metasync", "no-directory-sync", "acknowledges-early", "two-transactions"}
