"""Work: what one visit does at a terminal, and what comes of it.

All four kinds of terminal are sent the same order and answer with the same result; only the work inside differs. So
leases, fences, retries and proofs are written once.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.base import limits
from daitn.base.ids import ArtifactId, DataSetId, NodeId, VisitId
from daitn.descriptors.compression import Compression
from daitn.descriptors.contract import Name
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    Masking,
    SealOutcome,
    SealWork,
    Unmasking,
    UnmaskOutcome,
    UnmaskWork,
    answers_mask_work,
)
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.server_step import ServerStep as ServerStep
from daitn.descriptors.splitting import CUTS_MOST, CutCost, Split
from daitn.descriptors.trials import TRIES_MOST, TriedOut
from daitn.descriptors.trials import Amount as Amount
from daitn.descriptors.trials import BatchCount as BatchCount
from daitn.descriptors.trials import CurvePoint as CurvePoint
from daitn.descriptors.trials import Measurement as Measurement
from daitn.descriptors.trials import TaughtBy as TaughtBy
from daitn.descriptors.trials import Training as Training
from daitn.descriptors.trials import Trying as Trying

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3.2e7)]
AMONG_MOST: Final = 3
"""Updates of an average that sites make among themselves: a pair, and one that was left over."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of a group: where it is made, and on which data."""

    visit: VisitId
    node: NodeId
    dataset: DataSetId


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Visits whose children exchange tensors within each step; a member's place in `members` is its rank.

    Every visit of a group is given the same members in the same order, and its own rank.
    """

    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=2, max_length=limits.GROUP_MEMBERS)]
    rank: Annotated[int, msgspec.Meta(ge=0, lt=limits.GROUP_MEMBERS)]

    def __post_init__(self) -> None:
        if self.rank >= len(self.members):
            raise ValueError(f"rank {self.rank} in a group of {len(self.members)}")
        if len({member.visit for member in self.members}) < len(self.members):
            raise ValueError("a visit is twice in its group")

    @property
    def name(self) -> VisitId:
        """What all members call the group: the visit of rank 0."""
        return self.members[0].visit

    @property
    def me(self) -> Member:
        """The member whose order this is."""
        return self.members[self.rank]

    def others(self) -> tuple[tuple[int, Member], ...]:
        """The partners, with their ranks."""
        return tuple((rank, member) for rank, member in enumerate(self.members) if rank != self.rank)


class TrainWork(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Train `model` for `training.batches` batches on `dataset`, held here or streamed as `records`."""

    model: ArtifactId
    dataset: DataSetId
    training: Training
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    records: ArtifactId | None = None
    """Records as tensors, from a data node without compute; None: the data set is at this node."""
    group: Group | None = None
    """With whom the gradients of each batch are exchanged; None: with nobody."""
    shared_control: ArtifactId | None = None
    """With `training.control_variates`: what the gradients of all sites were like; None: nothing is known yet."""
    own_control: ArtifactId | None = None
    """What those of this data set were like when it was last trained on; None: nothing is known yet."""
    masking: Masking | None = None
    """How the update is hidden from whoever adds it up; None: the trained model itself is handed on."""
    compression: Compression | None = None
    """How the update is made smaller before it is handed on; None: the trained model itself is handed on."""
    split: Split | None = None
    """How the model is cut between the two members of the group; None: each member trains all of it."""
    private: PrivateSteps | None = None
    """Noise on the gradients of each step; None: none."""

    def __post_init__(self) -> None:
        if self.split is not None:
            if self.group is None or len(self.group.members) != 2 or self.split.begin >= self.split.end:
                raise ValueError("a model is split between the two members of a group, from one node to a later one")
            whole = self.training.average_steps or self.training.elastic or self.training.distillation
            if self.records is not None or whole or self.training.control_variates:
                raise ValueError("a split model is trained on records that are there, as it is")
        seen_together = self.training.label_correction or self.training.distillation or self.training.replay
        if self.private is not None and seen_together:
            raise ValueError("private training looks at each record by itself")
        if self.private is not None and (self.records is not None or self.group is not None):
            raise ValueError("private training keeps records, and what bears no noise, at their site")
        if self.masking is not None and (self.group is not None or self.training.control_variates):
            raise ValueError("an update is masked that partners or control variates would show")
        exact = self.group is not None or self.masking is not None or self.training.control_variates
        if self.compression is not None and exact:
            raise ValueError("an update is compressed that partners, masks or control variates need as it is")
        if not self.training.control_variates and (self.shared_control or self.own_control):
            raise ValueError("control variates are given to training that does not use them")

    @property
    def held_here(self) -> bool:
        """Whether the data set is one of the node's own."""
        return self.records is None and not self.is_middle

    @property
    def is_middle(self) -> bool:
        """Whether it is the middle of a model whose other parts are trained where the data set is."""
        return self.split is not None and self.group is not None and self.group.rank == 1

    def models_in(self) -> tuple[ArtifactId, ...]:
        """All that has to be at the site besides records, the model first."""
        others = (one for one in (self.shared_control, self.own_control) if one is not None)
        return (self.model, *others)


