"""The timeline as a page: one lane for each node, drawn as SVG.

It loads nothing and works without scripts: places along the axis are percentages of the drawing's width, so zooming
is only a wider drawing. The script adds zooming, finer ticks, quick tooltips and a cursor.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from durable_raft.storage.flight import Flown
from raftlog.lanes import Lane, Span

_TOP: Final = 40
_LANE: Final = 146
_BAND: Final = 22
_COMMIT: Final = 36
_POINTS: Final = 4_000
"""Places along the axis at which a commit index or a mark is told apart from the next."""
_TIPS_MAX: Final = 8
"""Events told in one tooltip."""
_NARROW: Final = 0.12
"""Percent of the axis under which a span is drawn as a line."""

_PLAIN: Final = re.compile(r"[\w.:,;/+@%-]*")
"""Texts that need no quotes."""

_ROLES: Final = {
    "leader": ("leader", "#2e7d32"),
    "candidate": ("candidate", "#ef6c00"),
    "pre-candidate": ("pre-candidate", "#f9c846"),
    "follower": ("follower", "#90a4ae"),
    "log": ("term, from the log", "#9fb7e0"),
    "unknown": ("role not recorded", "#d7dbdf"),
}


class _Kind(NamedTuple):
    """How a kind of event is marked."""

    row: int
    """0: elections and disks; 1: what befalls the process, the log and the state; 2: how it was made good."""
    name: str
    colour: str
    shape: str


_KINDS: Final = {
    "became_candidate": _Kind(0, "election begun", "#ef6c00", "ring"),
    "granted_vote": _Kind(0, "vote granted", "#1565c0", "circle"),
    "became_leader": _Kind(0, "elected", "#2e7d32", "triangle"),
    "lost_quorum": _Kind(0, "quorum lost", "#d84315", "bar"),
    "heartbeat_withheld": _Kind(0, "heartbeat withheld", "#d84315", "hollow"),
    "leader_with_hung_disk": _Kind(0, "hung disk left", "#d84315", "square"),
    "admitted": _Kind(0, "disk admitted", "#00695c", "square"),
    "disk_replaced": _Kind(0, "disk replaced", "#ad1457", "square"),
    "configuration": _Kind(0, "configuration", "#00838f", "hollow"),
    "configuration_in_log": _Kind(0, "configuration in the log", "#00838f", "hollow"),
    "version_in_log": _Kind(0, "cluster version in the log", "#5d4037", "hollow"),
    "cluster_version": _Kind(0, "cluster version raised", "#5d4037", "square"),
    "configuration_complete": _Kind(0, "members changed", "#00838f", "square"),
    "started": _Kind(1, "started", "#222222", "triangle"),
    "stopped": _Kind(1, "stopped", "#222222", "bar"),
    "silent": _Kind(1, "ended without a word", "#222222", "cross"),
    "checkpoint": _Kind(2, "checkpoint", "#795548", "bar"),
    "needs_snapshot": _Kind(2, "follower needs a snapshot", "#7e57c2", "hollow"),
    "installed_snapshot": _Kind(2, "snapshot installed", "#4527a0", "square"),
    "truncated_suffix": _Kind(1, "suffix cut", "#8e24aa", "bar"),
    "entry_lost": _Kind(1, "wound", "#c62828", "cross"),
    "wound_in_log": _Kind(1, "wound in the log", "#c62828", "cross"),
    "lost_entries_cut": _Kind(1, "wounds never committed cut", "#8e24aa", "square"),
    "entries_missing": _Kind(1, "not healed yet", "#c62828", "hollow"),
    "chain_mismatch": _Kind(1, "chain mismatch", "#c62828", "square"),
    "lost_state": _Kind(1, "state lost", "#c62828", "triangle"),
    "entry_healed": _Kind(2, "healed", "#00897b", "plus"),
}
_OTHER: Final = _Kind(1, "other", "#9e9e9e", "circle")
_NO_MARK: Final = frozenset(
    {"progress", "became_follower", "became_pre_candidate", "term_changed", "recovered"}
    | {"term_begins_in_log", "log_ends"}
)
"""Events that the spans and the line of the commit index show."""

_SHAPES: Final = {
    "circle": '<circle r="4" fill="{0}"/>',
    "hollow": '<circle r="3.5" fill="#fff" stroke="{0}" stroke-width="2"/>',
    "ring": '<circle r="7" fill="none" stroke="{0}" stroke-width="1.5"/>',
    "triangle": '<path d="M0 -5.5l5 9h-10z" fill="{0}"/>',
    "square": '<rect x="-4" y="-4" width="8" height="8" fill="{0}"/>',
    "bar": '<rect x="-1.5" y="-6" width="3" height="12" fill="{0}"/>',
    "cross": '<path d="M-4.5 -4.5l9 9m0 -9l-9 9" stroke="{0}" stroke-width="2.5" fill="none"/>',
    "plus": '<path d="M0 -5.5v11m-5.5 -5.5h11" stroke="{0}" stroke-width="2.5"/>',
}

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 1.5em 2em; color: #222; background: #fafafa }
h1 { font-size: 1.2em; margin: 0 0 .4em } table { border-collapse: collapse; margin: .3em 0 1.5em }
td, th { padding: .15em 1.2em .15em 0; text-align: left; font-variant-numeric: tabular-nums }
th { color: #777; font-weight: 500; border-bottom: 1px solid #ddd }
.legend { margin: .4em 0; line-height: 1.8 } .legend span { margin-right: 1.3em; white-space: nowrap }
.legend i { display: inline-block; width: 1.3em; height: .9em; border-radius: 3px; vertical-align: -1px }
.legend svg { vertical-align: -3px } .legend .faded { opacity: .35 }
.drawing { display: flex; background: #fff; border: 1px solid #ddd; border-radius: 6px }
.names { flex: none; border-right: 1px solid #eee } .scroll { flex: 1; overflow-x: auto; min-width: 0 }
#plot { display: block; width: 100%; min-width: 700px } text { font: 11px system-ui, sans-serif; fill: #777 }
text.name { font-size: 14px; font-weight: 600; fill: #222 } text.term { fill: #fff; pointer-events: none }
text.dark { fill: #333 } .lane:nth-of-type(even) > .ground { fill: rgba(60, 90, 160, .04) } use { cursor: default }
#bar { min-height: 2em; display: flex; gap: .5em; align-items: center; visibility: hidden; color: #555 }
#bar button { font: inherit; min-width: 2em; border: 1px solid #ccc; border-radius: 4px; background: #fff }
#tip { position: fixed; display: none; background: #222; color: #fff; padding: .3em .6em; border-radius: 4px;
  font-size: 12px; white-space: pre-line; pointer-events: none; max-width: 40em; z-index: 1 }
"""

