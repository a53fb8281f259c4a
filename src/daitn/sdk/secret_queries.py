"""Secret queries: a client's side. Nobody but the host that answers can read what is asked and answered.

What the client trusts is the key that it was given: the fingerprint in it says which authority proves hosts' keys. A
gateway can refuse to carry a query, and it says which hosts there are; it can neither read nor change one.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, NodeId
from daitn.base.units import MIB
from daitn.node.http.owner_token import parse_owner_token
from daitn.node.serving.host_keys import verified_keys
from daitn.sdk.gateway_calls import decode_said
from daitn.serving.sealing import Secret, seal_query
from daitn.serving.tensors import arrays_of, tensor_of
from daitn.wire.secret_queries import SecretQuery, decode_keys

ANSWER_BYTES: Final = 4 * MIB
PATIENCE_S: Final = 60.0

Arrays = Mapping[str, NDArray[Any]]


def ask_secretly(
    gateway: str,
    key: str,
    model: str,
    inputs: Arrays,
    *,
    hosts: Collection[str] = (),
    goal: Mapping[str, str] | None = None,
) -> dict[str, NDArray[Any]]:
    """Outputs of a model, asked so that only its host can read inputs and outputs.

    `gateway`: `http://HOST:PORT`; `key`: the domain's key, or a file that holds it; `inputs`: by name, rows first;
    `hosts`: slots that may read it, empty: whichever the gateway names under the goal; `goal`: headers such as
    `{"x-daitn-zone": "clinic"}`. InputError where the model does not take such inputs or nobody may read them,
    PolicyError for a key that opens nothing or a gateway of another domain, PeerError where a host's key is not proven,
    UnavailableError where nobody answers. Two requests, and 0.1 ms of encryption for each host.
    """
    where, headers, query, secret = _sealed(gateway, key, model, inputs, hosts, goal)
    return _opened(secret, _request(where + "/secret", headers, msgspec.msgpack.encode(query))[1])


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a client keeps of a secret query that it does not wait for: who has it can read the answer."""

    query: str
    key: bytes
    model: str
    artifact: ArtifactId


def ask_later_secretly(
    gateway: str,
    key: str,
    model: str,
    inputs: Arrays,
    *,
    hosts: Collection[str] = (),
    goal: Mapping[str, str] | None = None,
    within_s: float | None = None,
) -> Ticket:
    """Have a secret query answered when hosts can: both lie on the gateway's disk, and only its host and who has the
    ticket can read them. Arguments and errors as `ask_secretly`; `within_s`: how long hosts are tried. A host that was
    started anew meanwhile cannot read it any more; where none is left that can, the outcome says so."""
    where, headers, query, secret = _sealed(gateway, key, model, inputs, hosts, goal)
    headers |= {"x-daitn-within-s": f"{within_s:g}"} if within_s is not None else {}
    said = decode_said(_request(where + "/secret/later", headers, msgspec.msgpack.encode(query))[1])
    try:
        name = str(said["query"])
    except (KeyError, TypeError):
        raise PeerError("the gateway's answer names no query") from None
    return Ticket(query=name, key=secret.key, model=model, artifact=secret.artifact)


def fetch_later_secretly(gateway: str, key: str, ticket: Ticket) -> dict[str, NDArray[Any]] | None:
    """What came of a secret query: its outputs, or None while it is under way. Errors as `ask_secretly`."""
    where = f"{gateway.rstrip('/')}/v2/later/{urllib.parse.quote(ticket.query, safe='')}"
    status, said = _request(where, {"Authorization": f"Bearer {_token(key)}"}, None)
    return None if status == 202 else _opened(Secret(ticket.key, ticket.model, ticket.artifact), said)


def _sealed(
    gateway: str, key: str, model: str, inputs: Arrays, hosts: Collection[str], goal: Mapping[str, str] | None
) -> tuple[str, dict[str, str], SecretQuery, Secret]:
    """Where a query goes, its headers, and the query, encrypted for hosts that proved their keys."""
    if not inputs:
        raise InputError("the query has no inputs")
    where, headers, readers, artifact = readers_of(gateway, key, model, hosts, goal)
    tensors = tuple(tensor_of(name, np.asarray(array)) for name, array in inputs.items())
    rows = max((tensor.shape[0] for tensor in tensors if tensor.shape), default=1) or 1
    return where, headers, *seal_query(tensors, rows, readers, model, artifact)


def readers_of(
    gateway: str, key: str, model: str, hosts: Collection[str], goal: Mapping[str, str] | None
) -> tuple[str, dict[str, str], dict[NodeId, bytes], ArtifactId]:
    """A model's address at a gateway, headers, the keys of hosts that may read a query, and the package they serve.
    Arguments and errors as `ask_secretly`."""
    if urllib.parse.urlsplit(gateway).scheme not in ("http", "https"):
        raise InputError(f"{gateway[:80]!r} is no address of a gateway", todo="give http://HOST:PORT")
    token = _token(key)
    fingerprint = parse_owner_token(token).fingerprint.hex()
    where = f"{gateway.rstrip('/')}/v2/models/{urllib.parse.quote(model, safe='')}"
    headers = {"Authorization": f"Bearer {token}", **(goal or {})}
    told = decode_keys(_request(where + "/keys", headers, None)[1])
    readers = verified_keys(told, fingerprint)
    if hosts:
        readers = {host: public for host, public in readers.items() if host in hosts}
    if not readers:
        raise InputError(f"none of the hosts that may read the query serves {model[:80]} now", todo="name others")
    return where, headers, readers, told.artifact


def _opened(secret: Secret, sealed: bytes) -> dict[str, NDArray[Any]]:
    outcome = secret.open(sealed)
    if outcome.fault:
        raise InputError(outcome.fault)
    return dict(arrays_of(outcome.outputs))


def _token(key: str) -> str:
    return Path(key).read_text().strip() if os.path.exists(key) else key


def _request(url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
    with asked(url, headers, body) as answer:
        return answer.status, bytes(answer.read(ANSWER_BYTES))


@contextmanager
def asked(url: str, headers: Mapping[str, str], body: bytes | None) -> Iterator[http.client.HTTPResponse]:
    """What a gateway answers, to be read; errors of the whole as `ask_secretly`."""
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers))
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        what = error.read(400).decode("utf-8", "replace")
        if error.code == 401:
            raise PolicyError(f"the gateway refuses the key: {what}") from None
        if error.code in (429, 503):
            raise UnavailableError(f"the gateway says {error.code}: {what}") from None
        raise InputError(f"the gateway says {error.code}: {what}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnavailableError(f"no gateway answers at {url[:80]}: {error}", todo="look at its address") from None
