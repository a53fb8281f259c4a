"""The wall clock of one process, moved while it runs.

With libfaketime it moves for everything in the process: Python, the fabric, the check of certificates. Without it, a
shim put before Python moves what Python code reads (`clock_shim`), and certificates see the machine's own clock. What
is monotonic moves in neither. A process is started under it for the play, and without it again afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LIBRARIES: Final = tuple(
    Path(folder) / "faketime" / "libfaketimeMT.so.1"
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/lib64")
)
"""Where distributions put it (Debian: package `faketime`)."""


class Clocks:
    """One clock for each process, as a file that says by how many seconds it is off."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._library = next((path for path in LIBRARIES if path.exists()), None)
        if self._library is None:
            shim = folder / "shim"
            shim.mkdir()
            (shim / "sitecustomize.py").write_text(Path(__file__).with_name("clock_shim.py").read_text())

    @property
    def by(self) -> str:
        """By what clocks are moved."""
        return "Python's clock" if self._library is None else "libfaketime"

    def prefix(self, name: str) -> tuple[str, ...]:
        """Put before a process's command, its clock can be moved."""
        self.set(name, 0.0)
        file = self._folder / name
        if self._library is None:
            path = os.pathsep.join(filter(None, (str(self._folder / "shim"), os.environ.get("PYTHONPATH", ""))))
            return ("env", f"PYTHONPATH={path}", f"FAULTS_CLOCK={file}")
        monotonic = ("DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
        return (
            *("env", f"LD_PRELOAD={self._library}", f"FAKETIME_TIMESTAMP_FILE={file}", "FAKETIME_NO_CACHE=1"),
            *monotonic,
        )

    def set(self, name: str, seconds: float) -> None:
        """From now on the clock of a process is off by so much."""
        path = self._folder / name
        path.with_suffix(".new").write_text(f"{seconds:+.0f}\n")
        path.with_suffix(".new").replace(path)
