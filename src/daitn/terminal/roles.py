"""What each role of a terminal accepts: data node, compute node, verification unit (MPVU), aggregator.

A role is asked `judge(order)` before a visit is taken, and answers with every reason against it. The data owner's
policy is checked here, at the site that holds the data, whatever the control centre believed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from daitn.base.ids import DataSetId, JobId, NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.masked import AgreeWork, SealWork, UnmaskWork
from daitn.descriptors.policy import Policy, PolicyFault, Use, check_use
from daitn.descriptors.work import AggregateWork, EvaluateWork, ShareWork, TrainWork
from daitn.wire.center_tools import VisitOrder, VisitPrepare, Warrant

UseKind = Literal["train", "records", "sample", "split"]
"""See `descriptors.policy.Use`."""

DAY_NS: Final = 86_400 * NS_PER_S

VISITS_REMEMBERED: Final = 100_000
"""Visits of one data set remembered for a day's count; a policy that allows more sets no bound worth the name."""


def refused_by(faults: Sequence[PolicyFault]) -> str:
    """What refused an order, in the words of the counter `visits_refused`: a missing role, policy, or no room."""
    if not faults:
        return "busy"
    return "role" if any(fault.rule == "role" for fault in faults) else "policy"


def _fault(rule: str, asked: str, allowed: str) -> PolicyFault:
    return PolicyFault(rule=rule, asked=asked, allowed=allowed)


def _noise_missing(work: TrainWork, warrant: Warrant) -> PolicyFault | None:
    """An order's noise has to be what its warrant speaks of, by which the policy was asked."""
    bound = None if work.private is None else work.private.epsilon
    if bound == warrant.epsilon:
        return None
    asked = "no noise" if bound is None else f"noise for ε = {bound:g}"
    return _fault("warrant", asked, "no noise" if warrant.epsilon is None else f"noise for ε = {warrant.epsilon:g}")


class DataNode:
    """Holds data sets and lets each be used as its policy says."""

    def __init__(self, policies: Mapping[DataSetId, Policy]) -> None:
        self.policies = dict(policies)
        self._taken: dict[DataSetId, deque[int]] = {}

    def judge_use(
        self, dataset: DataSetId, warrant: Warrant, kind: UseKind, operator: str = ""
    ) -> tuple[PolicyFault, ...]:
        """Every rule against this use of one data set."""
        policy = self.policies.get(dataset)
        if policy is None:
            return (_fault("dataset", dataset, ", ".join(sorted(self.policies)) or "none"),)
        use = Use(
            owner=warrant.owner,
            purpose=warrant.purpose,
            method=warrant.method,
            signer=warrant.signer,
            kind=kind,
            operator=operator,
            epsilon=warrant.epsilon,
        )
        return check_use(policy, use)

    def note_visit(self, dataset: DataSetId, at_ns: int) -> None:
        """A visit that uses this data set was taken: it counts against the policy's `visits_per_day`."""
        self._taken.setdefault(dataset, deque(maxlen=VISITS_REMEMBERED)).append(at_ns)

    def judge(self, order: VisitOrder, now_ns: int = 0) -> tuple[PolicyFault, ...]:
        """Faults of an order that touches data held here: every rule of the policy, and with `now_ns` how often it was
        used within a day."""
        match order.work:
            case TrainWork(dataset=dataset, split=split) as work if work.held_here:
                kind: UseKind = "train" if split is None else "split"
                faults = self.judge_use(dataset, order.warrant, kind, "" if split is None else split.operator)
                if (faults_of_noise := _noise_missing(work, order.warrant)) is not None:
                    faults += (faults_of_noise,)
            case ShareWork(dataset=dataset, kind=shared, receiver_operator=operator):
                faults = self.judge_use(dataset, order.warrant, shared, operator)
            case _:
                return ()
        policy = self.policies.get(dataset)
        if policy is None:
            return faults
        used = sum(at_ns > now_ns - DAY_NS for at_ns in self._taken.get(dataset, ()))
        if now_ns and used >= policy.visits_per_day:
            faults += (_fault("visits_per_day", f"visit {used + 1} within a day", str(policy.visits_per_day)),)
        return faults


