"""Compressed updates on a real store: what a site hands on and keeps, and what the aggregator makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from tests.builders import make_candidate, make_package, make_request, make_view

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest, TravellingState
from daitn.base.errors import InputError, PeerError, PolicyError
from daitn.base.ids import ArtifactId, ChunkId, DataSetId, JobId, VisitId
from daitn.base.metrics import Counters
from daitn.decision.drafting import draft_plan
from daitn.decision.feasibility import Known, judge
from daitn.descriptors.compression import Compression, parse_compression
from daitn.descriptors.request import Budget, SecureAggregation
from daitn.descriptors.work import AggregateOutcome, AggregateWork, ServerStep, Training, TrainWork, UpdateRef
from daitn.learning.numerics.compression import RESIDUAL, plan_residual
from daitn.node.averaging import aggregate
from daitn.node.compressed_visits import adopt_compressed, residual_of
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder, Warrant

JOB = JobId("job-1")
EIGHT_BITS, FEW = Compression(), Compression(keep=0.25)
COUNT = 1000


class World:
    """One store for all: what artifacts are called does not depend on where they are."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self.counters = Counters()
        self.base = self.put(np.zeros(COUNT, dtype=np.float32))

    def put(self, values: np.ndarray) -> ArtifactId:
        layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=values.shape, role="parameter")])
        draft = Manifest(
            kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
        )
        return self.store.put_artifact(draft, {"graph": b"g", "contract": b"c"}, {"w": values.data}).artifact

    def order(self, work: object, number: int = 9) -> VisitOrder:
        warrant = Warrant(owner="ada", purpose="care", method="fedavg", signer="")  # type: ignore[arg-type]
        return VisitOrder(
            visit=VisitId(f"job-1/{number}"),
            job=JOB,
            fence=number,
            lease_s=1.0,
            wall_s=1.0,
            package=self.base,
            work=work,  # type: ignore[arg-type]
            inputs=(),
            warrant=warrant,
        )

    def sent(
        self, values: np.ndarray, compression: Compression, *, dataset: str = "north/r", number: int = 1
    ) -> tuple[ArtifactId, int]:
        """What a site hands on of a model that it has trained from the base."""
        training = Training(batch_size=1, batches=1, learning_rate=0.1)
        work = TrainWork(
            model=self.base, dataset=DataSetId(dataset), training=training, seed=0, compression=compression
        )
        layout = plan_layout(self.store.manifest(self.base).tensors)
        order = self.order(work, number)
        lineage = Lineage(job=JOB, visit=order.visit, parents=(self.base,), dataset=work.dataset)
        with self.store.new_output(layout.payload_bytes) as output:
            output.write_at(0, values.astype(np.float32).data.cast("B"))
            return adopt_compressed(self.store, order, work, output, layout, TravellingState(steps=5), lineage)

    def residual(self, dataset: str = "north/r") -> ArtifactId | None:
        layout = plan_residual(self.store.manifest(self.base).tensors)
        return residual_of(self.store, self.order(None), dataset, layout)

    def average(self, updates: list[ArtifactId], **more: object) -> AggregateOutcome:
        refs = tuple(UpdateRef(model=one, weight=float(place + 1)) for place, one in enumerate(updates))
        given = {"compression": EIGHT_BITS, "base": self.base} | more
        work = AggregateWork(updates=refs, **given)  # type: ignore[arg-type]
        return aggregate(self.store, self.counters, self.order(work), work)

    def weights(self, model: ArtifactId, tensor: str = "w") -> np.ndarray:
        return np.array(self.store.read_tensor_map(model).array(tensor))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack.enter_context(closing(ChunkStore(tmp_path, quota_bytes=1 << 24))))


