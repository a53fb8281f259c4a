"""Drawing: the pictures of the report as SVG text: curves over visits, the route on the map, who worked when.

Colours are CSS variables of the page (`--a`, `--b`: series; `--ink`, `--soft`, `--grid`), so that one drawing serves
light and dark. Whatever is shown by colour is written too, and every mark has a title that says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, NamedTuple

from daitn.demo.places import CENTER_AT, Place
from daitn.demo.recording import Hop, Point, value_of, wanted_value
from daitn.descriptors.job import TargetState
from daitn.oam import wording

SERIES: Final = ("var(--a)", "var(--b)", "var(--c)", "var(--d)")

_LETTER: Final = 7.2
"""Width of a letter at 13 px, rather more than the mean."""
_MAP_WIDTH: Final = 560
_MAP_HEIGHT: Final = 440
_RADIUS: Final = 9.0
_CURVE_WIDTH: Final = 560
_CURVE_HEIGHT: Final = 320
_LANE: Final = 26


class Work(NamedTuple):
    """One bar of the timeline."""

    site: str
    job: int
    began_s: float
    ended_s: float
    what: str


def _svg(width: float, height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "") -> str:
    style = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


# --- curves ---------------------------------------------------------------------------------------------------------


def draw_curves(points: Sequence[Point], targets: Sequence[TargetState], title: str) -> str:
    """What each verification measured, per target, over the visits made; dashed: what is wanted."""
    left, right, top, bottom = 38.0, 205.0, 14.0, 40.0
    width, height = _CURVE_WIDTH - left - right, _CURVE_HEIGHT - top - bottom
    most = max([1, *(point.visits for point in points)])

    def x(visits: float) -> float:
        return left + visits / most * width

    def y(value: float) -> float:
        return top + (1 - min(1.0, max(0.0, value))) * height

    body = [_axis_y(left, left + width, y), *_axis_x(most, x, top + height)]
    body.append(_text(left + width / 2, _CURVE_HEIGHT - 2, "training visits", anchor="middle", css="soft"))
    ends: list[tuple[float, str, str]] = []
    for place, target in enumerate(targets):
        colour = SERIES[place % len(SERIES)]
        wanted = wanted_value(target)
        body.append(
            f'<line x1="{left}" x2="{left + width}" y1="{y(wanted):.1f}" y2="{y(wanted):.1f}" stroke="{colour}" '
            f'stroke-dasharray="5 4" opacity="0.7"><title>{escape(target.name)} {escape(target.wanted)}</title></line>'
        )
        shown = [(point, value) for point in points if (value := value_of(point.measurements, target.name)) is not None]
        line = " ".join(f"{x(point.visits):.1f},{y(value):.1f}" for point, value in shown)
        body.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [_mark(x(point.visits), y(value), colour, point, target.name) for point, value in shown]
        if shown:
            last = shown[-1][1]
            ends.append((y(last), f"{target.name} {wording.number(last)}", colour))
    for at, words, colour in _spread(ends):
        body.append(f'<circle cx="{left + width + 14}" cy="{at - 4:.1f}" r="4" fill="{colour}"/>')
        body.append(_text(left + width + 22, at, words))
    return _svg(_CURVE_WIDTH, _CURVE_HEIGHT, title, body)


def _mark(x: float, y: float, colour: str, point: Point, name: str) -> str:
    """A measurement with its interval; hollow where the model was rolled back."""
    one = next(each for each in point.measurements if each.name == name)
    said = f"{wording.measurement(one)} after {point.visits} visits" + ("" if point.kept else ", rolled back")
    fill = colour if point.kept else "var(--paper)"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2">'
        f"<title>{escape(said)}</title></circle>"
    )


def _axis_y(left: float, right: float, y: Callable[[float], float]) -> str:
    lines = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines.append(f'<line x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="var(--grid)"/>')
        lines.append(_text(left - 6, y(tick) + 4, f"{tick:g}", anchor="end", css="soft"))
    return "".join(lines)


def _axis_x(most: int, x: Callable[[float], float], bottom: float) -> list[str]:
    step = max(1, math.ceil(most / 12))
    return [_text(x(tick), bottom + 15, str(tick), anchor="middle", css="soft") for tick in range(0, most + 1, step)]


def _spread(ends: list[tuple[float, str, str]], gap: float = 16.0) -> list[tuple[float, str, str]]:
    """Labels at the ends of lines, moved apart so that none covers another."""
    placed: list[tuple[float, str, str]] = []
    for at, words, colour in sorted(ends):
        low = placed[-1][0] + gap if placed else 0.0
        placed.append((max(at + 4, low), words, colour))
    return placed


# --- map ------------------------------------------------------------------------------------------------------------


def draw_map(places: Sequence[Place], hops: Sequence[Hop], title: str, colour: str, mark: str) -> str:
    """The sites, and the model's way from the control centre through its visits, numbered in order.

    `mark`: names the arrow's head; different for each map of a page.
    """
    body = [_arrow_head(colour, mark)]
    body += [_streams(places, hops)]
    at = _place(*CENTER_AT)
    times: dict[tuple[str, str], int] = {}
    numbers: list[str] = []
    before = "center"
    for hop in hops:
        to = _at(places, hop.site)
        pair = (before, hop.site)
        times[pair] = times.get(pair, 0) + 1
        leg, number = _leg(at, to, hop, times[pair], colour, mark)
        body.append(leg)
        numbers.append(number)
        at, before = to, hop.site
    body += [_site(site, any(hop.site == site.name for hop in hops)) for site in places]
    x, y = _place(*CENTER_AT)
    body.append(f'<rect x="{x - 8}" y="{y - 8}" width="16" height="16" rx="3" class="site"/>')
    body.append(_text(x + 14, y + 4, "control centre", css="soft"))
    return _svg(_MAP_WIDTH, _MAP_HEIGHT, title, body + numbers)


def _place(x: float, y: float) -> tuple[float, float]:
    return 50 + x / 100 * (_MAP_WIDTH - 130), 14 + y / 100 * (_MAP_HEIGHT - 50)


def _at(places: Sequence[Place], name: str) -> tuple[float, float]:
    return next((_place(site.x, site.y) for site in places if site.name == name), _place(*CENTER_AT))


def _arrow_head(colour: str, mark: str) -> str:
    return (
        f'<defs><marker id="{mark}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker></defs>'
    )


def _leg(
    begin: tuple[float, float], end: tuple[float, float], hop: Hop, time: int, colour: str, mark: str
) -> tuple[str, str]:
    """One hop as a bent arrow, dashed if rolled back, and its number; the n-th between two sites bends more."""
    (x1, y1), (x2, y2) = begin, end
    length = math.hypot(x2 - x1, y2 - y1) or 1.0
    bend = 4.0 + 16.0 * time
    nx, ny = -(y2 - y1) / length, (x2 - x1) / length
    cx, cy = (x1 + x2) / 2 + nx * bend * 2, (y1 + y2) / 2 + ny * bend * 2
    inward = math.hypot(x2 - cx, y2 - cy) or 1.0
    x2, y2 = x2 - (x2 - cx) / inward * (_RADIUS + 3), y2 - (y2 - cy) / inward * (_RADIUS + 3)
    middle_x, middle_y = (x1 + 2 * cx + x2) / 4, (y1 + 2 * cy + y2) / 4
    dashes = "" if hop.kept else ' stroke-dasharray="4 4"'
    said = f"{hop.number}: train at {hop.site} on {hop.dataset}: {hop.why}" + ("" if hop.kept else " (rolled back)")
    leg = (
        f'<path d="M{x1:.1f} {y1:.1f} Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}" fill="none" stroke="{colour}" '
        f'stroke-width="1.8"{dashes} marker-end="url(#{mark})"><title>{escape(said)}</title></path>'
    )
    number = (
        f'<g><title>{escape(said)}</title><circle cx="{middle_x:.1f}" cy="{middle_y:.1f}" r="8.5" '
        f'fill="var(--paper)" stroke="{colour}"/>'
        f"{_text(middle_x, middle_y + 4, str(hop.number), anchor='middle', css='number')}</g>"
    )
    return leg, number


def _streams(places: Sequence[Place], hops: Sequence[Hop]) -> str:
    """Where records went from a site without compute: dotted."""
    drawn = []
    for source, target in sorted({(hop.dataset.partition("/")[0], hop.site) for hop in hops if hop.streamed}):
        (x1, y1), (x2, y2) = _at(places, source), _at(places, target)
        said = f"records of {source} stream to {target}, as its policy agrees"
        drawn.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--soft)" stroke-width="2" '
            f'stroke-dasharray="1 6" stroke-linecap="round"><title>{escape(said)}</title></line>'
        )
        drawn.append(_text((x1 + x2) / 2 + 8, (y1 + y2) / 2 + 4, "records", css="soft"))
    return "".join(drawn)


def _site(site: Place, visited: bool) -> str:
    x, y = _place(site.x, site.y)
    css = "site visited" if visited else "site"
    return (
        f'<g><circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}" class="{css}"><title>{escape(site.what)}</title></circle>'
        f"{_text(x, y + 24, site.name, anchor='middle')}{_text(x, y + 39, site.what, anchor='middle', css='soft')}</g>"
    )


# --- timeline -------------------------------------------------------------------------------------------------------


def draw_timeline(places: Sequence[Place], works: Sequence[Work], jobs: Sequence[str], title: str) -> str:
    """Who worked when, for which job: one lane per site, one bar per visit or measurement."""
    left, right, top = max(78.0, 16 + _LETTER * max((len(site.name) for site in places), default=0)), 12.0, 26.0
    width = 960.0 - left - right
    most = max([1.0, *(work.ended_s for work in works)])
    lanes = {site.name: place for place, site in enumerate(places)}
    height = top + _LANE * len(lanes) + 30
    body: list[str] = []
    for place, job in enumerate(jobs):
        body.append(f'<rect x="{left + place * 190:.0f}" y="4" width="12" height="12" rx="3" fill="{SERIES[place]}"/>')
        body.append(_text(left + place * 190 + 18, 14, job))
    for name, lane in lanes.items():
        middle = top + lane * _LANE + _LANE / 2
        body.append(f'<line x1="{left}" x2="{left + width}" y1="{middle}" y2="{middle}" stroke="var(--grid)"/>')
        body.append(_text(left - 8, middle + 4, name, anchor="end"))
    step = _nice_step(most)
    for number in range(int(most / step) + 1):
        at = left + number * step / most * width
        body.append(_text(at, height - 6, f"{number * step:g} s", anchor="middle", css="soft"))
    for work in works:
        if work.site in lanes:
            x = left + work.began_s / most * width
            wide = max(2.5, (work.ended_s - work.began_s) / most * width)
            y = top + lanes[work.site] * _LANE + 3 + (work.job % 2) * 10
            body.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="9" rx="2" fill="{SERIES[work.job]}">'
                f"<title>{escape(work.what)}</title></rect>"
            )
    return _svg(960, height, title, body)


def _nice_step(most: float) -> float:
    return next((step for step in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0) if most / step <= 12), 120.0)
