"""A short corruption campaign: every kind of damage strikes, and none has an outcome that it must not have."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from durable_raft.storage.log.journal_format import JOURNAL
from tests.corruption.base import Base, prepare
from tests.corruption.campaign import ENVIRONMENTS, run_meta_bits, run_quick, run_whole
from tests.corruption.damage import KINDS
from tests.corruption.journals import JOURNAL_KINDS, run_journals
from tests.corruption.trials import Result

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


def test_no_damage_has_an_outcome_that_it_must_not_have(base: Base, tmp_path: Path) -> None:
    """Nothing wrong is read, nothing goes back, nobody is killed or hangs; each kind did harm, each remedy was used."""
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    words: set[str] = set()
    harmless = set(KINDS)
    for again in range(ROUNDS_MAX):
        result = run_quick(base, tmp_path, seed + again, len(KINDS) * len(ENVIRONMENTS), tells=False)
        require_lawful(result)
        words |= {word for counts in result.outcomes.values() for word in counts}
        harmless &= {kind for kind in KINDS if result.unchanged[kind] == len(ENVIRONMENTS)}
        if words >= REMEDIES and not harmless:
            return
    raise AssertionError(f"met only {words}; changed no byte: {harmless}")


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
    assert set(result.outcomes["both_copies", JOURNAL]) == {"directory set aside"}


def test_no_bit_of_a_meta_page_has_one(base: Base, tmp_path: Path) -> None:
    """Every 151st bit here; ``--meta-bits`` flips them all."""
    require_lawful(run_meta_bits(base, tmp_path, every=151, tells=False))


def test_a_cluster_of_real_nodes_heals(base: Base, tmp_path: Path) -> None:
    """Wounds on every node, then damage to one: every value is served, and ``raftlog verify`` is content."""
    require_lawful(run_whole(base, tmp_path, 2, 2, tells=False))
