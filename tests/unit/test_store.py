"""The chunk store: what is received survives a cut, what is held twice is sent once, what is pinned stays."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from daitn.artifacts.codec import with_parts
from daitn.artifacts.layout import TensorSpec, hash_part, plan_layout
from daitn.artifacts.manifest import Manifest, Part
from daitn.base.errors import BugError, InputError, NoRoomError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId
from daitn.node.store import Adopted, ChunkStore, OutputFile, Receipt, files
from daitn.node.store.listing import list_store
from daitn.node.store.shelf import LOOSE_S, SERVING_S

PARTS = {"graph": b"graph" * 50_000, "contract": b"contract"}
FLOATS = 700_000
"""Elements of a large tensor: two chunks, 2.8 MB."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    opened = ChunkStore(tmp_path / "store", 200_000_000)
    yield opened
    opened.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ChunkStore]:
    opened = ChunkStore(tmp_path / "source", 200_000_000)
    yield opened
    opened.close()


def values(text: str, count: int) -> bytes:
    return blake3(text.encode()).digest(length=4 * count)


def model(**tensors: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """A draft and its tensors; names that begin with `frozen` have that role."""
    specs = [
        TensorSpec(
            name=name,
            dtype="float32",
            shape=(len(data) // 4,),
            role="frozen" if name.startswith("frozen") else "parameter",
        )
        for name, data in tensors.items()
    ]
    layout = plan_layout(specs)
    draft = Manifest(
        kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    return draft, tensors


def put(store: ChunkStore, servable: bool = True, parts: Mapping[str, bytes] = PARTS, **tensors: bytes) -> Adopted:
    return store.put_artifact(*_between(model(**tensors), parts), servable=servable)


def _between(
    made: tuple[Manifest, dict[str, bytes]], parts: Mapping[str, bytes]
) -> tuple[Manifest, Mapping[str, bytes], dict[str, bytes]]:
    return made[0], parts, made[1]


def read_chunk(store: ChunkStore, chunk: str) -> bytes:
    place = store.locate(ChunkId(chunk))
    assert place is not None
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.size)


def fetch(receipt: Receipt, source: ChunkStore, count: int = 1_000_000) -> int:
    """Fetch up to `count` wanted chunks; returns their bytes."""
    wants = receipt.wants[:count]
    for want in wants:
        receipt.write(want.id, read_chunk(source, want.id))
    return sum(want.size for want in wants)


# Putting and reading


def test_put_artifact_reads_back(store: ChunkStore) -> None:
    made = put(store, weight=values("w", FLOATS), bias=values("b", 7))
    with store.read_tensor_map(made.artifact) as tensors:
        assert bytes(tensors.raw("weight")) == values("w", FLOATS)
        assert tensors.array("bias").tobytes() == values("b", 7)
        assert sorted(tensors) == ["bias", "weight"]
        with pytest.raises(InputError, match="no tensor 'missing'"):
            tensors.array("missing")
    assert store.part(made.artifact, "graph") == PARTS["graph"]
    assert store.manifest(made.artifact) == made.manifest
    assert blake3(store.manifest_bytes(made.artifact)).hexdigest() == made.artifact


def test_every_chunk_and_the_manifest_can_be_located(store: ChunkStore) -> None:
    made = put(store, weight=values("w", FLOATS))
    for ref in made.manifest.all_chunks():
        assert blake3(read_chunk(store, ref.id)).hexdigest() == ref.id
    assert blake3(read_chunk(store, made.artifact)).hexdigest() == made.artifact
    assert store.locate(ChunkId("0" * 64)) is None


def test_locate_within_an_artifact_serves_its_chunks_only(store: ChunkStore) -> None:
    first, second = put(store, weight=values("1", FLOATS)), put(store, weight=values("2", FLOATS))
    chunk = ChunkId(first.manifest.chunks[0].id)
    assert store.locate(chunk, first.artifact) is not None
    assert store.locate(chunk, second.artifact) is None


def test_bfloat16_is_shown_as_bits(store: ChunkStore) -> None:
    spec = TensorSpec(name="w", dtype="bfloat16", shape=(2, 3))
    draft = Manifest(kind="graph", name="m", parts=(), tensors=plan_layout([spec]).entries, payload_bytes=64, chunks=())
    made = store.put_artifact(draft, PARTS, {"w": bytes(range(12))})
    with store.read_tensor_map(made.artifact) as tensors:
        assert tensors.array("w").dtype == np.uint16
        assert tensors.array("w").shape == (2, 3)


def test_artifact_that_is_not_held_is_unavailable(store: ChunkStore) -> None:
    for ask in (store.manifest, store.read_tensor_map, store.payload_place):
        with pytest.raises(UnavailableError, match="is not in this store"):
            ask(ArtifactId("0" * 64))


# Outputs of child processes


def test_output_written_by_a_child_is_adopted_in_place(store: ChunkStore) -> None:
    draft, tensors = model(weight=values("w", FLOATS))
    draft = msgspec.structs.replace(
        draft,
        parts=tuple(Part(name=n, size=len(d), chunks=store.put_bytes(d)) for n, d in PARTS.items()),
    )
    output = store.new_output(draft.payload_bytes)
    inode = os.fstat(output.fileno()).st_ino
    code = "import os, sys; os.write(int(sys.argv[1]), sys.stdin.buffer.read())"
    fd = output.fileno()
    subprocess.run([sys.executable, "-c", code, str(fd)], input=tensors["weight"], pass_fds=[fd], check=True)
    adopted = store.adopt(output, draft)
    place = store.payload_place(adopted.artifact)
    assert place.path.stat().st_ino == inode
    assert store.part(adopted.artifact, "graph") == PARTS["graph"]
    assert not output.is_open
    assert store.verify(adopted.artifact)


def test_output_of_another_size_is_refused_and_stays_the_callers(store: ChunkStore) -> None:
    draft, _ = model(weight=values("w", 100))
    before = store.snapshot().used_bytes
    with store.new_output(draft.payload_bytes) as output:
        os.ftruncate(output.fileno(), 10)
        with pytest.raises(InputError, match="has 10 bytes of"):
            store.adopt(output, draft)
    assert store.snapshot().used_bytes == before


def test_output_whose_parts_are_missing_is_unavailable_and_can_be_adopted_later(store: ChunkStore) -> None:
    draft, tensors = model(weight=values("w", 100))
    parts = tuple(Part(name=name, size=len(data), chunks=hash_part(data)) for name, data in PARTS.items())
    draft = msgspec.structs.replace(draft, parts=parts)
    output: OutputFile = store.new_output(draft.payload_bytes)
    output.write_at(0, tensors["weight"])
    with pytest.raises(UnavailableError, match="part 'graph' of an output is not in this store"):
        store.adopt(output, draft)
    for data in PARTS.values():
        store.put_bytes(data)
    assert store.holds(store.adopt(output, draft).artifact)


def test_same_output_twice_is_one_artifact(store: ChunkStore) -> None:
    first = put(store, weight=values("w", FLOATS))
    used = store.snapshot().used_bytes
    assert put(store, weight=values("w", FLOATS)) == first
    assert store.snapshot().used_bytes == used


def test_parts_other_than_signed_are_refused(store: ChunkStore) -> None:
    made = put(store, weight=values("w", 10))
    with pytest.raises(InputError, match="part 'graph' given is not the one"):
        store.put_artifact(made.manifest, PARTS | {"graph": b"other"}, {"weight": values("w", 10)})


# Receiving


def test_receipt_of_all_chunks_makes_the_same_artifact(store: ChunkStore, source: ChunkStore) -> None:
    made = put(source, weight=values("w", FLOATS), bias=values("b", 7))
    with store.begin(made.manifest) as receipt:
        assert receipt.missing_bytes == sum(ref.size for ref in made.manifest.all_chunks())
        fetch(receipt, source)
        assert receipt.finish() == made.artifact
    assert store.manifest(made.artifact) == made.manifest
    assert store.verify(made.artifact)


def test_receipt_copies_what_other_artifacts_hold(store: ChunkStore, source: ChunkStore) -> None:
    """A LoRA step: only the adapter is fetched."""
    old = put(source, frozen=values("base", FLOATS), adapter=values("step 1", 100))
    new = put(source, frozen=values("base", FLOATS), adapter=values("step 2", 100))
    with store.begin(old.manifest) as receipt:
        fetch(receipt, source)
        receipt.finish()
    with store.begin(new.manifest) as receipt:
        assert fetch(receipt, source) == 448
        assert receipt.copied_bytes == 4 * FLOATS + sum(map(len, PARTS.values()))
        receipt.finish()
    assert store.release(old.artifact)
    assert store.verify(new.artifact)


def test_receipt_fetches_repeated_chunks_once(store: ChunkStore, source: ChunkStore) -> None:
    zeros = bytes(4 * FLOATS)
    made = put(source, a=zeros, b=zeros, c=zeros)
    with store.begin(made.manifest) as receipt:
        assert fetch(receipt, source) == len(zeros) + sum(map(len, PARTS.values()))
        receipt.finish()
    assert store.verify(made.artifact)


def test_receipt_refuses_wrong_bytes(store: ChunkStore, source: ChunkStore) -> None:
    made = put(source, weight=values("w", FLOATS))
    with store.begin(made.manifest) as receipt:
        want = receipt.wants[0]
        data = bytearray(read_chunk(source, want.id))
        data[5] ^= 1
        with pytest.raises(PeerError, match="have another digest"):
            receipt.write(want.id, data)
        with pytest.raises(PeerError, match="does not belong"):
            receipt.write("0" * 64, b"x")
        assert want in receipt.wants
        with pytest.raises(BugError, match="chunks are missing"):
            receipt.finish()
    assert not store.holds(made.artifact)


def test_receipt_marked_by_the_caller_counts(store: ChunkStore, source: ChunkStore) -> None:
    made = put(source, weight=values("w", FLOATS))
    with store.begin(made.manifest) as receipt:
        for want in receipt.wants:
            os.pwrite(receipt.fileno(), read_chunk(source, want.id), want.offset)
            receipt.mark(want.id)
            receipt.mark(want.id)
        receipt.finish()
    assert store.verify(made.artifact)


def test_receipt_of_what_is_held_is_finished_at_once(store: ChunkStore) -> None:
    made = put(store, weight=values("w", 10))
    receipt = store.begin(made.manifest)
    assert receipt.finished
    assert receipt.wants == ()
    assert receipt.finish() == made.artifact


def test_receipt_shared_by_two_is_finished_once(store: ChunkStore, source: ChunkStore) -> None:
    made = put(source, weight=values("w", FLOATS))
    first, second = store.begin(made.manifest), store.begin(made.manifest)
    fetch(first, source, 1)
    third = store.begin(made.manifest)
    late = third.wants[0]
    first.abandon()
    fetch(second, source)
    assert second.finish() == made.artifact
    second.abandon()
    third.write(late.id, read_chunk(source, late.id))
    third.abandon()
    assert store.snapshot().partials == 0
    assert store.verify(made.artifact)


def test_receipt_resumes_in_a_new_store_object(tmp_path: Path, source: ChunkStore) -> None:
    made = put(source, weight=values("w", 3 * FLOATS))
    store = ChunkStore(tmp_path / "r", 100_000_000)
    fetched = fetch(store.begin(made.manifest), source, 2)
    store.close()
    store = ChunkStore(tmp_path / "r", 100_000_000)
    with store.begin(made.manifest) as receipt:
        assert receipt.resumed_bytes >= fetched
        assert fetch(receipt, source) == sum(ref.size for ref in made.manifest.all_chunks()) - fetched
        receipt.finish()
    assert store.verify(made.artifact)
    store.close()


def test_receipt_trusts_no_note_whose_data_was_lost(tmp_path: Path, source: ChunkStore) -> None:
    made = put(source, weight=values("w", 3 * FLOATS))
    store = ChunkStore(tmp_path / "r", 100_000_000)
    receipt = store.begin(made.manifest)
    lost, kept = receipt.wants[:2]
    fetch(receipt, source, 2)
    os.pwrite(receipt.fileno(), bytes(100), lost.offset)
    with receipt.progress_path.open("ab") as notes:
        notes.write(b"torn")
    store.close()
    store = ChunkStore(tmp_path / "r", 100_000_000)
    with store.begin(made.manifest) as receipt:
        wanted = {want.id for want in receipt.wants}
        assert lost.id in wanted
        assert kept.id not in wanted
        fetch(receipt, source)
        receipt.finish()
    assert store.verify(made.artifact)
    store.close()


KILLED = """
import sys
from pathlib import Path
from daitn.artifacts.codec import decode_manifest
from daitn.node.store import ChunkStore

folder, manifest, chunks, stop = sys.argv[1:]
store = ChunkStore(Path(folder), 100_000_000)
receipt = store.begin(decode_manifest(Path(manifest).read_bytes()))
for number, want in enumerate(receipt.wants):
    if number == int(stop):
        break
    receipt.write(want.id, (Path(chunks) / want.id).read_bytes())
else:
    receipt.finish()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stop", [2, 1000], ids=["while receiving", "after finishing"])
def test_store_survives_kill_9(tmp_path: Path, source: ChunkStore, stop: int) -> None:
    made = put(source, weight=values("w", 3 * FLOATS))
    (tmp_path / "manifest").write_bytes(source.manifest_bytes(made.artifact))
    for ref in made.manifest.all_chunks():
        (tmp_path / ref.id).write_bytes(read_chunk(source, ref.id))
    arguments = [str(tmp_path / "killed"), str(tmp_path / "manifest"), str(tmp_path), str(stop)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    store = ChunkStore(tmp_path / "killed", 100_000_000)
    with store.begin(made.manifest) as receipt:
        assert receipt.finished == (stop == 1000)
        assert len(receipt.wants) == max(0, len(made.manifest.all_chunks()) - stop)
        fetch(receipt, source)
        receipt.finish()
    assert store.verify(made.artifact)
    assert store.snapshot().partials == 0
    store.close()


# Room


def test_eviction_takes_the_least_recently_used_and_spares_pins(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 12_000_000)
    pinned = put(store, weight=values("0", FLOATS))
    store.pin(pinned.artifact, "job 1")
    old, fresh = put(store, weight=values("1", FLOATS)), put(store, weight=values("2", FLOATS))
    store.manifest(old.artifact)
    store.manifest_bytes(old.artifact)
    put(store, weight=values("3", FLOATS))
    assert store.holds(pinned.artifact)
    assert store.holds(old.artifact)
    assert not store.holds(fresh.artifact)
    assert store.snapshot().counts["evicted"] == 1
    assert store.snapshot().used_bytes <= 12_000_000
    store.close()


def test_eviction_spares_what_is_being_read(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 7_000_000)
    first = put(store, weight=values("1", FLOATS))
    with store.read_tensor_map(first.artifact):
        second = put(store, weight=values("2", FLOATS))
        store.pin(second.artifact, "job")
        with pytest.raises(UnavailableError):
            put(store, weight=values("3", FLOATS))
        assert not store.release(first.artifact)
    put(store, weight=values("3", FLOATS))
    assert not store.holds(first.artifact)
    assert store.holds(second.artifact)
    store.close()


def test_quota_that_cannot_hold_it_refuses_with_numbers_and_evicts_nothing(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 7_000_000)
    held = put(store, weight=values("1", FLOATS))
    with pytest.raises(UnavailableError, match=r"needs 8.4 MB and has room for 7.0 MB"):
        store.new_output(12 * FLOATS)
    assert store.holds(held.artifact)
    store.close()


def test_pins_survive_reopening_until_every_reason_is_gone(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 7_000_000)
    made = put(store, weight=values("1", FLOATS))
    store.pin(made.artifact, "job 1")
    store.pin(made.artifact, "job 2")
    store.close()
    store = ChunkStore(tmp_path / "s", 7_000_000)
    store.unpin(made.artifact, "job 1")
    assert not store.release(made.artifact)
    store.unpin(made.artifact, "job 2")
    assert store.release(made.artifact)
    assert store.release(made.artifact)
    assert store.snapshot().used_bytes == 0
    store.close()


def test_partial_receipts_go_when_room_is_needed(tmp_path: Path, source: ChunkStore) -> None:
    made = put(source, weight=values("w", FLOATS))
    store = ChunkStore(tmp_path / "s", 5_000_000)
    receipt = store.begin(made.manifest)
    fetch(receipt, source, 1)
    with pytest.raises(UnavailableError):
        put(store, weight=values("x", FLOATS))
    receipt.abandon()
    put(store, weight=values("x", FLOATS))
    assert store.snapshot().counts["evicted_partial"] == 1
    assert list((tmp_path / "s" / "packs").glob("*.progress")) == []
    store.close()


LIMITED = """
import resource, sys
from pathlib import Path
from daitn.base.errors import UnavailableError
from daitn.node.store import ChunkStore

store = ChunkStore(Path(sys.argv[1]), 10**9)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
for attempt in (lambda: store.new_output(2_000_000), lambda: store.put_bytes(bytes(2_000_000))):
    try:
        attempt()
    except UnavailableError as error:
        print(error)
snapshot = store.snapshot()
assert snapshot.used_bytes == 0 and snapshot.packs == 0, snapshot
assert not list(Path(sys.argv[1]).glob("*/*")), list(Path(sys.argv[1]).glob("*/*"))
"""


def test_disk_that_is_full_refuses_with_numbers_and_leaves_nothing(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE  # stands in for a full disk: the kernel refuses to let a file grow
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("2.0 MB" in line and "free on that disk" in line for line in lines)


# Private artifacts


def test_private_artifact_is_read_here_but_not_served(store: ChunkStore) -> None:
    made = put(store, servable=False, weight=values("secret", FLOATS))
    chunk = ChunkId(made.manifest.chunks[0].id)
    for asked in (lambda: store.locate(chunk), lambda: store.locate(chunk, made.artifact)):
        with pytest.raises(PolicyError, match="is not served"):
            asked()
    with store.read_tensor_map(made.artifact) as tensors:
        assert len(tensors) == 1


def test_private_chunks_are_not_drawn_into_a_servable_artifact(store: ChunkStore, source: ChunkStore) -> None:
    """A peer that names digests of a private sample in a manifest of its own gets nothing copied."""
    put(store, servable=False, weight=values("secret", FLOATS))
    other = put(source, weight=values("secret", FLOATS), bias=values("b", 3))
    with store.begin(other.manifest) as receipt:
        assert receipt.copied_bytes == 0
        assert len(receipt.wants) == len(other.manifest.all_chunks())
    with store.begin(other.manifest, servable=False) as receipt:
        assert receipt.copied_bytes > 0


def test_artifact_received_privately_is_no_longer_served_after_reopening(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 10_000_000)
    made = put(store, weight=values("w", 10))
    store.begin(made.manifest, servable=False)
    store.close()
    store = ChunkStore(tmp_path / "s", 10_000_000)
    with pytest.raises(PolicyError):
        store.locate(ChunkId(made.manifest.chunks[0].id))
    store.close()


# Opening


def test_opening_drops_packs_of_another_size_and_orphans(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 100_000_000)
    whole, cut, gone = (put(store, weight=values(name, FLOATS)) for name in "abc")
    paths = [store.payload_place(made.artifact).path for made in (whole, cut, gone)]
    store.close()
    os.truncate(paths[1], 1000)
    paths[2].unlink()
    (paths[0].parent / "orphan.pack").write_bytes(b"x")
    (tmp_path / "s" / "output" / "left").write_bytes(b"x")
    store = ChunkStore(tmp_path / "s", 100_000_000)
    assert [store.holds(made.artifact) for made in (whole, cut, gone)] == [True, False, False]
    assert store.snapshot().counts == {"dropped_at_opening": 2, "orphans_removed": 1}
    assert store.snapshot().used_bytes == paths[0].stat().st_size
    assert [path.name for path in paths[0].parent.iterdir()] == [paths[0].name]
    store.close()


def test_opening_after_a_power_cut_verifies_what_was_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChunkStore(tmp_path / "s", 100_000_000)
    synced = put(store, weight=values("a", FLOATS))
    assert store.sync() == 1
    damaged, whole = put(store, weight=values("b", FLOATS)), put(store, weight=values("c", FLOATS))
    path = store.payload_place(damaged.artifact).path
    store.close()
    with path.open("r+b") as file:
        file.write(bytes(64))
    monkeypatch.setattr(files, "boot_id", lambda: "the machine started again")
    store = ChunkStore(tmp_path / "s", 100_000_000)
    assert [store.holds(made.artifact) for made in (synced, damaged, whole)] == [True, False, True]
    assert store.snapshot().counts == {"verified_at_opening": 2, "dropped_at_opening": 1}
    assert store.snapshot().unsynced == 0
    store.close()


def test_verify_drops_what_is_damaged(store: ChunkStore) -> None:
    made = put(store, weight=values("w", FLOATS))
    with store.payload_place(made.artifact).path.open("r+b") as file:
        file.write(bytes(64))
    assert not store.verify(made.artifact)
    assert not store.holds(made.artifact)
    assert store.snapshot().counts == {"corrupt": 1}


def test_what_changed_on_the_disk_is_not_copied_into_the_next_artifact(store: ChunkStore, source: ChunkStore) -> None:
    old = put(source, frozen=values("base", FLOATS), adapter=values("step 1", 100))
    new = put(source, frozen=values("base", FLOATS), adapter=values("step 2", 100))
    with store.begin(old.manifest) as receipt:
        fetch(receipt, source)
        receipt.finish()
    path = store.payload_place(old.artifact).path
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with store.begin(new.manifest) as receipt:
        wanted = {want.id for want in receipt.wants}
        assert old.manifest.chunks[0].id in wanted, "the damaged chunk is asked for again"
        assert old.manifest.chunks[1].id not in wanted, "the other one was copied"
        assert not store.holds(old.artifact)
        fetch(receipt, source)
        receipt.finish()
    assert store.verify(new.artifact)
    assert store.snapshot().counts == {"corrupt": 1}


def test_second_process_on_the_folder_is_refused(tmp_path: Path, store: ChunkStore) -> None:
    with pytest.raises(UnavailableError, match="used by another process"):
        ChunkStore(tmp_path / "store", 1)


def test_many_threads_put_receive_read_and_evict(tmp_path: Path, source: ChunkStore) -> None:
    store = ChunkStore(tmp_path / "s", 20_000_000)
    made = [put(source, weight=values(str(number), FLOATS)) for number in range(6)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(6):
                each = made[(number + turn) % 6]
                with store.begin(each.manifest) as receipt:
                    fetch(receipt, source)
                    receipt.finish()
                put(store, weight=values(f"{number}/{turn}", 100))
                store.locate(ChunkId(each.manifest.chunks[0].id))
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    on_disk = sum(path.stat().st_size for path in (tmp_path / "s" / "packs").iterdir())
    assert store.snapshot().used_bytes == on_disk <= 20_000_000
    store.close()


# Room


def test_spares_give_way_and_so_count_as_room(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 60_000_000)
    held = put(store, weight=values("1", 5_000_000))
    wait_for_spares = store.release(held.artifact, job="one")
    assert wait_for_spares
    room = store.room_bytes()
    assert room == store.capacity_bytes() == 60_000_000
    store.new_output(room).discard()
    store.close()


def test_capacity_counts_what_is_pinned_and_room_does_not(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 10_000_000)
    kept = put(store, weight=values("1", FLOATS))
    store.pin(kept.artifact, "job")
    assert store.capacity_bytes() == 10_000_000
    assert store.room_bytes() < 10_000_000
    store.close()


def test_room_is_what_a_new_artifact_may_take_and_no_more(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 10_000_000)
    kept = put(store, weight=values("1", FLOATS))
    store.pin(kept.artifact, "job")
    put(store, weight=values("2", FLOATS))
    room = store.room_bytes()
    assert room == 10_000_000 - store.snapshot().pinned_bytes
    with pytest.raises(NoRoomError) as refused:
        store.new_output(room + 1)
    assert (refused.value.required_bytes, refused.value.available_bytes) == (room + 1, room)
    store.new_output(room).discard()
    assert store.holds(kept.artifact)
    store.close()


def test_pack_that_is_being_served_is_not_evicted_until_its_receiver_has_gone(tmp_path: Path) -> None:
    now_s = [100.0]
    store = ChunkStore(tmp_path / "s", 7_000_000, lambda: now_s[0])
    served = put(store, weight=values("1", FLOATS))
    assert store.locate(ChunkId(served.manifest.chunks[0].id), served.artifact) is not None
    later = put(store, weight=values("2", FLOATS))
    with pytest.raises(NoRoomError):
        store.new_output(6_000_000)
    put(store, weight=values("3", FLOATS))
    assert store.holds(served.artifact)
    assert not store.holds(later.artifact)
    now_s[0] += SERVING_S
    store.new_output(6_000_000).discard()
    assert not store.holds(served.artifact)
    store.close()


def test_result_is_pinned_from_the_moment_it_is_there(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 7_000_000)
    made = store.put_artifact(*_between(model(weight=values("1", FLOATS)), PARTS), pin="job")
    put(store, weight=values("2", FLOATS))
    with pytest.raises(NoRoomError):
        store.new_output(6_000_000)
    assert store.unpin_all("job") == (made.artifact,)
    store.new_output(6_000_000).discard()
    store.close()


def test_loose_bytes_go_once_an_artifact_has_them_and_after_an_hour_without_one(tmp_path: Path) -> None:
    now_s = [0.0]
    store = ChunkStore(tmp_path / "s", 20_000_000, lambda: now_s[0])
    source = ChunkStore(tmp_path / "source", 20_000_000)
    made = put(source, weight=values("w", FLOATS))
    for ref in made.manifest.all_chunks():
        store.put_bytes(read_chunk(source, ref.id))
    with store.begin(made.manifest) as receipt:
        assert receipt.wants == ()
        receipt.finish()
    assert store.snapshot().packs == 1
    store.put_bytes(values("walked away", 3 * FLOATS))
    store.pin(made.artifact, "package")
    with pytest.raises(NoRoomError):
        store.new_output(12_000_000)
    now_s[0] += LOOSE_S
    store.new_output(12_000_000).discard()
    source.close()
    store.close()


def test_listing_says_what_is_kept_for_whom_and_what_goes_first(tmp_path: Path, source: ChunkStore) -> None:
    store = ChunkStore(tmp_path / "s", 50_000_000)
    first, kept, last = (put(store, weight=values(name, FLOATS)) for name in "123")
    store.pin(kept.artifact, "job 1")
    store.put_bytes(b"loose" * 1000)
    coming = put(source, weight=values("4", FLOATS))
    receipt = store.begin(coming.manifest)
    fetch(receipt, source, 2)
    store.sync()
    listing = list_store(tmp_path / "s", 50_000_000)
    assert [one.artifact for one in listing.packs if one.goes] == [last.artifact, "", first.artifact], (
        "the first was used: a part that the receipt shares was copied from it"
    )
    assert [(one.artifact, one.pins, one.kind) for one in listing.packs if not one.goes] == [
        (kept.artifact, ("job 1",), "graph")
    ]
    assert [(one.artifact, one.verified_chunks >= 2) for one in listing.partials] == [(coming.artifact, True)]
    assert listing.used_bytes == store.snapshot().used_bytes
    assert listing.pinned_bytes == store.snapshot().pinned_bytes
    receipt.abandon()
    store.close()
    with pytest.raises(InputError, match="is no store"):
        list_store(tmp_path / "nothing", 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_refuses_a_receipt_holds_nothing_of_it_and_goes_on(small_disk: Path, source: ChunkStore) -> None:
    big = put(source, weight=values("big", 10 * FLOATS))
    fits = put(source, weight=values("fits", FLOATS))
    store = ChunkStore(small_disk / "s", 10**9)
    with pytest.raises(NoRoomError, match=r"needs 28\.3 MB and has room for 2\d\.\d MB"):
        store.begin(big.manifest)
    assert not store.holds(big.artifact)
    assert store.snapshot().used_bytes == 0
    with store.begin(fits.manifest) as receipt:
        fetch(receipt, source)
        receipt.finish()
    assert store.verify(fits.artifact)
    store.close()


def test_disk_filled_by_others_fails_the_adoption_and_leaves_the_output_its_callers(small_disk: Path) -> None:
    store = ChunkStore(small_disk / "s", 10**9)
    draft, tensors = model(weight=values("w", FLOATS))
    draft = msgspec.structs.replace(draft, parts=with_parts(draft, PARTS).parts)
    for data in PARTS.values():
        store.put_bytes(data)
    with store.new_output(draft.payload_bytes) as output:
        output.write_at(0, tensors["weight"])
        filler = small_disk / "others"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(NoRoomError):
            store.adopt(output, draft, pin="job")
        assert output.is_open
        assert store.snapshot().artifacts == 0
        assert store.pin_reasons() == frozenset()
        filler.unlink()
        made = store.adopt(output, draft)
    assert store.verify(made.artifact)
    store.close()
    store = ChunkStore(small_disk / "s", 10**9)
    assert store.holds(made.artifact)
    store.close()


# What a job needs no more


def test_last_model_of_a_job_stays_while_its_room_is_not_needed(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "s", 10_000_000)
    first, second = (
        store.put_artifact(*_between(model(weight=values(name, FLOATS)), PARTS), pin="job") for name in "12"
    )
    store.let_go("job", (first.artifact,))
    assert not store.holds(first.artifact)
    store.let_go("job", (second.artifact,))
    assert store.holds(second.artifact)
    assert store.pin_reasons() == {"job"}
    assert store.snapshot().pinned_bytes == 0
    third = store.put_artifact(*_between(model(weight=values("3", FLOATS)), PARTS), pin="job")
    assert store.holds(second.artifact)
    store.let_go("job", ())
    assert not store.holds(second.artifact)
    store.let_go("job", (third.artifact,))
    store.new_output(9_000_000).discard()
    assert not store.holds(third.artifact)
    assert store.unpin_all("job") == (third.artifact,)
    assert store.pin_reasons() == frozenset()
    store.close()
