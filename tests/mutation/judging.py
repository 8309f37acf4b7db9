"""Whether a room's own tests notice a mutant: those that execute the changed lines are run, the quickest first."""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import coverage
import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, Phase, settings

from tests.mutation.forks import in_children, limit_cpu
from tests.mutation.mutations import Mutation
from tests.mutation.planting import PACKAGE, ROOT, loaded_functions, mutated_functions, plant, plant_in_import

TESTS_SECONDS: Final = 4.0
"""CPU time of tests that a mutant is held against, as they need it without one."""

REAL_SECONDS_MAX: Final = 300.0
"""After so much real time a mutant is taken to hang; the machine may be busy."""


class Verdict(NamedTuple):
    """What became of a mutant."""

    how: str
    """``test``: a test failed; ``import``: nothing could be imported; ``hang``: a test ran ten times as long, or the
    process died; ``seed``: a simulated run failed; ``survived``.
    """
    by: str = ""
    """What noticed it."""

    @property
    def is_caught(self) -> bool:
        """Whether something noticed the mutant."""
        return self.how != "survived"


SURVIVED: Final = Verdict("survived")


@dataclass(slots=True)
class Map:
    """Which tests execute what, and how long they need."""

    lines: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    """(file relative to the checkout, line) -> names of tests."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Test -> CPU time."""
    dear: set[str] = field(default_factory=set)
    """Tests that share something that takes long to set up (a redis-server): they run one after the other."""
    failed: list[str] = field(default_factory=list)
    """Tests that fail without any mutant."""

    def tests_of(self, mutation: Mutation) -> list[str]:
        """Return the tests that execute the changed statement, in the order in which they are to be run."""
        first, last = mutation.lines
        executing = (self.lines.get((mutation.path, line), set()) for line in range(first, last + 1))
        return self._in_order(mutation, set().union(*executing), set())

    def tests_of_file(self, mutation: Mutation) -> list[str]:
        """Return tests for what an import does; one that executes anything in the mutant's file may take longer."""
        near = {test for (path, _), tests in self.lines.items() if path == mutation.path for test in tests}
        return self._in_order(mutation, set(self.seconds), near)

    def _in_order(self, mutation: Mutation, tests: set[str], near: set[str]) -> list[str]:
        """Return as many tests as there is time for: those named after the mutant's file, then the quickest."""
        own = f"test_{Path(mutation.path).stem}"

        def rank(test: str) -> tuple[bool, str, float]:
            file = test.partition("::")[0]
            is_own = Path(file).stem.startswith(own)
            weight = 1 if test in near else 4
            return not is_own, file if test in self.dear else "", self.seconds[test] * weight

        chosen: list[str] = []
        left = TESTS_SECONDS
        for test in sorted(tests, key=rank):
            if not chosen or self.seconds[test] <= left:
                chosen.append(test)
                left -= self.seconds[test]
        return chosen


Judged = Callable[[Mutation, Verdict], None]


class Room:
    """The tests of one room, collected in this process, as a pytest plugin that holds mutants against them."""

    def __init__(self, mutants: Sequence[Mutation], jobs: int, judged: Judged) -> None:
        self._mutants = mutants
        self._jobs = jobs
        self._judged = judged
        self._items: dict[str, pytest.Item] = {}
        self.map = Map()
        self.in_import: list[Mutation] = []
        """Mutants that have to be there before the module is imported."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Stand in for running the tests."""
        self._items = {item.nodeid: item for item in session.items if not _measures_time(item)}
        for _, mapped in in_children([None], lambda _: self._mapped(), jobs=1, seconds_max=3600.0):
            if mapped is None:
                raise RuntimeError("the tests could not be run without a mutant")
            self.map = mapped
        if self.map.failed:
            raise RuntimeError(f"fails without a mutant: {self.map.failed}")
        functions = loaded_functions()
        tasks = []
        for mutant in self._mutants:
            mutated = mutated_functions(mutant)
            tests = self.map.tests_of(mutant)
            is_loaded = mutated is not None and all(
                (code.co_filename, code.co_qualname, code.co_firstlineno) in functions for code in mutated
            )
            if mutated is None or not is_loaded or not tests:
                self.in_import.append(mutant)
            else:
                tasks.append((mutant, tests))

        def judge(task: tuple[Mutation, list[str]]) -> Verdict:
            mutant, tests = task
            mutated = mutated_functions(mutant)
            if mutated is None or not plant(mutated, functions):
                raise RuntimeError(f"cannot plant {mutant}")
            return self._verdict(tests)

        for (mutant, _), verdict in in_children(tasks, judge, jobs=self._jobs, seconds_max=REAL_SECONDS_MAX):
            self._judged(mutant, verdict or Verdict("hang"))
        return True

    def _verdict(self, tests: Sequence[str]) -> Verdict:
        for item, following in _pairs([self._items[test] for test in tests]):
            limit_cpu(_cpu_seconds_max(self.map, item))
            if any(report.failed for report in _reports(item, following)):
                return Verdict("test", item.nodeid)
        return SURVIVED

    def _mapped(self) -> Map:
        mapped = Map()
        measured = coverage.Coverage(data_file=None, config_file=False, include=[f"{ROOT / PACKAGE}/*"])
        measured.start()
        for item, following in _pairs(list(self._items.values())):
            name = item.nodeid
            measured.switch_context(name)
            began = time.process_time()
            reports = runtestprotocol(item, log=False, nextitem=following)
            mapped.seconds[name] = time.process_time() - began
            if _shares_a_fixture(item):
                mapped.dear.add(name)
            if any(report.failed for report in reports):
                mapped.failed.append(name)
        measured.stop()
        data = measured.get_data()
        for file in data.measured_files():
            path = Path(file).relative_to(ROOT).as_posix()
            for line, tests in data.contexts_by_lineno(file).items():
                mapped.lines[path, line] = {test for test in tests if test}
        return mapped


