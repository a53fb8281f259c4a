"""What a job knows of its masked round: who agreed, who shared seeds, whose updates are in the sum, who answered.

Part of a job's state, made from its records alone, so that a round survives a restart of the centre. All that passes
here is public keys, sealed shares and, at the end, the shares that open one sum.
"""

from __future__ import annotations

from typing import Literal

from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    FixedPoint,
    MaskMember,
    RoundKeys,
    SealOutcome,
    SealWork,
    SharesOf,
    UnmaskOutcome,
    UnmaskWork,
    threshold_of,
)
from daitn.descriptors.work import AggregateOutcome, AggregateWork, Outcome, TrainOutcome, TrainWork, UpdateRef, Work

Stage = Literal["", "agree", "seal", "train", "sum", "unmask", "open"]
"""What was ordered last: each stage begins when all of the one before has ended. Empty: no round is under way."""


class MaskBook:
    """See the module's docstring. Changed by a job's records only."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """The round is over."""
        self.stage: Stage = ""
        self.round = ""
        self.keys: dict[DataSetId, tuple[NodeId, RoundKeys]] = {}
        self.members: tuple[MaskMember, ...] = ()
        self.sealed: dict[int, tuple[bytes, ...]] = {}
        self.fixed: FixedPoint | None = None
        self.ranks: dict[ArtifactId, int] = {}
        """Whose each masked update is."""
        self.sum: ArtifactId | None = None
        self.summed: tuple[UpdateRef, ...] = ()
        self.answers: dict[int, SharesOf] = {}

    @property
    def threshold(self) -> int:
        """How many of the members the round needs at every stage."""
        return threshold_of(len(self.members))

    @property
    def summed_ranks(self) -> tuple[int, ...]:
        """Whose updates are in the sum."""
        return tuple(sorted(self.ranks[update.model] for update in self.summed))

    def rank_of(self, dataset: DataSetId) -> int:
        """A member's place."""
        return next(rank for rank, member in enumerate(self.members) if member.dataset == dataset)

    def ordered(self, work: Work) -> None:
        """A piece of work was ordered: it may begin the next stage."""
        match work:
            case AgreeWork(round=name):
                if self.round != name:
                    self.clear()
                self.stage, self.round = "agree", name
            case SealWork(members=members):
                self.stage, self.members = "seal", members
            case TrainWork(masking=masking) if masking is not None:
                self.stage, self.fixed = "train", masking.fixed
            case AggregateWork(masked=True):
                self.stage = "sum"
            case UnmaskWork():
                self.stage = "unmask"
            case AggregateWork(unmasking=unmasking) if unmasking is not None:
                self.stage = "open"
            case _:
                pass

    def accepted(self, node: NodeId, work: Work, outcome: Outcome) -> None:
        """A result was accepted."""
        match work, outcome:
            case AgreeWork(dataset=dataset), AgreeOutcome(keys=keys):
                self.keys[dataset] = (node, keys)
            case SealWork(dataset=dataset), SealOutcome(sealed=sealed):
                self.sealed[self.rank_of(dataset)] = sealed
            case TrainWork(masking=masking), TrainOutcome(model=model) if masking is not None:
                self.ranks[model] = masking.rank
            case AggregateWork(masked=True, updates=updates), AggregateOutcome(model=model, left_out=left_out):
                self.sum = model
                self.summed = tuple(update for update in updates if update.model not in left_out)
            case UnmaskWork(dataset=dataset), UnmaskOutcome(shares=shares):
                rank = self.rank_of(dataset)
                self.answers[rank] = SharesOf(rank=rank, shares=shares)
            case AggregateWork(unmasking=unmasking), AggregateOutcome() if unmasking is not None:
                self.clear()
            case _:
                pass
