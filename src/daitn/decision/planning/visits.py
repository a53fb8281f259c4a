"""Sequences of visits (MTRCE): which stops, how often and in which order, so that a model learns what is wanted.

Paper II-A and III. Between tours, where each stop gives its gain once, and routes of a learning model lie three things:
a stop may be visited again, its gain shrinks with what is known already, and a visit makes the model forget what is not
taught there. The model of learning is the least that has all three. With x the share of each field that is known, a
visit at stop s makes it

    x · keep[s] + (1 - x · keep[s]) · teach[s]          (elementwise over F fields)

One objective serves both of the paper's forms: least shortfall below what is wanted, then least cost, within all
budgets. With wide budgets it is the quota form (least cost that meets every target), with tight ones the budget form
(most gain within seconds, bytes and price). Verifications are part of the route: one after every `check_every` visits.

Search: construction by gain per cost, then simulated annealing over insertions, removals, exchanges and moves of
visits, from several starts; enumeration where there are few enough sequences. S stops, F fields, R resources, V visits:
a step costs O(V·F). Equal arguments, seed included, give equal routes; limits are counted in steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.decision.planning.compiling import compiled

VISITS_MOST: Final = 64
"""Visits planned ahead at most: beyond it a plan is replanned long before it gets there."""

STOPS_SEARCHED: Final = 48
"""Of more stops than this the most promising are searched: by gain per cost over all that is wanted, and per field."""

STARTS: Final = 8
"""Searches from different constructions."""

EXACT_SEQUENCES: Final = 200_000
"""Up to so many sequences are enumerated instead."""

POLISHED: Final = 50_000
"""Routes are polished as long as a round tries at most so many."""

ENOUGH: Final = 1e-9
"""A shortfall below this is none."""

STEP: Final = 1e-12
"""Shortfalls are told apart by steps of this."""

Floats = NDArray[np.float64]


class VisitProblem(NamedTuple):
    """What a route is planned for. Costs are vectors over R resources (seconds, bytes, price …)."""

    teach: Floats
    """(S, F): share of what is not known of a field that a visit teaches, 0 to 1."""
    keep: Floats
    """(S, F): share of what is known of a field that a visit leaves, 0 to 1."""
    stay: Floats
    """(S, R): cost of a visit where the model is already."""
    enter: Floats
    """(S, R): what coming from another stop adds."""
    known: Floats
    """(F,): share of each field that is known now."""
    wanted: Floats
    """(F,): share that is to be known."""
    weight: Floats
    """(F,): what a shortfall in a field counts."""
    budget: Floats
    """(R,): may be infinite."""
    price: Floats
    """(R,): cost counted is price · resources."""
    at: int = -1
    """The stop where the model is; -1: elsewhere."""
    check: Floats | None = None
    """(R,): cost of one verification."""
    check_every: int = 1
    """Visits between two verifications; the last visits are always followed by one."""


class VisitPlan(NamedTuple):
    """Stops in order; what is known at the end, what is then missing (weighted), what it takes, and whether no better
    route exists (with this model of learning and so many visits)."""

    stops: tuple[int, ...]
    known: tuple[float, ...]
    shortfall: float
    resources: tuple[float, ...]
    exact: bool


def plan_visits(
    problem: VisitProblem,
    *,
    steps: int = 160_000,
    most: int = VISITS_MOST,
    seed: int = 0,
    exact_up_to: float = EXACT_SEQUENCES,
) -> VisitPlan:
    """The best route found of at most `most` visits; none at all where nothing is missing or nothing can be afforded.
    Up to `exact_up_to` sequences are all tried; more are searched, in `steps` steps.

    InputError where shapes or values do not fit.
    """
    _check(problem, steps, most)
    chosen = _promising(problem)
    part = problem if len(chosen) == len(problem.teach) else _only(problem, chosen)
    visits = _fewest(part, most)
    exact = len(chosen) == len(problem.teach) and _sequences(len(chosen), visits) <= exact_up_to
    table = _table(part)
    if exact:
        found, count = _enumerate(table, visits)
    else:
        found, count = _anneal(table, visits, steps // STARTS, STARTS, seed)
    resources, known = _evaluate(table, found, count)
    return VisitPlan(
        stops=tuple(int(chosen[stop]) for stop in found[:count]),
        known=tuple(float(share) for share in known),
        shortfall=float(_missing(problem.weight, problem.wanted, known)),
        resources=tuple(float(one) for one in resources),
        exact=exact,
    )


def evaluate(problem: VisitProblem, stops: Sequence[int]) -> tuple[Floats, Floats]:
    """Resources that a sequence of stops takes, (R,), and what is known after it, (F,), whether affordable or not."""
    spent, known = _evaluate(_table(problem), np.asarray(stops, np.int64), len(stops))
    return spent, known


def _check(problem: VisitProblem, steps: int, most: int) -> None:
    stops, fields = problem.teach.shape
    resources = len(problem.budget)
    shapes = {
        "keep": (problem.keep, (stops, fields)),
        "stay": (problem.stay, (stops, resources)),
        "enter": (problem.enter, (stops, resources)),
        "known": (problem.known, (fields,)),
        "wanted": (problem.wanted, (fields,)),
        "weight": (problem.weight, (fields,)),
        "price": (problem.price, (resources,)),
        "check": (problem.check if problem.check is not None else problem.price, (resources,)),
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise InputError(f"{name} is {list(array.shape)}, not {list(shape)}")
        if not np.isfinite(array).all() or array.min(initial=0.0) < 0:
            raise InputError(f"{name} has values that are negative or not finite")
    for name in ("teach", "keep", "known", "wanted"):
        if getattr(problem, name).max(initial=0.0) > 1:
            raise InputError(f"{name} has shares above 1")
    if np.isnan(problem.budget).any() or problem.budget.min(initial=0.0) < 0:
        raise InputError("a budget is negative or not a number", todo="give infinity for no budget")
    if not -1 <= problem.at < stops:
        raise InputError(f"the model is at stop {problem.at} of {stops}")
    if steps < 0 or not 1 <= most <= VISITS_MOST or problem.check_every < 1:
        raise InputError(f"{steps} steps, {most} visits, a check every {problem.check_every}: out of range")


class _Table(NamedTuple):
    """The problem as the compiled functions take it."""

    teach: Floats
    keep: Floats
    stay: Floats
    enter: Floats
    known: Floats
    wanted: Floats
    weight: Floats
    budget: Floats
    price: Floats
    check: Floats
    check_every: int
    at: int


def _table(problem: VisitProblem) -> _Table:
    check = problem.check if problem.check is not None else np.zeros(len(problem.budget))
    tables = (problem.teach, problem.keep, problem.stay, problem.enter)
    rows = (problem.known, problem.wanted, problem.weight, problem.budget, problem.price, check)
    arrays: list[Any] = [np.ascontiguousarray(one, np.float64) for one in (*tables, *rows)]
    return _Table._make((*arrays, problem.check_every, problem.at))


def _promising(problem: VisitProblem) -> NDArray[np.int64]:
    """Stops worth a search, by number: all of few; of many, those with most gain per cost in all and in each field."""
    stops, fields = problem.teach.shape
    if stops <= STOPS_SEARCHED:
        return np.arange(stops)
    missing = np.maximum(0.0, problem.wanted - problem.known) * problem.weight
    cost = (problem.stay + problem.enter) @ problem.price + 1e-12
    affordable = np.all(problem.stay + problem.enter <= problem.budget, axis=1)
    gain = problem.teach * missing - (1 - problem.keep) * problem.weight
    gain[~affordable] = -np.inf
    ratios = [gain.sum(1) / cost, gain.sum(1), *(gain[:, field] / cost for field in range(fields) if missing[field])]
    share = max(2, STOPS_SEARCHED // len(ratios))
    chosen: dict[int, None] = {problem.at: None} if problem.at >= 0 else {}
    for ratio in ratios:
        some = np.argpartition(-ratio, share)[:share]
        for stop in some[np.lexsort((some, -ratio[some]))]:
            chosen.setdefault(int(stop))
    return np.array(sorted(chosen), np.int64)


def _only(problem: VisitProblem, chosen: NDArray[np.int64]) -> VisitProblem:
    places = {int(stop): place for place, stop in enumerate(chosen)}
    return problem._replace(
        teach=problem.teach[chosen],
        keep=problem.keep[chosen],
        stay=problem.stay[chosen],
        enter=problem.enter[chosen],
        at=places.get(problem.at, -1),
    )


def _fewest(problem: VisitProblem, most: int) -> int:
    """Visits that the budgets can pay for at most."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = problem.budget / problem.stay.min(0)
    finite = each[np.isfinite(each)]
    return int(min(most, math.floor(finite.min() + 1e-9))) if len(finite) else most


