"""The model card of a finished job, made of its records: goal, figures, lineage, cost, and a request to run it again.

Paper III: models return to their owners with their logs. The log tells all that happened; the card tells what the
delivered model *is*: only visits that it comes from stand in its lineage, found by going back from it, model by model,
to the submitted one.

What it cannot undo: a data set that its owner excluded late may have taught the model before. Its visits then stand in
the lineage like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.base.units import ns_to_seconds
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import JobAssessed, JobSubmitted, RequestChanged, VisitAccepted
from daitn.decision.noising import told_of
from daitn.describe.accountant import epsilon_of
from daitn.descriptors.card import DataUse, ModelCard, OwnersChange, Step
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Hyperparameters, Request, Selection
from daitn.descriptors.work import AggregateOutcome, AggregateWork, TrainOutcome, TrainWork
from daitn.oam import wording
from daitn.oam.progress import dataset_of, finite, target_state

Names = Callable[[NodeId], str]


def model_card(state: JobState, names: Names) -> ModelCard:
    """The card of a job that has ended with a model; InputError for any other. O(records of the job)."""
    if state.phase not in (Phase.DELIVERED, Phase.EXHAUSTED) or state.ended_ns is None:
        raise InputError(
            f"job {state.job} is {state.phase.value}: a card tells of a model, and there is none",
            todo="wait until the job has ended with a model; its log tells how it came to where it is",
            ids={"job": state.job},
        )
    untrained, reached = finite(state.untrained), finite(state.best_measurements)
    lineage = lineage_of(state, state.best, names)
    plan, spent = _first_plan(state), _epsilons(state)
    return ModelCard(
        job=state.job,
        name=state.request.name,
        owner=state.owner,
        purpose=state.request.purpose,
        phase=state.phase,
        reason=state.reason,
        submitted_unix_s=ns_to_seconds(state.submitted_ns),
        ended_unix_s=ns_to_seconds(state.ended_ns),
        package=state.request.package,
        model=state.best,
        contract=state.package.contract.digest(),
        targets=tuple(target_state(target, reached, untrained) for target in state.request.targets),
        untrained=untrained,
        reached=reached,
        test_set=state.sampled.test_set,
        method=state.plan.method if state.plan is not None else "",
        training=plan.plan.training if plan is not None else None,
        data=_data_of(state, lineage, spent),
        lineage=lineage,
        visits=state.visits,
        rolled_back=state.rolled_back,
        transfer_bytes=state.transfer_bytes,
        price=state.charges.price,
        energy_joules=state.charges.energy_joules,
        epsilon=max(spent.values(), default=None),
        changes=_changes(state),
        rerun=rerun_of(state),
        delta=None if state.request.privacy is None else state.request.privacy.delta,
    )


def lineage_of(state: JobState, model: ArtifactId, names: Names) -> tuple[Step, ...]:
    """The accepted visits that a model comes from, in the order in which they were accepted."""
    made: dict[ArtifactId, list[VisitAccepted]] = {}
    for record in state.log:
        if isinstance(record, VisitAccepted) and isinstance(record.outcome, TrainOutcome | AggregateOutcome):
            made.setdefault(record.outcome.model, []).append(record)
    wanted, known, found = [model], {model}, dict[str, VisitAccepted]()
    while wanted:
        for record in made.get(wanted.pop(), ()):
            found[record.visit] = record
            for earlier in _models_in(state, record):
                if earlier not in known:
                    known.add(earlier)
                    wanted.append(earlier)
    accepted = [record for record in state.log if isinstance(record, VisitAccepted)]
    return tuple(_step(state, record, names) for record in accepted if record.visit in found)


def _models_in(state: JobState, record: VisitAccepted) -> tuple[ArtifactId, ...]:
    work = state.ordered[record.visit].work
    return work.models_in() if isinstance(work, TrainWork | AggregateWork) else ()


def _step(state: JobState, record: VisitAccepted, names: Names) -> Step:
    ordered, outcome = state.ordered[record.visit], record.outcome
    assert isinstance(outcome, TrainOutcome | AggregateOutcome)
    trained = outcome if isinstance(outcome, TrainOutcome) else None
    return Step(
        visit=record.visit,
        node=ordered.node,
        node_name=names(ordered.node),
        dataset=dataset_of(ordered.work),
        data_version=trained.data_version if trained is not None else "",
        models_in=_models_in(state, record),
        model_out=outcome.model,
        batches=trained.batches if trained is not None else 0,
        signature=record.signature,
    )


def _epsilons(state: JobState) -> dict[str, float]:
    """What the job's private training has cost each data set: of all visits that were ordered, since a model that was
    rolled back was seen too, and a visit that was lost may have been."""
    privacy = state.request.privacy
    if privacy is None:
        return {}
    told = told_of(one.work for one in state.ordered.values() if isinstance(one.work, TrainWork))
    return {dataset: epsilon_of(mechanisms, privacy.delta) for dataset, mechanisms in told.items()}


def _data_of(state: JobState, lineage: tuple[Step, ...], spent: dict[str, float]) -> tuple[DataUse, ...]:
    """What each data set of a lineage was used for."""
    found: dict[DataSetId, list[Step]] = {}
    for step in lineage:
        if step.dataset:
            found.setdefault(DataSetId(step.dataset), []).append(step)
    outcomes = {record.visit: record.outcome for record in state.log if isinstance(record, VisitAccepted)}
    uses: list[DataUse] = []
    for dataset, steps in sorted(found.items()):
        last = outcomes[steps[-1].visit]
        uses.append(
            DataUse(
                dataset=dataset,
                node_name=steps[-1].node_name,
                versions=tuple(dict.fromkeys(step.data_version for step in steps)),
                records=last.records if isinstance(last, TrainOutcome) else 0,
                visits=len(steps),
                batches=sum(step.batches for step in steps),
                epsilon=spent.get(dataset),
            )
        )
    return tuple(uses)


def _changes(state: JobState) -> tuple[OwnersChange, ...]:
    """What the owner changed, and when."""
    found: list[OwnersChange] = []
    before = state.request
    for record in state.log:
        match record:
            case JobSubmitted(request=request):
                before = request
            case JobAssessed(taken=taken) if taken is not None:
                before = taken
            case RequestChanged(request=request, at_ns=at_ns):
                changes = tuple(wording.differences(before, request))
                found.append(OwnersChange(unix_s=ns_to_seconds(at_ns), changes=changes))
                before = request
            case _:
                pass
    return tuple(found)


def _first_plan(state: JobState) -> JobAssessed | None:
    """The assessment that admitted the job: its plan is the one that was run, before roll backs made steps smaller."""
    admitted = [one for one in state.log if isinstance(one, JobAssessed) and one.verdict.outcome == "admitted"]
    return admitted[-1] if admitted else None


def rerun_of(state: JobState) -> Request:
    """The request with what the network chose pinned: method, hyper-parameters, and the data sets that were used."""
    request, admitted = state.request, _first_plan(state)
    used = tuple(dict.fromkeys(dataset for dataset, _ in state.seen)) or request.data.include
    data = msgspec.structs.replace(request.data, include=used) if used else request.data
    if admitted is None:
        return msgspec.structs.replace(request, data=data)
    training, server = admitted.plan.training, admitted.plan.server
    pinned = Hyperparameters(
        batch_size=training.batch_size,
        batches_per_visit=training.batches,
        epochs_per_visit=admitted.plan.epochs or None,
        learning_rate=training.learning_rate,
        optimizer=training.optimizer,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        gradient_clip=training.gradient_clip or None,
        average_steps=training.average_steps,
        average_lead=training.average_lead,
        label_correction=training.label_correction,
        proximal=training.proximal,
        server_learning_rate=server.learning_rate if server is not None else None,
    )
    exclude = tuple(one for one in data.exclude if one not in data.include)
    selection: Selection = msgspec.structs.replace(data, exclude=exclude)
    return msgspec.structs.replace(
        request,
        method=admitted.plan.method,
        hyperparameters=pinned,
        data=selection,
        accept_counter_offer=False,
        tuning=None,
    )
