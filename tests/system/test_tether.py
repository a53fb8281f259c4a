"""A node that is killed at any moment leaves no child, not even one that was only being started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.leaks import left_over, running_children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

NODE = """
import asyncio, sys
from daitn.node.sandbox.launcher import Sandbox

async def main():
    sandbox = Sandbox(bubblewrap=sys.argv[1])
    sandbox._checked = True
    started = await sandbox.start(module="probe")
    if sys.argv[2] == "busy":
        await asyncio.get_running_loop().sock_sendall(started.channel, b'{"burn": true}\\n')
    print(started.leader, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def start_node(bubblewrap: str, what: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", NODE, bubblewrap, what], stdout=subprocess.PIPE)


def kill(node: subprocess.Popen[bytes]) -> None:
    node.kill()
    node.wait()
    assert node.stdout is not None
    node.stdout.close()


@needs_bubblewrap
def test_node_killed_before_bubblewrap_has_told_of_its_child_leaves_nothing(tmp_path: Path) -> None:
    """Bubblewrap is held before it begins, so that the node is dead when it makes the namespace and wants to tell."""
    before = running_children()
    begun, gate, wrapper = tmp_path / "begun", tmp_path / "gate", tmp_path / "bwrap"
    os.mkfifo(begun)
    os.mkfifo(gate)
    wrapper.write_text(f'#!/bin/sh\necho > {begun}\nread line < {gate}\nexec {shutil.which("bwrap")} "$@"\n')
    wrapper.chmod(0o755)
    node = start_node(str(wrapper))
    begun.read_text()
    kill(node)
    # The tether may have ended the wrapper already; then nobody opens the gate.
    descriptor = os.open(gate, os.O_RDWR)
    os.write(descriptor, b"go on\n")
    assert left_over(before) == []
    os.close(descriptor)


@pytest.mark.parametrize("bubblewrap", [pytest.param("bwrap", marks=needs_bubblewrap), ""], ids=["bubblewrap", "plain"])
@pytest.mark.parametrize("what", ["idle", "busy"])
def test_node_killed_beside_its_child_leaves_nothing(bubblewrap: str, what: str) -> None:
    before = running_children()
    node = start_node(shutil.which(bubblewrap) or "", what)
    assert node.stdout is not None
    leader = int(node.stdout.readline())
    kill(node)
    assert left_over(before) == []
    assert not Path(f"/proc/{leader}").exists()


@needs_bubblewrap
def test_killed_bubblewrap_takes_its_child_with_it() -> None:
    before = running_children()
    node = start_node(shutil.which("bwrap") or "", "idle")
    assert node.stdout is not None
    leader = int(node.stdout.readline())
    wrapper = int(Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(wrapper, signal.SIGKILL)
    tethers = [pid for pid in running_children() if pid not in before and pid != node.pid]
    kill(node)
    assert left_over(before) == []
    assert not tethers
