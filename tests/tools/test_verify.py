"""raftlog verify: what it says of sound, wounded and destroyed directories, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from durable_raft.raft.types import ORIGIN, Index, Life, LogPoint, Standing, Term
from durable_raft.storage.directory import running_node
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.records import IDENT_KEY, LOG_KEY, pack_entries
from tests.storage.raw import change, flip_bit
from tests.tools.directories import (
    PAGE_BYTES,
    flip_bit_of_state,
    make_log,
    make_state,
    raftlog,
    sets,
    whole,
    zeroed_copies,
)


def test_sound_directories(tmp_path: Path) -> None:
    """Each part says what it is; nothing goes to standard error; exit code 0."""
    entries = whole(tmp_path / "a")
    make_log(tmp_path / "b", [])
    found = raftlog("verify", tmp_path / "a", tmp_path / "b")
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/a raft: entries 1..9, wounds 0"
    assert lines[1].startswith(f"{tmp_path}/a kv: keys 40 at index 7 term 3 state_hash 000000")
    chain = entries[6].chain
    assert lines[2] == f"{tmp_path}/a fit: state and log agree at index 7 term 3 chain {chain:#010x}, wounds 0"
    assert lines[3] == f"{tmp_path}/b raft: entries none, wounds 0"
    assert lines[4] == f"{tmp_path}/b kv note: no state yet: the next start makes it from the log"
    assert len(lines) == 5


def test_json(tmp_path: Path) -> None:
    """One object per directory, with what was found in each part."""
    entries = whole(tmp_path / "a")
    flip_bit(tmp_path / "a", "log", LOG_KEY.pack(5, 0), 40 * 8)
    found = raftlog("verify", "--json", tmp_path / "a", tmp_path / "missing")
    assert found.returncode == 2
    shown, missing = map(json.loads, found.stdout.splitlines())
    assert (shown["directory"], shown["code"]) == (str(tmp_path / "a"), 1)
    assert (shown["raft"]["first_index"], shown["raft"]["last_index"], shown["raft"]["node_id"]) == (1, 9, "n1")
    (wound,) = shown["raft"]["wounds"]
    assert (wound["table"], wound["index"], wound["term"], wound["what"]) == ("log", 5, 3, "checksum")
    assert wound["expected"].startswith("crc 0x")
    assert (shown["kv"]["keys"], shown["kv"]["expires"], shown["kv"]["applied_index"]) == (40, 10, 7)
    assert len(shown["kv"]["state_hash"]) == 16
    assert shown["fit"]["chain"] == entries[6].chain
    assert missing["code"] == 2
    assert "is not a data directory" in missing["raft"]["damage"][0]


@pytest.mark.parametrize(
    ("table", "key", "bit", "said"),
    [
        ("log", LOG_KEY.pack(5, 0), 40 * 8 + 3, "log index 5 term 3: checksum: expected crc 0x"),
        ("ident", IDENT_KEY.pack(5), 12 * 8, "ident index 5: checksum: expected proof 0x"),
        ("meta", b"meta", 99, "meta: checksum: expected proof 0x"),
    ],
)
def test_a_flipped_bit_in_the_log_is_a_wound(tmp_path: Path, table: str, key: bytes, bit: int, said: str) -> None:
    """Exit code 1, and the wound says table, index, term, expected and found; the rest is sound."""
    whole(tmp_path)
    flip_bit(tmp_path, table, key, bit)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 1
    lines = found.stdout.splitlines()
    assert lines[0] == f"{tmp_path} raft: entries 1..9, wounds 1"
    assert lines[1].startswith(f"{tmp_path} raft wound: {said}")
    assert ", found 0x" in lines[1]
    assert len(lines) == 4


def test_records_that_are_gone_are_wounds(tmp_path: Path) -> None:
    """Single records that another node has: exit code 1, whether one of the two is gone or both."""
    whole(tmp_path)
    change(tmp_path, "ident", IDENT_KEY.pack(3), None)
    change(tmp_path, "ident", IDENT_KEY.pack(6), None)
    change(tmp_path, "log", LOG_KEY.pack(6, 0), None)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 1
    assert "wound: ident index 3: missing" in found.stdout
    assert "wound: ident index 6: missing" in found.stdout


def test_both_copies_of_meta_rotten(tmp_path: Path) -> None:
    """Term and vote are lost: exit code 2; the entries are still checked."""
    whole(tmp_path)
    flip_bit(tmp_path, "meta", b"meta", 99)
    flip_bit(tmp_path, "meta_copy", b"meta", 500)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert "raft: entries 1..9, wounds 2" in found.stdout
    assert "raft damage: meta: no copy is valid" in found.stdout


def test_two_histories_in_one_log(tmp_path: Path) -> None:
    """A record that is valid by itself and continues another log is no single wound: exit code 2."""
    whole(tmp_path)
    (other,) = sets(LogPoint(Index(4), Term(1), 0x12345678), [3])
    idents, pieces = pack_entries([other])
    change(tmp_path, "ident", idents[0][0], bytes(idents[0][1]))
    change(tmp_path, "log", pieces[0][0], bytes(pieces[0][1]))
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert "wound: ident index 5 term 3: chain: expected chain 0x" in found.stdout


@pytest.mark.parametrize("pages", [2, 3, 5])
def test_a_cut_file_and_its_neighbours(tmp_path: Path, pages: int) -> None:
    """Exit code 2, whatever part is missing; the state beside it and the other directories are verified."""
    for name in ("a", "b"):
        whole(tmp_path / name)
    os.truncate(tmp_path / "a" / "raft" / "data.mdb", pages * 4096)
    found = raftlog("verify", tmp_path / "a", tmp_path / "b")
    assert found.returncode == 2
    assert f"{tmp_path}/a raft damage: " in found.stdout
    assert f"{tmp_path}/a kv: keys 40" in found.stdout
    assert f"{tmp_path}/b raft: entries 1..9, wounds 0\n" in found.stdout
    assert f"{tmp_path}/b fit: state and log agree" in found.stdout


@pytest.mark.parametrize("name", ["raft", "kv"])
def test_a_zeroed_page(tmp_path: Path, name: str) -> None:
    """Every page in use is damage beyond repair; one that is free hides nothing; the others are verified all the same.

    A zeroed page makes LMDB give up, or kills the process that maps it, depending on what lies on it.
    """
    whole(tmp_path / "sound", 60)
    copies = zeroed_copies(tmp_path / "sound", name, tmp_path)
    found = raftlog("verify", "--json", *copies, tmp_path / "sound")
    assert found.returncode == 2
    *shown, sound = map(json.loads, found.stdout.splitlines())
    assert sound["code"] == 0
    assert len(shown) == len(copies)
    codes = [each["code"] for each in shown]
    assert set(codes) <= {0, 2}
    assert codes[:2] == [2, 2], "the meta pages"
    assert codes.count(2) >= 6
    if name == "raft":
        # LMDB aborts when it comes to an empty branch page.
        assert "ended by signal 6" in found.stdout
    for each in shown:
        if each["code"] == 0:
            assert each | {"directory": ""} == sound | {"directory": ""}


@pytest.mark.parametrize("name", ["raft", "kv"])
def test_a_page_with_another_pages_number(tmp_path: Path, name: str) -> None:
    """LMDB does not look at it and every record is right; the walk over the pages finds it: exit code 2."""
    whole(tmp_path)
    path = tmp_path / name / "data.mdb"
    data = bytearray(path.read_bytes())
    # The newer of the two meta pages names the root of the main tree (preflight.py draws them).
    newest = max(0, PAGE_BYTES, key=lambda start: struct.unpack_from("=Q", data, start + 144))
    (root,) = struct.unpack_from("=Q", data, newest + 128)
    assert struct.unpack_from("=Q", data, root * PAGE_BYTES) == (root,)
    data[root * PAGE_BYTES] ^= 0x40
    path.write_bytes(data)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert f"{tmp_path} {name} damage: main DB: page {root} stores mp_pgno {root ^ 0x40}\n" in found.stdout
    assert "raft: entries 1..9, wounds 0" in found.stdout
    assert "kv: keys 40 " in found.stdout


@pytest.mark.parametrize(
    ("table", "key", "said", "code"),
    [
        ("keys", b"\x00key:000011", "wound: keys key b'key:000011': checksum: expected crc 0x", 1),
        ("deadlines", (1_800_000_000_008).to_bytes(8, "big") + b"key:000008", "wound: deadlines key b'key:000008'", 1),
        ("meta", b"meta", "wound: meta: checksum", 1),
    ],
)
def test_a_flipped_bit_in_the_state(tmp_path: Path, table: str, key: bytes, said: str, code: int) -> None:
    """The wound names the key; the log is sound."""
    whole(tmp_path)
    flip_bit_of_state(tmp_path, table, key, 17)
    found = raftlog("verify", tmp_path)
    assert found.returncode == code, found.stdout
    assert said in found.stdout
    assert f"{tmp_path} raft: entries 1..9, wounds 0\n" in found.stdout


def test_both_copies_of_the_states_meta_rotten(tmp_path: Path) -> None:
    """Which state it is cannot be told any more: exit code 2, and whether it fits is not checked."""
    whole(tmp_path)
    for table in ("meta", "meta_copy"):
        flip_bit_of_state(tmp_path, table, b"meta", 99)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert "kv damage: meta: no copy is valid" in found.stdout
    assert "fit note: not checked" in found.stdout


def test_a_state_that_lies_beyond_the_log(tmp_path: Path) -> None:
    """A snapshot whose log was not yet replaced: the next start mends it, so exit code 1."""
    entries = sets(ORIGIN, [1] * 9)
    make_log(tmp_path, entries[:5])
    make_state(tmp_path, entries[8])
    found = raftlog("verify", tmp_path)
    assert found.returncode == 1
    assert "fit wound: log index 9: disagrees: expected term 1, as the state has, found none (last 5)" in found.stdout
    assert "the next start does it" in found.stdout


def test_a_state_of_another_history(tmp_path: Path) -> None:
    """Same index and term, other chain: no node may start from that."""
    entries = sets(ORIGIN, [1] * 9)
    make_log(tmp_path, entries)
    make_state(tmp_path, sets(ORIGIN, [1] * 7, "other")[-1])
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert f"fit damage: at index 7 the log has chain {entries[6].chain:#010x}" in found.stdout


def test_a_state_that_lies_before_the_log(tmp_path: Path) -> None:
    """What lies between is nowhere: exit code 2. At the base they fit."""
    entries = sets(ORIGIN, [1] * 9)
    for name, at in (("gap", 2), ("base", 3)):
        make_log(tmp_path / name, entries, compact_to=4)
        make_state(tmp_path / name, entries[at])
    found = raftlog("verify", tmp_path / "gap")
    assert found.returncode == 2
    assert "the state ends at index 3, but the log begins behind 4" in found.stdout
    found = raftlog("verify", tmp_path / "base")
    assert (found.returncode, found.stderr) == (0, "")
    assert "state and log agree at index 4" in found.stdout


def test_another_nodes_state(tmp_path: Path) -> None:
    """The state of n2 beside the log of n1 is refused by a node, and by this."""
    entries = sets(ORIGIN, [1] * 9)
    make_log(tmp_path, entries)
    make_state(tmp_path, entries[8], node_id="n2")
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert "fit damage: the log belongs to node n1" in found.stdout


def test_a_state_that_is_gone(tmp_path: Path) -> None:
    """Another node can give it: exit code 1. One that waits for its turn is none that is gone."""
    entries = sets(ORIGIN, [1] * 9)
    make_log(tmp_path, entries, compact_to=4)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 1
    assert "kv wound: kv: missing: expected a state, as the log begins behind 4, found none" in found.stdout
    make_state(tmp_path, entries[8])
    (tmp_path / "kv").rename(tmp_path / "kv.new")
    found = raftlog("verify", tmp_path)
    assert found.returncode == 0
    assert "kv note: no state, but kv.new: a swap is under way" in found.stdout


def test_a_running_nodes_directory(tmp_path: Path) -> None:
    """It is verified while it is held, except for its pages, and the node is not disturbed."""
    entries = whole(tmp_path)
    store = LmdbLogStore.open(tmp_path)
    store.load()
    holder = f"pid {os.getpid()} node n1"
    assert running_node(tmp_path) == holder
    found = raftlog("verify", tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert f"{tmp_path} raft: entries 1..9, wounds 0\n" in found.stdout
    assert found.stdout.count(f"note: pages not checked: a node is running ({holder})") == 2
    assert store.chain_at(entries[8].index) == entries[8].chain
    store.close()
    assert running_node(tmp_path) is None


def test_a_killed_nodes_directory_is_not_running(tmp_path: Path) -> None:
    """A lock file that still names its holder means nothing when nobody holds the lock."""
    whole(tmp_path)
    (tmp_path / "LOCK").write_text("pid 1 node n1\n")
    found = raftlog("verify", tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "note" not in found.stdout


def test_long_logs_and_large_entries(tmp_path: Path) -> None:
    """Entries in many pieces, after cuts and compactions, leave pages that are all accounted for."""
    entries = sets(ORIGIN, [1] * 300, "x" * 9000)
    make_log(tmp_path, entries, compact_to=250)
    make_state(tmp_path, entries[280], keys=3000)
    found = raftlog("verify", tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "raft: entries 251..300, wounds 0" in found.stdout
    assert "kv: keys 3000 at index 281" in found.stdout


def test_wrong_usage(tmp_path: Path) -> None:
    """No directory, or none that is one: exit code 2; nothing is created."""
    assert raftlog("verify").returncode == 2
    found = raftlog("verify", tmp_path, tmp_path / "missing")
    assert found.returncode == 2
    assert found.stdout.count("is not a data directory") == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    assert raftlog("verify", tmp_path / "file").returncode == 2


def test_help_shows_examples_and_exit_codes() -> None:
    """One example a line, and what each exit code means."""
    found = raftlog("verify", "--help")
    assert found.returncode == 0
    assert "\n    raftlog verify n1 n2 n3 --json\n" in found.stdout
    assert "1  wounds that heal" in found.stdout


def test_only_what_is_verified_is_read(tmp_path: Path) -> None:
    """Nothing in the directory is changed, byte for byte."""
    whole(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert raftlog("verify", tmp_path / "a").returncode == 0
    for path in (tmp_path / "b").rglob("data.mdb"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()
    names = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*")}
    assert names == {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*")}


def test_json_says_what_the_directory_remembers(tmp_path: Path) -> None:
    """Its lives, what it knows to be committed, and whether it went back in time."""
    standing = Standing(is_copy=True, lives=(Life(6, b"nonce 6."), Life(7, b"nonce 7.")))
    entries = whole(tmp_path / "made")
    point = LogPoint(entries[3].index, entries[3].term, entries[3].chain)
    make_log(tmp_path / "a", entries, standing=replace(standing, committed=point))
    found = json.loads(raftlog("verify", "--json", tmp_path / "a").stdout)["raft"]
    assert (found["is_copy"], found["life"], found["committed_index"]) == (True, 7, 4)
