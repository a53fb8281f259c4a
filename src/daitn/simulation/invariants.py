"""Invariants of a run, checked after every event from the outside: on journals and deeds, not on the cores' own word.

Design, section 13. Each is a small method; a violation is a BugError that names the subjects. Costs O(new records).
"""

from __future__ import annotations

from typing import Literal

from daitn.base.effects import Message, Record
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, ArtifactId, DataSetId, JobId, NodeId, VisitId
from daitn.base.units import NS_PER_S
from daitn.control_center.node_records import NodeRecorded
from daitn.control_center.training.records import (
    AllMet,
    GroupAgreed,
    GroupLost,
    HarmTraced,
    JobAssessed,
    JobPhased,
    JobSubmitted,
    ModelGone,
    ModelJudged,
    OtherTestSet,
    SampleGiven,
    SitesSetAside,
    VisitAccepted,
    VisitLost,
    VisitOrdered,
)
from daitn.descriptors.job import FINAL_PHASES, Phase
from daitn.descriptors.policy import Policy, Use, check_use
from daitn.descriptors.work import (
    AggregateOutcome,
    AggregateWork,
    EvaluateWork,
    SampleRef,
    ShareWork,
    TrainOutcome,
    TrainWork,
    Work,
)
from daitn.learning.methods import METHODS
from daitn.scenario.spec import Scenario
from daitn.simulation.promised import PromiseCheck
from daitn.simulation.sites import SimulatedSite, dataset_id
from daitn.simulation.world import World
from daitn.terminal.visit_records import VisitClosed, VisitEnded
from daitn.topology.knowledge_map import CONSENT_AGE_S
from daitn.wire.center_tools import ResultAccepted, VisitFailed, VisitOrder, VisitResult
from daitn.wire.oam_records import VisitOver


