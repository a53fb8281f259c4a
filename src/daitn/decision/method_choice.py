"""The method generator (TAG): which method a request gets where its owner leaves it open, why, and why not the others.

Paper II-A: TAG makes the training algorithm for the place where model and data meet. What is usual is one copy that
goes from site to site. It is left where facts of the view say that something else is better, each by a rule of its own,
in this order:

    secure aggregation   asked for: only a mean hides an update
    split                the model does not fit where most records are, or two sites together are much quicker
    many at once         updates are compressed, or one copy would not get round to all sites by the deadline; then
                           `fedbuff` where a round would mostly wait, `hierarchical` where one aggregator's link would
                           bound it, `gossip` where there is no aggregator, else `fedavg`
    continual            the model knows what hardly any site can teach, or data keeps arriving, or changes

A rule never takes a method that the request's options, or the policy of any data set at hand, do not go with; nor one
that moves more, where the owner bounds what may be moved. Seconds are those that admission reckons with
(`decision.costs`). Pure; cost O(candidates · cuts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Final, NamedTuple

import msgspec

from daitn.base.ids import DataSetId
from daitn.base.units import show_bytes, show_seconds
from daitn.decision.costs import (
    TIME_MARGIN,
    WARM_S,
    fits_memory,
    verification_seconds,
    visit_seconds,
)
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.hyperparameters import propose_training
from daitn.decision.label_mix import label_skew
from daitn.decision.routes.contract import best_computes, datasets
from daitn.descriptors.plan import Choice
from daitn.descriptors.policy import allows
from daitn.descriptors.request import Request
from daitn.descriptors.view import Candidate, TrainingView
from daitn.learning.methods import FIRST_CHOICE, METHODS, splits, usual_method
from daitn.learning.methods.compatibility import conflicts

ROUNDS_LEAST: Final = 3.0
"""Rounds that have to fit before the deadline where all sites train at once: the passes that a job is expected to
take."""
SPLIT_GAIN: Final = 1.5
"""How much quicker a round of visits has to be with the model cut: estimates err by a quarter either way, and a cut
shows activations to another site."""
UNFIT_FRAC: Final = 0.5
"""Share of the records at sites that the model does not fit, above which it is cut."""
WAITING_FRAC: Final = 0.5
"""Share of a round that its members wait for the slowest in the mean, above which there are no rounds."""
LINK_FRAC: Final = 0.25
"""Share of a round that several aggregators have to spare for an average to be made in shares."""
ARRIVING_FRAC: Final = 0.1
"""Records that arrive by the deadline, as a share of those there are, above which data keeps arriving."""
DRIFTED: Final = 0.25
"""Population stability index above which data is not what it was (the usual reading of that index)."""
SCARCE_FRAC: Final = 0.5
"""Of an even share of the records: a field or label with less is one that a run forgets if it is not held."""

DAY_S: Final = 86_400.0

AVERAGING: Final = ", ".join(name for name, method in METHODS.items() if method.aggregates and not method.gossips)


class _Case(NamedTuple):
    """What a choice rests on."""

    view: TrainingView
    request: Request
    package: PackageFacts
    preflight: Preflight | None


class _Found(NamedTuple):
    """What a rule says: whether its method is the one to take, and why (not)."""

    method: str
    taken: bool
    why: str


def as_seen_by(view: TrainingView, method: str) -> TrainingView:
    """The view as a chosen method uses it: pairs to cut the model between where it is cut. O(candidates)."""
    if not splits(method) or not view.cut:
        return view
    wanted = set(datasets(view))
    return msgspec.structs.replace(view, candidates=tuple(one for one in view.cut if one.dataset in wanted))


def may_cut(request: Request, view: TrainingView) -> bool:
    """Whether the model may be cut in the end, so that a preflight should look where."""
    return splits(request.method) or bool(view.cut)


def choose_method(view: TrainingView, request: Request, package: PackageFacts, preflight: Preflight | None) -> Choice:
    """Which method, why, and why not the others. See the module's docstring."""
    if request.method:
        return Choice(what="method", chosen=request.method, why="the owner asked for it")
    case = _Case(view, request, package, preflight)
    if request.secure_aggregation is not None:
        why = "secure aggregation hides updates in their mean, and one copy that travels has none"
        rejected = [f"{FIRST_CHOICE}: one copy", "fedbuff: its updates come one by one", "hierarchical: opens shares"]
        return Choice(what="method", chosen=usual_method(request), why=why, rejected=tuple(rejected))
    found = [rule(case) for rule in (_split, _many, _continual)]
    taken = next((one for one in found if one.taken), None)
    if taken is None:
        mixes = (
            f"{len(datasets(view))} sites whose label mixes differ by {label_skew(view):.2f} (0: alike, 1: disjoint)"
        )
        taken = _Found(FIRST_CHOICE, taken=True, why=f"{mixes}: one copy visits where labels fade")
    rejected = [_said(one) for one in found if one.method != taken.method]
    if taken.method != "gossip":
        rejected.append(f"gossip: {_why_not_gossip(case)}")
    if METHODS[taken.method].aggregates:
        rejected = [one for one in rejected if not one.startswith(AVERAGING)]
        others = [one for one in _members(case) if one.method != taken.method]
        rejected += [f"{FIRST_CHOICE}: one copy, {taken.why.partition('; ')[0]}", *map(_said, others)]
    elif taken.method != FIRST_CHOICE:
        rejected.append(f"{FIRST_CHOICE}: one copy, that visits where labels fade and does no more")
    rejected += [
        "planned: plans the whole route, which the first choice does without",
        "greedy: sees one visit ahead and leaves slow sites for last",
        "tram-fl, tram-fl-2, tram-fl-load: count what was read long ago like yesterday's",
        "cyclic: does not look at what a site has",
        "random: a baseline",
        "data-parallel: moves the gradients of every batch, and shows them to the other sites",
    ]
    return Choice(what="method", chosen=taken.method, why=taken.why, rejected=tuple(rejected))


