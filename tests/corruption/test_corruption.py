"""A short corruption campaign: every kind of damage strikes, and none has an outcome that it must not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corruption.base import Base, prepare
from tests.corruption.campaign import ENVIRONMENTS, Result, run_meta_bits, run_quick, run_whole
from tests.corruption.damage import KINDS

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """Three directories with some thousand writes."""
    prepared = prepare(tmp_path_factory.mktemp("corruption"), 1)
    yield prepared
    prepared.cluster.close()


def require_lawful(result: Result) -> None:
    """Print the table and fail with what must not have happened."""
    print("\n".join(result.table()))
    assert not result.failures, "\n".join(result.failures)


def test_no_damage_has_an_outcome_that_it_must_not_have(base: Base, tmp_path: Path) -> None:
    """Nothing wrong is read, nothing goes back, nobody is killed or hangs; and every kind did change the file."""
    count = 5 * len(KINDS) * len(ENVIRONMENTS)
    result = run_quick(base, tmp_path, 1, count, tells=False)
    require_lawful(result)
    assert all(result.unchanged[kind] < 10 for kind in KINDS), result.unchanged
    words = {word for counts in result.outcomes.values() for word in counts}
    assert {"directory set aside", "state set aside", "entries to be healed"} <= words


def test_no_bit_of_a_meta_page_has_one(base: Base, tmp_path: Path) -> None:
    """Every 37th bit here; ``--meta-bits`` flips them all."""
    require_lawful(run_meta_bits(base, tmp_path, every=37, tells=False))


def test_a_cluster_of_real_nodes_heals(base: Base, tmp_path: Path) -> None:
    """Four trials, one of them with wounds on every node: every value is served, and ``raftlog verify`` is content."""
    require_lawful(run_whole(base, tmp_path, 2, 4, tells=False))