class SampleRef(msgspec.Struct, frozen=True, kw_only=True):
    """A sample of held-out records that a site gave to a verification unit."""

    dataset: DataSetId
    artifact: ArtifactId
    holder: NodeId
    records: Amount


class EvaluateWork(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """Measure `model` on the test set made of `samples`, for each measurement named (see `Target.name`)."""

    model: ArtifactId
    samples: Annotated[tuple[SampleRef, ...], msgspec.Meta(max_length=10_000)]
    measurements: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)]
    preflight: bool = False
    """Before any visit: also load, take one batch of the test set and see whether the model can overfit it."""
    trial: Training | None = None
    """Preflight: hyper-parameters to learn from a part of the test set with, so that the rest shows how the model
    learns; None: not asked for."""
    trial_measurements: Annotated[tuple[Name, ...], msgspec.Meta(max_length=256)] = ()
    """What the trial measures: what the targets speak of."""
    trial_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    """Seconds the trial may take; it makes itself as short as that."""
    private: bool = False
    """Preflight: also see whether records have gradients of their own, which private training clips."""
    tries: Trying | None = None
    """Hyper-parameters to be compared by short runs on the test set; None: none."""
    cuts: bool = False
    """Preflight: also look where the model could be cut for split learning, and what each cut would cost."""


class UpdateRef(msgspec.Struct, frozen=True, kw_only=True):
    """One model to be averaged, with its weight."""

    model: ArtifactId
    weight: Annotated[float, msgspec.Meta(gt=0)]
    base: ArtifactId | None = None
    """What it was trained from, where others in the same average were trained from other models (`AggregateWork.base`
    is then moved by the mean of the differences); None: all were trained from one."""
    discount: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """With `base`: how much of the difference is taken."""
    members: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    """How many updates it is the average of already; `weight` is then the sum of theirs."""


class ControlRound(msgspec.Struct, frozen=True, kw_only=True):
    """What SCAFFOLD's server has to know of a round besides its models. Records weigh data sets, as in the mean."""

    records_before: Annotated[float, msgspec.Meta(ge=0)]
    """Records of all data sets whose gradients the round's shared control variate speaks of."""
    records_after: Annotated[float, msgspec.Meta(gt=0)]
    """The same after the round: with those of data sets that took part for the first time."""
    reach: Annotated[float, msgspec.Meta(gt=0)]
    """Batches of a visit times its learning rate: how far a gradient of one moves a weight."""


