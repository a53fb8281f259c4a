"""Builders with defaults, so that a test shows only what matters, and a bench on which a control centre is driven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from daitn.base.effects import (
    Append,
    CancelTimer,
    Compute,
    Delivered,
    Effect,
    Event,
    Message,
    PeerAppeared,
    Record,
    Send,
    SetTimer,
    Started,
    TimerFired,
    computed,
    replay,
)
from daitn.base.ids import ArtifactId, DataSetId, DomainId, GrantId, JobId, NodeId, OperatorId, OwnerId, VisitId
from daitn.base.units import NS_PER_S, seconds_to_ns
from daitn.control_center.center import ControlCenter
from daitn.control_center.config import CenterConfig, CenterTools, Member
from daitn.control_center.training.commands import FetchModel, SubmissionReceived
from daitn.control_center.training.job_state import JobState
from daitn.decision.facts import PackageFacts
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByValues,
    NumberColumn,
    NumbersInput,
)
from daitn.descriptors.grant import Grant, Holder
from daitn.descriptors.itinerary import Itinerary
from daitn.descriptors.job import Phase
from daitn.descriptors.policy import Policy, summarise
from daitn.descriptors.request import Request, parse_target
from daitn.descriptors.terminals import (
    ComputeDescriptor,
    DataDescriptor,
    Histogram,
    NodeDescriptor,
    Quality,
    Role,
    VerificationDescriptor,
)
from daitn.descriptors.view import AggregatorSite, Candidate, TrainingView, Verifier
from daitn.descriptors.work import (
    AggregateOutcome,
    AggregateWork,
    EvaluateOutcome,
    EvaluateWork,
    Measurement,
    Outcome,
    SampleRef,
    ShareOutcome,
    ShareWork,
    Training,
    TrainOutcome,
    TrainWork,
    Work,
)
from daitn.wire.center_tools import (
    InputRef,
    VisitOrder,
    VisitReport,
    VisitResult,
    Warrant,
    encode_report,
)
from daitn.wire.topology_tools import Describe, Heartbeat

START_NS = 1_700_000_000 * NS_PER_S
PACKAGE = ArtifactId("a" * 64)
JOB = JobId("job-1")
OWNER = OwnerId("ada")
UNIT = NodeId("n0009")
MIXER = NodeId("n0008")
LABELS = ("0", "1")


# --- what owners and sites say --------------------------------------------------------------------------------------


def make_contract(**changes: Any) -> DataContract:
    """One number in, one of two labels out, and a field `ones` of the records labelled 1."""
    values: dict[str, Any] = {
        "name": "toy",
        "columns": (NumberColumn(name="x"), CategoryColumn(name="y", values=LABELS)),
        "inputs": (NumbersInput(name="x", columns=("x",)),),
        "task": Classification(label="y"),
        "fields": (FieldByValues(name="ones", column="y", values=("1",)),),
    }
    return DataContract(**(values | changes))


def make_policy(**changes: Any) -> Policy:
    """Everybody may train for `care`; a fifth goes to units of `trust`."""
    values: dict[str, Any] = {
        "owners": ("*",),
        "purposes": ("care",),
        "sample_frac": 0.2,
        "verification_operators": ("trust",),
    }
    return Policy(**(values | changes))


def make_request(*targets: str, **changes: Any) -> Request:
    """`accuracy >= 0.9` within an hour."""
    values: dict[str, Any] = {
        "name": "toy",
        "package": PACKAGE,
        "purpose": "care",
        "targets": tuple(parse_target(text) for text in targets or ("accuracy >= 0.9",)),
        "deadline_s": 3600.0,
    }
    return Request(**(values | changes))


def make_package(**changes: Any) -> PackageFacts:
    """A small graph package."""
    values: dict[str, Any] = {
        "contract": make_contract(),
        "kind": "graph",
        "signer": "signer",
        "payload_bytes": 1000,
        "parts_bytes": 100,
    }
    return PackageFacts(**(values | changes))


def make_data(name: str, labels: Mapping[str, float] | None = None, **changes: Any) -> DataDescriptor:
    """A data set `<name>/records` for the toy contract, 100 records per label."""
    counts = dict(labels if labels is not None else dict.fromkeys(LABELS, 100.0))
    contract = make_contract()
    values: dict[str, Any] = {
        "dataset": DataSetId(f"{name}/records"),
        "version": "1",
        "contract_name": "toy",
        "columns": contract.columns,
        "group": "",
        "fields": contract.fields,
        "records": float(sum(counts.values())),
        "groups": float(sum(counts.values())),
        "labels": Histogram(counts=counts),
        "field_counts": None,
        "quality": Quality(),
        "record_bytes": 8.0,
        "policy": summarise(make_policy()),
    }
    return DataDescriptor(**(values | changes))


def make_compute(**changes: Any) -> ComputeDescriptor:
    """An ordinary machine."""
    values: dict[str, Any] = {"slots": 1, "cores": 2, "memory_bytes": 8e9, "storage_bytes": 1e11, "flops": 1e10}
    return ComputeDescriptor(**(values | changes))


def make_site(number: int, **changes: Any) -> NodeDescriptor:
    """Node `n000<number>`, called `s<number>`: data and compute."""
    values: dict[str, Any] = {
        "node": NodeId(f"n{number:04d}"),
        "name": f"s{number}",
        "operator": OperatorId(f"hospital{number}"),
        "roles": (Role.DATA, Role.COMPUTE),
        "public_key": f"key{number}",
        "data": (make_data(f"s{number}"),),
        "compute": make_compute(),
    }
    return NodeDescriptor(**(values | changes))


def make_unit(node: NodeId = UNIT, **changes: Any) -> NodeDescriptor:
    """A verification unit of `trust`."""
    values: dict[str, Any] = {
        "node": node,
        "name": f"unit-{node}",
        "operator": OperatorId("trust"),
        "roles": (Role.VERIFICATION,),
        "public_key": f"key of {node}",
        "compute": make_compute(),
        "verification": VerificationDescriptor(evaluations_per_job=100, public_key=f"key of {node}"),
    }
    return NodeDescriptor(**(values | changes))


def make_mixer() -> NodeDescriptor:
    """An aggregator."""
    return NodeDescriptor(
        node=MIXER, name="mixer", operator=OperatorId("lab"), roles=(Role.AGGREGATOR,), public_key="mixer"
    )


# --- views ----------------------------------------------------------------------------------------------------------


def make_candidate(name: str, labels: Mapping[str, float] | None = None, **changes: Any) -> Candidate:
    """Data set `<name>/records` trained on at home."""
    counts = dict(labels if labels is not None else dict.fromkeys(LABELS, 100.0))
    values: dict[str, Any] = {
        "dataset": DataSetId(f"{name}/records"),
        "data_node": NodeId(name),
        "compute_node": NodeId(name),
        "streamed": False,
        "records": float(sum(counts.values())),
        "groups": float(sum(counts.values())),
        "labels": counts,
        "fields": {"ones": counts.get("1", 0.0)},
        "record_bytes": 8.0,
        "relevance": {},
        "flops": 1e10,
        "memory_bytes": 8e9,
        "slots": 1,
        "batch_s": None,
        "bytes_per_s": 5e7,
        "latency_s": 0.0,
        "trust": 1.0,
        "availability": 1.0,
        "age_s": 0.0,
    }
    return Candidate(**(values | changes))


def make_verifier(**changes: Any) -> Verifier:
    """A unit with 100 records, half of them in the field."""
    values: dict[str, Any] = {
        "node": UNIT,
        "operator": OperatorId("trust"),
        "datasets": (DataSetId("s1/records"),),
        "sample_records": 100.0,
        "sample_fields": {"ones": 50.0},
        "evaluations_left": 100,
        "flops": 1e10,
        "bytes_per_s": 5e7,
    }
    return Verifier(**(values | changes))


def make_view(*candidates: Candidate, **changes: Any) -> TrainingView:
    """A view of these candidates, a verification unit and an aggregator."""
    values: dict[str, Any] = {
        "version": 1,
        "made_at_ns": START_NS,
        "candidates": candidates,
        "excluded": (),
        "verifiers": (make_verifier(),),
        "aggregators": (AggregatorSite(node=MIXER, bytes_per_s=5e7),),
    }
    return TrainingView(**(values | changes))


def measure(value: float, *names: str) -> tuple[Measurement, ...]:
    """The same figure under each name, on 100 records."""
    return tuple(
        Measurement(name=name, value=value, low=value - 0.05, high=value + 0.05, records=100)
        for name in names or ("accuracy",)
    )


# --- visits ---------------------------------------------------------------------------------------------------------


def make_training(**changes: Any) -> Training:
    """Four batches of eight."""
    values: dict[str, Any] = {"batch_size": 8, "batches": 4, "learning_rate": 0.1}
    return Training(**(values | changes))


def make_work(dataset: str = "s1/records", **changes: Any) -> TrainWork:
    """Train the package at a data set."""
    values: dict[str, Any] = {
        "model": PACKAGE,
        "dataset": DataSetId(dataset),
        "training": make_training(),
        "seed": 0,
    }
    return TrainWork(**(values | changes))


def make_evaluation(**changes: Any) -> EvaluateWork:
    """Measure the package's accuracy on one sample."""
    sample = SampleRef(
        dataset=DataSetId("s1/records"), artifact=ArtifactId("b" * 64), holder=NodeId("n0001"), records=20
    )
    values: dict[str, Any] = {"model": PACKAGE, "samples": (sample,), "measurements": ("accuracy",)}
    return EvaluateWork(**(values | changes))


