"""Counter-offers: the nearest request that would be admitted, found with the very function that refused.

Each failed condition says what one number or list would have to be; all are changed at once, the view is made anew
for the changed request, and it is judged again, a few times over, since one change can uncover another. What comes
out has been admitted by `judge` itself, so taking exactly it is admitted as long as the network does not change.
Nothing is offered that the submitted model does untrained, nor that the owner did not leave open: purpose, owner and
privacy limits are never widened, except that where the request keeps records at home and only a trust zone could
train, that is said and offered.

What is found is then drawn near to what was asked: changed budgets to the least that the judgement itself names, the
trust floor by bisection, each step judged again. A deadline keeps its room above the least: the trial of the request
that takes the offer takes its own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.decision.attainability import easier
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.feasibility import Judged, Known, judge, least_beside
from daitn.decision.promises import Least
from daitn.descriptors.outcome import Change, Condition, CounterOffer, ReasonCode
from daitn.descriptors.request import CHANCE_FLOOR, Request, Target
from daitn.descriptors.view import TrainingView
from daitn.learning.methods.compatibility import without_option

ROUNDS: Final = 6
"""Times a changed request is judged again before there is no offer."""

NO_ACCOUNT: Final = "none: it cannot be kept account of here"
"""Offered instead of a budget of what sites do not state."""

DEADLINE_MOST_S: Final = 3.2e7
"""Longest deadline a request may have."""

SLACK: Final = 1.5
"""A deadline or budget is first offered this much above what the plan expects; budgets are drawn nearer then."""

NEARINGS: Final = 4
"""Times changed budgets are set to the least that the judgement names; a second time where the plan changed by it."""

FLOOR_STEPS: Final = 8
"""Times the room between the trust floor that was asked and the one offered is halved, at most."""

FLOOR_NEAR: Final = 0.01
"""An offered trust floor this near to one that is refused is near enough."""

BUDGETS: Final = {
    ReasonCode.BYTES: ("transfer budget", "transfer_bytes"),
    ReasonCode.VISITS: ("visits budget", "visits"),
    ReasonCode.ENERGY: ("energy budget", "energy_joules"),
    ReasonCode.PRICE: ("price budget", "price"),
}
"""What a budget is called among changes, and its field."""


def find_counter_offer(
    make_view: Callable[[Request], TrainingView], request: Request, package: PackageFacts, known: Known
) -> CounterOffer | None:
    """The nearest admissible request with its differences, or None. Cost: at most `ROUNDS` judgements to find it, then
    `NEARINGS` where a budget was changed and `FLOOR_STEPS` where the trust floor was."""

    def admitted(request: Request) -> Judged | None:
        judged = judge(make_view(request), request, package, known)
        return judged if all(condition.met for condition in judged.conditions) else None

    offered = request
    changes: dict[str, Change] = {}
    for _ in range(ROUNDS):
        view = make_view(offered)
        judged = judge(view, offered, package, known)
        failed = [condition for condition in judged.conditions if not condition.met]
        if not failed:
            found = known.preflight
            trivial = _met_untrained(offered, found) and not _met_untrained(request, found)
            if not changes or trivial:
                return None
            near, judged = _nearer_floor(offered, judged, request, changes, admitted)
            near = _nearer_budgets(near, judged, changes, admitted)
            return CounterOffer(request=near, changes=tuple(changes.values()))
        moved = offered
        for condition in failed:
            least = least_beside(view, offered, package, known, judged.plan)
            moved = _mend(moved, condition, view, judged, changes, known, least)
        if moved == offered:
            return None
        offered = moved
    return None


def _mend(
    request: Request,
    failed: Condition,
    view: TrainingView,
    judged: Judged,
    changes: dict[str, Change],
    known: Known,
    least: Least,
) -> Request:
    """The request with one failed condition mended as far as it can be; unchanged where it cannot."""

    def change(what: str, asked: str, offered: str) -> None:
        first = changes[what].asked if what in changes else asked
        changes[what] = Change(what=what, asked=first, offered=offered, because=failed.code)

    replace, elapsed_s = msgspec.structs.replace, known.elapsed_s
    budget, plan = request.budget, judged.plan
    match failed.code:
        case ReasonCode.TIME:
            whole_s = elapsed_s + max(plan.expected.seconds, plan.expected.seconds_low) * SLACK
            deadline = _round_up(whole_s if judged.view is view else least.deadline_s(elapsed_s, SLACK))
            if deadline > DEADLINE_MOST_S:
                return request
            change("deadline", f"{request.deadline_s:g} s", f"{deadline:g} s")
            return replace(request, deadline_s=deadline)
        case ReasonCode.SLOTS:
            deadline = _round_up(max(request.deadline_s, least.deadline_s(elapsed_s, SLACK)))
            if deadline > DEADLINE_MOST_S:
                return request
            change("deadline", f"{request.deadline_s:g} s", f"{deadline:g} s")
            return replace(request, deadline_s=deadline)
        case ReasonCode.BYTES:
            moved = known.moved_bytes + math.ceil(plan.expected.transfer_bytes * SLACK)
            change("transfer budget", f"{budget.transfer_bytes} bytes", f"{moved} bytes")
            return replace(request, budget=replace(budget, transfer_bytes=moved))
        case ReasonCode.VISITS:
            visits = math.ceil(plan.expected.visits * SLACK)
            change("visits budget", str(budget.visits), str(visits))
            return replace(request, budget=replace(budget, visits=visits))
        case ReasonCode.ENERGY:
            joules = _up_to_digits(plan.expected.energy_joules)
            offered = NO_ACCOUNT if joules is None else f"{joules:g} J"
            change("energy budget", f"{budget.energy_joules:g} J", offered)
            return replace(request, budget=replace(budget, energy_joules=joules))
        case ReasonCode.PRICE:
            price = _up_to_digits(plan.expected.price)
            change("price budget", f"{budget.price:g}", NO_ACCOUNT if price is None else f"{price:g}")
            return replace(request, budget=replace(budget, price=price))
        case ReasonCode.METHOD if (without := without_option(request, failed.what)) != request:
            option = failed.what.partition(":")[0]
            change(option, "as asked", f"left out: {failed.available}")
            return without
        case ReasonCode.METHOD if not request.method:
            return request  # what is missing is something no method has
        case ReasonCode.METHOD:
            change("method", request.method, "chosen by the network")
            return replace(request, method="")
        case ReasonCode.VOLUME:
            return _less_data(request, failed, change)
        case ReasonCode.ATTAINABILITY if failed.available_value is None:
            change("chance", f"{request.chance_floor:.0%}", f"{CHANCE_FLOOR:.0%}, where it is known")
            return replace(request, chance_floor=CHANCE_FLOOR)
        case ReasonCode.ATTAINABILITY:
            return _easier_targets(request, judged, change)
        case ReasonCode.COVERAGE | ReasonCode.NO_TEST_SET:
            return _fewer_targets(request, failed, change)
        case ReasonCode.POLICY | ReasonCode.NO_DATA | ReasonCode.NO_COMPUTE | ReasonCode.TRUST | ReasonCode.STORAGE:
            return _other_data(request, view, change)
        case _:
            return request


def _nearer_budgets(
    offered: Request, judged: Judged, changes: dict[str, Change], admitted: Callable[[Request], Judged | None]
) -> Request:
    """With the changed budgets at the least that the judgement names, as long as that is admitted, too."""
    for _ in range(NEARINGS):
        near = offered.budget
        for condition in judged.conditions:
            what, field = BUDGETS.get(condition.code, ("", ""))
            now = getattr(near, field) if what in changes else None
            if now is None or condition.required_value is None:
                continue
            least = _two_digits(condition.required_value)
            if least < now:
                near = msgspec.structs.replace(near, **{field: math.ceil(least) if isinstance(now, int) else least})
        request = msgspec.structs.replace(offered, budget=near)
        found = admitted(request) if near != offered.budget else None
        if found is None:
            break
        offered, judged = request, found
    for code, (what, field) in BUDGETS.items():
        now = getattr(offered.budget, field)
        if what in changes and now is not None:
            unit = {ReasonCode.BYTES: " bytes", ReasonCode.ENERGY: " J"}.get(code, "")
            said = f"{now}{unit}" if isinstance(now, int) else f"{now:g}{unit}"
            changes[what] = msgspec.structs.replace(changes[what], offered=said)
    return offered


def _nearer_floor(
    offered: Request,
    judged: Judged,
    asked: Request,
    changes: dict[str, Change],
    admitted: Callable[[Request], Judged | None],
) -> tuple[Request, Judged]:
    """With a lowered trust floor as high as is admitted, to within `FLOOR_NEAR`, and how that was judged. It comes
    before the budgets: fewer sites may need less."""
    if "trust floor" not in changes:
        return offered, judged
    refused = asked.trust_floor
    for _ in range(FLOOR_STEPS):
        if refused - offered.trust_floor <= FLOOR_NEAR:
            break
        request = msgspec.structs.replace(offered, trust_floor=round((offered.trust_floor + refused) / 2, 3))
        found = admitted(request)
        if found is not None:
            offered, judged = request, found
        else:
            refused = request.trust_floor
    said = f"{offered.trust_floor:.3g}"
    changes["trust floor"] = msgspec.structs.replace(changes["trust floor"], offered=said)
    return offered, judged


def _met_untrained(request: Request, preflight: Preflight | None) -> bool:
    """Whether the model as submitted was measured to meet every target: there would be nothing to train for."""
    if preflight is None:
        return False
    figures = {one.name: one.value for one in preflight.measurements}
    return all(target.name in figures and target.met_by(figures[target.name]) for target in request.targets)


def _round_up(seconds: float) -> float:
    """Up to two digits, so that an offer reads as one: 73.2 → 74, 0.52 → 1."""
    if seconds <= 1:
        return 1.0
    digits = 10.0 ** max(0, math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / digits) * digits


def _up_to_digits(expected: float | None) -> float | None:
    """What is expected with `SLACK`, up to two digits of any size: 0.0132 → 0.014; 0 and None stay."""
    if expected is None or expected <= 0:
        return expected
    return _two_digits(expected * SLACK)


def _two_digits(value: float) -> float:
    """Up to two digits of any size: 0.0132 → 0.014, 10,024 → 11,000; 0 stays."""
    if value <= 0:
        return 0.0
    digits = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / digits - 1e-9) * digits:.6g}")


def _less_data(request: Request, failed: Condition, change: Callable[[str, str, str], None]) -> Request:
    replace = msgspec.structs.replace
    have = int(failed.available_value or 0.0)
    for field in request.data.min_records_field:
        if failed.what.endswith(f"{field!r}"):
            change(f"records in {field}", str(request.data.min_records_field[field]), str(have))
            fields = {**request.data.min_records_field, field: have}
            return replace(request, data=replace(request.data, min_records_field=fields))
    if have < request.data.min_records:
        change("records", str(request.data.min_records), str(have))
        return replace(request, data=replace(request.data, min_records=have))
    return request


def _fewer_targets(request: Request, failed: Condition, change: Callable[[str, str, str], None]) -> Request:
    """Without the targets that cannot be taught or measured; at least one has to stay."""
    gone = [
        target
        for target in request.targets
        if (target.field and failed.what.endswith(f"in field {target.field!r}"))
        or (target.label and failed.what.endswith(f"labelled {target.label!r}"))
    ]
    left = tuple(target for target in request.targets if target not in gone)
    if not gone or not left:
        return request
    change("targets", ", ".join(map(str, request.targets)), ", ".join(map(str, left)))
    return msgspec.structs.replace(request, targets=left)


def _easier_targets(request: Request, judged: Judged, change: Callable[[str, str, str], None]) -> Request:
    """Each target that is too far with the figure that can be promised. One that stands in both directions at once, or
    whose promised figure is no easier, stays as it is."""
    promised = {one.name: one for one in judged.predictions if one.probability < request.chance_floor}
    targets: list[Target] = []
    for target in request.targets:
        prediction = promised.get(target.name)
        value = easier(target, prediction.promised) if prediction is not None else target.value
        is_easier = value < target.value if target.sense == ">=" else value > target.value
        eased = msgspec.structs.replace(target, value=value) if is_easier else target
        if eased != target:
            change(f"target {target.name}", *(f"{one.sense} {one.value:g}" for one in (target, eased)))
        targets.append(eased)
    return msgspec.structs.replace(request, targets=tuple(targets))


def _other_data(request: Request, view: TrainingView, change: Callable[[str, str, str], None]) -> Request:
    replace = msgspec.structs.replace
    blocked = [one for one in view.excluded if one.dataset in request.data.include]
    if request.data.include:
        usable = {candidate.dataset for candidate in view.candidates}
        kept = tuple(name for name in request.data.include if name in usable)
        if kept and kept != request.data.include:
            change("data sets", ", ".join(request.data.include), ", ".join(kept))
            return replace(request, data=replace(request.data, include=kept))
    at_home = [one for one in (blocked or view.excluded) if one.code is ReasonCode.NO_COMPUTE]
    if at_home and request.raw_records == "stay":
        change("raw records", "stay at their site", "may stream inside their trust zone")
        return replace(request, raw_records="trust-zone")
    if any(one.code is ReasonCode.TRUST for one in view.excluded) and request.trust_floor > 0:
        change("trust floor", f"{request.trust_floor:.3g}", f"{request.trust_floor / 2:.3g}")
        return replace(request, trust_floor=round(request.trust_floor / 2, 3))
    return request
