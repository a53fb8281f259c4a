"""The child's end of its talk with the node: blocking, one thread; see `protocol` for what is said."""

from __future__ import annotations

import array
import os
import select
import socket

from daitn.base.errors import PeerError, UnavailableError
from daitn.node.sandbox.protocol import (
    DESCRIPTORS,
    FRAME_BYTES,
    HEADER,
    FromChild,
    ToChild,
    decode_order,
    encode_frame,
)


class ChildChannel:
    """The child's end: blocking, one thread."""

    def __init__(self, fileno: int) -> None:
        self._socket = socket.socket(fileno=fileno)
        self._poll = select.poll()
        self._poll.register(fileno, select.POLLIN)

    def send(self, message: FromChild) -> None:
        """Say something; UnavailableError where the node is gone."""
        self.send_frame(encode_frame(message))

    def send_frame(self, frame: bytes) -> None:
        """The same, of a frame that is encoded already."""
        try:
            self._socket.sendall(frame)
        except OSError as error:
            raise UnavailableError(f"the node is gone: {error.strerror}") from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def waiting(self) -> bool:
        """Whether the node has said something that was not received yet; 1 µs."""
        return bool(self._poll.poll(0))

    def receive(self) -> tuple[ToChild, tuple[int, ...]]:
        """The next frame and its descriptors, which the caller must close. UnavailableError where the node is gone."""
        body, descriptors = self._read_frame()
        try:
            message = decode_order(body)
        except PeerError:
            _close_all(descriptors)
            raise
        return message, tuple(descriptors)

    def receive_body(self) -> bytearray:
        """The body of a frame that has no descriptors."""
        body, descriptors = self._read_frame()
        if descriptors:
            _close_all(descriptors)
            raise PeerError(f"a frame came with {len(descriptors)} descriptors, none was expected")
        return body

    def _read_frame(self) -> tuple[bytearray, list[int]]:
        header, descriptors = self._read_header()
        length, expected = HEADER.unpack(header)
        try:
            if length > FRAME_BYTES or expected != len(descriptors):
                raise PeerError(f"frame of {length} bytes with {len(descriptors)} of {expected} descriptors")
            body = bytearray(length)
            view = memoryview(body)
            while view:
                got = self._socket.recv_into(view)
                if not got:
                    raise UnavailableError("the node is gone")
                view = view[got:]
        except (PeerError, UnavailableError):
            _close_all(descriptors)
            raise
        return body, descriptors

    def _read_header(self) -> tuple[bytes, list[int]]:
        header = b""
        descriptors = array.array("i")
        room = socket.CMSG_SPACE(DESCRIPTORS * descriptors.itemsize)
        while len(header) < HEADER.size:
            data, ancillary, _, _ = self._socket.recvmsg(HEADER.size - len(header), room)
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
            if not data:
                _close_all(descriptors)
                raise UnavailableError("the node is gone")
            header += data
        return header, list(descriptors)


def _close_all(descriptors: list[int] | array.array[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
