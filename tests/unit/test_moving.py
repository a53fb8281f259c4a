"""Where a manifest is asked for: holders in turn, none of which can make the others wait by saying nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import NotHeldError, UnavailableError
from daitn.base.ids import DomainId, NodeId
from daitn.descriptors.grant import Holder, Lacking
from daitn.node import moving
from daitn.node.clock import NodeClock
from daitn.node.moving import Moving, lacking_of
from daitn.node.store import Adopted, ChunkStore
from daitn.wire.center_tools import InputRef
from daitn.wire.data_plane import ManifestPage, encode_data_plane

A, B, C = (Holder(node=NodeId(f"n000{number}")) for number in (1, 2, 3))


class Fabric:
    """Holders that answer for a manifest as told, or never; every node asked is noted, in order."""

    def __init__(self, source: ChunkStore, made: Adopted, **silent: Callable[[], Awaitable[None]]) -> None:
        self.asked: list[NodeId] = []
        self.pulled: list[NodeId] = []
        self._data = source.manifest_bytes(made.artifact)
        self._source = source
        self._before = silent

    async def call(self, receiver: NodeId, _payload: bytes, **_: Any) -> bytes:
        self.asked.append(receiver)
        if receiver in self._before:
            await self._before[receiver]()
        return encode_data_plane(ManifestPage(total_bytes=len(self._data), data=self._data))

    async def fetch_chunks(self, holder: Any, artifact: Any, _grant: Any, chunks: Any, sink: int, *, on_chunk: Any):
        self.pulled.append(holder.node)
        for want in chunks:
            place = self._source.locate(want.id, artifact)
            assert place is not None
            await asyncio.to_thread(_copy, place, sink, want.destination)
            on_chunk(want.id)


def _copy(place: Any, sink: int, destination: int) -> None:
    with place.path.open("rb") as file:
        file.seek(place.offset)
        os.pwrite(sink, file.read(place.size), destination)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Adopted, ChunkStore, ChunkStore]]:
    """A sample in one store, and an empty one."""
    source, store = ChunkStore(tmp_path / "source", 10**8), ChunkStore(tmp_path / "store", 10**8)
    layout = plan_layout([TensorSpec(name="t", dtype="float32", shape=(8,), role="record")])
    draft = Manifest(
        kind="records", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    yield source.put_artifact(draft, {}, {"t": bytes(32)}), source, store
    source.close()
    store.close()


def fetch(stores: tuple[Adopted, ChunkStore, ChunkStore], fabric: Fabric, *holders: Holder) -> None:
    """Fetch the sample from these holders into the empty store; raises what that raises."""
    made, _, store = stores
    key = Ed25519PrivateKey.generate().public_key()
    receiver = Moving(DomainId("demo"), fabric, store, key, NodeClock())  # type: ignore[arg-type]
    wanted = InputRef(artifact=made.artifact, holders=holders, grant="g")

    async def run() -> None:
        async with asyncio.timeout(20):
            await receiver.fetch(wanted, "job")

    asyncio.run(run())
    assert store.holds(made.artifact)


async def _never() -> None:
    await asyncio.Event().wait()


async def _does_not_hold() -> None:
    raise NotHeldError("not held here")


async def _is_gone() -> None:
    raise UnavailableError("gone")


def test_holder_that_answers_is_the_only_one_asked(stores: Any) -> None:
    fabric = Fabric(stores[1], stores[0])
    fetch(stores, fabric, A, B, C)
    assert fabric.asked == [A.node]
    assert fabric.pulled == [A.node]


def test_copy_that_changed_on_the_disk_is_fetched_again_and_a_whole_one_is_not(stores: Any) -> None:
    made, source, store = stores
    fetch(stores, Fabric(source, made), A)
    again = Fabric(source, made)
    fetch(stores, again, B)
    assert again.asked == []
    path = store.payload_place(made.artifact).path
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    fetch(stores, again, B)
    assert (again.asked, again.pulled) == ([B.node], [B.node])
    assert store.verify(made.artifact)
    assert store.snapshot().counts == {"corrupt": 1}


def test_holder_that_says_nothing_delays_the_others_by_no_more_than_a_moment(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "ALONE_S", 0.01)
    fabric = Fabric(stores[1], stores[0], n0001=_never)
    fetch(stores, fabric, A, B)
    assert fabric.asked == [A.node, B.node]
    assert fabric.pulled[0] == B.node


def test_holder_that_fails_is_followed_at_once_and_not_pulled_from(stores: Any) -> None:
    fabric = Fabric(stores[1], stores[0], n0001=_is_gone, n0002=_does_not_hold)
    fetch(stores, fabric, A, B, C)
    assert fabric.asked == [A.node, B.node, C.node]
    assert set(fabric.pulled) == {C.node}


def test_those_that_do_not_hold_it_are_named_and_those_that_are_gone_are_not(stores: Any) -> None:
    fabric = Fabric(stores[1], stores[0], n0001=_is_gone, n0002=_does_not_hold)
    with pytest.raises(NotHeldError, match="gone; not held here") as raised:
        fetch(stores, fabric, A, B)
    assert lacking_of(raised.value) == Lacking(artifact=stores[0].artifact, holders=(B.node,))
