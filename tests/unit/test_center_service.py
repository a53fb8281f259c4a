"""Packages at the centre's door: what is refused leaves no pin, no room taken and nobody's chunks pushed out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import make_contract, make_request
from tests.unit.test_graph_check import make_pair

from daitn.artifacts.codec import complete_manifest, encode_manifest
from daitn.artifacts.graph import encode_graph_pair
from daitn.artifacts.layout import TensorSpec, digest_of, plan_layout
from daitn.artifacts.manifest import ChunkRef, Manifest
from daitn.artifacts.signatures import sign_parts
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, OwnerId
from daitn.base.limits import CHUNK_BYTES
from daitn.base.units import MIB
from daitn.node.center_service import CenterService
from daitn.node.store import ChunkStore

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CONTRACT = msgspec.json.encode(make_contract())
OTHER_CONTRACT = msgspec.json.encode(msgspec.structs.replace(make_contract(), name="other"))
GRAPH = encode_graph_pair(make_pair())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    with closing(ChunkStore(tmp_path, quota_bytes=8 * MIB)) as store:
        yield store


@pytest.fixture
def door(store: ChunkStore) -> CenterService:
    return CenterService(None, None, store, None, None, None, None, None, None)  # type: ignore[arg-type]


def package(
    graph: bytes = GRAPH, contract: bytes = CONTRACT, name: str = "m", key: Ed25519PrivateKey = KEY
) -> Manifest:
    draft = Manifest(kind="graph", name=name, parts=(), tensors=(), payload_bytes=0, chunks=())
    return sign_parts(complete_manifest(draft, {"graph": graph, "contract": contract}, {}), key)


def upload(door: CenterService, *pieces: bytes) -> None:
    for piece in pieces:
        door.put_chunk(digest_of(piece), piece)


def test_package_that_passes_is_kept(door: CenterService, store: ChunkStore) -> None:
    upload(door, GRAPH, CONTRACT)
    artifact = door.put_manifest(encode_manifest(package()))
    assert store.holds(artifact)
    assert store.snapshot().pinned_bytes > 0
    assert door.counters.shown() == {}


@pytest.mark.parametrize(("graph", "contract", "why"), [(b"\x80\x04.", CONTRACT, "graph"), (GRAPH, b"{", "contract")])
def test_package_that_is_refused_is_not_kept(
    door: CenterService, store: ChunkStore, graph: bytes, contract: bytes, why: str
) -> None:
    upload(door, graph, contract)
    with pytest.raises(InputError, match="package refused"):
        door.put_manifest(encode_manifest(package(graph, contract)))
    assert (store.snapshot().pinned_bytes, store.snapshot().artifacts) == (0, 0)
    assert door.counters.shown() == {f"packages_refused[{why}]": 1}


@pytest.mark.parametrize(("role", "value", "taken"), [
    ("parameter", 0.5, True), ("parameter", float("nan"), False), ("parameter", float("-inf"), False),
    ("buffer", float("-inf"), True), ("buffer", float("nan"), False),
])  # fmt: skip
def test_package_with_weights_that_are_not_finite_is_refused_with_the_tensor(
    door: CenterService, store: ChunkStore, role: Literal["parameter", "buffer"], value: float, taken: bool
) -> None:
    numbers = {"first": [1.0, 1.0, 1.0], "odd": [1.0, value, 2.0]}
    tensors = {name: np.array(row, np.float32).tobytes() for name, row in numbers.items()}
    layout = plan_layout([TensorSpec(name=name, dtype="float32", shape=(3,), role=role) for name in tensors])
    draft = Manifest(
        kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    parts = {"graph": GRAPH, "contract": CONTRACT}
    made = sign_parts(complete_manifest(draft, parts, tensors), KEY)
    payload = bytearray(layout.payload_bytes)
    for entry in layout.entries:
        payload[entry.offset : entry.offset + 12] = tensors[entry.name]
    upload(door, GRAPH, CONTRACT, bytes(payload))
    if taken:
        assert store.holds(door.put_manifest(encode_manifest(made)))
        return
    with pytest.raises(InputError, match="package refused: tensor 'odd' has numbers that are not finite") as refused:
        door.put_manifest(encode_manifest(made))
    assert refused.value.todo
    assert (store.snapshot().pinned_bytes, store.snapshot().artifacts) == (0, 0)
    assert door.counters.shown() == {"packages_refused[not-finite]": 1}


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "..", ".hidden", "a/b"])
def test_package_with_a_part_whose_name_leads_elsewhere_is_refused(
    door: CenterService, store: ChunkStore, name: str
) -> None:
    upload(door, GRAPH, CONTRACT)
    draft = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
    made = complete_manifest(draft, {"graph": GRAPH, "contract": CONTRACT, name: GRAPH}, {})
    with pytest.raises(InputError, match="name of a file") as refused:
        door.put_manifest(msgspec.msgpack.encode(sign_parts(made, KEY)))
    assert name in refused.value.what
    assert refused.value.todo
    assert store.snapshot().artifacts == 0
    assert door.counters.shown() == {"packages_refused[manifest]": 1}


def test_package_refused_once_may_be_mended_and_sent_again(door: CenterService, store: ChunkStore) -> None:
    upload(door, CONTRACT)
    with pytest.raises(InputError, match="1 chunks of the package were not uploaded"):
        door.put_manifest(encode_manifest(package()))
    assert store.snapshot().partials == 0
    upload(door, GRAPH)
    assert store.holds(door.put_manifest(encode_manifest(package())))
    assert door.counters.shown() == {"packages_refused[incomplete]": 1}


def test_manifest_of_absurd_size_takes_no_room_and_pushes_nobodys_chunks_out(
    door: CenterService, store: ChunkStore
) -> None:
    others = b"half of another upload"
    upload(door, others)
    refs = tuple(ChunkRef(id=digest_of(str(number).encode()), size=CHUNK_BYTES) for number in range(3))
    first, *rest = package().parts
    parts = (msgspec.structs.replace(first, size=3 * CHUNK_BYTES, chunks=refs), *rest)
    claimed = msgspec.structs.replace(package(), parts=parts)
    with pytest.raises(InputError, match="package refused"):
        door.put_manifest(encode_manifest(sign_parts(claimed, KEY)))
    assert store.snapshot().used_bytes < MIB
    assert door.missing_chunks([(digest_of(others), len(others))]) == ()


@pytest.mark.parametrize(
    ("variant", "what"),
    [
        (package(name="v", key=Ed25519PrivateKey.from_private_bytes(bytes(32))), "another signer"),
        (package(name="v", contract=OTHER_CONTRACT), "another contract"),
        (None, "is not here"),
    ],
)
def test_variant_of_another_signer_or_contract_is_refused_by_name(
    door: CenterService, variant: Manifest | None, what: str
) -> None:
    upload(door, GRAPH, CONTRACT, OTHER_CONTRACT)
    submitted = door.put_manifest(encode_manifest(package()))
    other = door.put_manifest(encode_manifest(variant)) if variant is not None else ArtifactId("0" * 64)
    request = make_request(package=submitted, variants=(other,))

    with pytest.raises(InputError, match=f"package refused: .*{what}"):
        asyncio.run(door.submit(OwnerId("ada"), request, ""))
    assert door.counters.shown() == {"packages_refused[variant]": 1}
