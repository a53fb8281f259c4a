"""TLS links between two nodes: both prove their slot, frames go over blocking sockets.

The client checks that the server's certificate names the slot it wants (as host name), the server takes the requester
from the client's certificate, and neither goes on after the other's certificate ran out.

    frame := kind (1 byte) · length of the body (4 bytes, big endian) · body
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.errors import PeerError, UnavailableError
from daitn.base.ids import DomainId, NodeId
from daitn.descriptors.links import LinkKind
from daitn.node.fabric.link_ledger import LinkLedger, figures_of
from daitn.node.pki import common_name_of, expiry_of, slot_host

HEADER: Final = struct.Struct(">BI")

WHOLE_BYTES: Final = 64 * 1024
"""Frames up to here are put together before they are sent: the copy costs less than a record and a call of its own."""

RECORD_BYTES: Final = 16 * 1024
"""Most that one TLS record carries."""

HANDSHAKE_S: Final = 2.0
"""Longest wait for a connection with handshake; a firewall that drops packets costs this once (see `bulk.SHUN_S`)."""

_KEEP_ALIVE: Final = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 3),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
)
"""A peer whose host lost power is noticed after 6 s, though a stream may be silent for hours."""

_TIMEVAL: Final = struct.Struct("@ll")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The files by which a node proves its slot."""

    domain: DomainId
    node: NodeId
    certificate: Path
    key: Path
    authority: Path


class TlsContexts:
    """TLS contexts from the identity's files, made anew when the certificate was renewed; for any thread."""

    def __init__(self, identity: Identity, ledger: LinkLedger) -> None:
        self.identity = identity
        self._ledger = ledger
        self._lock = threading.Lock()
        self._stamp = -1
        self._client: ssl.SSLContext
        self._server: ssl.SSLContext

    def connect(self, address: str, node: NodeId) -> Link:
        """A link to `node` at `host:port`; UnavailableError if it is not there, PeerError if it is someone else."""
        host, _, port = address.rpartition(":")
        try:
            raw = socket.create_connection((host.strip("[]"), int(port)), timeout=HANDSHAKE_S)
            try:
                name = slot_host(self.identity.domain, node)
                return Link(self._client_context().wrap_socket(raw, server_hostname=name), self._ledger, address)
            except BaseException:
                raw.close()
                raise
        except ssl.SSLCertVerificationError as fault:
            raise PeerError(f"{address} does not prove to be {node}: {fault.verify_message}") from fault
        except (OSError, ValueError) as fault:
            raise UnavailableError(f"{node} is not reached directly at {address}: {fault}") from fault

    def accept(self, raw: socket.socket) -> Link:
        """Finish the handshake of an accepted connection; OSError if the other side has no valid certificate."""
        raw.settimeout(HANDSHAKE_S)
        return Link(self._server_context().wrap_socket(raw, server_side=True), self._ledger)

    def _client_context(self) -> ssl.SSLContext:
        self._refresh()
        return self._client

    def _server_context(self) -> ssl.SSLContext:
        self._refresh()
        return self._server

    def _refresh(self) -> None:
        with self._lock:
            stamp = self.identity.certificate.stat().st_mtime_ns
            if stamp != self._stamp:
                self._client = self._make(ssl.PROTOCOL_TLS_CLIENT)
                self._server = self._make(ssl.PROTOCOL_TLS_SERVER)
                self._server.verify_mode = ssl.CERT_REQUIRED
                self._stamp = stamp

    def _make(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.identity.certificate, self.identity.key)
        context.load_verify_locations(self.identity.authority)
        return context


