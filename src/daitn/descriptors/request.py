"""What a model owner asks for: targets, deadline, budgets, privacy, and what is pinned.

A target reads `metric[label]@field >= value`, label and field optional: `accuracy >= 0.8`, `accuracy@cardiology >=
0.95`, `recall[malignant] >= 0.93`, `loss <= 0.4`. A field is one of the contract's, or a mean of fields it declares.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final, Literal

import msgspec

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, DataSetId, DomainId, NodeId
from daitn.descriptors.compression import Compression
from daitn.descriptors.contract import (
    Classification,
    DataContract,
    LanguageModelling,
    Name,
    Regression,
    Reinforcement,
    Retrieval,
    Task,
)
from daitn.descriptors.job_limits import PRIORITY, Priority
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.trials import TRIES_MOST

_TARGET = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_]*)(?:\[(?P<label>[^\]]+)\])?(?:@(?P<field>[^\s<>=]+))?"
    r"\s*(?P<sense><=|>=|≤|≥)\s*(?P<value>[0-9.eE+-]+)\s*(?P<percent>%?)\s*"
)

METRICS: dict[type[Task], dict[str, Literal["up", "down"]]] = {
    Classification: {
        "accuracy": "up", "balanced_accuracy": "up", "recall": "up", "precision": "up", "f1": "up", "auc": "up",
        "loss": "down",
    },
    Regression: {"mse": "down", "mae": "down", "r2": "up", "loss": "down"},
    LanguageModelling: {"accuracy": "up", "perplexity": "down", "loss": "down"},
    Retrieval: {"accuracy": "up", "mrr": "up", "loss": "down"},
    Reinforcement: {"mean_return": "up"},
}  # fmt: skip
"""Metrics of each task and which way is better."""

METRIC_SENSES: dict[str, Literal["up", "down"]] = {
    name: sense for metrics in METRICS.values() for name, sense in metrics.items()
}
"""Which way is better, by metric: the same in every task that has it."""

UNIT_METRICS = frozenset({"accuracy", "balanced_accuracy", "recall", "precision", "f1", "auc", "mrr"})
"""Metrics whose values lie between 0 and 1."""

_PER_LABEL = {"recall", "precision"}


VARIANTS_MOST: Final = 8
"""Other models that a request may declare: each costs the unit a trial, and the owner its seconds."""

CHANCE_FLOOR: Final = 0.25
"""A goal less likely than this is refused with an offer unless its owner says otherwise: three runs in four would be
spent for nothing."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure to reach, at a verification unit. `field` empty: over all records."""

    metric: Name
    value: float
    label: str = ""
    field: str = ""
    sense: Literal[">=", "<="] = ">="

    @property
    def name(self) -> str:
        """`recall[malignant]@field`, without the value: how measurements are keyed."""
        return self.metric + (f"[{self.label}]" if self.label else "") + (f"@{self.field}" if self.field else "")

    def __str__(self) -> str:
        return f"{self.name} {self.sense} {self.value:g}"

    @property
    def scale(self) -> float:
        """What a shortfall is told in: returns, which have no range of their own, in shares of the target; others as
        they are."""
        return max(1.0, abs(self.value)) if self.metric == "mean_return" else 1.0

    def met_by(self, value: float) -> bool:
        """Whether a measured value reaches the target; NaN never does."""
        return value >= self.value if self.sense == ">=" else value <= self.value

    def shortfall(self, value: float) -> float:
        """How far a value is from the target in its scale, 0 if met; NaN counts as 1."""
        if math.isnan(value):
            return 1.0
        return max(0.0, self.value - value if self.sense == ">=" else value - self.value) / self.scale


