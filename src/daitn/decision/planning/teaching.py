"""Teaching: what a visit at each site is expected to teach this model and let fade, as estimated from its own run.

Paper II-A, MTRCE. What is known is kept by *topic*: labels where sites say which they have, else the contract's fields,
else one topic for everything; fields come beside labels where a target names one. A visit at a site whose share of a
topic is s (of K topics), and that is trusted and available by a, leaves of what is not known there

    (1 - rate) ** (K · s · a · novelty)

and of what is known of a topic that it has little of, `1 - fading · (1 - min(1, K · s))`. A site read through more
often than another has less to tell: novelty is 1 / (1 + REREAD · passes more than the least read one).

Rate and fading are those of a grid that explain best what the verification unit measured after each visit so far; few
looks leave them near what is usual. What is known now is the replay of all visits with them, corrected by each aim's
last measured figure.

Legend: S data sets, F topics, G points of the grid, V visits. Cost: O(V · G · F).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.ids import DataSetId
from daitn.decision.costs import HOP_S, batch_seconds, visit_seconds
from daitn.decision.planning.visits import VisitProblem
from daitn.decision.routes.contract import Seen
from daitn.decision.routes.errand import Aim, Errand
from daitn.descriptors.view import Candidate

RATES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
FADINGS: Final = (0.01, 0.03, 0.1, 0.2, 0.35)
USUAL: Final = (0.2, 0.1)
"""Rate and fading before anything was measured: the rule `routed` lets a visit's worth fade as fast."""
STUBBORN: Final = 0.002
"""What a factor of e away from the usual must explain of squared error: one look a twentieth off."""
REREAD: Final = 0.5
"""How much less a site tells for each pass over it more than over the least read one."""
VISITS_REPLAYED: Final = 200
"""Visits replayed at most: what is older has faded, and what was measured since stands for it."""
ABSENCE_S: Final = 10.0
"""Seconds a visit to a node that is not there costs: a lease, and the next try."""
WANTED: Final = 0.95
"""Share wanted of each topic where no target says."""
UNBOUNDED_PRICE: Final = 0.05
"""What bytes, price and joules count against seconds, each in usual visits, where the owner does not bound them; else
as much."""

Floats = NDArray[np.float64]
Topic = tuple[str, str]


class Learnt(NamedTuple):
    """What a run has shown: rate and fading per visit, what is known (F,), and passes over each data set."""

    topics: tuple[Topic, ...]
    rate: float
    fading: float
    known: Floats
    passes: dict[DataSetId, float]


def topics_of(places: Mapping[DataSetId, Candidate], aims: Sequence[Aim]) -> tuple[Topic, ...]:
    """What is told apart: `("label", x)`, `("field", x)`, or the one topic `("", "")`. Sorted."""
    labels = {("label", name) for one in places.values() for name, count in one.labels.items() if count > 0}
    fields = {("field", name) for one in places.values() for name, count in one.fields.items() if count > 0}
    if labels and not any(aim.field for aim in aims):
        fields = set()
    return tuple(sorted(labels | fields)) or (("", ""),)


def shares_of(candidate: Candidate, topics: Sequence[Topic]) -> Floats:
    """(F,): K times the share of each topic among those of its kind: 1 everywhere where records are spread evenly."""
    found = np.zeros(len(topics))
    for kind, counts in (("label", candidate.labels), ("field", candidate.fields)):
        mine = [place for place, topic in enumerate(topics) if topic[0] == kind]
        total = sum(max(0.0, counts.get(topics[place][1], 0.0)) for place in mine)
        for place in mine if total > 0 else ():
            found[place] = len(mine) * max(0.0, counts.get(topics[place][1], 0.0)) / total
    if topics == (("", ""),):
        found[0] = 1.0
    return found


