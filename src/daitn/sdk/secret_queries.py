"""Secret queries: a client's side. Nobody but the host that answers can read what is asked and answered.

What the client trusts is the key that it was given: the fingerprint in it says which authority proves hosts' keys. A
gateway can refuse to carry a query, and it says which hosts there are; it can neither read nor change one.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.units import MIB
from daitn.node.http.owner_token import parse_owner_token
from daitn.node.serving.host_keys import verified_keys
from daitn.serving.sealing import seal_query
from daitn.serving.tensors import arrays_of, tensor_of
from daitn.wire.secret_queries import decode_keys

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
    if urllib.parse.urlsplit(gateway).scheme not in ("http", "https"):
        raise InputError(f"{gateway[:80]!r} is no address of a gateway", todo="give http://HOST:PORT")
    if not inputs:
        raise InputError("the query has no inputs")
    token = Path(key).read_text().strip() if os.path.exists(key) else key
    fingerprint = parse_owner_token(token).fingerprint.hex()
    where = f"{gateway.rstrip('/')}/v2/models/{urllib.parse.quote(model, safe='')}"
    headers = {"Authorization": f"Bearer {token}", **(goal or {})}
    told = decode_keys(_request(where + "/keys", headers, None))
    readers = verified_keys(told, fingerprint)
    if hosts:
        readers = {host: public for host, public in readers.items() if host in hosts}
    if not readers:
        raise InputError(f"none of the hosts that may read the query serves {model[:80]} now", todo="name others")
    tensors = tuple(tensor_of(name, np.asarray(array)) for name, array in inputs.items())
    rows = max((tensor.shape[0] for tensor in tensors if tensor.shape), default=1) or 1
    query, secret = seal_query(tensors, rows, readers, model, told.artifact)
    outcome = secret.open(_request(where + "/secret", headers, msgspec.msgpack.encode(query)))
    if outcome.fault:
        raise InputError(outcome.fault)
    return dict(arrays_of(outcome.outputs))


def _request(url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers))
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return bytes(answer.read(ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        what = error.read(400).decode("utf-8", "replace")
        if error.code == 401:
            raise PolicyError(f"the gateway refuses the key: {what}") from None
        if error.code in (429, 503):
            raise UnavailableError(f"the gateway says {error.code}: {what}") from None
        raise InputError(f"the gateway says {error.code}: {what}") from None
    except (OSError, ValueError) as error:
        raise UnavailableError(f"no gateway answers at {url[:80]}: {error}", todo="look at its address") from None
