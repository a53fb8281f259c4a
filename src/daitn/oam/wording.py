"""Wording: the phrases in which decisions are told, shared by the log, the command line and reports.

Small pure functions from descriptors to text. A reader is somebody who did not write the code and may not know the
names of its states; numbers carry their unit, and intervals are shown beside every estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from daitn.base.ids import NodeId
from daitn.base.units import show_bytes, show_seconds
from daitn.decision.facts import Preflight, ProbePoint
from daitn.descriptors.outcome import Advice, Condition, CounterOffer, TriedVariant, Verdict
from daitn.descriptors.plan import Choice, Plan
from daitn.descriptors.promise import Promise
from daitn.descriptors.request import Request
from daitn.descriptors.work import Measurement, TrainOutcome

MEASUREMENTS_SHOWN: Final = 8
"""Figures told in one line; a contract may have 256 fields, all of which are in the entry beside the text."""

HOLDS_SHOWN: Final = 8
"""Sites named in the line that says what a job was promised; the record has all."""

_BLAME: Final = {
    "input": "the model or its request is at fault",
    "peer": "the site broke the protocol",
    "unavailable": "the site could not be reached",
    "no-room": "the site had no room",
    "not-held": "who was said to hold it does not",
    "policy": "the site's policy refuses",
    "unfit": "the model that it was given cannot be used",
    "bug": "a fault of the software",
    "partner": "another member of its group was lost",
}


def short(artifact: str) -> str:
    """The first digits of a digest: enough to tell models apart by eye."""
    return artifact[:10]


def number(value: float) -> str:
    """A figure as people read it; an interval's side without bound is `∞`."""
    if abs(value) > 1e300:
        return "∞" if value > 0 else "−∞"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A measured time: below a second in milliseconds."""
    return show_seconds(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def measurement(one: Measurement) -> str:
    """`accuracy 0.953 [0.921, 0.974] on 245`."""
    return f"{one.name} {number(one.value)} [{number(one.low)}, {number(one.high)}] on {one.records}"


def measurements(several: Sequence[Measurement]) -> str:
    """The first figures in one line, and how many more there are."""
    more = f", and {len(several) - MEASUREMENTS_SHOWN} more" if len(several) > MEASUREMENTS_SHOWN else ""
    return ", ".join(measurement(one) for one in several[:MEASUREMENTS_SHOWN]) + more or "nothing could be measured"


def targets(request: Request) -> str:
    """All targets in one line."""
    return ", ".join(map(str, request.targets))


def condition(one: Condition) -> str:
    """`time: what it is about — required at most 5 s, found 12 s`."""
    return f"{one.code.value}: {one.what} — required {one.required}, found {one.available}"


def offer(counter_offer: CounterOffer | None) -> str:
    """What is offered instead."""
    if counter_offer is None:
        return "there is no nearby request that would be admitted now"
    changes = ", ".join(
        f"{one.what} {one.offered} instead of {one.asked} (because of {one.because.value})"
        for one in counter_offer.changes
    )
    return f"it would be admitted with {changes}"


def tried_variant(one: TriedVariant) -> str:
    """What trying another model showed."""
    name = f"{one.name!r} ({short(one.package)})"
    if one.why:
        return f"{name} could not be tried: {one.why}"
    chance = "with a chance that is not known" if one.probability is None else f"with {one.probability:.0%}"
    figures = ", ".join(f"{each.name} {number(each.expected)} expected" for each in one.predictions)
    failed = "; ".join(condition(each) for each in one.failed)
    return f"{name} reaches the goal {chance}{f' ({figures})' if figures else ''}{f'; {failed}' if failed else ''}"


def advice(found: Advice) -> str:
    """Which other model would reach the goal, or that none does."""
    if not found.tried and not found.untried:
        return "no other model was declared (`--variant`, or `--catalogue` for known ones) that could be tried instead"
    if found.named is not None:
        chance = found.named.probability or 0.0
        return (
            f"the model {found.named.name!r} ({short(found.named.package)}) is predicted to reach the goal, with "
            f"{chance:.0%}: submit that instead"
        )
    left = f"; {found.untried} more were not tried: {found.why}" if found.untried else ""
    return f"none of the {len(found.tried)} declared models that were tried is predicted to reach the goal{left}"


def probability(verdict: Verdict) -> str:
    """What is expected of reaching the goal, or that nobody knows."""
    if verdict.probability is None:
        return ", whether the goal is attainable is not known yet"
    low, high = verdict.probability_low, verdict.probability_high
    return f", the goal is reached with probability {verdict.probability:.2f} [{low:.2f}, {high:.2f}]"


def choice(one: Choice) -> str:
    """One decision with its reason and what was not chosen."""
    rejected = f" (not: {'; '.join(one.rejected)})" if one.rejected else ""
    return f"{one.what} {one.chosen}, because {one.why}{rejected}"


def plan(one: Plan) -> str:
    """Method, cost and route of a plan in one line, each choice with its reason."""
    expected = one.expected
    cost = (
        f"expected are {expected.visits} visits, {show_seconds(expected.seconds)} "
        f"(at least {show_seconds(expected.seconds_low)}) and {show_bytes(expected.transfer_bytes)} moved"
    )
    return "; ".join([cost, *(choice(each) for each in one.choices)])


def promise(one: Promise, names: Callable[[NodeId], str]) -> str:
    """What a job may count on, the sites with most first."""
    if not one.holds:
        return "no time of any site is promised: what others leave is used"
    ordered = sorted(one.holds, key=lambda hold: -hold.seconds)
    said = ", ".join(f"{show_seconds(hold.seconds)} at {names(hold.node)}" for hold in ordered[:HOLDS_SHOWN])
    more = f" and at {len(ordered) - HOLDS_SHOWN} more" if len(ordered) > HOLDS_SHOWN else ""
    room = show_bytes(one.store_bytes)
    return f"promised until its deadline, to this job alone: a slot for {said}{more}; {room} in the store of each"


def probe(point: ProbePoint | None, why: str) -> str:
    """What a probe before the verdict showed."""
    if point is None:
        return f"no probe could be made, the verdict is given without one: {why}"
    return (
        f"{point.steps} batches on {point.records} records of one site, whose labels are {point.gap:.2f} from those "
        f"of all, took the model to {measurements([one for one in point.measurements if one.value == one.value])}"
    )


def preflight(found: Preflight) -> str:
    """What trying the model before any visit showed."""
    if found.fault:
        return f"tried before any visit, and it does not load: {found.fault}"
    learns = {True: "it learns one batch", False: "it cannot even learn one batch", None: "learning was not tried"}
    speed = f" at {found.batch_seconds * 1000:.3g} ms a batch" if found.batch_seconds > 0 else ""
    known = measurements([one for one in found.measurements if one.value == one.value])
    return (
        f"tried before any visit: it loads, {learns[found.overfits]}{speed}; "
        f"untrained on {found.test_records} records: {known}"
    )


def learnt(outcome: TrainOutcome) -> str:
    """How the loss fell, or what the visit's data set has told of its records up to now."""
    if outcome.loss_first is None or outcome.loss_last is None:
        spent = "" if outcome.epsilon is None else f", this job has cost its data set ε = {outcome.epsilon:.3g}"
        return f"losses are not told{spent}"
    return f"loss {outcome.loss_first:.4g} → {outcome.loss_last:.4g}"


def fetched(transfer_bytes: int) -> str:
    """How much came over the network."""
    return f"fetched {show_bytes(transfer_bytes)}" if transfer_bytes else "fetched nothing (it was there)"


def blame(kind: str) -> str:
    """Who must act, in words."""
    return _BLAME.get(kind, kind)


def differences(before: Request, after: Request) -> list[str]:
    """`deadline_s 60 → 120` for each field that changed."""
    found: list[str] = []
    for name in Request.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(f"{name} {_plain(old)} → {_plain(new)}")
    return found


def _plain(value: Any) -> str:
    """A field of a request as text: targets as they are written, structs by what differs from their defaults."""
    if isinstance(value, tuple):
        return ", ".join(_plain(one) for one in value) or "none"
    if isinstance(value, msgspec.Struct) and type(value).__str__ is object.__str__:
        default = type(value)()
        parts = [
            f"{name}={getattr(value, name)}"
            for name in value.__struct_fields__
            if getattr(value, name) != getattr(default, name)
        ]
        return f"({', '.join(parts)})" if parts else "none"
    return str(value)
