"""The timeline tells every record of a job in words, and proves each accepted visit."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest
from tests.owner_world import CONTRACT, MemoryService, make_request, put_package

from daitn.artifacts.signatures import public_hex, verify_report
from daitn.base.errors import BugError, PeerError
from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import (
    JOB_RECORDS,
    AllMet,
    CopiesLetGo,
    DoubtRefuted,
    GroupAgreed,
    GroupLost,
    GroupsDrawn,
    HarmTraced,
    HolderDropped,
    JobAssessed,
    JobPhased,
    JobRecord,
    JobSubmitted,
    MakerRefuted,
    MaskedRoundLost,
    ModelGone,
    ModelJudged,
    OtherTestSet,
    PreflightDone,
    ProbeDone,
    PromiseMade,
    RecordsGiven,
    Replanned,
    RequestChanged,
    RouteIssued,
    SampleGiven,
    SiteBarred,
    SitesSetAside,
    StepMeasured,
    TuningDone,
    TuningTried,
    UnitsCompared,
    VariantTried,
    VisitAccepted,
    VisitLost,
    VisitOrdered,
)
from daitn.decision.facts import PackageFacts, Preflight, ProbePoint, Searched
from daitn.decision.tuning import Stage
from daitn.descriptors.itinerary import Action, Segment
from daitn.descriptors.job import LogEntry, Phase
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    MaskMember,
    RoundKeys,
    SealOutcome,
    SealWork,
    UnmaskOutcome,
    UnmaskWork,
)
from daitn.descriptors.outcome import Change, Condition, CounterOffer, Expectation, ReasonCode, TriedVariant, Verdict
from daitn.descriptors.plan import Choice, Plan
from daitn.descriptors.promise import Hold, Promise
from daitn.descriptors.request import parse_target
from daitn.descriptors.trials import TriedOut
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
    UpdateRef,
    Work,
)
from daitn.oam.progress import UNBOUNDED
from daitn.oam.proofs import proof_report, read_proof, report_bytes
from daitn.oam.timeline import EntryKind, render_log

JOB, OWNER = JobId("j1"), OwnerId("alice")
SITE, UNIT = NodeId("n1"), NodeId("n2")
NAMES = {SITE: "st-mary", UNIT: "verifier"}
PACKAGE, MODEL = ArtifactId("a" * 64), ArtifactId("b" * 64)
REQUEST = make_request(PACKAGE)
TRAINING = Training(batch_size=32, batches=40, learning_rate=0.05)
FIGURE = Measurement(name="accuracy", value=0.91, low=0.86, high=0.95, records=160)


def name_of(node: NodeId) -> str:
    return NAMES[node]


def submitted() -> JobSubmitted:
    facts = PackageFacts(contract=CONTRACT, kind="graph", signer="c" * 64, payload_bytes=900, parts_bytes=100)
    return JobSubmitted(job=JOB, at_ns=1_000_000_000, owner=OWNER, request=REQUEST, package=facts, key="k")


def plan() -> Plan:
    return Plan(
        method="tram-fl",
        training=TRAINING,
        verify_every=2,
        verifier=UNIT,
        aggregator=None,
        route=(),
        expected=Expectation(seconds_low=1.0, seconds=90.0, transfer_bytes=2e6, visits=12),
        choices=(
            Choice(what="method", chosen="tram-fl", why="labels are unequal", rejected=("fedavg: no aggregator",)),
        ),
        view_version=3,
    )


def refused(offer: CounterOffer | None) -> Verdict:
    late = Condition(
        code=ReasonCode.TIME, what="least time the plan can take", required="at most 1 s", available="9 s", met=False
    )
    scarce = Condition(
        code=ReasonCode.VOLUME, what="training records", required="at least 900", available="320", met=False
    )
    return Verdict(outcome="refused", conditions=(late, scarce), counter_offer=offer)


def offer() -> CounterOffer:
    change = Change(what="deadline", asked="1 s", offered="14 s", because=ReasonCode.TIME)
    return CounterOffer(request=make_request(PACKAGE, deadline_s=14.0), changes=(change,))


def log_of(*records: JobRecord) -> tuple[LogEntry, ...]:
    state = JobState(submitted())
    for record in records:
        state.apply(record)
    return render_log(state, name_of)


def ordered(number: int, work: Work, purpose: str, node: NodeId = SITE) -> VisitOrdered:
    return VisitOrdered(
        job=JOB,
        at_ns=number,
        visit=VisitId(f"{JOB}/{number}"),
        fence=number,
        node=node,
        purpose=purpose,  # type: ignore[arg-type]
        work=work,
        why="it holds most of what the model has not seen",
    )


def accepted(number: int, outcome: Outcome) -> VisitAccepted:
    return VisitAccepted(job=JOB, at_ns=number, visit=VisitId(f"{JOB}/{number}"), outcome=outcome, signature="s1")


TRAIN = TrainWork(model=PACKAGE, dataset=DataSetId("st-mary/lesions"), training=TRAINING, seed=0)
TRAINED = TrainOutcome(
    model=MODEL,
    batches=40,
    records=320,
    loss_first=0.7,
    loss_last=0.4,
    update_norm=1.0,
    data_version="v7",
    seconds=1.5,
    fetch_s=0.1,
    fetched_bytes=12_000,
)
EVALUATE = EvaluateWork(
    model=MODEL,
    samples=(SampleRef(dataset=DataSetId("st-mary/lesions"), artifact=MODEL, holder=SITE, records=80),),
    measurements=("accuracy",),
)
MEASURED = EvaluateOutcome(model=MODEL, measurements=(FIGURE,), test_set="t9", evaluations_left=7, seconds=0.2)
AVERAGE = AggregateWork(updates=(UpdateRef(model=MODEL, weight=1.0), UpdateRef(model=PACKAGE, weight=2.0)))
SHARE = ShareWork(
    dataset=DataSetId("st-mary/lesions"), kind="sample", receiver=UNIT, receiver_operator="tuv", contract=PACKAGE
)

EXAMPLES: dict[type[JobRecord], JobRecord] = {
    JobSubmitted: submitted(),
    JobAssessed: JobAssessed(job=JOB, at_ns=2, verdict=refused(offer()), plan=plan()),
    PromiseMade: PromiseMade(
        job=JOB, at_ns=2, promise=Promise(holds=(Hold(node=SITE, seconds=12.0),), store_bytes=2_000_000)
    ),
    VariantTried: VariantTried(
        job=JOB, at_ns=3, variant=TriedVariant(package=ArtifactId("f" * 64), name="wide", reaches=True, probability=0.8)
    ),
    TuningTried: TuningTried(
        job=JOB,
        at_ns=3,
        stage=Stage(
            rung=0,
            trainings=(Training(batch_size=8, batches=4, learning_rate=0.1),) * 2,
            tried=(TriedOut(place=0, measurements=(FIGURE,)),),
        ),
    ),
    TuningDone: TuningDone(job=JOB, at_ns=3, searched=Searched(why="none was better", rejected=("adamw at 9",))),
    ProbeDone: ProbeDone(job=JOB, at_ns=3, point=ProbePoint(records=800, gap=0.1, steps=200, measurements=(FIGURE,))),
    PreflightDone: PreflightDone(job=JOB, at_ns=3, preflight=Preflight(measurements=(FIGURE,), overfits=True)),
    VisitOrdered: ordered(2, TRAIN, "train"),
    VisitAccepted: accepted(1, TRAINED),
    VisitLost: VisitLost(job=JOB, at_ns=4, visit=VisitId("j1/1"), why="its lease ran out", blame="unavailable"),
    SampleGiven: SampleGiven(job=JOB, at_ns=5, unit=UNIT, sample=EVALUATE.samples[0]),
    RecordsGiven: RecordsGiven(
        job=JOB, at_ns=6, dataset=DataSetId("st-mary/lesions"), receiver=UNIT, artifact=MODEL, holder=SITE
    ),
    ModelJudged: ModelJudged(
        job=JOB,
        at_ns=7,
        model=MODEL,
        keep=True,
        best=True,
        met=False,
        score=-0.04,
        measurements=(FIGURE,),
        why="better",
    ),
    RouteIssued: RouteIssued(
        job=JOB, at_ns=5, version=1, visits=(VisitId("j1/1"),), ahead=(Segment(action=Action.VERIFY, node=UNIT),)
    ),
    GroupAgreed: GroupAgreed(job=JOB, at_ns=7, visits=(VisitId("j1/1"), VisitId("j1/2")), model=MODEL),
    GroupLost: GroupLost(
        job=JOB, at_ns=7, visits=(VisitId("j1/1"), VisitId("j1/2")), why="gone", left_out=DataSetId("st-mary/lesions")
    ),
    GroupsDrawn: GroupsDrawn(
        job=JOB, at_ns=7, groups=((DataSetId("st-mary/lesions"), DataSetId("elm/lesions")), (DataSetId("oak/lesions"),))
    ),
    AllMet: AllMet(job=JOB, at_ns=7, models=1, head=MODEL),
    OtherTestSet: OtherTestSet(
        job=JOB, at_ns=8, unit=UNIT, samples=EVALUATE.samples, model=MODEL, measurements=(FIGURE,), score=-0.2
    ),
    MaskedRoundLost: MaskedRoundLost(job=JOB, at_ns=7, round="j1/1", why="too few are left"),
    ModelGone: ModelGone(job=JOB, at_ns=8, model=MODEL, instead=PACKAGE),
    HolderDropped: HolderDropped(job=JOB, at_ns=8, artifact=MODEL, node=SITE),
    CopiesLetGo: CopiesLetGo(job=JOB, at_ns=8, node=SITE, artifacts=(MODEL, PACKAGE)),
    Replanned: Replanned(job=JOB, at_ns=12, plan=plan(), why="the model stopped getting better"),
    StepMeasured: StepMeasured(job=JOB, at_ns=9, visit=VisitId("j1/1"), model=MODEL, measurements=(FIGURE,)),
    HarmTraced: HarmTraced(
        job=JOB, at_ns=9, visit=VisitId("j1/1"), dataset=DataSetId("a/b"), onward=MODEL, why="it fell there"
    ),
    SitesSetAside: SitesSetAside(
        job=JOB, at_ns=9, model=MODEL, aside=(DataSetId("a/b"),), left=(), why="4 measured models brought no gain"
    ),
    UnitsCompared: UnitsCompared(
        job=JOB, at_ns=9, model=MODEL, unit=SITE, other=SITE, difference="accuracy 0.900 and 0.500", lower=SITE
    ),
    MakerRefuted: MakerRefuted(
        job=JOB, at_ns=9, visit=VisitId("j1/1"), node=SITE, model=MODEL, fault="not-finite", why="it has NaN"
    ),
    DoubtRefuted: DoubtRefuted(job=JOB, at_ns=9, visit=VisitId("j1/1"), model=MODEL, dataset=DataSetId("a/b")),
    SiteBarred: SiteBarred(job=JOB, at_ns=9, dataset=DataSetId("st-mary/lesions"), why="its policy refuses"),
    RequestChanged: RequestChanged(job=JOB, at_ns=10, request=make_request(PACKAGE, deadline_s=900.0)),
    JobPhased: JobPhased(job=JOB, at_ns=11, phase=Phase.RUNNING, reason="started"),
}


@pytest.mark.parametrize("kind", JOB_RECORDS, ids=lambda kind: kind.__name__)
def test_render_every_record_type_has_words(kind: type[JobRecord]) -> None:
    if kind is JobSubmitted:
        entries = log_of()
    else:
        entries = log_of(ordered(1, TRAIN, "train"), EXAMPLES[kind])
    last = entries[-1]
    assert last.number == len(entries) - 1
    assert last.text
    assert last.kind in set(EntryKind)
    assert msgspec.json.decode(msgspec.json.encode(last), type=LogEntry) == last


def test_render_masked_round_says_what_each_stage_is() -> None:
    keys = RoundKeys(mask=bytes(32), seal=bytes(32), signature=bytes(64))
    place = {"round": "j1/1", "dataset": DataSetId("st-mary/lesions")}
    member = MaskMember(node=SITE, dataset=place["dataset"], signer="0" * 64, keys=keys)
    stages: list[tuple[Work, Outcome, str, str]] = [
        (AgreeWork(**place), AgreeOutcome(keys=keys), "make keys at st-mary", "made keys"),
        (SealWork(**place, members=(member,) * 3), SealOutcome(sealed=(b"", b"x", b"x")), "among 3 sites", "its seeds"),
        (
            UnmaskWork(**place, members=3, summed=(0, 1, 2)),
            UnmaskOutcome(shares=(bytes(32),) * 3),
            "opens the sum of 3 updates",
            "told what opens the sum",
        ),
    ]
    records: list[JobRecord] = []
    for number, (work, outcome, _, _) in enumerate(stages, start=1):
        records += [ordered(number, work, "agree"), accepted(number, outcome)]
    entries = log_of(*records)[1:]

    for place_, (_, _, asked, told) in enumerate(stages):
        assert asked in entries[2 * place_].text
        assert told in entries[2 * place_ + 1].text
        assert entries[2 * place_ + 1].kind == EntryKind.HIDDEN


def test_render_unknown_record_is_our_bug() -> None:
    class JobForgotten(JobRecord, frozen=True, kw_only=True, tag="job_forgotten"):
        """A record nobody wrote words for."""

    state = JobState(submitted())
    state.log.append(JobForgotten(job=JOB, at_ns=2))
    with pytest.raises(BugError, match="JobForgotten"):
        render_log(state, name_of)


def test_render_from_start_gives_the_rest_with_the_same_numbers() -> None:
    state = JobState(submitted())
    for number in (1, 2, 3):
        state.apply(ordered(number, TRAIN, "train"))
    assert [entry.number for entry in render_log(state, name_of, 2)] == [2, 3]
    assert render_log(state, name_of, 99) == ()


def test_render_refusal_lists_every_failed_condition_and_the_offer() -> None:
    text = log_of(JobAssessed(job=JOB, at_ns=2, verdict=refused(offer()), plan=plan()))[-1].text
    for part in ("time", "at most 1 s", "9 s", "volume", "at least 900", "320", "14 s instead of 1 s"):
        assert part in text


def test_render_refusal_without_offer_says_so() -> None:
    entry = log_of(JobAssessed(job=JOB, at_ns=2, verdict=refused(None), plan=plan()))[-1]
    assert entry.kind == EntryKind.REFUSED
    assert "no nearby request" in entry.text


def test_render_taken_offer_is_told_apart_from_refusal() -> None:
    record = JobAssessed(job=JOB, at_ns=2, verdict=refused(offer()), plan=plan(), taken=offer().request)
    assert log_of(record)[-1].kind == EntryKind.OFFER_TAKEN


def test_render_admission_tells_choices_with_reasons_and_what_was_rejected() -> None:
    verdict = Verdict(outcome="admitted", conditions=())
    text = log_of(JobAssessed(job=JOB, at_ns=2, verdict=verdict, plan=plan()))[-1].text
    for part in ("tram-fl", "labels are unequal", "fedavg: no aggregator", "12 visits"):
        assert part in text


def test_render_order_tells_site_work_and_reason() -> None:
    entry = log_of(ordered(1, TRAIN, "train"))[-1]
    for part in ("st-mary", "40 batches of 32", "not seen"):
        assert part in entry.text
    assert (entry.visit, entry.node) == ("j1/1", SITE)


@pytest.mark.parametrize(
    ("work", "outcome", "kind", "part"),
    [
        (TRAIN, TRAINED, EntryKind.TRAINED, "0.7 → 0.4"),
        (EVALUATE, MEASURED, EntryKind.MEASURED, "accuracy 0.910 [0.860, 0.950] on 160"),
        (AVERAGE, AggregateOutcome(model=MODEL, seconds=0.3), EntryKind.AVERAGED, "average"),
        (SHARE, ShareOutcome(artifact=MODEL, records=80, data_version="v7"), EntryKind.SHARED, "80 records"),
        (
            SHARE,
            ShareOutcome(artifact=MODEL, records=80, data_version="v7", activations_bytes=8_300_000),
            EntryKind.SHARED,
            "8.3 MB of activations of the frozen base stay there as long as a job uses them",
        ),
    ],
    ids=["train", "evaluate", "aggregate", "share", "share with a base"],
)
def test_render_accepted_visit_tells_what_came_of_it(work: Work, outcome: Outcome, kind: EntryKind, part: str) -> None:
    entry = log_of(ordered(1, work, "train"), accepted(1, outcome))[-1]
    assert entry.kind == kind
    assert part in entry.text


def test_render_accepted_visit_proves_data_models_and_fence() -> None:
    proof = read_proof(log_of(ordered(1, TRAIN, "train"), accepted(1, TRAINED))[-1])
    assert proof is not None
    assert (proof.fence, proof.package, proof.data_version) == (1, PACKAGE, "v7")
    assert (proof.models_in, proof.model_out, proof.signature) == ((PACKAGE,), MODEL, "s1")
    assert proof_report(proof).outcome == TRAINED


def test_render_measurements_without_records_are_left_out() -> None:
    nothing = Measurement(name="accuracy@rare", value=math.nan, low=math.nan, high=math.nan, records=0)
    wide = Measurement(name="r2", value=0.5, low=-math.inf, high=1.0, records=2)
    outcome = msgspec.structs.replace(MEASURED, measurements=(FIGURE, nothing, wide))
    entry = log_of(ordered(1, EVALUATE, "verify", UNIT), accepted(1, outcome))[-1]
    assert [one.name for one in entry.measurements] == ["accuracy", "r2"]
    assert entry.measurements[1].low == -UNBOUNDED
    assert msgspec.json.decode(msgspec.json.encode(entry), type=LogEntry) == entry


def test_render_visit_stopped_at_the_end_is_not_called_lost() -> None:
    over = VisitLost(job=JOB, at_ns=4, visit=VisitId("j1/1"), why="all targets are reached", blame="over")
    assert log_of(ordered(1, TRAIN, "train"), over)[-1].kind == EntryKind.STOPPED


def test_render_rolled_back_model_says_why() -> None:
    worse = ModelJudged(
        job=JOB,
        at_ns=7,
        model=MODEL,
        keep=False,
        best=False,
        met=False,
        score=-0.4,
        measurements=(FIGURE,),
        why="it fell",
    )
    entry = log_of(worse)[-1]
    assert entry.kind == EntryKind.ROLLED_BACK
    assert "it fell" in entry.text


def test_render_change_tells_what_was_and_what_is() -> None:
    changed = make_request(PACKAGE, deadline_s=900.0, targets=(parse_target("accuracy >= 0.9"),))
    text = log_of(RequestChanged(job=JOB, at_ns=10, request=changed))[-1].text
    assert "accuracy >= 0.95 → accuracy >= 0.9" in text
    assert "600.0 → 900.0" in text


def test_render_real_run_proofs_hold_with_the_sites_keys() -> None:
    async def run() -> tuple[MemoryService, tuple[LogEntry, ...]]:
        service = MemoryService()
        package = put_package(service)
        job = await service.submit(OWNER, make_request(package), "k")
        async for status in service.watch(OWNER, job):
            last = status
        assert last.phase is Phase.DELIVERED
        return service, service.log(OWNER, job, 0)

    service, entries = asyncio.run(asyncio.wait_for(run(), 20))
    proofs = [proof for entry in entries if (proof := read_proof(entry)) is not None]
    assert {EntryKind.TRAINED, EntryKind.MEASURED, EntryKind.KEPT} <= {entry.kind for entry in entries}
    assert len(proofs) >= 4
    for proof in proofs:
        signer = public_hex(service.keys[proof.node])
        verify_report(report_bytes(proof), proof.signature, signer)
        with pytest.raises(PeerError):
            verify_report(report_bytes(proof) + b"x", proof.signature, signer)
