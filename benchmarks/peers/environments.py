"""Where a peer is installed: a virtual environment of its own, made on demand and kept below a folder git ignores.

Never the project's own environment: peers pin other versions of what we use. A finished environment holds a file with
what was asked for; one without it, or with another version, is made anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2] / ".venv-peers"
READY_FILE: Final = "ready"

INSTALL_S: Final = 600.0
"""How long one installation may take: 300 MB through a slow network."""

REASON_CHARACTERS: Final = 200
"""How much of what a peer said goes into a reason: two lines."""


class PeerAbsentError(Exception):
    """A peer could not be installed or did not do its work; the message says why. Its row is left out."""


def is_ready(name: str, requirement: str) -> bool:
    """Whether the peer's environment is there, in that version."""
    ready = ROOT / name / READY_FILE
    return ready.is_file() and ready.read_text() == requirement


def environment(name: str, requirement: str) -> Path:
    """The folder with the peer's commands; made where it is not there. PeerAbsentError where it does not install."""
    folder = ROOT / name
    if not is_ready(name, requirement):
        shutil.rmtree(folder, ignore_errors=True)
        call([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        call([*pip, requirement])
        (folder / READY_FILE).write_text(requirement)
    return folder / "bin"


def call(command: list[str]) -> None:
    """A command of the installation; PeerAbsentError with its last words where it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerAbsentError(f"{command[-1]} was not installed within {INSTALL_S:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
        raise PeerAbsentError(f"{command[-1]} does not install: {said[-1][:REASON_CHARACTERS]}")
