"""The timeline: a job's journal told in words, one entry per record, each decision with its reason.

The journal holds facts and no text, so that a word can be mended without touching what happened; here the text is made.
Entries are numbered as the records are, so a reader who has read up to a number asks for what is beyond it.

Each accepted visit carries its proof (`oam.proofs`): the canonical bytes its site signed (base64), beside the same
facts in plain names.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from enum import StrEnum

import msgspec

from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId, NodeId, VisitId
from daitn.base.units import ns_to_seconds, show_bytes, show_seconds
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import (
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
from daitn.descriptors.job import LogEntry
from daitn.descriptors.masked import AgreeOutcome, AgreeWork, SealOutcome, SealWork, UnmaskOutcome, UnmaskWork
from daitn.descriptors.request import Request
from daitn.descriptors.work import (
    AggregateOutcome,
    AggregateWork,
    EvaluateOutcome,
    EvaluateWork,
    Measurement,
    ShareOutcome,
    ShareWork,
    TrainOutcome,
    TrainWork,
)
from daitn.oam import wording
from daitn.oam.progress import dataset_of, finite
from daitn.oam.proofs import Proof
from daitn.oam.told_of_routes import say_route
from daitn.oam.told_of_trust import say_compared, say_set_aside
from daitn.oam.told_of_tuning import say_searched, say_stage
from daitn.oam.told_of_works import say_work
from daitn.wire.center_tools import VisitReport, encode_report

Names = Callable[[NodeId], str]


class EntryKind(StrEnum):
    """What an entry tells. Closed: a reader may branch on it."""

    SUBMITTED = "submitted"
    ADMITTED = "admitted"
    REFUSED = "refused"
    OFFER_TAKEN = "offer-taken"
    PROMISED = "promised"
    NEEDS_PROBE = "needs-probe"
    PROBED = "probed"
    VARIANT_TRIED = "variant-tried"
    TUNING_TRIED = "tuning-tried"
    TUNING_DONE = "tuning-done"
    PREFLIGHT = "preflight"
    ORDERED = "ordered"
    ROUTE = "route"
    SHARED = "shared"
    TRAINED = "trained"
    AVERAGED = "averaged"
    MEASURED = "measured"
    LOST = "lost"
    STOPPED = "stopped"
    SAMPLE = "sample"
    RECORDS = "records"
    KEPT = "kept"
    ROLLED_BACK = "rolled-back"
    SET_ASIDE = "set-aside"
    UNITS_COMPARED = "units-compared"
    AGREED = "agreed"
    ROUND_LOST = "round-lost"
    TEST_SET = "test-set"
    HIDDEN = "hidden"
    MODEL_GONE = "model-gone"
    HOLDER_DROPPED = "holder-dropped"
    COPIES_LET_GO = "copies-let-go"
    STEP_MEASURED = "step-measured"
    HARM_TRACED = "harm-traced"
    MAKER_REFUTED = "maker-refuted"
    DOUBT_REFUTED = "doubt-refuted"
    REPLANNED = "replanned"
    SITE_BARRED = "site-barred"
    CHANGED = "changed"
    PHASE = "phase"


def render_log(state: JobState, names: Names, start: int = 0) -> tuple[LogEntry, ...]:
    """Entries of a job's log from number `start` on; `names` gives a node's own name. O(entries)."""
    return tuple(render_entry(state, number, names) for number in range(max(0, start), len(state.log)))


def render_entry(state: JobState, number: int, names: Names) -> LogEntry:
    """The entry of record `number`; BugError for a record type nobody wrote words for."""
    record = state.log[number]
    said = _say(state, number, record, names)
    return LogEntry(
        number=number,
        unix_s=ns_to_seconds(record.at_ns),
        kind=said.kind.value,
        text=said.text,
        visit=said.visit,
        node=said.node,
        measurements=finite(said.measurements),
        proof=said.proof,
    )


class _Said(msgspec.Struct, frozen=True):
    kind: EntryKind
    text: str
    visit: VisitId | None = None
    node: NodeId | None = None
    measurements: tuple[Measurement, ...] = ()
    proof: str = ""


def _say(state: JobState, number: int, record: JobRecord, names: Names) -> _Said:
    match record:
        case JobSubmitted(owner=owner, request=request, package=package):
            signed = f"signed by {package.signer[:16]}…" if package.signer else "not signed"
            return _Said(
                EntryKind.SUBMITTED,
                f"{owner} submitted {request.name!r} for {request.purpose}: {wording.targets(request)}; back within "
                f"{show_seconds(request.deadline_s)}; package {wording.short(request.package)} of "
                f"{show_bytes(package.total_bytes)}, {signed}",
            )
        case JobAssessed():
            return _say_assessed(record)
        case PromiseMade(promise=promise):
            return _Said(EntryKind.PROMISED, wording.promise(promise, names))
        case ProbeDone(point=point, why=why):
            return _Said(EntryKind.PROBED, wording.probe(point, why), measurements=point.measurements if point else ())
        case VariantTried(variant=variant):
            return _Said(EntryKind.VARIANT_TRIED, f"another model: {wording.tried_variant(variant)}")
        case TuningTried(stage=stage):
            return _Said(EntryKind.TUNING_TRIED, say_stage(stage))
        case TuningDone(searched=searched):
            return _Said(EntryKind.TUNING_DONE, say_searched(searched))
        case PreflightDone(preflight=preflight):
            return _Said(EntryKind.PREFLIGHT, wording.preflight(preflight), measurements=preflight.measurements)
        case VisitOrdered(visit=visit, node=node, work=work, why=why):
            text = f"visit {_number(visit)} ordered: {say_work(work, names(node), names)}; why: {why}"
            return _Said(EntryKind.ORDERED, text, visit, node)
        case RouteIssued():
            return _Said(EntryKind.ROUTE, say_route(state, record, names))
        case VisitAccepted():
            return _say_accepted(state, record, names)
        case VisitLost():
            return _say_lost(state, record, names)
        case GroupAgreed(visits=visits, model=model):
            numbers = ", ".join(_number(visit) for visit in visits)
            text = f"visits {numbers} made the same model in lock step, bit for bit: {wording.short(model)}"
            return _Said(EntryKind.AGREED, text)
        case GroupsDrawn(groups=groups):
            said = "; ".join(" with ".join(group) if len(group) > 1 else f"{group[0]} alone" for group in groups)
            return _Said(EntryKind.AGREED, f"a round of visits, after which sites average: {said}")
        case AllMet(models=models, head=head):
            one = f"they have {wording.short(head)} in common" if head is not None else "means of two become one of all"
            return _Said(EntryKind.AGREED, f"all meet with {models} model(s): {one}")
        case MaskedRoundLost(why=why):
            return _Said(EntryKind.ROUND_LOST, f"the masked round came to nothing: {why}")
        case GroupLost(visits=visits, why=why, left_out=left_out):
            numbers = ", ".join(_number(visit) for visit in visits)
            without = f"; {left_out} is left out of the next round" if left_out is not None else ""
            return _Said(EntryKind.ROUND_LOST, f"the round of visits {numbers} came to nothing: {why}{without}")
        case SampleGiven(unit=unit, sample=sample):
            text = (
                f"{sample.dataset} gives {sample.records} held-out records to the verification unit {names(unit)}; "
                "they never train"
            )
            return _Said(EntryKind.SAMPLE, text, node=unit)
        case RecordsGiven(dataset=dataset, receiver=receiver, holder=holder):
            text = f"records of {dataset} may stream from {names(holder)} to {names(receiver)}, as its policy agrees"
            return _Said(EntryKind.RECORDS, text, node=receiver)
        case ModelJudged():
            return _say_judged(record)
        case OtherTestSet(unit=unit, samples=samples, model=model, measurements=measurements):
            count = sum(sample.records for sample in samples)
            text = (
                f"models are compared on another test set from now on, {count} records of {len(samples)} data sets at "
                f"{names(unit)}: no unit that has the one until now answers. The best model {wording.short(model)} "
                f"measures {wording.measurements(finite(measurements))} on it"
            )
            return _Said(EntryKind.TEST_SET, text, node=unit, measurements=measurements)
        case UnitsCompared():
            return _Said(EntryKind.UNITS_COMPARED, say_compared(record, names), node=record.unit)
        case ModelGone(model=model, instead=instead):
            text = (
                f"no site that holds model {wording.short(model)} came back in time, or none has it any more; the job "
                f"goes on from {wording.short(instead)}"
            )
            return _Said(EntryKind.MODEL_GONE, text)
        case HolderDropped(artifact=artifact, node=node):
            text = f"{names(node)} does not hold {wording.short(artifact)} any more, and is not asked for it again"
            return _Said(EntryKind.HOLDER_DROPPED, text, node=node)
        case CopiesLetGo(node=node, artifacts=artifacts):
            lets_go = "1 model" if len(artifacts) == 1 else f"{len(artifacts)} models"
            text = f"{names(node)} had no room: it lets go {lets_go} of this job that others hold, too"
            return _Said(EntryKind.COPIES_LET_GO, text, node=node)
        case StepMeasured(visit=visit, model=model, measurements=figures):
            said = wording.measurements(finite(figures)) if figures else "it cannot be measured"
            text = f"model {wording.short(model)}, as visit {_number(visit)} left it: {said}"
            return _Said(EntryKind.STEP_MEASURED, text, visit, measurements=figures)
        case HarmTraced(visit=visit, dataset=dataset, onward=onward, why=why):
            if visit is None:
                return _Said(EntryKind.HARM_TRACED, f"which visit made the model worse cannot be found out: {why}")
            to = f"; the job goes on from {wording.short(onward)}, made before it" if onward is not None else ""
            text = f"visit {_number(visit)} on {dataset} made the model worse: {why}{to}"
            return _Said(EntryKind.HARM_TRACED, text, visit, state.ordered[visit].node)
        case SitesSetAside():
            return _Said(EntryKind.SET_ASIDE, say_set_aside(record))
        case MakerRefuted(visit=visit, node=node, model=model, why=why):
            text = f"{names(node)} is to blame for {wording.short(model)}, made by visit {_number(visit)}: {why}"
            return _Said(EntryKind.MAKER_REFUTED, text, visit, node)
        case DoubtRefuted(visit=visit, model=model):
            node = state.ordered[visit].node
            text = f"{names(node)} is to blame: it refused {wording.short(model)}, which a verification unit can use"
            return _Said(EntryKind.DOUBT_REFUTED, text, visit, node)
        case Replanned(why=why):
            return _Said(EntryKind.REPLANNED, f"the plan changes: {why}")
        case SiteBarred(dataset=dataset, why=why):
            return _Said(EntryKind.SITE_BARRED, f"{dataset} will not be asked again by this job: {why}")
        case RequestChanged(request=request):
            changes = wording.differences(_request_before(state, number), request)
            return _Said(EntryKind.CHANGED, f"the owner changed the request: {'; '.join(changes) or 'nothing'}")
        case JobPhased(phase=phase, reason=reason):
            return _Said(EntryKind.PHASE, f"{phase.value}: {reason}")
        case _:
            raise BugError(f"the timeline has no words for {type(record).__name__}", ids={"job": state.job})


def _say_assessed(record: JobAssessed) -> _Said:
    verdict = record.verdict
    if verdict.outcome == "needs-probe":
        text = f"not sure yet{wording.probability(verdict)}: one site trains for a moment, and the unit measures that"
        return _Said(EntryKind.NEEDS_PROBE, text)
    if verdict.outcome != "refused":
        text = (
            f"{verdict.outcome}: all {len(verdict.conditions)} conditions hold{wording.probability(verdict)}; "
            f"{wording.plan(record.plan)}"
        )
        return _Said(EntryKind.ADMITTED, text)
    failed = "; ".join(wording.condition(one) for one in verdict.failed())
    offer = wording.offer(verdict.counter_offer)
    if record.taken is not None:
        return _Said(
            EntryKind.OFFER_TAKEN, f"as asked it is refused ({failed}), and the owner agreed beforehand: {offer}"
        )
    advice = f"; {wording.advice(verdict.advice)}" if verdict.advice is not None else ""
    return _Said(EntryKind.REFUSED, f"refused: {failed}; {offer}{advice}")


def _say_accepted(state: JobState, record: VisitAccepted, names: Names) -> _Said:
    ordered, outcome = state.ordered[record.visit], record.outcome
    where = names(ordered.node)
    figures: tuple[Measurement, ...] = ()
    begin = f"visit {_number(record.visit)} at {where}"
    match outcome:
        case TrainOutcome():
            kind = EntryKind.TRAINED
            text = (
                f"{begin} trained {outcome.batches} batches in {wording.duration(outcome.seconds)}: "
                f"{wording.learnt(outcome)}, model {wording.short(outcome.model)}, "
                f"{wording.fetched(outcome.fetched_bytes)} in {wording.duration(outcome.fetch_s)}"
            )
            if outcome.saved_bytes:
                text += f"; its update is {show_bytes(outcome.saved_bytes)} smaller than the model"
        case EvaluateOutcome():
            kind, figures = EntryKind.MEASURED, outcome.measurements
            text = (
                f"{begin} measured {wording.short(outcome.model)} in {wording.duration(outcome.seconds)}: "
                f"{wording.measurements(finite(figures))}; {outcome.evaluations_left} evaluations left"
            )
        case AggregateOutcome(model=model, seconds=seconds, left_out=left_out):
            kind = EntryKind.AVERAGED
            what = "sum" if isinstance(ordered.work, AggregateWork) and ordered.work.masked else "average"
            text = f"{begin} made the {what} {wording.short(model)} in {wording.duration(seconds)}"
            if left_out:
                text += f", without {', '.join(map(wording.short, left_out))}: not finite, or of other tensors"
        case ShareOutcome(records=records, activations_bytes=kept):
            kind = EntryKind.SHARED
            text = f"{begin} made {records} records of {dataset_of(ordered.work)} ready"
            if kept:
                until = "the data is there" if outcome.activations_stay == "keep" else "a job uses them"
                text += f"; {show_bytes(kept)} of activations of the frozen base stay there as long as {until}"
        case AgreeOutcome():
            kind, text = EntryKind.HIDDEN, f"{begin} made keys"
        case SealOutcome():
            kind, text = EntryKind.HIDDEN, f"{begin} shared its seeds"
        case UnmaskOutcome():
            kind, text = EntryKind.HIDDEN, f"{begin} told what opens the sum"
    return _Said(kind, text, record.visit, ordered.node, figures, _proof(state, record, ordered, where))


def _proof(state: JobState, record: VisitAccepted, ordered: VisitOrdered, where: str) -> str:
    """JSON of the visit's proof."""
    outcome, work = record.outcome, ordered.work
    report = VisitReport(visit=record.visit, fence=ordered.fence, work=work, outcome=outcome)
    match work:
        case TrainWork(model=model) | EvaluateWork(model=model):
            models_in: tuple[ArtifactId, ...] = (model,)
        case AggregateWork():
            models_in = work.models_in()
        case ShareWork() | AgreeWork() | SealWork() | UnmaskWork():
            models_in = ()
    proof = Proof(
        visit=record.visit,
        fence=ordered.fence,
        node=ordered.node,
        node_name=where,
        package=state.request.package,
        dataset=dataset_of(work),
        data_version=outcome.data_version if isinstance(outcome, TrainOutcome | ShareOutcome) else "",
        models_in=models_in,
        model_out=outcome.model if isinstance(outcome, TrainOutcome | AggregateOutcome) else None,
        test_set=outcome.test_set if isinstance(outcome, EvaluateOutcome) else "",
        report=base64.b64encode(encode_report(report)).decode("ascii"),
        signature=record.signature,
    )
    return msgspec.json.encode(proof).decode("utf-8")


