"""A child that tries what is forbidden, and says what it could not do. Standard library only, to start fast."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from daitn.node.sandbox.confine import confine


def main(arguments: Sequence[str]) -> int:
    """Read one question (a line of JSON) from the socket, try, and answer with the names of what held."""
    channel = socket.socket(fileno=int(arguments[0]))
    confine(arguments[1])
    line = b""
    while not line.endswith(b"\n"):
        part = channel.recv(65536)
        if not part:
            return 0
        line += part
    question = json.loads(line)
    if question.get("burn"):
        while True:
            sum(range(100_000))
    tries: dict[str, Callable[[dict[str, Any]], bool]] = {
        "no-network": _cannot_connect,
        "read-only": _cannot_write,
        "no-host-files": _cannot_read,
        "namespaces": _is_apart,
        "memory": _cannot_allocate,
        "no-core-dumps": lambda _: resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
    }
    held = [name for name, attempt in tries.items() if attempt(question)]
    channel.sendall(json.dumps(held).encode() + b"\n")
    return 0


def _cannot_connect(question: dict[str, Any]) -> bool:
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", question["port"])),
        (socket.AF_INET, ("192.0.2.1", 53)),
        (socket.AF_INET6, ("::1", question["port"])),
    ):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as datagram:
            datagram.connect(address)
            if family == socket.AF_INET and address[0] == "192.0.2.1":
                return False  # a route to the outside exists
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as stream:
            stream.settimeout(1.0)
            stream.connect(address)
            return False
    return True


def _cannot_write(question: dict[str, Any]) -> bool:
    for folder in ("/", question["data"], str(Path(__file__).parent), "/usr/lib"):
        path = Path(folder) / ".daitn-probe"
        try:
            path.write_bytes(b"x")
        except OSError:
            continue
        path.unlink()
        return False
    return True


def _cannot_read(question: dict[str, Any]) -> bool:
    for name in (question["secret"], "/etc/passwd", "/etc/hostname"):
        with contextlib.suppress(OSError):
            Path(name).read_bytes()
            return False
    return True


def _is_apart(question: dict[str, Any]) -> bool:
    return all(os.readlink(f"/proc/self/ns/{name}") != link for name, link in question["spaces"].items())


def _cannot_allocate(question: dict[str, Any]) -> bool:
    try:
        block = bytearray(question["memory"])
    except MemoryError:
        return True
    return len(block) == 0