class AggregateWork(msgspec.Struct, frozen=True, kw_only=True, tag="aggregate"):
    """Weighted mean of `updates`, in the order given, streaming tensor by tensor; with `server`, the step that follows
    from it, taken from `base`. Of `buffered` updates, `base` moved by the weighted mean of what each visit changed."""

    updates: Annotated[tuple[UpdateRef, ...], msgspec.Meta(min_length=1, max_length=100_000)]
    server: ServerStep | None = None
    base: ArtifactId | None = None
    """The model that the round began from; with `server` only."""
    state: ArtifactId | None = None
    """What the optimizer remembers of earlier rounds; None: nothing yet."""
    control: ControlRound | None = None
    """With a step of `scaffold`, and only with one."""
    share: bool = False
    """The updates are some of a round's: what is wanted is their mean, which is averaged with others and is no model of
    the job yet."""
    among: bool = False
    """The updates are of sites that average with one another (gossip), and this is one of them: no aggregator."""
    masked: bool = False
    """The updates are masked: what is wanted is their sum, which is no model yet."""
    unmasking: Unmasking | None = None
    """`updates` is such a sum: its masks are taken off, and `base` moved by the mean of what is in it."""
    compression: Compression | None = None
    """How those updates that are no models were compressed: they are read with what they were trained from, which is
    `base` where they do not say it."""

    def __post_init__(self) -> None:
        if any((update.base is None) == self.buffered for update in self.updates):
            raise ValueError("either all updates of an average say what they were trained from, or none does")
        if self.buffered and (self.masked or self.unmasking is not None):
            raise ValueError("masked updates are of one round, which began from one model")
        moved = self.server is not None or self.unmasking is not None or self.buffered
        based = moved or self.compression is not None
        if based != (self.base is not None) or (self.state is not None and self.server is None):
            raise ValueError(
                "a server's step, a masked sum, a buffer or compressed updates need the model that is moved, and "
                "nothing else does"
            )
        if self.compression is not None and (self.masked or self.unmasking is not None):
            raise ValueError("masked updates are not compressed")
        if self.among and (based or self.masked or len(self.updates) > AMONG_MOST):
            raise ValueError(f"at most {AMONG_MOST} sites average with one another, and no more than that is done")
        if self.share and (moved or self.masked):
            raise ValueError("a share of a round is averaged as it is")
        if (self.masked and based) or (self.unmasking is not None and len(self.updates) != 1):
            raise ValueError("masked updates are added up first, and what follows is made of their one sum")
        if (self.control is not None) != (self.server is not None and self.server.optimizer == "scaffold"):
            raise ValueError("a step of scaffold needs to know of the round's records, and no other does")

    @property
    def buffered(self) -> bool:
        """Whether the updates were trained from models of their own each."""
        return self.updates[0].base is not None

    def models_in(self) -> tuple[ArtifactId, ...]:
        """All that it is made from, in order, each once."""
        bases = (update.base for update in self.updates)
        others = (one for one in (self.base, self.state, *bases) if one is not None)
        return tuple(dict.fromkeys((*(update.model for update in self.updates), *others)))


class ShareWork(msgspec.Struct, frozen=True, kw_only=True, tag="share"):
    """Give records of `dataset` as tensors to one node: all training records, or a held-out sample."""

    dataset: DataSetId
    kind: Literal["records", "sample"]
    receiver: NodeId
    receiver_operator: str
    contract: ArtifactId
    """Package whose contract says which tensors."""


Work = TrainWork | EvaluateWork | AggregateWork | ShareWork | AgreeWork | SealWork | UnmaskWork


def inputs_of(work: Work) -> tuple[ArtifactId, ...]:
    """The artifacts that have to be at a site before it can do a work."""
    match work:
        case TrainWork(records=records) as train:
            return train.models_in() if records is None else (*train.models_in(), records)
        case EvaluateWork(model=model, samples=samples):
            return (model, *(sample.artifact for sample in samples))
        case AggregateWork() as average:
            return average.models_in()
        case ShareWork(contract=contract):
            return (contract,)
        case AgreeWork() | SealWork() | UnmaskWork():
            return ()


class TrainOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """What a training visit reports; losses are means over the first and last tenth of its batches. Of private training
    nothing is told that bears no noise: no losses, and one record."""

    model: ArtifactId
    batches: Amount
    records: Amount
    """Training records at hand here: the weight in federated averaging."""
    loss_first: float | None
    loss_last: float | None
    update_norm: float
    """Euclidean norm of the change of all parameters."""
    weights: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Names all numbers of the model (`learning.numerics.likeness.weights_digest`): who receives it compares."""
    data_version: str
    seconds: Seconds
    exchanged_bytes: Amount = 0
    """Bytes of tensors that were sent to partners and taken from them."""
    epsilon: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    """What the job has cost this data set up to now, as its site has booked it; None: no noise was added."""
    control: ArtifactId | None = None
    """With `training.control_variates`: what this data set's gradients were like, for its next visit."""
    saved_bytes: Amount = 0
    """With `TrainWork.compression`: bytes that the update is smaller than the model it stands for."""
    fetch_s: Seconds = 0.0
    fetched_bytes: Amount = 0


class EvaluateOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """What a verification unit measured. `overfits`: whether one batch could be learnt (preflight only)."""

    model: ArtifactId
    measurements: tuple[Measurement, ...]
    test_set: str
    """Digest of the samples it was measured on."""
    evaluations_left: Amount
    seconds: Seconds
    """Loading and measuring: what each later measurement will take, too."""
    fetched_bytes: Amount = 0
    overfits: bool | None = None
    batch_seconds: Seconds = 0.0
    """Preflight: seconds for one training batch here."""
    curve: Annotated[tuple[CurvePoint, ...], msgspec.Meta(max_length=16)] = ()
    """Preflight: the trial's figures, by records learnt from, untrained first; empty where there was none."""
    cuts: Annotated[tuple[CutCost, ...], msgspec.Meta(max_length=CUTS_MOST)] = ()
    """Preflight: where the model could be cut, where that was asked for; empty where it cannot be."""
    taught: Annotated[tuple[TaughtBy, ...], msgspec.Meta(max_length=limits.SITES_PER_ORDER)] = ()
    """Preflight: what each data set's sample teaches of every field; empty where that was not tried."""
    tried: Annotated[tuple[TriedOut, ...], msgspec.Meta(max_length=TRIES_MOST)] = ()
    """What came of `EvaluateWork.tries`, each that was tried; what there was no time for is left out."""


class AggregateOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="aggregate"):
    """The averaged model."""

    model: ArtifactId
    seconds: Seconds
    state: ArtifactId | None = None
    """What the server's optimizer remembers for the next round."""
    left_out: Annotated[tuple[ArtifactId, ...], msgspec.Meta(max_length=limits.SITES_PER_ORDER)] = ()
    """Updates that are not in the average: values that are not finite, or tensors that the others do not have."""
    fetched_bytes: Amount = 0


class ShareOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="share"):
    """The artifact that holds the records, and what the site keeps for it: activations of a frozen base."""

    artifact: ArtifactId
    records: Amount
    data_version: str
    activations_bytes: Amount = 0
    activations_stay: Literal["job", "keep"] = "job"
    """Until the last job that uses them has ended, or as long as the data is there: the data owner's policy."""


Outcome = TrainOutcome | EvaluateOutcome | AggregateOutcome | ShareOutcome | AgreeOutcome | SealOutcome | UnmaskOutcome


def answers(work: Work, outcome: Outcome) -> bool:
    """Whether an outcome is of the kind that the work has, and speaks of the same model."""
    match work, outcome:
        case EvaluateWork(model=asked, tries=tries), EvaluateOutcome(model=measured, tried=tried):
            most = 0 if tries is None else len(tries.trainings)
            return asked == measured and len({one.place for one in tried} & set(range(most))) == len(tried)
        case AggregateWork(updates=updates), AggregateOutcome(left_out=left_out):
            return set(left_out) < {update.model for update in updates}
        case TrainWork(training=training), TrainOutcome(control=control):
            return training.control_variates == (control is not None)
        case ShareWork(), ShareOutcome():
            return True
        case _:
            return answers_mask_work(work, outcome)