def make_warrant(**changes: Any) -> Warrant:
    """For ada, for care."""
    values: dict[str, Any] = {"owner": OWNER, "purpose": "care", "method": "tram-fl", "signer": "signer"}
    return Warrant(**(values | changes))


def make_order(number: int = 1, work: Work | None = None, **changes: Any) -> VisitOrder:
    """Order `job-1/<number>` of a training visit at s1."""
    values: dict[str, Any] = {
        "visit": VisitId(f"{JOB}/{number}"),
        "job": JOB,
        "fence": number,
        "lease_s": 4.0,
        "wall_s": 60.0,
        "package": PACKAGE,
        "work": work if work is not None else make_work(),
        "inputs": (InputRef(artifact=PACKAGE, holders=(Holder(node=NodeId("c0")),), grant="granted"),),
        "warrant": make_warrant(),
    }
    return VisitOrder(**(values | changes))


def make_outcome(work: Work, tag: str = "1", *, accuracy: float = 0.5, **changes: Any) -> Outcome:
    """What such work ends with; models and artifacts are named after `tag`."""
    made = ArtifactId((tag + "-").ljust(64, "f"))
    match work:
        case TrainWork(training=training):
            values: dict[str, Any] = {
                "model": made,
                "batches": training.batches,
                "records": 200,
                "loss_first": 1.0,
                "loss_last": 0.5,
                "update_norm": 1.0,
                "weights": changes.get("model", made),
                "data_version": "1",
                "seconds": 0.5,
                "control": ArtifactId((tag + "-control-").ljust(64, "f")) if training.control_variates else None,
            }
            return TrainOutcome(**(values | changes))
        case EvaluateWork(model=model, measurements=names, preflight=preflight):
            values = {
                "model": model,
                "measurements": measure(accuracy, *names),
                "test_set": "t",
                "evaluations_left": 50,
                "seconds": 0.1,
                "overfits": True if preflight else None,
                "batch_seconds": 0.01,
            }
            return EvaluateOutcome(**(values | changes))
        case AggregateWork(server=server):
            state = ArtifactId((tag + "-remembered-").ljust(64, "f")) if server is not None else None
            return AggregateOutcome(**({"model": made, "state": state, "seconds": 0.1} | changes))
        case ShareWork():
            return ShareOutcome(**({"artifact": made, "records": 20, "data_version": "1"} | changes))


