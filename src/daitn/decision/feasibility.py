"""Feasibility (T-FAM's judgement): whether a request can be met on a view, as a list of conditions.

Paper II-A: T-FAM evaluates whether training is feasible from the model, the requirements and the state of the network.
Stages: authorisation and policy → resources → data → attainability. All conditions are checked, none hides another.
Attainability rests on the trial at the verification unit and on earlier runs (`decision.attainability`); without a
trial it says that it does not know, and claims no probability.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec

from daitn.base.units import show_bytes
from daitn.decision.allowance import allowance
from daitn.decision.attainability import Ahead, improves, joint_chance, predict, situation_of
from daitn.decision.costs import TIME_MARGIN, memory_bytes
from daitn.decision.drafting import draft_plan
from daitn.decision.experience import Lessons, Situation
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.method_choice import as_seen_by
from daitn.decision.noising import private_steps
from daitn.decision.probing import wanted as probe_wanted
from daitn.decision.promises import Least, Promises, beside, when
from daitn.descriptors.masked import MEMBERS_LEAST
from daitn.descriptors.outcome import Condition, Prediction, ReasonCode, Verdict
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import CHANCE_FLOOR, Request, Target
from daitn.descriptors.view import TrainingView
from daitn.learning.methods import METHODS, splits
from daitn.learning.methods.compatibility import conflicts
from daitn.learning.numerics.trial_extent import STEPS_ENOUGH

NO_LESSONS: Final = Lessons()
"""Of a network in which no run has ended yet."""

LEAST_TRAINING: Final = 20.0
"""Training records a target's field or label needs at all; below it nothing can be learnt about it, only remembered."""

LEAST_TEST: Final = 10.0
"""Held-out records a target needs to be measured; with 10 the interval of a proportion is still ±0.25."""


def _condition(
    code: ReasonCode, what: str, required: float, available: float, *, at_most: bool = False, unit: str = ""
) -> Condition:
    """A condition on numbers: `required <= available`; with `at_most`, what is required is read against a bound."""
    met = required <= available
    word = "at most" if at_most else "at least"
    return Condition(
        code=code,
        what=what,
        required=f"{word} {_show(available if at_most else required)}{unit}",
        available=f"{_show(required if at_most else available)}{unit}",
        met=met,
        required_value=required,
        available_value=available,
    )


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _said(code: ReasonCode, what: str, required: str, available: str, *, met: bool) -> Condition:
    return Condition(code=code, what=what, required=required, available=available, met=met)


class Known(NamedTuple):
    """What a judgement rests on besides view and request: what the unit found, what earlier runs teach, the seconds
    since submission that are gone from the deadline already, what other jobs were promised, and the bytes that have
    moved since submission, which are gone from the budget."""

    preflight: Preflight | None = None
    lessons: Lessons = NO_LESSONS
    elapsed_s: float = 0.0
    promises: Promises = Promises()
    moved_bytes: int = 0


class Judged(NamedTuple):
    """The draft plan, every condition, met or not, how far each target is expected to get, and what the run to come
    will teach others by, once it is over."""

    plan: Plan
    conditions: tuple[Condition, ...]
    predictions: tuple[Prediction, ...]
    situation: Situation | None
    view: TrainingView
    """The view with what other jobs leave free."""
    probe: bool = False
    """Whether a probe could turn the verdict, and may be made."""


