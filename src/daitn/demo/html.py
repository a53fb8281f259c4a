"""Pieces of the reports' pages: style, table, numbers; self-contained, in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from daitn.oam import wording

STYLE: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #5d6671; --grid: #e3e7eb; --panel: #f6f8fa;
  --a: #2163b5; --b: #b4560b; --c: #2a7d4f; --d: #8a3f9e; --good: #1d7a43; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e8ec; --soft: #9aa4af; --grid: #2c3238;
  --panel: #1b2026; --a: #74aef5; --b: #f2a55c; --c: #6fcf97; --d: #d59be6; --good: #6fcf97; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; } h2 { font-size: 20px; margin: 40px 0 8px; }
h3 { font-size: 16px; margin: 22px 0 6px; } p { margin: 6px 0; max-width: 75ch; } .soft { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; padding: 0; list-style: none; }
.figures li { background: var(--panel); border-radius: 8px; padding: 8px 14px; }
.figures b { display: block; font-size: 20px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: 13px; } td.n, th.n { text-align: right; }
td.n { white-space: nowrap; } .small { font-size: 11px; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
figure { margin: 12px 0; } figcaption { color: var(--soft); font-size: 13px; }
svg { width: 100%; height: auto; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 8px 28px; }
@media (max-width: 520px) { .pair { grid-template-columns: 1fr; } }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; paint-order: stroke; stroke: var(--paper);
  stroke-width: 3px; stroke-linejoin: round; } svg text.soft { fill: var(--soft); font-size: 12px; }
svg text.number { font-size: 11px; font-weight: 600; }
.site { fill: var(--panel); stroke: var(--soft); stroke-width: 1.5; }
.site.visited { fill: var(--grid); stroke: var(--ink); }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of parts that are HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; `numbers`: columns aligned to the right."""

    def cell(tag: str, place: int, content: str) -> str:
        return f"<{tag}{' class=n' if place in numbers else ''}>{content}</{tag}>"

    head = "".join(cell("th", place, heading) for place, heading in enumerate(headings))
    body = "".join("<tr>" + "".join(cell("td", place, one) for place, one in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None) -> str:
    return "" if value is None else wording.number(value)


def yes_no(value: bool) -> str:
    return '<span class="yes">yes</span>' if value else '<span class="no">no</span>'
