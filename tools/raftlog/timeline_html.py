"""The timeline as a page: one lane for each node, drawn as SVG; works without a network and without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from durable_raft.storage.flight import Flown

if TYPE_CHECKING:
    from raftlog.timeline import Span

Drawn = tuple[str, Sequence[Flown], "Sequence[Span]"]

_LEFT: Final = 90
_WIDTH: Final = 1_400
_LANE: Final = 110
_TOP: Final = 60
_COLOURS: Final = {"leader": "#2e7d32", "candidate": "#ef6c00", "pre-candidate": "#fbc02d", "follower": "#90a4ae"}
_MARKS: Final = {
    "granted_vote": ("vote granted", "#1565c0", "circle"),
    "became_leader": ("elected", "#2e7d32", "triangle"),
    "entry_lost": ("wound", "#c62828", "cross"),
    "lost_state": ("state lost", "#c62828", "cross"),
    "entry_healed": ("healed", "#00897b", "plus"),
    "truncated_suffix": ("suffix cut", "#6a1b9a", "bar"),
    "installed_snapshot": ("snapshot installed", "#4527a0", "square"),
    "checkpoint": ("checkpoint", "#5d4037", "bar"),
    "admitted": ("disk admitted", "#00695c", "square"),
    "disk_replaced": ("disk replaced", "#ad1457", "square"),
    "started": ("started", "#000000", "triangle"),
    "stopped": ("stopped", "#000000", "bar"),
    "lost_quorum": ("quorum lost", "#d84315", "bar"),
}

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fafafa }
h1 { font-size: 1.2em } svg { background: #fff; border: 1px solid #ddd; border-radius: 6px }
text { font: 11px system-ui, sans-serif } .name { font-size: 14px; font-weight: 600 }
.legend span { margin-right: 1.4em; white-space: nowrap } .scroll { overflow-x: auto }
.legend i { display: inline-block; width: 1em; height: 1em; border-radius: 3px; vertical-align: -2px }
"""


def page(lanes: Sequence[Drawn]) -> str:
    """Return the page; ``lanes`` has name, events and spans of each node, at least one event in all."""
    times = [event.wall_ms for _, events, _ in lanes for event in events]
    begin, end = min(times), max(max(times), min(times) + 1)
    axis = _Axis(begin, end)
    top = max([1, *(_number(e.fields.get("last")) for _, events, _ in lanes for e in events if e.event == "progress")])
    height = _TOP + _LANE * len(lanes) + 20
    body = [*axis.ticks(height)]
    for number, (name, events, spans) in enumerate(lanes):
        body += _lane(name, events, spans, _TOP + number * _LANE, axis, top)
    drawing = "\n".join(body)
    total = _LEFT + _WIDTH + 30
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>raftlog timeline</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(', '.join(name for name, _, _ in lanes))}: {_time(begin)} to {_time(end)} UTC</h1>"
        f"<p class=legend>{''.join(_legend())}</p>"
        f'<div class=scroll><svg width="{total}" height="{height}" viewBox="0 0 {total} {height}">{drawing}</svg></div>'
        "<p>Hover over a mark for its time and fields. The line under a node's roles is its commit index.</p></html>\n"
    )


class _Axis:
    """Where a time lies."""

    def __init__(self, begin: int, end: int) -> None:
        self._begin, self._end = begin, end

    def x(self, wall_ms: int) -> float:
        """Return the place of a time."""
        return round(_LEFT + (wall_ms - self._begin) * _WIDTH / (self._end - self._begin), 1)

    def ticks(self, height: int) -> Iterator[str]:
        """Yield a dozen lines with their times."""
        for number in range(13):
            at = self._begin + (self._end - self._begin) * number // 12
            x = self.x(at)
            yield f'<line x1="{x}" y1="30" x2="{x}" y2="{height}" stroke="#eee"/>'
            yield f'<text x="{x}" y="22" text-anchor="middle" fill="#777">{_time(at)[11:]}</text>'


def _lane(name: str, events: Sequence[Flown], spans: Sequence[Span], y: int, axis: _Axis, top: int) -> Iterator[str]:
    yield f'<text class=name x="12" y="{y + 24}">{html.escape(name)}</text>'
    for span in spans:
        x, width = axis.x(span.begin_ms), max(axis.x(span.end_ms) - axis.x(span.begin_ms), 1)
        term = "" if span.term is None else f"term {span.term}"
        title = f"{span.role} {term}, {_time(span.begin_ms)} to {_time(span.end_ms)}"
        yield (
            f'<rect x="{x}" y="{y + 8}" width="{width}" height="24" rx="3" fill="{_COLOURS[span.role]}">'
            f"<title>{html.escape(title)}</title></rect>"
        )
        if width > 50 and term:
            yield f'<text x="{x + 5}" y="{y + 24}" fill="#fff" pointer-events="none">{term}</text>'
    for points in _lines(events, y, axis, top):
        yield f'<polyline points="{" ".join(points)}" fill="none" stroke="#1976d2" stroke-width="1.5"/>'
    for event in events:
        if event.event in _MARKS:
            yield _mark(event, axis.x(event.wall_ms), y + 42)


def _lines(events: Sequence[Flown], y: int, axis: _Axis, top: int) -> list[list[str]]:
    """Return the points of the commit index, a line for each life."""
    lines: list[list[str]] = [[]]
    for event in events:
        if event.event == "started":
            lines.append([])
        elif event.event == "progress":
            height = round(y + 92 - 40 * _number(event.fields.get("commit")) / top, 1)
            lines[-1].append(f"{axis.x(event.wall_ms)},{height}")
    return [points for points in lines if points]


def _mark(event: Flown, x: float, y: int) -> str:
    _, colour, shape = _MARKS[event.event]
    told = " ".join(f"{key}={value}" for key, value in event.fields.items())
    title = f"<title>{html.escape(f'{_time(event.wall_ms)} {event.event} {told}')}</title>"
    shapes = {
        "circle": f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}">{title}</circle>',
        "triangle": f'<path d="M{x} {y - 6}l5 9h-10z" fill="{colour}">{title}</path>',
        "square": f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8" fill="{colour}">{title}</rect>',
        "bar": f'<rect x="{x - 1}" y="{y - 6}" width="2.5" height="12" fill="{colour}">{title}</rect>',
        "cross": f'<path d="M{x - 5} {y - 5}l10 10m0 -10l-10 10" stroke="{colour}" stroke-width="2.5">{title}</path>',
        "plus": f'<path d="M{x} {y - 6}v12m-6 -6h12" stroke="{colour}" stroke-width="2.5">{title}</path>',
    }
    return shapes[shape]


def _legend() -> Iterator[str]:
    for role, colour in _COLOURS.items():
        yield f'<span><i style="background:{colour}"></i> {role}</span>'
    for event, (name, _, _) in _MARKS.items():
        mark = _mark(Flown(0, 0, 0, event, {}), 8, 8)
        yield f'<span><svg width="16" height="16" style="border:0">{mark}</svg> {name}</span>'


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "")
