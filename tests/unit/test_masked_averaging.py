"""A masked round on real stores: what a site hands out, what the aggregator makes of it, and that both agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import changed

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest, TravellingState
from daitn.artifacts.signatures import public_hex
from daitn.base.errors import PeerError
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, VisitId
from daitn.base.metrics import Counters
from daitn.descriptors.masked import (
    AgreeWork,
    FixedPoint,
    Masking,
    MaskMember,
    SealWork,
    SharesOf,
    Unmasking,
    UnmaskWork,
    threshold_of,
)
from daitn.descriptors.work import AggregateWork, ServerStep, Training, TrainWork, UpdateRef
from daitn.learning.masking.site import SiteMasks
from daitn.node.masked_averaging import add_masked, open_sum
from daitn.node.masked_visits import MaskedVisits
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder, Warrant

JOB, ROUND = JobId("job-1"), "job-1/4"
MEMBERS = 4
WEIGHTS = [np.array([1.0, -2.0, 0.5], dtype=np.float32) * (rank + 1) for rank in range(MEMBERS)]
RECORDS = [10, 20, 30, 40]
FIXED = FixedPoint(norm_most=20.0, records_most=40.0, members=MEMBERS)


class World:
    """One store for all: what artifacts are called does not depend on where they are."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self.counters = Counters()
        self.base = self.put(np.zeros(3, dtype=np.float32))
        keys = [Ed25519PrivateKey.generate() for _ in range(MEMBERS)]
        self.sites = [
            MaskedVisits(store, SiteMasks(NodeId(f"n{rank}"), key), self.counters) for rank, key in enumerate(keys)
        ]
        agreed = [site.answer(JOB, AgreeWork(round=ROUND, dataset=DataSetId("d"))) for site in self.sites]
        self.members = tuple(
            MaskMember(node=NodeId(f"n{rank}"), dataset=DataSetId(f"d{rank}"), signer=public_hex(key), keys=one.keys)
            for rank, (key, one) in enumerate(zip(keys, agreed, strict=True))
        )
        seal = SealWork(round=ROUND, dataset=DataSetId("d"), members=self.members)
        self.sealed = [site.answer(JOB, seal).sealed for site in self.sites]

    def put(self, values: np.ndarray) -> ArtifactId:
        layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=values.shape, role="parameter")])
        draft = Manifest(
            kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
        )
        return self.store.put_artifact(draft, {"graph": b"g", "contract": b"c"}, {"w": values.data}).artifact

    def order(self, work: object) -> VisitOrder:
        warrant = Warrant(owner="ada", purpose="care", method="fedavg", signer="")  # type: ignore[arg-type]
        return VisitOrder(
            visit=VisitId("job-1/9"),
            job=JOB,
            fence=9,
            lease_s=1.0,
            wall_s=1.0,
            package=self.base,
            work=work,  # type: ignore[arg-type]
            inputs=(),
            warrant=warrant,
        )

    def masked(self, rank: int, values: np.ndarray) -> ArtifactId:
        """What the site hands on of a model that it has trained."""
        masking = Masking(
            round=ROUND, rank=rank, sealed=tuple(self.sealed[one][rank] for one in range(MEMBERS)), fixed=FIXED
        )
        training = Training(batch_size=1, batches=1, learning_rate=0.1)
        work = TrainWork(model=self.base, dataset=DataSetId(f"d{rank}"), training=training, seed=0, masking=masking)
        layout = plan_layout(self.store.manifest(self.base).tensors)
        with self.store.new_output(layout.payload_bytes) as output:
            output.write_at(0, values.data.cast("B"))
            state = TravellingState(steps=rank + 5)
            return self.sites[rank].adopt(
                self.order(work), work, output, layout, state, Lineage(job=JOB), RECORDS[rank]
            )

    def opening(self, updates: list[ArtifactId], total: ArtifactId, **more: object) -> AggregateWork:
        """The order to open a sum of the first members' updates."""
        ranks = tuple(range(len(updates)))
        ask = UnmaskWork(round=ROUND, dataset=DataSetId("d"), members=MEMBERS, summed=ranks)
        answers = tuple(SharesOf(rank=rank, shares=self.sites[rank].answer(JOB, ask).shares) for rank in ranks)
        weight = sum(FIXED.share_of(RECORDS[rank]) for rank in ranks)
        unmasking = Unmasking(
            round=ROUND,
            mask_keys=tuple(member.keys.mask for member in self.members),
            sealed=tuple(range(MEMBERS)),
            summed=ranks,
            threshold=threshold_of(MEMBERS),
            answers=answers,
            fixed=FIXED,
            weight=weight,
        )
        sums = (UpdateRef(model=total, weight=weight),)
        return AggregateWork(updates=sums, base=self.base, unmasking=unmasking, **more)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack.enter_context(closing(ChunkStore(tmp_path, quota_bytes=1 << 24))))