def judge(view: TrainingView, request: Request, package: PackageFacts, known: Known) -> Judged:
    """Judge a request on a view. Cost: that of a draft, and 10⁴ flops a target, 10⁶ with experience."""
    preflight, left_s = known.preflight, request.deadline_s - known.elapsed_s
    plan = draft_plan(beside(view, known.promises, left_s), request, package, preflight)
    whole = as_seen_by(view, plan.method)
    view = beside(whole, known.promises, left_s)
    slots = least_beside(whole, request, package, known, plan) if view is not whole else None
    situation, ahead = situation_of(view, request, package, plan, preflight), None
    if situation is not None:
        room = allowance(view, request, package, plan, preflight, known.elapsed_s, known.moved_bytes)
        ahead = Ahead(situation, room, known.lessons)
    predictions = predict(view, request, preflight, ahead)
    conditions = [
        *_policy(view, request),
        *_method(view, request, plan, preflight),
        *_options(request, plan),
        *_hiding(view, request, plan),
        *_noise(view, request, plan),
        *_resources(view, request, package, plan, known, slots),
        *_data(view, request),
        *_preflight(preflight),
        *_attainability(request, preflight, predictions),
    ]
    probe = probe_wanted(request, preflight, conditions, predictions)
    return Judged(plan, tuple(conditions), predictions, situation, view, probe)


def least_beside(view: TrainingView, request: Request, package: PackageFacts, known: Known, plan: Plan) -> Least:
    """How little time a plan can take beside what other jobs were promised; `view`: as it is without that."""
    return Least(as_seen_by(view, plan.method), request, package, plan, known.preflight, known.promises, TIME_MARGIN)


def verdict_of(view: TrainingView, request: Request, judged: Judged) -> Verdict:
    """Admitted if every condition holds; neither that nor refused where a probe is to be made first. The probability
    is that of all targets, where all could be predicted."""
    met = all(condition.met for condition in judged.conditions)
    all_known = {target.name for target in request.targets} == {one.name for one in judged.predictions}
    chance, low, high = joint_chance(judged.predictions) if all_known else (None, 0.0, 1.0)
    return Verdict(
        outcome="needs-probe" if judged.probe else "admitted" if met else "refused",
        conditions=judged.conditions,
        excluded=view.excluded,
        probability=chance,
        probability_low=low,
        probability_high=high,
        predictions=judged.predictions,
        expected=judged.plan.expected,
        view_version=view.version,
    )


def _policy(view: TrainingView, request: Request) -> list[Condition]:
    refusing = [one for one in view.excluded if one.code is ReasonCode.POLICY]
    usable = {candidate.dataset for candidate in view.candidates}
    conditions: list[Condition] = []
    if request.data.include:
        named = [one for one in view.excluded if one.dataset in request.data.include]
        known = usable | {one.dataset for one in view.excluded}
        conditions += [
            _said(one.code, f"use of {one.dataset}", "allowed and reachable", one.why, met=False) for one in named
        ]
        conditions += [
            _said(ReasonCode.NO_DATA, f"use of {name}", "a data set of this domain", "no such data set", met=False)
            for name in request.data.include
            if name not in known
        ]
    if not usable and refusing:
        said = "; ".join(f"{one.dataset}: {one.why}" for one in refusing[:5])
        conditions.append(_said(ReasonCode.POLICY, "consent of data owners", "at least one", said, met=False))
    elif not conditions:
        conditions.append(
            _said(ReasonCode.POLICY, "consent of data owners", "at least one", f"{len(usable)} agree", met=bool(usable))
        )
    return conditions


def _method(view: TrainingView, request: Request, plan: Plan, preflight: Preflight | None) -> list[Condition]:
    if not request.method:
        return _cutting(view, plan.method, preflight) if splits(plan.method) else []
    method = METHODS.get(request.method)
    if method is None:
        known = ", ".join(sorted(METHODS))
        return [_said(ReasonCode.METHOD, f"method {request.method!r}", f"one of {known}", "unknown", met=False)]
    if method.exchanges:
        nodes = {candidate.compute_node for candidate in view.candidates}
        wanted, said = "two sites that compute", f"{len(nodes)}"
        return [_said(ReasonCode.METHOD, f"method {request.method!r}", wanted, said, met=len(nodes) > 1)]
    if splits(request.method):
        return _cutting(view, request.method, preflight)
    if method.gossips:
        nodes = {candidate.compute_node for candidate in view.candidates}
        wanted, said = "two sites that average with one another", f"{len(nodes)}"
        return [_said(ReasonCode.METHOD, f"method {request.method!r}", wanted, said, met=len(nodes) > 1)]
    if method.aggregates:
        there = bool(view.aggregators)
        available = view.aggregators[0].node if there else "none reachable"
        return [_said(ReasonCode.METHOD, f"method {request.method!r}", "an aggregator", available, met=there)]
    return []


