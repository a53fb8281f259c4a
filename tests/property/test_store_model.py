"""The chunk store against a dictionary: whatever is put, received, pinned, read, evicted or cut, and after any crash.

The model knows what each artifact's bytes are, what is pinned and what was last seen to be held. Rules put, begin, cut
and finish receipts, pin, unpin, release and read; a crash closes nothing and opens the folder again, as a killed
process leaves it. After every step: no more than the quota is used, all that is pinned and was held is held and whole,
nothing is held that was not put whole, and a refusal for want of room was true.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import NoRoomError
from daitn.base.ids import ArtifactId, ChunkId
from daitn.node.store import ChunkStore, Receipt, TensorMap

FLOATS = 150_000
"""Elements of one tensor: 0.6 MB, a chunk of its own."""

QUOTA_BYTES = 6_000_000
PARTS = {"graph": b"graph", "contract": b"contract"}
numbers = st.integers(0, 5)


def draft_of(number: int) -> tuple[Manifest, dict[str, bytes]]:
    """Artifact `number`: one tensor all artifacts of its parity share, and one of its own."""
    tensors = {
        "shared": bytes([number % 2 + 1]) * (4 * FLOATS),
        "own": bytes([number + 10]) * (4 * FLOATS * (1 + number % 3)),
    }
    specs = [TensorSpec(name=name, dtype="float32", shape=(len(data) // 4,)) for name, data in tensors.items()]
    layout = plan_layout(specs)
    draft = Manifest(
        kind="graph", name=f"m{number}", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    return draft, tensors


class StoreMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="daitn-store-"))
        source = ChunkStore(self.folder / "source", 10**9)
        self.made: dict[int, tuple[ArtifactId, Manifest]] = {}
        self.chunks: dict[str, bytes] = {}
        for number in range(6):
            made = source.put_artifact(*_parts_between(draft_of(number)))
            self.made[number] = (made.artifact, made.manifest)
            for ref in made.manifest.all_chunks():
                place = source.locate(ChunkId(ref.id))
                assert place is not None
                with place.path.open("rb") as file:
                    self.chunks[ref.id] = os.pread(file.fileno(), place.size, place.offset)
        source.close()
        self.now_s = 0.0
        self.store = self._opened()
        self.pins: dict[ArtifactId, set[str]] = {}
        self.held: set[ArtifactId] = set()
        self.receipts: dict[int, Receipt] = {}
        self.verified: dict[int, set[str]] = {}
        self.readers: dict[int, TensorMap] = {}

    def _opened(self) -> ChunkStore:
        return ChunkStore(self.folder / "store", QUOTA_BYTES, lambda: self.now_s)

    # --- rules ------------------------------------------------------------------------------------------------------

    @rule(number=numbers, pin=st.sampled_from(["", "j1", "j2"]))
    def put(self, number: int, pin: str) -> None:
        artifact, _ = self.made[number]
        before = self.store.room_bytes()
        try:
            made = self.store.put_artifact(*_parts_between(draft_of(number)), pin=pin)
        except NoRoomError:
            assert before < sum(len(data) for data in draft_of(number)[1].values()) + 10_000
            return
        assert made.artifact == artifact
        self.held.add(artifact)
        if pin:
            self.pins.setdefault(artifact, set()).add(pin)

    @precondition(lambda self: len(self.receipts) < 2)
    @rule(number=numbers)
    def begin(self, number: int) -> None:
        if number in self.receipts:
            return
        try:
            receipt = self.store.begin(self.made[number][1])
        except NoRoomError:
            return
        self.receipts[number] = receipt
        # What was verified of it before is there still, unless it went for room since: then all of it did.
        known = self.verified.get(number, set())
        missing = {want.id for want in receipt.wants}
        if known & missing:
            assert not receipt.resumed_bytes
        self.verified[number] = set() if known & missing else known

    @rule(number=numbers, count=st.integers(1, 3))
    def receive(self, number: int, count: int) -> None:
        receipt = self.receipts.get(number)
        if receipt is None or receipt.finished:
            return
        for want in receipt.wants[:count]:
            receipt.write(want.id, self.chunks[want.id])
            self.verified.setdefault(number, set()).add(want.id)
        if not receipt.wants:
            receipt.finish()
            self.held.add(self.made[number][0])

    @rule(number=numbers)
    def cut(self, number: int) -> None:
        if (receipt := self.receipts.pop(number, None)) is not None:
            receipt.abandon()

    @rule(number=numbers, reason=st.sampled_from(["j1", "j2"]))
    def pin(self, number: int, reason: str) -> None:
        artifact = self.made[number][0]
        self.store.pin(artifact, reason)
        self.pins.setdefault(artifact, set()).add(reason)

    @rule(number=numbers, reason=st.sampled_from(["j1", "j2"]))
    def unpin(self, number: int, reason: str) -> None:
        artifact = self.made[number][0]
        self.store.unpin(artifact, reason)
        self.pins.get(artifact, set()).discard(reason)

    @rule(reason=st.sampled_from(["j1", "j2"]))
    def unpin_all(self, reason: str) -> None:
        expected = {artifact for artifact, reasons in self.pins.items() if reason in reasons}
        assert set(self.store.unpin_all(reason)) == expected
        for artifact in expected:
            self.pins[artifact].discard(reason)

    @rule(number=numbers)
    def release(self, number: int) -> None:
        artifact = self.made[number][0]
        gone = self.store.release(artifact)
        assert gone == (not self.store.holds(artifact))
        if self.pins.get(artifact) or number in self.readers:
            assert gone == (artifact not in self.held)

    @precondition(lambda self: len(self.readers) < 2)
    @rule(number=numbers)
    def read(self, number: int) -> None:
        artifact, manifest = self.made[number]
        if self.store.holds(artifact) and number not in self.readers:
            tensors = self.readers[number] = self.store.read_tensor_map(artifact)
            assert bytes(tensors.raw("own")) == draft_of(number)[1]["own"]
            assert self.store.manifest(artifact) == manifest

    @rule(number=numbers)
    def stop_reading(self, number: int) -> None:
        if (tensors := self.readers.pop(number, None)) is not None:
            tensors.close()

    @rule(number=numbers)
    def serve(self, number: int) -> None:
        artifact, manifest = self.made[number]
        place = self.store.locate(ChunkId(manifest.chunks[0].id), artifact)
        assert (place is not None) == self.store.holds(artifact)

    @rule()
    def wait(self) -> None:
        self.now_s += 3600.0

    @rule(graceful=st.booleans())
    def crash(self, graceful: bool) -> None:
        """A killed process runs none of its own code: its descriptors go, and with them the lock."""
        self.readers.clear()
        self.receipts.clear()
        if graceful:
            self.store.close()
        else:
            os.close(self.store._lock_fd)
            self.store._index.close()
            self.store._spares.close()
        self.store = self._opened()

    # --- laws -------------------------------------------------------------------------------------------------------

    @invariant()
    def no_more_than_the_quota_is_used(self) -> None:
        snapshot = self.store.snapshot()
        assert snapshot.used_bytes <= QUOTA_BYTES
        on_disk = sum(path.stat().st_size for path in (self.folder / "store" / "packs").glob("*.pack"))
        assert on_disk <= snapshot.used_bytes

    @invariant()
    def what_is_pinned_stays_and_nothing_comes_from_nowhere(self) -> None:
        for number, (artifact, _) in self.made.items():
            if artifact in self.held and (self.pins.get(artifact) or number in self.readers):
                assert self.store.holds(artifact)
            if self.store.holds(artifact):
                assert artifact in self.held
                assert self.store.verify(artifact)
            else:
                self.held.discard(artifact)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for tensors in self.readers.values():
                tensors.close()
            self.store.close()
            shutil.rmtree(self.folder)


def _parts_between(made: tuple[Manifest, dict[str, bytes]]) -> tuple[Manifest, dict[str, bytes], dict[str, bytes]]:
    return made[0], PARTS, made[1]


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