def change(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(COUNT).astype(np.float32)


def test_aggregator_makes_a_model_of_compressed_updates_that_is_near_the_mean(world: World) -> None:
    updates = [world.sent(change(seed), EIGHT_BITS, dataset=f"s{seed}/r")[0] for seed in range(3)]

    outcome = world.average(updates)

    expected = np.average([change(seed) for seed in range(3)], axis=0, weights=[1, 2, 3])
    np.testing.assert_allclose(world.weights(outcome.model), expected, atol=4 / 127 * 0.51)
    manifest, base = world.store.manifest(outcome.model), world.store.manifest(world.base)
    assert (manifest.kind, manifest.parts, manifest.tensors) == (base.kind, base.parts, base.tensors)
    assert manifest.lineage.parents == tuple(updates)
    assert manifest.state.steps == 5
    assert outcome.left_out == ()


def test_server_step_and_plain_models_go_with_compressed_ones(world: World) -> None:
    whole, (small, _) = world.put(np.ones(COUNT, dtype=np.float32)), world.sent(np.ones(COUNT), EIGHT_BITS)

    step = ServerStep(optimizer="momentum", learning_rate=0.5, momentum=0.0)
    outcome = world.average([whole, small], server=step)

    assert outcome.state is not None
    np.testing.assert_allclose(world.weights(outcome.model), 0.5, atol=1e-3)


def test_update_is_smaller_by_what_the_visit_reports_and_holds_no_model(world: World) -> None:
    update, saved = world.sent(change(1), FEW)

    manifest = world.store.manifest(update)
    assert manifest.payload_bytes == world.store.manifest(world.base).payload_bytes - saved
    assert saved > 0.75 * 4 * COUNT
    assert (manifest.kind, manifest.parts) == ("compressed", ())


def test_residual_goes_into_the_next_update_also_after_the_store_was_opened_anew(tmp_path: Path) -> None:
    with closing(ChunkStore(tmp_path, quota_bytes=1 << 24)) as store:
        world = World(store)
        first, _ = world.sent(change(1), FEW)
        told = world.weights(world.average([first], compression=FEW).model)
        store.sync()
    with closing(ChunkStore(tmp_path, quota_bytes=1 << 24)) as store:
        world = World(store)
        second, _ = world.sent(change(2), FEW, number=2)
        told = told + world.weights(world.average([second], compression=FEW).model)
        residual = world.residual()
        assert residual is not None
        left = world.weights(residual, RESIDUAL)

    np.testing.assert_allclose(told + left, change(1) + change(2), atol=1e-5)


def test_residual_is_served_to_nobody_is_one_for_each_data_set_and_ends_with_the_job(world: World) -> None:
    for number in (1, 2, 3):
        update, _ = world.sent(change(number), FEW, number=number)
    world.sent(change(1), FEW, dataset="south/r", number=4)
    residual = world.residual()
    assert residual is not None

    with pytest.raises(PolicyError, match="not served"):
        world.store.locate(ChunkId(residual), residual)
    held = [world.store.manifest(one) for one in world.store.pinned_for(JOB)]
    assert sorted(one.name for one in held if one.kind == "state") == ["residual of north/r", "residual of south/r"]
    world.store.let_go(JOB, [update])  # a round is over, the job goes on
    assert world.residual() == residual
    for artifact in world.store.unpin_all(JOB):
        world.store.release(artifact)
    assert world.residual() is None
    assert not world.store.holds(residual)


def test_update_that_cannot_be_read_is_left_out_and_named(world: World) -> None:
    good, _ = world.sent(np.ones(COUNT), EIGHT_BITS)
    other, _ = world.sent(change(2), FEW, dataset="s2/r")
    stranger = world.put(np.full(COUNT, 3.0, dtype=np.float32))
    base, world.base = world.base, stranger
    foreign, _ = world.sent(change(3), EIGHT_BITS, dataset="s3/r")
    world.base = base

    outcome = world.average([good, other, foreign])

    assert outcome.left_out == (other, foreign)
    np.testing.assert_allclose(world.weights(outcome.model), 1.0, atol=1e-2)
    assert world.counters.shown() == {"updates_left_out": 2}
    with pytest.raises(PeerError, match="no update of this model"):
        world.average([other])


def test_compressed_update_that_nobody_agreed_on_is_refused(world: World) -> None:
    update, _ = world.sent(change(1), EIGHT_BITS)
    with pytest.raises(PeerError, match="no compression was agreed on"):
        world.average([update], compression=None, base=None)


def test_buffered_updates_are_read_with_what_each_was_trained_from(world: World) -> None:
    old = world.base
    late, _ = world.sent(np.ones(COUNT), EIGHT_BITS)
    world.base = head = world.put(np.full(COUNT, 2.0, dtype=np.float32))
    fresh, _ = world.sent(np.full(COUNT, 5.0), EIGHT_BITS, dataset="s2/r", number=2)
    refs = (UpdateRef(model=late, weight=1.0, base=old), UpdateRef(model=fresh, weight=1.0, base=head))
    work = AggregateWork(updates=refs, base=head, compression=EIGHT_BITS)

    outcome = aggregate(world.store, world.counters, world.order(work), work)

    np.testing.assert_allclose(world.weights(outcome.model), 2.0 + (1.0 + 3.0) / 2, atol=0.05)


# --- what is asked for ----------------------------------------------------------------------------------------------

VIEW = make_view(*(make_candidate(name) for name in ("s1", "s2", "s3")))


@pytest.mark.parametrize(
    ("text", "compression"),
    [("8-bit", Compression()), ("top-k", Compression(keep=0.05)), (" top-k=0.01", Compression(keep=0.01))],
)
def test_compression_is_read_as_it_is_written(text: str, compression: Compression) -> None:
    assert parse_compression(text) == compression
    assert parse_compression(str(compression)) == compression


@pytest.mark.parametrize("text", ["", "zip", "top-k=0", "top-k=1.5", "top-k=nan", "top-k=x", "8-bit=2"])
def test_compression_that_there_is_not_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_compression(text)
    assert repr(text) in refused.value.what
    assert refused.value.todo


def test_request_that_leaves_the_method_open_gets_one_with_updates_and_the_plan_says_how_large_they_are() -> None:
    plan = draft_plan(VIEW, make_request(compression=EIGHT_BITS), make_package(payload_bytes=4_000_000), None)

    assert (plan.method, plan.compression) == ("fedavg", EIGHT_BITS)
    (said,) = [one.chosen for one in plan.choices if one.what == "compression"]
    assert said.startswith("8-bit: updates of 1.0")
    assert "instead of 4.0" in said or "instead of 3.8" in said


def test_admission_counts_the_compressed_bytes() -> None:
    package = make_package(payload_bytes=1_000_000, parts_bytes=0)
    asked = {"method": "fedavg", "budget": Budget(transfer_bytes=5_000_000)}

    def failed(**more: object) -> list[str]:
        judged = judge(VIEW, make_request(**asked, **more), package, Known())
        return [one.what for one in judged.conditions if not one.met]

    assert failed() == ["least bytes the plan can move"]  # three sites: six models and one to be measured
    assert failed(compression=EIGHT_BITS) == []
    whole, small = (
        draft_plan(VIEW, make_request(method="fedavg", compression=one), package, None).expected.transfer_bytes
        for one in (None, FEW)
    )
    assert small < 0.7 * whole


def test_secure_aggregation_refuses_compression_with_the_reason_and_the_offer_keeps_the_masks() -> None:
    request = make_request(compression=EIGHT_BITS, secure_aggregation=SecureAggregation())

    (failed,) = [one for one in judge(VIEW, request, make_package(), Known()).conditions if not one.met]

    assert failed.what.startswith("compression: ")
    assert failed.required == "a request without secure_aggregation"
    assert "masks cancel" in failed.available


def test_work_that_needs_updates_as_they_are_is_not_compressed() -> None:
    training = Training(batch_size=1, batches=1, learning_rate=0.1, control_variates=True)
    with pytest.raises(ValueError, match="need as it is"):
        TrainWork(model="m", dataset="d", training=training, seed=0, compression=EIGHT_BITS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="compressed updates need the model"):
        AggregateWork(updates=(UpdateRef(model="m", weight=1.0),), compression=EIGHT_BITS)  # type: ignore[arg-type]