def _cutting(view: TrainingView, method: str, preflight: Preflight | None) -> list[Condition]:
    """Split learning: a pair of sites to cut the model between, and a place in its graph to cut it at."""
    pairs = len({candidate.dataset for candidate in view.candidates if candidate.split})
    what, wanted = f"method {method!r}", "a data set and a compute site that its policy gives activations to"
    found = [_said(ReasonCode.METHOD, what, wanted, f"{pairs} data sets with one", met=pairs > 0)]
    if preflight is not None and preflight.cuts is not None and not preflight.fault:
        count = len(preflight.cuts)
        wanted = "a graph that a batch passes once, with places to cut it at"
        found.append(_said(ReasonCode.METHOD, f"{what}: cuts", wanted, f"{count} found", met=count > 0))
    return found


def _options(request: Request, plan: Plan) -> list[Condition]:
    """What is asked for and the method cannot do: `learning.methods.compatibility`."""
    return [
        _said(ReasonCode.METHOD, one.what, one.admitted_by, one.why, met=False)
        for one in conflicts(METHODS[plan.method], request)
    ]


def _noise(view: TrainingView, request: Request, plan: Plan) -> list[Condition]:
    """Private training: some amount of noise that makes it cost no more than asked for."""
    if request.privacy is None or not view.candidates:
        return []
    largest = max(view.candidates, key=lambda one: one.groups)
    found = private_steps(request.privacy, plan.training, largest)
    steps = plan.training.batches * request.privacy.visits
    what = f"privacy: noise with which {steps} steps cost ε = {request.privacy.epsilon:g}"
    said = "none is enough" if found is None else f"{found.noise_multiplier:.3g} times the clip at the largest data set"
    return [_said(ReasonCode.METHOD, what, "some", said, met=found is not None)]


def _hiding(view: TrainingView, request: Request, plan: Plan) -> list[Condition]:
    """Secure aggregation: an aggregator, and enough nodes to hide in."""
    if request.secure_aggregation is None or not METHODS[plan.method].aggregates:
        return []
    nodes = float(len({candidate.compute_node for candidate in view.candidates}))
    what = "secure_aggregation: sites that hide one another"
    found = [_condition(ReasonCode.METHOD, what, float(MEMBERS_LEAST), nodes)]
    if not request.method and not view.aggregators:
        what = "secure_aggregation: an aggregator"
        found.append(_said(ReasonCode.METHOD, what, "at least one", "none reachable", met=False))
    return found


