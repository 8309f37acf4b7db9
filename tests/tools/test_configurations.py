"""raftlog where the members were changed: what it shows of log and state, and what it carries over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from raftlog.merging import merge
from raftlog.rebuild import rebuild
from raftlog.survivors import read_survivor

from durable_raft.raft.types import ORIGIN, Base, Configuration, Entry, HardState, Standing, Term
from durable_raft.storage.log.lmdb_store import LmdbLogStore
from durable_raft.storage.log.meta import pack_meta, unpack_meta
from durable_raft.storage.proven import META_KEY
from durable_raft.storage.state.store import LmdbKvStore
from durable_raft.storage.state.verify import read_checkpoint
from tests.storage.raw import raw_tables
from tests.support.log_building import MEMBERSHIP, configuration_entry, configured, entries_after, point_of
from tests.tools.directories import make_log, make_state, raftlog, sets

AT_4 = configured(4, "n1", "n2")
WORDS = "the one at 4 (voters n1 n2)"


def made(directory: Path, *, compact_to: int = 0, named: Configuration | None = AT_4) -> list[Entry]:
    """Make a directory with nine entries, a configuration at 4, and a state at 7 that names ``named``."""
    entries = entries_after(ORIGIN, 3)
    entries.append(configuration_entry(point_of(entries[-1]), "n1", "n2"))
    entries += sets(point_of(entries[-1]), [1] * 5)
    make_log(directory, entries, compact_to=compact_to)
    make_state(directory, entries[6])
    name_in_state(directory, Base(point_of(entries[6]), 1_700_000_000_000), named)
    return entries


def name_in_state(directory: Path, at: Base, named: Configuration | None) -> None:
    """Write a checkpoint that changes nothing, and names ``named``."""
    store = LmdbKvStore.open(directory)
    store.write_checkpoint([], is_cleared=False, applied=at, membership=MEMBERSHIP, configuration=named)
    store.close()


@pytest.mark.parametrize("compact_to", [0, 6])
def test_stat_tells_the_configuration_at_the_base_from_the_newest(tmp_path: Path, compact_to: int) -> None:
    """The entry of the first may be gone; the fixed one of the first start is not named."""
    made(tmp_path / "node", compact_to=compact_to)
    shown = json.loads(raftlog("stat", "--json", tmp_path / "node").stdout)
    assert (shown["configuration_index"], shown["configuration"]) == (4, "voters n1 n2")
    found = shown.get("base_configuration_index"), shown.get("base_configuration")
    assert found == ((4, "voters n1 n2") if compact_to else (None, None))


def test_verify_shows_who_counts_in_log_and_state(tmp_path: Path) -> None:
    """In words, and with --json with all addresses."""
    made(tmp_path, compact_to=6)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 0
    raft, kv, fit = found.stdout.splitlines()
    assert raft == f"{tmp_path} raft: entries 7..9, configuration: {WORDS}, wounds 0"
    assert kv.endswith(f", configuration: {WORDS}, wounds 0")
    assert "state and log agree" in fit
    shown = json.loads(raftlog("verify", "--json", tmp_path).stdout)
    members = [{"node_id": name, "client_address": f"{name}:1", "peer_address": f"{name}:2"} for name in ("n1", "n2")]
    fact = {"index": 4, "configuration": "voters n1 n2", "members": members}
    assert (shown["raft"]["configurations"], shown["kv"]["configuration"]) == ([fact], fact)


def test_verify_is_silent_where_no_member_was_changed(tmp_path: Path) -> None:
    """The lines are those of ever."""
    entries = sets(ORIGIN, [1] * 3)
    make_log(tmp_path, entries)
    make_state(tmp_path, entries[1])
    assert "configuration" not in raftlog("verify", tmp_path).stdout
    shown = json.loads(raftlog("verify", "--json", tmp_path).stdout)
    assert (shown["raft"]["configurations"], shown["kv"]["configuration"]) == ([], None)


@pytest.mark.parametrize("named", [None, configured(3, "n1"), configured(4, "n1", "n3")])
def test_a_state_that_names_another_configuration_does_not_fit(tmp_path: Path, named: Configuration | None) -> None:
    """A start sets it aside."""
    made(tmp_path, named=named)
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    said = "the one of the first start" if named is None else f"the one at {named.index} "
    (damage,) = [line for line in found.stdout.splitlines() if "fit damage" in line]
    assert f"at index 7 the log has another configuration than the state: {WORDS}, and not {said}" in damage


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ((), "entry 4 has a configuration that is not known beside the log"),
        ((configured(4, "n1", "n3"),), "entry 4 has another configuration than the one at 4 (voters n1 n3)"),
        ((AT_4, configured(8, "n1")), "the one at 8 (voters n1) is known beside the log, and entry 8 is none or gone"),
    ],
)
def test_what_is_kept_beside_the_log_must_be_what_its_entries_say(
    tmp_path: Path, kept: tuple[Configuration, ...], said: str
) -> None:
    """By that a node goes."""
    made(tmp_path)
    with raw_tables(tmp_path) as (transaction, handles):
        meta = unpack_meta("meta", bytes(transaction.get(META_KEY, db=handles["meta"]) or b""))
        for table in ("meta", "meta_copy"):
            transaction.put(META_KEY, pack_meta(replace(meta, configurations=kept)), db=handles[table])
    found = raftlog("verify", tmp_path)
    assert found.returncode == 2
    assert f"raft damage: {said}" in found.stdout


def test_a_timeline_from_the_log_has_the_configurations(tmp_path: Path) -> None:
    """Where there is no flight recorder's file."""
    made(tmp_path)
    found = raftlog("timeline", tmp_path)
    assert 'configuration_in_log term=1 index=4 members="voters n1 n2"' in found.stdout


@pytest.mark.parametrize("compact_to", [0, 3, 6])
def test_what_is_written_again_has_its_configurations(tmp_path: Path, compact_to: int) -> None:
    """At the base and behind it, and in the state: as the directory had them that it was made from."""
    entries = made(tmp_path / "old", compact_to=compact_to)
    survivor = read_survivor(tmp_path / "old")
    merged = merge([survivor], is_all=True)
    assert merged.base.point.index == compact_to
    meta = survivor.meta
    rebuild(tmp_path / "new", merged, meta.identity, meta.membership, HardState(Term(1), None), Standing())
    store = LmdbLogStore.open(tmp_path / "new")
    stored = store.load()
    store.close()
    assert (stored.configurations, stored.last) == ((AT_4,), point_of(entries[-1]))
    assert read_checkpoint(tmp_path / "new").stored_configuration == AT_4