def parse_target(text: str) -> Target:
    """Read one target; InputError with the grammar where it does not fit. Percent signs are understood."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise InputError(f"target {text!r} cannot be read", todo="write for example 'accuracy@cardiology >= 0.95'")
    try:
        value = float(match["value"])
    except ValueError:
        raise InputError(f"target {text!r}: {match['value']!r} is not a number") from None
    return Target(
        metric=match["metric"],
        label=match["label"] or "",
        field=match["field"] or "",
        sense=">=" if match["sense"] in (">=", "≥") else "<=",
        value=value / 100 if match["percent"] else value,
    )


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Upper bounds; None: not bounded by the owner."""

    transfer_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    visits: Annotated[int, msgspec.Meta(ge=0)] | None = None
    energy_joules: Annotated[float, msgspec.Meta(ge=0)] | None = None
    price: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be pinned; None: the network chooses and says why."""

    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    batches_per_visit: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    """Alike at all sites; beside `epochs_per_visit`, at a typical one."""
    epochs_per_visit: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    """Passes over its data set that a visit makes, from half to twice the batches of a typical site."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] | None = None
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    gradient_clip: Annotated[float, msgspec.Meta(gt=0)] | None = None
    average_steps: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] | None = None
    average_lead: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    label_correction: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    proximal: Annotated[float, msgspec.Meta(ge=0, le=1000)] | None = None
    server_learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    """Of the step that follows the mean of a round, where the method has one."""


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyper-parameters that the owner leaves open are searched before the run, at the verification unit
    (`decision.tuning`)."""

    trials: Annotated[int, msgspec.Meta(ge=2, le=TRIES_MOST)] = 12
    """How many are tried; the few that do best are tried for longer."""
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    """All tries together take so long at most."""


class SecureAggregation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Updates are hidden by masks that cancel in their sum: the aggregator learns the sum and no update."""

    update_norm_most: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 100.0
    """Euclidean norm of an update at most. A longer one is made as short at its site, since nobody else sees it; the
    smaller, the finer are the numbers that are added."""


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which data may be used; empty `include`: every data set that fits the contract and allows the use."""

    include: tuple[DataSetId, ...] = ()
    exclude: tuple[DataSetId, ...] = ()
    exclude_nodes: tuple[NodeId, ...] = ()
    min_records: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Records that must be available in all."""
    min_records_field: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training request, complete: what the owner wants and under which conditions."""

    name: Name
    package: ArtifactId
    purpose: Name
    targets: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1, max_length=256)]
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=3.2e7)]
    """Seconds from submission by which the model shall be back."""
    budget: Budget = Budget()
    raw_records: Literal["stay", "trust-zone"] = "stay"
    """`stay`: no record leaves its site for training; `trust-zone`: it may where the data owner's policy agrees."""
    privacy: Privacy | None = None
    """None: sites train without noise, and nothing can be claimed."""
    trust_floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    domains: tuple[DomainId, ...] = ()
    data: Selection = Selection()
    method: str = ""
    """Empty: the network chooses."""
    hyperparameters: Hyperparameters = Hyperparameters()
    tuning: Tuning | None = None
    """None: hyper-parameters are set by rules, and adjusted while the job runs."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    secure_aggregation: SecureAggregation | None = None
    """None: updates are handed to the aggregator as they are."""
    compression: Compression | None = None
    """None: updates are handed on in full."""
    priority: Priority = PRIORITY
    """The highest goes first; the domain's operator says how much an owner may ask for."""
    accept_counter_offer: bool = False
    chance_floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = CHANCE_FLOOR
    """A target whose predicted chance is below this is refused with an offer; 0: go ahead, without the trial that the
    prediction rests on. Above `CHANCE_FLOOR` a target whose chance cannot be told is refused too."""
    allow_probe: bool = False
    """Where the chance is not sure, one site may train for a moment before the verdict (`decision.probing`)."""
    variants: Annotated[tuple[ArtifactId, ...], msgspec.Meta(max_length=VARIANTS_MOST)] = ()
    """Packages of other models for the same contract: tried where this one is not believed to reach the goal, so that
    the refusal can name one that is (`decision.advising`). None of them is trained by this request."""
    until_deadline: bool = False
    """Go on to the deadline or a budget's end even where visits bring no gain any more."""

    @property
    def epsilon(self) -> float | None:
        """What the job may cost each data set at most; None: nothing bounds it."""
        return None if self.privacy is None else self.privacy.epsilon


def _not_private(request: Request, contract: DataContract) -> list[str]:
    """What would reveal records beside the noise, or has no gradient of one record to clip."""
    faults: list[str] = []
    if request.raw_records != "stay":
        faults.append("privacy: records that stream to a compute site are not private (raw_records: 'stay')")
    if request.allow_probe:
        faults.append("privacy: a probe before the verdict is not accounted for (allow_probe: leave it out)")
    if request.hyperparameters.label_correction:
        faults.append("privacy: a gradient may not know the labels of other records (label_correction: leave it out)")
    if isinstance(contract.task, Retrieval):
        faults.append("privacy: the loss of retrieval compares the records of a batch, none has a gradient of its own")
    if isinstance(contract.task, Reinforcement):
        faults.append("privacy: episodes of an environment are no records whose gradients could be clipped")
    return faults


def check_request(request: Request, contract: DataContract) -> None:
    """InputError listing every fault: unknown metric, label or field, values out of range, targets that contradict."""
    faults: list[str] = []
    metrics = METRICS[type(contract.task)]
    labels, fields = contract.labels(), contract.target_fields()
    bounds: dict[str, dict[str, float]] = {}
    for target in request.targets:
        direction = metrics.get(target.metric)
        if direction is None:
            faults.append(f"{target}: unknown metric {target.metric!r}, this task has {', '.join(metrics)}")
            continue
        if not math.isfinite(target.value):
            faults.append(f"{target}: the value is not finite")
        elif target.metric in UNIT_METRICS and not 0 <= target.value <= 1:
            faults.append(f"{target}: the value lies between 0 and 1 (write 95% or 0.95)")
        if (direction == "up") != (target.sense == ">="):
            faults.append(f"{target}: {target.metric} is better when {'higher' if direction == 'up' else 'lower'}")
        if target.label and target.label not in labels:
            faults.append(f"{target}: no label {target.label!r}, the contract has {', '.join(labels[:20]) or 'none'}")
        if target.metric in _PER_LABEL and not target.label:
            faults.append(f"{target}: {target.metric} needs a label, as in {target.metric}[{next(iter(labels), 'x')}]")
        if target.label and target.metric not in _PER_LABEL:
            faults.append(f"{target}: {target.metric} takes no label")
        if target.field and target.field not in fields:
            faults.append(f"{target}: no field {target.field!r}, the contract has {', '.join(fields[:20]) or 'none'}")
        sides = bounds.setdefault(target.name, {})
        if sides.get(target.sense, target.value) != target.value:
            faults.append(f"{target.name} is asked for twice: {sides[target.sense]:g} and {target.value:g}")
        sides[target.sense] = target.value
    if len({request.package, *request.variants}) <= len(request.variants):
        faults.append("variants name a package twice, or the submitted one itself")
    if request.privacy is not None:
        faults += _not_private(request, contract)
    overlap = set(request.data.include) & set(request.data.exclude)
    if overlap:
        faults.append(f"data sets both included and excluded: {', '.join(sorted(overlap))}")
    held = contract.field_names()
    for name in request.data.min_records_field:
        if name not in held:
            faults.append(f"min_records_field speaks of {name!r}, the contract has {', '.join(held[:20]) or 'none'}")
    if faults:
        raise InputError(
            f"request {request.name!r} is not consistent: " + "; ".join(faults),
            todo="change what is named here, one value for each target, and submit it again",
        )
