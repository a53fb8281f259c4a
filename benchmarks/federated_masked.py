"""A masked round of a hundred sites in one process, ten of them lost: is the sum the right one, to the last unit?

Everything is the product's but the processes and messages between them: keys, shares and masks of each site
(`learning.masking.site`), updates as artifacts of a store (`node.masked_visits`), the aggregator's sum and what opens
it (`node.masked_averaging`). Half of the lost sites go after they have made keys and before they have shared their
seeds, so that nobody masks with them; half after that, so that their masks have to be taken out of the sum again.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from daitn.artifacts.layout import Layout, TensorSpec, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest, TravellingState
from daitn.artifacts.signatures import public_hex
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.base.metrics import Counters
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    FixedPoint,
    Masking,
    MaskMember,
    SealOutcome,
    SealWork,
    SharesOf,
    Unmasking,
    UnmaskOutcome,
    UnmaskWork,
    threshold_of,
)
from daitn.descriptors.work import AggregateWork, Training, TrainWork, UpdateRef, Work
from daitn.learning.masking.opening import unmask
from daitn.learning.masking.ring import Ring, add_update, ring_of, write_update
from daitn.learning.masking.site import SiteMasks
from daitn.learning.numerics.server_step import Area
from daitn.node.masked_averaging import add_masked, open_sum
from daitn.node.masked_visits import MaskedVisits
from daitn.node.store import ChunkStore
from daitn.wire.center_tools import VisitOrder, Warrant

JOB: Final = JobId("job-1")
ROUND: Final = "job-1/1"
WEIGHTS: Final = 10_000
NORM_MOST: Final = 20.0


class MaskedRound:
    """Sites `0` to `sites` of one round over one store; the last `lost` of them do not hand in, every second of those
    not even seeds."""

    def __init__(self, store: ChunkStore, sites: int, lost: int, seed: int) -> None:
        self.store = store
        self.rng = np.random.default_rng(seed)
        self.count, self.handing = sites, sites - lost
        self.fixed = FixedPoint(norm_most=NORM_MOST, records_most=500.0, members=sites)
        self.layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=(WEIGHTS,), role="parameter")])
        self.records = [int(one) for one in self.rng.integers(50, 500, sites)]
        self.start = self.rng.normal(size=WEIGHTS).astype(np.float32)
        self.trained = [self.start + self.rng.normal(scale=0.02, size=WEIGHTS).astype(np.float32) for _ in range(sites)]
        draft = Manifest(
            kind="graph",
            name="m",
            parts=(),
            tensors=self.layout.entries,
            payload_bytes=self.layout.payload_bytes,
            chunks=(),
        )
        parts = {"graph": b"g", "contract": b"c"}
        self.base = store.put_artifact(draft, parts, {"w": self.start.data.cast("B")}).artifact
        self.signing = [Ed25519PrivateKey.generate() for _ in range(sites)]
        self.sites = [
            MaskedVisits(store, SiteMasks(NodeId(f"n{rank}"), key), Counters()) for rank, key in enumerate(self.signing)
        ]

    def run(self) -> dict[str, float]:
        """Every stage by the clock; SystemExit where the sum is another than that of the plain updates."""
        figures: dict[str, float] = {}
        began = time.perf_counter()

        def stage(name: str) -> None:
            nonlocal began
            now = time.perf_counter()
            figures[f"masked_{name}_s"] = now - began
            began = now

        members = self._agree()
        stage("keys")
        sealing = [rank for rank in range(self.count) if rank < self.handing or (rank - self.handing) % 2]
        sealed = self._seal(members, sealing)
        stage("seeds")
        updates = [self._mask(rank, sealed) for rank in range(self.handing)]
        stage("updates")
        refs = tuple(UpdateRef(model=one, weight=float(self.records[rank])) for rank, one in enumerate(updates))
        summed = add_masked(self.store, Counters(), self._order(work := AggregateWork(updates=refs, masked=True)), work)
        stage("sum")
        opening = self._opening(members, sealing)
        stage("answers")
        total = self._total(summed.model)
        unmask(total, opening)
        began = time.perf_counter()
        sums = (UpdateRef(model=summed.model, weight=opening.weight),)
        work = AggregateWork(updates=sums, base=self.base, unmasking=opening)
        opened = open_sum(self.store, self._order(work), work)
        stage("opening")
        figures["masked_s"] = sum(figures.values())
        plain = np.zeros(WEIGHTS, dtype=np.uint32)
        for rank in range(self.handing):
            add_update(plain, self._plain(rank))
        figures["masked_sum_off_by"] = float(np.abs((total - plain).view(np.int32).astype(np.int64)).max())
        if figures["masked_sum_off_by"]:
            raise SystemExit("the masked sum is another than that of the plain updates")
        with closing(self.store.read_tensor_map(opened.model)) as area:
            made = np.array(area.array("w"), dtype=np.float64)
        shares = np.array([self.fixed.share_of(self.records[rank]) for rank in range(self.handing)])
        changes = np.stack([self.trained[rank] - self.start for rank in range(self.handing)]).astype(np.float64)
        mean = self.start + (shares[:, None] * changes).sum(0) / shares.sum()
        figures["masked_mean_off_by"] = float(np.abs(made - mean).max())
        return figures

    def _agree(self) -> tuple[MaskMember, ...]:
        members: list[MaskMember] = []
        for rank, site in enumerate(self.sites):
            agreed = site.answer(JOB, AgreeWork(round=ROUND, dataset=DataSetId(f"d{rank}")))
            assert isinstance(agreed, AgreeOutcome)
            signer = public_hex(self.signing[rank])
            members.append(
                MaskMember(node=NodeId(f"n{rank}"), dataset=DataSetId(f"d{rank}"), signer=signer, keys=agreed.keys)
            )
        return tuple(members)

    def _seal(self, members: tuple[MaskMember, ...], sealing: list[int]) -> dict[int, tuple[bytes, ...]]:
        found: dict[int, tuple[bytes, ...]] = {}
        for rank in sealing:
            work = SealWork(round=ROUND, dataset=DataSetId(f"d{rank}"), members=members)
            outcome = self.sites[rank].answer(JOB, work)
            assert isinstance(outcome, SealOutcome)
            found[rank] = outcome.sealed
        return found

    def _mask(self, rank: int, sealed: dict[int, tuple[bytes, ...]]) -> ArtifactId:
        own = tuple(sealed[other][rank] if other in sealed else b"" for other in range(self.count))
        masking = Masking(round=ROUND, rank=rank, sealed=own, fixed=self.fixed)
        training = Training(batch_size=1, batches=1, learning_rate=0.1)
        work = TrainWork(model=self.base, dataset=DataSetId(f"d{rank}"), training=training, seed=0, masking=masking)
        with self.store.new_output(self.layout.payload_bytes, job=JOB) as output:
            output.write_at(0, self.trained[rank].data.cast("B"))
            return self.sites[rank].adopt(
                self._order(work), work, output, self.layout, TravellingState(), Lineage(job=JOB), self.records[rank]
            )

    def _opening(self, members: tuple[MaskMember, ...], sealing: list[int]) -> Unmasking:
        summed = tuple(range(self.handing))
        answers: list[SharesOf] = []
        for rank in summed:
            work = UnmaskWork(round=ROUND, dataset=DataSetId(f"d{rank}"), members=self.count, summed=summed)
            outcome = self.sites[rank].answer(JOB, work)
            assert isinstance(outcome, UnmaskOutcome)
            answers.append(SharesOf(rank=rank, shares=outcome.shares))
        return Unmasking(
            round=ROUND,
            mask_keys=tuple(member.keys.mask for member in members),
            sealed=tuple(sealing),
            summed=summed,
            threshold=threshold_of(self.count),
            answers=tuple(answers),
            fixed=self.fixed,
            weight=sum(self.fixed.share_of(self.records[rank]) for rank in summed),
        )

    def _total(self, summed: ArtifactId) -> Ring:
        with closing(self.store.read_tensor_map(summed)) as area:
            return ring_of(area.payload, self.store.manifest(summed).tensors).copy()

    def _plain(self, rank: int) -> NDArray[np.uint32]:
        update = np.empty(WEIGHTS, dtype=np.uint32)
        write_update(
            _area(self.layout, self.start),
            _area(self.layout, self.trained[rank]),
            self.fixed.share_of(self.records[rank]),
            self.fixed,
            update,
        )
        return update

    def _order(self, work: Work) -> VisitOrder:
        warrant = Warrant(owner=OwnerId("bench"), purpose="benchmark", method="fedavg", signer="")
        return VisitOrder(
            visit=VisitId("job-1/9"),
            job=JOB,
            fence=9,
            lease_s=1.0,
            wall_s=1.0,
            package=self.base,
            work=work,
            inputs=(),
            warrant=warrant,
        )


def _area(layout: Layout, values: NDArray[np.float32]) -> Area:
    return Area(layout.entries, memoryview(values.tobytes()))


def measure_masked(folder: Path, sites: int, lost: int, seed: int) -> dict[str, float]:
    """Seconds of each stage of one round, and how far the sum and the mean are off."""
    with closing(ChunkStore(folder, quota_bytes=1 << 30)) as store:
        return MaskedRound(store, sites, lost, seed).run()