def _resources(
    view: TrainingView, request: Request, package: PackageFacts, plan: Plan, known: Known, slots: Least | None
) -> list[Condition]:
    """`slots`: how little time it can take beside what others were promised, where they were promised anything."""
    conditions: list[Condition] = []
    elapsed_s = known.elapsed_s
    if view.candidates:
        need = memory_bytes(package, split=splits(plan.method))
        most = max(candidate.memory_bytes for candidate in view.candidates)
        conditions.append(_condition(ReasonCode.MEMORY, "memory at a site", need, most, unit=" bytes"))
        least = (slots.alone_s() if slots is not None else plan.expected.seconds_low * TIME_MARGIN) + elapsed_s
        what = "least time the plan can take"
        conditions.append(_condition(ReasonCode.TIME, what, least, request.deadline_s, at_most=True, unit=" s"))
        conditions += _slots(request, plan, elapsed_s, slots) if slots is not None else []
    elif full := [one for one in view.excluded if one.code is ReasonCode.STORAGE]:
        said = "; ".join(f"{one.dataset}: {one.why}" for one in full[:5])
        need_text = f"{show_bytes(package.total_bytes)} at one site at least"
        conditions.append(_said(ReasonCode.STORAGE, "room for the model in a site's store", need_text, said, met=False))
    low_visits = float(max(1, len({stop.dataset for stop in plan.route}))) if METHODS[plan.method].aggregates else 1.0
    if request.budget.visits is not None:
        bound = float(request.budget.visits)
        conditions.append(
            _condition(ReasonCode.VISITS, "least visits the plan can make", low_visits, bound, at_most=True)
        )
    if request.budget.transfer_bytes is not None:
        moved = known.moved_bytes + _least_bytes(package, plan, low_visits, tried=known.preflight is not None)
        bound = float(request.budget.transfer_bytes)
        what = "least bytes the plan can move"
        conditions.append(_condition(ReasonCode.BYTES, what, moved, bound, at_most=True, unit=" bytes"))
    expected = plan.expected
    for code, allowed, low, stated, unit in (
        (ReasonCode.ENERGY, request.budget.energy_joules, expected.energy_joules_low, expected.energy_joules, " J"),
        (ReasonCode.PRICE, request.budget.price, expected.price_low, expected.price, ""),
    ):
        if allowed is None:
            continue
        if stated is None:
            text = f"no site that can be used states its {code.value}"
            conditions.append(_said(code, f"{code.value} budget", f"at most {allowed:g}", text, met=False))
            continue
        what = f"least {code.value} the plan can take"
        conditions.append(_condition(code, what, low, allowed, at_most=True, unit=unit))
    return conditions


def _least_bytes(package: PackageFacts, plan: Plan, visits: float, *, tried: bool) -> float:
    """What the least number of visits moves, and one measurement: to a unit that has tried the model, only weights."""
    a_visit = package.total_bytes + (package.update_bytes(plan.compression) if METHODS[plan.method].aggregates else 0)
    return a_visit * visits + (package.payload_bytes if tried else package.total_bytes)


def _slots(request: Request, plan: Plan, elapsed_s: float, slots: Least) -> list[Condition]:
    """The least time in what other jobs leave of sites' slots; where there is not enough, from when on there is."""
    least = plan.expected.seconds_low * TIME_MARGIN + elapsed_s
    what = "least time beside what other jobs were promised"
    found = _condition(ReasonCode.SLOTS, what, least, request.deadline_s, at_most=True, unit=" s")
    if found.met or slots.alone_s() + elapsed_s > request.deadline_s:
        return [found] if found.met else []  # alone it would not fit either, which is said already
    return [msgspec.structs.replace(found, available=found.available + when(slots.fits_in_s()))]


def _data(view: TrainingView, request: Request) -> list[Condition]:
    sites = {candidate.dataset: candidate for candidate in view.candidates}
    records = sum(candidate.records for candidate in sites.values())
    conditions = [
        _said(ReasonCode.NO_DATA, "data sets that can be used", "at least one", str(len(sites)), met=bool(sites)),
    ]
    need = float(max(request.data.min_records, math.ceil(LEAST_TRAINING)))
    conditions.append(_condition(ReasonCode.VOLUME, "training records in all", need, records))
    for field, least in request.data.min_records_field.items():
        have = sum(candidate.fields.get(field, 0.0) for candidate in sites.values())
        conditions.append(_condition(ReasonCode.VOLUME, f"training records in field {field!r}", float(least), have))
    for field in sorted({target.field for target in request.targets if target.field}):
        have = sum(candidate.fields.get(field, 0.0) for candidate in sites.values())
        conditions.append(_condition(ReasonCode.COVERAGE, f"training records in field {field!r}", LEAST_TRAINING, have))
    for label in sorted({target.label for target in request.targets if target.label}):
        have = sum(candidate.labels.get(label, 0.0) for candidate in sites.values())
        conditions.append(_condition(ReasonCode.COVERAGE, f"training records labelled {label!r}", LEAST_TRAINING, have))
    conditions += _verification(view, request)
    return conditions


