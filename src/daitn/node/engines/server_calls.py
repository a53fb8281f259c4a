"""What engines behind other servers have in common: connections, keys, and what their answers' statuses mean.

A server is not trusted further than the model it serves: what it says is bounded before it is read and decoded before
it is believed, its silence has a limit, and a redirect is not followed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from daitn.base.errors import InputError, UnavailableError
from daitn.base.units import MIB
from daitn.descriptors.offers import TensorServerOffer, TextServerOffer, check_address

ANSWER_BYTES: Final = 32 * MIB
"""Largest answer that is read whole."""

CONNECT_S: Final = 5.0

WORDS: Final = 300
"""Of what a server says about a fault, as much is passed on to who asked."""


class ServerGoneError(UnavailableError):
    """The server cannot be reached: it is looked for again from the beginning."""


class ServerCalls:
    """Requests to one server. UnavailableError where it does not answer as it should, InputError where it refuses."""

    def __init__(self, offer: TextServerOffer | TensorServerOffer) -> None:
        self._address = check_address(offer.address)
        self._silent_s = offer.silent_s
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=offer.silent_s)
        key = read_key(offer.key_file)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            read_bufsize=256 * 1024,
        )

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, its answer begun and of status 200."""
        told = {"Content-Type": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        try:
            async with self._session.request(
                method, self._address + path, data=body, headers=told, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise await self._refusal(answer)
                yield answer
        except aiohttp.ClientConnectorError as error:
            raise ServerGoneError(f"the server at {self._address} cannot be reached: {error.strerror}") from None
        except TimeoutError:
            raise UnavailableError(f"the server at {self._address} said nothing for {self._silent_s:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise UnavailableError(f"the server at {self._address} broke off: {type(error).__name__}") from None

    async def whole(self, answer: aiohttp.ClientResponse) -> bytes:
        """An answer's bytes; UnavailableError beyond `ANSWER_BYTES`."""
        data = bytearray()
        async for part in answer.content.iter_any():
            data += part
            if len(data) > ANSWER_BYTES:
                raise UnavailableError(f"the server at {self._address} answers with more than {ANSWER_BYTES} bytes")
        return bytes(data)

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()

    async def _refusal(self, answer: aiohttp.ClientResponse) -> InputError | UnavailableError:
        words = (await answer.content.read(4 * WORDS)).decode("utf-8", "replace")[:WORDS]
        if answer.status in (400, 413, 422):
            return InputError(f"the server refuses the query with status {answer.status}: {words}")
        return UnavailableError(f"the server at {self._address} answers with status {answer.status}")


def read_key(path: str) -> str:
    """A server's key, empty for no path; InputError where the file holds none."""
    if not path:
        return ""
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"the key of a server cannot be read from {path[:200]!r}: {type(error).__name__}") from None
    if not key or len(key) > 4096 or any(not " " < char <= "~" for char in key):
        raise InputError(f"{path[:200]!r} holds no key: one line of printable characters")
    return key
