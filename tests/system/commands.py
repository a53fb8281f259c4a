"""`daitn` commands as processes of their own: exit code and JSON document, several at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from daitn.node.processes import AT_ONCE, DAITN

Call = Sequence[str | Path]


class Said(NamedTuple):
    """How a command ended: its exit code and its JSON document."""

    code: int
    document: Any

    @property
    def what(self) -> str:
        """What was wrong."""
        return str(self.document["error"]["what"])

    @property
    def todo(self) -> str:
        """What to do about it."""
        return str(self.document["error"]["todo"])


def daitn(*arguments: str | Path, token: str = "") -> Said:
    """Run a command to its end; what it printed has to be one JSON document and no traceback."""
    done = subprocess.run(
        [*DAITN, *map(str, arguments), "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DAITN_TOKEN": token},
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Said(done.returncode, json.loads(done.stdout))


def all_at_once(calls: Mapping[str, Call], token: str = "") -> dict[str, Said]:
    """Several commands, as many at a time as there are cores; by name."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(calls, pool.map(lambda call: daitn(*call, token=token), calls.values()), strict=True))
