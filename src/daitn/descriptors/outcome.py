"""Outcomes of an assessment: a refusal is a result, with *all* failed conditions and the nearest goal that would do."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from daitn.base.ids import ArtifactId, DataSetId
from daitn.descriptors.request import Request

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ReasonCode(StrEnum):
    """Why a condition can fail."""

    AUTHORISATION = "authorisation"
    POLICY = "policy"
    TIME = "time"
    BYTES = "bytes"
    VISITS = "visits"
    ENERGY = "energy"
    PRICE = "price"
    MEMORY = "memory"
    SLOTS = "slots"
    STORAGE = "storage"
    NO_COMPUTE = "no-compute"
    NO_DATA = "no-data"
    VOLUME = "volume"
    COVERAGE = "coverage"
    NO_VERIFIER = "no-verifier"
    NO_TEST_SET = "no-test-set"
    TRUST = "trust"
    DOMAIN = "domain"
    METHOD = "method"
    DOES_NOT_LOAD = "does-not-load"
    CANNOT_OVERFIT = "cannot-overfit"
    ATTAINABILITY = "attainability"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was checked: what it needs and what there is, in words and, where they are numbers, as numbers."""

    code: ReasonCode
    what: str
    required: str
    available: str
    met: bool
    required_value: float | None = None
    available_value: float | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between what was asked and what is offered."""

    what: str
    asked: str
    offered: str
    because: ReasonCode


class CounterOffer(msgspec.Struct, frozen=True, kw_only=True):
    """The nearest request that would be admitted now; submitting exactly it is taking the offer."""

    request: Request
    changes: tuple[Change, ...]

    def unmasks(self, asked: Request) -> bool:
        """Whether it drops the secure aggregation or the noise that was asked for: whoever takes that has to have read
        it, so it is never taken beforehand."""
        bare = asked.secure_aggregation is not None and self.request.secure_aggregation is None
        return bare or (asked.privacy is not None and self.request.privacy is None)


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """A data set that could have served but may not or cannot, and why."""

    dataset: DataSetId
    code: ReasonCode
    why: str


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """How far a target's figure is expected to get, from how the model learnt on parts of the test set."""

    name: str
    untrained: float
    expected: float
    """Median."""
    low: float
    high: float
    """Between these with 90 %."""
    probability: Probability
    """Of reaching the target."""
    promised: float
    """The figure that can be offered: reached with 80 %, or with the owner's own floor, if that is higher."""
    runs: int = 0
    """Earlier runs that it rests on, besides the trial."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan would cost. `low`: the least it can be; the rest is where the network expects to end."""

    seconds_low: float
    seconds: float
    transfer_bytes: float
    visits: int
    price: float | None = None
    """In the domain's unit of account; None where a site of the plan states none."""
    price_low: float = 0.0
    energy_joules: float | None = None
    """None where a site of the plan does not state its power."""
    energy_joules_low: float = 0.0


class TriedVariant(msgspec.Struct, frozen=True, kw_only=True):
    """Another model that the owner declared, tried and judged in place of the submitted one, as if it were submitted
    now."""

    package: ArtifactId
    name: str
    reaches: bool
    """Whether it would be admitted, with a chance that is known."""
    probability: Probability | None = None
    """Of all targets; None: not known."""
    predictions: tuple[Prediction, ...] = ()
    failed: tuple[Condition, ...] = ()
    """Conditions that do not hold with it."""
    why: str = ""
    """Why it could not be tried; empty where it was."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What other models would do where the submitted one is not believed to reach its goal."""

    tried: tuple[TriedVariant, ...] = ()
    """In the order of the search: the smallest first, up to the first that reaches the goal."""
    untried: int = 0
    """Declared variants that the search did not come to, though none before had reached the goal."""
    why: str = ""
    """Why it did not come to them."""

    @property
    def named(self) -> TriedVariant | None:
        """The model that is predicted to reach the goal; None: none of those tried is."""
        return next((one for one in self.tried if one.reaches), None)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What T-FAM says. `probability` is of reaching all targets in time; None: the network does not know yet."""

    outcome: Literal["admitted", "refused", "needs-probe"]
    conditions: tuple[Condition, ...]
    excluded: tuple[Exclusion, ...] = ()
    probability: Probability | None = None
    probability_low: Probability = 0.0
    probability_high: Probability = 1.0
    predictions: tuple[Prediction, ...] = ()
    """Of each target that could be predicted."""
    expected: Expectation | None = None
    counter_offer: CounterOffer | None = None
    advice: Advice | None = None
    """Of refusals for attainability: which other model would do."""
    view_version: int = 0

    def failed(self) -> tuple[Condition, ...]:
        """The conditions that do not hold."""
        return tuple(condition for condition in self.conditions if not condition.met)
