"""Small pictures within the text of a page: Dagster plots numbers of events, and no histogram."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape

from medallion_platform.healing.figures import Figures
from medallion_platform.lakehouse.drill_verdicts import DrillVerdict

_WIDTH, _PANEL, _TITLE = 640, 90, 20
_GREEN, _ORANGE, _RED, _BLUE, _GREY = "#2a9d5c", "#d98e2b", "#d1495b", "#4a7fb5", "#888888"
"""They are seen on white and on black, as Dagster is set."""
_DRILLS = 30
"""Verdicts of each drill that are drawn, the newest at the right."""

Bar = Sequence[tuple[float, str]]
"""Parts of a bar, from below: how high, and in which colour."""


def picture_of_days(days: Mapping[date, Figures]) -> str:
    """Incidents a day, and how long they took to heal, as markdown."""
    incidents = [[(of.healed, _GREEN), (of.incidents - of.healed, _RED)] for of in days.values()]
    heal = [[(of.heal_median or 0.0, _BLUE)] for of in days.values()]
    span = f"{min(days)} to {max(days)}"
    panels = [
        (f"incidents that began on a day, {span}; green: healed", incidents),
        ("median of the seconds from the failure until it was healed", heal),
    ]
    return _picture("Incidents of each day", panels)


def picture_of_drills(verdicts: Mapping[str, Sequence[DrillVerdict]]) -> str:
    """After how long each drill was seen and had healed, as markdown; by its name, the earliest first."""
    panels: list[tuple[str, Sequence[Bar]]] = []
    for name, all_of in verdicts.items():
        of = all_of[-_DRILLS:]
        colours = f"(orange: late, red: never), target {of[-1].target_seconds:g}"
        bars = [bar for verdict in of for bar in _drill_bars(verdict)]
        room = [()] * (3 * (_DRILLS - len(of)))
        panels.append((f"{name}: seconds until seen (blue) and healed {colours}", [*room, *bars]))
    return _picture("Drills", panels)


def _drill_bars(verdict: DrillVerdict) -> Sequence[Bar]:
    """Two bars, and a gap. What never healed is as high as the time within which it should have."""
    colour = {"Degraded": _ORANGE, "Failed": _RED}.get(verdict.verdict, _GREEN)
    healed = verdict.healed_after if verdict.verdict != "Failed" else verdict.target_seconds
    return [[(verdict.detected_after or 0.0, _BLUE)], [(healed or 0.0, colour)], []]


def _picture(name: str, panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Panels below each other, each with its title, as markdown."""
    whole = _PANEL + _TITLE
    drawn = [part for n, (title, bars) in enumerate(panels) for part in _panel(n * whole, title, bars)]
    size = f'width="{_WIDTH}" height="{len(panels) * whole}"'
    style = 'font-family="sans-serif" font-size="12"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(drawn)}</svg>'
    return f"![{name}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"


def _panel(top: int, title: str, bars: Sequence[Bar]) -> list[str]:
    """Bars beside each other, in a scale that the title names."""
    most = max((sum(part for part, _ in bar) for bar in bars), default=0)
    width, bottom = _WIDTH / len(bars), top + _TITLE + _PANEL
    drawn = [f'<text x="0" y="{top + 13}" fill="{_GREY}">{escape(f"{title}; at most {most:,g}")}</text>']
    for n, bar in enumerate(bars):
        y = float(bottom)
        for part, colour in bar:
            height = part / most * (_PANEL - 4) if most else 0
            y -= height
            if height:
                place = f'x="{n * width + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{height:.1f}"'
                drawn.append(f'<rect {place} fill="{colour}"/>')
    drawn.append(f'<path d="M0 {bottom}.5H{_WIDTH}" stroke="{_GREY}"/>')
    return drawn