def _sequences(stops: int, visits: int) -> float:
    return float(sum(float(stops) ** length for length in range(visits + 1))) if visits <= 24 else math.inf


@compiled
def _missing(weight: Any, wanted: Any, known: Any) -> float:
    total = 0.0
    for field in range(len(known)):
        if known[field] < wanted[field]:
            total += weight[field] * (wanted[field] - known[field])
    return total


@compiled
def _evaluate(
    table: Any, stops: Any, count: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Resources spent and what is known after `stops[:count]`."""
    spent, state = np.zeros(len(table.budget)), table.known.copy()
    here = table.at
    for number in range(count):
        stop = stops[number]
        for one in range(len(spent)):
            spent[one] += table.stay[stop, one] + (0.0 if stop == here else table.enter[stop, one])
        for field in range(len(state)):
            left = state[field] * table.keep[stop, field]
            state[field] = left + (1.0 - left) * table.teach[stop, field]
        here = stop
    checks = (count + table.check_every - 1) // table.check_every
    for one in range(len(spent)):
        spent[one] += checks * table.check[one]
    return spent, state


@compiled
def _judge(
    table: Any, stops: Any, count: int,
) -> tuple[float, float, bool]:  # fmt: skip
    """Shortfall, cost, and whether all budgets hold."""
    spent, state = _evaluate(table, stops, count)
    cost, within = 0.0, True
    for one in range(len(spent)):
        cost += table.price[one] * spent[one]
        within = within and spent[one] <= table.budget[one] * (1 + 1e-12)
    return _missing(table.weight, table.wanted, state), cost, within


@compiled
def _better(shortfall: float, cost: float, than_shortfall: float, than_cost: float) -> bool:
    """Lexicographic, with shortfalls below `ENOUGH` alike, and otherwise as whole steps of `STEP`, costs by their last
    bits. Alike must mean the same for all three of any three routes: with a tolerance between two, polishing went round
    in circles."""
    one, other = math.floor(max(shortfall, ENOUGH) / STEP), math.floor(max(than_shortfall, ENOUGH) / STEP)
    return one < other or (one == other and cost < than_cost)


@compiled
def _anneal(
    table: Any, most: int, steps: int, starts: int, seed: int,
) -> tuple[Any, int]:  # fmt: skip
    """The search of the module's docstring."""
    np.random.seed(seed)
    total = len(table.teach)
    best, best_count = np.empty(most + 1, np.int64), 0
    best_short, best_cost, _ = _judge(table, best, 0)
    if best_short <= ENOUGH or most == 0:
        return best, 0
    first_short = best_short
    kept, trial = np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    for start in range(starts):
        # Construction: the next visit is the one with most shortfall taken away for its cost.
        count, short, cost = 0, first_short, 0.0
        power = 1.0 if start == 0 else 0.3 + 1.2 * np.random.random()
        while count < most and short > ENOUGH:
            chosen, worth, chosen_short, chosen_cost = -1, 0.0, 0.0, 0.0
            for stop in range(total):
                kept[count] = stop
                found, spent, within = _judge(
                    table, kept,
                    count + 1,
                )  # fmt: skip
                if within and found < short - 1e-12:
                    ratio = (short - found) / max(1e-12, spent - cost) ** power
                    if ratio > worth:
                        chosen, worth, chosen_short, chosen_cost = stop, ratio, found, spent
            if chosen < 0:
                break
            kept[count] = chosen
            count += 1
            short, cost = chosen_short, chosen_cost
        if _better(short, cost, best_short, best_cost):
            best[:count], best_count, best_short, best_cost = kept[:count], count, short, cost
        # What a whole shortfall is worth in cost, so that one energy orders both. Every other search counts cost for
        # little, as it is where budgets and not targets end the route.
        scale = max(1e-12, cost) / max(1e-12, first_short - short)
        penalty = (4.0 if start % 2 == 0 else 100.0) * scale
        energy = cost + penalty * max(short, ENOUGH)
        warm = 0.2 * max(1e-12, cost) if start % 2 == 0 else 0.05 * penalty * first_short
        cold = 0.0005 * max(1e-12, cost)
        for step in range(steps):
            heat = warm * (cold / warm) ** (step / steps)
            move = np.random.random()
            size = count
            if (move < 0.3 and count < most) or count == 0:
                place, stop = np.random.randint(count + 1), np.random.randint(total)
                trial[:place] = kept[:place]
                trial[place] = stop
                trial[place + 1 : count + 1] = kept[place:count]
                size = count + 1
            elif move < 0.5:
                place = np.random.randint(count)
                trial[:place] = kept[:place]
                trial[place : count - 1] = kept[place + 1 : count]
                size = count - 1
            elif move < 0.75:
                trial[:count] = kept[:count]
                trial[np.random.randint(count)] = np.random.randint(total)
            elif move < 0.88:
                one, other = np.random.randint(count), np.random.randint(count)
                trial[:count] = kept[:count]
                trial[one], trial[other] = kept[other], kept[one]
            else:
                one, other = np.random.randint(count), np.random.randint(count)
                stop = kept[one]
                trial[:count] = kept[:count]
                if one < other:
                    for j in range(one, other):
                        trial[j] = kept[j + 1]
                else:
                    for j in range(one, other, -1):
                        trial[j] = kept[j - 1]
                trial[other] = stop
            found, spent, within = _judge(table, trial, size)
            if not within:
                continue
            new = spent + penalty * max(found, ENOUGH)
            if new <= energy or np.random.random() < math.exp((energy - new) / heat):
                kept[:size], count, short, cost, energy = trial[:size], size, found, spent, new
                if _better(found, spent, best_short, best_cost):
                    best[:size], best_count, best_short, best_cost = trial[:size], size, found, spent
    return best, _polish(table, best, best_count, most, trial)


@compiled
def _polish(table: Any, stops: Any, count: int, most: int, trial: Any) -> int:
    """Take out a visit, or none, and put one in, or none, anywhere, as long as it helps; changes `stops` in place."""
    total = len(table.teach)
    short, cost, _ = _judge(table, stops, count)
    better = True
    while better and (count + 1) * (count + 1) * (total + 1) <= POLISHED:
        better = False
        for out in range(-1, count):
            left = 0
            for j in range(count):
                if j != out:
                    trial[left] = stops[j]
                    left += 1
            for place in range(-1, left + 1):
                if place >= 0 and left == most:
                    break
                if place > 0:
                    trial[place - 1] = trial[place]
                elif place == 0:
                    for j in range(left, 0, -1):
                        trial[j] = trial[j - 1]
                size = left if place < 0 else left + 1
                for stop in range(total if place >= 0 else 1):
                    if place >= 0:
                        trial[place] = stop
                    found, spent, within = _judge(table, trial, size)
                    if within and _better(found, spent, short, cost):
                        stops[:size] = trial[:size]
                        count, short, cost, better = size, found, spent, True
                        break
                if better:
                    break
            if better:
                break
    return count


@compiled
def _enumerate(
    table: Any, most: int,
) -> tuple[Any, int]:  # fmt: skip
    """Every sequence of at most `most` visits, depth first."""
    total = len(table.teach)
    best, best_count = np.empty(most + 1, np.int64), 0
    best_short, best_cost, _ = _judge(table, best, 0)
    stops = np.zeros(most + 1, np.int64)
    depth = 1
    stops[0] = -1
    while depth > 0 and most > 0:
        stops[depth - 1] += 1
        if stops[depth - 1] >= total:
            depth -= 1
            continue
        short, cost, within = _judge(table, stops, depth)
        if not within:
            continue
        if _better(short, cost, best_short, best_cost):
            best[:depth], best_count, best_short, best_cost = stops[:depth], depth, short, cost
        if depth < most and not (best_short <= ENOUGH and cost >= best_cost):
            depth += 1
            stops[depth - 1] = -1
    return best, best_count
