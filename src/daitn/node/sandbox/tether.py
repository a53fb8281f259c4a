"""The tether: a small process between a node and one child, so that the child ends when the node does, however it ends.

A node that is killed cannot clean up, and bubblewrap's `--die-with-parent` does not hold while it starts: its own first
process waits for a word of bubblewrap's on a descriptor that it holds itself, so if bubblewrap dies before it has
spoken (the node's death breaks the socket it reports to), that process waits for ever. Nor would a death signal set
before bubblewrap is begun help: the kernel forgets it for what bubblewrap forks, and binds it to the thread that
started it. So a process that can still act stands between: it starts the command, tells the node who the first process
inside is, and when its line to the node breaks it ends the command and everything that is left of it, which falls to
it as the reaper of its descendants. It sees nothing of models and data, and costs 17 ms and 5 MB a child.

Standard library only, and no import of this package: it runs before anything else is there.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
INFO_BYTES = 4096
"""Longest that bubblewrap tells of a child: a dozen numbers."""


def main(arguments: list[str]) -> int:
    """`arguments`: number of the line to the node, `bubblewrap` or `plain`, and the command. Its exit status, 128 + n
    for signal n."""
    line, kind, command = int(arguments[0]), arguments[1], arguments[2:]
    os.set_inheritable(line, False)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if kind == "bubblewrap":
        told, telling = os.pipe()
        os.set_inheritable(telling, True)
        command[1:1] = ["--info-fd", str(telling)]
        child = os.posix_spawn(command[0], command, os.environ)
        os.close(telling)
        leader = _read_leader(told)
        os.close(told)
    else:
        leader = child = os.posix_spawn(command[0], command, os.environ)
    if leader:
        with suppress(OSError):  # the node has died meanwhile
            os.write(line, json.dumps({"child-pid": leader}).encode() + b"\n")
    ended = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    waiting.register(line, select.POLLIN)
    waiting.poll()
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    _end_orphans()
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _read_leader(told: int) -> int:
    """Process id of the first process inside, as bubblewrap tells it; 0 where it ended without telling."""
    text = b""
    while len(text) < INFO_BYTES and (part := os.read(told, INFO_BYTES)):
        text += part
        with suppress(ValueError):
            return int(json.loads(text)["child-pid"])
    return 0


def _end_orphans() -> None:
    """What the command has left behind is this process's now: kill it, and reap it."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            for child in file.read().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
