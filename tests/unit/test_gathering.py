"""Gathering: shares among holders, what becomes of those of holders that fail, refuse, lie or hold the end up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import NoRoomError, NotHeldError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId
from daitn.node import gathering
from daitn.node.fabric.chunks import WrongChunkError
from daitn.node.fabric.contract import ChunkWant, Holder
from daitn.node.gathering import SHARE_LEAST, Gathering
from daitn.node.store import Adopted, ChunkStore, Receipt

A, B, C, D = (Holder(NodeId(f"n000{number}")) for number in range(1, 5))
CHUNKS = 40
CHUNK_FLOATS = 64 * 1024


class Holders:
    """A fabric whose holders behave as told; every chunk asked for is noted."""

    def __init__(self, source: ChunkStore) -> None:
        self.asked: list[tuple[NodeId, tuple[ChunkId, ...]]] = []
        self.delivered: list[tuple[NodeId, ChunkId]] = []
        self.behave: dict[NodeId, Callable[[int], Any]] = {}
        """By node: called with how many chunks of the share came; may raise, or return something to wait for."""
        self._source = source

    async def fetch_chunks(
        self,
        holder: Holder,
        artifact: ArtifactId,
        _grant: GrantId,
        chunks: Sequence[ChunkWant],
        sink: int,
        *,
        on_chunk: Callable[[ChunkId], None],
    ) -> None:
        self.asked.append((holder.node, tuple(want.id for want in chunks)))
        for number, want in enumerate(chunks):
            waiting = self.behave.get(holder.node, lambda _: None)(number)
            await (waiting if waiting is not None else asyncio.sleep(0))
            place = self._source.locate(want.id, artifact)
            assert place is not None
            with place.path.open("rb") as file:
                file.seek(place.offset)
                os.pwrite(sink, file.read(place.size), want.destination)
            self.delivered.append((holder.node, want.id))
            on_chunk(want.id)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Adopted, ChunkStore, ChunkStore]]:
    """A model in one store, and an empty one."""
    source, store = ChunkStore(tmp_path / "source", 10**9), ChunkStore(tmp_path / "store", 10**9)
    names = [f"t{number:02d}" for number in range(CHUNKS)]
    layout = plan_layout(
        [TensorSpec(name=name, dtype="float32", shape=(CHUNK_FLOATS,), role="record") for name in names]
    )
    draft = Manifest(
        kind="records", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    tensors = {name: blake3(name.encode()).digest(length=4 * CHUNK_FLOATS) for name in names}
    yield source.put_artifact(draft, {}, tensors), source, store
    source.close()
    store.close()


def gather(
    made: tuple[Adopted, ChunkStore, ChunkStore], holders: Sequence[Holder], **behave: Callable[[int], Any]
) -> tuple[Holders, Gathering, Receipt]:
    """Run a gathering to its end; raises what it raises."""
    fabric = Holders(made[1])
    fabric.behave = {NodeId(node): how for node, how in behave.items()}
    receipt = made[2].begin(made[0].manifest)
    gathered = Gathering(fabric, receipt, GrantId("g"), holders)  # type: ignore[arg-type]

    async def run() -> None:
        async with asyncio.timeout(20):
            await gathered.run()

    try:
        asyncio.run(run())
        receipt.finish()
    finally:
        receipt.abandon()
        assert len(fabric.delivered) == len({chunk for _, chunk in fabric.delivered}), "a chunk was verified twice"
    return fabric, gathered, receipt


def fail(error: Exception, after: int = 0) -> Callable[[int], None]:
    """Raise when so many chunks of a share have come."""

    def behave(number: int) -> None:
        if number >= after:
            raise error

    return behave


def test_one_holder_is_asked_once_for_everything(made: Any) -> None:
    fabric, gathered, _ = gather(made, [A])
    assert [(node, len(chunks)) for node, chunks in fabric.asked] == [(A.node, CHUNKS)]
    assert gathered.moved_bytes == CHUNKS * 4 * CHUNK_FLOATS
    assert made[2].verify(made[0].artifact)


def test_three_of_four_holders_each_get_shares_that_shrink(made: Any) -> None:
    fabric, _, _ = gather(made, [A, B, C, D])
    assert {node for node, _ in fabric.asked} == {A.node, B.node, C.node}
    sizes = [len(chunks) for _, chunks in fabric.asked]
    assert sizes == sorted(sizes, reverse=True) or min(sizes[:-1]) >= SHARE_LEAST
    assert sum(sizes) == CHUNKS


@pytest.mark.parametrize("error", [UnavailableError("gone"), PeerError("lies"), PolicyError("not you")])
def test_share_of_a_holder_that_fails_goes_to_the_others(made: Any, error: Exception) -> None:
    fabric, _, _ = gather(made, [A, B], n0001=fail(error, after=3))
    assert sum(node == A.node for node, _ in fabric.delivered) == 3
    assert made[2].verify(made[0].artifact)


def test_fourth_holder_steps_in_where_others_fail(made: Any) -> None:
    gone = fail(UnavailableError("gone"))
    fabric, _, _ = gather(made, [A, B, C, D], n0001=gone, n0002=gone, n0003=gone)
    assert {node for node, _ in fabric.delivered} == {D.node}


def test_all_that_refuse_are_a_policy_and_each_is_named(made: Any) -> None:
    refused = {f"n000{number}": fail(PolicyError(f"no {number}")) for number in (1, 2)}
    with pytest.raises(PolicyError) as raised:
        gather(made, [A, B], **refused)
    assert all(f"no {number}" in raised.value.what for number in (1, 2))


@pytest.mark.parametrize("error", [NotHeldError("not here"), WrongChunkError("other bytes")])
def test_all_that_fail_name_those_that_do_not_hold_it_or_not_undamaged(made: Any, error: Exception) -> None:
    with pytest.raises(NotHeldError, match="cannot be fetched") as raised:
        gather(made, [A, B, C], n0001=fail(error), n0002=fail(UnavailableError("cut")), n0003=fail(error, after=2))
    assert (raised.value.artifact, set(raised.value.holders)) == (made[0].artifact, {A.node, C.node})


def test_some_that_refuse_and_some_that_are_gone_are_unavailable_and_what_came_is_kept(made: Any) -> None:
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        gather(made, [A, B], n0001=fail(PolicyError("no"), after=2), n0002=fail(UnavailableError("gone"), after=2))
    with made[2].begin(made[0].manifest) as receipt:
        assert receipt.resumed_bytes >= 4 * 4 * CHUNK_FLOATS


def test_full_disk_here_is_no_holders_fault_and_ends_it_at_once(made: Any) -> None:
    full = NoRoomError("the sink cannot be written", required_bytes=5, available_bytes=0)
    with pytest.raises(NoRoomError, match="sink"):
        gather(made, [A], n0001=fail(full, after=2))


def test_holder_that_hangs_is_left_once_others_are_free(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SILENT_S", 0.2)
    monkeypatch.setattr(gathering, "LOOK_S", 0.02)
    fabric, _, _ = gather(made, [A, B], n0001=lambda number: asyncio.Event().wait() if number == 2 else None)
    assert sum(node == A.node for node, _ in fabric.delivered) == 2
    assert made[2].verify(made[0].artifact)


def test_holder_left_alone_is_asked_again_though_it_was_slow(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SILENT_S", 0.2)
    monkeypatch.setattr(gathering, "LOOK_S", 0.02)
    hung = iter([True])
    calls = iter(range(1000))

    def hang_once(number: int) -> Any:
        return asyncio.Event().wait() if number == 2 and next(hung, False) else None

    def fail_late(_number: int) -> None:
        if next(calls) >= CHUNKS - 7:  # A's share has ten, two of which came: B has its own thirty, and a few of A's
            raise UnavailableError("gone")

    fabric, _, _ = gather(made, [A, B], n0001=hang_once, n0002=fail_late)
    assert {node for node, _ in fabric.delivered} == {A.node, B.node}
    assert made[2].verify(made[0].artifact)