_SCRIPT: Final = """
const $ = id => document.getElementById(id), plot = $('plot'), scroll = $('scroll'), tip = $('tip');
const begin = +plot.dataset.begin, end = +plot.dataset.end, low = +plot.dataset.low, high = +plot.dataset.high;
let zoom = 1;
const clock = ms => new Date(ms).toISOString().slice(11, 23);
function ticks() {
  const raw = (end - begin) / (plot.clientWidth / 120), steps = JSON.parse(plot.dataset.steps);
  const step = steps.find(each => each >= raw) || Math.ceil(raw / 864e5) * 864e5, lines = [];
  for (let at = Math.ceil(begin / step) * step; at <= end; at += step) {
    const x = (at - begin) / (end - begin) * 100 + '%';
    lines.push(`<line x1="${x}" x2="${x}" y1="26" y2="100%" stroke="#eee"/><text x="${x}" y="18"
      text-anchor="middle">${step % 1000 ? clock(at) : clock(at).slice(0, 8)}</text>`);
  }
  $('axis').innerHTML = lines.join('');
}
function zoomTo(wanted, clientX) {
  const left = scroll.getBoundingClientRect().left, x = (clientX ?? left + scroll.clientWidth / 2) - left;
  const share = (x + scroll.scrollLeft) / plot.clientWidth;
  zoom = Math.min(Math.max(wanted, 1), 500);
  plot.style.width = zoom * 100 + '%';
  scroll.scrollLeft = share * plot.clientWidth - x;
  ticks();
}
const lines = [...plot.querySelectorAll('polyline')].map(line => ({node: line.dataset.node,
  points: line.getAttribute('points').split(' ').map(point => point.split(',').map(Number))}));
function commits(share) {
  const found = {};
  for (const {node, points} of lines) {
    const at = share * 10000;
    if (at < points[0][0] || at > points[points.length - 1][0] + 30) continue;
    const last = points.filter(point => point[0] <= at + .5).pop();
    if (last) found[node] = Math.round(low + (100 - last[1]) / 100 * (high - low));
  }
  return Object.entries(found).map(([node, commit]) => `${node} ${commit}`).join(', ');
}
for (const title of plot.querySelectorAll('title')) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
plot.addEventListener('mousemove', event => {
  const box = plot.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
  $('cursor').setAttribute('x1', share * 100 + '%');
  $('cursor').setAttribute('x2', share * 100 + '%');
  const told = commits(share);
  $('now').textContent = clock(begin + share * (end - begin)) + (told && ' - commit index: ' + told);
  const over = event.target.closest('[data-tip]');
  tip.style.display = over ? 'block' : 'none';
  if (!over) return;
  tip.textContent = over.dataset.tip;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
  tip.style.top = Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8) + 'px';
});
plot.addEventListener('mouseleave', () => tip.style.display = 'none');
plot.addEventListener('dblclick', event => zoomTo(zoom * 2, event.clientX));
scroll.addEventListener('wheel', event => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  zoomTo(zoom * Math.exp(-event.deltaY / 300), event.clientX);
}, {passive: false});
$('in').onclick = () => zoomTo(zoom * 1.6);
$('out').onclick = () => zoomTo(zoom / 1.6);
$('all').onclick = () => zoomTo(1);
addEventListener('resize', ticks);
$('bar').style.visibility = 'visible';
ticks();
"""

