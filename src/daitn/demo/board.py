"""The board: the play live in a terminal, or as lines where there is none.

Above, the sites with the models that are there now; below, each job with its targets and why its model goes where it
goes; then the last words of the log. Watchers of jobs write, one thread draws; what is drawn is made from what was
last said, so a slow terminal skips frames and never holds the play up.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from daitn.demo.places import Place
from daitn.descriptors.job import FINAL_PHASES, JobStatus, LogEntry, Whereabouts
from daitn.oam import wording

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINES_SHOWN: Final = 9
FRAMES_PER_S: Final = 6
TOLD: Final = ("admitted", "refused", "ordered", "kept", "rolled-back", "replanned", "lost", "records", "phase")
"""Kinds of log entries that are told as lines; the rest is in the report."""

_STYLE: Final = {"kept": "green", "rolled-back": "yellow", "refused": "red", "lost": "yellow", "phase": "bold"}


class Board:
    """See the module's docstring. A context manager."""

    def __init__(self, places: Sequence[Place]) -> None:
        from rich.console import Console

        tty = sys.stdout.isatty()
        self.console: Console = Console(file=sys.stdout, highlight=False, width=None if tty else 200, soft_wrap=not tty)
        self._places = tuple(places)
        self._lock = threading.Lock()
        self._status: dict[str, JobStatus] = {}
        self._visited: dict[str, int] = {}
        self._lines: deque[tuple[str, str]] = deque(maxlen=LINES_SHOWN)
        self._stop = threading.Event()
        self._drawer: threading.Thread | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._drawer = threading.Thread(target=self._draw, name="board")
            self._drawer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._drawer is not None:
            self._drawer.join()
            if kind is not None:
                for text, style in self._lines:
                    self.console.print(text, style=style or None, markup=False)

    def say(self, text: str, style: str = "") -> None:
        """One line of the play itself."""
        self._line(f"{self._clock()}  {text}", style or "bold cyan")

    def seen(self, name: str, status: JobStatus) -> None:
        """A job's newest status."""
        with self._lock:
            self._status[name] = status

    def entry(self, name: str, entry: LogEntry, site: str) -> None:
        """One more entry of a job's log; `site`: the name of the node it speaks of."""
        if entry.kind == "trained":
            with self._lock:
                self._visited[site] = self._visited.get(site, 0) + 1
        if entry.kind in TOLD and not (entry.kind == "ordered" and "give a held-out sample" in entry.text):
            self._line(f"{self._clock()}  {name}: {entry.text}", _STYLE.get(entry.kind, ""))

    def print(self, what: RenderableType) -> None:
        """Something of its own, such as the closing table; only once the drawing has ended."""
        self.console.print(what)

    def _clock(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s"

    def _line(self, text: str, style: str) -> None:
        if self._drawer is None:
            self.console.print(text, style=style or None, markup=False)
            return
        with self._lock:
            self._lines.append((text, style))

    def _draw(self) -> None:
        from rich.live import Live

        with Live(console=self.console, refresh_per_second=FRAMES_PER_S, transient=True) as live:
            while not self._stop.wait(1 / FRAMES_PER_S):
                live.update(self._picture())

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            running = {name: one for name, one in self._status.items() if one.phase not in FINAL_PHASES}
            visited, lines = dict(self._visited), list(self._lines)
        width = max(20, self.console.width - 1)
        told = [Text(text[:width], style=style, no_wrap=True) for text, style in lines]
        return Group(_sites(self._places, running, visited), _jobs(running), *told)


def _sites(places: Sequence[Place], running: dict[str, JobStatus], visited: dict[str, int]) -> RenderableType:
    """One line for each site: what it is, and which models are there now."""
    from rich.table import Table

    here: dict[str, list[tuple[str, Whereabouts]]] = {}
    for name, status in running.items():
        for one in status.now:
            here.setdefault(one.node_name, []).append((name, one))
    table = Table(title="where each model is", title_justify="left", expand=True)
    for heading, ratio in (("site", 2), ("what", 4), ("now", 9), ("visits", 1)):
        table.add_column(heading, ratio=ratio, no_wrap=True)
    for site in places:
        now = ", ".join(f"{name}: {_doing(one)}" for name, one in here.get(site.name, []))
        table.add_row(site.name, site.what, now, str(visited.get(site.name, "")))
    return table


def _doing(one: Whereabouts) -> str:
    done = f" {one.done}/{one.of}" if one.of else ""
    loss = f", loss {one.loss:.3g}" if one.loss is not None else ""
    return f"{one.kind}{f' on {one.dataset}' if one.dataset else ''} ({one.phase}{done}{loss})"


def _jobs(running: dict[str, JobStatus]) -> RenderableType:
    """Each job: how its best model stands, and why its model goes where it goes."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="what was measured, what is next and why", title_justify="left", expand=True)
    for heading, ratio in (("job", 2), ("phase", 1), ("best so far", 4), ("now, and why", 6)):
        table.add_column(heading, ratio=ratio)
    for name, status in running.items():
        best = "\n".join(
            f"{one.name} {'–' if one.reached is None else wording.number(one.reached)} ({one.wanted})"
            for one in status.targets
        )
        why = "\n".join(f"{one.node_name}: {one.why}" for one in status.now[:3])
        table.add_row(f"{name} ({status.visits} visits)", status.phase.value, escape(best), escape(why))
    return table
