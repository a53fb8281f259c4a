"""Trials: what a verification unit is asked to try on its test set, and the figures that come of it.

Hyper-parameters (`Training`) and figures (`Measurement`) are here because a trial is the least that needs both; visits
(`descriptors.work`) are made of the same.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.base import limits
from daitn.base.ids import DataSetId
from daitn.descriptors.contract import Name
from daitn.descriptors.privacy import PrivateSteps
from daitn.descriptors.server_step import ServerStep

Amount = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
"""Bytes or records as a site states them; bounded, so that sums stay integers that every encoding has."""
PREFLIGHT_RECORDS: Final = 32
"""Records of a preflight's one batch: a common batch size, so that the seconds measured mean something."""

BatchCount = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


TRIES_MOST: Final = 64
"""Hyper-parameters that one visit compares at most: each is a short run of its own."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Hyper-parameters of one visit, all decided."""

    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    batches: BatchCount
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "momentum"
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    gradient_clip: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Largest norm of the gradient of a step; 0: not clipped."""
    carry_optimizer: bool = True
    """Whether optimizer slots (momentum) travel with the model."""
    average_steps: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """The model handed on is the running average of its weights over about this many steps, and the newest weights
    travel among the slots; 0: the newest weights are handed on. Needs `carry_optimizer`."""
    average_lead: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """How far the newest weights go on ahead of their average: by up to this share of what it moves; 0: not at all. See
    `learning.numerics.averaging`."""
    label_correction: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Classification: how far the loss makes up for a batch's mix of labels; 0: not at all. See
    `learning.tasks.classification`."""
    proximal: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """FedProx: weight of the squared distance to the model as it arrived."""
    elastic: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """How strongly weights that mattered for earlier visits are held; 0: not at all. Needs `carry_optimizer`. See
    `learning.numerics.continual`."""
    distillation: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """How strongly answers are held to those of the model as it arrived; 0: not at all."""
    replay: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.0
    """Share of each batch taken from what the site keeps of earlier records, where its policy keeps any."""
    control_variates: bool = False
    """SCAFFOLD: each gradient is corrected by what all sites' gradients were like against this one's. See
    `learning.numerics.control_variates`."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One figure with its interval; `records` is how many records it was measured on."""

    name: Name
    value: float
    low: float
    high: float
    records: Amount


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model was after learning from so many records of a test set, on the others of it."""

    records: Amount
    measurements: Annotated[tuple[Measurement, ...], msgspec.Meta(max_length=256)]
    steps: Amount = 0
    """Training steps it took, the same for all points but the untrained one."""


class TaughtBy(msgspec.Struct, frozen=True, kw_only=True):
    """What a short training on one data set's sample alone added at the unit, field by field."""

    dataset: DataSetId
    steps: Amount
    records: Amount
    """Of its sample."""
    gains: Annotated[
        dict[Name, Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]], msgspec.Meta(max_length=limits.FIELDS)
    ]
    """Field → by how much its figure rose; fields without records that could be measured are left out."""


class Trying(msgspec.Struct, frozen=True, kw_only=True):
    """Compare these hyper-parameters: each by a short run on a part of the test set, measured on the rest.

    The data sets' samples take the place of sites: one after another (`sequential`), all from one model whose average
    goes on (`rounds`), or as if they were one (`mixed`).
    """

    trainings: Annotated[tuple[Training, ...], msgspec.Meta(min_length=1, max_length=TRIES_MOST)]
    steps: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
    """What one short run may take, in batches of `batch_size`; a visit costs `hop` of them besides its own, so that
    short visits and large batches are not had for nothing."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    hop: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    order: Literal["sequential", "rounds", "mixed"]
    names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=256)]
    """What is measured."""
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    """All runs together may take so long; those that there is no time for are left out."""
    server: ServerStep | None = None
    """The step that follows the mean of each of the `rounds`; None: the mean goes on."""
    private: Annotated[tuple[PrivateSteps, ...], msgspec.Meta(max_length=TRIES_MOST)] = ()
    """How a typical site makes the steps of each of `trainings` private; empty: they are made without noise."""

    def __post_init__(self) -> None:
        if self.private and len(self.private) != len(self.trainings):
            raise ValueError("either none or each of the hyper-parameters has private steps")
        if self.server is not None and (self.order != "rounds" or self.server.optimizer == "scaffold"):
            raise ValueError("a server's step follows rounds, and one of scaffold needs what every site keeps")

    def visits(self, training: Training) -> int:
        """Visits of a run that costs `steps`: half of a batch's cost does not depend on how large it is."""
        cost = self.hop + training.batches * (0.5 + 0.5 * training.batch_size / self.batch_size)
        return max(1, round(self.steps / cost))


class TriedOut(msgspec.Struct, frozen=True, kw_only=True):
    """What one of `Trying.trainings` came to."""

    place: Annotated[int, msgspec.Meta(ge=0, lt=TRIES_MOST)]
    """Which of them."""
    measurements: Annotated[tuple[Measurement, ...], msgspec.Meta(max_length=256)] = ()
    """Empty: training diverged."""
    visits: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """Visits of the short run, one way round."""
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3.2e7)] = 0.0
