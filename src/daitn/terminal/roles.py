"""What each role of a terminal accepts: data node, compute node, verification unit (MPVU), aggregator.

A role is asked `judge(order)` before a visit is taken, and answers with every reason against it. The data owner's
policy is checked here, at the site that holds the data, whatever the control centre believed.
"""

from __future__ import annotations

from collections.abc import Mapping

from daitn.base.ids import DataSetId, JobId, NodeId
from daitn.descriptors.policy import Policy, PolicyFault, Use, check_use
from daitn.descriptors.work import AggregateWork, EvaluateWork, ShareWork, TrainWork
from daitn.wire.center_tools import VisitOrder, Warrant


def _fault(rule: str, asked: str, allowed: str) -> PolicyFault:
    return PolicyFault(rule=rule, asked=asked, allowed=allowed)


class DataNode:
    """Holds data sets and lets each be used as its policy says."""

    def __init__(self, policies: Mapping[DataSetId, Policy]) -> None:
        self.policies = dict(policies)

    def judge_use(self, dataset: DataSetId, warrant: Warrant, kind: str, operator: str = "") -> tuple[PolicyFault, ...]:
        """Every rule against this use of one data set."""
        policy = self.policies.get(dataset)
        if policy is None:
            return (_fault("dataset", dataset, ", ".join(sorted(self.policies)) or "none"),)
        use = Use(
            owner=warrant.owner,
            purpose=warrant.purpose,
            method=warrant.method,
            signer=warrant.signer,
            kind="train" if kind == "train" else "records" if kind == "records" else "sample",
            operator=operator,
        )
        return check_use(policy, use)

    def judge(self, order: VisitOrder) -> tuple[PolicyFault, ...]:
        """Faults of an order that touches data held here."""
        match order.work:
            case TrainWork(records=None, dataset=dataset):
                return self.judge_use(dataset, order.warrant, "train")
            case ShareWork(dataset=dataset, kind=kind, receiver_operator=operator):
                return self.judge_use(dataset, order.warrant, kind, operator)
            case _:
                return ()


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

    def judge(self, order: VisitOrder) -> tuple[PolicyFault, ...]:
        """Every reason against an order: role missing, policy, evaluations used up."""
        faults: list[PolicyFault] = []
        match order.work:
            case TrainWork(records=records):
                if not self.computes:
                    faults.append(_fault("role", "compute", self._names()))
                if records is None:
                    faults += self._judge_data(order)
            case ShareWork():
                faults += self._judge_data(order)
            case EvaluateWork():
                if self.verification is None:
                    faults.append(_fault("role", "verification", self._names()))
                else:
                    faults += self.verification.judge(order)
            case AggregateWork():
                if not self.aggregates:
                    faults.append(_fault("role", "aggregator", self._names()))
        return tuple(faults)

    def _judge_data(self, order: VisitOrder) -> tuple[PolicyFault, ...]:
        if self.data is None:
            return (_fault("role", "data", self._names()),)
        return self.data.judge(order)

    def _names(self) -> str:
        names = {
            "data": self.data is not None,
            "compute": self.computes,
            "verification": self.verification is not None,
            "aggregator": self.aggregates,
        }
        return ", ".join(name for name, there in names.items() if there) or "none"