class Invariants:
    """One checker for one world; call it after every event. `world_policies` are the data owners', by data set."""

    def __init__(self, world_policies: dict[DataSetId, Policy]) -> None:
        self._policies = world_policies
        self.promised = PromiseCheck()
        self._read = 0
        self._begun = 0
        self._spoken = 0
        self._facts: dict[NodeId, _Facts] = {}
        self._accepted: set[VisitId] = set()
        self._lost: set[VisitId] = set()
        self._ordered: dict[VisitId, VisitOrdered] = {}
        self._ended: dict[JobId, Phase] = {}
        self._head: dict[JobId, ArtifactId] = {}
        self._kept: dict[JobId, ArtifactId] = {}
        self._refused_with: dict[JobId, int] = {}
        self._aggregated: set[JobId] = set()
        self._buffered: set[JobId] = set()
        self._gossips: set[JobId] = set()
        self._members: dict[JobId, set[ArtifactId]] = {}
        """Of each job that gossips, models that members made since there was one of all."""
        self._line: dict[JobId, list[ArtifactId]] = {}
        """Of each job, the heads that the present one came of."""
        self._made: dict[VisitId, ArtifactId] = {}
        """Models of accepted training visits."""
        self._grouped: dict[VisitId, ArtifactId] = {}
        """Models of accepted members of groups whose round has not ended."""
        self._given: set[tuple[JobId, NodeId, ArtifactId]] = set()
        self._test_set: dict[JobId, frozenset[ArtifactId]] = {}
        self._measured_on: dict[JobId, frozenset[ArtifactId]] = {}

    def __call__(self, world: World) -> None:
        """BugError if anything that must not be is."""
        journal = world.processes[CENTER].journal
        for record in journal[self._read :]:
            self._check_record(record)
            self.promised.read(record, world)
            if isinstance(record, VisitOrdered):
                self._check_consent(world, record)
        self._read = len(journal)
        for node, message, length in world.watcher.spoken[self._spoken :]:
            self._check_spoken(world, node, message, length)
        self._spoken = len(world.watcher.spoken)
        for node, order in world.watcher.begun[self._begun :]:
            self._check_use(world, node, order)
        self._begun = len(world.watcher.begun)
        if world.watcher.ungranted:
            raise BugError(f"a transfer was asked for without a grant: {world.watcher.ungranted[0]}")

    def _check_record(self, record: Record) -> None:
        match record:
            case JobSubmitted(job=job, request=request):
                if job in self._head:
                    raise BugError(f"job {job} was submitted twice")
                self._head[job] = self._kept[job] = request.package
                self._line[job] = [request.package]
            case JobAssessed(job=job, verdict=verdict, plan=plan):
                if verdict.outcome == "refused" and not verdict.failed():
                    raise BugError(f"job {job} was refused for no reason")
                (self._aggregated.add if METHODS[plan.method].aggregates else self._aggregated.discard)(job)
                (self._gossips.add if METHODS[plan.method].gossips else self._gossips.discard)(job)
                (self._buffered.add if METHODS[plan.method].buffered else self._buffered.discard)(job)
            case VisitOrdered(visit=visit):
                if visit in self._ordered:
                    raise BugError(f"visit {visit} was ordered twice")
                self._check_given(record)
                self._check_among(record)
                self._check_buffer(record)
                self._ordered[visit] = record
            case VisitAccepted(visit=visit):
                self._check_accepted(record)
            case GroupAgreed(job=job, visits=visits, model=model):
                self._check_agreed(visits, model)
                self._head[job] = model
            case AllMet(job=job, head=head):
                if head is not None:
                    if head not in self._members.get(job, set()):
                        raise BugError(f"job {job} goes on from {head[:12]}, which no member made")
                    self._head[job] = head
                    self._members.pop(job, None)
            case GroupLost(visits=visits):
                for visit in visits:
                    self._grouped.pop(visit, None)
            case VisitLost(visit=visit):
                self._lost.add(visit)
            case SampleGiven(job=job, unit=unit, sample=sample):
                self._given.add((job, unit, sample.artifact))
            case OtherTestSet(job=job, samples=samples):
                if _artifacts(samples) != self._measured_on[job]:
                    raise BugError(f"job {job} goes over to a test set that its last figures are not of")
                self._test_set[job] = self._measured_on[job]
            case ModelJudged(job=job, model=model, keep=keep, measurements=measurements):
                if measurements and self._measured_on[job] != self._test_set[job]:
                    raise BugError(f"model {model[:12]} of job {job} was compared with figures of another test set")
                if keep:
                    self._kept[job] = model
                else:
                    self._head[job] = self._kept[job]
                    self._back_to(job, self._kept[job])
            case ModelGone(job=job, instead=instead):
                if instead != self._head[job]:
                    self._head[job] = self._kept[job] = instead
                    self._back_to(job, instead)
            case SitesSetAside(job=job, model=model):
                if model is not None:
                    self._head[job] = self._kept[job] = model
                    self._back_to(job, model)
            case HarmTraced(job=job, onward=onward):
                if onward is not None:
                    self._head[job] = self._kept[job] = onward
                    self._back_to(job, onward)
            case JobPhased(job=job, phase=phase):
                if job in self._ended:
                    raise BugError(f"job {job} ended as {self._ended[job]} and became {phase}")
                if phase in FINAL_PHASES:
                    self._ended[job] = phase
            case _:
                pass

    def _check_accepted(self, record: VisitAccepted) -> None:
        if record.visit in self._accepted:
            raise BugError(f"visit {record.visit} was accepted twice")
        if record.visit in self._lost:
            raise BugError(f"visit {record.visit} was accepted from a site that came back late")
        self._accepted.add(record.visit)
        work = self._ordered[record.visit].work
        if record.job in self._ended:
            raise BugError(f"visit {record.visit} was accepted after its job had ended")
        if isinstance(work, EvaluateWork):
            self._measured_on[record.job] = _artifacts(work.samples)
            self._test_set.setdefault(record.job, self._measured_on[record.job])
        if isinstance(work, TrainWork) and isinstance(record.outcome, TrainOutcome):
            known = self._members.setdefault(record.job, set())
            own = record.job in self._gossips and work.model in known
            if record.job not in self._buffered and work.model != self._head[record.job] and not own:
                raise BugError(f"visit {record.visit} trained {work.model[:12]}, the head is another model")
            if self._ordered[record.visit].purpose == "probe":
                return
            self._made[record.visit] = record.outcome.model
            known.add(record.outcome.model)
            if work.group is not None:
                self._grouped[record.visit] = record.outcome.model
            elif record.job not in self._aggregated:
                self._head[record.job] = record.outcome.model
        elif isinstance(record.outcome, AggregateOutcome) and isinstance(work, AggregateWork) and work.share:
            self._members.setdefault(record.job, set()).add(record.outcome.model)
        elif isinstance(record.outcome, AggregateOutcome) and not _is_part(work):
            self._head[record.job] = record.outcome.model
            self._members.pop(record.job, None)
            self._line[record.job].append(record.outcome.model)

    def _back_to(self, job: JobId, model: ArtifactId) -> None:
        self._members.pop(job, None)
        line = self._line[job]
        self._line[job] = line[: line.index(model) + 1] if model in line else [model]

    def _check_among(self, ordered: VisitOrdered) -> None:
        """Sites average among themselves what members of this stretch made."""
        work = ordered.work
        if not isinstance(work, AggregateWork) or not work.among:
            return
        if ordered.job not in self._gossips:
            raise BugError(f"visit {ordered.visit} averages at a site, and its job does not gossip")
        if strange := [one.model for one in work.updates if one.model not in self._members.get(ordered.job, set())]:
            raise BugError(f"visit {ordered.visit} averages {strange[0][:12]}, which no member made")

    def _check_buffer(self, ordered: VisitOrdered) -> None:
        """A buffer moves the head, by what began from heads that it came of, and takes the less of it the older."""
        work = ordered.work
        if not isinstance(work, AggregateWork) or not work.buffered:
            return
        line = self._line[ordered.job]
        if work.base != line[-1]:
            raise BugError(f"visit {ordered.visit} moves {work.base}, the head is {line[-1][:12]}")
        for update in work.updates:
            begun = next(
                (
                    self._ordered[visit].work
                    for visit, model in self._made.items()
                    if model == update.model and visit.rpartition("/")[0] == ordered.job
                ),
                None,
            )
            if not isinstance(begun, TrainWork) or begun.model != update.base or update.base not in line:
                raise BugError(f"visit {ordered.visit} takes {update.model[:12]} for trained from {update.base}")
            age = len(line) - 1 - line.index(update.base)
            if abs(update.discount - (1 + age) ** -0.5) > 1e-9:
                raise BugError(f"visit {ordered.visit} takes {update.discount} of an update that is {age} heads old")

    def _check_given(self, ordered: VisitOrdered) -> None:
        """A unit measures only on samples whose sites have given them to this very unit."""
        samples = ordered.work.samples if isinstance(ordered.work, EvaluateWork) else ()
        for sample in samples:
            if (ordered.job, ordered.node, sample.artifact) not in self._given:
                raise BugError(f"visit {ordered.visit} measures on a sample of {sample.dataset} not given to its unit")

    def _check_agreed(self, visits: tuple[VisitId, ...], model: ArtifactId) -> None:
        """A group's model becomes the head once, and only if every member of the round made it."""
        work = self._ordered[visits[0]].work
        members = work.group.members if isinstance(work, TrainWork) and work.group is not None else ()
        if tuple(member.visit for member in members) != visits:
            raise BugError(f"a round of {visits} was agreed on that is not a group's")
        for visit in visits:
            made = self._grouped.pop(visit, None)
            if made != model:
                raise BugError(f"visit {visit} made {made}, its group is said to have agreed on {model[:12]}")

    def _check_consent(self, world: World, ordered: VisitOrdered) -> None:
        """No order touches data whose policy was not confirmed within its bound."""
        if isinstance(ordered.work, EvaluateWork | AggregateWork):
            return
        age_s = (world.now_ns - world.watcher.confirmed_ns.get(ordered.node, 0)) / NS_PER_S
        if age_s > CONSENT_AGE_S:
            raise BugError(f"visit {ordered.visit} was ordered on consent of {ordered.node} that is {age_s:.0f} s old")

    def _check_spoken(self, world: World, node: NodeId, message: Message, length: int) -> None:
        """Nobody speaks of a fact that a crash could still undo."""
        kinds: tuple[type[Record], ...]
        match message:
            case VisitResult(report=report):
                visit, kinds = report.visit, (VisitEnded,)
            case VisitFailed(visit=visit):
                kinds = (VisitEnded, VisitClosed)
            case VisitOrder(visit=visit):
                kinds = (VisitOrdered,)
            case ResultAccepted(visit=visit):
                kinds = (VisitAccepted,)
            case _:
                return
        facts = self._facts.setdefault(node, _Facts())
        facts.read(world.processes[node].journal)
        if not any(facts.first.get((kind, visit), length) < length for kind in kinds):
            raise BugError(f"{node} says {type(message).__name__} of visit {visit} before that is durable")

    def _check_use(self, world: World, node: NodeId, order: VisitOrder) -> None:
        work = order.work
        kind: Literal["train", "records", "sample"] = "train"
        operator = ""
        if isinstance(work, ShareWork):
            kind, operator = work.kind, work.receiver_operator
            receiver = world.processes[work.receiver].core
            real = receiver.spec.operator if isinstance(receiver, SimulatedSite) else ""
            if real != operator:
                raise BugError(f"visit {order.visit} names operator {operator}, {work.receiver} is run by {real}")
        elif not isinstance(work, TrainWork) or work.records is not None:
            return
        use = Use(
            owner=order.warrant.owner,
            purpose=order.warrant.purpose,
            method=order.warrant.method,
            signer=order.warrant.signer,
            kind=kind,
            operator=operator,
        )
        faults = check_use(self._policies[work.dataset], use)
        if faults:
            raise BugError(f"visit {order.visit} at {node} uses {work.dataset} against its policy: {faults[0].rule}")

    def check_end(self, world: World) -> None:
        """At the end of a run: every job has ended, exactly once, and no site keeps anything for one that has."""
        for node in world.processes:
            if kept := [job for job in world.kept.jobs(node) if job in self._ended]:
                raise BugError(f"{node} still keeps artifacts for {kept[0]}, which has ended")
        for job, machine in world.center.jobs.items():
            if machine.state.met and machine.state.best in world.learner.spoilt:
                raise BugError(f"job {job} takes {machine.state.best[:12]} for good, which a poisoner has spoilt")
            if job not in self._ended:
                state = machine.state
                waiting = ", ".join(f"{name} at {visit.ordered.node}" for name, visit in state.open.items())
                raise BugError(f"job {job} has not ended: {state.phase}, waits for {waiting or 'nothing'}")
        self._check_records(world)

    def _check_records(self, world: World) -> None:
        """How each visit ended at its site has come to the centre, once and in order."""
        told: dict[NodeId, list[VisitId]] = {}
        for record in world.processes[CENTER].journal:
            if isinstance(record, NodeRecorded):
                told.setdefault(record.node, []).extend(e.visit for e in record.entries if isinstance(e, VisitOver))
        for node, process in world.processes.items():
            closed = [record.visit for record in process.journal if isinstance(record, VisitClosed)]
            if closed != told.get(node, []):
                raise BugError(f"{node} closed {len(closed)} visits, the centre was told of {len(told.get(node, []))}")


def _is_part(work: Work) -> bool:
    """Whether what an aggregator made is no model yet."""
    return isinstance(work, AggregateWork) and (work.masked or work.share)


def _artifacts(samples: tuple[SampleRef, ...]) -> frozenset[ArtifactId]:
    return frozenset(sample.artifact for sample in samples)


class _Facts:
    """Where in a journal each fact about a visit first stands."""

    def __init__(self) -> None:
        self.first: dict[tuple[type[Record], VisitId], int] = {}
        self._read = 0

    def read(self, journal: list[Record]) -> None:
        """Take up new records."""
        for place, record in enumerate(journal[self._read :], start=self._read):
            if isinstance(record, VisitEnded | VisitClosed | VisitOrdered | VisitAccepted):
                self.first.setdefault((type(record), record.visit), place)
        self._read = len(journal)


def policies_of(scenario: Scenario) -> dict[DataSetId, Policy]:
    """Policies by data set, from the scenario."""
    return {dataset_id(spec, data): data.policy for spec in scenario.nodes for data in spec.data}
