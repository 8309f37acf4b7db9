"""The tables of members that come and go: made from a campaign's figures, for the document and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.tables import short, table
from tests.moves.figures import percentile
from tests.moves.steps import HANDOVER, ROLLING, STOP

Figures = Mapping[str, Any]

OURS: Final = "durable_raft"
PEER: Final = "etcd"
PLANNED: Final = (HANDOVER, STOP, ROLLING)
"""Steps in which a leader goes that has time to hand over."""


def all_tables(figures: Figures) -> str:
    """Return all of them, and how busy the machine was."""
    about, sizes = figures["machine"], figures["sizes"]
    busy = (
        f"{about['cores']} cores, on which {about['load_average']:g} processes ran when it began."
        f" {sizes['rate']:g} commands a second of {sizes['clients']} clients, over {sizes['keys']:,} keys.\n\n"
    )
    return "\n".join([busy + steps(figures), handovers(figures), found(figures)])


def steps(figures: Figures) -> str:
    """Return for each step how long nothing was acknowledged at worst, and how long 99 of 100 writes took at most."""
    head = ["ms", "actions", "worst pause", "etcd's", "ratio", "p99 of a write", "etcd's", "ratio"]
    rows = [
        [name, str(by[OURS]["actions"]), *_beside(by, "worst_pause_ms"), *_beside(by, "p99_ms")]
        for name, by in figures["steps"].items()
    ]
    return table(head, rows)


def handovers(figures: Figures) -> str:
    """Return what planned changes of the leader cost: of each the slowest write that was due meanwhile."""
    head = ["the slowest write of each, ms", "times", "p50", "p99", "etcd's p50", "etcd's p99"]
    rows = []
    for name in PLANNED:
        by = figures["steps"][name]
        costs = [[each["slowest_ms"] for each in by[system]["each"]] for system in (OURS, PEER) if system in by]
        cells = [short(percentile(cost, share)) for cost in costs for share in (0.5, 0.99)]
        rows.append([name, str(len(costs[0])), *cells, *["-"] * (4 - len(cells))])
    return table(head, rows)


def found(figures: Figures) -> str:
    """Return what was promised, and whether it was so."""
    systems = figures["systems"]
    rows = [
        ["writes acknowledged", *(f"{each['acknowledged']:,}" for each in systems.values())],
        [
            "of these to a key of their own, looked up at the end",
            *(f"{each['looked_up']:,}" for each in systems.values()),
        ],
        ["judged commands", *(f"{each['operations']:,}" for each in systems.values())],
        ["their history", *(each["judgement"] for each in systems.values())],
        ["errors that clients saw", *(_counts([each["shown"]]) for each in systems.values())],
        [
            "answered otherwise, and asked again by the client's library",
            *(_counts(step[name]["handled"] for step in figures["steps"].values()) for name in systems),
        ],
        ["**problems**", *(f"**{len(each['problems'])}**" for each in systems.values())],
    ]
    return table(["", *("ours" if name == OURS else name for name in systems)], rows)


def _beside(by: Mapping[str, Mapping[str, float]], name: str) -> Sequence[str]:
    """Return ours, the peer's and the ratio."""
    ours = by[OURS][name]
    if PEER not in by:
        return (short(ours), "-", "-")
    peers = by[PEER][name]
    return (short(ours), short(peers), short(ours / peers) if peers else "-")


def _counts(kinds: Any) -> str:
    total: dict[str, int] = {}
    for counts in kinds:
        for kind, times in counts.items():
            total[kind] = total.get(kind, 0) + times
    return "; ".join(f"{times:,} {kind}" for kind, times in sorted(total.items())) or "none"
