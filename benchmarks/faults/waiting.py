"""Waiting for points of a run: a line in a log, or anything that can be looked for, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

POINT_S: Final = 40.0
"""How long a point of a run may take to come; a machine under load needs ten for the first."""

T = TypeVar("T")


class LogTail:
    """What is written to a log from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        """The complete ones."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode("utf-8", "replace").split("\n")[:-1]

    def wait(self, text: str, timeout_s: float = POINT_S) -> str:
        """The first complete line with `text`."""

        def found() -> str:
            return next((line for line in self.lines() if text in line), "")

        return wait_for(found, f"{text!r} in {self._path.name}", timeout_s, look_s=0.005)


def wait_for(found: Callable[[], T], what: str, timeout_s: float = POINT_S, look_s: float = 0.02) -> T:
    """Look until there is something; AssertionError naming it after `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < give_up, f"{what} did not come within {timeout_s:g} s"
        time.sleep(look_s)
    return answer
