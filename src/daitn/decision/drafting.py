"""Drafting plans: method, hyper-parameters and route proposed together from one view.

`draft_plan` is the one function that admission judges, that counter-offers are searched with, and that a running job
replans with. Pure; cost O(candidates) for the choice and O(stops × candidates) for the route ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from daitn.base import limits
from daitn.base.units import show_bytes
from daitn.decision.costs import (
    EXCHANGE_S,
    WARM_S,
    verification_seconds,
    visit_joules,
    visit_price,
    visit_seconds,
)
from daitn.decision.cutting import choose_cut
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.hyperparameters import propose_server, propose_training, typical_records, usual_epochs
from daitn.decision.method_choice import as_seen_by, choose_method
from daitn.decision.noising import said_of_noise
from daitn.decision.routes import RULES, quick
from daitn.decision.routes.contract import Seen, best_computes, datasets
from daitn.decision.validity import ValiditySought
from daitn.decision.visit_length import batches_at, epochs_of, planned_batches
from daitn.descriptors.contract import Reinforcement
from daitn.descriptors.outcome import Expectation
from daitn.descriptors.plan import Choice, Plan, Stop
from daitn.descriptors.request import Request
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Training
from daitn.learning.methods import FIRST_CHOICE, METHODS
from daitn.learning.methods.contract import Method
from daitn.learning.methods.sequential import Sequential

PASSES: Final = 3.0
"""Passes over all sites a job is expected to take before its targets are met; replaced by learning curves once there
are runs to learn from. The verdict's probability stays unknown as long as this is a rule of thumb."""


ROUTE_AHEAD: Final = 32
"""Stops a plan shows ahead. It is chosen anew after every visit, and looking further costs O(sites) for each stop."""
ROUTE_WORK: Final = 8192
"""Stops times sites that are looked at for it: on a view of a thousand sites a plan shows eight stops ahead."""

OF_TRAINING: Final = ("hyper-parameters", "length of a visit")
"""What choices of `draft_training` are called."""

VALIDITY_MOST: Final = 32
"""Candidates of a view up to which a plan says how long it stands: 20 ms of one core, once a job."""