_SECOND: Final = 1_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_STEPS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(_SECOND * n for n in (1, 2, 5, 10, 15, 30)),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12, 24)),
)
"""Distances of ticks, ms."""


def page(lanes: Sequence[Lane], begin_ms: int, end_ms: int) -> str:
    """Return the page that shows what was between two times (ms since the Unix epoch), both included."""
    axis = _Axis(begin_ms, end_ms)
    spans = [lane.spans(end_ms) for lane in lanes]
    events = [[each for each in lane.events if begin_ms <= each.wall_ms <= end_ms] for lane in lanes]
    commits = [_commit(each) for shown in events for each in shown if each.event == "progress"]
    low, high = min(commits, default=0), max(commits, default=0)
    height = _TOP + _LANE * len(lanes) + 4
    kinds: dict[str, _Kind] = {}
    drawn = "".join(
        _lane(lane, spans[n], events[n], _TOP + n * _LANE, axis, (low, max(high, low + 1)), kinds)
        for n, lane in enumerate(lanes)
    )
    names = "".join(_name(lane.name, _TOP + n * _LANE, low, high, events[n]) for n, lane in enumerate(lanes))
    wide = 24 + max(60, *(9 * len(lane.name) for lane in lanes))
    roles = {span.role for each in spans for span in each}
    shapes = "".join(f'<g id="k-{key}">{_SHAPES[kind.shape].format(kind.colour)}</g>' for key, kind in kinds.items())
    plot = (
        f'data-begin="{axis.begin}" data-end="{axis.end}" data-low="{low}" data-high="{max(high, low + 1)}" '
        f'data-steps="{json.dumps(_STEPS)}"'
    )
    title = f"{', '.join(lane.name for lane in lanes)}: {_time(begin_ms)} to {_time(end_ms)} UTC"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>raftlog timeline</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p class=legend>{''.join(_legend(kinds, roles))}</p>"
        "<div id=bar><button id=out title='zoom out'>-</button><button id=in title='zoom in'>+</button>"
        "<button id=all>all</button> <span id=now>Ctrl and wheel, or a double click, zoom in.</span></div>"
        f'<div class=drawing><svg class=names width="{wide}" height="{height}">{names}</svg>'
        f'<div class=scroll id=scroll><svg id=plot height="{height}" {plot}><defs>{shapes}</defs>'
        f"<g id=axis>{''.join(axis.ticks())}</g>{drawn}"
        '<line id=cursor x1="-1" x2="-1" y1="26" y2="100%" stroke="#bbb" pointer-events="none"/></svg></div></div>'
        "<p>The line under the marks of a node is its commit index.</p>"
        f"{''.join(_leaders(lanes, spans, axis))}<div id=tip></div><script>{_SCRIPT}</script></html>\n"
    )


