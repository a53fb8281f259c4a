"""A link that can be cut one way or both, delayed and throttled: a TCP proxy between one node and the router.

It needs no rights. What is cut is held, as an unreachable network holds what its ends send again: after the cut it goes
on, unless an end has given the connection up, which the other end then learns late, as in the real world.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Final, Literal

Way = Literal["up", "down"]

BLOCK_BYTES: Final = 32 * 1024
WAITING_BLOCKS: Final = 64
"""Blocks under way in one direction: 2 MiB, which bounds what a cut or slow link swallows."""


class LinkProxy:
    """Listens on a free port of `host` and forwards each connection to `target` (`host:port`). A context manager.

    `up` is what the node says, `down` what it is told.
    """

    def __init__(self, target: str, host: str = "127.0.0.1") -> None:
        to, _, port = target.rpartition(":")
        self._target = (to, int(port))
        self._server = socket.create_server((host, 0))
        self._changed = threading.Condition()
        self._cut: set[Way] = set()
        self._closed = False
        self._sockets: set[socket.socket] = set()
        self.delay_s = 0.0
        self.rate_bytes_per_s = 0.0
        """0: as fast as it goes."""
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        threading.Thread(target=self._accept, daemon=True, name="link-accept").start()

    @property
    def address(self) -> str:
        """Where the node connects to."""
        host, port = self._server.getsockname()[:2]
        return f"{host}:{port}"

    def cut(self, *ways: Way) -> None:
        """From now on nothing passes these ways."""
        with self._changed:
            self._cut |= set(ways)

    def mend(self) -> None:
        """Everything passes again, at full speed and without delay."""
        with self._changed:
            self._cut.clear()
            self.delay_s = self.rate_bytes_per_s = 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Break all connections."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.close()
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                node, _ = self._server.accept()
            except OSError:
                return
            try:
                router = socket.create_connection(self._target, timeout=2.0)
            except OSError:
                node.close()
                continue
            for one in (node, router):
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.add(one)
            ways: tuple[tuple[Way, socket.socket, socket.socket], ...] = (("up", node, router), ("down", router, node))
            for way, source, sink in ways:
                blocks: queue.Queue[tuple[float, bytes]] = queue.Queue(WAITING_BLOCKS)
                threading.Thread(target=_read, args=(source, blocks), daemon=True, name=f"link-{way}").start()
                threading.Thread(target=self._write, args=(way, blocks, sink), daemon=True, name=f"link-{way}").start()

    def _write(self, way: Way, blocks: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        while True:
            arrived_s, block = blocks.get()
            with self._changed:
                self._changed.wait_for(lambda: way not in self._cut or self._closed)
            if self.delay_s:
                time.sleep(max(0.0, arrived_s + self.delay_s - time.monotonic()))
            if self.rate_bytes_per_s:
                time.sleep(len(block) / self.rate_bytes_per_s)
            try:
                if not block:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(block)
            except OSError:
                # The other end is gone: what comes from this one is drained, so that its close is seen.
                continue
            self.passed[way] += len(block)


def _read(source: socket.socket, blocks: queue.Queue[tuple[float, bytes]]) -> None:
    block = b"begin"
    while block:
        try:
            block = source.recv(BLOCK_BYTES)
        except OSError:
            block = b""
        blocks.put((time.monotonic(), block))