def _pairs(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Yield each item with the next one, which tells what may stay set up in between."""
    return itertools.zip_longest(items, items[1:])


def _shares_a_fixture(item: pytest.Item) -> bool:
    definitions = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    return any(definition[-1].scope == "module" for definition in definitions)


def _reports(item: pytest.Item, following: pytest.Item | None) -> list[pytest.TestReport]:
    """Run a test, and once more if it fails: what a busy machine did to it is not held against a mutant."""
    reports = runtestprotocol(item, log=False, nextitem=following)
    if any(report.failed for report in reports):
        reports = runtestprotocol(item, log=False, nextitem=following)
    return reports


def _measures_time(item: pytest.Item) -> bool:
    """Return whether a test compares times: it may fail beside other work, with a mutant and without."""
    return isinstance(item, pytest.Function) and "require_linear" in item.function.__code__.co_names


def _cpu_seconds_max(mapped: Map, item: pytest.Item) -> float:
    return 2.0 + 10 * mapped.seconds[item.nodeid]


class _First:
    """A pytest plugin: runs these tests in this order, and notes the first thing that fails."""

    def __init__(self, mapped: Map, tests: Sequence[str]) -> None:
        self._map = mapped
        self._ranks = {test: rank for rank, test in enumerate(tests)}
        self.verdict = SURVIVED

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the chosen tests, in their order."""
        items[:] = sorted(
            (each for each in items if each.nodeid in self._ranks), key=lambda each: self._ranks[each.nodeid]
        )

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run a test as ``Room`` does, within its bound."""
        limit_cpu(_cpu_seconds_max(self._map, item))
        for report in _reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        return True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot be imported."""
        if report.failed and not self.verdict.is_caught:
            self.verdict = Verdict("import", report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what fails."""
        if report.failed and not self.verdict.is_caught:
            self.verdict = Verdict("test", report.nodeid)


def judge_room(
    files: Sequence[str], mutants: Sequence[Mutation], jobs: int, judged: Judged
) -> tuple[Map, list[Mutation]]:
    """Hold each mutant of a room against the room's tests, which ``files`` names; this process imports the package.

    Returns:
        Which test executes what, and the mutants that are left to ``judge_in_import``.
    """
    with tempfile.TemporaryDirectory() as place:
        tests = Room(mutants, jobs, judged)
        code = pytest.main([*_options(place), *files], plugins=[tests])
        if code != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest ended with {code} while it held mutants against {', '.join(files)}")
    return tests.map, tests.in_import


def judge_in_import(mutant: Mutation, mapped: Map) -> Verdict:
    """Import the package with the mutant in it, and run the tests of its file; the process is spent afterwards."""
    plant_in_import(mutant)
    tests = mapped.tests_of_file(mutant)
    plugin = _First(mapped, tests)
    files = sorted({test.partition("::")[0] for test in tests})
    limit_cpu(60.0)
    with tempfile.TemporaryDirectory() as place:
        code = pytest.main([*_options(place), "-x", *files], plugins=[plugin])
    return plugin.verdict if plugin.verdict.is_caught or code == pytest.ExitCode.OK else Verdict("import", str(code))


def settle_hypothesis() -> None:
    """Have hypothesis find the same in every child, and not look for the smallest example of it."""
    settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutation")


def _options(place: str) -> list[str]:
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    return ["-q", "-s", "--assert=plain", "-p", "no:cacheprovider", "--timeout=0", f"--basetemp={place}/tests"]
