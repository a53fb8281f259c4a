"""Transport: HTTPS to a domain's owner door, trusting the one authority that the token names, and nobody else.

The token holds the fingerprint of the domain's authority. Its certificate is fetched without trust, and without the
token's secret; only if its SHA-256 is the fingerprint is it believed, and from then on a server must show a certificate
signed by it for the address called. No certificate store of the machine is asked.

Every call of this interface may be repeated: uploads are named by their content, submissions by a key, the rest changes
nothing twice. So a lost connection, a 503 and a 429 are tried again, within `patience_s`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import BugError, DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.units import MIB
from daitn.node.http.bodies import Problem
from daitn.node.http.owner_token import OwnerToken

CONNECT_S: Final = 5.0
"""Longest wait for a connection with handshake."""

ANSWER_S: Final = 60.0
"""Longest wait for an answer: checking a manifest of 500 GiB takes a while."""

SILENCE_S: Final = 35.0
"""An event stream silent for this long is dead: the server says something every 10 s."""

IDLE_CONNECTIONS: Final = 8
"""Connections kept for further calls: as many as upload at a time, and some."""

AUTHORITY_BYTES: Final = 64 * 1024
"""Largest certificate read from a stranger; one has 700 bytes."""

ANSWER_BYTES: Final = 256 * MIB
"""Largest answer read: a thousand log entries with a proof of 4 kB, fifty times over."""

EVENT_BYTES: Final = 16 * MIB
"""Longest line of an event stream: a status with a verdict on a thousand data sets is 1 MB."""

T = TypeVar("T")

_KINDS: Final[dict[str, type[DaitnError]]] = {
    "input": InputError,
    "unknown": InputError,
    "conflict": InputError,
    "too-large": InputError,
    "peer": InputError,
    "policy": PolicyError,
    "too-many": UnavailableError,
    "unavailable": UnavailableError,
    "no-room": UnavailableError,
    "not-held": UnavailableError,
    "bug": BugError,
}
_LOST: Final = (ConnectionError, http.client.HTTPException, TimeoutError, ssl.SSLError, OSError)


class Transport:
    """See the module's docstring. `patience_s`: how long a call is tried again. For any number of threads."""

    def __init__(self, token: OwnerToken, *, patience_s: float = 10.0) -> None:
        self.token = token
        self._patience_s = patience_s
        self._bearer = f"Bearer {token}"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPSConnection] = []
        self._context: ssl.SSLContext | None = None

    def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """One call with a JSON body and a JSON answer of type `kind`; a DaitnError for anything but a success."""
        sent = None if body is None else msgspec.json.encode(body)
        data = self.call_bytes(method, path, sent, headers=headers)
        try:
            return msgspec.json.decode(data, type=kind)
        except UNDECODABLE as error:
            raise PeerError(
                f"the answer to {method} {path} is not what this version expects: {error}",
                todo="use the client of the domain's version",
            ) from None

    def call_bytes(
        self,
        method: str,
        path: str,
        body: bytes | memoryview | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One call with bytes both ways; tried again as the module's docstring says."""
        give_up = time.monotonic() + self._patience_s
        wait_s = 0.1
        while True:
            try:
                return self._once(method, path, body, headers or {})
            except UnavailableError as error:
                asked_s = getattr(error, "wait_s", 0.0)
                pause_s = max(wait_s, asked_s)
                if time.monotonic() + pause_s > give_up:
                    raise
                time.sleep(pause_s)
                wait_s = min(2.0, wait_s * 2)

    def events(self, path: str) -> Iterator[tuple[str, bytes]]:
        """Events (name, data) of a stream until it ends; UnavailableError where it breaks off or falls silent."""
        with self._connection() as connection:
            connection.timeout = SILENCE_S
            if connection.sock is not None:
                connection.sock.settimeout(SILENCE_S)
            try:
                connection.request("GET", path, headers={"Authorization": self._bearer})
                answer = connection.getresponse()
                if answer.status != 200:
                    raise _error_of(answer.status, answer.read(ANSWER_BYTES), answer.getheader("retry-after"))
                name = ""
                while line := answer.readline(EVENT_BYTES):
                    if line.startswith(b"event: "):
                        name = line[7:].strip().decode("ascii", "replace")
                    elif line.startswith(b"data: "):
                        yield name, line[6:].strip()
            except _LOST as error:
                raise self._unreachable(error) from None
            finally:
                connection.close()

    def close(self) -> None:
        """Let all connections go."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _once(self, method: str, path: str, body: bytes | memoryview | None, headers: Mapping[str, str]) -> bytes:
        with self._connection() as connection:
            reused = connection.sock is not None
            try:
                connection.request(method, path, body, {"Authorization": self._bearer, **headers})
                answer = connection.getresponse()
                data = answer.read(ANSWER_BYTES + 1)
            except _LOST as error:
                connection.close()
                if reused:  # the server had closed the kept connection: that says nothing about whether it is there
                    return self._once(method, path, body, headers)
                raise self._unreachable(error) from None
            if len(data) > ANSWER_BYTES:
                connection.close()
                raise PeerError(f"the answer to {method} {path} has more than {ANSWER_BYTES} bytes")
            if not 200 <= answer.status < 300:
                raise _error_of(answer.status, data, answer.getheader("retry-after"))
            return data

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPSConnection]:
        """A connection for one call; kept for the next unless it was closed."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            host, port = self.token.host_port
            connection = http.client.HTTPSConnection(host, port, context=self._trusted(), timeout=CONNECT_S)
            try:
                connection.connect()
            except _LOST as error:
                raise self._unreachable(error) from None
            connection.sock.settimeout(ANSWER_S)
        try:
            yield connection
        finally:
            with self._lock:
                if connection.sock is not None and len(self._idle) < IDLE_CONNECTIONS:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _trusted(self) -> ssl.SSLContext:
        """TLS that trusts the token's authority only. PolicyError if the server shows another one."""
        with self._lock:
            if self._context is not None:
                return self._context
        pem = self._fetch_authority()
        try:
            found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())).digest()
        except ValueError:
            found = b""
        if found != self.token.fingerprint:
            raise PolicyError(
                f"{self.token.address} is not the domain {self.token.domain}: its authority has another fingerprint",
                todo="do not go on; ask an operator for a new token over a way you trust",
            )
        context = ssl.create_default_context(cadata=pem.decode("ascii"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with self._lock:
            self._context = context
        return context

    def _fetch_authority(self) -> bytes:
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        host, port = self.token.host_port
        connection = http.client.HTTPSConnection(host, port, context=blind, timeout=CONNECT_S)
        try:
            connection.request("GET", "/v1/authority")
            answer = connection.getresponse()
            data = answer.read(AUTHORITY_BYTES)
            if answer.status != 200:
                raise _error_of(answer.status, data, answer.getheader("retry-after"))
            return data
        except _LOST as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _unreachable(self, error: BaseException) -> DaitnError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return PolicyError(
                f"{self.token.address} shows a certificate that the domain's authority did not sign for this address",
                todo="ask an operator whether the address of the domain changed",
            )
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnavailableError(
            f"the domain {self.token.domain} at {self.token.address} does not answer: {said}",
            todo="check the network, and whether its control centre runs",
        )


def _error_of(status: int, data: bytes, retry_after: str | None) -> DaitnError:
    """The error an answer tells of."""
    try:
        said = msgspec.json.decode(data, type=Problem).error
    except UNDECODABLE:
        kind = "unavailable" if status in (429, 502, 503, 504) else "bug" if status >= 500 else "input"
        return _KINDS[kind](f"the server answered {status} with no further words")
    error = _KINDS.get(said.kind, InputError)(said.what, todo=said.todo, ids=said.ids)
    if isinstance(error, UnavailableError):
        error.wait_s = float(retry_after) if retry_after and retry_after.isdigit() else 0.0  # type: ignore[attr-defined]
    return error


def quoted(text: str) -> str:
    """Text as one step of a path."""
    return urllib.parse.quote(text, safe="")