def _said(found: _Found) -> str:
    return f"{found.method}: {'would do as well; ' if found.taken else ''}{found.why}"


def _barred(case: _Case, name: str) -> str:
    """Why a method may not be taken here; empty: it may."""
    refused = [one for one in conflicts(METHODS[name], case.request) if not one.beside]
    if refused:
        return f"{refused[0].option.name} is asked for, and {refused[0].why}"
    closed = [one.dataset for one in case.view.candidates if not allows(one.methods, name)]
    return f"the policy of {closed[0]} does not allow it" if closed else ""


def _bounded(request: Request) -> str:
    """What an owner bounds besides time; empty: nothing."""
    names = ("transfer_bytes", "visits", "energy_joules", "price")
    return next((name for name in names if getattr(request.budget, name) is not None), "")


# --- split ------------------------------------------------------------------------------------------------------------


def _split(case: _Case) -> _Found:
    """Two sites for each visit, where one has no room for the model, or both together are much quicker."""

    def no(why: str) -> _Found:
        return _Found("split", taken=False, why=f"every step waits for another site and shows it activations; {why}")

    view, package = case.view, case.package
    cut = as_seen_by(view, "split")
    if not view.cut or not view.candidates:
        return no(_said_of_speed(view))
    if barred := _barred(case, "split"):
        return no(barred)
    if case.request.budget.price is not None or case.request.budget.energy_joules is not None:
        return no("it takes slots of two sites, and what they may cost is bounded")
    if missing := sorted(set(datasets(view)) - {one.dataset for one in cut.candidates}):
        return no(f"{missing[0]} may not be cut with")
    if case.preflight is not None and not case.preflight.cuts:
        return no("the model has no place to be cut at")
    if not any(fits_memory(one, package) for one in cut.candidates):
        return no("it fits no two sites either")
    homes = best_computes(view)
    unfit = [one for one in homes.values() if not fits_memory(one, package)]
    share = sum(one.records for one in unfit) / max(1.0, sum(one.records for one in homes.values()))
    if share > UNFIT_FRAC:
        has = f"{unfit[0].dataset} has {show_bytes(round(unfit[0].memory_bytes))} of memory"
        return _Found(
            "split", taken=True, why=f"the model does not fit the sites of {share:.0%} of the records ({has})"
        )
    if case.preflight is None:
        return no("whether it is quicker is not known before the model was tried")
    whole_s, cut_s = sum(_visits_s(case, homes)), sum(_visits_s(case, best_computes(cut)))
    said = f"a visit to each site takes {show_seconds(whole_s)} whole and {show_seconds(cut_s)} cut"
    if whole_s > SPLIT_GAIN * cut_s:
        return _Found("split", taken=True, why=f"{said}, by measured speed and bandwidth")
    return no(said)