def _say_lost(state: JobState, record: VisitLost, names: Names) -> _Said:
    ordered = state.ordered[record.visit]
    begin = f"visit {_number(record.visit)} at {names(ordered.node)}"
    if record.blame in ("over", "slow"):
        return _Said(EntryKind.STOPPED, f"{begin} was stopped: {record.why}", record.visit, ordered.node)
    text = f"{begin} is given up ({wording.blame(record.blame)}): {record.why}"
    return _Said(EntryKind.LOST, text, record.visit, ordered.node)


def _say_judged(record: ModelJudged) -> _Said:
    model, figures = wording.short(record.model), wording.measurements(finite(record.measurements))
    if not record.keep:
        return _Said(
            EntryKind.ROLLED_BACK, f"rolled back {model}: {record.why}; {figures}", measurements=record.measurements
        )
    best = ", the best so far" if record.best else ""
    return _Said(EntryKind.KEPT, f"kept {model}{best}: {record.why}; {figures}", measurements=record.measurements)


def _request_before(state: JobState, number: int) -> Request:
    """The request as it stood before record `number`."""
    for record in reversed(state.log[:number]):
        match record:
            case JobSubmitted(request=request) | RequestChanged(request=request):
                return request
            case JobAssessed(taken=taken) if taken is not None:
                return taken
            case _:
                continue
    raise BugError(f"job {state.job} has a record before its submission")


def _number(visit: VisitId) -> str:
    return visit.rpartition("/")[2]