def in_words(event: Flown) -> str:
    """Return name and fields of an event: ``name key=value ...``, values in quotes when they are not plain."""
    return event.event + "".join(f" {name}={_value(value)}" for name, value in event.fields.items())


def _value(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class _Axis:
    """Where a time lies, in percent."""

    def __init__(self, begin_ms: int, end_ms: int) -> None:
        margin = max(1, (end_ms - begin_ms) // 80)
        self.begin, self.end = begin_ms - margin, end_ms + margin

    def x(self, wall_ms: int) -> float:
        """Return the place of a time; of one beyond the ends, the end."""
        share = (min(max(wall_ms, self.begin), self.end) - self.begin) / (self.end - self.begin)
        return round(100 * share, 4)

    def ticks(self) -> Iterator[str]:
        """Yield about ten lines with their times."""
        raw = (self.end - self.begin) / 10
        step = next((each for each in _STEPS if each >= raw), round(raw / 24 / _HOUR + 1) * 24 * _HOUR)
        for at in range(-(-self.begin // step) * step, self.end + 1, step):
            x = self.x(at)
            told = _time(at)[11:] if step % _SECOND else _time(at)[11:19]
            yield f'<line x1="{x}%" x2="{x}%" y1="26" y2="100%" stroke="#eee"/>'
            yield f'<text x="{x}%" y="18" text-anchor="middle">{told}</text>'


def _lane(
    lane: Lane,
    spans: Sequence[Span],
    events: Sequence[Flown],
    y: int,
    axis: _Axis,
    commits: tuple[int, int],
    kinds: dict[str, _Kind],
) -> str:
    """Return one node's drawing from ``y`` downward; adds to ``kinds`` those that were used."""
    ends = [
        Flown(0, at, 0, "silent", {"last_record": _time(at)}) for at in lane.silent_ends() if axis.begin < at < axis.end
    ]
    parts = [f'<rect class=ground y="{y}" width="100%" height="{_LANE}" fill="none"/>']
    # What is short goes on top, or nobody would see the candidate.
    parts += [_span(span, y + 8, axis) for span in sorted(spans, key=lambda span: span.begin_ms - span.end_ms)]
    parts += _marks([*events, *ends], y + 44, axis, kinds)
    parts += _commits(lane.name, events, y + 100, axis, commits)
    return f"<g class=lane>{''.join(parts)}</g>"


def _span(span: Span, y: int, axis: _Axis) -> str:
    x = axis.x(span.begin_ms)
    width = round(axis.x(span.end_ms) - x, 4)
    if span.end_ms < axis.begin or span.begin_ms > axis.end:
        return ""
    name, colour = _ROLES[span.role]
    term = "" if span.term is None else f"term {span.term}"
    told = f"{name} {term}\n{_time(span.begin_ms)} to {_time(span.end_ms)}"
    if span.role == "follower" and span.leader is not None:
        told += f"\nleader {span.leader}"
    if not span.is_recorded:
        told += "\nnothing was recorded here: idle, or dead"
    faded = "" if span.is_recorded else ' opacity=".3"'
    title = f"<title>{html.escape(told)}</title>"
    if width < _NARROW:
        return (
            f'<rect x="{x}%" y="{y}" width="{width}%" height="{_BAND}" fill="{colour}" stroke="{colour}" '
            f'stroke-width="1.5"{faded}>{title}</rect>'
        )
    dark = " dark" if span.role in ("pre-candidate", "unknown", "log") or not span.is_recorded else ""
    text = "" if not span.is_recorded or width < _NARROW * 6 else term if width > _NARROW * 36 else f"{span.term or ''}"
    label = f'<text class="term{dark}" x="5" y="15">{text}</text>' if text else ""
    return (
        f'<svg x="{x}%" y="{y}" width="{width}%" height="{_BAND}">{title}'
        f'<rect width="100%" height="100%" rx="3" fill="{colour}"{faded}/>{label}</svg>'
    )


def _marks(events: Iterable[Flown], y: int, axis: _Axis, kinds: dict[str, _Kind]) -> Iterator[str]:
    """Yield the marks; those of one kind that would lie upon each other are one."""
    places: dict[tuple[str, int], list[Flown]] = {}
    for event in events:
        if event.event not in _NO_MARK:
            key = event.event if event.event in _KINDS else "other"
            places.setdefault((key, round(axis.x(event.wall_ms) * _POINTS / 100)), []).append(event)
    for (key, _), together in places.items():
        kind = kinds[key] = _KINDS.get(key, _OTHER)
        told = [f"{_time(each.wall_ms)} {in_words(each)}" for each in together[:_TIPS_MAX]]
        if len(together) > _TIPS_MAX:
            told.append(f"and {len(together) - _TIPS_MAX} more")
        if key == "silent":
            told = [f"{_time(together[0].wall_ms)} the last record of a life without a stop: kill -9, or a crash"]
        tip = html.escape("\n".join(told))
        x = axis.x(together[0].wall_ms)
        yield f'<use href="#k-{key}" x="{x}%" y="{y + 18 * kind.row}"><title>{tip}</title></use>'


def _commits(name: str, events: Sequence[Flown], y: int, axis: _Axis, commits: tuple[int, int]) -> Iterator[str]:
    """Yield the commit index as a line for each life."""
    low, high = commits
    lines: list[dict[int, float]] = [{}]
    for event in events:
        if event.event == "started":
            lines.append({})
        elif event.event == "progress":
            place = round(axis.x(event.wall_ms) * _POINTS / 100)
            lines[-1][place] = round(100 - 100 * (_commit(event) - low) / (high - low), 3)
    for line in lines:
        if line:
            points = " ".join(f"{place * 10_000 // _POINTS},{height:g}" for place, height in line.items())
            yield (
                f'<svg y="{y}" width="100%" height="{_COMMIT}" viewBox="0 0 10000 100" preserveAspectRatio="none" '
                f'overflow="visible"><polyline data-node="{html.escape(name)}" points="{points}" fill="none" '
                'stroke="#1976d2" stroke-width="1.5" vector-effect="non-scaling-stroke"/></svg>'
            )


def _name(name: str, y: int, low: int, high: int, events: Sequence[Flown]) -> str:
    text = f'<text class=name x="12" y="{y + 24}">{html.escape(name)}</text>'
    if any(each.event == "progress" for each in events):
        text += f'<text x="12" y="{y + 106}">{high}</text><text x="12" y="{y + 100 + _COMMIT}">{low}</text>'
    return text


def _leaders(lanes: Sequence[Lane], spans: Sequence[Sequence[Span]], axis: _Axis) -> Iterator[str]:
    """Yield a table of the leaders, in the order of their times."""
    found = [
        (span, lane.name)
        for lane, each in zip(lanes, spans, strict=True)
        for span in each
        if span.role == "leader" and span.is_recorded and span.end_ms >= axis.begin and span.begin_ms <= axis.end
    ]
    if not found:
        return
    yield "<table><tr><th>term<th>leader<th>elected<th>recorded until<th>seconds</tr>"
    for span, name in sorted(found, key=lambda pair: (pair[0].begin_ms, pair[1])):
        seconds = (span.end_ms - span.begin_ms) / 1000
        term = "" if span.term is None else span.term
        yield f"<tr><td>{term}<td>{html.escape(name)}<td>{_time(span.begin_ms)}<td>{_time(span.end_ms)}"
        yield f"<td>{seconds:.3f}</tr>"
    yield "</table>"


def _legend(kinds: dict[str, _Kind], roles: set[str]) -> Iterator[str]:
    for role, (name, colour) in _ROLES.items():
        if role in roles:
            yield f'<span><i style="background:{colour}"></i> {name}</span>'
    yield f'<span><i class=faded style="background:{_ROLES["follower"][1]}"></i> nothing recorded</span>'
    for key, kind in (*_KINDS.items(), ("other", _OTHER)):
        if key in kinds:
            yield f'<span><svg width="16" height="16"><use href="#k-{key}" x="8" y="8"/></svg> {kind.name}</span>'


def _commit(event: Flown) -> int:
    value = event.fields.get("commit")
    return value if isinstance(value, int) else 0


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "")
