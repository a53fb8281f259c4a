"""Owners' programs: the commands an owner gives, as processes that can be killed, through a link that can be slow."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.faults.world import OWNER, Fault, World
from daitn.node.processes import DAITN

ANSWER_S: Final = 60.0


class Program:
    """One running command; made by `owner_program`."""

    def __init__(self, command: list[str], environment: dict[str, str], out: Path) -> None:
        self._name = " ".join(command[len(DAITN) : len(DAITN) + 2])
        self._out = out
        with out.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def kill(self) -> Fault:
        """SIGKILL; AssertionError where it had ended before."""
        assert self._process.poll() is None, f"`daitn {self._name}` had ended before: {self._said()}"
        now = time.time()
        self._process.kill()
        self._process.wait()
        return Fault(now)

    def answer(self) -> dict[str, Any]:
        """What it answers, once it has ended well."""
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"`daitn {self._name}` has not ended within {ANSWER_S:g} s: {self._said()}") from None
        finally:
            self.end()
        assert self._process.returncode == 0, f"`daitn {self._name}` failed: {self._said()}"
        said: dict[str, Any] = json.loads(self._said().splitlines()[-1])
        return said

    def end(self) -> None:
        """Let it not outlive the play."""
        self._process.kill()
        self._process.wait()

    def _said(self) -> str:
        return self._out.read_text(encoding="utf-8", errors="replace").strip()


def owner_program(world: World, *arguments: str) -> Program:
    """Start `daitn ARGUMENTS --json` as the owner, whose own files are kept in the domain's folder."""
    home = world.domain.folder / OWNER
    home.mkdir(exist_ok=True)
    folders = {"XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    environment = world.domain.processes.environment | folders | {"DAITN_TOKEN": world.token_by_link}
    out = world.domain.folder / "logs" / f"owner-{arguments[1]}-{time.time_ns()}.out"
    return Program([*DAITN, *arguments, "--json"], environment, out)