def covered(topics: Sequence[Topic], aim: Aim) -> list[int]:
    """Numbers of the topics that an aim speaks of: its label's or field's, else all labels, else all there are."""
    if aim.label:
        named = [place for place, topic in enumerate(topics) if topic == ("label", aim.label)]
    elif aim.field:
        named = [place for place, topic in enumerate(topics) if topic == ("field", aim.field)]
    else:
        named = [place for place, topic in enumerate(topics) if topic[0] == "label"]
    return named or list(range(len(topics)))


def novelty(passes: Mapping[DataSetId, float], dataset: DataSetId) -> float:
    """How much of what a site tells is new, against the one that was read least."""
    return 1.0 / (1.0 + REREAD * (passes[dataset] - min(passes.values())))


def learnt_from(places: Mapping[DataSetId, Candidate], seen: Seen, records_per_visit: int, errand: Errand) -> Learnt:
    """Rate, fading and what is known, from visits and looks. Visits at data sets that are gone teach nothing."""
    topics = topics_of(places, errand.aims)
    groups = [covered(topics, aim) for aim in errand.aims]
    shares = {name: shares_of(place, topics) for name, place in places.items()}
    grid = np.array(list(product(RATES, FADINGS)))  # (G, 2)
    first = max(0, len(seen.visits) - VISITS_REPLAYED)
    looks = {look.visits: look.known for look in errand.looks if look.visits >= first}
    before = next((look.known for look in reversed(errand.looks) if look.visits < first), ())
    passes = dict.fromkeys(places, 0.0)
    state = np.zeros((len(grid), len(topics)))  # (G, F)
    _correct(state, groups, before)
    error = STUBBORN * (np.log(grid / np.array(USUAL)) ** 2).sum(1)
    for number in range(first, len(seen.visits) + 1):
        if number > first:
            name, records = seen.visits[number - 1]
            if name in places:
                length = min(10.0, records / records_per_visit) if records_per_visit > 0 else 1.0
                part = length * _sureness(places[name]) * novelty(passes, name)
                state = _visited(state, grid, shares[name], part, length)
                passes[name] += records / max(1.0, places[name].records)
        if number in looks:
            for group, known in zip(groups, looks[number], strict=True):
                if not math.isnan(known):
                    error += (state[:, group].mean(1) - known) ** 2
            _correct(state, groups, looks[number])
    best = int(np.argmin(error))
    return Learnt(topics, float(grid[best, 0]), float(grid[best, 1]), state[best].copy(), passes)


def visit_problem(
    places: Mapping[DataSetId, Candidate], learnt: Learnt, errand: Errand, last: DataSetId | None
) -> VisitProblem:
    """What `plan_visits` is asked: stops are the places in order; resources are seconds, bytes, price, joules."""
    topics, names = learnt.topics, list(places)
    spread = np.array([shares_of(place, topics) for place in places.values()])  # (S, F)
    part = np.array([_sureness(places[name]) * novelty(learnt.passes, name) for name in names])
    teach = 1 - (1 - learnt.rate) ** (spread * part[:, None])
    keep = 1 - learnt.fading * (1 - np.minimum(1.0, spread))
    train_s = np.array([_train_s(place, errand) for place in places.values()])
    bytes_in = np.array([_bytes_in(place, errand) for place in places.values()])
    move_s = np.array(
        [visit_seconds(place, 0, errand.model_bytes, errand.preflight) - HOP_S for place in places.values()]
    )
    move_s += np.array([2 * place.latency_s for place in places.values()])
    work_s = [errand.batches_of(place) * batch_seconds(place, errand.preflight) for place in places.values()]
    zeros = np.zeros(len(names))
    charged = np.array(
        [place.tariff.price_of(spent, 0.0) or 0.0 for place, spent in zip(places.values(), work_s, strict=True)]
    )
    fetched = np.array(
        [place.tariff.price_of(0.0, moved) or 0.0 for place, moved in zip(places.values(), bytes_in, strict=True)]
    )
    drawn = np.array(
        [place.tariff.joules_of(spent) or 0.0 for place, spent in zip(places.values(), work_s, strict=True)]
    )
    stay = np.column_stack([train_s, zeros, charged, drawn])  # (S, R)
    enter = np.column_stack([move_s, bytes_in, fetched, zeros])
    wanted, weight = _wanted(topics, errand.aims, learnt.known)
    budget = np.array([errand.seconds_left, errand.bytes_left, errand.price_left, errand.joules_left])
    usual = np.maximum((stay + enter).mean(0), [1e-9, 1.0, 1e-9, 1e-9])
    counts = np.where(np.isfinite(budget), 1.0, UNBOUNDED_PRICE)
    counts[0] = 1.0
    price = counts * usual[0] / usual
    return VisitProblem(
        teach=np.clip(teach, 0.0, 1.0),
        keep=np.clip(keep, 0.0, 1.0),
        stay=stay,
        enter=enter,
        known=learnt.known,
        wanted=wanted,
        weight=weight,
        budget=budget,
        price=price,
        at=names.index(last) if last is not None and last in places else -1,
        check=np.array([errand.check_s, float(errand.model_bytes), 0.0, 0.0]),
        check_every=max(1, errand.check_every),
    )