def sign(node: NodeDescriptor, report: VisitReport) -> str:
    """The bench's signature of a report by a node."""
    return _seal(node.public_key, encode_report(report))


def _seal(key: str, report: bytes) -> str:
    return f"{key}:{len(report)}"


def issue(grant: Grant) -> str:
    """The bench's token of a grant."""
    return f"{grant.id}"


def named(itinerary: Itinerary) -> str:
    """The bench's token of a route."""
    return f"{itinerary.job} {itinerary.version}"


def all_effects(kind: type, effects: Sequence[Effect]) -> list[Any]:
    """Effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def messages(kind: type, effects: Sequence[Effect]) -> list[Any]:
    """Messages of one kind that are sent."""
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


class Bench:
    """A control centre whose messages, records and timers lie on the table; terminals answer when a test says so."""

    def __init__(self, *nodes: NodeDescriptor, **config: Any) -> None:
        self.config = CenterConfig(domain=DomainId("demo"), **config)
        self.nodes = {node.node: node for node in nodes}
        self.now_ns = START_NS
        self.journal: list[Record] = []
        self.sent: list[tuple[NodeId, Message]] = []
        self.timers: dict[str, int] = {}
        self.fetches: list[FetchModel] = []
        self.problems: dict[str, Compute] = {}
        """What the centre wants solved and has not been answered: with the next event that time brings, or `solve`."""
        self.handled = 0
        self.center = self._make()
        self.give(Started())
        self.describe()

    def _make(self) -> ControlCenter:
        def member(node: NodeId) -> Member | None:
            known = self.nodes.get(node)
            if known is None:
                return None
            return Member(name=known.name, operator=known.operator, roles=tuple(role.value for role in known.roles))

        def verify(key: str, report: bytes, signature: str) -> bool:
            return signature == _seal(key, report)

        tools = CenterTools(issue=issue, sign_route=named, verify=verify, member=member)
        return ControlCenter(self.config, tools)

    def give(self, event: Event) -> list[Effect]:
        """Hand over an event, keep what comes of it, check the core's invariants."""
        self.handled += 1
        effects = self.center.handle(event, self.now_ns)
        self.center.check_invariants()
        for effect in effects:
            match effect:
                case Append(records=records):
                    self.journal += records
                case Send(receiver=receiver, message=message):
                    self.sent.append((receiver, message))
                case SetTimer(name=name, at_ns=at_ns):
                    self.timers[name] = at_ns
                case CancelTimer(name=name):
                    self.timers.pop(name, None)
                case FetchModel():
                    self.fetches.append(effect)
                case Compute(key=key):
                    self.problems[key] = effect
        return effects

    def solve(self) -> list[Effect]:
        """All that the centre wants solved is, and it hears of it."""
        effects: list[Effect] = []
        while self.problems:
            effects += self.give(computed(self.problems.pop(next(iter(self.problems)))))
        return effects

    def say(self, node: NodeId, message: Message) -> list[Effect]:
        """A node's message arrives."""
        return self.give(Delivered(sender=node, message=message))

    def describe(self) -> None:
        """Every node describes itself and is there."""
        for node, descriptor in self.nodes.items():
            self.say(node, Describe(sequence=1, generated_unix_s=0.0, descriptor=descriptor))
            self.give(PeerAppeared(node=node))

    def submit(self, request: Request | None = None, job: JobId = JOB, **package: Any) -> list[Effect]:
        """An owner submits."""
        return self.give(
            SubmissionReceived(
                job=job,
                owner=OWNER,
                request=request if request is not None else make_request(),
                package=make_package(**package),
                key=str(job),
            )
        )

    def state(self, job: JobId = JOB) -> JobState:
        """A job's state."""
        return self.center.jobs[job].state

    def orders(self, job: JobId = JOB) -> list[tuple[NodeId, VisitOrder]]:
        """The last order sent for each visit that is under way."""
        found: dict[VisitId, tuple[NodeId, VisitOrder]] = {}
        for node, message in self.sent:
            if isinstance(message, VisitOrder) and message.visit in self.state(job).open:
                found[message.visit] = (node, message)
        return list(found.values())

    def result(self, node: NodeId, order: VisitOrder, outcome: Outcome) -> VisitResult:
        """A result as an honest node makes it."""
        report = VisitReport(visit=order.visit, fence=order.fence, work=order.work, outcome=outcome)
        return VisitResult(report=report, signature=sign(self.nodes[node], report))

    def answer(self, node: NodeId, order: VisitOrder, **outcome: Any) -> list[Effect]:
        """The node does what it was told and says so."""
        return self.say(node, self.result(node, order, make_outcome(order.work, f"{order.visit}", **outcome)))

    def answer_until(
        self, done: Callable[[JobState], bool], job: JobId = JOB, *, accuracy: float = 0.5, most: int = 200
    ) -> None:
        """Terminals answer, oldest order first, until the job's state is as wanted."""
        for _ in range(most):
            self.solve()
            if done(self.state(job)):
                return
            orders = self.orders(job)
            if orders:
                self.answer(*orders[0], **({"accuracy": accuracy} if _measures(orders[0][1]) else {}))
            else:
                self.wait(0.5)
        raise AssertionError(f"not reached after {most} answers: {self.state(job).phase}, {self.state(job).reason}")

    def wait(self, seconds: float) -> None:
        """Time passes; timers fire in order; all nodes send heartbeats each second."""
        end_ns = self.now_ns + seconds_to_ns(seconds)
        next_beat_ns = self.now_ns
        while True:
            self.solve()
            name, at_ns = min(self.timers.items(), key=lambda item: item[1], default=("", end_ns + 1))
            if min(at_ns, next_beat_ns) > end_ns:
                break
            if next_beat_ns <= at_ns:
                self.now_ns = max(self.now_ns, next_beat_ns)
                for node in self.nodes:
                    self.say(node, Heartbeat(sequence=1))
                next_beat_ns += NS_PER_S
            else:
                self.now_ns = max(self.now_ns, at_ns)
                del self.timers[name]
                self.give(TimerFired(name=name))
        self.now_ns = end_ns

    def silence(self, node: NodeId) -> NodeDescriptor:
        """A node says nothing any more; returns its descriptor, to bring it back with."""
        return self.nodes.pop(node)

    def replayed(self) -> ControlCenter:
        """Another centre made from the journal."""
        center = self._make()
        replay(center, self.journal)
        return center

    def restart(self) -> None:
        """The centre dies and starts again from its journal; all nodes are still there."""
        self.center = self.replayed()
        self.timers = {}
        self.problems = {}
        self.give(Started())
        for node in self.nodes:
            self.give(PeerAppeared(node=node))
            self.say(node, Heartbeat(sequence=1))