def add(world: World, updates: list[ArtifactId]):
    work = AggregateWork(updates=tuple(UpdateRef(model=one, weight=1.0) for one in updates), masked=True)
    return add_masked(world.store, world.counters, world.order(work), work)


def mean_of(count: int) -> np.ndarray:
    return np.average(WEIGHTS[:count], axis=0, weights=RECORDS[:count])


@pytest.mark.parametrize("count", [4, 3], ids=["all", "one lost"])
def test_aggregator_ends_with_the_weighted_mean_and_no_update(world: World, count: int) -> None:
    updates = [world.masked(rank, WEIGHTS[rank]) for rank in range(MEMBERS)][:count]
    outcome = add(world, updates)
    assert world.store.manifest(outcome.model).kind == "masked"
    work = world.opening(updates, outcome.model)
    opened = open_sum(world.store, world.order(work), work)

    np.testing.assert_allclose(world.store.read_tensor_map(opened.model).array("w"), mean_of(count), atol=1e-6)
    manifest = world.store.manifest(opened.model)
    assert manifest.kind == "graph"
    assert [part.name for part in manifest.parts] == [part.name for part in world.store.manifest(world.base).parts]
    assert manifest.state.steps == count + 4
    assert manifest.lineage.parents == (world.base, outcome.model)


def test_masked_update_looks_nothing_like_the_model_and_does_not_carry_it(world: World) -> None:
    update = world.masked(0, WEIGHTS[0])
    manifest = world.store.manifest(update)

    assert (manifest.kind, manifest.parts, [entry.name for entry in manifest.tensors]) == ("masked", (), ["masked"])
    numbers = np.abs(world.store.read_tensor_map(update).array("masked").astype(np.int64))
    assert numbers.min() > 1000


def test_step_of_a_server_follows_the_mean_of_a_masked_sum(world: World) -> None:
    updates = [world.masked(rank, WEIGHTS[rank]) for rank in range(MEMBERS)]
    step = ServerStep(optimizer="momentum", learning_rate=0.5, momentum=0.0)
    work = world.opening(updates, add(world, updates).model, server=step)
    opened = open_sum(world.store, world.order(work), work)

    assert opened.state is not None
    np.testing.assert_allclose(world.store.read_tensor_map(opened.model).array("w"), 0.5 * mean_of(4), atol=1e-6)


def test_update_beyond_the_norm_is_made_as_short_and_counted(world: World) -> None:
    updates = [world.masked(0, WEIGHTS[0] * 1000), *(world.masked(rank, WEIGHTS[rank]) for rank in (1, 2, 3))]
    work = world.opening(updates, add(world, updates).model)
    opened = open_sum(world.store, world.order(work), work)

    short = WEIGHTS[0] / np.linalg.norm(WEIGHTS[0]) * 20.0
    expected = np.average([short, *WEIGHTS[1:]], axis=0, weights=RECORDS)
    np.testing.assert_allclose(world.store.read_tensor_map(opened.model).array("w"), expected, atol=1e-5)
    assert world.counters.shown() == {"updates_clipped": 1}


def test_plain_model_among_masked_updates_is_left_out_and_named(world: World) -> None:
    updates = [world.masked(rank, WEIGHTS[rank]) for rank in range(3)]
    plain = world.put(WEIGHTS[3])
    outcome = add(world, [*updates, plain])

    assert outcome.left_out == (plain,)
    assert world.counters.shown() == {"updates_left_out": 1}
    with pytest.raises(PeerError, match="no update of the round is a masked one"):
        add(world, [plain])


def test_sum_with_too_few_answers_is_not_opened(world: World) -> None:
    updates = [world.masked(rank, WEIGHTS[rank]) for rank in range(MEMBERS)]
    work = world.opening(updates, add(world, updates).model)
    opening = work.unmasking
    assert opening is not None
    few = changed(work, unmasking=changed(opening, answers=opening.answers[:2]))

    with pytest.raises(PeerError, match="2 members gave their shares, 3 are needed"):
        open_sum(world.store, world.order(few), few)
