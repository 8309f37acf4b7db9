"""``memory_max``: how much memory there is, and what has to fit into the bound."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_raft.errors import ConfigError
from durable_raft.server.settings.config import NodeConfig, load_config
from durable_raft.server.settings.memory import memory_of_system
from durable_raft.server.settings.memory_plan import (
    BASE_BYTES,
    FITS,
    MEMORY_BYTES_MIN,
    SHARES,
    plan_memory,
    setting_max,
)

GIB = 1 << 30
MIB = 1 << 20


def load(**flags: object) -> NodeConfig:
    """Load a configuration."""
    return load_config({"dir": "data", **flags}, {})


def complaint(**flags: object) -> str:
    """Return what is said against a configuration."""
    with pytest.raises(ConfigError) as caught:
        load(**flags)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 8 GiB in no control group."""
    write(tmp_path, "proc/meminfo", "MemTotal:        8388608 kB\nMemFree:          100 kB\n")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    """Write a file of the system's."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


# -- how much there is ------------------------------------------------------------------------------------------------


def test_without_a_limit_it_is_the_machines_memory(root: Path) -> None:
    """MemTotal, whatever is free at the moment."""
    assert memory_of_system(1, root) == 8 * GIB


def test_the_least_limit_of_all_groups_around_counts(root: Path) -> None:
    """Version 2: a group without a limit of its own has that of the one around it."""
    write(root, "proc/self/cgroup", "0::/outer/inner\n")
    write(root, "sys/fs/cgroup/outer/memory.max", f"{2 * GIB}\n")
    write(root, "sys/fs/cgroup/outer/inner/memory.max", "max\n")
    assert memory_of_system(1, root) == 2 * GIB
    write(root, "sys/fs/cgroup/outer/inner/memory.max", f"{GIB}\n")
    assert memory_of_system(1, root) == GIB


def test_a_container_that_sees_its_own_group_as_the_root(root: Path) -> None:
    """Its path names it from outside, and is not there."""
    write(root, "proc/self/cgroup", "0::/docker/0123\n")
    write(root, "sys/fs/cgroup/memory.max", f"{3 * GIB}\n")
    assert memory_of_system(1, root) == 3 * GIB


def test_groups_of_version_1(root: Path) -> None:
    """The controller has a mount of its own; "no limit" is a huge number there."""
    write(root, "proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n")
    write(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")
    assert memory_of_system(1, root) == 8 * GIB
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{4 * GIB}\n")
    assert memory_of_system(1, root) == 4 * GIB


@pytest.fixture
def address_space() -> Iterator[int]:
    """Run under ``ulimit -v`` of 16 GiB."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 * GIB, before[1]))
    yield 16 * GIB
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_address_space_counts_without_the_maps(root: Path, address_space: int) -> None:
    """LMDB maps two files: what is left is what a node can use."""
    assert memory_of_system(GIB, root) == 8 * GIB
    assert memory_of_system(7 * GIB, root) == address_space - 14 * GIB
    assert memory_of_system(20 * GIB, root) == 0
    assert "map_bytes" in complaint(map_bytes="20GiB")


# -- what has to fit --------------------------------------------------------------------------------------------------


def test_the_shares_are_fifteen_sixteenths_of_the_plan() -> None:
    """One part in sixteen is left for what is there twice for a moment."""
    assert sum(1 / part for part in SHARES.values()) == 15 / 16


def test_half_of_what_there_is_is_the_default() -> None:
    """And no more than there is can be asked for."""
    assert plan_memory(0, 8 * GIB) == 4 * GIB
    assert plan_memory(6 * GIB, 8 * GIB) == 6 * GIB
    with pytest.raises(ConfigError, match="expected at most the 8589934592 bytes"):
        plan_memory(9 * GIB, 8 * GIB)
    with pytest.raises(ConfigError, match="expected at least 134217728; by default it is half of the 268435454 bytes"):
        plan_memory(0, 256 * MIB - 2)


def test_defaults_are_cut_down_to_fit() -> None:
    """With the least memory and with much; what fits anyway keeps its default."""
    small = load(memory_max=MEMORY_BYTES_MIN)
    for name, fit in FITS.items():
        assert getattr(small, name) * fit.unit_bytes * fit.part <= MEMORY_BYTES_MIN - BASE_BYTES
    assert load(memory_max="2GiB").overlay_bytes_max == 144 * MIB
    assert small.value_bytes_max == 512 * MIB


@pytest.mark.parametrize("name", FITS)
def test_a_given_value_that_does_not_fit_is_refused(name: str) -> None:
    """The sentence says what would fit, and what memory it would take."""
    fitting = setting_max(name, 256 * MIB)
    given = fitting * 2
    text = complaint(memory_max="256MiB", **{name: given})
    assert text.startswith(f"{name}={given}: expected at most {fitting}, ")
    needed = int(text.partition("memory_max=")[2].partition(" ")[0])
    assert getattr(load(memory_max=needed, **{name: given}), name) == given


def test_too_little_memory_is_refused() -> None:
    """Below the least no share is any use."""
    assert complaint(memory_max="100MiB").startswith("memory_max=104857600: expected at least 134217728")