def missing_share(problem: VisitProblem, known: Sequence[float] | Floats) -> float:
    """What would be missing with so much known, as a share of all that is wanted."""
    missing = problem.weight * np.maximum(0.0, problem.wanted - np.asarray(known))
    whole = float((problem.weight * problem.wanted).sum())
    return float(missing.sum()) / whole if whole > 0 else 0.0


def _wanted(topics: Sequence[Topic], aims: Sequence[Aim], known: Floats) -> tuple[Floats, Floats]:
    """(F,) each: what is to be known and what a shortfall counts. Where all seems reached, half of what is left is
    wanted still: the unit, and not this estimate, says when a run is done."""
    wanted, weight = np.zeros(len(topics)), np.zeros(len(topics))
    for aim in aims or (Aim(wanted=WANTED),):
        group = covered(topics, aim)
        wanted[group] = np.maximum(wanted[group], aim.wanted)
        weight[group] += 1.0 / len(group)
    if (known >= wanted - 1e-9)[weight > 0].all():
        wanted = np.where(weight > 0, (1.0 + known) / 2, wanted)
    return wanted, weight


def _visited(state: Floats, grid: Floats, shares: Floats, part: float, length: float) -> Floats:
    """(G, F) after a visit, by each point of the grid."""
    kept = state * (1 - grid[:, 1:] * (1 - np.minimum(1.0, shares))) ** length
    return np.asarray(1 - (1 - kept) * (1 - grid[:, :1]) ** (shares * part), np.float64)


def _correct(state: Floats, groups: Sequence[list[int]], known: Sequence[float]) -> None:
    """Move what is known of each aim's topics to what was measured, in place: the wider aims first."""
    for group, share in sorted(zip(groups, known, strict=False), key=lambda one: -len(one[0])):
        if math.isnan(share):
            continue
        mean = state[:, group].mean(1, keepdims=True)
        lower = state[:, group] * (share / np.maximum(mean, 1e-9))
        higher = 1 - (1 - state[:, group]) * ((1 - share) / np.maximum(1 - mean, 1e-9))
        state[:, group] = np.clip(np.where(mean >= share, lower, higher), 0.0, 1.0)


def _sureness(candidate: Candidate) -> float:
    return min(1.0, max(0.0, candidate.trust)) * min(1.0, max(0.0, candidate.availability))


def _train_s(candidate: Candidate, errand: Errand) -> float:
    """Seconds of a visit without its transfer, with what it costs on average that nobody may be there."""
    away = 1.0 - min(1.0, max(0.0, candidate.availability))
    still = visit_seconds(candidate, errand.batches_of(candidate), 0, errand.preflight) - visit_seconds(
        candidate, 0, 0, None
    )
    return HOP_S + still + away * ABSENCE_S


def _bytes_in(candidate: Candidate, errand: Errand) -> float:
    return errand.model_bytes + (candidate.records * candidate.record_bytes if candidate.streamed else 0.0)
