"""Live: a job followed on the screen, as a table that changes in place, or as lines where there is no terminal."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from daitn.cli import render

if TYPE_CHECKING:
    from rich.console import Console

    from daitn.descriptors.job import JobStatus, LogEntry
    from daitn.sdk.jobs import Job

ENTRIES_SHOWN: Final = 8
"""Latest decisions below the live table: what fits a screen of 30 lines with the rest."""


def follow(job: Job, console: Console | None) -> JobStatus:
    """Watch `job` to its end and return its last status; draws on `console` if there is one."""
    if console is None:
        return job.wait()
    return _follow_live(job, console) if console.is_terminal else _follow_lines(job, console)


def _follow_live(job: Job, console: Console) -> JobStatus:
    from rich.live import Live

    recent: deque[LogEntry] = deque(maxlen=ENTRIES_SHOWN)
    seen, last = 0, job.status()
    with Live(render.job_view(last, ()), console=console, refresh_per_second=8, transient=True) as live:
        for last in job.watch():
            if last.log_length > seen:
                entries = job.log(seen)
                recent.extend(entries)
                seen += len(entries)
            live.update(render.job_view(last, tuple(recent)))
    return last


def _follow_lines(job: Job, console: Console) -> JobStatus:
    seen, last = 0, job.status()
    for last in job.watch():
        if last.log_length > seen:
            entries = job.log(seen)
            for entry in entries:
                console.print(render.log_line(entry), soft_wrap=True)
            seen += len(entries)
    return last
