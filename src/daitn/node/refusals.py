"""Data sets that were refused at this site: counted by commands that end by themselves, shown by the node that runs.

A command has no counters of its own, and may run while the node does or before it was ever started. So each refusal is
a byte appended to one file, which is atomic whoever else does the same, and the file's length is the count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from daitn.base.errors import DaitnError
from daitn.base.metrics import Count

FILE: Final = "refused"


@contextmanager
def refusals_counted(folder: Path) -> Iterator[None]:
    """Count an error of what is done within, at the node whose data are in `folder`, and let it go on."""
    try:
        yield
    except DaitnError:
        with suppress(OSError):  # a disk that is full costs the count, never the error
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, b".")
            finally:
                os.close(handle)
        raise


def refused_here(folder: Path) -> tuple[Count, ...]:
    """How many were refused since the folder was made."""
    try:
        return (Count(name="data_sets_refused", count=(folder / FILE).stat().st_size),)
    except OSError:
        return ()
