"""Problems: how an error becomes an HTTP answer. The words are those of `base.errors`, and a few of HTTP's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from daitn.base.errors import BugError, DaitnError, InputError, PeerError, PolicyError, UnavailableError
from daitn.base.metrics import is_declared
from daitn.node.http.bodies import ErrorBody, Problem

RETRY_AFTER_S: Final = 1
"""What a client is told to wait where something is unavailable; most of it is back within a lease."""

_STATUS: Final[dict[type[DaitnError], int]] = {
    InputError: 400,
    PeerError: 400,
    PolicyError: 403,
    UnavailableError: 503,
    BugError: 500,
}


class HttpError(DaitnError):
    """An error that HTTP has a word of its own for. `kind` and `status` say which; `wait_s`: when to try again."""

    def __init__(
        self,
        status: int,
        kind: str,
        what: str,
        *,
        todo: str = "",
        ids: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> None:
        super().__init__(what, todo=todo, ids=ids)
        self.status = status
        self.kind = kind
        self.wait_s = wait_s


def unknown(what: str, todo: str = "", **ids: str) -> HttpError:
    """404: there is no such thing, for this owner."""
    return HttpError(404, "unknown", what, todo=todo, ids=ids)


def conflict(what: str, todo: str = "", **ids: str) -> HttpError:
    """409: not in the state it is in."""
    return HttpError(409, "conflict", what, todo=todo, ids=ids)


def too_large(what: str, limit: int) -> HttpError:
    """413: more bytes than are read."""
    return HttpError(413, "too-large", f"{what} has more than {limit} bytes", todo="send less")


def too_many(what: str, wait_s: float) -> HttpError:
    """429: too many requests of one caller."""
    return HttpError(429, "too-many", what, todo=f"try again in {max(1, math.ceil(wait_s))} s", wait_s=wait_s)


def status_word(status: int) -> str:
    """The status as the counter `requests_refused` knows it."""
    return str(status) if is_declared("requests_refused", str(status)) else "other"


def answer_of(error: DaitnError) -> tuple[int, bytes, dict[str, str]]:
    """Status, JSON body and headers for an error. Of our own bugs only the sentence is told, never a trace."""
    status = error.status if isinstance(error, HttpError) else _status(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="daitn"'
    if status in (429, 503):
        wait_s = error.wait_s if isinstance(error, HttpError) else RETRY_AFTER_S
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    body = Problem(error=ErrorBody(kind=error.kind, what=error.what, todo=error.todo, ids=error.ids))
    return status, msgspec.json.encode(body), headers


def _status(error: DaitnError) -> int:
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