def _measures(order: VisitOrder) -> bool:
    return isinstance(order.work, EvaluateWork)


def bench(*, sites: int = 2, **config: float) -> Bench:
    """Some sites, a unit and an aggregator."""
    return Bench(*(make_site(number + 1) for number in range(sites)), make_unit(), make_mixer(), **config)


def running(**config: float) -> Bench:
    """A job whose first training visit is under way."""
    made = bench(**config)
    made.submit()
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    return made


def the_order(made: Bench, job: JobId = JOB) -> tuple[NodeId, VisitOrder]:
    """The one visit under way that the job waits for: samples for a unit that stands by are made beside it."""
    state = made.state(job)
    beside = {visit for visit, opened in state.open.items() if opened.ordered.purpose == "sample"}
    beside = set() if state.phase is Phase.ASSESSING else beside
    (found,) = [one for one in made.orders(job) if one[1].visit not in beside]
    return found


def verify_with(made: Bench, accuracy: float) -> str:
    """Train until a verification is under way, answer it; returns the data set that was trained on last."""
    made.answer_until(lambda state: any(o.ordered.purpose == "verify" for o in state.open.values()))
    dataset = made.state().seen[-1][0]
    made.answer(*the_order(made), accuracy=accuracy)
    return dataset


def facts_of(state: JobState) -> dict[str, Any]:
    """Everything of a job's state that must survive a restart, comparable."""
    facts = dict(vars(state))
    facts["open"] = {visit: opened.ordered for visit, opened in state.open.items()}
    names = ("controls", "made", "trail", "charges", "round_book", "masks", "promised", "buffer", "gossip")
    books = {name: vars(facts[name]) for name in names}
    return facts | books


def changed(value: Any, **changes: Any) -> Any:
    """A frozen value with some fields changed."""
    return msgspec.structs.replace(value, **changes)


def grant_for(requester: NodeId, artifact: ArtifactId = PACKAGE) -> Grant:
    """A grant that ends in an hour."""
    return Grant(
        id=GrantId("g"),
        domain=DomainId("demo"),
        artifact=artifact,
        requester=requester,
        job=JOB,
        expires_unix_s=START_NS // NS_PER_S + 3600,
    )
