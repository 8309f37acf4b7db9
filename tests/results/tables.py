"""The figures and tables of tests/README.md, made from the files that campaigns left in this folder.

Usage: ``python -m tests.results``. Each block stands in the document between ``<!-- table: NAME -->`` and
``<!-- end of table -->``; it is written over there. A test holds the document to the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.tables import table, written_over
from tests.results import moves
from tests.simulation.mutants import mutants_members

RESULTS: Final = Path(__file__).parent
DOCUMENT: Final = RESULTS.parent / "README.md"

PHASES: Final = ("start", "work")
"""In which a call of the fault matrix fails; tests/fault_matrix/cell.py says what they are."""

LMDB_FILES: Final = {"raft": "`raft/data.mdb`", "kv": "`kv/data.mdb`"}
JOURNAL_FILES: Final = {"journal": "`raft/journal`", "raft": "`raft/data.mdb`"}
"""What damage struck in trials of one directory, and how a column is headed."""

Figures = Mapping[str, Any]

_NAMED_RULE: Final = re.compile(r"(?:broken: )?([A-Z][A-Za-z =>]+)[:(]")
_UNNAMED_RULES: Final = {
    "vote of term": "one vote a term",
    "chain expected": "the chain",
    "conflicts with entries committed": "a snapshot contradicts what is committed",
}
"""Rules that a message does not name, by what it says instead."""
_KINDS: Final = {
    "InvariantViolation": "a check of the code itself",
    "WrongAnswer": "a wrong answer",
    "StatesDiffer": "states differ",
    "NotLinearizable": "linearizability",
    "Livelock": "an endless loop",
}
"""What caught a mutant when the message tells no rule, by the kind of error."""


def number(value: float) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,}"


def words(name: str) -> str:
    """Return a name of the code in words."""
    return name.replace("_", " ")


def rule_of(found: str) -> str:
    """Return which rule a simulated run broke, without what broke it."""
    kind, _, what = found.partition(": ")
    if named := _NAMED_RULE.match(what):
        return named[1].strip()
    unnamed = (rule for said, rule in _UNNAMED_RULES.items() if said in what)
    return next(unnamed, _KINDS.get(kind, kind))


def told(counts: Mapping[str, int]) -> str:
    """Return counts in one line."""
    return "; ".join(f"{number(count)} {words(name)}" for name, count in counts.items()) or "-"


def _simulation(figures: Figures) -> str:
    hours, seconds = figures["simulated_hours"], figures["cpu_seconds"]
    counts = figures["counts"]
    lines = [
        ["seeds", number(figures["seeds"])],
        ["simulated hours", f"{hours:.2f} ({hours * 3600 / seconds:.0f} for each hour of one core)"],
        ["events", f"{number(figures['events'])} ({number(round(figures['events'] / seconds))} a second of one core)"],
        ["elections won", number(figures["elections"])],
        ["entries committed", number(figures["committed"])],
        ["answers to clients", number(figures["answers"])],
        ["checkpoints", number(counts.get("checkpoint", 0))],
        ["snapshots installed", number(counts.get("snapshot_installed", 0))],
        ["entries healed", number(counts.get("entry_healed", 0))],
        ["records rebuilt", number(counts.get("records_rebuilt", 0))],
        ["directories set aside", number(counts.get("set aside", 0))],
        ["writes made on the event loop", number(counts.get("written on the loop", 0))],
        ["checks of invariants", number(figures["checks"])],
        ["**failures**", f"**{len(figures['failures'])}**"],
    ]
    return table(["simulated", ""], lines)


def _faults(figures: Figures) -> str:
    struck = figures["faults"]
    return table(["fault", "times"], [[words(name), number(count)] for name, count in struck.items()])


def _mutants(figures: Figures) -> str:
    caught = [
        [f"`{name}`", str(each["seeds"]), rule_of(each["rule"]), each["date"]]
        for name, each in figures.items()
        if each["rule"]
    ]
    missed = [
        [f"`{name}`", f"> {each['seeds']}", "not caught", each["date"]]
        for name, each in figures.items()
        if not each["rule"]
    ]
    shown = [
        [f"`{name}`", "-", f"`raft/scripts/{script}.txt`", "-"]
        for name, script in mutants_members.SHOWN_BY_SCRIPT.items()
    ]
    share = f"{len(caught)} of {len(figures)} were caught. {len(shown)} more are shown by a script alone.\n\n"
    return share + table(["mutant", "seeds", "caught by", "played"], [*caught, *missed, *shown])


def _fuzz(figures: Figures) -> str:
    lines = [[f"`{target}`", number(count)] for target, count in figures["inputs"].items()]
    lines += [
        ["all", number(sum(figures["inputs"].values()))],
        ["memory at most", f"{figures['resident_kib'] / 1024:.1f} MiB"],
        ["growth after the first fifth", f"{figures['growth_kib'] / 1024:.1f} MiB"],
        ["**crashes**", f"**{len(figures['failures'])}**"],
    ]
    return table(["fed to", "inputs"], lines)


def _power_loss(figures: Figures) -> str:
    lines = [[name, *(number(count) for count in counts)] for name, counts in figures["rows"].items()]
    rate = figures["rows"]["distinct images"][-1] / figures["seconds"]
    also = f"\n{rate:.0f} images a second. {figures['deaths']} recoveries died of a signal.\n"
    return table(["", "of the store", "of a node", "all"], lines) + also


def _power_loss_bugs(figures: Figures) -> str:
    lines = [
        [f"`{bug}`", number(each["images"]), "yes" if each["found"] else "**no**"] for bug, each in figures.items()
    ]
    return table(["planted bug", "images", "found"], lines)


def _block_level(figures: Figures) -> str:
    lines = [
        ["operations on the device", number(figures["operations"])],
        ["flushes", number(figures["flushes"])],
        ["distinct images", f"{number(figures['images'])}: {told(figures['kinds'])}"],
        ["in flight", told(figures["activities"])],
        ["**failures**", f"**{figures['failures']}**"],
    ]
    return table(["block level", ""], lines)


def _fault_matrix(figures: Figures) -> str:
    reached = [cell for cell in figures["cells"] if cell["did"] != "not reached"]
    unreached = sum(cell["cells"] for cell in figures["cells"]) - sum(cell["cells"] for cell in reached)
    calls = dict.fromkeys(cell["call"] for cell in reached)
    lines = [[f"`{call}`", *(_did(reached, call, phase) for phase in PHASES)] for call in calls]
    also = (
        f"\n{unreached} further cells did not reach the call. "
        f"{number(figures['acknowledged'])} acknowledged writes were looked up after the restarts. "
        f"**{figures['failures']} failures.**\n"
    )
    return table(["call", "while it starts", "while it works"], lines) + also


def _did(cells: Sequence[Mapping[str, Any]], call: str, phase: str) -> str:
    """Return what nodes did when ``call`` failed in ``phase``, and in how many cells of each error."""
    times: dict[str, list[str]] = {}
    for cell in cells:
        if (cell["call"], cell["phase"]) == (call, phase):
            times.setdefault(cell["did"], []).append(f"{cell['error']} {cell['cells']}")
    return "; ".join(f"{did} ({', '.join(counts)})" for did, counts in times.items()) or "-"


def _damage(outcomes: Mapping[str, Mapping[str, Mapping[str, int]]], files: Mapping[str, str] = LMDB_FILES) -> str:
    lines = [
        [words(kind), *(told(environments.get(name, {})) for name in files)] for kind, environments in outcomes.items()
    ]
    return table(["damage to one file", *files.values()], lines)


def _corruption(figures: Figures, files: Mapping[str, str] = LMDB_FILES) -> str:
    failures = figures["quick"]["failures"] + figures["whole"]["failures"]
    return (
        f"One directory each:\n\n{_damage(figures['quick']['outcomes'], files)}\n"
        f"Three real nodes each:\n\n{_damage(figures['whole']['outcomes'])}\n**{failures} failures.**\n"
    )


def _corruption_journal(figures: Figures) -> str:
    return _corruption(figures, JOURNAL_FILES)


def _meta_bits(figures: Figures) -> str:
    return f"{_damage(figures['quick']['outcomes'])}\n**{figures['quick']['failures']} failures.**\n"


def _soak(figures: Figures) -> str:
    history, turns = figures["history"], figures["slow_turns"]
    most, bound = figures["most_memory_bytes"] >> 20, figures["memory_max_bytes"] >> 20
    lines = [
        ["minutes", f"{figures['seconds'] / 60:.1f}"],
        ["writes acknowledged, and found on every node", number(figures["acknowledged"])],
        ["recorded commands", f"{number(history['operations'])}, {number(history['unknown'])} of unknown fate"],
        ["their history", history["judgement"]],
        ["terms used", number(figures["terms_used"])],
        ["worst pause", f"{figures['worst_pause_s']:.1f} s"],
        ["worst pause while no disk was full", f"{figures['worst_pause_with_room_s']:.1f} s"],
        ["most memory of a node", f"{number(most)} MiB, of {number(bound)} MiB (`memory_max`)"],
        ["nodes that ended by themselves", number(figures["ends"])],
        ["longest turn of a node's loop", f"{turns['longest_ms']:.0f} ms of its processor"],
        ["**problems**", f"**{len(figures['problems'])}**"],
    ]
    return table(["soak", ""], lines)


def _soak_troubles(figures: Figures) -> str:
    lines = [
        [
            words(name),
            number(each["rounds"]),
            number(each["struck"]) if each["struck"] else "-",
            number(each["alone"]),
            number(each["terms"]),
            f"{each['worst_pause_s']:.1f} s" if each["worst_pause_s"] else "-",
        ]
        for name, each in figures["troubles"].items()
    ]
    return table(
        ["trouble", "rounds", "struck", "of these alone", "terms used in those", "worst pause in those"], lines
    )


TABLES: Final[dict[str, tuple[str, Callable[[Figures], str]]]] = {
    "simulation": ("simulation", _simulation),
    "simulation_faults": ("simulation", _faults),
    "mutants": ("mutants", _mutants),
    "fuzz": ("fuzz", _fuzz),
    "power_loss": ("power_loss", _power_loss),
    "power_loss_journal": ("power_loss_journal", _power_loss),
    "power_loss_bugs": ("power_loss_bugs", _power_loss_bugs),
    "block_level": ("block_level", _block_level),
    "block_level_journal": ("block_level_journal", _block_level),
    "fault_matrix": ("fault_matrix", _fault_matrix),
    "fault_matrix_journal": ("fault_matrix_journal", _fault_matrix),
    "corruption": ("corruption", _corruption),
    "corruption_journal": ("corruption_journal", _corruption_journal),
    "meta_bits": ("meta_bits", _meta_bits),
    "soak": ("soak", _soak),
    "soak_troubles": ("soak", _soak_troubles),
    "moves": ("moves", moves.all_tables),
}
"""By name in the document: the file of this folder, without its ending, and what is made from its figures."""


def result(name: str) -> dict[str, Any]:
    """Return what a campaign left in the file ``name``; record.py says what that is."""
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def block(name: str) -> str:
    """Return one block of the document: the run that the figures come from, and the figures."""
    file, made = TABLES[name]
    run = result(file)
    seeds = run["seeds"]
    return f"`{run['command']}` (seeds: {seeds}; {run['date']})\n\n{made(run['figures'])}"


def filled(document: str) -> str:
    """Return ``document`` with its blocks made anew; raises KeyError for one that is not known."""
    return written_over(document, block)