class Link:
    """One TLS connection with framing; one thread at a time (OpenSSL allows no reader beside a writer).

    `address`: where it was made to; empty if it was accepted. In the ledger of links from the handshake to `close`.
    """

    def __init__(self, connection: ssl.SSLSocket, ledger: LinkLedger, address: str = "") -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in _KEEP_ALIVE:
            connection.setsockopt(*option, value)
        connection.settimeout(None)
        encoded = connection.getpeercert(binary_form=True)
        if not encoded:
            raise PeerError("the other side showed no certificate")
        certificate = ssl.DER_cert_to_PEM_cert(encoded).encode()
        self.peer = NodeId(common_name_of(certificate))
        self.expires_s = expiry_of(certificate)
        self._patience_s = 0.0
        self.address = address
        self.entry = ledger.open(
            self.peer,
            LinkKind.CHUNKS,
            direct=True,
            opened_here=bool(address),
            address=address,
            look=lambda: figures_of(connection),
        )

    @property
    def standing(self) -> bool:
        """Whether the connection is established, as far as this machine knows; costs one system call."""
        return figures_of(self._socket).standing

    @property
    def expired(self) -> bool:
        """Whether the peer's certificate has run out since the handshake."""
        return time.time() >= self.expires_s

    def patience(self, seconds: float) -> None:
        """How long a send or receive may go without a byte before it fails with OSError."""
        # In the kernel, not settimeout: that makes the socket non-blocking and costs a poll for every 16 KiB record.
        if seconds != self._patience_s:
            limit = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self._patience_s = seconds

    def send_frame(self, kind: int, body: bytes | bytearray | memoryview = b"") -> None:
        """Send one frame; a large body is not copied."""
        header = HEADER.pack(kind, len(body))
        self.entry.sent(len(body))
        if len(body) > WHOLE_BYTES:
            self._socket.sendall(header)
            self._socket.sendall(body)
        else:
            self._socket.sendall(header + body)

    def send_prepared(self, frame: memoryview) -> None:
        """Send a frame whose header already stands in front of its body: one TLS write for both."""
        self.entry.sent(frame.nbytes)
        self._socket.sendall(frame)

    def receive_header(self) -> tuple[int, int]:
        """(kind, length of the body) of the next frame; ConnectionError if the peer closed."""
        header = bytearray(HEADER.size)
        self.receive_into(memoryview(header))
        kind, length = HEADER.unpack(header)
        return kind, length

    def receive_body(self, length: int, limit: int) -> bytes:
        """A small body; PeerError beyond `limit` bytes."""
        if length > limit:
            raise PeerError(f"{self.peer} sent a frame of {length} bytes, larger than {limit}")
        body = bytearray(length)
        self.receive_into(memoryview(body))
        return bytes(body)

    def receive_into(self, target: memoryview) -> None:
        """Fill `target`; ConnectionError if the peer closed before."""
        receive, done, size = self._socket.recv_into, 0, target.nbytes
        while done < size:
            count = receive(target[done:])
            if count == 0:
                raise ConnectionResetError("closed by the other side")
            done += count
        self.entry.received(size)

    def unblock(self) -> int:
        """Nothing of this link blocks from now on: it is used by `send_some` and `receive_some`, by one thread. The
        descriptor to wait on."""
        self._socket.setblocking(False)
        return self._socket.fileno()

    def send_some(self, data: bytes | memoryview) -> int:
        """Send as much as the socket takes now; how many bytes that was. SSLWantWriteError: none."""
        return self._socket.send(data)

    def receive_some(self) -> bytes:
        """What one record brings; empty if the peer closed. SSLWantReadError: there is none yet."""
        return self._socket.recv(RECORD_BYTES)

    @property
    def pending(self) -> int:
        """Bytes that are decrypted already, of which the socket does not tell."""
        return self._socket.pending()

    def end_sending(self) -> None:
        """Tell the peer that nothing more will come."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def interrupt(self) -> None:
        """Break whatever blocks on this link; from any thread."""
        # Not SSLSocket.shutdown: that forgets the TLS state, and a thread in the middle would go on reading raw bytes.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Break and free the link."""
        self.entry.close()
        self.interrupt()
        with contextlib.suppress(OSError):
            self._socket.close()