class VerificationUnit:
    """MPVU: measures models on a test set that never leaves it, and only so often: a set asked too often leaks."""

    def __init__(self, node: NodeId, evaluations_per_job: int) -> None:
        self.node = node
        self.evaluations_per_job = evaluations_per_job
        self._used: dict[JobId, int] = {}

    def judge(self, order: VisitOrder) -> tuple[PolicyFault, ...]:
        """Refuses when the job has used up its evaluations."""
        if self.left(order.job) <= 0:
            return (
                _fault("evaluations_per_job", str(self._used.get(order.job, 0) + 1), str(self.evaluations_per_job)),
            )
        return ()

    def count(self, job: JobId) -> None:
        """One evaluation was made for this job."""
        self._used[job] = self._used.get(job, 0) + 1

    def left(self, job: JobId) -> int:
        """Evaluations this job may still ask for."""
        return self.evaluations_per_job - self._used.get(job, 0)


class Roles:
    """The roles one node carries; None: it does not have that role."""

    def __init__(
        self,
        *,
        data: DataNode | None = None,
        computes: bool = False,
        verification: VerificationUnit | None = None,
        aggregates: bool = False,
    ) -> None:
        self.data = data
        self.computes = computes
        self.verification = verification
        self.aggregates = aggregates

    def judge(self, order: VisitOrder, now_ns: int = 0) -> tuple[PolicyFault, ...]:
        """Every reason against an order: role missing, policy, uses of the day or evaluations used up."""
        faults: list[PolicyFault] = []
        match order.work:
            case TrainWork() as work:
                if not self.computes:
                    faults.append(_fault("role", "compute", self._names()))
                if work.held_here:
                    faults += self._judge_data(order, now_ns)
            case ShareWork():
                faults += self._judge_data(order, now_ns)
            case AgreeWork(dataset=dataset):
                faults += self._judge_hiding()
                if self.data is not None and dataset in self.data.policies:
                    faults += self.data.judge_use(dataset, order.warrant, "train")
            case SealWork() | UnmaskWork():
                faults += self._judge_hiding()
            case EvaluateWork():
                if self.verification is None:
                    faults.append(_fault("role", "verification", self._names()))
                else:
                    faults += self.verification.judge(order)
            case AggregateWork(among=among):
                if not self.aggregates and not (among and self.computes):
                    faults.append(_fault("role", "aggregator", self._names()))
        return tuple(faults)

    def allow(self, prepare: VisitPrepare) -> bool:
        """Whether what is prepared would be allowed here."""
        if prepare.dataset is not None and self.data is not None and prepare.dataset in self.data.policies:
            return not self.data.judge_use(prepare.dataset, prepare.warrant, "train")
        return not (prepare.verify and self.verification is None)

    def _judge_hiding(self) -> tuple[PolicyFault, ...]:
        """Masks are made where models are trained."""
        return () if self.computes else (_fault("role", "compute", self._names()),)

    def _judge_data(self, order: VisitOrder, now_ns: int) -> tuple[PolicyFault, ...]:
        if self.data is None:
            return (_fault("role", "data", self._names()),)
        return self.data.judge(order, now_ns)

    def _names(self) -> str:
        names = {
            "data": self.data is not None,
            "compute": self.computes,
            "verification": self.verification is not None,
            "aggregator": self.aggregates,
        }
        return ", ".join(name for name, there in names.items() if there) or "none"


def held_data(order: VisitOrder) -> DataSetId | None:
    """The data set at this node that an order uses."""
    match order.work:
        case TrainWork(dataset=dataset) as work:
            return dataset if work.held_here else None
        case ShareWork(dataset=dataset):
            return dataset
        case _:
            return None
