"""What clients of secret queries say to gateways: hosts' keys fetched and proven, queries encrypted, answers opened."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, NodeId
from daitn.base.units import MIB
from daitn.node.http.owner_token import parse_owner_token
from daitn.node.serving.host_keys import verified_keys
from daitn.serving.sealing import Secret, seal_query
from daitn.serving.tensors import arrays_of, tensor_of
from daitn.wire.secret_queries import PART, CombinedTold, SecretQuery, decode_keys

ANSWER_BYTES: Final = 4 * MIB
PATIENCE_S: Final = 60.0

Arrays = Mapping[str, NDArray[Any]]
Goal = Mapping[str, str]
"""Headers of a request."""


class Readers(NamedTuple):
    """Who may read queries of a model."""

    model: str
    where: str
    """The model's address at a gateway."""
    headers: dict[str, str]
    hosts: dict[NodeId, bytes]
    """Their keys, each proven by a certificate of the domain."""
    artifact: ArtifactId
    """The package that they serve."""


def readers_of(gateway: str, key: str, model: str, hosts: Collection[str], goal: Goal | None) -> Readers:
    """Who may read queries of one model. Arguments and errors as `secret_queries.ask_secretly`; InputError for a
    combined model, whose answers nobody but a client that waits for them can join."""
    found = readers_or_parts(gateway, key, model, hosts, goal)
    if isinstance(found, CombinedTold):
        names = ", ".join(part.model for part in found.parts)
        what = f"{model[:80]} is combined of {names}, whose answers only a client can join that waits for them"
        raise InputError(what, todo="use ask_secretly")
    return found


def readers_or_parts(
    gateway: str, key: str, model: str, hosts: Collection[str], goal: Goal | None, part: str = ""
) -> Readers | CombinedTold:
    """Who may read queries of a model, or what it is combined of. `part`: of a combined one, which of its models."""
    if urllib.parse.urlsplit(gateway).scheme not in ("http", "https"):
        raise InputError(f"{gateway[:80]!r} is no address of a gateway", todo="give http://HOST:PORT")
    token = token_of(key)
    fingerprint = parse_owner_token(token).fingerprint.hex()
    where = f"{gateway.rstrip('/')}/v2/models/{urllib.parse.quote(model, safe='')}"
    headers = {"Authorization": f"Bearer {token}", **(goal or {}), **({PART: part} if part else {})}
    told = decode_keys(request_of(where + "/keys", headers, None)[1])
    readers = verified_keys(told, fingerprint)
    if told.combined is not None and not part:
        return told.combined
    if hosts:
        readers = {host: public for host, public in readers.items() if host in hosts}
    if not readers:
        what = f"none of the hosts that may read the query serves {(part or model)[:80]} now"
        raise InputError(what, todo="name others")
    return Readers(part or model, where, headers, readers, told.artifact)


def sealed_for(readers: Readers, inputs: Arrays, rows: int = 0) -> tuple[SecretQuery, Secret]:
    """A query that they can read, and what its answer is opened with. `rows`: 0: of the input that has most."""
    tensors = tuple(tensor_of(name, np.asarray(array)) for name, array in inputs.items())
    rows = rows or max((tensor.shape[0] for tensor in tensors if tensor.shape), default=1) or 1
    return seal_query(tensors, rows, readers.hosts, readers.model, readers.artifact)


def opened_of(secret: Secret, sealed: bytes) -> dict[str, NDArray[Any]]:
    """An answer's outputs; InputError with what its host says is wrong with the inputs."""
    outcome = secret.open(sealed)
    if outcome.fault:
        raise InputError(outcome.fault)
    return dict(arrays_of(outcome.outputs))


def token_of(key: str) -> str:
    """A key, or what the file holds that it names."""
    return Path(key).read_text().strip() if os.path.exists(key) else key


def request_of(url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
    """Status and body of an answer; errors as `secret_queries.ask_secretly`."""
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