def _said_of_speed(view: TrainingView) -> str:
    """How the slowest site with data compares with the fastest: what a cut could gain at most."""
    flops = [candidate.flops for candidate in view.candidates if candidate.flops > 0]
    slow = f"the slowest site here has {min(flops) / max(flops):.2f} of the fastest one's speed" if flops else "no site"
    return f"{slow}, and none may give activations away"


# --- many at once -----------------------------------------------------------------------------------------------------


def _many(case: _Case) -> _Found:
    """All sites at once, where one copy cannot be, or does not get round in time; which of the averaging methods."""
    view, request = case.view, case.request
    sites = len(datasets(view))
    members = [one for one in _members(case) if one.taken]
    member = members[0] if members else _Found("fedavg", taken=False, why="")
    if request.compression is not None:
        why = "updates are compressed, and one copy that travels has none"
        return _Found(member.method, taken=True, why=f"{why}; {member.why}" if member.why else why)

    def no(why: str) -> _Found:
        return _Found(AVERAGING, taken=False, why=why)

    moves = f"move {2 * sites} models a round instead of one a visit"
    if not members or sites < 2:
        return no(moves if view.aggregators else "no aggregator is reachable")
    one_s, many_s = _one_s(case), _many_s(case)
    if one_s <= request.deadline_s:
        return no(f"{moves}, and one copy gets round to all sites in {show_seconds(one_s)}")
    said = f"one copy would take {show_seconds(one_s)} to get round to {sites} sites"
    if bounded := _bounded(request):
        return no(f"{moves}, and {bounded} is bounded, though {said}")
    if TIME_MARGIN * many_s > request.deadline_s:
        return no(f"{said}, but {ROUNDS_LEAST:g} rounds of all would take {show_seconds(many_s)}")
    why = f"{said}, {ROUNDS_LEAST:g} rounds of all at once take {show_seconds(many_s)}"
    return _Found(member.method, taken=True, why=f"{why}; {member.why}" if member.why else why)


def _members(case: _Case) -> list[_Found]:
    """What speaks for and against each of the averaging methods, the first to be taken first. `fedavg` is, if none
    before it."""
    alone = "no aggregator is reachable, so sites average with one another"
    rules: tuple[tuple[str, Callable[[_Case], tuple[bool, str]]], ...] = (
        ("fedbuff", _waits),
        ("hierarchical", _crowded),
        ("fedavg", lambda _: (True, "")),
    )
    if not case.view.aggregators and case.request.compression is None:
        rules = (("gossip", lambda _: (True, alone)),)
    found: list[_Found] = []
    for name, rule in rules:
        barred = _barred(case, name)
        taken, why = (False, barred) if barred else rule(case)
        found.append(_Found(name, taken=taken, why=why))
    return found


def _waits(case: _Case) -> tuple[bool, str]:
    """Whether a round is mostly waiting for the slowest."""
    seconds = _visits_s(case, best_computes(case.view), parallel=True)
    if len(seconds) < 2:
        return False, "one site has nobody to wait for"
    waiting = 1 - fmean(seconds) / max(seconds)
    return waiting > WAITING_FRAC, f"in a round of all, a site waits {waiting:.0%} of the time for the slowest"


