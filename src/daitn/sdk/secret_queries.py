"""Secret queries: a client's side. Nobody but the host that answers can read what is asked and answered.

What the client trusts is the key that it was given: the fingerprint in it says which authority proves hosts' keys. A
gateway can refuse to carry a query, and it says which hosts there are; it can neither read nor change one.

A combined model is asked by its client, part by part, and joined here (`secret_combined`): no gateway can join what it
cannot read.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from numpy.typing import NDArray

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import ArtifactId
from daitn.sdk.gateway_calls import decode_said
from daitn.sdk.secret_calls import (
    Arrays,
    Goal,
    opened_of,
    readers_of,
    readers_or_parts,
    request_of,
    sealed_for,
    token_of,
)
from daitn.sdk.secret_combined import ask_parts
from daitn.serving.sealing import Secret
from daitn.wire.secret_queries import CombinedTold


def ask_secretly(
    gateway: str,
    key: str,
    model: str,
    inputs: Arrays,
    *,
    hosts: Collection[str] = (),
    goal: Goal | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """Outputs of a model, asked so that only its host can read inputs and outputs; of a combined one, each part by its
    host alone.

    `gateway`: `http://HOST:PORT`; `key`: the domain's key, or a file that holds it; `inputs`: by name, rows first;
    `hosts`: slots that may read it, empty: whichever the gateway names under the goal; `goal`: headers such as
    `{"x-daitn-zone": "clinic"}`. InputError where the model does not take such inputs or nobody may read them,
    PolicyError for a key that opens nothing or a gateway of another domain, PeerError where a host's key is not proven,
    UnavailableError where nobody answers. Two requests, and 0.1 ms of encryption for each host; of a combined model,
    the same for each part that is asked, after one that tells the parts. `notice`: told what a combined answer left
    out, and why.
    """
    if not inputs:
        raise InputError("the query has no inputs")
    found = readers_or_parts(gateway, key, model, hosts, goal)
    if isinstance(found, CombinedTold):
        return ask_parts(gateway, key, model, found, inputs, hosts, goal, notice)
    query, secret = sealed_for(found, inputs)
    return opened_of(secret, request_of(found.where + "/secret", found.headers, msgspec.msgpack.encode(query))[1])


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
    goal: Goal | None = None,
    within_s: float | None = None,
) -> Ticket:
    """Have a secret query answered when hosts can: both lie on the gateway's disk, and only its host and who has the
    ticket can read them. Arguments and errors as `ask_secretly`; `within_s`: how long hosts are tried. A host that was
    started anew meanwhile cannot read it any more; where none is left that can, the outcome says so. InputError for a
    combined model: only who waits can join what its parts say."""
    if not inputs:
        raise InputError("the query has no inputs")
    found = readers_of(gateway, key, model, hosts, goal)
    query, secret = sealed_for(found, inputs)
    headers = found.headers | ({"x-daitn-within-s": f"{within_s:g}"} if within_s is not None else {})
    said = decode_said(request_of(found.where + "/secret/later", headers, msgspec.msgpack.encode(query))[1])
    try:
        name = str(said["query"])
    except (KeyError, TypeError):
        raise PeerError("the gateway's answer names no query") from None
    return Ticket(query=name, key=secret.key, model=model, artifact=secret.artifact)


def fetch_later_secretly(gateway: str, key: str, ticket: Ticket) -> dict[str, NDArray[Any]] | None:
    """What came of a secret query: its outputs, or None while it is under way. Errors as `ask_secretly`."""
    where = f"{gateway.rstrip('/')}/v2/later/{urllib.parse.quote(ticket.query, safe='')}"
    status, said = request_of(where, {"Authorization": f"Bearer {token_of(key)}"}, None)
    return None if status == 202 else opened_of(Secret(ticket.key, ticket.model, ticket.artifact), said)
