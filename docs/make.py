"""Makes what the documents do not say by hand: the table of settings, and the picture of a write.

Usage: ``python -m docs.make``. Tests hold the files to what this makes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from durable_raft.server.settings.config import SETTINGS
from durable_raft.server.settings.sources import Setting

DOCS: Final = Path(__file__).resolve().parent
SETTINGS_PAGE: Final = DOCS / "settings.md"
PICTURE: Final = DOCS / "write.svg"

_TABLE: Final = re.compile(r"(<!-- settings -->\n).*(<!-- end of settings -->)", re.DOTALL)


# -- the table of settings --------------------------------------------------------------------------------------------


def with_settings(page: str) -> str:
    """Return the page of settings with its table made from the fields of ``NodeConfig``."""
    rows = [["setting", "value", "default", "meaning"], ["---"] * 4, *map(_row, SETTINGS)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return _TABLE.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", page)


def _row(setting: Setting) -> list[str]:
    value = "true, false" if setting.is_switch else setting.metavar.replace("|", r"\|")
    return [f"`{setting.name}`", value, setting.shown_default, setting.help]


# -- the picture ------------------------------------------------------------------------------------------------------

WIDTH: Final = 960
HEIGHT: Final = 600
LANES: Final = {"client": 90, "n1": 400, "n2": 620, "n3": 840}
TITLES: Final = {"client": "client", "n1": "n1, leader", "n2": "n2, follower", "n3": "n3, follower"}

STYLE: Final = """
  text { font: 14px sans-serif; fill: #222 }
  .title { font-weight: bold; text-anchor: middle }
  .step { text-anchor: middle }
  .small { font-size: 12px; fill: #555; text-anchor: middle }
  .fate { font-size: 12px; fill: #a33 }
  .lane { stroke: #bbb; stroke-width: 2 }
  .arrow { stroke: #225; stroke-width: 1.6; marker-end: url(#head) }
  .disk { fill: #fff3d6; stroke: #b8860b }
  .core { fill: #e4ecf9; stroke: #4a6fa5 }
  .cut { stroke: #a33; stroke-dasharray: 5 4 }
"""


def picture() -> str:
    """Return the picture of a write through three nodes, time running down, as SVG."""
    parts = [_lane(name) for name in LANES]
    parts += [
        _cut(
            240,
            "The leader dies here: the connection closes.",
            "The write stays if it reached another disk;",
            "otherwise another may take its place.",
        ),
        _cut(480, "Any node dies here, or all of them:", "the write is on two disks, and stays."),
        _arrow("client", "n1", 92, 104, "SET city Paris"),
        _box("n1", 110, "core", "entry 7 of the log"),
        _arrow("n1", "n2", 158, 252, ""),
        _arrow("n1", "n3", 158, 272, "entry 7"),
        _box("n1", 176, "disk", "flush"),
        _box("n2", 258, "disk", "flush"),
        _box("n3", 278, "disk", "flush, slower", height=80),
        _arrow("n2", "n1", 300, 320, ""),
        _label("n2", 312, "flushed up to 7"),
        _box("n1", 326, "core", "on 2 disks: commit"),
        _box("n1", 366, "core", "apply"),
        _arrow("n1", "client", 408, 422, "OK"),
        _arrow("n3", "n1", 366, 416, ""),
        _label("n3", 382, "flushed up to 7"),
        _arrow("n1", "n2", 494, 516, ""),
        _arrow("n1", "n3", 494, 538, "commit up to 7"),
        _box("n2", 522, "core", "apply"),
        _box("n3", 544, "core", "apply"),
    ]
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#225"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f"<title>How a write goes through three nodes</title>\n<defs>{head}</defs>\n<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _lane(name: str) -> str:
    x = LANES[name]
    return (
        f'<text class="title" x="{x}" y="40">{TITLES[name]}</text>'
        f'<line class="lane" x1="{x}" y1="56" x2="{x}" y2="{HEIGHT - 12}"/>'
    )


def _arrow(source: str, target: str, y: int, y_end: int, words: str) -> str:
    x, x_end = LANES[source], LANES[target]
    line = f'<line class="arrow" x1="{x}" y1="{y}" x2="{x_end}" y2="{y_end}"/>'
    middle = x + (x_end - x) // 2
    return line + (f'<text class="step" x="{middle}" y="{(y + y_end) // 2 - 8}">{words}</text>' if words else "")


def _box(lane: str, y: int, kind: str, words: str, height: int = 34) -> str:
    x = LANES[lane] - 84
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="168" height="{height}" rx="5"/>'
        f'<text class="step" x="{LANES[lane]}" y="{y + height // 2 + 5}">{words}</text>'
    )


def _label(lane: str, y: int, words: str) -> str:
    return f'<text class="step" x="{LANES[lane] + 56}" y="{y}">{words}</text>'


def _cut(y: int, *lines: str) -> str:
    texts = (
        f'<text class="fate" x="8" y="{y - 8 - 16 * (len(lines) - 1 - number)}">{line}</text>'
        for number, line in enumerate(lines)
    )
    words = "".join(texts)
    return f'<line class="cut" x1="8" y1="{y}" x2="{WIDTH - 8}" y2="{y}"/>{words}'


@click.command()
def main() -> None:
    """Write the table and the picture."""
    SETTINGS_PAGE.write_text(with_settings(SETTINGS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
