"""Small pictures within the text of a page: Dagster plots numbers of events, and no histogram."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape

from medallion_platform.healing.figures import Figures

_WIDTH, _PANEL, _TITLE = 640, 90, 20
_GREEN, _RED, _BLUE, _GREY = "#2a9d5c", "#d1495b", "#4a7fb5", "#888888"
"""They are seen on white and on black, as Dagster is set."""

Bar = Sequence[tuple[float, str]]
"""Parts of a bar, from below: how high, and in which colour."""


def picture_of_days(days: Mapping[date, Figures]) -> str:
    """Incidents a day, and how long they took to heal, as markdown."""
    incidents = [[(of.healed, _GREEN), (of.incidents - of.healed, _RED)] for of in days.values()]
    heal = [[(of.heal_median or 0.0, _BLUE)] for of in days.values()]
    span = f"{min(days)} to {max(days)}"
    drawn = [
        *_panel(0, f"incidents that began on a day, {span}; green: healed", incidents),
        *_panel(_PANEL + _TITLE, "median of the seconds from the failure until it was healed", heal),
    ]
    size = f'width="{_WIDTH}" height="{2 * (_PANEL + _TITLE)}"'
    style = 'font-family="sans-serif" font-size="12"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(drawn)}</svg>'
    return f"![Incidents of each day](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"


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
