"""Views (MS-DRRT): small frozen topologies made for one request, on which decisions are taken.

A candidate is a pair of data and compute: the data set, where it would train, and what that costs. Facts carry their
age; consent and identity older than their bound never make it into a view, anything else only widens uncertainty.
"""

from __future__ import annotations

import msgspec

from daitn.base.ids import DataSetId, NodeId, OperatorId
from daitn.descriptors.outcome import Exclusion
from daitn.descriptors.tariff import Tariff


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to train on one data set."""

    dataset: DataSetId
    data_node: NodeId
    compute_node: NodeId
    streamed: bool
    """Whether records would stream from `data_node` to `compute_node`; else both are one node."""
    records: float
    groups: float
    labels: dict[str, float]
    """Training records per label, private estimate."""
    fields: dict[str, float]
    record_bytes: float
    relevance: dict[str, float]
    """Per target field (`""`: over all) the share of what all candidates together promise to add to it
    (`topology.relevance`)."""
    flops: float
    memory_bytes: float
    slots: int
    batch_s: float | None
    """Seconds per batch as measured at an earlier visit of this job; None: not measured here yet."""
    bytes_per_s: float
    latency_s: float
    """Round trip to where the records come from, else to the control centre: measured, or estimated from places in the
    network; 0 where neither is known yet."""
    trust: float
    availability: float
    """Share of the next minutes for which its nodes can be counted on: planned windows and past absences."""
    age_s: float
    """Age of the oldest fact about this pair."""
    tariff: Tariff = Tariff()
    """What a visit there is charged, and draws."""
    wait_s: float = 0.0
    """A visit ordered there now would wait so long for a slot, as its site said and less what has passed since."""
    split: bool = False
    """Whether the model would be cut: front and back at `data_node`, the middle at `compute_node`. Then `bytes_per_s`
    and `latency_s` are between these two, memory and slots the less of both, the wait the longer, and the tariff
    the sum."""
    data_flops: float = 0.0
    """Of `data_node`, where the model would be cut."""
    share: float = 1.0
    """Of one slot, up to the request's deadline: the time for which its access is there by plan, less what is promised
    to other jobs (`decision.promises`). 1 while visits are being ordered."""
    methods: tuple[str, ...] = ("*",)
    """That the data owner allows."""
    arrival_per_day: float = 0.0
    """Records that arrive there, beyond what may be noise; 0 where nothing is known."""
    drift: float = 0.0
    """How far its labels are from what they were (population stability index), beyond what may be noise."""


class Verifier(msgspec.Struct, frozen=True, kw_only=True):
    """A verification unit (MPVU) that can be used, with the data sets that agree to give it a sample."""

    node: NodeId
    operator: OperatorId
    datasets: tuple[DataSetId, ...]
    sample_records: float
    """Records it would hold in all, estimate."""
    sample_fields: dict[str, float]
    evaluations_left: int
    flops: float
    bytes_per_s: float


class AggregatorSite(msgspec.Struct, frozen=True, kw_only=True):
    """A node that averages models."""

    node: NodeId
    bytes_per_s: float


class TrainingView(msgspec.Struct, frozen=True, kw_only=True):
    """What one request can be decided on. `version` grows with every change of the map."""

    version: int
    made_at_ns: int
    candidates: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...]
    verifiers: tuple[Verifier, ...]
    aggregators: tuple[AggregatorSite, ...]
    cut: tuple[Candidate, ...] = ()
    """Before a method is chosen: pairs of sites between which the model could be cut, beside the candidates."""


class ViewDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a view: whoever holds the view `since` has that of `version` once this is applied."""

    since: int
    version: int
    made_at_ns: int
    candidates: tuple[Candidate, ...] = ()
    """New ones, and those with another fact than before."""
    gone: tuple[tuple[DataSetId, NodeId], ...] = ()
    """Pairs of data and compute that are no candidates any more."""
    excluded: tuple[Exclusion, ...] | None = None
    verifiers: tuple[Verifier, ...] | None = None
    aggregators: tuple[AggregatorSite, ...] | None = None
    """Each as a whole where it changed; else None."""


class ViewStep(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a view that is followed."""

    number: int
    """Grows with each step, also over a restart of the centre."""
    why: str
    """What moved, or that another choice was made."""
    delta: ViewDelta


class ViewFollowed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The view on which a running job's next stop is chosen, as far as its planner was told of it."""

    number: int
    """Of its last step; 0: no choice has been made on a view yet."""
    view: TrainingView | None = None
    """As a whole, for whoever has none or has missed too much."""
    steps: tuple[ViewStep, ...] = ()
    """What came since the number that was asked for."""
    ranges: int = 0
    """Facts whose ranges are known within which the choice stands; 0: it stands while the same candidates are there."""
    over: bool = False
    """Whether the job has ended: nothing comes any more."""