def _crowded(case: _Case) -> tuple[bool, str]:
    """Whether the link of one aggregator takes much of a round that several would spare."""
    view = case.view
    sites, aggregators = len(datasets(view)), sorted((one.bytes_per_s for one in view.aggregators), reverse=True)
    count = min(len(aggregators), sites // 2)
    if count < 2:
        return False, f"{sites} sites and {len(aggregators)} aggregators make no two shares"
    update, whole = case.package.update_bytes(case.request.compression), case.package.payload_bytes
    alone_s = sites * update / aggregators[0]
    shares_s = max(-(-sites // count) * update / rate for rate in aggregators[:count])
    shares_s += count * whole / aggregators[0]
    round_s = alone_s + max(_visits_s(case, best_computes(view), parallel=True))
    said = f"one aggregator fetches {sites} updates in {show_seconds(alone_s)}, {count} in {show_seconds(shares_s)}"
    return alone_s - shares_s > LINK_FRAC * round_s, f"{said}, of rounds of {show_seconds(round_s)}"


def _visits_s(case: _Case, places: Mapping[DataSetId, Candidate], *, parallel: bool = False) -> list[float]:
    """Seconds of a visit at each of these places, with the batches that a method of this kind would have."""
    batches = propose_training(case.view, case.request.hyperparameters, parallel=parallel)[0].batches
    return [visit_seconds(one, batches, case.package.total_bytes, case.preflight) for one in places.values()]


def _one_s(case: _Case) -> float:
    """One copy at each site once, and measured once."""
    places = best_computes(case.view)
    return WARM_S * (1 + len(places)) + sum(_visits_s(case, places)) + _check_s(case)


def _many_s(case: _Case) -> float:
    """The rounds that are expected to be needed, averages included, and one measurement."""
    seconds = _visits_s(case, best_computes(case.view), parallel=True)
    update = case.package.update_bytes(case.request.compression)
    links = [one.bytes_per_s for one in case.view.aggregators]
    average_s = len(seconds) * update / max(links) if links else 2 * update / min(_links(case))
    return WARM_S + ROUNDS_LEAST * (max(seconds) + average_s) + _check_s(case)


def _links(case: _Case) -> list[float]:
    return [one.bytes_per_s for one in case.view.candidates]


def _why_not_gossip(case: _Case) -> str:
    if barred := _barred(case, "gossip"):
        return barred
    if case.view.aggregators:
        return "means of two or three take rounds to mix, where an aggregator makes that of all"
    return "moves three models a round and site, where one copy moves one a visit"


def _check_s(case: _Case) -> float:
    unit = case.view.verifiers[0] if case.view.verifiers else None
    return verification_seconds(case.package, case.preflight, unit.bytes_per_s if unit is not None else None)


# --- continual --------------------------------------------------------------------------------------------------------


def _continual(case: _Case) -> _Found:
    """Hold what was learnt before, where a run would forget it."""

    def no(why: str) -> _Found:
        return _Found("continual", taken=False, why=f"holds what was learnt before, which slows what is new; {why}")

    if barred := _barred(case, "continual"):
        return no(barred)
    sites = {one.dataset: one for one in case.view.candidates}
    if scarce := _knows_scarce(case, list(sites.values())):
        return _Found("continual", taken=True, why=f"the model knows {scarce} already, which few records here teach")
    records = sum(one.records for one in sites.values())
    arriving = sum(one.arrival_per_day for one in sites.values()) * case.request.deadline_s / DAY_S
    if records and arriving > ARRIVING_FRAC * records:
        said = f"{arriving:.0f} records will arrive by the deadline, beside {records:.0f}"
        return _Found("continual", taken=True, why=f"data keeps arriving: {said}")
    drifted = [one for one in sites.values() if one.drift > DRIFTED and one.arrival_per_day > 0]
    share = sum(one.records for one in drifted) / max(1.0, records)
    if drifted and share > UNFIT_FRAC:
        most = max(drifted, key=lambda one: one.drift)
        said = f"the labels of {share:.0%} of the records are not what they were ({most.dataset}: {most.drift:.2f})"
        return _Found("continual", taken=True, why=f"data keeps arriving, and changes: {said}")
    return no("nothing that it knows is scarce here, and data stays as it is")


def _knows_scarce(case: _Case, sites: list[Candidate]) -> str:
    """A target that the submitted model meets, while it lacks others, and whose field or label few records here teach;
    empty: none."""
    if case.preflight is None:
        return ""
    figures = {one.name: one.value for one in case.preflight.measurements}
    told = [target for target in case.request.targets if target.name in figures]
    if all(target.met_by(figures[target.name]) for target in told):
        return ""
    for target in told:
        counts: dict[str, float] = {}
        for one in sites:
            for name, count in (one.labels if target.label else one.fields).items():
                counts[name] = counts.get(name, 0.0) + count
        name = target.label or target.field
        if name and len(counts) > 1 and target.met_by(figures[target.name]):
            even = sum(counts.values()) / len(counts)
            if counts.get(name, 0.0) < SCARCE_FRAC * even:
                return f"{target} ({counts.get(name, 0.0):.0f} records of {sum(counts.values()):.0f})"
    return ""