def draft_plan(view: TrainingView, request: Request, package: PackageFacts, preflight: Preflight | None) -> Plan:
    """What the network would do for this request on this view; an empty view gives a plan without route."""
    method_choice = choose_method(view, request, package, preflight)
    view = as_seen_by(view, method_choice.chosen)
    method = METHODS.get(method_choice.chosen) or METHODS[FIRST_CHOICE]
    training, epochs, said = draft_training(view, request, package, method, preflight)
    verifier = view.verifiers[0] if view.verifiers else None
    sites = datasets(view)
    rounds = max(1, round(PASSES * (1 if method.parallel else max(1, len(sites)))))
    route = _route_ahead(view, method.name, request, training.batches * training.batch_size, _stops_ahead(len(sites)))
    computes = best_computes(view)
    batches = {
        name: batches_at(training.batches, training.batch_size, epochs, candidate.records)
        for name, candidate in computes.items()
    }
    seconds = {
        name: visit_seconds(candidate, batches[name], package.total_bytes, preflight)
        for name, candidate in computes.items()
    }
    check_s = verification_seconds(package, preflight, verifier.bytes_per_s if verifier else None)
    typical = sum(seconds.values()) / len(seconds) if seconds else 0.0
    verify_every = _verify_every(typical, check_s, verifier.evaluations_left if verifier else 1, rounds)
    visits_low = max(1, len(least_stops(view, request)))
    visits = rounds * (max(1, len(sites)) if method.parallel else 1)
    low = _least_of(list(seconds.values()), visits_low, method)
    handed = (0 if request.compression else package.parts_bytes) + package.update_bytes(request.compression)
    handed_in = handed * visits if method.aggregates else 0
    exchanged = _exchanged_bytes(package, training.batches, min(len(sites), limits.GROUP_MEMBERS), method)
    if exchanged:
        seconds = {
            name: spent + training.batches * EXCHANGE_S + exchanged / computes[name].bytes_per_s
            for name, spent in seconds.items()
        }
    prices = [visit_price(one, batches[name], package.total_bytes, preflight) for name, one in computes.items()]
    joules = [visit_joules(one, batches[name], preflight) for name, one in computes.items()]
    fewest = len(sites) if method.parallel else visits_low
    crossed = _crossed_bytes(view, preflight, training)
    price_low, price = _in_all(prices, fewest, visits)
    joules_low, energy_joules = _in_all(joules, fewest, visits)
    checks = -(-rounds // verify_every)
    round_s = max(seconds.values(), default=0.0) if method.parallel else typical
    least = WARM_S + low + check_s
    expected = Expectation(
        seconds_low=least,
        seconds=max(least, WARM_S * (1 + len(sites)) + rounds * round_s + checks * check_s),
        transfer_bytes=package.total_bytes * (visits + checks) + handed_in + round((exchanged + crossed) * visits),
        visits=visits,
        price=price,
        price_low=price_low,
        energy_joules=energy_joules,
        energy_joules_low=joules_low,
    )
    how_often = Choice(
        what="verification",
        chosen=f"every {verify_every} {'rounds' if method.parallel else 'visits'}",
        why=f"a visit takes about {typical:.2f} s, a verification {check_s:.2f} s",
    )
    return Plan(
        method=method.name,
        training=training,
        verify_every=verify_every,
        verifier=verifier.node if verifier else None,
        aggregator=view.aggregators[0].node if view.aggregators else None,
        route=route,
        expected=expected,
        choices=(
            method_choice,
            *said,
            how_often,
            *_secured(request),
            *_compressed(request, package),
            *said_of_noise(view, request, training),
        ),
        view_version=view.version,
        server=propose_server(method.prefers, request.hyperparameters),
        secure=request.secure_aggregation,
        compression=request.compression,
        epochs=epochs,
    )


def draft_training(
    view: TrainingView, request: Request, package: PackageFacts, method: Method, preflight: Preflight | None
) -> tuple[Training, float, tuple[Choice, ...]]:
    """Hyper-parameters of a visit at a typical site, the passes that each makes (0: all are as long), and why."""
    pinned, searched = request.hyperparameters, preflight.searched if preflight is not None else None
    private, episodes = request.privacy is not None, isinstance(package.contract.task, Reinforcement)
    training, choice = propose_training(
        view,
        pinned,
        searched=searched,
        parallel=method.aggregates,
        steady=method.steady,
        prefers=method.prefers,
        private=private,
        episodes=episodes,
    )
    found = searched is not None and searched.chosen is not None
    usual = 0.0 if found else usual_epochs(method.prefers, parallel=method.aggregates)
    epochs = epochs_of(method, pinned, training, typical_records(view), usual, alike=private or episodes)
    many = sorted(batches_at(training.batches, training.batch_size, epochs, one.records) for one in view.candidates)
    if not epochs or not many or many[0] == many[-1]:
        return training, epochs, (choice,)
    length = Choice(
        what="length of a visit",
        chosen=f"{epochs:.3g} passes over the records of a site: {many[0]} to {many[-1]} batches",
        why=f"sites have from {min(one.records for one in view.candidates):.0f} to "
        f"{max(one.records for one in view.candidates):.0f} records",
        rejected=(f"{training.batches} batches everywhere",),
    )
    return training, epochs, (choice, length)


def _secured(request: Request) -> tuple[Choice, ...]:
    if request.secure_aggregation is None:
        return ()
    bound = f"norm of an update at most {request.secure_aggregation.update_norm_most:g}, held to at each site"
    return (Choice(what="secure aggregation", chosen=bound, why="the owner asked for it"),)


def _compressed(request: Request, package: PackageFacts) -> tuple[Choice, ...]:
    if request.compression is None:
        return ()
    sent, whole = package.update_bytes(request.compression), package.payload_bytes
    chosen = f"{request.compression}: updates of {show_bytes(sent)} instead of {show_bytes(whole)}"
    return (Choice(what="compression", chosen=chosen, why="the owner asked for it"),)


def seek_validity(plan: Plan, view: TrainingView, seen: Seen, stop: Stop) -> ValiditySought | None:
    """The problem whose solution are the ranges of facts within which a choice of this plan's rule stands.

    None for methods without a route or that cut the model, for rules that plan beside the turn (their plans say it
    themselves), and for views of more than `VALIDITY_MOST` candidates.
    """
    method = METHODS[plan.method]
    if not isinstance(method, Sequential) or method.split or RULES[method.rule].meanwhile:
        return None
    if len(view.candidates) > VALIDITY_MOST:
        return None
    records = plan.training.batches * plan.training.batch_size
    return ValiditySought(view=view, rule=RULES[method.rule], seen=seen, records_per_visit=records, stop=stop)


def _in_all(each: Sequence[float | None], fewest: int, visits: int) -> tuple[float, float | None]:
    """The least that a few visits come to, and what all are expected to; None where a site does not state it."""
    stated = sorted(one for one in each if one is not None)
    if len(stated) < len(each) or not stated:
        return 0.0, None
    return sum(stated[:fewest]), visits * sum(stated) / len(stated)


def _exchanged_bytes(package: PackageFacts, batches: int, members: int, method: Method) -> float:
    """What one member of a group sends and takes in a visit: gradients, which are as large as the model."""
    return float(2 * batches * package.payload_bytes * max(0, members - 1)) if method.exchanges else 0.0


def _crossed_bytes(view: TrainingView, preflight: Preflight | None, training: Training) -> float:
    """Activations and gradients that cross in one visit of a typical candidate, both ways, where the model is cut."""
    places = [one for one in best_computes(view).values() if one.split]
    if not places or preflight is None or not preflight.cuts:
        return 0.0
    size = training.batch_size
    chosen = [
        choose_cut(preflight.cuts, one, size, preflight.batch_seconds, preflight.unit_flops) for one in places
    ]  # fmt: skip
    crossing = [one.cut.record_bytes for one in chosen if one is not None]
    return sum(crossing) / len(crossing) * size * training.batches


def _verify_every(visit_s: float, check_s: float, evaluations_left: int, rounds: int) -> int:
    """So often that checking costs no more than a third of the time and the unit's evaluations last."""
    by_time = 1 if visit_s <= 0 else max(1, round(check_s / visit_s / 0.5))
    by_budget = max(1, -(-2 * rounds // max(1, evaluations_left)))
    return max(by_time if by_time <= 8 else 8, by_budget)


def least_stops(view: TrainingView, request: Request) -> tuple[str, ...]:
    """Data sets without which some target field or label has never been seen: a greedy cover, a near-least number."""
    wanted = {("field", t.field) for t in request.targets if t.field} | {
        ("label", t.label) for t in request.targets if t.label
    }
    labels = {label for candidate in view.candidates for label, count in candidate.labels.items() if count >= 1}
    wanted |= {("label", label) for label in labels}
    holds: dict[str, set[tuple[str, str]]] = {}
    for candidate in view.candidates:
        here = {("label", label) for label, count in candidate.labels.items() if count >= 1}
        here |= {("field", field) for field, count in candidate.fields.items() if count >= 1}
        holds[candidate.dataset] = here & wanted
    missing, chosen = set.union(set(), *holds.values()), []
    while missing:
        best = max(sorted(holds), key=lambda name: len(holds[name] & missing))
        chosen.append(best)
        missing -= holds[best]
    return tuple(chosen)


def least_seconds(
    view: TrainingView, request: Request, package: PackageFacts, plan: Plan, preflight: Preflight | None
) -> float:
    """The least time that a plan with such visits takes, as `draft_plan` promises it. O(candidates)."""
    unit = view.verifiers[0] if view.verifiers else None
    check_s = verification_seconds(package, preflight, unit.bytes_per_s if unit else None)
    seconds = [
        visit_seconds(place, planned_batches(plan, place.records), package.total_bytes, preflight)
        for place in best_computes(view).values()
    ]
    return WARM_S + _least_of(seconds, max(1, len(least_stops(view, request))), METHODS[plan.method]) + check_s


def _least_of(seconds: Sequence[float], fewest: int, method: Method) -> float:
    """The quickest of so many visits one after the other, or one visit of all at once."""
    return max(seconds, default=0.0) if method.parallel else sum(sorted(seconds)[:fewest])


def _stops_ahead(sites: int) -> int:
    """How many stops a plan shows: each site once, unless that is too far or takes too long to look."""
    return min(sites, ROUTE_AHEAD, max(1, ROUTE_WORK // max(1, sites)))


def _route_ahead(view: TrainingView, method: str, request: Request, records: int, length: int) -> tuple[Stop, ...]:
    """The stops the method's rule would choose next, as if each visit went as planned."""
    chosen = METHODS[method]
    if not isinstance(chosen, Sequential):
        return tuple(
            Stop(dataset=name, compute_node=place.compute_node, why="all sites train in each round")
            for name, place in best_computes(view).items()
        )
    rule, seen, stops = quick(RULES[chosen.rule]), Seen(seed=request.seed), []
    for _ in range(length):
        stop = rule.next_stop(view, seen, records)
        if stop is None:
            break
        stops.append(stop)
        seen = Seen(visits=(*seen.visits, (stop.dataset, records)), seed=request.seed)
    return tuple(stops)