def _verification(view: TrainingView, request: Request) -> list[Condition]:
    if not view.verifiers:
        text = "none is reachable"
        return [_said(ReasonCode.NO_VERIFIER, "verification unit", "at least one", text, met=False)]
    unit = view.verifiers[0]
    conditions = [
        _condition(ReasonCode.NO_TEST_SET, "records given to the verification unit", LEAST_TEST, unit.sample_records)
    ]
    for field in sorted({target.field for target in request.targets if target.field}):
        have = unit.sample_fields.get(field, 0.0)
        conditions.append(_condition(ReasonCode.NO_TEST_SET, f"test records in field {field!r}", LEAST_TEST, have))
    return conditions


def _preflight(preflight: Preflight | None) -> list[Condition]:
    if preflight is None:
        return []
    loads = not preflight.fault
    conditions = [
        _said(
            ReasonCode.DOES_NOT_LOAD,
            "the model at the verification unit",
            "loads and answers",
            "it does" if loads else preflight.fault,
            met=loads,
        )
    ]
    if loads and preflight.overfits is not None:
        available = "it can" if preflight.overfits else "its loss on one batch does not fall"
        what = "the model can learn one batch by heart"
        conditions.append(_said(ReasonCode.CANNOT_OVERFIT, what, "it can", available, met=preflight.overfits))
    return conditions


def _rests_on(preflight: Preflight | None, runs: int) -> str:
    """What a chance was told from besides the trial."""
    probe = preflight.probe if preflight is not None else None
    others = [f"a probe on {probe.records} records"] if probe is not None else []
    others += [f"{runs} earlier runs"] if runs else []
    return f"; from the trial and {' and '.join(others)}" if others else ""


def _attainability(
    request: Request, preflight: Preflight | None, predictions: tuple[Prediction, ...]
) -> list[Condition]:
    """The chance of each target against the owner's floor. Where nothing could be tried that is said; it is enough for
    an owner who leaves the floor where it is, not for one who asked for more of a chance than that."""
    known = {one.name: one for one in predictions}
    steps = max((point.steps for point in preflight.curve), default=0) if preflight is not None else 0
    short = f"; the trial had time for {steps} steps only, it may get further" if 0 < steps < STEPS_ENOUGH else ""
    conditions: list[Condition] = []
    for target in request.targets:
        found = known.get(target.name)
        if found is None:
            conditions.append(_unknown(request, target, tried=preflight is not None))
            continue
        within = f"{found.low:.3g} to {found.high:.3g} with 90 %"
        rests = _rests_on(preflight, found.runs)
        said = f"{found.probability:.0%}: {found.expected:.3g} expected, {within}{rests}{short}"
        if found.probability < request.chance_floor and not improves(target, found):
            said += f"; no more than the {found.untrained:.3g} of the submitted model can be promised"
        conditions.append(
            Condition(
                code=ReasonCode.ATTAINABILITY,
                what=f"chance of {target}",
                required=f"at least {request.chance_floor:.0%}",
                available=said,
                met=found.probability >= request.chance_floor,
                required_value=request.chance_floor,
                available_value=found.probability,
            )
        )
    return conditions


def _unknown(request: Request, target: Target, *, tried: bool) -> Condition:
    """A target whose chance could not be told; `tried`: the model was tried, and nothing came of it."""
    insists = tried and request.chance_floor > CHANCE_FLOOR
    text = "not known: too few test records or too little time to try it" + ("" if tried else ", or not tried yet")
    if insists:
        text += f"; a probe, a later deadline or a chance of {CHANCE_FLOOR:.0%} may be allowed"
    required = f"at least {request.chance_floor:.0%}" if insists else "a prediction"
    return _said(ReasonCode.ATTAINABILITY, f"chance of {target}", required, text, met=not insists)
