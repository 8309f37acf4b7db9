"""A short corruption campaign: every kind of damage strikes, and none has an outcome that it must not have."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from durable_raft.raft.types import Base as StoredBase
from durable_raft.raft.types import Index, StoredLog
from durable_raft.server.start import recovery
from durable_raft.storage.log.journal_format import JOURNAL
from durable_raft.storage.log.meta import Meta
from durable_raft.storage.log.stored_log import StoredLogBuilder
from durable_raft.storage.proven import ProvenReader
from durable_raft.storage.state import meta as state_meta
from durable_raft.storage.state.meta import _read_configuration
from tests.corruption.base import Base, prepare
from tests.corruption.campaign import CONFIGURATION_ROT, ENVIRONMENTS, Quick, run_meta_bits, run_quick, run_whole
from tests.corruption.damage import KINDS
from tests.corruption.journals import JOURNAL_KINDS, run_journals
from tests.corruption.start import FAILURES
from tests.corruption.trials import Result, rng_of
from tests.power_loss.planted import BASE_FORGETS, plant

pytestmark = pytest.mark.cluster

WRITES: Final = 600
ROUNDS_MAX: Final = 8
"""Of one trial for each kind and file; one is mostly enough."""
REMEDIES: Final = {"directory set aside", "state set aside", "entries to be healed"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """Three directories with some hundred writes."""
    prepared = prepare(tmp_path_factory.mktemp("corruption"), 1, WRITES)
    yield prepared
    prepared.cluster.close()


def require_lawful(result: Result) -> None:
    """Print the table and fail with what must not have happened."""
    print("\n".join(result.table()))
    assert not result.failures, "\n".join(result.failures)


def planted_newest_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start forgets the newest configuration."""
    real = StoredLogBuilder.build

    def broken(self: StoredLogBuilder) -> tuple[StoredLog, StoredBase]:
        stored, last = real(self)
        return replace(stored, configurations=stored.configurations[:-1]), last

    monkeypatch.setattr(StoredLogBuilder, "build", broken)


def planted_base_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction forgets the configuration that counts at the base."""
    monkeypatch.setattr(Meta, "behind", Meta.behind)
    plant(BASE_FORGETS)


def planted_state_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of a state is not read, and not compared with the log's."""
    monkeypatch.setattr(recovery, "stored_at", lambda *_: None)
    monkeypatch.setattr(state_meta, "_read_configuration", _read_and_forget)


def _read_and_forget(reader: ProvenReader, applied: Index, *, may_be_fixed: bool) -> None:
    _read_configuration(reader, applied, may_be_fixed=may_be_fixed)


def test_no_damage_has_an_outcome_that_it_must_not_have(base: Base, tmp_path: Path) -> None:
    """Nothing wrong is read, nothing goes back, nobody is killed or hangs; each kind did harm, each remedy was used."""
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    words: set[str] = set()
    harmless = set(KINDS)
    for again in range(ROUNDS_MAX):
        result = run_quick(base, tmp_path, seed + again, (len(KINDS) + 1) * len(ENVIRONMENTS), tells=False)
        require_lawful(result)
        words |= {word for counts in result.outcomes.values() for word in counts}
        harmless &= {kind for kind in KINDS if result.unchanged[kind] == len(ENVIRONMENTS)}
        if words >= REMEDIES and not harmless:
            return
    raise AssertionError(f"met only {words}; changed no byte: {harmless}")


def test_every_place_where_a_configuration_is_written_may_rot(base: Base, tmp_path: Path) -> None:
    """Its entry, or a copy beside the log or the state: the node goes by it all the same."""
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    quick = Quick(base, tmp_path)
    behind = [each for each in quick.truth.configurations if each.index > quick.truth.base]
    assert len(quick.truth.configurations) > len(behind) > 0, "some at the base, some behind it"
    for number in range(6):
        outcome, is_changed = quick.run(CONFIGURATION_ROT, "raft", rng_of(seed, CONFIGURATION_ROT, "raft", number))
        assert is_changed
        assert not outcome.startswith(FAILURES), outcome


@pytest.mark.parametrize(
    ("bug", "found"),
    [
        (planted_newest_forgotten, "wrong: goes by"),
        (planted_base_forgets, "lost a configuration"),
        (planted_state_names_none, "wrong: the state names the one of the first start"),
    ],
)
def test_a_node_that_goes_by_another_configuration_is_caught(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None], found: str
) -> None:
    """Each bug that is planted in the start or the store makes an undamaged directory fail."""
    quick = Quick(base, tmp_path)
    assert quick.undamaged() == "mended, or nothing that is in use"
    bug(monkeypatch)
    assert quick.undamaged().startswith(found)


def test_damage_to_a_journal_has_none_either(base: Base, tmp_path: Path) -> None:
    """A damaged page of it loses nothing; what is cut short sets the directory aside."""
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    result = run_journals(base, tmp_path, seed, 4 * len(JOURNAL_KINDS), tells=False)
    require_lawful(result)
    ones = ("bit_flip", "byte_flip", "zeroed_sector", "zeroed_page", "random_page", "stale_page")
    for kind in ones:
        assert set(result.outcomes[kind, JOURNAL]) == {"mended, or nothing that is in use"}, kind
    assert "directory set aside" in result.outcomes["truncated_file", JOURNAL]
    # Where others vote than --cluster names, a node refuses to begin with an empty log.
    assert set(result.outcomes["both_copies", JOURNAL]) <= {"directory set aside", "refused"}


def test_no_bit_of_a_meta_page_has_one(base: Base, tmp_path: Path) -> None:
    """Every 151st bit here; ``--meta-bits`` flips them all."""
    require_lawful(run_meta_bits(base, tmp_path, every=151, tells=False))


def test_a_cluster_of_real_nodes_heals(base: Base, tmp_path: Path) -> None:
    """Wounds on every node, then damage to one: every value is served, and ``raftlog verify`` is content."""
    require_lawful(run_whole(base, tmp_path, 2, 2, tells=False))
